//! Nodes that speak with each other over real sockets: in order, whole, and on one connection after
//! another, never mixed.

mod toy;
#[path = "toy/peer.rs"]
mod toy_peer;

use std::time::Duration;

use sealog_protocol::Incarnation;
use sealog_protocol::ids::NodeId;
use sealog_protocol::machine::Role;
use sealog_protocol::peer::{Greeting, PeerRefusal};
use sealog_runtime::{Listen, PeerLimits, PeersNow};
use toy::{Data, Mode};
use toy_peer::{Heard, Node, Plan, Stranger, Wish, address, identity, loopback, numbered, peer};

/// Node 2, and node 1 which calls it, connected.
fn pair(name: &str) -> ([Data; 2], [Node; 2]) {
    let data = [1, 2].map(|node| Data::new(&format!("peers-{name}-{node}")));
    let second = Plan::new(identity(2, 20), &[(1, loopback(1))]).start(&data[1]);
    let first = Plan::new(identity(1, 10), &[(2, second.address())]).start(&data[0]);
    first.expect_connected(2, 20);
    second.expect_connected(1, 10);
    (data, [first, second])
}

#[test]
fn messages_of_any_size_arrive_whole_and_in_order_both_ways() {
    let (_data, [first, second]) = pair("order");
    let sizes = [0, 1, 100, 4000, 70_000, 1 << 20];
    for (round, bytes) in sizes.into_iter().enumerate() {
        let numbers = round as u64 * 100..round as u64 * 100 + 50;
        first.count(2, numbers.clone(), bytes);
        second.count(1, numbers, bytes);
    }
    for node in [&first, &second] {
        for (round, bytes) in sizes.into_iter().enumerate() {
            for expected in round as u64 * 100..round as u64 * 100 + 50 {
                let Heard::Message(0, from, message) = node.next() else { panic!("a message") };
                assert_eq!(from.role, Role::Engine);
                assert_eq!(message, numbered(expected, bytes));
            }
        }
    }
    // Many small ones in one turn, and many turns.
    for chunk in 0..20 {
        first.count(2, chunk * 1000..(chunk + 1) * 1000, 40);
    }
    second.expect_numbers(0, 0..20_000);
    assert_eq!(first.counters().peer_messages_dropped.get() + second.counters().peer_messages_dropped.get(), 0);
    assert_eq!(first.counters().peers_now.get(), 1);
    first.stop();
    second.stop();
}

#[test]
fn nodes_meet_over_unix_sockets_too() {
    let data = [1, 2].map(|node| Data::new(&format!("peers-unix-{node}")));
    let listen = Listen::Unix(data[1].0.join("peers"));
    let mut plan = Plan::new(identity(2, 20), &[(1, loopback(1))]);
    plan.listen = listen.clone();
    let second = plan.start(&data[1]);
    let first = Plan::new(identity(1, 10), &[(2, listen)]).start(&data[0]);
    first.expect_connected(2, 20);
    second.expect_connected(1, 10);
    second.count(1, 0..100, 3000);
    first.expect_numbers(0, 0..100);
    first.stop();
    second.stop();
}

