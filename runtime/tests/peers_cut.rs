//! Nodes that are cut off from each other on purpose: only silence tells them, and what was to be said
//! is said when it is over, or lost with its connection.

mod toy;
#[path = "toy/peer.rs"]
mod toy_peer;

use std::collections::BTreeSet;
use std::time::Duration;

use sealog_protocol::ids::NodeId;
use sealog_runtime::{Listen, PeerCuts, PeerLimits};
use toy::Data;
use toy_peer::{Node, Plan, Wish, identity, loopback};

/// Long enough that a connection outlives a cut that is made and healed at once.
const SILENCE_MAX: Duration = Duration::from_millis(1000);

/// Node 2, and node 1 which calls it, connected.
fn pair(name: &str) -> ([Data; 2], [Node; 2]) {
    let data = [1, 2].map(|node| Data::new(&format!("peers-cut-{name}-{node}")));
    let limits = PeerLimits { silence_max: SILENCE_MAX, greeting_deadline: SILENCE_MAX, ..PeerLimits::default() };
    let plan = |own, peers: &[(u64, Listen)]| Plan { limits, ..Plan::new(own, peers) };
    let second = plan(identity(2, 20), &[(1, loopback(1))]).start(&data[1]);
    let first = plan(identity(1, 10), &[(2, second.address())]).start(&data[0]);
    first.expect_connected(2, 20);
    second.expect_connected(1, 10);
    (data, [first, second])
}

fn cut(node: &Node, to: &[u64], from: &[u64]) {
    let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<NodeId>>();
    node.wish(0, Wish::Cut(PeerCuts { to: nodes(to), from: nodes(from) }));
}

fn heal(nodes: &[&Node]) {
    nodes.iter().for_each(|node| cut(node, &[], &[]));
}

fn reason(node: &Node, other: u64, words: &str) -> bool {
    node.status(other).reason.is_some_and(|reason| reason.contains(words))
}

#[test]
fn each_side_finds_a_cut_by_silence_and_calls_hang_until_it_is_over() {
    let (_data, [first, second]) = pair("both");
    for round in 1..3 {
        // As it is made on purpose: each side is told both directions.
        cut(&first, &[2], &[2]);
        cut(&second, &[1], &[1]);
        first.expect_disconnected(2);
        second.expect_disconnected(1);
        let silent = [&first, &second].map(|node| node.counters().peers_silent.get());
        assert_eq!(silent, [round, round], "each by itself");
        first.until("its call hangs", |node| reason(node, 2, "greeting did not come"));
        heal(&[&first, &second]);
        first.expect_connected(2, 20);
        second.expect_connected(1, 10);
        first.count(2, 0..100, 1000);
        second.expect_numbers(0, 0..100);
        second.count(1, 0..100, 1000);
        first.expect_numbers(0, 0..100);
    }
    first.stop();
    second.stop();
}

/// A process that ends closes its connections, which who is cut off does not see.
#[test]
fn the_end_of_a_process_is_not_heard_through_a_cut() {
    let (_data, [first, second]) = pair("end");
    cut(&second, &[], &[1]);
    // What is said after it was cut is heard, so it is cut.
    second.count(1, 0..1, 10);
    first.expect_numbers(0, 0..1);
    first.stop();
    second.expect_disconnected(1);
    assert!(reason(&second, 1, "nothing came"), "{:?}", second.status(1));
    assert_eq!(second.counters().peers_silent.get(), 1);
    second.stop();
}

#[test]
fn one_direction_alone_is_cut() {
    // Who calls is told, and who is called.
    for (teller, name) in [(1, "hears-nothing"), (2, "is-not-heard")] {
        let (_data, [first, second]) = pair(name);
        // From the second node to the first.
        match teller {
            1 => cut(&first, &[], &[2]),
            _ => cut(&second, &[1], &[]),
        }
        first.count(2, 0..100, 1000);
        second.expect_numbers(0, 0..100);
        first.expect_disconnected(2);
        assert_eq!(first.counters().peers_silent.get(), 1, "it hears nothing");
        second.expect_disconnected(1);
        assert_eq!(second.counters().peers_silent.get(), 0, "it heard until the other gave up");
        first.until("its call hangs", |node| reason(node, 2, "greeting did not come"));
        heal(&[&first, &second]);
        first.expect_connected(2, 20);
        second.expect_connected(1, 10);
        first.stop();
        second.stop();
    }
}

#[test]
fn what_was_held_back_by_a_short_cut_arrives_after_it_in_order() {
    let (_data, [first, second]) = pair("short");
    cut(&first, &[2], &[2]);
    first.count(2, 0..50, 1000);
    second.count(1, 0..50, 1000);
    // It is told in the same queue: what it says now is held back as well.
    first.count(2, 50..100, 1000);
    heal(&[&first]);
    second.expect_numbers(0, 0..100);
    first.expect_numbers(0, 0..50);
    assert_eq!(first.counters().peer_connects.get(), 1, "the connection is the first one");
    first.stop();
    second.stop();
}
