//! Who the other nodes are, which of them are connected, and what they said.
//!
//! A **link** is a connection from its greeting to its end, with a number that is never used again.
//! Hosts hear of its beginning before any message of it, and of its end after the last one; a message
//! goes out only on the link that its sender knew of. So a message is never taken for one of another
//! link: what was sent on an older one is lost with it, as [`sealog_protocol::machine::Input`] says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sealog_protocol::Time;
use sealog_protocol::frame::{Frame, FrameError, FrameKind, Header, PlaceScope};
use sealog_protocol::ids::{Incarnation, NodeId};
use sealog_protocol::machine::Address;
use sealog_protocol::message::{Message, decode};
use sealog_protocol::peer::{Greeting, PeerIdentity, Peers, decode_greeting, encode_greeting, encode_ping};

use crate::config::Listen;
use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::limits::GREETING_BYTES_MAX;
use crate::peer_config::{PeerAddress, PeerLimits, PeersConfig};
use crate::peer_watch::{PeerStatus, PeerWatch, time_of_day_ms};
use crate::peers::PeerCuts;
use crate::peers::connection::{PeerConnection, PeerFault, Talk};
use crate::peers::dialing::Dialing;
use crate::warnings::{Warning, Warnings};

/// The number of a link: later ones have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkNumber(u64);

/// What other nodes did, in order.
pub(crate) enum PeerEvent {
    Connected { node: NodeId, incarnation: Incarnation, link: LinkNumber },
    Message { from: Address, to: Address, message: Message },
    Disconnected { node: NodeId },
}

/// The slot of a link's connection.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub number: LinkNumber,
    pub slot: u32,
}

/// Another node.
pub(crate) struct Known {
    pub address: Listen,
    /// Its calls, where it is called.
    pub dialing: Option<Dialing>,
    link: Option<Link>,
    incarnation: Incarnation,
    connects: u64,
    reason: Option<String>,
    clock_ahead_ms: Option<i64>,
}

/// All other nodes.
pub(crate) struct Roster {
    admission: Peers,
    pub known: BTreeMap<NodeId, Known>,
    events: VecDeque<PeerEvent>,
    links: u64,
    /// Slots whose connection gave way to a newer one of the same node.
    pub replaced: Vec<u32>,
    watch: Arc<PeerWatch>,
    pub warnings: Warnings,
    /// Nodes that are cut off.
    pub cuts: PeerCuts,
}

impl Roster {
    pub fn new(config: &PeersConfig, watch: Arc<PeerWatch>) -> Roster {
        let own = config.own;
        let (events, replaced, warnings) = (VecDeque::new(), Vec::new(), Warnings::default());
        let (admission, known, cuts) = (Peers::new(own, []), BTreeMap::new(), PeerCuts::default());
        let mut roster = Roster { admission, known, events, links: 0, replaced, watch, warnings, cuts };
        for peer in &config.peers {
            roster.know(peer, &config.limits);
        }
        roster
    }

    /// Lets a node in from now on, and calls it at this address if it is to be called.
    pub fn know(&mut self, peer: &PeerAddress, limits: &PeerLimits) {
        let own = self.own();
        if peer.node == own.node {
            return;
        }
        self.admission.add(peer.node, peer.incarnation);
        match self.known.get_mut(&peer.node) {
            Some(known) => {
                let is_news = known.address != peer.address || known.incarnation < peer.incarnation;
                if let Some(dialing) = known.dialing.as_mut().filter(|_| is_news) {
                    dialing.hurry();
                }
                known.address = peer.address.clone();
            }
            None => {
                let seed = own.node.0.rotate_left(17) ^ peer.node.0 ^ own.incarnation.0.rotate_left(41);
                let dialing = self.admission.calls(peer.node).then(|| Dialing::new(limits, seed));
                let (address, incarnation) = (peer.address.clone(), Incarnation(0));
                let (connects, reason, clock_ahead_ms) = (0, None, None);
                let known = Known { address, dialing, link: None, incarnation, connects, reason, clock_ahead_ms };
                self.known.insert(peer.node, known);
            }
        }
        self.publish(peer.node);
    }

