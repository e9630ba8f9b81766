//! The thread behind the async face, one for the process: it waits for all clients' sockets and
//! times, and wakes futures. Writing is done by the callers; only a full socket is left to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use mio::{Events, Poll, Registry, Token, Waker};
use sealog_protocol::Time;

use super::address::AddressList;
use super::core::{CallId, Core, READ_BYTES};
use crate::error::ConnectionError;
use crate::session::{Outcome, SessionConfig};

const WAKER: Token = Token(0);

pub(crate) struct Driver {
    registry: Registry,
    waker: Waker,
    state: Mutex<State>,
}

struct State {
    clients: BTreeMap<usize, Weak<Shared>>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    last_key: usize,
    /// Until when the thread waits; `None` while it does not.
    waits_until: Option<Option<Instant>>,
}

impl Driver {
    /// The driver of this process, started at the first call.
    pub fn get() -> Result<Arc<Driver>, String> {
        static DRIVER: OnceLock<Result<Arc<Driver>, String>> = OnceLock::new();
        DRIVER.get_or_init(|| Driver::start().map_err(|error| error.to_string())).clone()
    }

    fn start() -> io::Result<Arc<Driver>> {
        let poll = Poll::new()?;
        let state = State { clients: BTreeMap::new(), timers: BinaryHeap::new(), last_key: 0, waits_until: None };
        let driver = Arc::new(Driver {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            state: Mutex::new(state),
        });
        let of_thread = driver.clone();
        thread::Builder::new().name("sealog-client".to_owned()).spawn(move || of_thread.run(poll))?;
        Ok(driver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let until = {
                let mut state = self.lock();
                let until = state.timers.peek().map(|Reverse((at, _))| *at);
                state.waits_until = Some(until);
                until
            };
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            // An interrupted wait is as good as one that ended early.
            let _ = poll.poll(&mut events, timeout);
            let due = self.take_due();
            for event in &events {
                if let Some(client) = self.client(event.token().0) {
                    client.ready(&mut buffer, event.is_read_closed());
                }
            }
            for (at, key) in due {
                if let Some(client) = self.client(key) {
                    client.due(at);
                }
            }
        }
    }

    fn take_due(&self) -> Vec<(Instant, usize)> {
        let mut state = self.lock();
        state.waits_until = None;
        let (now, mut due) = (Instant::now(), Vec::new());
        while state.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            due.extend(state.timers.pop().map(|Reverse(timer)| timer));
        }
        due
    }

    fn client(&self, key: usize) -> Option<Arc<Shared>> {
        self.lock().clients.get(&key)?.upgrade()
    }

    fn arm(&self, at: Instant, key: usize) {
        let mut state = self.lock();
        state.timers.push(Reverse((at, key)));
        let is_late = state.waits_until.is_some_and(|until| until.is_none_or(|until| at < until));
        if is_late {
            state.waits_until = Some(Some(at));
            drop(state);
            // If it can't be woken it wakes by its timeout: late, not never, as long as it has one.
            let _ = self.waker.wake();
        }
    }
}

/// A client of the async face.
pub(crate) struct Shared {
    driver: Arc<Driver>,
    key: usize,
    addresses: AddressList,
    core: Mutex<Core>,
}

impl Shared {
    pub fn new(addresses: AddressList, config: SessionConfig) -> Result<Arc<Shared>, String> {
        let driver = Driver::get()?;
        let mut state = driver.lock();
        state.last_key += 1;
        let key = state.last_key;
        let core = Mutex::new(Core::new(config));
        let shared = Arc::new(Shared { driver: driver.clone(), key, addresses, core });
        state.clients.insert(key, Arc::downgrade(&shared));
        Ok(shared)
    }

    /// Does one turn under the lock, then what follows from it: wakes, times, connections.
    pub fn turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut Core, Time) -> R) -> R {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let now = core.now();
        let result = act(&mut core, now);
        let wakers = core.finish(now);
        let connects = core.is_connection_due(now);
        core.is_connecting |= connects;
        let address = core.session.address();
        let next = core.next_time();
        let arms = next.filter(|next| core.armed.is_none_or(|armed| *next < armed));
        core.armed = arms.or(core.armed);
        let arms = arms.map(|at| core.instant(at));
        drop(core);
        if let Some(at) = arms {
            self.driver.arm(at, self.key);
        }
        for waker in wakers {
            waker.wake();
        }
        if connects {
            self.connect(address);
        }
        result
    }

    /// As [`Core::take_outcome`]: nothing follows from it, so it is no turn.
    pub fn take_outcome(&self, call: CallId, waker: &std::task::Waker) -> Option<Outcome> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).take_outcome(call, waker)
    }

    /// Makes a connection, in a thread of its own: looking up a name blocks.
    fn connect(self: &Arc<Self>, address: usize) {
        let (weak, addresses) = (Arc::downgrade(self), self.addresses.clone());
        let work = move || {
            let connected = addresses.connect(address, addresses.connect_timeout());
            if let Some(shared) = weak.upgrade() {
                shared.connection_made(connected);
            }
        };
        if let Err(error) = thread::Builder::new().name("sealog-connect".to_owned()).spawn(work) {
            let reason = ConnectionError::Io { message: format!("no thread to connect with: {error}") };
            self.connection_made(Err(reason));
        }
    }

    fn connection_made(self: &Arc<Self>, connected: Result<super::address::Stream, ConnectionError>) {
        let registered = connected.and_then(|mut stream| {
            let registered = stream.register(&self.driver.registry, Token(self.key));
            registered.map(|()| stream).map_err(|error| super::address::io_error(&error))
        });
        self.turn(|core, now| match registered {
            Ok(stream) => core.established(now, stream),
            Err(reason) => core.lost(now, reason),
        });
    }

    fn ready(self: &Arc<Self>, buffer: &mut [u8], is_closed: bool) {
        self.turn(|core, now| core.pull(now, buffer, is_closed));
    }

    fn due(self: &Arc<Self>, at: Instant) {
        self.turn(|core, _| {
            // A timer that an earlier one replaced is not set again.
            if core.armed.map(|armed| core.instant(armed)) == Some(at) {
                core.armed = None;
            }
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.lock().clients.remove(&self.key);
    }
}
