//! A storage, driven by hand against a journal in memory: what it reads, what it gives back, and
//! that nothing that counts goes with it.

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

const NODE: NodeId = NodeId(1);
const LOGSPACE: LogspaceId = LogspaceId(0);
const SHARD: ShardId = ShardId { view: ViewNumber(1), index: 0 };
const ENGINE: Address = Address { node: NODE, logspace: LOGSPACE, role: Role::Engine };
const CONTROLLER: Address = Address { node: NODE, logspace: LOGSPACE, role: Role::Controller };
const OTHER: Address = Address { node: NodeId(2), logspace: LOGSPACE, role: Role::Storage };

/// What the journal holds, by segment.
#[derive(Default)]
struct Journal {
    open: u32,
    bytes: BTreeMap<u32, Vec<u8>>,
    entries: BTreeMap<u32, Vec<(JournalPlace, DurableEntry)>>,
}

impl Journal {
    fn append(&mut self, entry: DurableEntry) -> JournalPlace {
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

    fn read(&self, at: JournalPlace, bytes: u32) -> Result<Bytes, ReadFailure> {
        let segment = self.bytes.get(&at.segment).ok_or(ReadFailure::Corrupt)?;
        let start = at.byte_offset() as usize;
        segment.get(start..start + bytes as usize).map(Bytes::copy_from_slice).ok_or(ReadFailure::Corrupt)
    }

    fn read_tags(&self, shard: ShardId, segment: u32, from: u64) -> (u64, Bytes) {
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

    fn holds_batch(&self, position: u64) -> bool {
        self.entries.values().flatten().any(|(_, entry)| match entry {
            DurableEntry::Batches { first, batches, .. } => {
                let records: u64 = sizes(batches).map(|(records, _)| records).sum();
                (*first..*first + records).contains(&position)
            }
            _ => false,
        })
    }
}

fn sizes(batches: &[u8]) -> impl Iterator<Item = (u64, usize)> + '_ {
    batch_headers(batches).map(|batch| {
        let (_, header) = batch.expect("whole batches");
        (u64::from(header.count), header.frame_bytes())
    })
}

struct World {
    storage: Storage,
    journal: Journal,
    now: Time,
    /// Appends that are not yet durable; held back while `holding`.
    in_flight: VecDeque<JournalPlace>,
    holding: bool,
    sent: Vec<(Address, Message)>,
    released: Vec<u32>,
    /// What the engine says is dead. It does not answer without.
    dead: Option<BTreeSet<u64>>,
    reads: usize,
}

impl World {
    fn new() -> World {
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
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.input(Input::Chain(&chain(1)));
        self.input(Input::Connected { node: NODE, incarnation: Incarnation(1) });
        self.say(ENGINE, Message::ReplicateOpen { shard: SHARD });
    }

    /// What was not durable is lost; the journal goes on in a new segment.
    fn restart(&mut self) {
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
        self.start();
    }

    fn say(&mut self, from: Address, message: Message) {
        self.input(Input::Message { from, message });
    }

    fn input(&mut self, input: Input<'_>) {
        let mut outputs = Outputs::default();
        self.storage.handle(self.now, input, &mut outputs);
        self.run(outputs);
    }

    /// Until nothing moves.
    fn run(&mut self, mut outputs: Outputs) {
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
            let deadline = self.storage.deadline().filter(|_| !moved && self.dead.is_some());
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

    fn output(&mut self, output: Output, outputs: &mut Outputs) {
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
                self.storage.handle(self.now, Input::TagsRead { ticket, first, result: Ok(entries) }, outputs);
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
                self.sent.push((to, message));
            }
            _ => {}
        }
    }

    /// Appends batches of one record each, of this payload.
    fn write(&mut self, first: u64, count: u64, payload_bytes: usize) {
        let batches = run(SHARD, first, count, payload_bytes);
        self.say(ENGINE, Message::Replicate { shard: SHARD, first, batches });
    }

