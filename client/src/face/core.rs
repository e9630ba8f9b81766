//! The session, its socket, and who waits for what: one lock's worth of state, for both faces.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::task::Waker;
use std::time::{Duration, Instant};

use sealog_protocol::Time;

use super::address::{Stream, io_error};
use crate::error::{ConnectionError, SubscribeError};
use crate::session::{
    Operation, OperationId, Outcome, Session, SessionConfig, SubmitError, Subscribe, SubscriptionEvent,
};

/// Bytes taken from a socket at once.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// Names a call from its beginning until its outcome is taken: longer than the session knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId(usize);

/// Who waits for an operation.
enum Slot {
    Free,
    Waiting { operation: OperationId, waker: Option<Waker> },
    Done(Outcome),
}

/// Who waits for room.
struct RoomWaiter {
    waker: Waker,
    deadline: Time,
}

pub(crate) struct Core {
    pub session: Session,
    origin: Instant,
    stream: Option<Stream>,
    /// By [`CallId`].
    slots: Vec<Slot>,
    free: Vec<CallId>,
    /// By [`OperationId::index`], while the session knows the operation.
    calls: Vec<Option<CallId>>,
    room: VecDeque<RoomWaiter>,
    /// Who waits for something of a subscription.
    subscribers: BTreeMap<OperationId, Waker>,
    /// Who waits for the first welcome, and until when.
    greeting: Option<(Waker, Time)>,
    /// Somebody is making a connection.
    pub is_connecting: bool,
    /// To be woken once the lock is free.
    wakers: Vec<Waker>,
    /// When this core's driver is sure to look after it.
    pub armed: Option<Time>,
}

impl Core {
    pub fn new(config: SessionConfig) -> Core {
        Core {
            session: Session::new(config),
            origin: Instant::now(),
            stream: None,
            slots: Vec::new(),
            free: Vec::new(),
            calls: Vec::new(),
            room: VecDeque::new(),
            subscribers: BTreeMap::new(),
            greeting: None,
            is_connecting: false,
            wakers: Vec::new(),
            armed: None,
        }
    }

    pub fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    pub fn instant(&self, at: Time) -> Instant {
        self.origin + at.since(Time::ZERO).min(Duration::from_secs(1 << 32))
    }

    /// Begins an operation, whose outcome comes by [`Core::take_outcome`].
    pub fn submit(&mut self, now: Time, operation: Operation<'_>, deadline: Time) -> Result<CallId, SubmitError> {
        let operation = self.session.submit(now, operation, deadline)?;
        Ok(self.begin_call(operation))
    }

    /// Takes up an append of unknown outcome again.
    pub fn retry(&mut self, now: Time, operation: OperationId, deadline: Time) -> Result<CallId, SubmitError> {
        let operation = self.session.retry(now, operation, deadline)?;
        Ok(self.begin_call(operation))
    }

