//! The session: the client's side of the protocol as a pure state machine.
//!
//! No I/O, no clock, no thread: bytes and time are handed in, bytes and completions taken out. The
//! async and the blocking face, the simulator and the load generator all drive this one:
//!
//! 1. [`Session::connect_at`] says when to connect; tell [`Session::connected`] or
//!    [`Session::disconnected`] what came of it.
//! 2. Send what [`Session::transmit`] has, and say so by [`Session::transmitted`]; hand what comes to
//!    [`Session::receive`].
//! 3. [`Session::submit`] operations, and take their [`Session::next_completion`]s after any call.
//! 4. Call [`Session::tick`] when [`Session::deadline`] has come.
//!
//! A subscription ([`Session::subscribe`]) is no operation: what it tells is taken by
//! [`Session::next_event`] until it is cancelled.
//!
//! One session is one connection to one engine at a time, and one protocol session in each logspace,
//! opened when first appended to. Appends are idempotent by (session, request number): whatever was
//! sent and not answered is sent again after a reconnect, and takes effect at most once. Sessions are
//! in the log, so with several addresses that may be an engine of another node:
//! [`Session::address`] says which.

mod addresses;
mod appending;
mod aux;
mod link;
mod liveness;
mod managing;
mod naming;
mod numbers;
mod opening;
mod operation;
mod querying;
mod send_buffer;
mod subscribing;
mod table;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use foldhash::fast::FixedState;
use sealog_protocol::batch::BatchWriter;
use sealog_protocol::client::Welcome;
use sealog_protocol::limits::SUBSCRIPTION_CREDIT_MAX;
use sealog_protocol::{LogBookId, LogspaceId, Place, Time};
use thiserror::Error;

pub use liveness::Failover;
pub use managing::{Manage, Managed, Retention};
pub use naming::{NameKnown, NameQuestion};
pub use operation::{
    Append, Appended, Condition, Direction, Operation, OperationId, Outcome, Read, ReadRecords, SetAux, Target,
};
pub use subscribing::{Subscribe, SubscriptionEvent};

use self::addresses::Addresses;
use self::link::Link;
use self::naming::NameWork;
use self::opening::{LogspaceSession, NameState};
use self::send_buffer::SendBuffer;
use self::table::{NEVER, Status, Table, Work};
use crate::error::{AppendError, ConnectionError, Refusal};
use crate::token::Token;

/// A session's bounds and times.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// What the addresses are called in errors: one for each that there is to choose from. With none,
    /// there is one, and no name for it.
    pub addresses: Vec<String>,
    /// The one to begin with, counted around the list.
    pub address_first: usize,
    /// What the client calls itself, for the server's log. Cut to 64 bytes.
    pub name: String,
    /// Spreads the retries of many clients.
    pub seed: u64,
    /// Operations at once; [`Session::submit`] refuses more.
    pub operations_max: usize,
    /// Bytes of appends and of aux data kept for a retry; [`Session::submit`] refuses more.
    pub buffer_bytes_max: usize,
    /// Appends of unknown outcome kept for [`Session::retry`]; the oldest is forgotten first.
    pub unknown_max: usize,
    /// Before the second try of a connection or of a refused request; doubles with each.
    pub backoff_min: Duration,
    /// The longest between two tries.
    pub backoff_max: Duration,
    /// A connection with requests outstanding that is silent so long is given up.
    pub silence_max: Duration,
    /// The longest that the server is asked to hold a waiting read; a longer wait is asked for again.
    /// Less than `silence_max`.
    pub wait_max: Duration,
    /// Subscriptions at once; [`Session::subscribe`] refuses more.
    pub subscriptions_max: usize,
    /// Bytes of records kept for the consumer of one subscription, about: the credit that the server
    /// is given. At most [`sealog_protocol::limits::SUBSCRIPTION_CREDIT_MAX`].
    pub subscription_bytes: usize,
    /// A connection that has only subscriptions is asked for a sign of life after so long a silence.
    pub quiet_max: Duration,
    /// What is different when there is another address to go to.
    pub failover: Failover,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            addresses: Vec::new(),
            address_first: 0,
            name: "sealog".to_owned(),
            seed: 0,
            operations_max: 1024,
            buffer_bytes_max: 64 << 20,
            unknown_max: 256,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(10),
            wait_max: Duration::from_secs(5),
            subscriptions_max: 1024,
            subscription_bytes: 1 << 20,
            quiet_max: Duration::from_secs(30),
            failover: Failover::default(),
        }
    }
}

/// Why an operation was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// As many are under way as may be: submit again after the next completion.
    #[error("too many operations in flight: wait for one to complete")]
    Full,
    /// It can never be done.
    #[error(transparent)]
    Append(AppendError),
}

