//! The async face: a client, and how it is made.

use std::collections::hash_map::RandomState;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sealog_protocol::client::OperateRequest;
use sealog_protocol::{Durability, LogBookId};

use crate::error::{AppendError, ConnectError, ConnectionError, ManageError, StatusError};
use crate::face::address::AddressList;
use crate::face::call::{Call, append_outcome, name_outcome, status_outcome};
use crate::face::core::Core;
use crate::face::driver::Shared;
use crate::face::operation::Book;
use crate::logbook::LogBook;
use crate::session::{Appended, Counters, NameKnown, NameQuestion, Operation, OperationId, SessionConfig};
use crate::token::Token;

/// A client of one node at a time. Cheap to clone: clones share the connection and the session.
///
/// It reconnects by itself, to another node if it knows of one, and sends again what was not
/// answered; appends take effect at most once all the same. Its futures run on any executor. One thread, shared by all clients of the process,
/// waits for sockets and times.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

impl Client {
    /// Connects to `HOST:PORT` or `unix:PATH`, with the defaults of [`Client::builder`].
    ///
    /// Several addresses of one cluster may be given with commas between: the first that answers is
    /// used, and when it is lost or silent the session goes on at the next at once, with no duplicate.
    ///
    /// # Errors
    /// When nothing answers there now, or what answers is no Sealog of this release.
    pub async fn connect(address: &str) -> Result<Client, ConnectError> {
        Client::builder().connect(address).await
    }

    /// A client with other settings than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A LogBook of class disk by name. Its name is listed when it is first appended to.
    pub fn logbook(&self, name: &str) -> LogBook {
        LogBook::new(self.shared.clone(), Book::named(name), self.deadline)
    }

    /// A LogBook of this class by name. Its name is listed when it is first appended to, and has the class
    /// for ever: appends to a name of the other class end in [`AppendError::NameTaken`].
    pub fn logbook_in_class(&self, name: &str, class: Durability) -> LogBook {
        LogBook::new(self.shared.clone(), Book::in_class(name, class), self.deadline)
    }

    /// The LogBook of a name that is used already, of whatever class.
    ///
    /// # Errors
    /// When the answer does not come before the deadline.
    pub async fn find_logbook(&self, name: &str) -> Result<Option<LogBook>, ManageError> {
        let known = self.name(NameQuestion { name, create: None }).await?;
        Ok(known.class.map(|class| self.logbook_in_class(name, class)))
    }

    /// Makes sure that a LogBook of this name and class is there.
    ///
    /// # Errors
    /// [`ManageError::NameTaken`] when the name is one of the other class; creating again is safe.
    pub async fn create_logbook(&self, name: &str, class: Durability) -> Result<Created, ManageError> {
        let known = self.name(NameQuestion { name, create: Some(class) }).await?;
        Ok(Created { logbook: self.logbook_in_class(name, class), is_new: known.is_new })
    }

    async fn name(&self, question: NameQuestion<'_>) -> Result<NameKnown, ManageError> {
        name_outcome(Call::name(&self.shared, question, self.deadline).await)
    }

    /// A LogBook by id.
    pub fn logbook_by_id(&self, id: LogBookId) -> LogBook {
        LogBook::new(self.shared.clone(), Book { id, name: None }, self.deadline)
    }

    /// What this client has seen, to be handed on and merged.
    pub fn session(&self) -> ClientSession {
        ClientSession { shared: self.shared.clone() }
    }

    /// The same client, whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { shared: self.shared.clone(), deadline }
    }

    /// Takes up an append that ended in [`AppendError::OutcomeUnknown`] again: it takes effect at most
    /// once, and the answer is that of the first try that did.
    ///
    /// # Errors
    /// As [`LogBook::append`]; [`AppendError::SessionExpired`] when too many others of unknown outcome
    /// came after it.
    pub async fn retry(&self, retry: OperationId) -> Result<Appended, AppendError> {
        append_outcome(Call::retry(&self.shared, retry, self.deadline).await)
    }

    /// The node's state, JSON text.
    ///
    /// # Errors
    /// When it does not come before the deadline.
    pub async fn status(&self) -> Result<String, StatusError> {
        status_outcome(Call::query(&self.shared, Operation::Status, self.deadline).await)
    }

    /// Asks the cluster what operators do, or changes it: JSON text, as `sealog node` and `sealog view`
    /// print it. What would lose something is refused in the answer, which is no error.
    ///
    /// # Errors
    /// When it does not come before the deadline. A change may be in force all the same; asking again is
    /// safe.
    pub async fn operate(&self, request: OperateRequest) -> Result<String, StatusError> {
        status_outcome(Call::query(&self.shared, Operation::Operate(request), self.deadline).await)
    }

    /// Counters since the client was made.
    pub fn counters(&self) -> Counters {
        self.shared.turn(|core, _| core.session.counters())
    }
}

