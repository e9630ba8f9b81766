//! The connections between this node and others: calling, accepting, greeting, receiving, sending,
//! and ending them.
//!
//! ```text
//!   call ───► connecting ─► Fresh ─welcome─► Serving ─► Dead ─► slot free
//!   accept ──────────────► Fresh ──hello───► Serving ─►  ▲
//!                            └─refused─► Leaving ─────────┘
//! ```
//!
//! There is one connection between two nodes: the one with the smaller id calls. One executor holds
//! all of a node's, and what other executors' machines say goes through it ([`crate::peering`]), so
//! that every machine of both nodes sees one beginning and one end.
//!
//! Peers have their own buffers and no share in what clients are allowed: a node that takes nothing
//! more from clients goes on to hear its peers, for it may be them that it waits for. Memory is
//! bounded: received bytes by the receive buffers and one frame a connection; what is to be sent by
//! [`crate::PeerLimits::unsent_bytes_max`], past which the connection ends.

#![allow(unsafe_code)]

mod connection;
mod cutting;
mod dialing;
mod roster;
mod socket;

use std::collections::VecDeque;
use std::sync::Arc;

use io_uring::{opcode, types};
use sealog_protocol::Time;
use sealog_protocol::frame::FrameError;
use sealog_protocol::ids::NodeId;
use sealog_protocol::limits::FORMAT_VERSION;
use sealog_protocol::machine::Address;
use sealog_protocol::message::{Message, encode};
use sealog_protocol::peer::{Greeting, PeerRefusal, encode_greeting, encode_ping};

use crate::accepting::Accepting;
use crate::buffers::{BufferGroup, ReceiveBuffers};
use crate::connection::Phase;
use crate::counters::Counters;
use crate::limits::{LEAVING, STRANGERS_MAX};
use crate::listener::{Listener, shut_down, shut_down_sending};
use crate::peer_config::{PeerLimits, PeersConfig, PeersNow};
use crate::peer_watch::{PeerWatch, time_of_day_ms};
use crate::peers::connection::{PeerConnection, PeerFault};
use crate::peers::roster::Roster;
use crate::peers::socket::SocketAddress;
use crate::ring::{Completion, Kind, Ring, Token};
use crate::warnings::Warning;

pub use cutting::PeerCuts;
pub(crate) use roster::{LinkNumber, PeerEvent};

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<PeerConnection>>,
}

/// The table of connections to other nodes.
pub(crate) struct PeerSockets {
    limits: PeerLimits,
    roster: Roster,
    accepting: Accepting,
    slots: Vec<Slot>,
    free: Vec<u32>,
    buffers: ReceiveBuffers,
    /// Connections with something to send.
    dirty: Vec<u32>,
    /// Connections whose receive is to be armed again.
    unarmed: Vec<u32>,
    /// Calls that the kernel is to give up.
    given_up: Vec<u32>,
    /// What was received while other executors were behind: taken before anything newer.
    stalled: VecDeque<Completion>,
    /// When all connections are looked at again.
    sweep_at: Time,
    stopping: bool,
}

impl PeerSockets {
    pub fn new(
        config: &PeersConfig,
        listener: Listener,
        buffers: ReceiveBuffers,
        watch: Arc<PeerWatch>,
    ) -> PeerSockets {
        PeerSockets {
            limits: config.limits,
            roster: Roster::new(config, watch),
            accepting: Accepting::new(Kind::PeerAccept, vec![listener]),
            slots: Vec::new(),
            free: Vec::new(),
            buffers,
            dirty: Vec::new(),
            unarmed: Vec::new(),
            given_up: Vec::new(),
            stalled: VecDeque::new(),
            sweep_at: Time::ZERO,
            stopping: false,
        }
    }

    /// What peers did since the last call.
    pub fn next_event(&mut self) -> Option<PeerEvent> {
        self.roster.next_event()
    }

    pub fn has_events(&self) -> bool {
        self.roster.has_events()
    }

