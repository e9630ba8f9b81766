//! The shards that an engine writes: positions, streams to their storages, what is pending, and
//! the tail of it as a cache for readers.
//!
//! A batch is copied once, into the run of its turn. The same bytes go to the storages, are sent
//! again after a broken connection, and serve readers until they are old.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use sealog_protocol::frame::{Header, PlaceScope, set_place};
use sealog_protocol::limits::STREAM_MESSAGE_BYTES_MAX;
use sealog_protocol::machine::{Address, ConnectionId, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::{LogBookId, LogspaceId, NodeId, NodeSet, ShardId, Tag};

/// Runs are cut off here, so that each fits a message.
const RUN_BYTES_MAX: usize = STREAM_MESSAGE_BYTES_MAX / 2;
/// The buffer that runs are built in, so that building one does not allocate.
const CHUNK_BYTES: usize = 1 << 20;

/// Who waits for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Append { connection: ConnectionId, request: u64 },
    OpenSession { connection: ConnectionId, request: u64, logspace: LogspaceId },
    NameLogBook { connection: ConnectionId, request: u64, logbook: LogBookId, name: Tag },
    CreateLogBook { connection: ConnectionId, request: u64, logbook: LogBookId, name: Tag },
    SetRetention { connection: ConnectionId, request: u64 },
}

impl Origin {
    /// The client's connection, and the request that it waits for.
    pub fn client(self) -> (ConnectionId, u64) {
        match self {
            Origin::Append { connection, request }
            | Origin::OpenSession { connection, request, .. }
            | Origin::SetRetention { connection, request }
            | Origin::NameLogBook { connection, request, .. }
            | Origin::CreateLogBook { connection, request, .. } => (connection, request),
        }
    }
}

/// A batch that has a position and no verdict.
#[derive(Clone, Copy, Debug)]
struct Pending {
    origin: Origin,
    records: u32,
    bytes: u32,
}

/// A batch that waits for an open shard.
#[derive(Debug)]
struct Held {
    origin: Origin,
    frame: Bytes,
    records: u32,
}

/// Batches that were appended in one turn, one after the other.
#[derive(Debug)]
struct Run {
    first: u64,
    records: u64,
    bytes: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    node: NodeId,
    /// It has said where it is on a living connection.
    resumed: bool,
    /// Positions below it were sent.
    sent: u64,
    durable: u64,
}

#[derive(Debug)]
struct OwnShard {
    id: ShardId,
    closed: bool,
    streams: Vec<Stream>,
    /// The next position to give out.
    next: u64,
    /// Positions below it have their verdicts.
    answered: u64,
    pending: VecDeque<Pending>,
    runs: VecDeque<Run>,
    /// Of each record in `runs`: where its batch begins in its run.
    offsets: VecDeque<u32>,
}

/// Bounds of a [`Producer`].
#[derive(Clone, Copy, Debug)]
pub struct ProducerLimits {
    pub pending_bytes_max: usize,
    pub pending_records_max: usize,
    pub cache_bytes_max: usize,
}

/// The writing side of an engine.
#[derive(Debug)]
pub struct Producer {
    logspace: LogspaceId,
    limits: ProducerLimits,
    /// Oldest first. Only the last may be open.
    shards: VecDeque<OwnShard>,
    held: VecDeque<Held>,
    /// The run of this turn, of the open shard.
    building: BytesMut,
    building_records: u64,
    pending_bytes: usize,
    pending_records: usize,
    cached_bytes: usize,
}

impl Producer {
    pub fn new(logspace: LogspaceId, limits: ProducerLimits) -> Producer {
        Producer {
            logspace,
            limits,
            shards: VecDeque::new(),
            held: VecDeque::new(),
            building: BytesMut::new(),
            building_records: 0,
            pending_bytes: 0,
            pending_records: 0,
            cached_bytes: 0,
        }
    }

    /// Whether there is room for another batch.
    pub fn accepts(&self) -> bool {
        self.pending_bytes < self.limits.pending_bytes_max && self.pending_records < self.limits.pending_records_max
    }

    pub fn pending_records(&self) -> usize {
        self.pending_records
    }

    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// The shard that takes appends now.
    pub fn open_shard(&self) -> Option<ShardId> {
        self.shards.back().filter(|shard| !shard.closed).map(|shard| shard.id)
    }

    /// Whether a shard is this engine's own.
    pub fn is_own(&self, shard: ShardId) -> bool {
        self.shards.iter().any(|own| own.id == shard)
    }

    /// Takes a whole, verified batch frame: gives it the next position, or holds it until a shard
    /// is open.
    pub fn push(&mut self, origin: Origin, frame: &[u8], records: u32) {
        self.pending_bytes += frame.len();
        self.pending_records += records as usize;
        if self.open_shard().is_some() {
            self.place(origin, frame, records);
        } else {
            self.held.push_back(Held { origin, frame: Bytes::copy_from_slice(frame), records });
        }
    }

