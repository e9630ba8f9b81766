//! A server to test clients against: a log in memory that speaks the protocol as an engine does, and
//! can be told to refuse, forget, and watch. Pure: bytes in, bytes out.
#![allow(dead_code)] // each test binary uses its part of it

mod subscriptions;
pub mod tcp;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sealog_protocol::batch::Batch;
use sealog_protocol::client::{
    Description, Durability, ErrorCode, ReadRequest, RecordAux, RecordsPart, RecordsReply, Reply, Request,
    RetentionRequest, Welcome, decode_request, encode_reply, encode_welcome,
};
use sealog_protocol::frame::{Frame, FrameKind, PlaceScope};
use sealog_protocol::{ClusterId, LogBookId, LogspaceId, NodeId, Place, SeqNum, SessionId, Tag, ViewNumber};

pub struct Stored {
    pub seqnum: SeqNum,
    pub logbook: LogBookId,
    pub tags: Vec<Tag>,
    batch: Bytes,
    index: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Appended(SeqNum),
    ConditionFailed(SeqNum),
}

pub struct FakeServer {
    pub welcome: Welcome,
    pub records: Vec<Stored>,
    sessions: BTreeMap<u64, BTreeMap<u64, Verdict>>,
    pub names: BTreeSet<String>,
    /// What the next requests (appends included) are answered, before anything else.
    pub refusals: VecDeque<ErrorCode>,
    /// Append frames that came, and the greatest distance of a request number from the lowest
    /// unanswered one.
    pub appends_seen: usize,
    pub ahead_max: u64,
    pub reads_seen: Vec<ReadRequest>,
    pub page_records_max: usize,
    pub trimmed_below: SeqNum,
    pub retention: Option<RetentionRequest>,
    /// By SeqNum.
    pub aux: BTreeMap<u64, Vec<u8>>,
    /// Append frames are taken in and not answered.
    pub is_mute: bool,
    place: u64,
    seqnum: SeqNum,
    inputs: BTreeMap<usize, Vec<u8>>,
    outputs: BTreeMap<usize, Vec<u8>>,
    waiting: Vec<(usize, u64, ReadRequest)>,
    pub subscriptions: subscriptions::FakeSubscriptions,
}

impl Default for FakeServer {
    fn default() -> FakeServer {
        FakeServer::new(1, 8192)
    }
}

impl FakeServer {
    pub fn new(logspaces: u16, window: u32) -> FakeServer {
        FakeServer {
            welcome: Welcome::new(ClusterId(7), NodeId(1), logspaces, window),
            records: Vec::new(),
            sessions: BTreeMap::new(),
            names: BTreeSet::new(),
            refusals: VecDeque::new(),
            appends_seen: 0,
            ahead_max: 0,
            reads_seen: Vec::new(),
            page_records_max: 1024,
            trimmed_below: SeqNum::MIN,
            retention: None,
            aux: BTreeMap::new(),
            is_mute: false,
            place: 0,
            seqnum: SeqNum::new(ViewNumber(1), 0),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            waiting: Vec::new(),
            subscriptions: subscriptions::FakeSubscriptions::default(),
        }
    }

    pub fn payloads(&self) -> Vec<Vec<u8>> {
        self.records.iter().map(|stored| self.payload(stored)).collect()
    }

    fn payload(&self, stored: &Stored) -> Vec<u8> {
        let batch = Batch::parse(&stored.batch).expect("verified when it came");
        let sizes = batch.metadata.records.iter().map(|record| record.payload_bytes.to_native() as usize);
        let start: usize = sizes.clone().take(usize::from(stored.index)).sum();
        let bytes = sizes.clone().nth(usize::from(stored.index)).expect("it is there");
        batch.frame.payload[start..start + bytes].to_vec()
    }

    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers the waiting reads as if their time were over.
    pub fn end_waits(&mut self) {
        for (connection, request, read) in std::mem::take(&mut self.waiting) {
            let reply = self.read(&read);
            self.answer(connection, request, &reply);
        }
    }

    pub fn disconnect(&mut self, connection: usize) {
        self.inputs.remove(&connection);
        self.outputs.remove(&connection);
        self.waiting.retain(|(waiting, ..)| *waiting != connection);
        self.subscriptions.disconnect(connection);
    }