    /// Fetches a record: how many records came, or which refusal.
    fn fetch(&mut self, position: u64) -> Result<u64, Message> {
        self.fetch_until(position, position + 1)
    }

    fn fetch_until(&mut self, position: u64, until: u64) -> Result<u64, Message> {
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

    fn roll(&mut self) {
        self.journal.open += 1;
        // Something in the new segment, so that the storage knows.
        let first = self.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, received, _)| received);
        self.write(first, 1, 8);
    }

    fn part(&mut self, place: Place, part: u32, last: bool) -> Option<u32> {
        self.sent.clear();
        let bytes = Bytes::from(format!("part {part} of {place}"));
        self.say(ENGINE, Message::CheckpointPart { place, part, last, bytes });
        match self.sent.pop().map(|(_, message)| message) {
            Some(Message::CheckpointStored { parts, .. }) => Some(parts),
            _ => None,
        }
    }

    fn open_part(&mut self, place: Place, part: u32) -> Message {
        self.sent.clear();
        self.say(ENGINE, Message::CheckpointOpen { place, part });
        self.sent.pop().expect("an answer").1
    }

    fn commit(&mut self, index: u64) {
        self.say(ENGINE, Message::CheckpointCommitted { place: place(index) });
    }

    fn dying(&mut self, from: u64, to: u64, records: u64) {
        self.say(ENGINE, Message::Dying { shard: SHARD, from, to, records });
    }

    fn is_dead(&mut self, positions: impl IntoIterator<Item = u64>) {
        self.dead.get_or_insert_default().extend(positions);
    }
}

fn place(index: u64) -> Place {
    Place { view: ViewNumber(1), index }
}

fn chain(views: u32) -> Chain {
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

fn run(shard: ShardId, first: u64, count: u64, payload_bytes: usize) -> Bytes {
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

/// A segment of 100 records, of which these are dead; a checkpoint covers all.
fn trimmed(dead: impl IntoIterator<Item = u64>) -> World {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(dead);
    let records = world.dead.as_ref().expect("said above").len() as u64;
    world.commit(50);
    world.dying(0, 100, records);
    world
}

#[test]
fn a_fetch_reads_from_a_mark_and_answers_with_what_follows() {
    let mut world = World::new();
    world.write(0, 200, 1000);
    assert_eq!(world.fetch(0), Ok(1), "no more is wanted");
    assert_eq!(world.fetch_until(14, 50), Ok(36), "as many as are wanted");
    assert_eq!(world.fetch_until(195, 300), Ok(5), "no further than the run");
    world.write(200, 200, 1000);
    let most = world.fetch_until(200, 400).expect("it is there");
    assert!((200..240).contains(&most), "what one read gets: {most}");
    assert_eq!(world.fetch(400), Err(Message::FetchNotHere { request: 7 }));
    world.holding = true;
    world.write(400, 2, 1000);
    assert_eq!(world.fetch(401), Ok(1), "from memory");
}

#[test]
fn what_recovery_found_is_read_by_its_begin_until_it_is_known_better() {
    let mut world = World::new();
    world.write(0, 900, 1000);
    world.write(900, 2, 700_000);
    world.restart();
    world.reads = 0;
    assert!(world.fetch(899).is_ok());
    assert!(world.reads > 3, "a window at a time: {}", world.reads);
    for position in [0, 100, 450, 900, 901] {
        assert!(world.fetch(position).is_ok(), "record {position}");
    }
    world.reads = 0;
    assert!(world.fetch(100).is_ok());
    assert_eq!(world.reads, 1);
}

#[test]
fn damage_is_told_from_what_is_not_there() {
    let mut world = World::new();
    world.write(0, 3, 1000);
    let segment = world.journal.bytes.get_mut(&0).expect("written");
    segment[64 + 500] ^= 1;
    assert_eq!(world.fetch(0), Err(Message::FetchCorrupt { request: 7 }));
    assert_eq!(world.fetch_until(1, 3), Ok(2));
    assert_eq!(world.storage.status().corrupt_reads, 1);
}

#[test]
fn a_segment_without_living_records_is_given_back_once_a_checkpoint_is_committed() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(0..100);
    world.dying(0, 100, 100);
    assert!(world.released.is_empty(), "an index may have to be built from it");
    world.commit(50);
    assert_eq!(world.released, [0]);
    assert_eq!(world.fetch(99), Err(Message::FetchNotHere { request: 7 }));
    assert_eq!(world.fetch(100), Ok(1));
    let status = world.storage.status();
    assert_eq!((status.segments, status.segments_examined, status.segments_released), (1, 1, 1));
    assert_eq!(status.bytes_rewritten, 0);
    assert_eq!(world.storage.shards().next(), Some((SHARD, 101, 101)), "the durable prefix stays");
}

fn sparse_segments_are_rewritten() {
    let living = [0, 17, 18, 99];
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead((0..100).filter(|position| !living.contains(position)));
    world.commit(50);
    world.holding = true;
    world.dying(0, 100, 96);
    assert!(world.released.is_empty(), "the copies are not durable");
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [0]);
    for _ in 0..2 {
        for position in living {
            assert!(world.fetch(position).is_ok(), "record {position} lives");
        }
        assert!(world.fetch(50).is_err());
        world.restart();
    }
}

