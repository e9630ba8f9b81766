//! Index checkpoints on their way: one that is written to storages, one that is loaded from them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sealog_protocol::limits::{CHECKPOINT_PARTS_IN_FLIGHT_MAX, CHECKPOINT_PARTS_LOADING_MAX};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{NodeId, NodeSet, Place, Time};

use crate::index::checkpoint::{Loader, PartError, Writer};

/// A storage that a checkpoint is written to.
#[derive(Clone, Copy, Debug)]
struct Target {
    node: NodeId,
    /// Parts sent on the living connection, and parts that are durable there.
    sent: u32,
    stored: u32,
}

/// A checkpoint that is written.
#[derive(Debug)]
pub struct Writing {
    pub writer: Writer,
    /// What was appended before it began, of what counts towards the next one.
    pub log_bytes: u64,
    targets: Vec<Target>,
    /// Storages that make it count (W).
    quorum: usize,
    /// Parts made, and those of them that some storage may still need.
    made: u32,
    kept: VecDeque<Bytes>,
    /// It is likely small enough for what a full storage keeps free.
    fits_full: bool,
    /// When the primary was asked for its entry.
    pub asked_at: Option<Time>,
}

impl Writing {
    pub fn new(writer: Writer, log_bytes: u64, storages: &NodeSet, quorum: usize, fits_full: bool) -> Writing {
        let targets = storages.iter().map(|node| Target { node, sent: 0, stored: 0 }).collect();
        Writing { writer, log_bytes, targets, quorum, made: 0, kept: VecDeque::new(), fits_full, asked_at: None }
    }

    /// Whether another part is to be made: enough storages have nearly all that were.
    pub fn wants_part(&self) -> bool {
        !self.writer.is_done() && self.made < self.stored_on_quorum() + CHECKPOINT_PARTS_IN_FLIGHT_MAX
    }

    fn stored_on_quorum(&self) -> u32 {
        let mut stored: Vec<u32> = self.targets.iter().map(|target| target.stored).collect();
        stored.sort_unstable_by(|one, other| other.cmp(one));
        stored.get(self.quorum - 1).copied().unwrap_or(0)
    }

    pub fn push(&mut self, part: Bytes) {
        self.made += 1;
        self.kept.push_back(part);
    }

    /// A storage says how many parts are durable there. One that has less than it was told of goes.
    pub fn stored(&mut self, node: NodeId, parts: u32) {
        let Some(target) = self.targets.iter_mut().find(|target| target.node == node) else { return };
        target.stored = parts.min(target.sent);
        let lowest_kept = self.made - self.kept.len() as u32;
        if parts < lowest_kept {
            self.lose(node);
        }
        self.release();
    }

    /// A storage is gone: what it has of the checkpoint counts no more.
    pub fn lose(&mut self, node: NodeId) {
        self.targets.retain(|target| target.node != node);
    }

    /// A storage is full. What it keeps free is for the metalog, so that trims go on: a large checkpoint
    /// must not take it.
    pub fn full(&mut self, node: NodeId) {
        if !self.fits_full {
            self.lose(node);
        }
    }

    /// Whether enough storages are left.
    pub fn can_succeed(&self) -> bool {
        self.targets.len() >= self.quorum
    }

    /// Lets go of parts that a quorum has, and of storages that are behind these.
    fn release(&mut self) {
        let stored = self.stored_on_quorum();
        // One part more is kept, so that a storage that is a little slower is not lost.
        let spare = CHECKPOINT_PARTS_IN_FLIGHT_MAX;
        while self.made - (self.kept.len() as u32) + spare < stored {
            self.kept.pop_front();
        }
        let lowest_kept = self.made - self.kept.len() as u32;
        self.targets.retain(|target| target.stored >= lowest_kept);
    }

    /// The parts to be sent now: to whom, their number, whether it is the last.
    pub fn to_send(&mut self) -> Vec<(NodeId, u32, bool, Bytes)> {
        let lowest_kept = self.made - self.kept.len() as u32;
        let last = self.writer.is_done().then(|| self.made - 1);
        let mut sends = Vec::new();
        for target in &mut self.targets {
            for part in target.sent..self.made {
                let bytes = self.kept[(part - lowest_kept) as usize].clone();
                sends.push((target.node, part, last == Some(part), bytes));
            }
            target.sent = self.made;
        }
        sends
    }

