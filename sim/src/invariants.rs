//! The protocol's invariants, checked after every turn against what the node that took it now says,
//! and at each change of the register. What costs is proportional to what changed.
//!
//! `Truth` of a logspace is what can never change again: its committed entries by view, and the ends
//! that the register holds. Disks are believed by what their machines were told is durable; that a
//! restart finds all of it again is checked, too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sealog_history::FinalLog;
use sealog_protocol::frame::Frame;
use sealog_protocol::machine::{Address, DurableEntry, Role};
use sealog_protocol::metalog::{Entry, entries};
use sealog_protocol::tags::batch_headers;
use sealog_protocol::view::Chain;
use sealog_protocol::{LogspaceId, NodeId, NodeSet, Place, SeqNum, ShardId, ViewNumber};

use crate::model::{Batches, Model};
use crate::node::{Node, Owner, RoleMachine};
use crate::swarm::Plan;
use crate::violation::Failure;

mod copies;
mod memory;
mod rot;

use copies::Move;

/// What is known of one view's metalog.
#[derive(Debug, Default)]
struct ViewTruth {
    /// Encodings of the committed entries.
    committed: Vec<Box<[u8]>>,
    /// Replicas of the view's shards, by the index of their `OpenShard`.
    replicas: BTreeMap<u64, NodeSet>,
    /// Their ordered prefixes, and those that are closed.
    prefixes: BTreeMap<u64, u64>,
    closed: BTreeSet<u64>,
    /// Encodings of all entries that any replica was given, committed or not, by index. Kept until the
    /// view ends.
    given: BTreeMap<u64, Box<[u8]>>,
}

/// What is known of one logspace.
#[derive(Debug)]
struct Truth {
    chain: Chain,
    views: BTreeMap<ViewNumber, ViewTruth>,
    /// By view and replica: entries durable, and entries compared with the committed ones.
    journals: BTreeMap<(ViewNumber, NodeId), (u64, u64)>,
    /// By shard and storage: records durable.
    disks: BTreeMap<(ShardId, NodeId), u64>,
    /// By shard and storage: first positions of the batches that it was given.
    taken: BTreeMap<(ShardId, NodeId), BTreeSet<u64>>,
    /// Where shards that were moved are.
    moves: BTreeMap<ShardId, NodeSet>,
    /// By shard and first position of a batch: checksum, and how many records.
    batches: BTreeMap<(ShardId, u64), (u32, u64)>,
    /// The same batches.
    frames: Batches,
    /// Seals that a node has answered.
    seals: BTreeMap<(Role, NodeId), ViewNumber>,
    /// Of class memory: what counts is held, be it on no disk yet.
    is_memory: bool,
    /// By view and replica, and by shard and storage: entries and records ever held.
    held_entries: BTreeMap<(ViewNumber, NodeId), u64>,
    held_records: BTreeMap<(ShardId, NodeId), u64>,
    /// Who has restarted in the present view: it forgot what it had said.
    restarted: BTreeSet<(Role, NodeId)>,
    /// Acknowledged records were lost, as the class allows.
    lost: bool,
    /// The greatest place of a checkpoint whose entry is committed: nobody needs the metalog before it.
    checkpoint: Place,
}

/// All invariants of a world.
#[derive(Debug)]
pub struct Invariants {
    logspaces: Vec<Truth>,
    /// Committed entries in all.
    pub commits: u64,
    /// Nodes that were removed: what they had is gone.
    pub removed: BTreeSet<NodeId>,
}

impl Invariants {
    pub fn new(plan: &Plan) -> Invariants {
        let logspaces = plan.logspaces().map(|logspace| Truth {
            chain: plan.first_chain(logspace),
            views: BTreeMap::new(),
            journals: BTreeMap::new(),
            disks: BTreeMap::new(),
            taken: BTreeMap::new(),
            moves: BTreeMap::new(),
            batches: BTreeMap::new(),
            frames: Batches::new(),
            seals: BTreeMap::new(),
            is_memory: plan.first_chain(logspace).is_memory(),
            held_entries: BTreeMap::new(),
            held_records: BTreeMap::new(),
            restarted: BTreeSet::new(),
            lost: false,
            checkpoint: Place::default(),
        });
        Invariants { logspaces: logspaces.collect(), commits: 0, removed: BTreeSet::new() }
    }

