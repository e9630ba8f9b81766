//! The storage machine: Replicate in, Progress and Tags out, Fetch answered; sealed, it falls
//! silent; repaired, it takes copies from another storage; what is dead, it gives back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sealog_protocol::batch::Batch;
use sealog_protocol::frame::{FrameError, PlaceScope};
use sealog_protocol::limits::{COPY_BYTES_PER_S, MEND_RETRY, REWRITE_BYTES_PER_S, STREAM_MESSAGE_BYTES_MAX};
use sealog_protocol::machine::{
    Address, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::tags::{batch_headers, write_tags};
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogspaceId, NodeId, Place, ShardId, Time, ViewNumber, ViewReason};

use crate::checkpoints::{Checkpoints, Offer, PartId, PartPlace};
use crate::segments::Segments;
use crate::shard::{Located, StoredShard, batch_sizes};

mod checkpointing;
mod copying;
mod mending;
mod reading;
mod sealing;
mod space;

use copying::Copies;
pub use mending::MendNews;
use mending::Mending;
use reading::ReadFor;
use sealing::Repair;
use space::Rewriting;

/// The buffer that Tags entries are built in, so that a run does not allocate.
const TAGS_CHUNK_BYTES: usize = 256 << 10;

/// What a storage is told at its start.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    pub node: NodeId,
    /// Of class memory: views up to this one began in an earlier life, which may have said more than is
    /// known now. A seal on disk does not help: a life that had forgotten may have sealed.
    pub forgotten: ViewNumber,
    pub logspace: LogspaceId,
    /// How fast segments are looked at and what lives in them is appended again.
    pub rewrite_bytes_per_s: u64,
    /// How fast copies are taken from other storages.
    pub copy_bytes_per_s: u64,
    /// How long it waits before it tries again to mend what nobody could give it.
    pub mend_retry: Duration,
}

impl StorageConfig {
    /// The defaults of [`sealog_protocol::limits`].
    pub fn new(node: NodeId, logspace: LogspaceId) -> StorageConfig {
        StorageConfig {
            node,
            logspace,
            forgotten: ViewNumber(0),
            rewrite_bytes_per_s: REWRITE_BYTES_PER_S,
            copy_bytes_per_s: COPY_BYTES_PER_S,
            mend_retry: MEND_RETRY,
        }
    }
}

/// Counters for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageStatus {
    /// Whether it counts for the quorums of the view in force: in class memory, unless it has forgotten
    /// what it said in it.
    pub counts: bool,
    pub shards: usize,
    pub records_durable: u64,
    /// Reads that found damaged bytes.
    pub corrupt_reads: u64,
    pub full: bool,
    /// Segments of the journal that hold something of this storage.
    pub segments: usize,
    /// Segments that were looked at for what lives in them, in this life.
    pub segments_examined: u64,
    /// Segments that were given back.
    pub segments_released: u64,
    /// Bytes of batches and checkpoint parts that were appended again for that.
    pub bytes_rewritten: u64,
    /// The newest whole index checkpoint here, and its parts.
    pub checkpoint: Option<Place>,
    pub checkpoint_parts: u32,
    /// Shards that are copied from other storages now.
    pub copies: usize,
    /// Bytes of batches that were taken so in this life.
    pub bytes_copied: u64,
    /// The newest view has several replicas of each shard: what is damaged here can be mended.
    pub has_replicas: bool,
    /// Damaged segments that are not mended yet, and those of them that a read has found, not the journal.
    pub to_mend: usize,
    pub found_by_reads: usize,
    /// Batches that no replica can read, by shard and position; the first
    /// [`sealog_protocol::limits::LOST_LISTED_MAX`] of them.
    pub lost: Vec<(ShardId, u64)>,
    /// Records, and bytes of their batches, that were taken from other replicas for damaged ones.
    pub records_mended: u64,
    pub bytes_mended: u64,
}