    fn place(&mut self, origin: Origin, frame: &[u8], records: u32) {
        if self.building.len() + frame.len() > RUN_BYTES_MAX {
            self.end_run();
        }
        if self.building.capacity() - self.building.len() < frame.len() {
            self.building.reserve(CHUNK_BYTES.max(frame.len()));
        }
        let shard = self.shards.back_mut().expect("a shard is open");
        let offset = self.building.len();
        self.building.extend_from_slice(frame);
        set_place(&mut self.building[offset..], PlaceScope::Shard(shard.id), shard.next);
        shard.pending.push_back(Pending { origin, records, bytes: frame.len() as u32 });
        shard.offsets.extend(std::iter::repeat_n(offset as u32, records as usize));
        shard.next += u64::from(records);
        self.building_records += u64::from(records);
    }

    fn end_run(&mut self) {
        if self.building.is_empty() {
            return;
        }
        let shard = self.shards.back_mut().expect("what is built belongs to the last shard");
        let records = std::mem::take(&mut self.building_records);
        let bytes = self.building.split().freeze();
        self.cached_bytes += bytes.len();
        shard.runs.push_back(Run { first: shard.next - records, records, bytes });
    }

    /// Takes a shard into use; what was held goes into it.
    pub fn open(&mut self, id: ShardId, replicas: &NodeSet, outputs: &mut Outputs) {
        assert!(self.open_shard().is_none(), "one shard is open at a time");
        let streams = replicas.iter().map(|node| Stream { node, resumed: false, sent: 0, durable: 0 }).collect();
        self.shards.push_back(OwnShard {
            id,
            closed: false,
            streams,
            next: 0,
            answered: 0,
            pending: VecDeque::new(),
            runs: VecDeque::new(),
            offsets: VecDeque::new(),
        });
        for node in replicas.iter() {
            outputs.send(storage(self.logspace, node), Message::ReplicateOpen { shard: id });
        }
        for held in std::mem::take(&mut self.held) {
            self.place(held.origin, &held.frame, held.records);
        }
    }

    /// No cut will cover more of the shard than what has been applied: the rest is appended again,
    /// in order and before what came later.
    pub fn close(&mut self, id: ShardId) {
        self.end_run();
        let Some(at) = self.shards.iter().position(|shard| shard.id == id) else { return };
        let shard = &mut self.shards[at];
        shard.closed = true;
        let mut again = VecDeque::new();
        let mut position = shard.answered;
        for pending in std::mem::take(&mut shard.pending) {
            let frame = shard.batch_at(position).expect("what has no verdict is kept");
            position += u64::from(pending.records);
            again.push_back(Held { origin: pending.origin, frame, records: pending.records });
        }
        if !again.is_empty() {
            mark(Mark::ReappendAfterViewChange);
        }
        again.append(&mut self.held);
        self.held = again;
    }

    /// Closes the shards of views that have ended.
    pub fn close_all(&mut self) {
        let open: Vec<ShardId> = self.shards.iter().filter(|shard| !shard.closed).map(|shard| shard.id).collect();
        for id in open {
            self.close(id);
        }
    }

    /// A batch of an own shard has its verdict: who waits for it.
    pub fn answered(&mut self, id: ShardId, position: u64, records: u64) -> Option<Origin> {
        let shard = self.shards.iter_mut().rev().find(|shard| shard.id == id)?;
        if position != shard.answered {
            return None;
        }
        let pending = shard.pending.pop_front()?;
        debug_assert_eq!(u64::from(pending.records), records);
        shard.answered += records;
        self.pending_bytes -= pending.bytes as usize;
        self.pending_records -= pending.records as usize;
        Some(pending.origin)
    }

    /// The batch that holds a record of an own shard, if it is still in memory.
    pub fn cached(&self, id: ShardId, position: u64) -> Option<Bytes> {
        self.shards.iter().rev().find(|shard| shard.id == id)?.batch_at(position)
    }

    /// A storage says where it is: the stream goes on from there.
    pub fn resume(&mut self, from: Address, id: ShardId, received: u64, durable: u64) {
        let Some(shard) = self.shards.iter_mut().find(|shard| shard.id == id) else { return };
        let Some(stream) = shard.streams.iter_mut().find(|stream| stream.node == from.node) else { return };
        if received < stream.sent {
            mark(Mark::ReplicateResumedLower);
        }
        stream.resumed = true;
        stream.sent = received;
        stream.durable = stream.durable.max(durable);
    }

