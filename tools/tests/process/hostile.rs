//! A client that lies, floods, stalls and disappears, beside one that does its work: the table of
//! docs/hostile-input.md, case by case.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{
    CheckTailRequest, CreditRequest, ErrorCode, PlaceWire, ReadRequest, Reply, Request, SubscribeRequest, decode_reply,
    encode_request,
};
use sealog_protocol::frame::{Frame, HEADER_BYTES, Header, write_frame};
use sealog_protocol::limits::SESSION_OPENINGS_MAX;
use sealog_protocol::{LogBookId, RequestNumber, SeqNum, SessionId, Tag};

use crate::frames::{Bystander, batch, connect, connect_from, hello, resident_bytes};
use crate::node::{Node, NodeCommand, fresh_directory, seed};

/// A node that has taken all that is below stays under this.
const RESIDENT_BYTES_MAX: u64 = 1 << 30;
/// Values that a field may not have, or that no one expects of it.
const LIES: [u64; 7] = [0, 1, 255, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX];
const LAST: u64 = 0x1A57;

fn request(id: u64, request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, id, request);
    bytes
}

fn node_with(data: &std::path::Path, settings: &[(&'static str, &'static str)]) -> Node {
    let command = NodeCommand { settings: settings.to_vec(), ..NodeCommand::new(data) };
    command.start().unwrap_or_else(|ended| panic!("the node does not start: {ended:?}"))
}

/// The ids of all frames that come until the peer closes, or the answer to [`LAST`] is there.
fn answers(stream: &mut TcpStream) -> Vec<u64> {
    let mut ids = Vec::new();
    loop {
        let mut bytes = vec![0; HEADER_BYTES];
        match stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither answered nor closed: {ids:?}"),
            Err(_) => return ids,
        }
        if rest_of_frame(stream, &mut bytes).is_err() {
            return ids;
        }
        let frame = Frame::parse(&bytes).expect("the node sends valid frames").expect("whole");
        ids.push(frame.header.place);
        if frame.header.place == LAST {
            return ids;
        }
    }
}

/// Reads what follows a frame's header.
fn rest_of_frame(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let header = Header::parse(bytes).expect("the node sends frames").expect("whole");
    bytes.resize(header.frame_bytes(), 0);
    stream.read_exact(&mut bytes[HEADER_BYTES..])
}

fn next_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    stream.read_exact(&mut bytes).expect("it answers");
    rest_of_frame(stream, &mut bytes).expect("a whole frame");
    bytes
}

/// Says something false after a good hello, and then asks a plain question: the node answers that,
/// or has closed the connection.
fn lie(address: &str, false_frame: &[u8]) {
    let mut stream = connect(address);
    let bytes = [hello(), false_frame.to_vec(), request(LAST, &Request::Status)].concat();
    // It may be closed before all is sent.
    let _ = stream.write_all(&bytes);
    answers(&mut stream);
}

