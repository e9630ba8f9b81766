//! Clients that send nonsense, do not read, or vanish: they lose their connection, nobody else does.

#[path = "toy/client.rs"]
mod client;
mod toy;

use std::time::Duration;

use client::{Client, batch, read_request};
use sealog_protocol::client::{Answer, ErrorCode, Reply, encode_request};
use sealog_protocol::frame::{FrameKind, write_frame};
use sealog_runtime::{ClientLimits, Handle, NodeConfig};
use toy::{Data, Event, Mode, config, start_toy};

fn node(data: &Data) -> Handle<Event> {
    limited(data, ClientLimits::default())
}

fn limited(data: &Data, clients: ClientLimits) -> Handle<Event> {
    let config = config(data, Mode::Alone, vec![data.socket()]);
    start_toy(NodeConfig { clients, ..config }, Mode::Alone).expect("it starts")
}

/// A small generator of bytes: the same in every run.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }
}

#[test]
fn nonsense_ends_its_connection_with_a_reason_and_no_other() {
    let data = Data::new("nonsense");
    let node = node(&data);
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    let mut oversized = batch(1, b"x");
    oversized[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut other_version = batch(1, b"x");
    other_version[2] = 99;
    let mut damaged = Vec::new();
    encode_request(&mut damaged, 1, &read_request(0));
    damaged[40] ^= 1;
    let mut from_node = Vec::new();
    write_frame(&mut from_node, FrameKind::PeerHello, 0, 0, b"", &[]);
    let cases: [(&[u8], bool, &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", false, "not a Sealog frame"),
        (&from_node, false, "not a client's hello"),
        (&other_version, false, "use the same release"),
        (&oversized, true, "over the limit"),
        (&damaged, true, "checksum"),
        (&from_node, true, "PeerHello"),
    ];
    for (number, (bytes, greeted, reason)) in cases.into_iter().enumerate() {
        let mut bad = if greeted { Client::connect(address) } else { Client::bare(address) };
        bad.send(bytes);
        let (_, answer) = bad.answer();
        let Answer::Reply(Reply::Error { message, .. }) = answer else { panic!("{answer:?}") };
        assert!(message.contains(reason), "{message}");
        assert!(bad.frame().is_none(), "the connection ends");
        assert_eq!(node.counters()[0].connections_malformed.get(), number as u64 + 1);
        good.append(number as u64, b"still here");
    }
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn random_and_truncated_bytes_harm_nobody() {
    let data = Data::new("random");
    let node = node(&data);
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    let mut noise = Noise(0x5EA1_0691);
    for round in 0..200u64 {
        let mut bad = if round % 2 == 0 { Client::bare(address) } else { Client::connect(address) };
        let mut bytes = batch(round, &[7; 300]);
        match round % 4 {
            // Noise alone, noise behind a good start, a frame that ends early, one with a flipped bit.
            0 => bytes.iter_mut().for_each(|byte| *byte = noise.byte()),
            1 => bytes[4..].iter_mut().for_each(|byte| *byte = noise.byte()),
            2 => bytes.truncate(usize::from(noise.byte())),
            _ => {
                let at = usize::from(noise.byte());
                bytes[at] ^= 1 << (round % 8);
            }
        }
        // The node may close before all was sent.
        let _ = bad.stream.write_all(&bytes);
        drop(bad);
        good.append(round, b"still here");
    }
    // Every one of them is gone: the last closings may still be under way.
    let counters = &node.counters()[0];
    while counters.connections_now.get() > 1 {
        good.append(1000, b"and time passes");
    }
    assert_eq!(counters.connections_accepted.get(), 201);
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn who_does_not_read_is_not_read_from_and_others_go_on() {
    let data = Data::new("slow");
    let node = node(&data);
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    good.append(0, &[9; 256 << 10]);
    let mut slow = Client::connect(address);
    let mut request = Vec::new();
    encode_request(&mut request, 1, &read_request(0));
    // 64 answers of a quarter of a mebibyte each: far more than sockets and the pause hold.
    slow.send(&request.repeat(64));
    while node.counters()[0].journal_reads.get() < 64 {
        good.append(1, b"others go on");
    }
    // It is paused now: what it sends on stays in its socket until it reads.
    let writer = std::thread::spawn(move || {
        slow.send(&request.repeat(64));
        for _ in 0..128 {
            assert!(matches!(slow.answer(), (1, Answer::Records { .. })));
        }
        slow
    });
    for number in 2..50 {
        good.append(number, b"others go on");
    }
    let slow = writer.join().expect("all is answered once it reads");
    assert_eq!(node.counters()[0].connections_slow.get(), 0);
    drop(slow);
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn who_never_reads_is_cut_off() {
    let data = Data::new("cut-off");
    let node = node(&data);
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    good.append(0, &[9; 1 << 20]);
    let mut slow = Client::connect(address);
    let mut request = Vec::new();
    encode_request(&mut request, 1, &read_request(0));
    slow.send(&request.repeat(100));
    while node.counters()[0].connections_slow.get() == 0 {
        good.append(1, b"others go on");
    }
    good.append(2, b"others go on");
    assert!(good.status().contains("\"closed\":1"), "the host was told");
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn a_thousand_connections_are_served_and_forgotten() {
    let data = Data::new("thousand");
    let node = node(&data);
    let address = &node.addresses()[0];
    let mut clients: Vec<Client> = (0..1000).map(|_| Client::connect(address)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&batch(number as u64, &[1; 3000]));
    }
    for client in &mut clients {
        assert!(matches!(client.answer(), (_, Answer::Reply(Reply::Appended { .. }))));
    }
    assert_eq!(node.counters()[0].connections_now.get(), 1000);
    let mut last = clients.pop().expect("a thousand");
    drop(clients);
    while node.counters()[0].connections_now.get() > 1 {
        last.append(0, b"and time passes");
    }
    assert!(last.status().contains("\"closed\":999"));
    node.stop();
    node.wait().expect("an orderly stop");
}

/// Short enough for a test to wait for, long enough for a good client on a busy machine.
const SHORT: Duration = Duration::from_millis(500);

fn told(client: &mut Client) -> (ErrorCode, String) {
    match client.answer().1 {
        Answer::Reply(Reply::Error { code, message }) => (code, message),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn who_says_no_hello_or_half_a_frame_is_told_and_closed() {
    let data = Data::new("late");
    let node = limited(
        &data,
        ClientLimits { handshake_deadline: SHORT, frame_deadline: 2 * SHORT, ..ClientLimits::default() },
    );
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    let whole = batch(1, b"never finished");
    let mut silent = Client::bare(address);
    let mut half_hello = Client::bare(address);
    half_hello.send(&[0x45]);
    let mut half_header = Client::connect(address);
    half_header.send(&whole[..3]);
    let mut half_frame = Client::connect(address);
    half_frame.send(&[batch(7, b"whole"), whole[..whole.len() - 1].to_vec()].concat());
    assert!(matches!(half_frame.answer(), (7, Answer::Reply(Reply::Appended { .. }))));
    for (client, reason) in
        [(&mut silent, "no hello"), (&mut half_header, "not finished"), (&mut half_frame, "not finished")]
    {
        let (_, message) = told(client);
        assert!(message.contains(reason), "{message}");
        assert!(client.frame().is_none(), "the connection ends");
    }
    // Its first byte is no frame's: the reason differs, the end does not.
    while half_hello.frame().is_some() {}
    // Much longer ago than all deadlines, and it has nothing unfinished.
    good.append(1, b"still here");
    assert_eq!(node.counters()[0].connections_late.get() + node.counters()[0].connections_malformed.get(), 4);
    while node.counters()[0].connections_now.get() > 1 {
        good.append(2, b"and time passes");
    }
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn who_takes_nothing_for_long_is_cut_off() {
    let data = Data::new("full");
    let node = limited(&data, ClientLimits { send_deadline: SHORT, ..ClientLimits::default() });
    let address = &node.addresses()[0];
    let mut good = Client::connect(address);
    good.append(0, &[9; 1 << 20]);
    let mut slow = Client::connect(address);
    let mut request = Vec::new();
    encode_request(&mut request, 1, &read_request(0));
    // Far below what would cut it off for the memory that it takes.
    slow.send(&request.repeat(4));
    while node.counters()[0].connections_slow.get() == 0 {
        good.append(1, b"others go on");
    }
    assert!(good.status().contains("\"closed\":1"), "the host was told");
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn beyond_the_limit_a_client_is_told_and_a_place_that_is_left_is_taken() {
    let data = Data::new("limit");
    let node = limited(&data, ClientLimits { connections_max: 3, ..ClientLimits::default() });
    let address = &node.addresses()[0];
    let mut good: Vec<Client> = (0..3).map(|_| Client::connect(address)).collect();
    // More at once than are given the time to read why.
    let mut refused: Vec<Client> = (0..100).map(|_| Client::bare(address)).collect();
    let (code, message) = told(&mut refused[0]);
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("connections_max"), "{message}");
    for client in &mut refused {
        while client.frame().is_some() {}
    }
    for client in &mut good {
        client.append(1, b"still here");
    }
    assert_eq!(node.counters()[0].connections_refused.get(), 100);
    assert_eq!(node.counters()[0].connections_now.get(), 3);
    drop(good.pop());
    while node.counters()[0].connections_now.get() > 2 {
        good[0].append(2, b"and time passes");
    }
    Client::connect(address).append(3, b"the place is free");
    node.stop();
    node.wait().expect("an orderly stop");
}
