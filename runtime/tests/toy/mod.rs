//! A host for tests and measurements: appends what clients send, answers when it is durable, and
//! reads it back. With two executors, the second one is asked before each answer, or gets all.

#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use bytes::{Bytes, BytesMut};
use sealog_protocol::client::{
    ClientHello, Durability, RecordsPart, RecordsReply, Reply, Request, Welcome, decode_request,
};
use sealog_protocol::frame::{Frame, FrameError, FrameKind};
use sealog_protocol::ids::{ClusterId, Incarnation, LogspaceId, NodeId, Place, ShardId, ViewNumber};
use sealog_protocol::machine::{Address, ConnectionId, DurableEntry, JournalPlace, ReadFailure, Recovered, Role};
use sealog_protocol::message::Message;
use sealog_protocol::{SeqNum, Time, tags};
use sealog_runtime::{
    Action, ExecutorConfig, ExecutorContext, ExecutorId, Handle, Host, HostError, JournalConfig, Listen, NodeConfig,
    Owner, StartError, start,
};

pub const OWNER: Owner = (LogspaceId(0), Role::Storage);
const SHARD: ShardId = ShardId { view: ViewNumber(1), index: 0 };

/// How the second executor takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Alone,
    /// Its word is waited for before each answer.
    Witness,
    /// It gets every frame.
    Forward,
}

/// What a test does to a host.
pub enum Event {
    /// Takes clients' frames, or not.
    Accept(bool),
    /// Sends back an event's arrival.
    Echo(Sender<()>),
    /// It needs no more than what is in the newest segment.
    ReleaseAll,
    Panic,
}

type Waiting = Vec<(ConnectionId, u64)>;

/// A turn of a busy machine can gather more than a small segment holds: as engines do, a run ends
/// before it is that large.
const RUN_BYTES_MAX: usize = 512 << 10;

pub struct Toy {
    mode: Mode,
    executor: ExecutorId,
    accepting: bool,
    gathered: BytesMut,
    tags: BytesMut,
    waiting: Waiting,
    appended: VecDeque<(Bytes, Waiting)>,
    asked: VecDeque<Waiting>,
    spare: Vec<Waiting>,
    pending_bytes: usize,
    actions: Vec<Action>,
    /// Where each batch lies, and its bytes.
    log: Vec<(JournalPlace, u32)>,
    end: u64,
    reads: BTreeMap<u64, (ConnectionId, u64, u64)>,
    next_ticket: u64,
    full: bool,
    pub closed: u64,
}

impl Toy {
    /// Gives the journal what was gathered.
    fn close_run(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let batches = self.gathered.split().freeze();
        let records = tags::write_tags(&mut self.tags, &batches).expect("whole frames");
        let tags = self.tags.split().freeze();
        let waiting = std::mem::replace(&mut self.waiting, self.spare.pop().unwrap_or_default());
        self.appended.push_back((tags.clone(), waiting));
        let entry = DurableEntry::Batches { shard: SHARD, first: self.end, batches, tags };
        self.end += records;
        self.actions.push(Action::Append { owner: OWNER, entry });
    }

    pub fn new(context: &ExecutorContext<Event>, mode: Mode) -> Toy {
        Toy {
            mode,
            executor: context.executor,
            accepting: true,
            gathered: BytesMut::new(),
            tags: BytesMut::new(),
            waiting: Vec::new(),
            appended: VecDeque::new(),
            asked: VecDeque::new(),
            spare: Vec::new(),
            pending_bytes: 0,
            actions: Vec::new(),
            log: Vec::new(),
            end: 0,
            reads: BTreeMap::new(),
            next_ticket: 0,
            full: false,
            closed: 0,
        }
    }

    fn list(&mut self, mut place: JournalPlace, tags: &[u8]) {
        for entry in tags::entries(tags) {
            let entry = entry.expect("what was appended");
            self.log.push((place, entry.frame_bytes));
            place.offset += entry.frame_bytes / 8;
        }
    }