    fn begin_call(&mut self, operation: OperationId) -> CallId {
        let call = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            CallId(self.slots.len() - 1)
        });
        self.slots[call.0] = Slot::Waiting { operation, waker: None };
        if self.calls.len() <= operation.index() {
            self.calls.resize(operation.index() + 1, None);
        }
        self.calls[operation.index()] = Some(call);
        call
    }

    /// The outcome if it is there, and the call is over; else `waker` is woken when it comes.
    pub fn take_outcome(&mut self, call: CallId, waker: &Waker) -> Option<Outcome> {
        if let Slot::Waiting { waker: known, .. } = &mut self.slots[call.0] {
            match known {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return None;
        }
        match self.end_call(call) {
            Slot::Done(outcome) => Some(outcome),
            Slot::Free | Slot::Waiting { .. } => panic!("an outcome is taken once"),
        }
    }

    fn end_call(&mut self, call: CallId) -> Slot {
        self.free.push(call);
        std::mem::replace(&mut self.slots[call.0], Slot::Free)
    }

    /// Begins a subscription, to be ended by [`Core::unsubscribe`].
    pub fn subscribe(&mut self, now: Time, wanted: Subscribe) -> Result<OperationId, SubscribeError> {
        let begun = self.session.subscribe(now, wanted);
        begun.map_err(|_| SubscribeError::TooMany { subscriptions: self.session.subscriptions() })
    }

    /// The next thing that a subscription tells; without one, `waker` is woken when there is.
    pub fn next_event(
        &mut self,
        now: Time,
        subscription: OperationId,
        waker: Option<&Waker>,
    ) -> Option<Result<SubscriptionEvent, SubscribeError>> {
        let event = self.session.next_event(now, subscription);
        if let Some(waker) = waker.filter(|_| event.is_none()) {
            self.subscribers.entry(subscription).or_insert_with(|| waker.clone()).clone_from(waker);
        }
        event
    }

    pub fn unsubscribe(&mut self, now: Time, subscription: OperationId) {
        self.subscribers.remove(&subscription);
        self.session.cancel(now, subscription);
    }

    /// Nobody waits for the call any more.
    pub fn abandon(&mut self, now: Time, call: CallId) {
        if let Slot::Waiting { operation, .. } = self.end_call(call) {
            self.calls[operation.index()] = None;
            self.session.cancel(now, operation);
        }
    }

    /// Has `waker` woken when there may be room, or at the deadline. Who waited before goes first.
    pub fn wait_for_room(&mut self, waker: &Waker, deadline: Time, is_first: bool) {
        if let Some(known) = self.room.iter_mut().find(|known| known.waker.will_wake(waker)) {
            known.deadline = known.deadline.min(deadline);
            return;
        }
        let waiter = RoomWaiter { waker: waker.clone(), deadline };
        match is_first {
            true => self.room.push_front(waiter),
            false => self.room.push_back(waiter),
        }
    }

    /// Wakes as many of those who wait for room.
    pub fn offer_room(&mut self, operations: usize) {
        let offered = operations.min(self.room.len());
        self.wakers.extend(self.room.drain(..offered).map(|waiter| waiter.waker));
    }

    /// Has `waker` woken when the connection is welcomed or fails, or at the deadline.
    pub fn wait_for_greeting(&mut self, waker: &Waker, deadline: Time) {
        self.greeting = Some((waker.clone(), deadline));
    }

    pub fn established(&mut self, now: Time, stream: Stream) {
        self.is_connecting = false;
        self.stream = Some(stream);
        self.session.connected(now);
    }

    /// The connection is gone, or was not made.
    pub fn lost(&mut self, now: Time, reason: ConnectionError) {
        self.is_connecting = false;
        self.stream = None;
        self.session.disconnected(now, reason);
        self.wakers.extend(self.greeting.take().map(|(waker, _)| waker));
    }

    /// Takes what came from the socket; `is_closed`: nothing more will come after it.
    pub fn pull(&mut self, now: Time, buffer: &mut [u8], is_closed: bool) {
        while let Some(stream) = &mut self.stream {
            match stream.read(buffer) {
                Ok(0) => self.lost(now, ConnectionError::Closed),
                Ok(bytes) => {
                    if let Err(reason) = self.session.receive(now, &buffer[..bytes]) {
                        self.lost(now, reason);
                    }
                    // A short read has emptied the socket. Its end is told once, with what came before.
                    if bytes < buffer.len() && !is_closed {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.lost(now, io_error(&error)),
            }
        }
    }

    /// Passes time, sends what can be sent, and hands out what is done. To be called at the end of
    /// every turn under the lock; the wakers that it returns, to be woken after.
    pub fn finish(&mut self, now: Time) -> Vec<Waker> {
        if self.session.deadline().is_some_and(|at| at <= now)
            && let Err(reason) = self.session.tick(now)
        {
            self.lost(now, reason);
        }
        self.push(now);
        let mut completed = 0;
        while let Some((operation, outcome)) = self.session.next_completion() {
            completed += 1;
            self.complete(operation, outcome);
        }
        self.offer_room(completed);
        while let Some(subscription) = self.session.next_notice() {
            self.wakers.extend(self.subscribers.remove(&subscription));
        }
        if self.room.iter().any(|waiter| waiter.deadline <= now) {
            let (late, rest) = std::mem::take(&mut self.room).into_iter().partition(|waiter| waiter.deadline <= now);
            self.room = rest;
            let late: VecDeque<RoomWaiter> = late;
            self.wakers.extend(late.into_iter().map(|waiter| waiter.waker));
        }
        let is_connected = self.session.is_connected();
        self.wakers
            .extend(self.greeting.take_if(|(_, deadline)| is_connected || *deadline <= now).map(|(waker, _)| waker));
        std::mem::take(&mut self.wakers)
    }

    fn complete(&mut self, operation: OperationId, outcome: Outcome) {
        // None: it was abandoned.
        let Some(call) = self.calls[operation.index()].take() else { return };
        let slot = std::mem::replace(&mut self.slots[call.0], Slot::Done(outcome));
        let Slot::Waiting { operation: waiting, waker } = slot else { panic!("a call completes once") };
        assert_eq!(waiting, operation, "completions come out before their places are used again");
        self.wakers.extend(waker);
    }

    /// Writes as much as the socket takes.
    fn push(&mut self, now: Time) {
        while let Some(stream) = &mut self.stream {
            let bytes = self.session.transmit();
            if bytes.is_empty() {
                return;
            }
            match stream.write(bytes) {
                Ok(0) => self.lost(now, ConnectionError::Closed),
                Ok(bytes) => self.session.transmitted(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.lost(now, io_error(&error)),
            }
        }
    }

    /// Whether a connection is to be made now.
    pub fn is_connection_due(&self, now: Time) -> bool {
        !self.is_connecting && self.session.connect_at().is_some_and(|at| at <= now)
    }

    /// When something is to be done here though nothing comes from the socket.
    pub fn next_time(&self) -> Option<Time> {
        let connect = if self.is_connecting { None } else { self.session.connect_at() };
        let room = self.room.iter().map(|waiter| waiter.deadline).min();
        let greeting = self.greeting.as_ref().map(|(_, deadline)| *deadline);
        [self.session.deadline(), connect, room, greeting].into_iter().flatten().min()
    }
}
