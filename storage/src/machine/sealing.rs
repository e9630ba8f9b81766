//! The end of a view: a storage falls silent, says what it has, and takes from another one what the end of
//! the view keeps and it lacks.

use super::*;

/// What a controller wants to be here.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    prefix: u64,
    source: NodeId,
    controller: Address,
}

impl Storage {
    pub(super) fn seal(&mut self, from: Address, view: ViewNumber, outputs: &mut Outputs) {
        if view <= self.sealed_durable {
            self.answer_seal(from, view, outputs);
            return;
        }
        if view > self.sealed {
            self.sealed = view;
            self.appended.push_back(Appended::Seal(view));
            if active(Mutant::SealNotDurable) {
                self.appended.pop_back();
                self.answer_seal(from, view, outputs);
                return;
            }
            outputs.append(DurableEntry::StorageSeal { view });
        }
        self.seal_waits.push((from, view));
    }

    pub(super) fn answer_seal(&mut self, controller: Address, view: ViewNumber, outputs: &mut Outputs) {
        let first = ShardId { view, index: 0 };
        let last = ShardId { view, index: u64::MAX };
        let shards = self.shards.range(first..=last).map(|(id, shard)| (*id, shard.durable())).collect();
        let restarted = self.has_forgotten(view);
        outputs.send(controller, Message::StorageSealed { restarted, view, shards });
    }

    /// Whether this storage may have said more in a view than it knows now.
    pub(super) fn has_forgotten(&self, view: ViewNumber) -> bool {
        view <= self.config.forgotten && !active(Mutant::RestartedStorageCounts)
    }

    /// A storage that has forgotten what it said in the view counts again in the next one.
    pub(super) fn want_view(&self, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(Chain::current) else { return };
        if self.has_forgotten(view.number) && view.number > self.sealed && view.storages.contains(self.config.node) {
            let message = Message::ViewWanted { view: view.number, reason: ViewReason::MemberRestarted };
            outputs.send(self.address(view.primary, Role::Sequencer), message);
        }
    }
    pub(super) fn repair(
        &mut self,
        controller: Address,
        shard: ShardId,
        prefix: u64,
        source: NodeId,
        outputs: &mut Outputs,
    ) {
        if active(Mutant::SealedRefusesRepair) && shard.view <= self.sealed {
            return;
        }
        self.shards.entry(shard).or_default();
        self.repairs.insert(shard, Repair { prefix, source, controller });
        self.repair_progress(shard, outputs);
    }

    /// Asks for the next batch of a repair, or reports its end.
    pub(super) fn repair_progress(&mut self, shard: ShardId, outputs: &mut Outputs) {
        let Some(repair) = self.repairs.get(&shard) else { return };
        let stored = &self.shards[&shard];
        if stored.durable() >= repair.prefix {
            let message = Message::ShardRepaired { shard, durable: stored.durable() };
            outputs.send(repair.controller, message);
            self.repairs.remove(&shard);
        } else if stored.received() < repair.prefix {
            let source = self.address(repair.source, Role::Storage);
            let message = Message::ShardPull { shard, from: stored.received(), prefix: repair.prefix };
            outputs.send(source, message);
        }
    }

    pub(super) fn copy(&mut self, from: Address, shard: ShardId, first: u64, batches: Bytes, outputs: &mut Outputs) {
        let wanted = self.repairs.get(&shard).is_some_and(|repair| repair.source == from.node);
        // It begins later than asked for when the source has nothing between, and earlier when it was
        // asked for twice.
        if !wanted || self.shards.get(&shard).is_none_or(|stored| first < stored.received()) {
            return;
        }
        mark(Mark::RepairedRecords);
        self.take(from, shard, first, batches, outputs);
        self.repair_progress(shard, outputs);
    }
}