#[test]
fn a_sparse_segment_is_given_back_when_what_lives_in_it_is_durable_elsewhere() {
    sparse_segments_are_rewritten();
}

/// Segment 0 is half dead, and what lives in it is being copied: the first copy is held back.
fn half_copied() -> World {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.write(101, 100, 1000);
    world.roll();
    world.is_dead((0..100).step_by(2));
    world.commit(50);
    world.holding = true;
    world.dying(0, 100, 50);
    assert!(world.released.is_empty());
    world
}

#[test]
fn copying_waits_where_space_is_to_be_had_for_nothing() {
    let mut world = half_copied();
    world.is_dead(100..201);
    world.dying(100, 201, 101);
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [1, 0], "the dead one first");
    for position in (1..100).step_by(2) {
        assert!(world.fetch(position).is_ok(), "record {position} lives");
    }
}

#[test]
fn what_died_while_it_was_to_be_copied_is_not_copied() {
    let mut world = half_copied();
    let before = world.storage.status().bytes_rewritten;
    world.is_dead(0..100);
    world.dying(0, 100, 50);
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [0]);
    assert_eq!(world.storage.status().bytes_rewritten, before, "one copy was under way, and no other was made");
}

#[test]
fn a_segment_in_which_much_lives_stays_until_there_is_news() {
    let mut world = trimmed(0..40);
    assert_eq!(world.storage.status().segments_examined, 0, "less than half are said to be dying");
    world.dying(40, 100, 20);
    assert_eq!((world.storage.status().segments_examined, world.released.len()), (1, 0));
    world.commit(51);
    assert_eq!((world.storage.status().segments_examined, world.released.len()), (2, 0));
    world.is_dead(0..100);
    world.commit(52);
    assert_eq!(world.released, [0]);
}

#[test]
fn the_last_batch_of_an_open_view_lives_and_goes_when_the_view_has_ended() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.roll();
    // Two records beyond: in segments 1 and 2; all are dead.
    world.is_dead(0..102);
    world.commit(50);
    world.restart();
    world.say(ENGINE, Message::Seal { view: ViewNumber(1) });
    world.commit(50);
    assert!(world.released.contains(&0) && world.released.contains(&1));
    assert!(world.journal.holds_batch(101), "it says where the prefix ends");
    world.restart();
    assert_eq!(world.storage.shards().next(), Some((SHARD, 102, 102)));

    world.input(Input::Chain(&chain(2)));
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 102 });
    world.say(ENGINE, Message::ReplicateOpen { shard: ShardId { view: ViewNumber(2), index: 0 } });
    let batches = run(ShardId { view: ViewNumber(2), index: 0 }, 0, 1, 8);
    let shard = ShardId { view: ViewNumber(2), index: 0 };
    world.say(ENGINE, Message::Replicate { shard, first: 0, batches });
    world.commit(51);
    assert!(!world.journal.holds_batch(101));
}