/// A storage of one logspace.
#[derive(Clone, Debug)]
pub struct Storage {
    config: StorageConfig,
    chain: Option<Chain>,
    shards: BTreeMap<ShardId, StoredShard>,
    /// The newest view that is sealed here; from the moment of the Seal on, nothing is said for it
    /// or an older one.
    sealed: ViewNumber,
    /// The newest view whose seal is on disk.
    sealed_durable: ViewNumber,
    /// Controllers that wait for their seal to be durable.
    seal_waits: Vec<(Address, ViewNumber)>,
    /// What the journal was given and has not yet made durable, in order.
    appended: VecDeque<Appended>,
    reads: BTreeMap<u64, ReadFor>,
    ticket: u64,
    repairs: BTreeMap<ShardId, Repair>,
    copies: Copies,
    mending: Mending,
    /// Engines that opened a shard of a view that this storage has not yet read from the register.
    early: Vec<(Address, ShardId)>,
    /// Shards with something to report, each once.
    dirty: Vec<ShardId>,
    /// The last life of each node that was connected.
    lives: BTreeMap<NodeId, Incarnation>,
    /// Engines that said something on a living connection: they can be asked who is dead.
    engines: Vec<Address>,
    checkpoints: Checkpoints,
    /// The last checkpoint that counts, as a primary told it in this life; the first place: none does.
    told_checkpoint: Option<Place>,
    segments: Segments,
    rewriting: Rewriting,
    /// Recovery has handed over things since the last input.
    recovering: bool,
    full: bool,
    /// Engines that were told so: they hear of it when it is over, whatever they write here by then.
    told_full: BTreeSet<Address>,
    corrupt_reads: u64,
    tags: BytesMut,
}

#[derive(Clone, Debug)]
enum Appended {
    Run(ShardId),
    Seal(ViewNumber),
    /// Batches that lay in a segment which is to go.
    Copy {
        shard: ShardId,
        first: u64,
        batches: Bytes,
    },
    /// Batches that recovery did not find, and another replica had.
    Missing {
        shard: ShardId,
        first: u64,
        batches: Bytes,
    },
    Part {
        from: Address,
        attempt: u64,
        id: PartId,
        bytes: u32,
    },
    PartCopy {
        id: PartId,
        bytes: u32,
    },
}

impl Storage {
    pub fn new(config: StorageConfig) -> Storage {
        Storage {
            config,
            chain: None,
            shards: BTreeMap::new(),
            sealed: ViewNumber(0),
            sealed_durable: ViewNumber(0),
            seal_waits: Vec::new(),
            appended: VecDeque::new(),
            reads: BTreeMap::new(),
            ticket: 0,
            repairs: BTreeMap::new(),
            copies: Copies::default(),
            mending: Mending::default(),
            early: Vec::new(),
            dirty: Vec::new(),
            lives: BTreeMap::new(),
            engines: Vec::new(),
            checkpoints: Checkpoints::default(),
            told_checkpoint: None,
            segments: Segments::default(),
            rewriting: Rewriting::default(),
            recovering: false,
            full: false,
            told_full: BTreeSet::new(),
            corrupt_reads: 0,
            tags: BytesMut::new(),
        }
    }

    /// Takes back what the journal kept, before the first input.
    ///
    /// # Errors
    /// When a run has no records or bytes: the journal and this build disagree on the format.
    pub fn recover(&mut self, entry: Recovered<'_>) -> Result<(), FrameError> {
        self.recovering = true;
        match entry {
            Recovered::Batches { shard, first, records, at, bytes } => {
                if records == 0 || bytes == 0 {
                    return Err(FrameError::Metadata);
                }
                let replaced = self.shards.entry(shard).or_default().recover(first, records, at, bytes);
                self.segments.replaced(&replaced);
                self.segments.add_records(at.segment, records);
            }
            Recovered::StorageSeal { view, segment } => {
                self.sealed = self.sealed.max(view);
                self.sealed_durable = self.sealed;
                self.segments.sealed(view, segment);
            }
            Recovered::Checkpoint { place, part, last, at, bytes } => {
                self.checkpoints.recover(PartId { place, part, last }, PartPlace { at, bytes });
                self.segments.touch(at.segment);
            }
            Recovered::Metalog { .. }
            | Recovered::Commit { .. }
            | Recovered::SequencerSeal { .. }
            | Recovered::MetalogBase { .. } => {}
        }
        Ok(())
    }

    /// The first input ends the recovery.
    fn finish_recovery(&mut self) {
        if std::mem::take(&mut self.recovering) {
            self.checkpoints.finish_recovery();
            for part in self.checkpoints.parts() {
                self.segments.add_part(part.at.segment);
            }
            self.segments.look();
        }
    }

