//! All client connections of an executor: accepting, receiving, sending, and ending them.
//!
//! ```text
//!   accept ─► Fresh ─hello─► Serving ──peer's end or error──► Dead ─► slot free
//!               └─malformed, late─┴─► Leaving (told why) ──────┘
//! ```
//!
//! Memory is bounded: received bytes by the receive buffers and one frame per connection; unsent
//! replies by [`UNSENT_BYTES_PAUSE`], past which a connection is not read from, and
//! [`UNSENT_BYTES_MAX`], past which it is cut off. What clients may take otherwise is in
//! [`crate::client_limits`].

#![allow(unsafe_code)]

use std::collections::VecDeque;

use io_uring::{opcode, types};
use sealog_protocol::Time;
use sealog_protocol::client::{ErrorCode, Reply, encode_reply};
use sealog_protocol::machine::ConnectionId;

use crate::accepting::Accepting;
use crate::addresses::{Addresses, Peer};
use crate::buffers::{BufferGroup, ReceiveBuffers};
use crate::client_limits::{ClientLimits, Overdue};
use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::host::{ExecutorId, Host};
use crate::intake::{Refusal, receive};
use crate::limits::{LEAVING, REFUSED_MAX, UNSENT_BYTES_MAX, UNSENT_BYTES_PAUSE, UNSENT_BYTES_TOTAL_MAX};
use crate::listener::{Listener, shut_down, shut_down_sending};
use crate::ring::{Completion, Kind, Ring, Token};
use crate::warnings::{Warning, Warnings};

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// A connection that has ended: to be told to the host, and to those it was forwarded to.
pub(crate) struct Ended {
    pub connection: ConnectionId,
    pub forwarded: u64,
}

/// The table of connections.
pub(crate) struct Sockets {
    executor: ExecutorId,
    limits: ClientLimits,
    accepting: Accepting,
    slots: Vec<Slot>,
    free: Vec<u32>,
    buffers: ReceiveBuffers,
    /// Connections with something to send.
    dirty: Vec<u32>,
    /// Connections whose receive is to be armed again.
    unarmed: Vec<u32>,
    /// Connections whose receive is to be ended: their peers do not read.
    pausing: Vec<u32>,
    /// Connections whose peers have read on: what was held back of them is due.
    resumed: VecDeque<u32>,
    /// What was received while the host did not accept: delivered before anything newer.
    stalled: VecDeque<Completion>,
    /// Connections that are given time to read why they end.
    leaving: Vec<u32>,
    /// Since the driver last asked.
    ended: Vec<Ended>,
    unsent_total: usize,
    /// Connections beyond the limit, among them all.
    refused: usize,
    /// Connections within the limit, by where they come from.
    addresses: Addresses,
    /// When deadlines are looked at again.
    sweep_at: Time,
    /// The last time that clients waited for us, not we for them.
    excused: Time,
    warnings: Warnings,
    stopping: bool,
}

impl Sockets {
    pub fn new(
        executor: ExecutorId,
        listeners: Vec<Listener>,
        limits: ClientLimits,
        buffers: ReceiveBuffers,
    ) -> Sockets {
        Sockets {
            executor,
            limits,
            accepting: Accepting::new(Kind::Accept, listeners),
            slots: Vec::new(),
            free: Vec::new(),
            buffers,
            dirty: Vec::new(),
            unarmed: Vec::new(),
            pausing: Vec::new(),
            resumed: VecDeque::new(),
            stalled: VecDeque::new(),
            leaving: Vec::new(),
            ended: Vec::new(),
            unsent_total: 0,
            refused: 0,
            addresses: Addresses::default(),
            sweep_at: Time(0),
            excused: Time(0),
            warnings: Warnings::default(),
            stopping: false,
        }
    }

    /// The executor that a connection was accepted on.
    pub fn executor_of(id: ConnectionId) -> ExecutorId {
        ExecutorId((id.0 >> 56) as u8)
    }

