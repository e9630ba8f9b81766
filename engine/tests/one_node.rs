//! All machines of one node, turn by turn, on a journal that is a list in memory: what a client
//! sees of appends, sessions, conditions, names and reads. Faults are the simulator's business.

use std::collections::VecDeque;

use bytes::Bytes;
use sealog_control::{Controller, ControllerConfig};
use sealog_engine::{Engine, EngineConfig};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{
    Answer, CheckTailRequest, Description, Durability, ErrorCode, PlaceWire, ReadRecord, ReadRequest, RecordsReply,
    Reply, Request, RetentionRequest, SetAuxRequest, TrimRequest, decode_answer, encode_reply,
};
use sealog_protocol::limits::{
    AUX_BYTES_MAX, READ_BYTES_MAX, RECORD_BYTES_MAX, SESSION_OPENING_INTERVAL, SESSION_OPENINGS_MAX,
};
use sealog_protocol::machine::{
    Address, ConnectionId, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, Role,
};
use sealog_protocol::tags;
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, Logspaces, NodeId, NodeSet, Place, RequestNumber, SeqNum, SessionId,
    ShardId, Tag, Time, ViewNumber,
};
use sealog_sequencer::{Sequencer, SequencerConfig};
use sealog_storage::{Storage, StorageConfig};

const NODE: NodeId = NodeId(7);
const LOGSPACE: LogspaceId = LogspaceId(0);
const CONNECTION: ConnectionId = ConnectionId(1);

struct World {
    engine: Engine,
    storage: Storage,
    sequencer: Sequencer,
    controller: Controller,
    chain: Chain,
    now: Time,
    outputs: Outputs,
    /// What the "disk" holds: one segment with every run of batches.
    segment: Vec<u8>,
    /// The Tags of each run, and its positions.
    tags: Vec<(ShardId, u64, u64, Bytes)>,
    replies: Vec<(u64, Reply)>,
    /// What was appended in this turn, by whom.
    written: VecDeque<(Role, JournalPlace)>,
    /// Group commits so far.
    blocks: u64,
    engine_incarnation: Incarnation,
}

impl World {
    /// A node in this life, whose register names the life before as primary when it is not the first.
    fn new(incarnation: u64) -> World {
        World::with_engine(EngineConfig::new(NODE, Incarnation(incarnation), LOGSPACE, 1))
    }

    fn with_engine(config: EngineConfig) -> World {
        let incarnation = config.incarnation;
        let nodes = NodeSet::new(&[NODE]).expect("one node");
        let view = View {
            number: ViewNumber(1),
            primary: NODE,
            primary_incarnation: Incarnation(1),
            sequencers: nodes,
            storages: nodes,
            write_quorum: 1,
            replicas: 1,
            moves: Vec::new(),
            cause: Default::default(),
        };
        let logspaces = Logspaces { disk: 1, memory: 1 };
        let settings =
            ClusterSettings { sessions_max: 2, session_window: 4, ..ClusterSettings::new(ClusterId(1), logspaces) };
        let mut world = World {
            engine: Engine::new(config),
            storage: Storage::new(StorageConfig::new(NODE, LOGSPACE)),
            sequencer: Sequencer::new(SequencerConfig::new(NODE, incarnation, LOGSPACE)),
            controller: Controller::new(ControllerConfig::new(NODE, LOGSPACE)),
            chain: Chain { settings, logspace: LOGSPACE, views: vec![view], ends: Vec::new() },
            now: Time(1),
            outputs: Outputs::default(),
            segment: Vec::new(),
            tags: Vec::new(),
            replies: Vec::new(),
            written: VecDeque::new(),
            blocks: 0,
            engine_incarnation: incarnation,
        };
        for role in [Role::Controller, Role::Sequencer, Role::Storage, Role::Engine] {
            world.give(role, Input::Connected { node: NODE, incarnation });
        }
        world.give_chain();
        world.run();
        world
    }

    fn give_chain(&mut self) {
        let chain = self.chain.clone();
        for role in [Role::Controller, Role::Sequencer, Role::Storage, Role::Engine] {
            self.give(role, Input::Chain(&chain));
        }
    }

