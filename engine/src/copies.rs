//! Which shards have too few copies, and what is done about it: a few at a time, each copy verified by
//! the storage that is to have it. That a storage is named as a replica proves no copy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sealog_protocol::limits::{COPIES_IN_FLIGHT_MAX, COPIES_STALLED_LOOKS};
use sealog_protocol::{NodeId, NodeSet, ShardId, Time};

/// What is to be done for a shard that gets no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is said to be.
    pub replicas: NodeSet,
    /// Where it is to be, all of them connected.
    pub holders: NodeSet,
    /// Its ordered prefix.
    pub prefix: u64,
}

impl Wanted {
    /// Whether the metalog has to be told.
    pub fn moves(&self) -> bool {
        self.holders.iter().any(|node| !self.replicas.contains(node))
    }
}

/// A shard whose copies are verified or made.
#[derive(Debug)]
pub struct Work {
    pub wanted: Wanted,
    /// Holders that have said that they have all of it.
    pub done: BTreeSet<NodeId>,
    /// How far the others are.
    positions: BTreeMap<NodeId, u64>,
    /// Looks since one of them went on.
    stalled: u32,
}

/// Copies that are made again in the background.
#[derive(Debug, Default)]
pub struct Copies {
    pub look_at: Option<Time>,
    work: BTreeMap<ShardId, Work>,
    /// Shards that the last look found, as far as they were not begun.
    waiting: VecDeque<ShardId>,
    /// The last one that was begun: the next look goes on behind it.
    last: ShardId,
    /// Holders of shards that have said that they have all of it.
    verified: BTreeMap<ShardId, NodeSet>,
    /// What the last look found to be missing: shards, and records of them.
    pub shards_to_go: usize,
    pub records_to_go: u64,
    /// Records and bytes of them that went by, to tell how many bytes a record has.
    records_seen: u64,
    bytes_seen: u64,
}

impl Copies {
    /// Records were applied, or copied.
    pub fn saw(&mut self, records: u64, bytes: u64) {
        self.records_seen += records;
        self.bytes_seen += bytes;
    }

    /// What is to be copied, in bytes, as far as records are of the size of those seen.
    pub fn bytes_to_go(&self) -> u64 {
        self.bytes_of(self.records_to_go)
    }

    /// As many bytes as so many records likely have.
    pub fn bytes_of(&self, records: u64) -> u64 {
        let bytes = u128::from(records) * u128::from(self.bytes_seen);
        u64::try_from(bytes / u128::from(self.records_seen.max(1))).unwrap_or(u64::MAX)
    }

    /// Whether all these have said that they have all of a shard.
    pub fn are_verified(&self, shard: ShardId, holders: &NodeSet) -> bool {
        self.verified.get(&shard).is_some_and(|verified| holders.iter().all(|node| verified.contains(node)))
    }

    /// A node has come in another life, perhaps with another disk: what it has said counts no more.
    pub fn doubt(&mut self, node: NodeId) {
        self.verified.retain(|_, holders| !holders.contains(node));
        for work in self.work.values_mut() {
            work.done.remove(&node);
        }
    }

    /// The metalog says that a shard has moved: what was wanted of it may be done.
    pub fn moved(&mut self, shard: ShardId, replicas: &NodeSet) {
        self.verified.remove(&shard);
        if self.work.remove(&shard).is_some_and(|work| replicas.iter().all(|node| work.done.contains(&node))) {
            self.verified.insert(shard, *replicas);
        }
    }

    /// Another index begins with other shards.
    pub fn restart(&mut self) {
        self.work.clear();
        self.waiting.clear();
        self.verified.clear();
    }

    /// A look begins: `wanted` tells of each shard that is not verified.
    pub fn look(&mut self, wanted: impl Iterator<Item = (ShardId, Option<Wanted>, u64)>) {
        let mut found = BTreeMap::new();
        (self.shards_to_go, self.records_to_go) = (0, 0);
        for (shard, wanted, missing) in wanted {
            self.shards_to_go += usize::from(missing > 0);
            self.records_to_go += missing;
            found.insert(shard, wanted);
        }
        self.work.retain(|shard, work| {
            work.stalled += 1;
            let goes_on = found.get(shard) == Some(&Some(work.wanted)) && work.stalled <= COPIES_STALLED_LOOKS;
            if goes_on {
                found.remove(shard);
            }
            goes_on
        });
        let last = self.last;
        let able = || found.iter().filter(|(_, wanted)| wanted.is_some()).map(|(shard, _)| *shard);
        self.waiting = able().filter(|shard| *shard > last).chain(able().filter(|shard| *shard <= last)).collect();
    }

