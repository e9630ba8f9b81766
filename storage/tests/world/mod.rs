//! A storage, driven by hand against a journal in memory, and other storages that answer as they are told.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::frame::{PlaceScope, set_place};
use sealog_protocol::machine::{
    Address, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::message::Message;
use sealog_protocol::tags::{batch_headers, heads};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, Place, RequestNumber, SessionId, ShardId, Tag,
    Time, ViewNumber,
};
use sealog_storage::{Storage, StorageConfig};

pub const NODE: NodeId = NodeId(1);
pub const LOGSPACE: LogspaceId = LogspaceId(0);
pub const SHARD: ShardId = ShardId { view: ViewNumber(1), index: 0 };
pub const ENGINE: Address = Address { node: NODE, logspace: LOGSPACE, role: Role::Engine };
pub const CONTROLLER: Address = Address { node: NODE, logspace: LOGSPACE, role: Role::Controller };
pub const OTHER: Address = Address { node: NodeId(2), logspace: LOGSPACE, role: Role::Storage };

/// What the journal holds, by segment.
#[derive(Default)]
pub struct Journal {
    pub open: u32,
    pub bytes: BTreeMap<u32, Vec<u8>>,
    pub entries: BTreeMap<u32, Vec<(JournalPlace, DurableEntry)>>,
}

impl Journal {
    pub fn append(&mut self, entry: DurableEntry) -> JournalPlace {
        let bytes = self.bytes.entry(self.open).or_insert_with(|| vec![0; 64]);
        let at = JournalPlace { segment: self.open, offset: (bytes.len() / 8) as u32 };
        match &entry {
            DurableEntry::Batches { batches: content, .. } | DurableEntry::Checkpoint { bytes: content, .. } => {
                bytes.extend_from_slice(content);
            }
            _ => {}
        }
        bytes.resize(bytes.len().next_multiple_of(8) + 64, 0xEE);
        self.entries.entry(self.open).or_default().push((at, entry));
        at
    }

    pub fn read(&self, at: JournalPlace, bytes: u32) -> Result<Bytes, ReadFailure> {
        let segment = self.bytes.get(&at.segment).ok_or(ReadFailure::Corrupt)?;
        let start = at.byte_offset() as usize;
        segment.get(start..start + bytes as usize).map(Bytes::copy_from_slice).ok_or(ReadFailure::Corrupt)
    }

    pub fn read_tags(&self, shard: ShardId, segment: u32, from: u64) -> (u64, Bytes) {
        let mut runs: Vec<(u64, &Bytes)> = Vec::new();
        for (_, entry) in self.entries.get(&segment).into_iter().flatten() {
            if let DurableEntry::Batches { shard: of, first, tags, .. } = entry
                && *of == shard
            {
                runs.push((*first, tags));
            }
        }
        runs.sort_by_key(|(first, _)| *first);
        for (first, tags) in runs {
            let (mut position, mut at) = (first, 0);
            for head in heads(tags).map(|head| head.expect("what was written")) {
                if position + head.records > from {
                    return (position, tags.slice(at..));
                }
                position += head.records;
                at += head.entry_bytes;
            }
        }
        (from, Bytes::new())
    }

    pub fn holds_batch(&self, position: u64) -> bool {
        self.entries.values().flatten().any(|(_, entry)| match entry {
            DurableEntry::Batches { first, batches, .. } => {
                let records: u64 = sizes(batches).map(|(records, _)| records).sum();
                (*first..*first + records).contains(&position)
            }
            _ => false,
        })
    }
}

pub fn sizes(batches: &[u8]) -> impl Iterator<Item = (u64, usize)> + '_ {
    batch_headers(batches).map(|batch| {
        let (_, header) = batch.expect("whole batches");
        (u64::from(header.count), header.frame_bytes())
    })
}

pub struct World {
    pub storage: Storage,
    pub journal: Journal,
    pub now: Time,
    /// Appends that are not yet durable; held back while `holding`.
    pub in_flight: VecDeque<JournalPlace>,
    pub holding: bool,
    pub sent: Vec<(Address, Message)>,
    pub released: Vec<u32>,
    /// What the engine says is dead. It does not answer without.
    pub dead: Option<BTreeSet<u64>>,
    pub reads: usize,
    /// It goes on by itself until then.
    pub until: Time,
    /// Tags of this segment can't be read.
    pub tags_damaged: Option<u32>,
    /// Other storages of the shard.
    pub others: BTreeMap<NodeId, Other>,
}

/// Another storage, which has batches of one record and 1,000 bytes each.
#[derive(Default)]
pub struct Other {
    pub damaged: BTreeSet<u64>,
    pub lacking: BTreeSet<u64>,
    /// It had once what it lacks.
    pub had: bool,
    pub is_silent: bool,
    /// What it sends is not what its checksums say.
    pub is_damaging: bool,
}

