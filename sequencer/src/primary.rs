//! What only the primary of a view knows: how far everybody is, what is cut, what waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use sealog_protocol::limits::TRIMS_IN_FLIGHT_MAX;
use sealog_protocol::logspace::Logspace;
use sealog_protocol::machine::Address;
use sealog_protocol::metalog::{CutMove, EngineIncarnation, Entry, encode_cut};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::View;
use sealog_protocol::{Incarnation, LogBookId, NodeId, NodeSet, SeqNum, ShardId, Tag, Time};

use crate::entry_log::{Cursor, EntryLog};
use crate::progress::{ShardProgress, nth_largest};

/// Shards that one cut moves; the others are in the next.
const CUT_MOVES_MAX: usize = 16;

/// A backup, as the primary sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backup {
    /// Where to go on sending, once it has said where it is on a living connection.
    pub next: Option<Cursor>,
    /// How many entries it has on disk. Never falls.
    pub durable: u64,
    /// How many a life of it holds that counts; the latest.
    pub held: u64,
    /// The last round that it confirmed.
    pub confirmed: u64,
    /// The commit index that it was sent last.
    pub commit_sent: u64,
}

/// A trim that an engine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRequest {
    pub logbook: LogBookId,
    pub tag: Tag,
    pub first: SeqNum,
}

/// A linearizable query that waits for its round.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub from: Address,
    pub request: u64,
    pub round: u64,
}

/// The primary of one view, in the one life that may be it.
#[derive(Clone, Debug)]
pub struct Primary {
    pub view: View,
    /// The logspace is of class memory: what is held commits, be it on no disk yet.
    is_memory: bool,
    /// All entries applied, also those that are not yet committed.
    pub logspace: Logspace,
    pub backups: BTreeMap<NodeId, Backup>,
    pub queries: Vec<Query>,
    /// The last round asked of the backups.
    pub round: u64,
    /// Trims that are not yet committed, with the indices of their entries.
    trims: VecDeque<(u64, TrimRequest)>,
    /// Where the view's shards were closed, and where shards were moved in it last.
    closed: BTreeMap<u64, u64>,
    moves: BTreeMap<ShardId, u64>,
    progress: BTreeMap<ShardId, ShardProgress>,
    /// Shards whose progress moved since the last cut. A few at most.
    moved: Vec<ShardId>,
    /// Stands before the first uncommitted entry.
    commit: Cursor,
    /// In class memory: stands before the first entry that disks alone would not commit.
    settled: Cursor,
    cuts_in_flight: usize,
    /// Since when the head entry has been on a majority's disks and short of storages.
    stuck: Option<(u64, Time)>,
    /// Engines that were connected and are not: their shards are closed after a while.
    lost: BTreeMap<NodeId, Time>,
}

impl Primary {
    pub fn new(view: &View, node: NodeId, is_memory: bool) -> Primary {
        let others = view.sequencers.iter().filter(|id| *id != node);
        Primary {
            view: view.clone(),
            is_memory,
            logspace: Logspace::new(view),
            // A backup that read of the view first has said where it stands before anybody listened: in a
            // new view that is the beginning. One that has not read of it yet says so when it has.
            backups: others.map(|id| (id, Backup { next: Some(Cursor::default()), ..Backup::default() })).collect(),
            queries: Vec::new(),
            round: 0,
            trims: VecDeque::new(),
            closed: BTreeMap::new(),
            moves: BTreeMap::new(),
            progress: BTreeMap::new(),
            moved: Vec::new(),
            commit: Cursor::default(),
            settled: Cursor::default(),
            cuts_in_flight: 0,
            stuck: None,
            lost: BTreeMap::new(),
        }
    }

    pub fn commit(&self) -> u64 {
        self.commit.index()
    }

    /// The index of the entry that closed a shard of the view.
    pub fn closed_at(&self, shard_index: u64) -> Option<u64> {
        self.closed.get(&shard_index).copied()
    }

    /// The index of the entry that moved a shard last, in this view.
    pub fn moved_at(&self, shard: ShardId) -> Option<u64> {
        self.moves.get(&shard).copied()
    }

    /// So many entries are committed by what is on disks.
    pub fn settled(&self) -> u64 {
        if self.is_memory { self.settled.index() } else { self.commit.index() }
    }

    pub fn cuts_in_flight(&self) -> usize {
        self.cuts_in_flight
    }

    /// Takes a storage's progress. Reports of shards that this primary has not opened are nothing.
    pub fn report(&mut self, from: NodeId, shard: ShardId, received: u64, durable: u64) {
        let Some(known) = self.logspace.shard(shard) else { return };
        let progress = self.progress.entry(shard).or_default();
        if progress.report(&known.replicas, from, received, durable) && !self.moved.contains(&shard) {
            self.moved.push(shard);
        }
    }

