//! The sequencer machine: primary or backup of a view, and keeper of the views before it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sealog_protocol::limits::{CUTS_IN_FLIGHT_MAX, REQUEST_RETRY, STREAM_MESSAGE_BYTES_MAX, STUCK_CUT};
use sealog_protocol::logspace::Checkpoint;
use sealog_protocol::machine::{Address, DurableEntry, Input, Machine, Output, Outputs, Recovered, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::{EngineIncarnation, Entry, EntryError};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogspaceId, NodeId, NodeSet, Place, SeqNum, Time, ViewNumber, ViewReason};

use crate::entry_log::{Cursor, EntryLog};
use crate::held::{Held, HeldRun};
use crate::primary::{Primary, Query, TrimRequest};

mod following;
mod leading;
mod memory;
mod moving;
mod past;
mod recovery;
mod sealing;
mod space;
mod successor;
mod teaching;

use past::Past;
use recovery::Pieces;
pub use recovery::RecoverError;
use space::Space;
use teaching::Learner;

/// An entry with as many shards or nodes as one can name.
const ENTRY_BYTES_MAX: usize = 512;
/// The buffer that entries are encoded in.
const ENCODED_CHUNK_BYTES: usize = 64 << 10;

/// What a sequencer replica is told at its start.
#[derive(Clone, Debug)]
pub struct SequencerConfig {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub logspace: LogspaceId,
    /// Of class memory: views up to this one began in an earlier life, which may have said more than is
    /// known now. A seal on disk does not help: a life that had forgotten may have sealed.
    pub forgotten: ViewNumber,
    pub cuts_in_flight_max: usize,
    /// How long a cut may be stuck, or a primary without a quorum, before another view is asked for.
    pub stuck_cut: Duration,
}

impl SequencerConfig {
    /// The defaults of [`sealog_protocol::limits`].
    pub fn new(node: NodeId, incarnation: Incarnation, logspace: LogspaceId) -> SequencerConfig {
        SequencerConfig {
            node,
            incarnation,
            logspace,
            forgotten: ViewNumber(0),
            cuts_in_flight_max: CUTS_IN_FLIGHT_MAX,
            stuck_cut: STUCK_CUT,
        }
    }
}

/// Counters for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequencerStatus {
    pub view: ViewNumber,
    /// Whether it counts for the quorums of the view: in class memory, unless it has forgotten what it said
    /// in it.
    pub counts: bool,
    pub is_primary: bool,
    /// Entries of the view that are known to be committed.
    pub commit: u64,
    /// Entries of the view on this replica's disk.
    pub durable: u64,
    pub cuts_in_flight: usize,
    pub sealed: ViewNumber,
    /// A committed checkpoint covers the metalog before it: it is gone here.
    pub base: Place,
    /// Segments of the journal that hold something of this replica.
    pub segments: usize,
    /// Segments that it gave back in this life.
    pub segments_released: u64,
    /// What the journal kept has a hole: this replica says nothing.
    pub refused: bool,
}

/// A view's metalog on this replica.
#[derive(Clone, Debug, Default)]
struct ViewLog {
    entries: EntryLog,
    durable: u64,
    /// The greatest commit index heard of; may be ahead of what is here.
    commit: u64,
    /// What of it disks alone would commit. In class memory less than `commit`, else the same.
    settled: u64,
    /// The commit index last given to the journal.
    commit_kept: u64,
}

#[derive(Clone, Debug)]
struct Repair {
    end: u64,
    source: NodeId,
    controller: Address,
}

#[derive(Clone, Debug)]
enum Appended {
    Entries(HeldRun),
    /// Entries that were in a segment which has to go.
    Copy {
        run: HeldRun,
        of: u32,
    },
    Commit(Place),
    Seal(ViewNumber),
    /// An `OpenShard` entry that outlives the base which follows.
    Opened,
    Base(Place),
}