impl Other {
    fn part(&self, shard: ShardId, from: u64, until: u64) -> Option<Message> {
        let is_good = |position: &u64| !self.damaged.contains(position) && !self.lacking.contains(position);
        if self.is_silent {
            return None;
        }
        let end = (from..until).find(|position| !is_good(position)).unwrap_or(until);
        if self.damaged.contains(&from) {
            return Some(Message::CopyDamaged { shard, from, next: from + 1 });
        }
        let first = (from..until).find(|position| !self.lacking.contains(position)).unwrap_or(until);
        let mut batches = run(shard, from, end - from, 1000).to_vec();
        // Behind the last byte of payload there may be padding, which nobody checks.
        let in_payload = batches.len().saturating_sub(20);
        if let Some(byte) = batches.get_mut(in_payload).filter(|_| self.is_damaging) {
            *byte ^= 1;
        }
        let had = first == from || self.had;
        Some(Message::CopyPart { shard, from, first, had, batches: batches.into() })
    }
}

impl World {
    pub fn new() -> World {
        World::with(&chain(1))
    }

    /// In the views of this chain.
    pub fn with(chain: &Chain) -> World {
        let mut world = World {
            storage: Storage::new(StorageConfig::new(NODE, LOGSPACE)),
            journal: Journal::default(),
            now: Time(1_000_000_000),
            in_flight: VecDeque::new(),
            holding: false,
            sent: Vec::new(),
            released: Vec::new(),
            dead: Some(BTreeSet::new()),
            reads: 0,
            until: Time(u64::MAX),
            tags_damaged: None,
            others: BTreeMap::new(),
        };
        world.start(chain);
        world
    }

    pub fn start(&mut self, chain: &Chain) {
        self.input(Input::Chain(chain));
        self.input(Input::Connected { node: NODE, incarnation: Incarnation(1) });
        self.say(ENGINE, Message::ReplicateOpen { shard: SHARD });
    }

    /// What was not durable is lost; the journal goes on in a new segment.
    pub fn restart(&mut self) {
        self.restart_with(&chain(1));
    }

    pub fn restart_with(&mut self, chain: &Chain) {
        self.storage = Storage::new(StorageConfig::new(NODE, LOGSPACE));
        assert!(self.in_flight.is_empty(), "the tests settle first");
        self.journal.open += 1;
        for (at, entry) in self.journal.entries.values().flatten() {
            let (at, segment) = (*at, at.segment);
            let recovered = match entry {
                DurableEntry::Batches { shard, first, batches, .. } => {
                    let records = sizes(batches).map(|(records, _)| records).sum();
                    Recovered::Batches { shard: *shard, first: *first, records, at, bytes: batches.len() as u32 }
                }
                DurableEntry::StorageSeal { view } => Recovered::StorageSeal { view: *view, segment },
                DurableEntry::Checkpoint { place, part, last, bytes } => {
                    let bytes = bytes.len() as u32;
                    Recovered::Checkpoint { place: *place, part: *part, last: *last, at, bytes }
                }
                _ => continue,
            };
            self.storage.recover(recovered).expect("what it wrote");
        }
        self.start(chain);
    }

    pub fn say(&mut self, from: Address, message: Message) {
        self.input(Input::Message { from, message });
    }

    pub fn input(&mut self, input: Input<'_>) {
        let mut outputs = Outputs::default();
        self.storage.handle(self.now, input, &mut outputs);
        self.run(outputs);
    }