    fn give(&mut self, role: Role, input: Input<'_>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        match role {
            Role::Engine => self.engine.handle(self.now, input, &mut outputs),
            Role::Storage => self.storage.handle(self.now, input, &mut outputs),
            Role::Sequencer => self.sequencer.handle(self.now, input, &mut outputs),
            Role::Controller => self.controller.handle(self.now, input, &mut outputs),
        }
        self.outputs = outputs;
        self.deliver(role);
    }

    /// Delivers what a machine put out; what it appended is durable at the end of the turn.
    fn deliver(&mut self, from: Role) {
        let outputs: Vec<Output> = self.outputs.drain().collect();
        let from_address = Address { node: NODE, logspace: LOGSPACE, role: from };
        for output in outputs {
            match output {
                Output::Send { to, message } => self.give(to.role, Input::Message { from: from_address, message }),
                Output::Reply { request, reply, .. } => self.replies.push((request, reply)),
                Output::Append(entry) => self.journal(from, entry),
                Output::Read { ticket, at, bytes } => {
                    let start = at.byte_offset() as usize;
                    let result = Ok(Bytes::copy_from_slice(&self.segment[start..start + bytes as usize]));
                    self.give(from, Input::Read { ticket, result });
                }
                Output::CompareAndSwap { chain } => {
                    self.chain = *chain;
                    self.give_chain();
                }
                Output::ReadRegister => self.give_chain(),
                Output::Release { .. } => {}
                Output::ReadTags { ticket, shard, from: position, .. } => {
                    let mut runs = self.tags.iter().filter(|(of, _, end, _)| *of == shard && *end > position);
                    let (first, entries) =
                        runs.next().map_or((position, Bytes::new()), |(_, first, _, tags)| (*first, tags.clone()));
                    self.give(from, Input::TagsRead { ticket, first, result: Ok(entries) });
                }
            }
        }
    }

    fn journal(&mut self, owner: Role, entry: DurableEntry) {
        let offset = (self.segment.len() / 8) as u32;
        if let DurableEntry::Batches { shard, first, tags, .. } = &entry {
            let records: u64 = tags::entries(tags).map(|entry| entry.expect("whole").records()).sum();
            self.tags.push((*shard, *first, first + records, tags.clone()));
        }
        if let DurableEntry::Batches { batches: data, .. } | DurableEntry::Checkpoint { bytes: data, .. } = entry {
            self.segment.extend_from_slice(&data);
            self.segment.resize(self.segment.len().next_multiple_of(8), 0);
        }
        self.written.push_back((owner, JournalPlace { segment: 0, offset }));
    }

    /// Turns, until nothing moves.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for role in [Role::Engine, Role::Storage, Role::Sequencer, Role::Controller] {
                let mut outputs = std::mem::take(&mut self.outputs);
                match role {
                    Role::Engine => self.engine.flush(self.now, &mut outputs),
                    Role::Storage => self.storage.flush(self.now, &mut outputs),
                    Role::Sequencer => self.sequencer.flush(self.now, &mut outputs),
                    Role::Controller => self.controller.flush(self.now, &mut outputs),
                }
                moved |= !outputs.is_empty();
                self.outputs = outputs;
                self.deliver(role);
            }
            if moved {
                continue;
            }
            let durable = std::mem::take(&mut self.written);
            if durable.is_empty() {
                return;
            }
            self.blocks += 1;
            for (owner, place) in durable {
                self.give(owner, Input::Durable(place));
            }
        }
    }
}

impl World {
    /// The engine begins another life: it knows nothing.
    fn restart_engine(&mut self, config: impl FnOnce(&mut EngineConfig)) {
        let incarnation = Incarnation(self.engine_incarnation.0 + 1);
        self.engine_incarnation = incarnation;
        let mut engine = EngineConfig::new(NODE, incarnation, LOGSPACE, incarnation.0);
        config(&mut engine);
        self.engine = Engine::new(engine);
        // Storage and sequencer hear of the new life; machines of one node have one in earnest.
        for role in [Role::Storage, Role::Sequencer, Role::Engine] {
            self.give(role, Input::Connected { node: NODE, incarnation });
        }
        let chain = self.chain.clone();
        self.give(Role::Engine, Input::Chain(&chain));
        self.run();
    }