/// A sequencer replica of one logspace.
#[derive(Clone, Debug)]
pub struct Sequencer {
    config: SequencerConfig,
    chain: Option<Chain>,
    views: BTreeMap<ViewNumber, ViewLog>,
    /// What a committed checkpoint covers: the metalog before it is not here, but perhaps on disk.
    base: Place,
    /// The last checkpoint whose entry is known to be committed.
    checkpoint: Option<Checkpoint>,
    /// Entries that name a checkpoint are here and not known to be committed.
    checkpoints_pending: bool,
    held: Held,
    space: Space,
    /// What recovery has handed over, until it is put together.
    recovering: Option<Pieces>,
    refused: bool,
    primary: Option<Primary>,
    /// The newest view that is sealed here: from the moment of the Seal on, nothing is said for it.
    sealed: ViewNumber,
    sealed_durable: ViewNumber,
    seal_waits: Vec<(Address, ViewNumber)>,
    repairs: BTreeMap<ViewNumber, Repair>,
    past: Past,
    learners: Vec<Learner>,
    connected: BTreeMap<NodeId, Incarnation>,
    appended: VecDeque<Appended>,
    /// Entries became durable here since the last flush.
    acknowledge: bool,
    /// Who changes views, as the register has them; the own node, while it was told of none.
    controllers: Vec<NodeId>,
    /// When to ask again for a view that is needed.
    ask_again: Option<Time>,
    /// Since when, as primary, too few replicas or storages have been connected to commit anything.
    short_of_quorum: Option<Time>,
    encoded: BytesMut,
}

impl Sequencer {
    pub fn new(config: SequencerConfig) -> Sequencer {
        Sequencer {
            controllers: vec![config.node],
            config,
            chain: None,
            views: BTreeMap::new(),
            base: Place::default(),
            checkpoint: None,
            checkpoints_pending: false,
            held: Held::default(),
            space: Space::default(),
            recovering: None,
            refused: false,
            primary: None,
            sealed: ViewNumber(0),
            sealed_durable: ViewNumber(0),
            seal_waits: Vec::new(),
            repairs: BTreeMap::new(),
            past: Past::default(),
            learners: Vec::new(),
            connected: BTreeMap::new(),
            appended: VecDeque::new(),
            acknowledge: false,
            ask_again: None,
            short_of_quorum: None,
            encoded: BytesMut::new(),
        }
    }

    pub fn status(&self) -> SequencerStatus {
        let view = self.chain.as_ref().map_or(ViewNumber(0), |chain| chain.current().number);
        let log = self.views.get(&view);
        SequencerStatus {
            view,
            counts: view > ViewNumber(0) && !self.has_forgotten(view),
            is_primary: self.active_primary().is_some(),
            commit: log.map_or(0, |log| log.commit),
            durable: log.map_or(0, |log| log.durable),
            cuts_in_flight: self.primary.as_ref().map_or(0, Primary::cuts_in_flight),
            sealed: self.sealed,
            base: self.base,
            segments: self.held.segments(),
            segments_released: self.space.released,
            refused: self.refused,
        }
    }

    /// Where the metalog begins here.
    pub fn base(&self) -> Place {
        self.base
    }

