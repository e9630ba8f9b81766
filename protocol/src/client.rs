//! What a client and an engine say to each other.
//!
//! An append is a [`crate::batch`] frame; everything else is a [`Request`] frame. The header's place
//! is the request's id, which the answer repeats; answers come in any order.

use bytes::Bytes;
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use crate::batch::{ArchivedBatchMetadata, access_metadata};
use crate::frame::{Frame, FrameError, FrameKind, HEADER_BYTES, PlaceScope, set_place, write_frame};
pub use crate::ids::Durability;
use crate::ids::{LogBookId, LogspaceId, Logspaces, Place, SessionId, Tag, ViewNumber};
use crate::seqnum::SeqNum;

mod greeting;
mod keeping;
mod operating;
mod subscribing;

pub use greeting::{ClientHello, Welcome, decode_hello, decode_welcome};
pub use keeping::{Description, RetentionRequest, TrimRequest};
pub use operating::{NodeChange, OperateRequest};
pub use subscribing::{CreditRequest, SubscribeRequest};

/// A request other than an append.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Request {
    /// Opens a session in a logspace: [`Reply::SessionOpened`].
    OpenSession {
        logspace: u16,
    },
    /// Makes sure that the LogBook of this name is listed under it: [`Reply::Named`].
    NameLogBook {
        name: String,
    },
    Read(ReadRequest),
    CheckTail(CheckTailRequest),
    /// Lets records below a SeqNum go: [`Reply::TrimDone`].
    Trim(TrimRequest),
    /// Has a LogBook trimmed by itself from now on: [`Reply::RetentionSet`].
    SetRetention(RetentionRequest),
    /// What is known of a LogBook: [`Reply::Described`].
    Describe {
        logbook: u64,
        place: PlaceWire,
    },
    /// The node's state: [`Reply::Status`].
    Status,
    /// Attaches data to a record, for those who read it later: [`Reply::AuxSet`].
    SetAux(SetAuxRequest),
    /// Has records pushed as they come: many [`Reply::Records`] to this one request.
    Subscribe(SubscribeRequest),
    /// Lets a subscription go on. Not answered, unless it is of no bytes.
    Credit(CreditRequest),
    /// Ends a subscription. Not answered; what was sent before still comes.
    Unsubscribe {
        logbook: u64,
        /// The request id of its [`Request::Subscribe`].
        subscription: u64,
    },
    /// An operator's question or change: [`Reply::Operated`].
    Operate(OperateRequest),
    /// As [`Request::NameLogBook`], in a class; refused if the name is used in another one:
    /// [`Reply::NameKnown`].
    CreateLogBook {
        name: String,
        class: Durability,
    },
    /// Asks for the class that a name is used in: [`Reply::NameKnown`]. Linearizable.
    FindLogBook {
        name: String,
    },
}

impl Request {
    /// The logspace that it concerns, of so many; `None` for what any executor of a node answers.
    pub fn logspace(&self, logspaces: impl Into<Logspaces>) -> Option<LogspaceId> {
        let logbook = match self {
            Request::OpenSession { logspace } => return Some(LogspaceId(*logspace)),
            // Names are in class disk, whichever class they are used in.
            Request::NameLogBook { name } | Request::CreateLogBook { name, .. } | Request::FindLogBook { name } => {
                LogBookId::from_name(name)
            }
            Request::Read(read) => LogBookId(read.logbook),
            Request::CheckTail(check) => LogBookId(check.logbook),
            Request::Trim(trim) => LogBookId(trim.logbook),
            Request::SetRetention(retention) => LogBookId(retention.logbook),
            Request::Describe { logbook, .. } | Request::Unsubscribe { logbook, .. } => LogBookId(*logbook),
            Request::SetAux(aux) => LogBookId(aux.logbook),
            Request::Subscribe(subscribe) => LogBookId(subscribe.logbook),
            Request::Credit(credit) => LogBookId(credit.logbook),
            Request::Status | Request::Operate(_) => return None,
        };
        Some(logbook.logspace(logspaces))
    }
}

/// Attaches aux data to a record, in place of what it had.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SetAuxRequest {
    pub logbook: u64,
    pub seqnum: u64,
    /// At most [`crate::limits::AUX_BYTES_MAX`].
    pub data: Vec<u8>,
}