fn false_requests() -> Vec<Request> {
    let read = |change: &dyn Fn(&mut ReadRequest)| {
        let place = PlaceWire::default();
        let mut read = ReadRequest {
            logbook: 3,
            tag: 1,
            from: 0,
            until: u64::MAX,
            backward: false,
            records_max: 10,
            wait_ms: 0,
            place,
            linearizable: false,
            aux: false,
        };
        change(&mut read);
        Request::Read(read)
    };
    let mut requests = Vec::new();
    for value in LIES {
        requests.push(Request::OpenSession { logspace: value as u16 });
        requests.push(Request::NameLogBook { name: "n".repeat((value % 100_000) as usize) });
        requests.push(read(&|read| read.logbook = value));
        requests.push(read(&|read| read.tag = value));
        requests.push(read(&|read| read.from = value));
        requests.push(read(&|read| read.until = value));
        requests.push(read(&|read| (read.from, read.until, read.backward) = (value, 0, true)));
        requests.push(read(&|read| (read.from, read.until) = (u64::MAX, value)));
        requests.push(read(&|read| read.records_max = value as u32));
        requests.push(read(&|read| (read.from, read.wait_ms) = (u64::MAX, value as u32)));
        requests.push(read(&|read| read.linearizable = true));
        let (place, linearizable) = (PlaceWire::default(), value % 2 == 1);
        requests.push(Request::CheckTail(CheckTailRequest { logbook: value, tag: value, place, linearizable }));
        let (from, credit_bytes) = (value, value as u32);
        let subscribe = SubscribeRequest { logbook: 3, tag: value, from, credit_bytes, place };
        requests.push(Request::Subscribe(SubscribeRequest { logbook: value, ..subscribe.clone() }));
        let place = PlaceWire { view: value as u32, index: value };
        requests.push(Request::Subscribe(SubscribeRequest { place, ..subscribe }));
        // Of subscriptions of this connection, and of none.
        for subscription in [value, 1, 2, 3] {
            let bytes = value as u32;
            requests.push(Request::Credit(CreditRequest { logbook: 3, subscription, bytes }));
            requests.push(Request::Unsubscribe { logbook: value, subscription });
        }
    }
    requests
}

fn false_batches() -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    for value in LIES {
        let changes: [&dyn Fn(&mut BatchHead); 7] = [
            &|head| head.logbook = LogBookId(value),
            &|head| head.session = SessionId(value),
            &|head| head.request = RequestNumber(value),
            &|head| head.lowest_unanswered = RequestNumber(value),
            &|head| head.time_ms = value,
            &|head| head.condition = Some((Tag(value), SeqNum(0))),
            &|head| head.condition = Some((Tag(1), SeqNum(value))),
        ];
        for change in changes {
            let mut head = BatchHead {
                logbook: LogBookId(3),
                session: SessionId(1),
                request: RequestNumber(1),
                lowest_unanswered: RequestNumber(1),
                time_ms: 0,
                condition: None,
            };
            change(&mut head);
            let mut bytes = Vec::new();
            let records = [NewRecord { tags: &[Tag(value.max(1))], payload: &[7; 100] }];
            write_batch(&mut bytes, 2, &head, &records).expect("within limits");
            batches.push(bytes);
        }
    }
    batches
}

#[test]
fn lies_in_every_field_are_answered_or_end_the_connection() {
    let data = fresh_directory("hostile-lies");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let requests = false_requests().into_iter().map(|false_request| request(5, &false_request));
    for bytes in requests.chain(false_batches()) {
        lie(&node.address, &bytes);
        assert!(node.is_running(), "after {bytes:02x?}");
    }
    bystander.work();
    bystander.check();
    node.stop();
}

/// What only a peer that computes checksums can send: metadata that no client writes.
#[test]
fn metadata_of_any_bytes_with_a_good_checksum_harms_nobody() {
    let data = fresh_directory("hostile-metadata");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0021));
    let mut whole: Vec<Vec<u8>> = false_requests().iter().take(12).map(|of| request(5, of)).collect();
    whole.push(batch());
    for round in 0..400 {
        let bytes = &whole[round % whole.len()];
        let frame = Frame::parse(bytes).expect("valid").expect("whole");
        let mut metadata = frame.metadata.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..metadata.len());
            metadata[at] = random.u8(..);
        }
        metadata.truncate(random.usize(metadata.len() / 2..=2 * metadata.len()));
        let count = if random.bool() { frame.header.count } else { random.u16(..) };
        let mut changed = Vec::new();
        write_frame(&mut changed, frame.header.kind, 5, count, &metadata, &[frame.payload]);
        lie(&node.address, &changed);
        assert!(node.is_running(), "after {changed:02x?}");
    }
    bystander.work();
    bystander.check();
    node.stop();
}

