//! All machines of one node, turn by turn, on a journal that is a list in memory: what a client
//! sees of appends, sessions, conditions, names and reads. Faults are the simulator's business.

use std::collections::VecDeque;

use bytes::Bytes;
use sealog_control::{Controller, ControllerConfig};
use sealog_engine::{Engine, EngineConfig};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{
    CheckTailRequest, Durability, ErrorCode, PlaceWire, ReadRequest, RecordsReply, Reply, Request,
};
use sealog_protocol::machine::{
    Address, ConnectionId, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, Role,
};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, RequestNumber, SeqNum, SessionId, Tag, Time,
    ViewNumber,
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
    replies: Vec<(u64, Reply)>,
    /// What was appended in this turn, by whom.
    written: VecDeque<(Role, JournalPlace)>,
    /// Group commits so far.
    blocks: u64,
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
        };
        let settings = ClusterSettings { sessions_max: 2, session_window: 4, ..ClusterSettings::new(ClusterId(1), 1) };
        let mut world = World {
            engine: Engine::new(config),
            storage: Storage::new(StorageConfig::new(NODE, LOGSPACE)),
            sequencer: Sequencer::new(SequencerConfig::new(NODE, incarnation, LOGSPACE, NODE)),
            controller: Controller::new(ControllerConfig::new(LOGSPACE)),
            chain: Chain { settings, logspace: LOGSPACE, views: vec![view], ends: Vec::new() },
            now: Time(1),
            outputs: Outputs::default(),
            segment: Vec::new(),
            replies: Vec::new(),
            written: VecDeque::new(),
            blocks: 0,
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
                Output::ReadTags { .. } => panic!("nothing here is behind"),
            }
        }
    }

    fn journal(&mut self, owner: Role, entry: DurableEntry) {
        let offset = (self.segment.len() / 8) as u32;
        if let DurableEntry::Batches { batches, .. } = entry {
            self.segment.extend_from_slice(&batches);
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
        let read = ReadRequest {
            logbook: 3,
            tag: tag.0,
            from,
            until,
            backward,
            records_max: 100,
            wait_ms: 0,
            place: PlaceWire::default(),
            linearizable: true,
        };
        match self.request(Request::Read(read)) {
            Reply::Records(RecordsReply { parts, complete: true, .. }) => {
                parts.iter().map(|part| (part.seqnum, part.records)).collect()
            }
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
fn a_restarted_primary_gets_a_view_of_its_own() {
    let world = World::new(2);
    assert_eq!(world.chain.views.len(), 2);
    assert_eq!(world.chain.current().primary_incarnation, Incarnation(2));
    assert!(world.engine.is_ready());
}

#[path = "one_node/subscriptions.rs"]
mod subscriptions;