/// Reads records of a LogBook by tag: [`Reply::Records`].
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReadRequest {
    pub logbook: u64,
    /// 0 reads every record.
    pub tag: u64,
    /// Forward: the first SeqNum wanted. Backward: the last.
    pub from: u64,
    /// Forward: the last SeqNum wanted. Backward: the first.
    pub until: u64,
    pub backward: bool,
    /// At most this many records; the answer may have fewer, and then says where to go on.
    pub records_max: u32,
    /// Forward only: with nothing to read, wait for this long; 0 answers at once. Milliseconds.
    pub wait_ms: u32,
    /// Wait until the engine has applied this place: what the session has seen.
    pub place: PlaceWire,
    pub linearizable: bool,
    /// The answer is to have the records' aux data, as far as the engine still has it.
    pub aux: bool,
}

/// Asks for the tail of a LogBook's tag: [`Reply::Tail`].
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CheckTailRequest {
    pub logbook: u64,
    pub tag: u64,
    pub place: PlaceWire,
    pub linearizable: bool,
}

/// A [`Place`] on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PlaceWire {
    pub view: u32,
    pub index: u64,
}

impl From<Place> for PlaceWire {
    fn from(place: Place) -> PlaceWire {
        PlaceWire { view: place.view.0, index: place.index }
    }
}

impl From<PlaceWire> for Place {
    fn from(place: PlaceWire) -> Place {
        Place { view: ViewNumber(place.view), index: place.index }
    }
}

/// Why a request was refused. Whether it may have had an effect is said of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ErrorCode {
    /// The request is malformed or over a limit. No effect.
    Invalid = 1,
    /// The session is unknown, evicted, or its window was left. The append may have been visible
    /// under an earlier try: unknown.
    SessionExpired = 2,
    /// Another name has the same LogBook id. No effect.
    NameTaken = 3,
    /// The disk is full. No effect.
    DiskFull = 4,
    /// The record is there and can't be read: its bytes are damaged.
    Corrupt = 5,
    /// The engine is at a limit (waiting reads, index memory). No effect; try again later.
    Busy = 6,
    /// The node stops, or can't serve this logspace now. No effect; try again.
    Unavailable = 7,
    /// The index has reached its configured memory limit. No effect.
    IndexFull = 8,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    SessionOpened {
        session: SessionId,
        logspace: LogspaceId,
        place: Place,
    },
    Named {
        place: Place,
    },
    /// The batch is visible; its first record has this SeqNum, the others follow by ones.
    Appended {
        seqnum: SeqNum,
        durability: Durability,
        place: Place,
    },
    /// The batch's condition did not hold; nothing of it is visible.
    ConditionFailed {
        tail: SeqNum,
        place: Place,
    },
    Tail {
        tail: Option<SeqNum>,
        place: Place,
    },
    Records(RecordsReply),
    /// Everything below `first` was trimmed.
    Trimmed {
        first: SeqNum,
        place: Place,
    },
    /// The trim is in force: reads of the tag begin at `first`, which may be less than was asked for,
    /// for a trim never reaches what is still to come, or more, for it never goes back.
    TrimDone {
        first: SeqNum,
        place: Place,
    },
    RetentionSet {
        place: Place,
    },
    Described {
        description: Box<Description>,
        place: Place,
    },
    /// The class that a name is used in for ever; none: it was not used yet. `is_new`: this request was
    /// the first to.
    NameKnown {
        class: Option<Durability>,
        is_new: bool,
        place: Place,
    },
    /// JSON text.
    Status {
        json: String,
    },
    /// `kept`: the aux data may come back with the record. Not kept: there is no such visible record
    /// at `place`, or no room for its data.
    AuxSet {
        kept: bool,
        place: Place,
    },
    /// JSON text.
    Operated {
        json: String,
    },
    Error {
        code: ErrorCode,
        message: String,
    },
}

/// Records that were read, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsReply {
    pub place: Place,
    /// There is no further record in the asked range at `place`.
    pub complete: bool,
    pub parts: Vec<RecordsPart>,
    /// Of records that have some, when it was asked for; in their order.
    pub aux: Vec<RecordAux>,
}

