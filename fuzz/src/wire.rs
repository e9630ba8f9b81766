//! Frames, messages between machines, requests and answers of clients.

use bytes::Bytes;
use sealog_protocol::batch::Batch;
use sealog_protocol::client::{
    Answer, decode_answer, decode_hello, decode_reply, decode_request, decode_welcome, encode_hello, encode_reply,
    encode_request,
};
use sealog_protocol::frame::{Frame, FrameKind, HEADER_BYTES, Header, PlaceScope, write_frame};
use sealog_protocol::message;
use sealog_protocol::{metalog, peer, tags};

const KINDS: [FrameKind; 12] = [
    FrameKind::Batch,
    FrameKind::ClientHello,
    FrameKind::Welcome,
    FrameKind::Request,
    FrameKind::Reply,
    FrameKind::Records,
    FrameKind::PeerHello,
    FrameKind::Message,
    FrameKind::BatchMessage,
    FrameKind::Chain,
    FrameKind::PeerWelcome,
    FrameKind::PeerRefusal,
];

/// Bytes before metadata and payload in an input that becomes a frame.
const HEAD_BYTES: usize = 13;

/// The frame that an input describes, all its checksums right: kind, count, place, how much is
/// metadata; then metadata and payload. [`crate::seeds`] writes such inputs.
fn sealed(input: &[u8], kinds: &[FrameKind]) -> Option<Vec<u8>> {
    let (head, content) = input.split_at_checked(HEAD_BYTES)?;
    let kind = kinds[usize::from(head[0]) % kinds.len()];
    let count = u16::from_le_bytes([head[1], head[2]]);
    let place = u64::from_le_bytes(head[3..11].try_into().expect("eight bytes"));
    let metadata_bytes = usize::from(u16::from_le_bytes([head[11], head[12]]));
    let (metadata, payload) = content.split_at(metadata_bytes.min(content.len()));
    let mut frame = Vec::new();
    write_frame(&mut frame, kind, place, count, metadata, &[payload]);
    Some(frame)
}

/// The input that [`sealed`] makes this frame of.
pub(crate) fn unsealed(frame: &[u8], kinds: &[FrameKind]) -> Vec<u8> {
    let frame = Frame::parse(frame).expect("a frame").expect("whole");
    let kind = kinds.iter().position(|kind| *kind == frame.header.kind).expect("of these kinds");
    let mut input = vec![kind as u8];
    input.extend_from_slice(&frame.header.count.to_le_bytes());
    input.extend_from_slice(&frame.header.place.to_le_bytes());
    input.extend_from_slice(&(frame.metadata.len() as u16).to_le_bytes());
    input.extend_from_slice(frame.metadata);
    input.extend_from_slice(frame.payload);
    input
}

/// Any bytes, as a socket gives them.
pub fn frame(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some(header)) = Header::parse(rest) {
        let Ok(Some(frame)) = Frame::parse_unverified(rest) else { break };
        assert_eq!(frame.bytes.len(), header.frame_bytes());
        assert!(frame.bytes.len() >= HEADER_BYTES);
        let _ = frame.verify_place(PlaceScope::Connection);
        if let Ok(Some(frame)) = Frame::parse(rest) {
            let _ = Batch::parse_metadata(frame);
        }
        rest = &rest[frame.bytes.len()..];
    }
    look_into(input);
    if let Some(frame) = sealed(input, &KINDS) {
        let parsed = Frame::parse(&frame).expect("its checksums are right").expect("it is whole");
        parsed.verify_place(PlaceScope::Connection).expect("so is its place");
        if let Ok(batch) = Batch::parse(&frame) {
            let payloads: usize = batch.metadata.records.iter().map(|of| of.payload_bytes.to_native() as usize).sum();
            assert_eq!(payloads, batch.frame.payload.len());
        }
    }
}

/// Payloads of messages, and entries of a footer: what is in them is parsed by whoever takes them in.
fn look_into(payload: &[u8]) {
    for entry in metalog::entries(payload) {
        let Ok((entry, _)) = entry else { break };
        let mut again = Vec::new();
        entry.encode(&mut again);
        let _ = metalog::Entry::decode(&again).expect("what was understood can be said again");
    }
    for entry in tags::entries(payload) {
        let Ok(entry) = entry else { break };
        assert!(entry.records() <= u64::from(u16::MAX));
    }
    for head in tags::heads(payload) {
        let Ok(head) = head else { break };
        let _ = head.metadata();
    }
    for header in tags::batch_headers(payload) {
        if header.is_err() {
            break;
        }
    }
    let _ = tags::write_tags(&mut Vec::new(), payload);
}