    /// There is something that was received and not yet taken.
    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    fn at(&mut self, slot: u32) -> Option<&mut PeerConnection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    /// Gives the kernel all that is due: calls, accepts, receives, sends.
    pub fn submit(&mut self, now: Time, ring: &mut Ring, counters: &Counters) {
        self.accepting.arm(now, ring);
        if !self.stopping {
            self.call(now, ring, counters);
        }
        while let Some(slot) = self.given_up.pop() {
            let generation = self.slots[slot as usize].generation;
            ring.cancel(Token::new(Kind::PeerConnect, slot, generation));
        }
        self.arm_receives(ring);
        self.submit_sends(now, ring, counters);
    }

    /// Calls the nodes whose call is due.
    fn call(&mut self, now: Time, ring: &mut Ring, counters: &Counters) {
        let is_due = |dialing: &dialing::Dialing| dialing.is_due(now);
        let known = self.roster.known.iter();
        let due: Vec<NodeId> =
            known.filter(|(_, known)| known.dialing.as_ref().is_some_and(is_due)).map(|(node, _)| *node).collect();
        for node in due {
            let known = self.roster.known.get_mut(&node).expect("it was just found");
            let opened = SocketAddress::new(&known.address).and_then(|address| Ok((address.open()?, address)));
            let (socket, address) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    counters.peer_calls_failed.add(1);
                    self.roster.uncallable(now, node, &PeerFault::Unreachable(error));
                    continue;
                }
            };
            known.dialing.as_mut().expect("it is due").called();
            let hangs = self.roster.cuts.prevents(node);
            let (slot, generation) = self.take_slot();
            let mut connection = Box::new(PeerConnection::new(now, generation, socket, Some((node, address))));
            if hangs {
                (connection.talk.calling, connection.talk.hangs) = (None, true);
                self.slots[slot as usize].connection = Some(connection);
                continue;
            }
            let (address, bytes) = connection.talk.calling.as_deref().expect("it was just given").parts();
            let entry = opcode::Connect::new(types::Fd(connection.wire.descriptor()), address, bytes).build();
            self.slots[slot as usize].connection = Some(connection);
            // SAFETY: the connection keeps the address in a box of its own until the call has completed,
            // and the slot keeps the connection until then.
            unsafe { ring.push(Token::new(Kind::PeerConnect, slot, generation), entry) };
        }
    }

    fn take_slot(&mut self) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        entry.generation += 1;
        (slot, entry.generation)
    }

    fn arm_receives(&mut self, ring: &mut Ring) {
        // Without a free buffer it would end at once.
        if self.unarmed.is_empty() || !self.buffers.has_free() {
            return;
        }
        for slot in self.unarmed.drain(..) {
            let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { continue };
            if self.roster.cuts.holds_receives(connection) {
                continue;
            }
            let wire = &mut connection.wire;
            if wire.receiving || wire.phase == Phase::Dead {
                continue;
            }
            wire.receiving = true;
            let entry = opcode::RecvMulti::new(types::Fd(wire.descriptor()), BufferGroup::Peers.id()).build();
            // SAFETY: it points at no memory but the registered buffers, which outlive the ring.
            unsafe { ring.push(Token::new(Kind::PeerReceive, slot, wire.generation), entry) };
        }
    }

    fn submit_sends(&mut self, now: Time, ring: &mut Ring, counters: &Counters) {
        for slot in self.dirty.drain(..) {
            let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { continue };
            connection.wire.is_dirty = false;
            if connection.wire.phase == Phase::Dead || self.roster.cuts.holds_sends(connection) {
                continue;
            }
            let wire = &mut connection.wire;
            if let Some((address, bytes)) = wire.next_send(now) {
                connection.talk.spoke = true;
                counters.peer_sent_bytes.add(u64::from(bytes));
                let entry = opcode::Send::new(types::Fd(wire.descriptor()), address, bytes);
                let entry = entry.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
                // SAFETY: the connection keeps the bytes, unmoved, until the send has completed, and
                // the slot keeps the connection until then.
                unsafe { ring.push(Token::new(Kind::PeerSend, slot, wire.generation), entry) };
            }
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { return };
        if connection.wire.unsent_bytes() > 0 && !connection.wire.is_dirty {
            connection.wire.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Somebody connected to the listener, or it has ended.
    pub fn on_accept(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let Some(socket) = self.accepting.on_completion(now, completion, counters, &mut self.roster.warnings) else {
            return;
        };
        let is_stranger = |slot: &&Slot| {
            slot.connection
                .as_deref()
                .is_some_and(|connection| connection.talk.called.or(connection.talk.node).is_none())
        };
        if self.stopping || self.slots.iter().filter(is_stranger).count() >= STRANGERS_MAX {
            counters.peers_refused.add(1);
            return;
        }
        let (slot, generation) = self.take_slot();
        let connection = PeerConnection::new(now, generation, socket, None);
        self.slots[slot as usize].connection = Some(Box::new(connection));
        self.unarmed.push(slot);
    }

    /// A call went through, or failed.
    pub fn on_connect(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let slot = completion.token.slot;
        let own = self.roster.own();
        let connection = self.at(slot).expect("a call in flight keeps its connection");
        connection.talk.calling = None;
        if connection.wire.phase == Phase::Dead {
            return self.free_if_done(slot);
        }
        match completion.bytes() {
            Ok(_) => {
                encode_greeting(connection.wire.output(), &Greeting::Hello(own));
                self.mark_dirty(slot);
                self.unarmed.push(slot);
            }
            Err(error) => self.end(now, slot, &PeerFault::Unreachable(error), counters),
        }
    }

    /// Something was received, or a receive has ended. While other executors are behind with what
    /// came earlier, it waits.
    pub fn on_receive(&mut self, now: Time, completion: Completion, is_crowded: bool, counters: &Counters) {
        if completion.buffer().is_some() {
            self.buffers.taken();
        }
        let token = completion.token;
        if let Some(connection) =
            self.at(token.slot).filter(|connection| connection.wire.generation == token.generation)
        {
            connection.talk.heard = now;
            connection.wire.receiving &= completion.more();
        }
        if is_crowded || self.has_stalled() {
            self.stalled.push_back(completion);
        } else {
            self.take_in(now, completion, counters);
        }
    }

    /// Goes on with the oldest that waited.
    pub fn go_on(&mut self, now: Time, counters: &Counters) {
        if let Some(completion) = self.stalled.pop_front() {
            self.take_in(now, completion, counters);
        }
    }

    fn take_in(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let Token { slot, generation, .. } = completion.token;
        let mut taken = self.slots[slot as usize].connection.take();
        let mut fault = None;
        if let Some(connection) = taken.as_deref_mut().filter(|connection| connection.wire.generation == generation) {
            match completion.bytes() {
                // What ends it is told again when the cut is over.
                Ok(0) | Err(_) if self.roster.cuts.holds_receives(connection) => {}
                Ok(0) => fault = Some(PeerFault::Closed),
                Ok(bytes) => {
                    let buffer = completion.buffer().expect("what is received lies in a provided buffer");
                    let content = self.buffers.content(buffer, bytes);
                    fault = self.roster.receive(now, slot, connection, content, counters).err();
                }
                // No buffer was free, or it was ended here: it is armed again when that is over.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED)) => {}
                Err(error) => fault = Some(PeerFault::Broken(error)),
            }
        }
        self.slots[slot as usize].connection = taken;
        if let Some(buffer) = completion.buffer() {
            self.buffers.give_back(buffer);
        }
        while let Some(older) = self.roster.replaced.pop() {
            self.end(now, older, &PeerFault::Replaced, counters);
        }
        counters.peers_now.set(self.roster.connected() as u64);
        match fault {
            Some(fault) => self.fault(now, slot, &fault, counters),
            None => self.mark_dirty(slot),
        }
        // The slot may have been used again while it waited here.
        if !completion.more() && self.slots[slot as usize].generation == generation {
            self.unarmed.push(slot);
            self.free_if_done(slot);
        }
    }

    /// Ends a connection for what came on it, or tells who called why it is refused.
    fn fault(&mut self, now: Time, slot: u32, fault: &PeerFault, counters: &Counters) {
        let refusal = match fault {
            PeerFault::Refused(refusal) => Some(refusal.clone()),
            PeerFault::Frame(FrameError::Version { found }) => {
                Some(PeerRefusal::Version { theirs: *found, ours: FORMAT_VERSION })
            }
            _ => None,
        };
        let connection = self.at(slot).expect("it had a fault");
        let is_caller = connection.talk.called.is_none() && connection.talk.node.is_none();
        match refusal.filter(|_| is_caller && connection.wire.phase == Phase::Fresh) {
            Some(refusal) => {
                counters.peers_refused.add(1);
                if self.roster.warnings.admit(now, Warning::Malformed) {
                    tracing::warn!(reason = %refusal, "refused a node");
                }
                let connection = self.at(slot).expect("it was there above");
                encode_greeting(connection.wire.output(), &Greeting::Refused(refusal));
                connection.wire.phase = Phase::Leaving { until: now + LEAVING };
                self.mark_dirty(slot);
            }
            None => self.end(now, slot, fault, counters),
        }
    }

    /// A send has ended.
    pub fn on_send(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let slot = completion.token.slot;
        let connection = self.at(slot).expect("a send in flight keeps its connection");
        let (sent, failure) = match completion.bytes() {
            Ok(0) => (0, Some(PeerFault::Closed)),
            Ok(sent) => (sent, None),
            Err(error) => (0, Some(PeerFault::Broken(error))),
        };
        connection.wire.sent(sent);
        if connection.wire.phase == Phase::Dead {
            return self.free_if_done(slot);
        }
        if matches!(connection.wire.phase, Phase::Leaving { .. }) && connection.wire.unsent_bytes() == 0 {
            shut_down_sending(connection.wire.socket());
        }
        // That the other end is gone is told by what it sends.
        let connection = self.slots[slot as usize].connection.as_deref();
        let is_unheard = connection.is_some_and(|connection| self.roster.cuts.holds_receives(connection));
        match failure {
            Some(_) if is_unheard => {}
            Some(failure) => self.end(now, slot, &failure, counters),
            None => self.mark_dirty(slot),
        }
    }

    /// Sends a message on a link, if it is still there.
    pub fn send(
        &mut self,
        now: Time,
        link: LinkNumber,
        from: Address,
        to: Address,
        message: &Message,
        counters: &Counters,
    ) {
        let Some(link) = self.roster.link(to.node).filter(|current| current.number == link) else {
            counters.peer_messages_dropped.add(1);
            return;
        };
        let connection = self.at(link.slot).expect("a link has a connection");
        encode(connection.wire.output(), from, to, message);
        counters.peer_messages_sent.add(1);
        let unsent = connection.wire.unsent_bytes();
        if unsent > self.limits.unsent_bytes_max {
            self.end(now, link.slot, &PeerFault::Slow { unsent }, counters);
        } else {
            self.mark_dirty(link.slot);
        }
    }

    /// Knows these nodes from now on, and no others: who is not among them is disconnected.
    pub fn set_peers(&mut self, now: Time, update: PeersNow, counters: &Counters) {
        let peers = &update.peers[..update.peers.len().min(PeersConfig::PEERS_MAX)];
        let is_gone = |node: &NodeId| peers.iter().all(|peer| peer.node != *node);
        let gone: Vec<NodeId> = self.roster.known.keys().copied().filter(is_gone).collect();
        for node in gone {
            for slot in 0..self.slots.len() as u32 {
                let talk = self.at(slot).map(|connection| &connection.talk);
                if talk.is_some_and(|talk| talk.called.or(talk.node) == Some(node)) {
                    self.end(now, slot, &PeerFault::Forgotten, counters);
                }
            }
            tracing::info!(%node, "a node is no member any more");
            self.roster.forget(node);
        }
        for peer in peers {
            self.roster.know(peer, &self.limits);
        }
        self.roster.set_removed(update.removed);
    }

    /// Ends a connection. Its slot is free once nothing of it is in flight.
    fn end(&mut self, now: Time, slot: u32, fault: &PeerFault, counters: &Counters) {
        let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { return };
        let phase = std::mem::replace(&mut connection.wire.phase, Phase::Dead);
        if phase != Phase::Dead {
            connection.wire.drop_buffers();
            if connection.talk.calling.is_some() {
                self.given_up.push(slot);
            }
            // What else is in flight on it completes now.
            shut_down(connection.wire.socket());
            if !matches!(phase, Phase::Leaving { .. }) {
                count(fault, phase == Phase::Fresh && connection.talk.called.is_some(), counters);
                self.roster.ended(now, slot, &connection.talk, fault);
                counters.peers_now.set(self.roster.connected() as u64);
            }
        }
        self.free_if_done(slot);
    }

    fn free_if_done(&mut self, slot: u32) {
        if self.at(slot).is_some_and(|connection| connection.is_done()) {
            self.slots[slot as usize].connection = None;
            self.free.push(slot);
        }
    }

    /// Looks at all connections, when it is time: who is silent, late or stuck, and to whom nothing
    /// was said.
    pub fn expire(&mut self, now: Time, counters: &Counters) {
        self.roster.warnings.tell(now);
        if now < self.sweep_at {
            return;
        }
        // What this node did not hear while it did not run, or did not read, is no silence of others.
        let away = now.since(self.sweep_at);
        self.sweep_at = now + self.limits.sweep_interval();
        let is_reading = !self.has_stalled();
        for slot in 0..self.slots.len() as u32 {
            let limits = self.limits;
            let Some(connection) = self.at(slot) else { continue };
            let talk = &mut connection.talk;
            talk.heard = if is_reading { (talk.heard + away).min(now) } else { now };
            match overdue(now, &limits, connection) {
                Some(fault) => self.end(now, slot, &fault, counters),
                None if connection.wire.phase == Phase::Serving => {
                    if !std::mem::take(&mut connection.talk.spoke) && connection.wire.unsent_bytes() == 0 {
                        encode_ping(connection.wire.output(), time_of_day_ms());
                        self.mark_dirty(slot);
                    }
                }
                None => {}
            }
        }
    }

    /// When something is due that no completion tells.
    pub fn deadline(&self) -> Option<Time> {
        let is_used = self.free.len() < self.slots.len();
        let dialing = self.roster.known.values().filter_map(|known| known.dialing.as_ref()?.deadline());
        let dialing = dialing.filter(|_| !self.stopping);
        let others = [is_used.then_some(self.sweep_at), self.accepting.deadline(), self.roster.warnings.deadline()];
        dialing.chain(others.into_iter().flatten()).min()
    }

    /// Accepts and calls no more nodes.
    pub fn stop_accepting(&mut self, ring: &mut Ring) {
        self.stopping = true;
        self.accepting.stop(ring);
    }

    /// Ends every connection, at the end.
    pub fn end_all(&mut self, now: Time, counters: &Counters) {
        for slot in 0..self.slots.len() as u32 {
            self.end(now, slot, &PeerFault::Stopping, counters);
        }
    }
}

/// Counts what ended a connection.
fn count(fault: &PeerFault, is_call: bool, counters: &Counters) {
    match fault {
        PeerFault::Silent(_) => counters.peers_silent.add(1),
        PeerFault::Slow { .. } | PeerFault::Stuck(_) => counters.peers_slow.add(1),
        PeerFault::Stopping => {}
        _ if is_call => counters.peer_calls_failed.add(1),
        PeerFault::Closed | PeerFault::Broken(_) | PeerFault::Replaced | PeerFault::Forgotten => {}
        _ => counters.peers_malformed.add(1),
    }
}

/// What a connection is too late with.
fn overdue(now: Time, limits: &PeerLimits, connection: &PeerConnection) -> Option<PeerFault> {
    let PeerConnection { wire, talk } = connection;
    let clocks = wire.clocks;
    match wire.phase {
        Phase::Dead => None,
        Phase::Leaving { until } => (until <= now).then_some(PeerFault::Closed),
        Phase::Fresh => {
            (clocks.opened + limits.greeting_deadline <= now).then_some(PeerFault::Late(limits.greeting_deadline))
        }
        Phase::Serving if talk.heard + limits.silence_max <= now => Some(PeerFault::Silent(limits.silence_max)),
        Phase::Serving => (wire.is_sending() && clocks.sending_since + limits.send_deadline <= now)
            .then_some(PeerFault::Stuck(limits.send_deadline)),
    }
}