/// A LogBook that is sure to be there.
#[derive(Clone)]
pub struct Created<L = LogBook> {
    pub logbook: L,
    /// It was not there before.
    pub is_new: bool,
}

/// What a client has seen: see [`Token`].
pub struct ClientSession {
    shared: Arc<Shared>,
}

impl ClientSession {
    /// What has been seen, to be handed to another client, function or process.
    pub fn token(&self) -> Token {
        self.shared.turn(|core, _| core.session.token().clone())
    }

    /// From now on, reads see at least what the token's giver had seen.
    pub fn merge(&self, token: &Token) {
        self.shared.turn(|core, _| core.session.merge(token));
    }
}

/// How a client is to be made.
#[derive(Clone, Debug)]
pub struct Builder {
    session: SessionConfig,
    pub(crate) deadline: Duration,
    wait_for_server: bool,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { session: SessionConfig::default(), deadline: Duration::from_secs(10), wait_for_server: false }
    }
}

impl Builder {
    /// What the client calls itself in the server's log; at most 64 bytes of it.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.session.name = name.into();
        self
    }

    /// Of every call, from its beginning; 10 seconds if it is not given.
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// Operations at once; further ones wait for one to complete. 1024 if it is not given.
    pub fn in_flight_max(mut self, operations: usize) -> Builder {
        self.session.operations_max = operations;
        self
    }

    /// Bytes of records that the server sends ahead of the consumer of a subscription, and that are then
    /// in memory. 1 MiB if it is not given; at most 8 MiB.
    pub fn subscription_bytes(mut self, bytes: usize) -> Builder {
        self.session.subscription_bytes = bytes;
        self
    }

    /// When nothing answers, try again until the deadline rather than fail at once.
    pub fn wait_for_server(mut self, wait: bool) -> Builder {
        self.wait_for_server = wait;
        self
    }

    /// Connects, and waits for the server's welcome.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let parsed = self.parse(address)?;
        let config = self.session_config(&parsed);
        let shared = Shared::new(parsed, config).map_err(|message| ConnectError::Start { message })?;
        let deadline = shared.turn(|core, now| {
            core.session.want_connection();
            now + self.deadline
        });
        let waited = poll_fn(|context| {
            shared.turn(|core, now| match self.greeted(core, address, now >= deadline) {
                Some(result) => Poll::Ready(result),
                None => {
                    core.wait_for_greeting(context.waker(), deadline);
                    Poll::Pending
                }
            })
        });
        waited.await?;
        Ok(Client { shared, deadline: self.deadline })
    }

    pub(crate) fn parse(&self, address: &str) -> Result<AddressList, ConnectError> {
        AddressList::parse(address).map_err(|reason| ConnectError::Refused { address: address.to_owned(), reason })
    }

    /// The session's configuration, with a seed of its own.
    pub(crate) fn session_config(&self, addresses: &AddressList) -> SessionConfig {
        let (seed, addresses) = (RandomState::new().build_hasher().finish(), addresses.texts().to_vec());
        SessionConfig { seed, addresses, ..self.session.clone() }
    }

    /// Whether connecting has come to an end, good or bad.
    pub(crate) fn greeted(&self, core: &mut Core, address: &str, is_late: bool) -> Option<Result<(), ConnectError>> {
        if core.session.is_connected() {
            return Some(Ok(()));
        }
        let address = || address.to_owned();
        match core.session.unreachable() {
            Some(reason) if reason.is_final() => Some(Err(ConnectError::Refused { address: address(), reason })),
            Some(reason) if !self.wait_for_server => {
                Some(Err(ConnectError::Unreachable { address: address(), reason }))
            }
            reason if is_late => {
                let reason = reason.unwrap_or(ConnectionError::NoWelcome);
                Some(Err(ConnectError::Deadline { address: address(), reason }))
            }
            _ => {
                core.session.want_connection();
                None
            }
        }
    }
}
