//! What runs on an executor: the machines of it and their routing, behind one trait.

use std::sync::Arc;

use bytes::Bytes;
use sealog_journal::{Owner, Rotten};
use sealog_protocol::Time;
use sealog_protocol::client::{ClientHello, Reply, Welcome};
use sealog_protocol::frame::FrameError;
use sealog_protocol::ids::{Incarnation, NodeId, ShardId};
use sealog_protocol::machine::{Address, ConnectionId, DurableEntry, JournalPlace, ReadFailure, Recovered};
use sealog_protocol::message::Message;

use crate::clock::Clock;
use crate::counters::Counters;
use crate::error::HostError;
use crate::executor::Poster;
use crate::peer_config::PeersNow;
use crate::peer_watch::PeerWatch;
use crate::peers::PeerCuts;
use crate::watch::JournalWatch;

/// One executor of a node. They count from 0, in the order of [`crate::NodeConfig::executors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorId(pub u8);

/// What a host is made with, on its executor's thread.
pub struct ExecutorContext<E> {
    pub executor: ExecutorId,
    /// How many there are.
    pub executors: u8,
    /// The node's clock: the origin of every [`Time`] that a host is given.
    pub clock: Clock,
    /// Counters of all executors, by their ids. For `status`.
    pub counters: Arc<[Counters]>,
    /// The journals of all executors, likewise.
    pub journals: Arc<[JournalWatch]>,
    /// The other nodes of the cluster.
    pub peers: Arc<PeerWatch>,
    /// Hands events to any executor, from any thread.
    pub poster: Poster<E>,
}

impl<E> Clone for ExecutorContext<E> {
    fn clone(&self) -> ExecutorContext<E> {
        ExecutorContext {
            executor: self.executor,
            executors: self.executors,
            clock: self.clock,
            counters: Arc::clone(&self.counters),
            journals: Arc::clone(&self.journals),
            peers: Arc::clone(&self.peers),
            poster: self.poster.clone(),
        }
    }
}

/// The machines of one executor and their routing. Its driver calls it, on one thread:
///
/// 1. [`Host::recovered`] for each entry of the journal, in the order of their appending;
/// 2. [`Host::start`], once;
/// 3. turns: any number of inputs, then [`Host::flush`].
///
/// Messages between machines of this executor are delivered inside [`Host::flush`], until nothing
/// moves; only what leaves the executor becomes an [`Action`].
pub trait Host: 'static {
    /// What other threads hand in with a [`Poster`]: answers of a register, wishes of an operator.
    type Event: Send + 'static;

    /// An entry that the journal holds.
    fn recovered(&mut self, owner: Owner, entry: Recovered<'_>);

    /// Recovery is over. An error ends the node before it serves, with its message.
    fn start(&mut self, now: Time) -> Result<(), HostError>;

    /// The executor of this node that a machine is on; `None` if it has no such machine.
    fn place(&self, to: Address) -> Option<ExecutorId>;

    /// A connection to all machines of another node begins, in this life of it. Comes before the
    /// first message from there, on every executor.
    fn node_connected(&mut self, now: Time, node: NodeId, incarnation: Incarnation);

    /// It has ended. Comes after the last message from there.
    fn node_disconnected(&mut self, now: Time, node: NodeId);

    /// A message from a machine of another executor or node.
    fn message(&mut self, now: Time, from: Address, to: Address, message: Message);

    /// Something that was posted.
    fn event(&mut self, now: Time, event: Self::Event);

    /// A client's connection begins.
    fn client_hello(&mut self, now: Time, connection: ConnectionId, hello: ClientHello) -> Welcome;

    /// A client's connection has ended. Comes once after [`Host::client_hello`], also on executors
    /// that frames of it were forwarded to.
    fn client_closed(&mut self, now: Time, connection: ConnectionId);

    /// A whole frame of a client: a batch, whose checksum nobody has verified yet, or a request,
    /// verified. An error closes the connection, and is logged.
    fn client_frame(&mut self, now: Time, connection: ConnectionId, frame: &[u8]) -> Result<(), FrameError>;

    /// Whether more client frames are welcome. While they are not, the driver leaves what clients
    /// send in its bounded buffers and then in their sockets, and delivers everything else.
    fn accepts(&self) -> bool;

    /// The owner's oldest [`Action::Append`] that was not yet so is durable, and lies here.
    fn durable(&mut self, now: Time, owner: Owner, place: JournalPlace);

    /// The answer to [`Action::Read`].
    fn read_done(&mut self, now: Time, owner: Owner, ticket: u64, result: Result<Bytes, ReadFailure>);

    /// The answer to [`Action::ReadTags`].
    fn tags_read(&mut self, now: Time, owner: Owner, ticket: u64, first: u64, result: Result<Bytes, ReadFailure>);

    /// Whether the journal has room has changed; said once at the start too.
    fn space(&mut self, now: Time, full: bool);

    /// The journal wants a segment back of which the owner needs little: it appends that again, and
    /// says [`Action::Release`].
    fn vacate(&mut self, now: Time, owner: Owner, segment: u32);

    /// These bytes of a segment in which the owner has something are damaged.
    fn rotten(&mut self, now: Time, rotten: Rotten);

    /// The host's deadline has passed.
    fn tick(&mut self, now: Time);

    /// Ends a turn: flushes every machine and delivers their messages to each other until nothing
    /// moves. What goes elsewhere is pushed to `actions`.
    fn flush(&mut self, now: Time, actions: &mut Vec<Action>);

    /// When the host wants a [`Host::tick`] at the latest.
    fn deadline(&self) -> Option<Time>;
}

/// What a host asks its driver to do.
#[derive(Debug)]
pub enum Action {
    /// Pass a message to a machine on another executor of this node, in order with earlier ones.
    Send { executor: ExecutorId, from: Address, to: Address, message: Message },
    /// Pass a message to a machine of another node, in order with earlier ones on its connection.
    /// Dropped when there is none.
    SendToNode { from: Address, to: Address, message: Message },
    /// Pass a client's frame to the executor that serves its LogBook: [`Host::client_frame`] there.
    Forward { executor: ExecutorId, connection: ConnectionId, frame: Bytes },
    /// Answer a client; its connection may live on any executor. Dropped when it is gone.
    Reply { connection: ConnectionId, request: u64, reply: Reply },
    /// Make durable: [`Host::durable`] follows, per owner in order.
    Append { owner: Owner, entry: DurableEntry },
    /// Read from the journal: [`Host::read_done`] follows.
    Read { owner: Owner, ticket: u64, at: JournalPlace, bytes: u32 },
    /// Read Tags of a shard: [`Host::tags_read`] follows.
    ReadTags { owner: Owner, ticket: u64, shard: ShardId, segment: u32, from: u64 },
    /// The machine needs nothing of a segment any more.
    Release { owner: Owner, segment: u32 },
    /// Who the other nodes are from now on. Only the first executor's host says so: it holds the
    /// connections. Nothing comes of it on a node that was started without peers.
    Peers(Box<PeersNow>),
    /// From whom this node is cut off from now on, and from nobody else: a fault that is made on
    /// purpose. As [`Action::Peers`].
    Cuts(Box<PeerCuts>),
}

const _: () = assert!(size_of::<Action>() <= 136, "actions are moved about: they stay small");