    /// Until nothing moves.
    pub fn run(&mut self, mut outputs: Outputs) {
        loop {
            self.storage.flush(self.now, &mut outputs);
            let mut moved = false;
            for output in outputs.drain().collect::<Vec<_>>() {
                moved = true;
                self.output(output, &mut outputs);
            }
            if !moved && let Some(at) = self.in_flight.front().copied().filter(|_| !self.holding) {
                self.in_flight.pop_front();
                self.storage.handle(self.now, Input::Durable(at), &mut outputs);
                moved = true;
            }
            let until = self.until;
            let deadline = self.storage.deadline().filter(|at| !moved && self.dead.is_some() && *at <= until);
            if let Some(deadline) = deadline {
                self.now = self.now.max(deadline);
                self.storage.handle(self.now, Input::Tick, &mut outputs);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    pub fn output(&mut self, output: Output, outputs: &mut Outputs) {
        match output {
            Output::Append(entry) => {
                let at = self.journal.append(entry);
                self.in_flight.push_back(at);
            }
            Output::Read { ticket, at, bytes } => {
                self.reads += 1;
                let result = self.journal.read(at, bytes);
                self.storage.handle(self.now, Input::Read { ticket, result }, outputs);
            }
            Output::ReadTags { ticket, shard, segment, from } => {
                let (first, entries) = self.journal.read_tags(shard, segment, from);
                let is_damaged = self.tags_damaged == Some(segment);
                let result = if is_damaged { Err(ReadFailure::Corrupt) } else { Ok(entries) };
                self.storage.handle(self.now, Input::TagsRead { ticket, first, result }, outputs);
            }
            Output::Release { segment } => {
                assert_ne!(segment, self.journal.open, "more may come there");
                self.released.push(segment);
                self.journal.bytes.remove(&segment);
                self.journal.entries.remove(&segment);
            }
            Output::Send { to, message } => {
                if let (Message::Judge { request, first, entries, .. }, Some(dead)) = (&message, &self.dead) {
                    let records: u64 = heads(entries).flatten().map(|head| head.records).sum();
                    let mut bits = vec![0u8; records.div_ceil(8) as usize];
                    for nth in (0..records).filter(|nth| dead.contains(&(first + nth))) {
                        bits[(nth / 8) as usize] |= 1 << (nth % 8);
                    }
                    let message =
                        Message::Judged { request: *request, checkpoint: Place::default(), dead: bits.into() };
                    self.storage.handle(self.now, Input::Message { from: to, message }, outputs);
                }
                if let Message::CopyPull { shard, from, until } = &message
                    && let Some(answer) = self.others.get(&to.node).and_then(|of| of.part(*shard, *from, *until))
                {
                    self.storage.handle(self.now, Input::Message { from: to, message: answer }, outputs);
                }
                self.sent.push((to, message));
            }
            _ => {}
        }
    }

    /// Appends batches of one record each, of this payload.
    pub fn write(&mut self, first: u64, count: u64, payload_bytes: usize) {
        let batches = run(SHARD, first, count, payload_bytes);
        self.say(ENGINE, Message::Replicate { shard: SHARD, first, batches });
    }

    /// Fetches a record: how many records came, or which refusal.
    pub fn fetch(&mut self, position: u64) -> Result<u64, Message> {
        self.fetch_until(position, position + 1)
    }

    pub fn fetch_until(&mut self, position: u64, until: u64) -> Result<u64, Message> {
        self.sent.clear();
        self.say(ENGINE, Message::Fetch { request: 7, shard: SHARD, position, until });
        match self.sent.pop().expect("an answer").1 {
            Message::Fetched { batch, .. } => {
                let (_, header) = batch_headers(&batch).next().expect("one").expect("whole");
                assert_eq!(header.place, position, "one record a batch");
                Ok(sizes(&batch).map(|(records, _)| records).sum())
            }
            refusal => Err(refusal),
        }
    }

    pub fn roll(&mut self) {
        self.journal.open += 1;
        // Something in the new segment, so that the storage knows.
        let first = self.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, received, _)| received);
        self.write(first, 1, 8);
    }

    pub fn part(&mut self, place: Place, part: u32, last: bool) -> Option<u32> {
        self.sent.clear();
        let bytes = Bytes::from(format!("part {part} of {place}"));
        self.say(ENGINE, Message::CheckpointPart { place, part, last, bytes });
        match self.sent.pop().map(|(_, message)| message) {
            Some(Message::CheckpointStored { parts, .. }) => Some(parts),
            _ => None,
        }
    }

    pub fn open_part(&mut self, place: Place, part: u32) -> Message {
        self.sent.clear();
        self.say(ENGINE, Message::CheckpointOpen { place, part });
        self.sent.pop().expect("an answer").1
    }

    pub fn commit(&mut self, index: u64) {
        self.say(ENGINE, Message::CheckpointCommitted { place: place(index) });
    }

    pub fn dying(&mut self, from: u64, to: u64, records: u64) {
        self.say(ENGINE, Message::Dying { shard: SHARD, from, to, records });
    }

    pub fn is_dead(&mut self, positions: impl IntoIterator<Item = u64>) {
        self.dead.get_or_insert_default().extend(positions);
    }
}

pub fn place(index: u64) -> Place {
    Place { view: ViewNumber(1), index }
}

pub fn chain(views: u32) -> Chain {
    let only = NodeSet::new(&[NODE]).expect("one");
    let view = |number| View {
        number: ViewNumber(number),
        primary: NODE,
        primary_incarnation: Incarnation(1),
        sequencers: only,
        storages: only,
        write_quorum: 1,
        replicas: 1,
        moves: Vec::new(),
        cause: Default::default(),
    };
    Chain {
        settings: ClusterSettings::new(ClusterId(1), 1),
        logspace: LOGSPACE,
        views: (1..=views).map(view).collect(),
        ends: (1..views).map(|_| 100).collect(),
    }
}

pub fn run(shard: ShardId, first: u64, count: u64, payload_bytes: usize) -> Bytes {
    let head = BatchHead {
        logbook: LogBookId(3),
        session: SessionId(4),
        request: RequestNumber(5),
        lowest_unanswered: RequestNumber(2),
        time_ms: 6,
        condition: None,
    };
    let mut out = Vec::new();
    for position in first..first + count {
        let payload = vec![position as u8; payload_bytes];
        let start = out.len();
        write_batch(&mut out, 0, &head, &[NewRecord { tags: &[Tag(7)], payload: &payload }]).expect("small");
        set_place(&mut out[start..], PlaceScope::Shard(shard), position);
    }
    out.into()
}
