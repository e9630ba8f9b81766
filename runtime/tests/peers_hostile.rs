//! Nodes that should not be let in, send nonsense, do not read, or say nothing: they lose their
//! connection, are told why where they can be, and no other node notices.

mod toy;
#[path = "toy/peer.rs"]
mod toy_peer;

use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Duration;

use sealog_protocol::frame::{FrameKind, write_frame};
use sealog_protocol::ids::{ClusterId, Incarnation, NodeId};
use sealog_protocol::limits::FORMAT_VERSION;
use sealog_protocol::machine::Role;
use sealog_protocol::message::encode;
use sealog_protocol::peer::{Greeting, PeerIdentity, PeerRefusal, encode_greeting};
use sealog_runtime::{Listen, PeerLimits};
use toy::Data;
use toy_peer::{Heard, Node, Plan, Stranger, Wish, address, identity, loopback, numbered};

/// One test measures the process's memory: one at a time.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Node 5, which knows nodes 1 to 4, with node 4 connected.
fn node(name: &str, limits: PeerLimits) -> (Data, Node, Stranger) {
    let data = Data::new(&format!("peers-{name}"));
    let peers: Vec<(u64, Listen)> = (1..5).map(|node| (node, loopback(1))).collect();
    let node = Plan { limits, ..Plan::new(identity(5, 50), &peers) }.start(&data);
    let good = Stranger::greeted(&node.address(), identity(4, 40));
    node.expect_connected(4, 40);
    (data, node, good)
}

/// The good peer is still heard, and nothing else was meanwhile.
fn good_is_heard(node: &Node, good: &mut Stranger, number: u64) {
    good.say(address(4, Role::Storage), address(5, Role::Storage), &numbered(number, 10));
    node.expect_numbers(0, number..number + 1);
}

#[test]
fn who_may_not_connect_is_told_why() {
    let _one = alone();
    let (_data, node, mut good) = node("refused", PeerLimits::default());
    let other_cluster = PeerIdentity { cluster: ClusterId(8), ..identity(1, 1) };
    let cases = [
        (other_cluster, PeerRefusal::Cluster { node: 1, theirs: 8, ours: 9 }),
        (identity(77, 1), PeerRefusal::Unknown { node: 77 }),
        (identity(5, 1), PeerRefusal::Itself { node: 5 }),
        (identity(4, 39), PeerRefusal::Older { node: 4, theirs: 39, newest: 40 }),
    ];
    for (at, (identity, refusal)) in cases.into_iter().enumerate() {
        let mut caller = Stranger::connect(&node.address());
        caller.greet(&Greeting::Hello(identity));
        assert_eq!(caller.greeting(), Some(Greeting::Refused(refusal)));
        assert!(caller.frame().is_none(), "and the connection ends");
        assert_eq!(node.counters().peers_refused.get(), at as u64 + 1);
        good_is_heard(&node, &mut good, at as u64);
    }
    // A caller of another release understands nothing but the version of what it gets.
    let mut caller = Stranger::connect(&node.address());
    let mut hello = Vec::new();
    encode_greeting(&mut hello, &Greeting::Hello(identity(1, 1)));
    hello[2] = FORMAT_VERSION + 1;
    caller.send(&hello);
    let refusal = PeerRefusal::Version { theirs: FORMAT_VERSION + 1, ours: FORMAT_VERSION };
    assert_eq!(caller.greeting(), Some(Greeting::Refused(refusal)));
    assert!(caller.frame().is_none());
    good_is_heard(&node, &mut good, 99);
    assert_eq!(node.counters().peers_malformed.get(), 0);
    node.stop();
}

#[test]
fn nobody_calls_a_node_that_is_to_call_it() {
    let _one = alone();
    let data = Data::new("peers-direction");
    let node = Plan::new(identity(1, 10), &[(2, loopback(1))]).start(&data);
    let mut caller = Stranger::connect(&node.address());
    caller.greet(&Greeting::Hello(identity(2, 1)));
    assert_eq!(caller.greeting(), Some(Greeting::Refused(PeerRefusal::Direction { node: 2, own: 1 })));
    node.stop();
}

