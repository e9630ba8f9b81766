//! What a sequencer replica does when its view is changed: falls silent, answers, is repaired.

use super::*;

impl Sequencer {
    pub(super) fn seal(&mut self, from: Address, view: ViewNumber, outputs: &mut Outputs) {
        if view <= self.sealed_durable {
            self.answer_seal(from, view, outputs);
            return;
        }
        if view > self.sealed {
            self.sealed = view;
            if active(Mutant::SealNotDurable) {
                self.answer_seal(from, view, outputs);
                return;
            }
            self.appended.push_back(Appended::Seal(view));
            outputs.append(DurableEntry::SequencerSeal { view });
        }
        self.seal_waits.push((from, view));
    }

    /// The seal is on disk behind all that was said before it: so is what was held in memory.
    pub(super) fn answer_seal(&mut self, controller: Address, view: ViewNumber, outputs: &mut Outputs) {
        let restarted = self.has_forgotten(view);
        let log = self.views.entry(view).or_default();
        let (tail, commit) = (log.durable, log.settled);
        if commit < tail {
            mark(Mark::SealWithUncommittedTail);
        }
        // A base that is not yet durable may be past the tail: all before it is committed.
        let from = commit.min(tail).max(log.entries.first());
        log.entries.copy(&mut log.entries.cursor(from), tail, usize::MAX, &mut self.encoded);
        let known = super::moving::committed_by_moves(view, from, &self.encoded);
        let commit = if known > from { known } else { commit };
        if known > from {
            self.encoded.clear();
            log.entries.copy(&mut log.entries.cursor(known), tail, usize::MAX, &mut self.encoded);
        }
        let entries = self.encoded.split().freeze();
        let shards = cut_shards(&log.entries, &entries);
        outputs.send(controller, Message::SequencerSealed { restarted, view, tail, commit, entries, shards });
    }

    /// Something became durable, or somebody came: repairs may go on.
    pub(super) fn all_repairs_progress(&mut self, outputs: &mut Outputs) {
        self.past.look |= self.past.ask_at.is_some() || !self.repairs.is_empty();
        for view in self.repairs.keys().copied().collect::<Vec<_>>() {
            self.repair_progress(view, outputs);
        }
    }

    pub(super) fn repair_progress(&mut self, view: ViewNumber, outputs: &mut Outputs) {
        if self.chain.as_ref().is_none_or(|chain| chain.current().number < view) {
            // Which views were before it, and where they end, is in the register.
            outputs.push(Output::ReadRegister);
            return;
        }
        // It is counted among those that keep the metalog once it has all that is before, too.
        if self.lacking(view).is_some() {
            return;
        }
        let Some(repair) = self.repairs.get(&view) else { return };
        let log = self.views.entry(view).or_default();
        if log.durable >= repair.end {
            outputs.send(repair.controller, Message::MetalogRepaired { view, durable: log.durable });
            self.repairs.remove(&view);
        } else if log.entries.end() < repair.end {
            let message = Message::RepairPull { view, from: log.entries.end(), end: repair.end };
            let source = self.address(repair.source, Role::Sequencer);
            outputs.send(source, message);
        }
    }

    pub(super) fn repair_pull(&mut self, from: Address, view: ViewNumber, index: u64, end: u64, outputs: &mut Outputs) {
        if (Place { view, index }) < self.base {
            // It makes this base its own, and asks for what follows.
            self.send_base(from.node, self.base.view, outputs);
            return;
        }
        let Some(log) = self.views.get(&view) else { return };
        let end = end.min(log.durable);
        if index >= end {
            return;
        }
        let mut cursor = log.entries.cursor(index);
        let count = log.entries.copy(&mut cursor, end, STREAM_MESSAGE_BYTES_MAX, &mut self.encoded);
        let entries = self.encoded.split().freeze();
        outputs.send(from, Message::RepairEntries { view, from: index, count, entries });
    }
}

/// The shards that these entries cut, with their replicas: a shard's index is its `OpenShard`'s.
fn cut_shards(log: &EntryLog, encoded: &[u8]) -> Box<[(u64, NodeSet)]> {
    let mut shards = BTreeMap::new();
    for (entry, _) in sealog_protocol::metalog::entries(encoded).flatten() {
        let Entry::Cut(cut) = entry else { continue };
        for moved in cut.moves() {
            if let Some(Entry::OpenShard { replicas, .. }) = log.opened(moved.shard_index) {
                shards.insert(moved.shard_index, replicas);
            }
        }
    }
    shards.into_iter().collect()
}
