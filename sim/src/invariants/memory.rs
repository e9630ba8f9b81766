//! What class memory may lose, and what it may not.

use sealog_protocol::mutant::{Mark, mark};

use super::*;

impl Truth {
    /// A node has started again; `forgets`: it may have said more than it knows.
    pub(super) fn started(&mut self, address: Address, forgets: bool) {
        let view = self.chain.current();
        let members = if address.role == Role::Storage { view.storages } else { view.sequencers };
        let forgets = self.is_memory && forgets;
        if forgets && members.contains(address.node) {
            self.restarted.insert((address.role, address.node));
        }
    }

    /// Whether so many of the present view's nodes forgot what they had said that its end may cut off
    /// what was acknowledged.
    pub(super) fn may_lose(&self) -> bool {
        let view = self.chain.current();
        let restarted = |role| self.restarted.iter().filter(|(of, _)| *of == role).count();
        let minority = view.sequencers.len() - view.sequencers.majority();
        restarted(Role::Sequencer) > minority || restarted(Role::Storage) >= usize::from(view.write_quorum)
    }

    /// Whether the view that came after this one says that something may have been lost.
    pub(super) fn lost_at_end(&self, view: ViewNumber) -> bool {
        self.chain.view(ViewNumber(view.0 + 1)).is_some_and(|next| next.cause.after_loss)
    }

    /// What was committed past the end is lost. Not what lets go of other things.
    pub(super) fn lose(&mut self, view: ViewNumber, end: u64) -> bool {
        mark(Mark::CommittedLost);
        self.lost = true;
        let truth = self.views.entry(view).or_default();
        let lost = truth.committed.split_off(end as usize);
        (truth.prefixes, truth.closed) = Default::default();
        for encoded in &truth.committed {
            match Entry::decode(encoded).expect("decoded when it was given").0 {
                Entry::Cut(cut) => {
                    for moved in cut.moves().filter(|moved| !truth.closed.contains(&moved.shard_index)) {
                        let prefix = truth.prefixes.entry(moved.shard_index).or_default();
                        *prefix = moved.prefix.max(*prefix);
                    }
                }
                Entry::CloseShard { shard_index } => {
                    truth.closed.insert(shard_index);
                }
                _ => {}
            }
        }
        let lets_go = |entry: &[u8]| {
            let entry = Entry::decode(entry).expect("decoded when it was given").0;
            matches!(entry, Entry::Checkpoint { .. } | Entry::Trim { .. } | Entry::MoveShard { .. })
        };
        !lost.iter().any(|entry| lets_go(entry))
    }

    /// Before a view of class memory ends, all its records are on W disks.
    pub(super) fn check_stored(&self, chain: &Chain, view: ViewNumber) -> Result<(), Failure> {
        let truth = &self.views[&view];
        let mut prefixes: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (encoded, index) in truth.committed.iter().zip(0..) {
            if let Ok((Entry::Cut(cut), _)) = Entry::decode(encoded) {
                prefixes.extend(cut.moves().map(|moved| (moved.shard_index, (index, moved.prefix))));
            }
        }
        for (shard_index, (index, prefix)) in prefixes {
            let shard = ShardId { view, index: shard_index };
            let moved = chain.current().moves.iter().find(|(id, _)| *id == shard).map(|(_, nodes)| *nodes);
            let replicas = moved.or_else(|| truth.replicas.get(&shard_index).copied()).unwrap_or_default();
            let has = |node: &NodeId| self.disks.get(&(shard, *node)).is_some_and(|durable| *durable >= prefix);
            let copies = replicas.iter().filter(has).count();
            if copies < usize::from(self.chain.current().write_quorum) {
                let logspace = chain.logspace;
                return Err(Failure::CommittedWithoutRecords { logspace, view, index, shard, prefix, copies });
            }
        }
        Ok(())
    }
}
