//! Nodes for tests of the connections between nodes: a host that tells the test what it hears and
//! says what the test wants, and a peer that is nothing but a socket.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use sealog_protocol::Time;
use sealog_protocol::client::{ClientHello, Welcome};
use sealog_protocol::frame::{FrameError, FrameKind, HEADER_BYTES, Header};
use sealog_protocol::ids::{ClusterId, Incarnation, LogspaceId, NodeId, Place, ViewNumber};
use sealog_protocol::machine::{Address, ConnectionId, JournalPlace, ReadFailure, Recovered, Role};
use sealog_protocol::message::{Message, encode};
use sealog_protocol::peer::{Greeting, PeerIdentity, decode_greeting, encode_greeting, encode_ping};
use sealog_runtime::{
    Action, ExecutorContext, ExecutorId, Handle, Host, HostError, Listen, NodeConfig, Owner, PeerAddress, PeerCuts,
    PeerLimits, PeerStatus, PeerWatch, PeersConfig, PeersNow, start,
};

use crate::toy::{Data, Mode, config};

/// Long enough for any machine; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER: ClusterId = ClusterId(9);

/// What a host heard, and on which executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Connected(u8, NodeId, Incarnation),
    Disconnected(u8, NodeId),
    Message(u8, Address, Message),
}

/// What a test has a host do.
pub enum Wish {
    /// Say this to other nodes, from the machine of this role.
    Say(Role, Vec<(Address, Message)>),
    /// Say so many messages of so many bytes, the first with this number.
    Count { from: Role, to: Address, first: u64, count: u64, bytes: usize },
    /// Take clients' frames, or not.
    Accept(bool),
    /// Know these other nodes from now on.
    Know(PeersNow),
    /// Be cut off from these from now on.
    Cut(PeerCuts),
    /// From now on, say message 666 to a node when its connection has ended.
    LastWords,
}

struct Peer {
    executor: ExecutorId,
    executors: u8,
    node: NodeId,
    accepting: bool,
    has_last_words: bool,
    heard: Sender<Heard>,
    actions: Vec<Action>,
}

pub fn address(node: u64, role: Role) -> Address {
    Address { node: NodeId(node), logspace: LogspaceId(0), role }
}

/// A message with a number and so many bytes of bulk.
pub fn numbered(number: u64, bytes: usize) -> Message {
    let entries = Bytes::from(vec![number as u8; bytes]);
    Message::MetalogEntries {
        from: Place { view: ViewNumber(1), index: number },
        count: 0,
        more: bytes.is_multiple_of(2),
        entries,
    }
}

pub fn number(message: &Message) -> u64 {
    match message {
        Message::MetalogEntries { from, .. } => from.index,
        other => panic!("{other:?}"),
    }
}

impl Peer {
    fn say(&mut self, from: Role, to: Address, message: Message) {
        let from = Address { role: from, ..address(self.node.0, Role::Storage) };
        self.actions.push(Action::SendToNode { from, to, message });
    }

    fn hear(&mut self, heard: Heard) {
        // The test may be over.
        let _ = self.heard.send(heard);
    }
}

impl Host for Peer {
    type Event = Wish;

