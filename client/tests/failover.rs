//! A session with several addresses of one cluster: nodes that are gone, silent, cut off from the
//! others, or of another cluster, in virtual time. One scripted log stands behind all of them, as a
//! cluster's does: sessions and verdicts are known wherever the session goes.

mod common;

use std::time::Duration;

use common::FakeServer;
use sealog::session::{
    Append, Direction, Operation, Outcome, Read, Session, SessionConfig, Subscribe, SubscriptionEvent, Target,
};
use sealog::{AppendError, Appended, ConnectionError, LogBookId, NewRecord, SeqNum, Tag};
use sealog_protocol::Time;
use sealog_protocol::client::ErrorCode;

const TAG: Tag = Tag(9);
const SECOND: Duration = Duration::from_secs(1);

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Well,
    /// It refuses connections.
    Gone,
    /// It takes connections and bytes, and acts on nothing.
    Stopped,
    OtherCluster,
}

struct World {
    session: Session,
    server: FakeServer,
    nodes: Vec<Node>,
    now: Time,
    connection: usize,
    is_connected: bool,
    /// What stopped nodes were sent, by connection.
    swallowed: Vec<(usize, Vec<u8>)>,
    /// The nodes tried, in order.
    dialed: Vec<usize>,
}

impl World {
    fn new(nodes: &[Node]) -> World {
        let addresses = (0..nodes.len()).map(|node| format!("node-{node}:1")).collect();
        World {
            session: Session::new(SessionConfig { addresses, ..SessionConfig::default() }),
            server: FakeServer::default(),
            nodes: nodes.to_vec(),
            now: Time::ZERO,
            connection: 0,
            is_connected: false,
            swallowed: Vec::new(),
            dialed: Vec::new(),
        }
    }

    /// At the first node, with an open session.
    fn warm(nodes: &[Node]) -> World {
        let mut world = World::new(nodes);
        world.append(b"warm", 10 * SECOND);
        world.pass(SECOND);
        world.appended();
        world
    }

    fn node(&self) -> Node {
        self.nodes[self.session.address()]
    }

    fn lose(&mut self, reason: ConnectionError) {
        self.server.disconnect(self.connection);
        self.is_connected = false;
        self.session.disconnected(self.now, reason);
    }

    /// The node that the session is connected to becomes something else, and its connections end if
    /// it is gone.
    fn turn(&mut self, node: Node) {
        let at = self.session.address();
        self.nodes[at] = node;
        if node == Node::Gone {
            self.lose(ConnectionError::Closed);
        }
    }

    fn dial(&mut self) {
        self.dialed.push(self.session.address());
        if self.node() == Node::Gone {
            return self.session.disconnected(self.now, ConnectionError::Io { message: "refused".to_owned() });
        }
        self.connection += 1;
        self.is_connected = true;
        self.session.connected(self.now);
    }

    /// Both ways until nothing moves.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.is_connected || self.session.transmit().is_empty() {
                return;
            }
            let bytes = self.session.transmit().to_vec();
            self.session.transmitted(bytes.len());
            let node = self.node();
            if node == Node::Stopped {
                self.swallowed.push((self.connection, bytes));
                continue;
            }
            self.server.welcome.cluster = if node == Node::OtherCluster { 8 } else { 7 };
            self.server.receive(self.connection, &bytes);
            let output = self.server.output(self.connection);
            if let Err(reason) = self.session.receive(self.now, &output) {
                self.lose(reason);
            }
        }
        panic!("it never stops talking");
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run();
        for step in 0.. {
            assert!(step < 10_000, "time does not pass");
            let connect = self.session.connect_at().filter(|_| !self.is_connected);
            let Some(next) = [self.session.deadline(), connect].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            if let Err(reason) = self.session.tick(self.now) {
                self.lose(reason);
            }
            if !self.is_connected && self.session.connect_at().is_some_and(|at| at <= self.now) {
                self.dial();
            }
            self.run();
        }
        self.now = end;
    }

    /// Passes time until something completes; how long that took.
    fn until_done(&mut self) -> (Duration, Outcome) {
        let begun = self.now;
        loop {
            if let Some((_, outcome)) = self.session.next_completion() {
                return (self.now.since(begun), outcome);
            }
            assert!(self.now.since(begun) < 60 * SECOND, "it never ends");
            self.pass(Duration::from_millis(1));
        }
    }

    fn append(&mut self, payload: &[u8], within: Duration) {
        let records = [NewRecord { tags: &[TAG], payload }];
        let append = Append { logbook: Target::Name("book"), condition: None, time_ms: 5, records: &records };
        self.session.submit(self.now, Operation::Append(append), self.now + within).expect("there is room");
    }

    fn appended(&mut self) -> (Duration, Appended) {
        match self.until_done() {
            (after, Outcome::Append(Ok(appended))) => (after, appended),
            other => panic!("not acknowledged: {other:?}"),
        }
    }
}