    /// Takes bytes in, and acts on the whole frames among them.
    pub fn receive(&mut self, connection: usize, bytes: &[u8]) {
        let mut input = self.inputs.remove(&connection).unwrap_or_default();
        input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(frame) = Frame::parse(&input[at..]).expect("clients send valid frames") {
            at += frame.bytes.len();
            self.frame(connection, &frame);
        }
        input.drain(..at);
        self.inputs.insert(connection, input);
    }

    /// What is to be sent on a connection.
    pub fn output(&mut self, connection: usize) -> Vec<u8> {
        self.outputs.remove(&connection).unwrap_or_default()
    }

    fn answer(&mut self, connection: usize, request: u64, reply: &Reply) {
        encode_reply(self.outputs.entry(connection).or_default(), request, reply);
    }

    fn frame(&mut self, connection: usize, frame: &Frame<'_>) {
        let request = frame.verify_place(PlaceScope::Connection).expect("clients write the place");
        if frame.header.kind == FrameKind::ClientHello {
            encode_welcome(self.outputs.entry(connection).or_default(), 0, &self.welcome);
            return;
        }
        if let Some(code) = self.refusals.pop_front() {
            let reply = Reply::Error { code, message: "as the test says".to_owned() };
            return self.answer(connection, request, &reply);
        }
        match frame.header.kind {
            FrameKind::Batch => {
                self.appends_seen += 1;
                let reply = self.append(Bytes::copy_from_slice(frame.bytes));
                if !self.is_mute {
                    self.answer(connection, request, &reply);
                }
                let waits = std::mem::take(&mut self.waiting);
                for (connection, request, read) in waits {
                    self.read_or_wait(connection, request, read);
                }
                self.push();
            }
            FrameKind::Request => match decode_request(frame).expect("clients send valid requests") {
                Request::OpenSession { logspace } => {
                    let session = SessionId(self.next_seqnum().0);
                    self.sessions.insert(session.0, BTreeMap::new());
                    let reply = Reply::SessionOpened { session, logspace: LogspaceId(logspace), place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::NameLogBook { name } => {
                    self.names.insert(name);
                    let reply = Reply::Named { place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::Read(read) => {
                    self.reads_seen.push(read.clone());
                    self.read_or_wait(connection, request, read);
                }
                Request::CheckTail(check) => {
                    let tail = self.tail(LogBookId(check.logbook), Tag(check.tag));
                    let reply = Reply::Tail { tail, place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::Trim(trim) => {
                    self.trimmed_below = self.trimmed_below.max(SeqNum(trim.first).min(self.seqnum.next()));
                    let reply = Reply::TrimDone { first: self.trimmed_below, place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::SetRetention(retention) => {
                    self.retention = Some(retention);
                    let reply = Reply::RetentionSet { place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::Describe { .. } => {
                    let (retain_ms, retain_bytes) =
                        self.retention.as_ref().map_or((0, 0), |set| (set.age_ms, set.bytes));
                    let first = self.trimmed_below.0;
                    let records = self.records.iter().filter(|stored| stored.seqnum.0 >= first).count() as u64;
                    let description =
                        Box::new(Description { first, tail: self.seqnum.0, records, retain_ms, retain_bytes });
                    let reply = Reply::Described { description, place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::Subscribe(wanted) => self.subscribe(connection, request, wanted),
                Request::Credit(credit) => self.credit(connection, &credit),
                Request::Unsubscribe { subscription, .. } => self.subscriptions.end(connection, subscription),
                Request::SetAux(aux) => {
                    let kept = self
                        .records
                        .iter()
                        .any(|stored| stored.seqnum.0 == aux.seqnum && stored.logbook.0 == aux.logbook);
                    if kept {
                        self.aux.insert(aux.seqnum, aux.data);
                    }
                    let reply = Reply::AuxSet { kept, place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::Status => self.answer(connection, request, &Reply::Status { json: "{}".to_owned() }),
                Request::Operate(_) => self.answer(connection, request, &Reply::Operated { json: "{}".to_owned() }),
                // Every name is of class disk.
                Request::CreateLogBook { name, class } => {
                    let is_new = self.names.insert(name);
                    let reply = Reply::NameKnown { class: Some(class), is_new, place: self.place() };
                    self.answer(connection, request, &reply);
                }
                Request::FindLogBook { name } => {
                    let class = self.names.contains(&name).then_some(Durability::Disk);
                    let reply = Reply::NameKnown { class, is_new: false, place: self.place() };
                    self.answer(connection, request, &reply);
                }
            },
            kind => panic!("a client sent a {kind:?}"),
        }
    }

    pub fn place(&self) -> Place {
        Place { view: ViewNumber(1), index: self.place }
    }

    fn next_seqnum(&mut self) -> SeqNum {
        self.place += 1;
        self.seqnum = self.seqnum.next();
        self.seqnum
    }

    fn tail(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        self.records.iter().rev().find(|stored| stored.logbook == logbook && stored.has(tag)).map(|found| found.seqnum)
    }

    fn append(&mut self, bytes: Bytes) -> Reply {
        let batch = Batch::parse(&bytes).expect("clients send valid batches");
        let metadata = batch.metadata;
        let (session, request) = (metadata.session().0, metadata.request().0);
        self.ahead_max = self.ahead_max.max(request - metadata.lowest_unanswered().0);
        let known = self.sessions.get(&session).map(|verdicts| verdicts.get(&request).copied());
        let verdict = match known {
            None => return Reply::Error { code: ErrorCode::SessionExpired, message: "forgotten".to_owned() },
            Some(Some(verdict)) => verdict,
            Some(None) => {
                let tail = metadata.condition().map(|(tag, expected)| (self.tail(metadata.logbook(), tag), expected));
                match tail {
                    Some((Some(tail), expected)) if tail > expected => Verdict::ConditionFailed(tail),
                    _ => Verdict::Appended(self.store(&bytes, &batch)),
                }
            }
        };
        self.sessions.get_mut(&session).expect("looked up above").insert(request, verdict);
        match verdict {
            Verdict::Appended(seqnum) => Reply::Appended { seqnum, durability: Durability::Disk, place: self.place() },
            Verdict::ConditionFailed(tail) => Reply::ConditionFailed { tail, place: self.place() },
        }
    }

    fn store(&mut self, bytes: &Bytes, batch: &Batch<'_>) -> SeqNum {
        let first = self.seqnum.next();
        for (index, record) in batch.metadata.records.iter().enumerate() {
            let seqnum = self.next_seqnum();
            let (logbook, tags) = (batch.metadata.logbook(), record.tags().collect());
            self.records.push(Stored { seqnum, logbook, tags, batch: bytes.clone(), index: index as u16 });
        }
        first
    }

    fn read_or_wait(&mut self, connection: usize, request: u64, read: ReadRequest) {
        let reply = self.read(&read);
        let is_empty = matches!(&reply, Reply::Records(records) if records.parts.is_empty());
        match is_empty && read.wait_ms > 0 {
            true => self.waiting.push((connection, request, read)),
            false => self.answer(connection, request, &reply),
        }
    }

    fn read(&self, read: &ReadRequest) -> Reply {
        let (first, last) = if read.backward { (read.until, read.from) } else { (read.from, read.until) };
        if first < self.trimmed_below.0 && !read.backward {
            return Reply::Trimmed { first: self.trimmed_below, place: self.place() };
        }
        let wanted = |stored: &&Stored| {
            stored.logbook.0 == read.logbook && stored.has(Tag(read.tag)) && (first..=last).contains(&stored.seqnum.0)
        };
        let mut found: Vec<&Stored> = self.records.iter().filter(wanted).collect();
        if read.backward {
            found.reverse();
        }
        let records_max = self.page_records_max.min(read.records_max as usize);
        let complete = found.len() <= records_max;
        found.truncate(records_max);
        let aux_of = |(record, stored): (u16, &&Stored)| {
            let data = self.aux.get(&stored.seqnum.0).filter(|_| read.aux)?;
            Some(RecordAux { record, data: Bytes::copy_from_slice(data) })
        };
        let aux = (0..).zip(&found).filter_map(aux_of).collect();
        let parts = found.into_iter().map(|stored| RecordsPart {
            seqnum: stored.seqnum,
            index: stored.index,
            records: 1,
            batch: stored.batch.clone(),
        });
        Reply::Records(RecordsReply { place: self.place(), complete, parts: parts.collect(), aux })
    }
}

impl Stored {
    fn has(&self, tag: Tag) -> bool {
        tag == Tag::ALL || self.tags.contains(&tag)
    }
}