    /// The last checkpoint whose entry is known to be committed.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// For each view from the base on: up to which index entries are durable here, or covered by the
    /// base, and the commit index known.
    pub fn views(&self) -> impl Iterator<Item = (ViewNumber, u64, u64)> + '_ {
        self.views.iter().map(|(view, log)| (*view, log.durable, log.commit))
    }

    /// For each view from the base on: up to which index entries are here, durable or not.
    pub fn ends(&self) -> impl Iterator<Item = (ViewNumber, u64)> + '_ {
        self.views.iter().map(|(view, log)| (*view, log.entries.end()))
    }

    /// The entries of a view that are here from `from` up to `end`, in their encoding. None when those
    /// at `from` are gone.
    pub fn entries(&self, view: ViewNumber, from: u64, end: u64) -> Bytes {
        let mut out = BytesMut::new();
        if let Some(log) = self.views.get(&view)
            && (log.entries.first()..=log.entries.end()).contains(&from)
        {
            log.entries.copy(&mut log.entries.cursor(from), end, usize::MAX, &mut out);
        }
        out.freeze()
    }

    fn active_primary(&self) -> Option<&Primary> {
        self.primary.as_ref().filter(|primary| primary.view.number > self.sealed)
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    fn message(&mut self, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::Progress { shard, received, durable } => {
                if let Some(primary) = &mut self.primary
                    && shard.view == primary.view.number
                {
                    primary.report(from.node, shard, received, durable);
                }
            }
            Message::BackupResume { view, tail } => self.backup_resume(from.node, view, tail, outputs),
            Message::MetalogBase { base, indices, entries } => {
                self.metalog_base(from, base, &indices, &entries, outputs);
            }
            Message::BackupAppend { view, from: index, commit, settled, entries, .. } => {
                self.backup_append(from, view, index, (commit, settled), &entries, outputs);
            }
            Message::BackupAck { view, held, durable } => {
                if let Some(primary) = self.primary.as_mut().filter(|primary| primary.view.number == view)
                    && let Some(backup) = primary.backups.get_mut(&from.node)
                {
                    backup.durable = backup.durable.max(durable);
                    backup.held = held;
                }
            }
            Message::Confirm { view, round } if view > self.sealed && self.follows(view, from.node) => {
                outputs.send(from, Message::Confirmed { view, round });
            }
            Message::Confirmed { view, round } => {
                if let Some(primary) = self.primary.as_mut().filter(|primary| primary.view.number == view)
                    && let Some(backup) = primary.backups.get_mut(&from.node)
                {
                    backup.confirmed = backup.confirmed.max(round);
                }
            }
            // A storage of class memory that has started again: it counts in the next view.
            Message::ViewWanted { view, .. } if from.role == Role::Storage => {
                let leads = self.active_primary().is_some_and(|primary| primary.view.number == view);
                if leads && self.ask_again.is_none() {
                    mark(Mark::MemberRestartedAsksForView);
                    self.ask_again = Some(Time::ZERO);
                }
            }
            Message::MetalogOpen { from: place } => self.metalog_open(from, place, outputs),
            Message::OpenShard { engine, ordinal, replicas } => {
                self.open_shard(from, engine, ordinal, *replicas, outputs);
            }
            Message::CloseShard { shard } => {
                let open = self.active_primary().is_some_and(|primary| {
                    let known = primary.logspace.shard(shard);
                    primary.view.number == shard.view
                        && known.is_some_and(|known| !known.closed && known.engine.node == from.node)
                });
                if open {
                    self.append(&Entry::CloseShard { shard_index: shard.index }, outputs);
                }
            }
            Message::Trim { logbook, tag, first } => self.trim(from, TrimRequest { logbook, tag, first }, outputs),
            Message::CheckpointDone { place, next, replicas } => {
                self.checkpoint_done(from, place, next, *replicas, outputs);
            }
            Message::MoveShard { shard, place, replicas } => self.move_shard(from, shard, place, *replicas, outputs),
            Message::CommitQuery { request } => self.commit_query(from, request),
            // A view before the base has ended long ago, and so the register says.
            Message::Seal { view } | Message::RepairMetalog { view, .. } if view < self.base.view => {}
            Message::Seal { view } => self.seal(from, view, outputs),
            Message::RepairMetalog { view, .. } if active(Mutant::SealedRefusesRepair) && view <= self.sealed => {}
            Message::RepairMetalog { view, end, source } => {
                self.repairs.insert(view, Repair { end, source, controller: from });
                self.past.look = true;
                self.repair_progress(view, outputs);
            }
            Message::RepairPull { view, from: index, end } => self.repair_pull(from, view, index, end, outputs),
            Message::RepairEntries { view, from: index, entries, .. }
                if self.repairs.get(&view).is_some_and(|repair| repair.source == from.node) =>
            {
                mark(Mark::RepairedMetalog);
                self.take_entries(view, index, &entries, outputs);
                self.repair_progress(view, outputs);
            }
            Message::RepairEntries { view, from: index, entries, .. }
                if self.is_ended(view) && self.wants_past(from.node, view) =>
            {
                mark(Mark::PastTaught);
                self.take_entries(view, index, &entries, outputs);
                self.past.look = true;
            }
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    /// Puts the commit index on the next block.
    fn keep_commit(&mut self, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        let Some(log) = self.views.get_mut(&view) else { return };
        // Only what survives without this process: who reads it has forgotten the rest.
        if log.settled > log.commit_kept {
            log.commit_kept = log.settled;
            self.appended.push_back(Appended::Commit(Place { view, index: log.settled }));
            outputs.append(DurableEntry::Commit { view, commit: log.settled });
        }
    }

    fn durable(&mut self, segment: u32, outputs: &mut Outputs) {
        if self.held.moved_to(segment) {
            self.space.look = true;
        }
        match self.appended.pop_front().expect("the journal reports what it was given, in order") {
            Appended::Entries(run) => {
                self.held.add(segment, run);
                // None when a base has passed the view.
                if let Some(log) = self.views.get_mut(&run.view) {
                    log.durable = log.durable.max(run.end);
                    self.acknowledge = true;
                    self.all_repairs_progress(outputs);
                }
            }
            Appended::Copy { run, of } => {
                self.held.add(segment, run);
                self.copy_durable(of);
            }
            Appended::Commit(place) => self.held.commit.lies(place, segment),
            Appended::Opened => self.opened_durable(segment),
            Appended::Base(base) => {
                self.base_durable(base, segment);
                self.all_repairs_progress(outputs);
            }
            Appended::Seal(view) => {
                self.seal_kept(view, segment);
                self.sealed_durable = self.sealed_durable.max(view);
                let ready = self.seal_waits.extract_if(.., |(_, view)| *view <= self.sealed_durable);
                let ready: Vec<(Address, ViewNumber)> = ready.collect();
                for (controller, view) in ready {
                    self.answer_seal(controller, view, outputs);
                }
            }
        }
    }

    fn chain(&mut self, now: Time, chain: &Chain, outputs: &mut Outputs) {
        if self.chain.as_ref().is_some_and(|known| known.views.len() >= chain.views.len()) {
            return;
        }
        let first = self.chain.is_none();
        let view = chain.current();
        self.chain = Some(chain.clone());
        self.primary = None;
        self.ask_again = None;
        self.past.look = true;
        if view.primary != self.config.node {
            self.resume_as_backup(outputs);
            if self.has_forgotten(view.number) && view.sequencers.contains(self.config.node) {
                mark(Mark::MemberRestartedAsksForView);
                self.ask_for_view(now, ViewReason::MemberRestarted, outputs);
            }
            return;
        }
        if view.number <= self.sealed {
            return;
        }
        if view.primary_incarnation == self.config.incarnation {
            let mut primary = Primary::new(view, self.config.node, chain.is_memory());
            for node in self.connected.keys() {
                primary.connected(*node);
            }
            self.primary = Some(primary);
            self.tell_storages(outputs);
        } else if active(Mutant::PrimaryResumes) && first && self.base < (Place { view: view.number, index: 1 }) {
            self.resume_as_primary(chain);
        } else {
            // Primary in an earlier life: it may have said what it does not remember.
            mark(Mark::PrimaryRestarted);
            self.ask_for_view(now, ViewReason::PrimaryRestarted, outputs);
        }
    }

    /// The mistake that a mutant makes: to go on as primary from what the journal kept.
    fn resume_as_primary(&mut self, chain: &Chain) {
        let view = chain.current();
        let mut primary = Primary::new(view, self.config.node, chain.is_memory());
        let kept = std::mem::take(&mut self.views.entry(view.number).or_default().entries);
        let mut log = EntryLog::default();
        let mut cursor = kept.cursor(kept.first());
        let mut encoded = BytesMut::new();
        kept.copy(&mut cursor, u64::MAX, usize::MAX, &mut encoded);
        for (entry, bytes) in sealog_protocol::metalog::entries(&encoded).flatten() {
            primary.append(&mut log, &entry, bytes);
        }
        self.views.entry(view.number).or_default().entries = log;
        self.primary = Some(primary);
    }

    fn connected(&mut self, node: NodeId, incarnation: Incarnation, outputs: &mut Outputs) {
        self.learners.retain(|learner| learner.to.node != node);
        self.connected.insert(node, incarnation);
        if let Some(primary) = &mut self.primary {
            if let Some(backup) = primary.backups.get_mut(&node) {
                backup.next = None;
            }
            primary.connected(node);
        }
        if self.active_primary().is_some_and(|primary| primary.view.storages.contains(node)) {
            self.tell_storage(node, outputs);
        }
        if self.chain.as_ref().is_some_and(|chain| chain.current().primary == node) {
            self.resume_as_backup(outputs);
        }
        self.all_repairs_progress(outputs);
    }

    fn disconnected(&mut self, now: Time, node: NodeId) {
        self.connected.remove(&node);
        self.learners.retain(|learner| learner.to.node != node);
        if let Some(primary) = &mut self.primary {
            primary.disconnected(now, node);
        }
    }

    fn tick(&mut self, now: Time, outputs: &mut Outputs) {
        let patience = self.config.stuck_cut;
        if let Some(primary) = self.active_primary() {
            let view = primary.view.number;
            let stuck = primary.is_stuck(now, &self.views[&view].entries, patience, &self.connected);
            while let Some(shard_index) =
                self.active_primary().and_then(|primary| primary.abandoned_shard(now, patience, &self.connected))
            {
                mark(Mark::ShardClosedByPrimary);
                self.append(&Entry::CloseShard { shard_index }, outputs);
            }
            if stuck && !active(Mutant::StuckCutIgnored) {
                mark(Mark::StuckCutAsksForView);
                self.ask_for_view(now, ViewReason::StuckCut, outputs);
                self.ask_again = None;
            }
            if let Some(primary) = &mut self.primary {
                primary.settle_losses(now, patience);
            }
        }
        self.hurry_past(now);
        self.tick_successor(now, outputs);
    }
}

impl Machine for Sequencer {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        if self.recovering.is_some() {
            // A driver that wants to know asks for it before the first input.
            let _ = self.finish_recovery();
        }
        if self.refused {
            return;
        }
        match input {
            Input::Message { from, message } => self.message(from, message, outputs),
            Input::Durable(at) => self.durable(at.segment, outputs),
            // What counts of the metalog is in memory, and is whole there: it goes to another segment.
            Input::Vacate { segment } | Input::Rotten { segment, .. } => self.vacate(segment, outputs),
            Input::Chain(chain) => self.chain(now, chain, outputs),
            Input::Connected { node, incarnation } => self.connected(node, incarnation, outputs),
            Input::Disconnected { node } => self.disconnected(now, node),
            Input::Members(members) => self.members(members),
            Input::Tick => self.tick(now, outputs),
            Input::Read { .. } | Input::TagsRead { .. } | Input::Swapped | Input::Space { .. } => {}
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        if self.refused {
            return;
        }
        self.lead(now, outputs);
        self.count_quorum(now);
        self.look_at_past(now, outputs);
        self.acknowledge(outputs);
        self.teach_all(outputs);
        self.take_checkpoints(outputs);
        self.free_segments(outputs);
        self.keep_commit(outputs);
        if self.ask_again.is_none() && self.is_sealed() && !active(Mutant::SealedAsksNobody) {
            self.ask_again = Some(now + REQUEST_RETRY);
        }
    }

    fn deadline(&self) -> Option<Time> {
        let primary = self.active_primary().and_then(|primary| primary.deadline(self.config.stuck_cut));
        let quorum = self.short_of_quorum.map(|since| since + self.config.stuck_cut);
        primary.into_iter().chain(self.ask_again).chain(quorum).chain(self.past.ask_at).min()
    }
}