#[test]
fn a_node_that_is_gone_is_left_at_once_and_the_session_goes_on() {
    let mut world = World::warm(&[Node::Well, Node::Gone, Node::Well]);
    world.append(b"once", 10 * SECOND);
    let bytes = world.session.transmit().to_vec();
    world.session.transmitted(bytes.len());
    world.server.receive(world.connection, &bytes);
    world.turn(Node::Gone);
    let (after, appended) = world.appended();
    assert!(after <= Duration::from_millis(1), "{after:?}");
    assert_eq!((world.dialed.as_slice(), world.session.address()), (&[0, 1, 2][..], 2));
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"once"], "no duplicate");
    assert_eq!(appended.seqnum, world.server.records[1].seqnum, "the first verdict");
    assert_eq!((world.server.appends_seen, world.server.sessions()), (3, 1), "sent again under the same session");
}

#[test]
fn a_silent_node_is_left_within_a_second_and_what_it_does_later_takes_no_effect() {
    let mut world = World::warm(&[Node::Well, Node::Well]);
    world.turn(Node::Stopped);
    world.append(b"once", 10 * SECOND);
    let (after, appended) = world.appended();
    assert!(after <= Duration::from_millis(1_001), "{after:?}");
    assert_eq!(world.session.address(), 1);
    // It is resumed, and takes in what its sockets hold.
    for (connection, bytes) in std::mem::take(&mut world.swallowed) {
        world.server.receive(connection, &bytes);
    }
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"once"]);
    assert_eq!(world.server.records[1].seqnum, appended.seqnum);
}

#[test]
fn a_node_that_takes_connections_and_never_says_welcome_is_left() {
    let mut world = World::new(&[Node::Stopped, Node::Well]);
    world.append(b"once", 10 * SECOND);
    let (after, _) = world.appended();
    assert!(after <= SECOND, "{after:?}");
    assert_eq!(world.dialed, [0, 1]);
}

#[test]
fn a_node_that_holds_a_read_and_gives_signs_of_life_is_not_left() {
    let mut world = World::warm(&[Node::Well, Node::Well]);
    let read = Read {
        logbook: LogBookId::from_name("book"),
        tag: Tag(10),
        first: SeqNum::MIN,
        last: SeqNum::MAX,
        direction: Direction::Forward,
        aux: false,
        records_max: 1,
        wait: 4 * SECOND,
        linearizable: false,
    };
    world.session.submit(world.now, Operation::Read(read), world.now + 20 * SECOND).expect("there is room");
    world.pass(Duration::from_millis(3_900));
    assert_eq!((world.server.waiting(), world.dialed.as_slice()), (1, &[0][..]));
    // The same, held by one that is stopped then.
    world.turn(Node::Stopped);
    world.pass(Duration::from_millis(1_100));
    assert_eq!(world.dialed, [0, 1]);
}

#[test]
fn a_node_that_finishes_nothing_is_left_and_if_all_are_so_ever_more_patiently() {
    let mut world = World::warm(&[Node::Well, Node::Well]);
    world.server.is_mute = true;
    world.append(b"once", 30 * SECOND);
    world.pass(Duration::from_millis(2_040));
    assert_eq!(world.dialed, [0]);
    world.pass(Duration::from_millis(20));
    assert_eq!(world.dialed, [0, 1]);
    world.pass(Duration::from_millis(4_000));
    assert_eq!(world.dialed, [0, 1], "twice as long");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.dialed, [0, 1, 0]);
    world.server.is_mute = false;
    let (after, _) = world.appended();
    assert!(after <= 9 * SECOND, "{after:?}");
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"once"]);
}