#[test]
fn every_executor_hears_of_a_connection_before_its_messages_and_of_its_end_after_them() {
    let data = [1, 2].map(|node| Data::new(&format!("peers-executors-{node}")));
    let plan = |own, peers: &[(u64, Listen)]| Plan { mode: Mode::Witness, ..Plan::new(own, peers) };
    let second = plan(identity(2, 20), &[(1, loopback(1))]).start(&data[1]);
    let first = plan(identity(1, 10), &[(2, second.address())]).start(&data[0]);
    let heard = |node: &Node, other: u64, life: u64| {
        let mut executors = [node.next(), node.next()];
        executors.sort_by_key(|heard| matches!(heard, Heard::Connected(1, ..)));
        assert_eq!(executors, [0, 1].map(|on| Heard::Connected(on, NodeId(other), Incarnation(life))));
    };
    heard(&first, 2, 20);
    heard(&second, 1, 10);
    // From the second executor to the second, and from the first to the second.
    for (executor, from) in [(1, Role::Sequencer), (0, Role::Engine)] {
        let to = address(2, Role::Sequencer);
        first.wish(executor, Wish::Count { from, to, first: 0, count: 10_000, bytes: 100 });
        second.expect_numbers(1, 0..10_000);
    }
    // All that came before the end is heard before it.
    let to = address(2, Role::Sequencer);
    first.wish(1, Wish::Count { from: Role::Sequencer, to, first: 0, count: 1000, bytes: 100 });
    second.expect_numbers(1, 0..1000);
    first.stop();
    let mut ends = [second.next(), second.next()];
    ends.sort_by_key(|heard| matches!(heard, Heard::Disconnected(1, _)));
    assert_eq!(ends, [0, 1].map(|on| Heard::Disconnected(on, NodeId(1))));
    second.stop();
}

#[test]
fn a_node_that_comes_back_is_met_again_in_its_new_life() {
    let ([data_1, data_2], [mut first, mut second]) = pair("back");
    let listen = second.address();
    for round in 1..4 {
        // The one that is called ends, and comes back.
        second.stop();
        first.expect_disconnected(2);
        let dropped = first.counters().peer_messages_dropped.get();
        first.count(2, 0..10, 100);
        first.until("what nobody hears is dropped", |node| node.counters().peer_messages_dropped.get() == dropped + 10);
        let mut plan = Plan::new(identity(2, 20 + round), &[(1, loopback(1))]);
        plan.listen = listen.clone();
        second = plan.start(&data_2);
        first.expect_connected(2, 20 + round);
        second.expect_connected(1, 9 + round);
        first.count(2, 100..200, 100);
        second.expect_numbers(0, 100..200);
        // The one that calls.
        first.stop();
        second.expect_disconnected(1);
        first = Plan::new(identity(1, 10 + round), &[(2, listen.clone())]).start(&data_1);
        second.expect_connected(1, 10 + round);
        first.expect_connected(2, 20 + round);
        second.count(1, 0..100, 100);
        first.expect_numbers(0, 0..100);
    }
    first.stop();
    second.stop();
}

#[test]
fn what_is_left_of_an_older_connection_is_not_heard_any_more() {
    let data = Data::new("peers-older");
    let node = Plan::new(identity(2, 20), &[(1, loopback(1))]).start(&data);
    let mut older = Stranger::greeted(&node.address(), identity(1, 5));
    let (from, to) = (address(1, Role::Storage), address(2, Role::Storage));
    older.say(from, to, &numbered(1, 10));
    // Half of a message, whose rest comes when a newer life has taken its place.
    let mut halves = Vec::new();
    sealog_protocol::message::encode(&mut halves, from, to, &numbered(2, 1000));
    let (half, rest) = halves.split_at(500);
    older.send(half);
    node.expect_connected(1, 5);
    node.expect_numbers(0, 1..2);
    let mut newer = Stranger::greeted(&node.address(), identity(1, 6));
    node.expect_disconnected(1);
    node.expect_connected(1, 6);
    // The node may have closed it by now.
    let _ = std::io::Write::write_all(&mut older.0, rest);
    assert!(older.frame().is_none(), "it was ended");
    newer.say(from, to, &numbered(3, 10));
    node.expect_numbers(0, 3..4);
    // A newer connection of the same life takes its place, too.
    let mut newest = Stranger::greeted(&node.address(), identity(1, 6));
    node.expect_disconnected(1);
    node.expect_connected(1, 6);
    newest.say(from, to, &numbered(4, 10));
    node.expect_numbers(0, 4..5);
    node.stop();
}

