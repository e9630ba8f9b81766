//! Peers that send nonsense: each loses its connection, and nobody else anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketType};
use sealog::blocking::{Client, LogBook};
use sealog::{SeqNum, Tag};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{ClientHello, PlaceWire, ReadRequest, Request, encode_hello, encode_request};
use sealog_protocol::limits::FRAME_BYTES_MAX;
use sealog_protocol::{LogBookId, RequestNumber, SessionId};

use crate::node::{Node, fresh_directory, seed};

/// How the server may take something: it closes the connection, or waits for more.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Closed,
    Waits,
}

/// Sends bytes, ends the sending side, and reads to the end.
fn send_and_end(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    // The server may close before it has taken everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("the connection was not closed: {error}"),
    }
}

/// Sends bytes and keeps the sending side open.
fn send(address: &str, bytes: &[u8]) -> Reaction {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Reaction::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Reaction::Waits,
            Err(_) => return Reaction::Closed,
        }
    }
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server lives");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream
}

/// As [`connect`], from an address of this machine.
pub fn connect_from(from: Ipv4Addr, address: &str) -> TcpStream {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    net::bind(&socket, &SocketAddrV4::new(from, 0)).expect("all of 127.0.0.0/8 is ours");
    let address: SocketAddr = address.parse().expect("HOST:PORT");
    net::connect(&socket, &address).expect("the server lives");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream
}

pub fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_hello(&mut bytes, 0, &ClientHello { name: "nonsense".to_owned() });
    bytes
}

fn status_request() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, 1, &Request::Status);
    bytes
}

pub fn batch() -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = BatchHead {
        logbook: LogBookId(3),
        session: SessionId(u64::MAX),
        request: RequestNumber(1),
        lowest_unanswered: RequestNumber(1),
        time_ms: 0,
        condition: None,
    };
    let records = [NewRecord { tags: &[Tag(1)], payload: &[7; 500] }];
    write_batch(&mut bytes, 2, &head, &records).expect("within limits");
    bytes
}

/// Someone else's work, which must go on through all of it.
pub struct Bystander {
    logbook: LogBook,
    appended: Vec<SeqNum>,
}

impl Bystander {
    pub fn new(node: &Node) -> Bystander {
        let client = Client::connect(&node.address).expect("a client");
        Bystander { logbook: client.logbook("bystander"), appended: Vec::new() }
    }

    pub fn work(&mut self) {
        self.append(format!("record {}", self.appended.len()).into_bytes());
    }

    pub fn append(&mut self, payload: Vec<u8>) {
        let appended = self.logbook.append(&[Tag(1)], payload).expect("others are unharmed");
        self.appended.push(appended.seqnum);
    }

    pub fn check(&self) {
        let records = self.logbook.scan(Tag(1), SeqNum::MIN..=SeqNum::MAX);
        let found: Vec<SeqNum> = records.map(|record| record.expect("readable").seqnum).collect();
        assert_eq!(found, self.appended);
    }
}

#[test]
fn frames_that_are_cut_off_anywhere_harm_nobody() {
    let data = fresh_directory("frames-cut");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let whole: Vec<u8> = [hello(), batch(), status_request()].concat();
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0005));
    let places = (0..40).chain((0..40).map(|_| random.usize(..whole.len())));
    for at in places {
        send_and_end(&node.address, &whole[..at]);
        bystander.work();
    }
    bystander.check();
    assert!(node.is_running());
    node.stop();
}

#[test]
fn frames_that_are_too_large_or_foreign_end_their_connection_alone() {
    let data = fresh_directory("frames-large");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let after_hello = |frame: Vec<u8>| [hello(), frame].concat();
    let with = |mut frame: Vec<u8>, at: usize, bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let over = (FRAME_BYTES_MAX as u32).to_le_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("announces more than the limit", after_hello(with(status_request(), 4, &over))),
        ("announces the most a field can hold", after_hello(with(batch(), 4, &[0xff; 8]))),
        ("another magic", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("another format version", with(hello(), 2, &[9])),
        ("an unknown kind", after_hello(with(status_request(), 3, &[200]))),
        ("a kind that only nodes send", after_hello(with(status_request(), 3, &[8]))),
        ("a request before the hello", status_request()),
        ("a second hello", after_hello(hello())),
        ("a wrong checksum", after_hello(with(status_request(), 16, &[1, 2, 3, 4]))),
        ("a damaged batch", after_hello(with(batch(), 60, &[1, 2, 3, 4]))),
        ("zeros", vec![0; 4096]),
    ];
    for (what, bytes) in cases {
        assert_eq!(send(&node.address, &bytes), Reaction::Closed, "{what}");
        bystander.work();
        assert!(node.is_running(), "{what}");
    }
    bystander.check();
    node.stop();
}

#[test]
fn random_bytes_and_flipped_bits_harm_nobody() {
    let data = fresh_directory("frames-random");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0006));
    let whole: Vec<u8> = [hello(), batch(), status_request(), batch()].concat();
    for round in 0..100 {
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..random.usize(..20_000)).map(|_| random.u8(..)).collect()
        } else {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..4) {
                let bit = random.usize(..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            bytes
        };
        send_and_end(&node.address, &bytes);
        bystander.work();
    }
    bystander.check();
    assert!(node.is_running());
    node.stop();
}

/// Many clients that say nothing, or half a frame, and stay: others are served.
#[test]
fn silent_connections_do_not_keep_others_waiting() {
    let data = fresh_directory("frames-silent");
    let node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let half = &hello()[..20];
    let silent: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = connect(&node.address);
            stream.write_all(if number % 2 == 0 { half } else { &[] }).expect("the server takes it");
            stream
        })
        .collect();
    bystander.work();
    drop(silent);
    bystander.work();
    bystander.check();
    node.stop();
}

/// A client that asks for a great deal and reads none of it: it holds up itself alone.
#[test]
fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let data = fresh_directory("frames-slow");
    let mut node = Node::start(&data);
    let mut bystander = Bystander::new(&node);
    let client = Client::connect(&node.address).expect("a client");
    let large = client.logbook("large");
    for _ in 0..16 {
        large.append(&[], vec![1; 1 << 20]).expect("it is acknowledged");
    }
    let read = ReadRequest {
        logbook: large.id().0,
        tag: 0,
        from: 0,
        until: u64::MAX,
        backward: false,
        records_max: 1000,
        wait_ms: 0,
        place: PlaceWire::default(),
        linearizable: false,
        aux: false,
    };
    let mut slow = connect(&node.address);
    slow.write_all(&hello()).expect("the server takes it");
    slow.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    // A megabyte for each request: the server stops taking them, or ends the connection.
    for id in 0..20_000 {
        let mut request = Vec::new();
        encode_request(&mut request, id, &Request::Read(read.clone()));
        if slow.write_all(&request).is_err() {
            break;
        }
    }
    for _ in 0..20 {
        bystander.work();
    }
    bystander.check();
    let resident = resident_bytes(node.process());
    println!("resident: {} MiB", resident >> 20);
    assert!(resident < 1 << 30, "20 GiB were asked for, and none of it was read");
    assert!(node.is_running());
    drop(slow);
    bystander.work();
    node.stop();
}

pub fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}
