//! What executors of a node hand to each other, and other threads to them: lock-free queues from
//! each executor to each other one, a queue for posted events, and a way to wake a sleeper.
//!
//! Between machines the queues are bounded, and what finds one full waits at the sender, who takes
//! in no more from clients until it has gone ([`Outbox::is_crowded`]). Messages and client frames
//! have queues of their own, so that frames can wait while messages, which make room, go on.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rtrb::{Consumer, Producer, RingBuffer};
use sealog_protocol::client::Reply;
use sealog_protocol::ids::{Incarnation, NodeId};
use sealog_protocol::machine::{Address, ConnectionId};
use sealog_protocol::message::Message;

use crate::host::ExecutorId;
use crate::limits::{FORWARDED_MAX, PARCELS_MAX};
use crate::peers::LinkNumber;

/// From one executor to another.
pub(crate) enum Parcel {
    Message {
        from: Address,
        to: Address,
        message: Message,
    },
    Reply {
        connection: ConnectionId,
        request: u64,
        reply: Reply,
    },
    /// To a machine of another node: for the executor that holds the link.
    ToNode {
        link: LinkNumber,
        from: Address,
        to: Address,
        message: Message,
    },
    /// From that executor: a link to a node begins.
    Connected {
        node: NodeId,
        incarnation: Incarnation,
        link: LinkNumber,
    },
    /// From that executor: the link to a node has ended.
    Disconnected {
        node: NodeId,
    },
}

/// Of a client that is connected to another executor.
pub(crate) enum Forwarded {
    Frame { connection: ConnectionId, frame: Bytes },
    Closed { connection: ConnectionId },
}

/// What all threads share of an executor.
pub(crate) struct Shared<E> {
    wake: Wake,
    posts: Mutex<VecDeque<E>>,
    has_posts: AtomicBool,
    stop: AtomicBool,
}

/// Wakes an executor that sleeps.
struct Wake {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
}

impl Wake {
    fn new() -> io::Result<Wake> {
        // Blocking: the executor waits for it by a read on a ring.
        // SAFETY: makes a descriptor, which is checked and then owned.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made for us.
        Ok(Wake { eventfd: unsafe { OwnedFd::from_raw_fd(descriptor) }, sleeping: AtomicBool::new(false) })
    }