fn seals_outlive_their_segment() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    world.restart();
    world.input(Input::Chain(&chain(2)));
    let shard = ShardId { view: ViewNumber(2), index: 0 };
    world.say(ENGINE, Message::ReplicateOpen { shard });
    world.say(ENGINE, Message::Replicate { shard, first: 0, batches: run(shard, 0, 1, 8) });
    world.is_dead(0..100);
    world.commit(50);
    assert_eq!(world.released, [0]);
    world.restart();
    assert_eq!(world.storage.sealed(), ViewNumber(1));
}

#[test]
fn the_newest_seal_is_appended_again_before_its_segment_goes() {
    seals_outlive_their_segment();
}

fn checkpoints_stay_until_a_newer_one_is_committed() {
    let mut world = World::new();
    assert_eq!(world.part(place(5), 0, false), Some(1));
    assert_eq!(world.part(place(5), 0, false), Some(1), "a repeat is counted once");
    assert_eq!(world.part(place(5), 2, true), Some(1), "one is missing before it");
    assert_eq!(world.part(place(5), 1, true), Some(2));
    assert_eq!(world.storage.status().checkpoint, Some(place(5)));
    assert_eq!(world.part(place(9), 0, true), Some(1));
    for _ in 0..2 {
        let Message::CheckpointPart { part: 1, last: true, bytes, .. } = world.open_part(place(5), 1) else {
            panic!("the newer one is not committed")
        };
        assert_eq!(&bytes[..], b"part 1 of 1:5");
        assert!(matches!(world.open_part(place(9), 0), Message::CheckpointPart { last: true, .. }));
        world.restart();
    }
    world.commit(9);
    assert_eq!(world.open_part(place(5), 1), Message::CheckpointNotHere { place: place(5), part: 1 });
    assert!(matches!(world.open_part(place(9), 0), Message::CheckpointPart { .. }));
    assert_eq!(world.part(place(5), 0, false), Some(0), "it counts no more");
}

#[test]
fn a_checkpoint_is_dropped_when_a_newer_one_is_committed_and_not_before() {
    checkpoints_stay_until_a_newer_one_is_committed();
}

#[test]
fn an_unfinished_checkpoint_is_begun_again_by_its_next_writer_and_forgotten_by_a_restart() {
    let mut world = World::new();
    assert_eq!(world.part(place(5), 0, false), Some(1));
    let other = Address { node: NodeId(2), ..ENGINE };
    let bytes = Bytes::from_static(b"another's");
    world.sent.clear();
    world.say(other, Message::CheckpointPart { place: place(5), part: 1, last: true, bytes: bytes.clone() });
    assert_eq!(world.sent.pop(), Some((other, Message::CheckpointStored { place: place(5), parts: 0 })));
    world.say(other, Message::CheckpointPart { place: place(5), part: 0, last: true, bytes: bytes.clone() });
    assert_eq!(world.open_part(place(5), 0), Message::CheckpointPart { place: place(5), part: 0, last: true, bytes });

    assert_eq!(world.part(place(7), 0, false), Some(1));
    world.restart();
    assert_eq!(world.part(place(7), 1, true), Some(0));
    assert_eq!(world.storage.status().checkpoint, Some(place(5)));
}

#[test]
fn parts_of_a_checkpoint_keep_their_segment_until_it_is_superseded() {
    let mut world = World::new();
    world.part(place(5), 0, true);
    world.roll();
    world.roll();
    world.commit(5);
    assert!(world.released.is_empty());
    world.part(place(9), 0, true);
    world.is_dead([0, 1]);
    world.dying(0, 2, 2);
    world.commit(9);
    world.released.sort_unstable();
    assert_eq!(world.released, [0, 1]);
}