#[test]
fn a_node_hears_how_far_the_clock_of_another_one_is_from_its_own() {
    let data = Data::new("peers-clocks");
    let node = Plan::new(identity(2, 20), &[(1, loopback(1))]).start(&data);
    let mut other = Stranger::greeted(&node.address(), identity(1, 5));
    node.expect_connected(1, 5);
    assert_eq!(node.status(1).clock_ahead_ms, None, "it has not said");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now_ms = u64::try_from(now.as_millis()).expect("long before the end of time");
    other.tell_time(now_ms + 600_000);
    let is_ahead = |node: &Node| node.status(1).clock_ahead_ms.is_some_and(|ahead| ahead > 500_000 && ahead <= 600_000);
    node.until("its clock is ten minutes ahead", is_ahead);
    other.tell_time(1);
    node.until("its clock is far behind", |node| node.status(1).clock_ahead_ms.is_some_and(|ahead| ahead < -600_000));
    other.tell_time(0);
    node.until("it does not say any more", |node| node.status(1).clock_ahead_ms.is_none());
    node.stop();
}

/// A newer connection that takes the place of an older one begins in the turn in which that ends.
#[test]
fn what_was_said_before_a_connection_began_is_not_sent_on_it() {
    let data = Data::new("peers-last-words");
    let plan = Plan { mode: Mode::Witness, ..Plan::new(identity(2, 20), &[(1, loopback(1))]) };
    let node = plan.start(&data);
    let says_seven = |stranger: &mut Stranger, executor: u8| {
        let words = vec![(address(1, Role::Storage), numbered(7, 1))];
        node.wish(executor, Wish::Say(Role::Engine, words));
        let frame = stranger.frame().expect("it is said");
        let (_, _, message) = sealog_protocol::message::decode(&frame).expect("a message");
        assert_eq!(message, numbered(7, 1), "of executor {executor}");
    };
    let mut older = Stranger::greeted(&node.address(), identity(1, 5));
    let mut heard = vec![node.next(), node.next()];
    for executor in [0, 1] {
        node.wish(executor, Wish::LastWords);
        says_seven(&mut older, executor);
    }
    let mut newer = Stranger::greeted(&node.address(), identity(1, 6));
    heard.extend((0..4).map(|_| node.next()));
    for executor in [0u8, 1] {
        let (connected, ended) = (Heard::Connected, Heard::Disconnected(executor, NodeId(1)));
        let expected =
            [connected(executor, NodeId(1), Incarnation(5)), ended, connected(executor, NodeId(1), Incarnation(6))];
        let of_executor = |heard: &Heard| expected.contains(heard);
        assert_eq!(heard.extract_if(.., |heard| of_executor(heard)).collect::<Vec<_>>(), expected);
    }
    for executor in [0, 1] {
        says_seven(&mut newer, executor);
    }
    assert_eq!(node.handle.counters().iter().map(|counters| counters.peer_messages_dropped.get()).sum::<u64>(), 2);
    node.stop();
}

#[test]
fn a_host_that_takes_nothing_from_clients_still_hears_its_peers() {
    let (data, [first, second]) = pair("accepts");
    second.wish(0, Wish::Accept(false));
    // More than the receive buffers and the socket hold: clients fill all that is theirs.
    let socket = data[1].0.join("socket");
    let writer = std::thread::spawn(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("it listens");
        let mut hello = Vec::new();
        let name = "toy".to_owned();
        sealog_protocol::client::encode_hello(&mut hello, 0, &sealog_protocol::client::ClientHello { name });
        let mut request = Vec::new();
        let status = sealog_protocol::client::Request::Status;
        sealog_protocol::client::encode_request(&mut request, 1, &status);
        std::io::Write::write_all(&mut stream, &[hello, request.repeat(400_000)].concat()).is_ok()
    });
    for round in 0..50 {
        first.count(2, round * 100..(round + 1) * 100, 10_000);
        second.expect_numbers(0, round * 100..(round + 1) * 100);
    }
    second.wish(0, Wish::Accept(true));
    assert!(writer.join().expect("it writes"), "clients are taken again");
    first.stop();
    second.stop();
}