    fn release_all(&mut self) {
        let Some((newest, _)) = self.log.last().copied() else { return };
        let mut segments: Vec<u32> = self.log.iter().map(|(place, _)| place.segment).collect();
        self.log.retain(|(place, _)| place.segment == newest.segment);
        segments.dedup();
        let old = segments.into_iter().filter(|segment| *segment != newest.segment);
        self.actions.extend(old.map(|segment| Action::Release { owner: OWNER, segment }));
    }

    fn answer(&mut self, mut waiting: Waiting) {
        for (connection, request) in waiting.drain(..) {
            let reply = Reply::Appended { seqnum: SeqNum(1), durability: Durability::Disk, place: Place::default() };
            self.actions.push(Action::Reply { connection, request, reply });
        }
        self.spare.push(waiting);
    }

    fn address(executor: u64) -> Address {
        Address { node: NodeId(executor), logspace: LogspaceId(0), role: Role::Sequencer }
    }
}

impl Host for Toy {
    type Event = Event;

    fn recovered(&mut self, _: Owner, entry: Recovered<'_>) {
        if let Recovered::Batches { first, records, mut at, bytes, .. } = entry {
            // The tests' batches have one record each, and those of a run one size.
            let each = bytes / records as u32;
            for _ in 0..records {
                self.log.push((at, each));
                at.offset += each / 8;
            }
            self.end = first + records;
        }
    }

    fn start(&mut self, _: Time) -> Result<(), HostError> {
        Ok(())
    }

    fn place(&self, _: Address) -> Option<ExecutorId> {
        panic!("it has no peers")
    }

    fn node_connected(&mut self, _: Time, _: NodeId, _: Incarnation) {
        panic!("it has no peers")
    }

    fn node_disconnected(&mut self, _: Time, _: NodeId) {
        panic!("it has no peers")
    }

    fn message(&mut self, _: Time, from: Address, to: Address, message: Message) {
        match message {
            Message::CommitQuery { request } => {
                let message = Message::CommitAnswer { request, place: Place::default() };
                let executor = ExecutorId(from.node.0 as u8);
                self.actions.push(Action::Send { executor, from: to, to: from, message });
            }
            Message::CommitAnswer { .. } => {
                let waiting = self.asked.pop_front().expect("it was asked for");
                self.answer(waiting);
            }
            _ => panic!("no other message was sent"),
        }
    }

    fn event(&mut self, _: Time, event: Event) {
        match event {
            Event::Accept(accepting) => self.accepting = accepting,
            Event::Echo(sender) => sender.send(()).expect("a test waits"),
            Event::ReleaseAll => self.release_all(),
            Event::Panic => panic!("as a test wished"),
        }
    }

    fn client_hello(&mut self, _: Time, _: ConnectionId, hello: ClientHello) -> Welcome {
        assert_eq!(hello.name, "toy");
        Welcome::new(ClusterId(1), NodeId(2), 1, 8192)
    }

    fn client_closed(&mut self, _: Time, _: ConnectionId) {
        self.closed += 1;
    }

    fn client_frame(&mut self, _: Time, connection: ConnectionId, bytes: &[u8]) -> Result<(), FrameError> {
        if self.mode == Mode::Forward && self.executor == ExecutorId(0) {
            let frame = Bytes::copy_from_slice(bytes);
            self.actions.push(Action::Forward { executor: ExecutorId(1), connection, frame });
            return Ok(());
        }
        let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
        let request = frame.header.place;
        if frame.header.kind == FrameKind::Batch {
            if self.gathered.len() + bytes.len() > RUN_BYTES_MAX {
                self.close_run();
            }
            self.gathered.extend_from_slice(bytes);
            self.waiting.push((connection, request));
            self.pending_bytes += bytes.len();
            return Ok(());
        }
        match decode_request(&frame)? {
            Request::Status => {
                let json =
                    format!("{{\"batches\":{},\"closed\":{},\"full\":{}}}", self.log.len(), self.closed, self.full);
                self.actions.push(Action::Reply { connection, request, reply: Reply::Status { json } });
            }
            Request::Read(read) => {
                let (at, bytes) = self.log[read.from as usize];
                self.next_ticket += 1;
                self.reads.insert(self.next_ticket, (connection, request, read.from));
                self.actions.push(Action::Read { owner: OWNER, ticket: self.next_ticket, at, bytes });
            }
            Request::CheckTail(request_of) => {
                self.next_ticket += 1;
                self.reads.insert(self.next_ticket, (connection, request, 0));
                let (segment, ticket) = (request_of.tag as u32, self.next_ticket);
                self.actions.push(Action::ReadTags {
                    owner: OWNER,
                    ticket,
                    shard: SHARD,
                    segment,
                    from: request_of.logbook,
                });
            }
            _ => return Err(FrameError::Metadata),
        }
        Ok(())
    }