    /// Appends an entry to the log of the view; returns its encoding's place in `log` as its index.
    pub fn append(&mut self, log: &mut EntryLog, entry: &Entry<'_>, encoded: &[u8]) {
        let index = self.logspace.place().index;
        match *entry {
            Entry::Cut(_) => self.cuts_in_flight += 1,
            Entry::CloseShard { shard_index } => {
                self.closed.entry(shard_index).or_insert(index);
            }
            Entry::MoveShard { shard, .. } => {
                self.moves.insert(shard, index);
            }
            _ => {}
        }
        log.push(entry, encoded);
        self.logspace.apply(entry, |_| {});
    }

    /// Whether this trim is worth an entry, which the caller appends next: it is not on its way.
    pub fn wants_trim(&mut self, trim: TrimRequest) -> bool {
        let commit = self.commit();
        while self.trims.front().is_some_and(|(index, _)| *index < commit) {
            self.trims.pop_front();
        }
        if self.trims.len() >= TRIMS_IN_FLIGHT_MAX || self.trims.iter().any(|(_, known)| *known == trim) {
            return false;
        }
        self.trims.push_back((self.logspace.place().index, trim));
        true
    }

    /// Encodes a cut of all that moved, if something did. `engine` tells which life of an engine
    /// node is connected.
    pub fn cut(&mut self, connected: &BTreeMap<NodeId, Incarnation>, out: &mut BytesMut) -> bool {
        let quorum = usize::from(self.view.write_quorum);
        let mut moves = [CutMove { shard_index: 0, prefix: 0 }; CUT_MOVES_MAX];
        let mut count = 0;
        self.moved.sort_unstable();
        let mut shards = std::mem::take(&mut self.moved);
        for id in shards.drain(..) {
            let Some(shard) = self.logspace.shard(id) else { continue };
            let Some(progress) = self.progress.get(&id) else { continue };
            let replicas = &shard.replicas;
            let present = is_connected(connected, shard.engine);
            let prefix = if present { progress.received(replicas, quorum) } else { progress.durable(replicas, quorum) };
            if shard.closed || prefix <= shard.prefix {
                continue;
            }
            if count == moves.len() {
                self.moved.push(id);
                continue;
            }
            mark(if present { Mark::CutOnReceived } else { Mark::CutOnDurable });
            moves[count] = CutMove { shard_index: id.index, prefix };
            count += 1;
        }
        if self.moved.is_empty() {
            self.moved = shards;
        }
        if count == 0 {
            return false;
        }
        if count > 1 {
            mark(Mark::CutGathersShards);
        }
        if self.backups.values().any(|backup| backup.durable < self.commit.index()) {
            mark(Mark::CutWhileBackupLags);
        }
        encode_cut(out, moves[..count].iter().copied());
        true
    }

    /// Commits what can be; returns whether the commit index moved. `own_durable`: entries on this
    /// replica's disk.
    pub fn advance_commit(&mut self, now: Time, log: &EntryLog, own_durable: u64) -> bool {
        let before = self.commit.index();
        let mut majority = self.majority_durable(own_durable);
        if self.is_memory {
            self.settle(log, majority);
            let held = self.backups.values().map(|backup| backup.held).chain([log.end()]);
            majority = nth_largest(held, self.view.sequencers.majority());
        }
        if active(Mutant::SkipMajority) {
            majority = own_durable;
        }
        while self.commit.index() < majority {
            let entry = log.get(self.commit).expect("durable entries are in the log");
            if self.waits_for_disks(&entry) {
                break;
            }
            if !self.has_records(&entry) && !active(Mutant::CommitOutOfOrder) {
                mark(Mark::CommitWaitsForStorage);
                break;
            }
            if matches!(entry, Entry::Cut(_)) {
                self.cuts_in_flight -= 1;
            }
            log.advance(&mut self.commit);
        }
        let index = self.commit.index();
        if self.is_memory && index > self.settled.index() {
            mark(Mark::MemoryCommittedUnflushed);
        }
        if index == majority && majority < own_durable.min(log.end()) {
            mark(Mark::CommitWaitsForBackup);
        }
        self.stuck = match self.stuck {
            _ if index >= majority => None,
            Some((stuck, since)) if stuck == index => Some((stuck, since)),
            _ => Some((index, now)),
        };
        index != before
    }

    /// How many entries a majority of the replicas has on disk.
    fn majority_durable(&self, own_durable: u64) -> u64 {
        let durable = self.backups.values().map(|backup| backup.durable).chain([own_durable]);
        nth_largest(durable, self.view.sequencers.majority())
    }

