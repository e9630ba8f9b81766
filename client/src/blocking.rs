//! The blocking face: the names of the async one, for plain threads.
//!
//! A thread that waits drives the socket itself, so an answer reaches it without another thread in
//! between. When several share a client, one of them drives it and wakes the others.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use mio::{Events, Poll, Registry};
use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::ReadRecord as Record;
use sealog_protocol::{LogBookId, SeqNum, Tag, Time};

use crate::error::{AppendError, CheckTailError, ConnectError, ReadError, StatusError};
use crate::face::address::{Address, io_error};
use crate::face::call::{append_outcome, read_outcome, status_outcome, tail_outcome};
use crate::face::core::{CallId, Core, READ_BYTES};
use crate::face::driver::CONNECT_TIMEOUT;
use crate::face::operation::{Book, append};
use crate::logbook::{Pages, backward, forward};
use crate::session::{Appended, Condition, Counters, Operation, OperationId, Outcome, Read, ReadRecords, SubmitError};
use crate::token::Token;

const SOCKET: mio::Token = mio::Token(0);
const WAKER: mio::Token = mio::Token(1);
/// Bounds of how long a thread waits for another that drives before it looks itself.
const FOLLOW_MIN: Duration = Duration::from_millis(1);
const FOLLOW_MAX: Duration = Duration::from_secs(1);

/// A client of one node. Cheap to clone: clones share the connection and the session.
///
/// While no thread waits, nothing moves: what was begun and not waited for is then neither sent again
/// nor timed.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

/// How a client is to be made: see [`crate::Builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder(crate::Builder);

impl Builder {
    /// See [`crate::Builder::name`].
    pub fn name(self, name: impl Into<String>) -> Builder {
        Builder(self.0.name(name))
    }

    /// See [`crate::Builder::deadline`].
    pub fn deadline(self, deadline: Duration) -> Builder {
        Builder(self.0.deadline(deadline))
    }

    /// See [`crate::Builder::in_flight_max`].
    pub fn in_flight_max(self, operations: usize) -> Builder {
        Builder(self.0.in_flight_max(operations))
    }

    /// See [`crate::Builder::wait_for_server`].
    pub fn wait_for_server(self, wait: bool) -> Builder {
        Builder(self.0.wait_for_server(wait))
    }

    /// Connects, and waits for the server's welcome.
    ///
    /// # Errors
    /// As [`crate::Client::connect`].
    pub fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let parsed = self.0.parse(address)?;
        let shared = Shared::new(parsed, Core::new(self.0.session_config()));
        let shared = Arc::new(shared.map_err(|error| ConnectError::Start { message: error.to_string() })?);
        let deadline = shared.turn(|core, now| {
            core.session.want_connection();
            now + self.0.deadline
        });
        shared.drive(|core, now, waker| {
            let greeted = self.0.greeted(core, address, now >= deadline);
            if greeted.is_none() {
                core.wait_for_greeting(waker, deadline);
            }
            greeted
        })?;
        Ok(Client { shared, deadline: self.0.deadline })
    }
}

impl Client {
    /// Connects to `HOST:PORT` or `unix:PATH`, with the defaults of [`Client::builder`].
    ///
    /// # Errors
    /// As [`crate::Client::connect`].
    pub fn connect(address: &str) -> Result<Client, ConnectError> {
        Client::builder().connect(address)
    }

    /// A client with other settings than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A LogBook by name. Its name is listed when it is first appended to.
    pub fn logbook(&self, name: &str) -> LogBook {
        LogBook { shared: self.shared.clone(), book: Book::named(name), deadline: self.deadline }
    }

    /// A LogBook by id.
    pub fn logbook_by_id(&self, id: LogBookId) -> LogBook {
        LogBook { shared: self.shared.clone(), book: Book { id, name: None }, deadline: self.deadline }
    }

    /// What this client has seen, to be handed on and merged.
    pub fn session(&self) -> ClientSession {
        ClientSession { shared: self.shared.clone() }
    }

    /// The same client, whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { shared: self.shared.clone(), deadline }
    }

    /// See [`crate::Client::retry`].
    ///
    /// # Errors
    /// As there.
    pub fn retry(&self, retry: OperationId) -> Result<Appended, AppendError> {
        let begun = self.shared.begin(self.deadline, |core, now, deadline| core.retry(now, retry, deadline));
        match begun {
            Ok(call) => append_outcome(self.shared.wait(call)),
            Err(Some(error)) => Err(error),
            Err(None) => Err(AppendError::OutcomeUnknown { retry }),
        }
    }

    /// The node's state, JSON text.
    ///
    /// # Errors
    /// When it does not come before the deadline.
    pub fn status(&self) -> Result<String, StatusError> {
        match self.shared.query(self.deadline, Operation::Status) {
            Some(outcome) => status_outcome(outcome),
            None => Err(StatusError::Deadline { refusal: None }),
        }
    }

    /// Counters since the client was made.
    pub fn counters(&self) -> Counters {
        self.shared.turn(|core, _| core.session.counters())
    }
}