    fn accepts(&self) -> bool {
        self.accepting && self.pending_bytes < 32 << 20
    }

    fn durable(&mut self, _: Time, owner: Owner, place: JournalPlace) {
        assert_eq!(owner, OWNER);
        let (tags, waiting) = self.appended.pop_front().expect("it was appended");
        let before = self.log.len();
        self.list(place, &tags);
        self.pending_bytes -= self.log[before..].iter().map(|(_, bytes)| *bytes as usize).sum::<usize>();
        if self.mode != Mode::Witness {
            return self.answer(waiting);
        }
        self.asked.push_back(waiting);
        let message = Message::CommitQuery { request: 0 };
        let (from, to) = (Self::address(0), Self::address(1));
        self.actions.push(Action::Send { executor: ExecutorId(1), from, to, message });
    }

    fn read_done(&mut self, _: Time, _: Owner, ticket: u64, result: Result<Bytes, ReadFailure>) {
        let (connection, request, at) = self.reads.remove(&ticket).expect("it was asked for");
        let part = RecordsPart { seqnum: SeqNum(at + 1), index: 0, records: 1, batch: result.expect("a good disk") };
        let reply = RecordsReply { complete: true, parts: vec![part], ..RecordsReply::default() };
        self.actions.push(Action::Reply { connection, request, reply: Reply::Records(reply) });
    }

    fn tags_read(&mut self, _: Time, _: Owner, ticket: u64, first: u64, result: Result<Bytes, ReadFailure>) {
        let (connection, request, _) = self.reads.remove(&ticket).expect("it was asked for");
        let entries = result.expect("a good disk");
        let records: u64 = tags::entries(&entries).map(|entry| entry.expect("valid").records()).sum();
        let json = format!("{{\"first\":{first},\"records\":{records}}}");
        self.actions.push(Action::Reply { connection, request, reply: Reply::Status { json } });
    }

    fn space(&mut self, _: Time, full: bool) {
        self.full = full;
    }

    fn rotten(&mut self, _: Time, _: sealog_runtime::Rotten) {}

    fn vacate(&mut self, _: Time, owner: Owner, segment: u32) {
        self.actions.push(Action::Release { owner, segment });
    }

    fn tick(&mut self, _: Time) {
        panic!("it has no deadline");
    }

    fn flush(&mut self, _: Time, actions: &mut Vec<Action>) {
        self.close_run();
        actions.append(&mut self.actions);
    }

    fn deadline(&self) -> Option<Time> {
        None
    }
}

/// A data directory that is removed in the end.
pub struct Data(pub PathBuf);

impl Data {
    pub fn new(name: &str) -> Data {
        let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("sealog-runtime-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a fresh directory");
        Data(path)
    }

    pub fn socket(&self) -> Listen {
        Listen::Unix(self.0.join("socket"))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn journal(segment_bytes: u64) -> JournalConfig {
    JournalConfig { segment_bytes, ..JournalConfig::new(7) }
}

pub fn config(data: &Data, mode: Mode, listen: Vec<Listen>) -> NodeConfig {
    let first = ExecutorConfig { listen, journal: journal(4 << 20) };
    let second = ExecutorConfig { listen: Vec::new(), journal: JournalConfig { journal_id: 8, ..journal(4 << 20) } };
    let executors = if mode == Mode::Alone { vec![first] } else { vec![first, second] };
    NodeConfig::new(data.0.clone(), executors)
}

pub fn start_toy(config: NodeConfig, mode: Mode) -> Result<Handle<Event>, StartError> {
    start::<Toy, _>(config, move |context| Ok(Toy::new(&context, mode)))
}