    fn truth(&mut self, logspace: LogspaceId) -> &mut Truth {
        &mut self.logspaces[usize::from(logspace.0)]
    }

    /// Views that were installed, over all logspaces, the first ones not counted.
    pub fn view_changes(&self) -> u64 {
        self.logspaces.iter().map(|truth| truth.chain.ends.len() as u64).sum()
    }

    /// A machine gave its journal an entry: replicas never take different ones.
    pub fn appended(&mut self, node: NodeId, owner: Owner, entry: &DurableEntry) -> Result<(), Failure> {
        let truth = self.truth(owner.0);
        match entry {
            DurableEntry::Batches { shard, first, batches, .. } => truth.took_records(node, *shard, *first, batches),
            DurableEntry::Metalog { view, from, entries, .. } => {
                truth.took_entries(owner.0, node, *view, *from, entries)
            }
            DurableEntry::Commit { .. }
            | DurableEntry::SequencerSeal { .. }
            | DurableEntry::StorageSeal { .. }
            | DurableEntry::MetalogBase { .. }
            | DurableEntry::Checkpoint { .. } => Ok(()),
        }
    }

    /// A node said that it has sealed a view: it never forgets that.
    pub fn seal_said(&mut self, node: NodeId, owner: Owner, view: ViewNumber) {
        let said = self.truth(owner.0).seals.entry((owner.1, node)).or_default();
        *said = view.max(*said);
    }

    /// A node said something for a view (progress, an acknowledgement, a commit index, a confirmation):
    /// not after it has said that it sealed the view, for the end is decided on what it said before.
    pub fn spoke(&mut self, node: NodeId, owner: Owner, view: ViewNumber) -> Result<(), Failure> {
        let sealed = self.truth(owner.0).seals.get(&(owner.1, node)).copied().unwrap_or_default();
        if view <= sealed { Err(Failure::SpokeAfterSeal { node, role: owner.1, view }) } else { Ok(()) }
    }

    /// Looks at a node after its turn.
    pub fn after_turn(&mut self, node: &Node) -> Result<(), Failure> {
        let Some(life) = &node.life else { return Ok(()) };
        for (address, machine) in &life.machines {
            match machine {
                RoleMachine::Storage(storage) => {
                    let truth = self.truth(address.logspace);
                    for (shard, received, durable) in storage.shards() {
                        truth.disk(*address, shard, durable)?;
                        if truth.is_memory {
                            let held = truth.held_records.entry((shard, address.node)).or_default();
                            *held = received.max(*held);
                        }
                    }
                }
                RoleMachine::Sequencer(sequencer) => {
                    let before = self.committed(address.logspace);
                    let truth = self.truth(address.logspace);
                    // What lies before the base is covered by a checkpoint, and may be forgotten.
                    for (view, durable, _) in sequencer.views().filter(|(view, ..)| *view >= sequencer.base().view) {
                        truth.journal(*address, view, durable)?;
                    }
                    for (view, end) in sequencer.ends().filter(|_| truth.is_memory) {
                        let held = truth.held_entries.entry((view, address.node)).or_default();
                        *held = end.max(*held);
                    }
                    let base = sequencer.base();
                    for (view, durable, commit) in sequencer.views() {
                        let here = |from, end| sequencer.entries(view, from, end).to_vec();
                        let from = if view == base.view { base.index } else { 0 };
                        truth.heard_commit(*address, (view, from), durable, commit, here)?;
                    }
                    truth.based(*address, base)?;
                    self.commits += self.committed(address.logspace).saturating_sub(before);
                }
                RoleMachine::Engine(_) | RoleMachine::Controller(_) => {}
            }
        }
        // A commit and its application may be of one turn.
        for (address, machine) in &life.machines {
            if let RoleMachine::Engine(engine) = machine {
                let applied = engine.status().applied;
                self.truth(address.logspace).applied(*address, applied)?;
            }
        }
        Ok(())
    }

    fn committed(&self, logspace: LogspaceId) -> u64 {
        self.logspaces[usize::from(logspace.0)].views.values().map(|view| view.committed.len() as u64).sum()
    }