/// Aux data of a record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordAux {
    /// Which record of the answer it belongs to, counted from 0.
    pub record: u16,
    pub data: Bytes,
}

/// Consecutive records of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsPart {
    /// SeqNum of the first of them.
    pub seqnum: SeqNum,
    /// Its place in the batch.
    pub index: u16,
    pub records: u16,
    /// The whole batch, verified.
    pub batch: Bytes,
}

#[derive(Archive, Serialize, Deserialize)]
enum ReplyBody {
    SessionOpened { session: u64, logspace: u16, place: PlaceWire },
    Named { place: PlaceWire },
    Appended { seqnum: u64, durability: Durability, place: PlaceWire },
    ConditionFailed { tail: u64, place: PlaceWire },
    Tail { tail: u64, place: PlaceWire },
    Trimmed { first: u64, place: PlaceWire },
    TrimDone { first: u64, place: PlaceWire },
    RetentionSet { place: PlaceWire },
    Described { description: Description, place: PlaceWire },
    Status { json: String },
    Error { code: ErrorCode, message: String },
    AuxSet { kept: bool, place: PlaceWire },
    Operated { json: String },
    NameKnown { class: Option<Durability>, is_new: bool, place: PlaceWire },
}

#[derive(Archive, Serialize, Deserialize)]
struct RecordsMetadata {
    place: PlaceWire,
    complete: bool,
    parts: Vec<PartMetadata>,
    /// Its bytes follow those of the parts.
    aux: Vec<AuxMetadata>,
}