/// What a client has seen: see [`Token`].
pub struct ClientSession {
    shared: Arc<Shared>,
}

impl ClientSession {
    /// See [`crate::ClientSession::token`].
    pub fn token(&self) -> Token {
        self.shared.turn(|core, _| core.session.token().clone())
    }

    /// See [`crate::ClientSession::merge`].
    pub fn merge(&self, token: &Token) {
        self.shared.turn(|core, _| core.session.merge(token));
    }
}

/// A log of a [`Client`]. Cheap to make and to clone. Its methods are those of [`crate::LogBook`].
#[derive(Clone)]
pub struct LogBook {
    shared: Arc<Shared>,
    book: Book,
    deadline: Duration,
}

impl LogBook {
    /// Its id: the hash of its name.
    pub fn id(&self) -> LogBookId {
        self.book.id
    }

    /// Its name, unless it was opened by id.
    pub fn name(&self) -> Option<&str> {
        self.book.name.as_deref()
    }

    /// The same LogBook, whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> LogBook {
        LogBook { deadline, ..self.clone() }
    }

    /// See [`crate::LogBook::append`].
    ///
    /// # Errors
    /// As there.
    pub fn append(&self, tags: &[Tag], payload: impl AsRef<[u8]>) -> Result<Appended, AppendError> {
        self.begin_append(tags, payload)?.wait()
    }

    /// Sends an append and returns; blocks while too many are in flight.
    ///
    /// # Errors
    /// As [`crate::LogBook::append`], before anything was sent.
    pub fn begin_append(&self, tags: &[Tag], payload: impl AsRef<[u8]>) -> Result<PendingAppend, AppendError> {
        self.begin(None, &[NewRecord { tags, payload: payload.as_ref() }])
    }

    /// See [`crate::LogBook::append_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn append_batch(&self, records: &[NewRecord<'_>]) -> Result<Appended, AppendError> {
        self.begin(None, records)?.wait()
    }

    /// See [`crate::LogBook::append_if`].
    ///
    /// # Errors
    /// As there.
    pub fn append_if(
        &self,
        tag: Tag,
        expected: Option<SeqNum>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Appended, AppendError> {
        let own = [tag];
        let tags: &[Tag] = if tag == Tag::ALL { &[] } else { &own };
        self.append_batch_if(Condition { tag, expected }, &[NewRecord { tags, payload: payload.as_ref() }])
    }

    /// See [`crate::LogBook::append_batch_if`].
    ///
    /// # Errors
    /// As there.
    pub fn append_batch_if(&self, condition: Condition, records: &[NewRecord<'_>]) -> Result<Appended, AppendError> {
        self.begin(Some(condition), records)?.wait()
    }

    fn begin(&self, condition: Option<Condition>, records: &[NewRecord<'_>]) -> Result<PendingAppend, AppendError> {
        let begun = self.shared.begin(self.deadline, |core, now, deadline| {
            core.submit(now, append(&self.book, condition, records), deadline)
        });
        match begun {
            Ok(call) => Ok(PendingAppend { shared: self.shared.clone(), call: Some(call) }),
            Err(Some(error)) => Err(error),
            Err(None) => Err(AppendError::Deadline { refusal: None }),
        }
    }

    /// See [`crate::LogBook::read_next`].
    ///
    /// # Errors
    /// As there.
    pub fn read_next(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        Ok(self.read(forward(self.book.id, tag, from..=SeqNum::MAX, 1))?.records.pop())
    }

    /// See [`crate::LogBook::read_prev`].
    ///
    /// # Errors
    /// As there.
    pub fn read_prev(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        Ok(self.read(backward(self.book.id, tag, SeqNum::MIN..=from, 1))?.records.pop())
    }

    /// See [`crate::LogBook::read_next_wait`].
    ///
    /// # Errors
    /// As there.
    pub fn read_next_wait(&self, tag: Tag, from: SeqNum, wait: Duration) -> Result<Option<Record>, ReadError> {
        let read = Read { wait, ..forward(self.book.id, tag, from..=SeqNum::MAX, 1) };
        Ok(self.read(read)?.records.pop())
    }

    /// See [`crate::LogBook::read_range`].
    ///
    /// # Errors
    /// As there.
    pub fn read_range(
        &self,
        tag: Tag,
        range: RangeInclusive<SeqNum>,
        records_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        Ok(self.read(forward(self.book.id, tag, range, records_max))?.records)
    }

    /// See [`crate::LogBook::scan`].
    pub fn scan(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let pages = Pages::new(forward(self.book.id, tag, range, sealog_protocol::limits::READ_RECORDS_MAX));
        Scan { logbook: self.clone(), pages }
    }

    /// See [`crate::LogBook::scan_backward`].
    pub fn scan_backward(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let pages = Pages::new(backward(self.book.id, tag, range, sealog_protocol::limits::READ_RECORDS_MAX));
        Scan { logbook: self.clone(), pages }
    }

    fn read(&self, read: Read) -> Result<ReadRecords, ReadError> {
        match self.shared.query(self.deadline.saturating_add(read.wait), Operation::Read(read)) {
            Some(outcome) => read_outcome(outcome),
            None => Err(ReadError::Deadline { refusal: None }),
        }
    }

    /// See [`crate::LogBook::check_tail`].
    ///
    /// # Errors
    /// As there.
    pub fn check_tail(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        self.tail(tag, false)
    }

    /// See [`crate::LogBook::check_tail_linearizable`].
    ///
    /// # Errors
    /// As there.
    pub fn check_tail_linearizable(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        self.tail(tag, true)
    }

    fn tail(&self, tag: Tag, linearizable: bool) -> Result<Option<SeqNum>, CheckTailError> {
        let operation = Operation::CheckTail { logbook: self.book.id, tag, linearizable };
        match self.shared.query(self.deadline, operation) {
            Some(outcome) => tail_outcome(outcome),
            None => Err(CheckTailError::Deadline { refusal: None }),
        }
    }
}

/// An append under way. Appends are answered in any order, and waited for in the caller's.
#[must_use = "an append that nobody waits for may fail unnoticed"]
pub struct PendingAppend {
    shared: Arc<Shared>,
    call: Option<CallId>,
}

impl PendingAppend {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`crate::LogBook::append`].
    pub fn wait(mut self) -> Result<Appended, AppendError> {
        let call = self.call.take().expect("it is waited for once");
        append_outcome(self.shared.wait(call))
    }
}

impl Drop for PendingAppend {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.shared.turn(|core, now| core.abandon(now, call));
        }
    }
}

