//! The sequencer machine: primary or backup of a view, and keeper of the views before it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sealog_protocol::limits::{CUTS_IN_FLIGHT_MAX, REQUEST_RETRY, STREAM_MESSAGE_BYTES_MAX, STUCK_CUT};
use sealog_protocol::machine::{Address, DurableEntry, Input, Machine, Output, Outputs, Recovered, Role};
use sealog_protocol::message::{Message, ViewReason};
use sealog_protocol::metalog::{EngineIncarnation, Entry, EntryError};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogspaceId, NodeId, NodeSet, Place, Time, ViewNumber};

use crate::entry_log::EntryLog;
use crate::primary::{Primary, Query};

mod leading;
mod sealing;

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
    /// Who changes views.
    pub controller: NodeId,
    pub cuts_in_flight_max: usize,
    pub stuck_cut: Duration,
}

impl SequencerConfig {
    /// The defaults of [`sealog_protocol::limits`].
    pub fn new(node: NodeId, incarnation: Incarnation, logspace: LogspaceId, controller: NodeId) -> SequencerConfig {
        SequencerConfig {
            node,
            incarnation,
            logspace,
            controller,
            cuts_in_flight_max: CUTS_IN_FLIGHT_MAX,
            stuck_cut: STUCK_CUT,
        }
    }
}

/// Counters for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequencerStatus {
    pub view: ViewNumber,
    pub is_primary: bool,
    /// Entries of the view that are known to be committed.
    pub commit: u64,
    /// Entries of the view on this replica's disk.
    pub durable: u64,
    pub cuts_in_flight: usize,
    pub sealed: ViewNumber,
}

/// A view's metalog on this replica.
#[derive(Debug, Default)]
struct ViewLog {
    entries: EntryLog,
    durable: u64,
    /// The greatest commit index heard of; may be ahead of what is here.
    commit: u64,
    /// The commit index last given to the journal.
    commit_kept: u64,
}

struct Learner {
    to: Address,
    next: Place,
}

struct Repair {
    end: u64,
    source: NodeId,
    controller: Address,
}

enum Appended {
    Entries { view: ViewNumber, end: u64 },
    Commit,
    Seal(ViewNumber),
}

/// A sequencer replica of one logspace.
pub struct Sequencer {
    config: SequencerConfig,
    chain: Option<Chain>,
    views: BTreeMap<ViewNumber, ViewLog>,
    primary: Option<Primary>,
    /// The newest view that is sealed here: from the moment of the Seal on, nothing is said for it.
    sealed: ViewNumber,
    sealed_durable: ViewNumber,
    seal_waits: Vec<(Address, ViewNumber)>,
    repairs: BTreeMap<ViewNumber, Repair>,
    learners: Vec<Learner>,
    connected: BTreeMap<NodeId, Incarnation>,
    appended: VecDeque<Appended>,
    /// Entries became durable here since the last flush.
    acknowledge: bool,
    /// When to ask again for a view that is needed.
    ask_again: Option<Time>,
    encoded: BytesMut,
}

impl Sequencer {
    pub fn new(config: SequencerConfig) -> Sequencer {
        Sequencer {
            config,
            chain: None,
            views: BTreeMap::new(),
            primary: None,
            sealed: ViewNumber(0),
            sealed_durable: ViewNumber(0),
            seal_waits: Vec::new(),
            repairs: BTreeMap::new(),
            learners: Vec::new(),
            connected: BTreeMap::new(),
            appended: VecDeque::new(),
            acknowledge: false,
            ask_again: None,
            encoded: BytesMut::new(),
        }
    }

    /// Takes back what the journal kept, before the first input.
    ///
    /// # Errors
    /// When entries are malformed: the journal and this build disagree on the format.
    pub fn recover(&mut self, entry: Recovered<'_>) -> Result<(), EntryError> {
        match entry {
            Recovered::Metalog { view, from, entries } => {
                let log = self.views.entry(view).or_default();
                log.entries.extend(from, entries)?;
                log.durable = log.entries.len();
            }
            Recovered::Commit { view, commit } => {
                let log = self.views.entry(view).or_default();
                log.commit = log.commit.max(commit);
                log.commit_kept = log.commit;
            }
            Recovered::SequencerSeal { view } => {
                self.sealed = self.sealed.max(view);
                self.sealed_durable = self.sealed;
            }
            Recovered::Batches { .. } | Recovered::StorageSeal { .. } => {}
        }
        Ok(())
    }