    /// A storage has this much of a shard on disk.
    pub fn durable(&mut self, from: Address, id: ShardId, durable: u64) {
        let Some(shard) = self.shards.iter_mut().rev().find(|shard| shard.id == id) else { return };
        if let Some(stream) = shard.streams.iter_mut().find(|stream| stream.node == from.node) {
            stream.durable = stream.durable.max(durable);
        }
    }

    /// A connection to a storage begins: it is asked where it is.
    pub fn connected(&mut self, node: NodeId, outputs: &mut Outputs) {
        for shard in &mut self.shards {
            let done = shard.closed && shard.pending.is_empty();
            for stream in shard.streams.iter_mut().filter(|stream| stream.node == node) {
                stream.resumed = false;
                if !done {
                    outputs.send(storage(self.logspace, node), Message::ReplicateOpen { shard: shard.id });
                }
            }
        }
    }

    pub fn disconnected(&mut self, node: NodeId) {
        for stream in self.shards.iter_mut().flat_map(|shard| &mut shard.streams) {
            stream.resumed &= stream.node != node;
        }
    }

    /// Ends the turn: what is new goes to the storages, what is old and safe out of the cache.
    /// Returns the open shard, and its slowest storage, if that lags so far behind that the shard has to
    /// be left.
    pub fn flush(&mut self, outputs: &mut Outputs) -> Option<(ShardId, NodeId)> {
        self.end_run();
        for shard in &mut self.shards {
            shard.send(self.logspace, outputs);
        }
        self.release();
        self.lagging()
    }

    fn release(&mut self) {
        while self.cached_bytes > self.limits.cache_bytes_max {
            let Some(shard) = self.shards.front_mut() else { return };
            match shard.runs.front() {
                Some(run) if shard.is_safe(run) => {
                    for _ in 0..run.records {
                        shard.offsets.pop_front();
                    }
                    self.cached_bytes -= run.bytes.len();
                    shard.runs.pop_front();
                }
                Some(_) => return,
                None if shard.closed && shard.pending.is_empty() => {
                    self.shards.pop_front();
                }
                None => return,
            }
        }
    }

    /// The open shard, when what its slowest storage lacks fills the memory for what is pending
    /// although everybody else has it.
    fn lagging(&self) -> Option<(ShardId, NodeId)> {
        if self.cached_bytes <= self.limits.cache_bytes_max + self.limits.pending_bytes_max {
            return None;
        }
        let shard = self.shards.front().filter(|shard| !shard.closed)?;
        let oldest = shard.runs.front()?;
        if oldest.first + oldest.records > shard.answered {
            return None;
        }
        mark(Mark::ShardRolledByEngine);
        let slowest = shard.streams.iter().min_by_key(|stream| stream.durable)?;
        Some((shard.id, slowest.node))
    }
}

impl OwnShard {
    /// The batch that holds a position, while its run is kept.
    fn batch_at(&self, position: u64) -> Option<Bytes> {
        let after = self.runs.partition_point(|run| run.first <= position);
        let run = &self.runs[after.checked_sub(1)?];
        if position >= run.first + run.records {
            return None;
        }
        let start = self.offset_of(position)?;
        let header = Header::parse(&run.bytes[start..]).ok().flatten().expect("runs hold whole batches");
        Some(run.bytes.slice(start..start + header.frame_bytes()))
    }

    fn offset_of(&self, position: u64) -> Option<usize> {
        let base = self.runs.front()?.first;
        self.offsets.get(usize::try_from(position.checked_sub(base)?).ok()?).map(|offset| *offset as usize)
    }

    /// Whether nobody needs the run again but readers, who can fetch it.
    fn is_safe(&self, run: &Run) -> bool {
        let end = run.first + run.records;
        end <= self.answered && (self.closed || self.streams.iter().all(|stream| stream.durable >= end))
    }

    fn send(&mut self, logspace: LogspaceId, outputs: &mut Outputs) {
        let end = self.runs.back().map_or(0, |run| run.first + run.records);
        for at in 0..self.streams.len() {
            let stream = self.streams[at];
            if !stream.resumed || stream.sent >= end || (self.closed && self.pending.is_empty()) {
                continue;
            }
            let start = self.runs.partition_point(|run| run.first + run.records <= stream.sent);
            for run in self.runs.range(start..) {
                let (first, batches) = if stream.sent > run.first {
                    let offset = self.offset_of(stream.sent).expect("within a kept run");
                    (stream.sent, run.bytes.slice(offset..))
                } else {
                    (run.first, run.bytes.clone())
                };
                let message = Message::Replicate { shard: self.id, first, batches };
                outputs.send(storage(logspace, stream.node), message);
            }
            self.streams[at].sent = end;
        }
    }
}

fn storage(logspace: LogspaceId, node: NodeId) -> Address {
    Address { node, logspace, role: Role::Storage }
}