#[derive(Archive, Serialize, Deserialize)]
struct AuxMetadata {
    record: u16,
    bytes: u32,
    /// CRC-32 of the data: the frame's own checksum does not cover it.
    checksum: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartMetadata {
    seqnum: u64,
    index: u16,
    records: u16,
    /// Of the part: the batch's header and metadata, and the payloads of these records alone.
    bytes: u32,
}

/// Appends the frame of a hello, a welcome, or a request to `out`.
macro_rules! encode_archived {
    ($(#[$doc:meta])* $name:ident, $type:ty, $kind:expr) => {
        $(#[$doc])*
        pub fn $name(out: &mut Vec<u8>, place: u64, value: &$type) {
            let metadata = rkyv::to_bytes::<rancor::Error>(value).expect("serialising into memory cannot fail");
            write_frame(out, $kind, place, 0, &metadata, &[]);
        }
    };
}

encode_archived!(
    /// Appends a client's first frame.
    encode_hello, ClientHello, FrameKind::ClientHello
);
encode_archived!(
    /// Appends the answer to it.
    encode_welcome, Welcome, FrameKind::Welcome
);
encode_archived!(
    /// Appends a request's frame.
    encode_request, Request, FrameKind::Request
);

/// The request of a verified frame.
pub fn decode_request(frame: &Frame<'_>) -> Result<Request, FrameError> {
    rkyv::from_bytes::<Request, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)
}

/// Appends an answer's frame to `out`.
pub fn encode_reply(out: &mut Vec<u8>, request: u64, reply: &Reply) {
    let body = match reply {
        Reply::Records(records) => return encode_records(out, request, records),
        Reply::SessionOpened { session, logspace, place } => {
            ReplyBody::SessionOpened { session: session.0, logspace: logspace.0, place: (*place).into() }
        }
        Reply::Named { place } => ReplyBody::Named { place: (*place).into() },
        Reply::Appended { seqnum, durability, place } => {
            ReplyBody::Appended { seqnum: seqnum.0, durability: *durability, place: (*place).into() }
        }
        Reply::ConditionFailed { tail, place } => ReplyBody::ConditionFailed { tail: tail.0, place: (*place).into() },
        Reply::Tail { tail, place } => ReplyBody::Tail { tail: tail.unwrap_or(SeqNum::MIN).0, place: (*place).into() },
        Reply::Trimmed { first, place } => ReplyBody::Trimmed { first: first.0, place: (*place).into() },
        Reply::TrimDone { first, place } => ReplyBody::TrimDone { first: first.0, place: (*place).into() },
        Reply::RetentionSet { place } => ReplyBody::RetentionSet { place: (*place).into() },
        Reply::Described { description, place } => {
            ReplyBody::Described { description: (**description).clone(), place: (*place).into() }
        }
        Reply::Status { json } => ReplyBody::Status { json: json.clone() },
        Reply::Operated { json } => ReplyBody::Operated { json: json.clone() },
        Reply::Error { code, message } => ReplyBody::Error { code: *code, message: message.clone() },
        Reply::AuxSet { kept, place } => ReplyBody::AuxSet { kept: *kept, place: (*place).into() },
        Reply::NameKnown { class, is_new, place } => {
            ReplyBody::NameKnown { class: *class, is_new: *is_new, place: (*place).into() }
        }
    };
    let mut scratch = [0u8; 96];
    match rkyv::api::high::to_bytes_in::<_, rancor::Failure>(&body, rkyv::ser::writer::Buffer::from(&mut scratch[..])) {
        Ok(bytes) => write_frame(out, FrameKind::Reply, request, 0, &bytes, &[]),
        // Only texts are longer.
        Err(_) => {
            let bytes = rkyv::to_bytes::<rancor::Error>(&body).expect("serialising into memory cannot fail");
            write_frame(out, FrameKind::Reply, request, 0, &bytes, &[]);
        }
    }
}

impl RecordsReply {
    /// Bytes of its frame's payload: what it takes of a subscription's credit.
    pub fn payload_bytes(&self) -> usize {
        let parts = self.parts.iter().map(RecordsPart::slices).map(|(head, body)| head.len() + body.len());
        parts.sum::<usize>() + self.aux.iter().map(|aux| aux.data.len()).sum::<usize>()
    }
}

impl RecordsPart {
    /// What of its batch goes over the wire: header and metadata, and the payloads of its records.
    fn slices(&self) -> (&[u8], &[u8]) {
        let frame =
            Frame::parse_unverified(&self.batch).ok().flatten().expect("an engine hands out verified batches only");
        let metadata = access_metadata(frame.metadata).expect("an engine hands out verified batches only");
        let range = payload_range(metadata, self.index, self.records).expect("the part lies in its batch");
        (&frame.bytes[..HEADER_BYTES + frame.metadata.len()], &frame.payload[range])
    }
}

fn encode_records(out: &mut Vec<u8>, request: u64, reply: &RecordsReply) {
    let mut parts = Vec::with_capacity(reply.parts.len());
    let mut payload: Vec<&[u8]> = Vec::with_capacity(reply.parts.len() * 2);
    for part in &reply.parts {
        let (head, body) = part.slices();
        parts.push(PartMetadata {
            seqnum: part.seqnum.0,
            index: part.index,
            records: part.records,
            bytes: (head.len() + body.len()) as u32,
        });
        payload.push(head);
        payload.push(body);
    }
    let mut aux = Vec::with_capacity(reply.aux.len());
    for RecordAux { record, data } in &reply.aux {
        aux.push(AuxMetadata { record: *record, bytes: data.len() as u32, checksum: crc32fast::hash(data) });
        payload.push(data);
    }
    let metadata = RecordsMetadata { place: reply.place.into(), complete: reply.complete, parts, aux };
    let bytes = rkyv::to_bytes::<rancor::Error>(&metadata).expect("serialising into memory cannot fail");
    write_frame(out, FrameKind::Records, request, 0, &bytes, &payload);
}

/// Where the payloads of `records` records from the `index`-th on lie in a batch's payload.
fn payload_range(metadata: &ArchivedBatchMetadata, index: u16, records: u16) -> Option<std::ops::Range<usize>> {
    let (index, records) = (usize::from(index), usize::from(records));
    let sizes = || metadata.records.iter().map(|record| record.payload_bytes.to_native() as usize);
    if records == 0 || index + records > metadata.records.len() {
        return None;
    }
    let start: usize = sizes().take(index).sum();
    Some(start..start + sizes().skip(index).take(records).sum::<usize>())
}

/// A record as a reader gets it: verified against the checksums that its writer made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord {
    pub seqnum: SeqNum,
    pub logbook: LogBookId,
    pub tags: Vec<Tag>,
    /// The writer's clock, milliseconds since 1970, advisory.
    pub time_ms: u64,
    pub payload: Bytes,
    /// What a reader attached to it earlier, if it was asked for and is still there.
    pub aux: Option<Bytes>,
}

/// An answer as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Reply(Reply),
    Records { place: Place, complete: bool, records: Vec<ReadRecord> },
}