#[test]
fn a_flood_that_reads_no_answer_is_held_back() {
    let data = fresh_directory("hostile-flood");
    let mut node = node_with(&data, &[("SEALOG_SEND_DEADLINE", "1s")]);
    let mut bystander = Bystander::new(&node);
    let ended = AtomicBool::new(false);
    let address = node.address.clone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = connect(&address);
                let flood = request(1, &Request::Status).repeat(1000);
                stream.write_all(&hello()).expect("the server takes it");
                // Until it is cut off: nothing ends this loop but the node.
                while stream.write_all(&flood).is_ok() {}
                ended.store(true, Ordering::Relaxed);
            });
        }
        while !ended.load(Ordering::Relaxed) {
            bystander.work();
            assert!(resident_bytes(node.process()) < RESIDENT_BYTES_MAX);
        }
    });
    bystander.check();
    assert!(node.status()["executors"][0]["connections_slow"].as_u64() >= Some(4));
    assert!(node.is_running());
    node.stop();
}

#[test]
fn who_stalls_anywhere_is_closed_in_time() {
    let data = fresh_directory("hostile-stall");
    let deadlines = [("SEALOG_HANDSHAKE_DEADLINE", "1s"), ("SEALOG_FRAME_DEADLINE", "1s")];
    let mut node = node_with(&data, &deadlines);
    let mut bystander = Bystander::new(&node);
    let whole = [hello(), batch()].concat();
    let greeting = hello().len();
    let places: Vec<usize> = (0..whole.len()).step_by(7).filter(|at| *at != greeting).collect();
    let mut stalled: Vec<TcpStream> = places
        .iter()
        .map(|at| {
            let mut stream = connect(&node.address);
            stream.write_all(&whole[..*at]).expect("the server takes it");
            stream
        })
        .collect();
    bystander.work();
    for stream in &mut stalled {
        // The end, or a reset; a timeout of half a minute is neither, and panics.
        answers(stream);
    }
    bystander.work();
    bystander.check();
    let late = node.status()["executors"][0]["connections_late"].as_u64();
    assert_eq!(late, Some(places.len() as u64));
    assert!(node.is_running());
    node.stop();
}

#[test]
fn who_disappears_in_the_middle_leaves_nothing_behind() {
    let data = fresh_directory("hostile-gone");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let bytes = [hello(), batch(), request(1, &Request::Status).repeat(20)].concat();
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0022));
    for round in 0..300 {
        let mut stream = connect(&node.address);
        let _ = stream.write_all(&bytes[..random.usize(..bytes.len())]);
        // Both ends at once, one end, or a reset for answers that nobody reads any more.
        let _ = match round % 3 {
            0 => stream.shutdown(Shutdown::Both),
            1 => stream.shutdown(Shutdown::Read),
            _ => Ok(()),
        };
        drop(stream);
        if round % 10 == 0 {
            bystander.work();
        }
    }
    // The bystander's own and that of the question; the last closings may still be under way.
    while node.status()["executors"][0]["connections_now"].as_u64() > Some(2) {
        bystander.work();
    }
    bystander.check();
    assert!(node.is_running());
    node.stop();
}

#[test]
fn more_connections_than_allowed_or_than_files_cost_nobody_else_anything() {
    let data = fresh_directory("hostile-many");
    // 300 descriptors are fewer than the journal and the allowed connections would take together.
    let wrapper = ["prlimit", "--nofile=300:300", "--"].map(str::to_owned).to_vec();
    let settings = vec![("SEALOG_CONNECTIONS_MAX", "200")];
    let command = NodeCommand { wrapper, settings, segment_size: "4MiB", ..NodeCommand::new(&data) };
    let mut node = command.start().expect("it starts");
    let mut bystander = Bystander::new(&node);
    let mut refused = 0;
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..400 {
        let mut stream = connect(&node.address);
        let _ = stream.write_all(&[hello(), request(LAST, &Request::Status)].concat());
        if answers(&mut stream).last() != Some(&LAST) {
            refused += 1;
        }
        streams.push(stream);
    }
    assert!((200..400).contains(&refused), "{refused} of 400 were refused");
    // Several segments: each needs a descriptor.
    for _ in 0..12 {
        bystander.append(vec![5; 1 << 20]);
    }
    bystander.check();
    drop(streams);
    assert!(node.is_running());
    // The places come back as the node sees that those connections ended.
    while node.sealog(&["status"]).code() != Some(0) {
        bystander.work();
    }
    node.stop();
}

