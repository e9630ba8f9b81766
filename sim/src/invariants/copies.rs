//! That a shard which is said to have moved is where it is said to be, and that in the end every record
//! has all its copies again.

use std::collections::BTreeSet;

use sealog_history::FinalLog;
use sealog_protocol::{LogspaceId, NodeId, NodeSet, Place, SeqNum, ShardId};

use super::{Invariants, Truth};
use crate::violation::Failure;

/// A committed entry that moves a shard.
pub(super) struct Move {
    pub place: Place,
    pub shard: ShardId,
    pub replicas: NodeSet,
    /// The shard got no more by then.
    pub is_final: bool,
}

impl Invariants {
    /// A shard that gets no more whose living records are on fewer of these storages than they should be,
    /// and how many of those that the metalog names have it.
    pub fn lacking_copies(
        &self,
        logspace: LogspaceId,
        copies: usize,
        lives: impl Fn(NodeId) -> bool,
    ) -> Result<Option<(ShardId, usize)>, Failure> {
        let truth = &self.logspaces[usize::from(logspace.0)];
        let current = truth.chain.current().number;
        for (number, view) in &truth.views {
            for (index, prefix) in &view.prefixes {
                let shard = ShardId { view: *number, index: *index };
                let is_final = *number < current || view.closed.contains(index);
                let replicas = truth.replicas_of(shard);
                let whole = |node: NodeId| truth.missing(shard, *prefix, node).next().is_none();
                let count =
                    |has: &dyn Fn(NodeId) -> bool| replicas.iter().filter(|node| lives(*node) && has(*node)).count();
                if !is_final || count(&whole) >= copies {
                    continue;
                }
                // Rare: so it is told only now which of the missing ones are still needed.
                let living = truth.living(shard, *prefix)?;
                let has =
                    |node: NodeId| !truth.missing(shard, *prefix, node).any(|position| living.contains(&position));
                let held = count(&has);
                if !living.is_empty() && held < copies {
                    return Ok(Some((shard, held)));
                }
            }
        }
        Ok(None)
    }
}

impl Truth {
    /// Where the metalog says that a shard is.
    fn replicas_of(&self, shard: ShardId) -> NodeSet {
        let opened = || self.views.get(&shard.view)?.replicas.get(&shard.index).copied();
        self.moves.get(&shard).copied().or_else(opened).unwrap_or_default()
    }

    /// Batches of a shard's prefix that a storage was not given, or has not durable.
    fn missing(&self, shard: ShardId, prefix: u64, node: NodeId) -> impl Iterator<Item = u64> + '_ {
        let (taken, durable) = (self.taken.get(&(shard, node)), self.disks.get(&(shard, node)).copied().unwrap_or(0));
        let batches = self.batches.range((shard, 0)..(shard, prefix));
        let is_here = move |position: u64, records| {
            taken.is_some_and(|taken| taken.contains(&position)) && position + records <= durable
        };
        batches.filter(move |((_, at), (_, records))| !is_here(*at, *records)).map(|((_, at), _)| *at)
    }

    /// Batches of a shard's prefix with a record that is neither void nor trimmed.
    pub(super) fn living(&self, shard: ShardId, prefix: u64) -> Result<BTreeSet<u64>, Failure> {
        let mut log = FinalLog::new();
        let places = self.model(&mut log)?.places;
        let mut living = BTreeSet::new();
        for ((_, position), (logbook, first)) in places.range((shard, 0)..(shard, prefix)) {
            let records = self.batches[&(shard, *position)].1;
            if (first.0..first.0 + records).any(|seqnum| log.is_living(*logbook, SeqNum(seqnum))) {
                living.insert(*position);
            }
        }
        Ok(living)
    }

    /// A committed entry says where a shard is: there it is, whole.
    pub(super) fn moved(&mut self, logspace: LogspaceId, moved: &Move) -> Result<(), Failure> {
        let Move { place, shard, replicas, is_final } = *moved;
        if !is_final {
            return Err(Failure::OpenShardMoved { logspace, place, shard });
        }
        self.moves.insert(shard, replicas);
        let prefix = self.views.get(&shard.view).and_then(|view| view.prefixes.get(&shard.index)).copied();
        let prefix = prefix.unwrap_or(0);
        let lacking: Vec<NodeId> =
            replicas.iter().filter(|node| self.missing(shard, prefix, *node).next().is_some()).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let living = self.living(shard, prefix)?;
        for node in lacking {
            if let Some(position) = self.missing(shard, prefix, node).find(|position| living.contains(position)) {
                return Err(Failure::MovedWithoutCopy { logspace, place, shard, position, node });
            }
        }
        Ok(())
    }
}