#[test]
fn idle_nodes_stay_connected_and_a_silent_one_does_not() {
    let data = [1, 2].map(|node| Data::new(&format!("peers-silent-{node}")));
    let limits = PeerLimits { silence_max: Duration::from_millis(400), ..PeerLimits::default() };
    let plan = |own, peers: &[(u64, Listen)]| Plan { limits, ..Plan::new(own, peers) };
    let second = plan(identity(2, 20), &[(1, loopback(1)), (0, loopback(1))]).start(&data[1]);
    let first = plan(identity(1, 10), &[(2, second.address())]).start(&data[0]);
    first.expect_connected(2, 20);
    second.expect_connected(1, 10);
    for _ in 0..2 {
        // Its socket stays open: only that it says nothing tells.
        let silent = Stranger::greeted(&second.address(), identity(0, 1));
        second.expect(Heard::Connected(0, NodeId(0), Incarnation(1)));
        second.expect(Heard::Disconnected(0, NodeId(0)));
        drop(silent);
    }
    assert_eq!(second.counters().peers_silent.get(), 2);
    assert!(second.status(0).reason.expect("a reason").contains("nothing came"));
    // The other two said nothing to each other but that they live.
    assert_eq!(first.counters().peer_connects.get(), 1);
    first.count(2, 0..10, 10);
    second.expect_numbers(0, 0..10);
    first.stop();
    second.stop();
}

#[test]
fn nodes_are_told_of_each_other_while_they_run() {
    let data = [1, 2].map(|node| Data::new(&format!("peers-told-{node}")));
    let second = Plan::new(identity(2, 20), &[]).start(&data[1]);
    let first = Plan::new(identity(1, 10), &[(2, second.address())]).start(&data[0]);
    first.until("it is refused", |node| node.status(2).reason.is_some_and(|reason| reason.contains("not among")));
    let known = |peers| Wish::Know(PeersNow { peers, removed: Vec::new() });
    second.wish(0, known(vec![peer(1, 10, loopback(1))]));
    first.expect_connected(2, 20);
    second.expect_connected(1, 10);
    first.count(2, 0..100, 100);
    second.expect_numbers(0, 0..100);
    // What is said again changes nothing, not even for a node that is called elsewhere from now on.
    first.wish(0, known(vec![peer(2, 20, loopback(1))]));
    second.wish(0, known(vec![peer(1, 10, loopback(1))]));
    first.count(2, 100..200, 100);
    second.expect_numbers(0, 100..200);
    // Its next life is elsewhere, too; that it began is heard before it is called.
    second.stop();
    first.expect_disconnected(2);
    let second = Plan::new(identity(2, 21), &[(1, loopback(1))]).start(&data[1]);
    first.until("nobody is there", |node| node.status(2).reason.is_some_and(|reason| reason.contains("reached")));
    first.wish(0, known(vec![peer(2, 21, second.address())]));
    first.expect_connected(2, 21);
    second.expect_connected(1, 10);
    // An older life than the one that was told of is not let in.
    second.wish(0, known(vec![peer(1, 10, loopback(1)), peer(0, 7, loopback(1))]));
    second.until("it is known", |node| node.watch.all().len() == 2);
    let mut older = Stranger::connect(&second.address());
    older.greet(&Greeting::Hello(identity(0, 6)));
    assert!(matches!(older.greeting(), Some(Greeting::Refused(PeerRefusal::Older { .. }))));
    first.stop();
    second.stop();
}

#[test]
fn a_node_that_was_removed_is_disconnected_and_told_so() {
    let (_data, [first, second]) = pair("removed");
    second.wish(0, Wish::Know(PeersNow { peers: Vec::new(), removed: vec![NodeId(1)] }));
    second.expect_disconnected(1);
    first.expect_disconnected(2);
    first.until("it is told", |node| node.status(2).reason.is_some_and(|reason| reason.contains("was removed")));
    assert!(second.watch.all().is_empty());
    // The one that calls forgets the other.
    first.wish(0, Wish::Know(PeersNow::default()));
    first.until("it is forgotten", |node| node.watch.all().is_empty());
    first.stop();
    second.stop();
}