/// One address takes what it may have: others are served as before. Every address of 127.0.0.0/8 is
/// this machine.
#[test]
fn one_address_keeps_nobody_else_out() {
    let data = fresh_directory("hostile-address");
    let mut node = node_with(&data, &[("SEALOG_CONNECTIONS_PER_ADDRESS_MAX", "20")]);
    let from = |address: [u8; 4]| connect_from(address.into(), &node.address);
    let greeting = [hello(), request(LAST, &Request::Status)].concat();
    let is_served = |stream: &mut TcpStream| {
        // A refused one may be closed before all is sent.
        let _ = stream.write_all(&greeting);
        answers(stream).last() == Some(&LAST)
    };
    let mut streams: Vec<TcpStream> = (0..50).map(|_| from([127, 0, 0, 2])).collect();
    let served: Vec<bool> = streams.iter_mut().map(is_served).collect();
    assert_eq!(served.iter().filter(|served| **served).count(), 20, "{served:?}");
    assert!(served[..20].iter().all(|served| *served), "who came first stays: {served:?}");

    let mut refused = from([127, 0, 0, 2]);
    let mut said = Vec::new();
    refused.read_to_end(&mut said).expect("it is told, and closed");
    assert!(String::from_utf8_lossy(&said).contains("connections_per_address_max"), "{said:02x?}");

    let mut bystander = Bystander::new(&node);
    bystander.work();
    assert!(is_served(&mut from([127, 0, 0, 3])), "another address");
    let status = node.status();
    assert!(status["executors"][0]["connections_refused_by_address"].as_u64() >= Some(31), "{status}");

    // A place that is given back is free again.
    drop(streams.swap_remove(0));
    while !is_served(&mut from([127, 0, 0, 2])) {
        bystander.work();
    }
    bystander.check();
    assert!(node.is_running());
    node.stop();
}

#[test]
fn a_flood_of_bad_connections_is_not_a_flood_of_lines() {
    let data = fresh_directory("hostile-lines");
    let node = Node::start(&data);
    for _ in 0..500 {
        let mut stream = connect(&node.address);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        answers(&mut stream);
    }
    assert!(node.status()["executors"][0]["connections_malformed"].as_u64() >= Some(500));
    let lines = node.kill().stderr;
    let closings = lines.lines().filter(|line| line.contains("closing a client's connection")).count();
    // Ten in ten seconds: a slow machine sees the next ten.
    assert!((10..200).contains(&closings), "{closings} lines of 500:\n{lines}");
}

#[test]
fn a_flood_of_sessions_is_refused_and_others_open_theirs() {
    let data = fresh_directory("hostile-sessions");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    bystander.work();
    let mut stream = connect(&node.address);
    let flood = request(7, &Request::OpenSession { logspace: 0 }).repeat(2000);
    stream.write_all(&[hello(), flood, request(LAST, &Request::Status)].concat()).expect("the server takes it");
    let mut opened = 0;
    let mut answered = 0;
    while answered < 2000 {
        let frame = next_frame(&mut stream);
        let frame = Frame::parse(&frame).expect("the node sends valid frames").expect("whole");
        if frame.header.place != 7 {
            continue;
        }
        answered += 1;
        match decode_reply(&frame).expect("an answer").1 {
            Reply::SessionOpened { .. } => opened += 1,
            Reply::Error { code, message } => assert_eq!(code, ErrorCode::Busy, "{message}"),
            other => panic!("{other:?}"),
        }
    }
    // And one for each second that this took.
    assert!((SESSION_OPENINGS_MAX..2 * SESSION_OPENINGS_MAX).contains(&opened), "{opened} of 2000 were opened");
    bystander.work();
    bystander.check();
    Bystander::new(&node).work();
    assert!(node.is_running());
    node.stop();
}