/// The answer that a verified frame holds, for the request in its place. Records are verified.
pub fn decode_answer(bytes: &Bytes) -> Result<(u64, Answer), FrameError> {
    let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
    let request = frame.verify_place(PlaceScope::Connection)?;
    let answer = match frame.header.kind {
        FrameKind::Reply => Answer::Reply(decode_reply_metadata(frame.metadata)?),
        FrameKind::Records => decode_records(bytes, &frame)?,
        kind => return Err(FrameError::Kind(kind as u8)),
    };
    Ok((request, answer))
}

/// As [`decode_answer`], for a verified frame of kind [`FrameKind::Reply`] that is read in place.
pub fn decode_reply(frame: &Frame<'_>) -> Result<(u64, Reply), FrameError> {
    if frame.header.kind != FrameKind::Reply {
        return Err(FrameError::Kind(frame.header.kind as u8));
    }
    Ok((frame.verify_place(PlaceScope::Connection)?, decode_reply_metadata(frame.metadata)?))
}

fn decode_reply_metadata(metadata: &[u8]) -> Result<Reply, FrameError> {
    let body = rkyv::from_bytes::<ReplyBody, rancor::Error>(metadata).map_err(|_| FrameError::Metadata)?;
    Ok(match body {
        ReplyBody::SessionOpened { session, logspace, place } => {
            Reply::SessionOpened { session: SessionId(session), logspace: LogspaceId(logspace), place: place.into() }
        }
        ReplyBody::Named { place } => Reply::Named { place: place.into() },
        ReplyBody::Appended { seqnum, durability, place } => {
            Reply::Appended { seqnum: SeqNum(seqnum), durability, place: place.into() }
        }
        ReplyBody::ConditionFailed { tail, place } => {
            Reply::ConditionFailed { tail: SeqNum(tail), place: place.into() }
        }
        ReplyBody::Tail { tail, place } => {
            Reply::Tail { tail: (tail != 0).then_some(SeqNum(tail)), place: place.into() }
        }
        ReplyBody::Trimmed { first, place } => Reply::Trimmed { first: SeqNum(first), place: place.into() },
        ReplyBody::TrimDone { first, place } => Reply::TrimDone { first: SeqNum(first), place: place.into() },
        ReplyBody::RetentionSet { place } => Reply::RetentionSet { place: place.into() },
        ReplyBody::Described { description, place } => {
            Reply::Described { description: Box::new(description), place: place.into() }
        }
        ReplyBody::Status { json } => Reply::Status { json },
        ReplyBody::Operated { json } => Reply::Operated { json },
        ReplyBody::Error { code, message } => Reply::Error { code, message },
        ReplyBody::AuxSet { kept, place } => Reply::AuxSet { kept, place: place.into() },
        ReplyBody::NameKnown { class, is_new, place } => Reply::NameKnown { class, is_new, place: place.into() },
    })
}

fn decode_records(bytes: &Bytes, frame: &Frame<'_>) -> Result<Answer, FrameError> {
    let metadata =
        rkyv::access::<ArchivedRecordsMetadata, rancor::Failure>(frame.metadata).map_err(|_| FrameError::Metadata)?;
    let mut rest = frame.payload;
    let mut records = Vec::with_capacity(metadata.parts.len().min(crate::limits::READ_RECORDS_MAX));
    for part in metadata.parts.iter() {
        let part_bytes = rest.get(..part.bytes.to_native() as usize).ok_or(FrameError::Truncated)?;
        rest = &rest[part_bytes.len()..];
        decode_part(bytes, part, part_bytes, &mut records)?;
    }
    for aux in metadata.aux.iter() {
        let data = rest.get(..aux.bytes.to_native() as usize).ok_or(FrameError::Truncated)?;
        rest = &rest[data.len()..];
        if crc32fast::hash(data) != aux.checksum.to_native() {
            return Err(FrameError::Checksum);
        }
        let record = records.get_mut(usize::from(aux.record.to_native())).ok_or(FrameError::Metadata)?;
        record.aux = Some(bytes.slice_ref(data));
    }
    let place = PlaceWire { view: metadata.place.view.to_native(), index: metadata.place.index.to_native() };
    Ok(Answer::Records { place: place.into(), complete: metadata.complete, records })
}