    /// The storages that have all of it, once they are enough.
    pub fn complete_on(&self) -> Option<NodeSet> {
        let complete = self.targets.iter().filter(|target| self.writer.is_done() && target.stored == self.made);
        let nodes: Vec<NodeId> = complete.map(|target| target.node).collect();
        if nodes.len() < self.quorum { None } else { NodeSet::new(&nodes) }
    }
}

/// A checkpoint that is loaded.
#[derive(Debug)]
pub struct Loading {
    pub place: Place,
    pub replicas: NodeSet,
    loader: Loader,
    /// The next part to be taken, the next to be asked for, and those that came too early.
    next: u32,
    asked: u32,
    early: BTreeMap<u32, (Bytes, bool)>,
    /// The storage that is asked, and how often another one was chosen.
    pub source: Option<NodeId>,
    pub attempts: usize,
    pub asked_at: Time,
}

/// What a part led to.
#[derive(Debug)]
pub enum Taken {
    More,
    /// All parts are here.
    Whole(Box<Loader>),
    /// The part is damaged: another storage is to be asked.
    Damaged(PartError),
}

impl Loading {
    pub fn new(place: Place, replicas: NodeSet, settings: &ClusterSettings, hash_seed: u64) -> Loading {
        Loading {
            place,
            replicas,
            loader: Loader::new(settings, hash_seed),
            next: 0,
            asked: 0,
            early: BTreeMap::new(),
            source: None,
            attempts: 0,
            asked_at: Time::ZERO,
        }
    }

    /// The part that is taken next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Another storage is asked, from the part that lacks.
    pub fn turn_to(&mut self, source: Option<NodeId>) {
        self.source = source;
        self.asked = self.next;
        self.early.clear();
    }

    /// The parts to be asked for now.
    pub fn to_ask(&mut self) -> std::ops::Range<u32> {
        let from = self.asked;
        self.asked = from.max(self.next + CHECKPOINT_PARTS_LOADING_MAX);
        from..self.asked
    }

    /// A part came.
    pub fn part(mut self: Box<Self>, part: u32, last: bool, bytes: Bytes) -> (Option<Box<Loading>>, Taken) {
        if part < self.next || part >= self.asked {
            return (Some(self), Taken::More);
        }
        self.early.insert(part, (bytes, last));
        while let Some((bytes, last)) = self.early.remove(&self.next) {
            if let Err(error) = self.loader.take(&bytes) {
                return (Some(self), Taken::Damaged(error));
            }
            self.next += 1;
            if last {
                return (None, Taken::Whole(Box::new(self.loader)));
            }
        }
        (Some(self), Taken::More)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sealog_protocol::logspace::Logspace;
    use sealog_protocol::{ClusterId, SeqNum, ViewNumber};

    use super::*;
    use crate::index::Index;
    use crate::order::Order;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    /// A checkpoint of nothing, on three storages of which two make it count.
    fn writing(fits_full: bool) -> (Writing, Index) {
        let mut index = Index::new(&ClusterSettings::new(ClusterId(1), 1), 1);
        let place = Place { view: ViewNumber(1), index: 1 };
        let logspace = Logspace::restored(SeqNum::new(ViewNumber(1), 0), place, BTreeMap::new(), None);
        let writer = Writer::begin(&mut index, &logspace, 64);
        (Writing::new(writer, 0, &NodeSet::new(&NODES).expect("three"), 2, fits_full), index)
    }

    #[test]
    fn what_a_full_storage_keeps_free_is_not_for_a_large_checkpoint() {
        for (fits_full, succeeds) in [(true, true), (false, false)] {
            let (mut writing, _) = writing(fits_full);
            writing.full(NODES[0]);
            assert!(writing.can_succeed(), "two are left");
            writing.full(NODES[2]);
            assert_eq!(writing.can_succeed(), succeeds);
        }
    }

    #[test]
    fn it_is_complete_where_all_of_it_is_durable() {
        let (mut writing, index) = writing(true);
        while writing.wants_part() {
            let (part, _) = writing.writer.next_part(&index, &Order::default());
            writing.push(part);
        }
        let parts = writing.to_send().iter().filter(|(node, ..)| *node == NODES[0]).count() as u32;
        assert!(parts > 0 && writing.to_send().is_empty(), "each is sent once");
        writing.stored(NODES[0], parts);
        assert_eq!(writing.complete_on(), None, "one is not enough");
        writing.lose(NODES[1]);
        writing.stored(NODES[2], parts);
        assert_eq!(writing.complete_on(), NodeSet::new(&[NODES[0], NODES[2]]));
    }
}
