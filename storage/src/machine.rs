//! The storage machine: Replicate in, Progress and Tags out, Fetch answered; sealed, it falls
//! silent; repaired, it takes copies from another storage.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use sealog_protocol::batch::Batch;
use sealog_protocol::frame::{FrameError, PlaceScope};
use sealog_protocol::limits::FRAME_BYTES_MAX;
use sealog_protocol::machine::{
    Address, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::tags::{batch_headers, write_tags};
use sealog_protocol::view::Chain;
use sealog_protocol::{LogspaceId, NodeId, ShardId, Time, ViewNumber};

use crate::shard::{Located, StoredShard};

/// The buffer that Tags entries are built in, so that a run does not allocate.
const TAGS_CHUNK_BYTES: usize = 256 << 10;

/// What a storage is told at its start.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    pub node: NodeId,
    pub logspace: LogspaceId,
}

/// Counters for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStatus {
    pub shards: usize,
    pub records_durable: u64,
    /// Reads that found damaged bytes.
    pub corrupt_reads: u64,
    pub full: bool,
}

/// A storage of one logspace.
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
    /// Engines that opened a shard of a view that this storage has not yet read from the register.
    early: Vec<(Address, ShardId)>,
    /// Shards with something to report, each once.
    dirty: Vec<ShardId>,
    connected: Vec<NodeId>,
    full: bool,
    corrupt_reads: u64,
    tags: BytesMut,
}

enum Appended {
    Run(ShardId),
    Seal(ViewNumber),
}

enum ReadFor {
    Fetch { to: Address, request: u64, shard: ShardId, position: u64 },
    Copy { to: Address, shard: ShardId, position: u64 },
    Tags { to: Address, shard: ShardId },
}

