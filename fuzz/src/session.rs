//! A client's session, and a server that may say anything to it.

use std::time::Duration;

use sealog::session::{Append, Direction, Manage, Operation, Read, Session, SessionConfig, SetAux, Subscribe, Target};
use sealog::{LogBookId, NewRecord, OperationId, SeqNum, Tag};
use sealog_protocol::client::{Welcome, encode_welcome};
use sealog_protocol::frame::write_frame;
use sealog_protocol::{ClusterId, NodeId, Time};

use crate::wire::REPLIES;

/// Kind, count, counter and index of the request that it answers, bytes of metadata and in all.
const HEAD_BYTES: usize = 9;
/// A request's id is a counter, and in these low bits a place.
const REQUEST_INDEX_BITS: u32 = 20;
const OPERATIONS: usize = 16;

/// Answers to requests that were asked, or were not, in any order and portions, over connections that
/// end. The session holds no more than it is configured to, completes what it completes once, and ends
/// every operation in the end.
pub fn client_session(input: &[u8]) {
    let config = SessionConfig { operations_max: OPERATIONS, subscription_bytes: 4096, ..SessionConfig::default() };
    let mut session = Session::new(config);
    let mut now = Time(1);
    let subscription = begin(&mut session, now);
    let mut ended = Vec::new();
    connect(&mut session, now);
    let mut rest = input;
    while let Some((frame, portion, after)) = next_frame(rest) {
        rest = after;
        now = now + Duration::from_millis(u64::from(portion));
        let (one, other) = frame.split_at(usize::from(portion).min(frame.len()));
        let taken = session.receive(now, one).and_then(|()| session.receive(now, other));
        let taken = taken.and_then(|()| session.tick(now));
        let bytes = session.transmit().len();
        session.transmitted(bytes);
        if let Err(error) = taken {
            session.disconnected(now, error);
            connect(&mut session, now);
        }
        take(&mut session, now, subscription, &mut ended);
    }
    now = now + Duration::from_secs(3600);
    if let Err(error) = session.tick(now) {
        session.disconnected(now, error);
    }
    let _ = session.tick(now);
    take(&mut session, now, subscription, &mut ended);
    assert_eq!(session.in_flight(), 0, "every operation has a deadline");
}

/// An operation of each kind, and a subscription.
fn begin(session: &mut Session, now: Time) -> OperationId {
    let (logbook, tag, deadline) = (LogBookId(3), Tag(7), now + Duration::from_secs(60));
    let read = Read {
        logbook,
        tag,
        first: SeqNum::MIN,
        last: SeqNum::MAX,
        direction: Direction::Forward,
        records_max: 10,
        wait: Duration::ZERO,
        linearizable: true,
        aux: true,
    };
    let records = [NewRecord { tags: &[tag], payload: b"payload" }];
    let append = |logbook| Append { logbook, condition: None, time_ms: 5, records: &records };
    let operations = [
        Operation::Append(append(Target::Id(logbook))),
        Operation::Append(append(Target::Name("orders"))),
        Operation::Read(read),
        Operation::Read(Read { direction: Direction::Backward, ..read }),
        Operation::CheckTail { logbook, tag, linearizable: false },
        Operation::Status,
        Operation::Manage(Manage::Trim { logbook, tag, first: SeqNum(9) }),
        Operation::Manage(Manage::Describe { logbook }),
        Operation::SetAux(SetAux { logbook, seqnum: SeqNum(9), data: b"aux" }),
    ];
    for operation in operations {
        session.submit(now, operation, deadline).expect("few operations, within the limits");
    }
    let wanted = Subscribe { logbook, tag, from: SeqNum::MIN, patience: Duration::from_secs(60) };
    session.subscribe(now, wanted).expect("the first")
}

fn connect(session: &mut Session, now: Time) {
    session.connected(now);
    let mut welcome = Vec::new();
    encode_welcome(&mut welcome, 0, &Welcome::new(ClusterId(1), NodeId(2), 1, 64));
    session.receive(now, &welcome).expect("a server that begins well");
    let bytes = session.transmit().len();
    session.transmitted(bytes);
}

/// What completed, each operation once; what the subscription told is within its credit.
fn take(session: &mut Session, now: Time, subscription: OperationId, ended: &mut Vec<OperationId>) {
    while let Some((operation, _)) = session.next_completion() {
        assert!(!ended.contains(&operation), "it completed before");
        ended.push(operation);
    }
    while session.next_notice().is_some() {}
    while session.next_event(now, subscription).is_some() {}
    assert!(session.in_flight() <= OPERATIONS + 8, "names and sessions are few beside operations");
}

/// The next frame that the input describes, where it is cut in two, and the rest of the input.
fn next_frame(input: &[u8]) -> Option<(Vec<u8>, u8, &[u8])> {
    let (head, rest) = input.split_at_checked(HEAD_BYTES)?;
    let kind = REPLIES[usize::from(head[0]) % REPLIES.len()];
    let request = u64::from(head[2]) << REQUEST_INDEX_BITS | u64::from(head[3]);
    let metadata_bytes = usize::from(u16::from_le_bytes([head[4], head[5]]));
    let bytes = usize::from(u16::from_le_bytes([head[6], head[7]]));
    let (content, rest) = rest.split_at(bytes.min(rest.len()));
    let (metadata, payload) = content.split_at(metadata_bytes.min(content.len()));
    let mut frame = Vec::new();
    write_frame(&mut frame, kind, request, u16::from(head[1]), metadata, &[payload]);
    Some((frame, head[8], rest))
}

/// The input of an answer to each request there may be.
pub(crate) fn seed(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let described = |frame: &Vec<u8>, counter: u8, index: u8| {
        let frame = sealog_protocol::frame::Frame::parse(frame).expect("a frame").expect("whole");
        let kind = REPLIES.iter().position(|kind| *kind == frame.header.kind).expect("an answer") as u8;
        let bytes = (frame.metadata.len() + frame.payload.len()) as u16;
        let mut input = vec![kind, frame.header.count as u8, counter, index];
        input.extend_from_slice(&(frame.metadata.len() as u16).to_le_bytes());
        input.extend_from_slice(&bytes.to_le_bytes());
        input.push(200);
        input.extend_from_slice(frame.metadata);
        input.extend_from_slice(frame.payload);
        input
    };
    let small = frames.iter().filter(|frame| frame.len() < 4096);
    small.map(|frame| (0..12).flat_map(|nth| described(frame, nth, nth)).collect()).collect()
}