fn decode_part(
    whole: &Bytes,
    part: &ArchivedPartMetadata,
    bytes: &[u8],
    out: &mut Vec<ReadRecord>,
) -> Result<(), FrameError> {
    // A part's header says how large the whole batch is: only its metadata is read by it.
    let header = crate::frame::Header::parse(bytes)?.ok_or(FrameError::Truncated)?;
    let head_end = HEADER_BYTES + header.metadata_bytes as usize;
    let head = bytes.get(..head_end).ok_or(FrameError::Truncated)?;
    crate::frame::verify_metadata(head, &header)?;
    let metadata = access_metadata(&head[HEADER_BYTES..])?;
    let (index, count) = (part.index.to_native(), part.records.to_native());
    let range = payload_range(metadata, index, count).ok_or(FrameError::Metadata)?;
    if head_end + range.len() != bytes.len() {
        return Err(FrameError::Metadata);
    }
    let mut at = head_end;
    for (nth, record) in metadata.records.iter().skip(usize::from(index)).take(usize::from(count)).enumerate() {
        let payload = &bytes[at..at + record.payload_bytes.to_native() as usize];
        if crc32fast::hash(payload) != record.payload_checksum.to_native() {
            return Err(FrameError::Checksum);
        }
        at += payload.len();
        out.push(ReadRecord {
            seqnum: SeqNum(part.seqnum.to_native().checked_add(nth as u64).ok_or(FrameError::Metadata)?),
            logbook: metadata.logbook(),
            tags: record.tags().collect(),
            time_ms: metadata.time_ms.to_native(),
            payload: whole.slice_ref(payload),
            aux: None,
        });
    }
    Ok(())
}