    fn recovered(&mut self, _: Owner, _: Recovered<'_>) {}

    fn start(&mut self, _: Time) -> Result<(), HostError> {
        Ok(())
    }

    /// Sequencers are on the last executor, controllers nowhere, all else is on the first.
    fn place(&self, to: Address) -> Option<ExecutorId> {
        match to.role {
            Role::Sequencer => Some(ExecutorId(self.executors - 1)),
            Role::Controller => None,
            _ => Some(ExecutorId(0)),
        }
    }

    fn node_connected(&mut self, _: Time, node: NodeId, incarnation: Incarnation) {
        self.hear(Heard::Connected(self.executor.0, node, incarnation));
    }

    fn node_disconnected(&mut self, _: Time, node: NodeId) {
        if self.has_last_words {
            self.say(Role::Engine, address(node.0, Role::Storage), numbered(666, 1));
        }
        self.hear(Heard::Disconnected(self.executor.0, node));
    }

    fn message(&mut self, _: Time, from: Address, to: Address, message: Message) {
        assert_eq!((to.node, self.place(to)), (self.node, Some(self.executor)));
        self.hear(Heard::Message(self.executor.0, from, message));
    }

    fn event(&mut self, _: Time, event: Wish) {
        match event {
            Wish::Say(from, words) => words.into_iter().for_each(|(to, message)| self.say(from, to, message)),
            Wish::Count { from, to, first, count, bytes } => {
                for nth in first..first + count {
                    self.say(from, to, numbered(nth, bytes));
                }
            }
            Wish::Accept(accepting) => self.accepting = accepting,
            Wish::Know(peers) => self.actions.push(Action::Peers(Box::new(peers))),
            Wish::Cut(cuts) => self.actions.push(Action::Cuts(Box::new(cuts))),
            Wish::LastWords => self.has_last_words = true,
        }
    }

    fn client_hello(&mut self, _: Time, _: ConnectionId, _: ClientHello) -> Welcome {
        Welcome::new(CLUSTER, self.node, 1, 8192)
    }

    fn client_closed(&mut self, _: Time, _: ConnectionId) {}

    fn client_frame(&mut self, _: Time, _: ConnectionId, _: &[u8]) -> Result<(), FrameError> {
        Ok(())
    }

    fn accepts(&self) -> bool {
        self.accepting
    }

    fn durable(&mut self, _: Time, _: Owner, _: JournalPlace) {}

    fn read_done(&mut self, _: Time, _: Owner, _: u64, _: Result<Bytes, ReadFailure>) {}

    fn tags_read(&mut self, _: Time, _: Owner, _: u64, _: u64, _: Result<Bytes, ReadFailure>) {}

    fn space(&mut self, _: Time, _: bool) {}

    fn rotten(&mut self, _: Time, _: sealog_runtime::Rotten) {}

    fn vacate(&mut self, _: Time, _: Owner, _: u32) {}

    fn tick(&mut self, _: Time) {}

    fn flush(&mut self, _: Time, actions: &mut Vec<Action>) {
        actions.append(&mut self.actions);
    }

    fn deadline(&self) -> Option<Time> {
        None
    }
}

/// A node that others know.
pub fn peer(node: u64, incarnation: u64, address: Listen) -> PeerAddress {
    PeerAddress { node: NodeId(node), incarnation: Incarnation(incarnation), address }
}

/// Who a node of these tests is.
pub fn identity(node: u64, incarnation: u64) -> PeerIdentity {
    PeerIdentity { cluster: CLUSTER, node: NodeId(node), incarnation: Incarnation(incarnation), executor: 0 }
}

/// A node, and what its hosts hear.
pub struct Node {
    pub handle: Handle<Wish>,
    pub heard: Receiver<Heard>,
    pub watch: std::sync::Arc<PeerWatch>,
}

/// A node with these peers, which waits for none of them.
pub struct Plan {
    pub own: PeerIdentity,
    pub mode: Mode,
    pub listen: Listen,
    pub peers: Vec<(u64, Listen)>,
    pub limits: PeerLimits,
}

/// A port of the loopback.
pub fn loopback(port: u16) -> Listen {
    Listen::Tcp(([127, 0, 0, 1], port).into())
}

impl Plan {
    pub fn new(own: PeerIdentity, peers: &[(u64, Listen)]) -> Plan {
        let limits = PeerLimits { pause_max: Duration::from_millis(50), ..PeerLimits::default() };
        Plan { own, mode: Mode::Alone, listen: loopback(0), peers: peers.to_vec(), limits }
    }

    pub fn start(self, data: &Data) -> Node {
        let peers = self.peers.into_iter().map(|(node, address)| peer(node, 0, address)).collect();
        let peers = Some(PeersConfig { own: self.own, listen: self.listen, peers, limits: self.limits });
        let config = NodeConfig { peers, ..config(data, self.mode, vec![data.socket()]) };
        let ((sender, heard), node) = (channel(), self.own.node);
        let (watches, watch) = channel();
        let handle = start::<Peer, _>(config, move |context: ExecutorContext<Wish>| {
            let _ = watches.send(context.peers.clone());
            Ok(Peer {
                executor: context.executor,
                executors: context.executors,
                node,
                accepting: true,
                has_last_words: false,
                heard: sender.clone(),
                actions: Vec::new(),
            })
        });
        Node { handle: handle.expect("it starts"), heard, watch: watch.recv().expect("a watch") }
    }
}

impl Node {
    /// Where other nodes reach it.
    pub fn address(&self) -> Listen {
        self.handle.peer_address().expect("it listens").clone()
    }