    fn at(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    fn with_token(&mut self, token: Token) -> Option<&mut Connection> {
        self.at(token.slot).filter(|connection| connection.generation == token.generation)
    }

    /// A connection that is served here: its slot.
    fn find(&mut self, id: ConnectionId) -> Option<u32> {
        let (slot, generation) = ((id.0 & 0xFF_FFFF) as u32, (id.0 >> 24) as u32);
        let connection = self.at(slot)?;
        (connection.generation == generation && connection.phase == Phase::Serving).then_some(slot)
    }

    /// Gives the kernel all that is due: accepts, receives, sends.
    pub fn submit(&mut self, now: Time, ring: &mut Ring, counters: &Counters) {
        self.accepting.arm(now, ring);
        self.end_receives(ring);
        self.arm_receives(ring);
        self.submit_sends(now, ring, counters);
    }

    fn end_receives(&mut self, ring: &mut Ring) {
        while let Some(slot) = self.pausing.pop() {
            if let Some(connection) = self.at(slot)
                && connection.receiving
                && connection.paused
            {
                ring.cancel(Token::new(Kind::Receive, slot, connection.generation));
            }
        }
    }

    fn arm_receives(&mut self, ring: &mut Ring) {
        // Without a free buffer it would end at once.
        if self.unarmed.is_empty() || !self.buffers.has_free() {
            return;
        }
        for slot in self.unarmed.drain(..) {
            let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { continue };
            if connection.receiving || connection.paused || connection.phase == Phase::Dead {
                continue;
            }
            connection.receiving = true;
            let entry = opcode::RecvMulti::new(types::Fd(connection.descriptor()), BufferGroup::Clients.id()).build();
            // SAFETY: it points at no memory but the registered buffers, which outlive the ring.
            unsafe { ring.push(Token::new(Kind::Receive, slot, connection.generation), entry) };
        }
    }

    fn submit_sends(&mut self, now: Time, ring: &mut Ring, counters: &Counters) {
        for slot in self.dirty.drain(..) {
            let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() else { continue };
            connection.is_dirty = false;
            if connection.phase == Phase::Dead {
                continue;
            }
            if let Some((address, bytes)) = connection.next_send(now) {
                counters.sent_bytes.add(u64::from(bytes));
                let entry = opcode::Send::new(types::Fd(connection.descriptor()), address, bytes);
                let entry = entry.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
                // SAFETY: the connection keeps the bytes, unmoved, until the send has completed, and
                // the slot keeps the connection until then.
                unsafe { ring.push(Token::new(Kind::Send, slot, connection.generation), entry) };
            }
        }
    }

    /// A listener has a connection, or has ended.
    pub fn on_accept(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let accepted = self.accepting.on_completion(now, completion, counters, &mut self.warnings);
        let Some(socket) = accepted else { return };
        let (socket, peer) = Peer::of(socket);
        let refusal = self.refusal(peer, counters);
        if refusal.is_some() && self.refused >= REFUSED_MAX {
            return;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.generation += 1;
        let generation = entry.generation;
        let id = ConnectionId(u64::from(self.executor.0) << 56 | u64::from(generation) << 24 | u64::from(slot));
        let mut connection = Box::new(Connection::new(now, id, generation, socket, peer));
        if let Some(message) = refusal {
            connection.refused = true;
            self.refused += 1;
            self.leave(now, slot, &mut connection, ErrorCode::Busy, message);
        } else {
            peer.iter().for_each(|peer| self.addresses.add(*peer));
            counters.connections_accepted.add(1);
        }
        self.slots[slot as usize].connection = Some(connection);
        self.unarmed.push(slot);
        self.count(counters);
    }

    /// Why there is no place for one more connection.
    fn refusal(&self, peer: Option<Peer>, counters: &Counters) -> Option<String> {
        let limits = &self.limits;
        let message = if self.served() >= limits.connections_max {
            format!("all {} connections are in use (connections_max)", limits.connections_max)
        } else {
            let of_peer = limits.connections_of(peer?);
            if self.addresses.connections(peer?) < of_peer {
                return None;
            }
            counters.connections_refused_by_address.add(1);
            format!("your address has all {of_peer} connections that it may have (connections_per_address_max)")
        };
        counters.connections_refused.add(1);
        Some(message)
    }

    /// Connections within the limit.
    fn served(&self) -> usize {
        self.slots.len() - self.free.len() - self.refused
    }

    /// Tells a connection why it ends, and gives it a moment to read that.
    fn leave(&mut self, now: Time, slot: u32, connection: &mut Connection, code: ErrorCode, message: String) {
        if connection.unsent_bytes() == 0 {
            encode_reply(connection.output(), 0, &Reply::Error { code, message });
            self.unsent_total += connection.unsent_bytes();
            if !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(slot);
            }
        }
        self.tell_end(connection);
        connection.phase = Phase::Leaving { until: now + LEAVING };
        self.leaving.push(slot);
    }

    fn count(&self, counters: &Counters) {
        counters.connections_now.set(self.served() as u64);
    }

    /// Something was received, or a receive has ended.
    pub fn on_receive<H: Host>(&mut self, now: Time, completion: Completion, host: &mut H, counters: &Counters) {
        if completion.buffer().is_some() {
            self.buffers.taken();
        }
        if !completion.more()
            && let Some(connection) = self.with_token(completion.token)
        {
            connection.receiving = false;
        }
        if self.stalled.is_empty() && host.accepts() {
            self.take_in(now, completion, host, counters);
        } else {
            self.stalled.push_back(completion);
        }
    }

    /// Goes on with what was received while the host did not accept, or the peer did not read.
    pub fn go_on<H: Host>(&mut self, now: Time, host: &mut H, counters: &Counters) {
        while !self.resumed.is_empty() && host.accepts() {
            let slot = self.resumed.pop_front().expect("it is not empty");
            let Some(mut connection) = self.slots[slot as usize].connection.take() else { continue };
            let (held, unsent) = (connection.take_held(), connection.unsent_bytes());
            // It was we who did not read the rest of its frame.
            connection.clocks.took_in(now, 1, connection.has_partial());
            let result = feed(now, &mut connection, &held, host, counters);
            self.fed(now, slot, &mut connection, unsent, result, counters);
            self.slots[slot as usize].connection = Some(connection);
            self.unarmed.push(slot);
        }
        while !self.stalled.is_empty() && host.accepts() {
            let completion = self.stalled.pop_front().expect("it is not empty");
            self.take_in(now, completion, host, counters);
        }
    }

    fn take_in<H: Host>(&mut self, now: Time, completion: Completion, host: &mut H, counters: &Counters) {
        let Token { slot, generation, .. } = completion.token;
        let mut taken = self.slots[slot as usize].connection.take();
        let mut is_over = false;
        if let Some(connection) = taken.as_deref_mut().filter(|connection| connection.generation == generation) {
            match completion.bytes() {
                Ok(0) => is_over = true,
                Ok(_) if self.stopping => {}
                Ok(bytes) => {
                    let buffer = completion.buffer().expect("what is received lies in a provided buffer");
                    let content = self.buffers.content(buffer, bytes);
                    let unsent = connection.unsent_bytes();
                    let result = feed(now, connection, content, host, counters);
                    self.fed(now, slot, connection, unsent, result, counters);
                }
                // No buffer was free, or we ended it ourselves: it is armed again when that is over.
                Err(error) => is_over = !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED)),
            }
        }
        self.slots[slot as usize].connection = taken;
        if let Some(buffer) = completion.buffer() {
            self.buffers.give_back(buffer);
        }
        if is_over {
            self.end(slot, counters);
        } else if !completion.more() {
            self.unarmed.push(slot);
            self.free_if_done(slot, counters);
        }
    }

    /// After bytes were taken in: what the connection has to send, and whether it ends.
    fn fed(
        &mut self,
        now: Time,
        slot: u32,
        connection: &mut Connection,
        unsent: usize,
        result: Result<(), Refusal>,
        counters: &Counters,
    ) {
        self.unsent_total += connection.unsent_bytes() - unsent;
        if connection.unsent_bytes() > 0 && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
        if let Err(refusal) = result {
            counters.connections_malformed.add(1);
            if self.warnings.admit(now, Warning::Malformed) {
                tracing::warn!(connection = connection.id.0, reason = %refusal, "closing a client's connection");
            }
            self.leave(now, slot, connection, ErrorCode::Invalid, refusal.to_string());
        }
    }

    /// Answers a request, if its connection is still there.
    pub fn reply(&mut self, now: Time, id: ConnectionId, request: u64, reply: &Reply, counters: &Counters) {
        let Some(slot) = self.find(id) else { return };
        let connection = self.slots[slot as usize].connection.as_deref_mut().expect("it was just found");
        let before = connection.output().len();
        encode_reply(connection.output(), request, reply);
        self.unsent_total += connection.output().len() - before;
        counters.replies_sent.add(1);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
        let unsent = connection.unsent_bytes();
        if unsent <= UNSENT_BYTES_PAUSE {
            return;
        }
        if unsent > UNSENT_BYTES_MAX || self.unsent_total > UNSENT_BYTES_TOTAL_MAX {
            counters.connections_slow.add(1);
            if self.warnings.admit(now, Warning::Slow) {
                tracing::warn!(connection = id.0, unsent, "cut off a client that does not read its answers");
            }
            self.end(slot, counters);
        } else if !connection.paused {
            connection.paused = true;
            self.pausing.push(slot);
        }
    }

    /// A send has ended.
    pub fn on_send(&mut self, completion: Completion, counters: &Counters) {
        let slot = completion.token.slot;
        let connection = self.with_token(completion.token).expect("a send in flight keeps its connection");
        let (sent, failed) = match completion.bytes() {
            Ok(0) => (0, true),
            Ok(sent) => (sent, false),
            Err(_) => (0, true),
        };
        connection.sent(sent);
        if connection.phase == Phase::Dead {
            return self.free_if_done(slot, counters);
        }
        let unsent = connection.unsent_bytes();
        if unsent > 0 && !failed && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
        self.unsent_total -= sent;
        let connection = self.at(slot).expect("it was there above");
        if matches!(connection.phase, Phase::Leaving { .. }) && unsent == 0 {
            shut_down_sending(connection.socket());
        }
        if connection.paused && unsent <= UNSENT_BYTES_PAUSE / 2 {
            connection.paused = false;
            self.resumed.push_back(slot);
        }
        if failed {
            self.end(slot, counters);
        }
    }

    /// Notes that frames of a connection went to another executor, which is to learn of its end.
    pub fn forwarded(&mut self, id: ConnectionId, executor: ExecutorId) {
        if let Some(slot) = self.find(id) {
            self.at(slot).expect("it was just found").forwarded |= 1 << executor.0;
        }
    }

    /// Ends a connection. Its slot is free once nothing of it is in flight.
    fn end(&mut self, slot: u32, counters: &Counters) {
        let Some(mut connection) = self.slots[slot as usize].connection.take() else { return };
        if connection.phase != Phase::Dead {
            self.unsent_total -= connection.unsent_bytes();
            self.tell_end(&mut connection);
            connection.phase = Phase::Dead;
            connection.drop_buffers();
            // What is in flight on it completes now.
            shut_down(connection.socket());
        }
        self.slots[slot as usize].connection = Some(connection);
        self.free_if_done(slot, counters);
    }

    fn tell_end(&mut self, connection: &mut Connection) {
        if std::mem::take(&mut connection.greeted) {
            self.ended.push(Ended { connection: connection.id, forwarded: connection.forwarded });
        }
    }

    fn free_if_done(&mut self, slot: u32, counters: &Counters) {
        let is_done = |connection: &Connection| {
            connection.phase == Phase::Dead && !connection.receiving && !connection.is_sending()
        };
        if self.at(slot).is_some_and(|connection| is_done(connection)) {
            let ended = self.slots[slot as usize].connection.take();
            let ended = ended.expect("it was just seen");
            if ended.refused {
                self.refused -= 1;
            } else {
                ended.peer.iter().for_each(|peer| self.addresses.remove(*peer));
            }
            self.free.push(slot);
            self.count(counters);
        }
    }

    /// A connection that has ended since the last call.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop()
    }

    /// Ends the connections whose time to leave is over, and those that are late with anything else.
    pub fn expire(&mut self, now: Time, counters: &Counters) {
        if self.has_stalled() {
            self.excused = now;
        }
        self.warnings.tell(now);
        if self.sweep_at <= now && self.served() > 0 {
            self.sweep_at = now + self.limits.sweep_interval();
            self.sweep(now, counters);
        }
        let mut at = 0;
        while let Some(slot) = self.leaving.get(at).copied() {
            match self.at(slot).map(|connection| connection.phase) {
                Some(Phase::Leaving { until }) if now < until => at += 1,
                phase => {
                    self.leaving.swap_remove(at);
                    if matches!(phase, Some(Phase::Leaving { .. })) {
                        self.end(slot, counters);
                    }
                }
            }
        }
    }

    fn sweep(&mut self, now: Time, counters: &Counters) {
        for slot in 0..self.slots.len() as u32 {
            let Some(connection) = self.slots[slot as usize].connection.as_deref() else { continue };
            let Some(overdue) = self.limits.overdue(now, self.excused, connection) else { continue };
            let kind = if matches!(overdue, Overdue::Send { .. }) { Warning::Slow } else { Warning::Late };
            if self.warnings.admit(now, kind) {
                tracing::warn!(connection = connection.id.0, reason = %overdue, "closing a client's connection");
            }
            match overdue {
                // There is no room in its socket to tell it why.
                Overdue::Send { .. } => {
                    counters.connections_slow.add(1);
                    self.end(slot, counters);
                }
                Overdue::Handshake { .. } | Overdue::Frame { .. } => {
                    counters.connections_late.add(1);
                    let mut connection = self.slots[slot as usize].connection.take().expect("it was just seen");
                    self.leave(now, slot, &mut connection, ErrorCode::Invalid, overdue.to_string());
                    self.slots[slot as usize].connection = Some(connection);
                }
            }
        }
    }

    /// When something is due that no completion tells.
    pub fn deadline(&self) -> Option<Time> {
        let leaving =
            self.leaving.iter().filter_map(|slot| match self.slots[*slot as usize].connection.as_deref()?.phase {
                Phase::Leaving { until } => Some(until),
                _ => None,
            });
        let sweep = (self.served() > 0).then_some(self.sweep_at);
        leaving.chain(self.accepting.deadline()).chain(self.warnings.deadline()).chain(sweep).min()
    }

    /// There is something that was received and not yet handed over.
    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty() || !self.resumed.is_empty()
    }

    /// Accepts no more connections.
    pub fn stop_accepting(&mut self, ring: &mut Ring) {
        self.stopping = true;
        self.accepting.stop(ring);
    }

    /// Bytes of replies that are on their way.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_total
    }

    /// Ends every connection, at the end.
    pub fn end_all(&mut self, counters: &Counters) {
        for slot in 0..self.slots.len() as u32 {
            self.end(slot, counters);
        }
    }
}

/// Takes in what a connection received: to the host, or held back, or dropped.
fn feed<H: Host>(
    now: Time,
    connection: &mut Connection,
    bytes: &[u8],
    host: &mut H,
    counters: &Counters,
) -> Result<(), Refusal> {
    match connection.phase {
        Phase::Leaving { .. } | Phase::Dead => Ok(()),
        _ if connection.paused || connection.has_held() => {
            connection.hold(bytes);
            Ok(())
        }
        _ => receive(now, connection, bytes, host, counters),
    }
}
