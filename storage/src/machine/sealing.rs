//! What a storage says of a view that is sealed, and whether it counts in it.

use super::*;

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
}