    pub fn status(&self) -> SequencerStatus {
        let view = self.chain.as_ref().map_or(ViewNumber(0), |chain| chain.current().number);
        let log = self.views.get(&view);
        SequencerStatus {
            view,
            is_primary: self.active_primary().is_some(),
            commit: log.map_or(0, |log| log.commit),
            durable: log.map_or(0, |log| log.durable),
            cuts_in_flight: self.primary.as_ref().map_or(0, Primary::cuts_in_flight),
            sealed: self.sealed,
        }
    }

    /// For each view: how many entries are durable here, and the commit index known.
    pub fn views(&self) -> impl Iterator<Item = (ViewNumber, u64, u64)> + '_ {
        self.views.iter().map(|(view, log)| (*view, log.durable, log.commit))
    }

    /// The entries of a view that are here from `from` up to `end`, in their encoding.
    pub fn entries(&self, view: ViewNumber, from: u64, end: u64) -> Bytes {
        let mut out = BytesMut::new();
        if let Some(log) = self.views.get(&view)
            && from <= log.entries.len()
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
            Message::BackupResume { view, tail } => self.backup_resume(from.node, view, tail),
            Message::BackupAppend { view, from: index, commit, entries, .. } => {
                self.backup_append(from, view, index, commit, &entries, outputs);
            }
            Message::BackupAck { view, durable } => {
                if let Some(primary) = self.primary.as_mut().filter(|primary| primary.view.number == view)
                    && let Some(backup) = primary.backups.get_mut(&from.node)
                {
                    backup.durable = backup.durable.max(durable);
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
            Message::CommitQuery { request } => self.commit_query(from, request),
            Message::Seal { view } => self.seal(from, view, outputs),
            Message::RepairMetalog { view, .. } if active(Mutant::SealedRefusesRepair) && view <= self.sealed => {}
            Message::RepairMetalog { view, end, source } => {
                self.repairs.insert(view, Repair { end, source, controller: from });
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
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    // As backup.

    /// Whether `node` is the primary of this view, the last that this replica knows of.
    fn follows(&self, view: ViewNumber, node: NodeId) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.current().number == view && chain.current().primary == node)
    }

    fn backup_append(
        &mut self,
        from: Address,
        view: ViewNumber,
        index: u64,
        commit: u64,
        entries: &Bytes,
        outputs: &mut Outputs,
    ) {
        if self.chain.as_ref().is_none_or(|chain| chain.current().number < view) {
            // A view that this replica has not heard of: nothing is done for it on a peer's word.
            outputs.push(Output::ReadRegister);
            return;
        }
        let silent = view <= self.sealed && !active(Mutant::SealedBackupAcknowledges);
        if silent || !self.follows(view, from.node) {
            return;
        }
        if index > self.views.entry(view).or_default().entries.len() {
            self.resume_as_backup(outputs);
            return;
        }
        if !entries.is_empty() {
            self.take_entries(view, index, entries, outputs);
        }
        let log = self.views.entry(view).or_default();
        log.commit = log.commit.max(commit);
    }

    /// Takes entries of a view that are not here yet: to the log and to the journal.
    fn take_entries(&mut self, view: ViewNumber, index: u64, entries: &Bytes, outputs: &mut Outputs) {
        let log = self.views.entry(view).or_default();
        let from = log.entries.len();
        if index > from {
            return;
        }
        // What a peer sends malformed is dropped from there on; the stream stops, and says where.
        let count = log.entries.extend(index, entries).unwrap_or(log.entries.len() - from) as u32;
        if count == 0 {
            return;
        }
        let mut cursor = log.entries.cursor(from);
        log.entries.copy(&mut cursor, u64::MAX, usize::MAX, &mut self.encoded);
        let entries = self.encoded.split().freeze();
        self.appended.push_back(Appended::Entries { view, end: from + u64::from(count) });
        outputs.append(DurableEntry::Metalog { view, from, count, entries });
    }

    /// Tells the primary where this backup stands.
    fn resume_as_backup(&mut self, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(Chain::current) else { return };
        let (number, primary) = (view.number, view.primary);
        if primary == self.config.node || number <= self.sealed || !view.sequencers.contains(self.config.node) {
            return;
        }
        let to = self.address(primary, Role::Sequencer);
        let log = self.views.entry(number).or_default();
        outputs.send(to, Message::BackupResume { view: number, tail: log.entries.len() });
        outputs.send(to, Message::BackupAck { view: number, durable: log.durable });
    }

    fn acknowledge(&mut self, outputs: &mut Outputs) {
        if !std::mem::take(&mut self.acknowledge) {
            return;
        }
        let Some(view) = self.chain.as_ref().map(Chain::current) else { return };
        let silent = view.number <= self.sealed && !active(Mutant::SealedBackupAcknowledges);
        if silent || view.primary == self.config.node {
            return;
        }
        let Some(log) = self.views.get(&view.number) else { return };
        let message = Message::BackupAck { view: view.number, durable: log.durable };
        outputs.send(self.address(view.primary, Role::Sequencer), message);
    }

    // As keeper of the metalog.

    /// Up to where the view's entries may be told to learners: they are committed, and here.
    fn told(&self, view: ViewNumber) -> u64 {
        let Some(log) = self.views.get(&view) else { return 0 };
        let end = self.chain.as_ref().and_then(|chain| chain.end(view));
        end.unwrap_or(log.commit).min(log.entries.len())
    }

    fn metalog_open(&mut self, from: Address, place: Place, outputs: &mut Outputs) {
        self.learners.retain(|learner| learner.to != from);
        let told = self.told(place.view);
        let ended = self.chain.as_ref().and_then(|chain| chain.end(place.view));
        let current = self.chain.as_ref().is_some_and(|chain| chain.current().number == place.view);
        if place.index < told {
            let mut learner = Learner { to: from, next: place };
            self.teach(&mut learner, told, outputs);
            if !self.is_ended(place.view) && learner.next.index == told {
                self.learners.push(learner);
            }
        } else if current && self.views_keeps(place.view) {
            self.learners.push(Learner { to: from, next: place });
        } else if ended != Some(place.index) {
            outputs.send(from, Message::MetalogNotHere { from: place });
        }
    }

    fn is_ended(&self, view: ViewNumber) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.end(view).is_some())
    }

    /// Whether this replica is one of the view's.
    fn views_keeps(&self, view: ViewNumber) -> bool {
        let view = self.chain.as_ref().and_then(|chain| chain.view(view));
        view.is_some_and(|view| view.sequencers.contains(self.config.node))
    }

    /// Sends a learner one message of what it lacks up to `told`.
    fn teach(&mut self, learner: &mut Learner, told: u64, outputs: &mut Outputs) {
        let log = &self.views[&learner.next.view];
        let mut cursor = if learner.next.index == log.entries.len() {
            return;
        } else {
            log.entries.cursor(learner.next.index)
        };
        let count = log.entries.copy(&mut cursor, told, STREAM_MESSAGE_BYTES_MAX, &mut self.encoded);
        let more = cursor.index() < told;
        let message =
            Message::MetalogEntries { from: learner.next, count, more, entries: self.encoded.split().freeze() };
        outputs.send(learner.to, message);
        learner.next.index = cursor.index();
    }

    fn teach_all(&mut self, outputs: &mut Outputs) {
        self.reserve();
        let mut learners = std::mem::take(&mut self.learners);
        learners.retain_mut(|learner| {
            let told = self.told(learner.next.view);
            if learner.next.index < told {
                self.teach(learner, told, outputs);
            }
            // One that was told of more to come asks again by itself.
            learner.next.index >= told
        });
        self.learners = learners;
    }

    /// Puts the commit index on the next block.
    fn keep_commit(&mut self, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        let Some(log) = self.views.get_mut(&view) else { return };
        if log.commit > log.commit_kept {
            log.commit_kept = log.commit;
            self.appended.push_back(Appended::Commit);
            outputs.append(DurableEntry::Commit { view, commit: log.commit });
        }
    }

    fn durable(&mut self, outputs: &mut Outputs) {
        match self.appended.pop_front().expect("the journal reports what it was given, in order") {
            Appended::Entries { view, end } => {
                let log = self.views.get_mut(&view).expect("views are never forgotten");
                log.durable = log.durable.max(end);
                self.acknowledge = true;
                self.repair_progress(view, outputs);
            }
            Appended::Commit => {}
            Appended::Seal(view) => {
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
        self.chain = Some(chain.clone());
        self.primary = None;
        self.ask_again = None;
        let view = chain.current();
        if view.primary != self.config.node {
            self.resume_as_backup(outputs);
            return;
        }
        if view.number <= self.sealed {
            return;
        }
        if view.primary_incarnation == self.config.incarnation {
            let mut primary = Primary::new(view, self.config.node);
            for node in self.connected.keys() {
                primary.connected(*node);
            }
            self.primary = Some(primary);
        } else if active(Mutant::PrimaryResumes) && first {
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
        let mut primary = Primary::new(view, self.config.node);
        let kept = std::mem::take(&mut self.views.entry(view.number).or_default().entries);
        let mut log = EntryLog::default();
        let mut cursor = kept.cursor(0);
        let mut encoded = BytesMut::new();
        kept.copy(&mut cursor, u64::MAX, usize::MAX, &mut encoded);
        for (entry, bytes) in sealog_protocol::metalog::entries(&encoded).flatten() {
            primary.append(&mut log, &entry, bytes);
        }
        self.views.entry(view.number).or_default().entries = log;
        self.primary = Some(primary);
    }

    /// Whether the newest view that this replica knows is sealed here: it needs a successor, and a
    /// controller that died after its Seal does not know that.
    fn is_sealed(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.current().number <= self.sealed)
    }

    fn ask_for_view(&mut self, now: Time, reason: ViewReason, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        let controller = self.address(self.config.controller, Role::Controller);
        outputs.send(controller, Message::ViewWanted { view, reason });
        self.ask_again = Some(now + REQUEST_RETRY);
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
        if self.chain.as_ref().is_some_and(|chain| chain.current().primary == node) {
            self.resume_as_backup(outputs);
        }
        for view in self.repairs.keys().copied().collect::<Vec<_>>() {
            self.repair_progress(view, outputs);
        }
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
        if self.ask_again.is_some_and(|at| at <= now) {
            let sealed = self.is_sealed();
            let reason = if sealed { ViewReason::Sealed } else { ViewReason::PrimaryRestarted };
            if sealed {
                mark(Mark::SealedAsksForView);
            }
            self.ask_for_view(now, reason, outputs);
        }
    }
}

impl Machine for Sequencer {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match input {
            Input::Message { from, message } => self.message(from, message, outputs),
            Input::Durable(_) => self.durable(outputs),
            Input::Chain(chain) => self.chain(now, chain, outputs),
            Input::Connected { node, incarnation } => self.connected(node, incarnation, outputs),
            Input::Disconnected { node } => self.disconnected(now, node),
            Input::Tick => self.tick(now, outputs),
            Input::Read { .. } | Input::TagsRead { .. } | Input::Swapped | Input::Space { .. } => {}
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        self.lead(now, outputs);
        self.acknowledge(outputs);
        self.teach_all(outputs);
        self.keep_commit(outputs);
        if self.ask_again.is_none() && self.is_sealed() && !active(Mutant::SealedAsksNobody) {
            self.ask_again = Some(now + REQUEST_RETRY);
        }
    }

    fn deadline(&self) -> Option<Time> {
        let primary = self.active_primary().and_then(|primary| primary.deadline(self.config.stuck_cut));
        primary.into_iter().chain(self.ask_again).min()
    }
}