struct Repair {
    prefix: u64,
    source: NodeId,
    controller: Address,
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
            early: Vec::new(),
            dirty: Vec::new(),
            connected: Vec::new(),
            full: false,
            corrupt_reads: 0,
            tags: BytesMut::new(),
        }
    }

    /// Takes back what the journal kept, before the first input.
    ///
    /// # Errors
    /// When Tags of a run are malformed: the journal and this build disagree on the format.
    pub fn recover(&mut self, entry: Recovered<'_>) -> Result<(), FrameError> {
        match entry {
            Recovered::Batches { shard, first, at, tags } => {
                self.shards.entry(shard).or_default().recover(first, at, tags)?;
            }
            Recovered::StorageSeal { view } => {
                self.sealed = self.sealed.max(view);
                self.sealed_durable = self.sealed;
            }
            Recovered::Metalog { .. } | Recovered::Commit { .. } | Recovered::SequencerSeal { .. } => {}
        }
        Ok(())
    }

    pub fn status(&self) -> StorageStatus {
        StorageStatus {
            shards: self.shards.len(),
            records_durable: self.shards.values().map(StoredShard::durable).sum(),
            corrupt_reads: self.corrupt_reads,
            full: self.full,
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

    fn message(&mut self, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::ReplicateOpen { shard } => self.replicate_open(from, shard, outputs),
            Message::Replicate { shard, first, batches } => self.replicate(from, shard, first, batches, outputs),
            Message::TagsOpen { shard, from: position } => self.tags_open(from, shard, position, outputs),
            Message::Fetch { request, shard, position } => self.fetch(from, request, shard, position, outputs),
            Message::Seal { view } => self.seal(from, view, outputs),
            Message::RepairShard { shard, prefix, source } => self.repair(from, shard, prefix, source, outputs),
            Message::ShardPull { shard, from: position, .. } => self.pull(from, shard, position, outputs),
            Message::ShardCopy { shard, first, batches } => self.copy(from, shard, first, batches, outputs),
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    fn replicate_open(&mut self, from: Address, shard: ShardId, outputs: &mut Outputs) {
        if shard.view <= self.sealed {
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
            outputs.send(from, Message::StorageSpace { full: true });
        }
    }

    fn replicate(&mut self, from: Address, shard: ShardId, first: u64, batches: Bytes, outputs: &mut Outputs) {
        if shard.view <= self.sealed {
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
        self.take(from, shard, batches, outputs);
    }

    /// Takes a run that begins where the shard ends: to the journal, and as Tags to learners.
    fn take(&mut self, from: Address, shard: ShardId, batches: Bytes, outputs: &mut Outputs) {
        let stored = self.shards.get_mut(&shard).expect("looked up by the caller");
        let first = stored.received();
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
        stored.receive(records, batches.clone(), tags.clone());
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
        match self.appended.pop_front().expect("the journal reports what it was given, in order") {
            Appended::Run(shard) => {
                let stored = self.shards.get_mut(&shard).expect("shards are never forgotten");
                stored.settle(at);
                self.dirty.push(shard);
                self.repair_progress(shard, outputs);
            }
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

    fn tags_open(&mut self, from: Address, shard: ShardId, position: u64, outputs: &mut Outputs) {
        let stored = self.shards.entry(shard).or_default();
        stored.learners.retain(|learner| *learner != from);
        if position < stored.durable() {
            mark(Mark::TagsResumed);
            let segment = match stored.segment_of(position) {
                Ok(segment) => segment,
                // Lost between here and there: nobody can say what it was. The engine is told by
                // a run that begins later.
                Err(Some(next)) => {
                    outputs.send(from, Message::TagsEntries { shard, first: next, more: true, entries: Bytes::new() });
                    return;
                }
                Err(None) => return,
            };
            let ticket = self.next_ticket(ReadFor::Tags { to: from, shard });
            outputs.push(Output::ReadTags { ticket, shard, segment, from: position });
            return;
        }
        for (first, entries) in stored.tags_in_flight(position) {
            outputs.send(from, Message::TagsEntries { shard, first, more: false, entries });
        }
        stored.learners.push(from);
    }

    fn fetch(&mut self, from: Address, request: u64, shard: ShardId, position: u64, outputs: &mut Outputs) {
        let located = self.shards.get(&shard).map_or(Located::NotHere, |stored| stored.locate(position));
        match located {
            Located::Disk(place) => {
                let ticket = self.next_ticket(ReadFor::Fetch { to: from, request, shard, position });
                let bytes = place.bytes.min(FRAME_BYTES_MAX as u32);
                outputs.push(Output::Read { ticket, at: place.at, bytes });
            }
            Located::Memory(batch) => outputs.send(from, Message::Fetched { request, batch }),
            Located::NotHere => outputs.send(from, Message::FetchNotHere { request }),
            Located::Lost => {
                self.corrupt_reads += 1;
                outputs.send(from, Message::FetchCorrupt { request });
            }
        }
    }

    fn next_ticket(&mut self, read: ReadFor) -> u64 {
        self.ticket += 1;
        self.reads.insert(self.ticket, read);
        self.ticket
    }

    fn read_done(&mut self, ticket: u64, result: Result<Bytes, ReadFailure>, outputs: &mut Outputs) {
        match self.reads.remove(&ticket) {
            Some(ReadFor::Fetch { to, request, shard, position }) => {
                match result.ok().and_then(|bytes| verified_batch(&bytes, shard, position)) {
                    Some((_, batch)) => outputs.send(to, Message::Fetched { request, batch }),
                    None => {
                        self.corrupt_reads += 1;
                        outputs.send(to, Message::FetchCorrupt { request });
                    }
                }
            }
            Some(ReadFor::Copy { to, shard, position }) => {
                match result.ok().and_then(|bytes| verified_batch(&bytes, shard, position)) {
                    Some((first, batches)) => outputs.send(to, Message::ShardCopy { shard, first, batches }),
                    None => self.corrupt_reads += 1,
                }
            }
            Some(ReadFor::Tags { .. }) | None => {}
        }
    }

    fn tags_read(&mut self, ticket: u64, first: u64, result: Result<Bytes, ReadFailure>, outputs: &mut Outputs) {
        let Some(ReadFor::Tags { to, shard }) = self.reads.remove(&ticket) else { return };
        match result {
            Ok(entries) if !entries.is_empty() => {
                outputs.send(to, Message::TagsEntries { shard, first, more: true, entries });
            }
            // Unreadable, or less than was recovered. Without Tags there is no verdict: the engine
            // waits, or asks another replica.
            _ => self.corrupt_reads += 1,
        }
    }

    fn seal(&mut self, from: Address, view: ViewNumber, outputs: &mut Outputs) {
        if view <= self.sealed_durable {
            self.answer_seal(from, view, outputs);
            return;
        }
        if view > self.sealed {
            self.sealed = view;
            self.appended.push_back(Appended::Seal(view));
            if active(Mutant::SealNotDurable) {
                self.appended.pop_back();
                self.answer_seal(from, view, outputs);
                return;
            }
            outputs.append(DurableEntry::StorageSeal { view });
        }
        self.seal_waits.push((from, view));
    }

    fn answer_seal(&mut self, controller: Address, view: ViewNumber, outputs: &mut Outputs) {
        let first = ShardId { view, index: 0 };
        let last = ShardId { view, index: u64::MAX };
        let shards = self.shards.range(first..=last).map(|(id, shard)| (*id, shard.durable())).collect();
        outputs.send(controller, Message::StorageSealed { view, shards });
    }

    fn repair(&mut self, controller: Address, shard: ShardId, prefix: u64, source: NodeId, outputs: &mut Outputs) {
        if active(Mutant::SealedRefusesRepair) && shard.view <= self.sealed {
            return;
        }
        self.shards.entry(shard).or_default();
        self.repairs.insert(shard, Repair { prefix, source, controller });
        self.repair_progress(shard, outputs);
    }

    /// Asks for the next batch of a repair, or reports its end.
    fn repair_progress(&mut self, shard: ShardId, outputs: &mut Outputs) {
        let Some(repair) = self.repairs.get(&shard) else { return };
        let stored = &self.shards[&shard];
        if stored.durable() >= repair.prefix {
            let message = Message::ShardRepaired { shard, durable: stored.durable() };
            outputs.send(repair.controller, message);
            self.repairs.remove(&shard);
        } else if stored.received() < repair.prefix {
            let source = self.address(repair.source, Role::Storage);
            let message = Message::ShardPull { shard, from: stored.received(), prefix: repair.prefix };
            outputs.send(source, message);
        }
    }

    fn pull(&mut self, from: Address, shard: ShardId, position: u64, outputs: &mut Outputs) {
        let located = self.shards.get(&shard).map_or(Located::NotHere, |stored| stored.locate(position));
        if let Located::Disk(place) = located {
            let ticket = self.next_ticket(ReadFor::Copy { to: from, shard, position });
            outputs.push(Output::Read { ticket, at: place.at, bytes: place.bytes.min(FRAME_BYTES_MAX as u32) });
        }
    }

    fn copy(&mut self, from: Address, shard: ShardId, first: u64, batches: Bytes, outputs: &mut Outputs) {
        let wanted = self.repairs.get(&shard).is_some_and(|repair| repair.source == from.node);
        if !wanted || self.shards.get(&shard).is_none_or(|stored| stored.received() != first) {
            return;
        }
        mark(Mark::RepairedRecords);
        self.take(from, shard, batches, outputs);
        self.repair_progress(shard, outputs);
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
    }

    fn connected(&mut self, node: NodeId) {
        self.disconnected(node);
        self.connected.push(node);
        self.report_all();
    }

    fn disconnected(&mut self, node: NodeId) {
        self.connected.retain(|known| *known != node);
        self.early.retain(|(from, _)| from.node != node);
        for stored in self.shards.values_mut() {
            stored.learners.retain(|learner| learner.node != node);
            if stored.writer.is_some_and(|writer| writer.node == node) {
                stored.writer = None;
            }
        }
        self.reads.retain(|_, read| match read {
            ReadFor::Fetch { to, .. } | ReadFor::Copy { to, .. } | ReadFor::Tags { to, .. } => to.node != node,
        });
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
        let mut writers: Vec<Address> = self.shards.values().filter_map(|stored| stored.writer).collect();
        writers.sort_unstable();
        writers.dedup();
        for writer in writers {
            outputs.send(writer, Message::StorageSpace { full });
        }
    }

    fn report(&mut self, id: ShardId, outputs: &mut Outputs) {
        if self.is_silent(id.view) {
            return;
        }
        let Some(stored) = self.shards.get_mut(&id) else { return };
        if !std::mem::take(&mut stored.dirty) {
            return;
        }
        let received = stored.received();
        let durable = if active(Mutant::ReceivedAsDurable) { received } else { stored.durable() };
        let writer = stored.writer;
        let primary = self.chain.as_ref().and_then(|chain| chain.view(id.view)).map(|view| view.primary);
        if let Some(primary) = primary {
            outputs.send(self.address(primary, Role::Sequencer), Message::Progress { shard: id, received, durable });
        }
        if let Some(writer) = writer {
            outputs.send(writer, Message::ReplicateDurable { shard: id, durable });
        }
    }
}

impl Machine for Storage {
    fn handle(&mut self, _now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match input {
            Input::Message { from, message } => self.message(from, message, outputs),
            Input::Durable(at) => self.durable(at, outputs),
            Input::Read { ticket, result } => self.read_done(ticket, result, outputs),
            Input::TagsRead { ticket, first, result } => self.tags_read(ticket, first, result, outputs),
            Input::Chain(chain) => self.chain(chain, outputs),
            Input::Connected { node, .. } => self.connected(node),
            Input::Disconnected { node } => self.disconnected(node),
            Input::Space { full } => self.space(full, outputs),
            Input::Swapped | Input::Tick => {}
        }
    }

    fn flush(&mut self, _now: Time, outputs: &mut Outputs) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.report(id, outputs);
        }
        self.dirty = dirty;
    }

    fn deadline(&self) -> Option<Time> {
        None
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

/// The verified batch at the start of what was read for this position, and its first position.
fn verified_batch(bytes: &Bytes, shard: ShardId, position: u64) -> Option<(u64, Bytes)> {
    let batch = Batch::parse(bytes).ok()?;
    let first = batch.frame.verify_place(PlaceScope::Shard(shard)).ok()?;
    let records = u64::from(batch.frame.header.count);
    (first..first + records).contains(&position).then(|| (first, bytes.slice_ref(batch.frame.bytes)))
}
