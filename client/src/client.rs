//! The async face.

use std::time::Duration;

use sealog_protocol::LogBookId;

use crate::error::{AppendError, ConnectError, StatusError};
use crate::logbook::LogBook;
use crate::session::{Appended, Counters, OperationId, SessionConfig};
use crate::token::Token;

/// A client of one node. Cheap to clone: clones share the connection and the session.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Connects to `HOST:PORT` or `unix:PATH`, with the defaults of [`Client::builder`].
    pub async fn connect(address: &str) -> Result<Client, ConnectError> {
        Client::builder().connect(address).await
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A LogBook by name. Its name is listed when it is first appended to.
    pub fn logbook(&self, name: &str) -> LogBook {
        let _ = name;
        unimplemented!()
    }

    /// A LogBook by id.
    pub fn logbook_by_id(&self, id: LogBookId) -> LogBook {
        let _ = id;
        unimplemented!()
    }

    /// What this client has seen, to be handed on and merged.
    pub fn session(&self) -> ClientSession {
        unimplemented!()
    }

    /// A client on the same connection whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        let _ = deadline;
        unimplemented!()
    }

    /// Takes up an append of unknown outcome again; it takes effect at most once.
    pub async fn retry(&self, retry: OperationId) -> Result<Appended, AppendError> {
        let _ = retry;
        unimplemented!()
    }

    /// The node's state, JSON text.
    pub async fn status(&self) -> Result<String, StatusError> {
        unimplemented!()
    }

    pub fn counters(&self) -> Counters {
        unimplemented!()
    }
}

/// The token of a client.
pub struct ClientSession {}

impl ClientSession {
    pub fn token(&self) -> Token {
        unimplemented!()
    }

    pub fn merge(&self, token: &Token) {
        let _ = token;
        unimplemented!()
    }
}

/// How a client is to be made.
#[derive(Clone, Debug)]
pub struct Builder {
    session: SessionConfig,
    deadline: Duration,
    wait_for_server: bool,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { session: SessionConfig::default(), deadline: Duration::from_secs(10), wait_for_server: false }
    }
}

impl Builder {
    /// What the client calls itself in the server's log.
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

    /// When nothing answers, try again until the deadline rather than fail at once.
    pub fn wait_for_server(mut self, wait: bool) -> Builder {
        self.wait_for_server = wait;
        self
    }

    /// Connects, and waits for the server's welcome.
    pub async fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let _ = address;
        unimplemented!()
    }
}