#[test]
fn who_answers_wrongly_is_left_and_called_again() {
    let _one = alone();
    let data = Data::new("peers-answers");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = Listen::Tcp(listener.local_addr().expect("it is bound"));
    let limits = PeerLimits {
        pause_max: Duration::from_millis(20),
        greeting_deadline: Duration::from_millis(200),
        ..PeerLimits::default()
    };
    let node = Plan { limits, ..Plan::new(identity(1, 10), &[(2, listen)]) }.start(&data);
    let mut calls = 0;
    let mut next_call = || {
        let mut caller = Stranger::new(listener.accept().expect("it calls").0);
        assert_eq!(caller.greeting(), Some(Greeting::Hello(identity(1, 10))));
        calls += 1;
        caller
    };
    let mut other_version = Vec::new();
    encode_greeting(&mut other_version, &Greeting::Welcome(identity(2, 1)));
    other_version[2] = FORMAT_VERSION + 1;
    let mut not_a_greeting = Vec::new();
    write_frame(&mut not_a_greeting, FrameKind::Reply, 0, 0, b"", &[]);
    let greeting = |greeting: &Greeting| {
        let mut bytes = Vec::new();
        encode_greeting(&mut bytes, greeting);
        bytes
    };
    let other_cluster = PeerIdentity { cluster: ClusterId(8), ..identity(2, 1) };
    let answers = [
        (greeting(&Greeting::Refused(PeerRefusal::Unknown { node: 1 })), "not among this node's peers"),
        (greeting(&Greeting::Welcome(identity(3, 1))), "correct its address"),
        (greeting(&Greeting::Welcome(other_cluster)), "another cluster"),
        (greeting(&Greeting::Hello(identity(2, 1))), "PeerHello"),
        (other_version, "use the same release"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "not a Sealog frame"),
        (not_a_greeting, "peer_listen"),
        (Vec::new(), "did not come within"),
    ];
    for (answer, says) in answers {
        let mut caller = next_call();
        caller.send(&answer);
        assert!(caller.frame().is_none(), "it hangs up");
        node.until(says, |node| node.status(2).reason.is_some_and(|reason| reason.contains(says)));
    }
    let mut caller = next_call();
    caller.greet(&Greeting::Welcome(identity(2, 7)));
    node.expect_connected(2, 7);
    assert_eq!(node.status(2).reason, None);
    caller.say(address(2, Role::Storage), address(1, Role::Storage), &numbered(1, 10));
    node.expect_numbers(0, 1..2);
    drop(caller);
    node.expect_disconnected(2);
    // An older life of it is not let in any more.
    let mut caller = next_call();
    caller.greet(&Greeting::Welcome(identity(2, 6)));
    assert!(caller.frame().is_none(), "it hangs up");
    node.until("older", |node| node.status(2).reason.is_some_and(|reason| reason.contains("incarnation 7")));
    assert_eq!(node.counters().peer_calls_failed.get(), 9);
    node.stop();
}

#[test]
fn a_peer_that_does_not_read_is_cut_off_before_it_costs_memory() {
    let _one = alone();
    let limits = PeerLimits { unsent_bytes_max: 8 << 20, ..PeerLimits::default() };
    let (_data, node, mut good) = node("slow", limits);
    let slow = Stranger::greeted(&node.address(), identity(1, 1));
    node.expect_connected(1, 1);
    let before = resident_bytes();
    // 400 MiB, which share one piece of memory until they are put on a wire.
    let message = numbered(0, 1 << 20);
    for _ in 0..100 {
        let words = vec![(address(1, Role::Storage), message.clone()); 4];
        node.wish(0, Wish::Say(Role::Engine, words));
    }
    node.expect_disconnected(1);
    assert_eq!(node.counters().peers_slow.get(), 1);
    node.until("the rest is dropped", |node| {
        let counters = node.counters();
        counters.peer_messages_sent.get() + counters.peer_messages_dropped.get() == 400
    });
    assert!(node.counters().peer_messages_dropped.get() > 380, "sockets hold a few");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert!(node.status(1).reason.expect("a reason").contains("wait for it to take them"));
    good_is_heard(&node, &mut good, 1);
    drop(slow);
    // It comes back, reads, and gets what is new.
    let mut back = Stranger::greeted(&node.address(), identity(1, 1));
    node.expect_connected(1, 1);
    node.count(1, 1000..1001, 10);
    assert!(back.frame().is_some());
    node.stop();
}

#[test]
fn a_peer_that_takes_nothing_for_long_is_cut_off() {
    let _one = alone();
    let limits = PeerLimits { send_deadline: Duration::from_millis(300), ..PeerLimits::default() };
    let (_data, node, mut good) = node("stuck", limits);
    let mut stuck = Stranger::greeted(&node.address(), identity(1, 1));
    node.expect_connected(1, 1);
    // Far less than what would cut it off for the memory that it takes.
    node.count(1, 0..20, 1 << 20);
    let mut pings = 0;
    while node.counters().peers_slow.get() == 0 {
        // It says that it lives, and reads nothing.
        if stuck.0.write_all(&ping()).is_err() {
            break;
        }
        pings += 1;
        std::thread::yield_now();
    }
    assert!(pings > 0);
    node.expect_disconnected(1);
    good_is_heard(&node, &mut good, 1);
    node.stop();
}