    /// Moves on over what is on a majority's disks and orders records on W disks.
    fn settle(&mut self, log: &EntryLog, majority: u64) {
        while self.settled.index() < majority {
            let entry = log.get(self.settled).expect("a base is settled, so what is not is in the log");
            if !self.are_stored(&entry, ShardProgress::durable) {
                return;
            }
            log.advance(&mut self.settled);
        }
    }

    /// What lets go of what is on disks may not be lost itself: in class memory, too, a checkpoint, a
    /// trim and a move commit when they are flushed.
    fn waits_for_disks(&self, entry: &Entry<'_>) -> bool {
        let lets_go = matches!(entry, Entry::Checkpoint { .. } | Entry::Trim { .. } | Entry::MoveShard { .. });
        self.is_memory && lets_go && self.settled.index() <= self.commit.index()
    }

    fn has_records(&self, entry: &Entry<'_>) -> bool {
        let of = match () {
            () if self.is_memory => ShardProgress::held,
            () if active(Mutant::CommitOnReceived) => ShardProgress::received,
            () => ShardProgress::durable,
        };
        self.are_stored(entry, of)
    }

    /// Whether W storages have all records of an entry, by this measure.
    fn are_stored(&self, entry: &Entry<'_>, of: impl Fn(&ShardProgress, &NodeSet, usize) -> u64) -> bool {
        let Entry::Cut(cut) = entry else { return true };
        let quorum = usize::from(self.view.write_quorum);
        cut.moves().all(|moved| {
            let id = ShardId { view: self.view.number, index: moved.shard_index };
            let (Some(shard), Some(progress)) = (self.logspace.shard(id), self.progress.get(&id)) else { return false };
            of(progress, &shard.replicas, quorum) >= moved.prefix
        })
    }

    /// Notes that a node has come, in this life. Its earlier lives' shards will grow no more.
    pub fn connected(&mut self, node: NodeId) {
        self.lost.remove(&node);
        self.mark_shards_of(node);
    }

    /// Notes that a node has gone: what it sent may be lost, so its shards are cut on `durable`.
    pub fn disconnected(&mut self, now: Time, node: NodeId) {
        self.lost.insert(node, now);
        self.mark_shards_of(node);
        if let Some(backup) = self.backups.get_mut(&node) {
            backup.next = None;
        }
        self.queries.retain(|query| query.from.node != node);
    }

    fn mark_shards_of(&mut self, node: NodeId) {
        let of_node = self.logspace.shards_of_view().filter(|(_, shard)| shard.engine.node == node);
        let ids: Vec<ShardId> = of_node.map(|(id, _)| id).collect();
        for id in ids {
            if !self.moved.contains(&id) {
                self.moved.push(id);
            }
        }
    }

    /// The next shard whose engine is gone: for longer than `patience`, or into a newer life.
    pub fn abandoned_shard(
        &self,
        now: Time,
        patience: Duration,
        connected: &BTreeMap<NodeId, Incarnation>,
    ) -> Option<u64> {
        let abandoned = |engine: EngineIncarnation| match connected.get(&engine.node) {
            Some(incarnation) => *incarnation > engine.incarnation,
            None => self.lost.get(&engine.node).is_none_or(|since| now.since(*since) >= patience),
        };
        self.logspace
            .shards_of_view()
            .find(|(_, shard)| !shard.closed && abandoned(shard.engine))
            .map(|(id, _)| id.index)
    }

    /// Whether the head entry can't commit for want of an engine that is gone.
    pub fn is_stuck(
        &self,
        now: Time,
        log: &EntryLog,
        patience: Duration,
        connected: &BTreeMap<NodeId, Incarnation>,
    ) -> bool {
        let Some((_, since)) = self.stuck else { return false };
        if now.since(since) < patience {
            return false;
        }
        let Some(Entry::Cut(cut)) = log.get(self.commit) else { return false };
        cut.moves().any(|moved| {
            let id = ShardId { view: self.view.number, index: moved.shard_index };
            self.logspace.shard(id).is_some_and(|shard| !is_connected(connected, shard.engine))
        })
    }

    /// When something has to be looked at again.
    pub fn deadline(&self, patience: Duration) -> Option<Time> {
        let lost = self.lost.values().min().map(|since| *since + patience);
        let stuck = self.stuck.map(|(_, since)| since + patience);
        [lost, stuck].into_iter().flatten().min()
    }

    /// Forgets the losses that have been acted on.
    pub fn settle_losses(&mut self, now: Time, patience: Duration) {
        self.lost.retain(|_, since| now.since(*since) < patience);
        if let Some((index, since)) = self.stuck
            && now.since(since) >= patience
        {
            self.stuck = Some((index, now));
        }
    }
}

fn is_connected(connected: &BTreeMap<NodeId, Incarnation>, engine: EngineIncarnation) -> bool {
    connected.get(&engine.node) == Some(&engine.incarnation)
}