    /// Looks at a node that has just recovered: all that it ever called durable is there.
    pub fn after_recovery(&mut self, node: &Node) -> Result<(), Failure> {
        let Some(life) = &node.life else { return Ok(()) };
        for (address, machine) in &life.machines {
            let truth = self.truth(address.logspace);
            let lost = |what: String, before, after| Failure::DurableLost { node: node.id, what, before, after };
            match machine {
                RoleMachine::Storage(storage) => {
                    let found: BTreeMap<ShardId, u64> =
                        storage.shards().map(|(shard, _, durable)| (shard, durable)).collect();
                    let known: Vec<(ShardId, u64)> = truth
                        .disks
                        .iter()
                        .filter(|((_, id), _)| *id == node.id)
                        .map(|((shard, _), before)| (*shard, *before))
                        .collect();
                    for (shard, before) in known {
                        let after = found.get(&shard).copied().unwrap_or(0);
                        if after < before && !truth.are_dead(shard, after, before)? {
                            return Err(lost(format!("shard {shard}"), before, after));
                        }
                        truth.disks.insert((shard, node.id), after);
                    }
                    truth.seal_kept(*address, storage.sealed())?;
                    truth.started(*address, node);
                }
                RoleMachine::Sequencer(sequencer) => {
                    let found: BTreeMap<ViewNumber, u64> =
                        sequencer.views().map(|(view, durable, _)| (view, durable)).collect();
                    let known = truth.journals.iter().filter(|((_, id), _)| *id == node.id);
                    let base = sequencer.base();
                    for ((view, _), (before, _)) in known.filter(|((view, _), _)| *view >= base.view) {
                        let after = found.get(view).copied().unwrap_or(0);
                        if after < *before {
                            return Err(lost(format!("metalog of view {view}"), *before, after));
                        }
                    }
                    truth.seal_kept(*address, sequencer.status().sealed)?;
                    truth.started(*address, node);
                    truth.based(*address, base)?;
                }
                RoleMachine::Engine(_) | RoleMachine::Controller(_) => {}
            }
        }
        Ok(())
    }

    /// The register holds another chain now.
    pub fn installed(&mut self, chain: &Chain) -> Result<(), Failure> {
        let truth = self.truth(chain.logspace);
        let committed_before: u64 = truth.views.values().map(|view| view.committed.len() as u64).sum();
        truth.install(chain)?;
        let committed: u64 = truth.views.values().map(|view| view.committed.len() as u64).sum();
        self.commits += committed.saturating_sub(committed_before);
        Ok(())
    }

    /// Logspaces of class memory that lost what was acknowledged, as they may.
    pub fn lossy(&self) -> impl Iterator<Item = LogspaceId> + '_ {
        self.logspaces.iter().filter(|truth| truth.lost).map(|truth| truth.chain.logspace)
    }

    /// Whether all nodes count in the views of class memory: as many as ever may be lost again.
    pub fn all_count(&self) -> bool {
        self.logspaces.iter().all(|truth| truth.restarted.is_empty())
    }

    /// All records that ever became visible, and the trims between them, as committed entries have them.
    pub fn final_log(&self) -> Result<FinalLog, Failure> {
        let mut log = FinalLog::new();
        for truth in &self.logspaces {
            truth.model(&mut log)?;
        }
        Ok(log)
    }

    /// The last committed place, for the trace.
    pub fn place(&self, logspace: LogspaceId) -> Place {
        let truth = &self.logspaces[usize::from(logspace.0)];
        let view = truth.chain.current().number;
        Place { view, index: truth.views.get(&view).map_or(0, |view| view.committed.len() as u64) }
    }
}

impl Truth {
    fn took_records(&mut self, node: NodeId, shard: ShardId, first: u64, batches: &[u8]) -> Result<(), Failure> {
        let mut position = first;
        for batch in batch_headers(batches) {
            let Ok((at, header)) = batch else { break };
            let taken = (header.checksum, u64::from(header.count));
            let known = self.batches.entry((shard, position)).or_insert_with(|| {
                let frame = Bytes::copy_from_slice(&batches[at..at + header.frame_bytes()]);
                self.frames.insert((shard, position), frame);
                taken
            });
            if *known != taken {
                return Err(Failure::RecordDiffers { shard, position, node });
            }
            self.taken.entry((shard, node)).or_default().insert(position);
            position += taken.1;
        }
        Ok(())
    }