fn ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    sealog_protocol::peer::encode_ping(&mut bytes, 0);
    bytes
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn what_a_peer_may_not_send_ends_its_connection() {
    let _one = alone();
    let (_data, node, mut good) = node("malformed", PeerLimits::default());
    let (from, to) = (address(1, Role::Storage), address(5, Role::Storage));
    let message = |from, to| {
        let mut bytes = Vec::new();
        encode(&mut bytes, from, to, &numbered(7, 100));
        bytes
    };
    let mut damaged = message(from, to);
    damaged[60] ^= 1;
    let mut oversized = message(from, to);
    oversized[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut metadata = Vec::new();
    write_frame(&mut metadata, FrameKind::Message, 5, 0, &[0xFF; 40], &[]);
    let mut request = Vec::new();
    write_frame(&mut request, FrameKind::Request, 0, 0, b"", &[]);
    let mut hello = Vec::new();
    encode_greeting(&mut hello, &Greeting::Hello(identity(1, 1)));
    let cases = [
        (damaged, "checksum"),
        (oversized, "over the limit"),
        (metadata, "malformed metadata"),
        (request, "Request"),
        (hello, "PeerHello"),
        (message(address(2, Role::Storage), to), "can't have"),
        (message(from, address(3, Role::Storage)), "can't have"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not a Sealog frame"),
    ];
    for (at, (bytes, says)) in cases.into_iter().enumerate() {
        let mut bad = Stranger::greeted(&node.address(), identity(1, 1));
        node.expect_connected(1, 1);
        bad.send(&bytes);
        assert!(bad.frame().is_none(), "the connection ends");
        node.expect_disconnected(1);
        let reason = node.status(1).reason.expect("a reason");
        assert!(reason.contains(says), "{reason}");
        assert_eq!(node.counters().peers_malformed.get(), at as u64 + 1);
        good_is_heard(&node, &mut good, at as u64);
    }
    // A message to a machine that is not here is dropped, and harms nobody.
    good.say(address(4, Role::Storage), address(5, Role::Controller), &numbered(1, 1));
    good_is_heard(&node, &mut good, 100);
    assert_eq!(node.counters().peer_messages_dropped.get(), 1);
    node.stop();
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
fn random_and_truncated_bytes_harm_nobody() {
    let _one = alone();
    let (_data, node, mut good) = node("noise", PeerLimits::default());
    let mut noise = Noise(0x5EA1_0692);
    let mut hello = Vec::new();
    encode_greeting(&mut hello, &Greeting::Hello(identity(1, 1)));
    let mut message = Vec::new();
    encode(&mut message, address(1, Role::Storage), address(5, Role::Storage), &numbered(7, 300));
    for round in 0..200u64 {
        let greeted = round % 2 == 1;
        let mut bytes = if greeted { message.clone() } else { hello.clone() };
        match round / 2 % 4 {
            0 => bytes.iter_mut().for_each(|byte| *byte = noise.byte()),
            1 => bytes[4..].iter_mut().for_each(|byte| *byte = noise.byte()),
            2 => bytes.truncate(usize::from(noise.byte()) % hello.len()),
            _ => {
                let at = usize::from(noise.byte()) % (hello.len() - 8);
                bytes[at] ^= 1 << (round % 8);
            }
        }
        let mut bad = Stranger::connect(&node.address());
        if greeted {
            bad.greet(&Greeting::Hello(identity(1, 1)));
            node.expect_connected(1, 1);
        }
        // The node may close before all was sent.
        let _ = bad.0.write_all(&bytes);
        drop(bad);
        if greeted {
            node.expect_disconnected(1);
        }
        good_is_heard(&node, &mut good, round);
    }
    node.stop();
}

#[test]
fn who_never_greets_is_closed_and_a_crowd_of_them_keeps_no_peer_out_for_long() {
    let _one = alone();
    let limits = PeerLimits { greeting_deadline: Duration::from_millis(300), ..PeerLimits::default() };
    let (_data, node, mut good) = node("crowd", limits);
    let mut crowd: Vec<Stranger> = (0..100).map(|_| Stranger::connect(&node.address())).collect();
    node.until("more than may wait are closed", |node| node.counters().peers_refused.get() >= 36);
    for stranger in &mut crowd {
        assert!(stranger.frame().is_none(), "it is closed");
    }
    good_is_heard(&node, &mut good, 1);
    // One that sends more than a greeting is not read to the end.
    let mut large = Stranger::connect(&node.address());
    let mut bytes = Vec::new();
    write_frame(&mut bytes, FrameKind::PeerHello, 0, 0, &[1; 4000], &[]);
    large.send(&bytes);
    assert!(large.frame().is_none(), "it is closed");
    let _late = Stranger::greeted(&node.address(), identity(1, 1));
    node.expect(Heard::Connected(0, NodeId(1), Incarnation(1)));
    node.stop();
}
