//! How the threads of a blocking client share its socket: one of those that wait holds the wheel and
//! drives it for all; when it has what it waited for, it passes the wheel on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use mio::{Events, Poll, Registry};
use sealog_protocol::Time;

use crate::error::AppendError;
use crate::face::address::{AddressList, io_error};
use crate::face::core::{CallId, Core, READ_BYTES};
use crate::session::{Operation, Outcome, SubmitError};

const SOCKET: mio::Token = mio::Token(0);
const WAKER: mio::Token = mio::Token(1);
/// Bounds of how long a thread waits for another that drives before it looks itself.
const FOLLOW_MIN: Duration = Duration::from_millis(1);
const FOLLOW_MAX: Duration = Duration::from_secs(1);

/// A client's socket and session, and the threads that wait for them.
pub(super) struct Shared {
    addresses: AddressList,
    core: Mutex<Core>,
    registry: Registry,
    /// Wakes the thread that drives, when there is something for it beside the socket.
    waker: mio::Waker,
    /// Who holds it drives.
    wheel: Mutex<Wheel>,
    /// Threads that wait while another drives, by a number each.
    followers: Mutex<Followers>,
}

struct Wheel {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Followers {
    last_number: u64,
    parked: BTreeMap<u64, Waker>,
}

impl Shared {
    pub fn new(addresses: AddressList, core: Core) -> std::io::Result<Shared> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, WAKER)?;
        let wheel = Wheel { poll, events: Events::with_capacity(8), buffer: vec![0; READ_BYTES] };
        Ok(Shared {
            addresses,
            core: Mutex::new(core),
            registry,
            waker,
            wheel: Mutex::new(wheel),
            followers: Mutex::default(),
        })
    }

    /// Begins an operation when there is room. `Err(None)`: there was none before the deadline.
    pub fn begin(
        &self,
        within: Duration,
        mut submit: impl FnMut(&mut Core, Time, Time) -> Result<CallId, SubmitError>,
    ) -> Result<CallId, Option<AppendError>> {
        let mut deadline = None;
        let mut has_waited = false;
        self.drive(|core, now, waker| {
            let deadline = *deadline.get_or_insert(now + within);
            match submit(core, now, deadline) {
                Ok(call) => Some(Ok(call)),
                Err(SubmitError::Append(error)) => Some(Err(Some(error))),
                Err(SubmitError::Full) if now >= deadline => Some(Err(None)),
                Err(SubmitError::Full) => {
                    core.wait_for_room(waker, deadline, has_waited);
                    has_waited = true;
                    None
                }
            }
        })
    }

    pub fn query(&self, within: Duration, operation: Operation<'static>) -> Option<Outcome> {
        let begun = self.begin(within, |core, now, deadline| core.submit(now, operation, deadline));
        begun.ok().map(|call| self.wait(call))
    }

    pub fn wait(&self, call: CallId) -> Outcome {
        self.drive(|core, _, waker| core.take_outcome(call, waker))
    }

    /// One turn under the lock, without waiting.
    pub fn turn<R>(&self, act: impl FnOnce(&mut Core, Time) -> R) -> R {
        let mut core = self.lock();
        let now = core.now();
        let result = act(&mut core, now);
        let wakers = core.finish(now);
        // The one that drives may be among those to be woken, and is not parked but at the socket.
        let is_earlier = |armed| !wakers.is_empty() || core.next_time().is_some_and(|next| next < armed);
        let needs_driver = core.armed.is_some_and(is_earlier);
        drop(core);
        if needs_driver {
            // If it can't be woken it wakes by its timeout.
            let _ = self.waker.wake();
        }
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `check` has a result: drives the socket, or waits for the thread that does.
    pub fn drive<R>(&self, mut check: impl FnMut(&mut Core, Time, &Waker) -> Option<R>) -> R {
        let waker = thread_waker();
        let result = loop {
            // First the wheel, then the look: without it, another thread may take in what is looked for.
            match self.try_wheel() {
                Some(mut wheel) => match self.turn(|core, now| check(core, now, &waker)) {
                    Some(result) => break result,
                    None => self.steer(&mut wheel),
                },
                None => {
                    let follower = self.follow(&waker);
                    let (result, until) = self.turn(|core, now| {
                        let until = core.next_time().map_or(FOLLOW_MAX, |next| next.since(now));
                        (check(core, now, &waker), until.clamp(FOLLOW_MIN, FOLLOW_MAX))
                    });
                    // Whoever lets go of the wheel after this sees this thread among the followers. The
                    // one that drives may be busy connecting: deadlines do not wait for it.
                    if result.is_none() && self.try_wheel().is_none() {
                        std::thread::park_timeout(until);
                    }
                    self.lock_followers().parked.remove(&follower);
                    if let Some(result) = result {
                        break result;
                    }
                }
            }
        };
        self.pass_wheel();
        result
    }

    fn try_wheel(&self) -> Option<MutexGuard<'_, Wheel>> {
        match self.wheel.try_lock() {
            Ok(wheel) => Some(wheel),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits once for the socket, a time, or a wake, and does what is then to be done.
    fn steer(&self, wheel: &mut Wheel) {
        let timeout = {
            let mut core = self.lock();
            let now = core.now();
            if core.is_connection_due(now) {
                core.is_connecting = true;
                let timeout = self.addresses.connect_timeout();
                let left = core.next_time().map_or(timeout, |next| next.since(now));
                let address = core.session.address();
                drop(core);
                return self.connect(address, left.clamp(FOLLOW_MIN, timeout));
            }
            let next = core.next_time();
            core.armed = Some(next.unwrap_or(Time(u64::MAX)));
            next.map(|next| next.since(now))
        };
        // An interrupted wait is as good as one that ended early.
        let _ = wheel.poll.poll(&mut wheel.events, timeout);
        let mut of_socket = wheel.events.iter().filter(|event| event.token() == SOCKET).peekable();
        let is_ready = of_socket.peek().is_some();
        let is_closed = of_socket.any(|event| event.is_read_closed());
        self.turn(|core, now| {
            core.armed = None;
            if is_ready {
                core.pull(now, &mut wheel.buffer, is_closed);
            }
        });
    }

    fn connect(&self, address: usize, timeout: Duration) {
        let connected = self.addresses.connect(address, timeout).and_then(|mut stream| {
            stream.register(&self.registry, SOCKET).map_err(|error| io_error(&error))?;
            Ok(stream)
        });
        self.turn(|core, now| match connected {
            Ok(stream) => core.established(now, stream),
            Err(reason) => core.lost(now, reason),
        });
    }

    /// Joins those who are told when the wheel is free.
    fn follow(&self, waker: &Waker) -> u64 {
        let mut followers = self.lock_followers();
        followers.last_number += 1;
        let number = followers.last_number;
        followers.parked.insert(number, waker.clone());
        number
    }

    /// Has one of those who wait look whether to drive.
    fn pass_wheel(&self) {
        let next = self.lock_followers().parked.pop_first();
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }

    fn lock_followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the thread it was made on.
fn thread_waker() -> Waker {
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    }
    WAKER.with(Waker::clone)
}