    fn took_entries(
        &mut self,
        logspace: LogspaceId,
        node: NodeId,
        view: ViewNumber,
        from: u64,
        encoded: &[u8],
    ) -> Result<(), Failure> {
        let truth = self.views.entry(view).or_default();
        for (entry, index) in entries(encoded).zip(from..) {
            let Ok((_, bytes)) = entry else { break };
            let known = match truth.committed.get(index as usize) {
                Some(committed) => committed,
                None => truth.given.entry(index).or_insert_with(|| bytes.into()),
            };
            if **known != *bytes {
                return Err(Failure::EntryDiffers { logspace, view, index, node });
            }
        }
        Ok(())
    }

    /// All that is committed, applied in order.
    fn model<'a>(&'a self, log: &'a mut FinalLog) -> Result<Model<'a>, Failure> {
        let mut model = Model::new(self.chain.settings, &self.frames, log);
        for view in &self.chain.views {
            model.enter(view.number);
            let committed = self.views.get(&view.number).map_or(&[][..], |view| view.committed.as_slice());
            for encoded in committed {
                let (entry, _) = Entry::decode(encoded).expect("decoded when it was given");
                model.apply(&entry)?;
            }
        }
        Ok(model)
    }

    /// Whether nobody needs these records any more: their view has ended, and they are void, trimmed, or
    /// not in the log.
    fn are_dead(&self, shard: ShardId, from: u64, to: u64) -> Result<bool, Failure> {
        if shard.view >= self.chain.current().number {
            return Ok(false);
        }
        let mut log = FinalLog::new();
        let places = self.model(&mut log)?.places;
        let living = places.range((shard, from)..(shard, to)).any(|((_, position), (logbook, first))| {
            let records = self.batches[&(shard, *position)].1;
            (first.0..first.0 + records).any(|seqnum| log.is_living(*logbook, SeqNum(seqnum)))
        });
        Ok(!living)
    }

    fn disk(&mut self, address: Address, shard: ShardId, durable: u64) -> Result<(), Failure> {
        let known = self.disks.get(&(shard, address.node)).copied().unwrap_or(0);
        // One that was forgotten with all that was dead begins anew when copies of it are asked for.
        if durable < known && !self.are_dead(shard, durable, known)? {
            let what = format!("shard {shard}");
            return Err(Failure::DurableLost { node: address.node, what, before: known, after: durable });
        }
        self.disks.insert((shard, address.node), durable);
        Ok(())
    }

    fn journal(&mut self, address: Address, view: ViewNumber, durable: u64) -> Result<(), Failure> {
        let (known, _) = self.journals.entry((view, address.node)).or_default();
        if durable < *known {
            let what = format!("metalog of view {view}");
            return Err(Failure::DurableLost { node: address.node, what, before: *known, after: durable });
        }
        *known = durable;
        Ok(())
    }

    fn seal_kept(&self, address: Address, sealed: ViewNumber) -> Result<(), Failure> {
        let said = self.seals.get(&(address.role, address.node)).copied().unwrap_or_default();
        if sealed < said {
            let (before, after) = (u64::from(said.0), u64::from(sealed.0));
            return Err(Failure::DurableLost { node: address.node, what: "its seal".to_owned(), before, after });
        }
        Ok(())
    }

    /// A replica has dropped the metalog before a place: a committed checkpoint must cover it.
    fn based(&self, address: Address, base: Place) -> Result<(), Failure> {
        if base > self.checkpoint {
            let (node, logspace, checkpoint) = (address.node, address.logspace, self.checkpoint);
            return Err(Failure::MetalogDropped { node, logspace, base, checkpoint });
        }
        Ok(())
    }