#[test]
fn a_vacated_segment_is_copied_whole_when_nobody_says_what_is_dead() {
    let mut world = World::new();
    world.write(0, 300, 1000);
    world.part(place(5), 0, true);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    world.input(Input::Disconnected { node: NODE });
    world.journal.open += 1;
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0]);
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0, 0], "nothing of it is here");
    for _ in 0..2 {
        for position in [0, 150, 299] {
            assert!(world.fetch(position).is_ok());
        }
        assert!(matches!(world.open_part(place(5), 0), Message::CheckpointPart { .. }));
        assert_eq!(world.storage.sealed(), ViewNumber(1));
        world.restart();
    }
}

#[test]
fn a_vacated_segment_is_rid_of_its_dead_first() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(0..10);
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0]);
    assert!(world.fetch(9).is_err());
    assert!(world.fetch(10).is_ok() && world.fetch(99).is_ok());
}

#[test]
fn an_engine_that_does_not_answer_is_asked_again_and_one_that_went_is_not_waited_for() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.commit(50);
    world.dead = None;
    world.dying(0, 100, 100);
    let asked =
        |world: &World| world.sent.iter().filter(|(_, message)| matches!(message, Message::Judge { .. })).count();
    assert_eq!(asked(&world), 1);
    world.now = world.storage.deadline().expect("it waits");
    world.input(Input::Tick);
    assert_eq!(asked(&world), 2);
    world.input(Input::Disconnected { node: NODE });
    assert_eq!(world.storage.deadline(), None);
    world.is_dead(0..100);
    world.say(ENGINE, Message::ReplicateOpen { shard: SHARD });
    assert_eq!(world.released, [0]);
}

#[test]
fn rewriting_keeps_its_rate() {
    let mut world = trimmed([]);
    world.is_dead((0..100).filter(|position| position % 4 != 0));
    let before = world.now;
    world.dying(0, 100, 75);
    assert_eq!(world.released, [0]);
    let rewritten = world.storage.status().bytes_rewritten;
    assert!(rewritten > 25 * 1000);
    let took = world.now.since(before).as_secs_f64();
    let rate = rewritten as f64 / took;
    assert!(rate <= (64 << 20) as f64 * 1.1, "{rate} bytes a second");
}

#[test]
fn after_a_start_every_segment_is_looked_at_once() {
    let mut world = World::new();
    world.write(0, 10, 1000);
    for _ in 0..3 {
        world.roll();
    }
    world.is_dead(0..10);
    world.restart();
    world.commit(50);
    let first = world.storage.shards().next().map_or(0, |(_, received, _)| received);
    world.write(first, 1, 8);
    assert_eq!(world.released, [0]);
    assert_eq!(world.storage.status().segments_examined, 4);
}

#[test]
fn tags_of_what_is_gone_are_told_with_the_checkpoint_that_covers_them() {
    let mut world = trimmed(0..100);
    world.sent.clear();
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 3 });
    let gone = |world: &mut World| match world.sent.pop() {
        Some((ENGINE, Message::TagsGone { shard: SHARD, first: 100, checkpoint })) => checkpoint,
        other => panic!("{other:?}"),
    };
    assert!(gone(&mut world) > Place::default());
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 100 });
    assert!(matches!(world.sent.pop(), Some((_, Message::TagsEntries { first: 100, more: true, .. }))));
}

#[test]
fn a_repair_goes_on_behind_what_its_source_has_dropped() {
    let mut source = trimmed(0..100);
    source.sent.clear();
    source.say(OTHER, Message::ShardPull { shard: SHARD, from: 0, prefix: 101 });
    let Some((OTHER, copy @ Message::ShardCopy { first: 100, .. })) = source.sent.pop() else {
        panic!("what is left of it: {:?}", source.sent)
    };
    let mut target = World::new();
    target.say(CONTROLLER, Message::RepairShard { shard: SHARD, prefix: 101, source: OTHER.node });
    assert!(target.sent.contains(&(OTHER, Message::ShardPull { shard: SHARD, from: 0, prefix: 101 })));
    target.say(OTHER, copy);
    assert!(target.sent.contains(&(CONTROLLER, Message::ShardRepaired { shard: SHARD, durable: 101 })));
    assert_eq!(target.fetch(100), Ok(1));
    assert!(target.fetch(0).is_err());
}

