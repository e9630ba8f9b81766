//! Other nodes as the hosts of an executor meet them.
//!
//! ```text
//!   executor 1                      executor 0                         another node
//!   host ─SendToNode─► ToNode ─ring─► ┐
//!                                     ├─► link ════ one connection ════ link
//!   host ◄───────────── Message ◄─────┘
//! ```
//!
//! The executor that holds the links tells the others of each beginning and end on the queue that its
//! messages take, so order holds for them as it does for itself. What a host wanted sent before it
//! heard of a link never goes out on it: turns end before a link is told, and what comes from other
//! executors names the link that was meant.

use std::collections::BTreeMap;

use sealog_protocol::Time;
use sealog_protocol::ids::{Incarnation, NodeId};
use sealog_protocol::machine::Address;
use sealog_protocol::message::Message;

use crate::driver::Driver;
use crate::host::{ExecutorId, Host};
use crate::inbox::Parcel;
use crate::peer_config::PeersNow;
use crate::peers::{LinkNumber, PeerCuts, PeerEvent, PeerSockets};

/// The executor that holds all links: the one that clients connect to, where with few executors the
/// data is.
pub(crate) const HOLDER: ExecutorId = ExecutorId(0);

/// An executor's view of the other nodes.
#[derive(Default)]
pub(crate) struct Peering {
    /// The links, on the executor that holds them, if this node knows other nodes.
    pub sockets: Option<PeerSockets>,
    /// The links that this executor's host was told of.
    told: BTreeMap<NodeId, LinkNumber>,
}

impl Peering {
    pub fn new(sockets: Option<PeerSockets>) -> Peering {
        Peering { sockets, told: BTreeMap::new() }
    }

    /// Whether there is something that was received and not yet handed over.
    pub fn has_news(&self, is_crowded: bool) -> bool {
        let has_news = |sockets: &PeerSockets| sockets.has_events() || (sockets.has_stalled() && !is_crowded);
        self.sockets.as_ref().is_some_and(has_news)
    }
}

impl<H: Host> Driver<H> {
    /// Hands over what other nodes did.
    pub(crate) fn take_from_nodes(&mut self, now: Time) -> bool {
        let mut found = self.hand_over(now);
        while !self.outbox.is_crowded()
            && let Some(sockets) = self.peering.sockets.as_mut().filter(|sockets| sockets.has_stalled())
        {
            sockets.go_on(now, &self.counters[usize::from(self.executor.0)]);
            self.hand_over(now);
            found = true;
        }
        found
    }

    /// Hands over what a completion brought.
    pub(crate) fn hand_over(&mut self, now: Time) -> bool {
        let mut found = false;
        while let Some(event) = self.peering.sockets.as_mut().and_then(PeerSockets::next_event) {
            found = true;
            match event {
                PeerEvent::Connected { node, incarnation, link } => {
                    for executor in self.others() {
                        self.outbox.send(executor, Parcel::Connected { node, incarnation, link });
                    }
                    self.connected(now, node, incarnation, link);
                }
                PeerEvent::Disconnected { node } => {
                    for executor in self.others() {
                        self.outbox.send(executor, Parcel::Disconnected { node });
                    }
                    self.disconnected(now, node);
                }
                PeerEvent::Message { from, to, message } => self.arrived(now, from, to, message),
            }
        }
        found
    }

    fn others(&self) -> impl Iterator<Item = ExecutorId> + use<H> {
        let own = self.executor;
        (0..self.counters.len() as u8).map(ExecutorId).filter(move |executor| *executor != own)
    }

    fn arrived(&mut self, now: Time, from: Address, to: Address, message: Message) {
        match self.host.place(to) {
            Some(executor) if executor == self.executor => self.host.message(now, from, to, message),
            Some(executor) => self.outbox.send(executor, Parcel::Message { from, to, message }),
            None => {
                self.counters[usize::from(self.executor.0)].peer_messages_dropped.add(1);
                tracing::debug!(?from, ?to, "dropped a node's message to a machine that is not here");
            }
        }
    }

    /// A link begins for this executor's host. Its turn ends first: what it wanted sent until now was
    /// for an older link, or for none.
    pub(crate) fn connected(&mut self, now: Time, node: NodeId, incarnation: Incarnation, link: LinkNumber) {
        self.host.flush(now, &mut self.actions);
        self.perform(now);
        self.peering.told.insert(node, link);
        self.host.node_connected(now, node, incarnation);
    }

    /// A link has ended for this executor's host.
    pub(crate) fn disconnected(&mut self, now: Time, node: NodeId) {
        if self.peering.told.remove(&node).is_some() {
            self.host.node_disconnected(now, node);
        }
    }

    /// Knows these other nodes from now on. Who is connected and is not among them is told of with the
    /// next completions or turn.
    pub(crate) fn set_peers(&mut self, now: Time, peers: PeersNow) {
        if let Some(sockets) = self.peering.sockets.as_mut() {
            sockets.set_peers(now, peers, &self.counters[usize::from(self.executor.0)]);
        }
    }

    /// Is cut off from these nodes from now on, and from no others.
    pub(crate) fn set_cuts(&mut self, cuts: PeerCuts) {
        if let Some(sockets) = self.peering.sockets.as_mut() {
            sockets.set_cuts(cuts, &mut self.ring);
        }
    }

    /// Sends what this executor's host wants sent, on the link that it knows of.
    pub(crate) fn send_to_node(&mut self, now: Time, from: Address, to: Address, message: Message) {
        let counters = &self.counters[usize::from(self.executor.0)];
        match self.peering.told.get(&to.node) {
            None => counters.peer_messages_dropped.add(1),
            Some(link) if self.executor == HOLDER => self.send_on_link(now, *link, from, to, message),
            Some(link) => self.outbox.send(HOLDER, Parcel::ToNode { link: *link, from, to, message }),
        }
    }

    pub(crate) fn send_on_link(&mut self, now: Time, link: LinkNumber, from: Address, to: Address, message: Message) {
        let counters = &self.counters[usize::from(self.executor.0)];
        let sockets = self.peering.sockets.as_mut().expect("only the holder of links has told of one");
        sockets.send(now, link, from, to, &message, counters);
    }
}