    /// A replica believes that `commit` entries of a view are committed. What it has of them begins at
    /// `from`.
    fn heard_commit(
        &mut self,
        address: Address,
        (view, from): (ViewNumber, u64),
        durable: u64,
        commit: u64,
        here: impl Fn(u64, u64) -> Vec<u8>,
    ) -> Result<(), Failure> {
        let (node, logspace) = (address.node, address.logspace);
        let ended = self.chain.end(view).filter(|end| *end < commit);
        // A primary that alone remembers what was lost goes on until it hears of the end.
        let commit = ended.filter(|_| self.lost_at_end(view)).unwrap_or(commit);
        if let Some(end) = self.chain.end(view).filter(|end| *end < commit) {
            return Err(Failure::CommittedPastEnd { logspace, view, end, commit, node });
        }
        let known = self.views.entry(view).or_default().committed.len() as u64;
        if commit > known {
            self.extend_committed(logspace, view, commit)?;
        }
        // What this replica has of it is the same.
        let compared = self.journals.get(&(view, node)).map_or(0, |(_, compared)| *compared).max(from);
        let end = commit.min(durable);
        if compared < end {
            let encoded = here(compared, end);
            let committed = &self.views[&view].committed;
            for (entry, index) in entries(&encoded).zip(compared..) {
                let same = entry.is_ok_and(|(_, bytes)| *bytes == *committed[index as usize]);
                if !same {
                    return Err(Failure::CommittedEntryDiffers { logspace, view, index, node });
                }
            }
            self.journals.entry((view, node)).or_default().1 = end;
        }
        Ok(())
    }

    /// Entries up to `commit` are committed: they must be on a majority, their records on W disks.
    fn extend_committed(&mut self, logspace: LogspaceId, view: ViewNumber, commit: u64) -> Result<(), Failure> {
        let Some(installed) = self.chain.view(view) else {
            return Err(Failure::CommittedWithoutMajority { logspace, view, entries: commit, copies: 0 });
        };
        let holds = |node: NodeId| self.held_entries.get(&(view, node)).is_some_and(|held| *held >= commit);
        let has = |node: &NodeId| self.has_entries(view, *node, commit) || holds(*node);
        let copies = installed.sequencers.iter().filter(has).count();
        if copies < installed.sequencers.majority() {
            return Err(Failure::CommittedWithoutMajority { logspace, view, entries: commit, copies });
        }
        let quorum = usize::from(installed.write_quorum);
        self.take_committed(logspace, view, commit, quorum, &[])
    }

    fn has_entries(&self, view: ViewNumber, node: NodeId, entries: u64) -> bool {
        self.journals.get(&(view, node)).is_some_and(|(durable, _)| *durable >= entries)
    }

    /// Moves entries from given to committed, and looks for the records that they order.
    fn take_committed(
        &mut self,
        logspace: LogspaceId,
        view: ViewNumber,
        end: u64,
        quorum: usize,
        moves: &[(ShardId, NodeSet)],
    ) -> Result<(), Failure> {
        let truth = self.views.entry(view).or_default();
        let mut moved_shards = Vec::new();
        while (truth.committed.len() as u64) < end {
            let index = truth.committed.len() as u64;
            let Some(bytes) = truth.given.remove(&index) else {
                return Err(Failure::CommittedWithoutMajority { logspace, view, entries: end, copies: 0 });
            };
            match Entry::decode(&bytes).map(|(entry, _)| entry) {
                Ok(Entry::OpenShard { replicas, .. }) => {
                    truth.replicas.insert(index, replicas);
                }
                Ok(Entry::Cut(cut)) => {
                    for moved in cut.moves() {
                        if !truth.closed.contains(&moved.shard_index) {
                            let prefix = truth.prefixes.entry(moved.shard_index).or_default();
                            *prefix = moved.prefix.max(*prefix);
                        }
                        let shard = ShardId { view, index: moved.shard_index };
                        let now = moves.iter().find(|(id, _)| *id == shard).map(|(_, nodes)| *nodes);
                        let replicas =
                            now.or_else(|| truth.replicas.get(&moved.shard_index).copied()).unwrap_or_default();
                        let has = |node: &NodeId| {
                            let stored =
                                self.disks.get(&(shard, *node)).is_some_and(|durable| *durable >= moved.prefix);
                            let held = self.held_records.get(&(shard, *node)).is_some_and(|held| *held >= moved.prefix);
                            stored || held
                        };
                        let copies = replicas.iter().filter(has).count();
                        if copies < quorum {
                            let prefix = moved.prefix;
                            return Err(Failure::CommittedWithoutRecords {
                                logspace,
                                view,
                                index,
                                shard,
                                prefix,
                                copies,
                            });
                        }
                    }
                }
                Ok(Entry::CloseShard { shard_index }) => {
                    truth.closed.insert(shard_index);
                }
                Ok(Entry::MoveShard { shard, replicas }) => {
                    let is_final = shard.view < view || truth.closed.contains(&shard.index);
                    moved_shards.push(Move { place: Place { view, index }, shard, replicas, is_final });
                }
                Ok(Entry::Checkpoint { place, .. }) if place <= (Place { view, index }) => {
                    self.checkpoint = place.max(self.checkpoint);
                }
                _ => {}
            }
            truth.committed.push(bytes);
        }
        moved_shards.iter().try_for_each(|moved| self.moved(logspace, moved))
    }