    fn request(&mut self, request: Request) -> Reply {
        self.replies.clear();
        let mut outputs = std::mem::take(&mut self.outputs);
        self.engine.request(self.now, CONNECTION, 5, request, &mut outputs);
        self.outputs = outputs;
        self.deliver(Role::Engine);
        self.run();
        self.replies.pop().expect("an answer").1
    }

    fn session(&mut self) -> SessionId {
        match self.request(Request::OpenSession { logspace: 0 }) {
            Reply::SessionOpened { session, .. } => session,
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, head: BatchHead, records: &[NewRecord<'_>]) {
        let mut frame = Vec::new();
        write_batch(&mut frame, 5, &head, records).expect("within limits");
        let mut outputs = std::mem::take(&mut self.outputs);
        self.engine.append(self.now, CONNECTION, &frame, &mut outputs).expect("a whole frame");
        self.outputs = outputs;
        self.deliver(Role::Engine);
    }

    fn append(&mut self, head: BatchHead, records: &[NewRecord<'_>]) -> Reply {
        self.replies.clear();
        self.send(head, records);
        self.run();
        self.replies.pop().expect("an answer").1
    }

    fn read(&mut self, tag: Tag, from: u64, backward: bool) -> Vec<(SeqNum, u16)> {
        let until = if backward { 0 } else { u64::MAX };
        let read = ReadRequest { tag: tag.0, from, until, backward, linearizable: true, ..everything() };
        match self.request(Request::Read(read)) {
            Reply::Records(RecordsReply { parts, complete: true, .. }) => {
                parts.iter().map(|part| (part.seqnum, part.records)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn set_aux(&mut self, seqnum: u64, data: &[u8]) -> bool {
        match self.request(Request::SetAux(SetAuxRequest { logbook: 3, seqnum, data: data.to_vec() })) {
            Reply::AuxSet { kept, .. } => kept,
            other => panic!("{other:?}"),
        }
    }

    /// The answer to a read, as its client gets it: through a frame.
    fn answer(&mut self, read: ReadRequest) -> (Vec<ReadRecord>, bool) {
        let reply = self.request(Request::Read(read));
        let mut frame = Vec::new();
        encode_reply(&mut frame, 1, &reply);
        match decode_answer(&frame.into()).expect("what was encoded") {
            (1, Answer::Records { records, complete, .. }) => (records, complete),
            other => panic!("{other:?}"),
        }
    }

    fn tail(&mut self, tag: Tag) -> Option<SeqNum> {
        let place = PlaceWire::default();
        match self.request(Request::CheckTail(CheckTailRequest { logbook: 3, tag: tag.0, place, linearizable: false }))
        {
            Reply::Tail { tail, .. } => tail,
            other => panic!("{other:?}"),
        }
    }
}

fn everything() -> ReadRequest {
    ReadRequest {
        logbook: 3,
        tag: 0,
        from: 0,
        until: u64::MAX,
        backward: false,
        records_max: 100,
        wait_ms: 0,
        place: PlaceWire::default(),
        linearizable: false,
        aux: false,
    }
}

fn head(session: SessionId, request: u64) -> BatchHead {
    BatchHead {
        logbook: LogBookId(3),
        session,
        request: RequestNumber(request),
        lowest_unanswered: RequestNumber(request),
        time_ms: 0,
        condition: None,
    }
}

fn seqnum(reply: &Reply) -> SeqNum {
    match reply {
        Reply::Appended { seqnum, durability: Durability::Disk, .. } => *seqnum,
        other => panic!("{other:?}"),
    }
}

const RECORD: NewRecord<'_> = NewRecord { tags: &[Tag(9)], payload: b"payload" };

#[test]
fn appends_are_read_back_in_order_both_ways() {
    let mut world = World::new(1);
    assert!(world.engine.is_ready());
    let session = world.session();
    let first = seqnum(&world.append(head(session, 1), &[RECORD]));
    let batch = seqnum(&world.append(head(session, 2), &[RECORD, NewRecord { tags: &[], payload: b"" }, RECORD]));
    assert_eq!(world.read(Tag::ALL, 0, false), [(first, 1), (batch, 3)]);
    assert_eq!(world.read(Tag(9), 0, false), [(first, 1), (batch, 1), (SeqNum(batch.0 + 2), 1)]);
    assert_eq!(world.read(Tag(9), batch.0 + 1, true), [(batch, 1), (first, 1)]);
    assert_eq!((world.tail(Tag(9)), world.tail(Tag(10))), (Some(SeqNum(batch.0 + 2)), None));
}

#[test]
fn appends_of_one_turn_share_one_block_with_the_cut_that_orders_them() {
    let mut world = World::new(1);
    let session = world.session();
    let blocks = world.blocks;
    for request in 1..=3 {
        world.send(head(session, request), &[RECORD]);
    }
    world.run();
    // The commit index rides on whatever comes next; here it has a block of its own.
    assert!(world.blocks - blocks <= 2, "{} blocks for one turn", world.blocks - blocks);
    let answered = world.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Appended { .. })).count();
    assert_eq!(answered, 3);
}

#[test]
fn a_repeat_gets_the_first_answer_and_a_condition_is_decided_once() {
    let mut world = World::new(1);
    let session = world.session();
    let first = seqnum(&world.append(head(session, 1), &[RECORD]));
    // Both copies are in the log before the first has its verdict.
    world.send(BatchHead { lowest_unanswered: RequestNumber(1), ..head(session, 2) }, &[RECORD]);
    world.send(BatchHead { lowest_unanswered: RequestNumber(1), ..head(session, 2) }, &[RECORD]);
    world.replies.clear();
    world.run();
    let [one, two] = &world.replies[..] else { panic!("two answers") };
    assert_eq!(seqnum(&one.1), seqnum(&two.1));
    let second = seqnum(&one.1);
    let failing = BatchHead { condition: Some((Tag(9), first)), ..head(session, 3) };
    for _ in 0..2 {
        let reply = world.append(failing, &[RECORD]);
        assert!(matches!(reply, Reply::ConditionFailed { tail, .. } if tail == second), "{reply:?}");
    }
    let holding = BatchHead { condition: Some((Tag(9), second)), ..head(session, 4) };
    let third = seqnum(&world.append(holding, &[RECORD]));
    assert_eq!(seqnum(&world.append(holding, &[RECORD])), third, "a repeat, though its condition fails now");
    assert_eq!(world.read(Tag(9), 0, false).len(), 3);
}

#[test]
fn unknown_evicted_and_out_of_window_sessions_are_refused_explicitly() {
    let mut world = World::new(1);
    let expired = |reply: Reply| matches!(reply, Reply::Error { code: ErrorCode::SessionExpired, .. });
    assert!(expired(world.append(head(SessionId(12345), 1), &[RECORD])));
    let session = world.session();
    let beyond = BatchHead { lowest_unanswered: RequestNumber(1), ..head(session, 5) };
    assert!(expired(world.append(beyond, &[RECORD])));
    let (_, _) = (world.session(), world.session());
    assert!(expired(world.append(head(session, 1), &[RECORD])), "two newer sessions took its place");
    assert!(world.read(Tag::ALL, 0, false).is_empty());
}

#[test]
fn reserved_logbooks_are_refused_before_they_get_a_position() {
    let mut world = World::new(1);
    let session = world.session();
    for logbook in [LogBookId::SYSTEM, LogBookId(1 << 63)] {
        let reply = world.append(BatchHead { logbook, ..head(session, 1) }, &[RECORD]);
        assert!(matches!(reply, Reply::Error { code: ErrorCode::Invalid, .. }), "{reply:?}");
    }
    assert_eq!(world.engine.status().appends, 0);
}

#[test]
fn a_name_is_kept_and_cannot_be_empty() {
    let mut world = World::new(1);
    for _ in 0..2 {
        let reply = world.request(Request::NameLogBook { name: "orders".into() });
        assert!(matches!(reply, Reply::Named { .. }), "{reply:?}");
    }
    let reply = world.request(Request::NameLogBook { name: String::new() });
    assert!(matches!(reply, Reply::Error { code: ErrorCode::Invalid, .. }), "{reply:?}");
}

#[test]
fn a_name_has_the_class_that_it_is_used_in_first() {
    let mut world = World::new(1);
    let mut create = |name: &str, class| match world.request(Request::CreateLogBook { name: name.into(), class }) {
        Reply::NameKnown { class, is_new, .. } => Ok((class, is_new)),
        Reply::Error { code, .. } => Err(code),
        other => panic!("{other:?}"),
    };
    let (disk, memory) = (Durability::Disk, Durability::Memory);
    assert_eq!(create("fast", memory), Ok((Some(memory), true)));
    assert_eq!(create("fast", memory), Ok((Some(memory), false)));
    assert_eq!(create("fast", disk), Err(ErrorCode::NameTaken));
    assert_eq!(create("safe", disk), Ok((Some(disk), true)));
    assert_eq!(create("safe", memory), Err(ErrorCode::NameTaken));
    let reply = world.request(Request::NameLogBook { name: "fast".into() });
    assert!(matches!(reply, Reply::Error { code: ErrorCode::NameTaken, .. }), "{reply:?}");
    for (name, expected) in [("fast", Some(memory)), ("safe", Some(disk)), ("new", None)] {
        let reply = world.request(Request::FindLogBook { name: name.into() });
        assert!(matches!(reply, Reply::NameKnown { class, is_new: false, .. } if class == expected), "{reply:?}");
    }
}

#[test]
fn a_restarted_primary_gets_a_view_of_its_own() {
    let world = World::new(2);
    assert_eq!(world.chain.views.len(), 2);
    assert_eq!(world.chain.current().primary_incarnation, Incarnation(2));
    assert!(world.engine.is_ready());
}

#[test]
fn aux_data_comes_back_with_its_record_to_those_who_ask() {
    let mut world = World::new(1);
    let session = world.session();
    let first = seqnum(&world.append(head(session, 1), &[RECORD, RECORD])).0;
    let last = seqnum(&world.append(head(session, 2), &[RECORD])).0;
    assert!(world.set_aux(first + 1, b"a view"));
    assert!(world.set_aux(last, b"old"));
    assert!(world.set_aux(last, b"new"));
    let aux = |records: &[ReadRecord]| -> Vec<(u64, Option<Bytes>)> {
        records.iter().map(|record| (record.seqnum.0, record.aux.clone())).collect()
    };
    let with = |data: &'static [u8]| Some(Bytes::from_static(data));
    let (records, _) = world.answer(ReadRequest { aux: true, ..everything() });
    assert_eq!(aux(&records), [(first, None), (first + 1, with(b"a view")), (last, with(b"new"))]);
    let (records, _) = world.answer(ReadRequest { aux: true, from: last, until: 0, backward: true, ..everything() });
    assert_eq!(aux(&records), [(last, with(b"new")), (first + 1, with(b"a view")), (first, None)]);
    let status = world.engine.status().aux;
    assert_eq!((status.sets, status.hits, status.misses), (3, 4, 2));
    let (records, _) = world.answer(everything());
    assert!(records.iter().all(|record| record.aux.is_none()));
    assert_eq!(world.engine.status().aux, status, "who does not ask is not counted");
}

#[test]
fn aux_data_of_what_nobody_can_read_is_not_kept() {
    let mut world = World::new(1);
    let session = world.session();
    let first = seqnum(&world.append(head(session, 1), &[RECORD])).0;
    let failing = BatchHead { condition: Some((Tag::ALL, SeqNum::MIN)), ..head(session, 2) };
    assert!(matches!(world.append(failing, &[RECORD]), Reply::ConditionFailed { .. }));
    for nobody in [0, first - 1, first + 1, first + 2, u64::MAX] {
        assert!(!world.set_aux(nobody, b"x"), "{nobody}: void, of another LogBook, or nothing");
    }
    let large = SetAuxRequest { logbook: 3, seqnum: first, data: vec![0; AUX_BYTES_MAX + 1] };
    let reply = world.request(Request::SetAux(large));
    assert!(matches!(reply, Reply::Error { code: ErrorCode::Invalid, .. }), "{reply:?}");
    assert!(world.set_aux(first, &[7; AUX_BYTES_MAX]));
    assert_eq!(world.engine.status().aux.entries, 1);
}

/// A page was once measured by the mean size of a batch's records: a tag that only large records had
/// made an answer larger than a frame may be, and the node stopped.
#[test]
fn a_page_is_within_its_bound_however_sizes_are_spread() {
    let mut world = World::new(1);
    let session = world.session();
    let large = vec![1; RECORD_BYTES_MAX / 3];
    let small = NewRecord { tags: &[], payload: b"" };
    let mut records = vec![small; 999];
    records.push(NewRecord { tags: &[Tag(9)], payload: &large });
    for request in 1..=9 {
        let last = seqnum(&world.append(head(session, request), &records)).0 + 999;
        assert!(world.set_aux(last, &[2; AUX_BYTES_MAX]));
    }
    let mut pages = Vec::new();
    let mut read = ReadRequest { tag: 9, aux: true, ..everything() };
    loop {
        let (records, complete) = world.answer(read.clone());
        let bytes: usize =
            records.iter().map(|record| record.payload.len() + record.aux.as_ref().map_or(0, Bytes::len)).sum();
        assert!(bytes <= READ_BYTES_MAX, "{bytes}");
        pages.push(records.len());
        read.from = records.last().expect("a page has a record").seqnum.0 + 1;
        if complete {
            break;
        }
    }
    assert_eq!(pages, [2, 2, 2, 2, 1]);
}

#[test]
fn a_trim_goes_through_the_metalog_and_reads_below_it_are_told() {
    let mut world = World::new(1);
    let session = world.session();
    let seqnums: Vec<SeqNum> =
        (1..=4).map(|request| seqnum(&world.append(head(session, request), &[RECORD]))).collect();
    let trim = |world: &mut World, tag: u64, first: u64| match world.request(Request::Trim(TrimRequest {
        logbook: 3,
        tag,
        first,
    })) {
        Reply::TrimDone { first, .. } => first,
        other => panic!("{other:?}"),
    };
    for seqnum in &seqnums {
        assert!(world.set_aux(seqnum.0, b"a view"));
    }
    let settle = |world: &mut World| {
        for _ in 0..9 {
            world.give(Role::Engine, Input::Tick);
            world.run();
        }
    };
    assert_eq!(trim(&mut world, 9, seqnums[2].0), seqnums[2]);
    settle(&mut world);
    assert_eq!(world.engine.status().aux.entries, 2, "aux data goes with its record");
    assert!(!world.set_aux(seqnums[0].0, b"late"));
    assert_eq!(trim(&mut world, 9, seqnums[1].0), seqnums[2], "backwards: nothing changes");
    let read =
        |world: &mut World, from: u64| world.request(Request::Read(ReadRequest { tag: 9, from, ..everything() }));
    let trimmed = |reply: Reply, expected: SeqNum| {
        assert!(matches!(reply, Reply::Trimmed { first, .. } if first == expected), "{reply:?}")
    };
    trimmed(read(&mut world, 0), seqnums[2]);
    assert_eq!(world.read(Tag(9), seqnums[2].0, false), [(seqnums[2], 1), (seqnums[3], 1)]);
    assert_eq!(world.read(Tag::ALL, 0, false), [(seqnums[2], 1), (seqnums[3], 1)], "the others had no other tag");
    // Past the end: all that is there goes, nothing that is to come.
    let end = trim(&mut world, 0, u64::MAX);
    assert_eq!(end, seqnums[3].next());
    settle(&mut world);
    assert_eq!(world.engine.status().aux.entries, 0);
    assert!(!world.set_aux(seqnums[3].0, b"late"));
    assert_eq!(world.tail(Tag(9)), Some(seqnums[3]), "the tail stays");
    assert_eq!(world.tail(Tag(10)), Some(seqnums[3]), "nobody remembers which tags there were");
    let next = seqnum(&world.append(head(session, 5), &[RECORD]));
    assert_eq!(world.read(Tag(9), end.0, false), [(next, 1)]);
    assert_eq!(trim(&mut world, 77, 5), end, "of a tag that nobody used: the LogBook's point");
    for logbook in [0, 1 << 63] {
        let refused = world.request(Request::Trim(TrimRequest { logbook, tag: 0, first: 1 }));
        assert!(matches!(refused, Reply::Error { code: ErrorCode::Invalid, .. }), "{refused:?}");
    }
}

#[test]
fn retention_is_kept_and_described() {
    let mut world = World::new(1);
    let session = world.session();
    let describe =
        |world: &mut World| match world.request(Request::Describe { logbook: 3, place: PlaceWire::default() }) {
            Reply::Described { description, .. } => *description,
            other => panic!("{other:?}"),
        };
    assert_eq!(describe(&mut world), Description::default());
    let record = seqnum(&world.append(head(session, 1), &[RECORD]));
    for (age_ms, bytes) in [(7, 0), (0, u64::MAX), (5, 5)] {
        let set = world.request(Request::SetRetention(RetentionRequest { logbook: 3, age_ms, bytes }));
        assert!(matches!(set, Reply::RetentionSet { .. }), "{set:?}");
        let bytes = bytes.min((1 << 62) - 1);
        let expected = Description { first: 0, tail: record.0, records: 1, retain_ms: age_ms, retain_bytes: bytes };
        assert_eq!(describe(&mut world), expected);
    }
}

/// Appends, trims, and checkpoints at nearly every append; engines that begin anew load the last one and
/// the little that follows it.
#[test]
fn a_restarted_engine_goes_on_from_the_last_checkpoint() {
    let mut world = World::new(1);
    let often = |config: &mut EngineConfig| {
        config.checkpoint_log_bytes_min = 200;
        config.checkpoint_part_bytes = 300;
    };
    world.restart_engine(often);
    let session = world.session();
    let mut seqnums = Vec::new();
    for round in 0..20u64 {
        for request in round * 10 + 1..=round * 10 + 10 {
            let tags = [Tag(9), Tag(10 + request % 3)];
            let record = NewRecord { tags: &tags[..1 + request as usize % 2], payload: b"payload" };
            seqnums.push(seqnum(&world.append(head(session, request), &[record])));
        }
        if round % 5 == 4 {
            let first = seqnums[seqnums.len() / 2];
            let trim = Request::Trim(TrimRequest { logbook: 3, tag: 9, first: first.0 });
            assert!(matches!(world.request(trim), Reply::TrimDone { first: now, .. } if now == first));
        }
        let before =
            (world.read(Tag(9), seqnums[seqnums.len() / 2].0, false), world.tail(Tag(10)), world.tail(Tag(11)));
        let trimmed = world.engine.index().expect("it is there").first(LogBookId(3), Tag(9));
        world.restart_engine(often);
        assert!(world.engine.is_ready(), "round {round}");
        let status = world.engine.status();
        assert!(status.checkpoint > Place::default(), "round {round}: it was loaded from a checkpoint");
        let after = (world.read(Tag(9), seqnums[seqnums.len() / 2].0, false), world.tail(Tag(10)), world.tail(Tag(11)));
        assert_eq!(before, after, "round {round}");
        assert_eq!(world.engine.index().expect("it is there").first(LogBookId(3), Tag(9)), trimmed);
        // The session is known, and so is what became of its last request.
        let again = world.append(head(session, round * 10 + 10), &[RECORD]);
        assert_eq!(seqnum(&again), *seqnums.last().expect("some"));
    }
    assert!(world.sequencer.base() > Place::default(), "the metalog before it is gone");
}

/// The sessions of a logspace are few: who asks for more and more gets no more, and an idle client
/// keeps its own.
#[test]
fn a_connection_that_opens_session_after_session_is_refused() {
    let mut world = World::new(1);
    world.session();
    let refused = (1..=SESSION_OPENINGS_MAX)
        .filter(|_| matches!(world.request(Request::OpenSession { logspace: 0 }), Reply::Error { .. }))
        .count();
    assert_eq!(refused, 1, "the last one");
    let applied = world.engine.applied();
    match world.request(Request::OpenSession { logspace: 0 }) {
        Reply::Error { code: ErrorCode::Busy, message } => assert!(message.contains("64 sessions"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.engine.applied(), applied, "a refused one is not in the log");
    world.now = world.now + SESSION_OPENING_INTERVAL;
    world.session();
    assert!(matches!(world.request(Request::OpenSession { logspace: 0 }), Reply::Error { .. }));
    world.engine.connection_closed(CONNECTION);
    world.session();
}

#[path = "one_node/cold.rs"]
mod cold;
#[path = "one_node/subscriptions.rs"]
mod subscriptions;
