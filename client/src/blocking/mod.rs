//! The blocking face: the names of the async one, for plain threads.
//!
//! A thread that waits drives the socket itself, so an answer reaches it without another thread in
//! between. When several share a client, one of them drives it and wakes the others.

mod subscription;
mod wheel;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::{Description, Durability, OperateRequest, ReadRecord as Record};
use sealog_protocol::{LogBookId, SeqNum, Tag};

pub use self::subscription::Subscription;
use self::wheel::Shared;
use crate::client::Created;
use crate::error::{AppendError, CheckTailError, ConnectError, ManageError, ReadError, SetAuxError, StatusError};
use crate::face::call::{
    append_outcome, aux_outcome, described, manage_outcome, name_outcome, read_outcome, status_outcome, tail_outcome,
    trimmed,
};
use crate::face::core::{CallId, Core};
use crate::face::operation::{Book, append};
use crate::logbook::{Pages, backward, forward};
use crate::session::{
    Appended, Condition, Counters, Manage, Managed, NameKnown, NameQuestion, Operation, OperationId, Read, ReadRecords,
    Retention, SetAux, Subscribe,
};
use crate::token::Token;

/// A client of one node at a time. Cheap to clone: clones share the connection and the session.
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

    /// See [`crate::Builder::subscription_bytes`].
    pub fn subscription_bytes(self, bytes: usize) -> Builder {
        Builder(self.0.subscription_bytes(bytes))
    }

    /// Connects, and waits for the server's welcome.
    ///
    /// # Errors
    /// As [`crate::Client::connect`].
    pub fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let parsed = self.0.parse(address)?;
        let shared = Shared::new(parsed.clone(), Core::new(self.0.session_config(&parsed)));
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
    /// Connects to `HOST:PORT` or `unix:PATH`, or to one of several with commas between, with the
    /// defaults of [`Client::builder`].
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

    /// See [`crate::Client::logbook`].
    pub fn logbook(&self, name: &str) -> LogBook {
        self.logbook_in_class(name, Durability::Disk)
    }

    /// See [`crate::Client::logbook_in_class`].
    pub fn logbook_in_class(&self, name: &str, class: Durability) -> LogBook {
        let book = Book::in_class(name, class);
        LogBook { shared: self.shared.clone(), book, deadline: self.deadline, has_aux: false }
    }

    /// See [`crate::Client::find_logbook`].
    ///
    /// # Errors
    /// As there.
    pub fn find_logbook(&self, name: &str) -> Result<Option<LogBook>, ManageError> {
        let known = self.name(NameQuestion { name, create: None })?;
        Ok(known.class.map(|class| self.logbook_in_class(name, class)))
    }

    /// See [`crate::Client::create_logbook`].
    ///
    /// # Errors
    /// As there.
    pub fn create_logbook(&self, name: &str, class: Durability) -> Result<Created<LogBook>, ManageError> {
        let known = self.name(NameQuestion { name, create: Some(class) })?;
        Ok(Created { logbook: self.logbook_in_class(name, class), is_new: known.is_new })
    }

    fn name(&self, question: NameQuestion<'_>) -> Result<NameKnown, ManageError> {
        let operation = Operation::Name(question);
        match self.shared.begin(self.deadline, |core, now, deadline| core.submit(now, operation, deadline)) {
            Ok(call) => name_outcome(self.shared.wait(call)),
            Err(_) => Err(ManageError::Deadline { refusal: None }),
        }
    }

    /// A LogBook by id.
    pub fn logbook_by_id(&self, id: LogBookId) -> LogBook {
        LogBook { shared: self.shared.clone(), book: Book { id, name: None }, deadline: self.deadline, has_aux: false }
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

    /// See [`crate::Client::operate`].
    ///
    /// # Errors
    /// As there.
    pub fn operate(&self, request: OperateRequest) -> Result<String, StatusError> {
        match self.shared.query(self.deadline, Operation::Operate(request)) {
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
    has_aux: bool,
}

impl LogBook {
    /// Its id: the hash of its name, and its class.
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

    /// See [`crate::LogBook::with_aux`].
    pub fn with_aux(&self) -> LogBook {
        LogBook { has_aux: true, ..self.clone() }
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

    /// See [`crate::LogBook::subscribe`].
    pub fn subscribe(&self, tag: Tag, from: SeqNum) -> Subscription {
        let wanted = Subscribe { logbook: self.book.id, tag, from, patience: self.deadline };
        Subscription::begin(&self.shared, wanted)
    }

    fn read(&self, read: Read) -> Result<ReadRecords, ReadError> {
        let read = Read { aux: self.has_aux, ..read };
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

    /// See [`crate::LogBook::trim`].
    ///
    /// # Errors
    /// As there.
    pub fn trim(&self, tag: Tag, first: SeqNum) -> Result<SeqNum, ManageError> {
        Ok(trimmed(self.manage(Manage::Trim { logbook: self.book.id, tag, first })?))
    }

    /// See [`crate::LogBook::set_retention`].
    ///
    /// # Errors
    /// As there.
    pub fn set_retention(&self, retention: Retention) -> Result<(), ManageError> {
        self.manage(Manage::SetRetention { logbook: self.book.id, retention }).map(drop)
    }

    /// See [`crate::LogBook::describe`].
    ///
    /// # Errors
    /// As there.
    pub fn describe(&self) -> Result<Description, ManageError> {
        Ok(described(self.manage(Manage::Describe { logbook: self.book.id })?))
    }

    /// See [`crate::LogBook::set_aux`].
    ///
    /// # Errors
    /// As there.
    pub fn set_aux(&self, seqnum: SeqNum, data: impl AsRef<[u8]>) -> Result<bool, SetAuxError> {
        let aux = Operation::SetAux(SetAux { logbook: self.book.id, seqnum, data: data.as_ref() });
        match self.shared.begin(self.deadline, |core, now, deadline| core.submit(now, aux, deadline)) {
            Ok(call) => aux_outcome(self.shared.wait(call)),
            Err(_) => Err(SetAuxError::Deadline { refusal: None }),
        }
    }

    fn manage(&self, manage: Manage) -> Result<Managed, ManageError> {
        match self.shared.query(self.deadline, Operation::Manage(manage)) {
            Some(outcome) => manage_outcome(outcome),
            None => Err(ManageError::Deadline { refusal: None }),
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
