//! What one append costs a session, in nanoseconds: submitting and sending it, and taking in its
//! answer. The server's part is not counted.
//!
//! `cargo run --release -p sealog --example session_cost`

use std::time::{Duration, Instant};

use sealog::session::{Append, Operation, Session, SessionConfig, Target};
use sealog::{Durability, LogBookId, NewRecord, SeqNum, Tag};
use sealog_protocol::client::{Reply, Request, Welcome, decode_request, encode_reply, encode_welcome};
use sealog_protocol::frame::{Frame, FrameKind};
use sealog_protocol::{ClusterId, LogspaceId, NodeId, Place, SessionId, Time, ViewNumber};

const ROUNDS: usize = 20_000;
const IN_FLIGHT: usize = 64;

fn main() {
    for payload_bytes in [100, 1024] {
        let (mut submitting, mut answering) = (Duration::ZERO, Duration::ZERO);
        let mut session = Session::new(SessionConfig::default());
        let payload = vec![7; payload_bytes];
        let id = LogBookId::from_name("book");
        session.connected(Time::ZERO);
        let mut replies = Vec::new();
        for round in 0..ROUNDS as u64 {
            let now = Time(round * 1_000);
            let begun = Instant::now();
            for _ in 0..IN_FLIGHT {
                let records = [NewRecord { tags: &[Tag(9)], payload: &payload }];
                let logbook = Target::Named { id, name: "book" };
                let append = Append { logbook, condition: None, time_ms: round, records: &records };
                let deadline = now + Duration::from_secs(10);
                session.submit(now, Operation::Append(append), deadline).expect("there is room");
            }
            submitting += begun.elapsed();
            // Twice more in the first round: a session and a name come first.
            while session.in_flight() > 0 {
                replies.clear();
                while !session.transmit().is_empty() {
                    answer(session.transmit(), &mut replies);
                    session.transmitted(session.transmit().len());
                }
                let begun = Instant::now();
                session.receive(now, &replies).expect("valid");
                while session.next_completion().is_some() {}
                answering += begun.elapsed();
            }
        }
        let each = |total: Duration| total.as_nanos() / (ROUNDS * IN_FLIGHT) as u128;
        println!("{payload_bytes} bytes: submit {} ns, answer {} ns", each(submitting), each(answering));
    }
}

fn answer(mut bytes: &[u8], out: &mut Vec<u8>) {
    let place = Place { view: ViewNumber(1), index: 1 };
    while let Some(frame) = Frame::parse_unverified(bytes).expect("valid") {
        bytes = &bytes[frame.bytes.len()..];
        let reply = match frame.header.kind {
            FrameKind::ClientHello => {
                encode_welcome(out, 0, &Welcome::new(ClusterId(1), NodeId(1), 1, 8192));
                continue;
            }
            FrameKind::Batch => Reply::Appended { seqnum: SeqNum(1), durability: Durability::Disk, place },
            _ => match decode_request(&frame).expect("valid") {
                Request::OpenSession { .. } => {
                    Reply::SessionOpened { session: SessionId(1), logspace: LogspaceId(0), place }
                }
                _ => Reply::Named { place },
            },
        };
        encode_reply(out, frame.header.place, &reply);
    }
}