    pub fn status(&self) -> StorageStatus {
        let (to_mend, found_by_reads) = self.damage();
        StorageStatus {
            counts: self.chain.as_ref().is_some_and(|chain| !self.has_forgotten(chain.current().number)),
            shards: self.shards.len(),
            records_durable: self.shards.values().map(StoredShard::durable).sum(),
            corrupt_reads: self.corrupt_reads,
            full: self.full,
            segments: self.segments.len(),
            segments_examined: self.rewriting.examined,
            segments_released: self.rewriting.released,
            bytes_rewritten: self.rewriting.bytes,
            checkpoint: self.checkpoints.newest().map(|(place, _)| place),
            checkpoint_parts: self.checkpoints.newest().map_or(0, |(_, parts)| parts),
            copies: self.copies.len(),
            bytes_copied: self.copies.bytes,
            has_replicas: self.chain.as_ref().is_some_and(|chain| chain.current().replicas > 1),
            to_mend,
            found_by_reads,
            lost: self.mending.lost().collect(),
            records_mended: self.mending.records,
            bytes_mended: self.mending.bytes,
        }
    }

    /// The shards held, with how many records of each are received and durable.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, u64, u64)> + '_ {
        self.shards.iter().map(|(id, shard)| (*id, shard.received(), shard.durable()))
    }

    /// The newest view sealed here, durably or about to be.
    pub fn sealed(&self) -> ViewNumber {
        self.sealed
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    /// Whether this storage has fallen silent for a view.
    fn is_silent(&self, view: ViewNumber) -> bool {
        view <= self.sealed && !active(Mutant::SealedStorageReports)
    }

    fn message(&mut self, now: Time, from: Address, message: Message, outputs: &mut Outputs) {
        if from.role == Role::Engine && !self.engines.contains(&from) {
            self.engines.push(from);
            self.segments.look();
        }
        match message {
            Message::ReplicateOpen { shard } => self.replicate_open(from, shard, outputs),
            Message::Replicate { shard, first, batches } => self.replicate(from, shard, first, batches, outputs),
            Message::TagsOpen { shard, from: position } => self.tags_open(from, shard, position, outputs),
            Message::Fetch { request, shard, position, until } => {
                self.fetch((from, request), shard, position, until, outputs);
            }
            Message::Seal { view } => self.seal(from, view, outputs),
            Message::RepairShard { shard, prefix, source } => self.repair(from, shard, prefix, source, outputs),
            Message::ShardPull { shard, from: position, .. } => self.pull(from, shard, position, outputs),
            Message::ShardCopy { shard, first, batches } => self.copy(from, shard, first, batches, outputs),
            Message::CopyShard { shard, until, enough, sources } => {
                self.copy_shard(from, shard, (until, enough), *sources, outputs);
            }
            Message::CopyPull { shard, from: position, until } => {
                self.copy_pull(from, shard, (position, until), outputs);
            }
            Message::CopyPart { shard, from: position, first, had, batches } => {
                self.copy_part(now, from, (shard, position, first), had, batches, outputs);
            }
            Message::CopyDamaged { shard, from: position, next } => {
                self.copy_damaged(from, shard, (position, next), outputs);
            }
            Message::CheckpointPart { place, part, last, bytes } => {
                self.checkpoint_part(from, PartId { place, part, last }, bytes, outputs);
            }
            Message::CheckpointOpen { place, part } => self.checkpoint_open(from, place, part, outputs),
            Message::CheckpointCommitted { place } => self.checkpoint_committed(place),
            Message::Dying { shard, from, to, records } => self.dying(shard, from, to, records),
            Message::Judged { request, checkpoint, dead } => {
                // What is dead by it may go: who asks for it has to be told of it.
                if checkpoint > Place::default() {
                    self.told_checkpoint = self.told_checkpoint.max(Some(checkpoint));
                }
                self.judged(request, &dead);
            }
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    /// Whether shards of a view get no more here but by copies: it is sealed, or the register has its end.
    /// One that was forgotten with all that was dead in it is not begun anew for an engine that is behind.
    fn is_over(&self, view: ViewNumber) -> bool {
        view <= self.sealed || self.chain.as_ref().is_some_and(|chain| chain.current().number > view)
    }

    fn replicate_open(&mut self, from: Address, shard: ShardId, outputs: &mut Outputs) {
        if self.is_over(shard.view) {
            mark(Mark::ReplicateRefusedBySeal);
            outputs.send(from, Message::ReplicateRefused { shard });
            return;
        }
        if self.chain.as_ref().is_none_or(|chain| chain.view(shard.view).is_none()) {
            // A view that this storage has not heard of: nothing is done for it on a peer's word.
            self.early.push((from, shard));
            outputs.push(Output::ReadRegister);
            return;
        }
        let stored = self.shards.entry(shard).or_default();
        stored.writer = Some(from);
        let (received, durable) = (stored.received(), stored.durable());
        if received > 0 {
            mark(Mark::ReplicateResumed);
        }
        outputs.send(from, Message::ReplicateResume { shard, received, durable });
        if self.full {
            self.told_full.insert(from);
            outputs.send(from, Message::StorageSpace { full: true });
        }
    }

    fn replicate(&mut self, from: Address, shard: ShardId, first: u64, batches: Bytes, outputs: &mut Outputs) {
        if self.is_over(shard.view) {
            mark(Mark::ReplicateRefusedBySeal);
            outputs.send(from, Message::ReplicateRefused { shard });
            return;
        }
        let Some(stored) = self.shards.get_mut(&shard) else { return };
        if stored.writer != Some(from) {
            return;
        }
        if first != stored.received() && !active(Mutant::ShardPositionReused) {
            // Sent before the engine heard of a resume; it goes on from there.
            return;
        }
        let first = stored.received();
        self.take(from, shard, first, batches, outputs);
    }

    /// Takes a run that follows what is here of a shard: to the journal, and as Tags to learners.
    fn take(&mut self, from: Address, shard: ShardId, first: u64, batches: Bytes, outputs: &mut Outputs) {
        let stored = self.shards.get_mut(&shard).expect("looked up by the caller");
        // What another machine of this process made is whole; what came over a wire is checked.
        if from.node != self.config.node && verify_run(&batches, shard, first).is_err() {
            return;
        }
        // Tags are never longer than their batches.
        if self.tags.capacity() - self.tags.len() < batches.len() {
            self.tags.reserve(TAGS_CHUNK_BYTES.max(batches.len()));
        }
        let Ok(records) = write_tags(&mut self.tags, &batches) else { return };
        if records == 0 {
            return;
        }
        let tags = self.tags.split().freeze();
        stored.receive(first, records, batches.clone(), tags.clone());
        for learner in &stored.learners {
            let entries = tags.clone();
            outputs.send(*learner, Message::TagsEntries { shard, first, more: false, entries });
        }
        if self.dirty.last() != Some(&shard) {
            self.dirty.push(shard);
        }
        self.appended.push_back(Appended::Run(shard));
        outputs.append(DurableEntry::Batches { shard, first, batches, tags });
    }

    fn durable(&mut self, at: JournalPlace, outputs: &mut Outputs) {
        self.segments.moved_to(at.segment);
        match self.appended.pop_front().expect("the journal reports what it was given, in order") {
            Appended::Run(shard) => {
                let stored = self.shards.get_mut(&shard).expect("a shard with a run on its way is not forgotten");
                let records = stored.settle(at);
                self.segments.add_records(at.segment, records);
                self.dirty.push(shard);
                self.repair_progress(shard, outputs);
                self.tell_copy(shard, outputs);
            }
            Appended::Copy { shard, first, batches } => self.batches_moved(shard, first, &batches, at),
            Appended::Missing { shard, first, batches } => self.missing_durable(shard, first, &batches, at),
            Appended::Part { from, attempt, id, bytes } => {
                self.part_durable(from, attempt, id, PartPlace { at, bytes }, outputs);
            }
            Appended::PartCopy { id, bytes } => self.part_moved(id, PartPlace { at, bytes }),
            Appended::Seal(view) => {
                self.segments.sealed(view, at.segment);
                self.rewriting.seal_kept();
                self.sealed_durable = self.sealed_durable.max(view);
                let ready = self.seal_waits.extract_if(.., |(_, view)| *view <= self.sealed_durable);
                let ready: Vec<(Address, ViewNumber)> = ready.collect();
                for (controller, view) in ready {
                    self.answer_seal(controller, view, outputs);
                }
            }
        }
    }

    fn chain(&mut self, chain: &Chain, outputs: &mut Outputs) {
        if self.chain.as_ref().is_some_and(|known| known.views.len() >= chain.views.len()) {
            return;
        }
        self.chain = Some(chain.clone());
        for (from, shard) in std::mem::take(&mut self.early) {
            self.replicate_open(from, shard, outputs);
        }
        self.report_all();
        self.want_view(outputs);
    }

    fn connected(&mut self, node: NodeId, incarnation: Incarnation, outputs: &mut Outputs) {
        self.disconnected(node);
        if self.lives.insert(node, incarnation).is_some_and(|before| before != incarnation) {
            let dropped = self.checkpoints.abandon(node);
            self.drop_parts(&dropped);
        }
        self.report_all();
        if self.chain.as_ref().is_some_and(|chain| chain.current().primary == node) {
            self.want_view(outputs);
        }
    }

    fn disconnected(&mut self, node: NodeId) {
        self.engines.retain(|engine| engine.node != node);
        self.early.retain(|(from, _)| from.node != node);
        self.told_full.retain(|engine| engine.node != node);
        for stored in self.shards.values_mut() {
            stored.learners.retain(|learner| learner.node != node);
            if stored.writer.is_some_and(|writer| writer.node == node) {
                stored.writer = None;
            }
        }
        self.copy_disconnected(node);
        self.reads.retain(|_, read| read.to().is_none_or(|to| to.node != node));
    }

    /// A new primary, or a new connection to it, knows nothing: it is told of every open shard.
    fn report_all(&mut self) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        let first = ShardId { view, index: 0 };
        for (id, stored) in self.shards.range_mut(first..) {
            stored.dirty = true;
            self.dirty.push(*id);
        }
    }

    fn space(&mut self, full: bool, outputs: &mut Outputs) {
        if self.full == full {
            return;
        }
        self.full = full;
        self.segments.look();
        let mut told = std::mem::take(&mut self.told_full);
        told.extend(self.shards.values().filter_map(|stored| stored.writer));
        for writer in &told {
            outputs.send(*writer, Message::StorageSpace { full });
        }
        if full {
            self.told_full = told;
        }
    }

    fn report(&mut self, id: ShardId, outputs: &mut Outputs) {
        if self.is_silent(id.view) {
            return;
        }
        let forgotten = self.has_forgotten(id.view);
        let Some(stored) = self.shards.get_mut(&id) else { return };
        if !std::mem::take(&mut stored.dirty) {
            return;
        }
        let received = stored.received();
        let durable = if active(Mutant::ReceivedAsDurable) { received } else { stored.durable() };
        let writer = stored.writer;
        let primary = self.chain.as_ref().and_then(|chain| chain.view(id.view)).map(|view| view.primary);
        if let Some(primary) = primary {
            // What is received commits in class memory: who has forgotten has only what is on disk.
            let received = if forgotten { 0 } else { received };
            outputs.send(self.address(primary, Role::Sequencer), Message::Progress { shard: id, received, durable });
        }
        if let Some(writer) = writer {
            outputs.send(writer, Message::ReplicateDurable { shard: id, durable });
        }
    }
}

impl Machine for Storage {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        self.finish_recovery();
        match input {
            Input::Message { from, message } => self.message(now, from, message, outputs),
            Input::Durable(at) => self.durable(at, outputs),
            Input::Read { ticket, result } => self.read_done(now, ticket, result, outputs),
            Input::TagsRead { ticket, first, result } => self.tags_read(now, ticket, first, result, outputs),
            Input::Chain(chain) => self.chain(chain, outputs),
            Input::Connected { node, incarnation } => self.connected(node, incarnation, outputs),
            Input::Disconnected { node } => self.disconnected(node),
            Input::Space { full } => self.space(full, outputs),
            Input::Vacate { segment } => self.vacate(segment, outputs),
            Input::Rotten { segment, missing, .. } => self.rotten(segment, missing, outputs),
            Input::Swapped | Input::Members(_) | Input::Tick => {}
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.report(id, outputs);
        }
        self.dirty = dirty;
        // Before it looks for space, for that goes on with what this found.
        self.mend_on(now, outputs);
        self.reclaim(now, outputs);
        self.copy_on(now, outputs);
    }

    fn deadline(&self) -> Option<Time> {
        let copies = self.copies.deadline().filter(|_| !self.full);
        self.rewriting.deadline().into_iter().chain(copies).chain(self.mending.deadline(self.full)).min()
    }
}

/// Verifies a run that came over a wire: checksums, places, no gaps.
fn verify_run(batches: &[u8], shard: ShardId, first: u64) -> Result<(), FrameError> {
    let mut position = first;
    for batch in batch_headers(batches) {
        let (start, _) = batch?;
        let batch = Batch::parse(&batches[start..])?;
        if batch.frame.verify_place(PlaceScope::Shard(shard))? != position {
            return Err(FrameError::Place);
        }
        position += u64::from(batch.frame.header.count);
    }
    Ok(())
}