    /// After something was queued. The fence pairs with the one in [`Shared::set_sleeping`]: either
    /// the sleeper sees what was queued, or we see that it sleeps.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight bytes that live through the call. It can only fail when the counter is
            // full, and then the sleeper wakes anyway.
            unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

impl<E> Shared<E> {
    pub fn new() -> io::Result<Shared<E>> {
        Ok(Shared {
            wake: Wake::new()?,
            posts: Mutex::new(VecDeque::new()),
            has_posts: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    pub fn eventfd(&self) -> &OwnedFd {
        &self.wake.eventfd
    }

    pub fn post(&self, event: E) {
        self.posts.lock().expect("nobody panics with this lock held").push_back(event);
        self.has_posts.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub fn has_posts(&self) -> bool {
        self.has_posts.load(Ordering::Acquire)
    }

    pub fn take_posts(&self) -> VecDeque<E> {
        self.has_posts.store(false, Ordering::Release);
        std::mem::take(&mut *self.posts.lock().expect("nobody panics with this lock held"))
    }

    /// Says that the executor is about to sleep, or no longer. Queues are looked at once more
    /// between the two.
    pub fn set_sleeping(&self, sleeping: bool) {
        self.wake.sleeping.store(sleeping, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// The receiving ends of an executor.
#[derive(Default)]
pub(crate) struct Inbox {
    parcels: Vec<Consumer<Parcel>>,
    forwarded: Vec<Consumer<Forwarded>>,
}

impl Inbox {
    pub fn is_empty(&self, with_forwarded: bool) -> bool {
        self.parcels.iter().all(Consumer::is_empty)
            && (!with_forwarded || self.forwarded.iter().all(Consumer::is_empty))
    }

    /// The next parcel of each sender in turn, until there is none.
    pub fn parcels(&mut self, mut take: impl FnMut(Parcel)) -> bool {
        let mut found = false;
        for queue in &mut self.parcels {
            // No more than were there: a busy sender does not keep us from our turn.
            for _ in 0..queue.slots() {
                let Ok(parcel) = queue.pop() else { break };
                take(parcel);
                found = true;
            }
        }
        found
    }

    /// A forwarded frame.
    pub fn next_forwarded(&mut self) -> Option<Forwarded> {
        self.forwarded.iter_mut().find_map(|queue| queue.pop().ok())
    }
}

/// The sending end to one other executor.
struct Link<E> {
    executor: ExecutorId,
    shared: Arc<Shared<E>>,
    parcels: Producer<Parcel>,
    parcels_waiting: VecDeque<Parcel>,
    forwarded: Producer<Forwarded>,
    forwarded_waiting: VecDeque<Forwarded>,
    /// Something was queued since it was last woken.
    is_fresh: bool,
}

/// The sending ends of an executor.
pub(crate) struct Outbox<E> {
    links: Vec<Link<E>>,
}

impl<E> Outbox<E> {
    fn link(&mut self, executor: ExecutorId) -> &mut Link<E> {
        let link = self.links.iter_mut().find(|link| link.executor == executor);
        link.expect("hosts name other executors of this node")
    }

    pub fn send(&mut self, executor: ExecutorId, parcel: Parcel) {
        let link = self.link(executor);
        link.is_fresh = true;
        push(&mut link.parcels, &mut link.parcels_waiting, parcel);
    }

    pub fn forward(&mut self, executor: ExecutorId, forwarded: Forwarded) {
        let link = self.link(executor);
        link.is_fresh = true;
        push(&mut link.forwarded, &mut link.forwarded_waiting, forwarded);
    }

    /// Sends on what waited for room, and wakes those who got something.
    pub fn flush(&mut self) {
        for link in &mut self.links {
            link.is_fresh |= refill(&mut link.parcels, &mut link.parcels_waiting);
            link.is_fresh |= refill(&mut link.forwarded, &mut link.forwarded_waiting);
            if std::mem::take(&mut link.is_fresh) {
                link.shared.wake.wake();
            }
        }
    }

    /// Something waits for room at another executor.
    pub fn is_crowded(&self) -> bool {
        self.links.iter().any(|link| !link.parcels_waiting.is_empty() || !link.forwarded_waiting.is_empty())
    }
}

fn push<T>(queue: &mut Producer<T>, waiting: &mut VecDeque<T>, item: T) {
    if !waiting.is_empty() {
        return waiting.push_back(item);
    }
    if let Err(rtrb::PushError::Full(item)) = queue.push(item) {
        waiting.push_back(item);
    }
}

fn refill<T>(queue: &mut Producer<T>, waiting: &mut VecDeque<T>) -> bool {
    let mut moved = false;
    while !waiting.is_empty() && !queue.is_full() {
        let item = waiting.pop_front().expect("it is not empty");
        push(queue, &mut VecDeque::new(), item);
        moved = true;
    }
    moved
}

/// Connects all executors with each other: their inboxes and outboxes, by their ids.
pub(crate) fn connect<E>(shared: &[Arc<Shared<E>>]) -> Vec<(Inbox, Outbox<E>)> {
    let mut ends: Vec<(Inbox, Outbox<E>)> =
        shared.iter().map(|_| (Inbox::default(), Outbox { links: Vec::new() })).collect();
    for from in 0..shared.len() {
        for to in (0..shared.len()).filter(|to| *to != from) {
            let (parcels, parcels_end) = RingBuffer::new(PARCELS_MAX);
            let (forwarded, forwarded_end) = RingBuffer::new(FORWARDED_MAX);
            ends[to].0.parcels.push(parcels_end);
            ends[to].0.forwarded.push(forwarded_end);
            ends[from].1.links.push(Link {
                executor: ExecutorId(to as u8),
                shared: Arc::clone(&shared[to]),
                parcels,
                parcels_waiting: VecDeque::new(),
                forwarded,
                forwarded_waiting: VecDeque::new(),
                is_fresh: false,
            });
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_a_queue_full_waits_in_order() {
        let shared: Vec<Arc<Shared<()>>> = (0..2).map(|_| Arc::new(Shared::new().expect("an eventfd"))).collect();
        let mut ends = connect(&shared);
        let (mut inbox, _) = ends.pop().expect("two executors");
        let (_, mut outbox) = ends.pop().expect("two executors");
        let total = FORWARDED_MAX as u64 + 10;
        for connection in (0..total).map(ConnectionId) {
            outbox.forward(ExecutorId(1), Forwarded::Closed { connection });
        }
        assert!(outbox.is_crowded());
        let mut got = Vec::new();
        while got.len() < total as usize {
            outbox.flush();
            while let Some(Forwarded::Closed { connection }) = inbox.next_forwarded() {
                got.push(connection.0);
            }
        }
        assert_eq!(got, (0..total).collect::<Vec<_>>());
        assert!(!outbox.is_crowded());
    }
}