/// Counters since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent again, after a lost connection or a refusal.
    pub retries: u64,
    /// Connections that were welcomed.
    pub connections: u64,
    /// Sessions that the server had forgotten.
    pub sessions_expired: u64,
}

/// A request's id is a counter, and in these low bits the operation's place in the table.
const REQUEST_INDEX_BITS: u32 = 20;
/// So that places in the table fit their bits, names being given and sessions opened included.
const OPERATIONS_MAX: usize = 1 << 18;

/// See the module's documentation.
pub struct Session {
    config: SessionConfig,
    link: Link,
    /// A connection is wanted even with nothing to do.
    is_wanted: bool,
    addresses: Addresses,
    /// Why the connection is to be given up.
    leaving: Option<ConnectionError>,
    /// Nodes left as stalled since a request was last answered.
    stalls: u32,
    /// When bytes last came, or the first of the outstanding requests was sent.
    heard_at: Time,
    /// The beginning of a frame whose end has not come.
    partial: BytesMut,
    sends: SendBuffer,
    writer: BatchWriter,
    table: Table,
    /// Entries of status `Asked`.
    asked: usize,
    /// Entries of status `Open`.
    open: usize,
    /// When a sign of life was asked for; none after anything came.
    sign_asked_at: Option<Time>,
    /// Subscriptions, and those that tell something.
    subscriptions: usize,
    notices: VecDeque<OperationId>,
    /// Request ids given.
    requests: u64,
    /// Operations of callers that have not completed.
    callers: usize,
    completions: VecDeque<(OperationId, Outcome)>,
    welcome: Option<Welcome>,
    window: u32,
    /// Empty before the first welcome.
    logspaces: Vec<LogspaceSession>,
    /// By LogBook id. The hash is fixed: it decides nothing but a place in memory.
    names: HashMap<u64, NameState, FixedState>,
    /// Appends that lack the number of logspaces.
    unplaced: VecDeque<OperationId>,
    /// Appends of unknown outcome, the oldest first.
    parked: VecDeque<OperationId>,
    /// Bytes of append frames and of aux data outside the send buffer.
    own_bytes: usize,
    /// The last temporary refusal since anything else was answered.
    refusal: Option<Refusal>,
    token: Token,
    counters: Counters,
    random: u64,
}

impl Session {
    /// A session that is not connected. `operations_max` is kept within 1 and 262,144.
    pub fn new(config: SessionConfig) -> Session {
        let operations_max = config.operations_max.clamp(1, OPERATIONS_MAX);
        let unknown_max = config.unknown_max.min(OPERATIONS_MAX);
        let subscriptions_max = config.subscriptions_max.min(OPERATIONS_MAX);
        let subscription_bytes = config.subscription_bytes.clamp(1, SUBSCRIPTION_CREDIT_MAX);
        Session {
            link: Link::Down { reason: ConnectionError::NotYet, next: Time::ZERO },
            is_wanted: false,
            addresses: Addresses::new(&config.addresses, config.address_first),
            leaving: None,
            stalls: 0,
            heard_at: Time::ZERO,
            partial: BytesMut::new(),
            sends: SendBuffer::default(),
            writer: BatchWriter::default(),
            table: Table::new(),
            asked: 0,
            open: 0,
            sign_asked_at: None,
            subscriptions: 0,
            notices: VecDeque::new(),
            requests: 0,
            callers: 0,
            completions: VecDeque::new(),
            welcome: None,
            window: 0,
            logspaces: Vec::new(),
            names: HashMap::default(),
            unplaced: VecDeque::new(),
            parked: VecDeque::new(),
            own_bytes: 0,
            refusal: None,
            token: Token::new(),
            counters: Counters::default(),
            random: config.seed,
            config: SessionConfig { operations_max, unknown_max, subscriptions_max, subscription_bytes, ..config },
        }
    }