/// A fixed sequence of numbers that looks like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_happens_in_whatever_order_what_lives_can_be_read_and_no_prefix_falls() {
    let mut released = 0;
    for seed in 0..60 {
        let (mut chance, mut world) = (Chance(seed), World::new());
        let (mut end, mut checkpoint, mut sealed) = (0, 0, false);
        for _ in 0..120 {
            match chance.below(11) {
                0..=2 => {
                    let count = 1 + chance.below(40);
                    let payload_bytes = [10, 1000, 40_000][chance.below(3) as usize];
                    if !sealed {
                        world.write(end, count, payload_bytes);
                        end += count;
                    }
                }
                3 => world.journal.open += 1,
                4 | 5 if end > 0 => {
                    let from = chance.below(end);
                    let to = (from + 1 + chance.below(80)).min(end);
                    let kept = 1 + chance.below(20);
                    let dead: Vec<u64> = (from..to).filter(|position| position % kept != 0 || kept == 1).collect();
                    let records = dead.len() as u64;
                    world.is_dead(dead);
                    world.dying(from, to, records);
                }
                6 => {
                    checkpoint += 1;
                    world.part(place(checkpoint), 0, false);
                    world.part(place(checkpoint), 1, true);
                    world.commit(checkpoint);
                }
                7 => {
                    let segment = chance.below(u64::from(world.journal.open) + 1) as u32;
                    if segment < world.journal.open && world.journal.entries.contains_key(&segment) {
                        world.input(Input::Vacate { segment });
                        assert!(!world.journal.entries.contains_key(&segment), "seed {seed}: segment {segment} stays");
                    }
                }
                8 => world.restart(),
                9 => world.input(Input::Disconnected { node: NODE }),
                _ if chance.below(20) == 0 => {
                    sealed = true;
                    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
                }
                _ => world.start(),
            }
            let prefix = world.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, _, durable)| durable);
            if world.storage.shards().next().is_some_and(|_| prefix != end) {
                // Without a writer the run was not taken.
                assert!(prefix < end, "seed {seed}");
                end = prefix;
            }
        }
        let dead = world.dead.clone().expect("it answers");
        world.restart();
        let prefix = world.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, _, durable)| durable);
        assert_eq!(prefix, end, "seed {seed}: the prefix fell");
        for position in (0..end).filter(|position| !dead.contains(position)) {
            assert!(world.fetch(position).is_ok(), "seed {seed}: record {position} lives");
        }
        for part in [0, 1].into_iter().filter(|_| checkpoint > 0) {
            let read = world.open_part(place(checkpoint), part);
            assert!(matches!(read, Message::CheckpointPart { .. }), "seed {seed}: part {part} of {checkpoint}");
        }
        assert_eq!(world.storage.sealed(), ViewNumber(u32::from(sealed)), "seed {seed}");
        released += world.released.len();
    }
    assert!(released > 500, "{released} segments");
}

/// Each of these mistakes is noticed by the test that is about it.
#[cfg(feature = "simulation")]
#[test]
fn mutants_are_noticed() {
    use sealog_protocol::mutant::{Mutant, set_active};
    let cases: [(Mutant, fn()); 4] = [
        (Mutant::SegmentReleasedWhileLiving, sparse_segments_are_rewritten),
        (Mutant::SegmentReleasedBeforeCopy, sparse_segments_are_rewritten),
        (Mutant::SealNotAppendedAgain, seals_outlive_their_segment),
        (Mutant::CheckpointDroppedEarly, checkpoints_stay_until_a_newer_one_is_committed),
    ];
    for (mutant, scenario) in cases {
        set_active(Some(mutant));
        let noticed = std::panic::catch_unwind(scenario).is_err();
        set_active(None);
        assert!(noticed, "{mutant:?}");
    }
}