/// A range being read: at most a page of it is in memory. After an error it may be gone on with.
pub struct Scan {
    logbook: LogBook,
    pages: Pages,
}

impl Iterator for Scan {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(read) = self.pages.wanted() {
            match self.logbook.read(read) {
                Ok(page) => self.pages.took(page),
                Err(error) => return Some(Err(error)),
            }
        }
        self.pages.records.pop_front().map(Ok)
    }
}

struct Shared {
    address: Address,
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
    fn new(address: Address, core: Core) -> std::io::Result<Shared> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, WAKER)?;
        let wheel = Wheel { poll, events: Events::with_capacity(8), buffer: vec![0; READ_BYTES] };
        Ok(Shared {
            address,
            core: Mutex::new(core),
            registry,
            waker,
            wheel: Mutex::new(wheel),
            followers: Mutex::default(),
        })
    }

    /// Begins an operation when there is room. `Err(None)`: there was none before the deadline.
    fn begin(
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

    fn query(&self, within: Duration, operation: Operation<'static>) -> Option<Outcome> {
        let begun = self.begin(within, |core, now, deadline| core.submit(now, operation, deadline));
        begun.ok().map(|call| self.wait(call))
    }

    fn wait(&self, call: CallId) -> Outcome {
        self.drive(|core, _, waker| core.take_outcome(call, waker))
    }

    /// One turn under the lock, without waiting.
    fn turn<R>(&self, act: impl FnOnce(&mut Core, Time) -> R) -> R {
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
    fn drive<R>(&self, mut check: impl FnMut(&mut Core, Time, &Waker) -> Option<R>) -> R {
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
                let left = core.next_time().map_or(CONNECT_TIMEOUT, |next| next.since(now));
                drop(core);
                return self.connect(left.clamp(FOLLOW_MIN, CONNECT_TIMEOUT));
            }
            let next = core.next_time();
            core.armed = Some(next.unwrap_or(Time(u64::MAX)));
            next.map(|next| next.since(now))
        };
        // An interrupted wait is as good as one that ended early.
        let _ = wheel.poll.poll(&mut wheel.events, timeout);
        let is_ready = wheel.events.iter().any(|event| event.token() == SOCKET);
        self.turn(|core, now| {
            core.armed = None;
            if is_ready {
                core.pull(now, &mut wheel.buffer);
            }
        });
    }

    fn connect(&self, timeout: Duration) {
        let connected = self.address.connect(timeout).and_then(|mut stream| {
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