    /// Begins an operation, to be completed by `deadline`. What it needs of the arguments is copied.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn submit(&mut self, now: Time, operation: Operation<'_>, deadline: Time) -> Result<OperationId, SubmitError> {
        if self.callers >= self.config.operations_max {
            return Err(SubmitError::Full);
        }
        Ok(match operation {
            Operation::Append(append) => self.submit_append(now, &append, deadline)?,
            Operation::Read(read) => self.submit_read(now, read, deadline),
            Operation::CheckTail { logbook, tag, linearizable } => {
                self.submit_query(now, Work::CheckTail { logbook, tag, linearizable }, deadline)
            }
            Operation::Status => self.submit_query(now, Work::Status, deadline),
            Operation::Operate(request) => self.submit_query(now, Work::Operate(request), deadline),
            Operation::Manage(manage) => self.submit_query(now, Work::Manage(manage), deadline),
            Operation::Name(question) => self.submit_query(now, Work::Name(NameWork::new(question)), deadline),
            Operation::SetAux(aux) => self.submit_aux(now, &aux, deadline)?,
        })
    }

    /// Takes up an append again that ended in [`AppendError::OutcomeUnknown`], with the same request
    /// number: it takes effect at most once. Its completion comes under the id that is returned.
    ///
    /// # Errors
    /// [`AppendError::SessionExpired`] when it was forgotten: see [`SessionConfig::unknown_max`].
    pub fn retry(&mut self, now: Time, operation: OperationId, deadline: Time) -> Result<OperationId, SubmitError> {
        self.retry_append(now, operation, deadline)
    }

    /// Nobody wants the operation's completion any more, nor a retry. What was not sent will not be;
    /// an append that was sent may take effect. A completion that is there already still comes out.
    pub fn cancel(&mut self, now: Time, operation: OperationId) {
        let Some(index) = self.table.find(operation) else { return };
        match self.table.entry(index).work {
            Some(Work::Append(_)) => self.cancel_append(now, index),
            Some(Work::Subscription(_)) => self.cancel_subscription(index),
            _ => self.cancel_query(index),
        }
    }

    /// The next operation that is done.
    pub fn next_completion(&mut self) -> Option<(OperationId, Outcome)> {
        self.completions.pop_front()
    }

    /// When [`Session::tick`] may have something to do.
    pub fn deadline(&self) -> Option<Time> {
        let wake = Some(self.table.wake_bound()).filter(|wake| *wake != NEVER);
        [wake, self.silent_at(), self.sign_at()].into_iter().flatten().min()
    }

    /// Passes deadlines, and makes the retries that are due.
    ///
    /// # Errors
    /// The connection is silent for too long, or its node is of no use: drop it, and call
    /// [`Session::disconnected`].
    pub fn tick(&mut self, now: Time) -> Result<(), ConnectionError> {
        for index in self.table.take_due(now) {
            self.wake(now, index);
        }
        if self.sign_at().is_some_and(|at| at <= now) {
            self.ask_for_sign(now);
        }
        match self.silent_at() {
            Some(at) if at <= now => Err(ConnectionError::Silent),
            _ => self.leaving.take().map_or(Ok(()), Err),
        }
    }

    fn wake(&mut self, now: Time, index: u32) {
        let entry = self.table.entry(index);
        let (status, deadline) = (entry.status, entry.deadline);
        if entry.work.is_none() || matches!(status, Status::Parked | Status::Ended) {
            return;
        }
        if deadline <= now {
            self.expire(now, index);
        } else if status == Status::Asked {
            self.overdue(now, index);
        } else if status != Status::Resting {
            self.table.set_wake(index, deadline);
        } else if !self.drop_if_unwanted(index) {
            self.counters.retries += 1;
            self.table.set_wake(index, deadline);
            match self.link {
                Link::Up => self.ask(now, index),
                _ => self.set_status(index, Status::Ready),
            }
        }
    }

    /// The deadline has passed, or nothing can be waited for any more.
    fn expire(&mut self, now: Time, index: u32) {
        match self.table.entry(index).work {
            Some(Work::Append(_)) => self.append_expired(now, index),
            Some(Work::Subscription(_)) => self.subscription_expired(now, index),
            _ => self.query_expired(index),
        }
    }

    /// What this session has seen: raised by every answer.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// From now on, reads see at least what the token's giver had seen.
    pub fn merge(&mut self, token: &Token) {
        self.token.merge(token);
    }

    /// What the server said when it was last connected.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// Whether the connection stands and was welcomed.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up)
    }

    /// Which of the addresses is connected, or is to be connected to next.
    pub fn address(&self) -> usize {
        self.addresses.current()
    }

    /// Why there is no connection, once every address has failed since it last answered.
    pub fn unreachable(&self) -> Option<ConnectionError> {
        self.addresses.unreachable().filter(|_| matches!(self.link, Link::Down { .. }))
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.callers
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The logspace of a LogBook, when their number is known.
    fn logspace(&self, logbook: LogBookId) -> Option<LogspaceId> {
        self.welcome.as_ref().and_then(|welcome| Some(logbook.logspace(welcome.classes()?)))
    }

    fn saw(&mut self, logbook: LogBookId, place: Place) {
        if let Some(logspace) = self.logspace(logbook) {
            self.token.raise(logspace, place);
        }
    }

    /// How long to wait before the try after this many failures: doubled with each, and spread over
    /// its upper half so that many clients do not come at once.
    fn backoff(&mut self, failures: u32) -> Duration {
        let doubled = self.config.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let longest = doubled.min(self.config.backoff_max);
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = (mixed ^ (mixed >> 31)) % 1024;
        longest / 2 + longest / 2 * share as u32 / 1024
    }
}