/// The batch of a session with this request number, asked with the same id.
fn numbered_batch(session: SessionId, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = BatchHead {
        logbook: LogBookId(3),
        session,
        request: RequestNumber(number),
        lowest_unanswered: RequestNumber(1),
        time_ms: 0,
        condition: None,
    };
    let payload = format!("number {number}");
    let record = NewRecord { tags: &[Tag(1)], payload: payload.as_bytes() };
    write_batch(&mut bytes, number, &head, &[record]).expect("within limits");
    bytes
}

fn open_session(address: &str) -> SessionId {
    let mut stream = connect(address);
    stream.write_all(&[hello(), request(7, &Request::OpenSession { logspace: 0 })].concat()).expect("it is taken");
    loop {
        let frame = next_frame(&mut stream);
        let frame = Frame::parse(&frame).expect("the node sends valid frames").expect("whole");
        if frame.header.place == 7 {
            let Ok((_, Reply::SessionOpened { session, .. })) = decode_reply(&frame) else { panic!("{frame:?}") };
            return session;
        }
    }
}

/// Frames of one session in any order, each twice, over two connections: each request has one outcome,
/// which both of its answers say, and each that was acknowledged is in the log once.
#[test]
fn frames_in_any_order_and_repeated_give_each_request_one_outcome() {
    const REQUESTS: u64 = 40;
    let data = fresh_directory("hostile-order");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0031));
    for _ in 0..8 {
        let session = open_session(&node.address);
        let mut streams = [connect(&node.address), connect(&node.address)];
        for stream in &mut streams {
            let subscribe =
                SubscribeRequest { logbook: 3, tag: 1, from: u64::MAX, credit_bytes: 100, place: PlaceWire::default() };
            // Credit for a subscription that comes later, and ends before it began.
            let credit = Request::Credit(CreditRequest { logbook: 3, subscription: 5000, bytes: 100 });
            let end = Request::Unsubscribe { logbook: 3, subscription: 5000 };
            let mut frames: Vec<Vec<u8>> = (1..=REQUESTS).map(|number| numbered_batch(session, number)).collect();
            frames.push(request(5000, &Request::Subscribe(subscribe)));
            frames.extend([request(5001, &credit), request(5002, &end)]);
            random.shuffle(&mut frames);
            stream.write_all(&[vec![hello()], frames].concat().concat()).expect("it is taken");
        }
        let mut outcomes = [const { std::collections::BTreeMap::new() }; 2];
        for (stream, outcomes) in streams.iter_mut().zip(&mut outcomes) {
            while outcomes.len() < REQUESTS as usize {
                let frame = next_frame(stream);
                let frame = Frame::parse(&frame).expect("the node sends valid frames").expect("whole");
                if !(1..=REQUESTS).contains(&frame.header.place) {
                    continue;
                }
                match decode_reply(&frame).expect("an answer") {
                    (number, Reply::Appended { seqnum, .. }) => {
                        assert_eq!(outcomes.insert(number, seqnum), None, "request {number} is answered twice");
                    }
                    other => panic!("all are in the session's window: {other:?}"),
                }
            }
        }
        assert_eq!(outcomes[0], outcomes[1], "a repeat is told what came of the first");
        bystander.work();
        let client = sealog::blocking::Client::connect(&node.address).expect("a client");
        let first = *outcomes[0].values().min().expect("some");
        let records = client.logbook_by_id(LogBookId(3)).scan(Tag(1), first..=SeqNum::MAX);
        let mut found: Vec<(SeqNum, String)> = records
            .map(|record| record.expect("readable"))
            .map(|record| (record.seqnum, String::from_utf8_lossy(&record.payload).into_owned()))
            .collect();
        let mut expected: Vec<(SeqNum, String)> =
            outcomes[0].iter().map(|(number, seqnum)| (*seqnum, format!("number {number}"))).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "each is in the log once");
    }
    bystander.check();
    assert!(node.is_running());
    node.stop();
}