    /// Does not let a node in any more. Its connections have ended.
    pub fn forget(&mut self, node: NodeId) {
        let known = self.known.remove(&node);
        assert!(known.is_none_or(|known| known.link.is_none()), "its connection has ended");
        self.admission.forget(node);
        self.watch.remove(node);
    }

    /// Who is told that it was removed.
    pub fn set_removed(&mut self, removed: Vec<NodeId>) {
        self.admission.set_removed(removed);
    }

    pub fn own(&self) -> PeerIdentity {
        self.admission.own()
    }

    pub fn next_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The link to a node.
    pub fn link(&self, node: NodeId) -> Option<Link> {
        self.known.get(&node)?.link
    }

    /// Nodes that are connected.
    pub fn connected(&self) -> usize {
        self.known.values().filter(|known| known.link.is_some()).count()
    }

    /// Takes what came on a connection that has not ended.
    pub fn receive(
        &mut self,
        now: Time,
        slot: u32,
        connection: &mut PeerConnection,
        bytes: &[u8],
        counters: &Counters,
    ) -> Result<(), PeerFault> {
        let PeerConnection { wire, talk } = connection;
        talk.heard = now;
        counters.peer_received_bytes.add(bytes.len() as u64);
        match wire.phase {
            Phase::Leaving { .. } | Phase::Dead => return Ok(()),
            // Who calls waits for our answer before it says more, and we do not know it yet.
            Phase::Fresh if talk.called.is_none() && wire.partial_bytes() + bytes.len() > GREETING_BYTES_MAX => {
                Header::parse(bytes)?;
                return Err(PeerFault::LargeGreeting);
            }
            _ => {}
        }
        wire.frames(bytes, |wire, header, frame| match wire.phase {
            Phase::Fresh => self.greet(now, slot, wire, talk, header, frame, counters),
            _ => self.deliver(talk, header, frame, counters),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one frame, and all that may come of it")]
    fn greet(
        &mut self,
        now: Time,
        slot: u32,
        wire: &mut Connection,
        talk: &mut Talk,
        header: &Header,
        frame: &[u8],
        counters: &Counters,
    ) -> Result<(), PeerFault> {
        let greets = [FrameKind::PeerHello, FrameKind::PeerWelcome, FrameKind::PeerRefusal].contains(&header.kind);
        if !greets {
            return Err(PeerFault::NoGreeting(header.kind));
        }
        let peer = match (decode_greeting(frame)?, talk.called) {
            // It would not have come: who sent it gets no answer, and gives up.
            (Greeting::Hello(peer), None) if self.cuts.prevents(peer.node) => return Ok(()),
            (Greeting::Hello(peer), None) => {
                self.admission.admit_caller(peer).map_err(PeerFault::Refused)?;
                encode_greeting(wire.output(), &Greeting::Welcome(self.own()));
                peer
            }
            (Greeting::Welcome(peer), Some(node)) => {
                self.admission.admit_called(node, self.own().executor, peer).map_err(PeerFault::Refused)?;
                let dialing = self.known.get_mut(&node).and_then(|known| known.dialing.as_mut());
                dialing.expect("who was called is dialed").greeted(now);
                peer
            }
            (Greeting::Refused(refusal), Some(_)) => return Err(PeerFault::Rejected(refusal)),
            _ => return Err(PeerFault::Unexpected(header.kind)),
        };
        wire.phase = Phase::Serving;
        talk.node = Some(peer.node);
        encode_ping(wire.output(), time_of_day_ms());
        self.begin(slot, peer, counters);
        Ok(())
    }

    /// A link begins; an older one of the same node has ended.
    fn begin(&mut self, slot: u32, peer: PeerIdentity, counters: &Counters) {
        let (node, incarnation) = (peer.node, peer.incarnation);
        let known = self.known.get_mut(&node).expect("only who is known is let in");
        if let Some(older) = known.link.take() {
            self.replaced.push(older.slot);
            self.events.push_back(PeerEvent::Disconnected { node });
        }
        self.links += 1;
        let link = LinkNumber(self.links);
        (known.link, known.incarnation, known.reason) = (Some(Link { number: link, slot }), incarnation, None);
        known.connects += 1;
        counters.peer_connects.add(1);
        self.events.push_back(PeerEvent::Connected { node, incarnation, link });
        tracing::info!(%node, %incarnation, "connected to a node");
        self.publish(node);
    }

    fn deliver(&mut self, talk: &Talk, header: &Header, frame: &[u8], counters: &Counters) -> Result<(), PeerFault> {
        match header.kind {
            FrameKind::PeerPing => {
                let told_ms =
                    Frame::parse(frame)?.ok_or(FrameError::Truncated)?.verify_place(PlaceScope::Connection)?;
                self.clock_told(talk.node, told_ms);
                Ok(())
            }
            FrameKind::Message | FrameKind::BatchMessage => {
                // The one copy between socket and machine: its bulk is a slice of it.
                let (from, to, message) = decode(&Bytes::copy_from_slice(frame))?;
                // A node speaks for its own machines, to ours.
                if Some(from.node) != talk.node || to.node != self.own().node {
                    return Err(PeerFault::Misaddressed { from, to });
                }
                counters.peer_messages_received.add(1);
                self.events.push_back(PeerEvent::Message { from, to, message });
                Ok(())
            }
            kind => Err(PeerFault::Unexpected(kind)),
        }
    }

    /// A node says what its clock shows.
    fn clock_told(&mut self, node: Option<NodeId>, told_ms: u64) {
        let Some((node, known)) = node.and_then(|node| Some((node, self.known.get_mut(&node)?))) else { return };
        let ahead = |told: i64| told.saturating_sub(i64::try_from(time_of_day_ms()).unwrap_or(i64::MAX));
        known.clock_ahead_ms = i64::try_from(told_ms).ok().filter(|told| *told > 0).map(ahead);
        self.publish(node);
    }

    /// A connection has ended, or did not begin, or stays alone.
    pub fn ended(&mut self, now: Time, slot: u32, talk: &Talk, fault: &PeerFault) {
        let Some(node) = talk.called.or(talk.node) else {
            if self.warnings.admit(now, Warning::Malformed) {
                tracing::warn!(reason = %fault, "turned away who connected as a node");
            }
            return;
        };
        let known = self.known.get_mut(&node).expect("who was let in or called is known");
        let is_link = known.link.is_some_and(|link| link.slot == slot);
        if is_link {
            known.link = None;
            self.events.push_back(PeerEvent::Disconnected { node });
        }
        if talk.called.is_some()
            && let Some(dialing) = &mut known.dialing
        {
            if fault.is_refusal() { dialing.refused(now) } else { dialing.ended(now) }
        }
        if known.link.is_none() {
            self.unconnected(now, node, fault, is_link);
        }
    }

    /// A call could not even be made.
    pub fn uncallable(&mut self, now: Time, node: NodeId, fault: &PeerFault) {
        let dialing = self.known.get_mut(&node).and_then(|known| known.dialing.as_mut());
        let dialing = dialing.expect("only who is dialed is called");
        dialing.called();
        dialing.ended(now);
        self.unconnected(now, node, fault, false);
    }

    /// Says why, once for each reason: calls repeat themselves.
    fn unconnected(&mut self, now: Time, node: NodeId, fault: &PeerFault, is_news: bool) {
        let known = self.known.get_mut(&node).expect("it is known");
        let reason = fault.to_string();
        if is_news || known.reason.as_ref() != Some(&reason) {
            if self.warnings.admit(now, Warning::NoNode) {
                tracing::warn!(%node, address = %known.address, reason, "no connection to a node");
            }
            known.reason = Some(reason);
            self.publish(node);
        }
    }

    fn publish(&self, node: NodeId) {
        let known = &self.known[&node];
        self.watch.set(PeerStatus {
            node,
            address: known.address.to_string(),
            is_called: known.dialing.is_some(),
            is_connected: known.link.is_some(),
            incarnation: known.incarnation,
            connects: known.connects,
            reason: known.reason.clone(),
            clock_ahead_ms: known.clock_ahead_ms,
        });
    }
}