pub(crate) const MESSAGES: [FrameKind; 5] =
    [FrameKind::Message, FrameKind::BatchMessage, FrameKind::PeerHello, FrameKind::PeerWelcome, FrameKind::PeerRefusal];

/// What nodes say to each other.
pub fn message(input: &[u8]) {
    let Some(frame) = sealed(input, &MESSAGES) else { return };
    if let Ok(greeting) = peer::decode_greeting(&frame) {
        let mut again = Vec::new();
        peer::encode_greeting(&mut again, &greeting);
        assert_eq!(peer::decode_greeting(&again), Ok(greeting));
    }
    let Ok((from, to, message)) = message::decode(&Bytes::from(frame)) else { return };
    let mut again = Vec::new();
    message::encode(&mut again, from, to, &message);
    let parsed = Frame::parse(&again).expect("what we say is a frame").expect("whole");
    look_into(parsed.payload);
    assert_eq!(message::decode(&Bytes::from(again)), Ok((from, to, message)));
}

pub(crate) const REQUESTS: [FrameKind; 3] = [FrameKind::Request, FrameKind::ClientHello, FrameKind::Batch];

/// What clients say to nodes.
pub fn client_request(input: &[u8]) {
    let Some(bytes) = sealed(input, &REQUESTS) else { return };
    let frame = Frame::parse(&bytes).expect("its checksums are right").expect("it is whole");
    let place = frame.header.place;
    let mut again = Vec::new();
    match frame.header.kind {
        FrameKind::ClientHello => {
            let Ok(hello) = decode_hello(&frame) else { return };
            encode_hello(&mut again, place, &hello);
            let said = Frame::parse(&again).expect("a frame").expect("whole");
            assert_eq!(decode_hello(&said), Ok(hello));
        }
        FrameKind::Request => {
            let Ok(request) = decode_request(&frame) else { return };
            assert!(request.logspace(7).is_none_or(|logspace| logspace.0 < 7 || is_open_session(&request)));
            encode_request(&mut again, place, &request);
            let said = Frame::parse(&again).expect("a frame").expect("whole");
            assert_eq!(decode_request(&said), Ok(request));
        }
        _ => {
            let Ok(batch) = Batch::parse_metadata(frame) else { return };
            let _ = (batch.metadata.logbook(), batch.metadata.session(), batch.metadata.condition());
            let tags: usize = batch.metadata.records.iter().map(|record| record.tags().count()).sum();
            assert!(tags <= sealog_protocol::limits::BATCH_TAGS_MAX);
            let _ = Batch::parse(&bytes);
            look_into(&bytes);
        }
    }
}

/// Its logspace is the client's wish, and whoever serves it refuses what there is not.
fn is_open_session(request: &sealog_protocol::client::Request) -> bool {
    matches!(request, sealog_protocol::client::Request::OpenSession { .. })
}

pub(crate) const REPLIES: [FrameKind; 3] = [FrameKind::Reply, FrameKind::Records, FrameKind::Welcome];

/// What nodes answer.
pub fn client_reply(input: &[u8]) {
    let Some(bytes) = sealed(input, &REPLIES) else { return };
    let frame = Frame::parse(&bytes).expect("its checksums are right").expect("it is whole");
    let _ = decode_welcome(&frame);
    if let Ok((request, reply)) = decode_reply(&frame) {
        let mut again = Vec::new();
        encode_reply(&mut again, request, &reply);
        let said = Frame::parse(&again).expect("a frame").expect("whole");
        assert_eq!(decode_reply(&said), Ok((request, reply)));
    }
    let length = bytes.len();
    if let Ok((_, Answer::Records { records, .. })) = decode_answer(&Bytes::from(bytes)) {
        let payloads: usize = records.iter().map(|record| record.payload.len()).sum();
        assert!(payloads <= length, "{payloads} bytes of records in {length}");
    }
}
