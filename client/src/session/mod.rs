//! The session: the client's side of the protocol as a pure state machine.
//!
//! No I/O, no clock, no thread: bytes and time are handed in, bytes and completions taken out. The
//! async and the blocking face, the simulator and the load generator all drive this one.

mod operation;

use std::time::Duration;

use sealog_protocol::Time;
use sealog_protocol::client::Welcome;
use thiserror::Error;

pub use operation::{
    Append, Appended, Condition, Direction, Operation, OperationId, Outcome, Read, ReadRecords, Target,
};

use crate::error::{AppendError, ConnectionError};
use crate::token::Token;

/// A session's bounds and times.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// What the client calls itself, for the server's log. Cut to 64 bytes.
    pub name: String,
    /// Spreads the retries of many clients.
    pub seed: u64,
    /// Operations at once; [`Session::submit`] refuses more.
    pub operations_max: usize,
    /// Bytes of appends kept for a retry; [`Session::submit`] refuses more.
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
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            name: "sealog".to_owned(),
            seed: 0,
            operations_max: 1024,
            buffer_bytes_max: 64 << 20,
            unknown_max: 256,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(10),
            wait_max: Duration::from_secs(5),
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

/// See the module's documentation.
pub struct Session {
    token: Token,
}

impl Session {
    pub fn new(config: SessionConfig) -> Session {
        let _ = config;
        Session { token: Token::new() }
    }

    /// When to connect: in the past for at once; `None` while connected, or with nothing to do.
    pub fn connect_at(&self) -> Option<Time> {
        unimplemented!()
    }

    /// A connection stands; the hello is ready to transmit.
    pub fn connected(&mut self, now: Time) {
        let _ = now;
        unimplemented!()
    }

    /// The connection is gone, or could not be made.
    pub fn disconnected(&mut self, now: Time, reason: ConnectionError) {
        let _ = (now, reason);
        unimplemented!()
    }

    /// Bytes that came, in any portions.
    ///
    /// # Errors
    /// The connection is beyond repair: drop it and call [`Session::disconnected`] with the reason.
    pub fn receive(&mut self, now: Time, bytes: &[u8]) -> Result<(), ConnectionError> {
        let _ = (now, bytes);
        unimplemented!()
    }

    /// The next bytes to send; empty when there are none.
    pub fn transmit(&self) -> &[u8] {
        unimplemented!()
    }

    /// The first `bytes` of [`Session::transmit`] were sent, or may have been.
    pub fn transmitted(&mut self, bytes: usize) {
        let _ = bytes;
        unimplemented!()
    }

    /// Begins an operation, to be completed by `deadline`.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn submit(&mut self, now: Time, operation: Operation<'_>, deadline: Time) -> Result<OperationId, SubmitError> {
        let _ = (now, operation, deadline);
        unimplemented!()
    }

    /// Takes up an append again that ended in [`AppendError::OutcomeUnknown`], with the same request
    /// number: it takes effect at most once. Its completion comes under the id that is returned.
    ///
    /// # Errors
    /// [`AppendError::SessionExpired`] when the append was forgotten: see [`SessionConfig::unknown_max`].
    pub fn retry(&mut self, now: Time, operation: OperationId, deadline: Time) -> Result<OperationId, SubmitError> {
        let _ = (now, operation, deadline);
        unimplemented!()
    }

    /// Nobody wants the operation's completion any more. What was not sent is not; a sent append may
    /// take effect.
    pub fn cancel(&mut self, operation: OperationId) {
        let _ = operation;
        unimplemented!()
    }

    /// The next operation that is done.
    pub fn next_completion(&mut self) -> Option<(OperationId, Outcome)> {
        unimplemented!()
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Passes deadlines and makes due retries.
    ///
    /// # Errors
    /// The connection is silent for too long: as for [`Session::receive`].
    pub fn tick(&mut self, now: Time) -> Result<(), ConnectionError> {
        let _ = now;
        unimplemented!()
    }

    /// What this session has seen.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// From now on, reads see at least what the token's giver had seen.
    pub fn merge(&mut self, token: &Token) {
        self.token.merge(token);
    }

    /// What the server said when it was last connected.
    pub fn welcome(&self) -> Option<&Welcome> {
        unimplemented!()
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        unimplemented!()
    }

    pub fn counters(&self) -> Counters {
        unimplemented!()
    }
}
