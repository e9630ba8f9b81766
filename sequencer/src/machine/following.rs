//! What a sequencer replica does as backup: takes what the primary has decided, and says how far.

use super::*;

impl Sequencer {
    /// Whether `node` is the primary of this view, the last that this replica knows of.
    pub(super) fn follows(&self, view: ViewNumber, node: NodeId) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.current().number == view && chain.current().primary == node)
    }

    pub(super) fn backup_append(
        &mut self,
        from: Address,
        view: ViewNumber,
        index: u64,
        (commit, settled): (u64, u64),
        entries: &Bytes,
        outputs: &mut Outputs,
    ) {
        if self.chain.as_ref().is_none_or(|chain| chain.current().number < view) {
            // A view that this replica has not heard of: nothing is done for it on a peer's word.
            outputs.push(Output::ReadRegister);
            return;
        }
        let silent = view <= self.sealed && !active(Mutant::SealedBackupAcknowledges);
        if silent || !self.follows(view, from.node) {
            return;
        }
        if index > self.views.entry(view).or_default().entries.end() {
            self.resume_as_backup(outputs);
            return;
        }
        if !entries.is_empty() {
            self.take_entries(view, index, entries, outputs);
        }
        // In class memory what is held is answered for at once.
        self.acknowledge |= self.is_memory() && !entries.is_empty();
        let log = self.views.entry(view).or_default();
        log.commit = log.commit.max(commit);
        log.settled = log.settled.max(settled);
    }

    /// Takes entries of a view that are not here yet: to the log and to the journal.
    pub(super) fn take_entries(&mut self, view: ViewNumber, index: u64, entries: &Bytes, outputs: &mut Outputs) {
        let log = self.views.entry(view).or_default();
        let from = log.entries.end();
        if index > from {
            return;
        }
        // What a peer sends malformed is dropped from there on; the stream stops, and says where.
        let count = log.entries.extend(index, entries).unwrap_or(log.entries.end() - from) as u32;
        if count == 0 {
            return;
        }
        self.checkpoints_pending |= log.entries.has_checkpoints();
        let mut cursor = log.entries.cursor(from);
        log.entries.copy(&mut cursor, u64::MAX, usize::MAX, &mut self.encoded);
        let entries = self.encoded.split().freeze();
        self.appended.push_back(Appended::Entries(HeldRun { view, from, end: from + u64::from(count) }));
        outputs.append(DurableEntry::Metalog { view, from, count, entries });
    }

    /// Tells the primary where this backup stands.
    pub(super) fn resume_as_backup(&mut self, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(Chain::current) else { return };
        let (number, primary) = (view.number, view.primary);
        if primary == self.config.node || number <= self.sealed || !view.sequencers.contains(self.config.node) {
            return;
        }
        let to = self.address(primary, Role::Sequencer);
        let log = self.views.entry(number).or_default();
        let (tail, durable) = (log.entries.end(), log.durable);
        outputs.send(to, Message::BackupResume { view: number, tail });
        outputs.send(to, Message::BackupAck { view: number, held: self.held(number), durable });
    }

    pub(super) fn acknowledge(&mut self, outputs: &mut Outputs) {
        if !std::mem::take(&mut self.acknowledge) {
            return;
        }
        let Some(view) = self.chain.as_ref().map(Chain::current) else { return };
        let silent = view.number <= self.sealed && !active(Mutant::SealedBackupAcknowledges);
        if silent || view.primary == self.config.node {
            return;
        }
        let Some(log) = self.views.get(&view.number) else { return };
        let message = Message::BackupAck { view: view.number, held: self.held(view.number), durable: log.durable };
        outputs.send(self.address(view.primary, Role::Sequencer), message);
    }

    /// A replica that has entries of this view says that those before its base are not to be had.
    /// One that lacks some of them makes that base its own: a committed checkpoint covers them.
    pub(super) fn metalog_base(
        &mut self,
        from: Address,
        base: Place,
        indices: &[u64],
        entries: &[u8],
        outputs: &mut Outputs,
    ) {
        if self.chain.as_ref().is_none_or(|chain| chain.current().number < base.view) {
            outputs.push(Output::ReadRegister);
            return;
        }
        let follows = self.follows(base.view, from.node) && base.view > self.sealed;
        let repairs = self.repairs.get(&base.view).is_some_and(|repair| repair.source == from.node);
        let lacks = self.views.get(&base.view).is_none_or(|log| log.entries.end() < base.index)
            || self.lacking(base.view).is_some();
        let wanted = follows || repairs || self.wants_past(from.node, base.view);
        if !wanted || base <= self.base || !lacks {
            return;
        }
        mark(Mark::BackupTookBase);
        let log = self.views.entry(base.view).or_default();
        log.entries.drop_before(base.index);
        for (index, entry) in indices.iter().zip(sealog_protocol::metalog::entries(entries)) {
            if let Ok((entry @ Entry::OpenShard { .. }, encoded)) = entry
                && *index < base.index
            {
                log.entries.note(*index, &entry, encoded);
            }
        }
        log.commit = log.commit.max(base.index);
        log.settled = log.settled.max(base.index);
        self.set_base(base, outputs);
    }
}
