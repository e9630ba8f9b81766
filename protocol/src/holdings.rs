//! Where what counts of a logspace is, as its metalog says: what an operator's change rests on.

use crate::ids::{NodeId, NodeSet, Place};

/// What a logspace's index knows of copies, at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub applied: Place,
    /// Shards of which something is ordered and not all trimmed, those on the same storages together.
    pub copies: Vec<HeldShards>,
    /// Storages that hold the newest checkpoint of the index; `None`: there is none.
    pub checkpoint: Option<NodeSet>,
}

/// Shards on the same storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShards {
    pub replicas: NodeSet,
    pub shards: u64,
    /// Records of their ordered prefixes, trimmed ones among them.
    pub records: u64,
    /// About as many bytes, by the size of records seen lately.
    pub bytes: u64,
}

impl Holdings {
    /// Adds a shard.
    pub fn add(&mut self, replicas: &NodeSet, records: u64, bytes: u64) {
        let of_these = |held: &&mut HeldShards| held.replicas == *replicas;
        match self.copies.iter_mut().find(of_these) {
            Some(held) => {
                held.shards += 1;
                held.records += records;
                held.bytes += bytes;
            }
            None => self.copies.push(HeldShards { replicas: *replicas, shards: 1, records, bytes }),
        }
    }

    /// What of it a node has.
    pub fn of(&self, node: NodeId) -> HeldShards {
        let mut sum = HeldShards { replicas: NodeSet::default(), shards: 0, records: 0, bytes: 0 };
        for held in self.copies.iter().filter(|held| held.replicas.contains(node)) {
            sum.shards += held.shards;
            sum.records += held.records;
            sum.bytes += held.bytes;
        }
        sum
    }

    /// Whether the newest checkpoint is said to be on a node.
    pub fn has_checkpoint(&self, node: NodeId) -> bool {
        self.checkpoint.is_some_and(|replicas| replicas.contains(node))
    }
}