/// Gives a batch frame another request id: what a client does when it sends one again.
pub fn set_request(frame: &mut [u8], request: u64) {
    set_place(frame, PlaceScope::Connection, request);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchHead, NewRecord, write_batch};
    use crate::ids::RequestNumber;

    fn batch(payloads: &[&[u8]]) -> Bytes {
        let head = BatchHead {
            logbook: LogBookId(1),
            session: SessionId(2),
            request: RequestNumber(3),
            lowest_unanswered: RequestNumber(3),
            time_ms: 4,
            condition: None,
        };
        let records: Vec<NewRecord<'_>> =
            payloads.iter().map(|payload| NewRecord { tags: &[Tag(5)], payload }).collect();
        let mut out = Vec::new();
        write_batch(&mut out, 0, &head, &records).expect("small");
        out.into()
    }

    #[test]
    fn replies_round_trip() {
        let place = Place { view: ViewNumber(1), index: 2 };
        let replies = [
            Reply::SessionOpened { session: SessionId(1), logspace: LogspaceId(0), place },
            Reply::Appended { seqnum: SeqNum(1 << 44), durability: Durability::Disk, place },
            Reply::Tail { tail: None, place },
            Reply::AuxSet { kept: true, place },
            Reply::NameKnown { class: Some(Durability::Memory), is_new: true, place },
            Reply::NameKnown { class: None, is_new: false, place },
            Reply::Error { code: ErrorCode::DiskFull, message: "x".repeat(500) },
        ];
        for reply in replies {
            let mut out = Vec::new();
            encode_reply(&mut out, 77, &reply);
            assert_eq!(decode_answer(&out.into()), Ok((77, Answer::Reply(reply))));
        }
    }

    #[test]
    fn a_part_of_a_batch_is_verified_by_the_writers_checksums() {
        let batch = batch(&[b"zero", b"one", b"two"]);
        let part = RecordsPart { seqnum: SeqNum(101), index: 1, records: 2, batch };
        let reply = Reply::Records(RecordsReply { complete: true, parts: vec![part], ..RecordsReply::default() });
        let mut out = Vec::new();
        encode_reply(&mut out, 1, &reply);
        let header = crate::frame::Header::parse(&out).expect("a frame").expect("whole");
        let Reply::Records(records) = &reply else { panic!("it was made above") };
        assert_eq!(records.payload_bytes(), header.payload_bytes as usize, "what both sides count as credit");
        let (_, answer) = decode_answer(&Bytes::from(out.clone())).expect("what was encoded");
        let Answer::Records { records, complete: true, .. } = answer else { panic!("records, complete") };
        let read: Vec<(u64, &[u8])> = records.iter().map(|record| (record.seqnum.0, &record.payload[..])).collect();
        assert_eq!(read, [(101, &b"one"[..]), (102, b"two")]);
        let last = out.iter().rposition(|byte| *byte == b'o').expect("of two");
        out[last] ^= 1;
        assert_eq!(decode_answer(&out.into()).err(), Some(FrameError::Checksum));
    }

    #[test]
    fn a_part_that_ends_beyond_the_last_seqnum_is_refused() {
        let part = RecordsPart { seqnum: SeqNum(u64::MAX), index: 0, records: 2, batch: batch(&[b"zero", b"one"]) };
        let reply = Reply::Records(RecordsReply { complete: true, parts: vec![part], ..RecordsReply::default() });
        let mut out = Vec::new();
        encode_reply(&mut out, 1, &reply);
        assert_eq!(decode_answer(&out.into()).err(), Some(FrameError::Metadata));
    }

    #[test]
    fn aux_data_comes_with_its_record_and_has_a_checksum_of_its_own() {
        let part = RecordsPart { seqnum: SeqNum(101), index: 0, records: 3, batch: batch(&[b"zero", b"one", b"two"]) };
        let aux = |record, data: &'static [u8]| RecordAux { record, data: Bytes::from_static(data) };
        let mut reply = RecordsReply { complete: true, parts: vec![part], ..RecordsReply::default() };
        reply.aux = vec![aux(1, b"of one"), aux(2, b"")];
        let mut out = Vec::new();
        encode_reply(&mut out, 1, &Reply::Records(reply.clone()));
        let (_, answer) = decode_answer(&Bytes::from(out.clone())).expect("what was encoded");
        let Answer::Records { records, .. } = answer else { panic!("records") };
        let read: Vec<Option<&[u8]>> = records.iter().map(|record| record.aux.as_deref()).collect();
        assert_eq!(read, [None, Some(&b"of one"[..]), Some(b"")]);
        let damaged = out.iter().rposition(|byte| *byte == b'f').expect("of \"of one\"");
        out[damaged] ^= 1;
        assert_eq!(decode_answer(&out.into()).err(), Some(FrameError::Checksum));
        reply.aux = vec![aux(3, b"of none")];
        let mut out = Vec::new();
        encode_reply(&mut out, 1, &Reply::Records(reply));
        assert_eq!(decode_answer(&out.into()).err(), Some(FrameError::Metadata));
    }

    #[test]
    fn aux_data_is_set_by_a_request() {
        let mut request = Vec::new();
        let aux = SetAuxRequest { logbook: 3, seqnum: 7, data: b"view".to_vec() };
        encode_request(&mut request, 5, &Request::SetAux(aux.clone()));
        let frame = Frame::parse(&request).expect("whole").expect("whole");
        assert_eq!(decode_request(&frame), Ok(Request::SetAux(aux)));
    }

    #[test]
    fn golden_bytes_of_records_with_aux_data() {
        let part = RecordsPart { seqnum: SeqNum(101), index: 0, records: 1, batch: batch(&[b"one"]) };
        let aux = vec![RecordAux { record: 0, data: Bytes::from_static(b"view") }];
        let place = Place { view: ViewNumber(1), index: 2 };
        let mut reply = Vec::new();
        encode_reply(&mut reply, 5, &Reply::Records(RecordsReply { place, complete: true, parts: vec![part], aux }));
        let frame = Frame::parse(&reply).expect("whole").expect("whole");
        let hex: String = frame.metadata.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "65000000000000000000010070000000",   // part: SeqNum, index, records, bytes
            "0000040000008eabfdfe",               // aux: record 0, 4 bytes, CRC-32
            "010000000200000000000000",           // place: view, index
            "01d9ffffff01000000e1ffffff01000000", // complete; where parts and aux are
        );
        assert_eq!(hex, golden, "what clients of this version read");
        assert!(frame.payload.ends_with(b"oneview"));
    }
}