    /// The next shard to be begun, if there is room for it.
    pub fn take_next(&mut self) -> Option<ShardId> {
        if self.work.len() >= COPIES_IN_FLIGHT_MAX {
            return None;
        }
        self.waiting.pop_front()
    }

    pub fn begin(&mut self, shard: ShardId, wanted: Wanted) {
        self.last = shard;
        let work = Work { wanted, done: BTreeSet::new(), positions: BTreeMap::new(), stalled: 0 };
        self.work.insert(shard, work);
    }

    pub fn work(&self) -> impl Iterator<Item = (ShardId, &Work)> {
        self.work.iter().map(|(shard, work)| (*shard, work))
    }

    /// A holder says how far it is. Returns what is wanted of the shard once all have all of it.
    pub fn told(&mut self, shard: ShardId, from: NodeId, position: u64, done: bool) -> Option<Wanted> {
        let work = self.work.get_mut(&shard).filter(|work| work.wanted.holders.contains(from))?;
        let moved = work.positions.insert(from, position).is_none_or(|before| before < position);
        if moved || done && work.done.insert(from) {
            work.stalled = 0;
        }
        if done {
            work.done.insert(from);
        }
        let wanted = work.wanted;
        if !done || work.done.len() < wanted.holders.len() {
            return None;
        }
        if !wanted.moves() {
            self.work.remove(&shard);
            self.verified.insert(shard, wanted.holders);
        }
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::ViewNumber;

    fn nodes(ids: &[u64]) -> NodeSet {
        NodeSet::new(&ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>()).expect("few nodes")
    }

    fn shard(index: u64) -> ShardId {
        ShardId { view: ViewNumber(1), index }
    }

    fn wanted(replicas: &[u64], holders: &[u64]) -> Wanted {
        Wanted { replicas: nodes(replicas), holders: nodes(holders), prefix: 10 }
    }

    fn look(copies: &mut Copies, shards: &[(u64, Wanted)]) {
        copies.look(shards.iter().map(|(index, wanted)| (shard(*index), Some(*wanted), 10)));
        while let Some(next) = copies.take_next() {
            let (_, wanted) = shards.iter().find(|(index, _)| shard(*index) == next).expect("it was told of");
            copies.begin(next, *wanted);
        }
    }

    #[test]
    fn a_shard_is_verified_when_all_its_replicas_say_that_they_have_it() {
        let (mut copies, same, held) = (Copies::default(), wanted(&[1, 2], &[1, 2]), nodes(&[1, 2]));
        look(&mut copies, &[(0, same)]);
        assert_eq!(copies.told(shard(0), NodeId(1), 10, true), None);
        assert_eq!(copies.told(shard(0), NodeId(3), 10, true), None, "nobody asked it");
        assert_eq!(copies.told(shard(0), NodeId(2), 4, false), None);
        assert_eq!(copies.told(shard(0), NodeId(2), 10, true), Some(same));
        assert!(copies.are_verified(shard(0), &held));
        copies.doubt(NodeId(2));
        assert!(!copies.are_verified(shard(0), &held));
    }

    #[test]
    fn a_shard_with_a_new_copy_is_verified_once_the_metalog_says_so() {
        let (mut copies, moved, held) = (Copies::default(), wanted(&[1, 2], &[1, 3]), nodes(&[1, 3]));
        look(&mut copies, &[(0, moved)]);
        copies.told(shard(0), NodeId(1), 10, true);
        assert_eq!(copies.told(shard(0), NodeId(3), 10, true), Some(moved));
        assert!(!copies.are_verified(shard(0), &held));
        copies.moved(shard(0), &held);
        assert!(copies.are_verified(shard(0), &held));
    }

    #[test]
    fn what_does_not_go_on_gives_way_and_few_are_in_flight() {
        let mut copies = Copies::default();
        let shards: Vec<(u64, Wanted)> = (0..6).map(|index| (index, wanted(&[1, 2], &[1, 3]))).collect();
        look(&mut copies, &shards);
        let begun = |copies: &Copies| copies.work().map(|(shard, _)| shard.index).collect::<Vec<_>>();
        assert_eq!(begun(&copies), [0, 1, 2, 3]);
        assert_eq!((copies.shards_to_go, copies.records_to_go), (6, 60));
        for _ in 0..=COPIES_STALLED_LOOKS {
            look(&mut copies, &shards);
        }
        assert_eq!(begun(&copies), [0, 1, 4, 5], "those that had not had their turn, then the first again");
    }
}
