//! That what rots has another copy, and that in the end every copy is good.

use bytes::Bytes;
use sealog_protocol::{LogspaceId, NodeId, ShardId};

use super::{Invariants, Truth};
use crate::violation::Failure;

impl Invariants {
    /// Whether each batch of these positions is durable on another storage as well.
    pub fn has_other_copy(&self, logspace: LogspaceId, shard: ShardId, (from, to): (u64, u64), node: NodeId) -> bool {
        let truth = &self.logspaces[usize::from(logspace.0)];
        let mut batches = truth.batches.range((shard, from)..(shard, to));
        let is_good = |other: &NodeId| *other != node && !self.removed.contains(other);
        let others = || truth.disks.keys().filter(|(of, other)| *of == shard && is_good(other));
        batches.all(|((_, position), _)| others().any(|(_, other)| truth.has(shard, *position, *other)))
    }

    /// Whether a storage has more of a shard, behind this position.
    pub fn has_more(&self, logspace: LogspaceId, shard: ShardId, position: u64, node: NodeId) -> bool {
        let truth = &self.logspaces[usize::from(logspace.0)];
        truth.disks.get(&(shard, node)).is_some_and(|durable| *durable > position)
    }

    /// A living batch that a storage has, and that is not where it says that it is. `read` gives the bytes
    /// in which it should be.
    pub fn unreadable(
        &self,
        logspace: LogspaceId,
        node: NodeId,
        read: impl Fn(ShardId, u64) -> Option<Bytes>,
    ) -> Result<Option<(ShardId, u64)>, Failure> {
        let truth = &self.logspaces[usize::from(logspace.0)];
        for (number, view) in &truth.views {
            for (index, prefix) in &view.prefixes {
                let shard = ShardId { view: *number, index: *index };
                let batches = truth.batches.range((shard, 0)..(shard, *prefix)).map(|((_, position), _)| *position);
                let is_there = |position: &u64| {
                    let frame = &truth.frames[&(shard, *position)];
                    let bytes = read(shard, *position).unwrap_or_default();
                    (0..bytes.len()).step_by(8).any(|at| bytes[at..].starts_with(frame))
                };
                let bad: Vec<u64> =
                    batches.filter(|position| truth.has(shard, *position, node) && !is_there(position)).collect();
                if bad.is_empty() {
                    continue;
                }
                let living = truth.living(shard, *prefix)?;
                if let Some(position) = bad.into_iter().find(|position| living.contains(position)) {
                    return Ok(Some((shard, position)));
                }
            }
        }
        Ok(None)
    }
}

impl Truth {
    /// Whether a storage was given the batch at this position, and has it durable.
    fn has(&self, shard: ShardId, position: u64, node: NodeId) -> bool {
        let records = self.batches.get(&(shard, position)).map_or(0, |(_, records)| *records);
        self.taken.get(&(shard, node)).is_some_and(|taken| taken.contains(&position))
            && self.disks.get(&(shard, node)).is_some_and(|durable| position + records <= *durable)
    }
}