    pub fn next(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("something is heard")
    }

    /// The next so many are messages to this executor, with these numbers.
    pub fn expect_numbers(&self, executor: u8, numbers: std::ops::Range<u64>) {
        for expected in numbers {
            match self.next() {
                Heard::Message(on, _, message) if on == executor => assert_eq!(number(&message), expected),
                other => panic!("{other:?} instead of message {expected}"),
            }
        }
    }

    pub fn expect(&self, expected: Heard) {
        assert_eq!(self.next(), expected);
    }

    pub fn expect_connected(&self, node: u64, incarnation: u64) {
        self.expect(Heard::Connected(0, NodeId(node), Incarnation(incarnation)));
    }

    pub fn expect_disconnected(&self, node: u64) {
        self.expect(Heard::Disconnected(0, NodeId(node)));
    }

    pub fn wish(&self, executor: u8, wish: Wish) {
        self.handle.poster().post(ExecutorId(executor), wish);
    }

    pub fn count(&self, to: u64, numbers: std::ops::Range<u64>, bytes: usize) {
        let to = address(to, Role::Storage);
        let (first, count) = (numbers.start, numbers.end - numbers.start);
        self.wish(0, Wish::Count { from: Role::Engine, to, first, count, bytes });
    }

    pub fn counters(&self) -> &sealog_runtime::Counters {
        &self.handle.counters()[0]
    }

    pub fn status(&self, node: u64) -> PeerStatus {
        self.watch.all().into_iter().find(|peer| peer.node == NodeId(node)).expect("it is listed")
    }

    /// Waits until something is so, by looking.
    pub fn until(&self, what: &str, is_so: impl Fn(&Node) -> bool) {
        let start = std::time::Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            std::thread::yield_now();
        }
    }

    pub fn stop(self) {
        self.handle.stop();
        self.handle.wait().expect("an orderly stop");
    }
}

/// A peer that does what the test does, byte by byte.
pub struct Stranger(pub TcpStream);

impl Stranger {
    pub fn connect(address: &Listen) -> Stranger {
        let Listen::Tcp(address) = address else { panic!("{address} is not TCP") };
        Stranger::new(TcpStream::connect(address).expect("it listens"))
    }

    pub fn new(stream: TcpStream) -> Stranger {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        Stranger(stream)
    }

    /// Says hello and is let in.
    pub fn greeted(address: &Listen, own: PeerIdentity) -> Stranger {
        let mut stranger = Stranger::connect(address);
        stranger.greet(&Greeting::Hello(own));
        assert!(matches!(stranger.greeting(), Some(Greeting::Welcome(_))));
        stranger
    }

    pub fn greet(&mut self, greeting: &Greeting) {
        let mut bytes = Vec::new();
        encode_greeting(&mut bytes, greeting);
        self.send(&bytes);
    }

    pub fn ping(&mut self) {
        self.tell_time(0);
    }

    /// Pings, as if its clock showed this.
    pub fn tell_time(&mut self, time_of_day_ms: u64) {
        let mut bytes = Vec::new();
        encode_ping(&mut bytes, time_of_day_ms);
        self.send(&bytes);
    }

    pub fn say(&mut self, from: Address, to: Address, message: &Message) {
        let mut bytes = Vec::new();
        encode(&mut bytes, from, to, message);
        self.send(&bytes);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the node reads");
    }

    /// The next frame that is no ping; `None` at the end.
    pub fn frame(&mut self) -> Option<Bytes> {
        loop {
            let mut bytes = vec![0; HEADER_BYTES];
            self.fill(&mut bytes)?;
            let header = Header::parse(&bytes).expect("valid").expect("whole");
            bytes.resize(header.frame_bytes(), 0);
            self.fill(&mut bytes[HEADER_BYTES..])?;
            if header.kind != FrameKind::PeerPing {
                return Some(bytes.into());
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came in {PATIENCE:?}"),
            result => result.ok(),
        }
    }

    pub fn greeting(&mut self) -> Option<Greeting> {
        self.frame().map(|frame| decode_greeting(&frame).expect("a greeting"))
    }
}