#[test]
fn a_node_that_cannot_serve_is_left_after_a_few_refusals() {
    let mut world = World::warm(&[Node::Well, Node::Well]);
    world.server.refusals.extend([ErrorCode::Unavailable; 3]);
    world.append(b"once", 10 * SECOND);
    let (after, _) = world.appended();
    assert!(after <= Duration::from_millis(30), "{after:?}");
    assert_eq!(world.dialed, [0, 1]);

    // None can: the deadline passes, with the reason, and they are not besieged meanwhile.
    world.server.refusals.extend(vec![ErrorCode::Unavailable; 100_000]);
    world.append(b"in vain", 5 * SECOND);
    let (after, outcome) = world.until_done();
    assert!(after >= Duration::from_millis(4_900), "{after:?}");
    let Outcome::Append(Err(error)) = outcome else { panic!("it had no effect: {outcome:?}") };
    assert!(error.to_string().contains("Unavailable"), "{error}");
    assert!(world.dialed.len() < 40, "{} connections", world.dialed.len());
    assert!(world.server.refusals.len() > 100_000 - 200);
}

#[test]
fn a_node_of_another_cluster_is_passed_over_and_if_all_are_that_is_said() {
    let mut world = World::warm(&[Node::Well, Node::OtherCluster, Node::Well]);
    world.turn(Node::Gone);
    world.append(b"once", 10 * SECOND);
    let (after, _) = world.appended();
    assert!(after <= Duration::from_millis(1), "{after:?}");
    assert_eq!(world.dialed, [0, 1, 2]);

    world.nodes = vec![Node::OtherCluster; 3];
    world.lose(ConnectionError::Closed);
    world.append(b"in vain", 10 * SECOND);
    let (after, outcome) = world.until_done();
    assert!(after < 3 * SECOND, "no time mends it: {after:?}");
    let Outcome::Append(Err(AppendError::Unreachable { reason })) = outcome else { panic!("{outcome:?}") };
    assert!(reason.is_final());
    for node in ["node-0:1: ", "node-1:1: ", "node-2:1: ", "0000000000000008"] {
        assert!(reason.to_string().contains(node), "{reason}");
    }
}

#[test]
fn one_that_is_away_does_not_keep_from_one_that_comes_back() {
    let mut world = World::warm(&[Node::Well, Node::Gone]);
    world.turn(Node::Gone);
    world.append(b"once", 30 * SECOND);
    world.pass(10 * SECOND);
    assert!(world.dialed.len() < 60, "each has a backoff: {} tries in ten seconds", world.dialed.len());
    let reason = world.session.unreachable().expect("both failed").to_string();
    assert!(reason.contains("node-0:1: ") && reason.contains("node-1:1: "), "{reason}");
    world.nodes[0] = Node::Well;
    let (after, _) = world.appended();
    assert!(after <= SECOND, "{after:?}");
}

#[test]
fn a_subscription_goes_on_where_it_was() {
    let mut world = World::warm(&[Node::Well, Node::Well]);
    let wanted =
        Subscribe { logbook: LogBookId::from_name("book"), tag: TAG, from: SeqNum::MIN, patience: 10 * SECOND };
    let subscription = world.session.subscribe(world.now, wanted).expect("there is room");
    let mut seen = Vec::new();
    let mut take = |world: &mut World| {
        while let Some(event) = world.session.next_event(world.now, subscription) {
            let SubscriptionEvent::Record(record) = event.expect("no failure is told") else { panic!("trimmed") };
            seen.push(record.payload.to_vec());
        }
        seen.len()
    };
    world.append(b"one", 10 * SECOND);
    world.appended();
    assert_eq!(take(&mut world), 2);
    world.turn(Node::Gone);
    world.append(b"two", 10 * SECOND);
    world.appended();
    assert_eq!(take(&mut world), 3);
    // With nothing but the subscription, silence is found too.
    world.nodes[0] = Node::Well;
    world.turn(Node::Stopped);
    world.pass(6 * SECOND);
    assert_eq!(world.dialed, [0, 1, 0]);
    world.append(b"three", 10 * SECOND);
    world.appended();
    take(&mut world);
    assert_eq!(seen, [&b"warm"[..], b"one", b"two", b"three"]);
}
