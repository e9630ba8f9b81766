//! How far the storages of a shard have it.

use sealog_protocol::{NodeId, NodeSet};

/// What one storage has said of a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    /// The latest; may fall with a crash.
    received: u64,
    /// The greatest; never falls.
    durable: u64,
}

/// What the storages of a shard have said of it.
#[derive(Clone, Debug, Default)]
pub struct ShardProgress {
    reported: [Reported; NodeSet::MAX],
}

impl ShardProgress {
    /// Takes a report; `false` when the node is none of the shard's replicas.
    pub fn report(&mut self, replicas: &NodeSet, node: NodeId, received: u64, durable: u64) -> bool {
        let Some(at) = replicas.iter().position(|replica| replica == node) else { return false };
        let reported = &mut self.reported[at];
        reported.received = received;
        reported.durable = reported.durable.max(durable);
        true
    }

    /// The prefix that at least `quorum` replicas have received.
    pub fn received(&self, replicas: &NodeSet, quorum: usize) -> u64 {
        self.nth(replicas, quorum, |reported| reported.received.max(reported.durable))
    }

    /// The prefix that at least `quorum` replicas have on disk.
    pub fn durable(&self, replicas: &NodeSet, quorum: usize) -> u64 {
        self.nth(replicas, quorum, |reported| reported.durable)
    }

    /// The prefix that at least `quorum` replicas hold in a life that counts, be it in memory.
    pub fn held(&self, replicas: &NodeSet, quorum: usize) -> u64 {
        self.nth(replicas, quorum, |reported| reported.received)
    }

    fn nth(&self, replicas: &NodeSet, quorum: usize, of: impl Fn(&Reported) -> u64) -> u64 {
        nth_largest(self.reported[..replicas.len()].iter().map(of), quorum)
    }
}

/// The `nth` largest (from 1) of up to [`NodeSet::MAX`] numbers; 0 when there are fewer.
pub fn nth_largest(numbers: impl Iterator<Item = u64>, nth: usize) -> u64 {
    let mut sorted = [0; NodeSet::MAX];
    let mut count = 0;
    for number in numbers {
        sorted[count] = number;
        count += 1;
    }
    sorted[..count].sort_unstable_by(|a, b| b.cmp(a));
    if nth == 0 || nth > count { 0 } else { sorted[nth - 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_are_counted_over_the_replicas() {
        let replicas = NodeSet::new(&[NodeId(1), NodeId(2), NodeId(3)]).expect("three");
        let mut progress = ShardProgress::default();
        assert!(!progress.report(&replicas, NodeId(9), 5, 5));
        assert!(progress.report(&replicas, NodeId(1), 5, 1));
        assert!(progress.report(&replicas, NodeId(3), 7, 7));
        assert_eq!((progress.received(&replicas, 2), progress.durable(&replicas, 2)), (5, 1));
        progress.report(&replicas, NodeId(3), 2, 2);
        assert_eq!(progress.durable(&replicas, 1), 7, "durable never falls");
        assert_eq!(progress.durable(&replicas, 3), 0);
    }
}