    fn applied(&mut self, address: Address, applied: Place) -> Result<(), Failure> {
        let (node, logspace, view, index) = (address.node, address.logspace, applied.view, applied.index);
        if index == 0 {
            return Ok(());
        }
        let committed = self.views.get(&view).map_or(0, |view| view.committed.len() as u64);
        if index > committed && !self.lost_at_end(view) {
            return Err(Failure::AppliedUncommitted { node, logspace, view, index });
        }
        Ok(())
    }

    fn install(&mut self, chain: &Chain) -> Result<(), Failure> {
        let (logspace, view) = (chain.logspace, self.chain.current().number);
        let past = self.chain.views.len();
        let extends = chain.views.len() == past + 1
            && chain.views[..past] == self.chain.views[..]
            && chain.ends[..past - 1] == self.chain.ends[..];
        if !extends {
            return Err(Failure::TwoEnds { logspace, view });
        }
        let end = chain.end(view).expect("the chain goes on after it");
        let committed = self.views.entry(view).or_default().committed.len() as u64;
        if end < committed
            && !(self.is_memory && chain.current().cause.after_loss && self.may_lose() && self.lose(view, end))
        {
            return Err(Failure::EndBeforeCommit { logspace, view, end, committed });
        }
        // What is kept was repaired before: on a majority of this view's replicas and the next one's,
        // and the records on W disks, where the next view says.
        for sequencers in [self.chain.current().sequencers, chain.current().sequencers] {
            let copies = sequencers.iter().filter(|node| self.has_entries(view, *node, end)).count();
            if end > 0 && copies < sequencers.majority() {
                return Err(Failure::CommittedWithoutMajority { logspace, view, entries: end, copies });
            }
        }
        let quorum = usize::from(self.chain.current().write_quorum);
        self.take_committed(logspace, view, end, quorum, &chain.current().moves)?;
        if self.is_memory {
            self.check_stored(chain, view)?;
            self.restarted.clear();
        }
        self.views.entry(view).or_default().given.clear();
        self.moves.extend(chain.current().moves.iter().copied());
        self.chain = chain.clone();
        Ok(())
    }
}

/// One record for each SeqNum, in whatever any client reads.
#[derive(Debug, Default)]
pub struct SeenRecords {
    records: BTreeMap<(LogspaceId, SeqNum), sealog_history::Fingerprint>,
}

impl SeenRecords {
    pub fn saw(
        &mut self,
        logspace: LogspaceId,
        seqnum: SeqNum,
        fingerprint: sealog_history::Fingerprint,
    ) -> Result<(), Failure> {
        let known = self.records.entry((logspace, seqnum)).or_insert(fingerprint);
        if *known == fingerprint { Ok(()) } else { Err(Failure::ReadsDiffer { logspace, seqnum }) }
    }
}

/// The checksum that names a frame in the trace.
pub fn frame_name(bytes: &[u8]) -> u64 {
    match Frame::parse_unverified(bytes) {
        Ok(Some(frame)) => u64::from(frame.header.checksum) << 20 | bytes.len() as u64,
        _ => bytes.len() as u64,
    }
}
