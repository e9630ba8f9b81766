//! What can go wrong: one enum for each operation, one variant for each thing the caller can do
//! differently. `is_retryable` says whether calling again, unchanged, can succeed *and* is safe.

use sealog_protocol::SeqNum;
use sealog_protocol::batch::BatchError;
use sealog_protocol::client::ErrorCode;
use sealog_protocol::frame::FrameError;
use sealog_protocol::limits::{AUX_BYTES_MAX, NAME_BYTES_MAX};
use thiserror::Error;

use crate::session::OperationId;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectionError {
    #[error("{address:?} is not an address: give HOST:PORT or unix:PATH, several with commas between")]
    Address { address: String },
    #[error("{addresses} addresses are over the limit of {max}: give those of some engines")]
    TooManyAddresses { addresses: usize, max: usize },
    #[error("cannot find the address of {host:?}: {message}")]
    Resolve { host: String, message: String },
    #[error("{message}: is a Sealog node listening there?")]
    Io { message: String },
    #[error("the server closed the connection")]
    Closed,
    #[error("the server speaks format version {found}, this client {expected}: use the same release on both sides")]
    Version { found: u8, expected: u8 },
    #[error("what came from the server is not what Sealog sends: {0}")]
    Frame(FrameError),
    #[error("the server broke the protocol: {what}")]
    Protocol { what: &'static str },
    #[error("the server is now of cluster {found:016x}, it was of {expected:016x}: was its data directory replaced?")]
    OtherCluster { expected: u64, found: u64 },
    #[error("the server has not answered for too long")]
    Silent,
    #[error("the server takes requests and does not finish them")]
    Stalled,
    #[error("the server refused ({code:?}): {message}")]
    Refused { code: ErrorCode, message: String },
    #[error("none of the addresses answers: {}", listed(.failures))]
    Every { failures: Vec<AddressFailure> },
    #[error("connected, but the server has not said welcome")]
    NoWelcome,
    #[error("no connection was made yet")]
    NotYet,
}

impl ConnectionError {
    /// No further try can mend it: a person must.
    pub fn is_final(&self) -> bool {
        use ConnectionError::*;
        match self {
            Address { .. }
            | TooManyAddresses { .. }
            | Version { .. }
            | OtherCluster { .. }
            | Frame(FrameError::Magic(_)) => true,
            Every { failures } => failures.iter().all(|failure| failure.reason.is_final()),
            _ => false,
        }
    }
}

/// Why there is no connection to one of several addresses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{address}: {reason}")]
pub struct AddressFailure {
    pub address: String,
    pub reason: Box<ConnectionError>,
}

fn listed(failures: &[AddressFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<FrameError> for ConnectionError {
    fn from(error: FrameError) -> ConnectionError {
        match error {
            FrameError::Version { found } => {
                ConnectionError::Version { found, expected: sealog_protocol::limits::FORMAT_VERSION }
            }
            other => ConnectionError::Frame(other),
        }
    }
}

/// What the server said when it last refused for a while, with no effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the server said {code:?}: {message}")]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

/// Why a client could not be connected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The address cannot be one, or another release or cluster answered: trying again is no use.
    #[error("cannot connect to {address}: {reason}")]
    Refused { address: String, reason: ConnectionError },
    /// Nothing answers there now.
    #[error("cannot reach {address}: {reason}")]
    Unreachable { address: String, reason: ConnectionError },
    /// The deadline passed before a welcome came.
    #[error("cannot reach {address} before the deadline: {reason}")]
    Deadline { address: String, reason: ConnectionError },
    /// The process could not start the client's thread or make its poller.
    #[error("cannot start the client: {message}")]
    Start { message: String },
}

impl ConnectError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, ConnectError::Unreachable { .. } | ConnectError::Deadline { .. })
    }
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// Over a limit. No effect.
    #[error(transparent)]
    Invalid(#[from] BatchError),
    /// The LogBook's name is too long. No effect.
    #[error("a LogBook name of {bytes} bytes is over the limit of {NAME_BYTES_MAX}")]
    NameTooLong { bytes: usize },
    /// The name is a LogBook's of the other class, or another name has the same id. No effect.
    #[error("the name can't be used so: {message}")]
    NameTaken { message: String },
    /// The server refused the request as wrong. No effect.
    #[error("the server refused the append: {message}")]
    Refused { message: String },
    /// The tag's (or LogBook's) tail is past what the condition expected. No effect: read up to
    /// `tail`, decide again.
    #[error("the condition does not hold: the tail is {tail}")]
    ConditionFailed { tail: SeqNum },
    /// The server's disk is full. No effect.
    #[error("the server's disk is full: free space or trim, then append again ({message})")]
    DiskFull { message: String },
    /// The server's index has reached its configured memory limit. No effect.
    #[error("the server's index is at its memory limit: raise it or trim ({message})")]
    IndexFull { message: String },
    /// The deadline passed before the append could have taken effect. No effect.
    #[error("the deadline passed before the append was sent, it has no effect{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection before the deadline, and nothing was sent. No effect.
    #[error("cannot reach the server, the append has no effect: {reason}")]
    Unreachable { reason: ConnectionError },
    /// The deadline passed after the append was sent: it may or may not be visible, now or later.
    /// `Client::retry` with `retry` finds out, and appends at most once; a fresh append might
    /// append twice.
    #[error("no answer before the deadline: the append may have taken effect; retry it to find out")]
    OutcomeUnknown { retry: OperationId },
    /// The session under which the append was sent is gone: whether it took effect cannot be found
    /// out by retrying. Read the LogBook.
    #[error("the session expired: the append may have taken effect; read the LogBook to find out")]
    SessionExpired,
}

impl AppendError {
    /// Whether calling again unchanged is safe and can succeed. [`AppendError::OutcomeUnknown`] is
    /// not: use its handle.
    pub fn is_retryable(&self) -> bool {
        use AppendError::*;
        matches!(self, DiskFull { .. } | IndexFull { .. } | Deadline { .. } | Unreachable { .. })
    }

    /// Whether the append may have taken effect all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, AppendError::OutcomeUnknown { .. } | AppendError::SessionExpired)
    }
}

/// Why records were not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// What was asked for begins below the trim point: go on from `first`.
    #[error("trimmed: the first SeqNum kept is {first}")]
    Trimmed { first: SeqNum },
    /// A record is there, and its bytes are damaged.
    #[error("damaged on the server's disk: {message}")]
    Corrupt { message: String },
    /// The server refused the request as wrong.
    #[error("the server refused the read: {message}")]
    Refused { message: String },
    /// The deadline passed while connected.
    #[error("no answer before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection at the deadline.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl ReadError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, ReadError::Deadline { .. } | ReadError::Unreachable { .. })
    }
}

/// What a subscription tells beside records.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubscribeError {
    /// The next record is there, and its bytes are damaged. The end: subscribe behind it to go on.
    #[error("damaged on the server's disk: {message}")]
    Corrupt { message: String },
    /// The server refused the request as wrong. The end.
    #[error("the server refused the subscription: {message}")]
    Refused { message: String },
    /// The client has as many subscriptions as it may. The end: drop another one first.
    #[error("this client has {subscriptions} subscriptions already: end one, or allow more when it is made")]
    TooMany { subscriptions: usize },
    /// Connected, and without the subscription for the length of a deadline. It goes on.
    #[error("the server has not taken the subscription before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// Without a connection for the length of a deadline. It goes on.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl SubscribeError {
    /// Whether the subscription goes on by itself: ask it for the next record.
    pub fn is_retryable(&self) -> bool {
        matches!(self, SubscribeError::Deadline { .. } | SubscribeError::Unreachable { .. })
    }
}

/// Why a tail was not found out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckTailError {
    /// The server refused the request as wrong.
    #[error("the server refused to check the tail: {message}")]
    Refused { message: String },
    /// The deadline passed while connected.
    #[error("no answer before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection at the deadline.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl CheckTailError {
    pub fn is_retryable(&self) -> bool {
        !matches!(self, CheckTailError::Refused { .. })
    }
}

/// Why a LogBook was not trimmed, or what it keeps was not set or told. Each may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManageError {
    /// The server refused the request as wrong.
    #[error("the server refused: {message}")]
    Refused { message: String },
    /// The name is a LogBook's of the other class, or another name has the same id. No effect.
    #[error("the name can't be used so: {message}")]
    NameTaken { message: String },
    /// The server's disk is full. Trims are taken all the same.
    #[error("the server's disk is full: trim or free space, then try again ({message})")]
    DiskFull { message: String },
    /// The deadline passed while connected. A change may have taken effect.
    #[error("no answer before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection at the deadline. A change may have taken effect.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl ManageError {
    pub fn is_retryable(&self) -> bool {
        !matches!(self, ManageError::Refused { .. } | ManageError::NameTaken { .. })
    }
}

/// Why aux data was not taken, or not known to be. It may be attached again, or left out: no answer
/// depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetAuxError {
    /// Over the limit.
    #[error("aux data of {bytes} bytes is over the limit of {AUX_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// The server refused the request as wrong.
    #[error("the server refused the aux data: {message}")]
    Refused { message: String },
    /// The deadline passed while connected.
    #[error("no answer before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection at the deadline.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl SetAuxError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, SetAuxError::Deadline { .. } | SetAuxError::Unreachable { .. })
    }
}

/// Why the node's state was not told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StatusError {
    /// The server refused the request as wrong.
    #[error("the server refused to tell its status: {message}")]
    Refused { message: String },
    /// The deadline passed while connected.
    #[error("no answer before the deadline{}", because(.refusal))]
    Deadline { refusal: Option<Refusal> },
    /// No connection at the deadline.
    #[error("cannot reach the server: {reason}")]
    Unreachable { reason: ConnectionError },
}

impl StatusError {
    pub fn is_retryable(&self) -> bool {
        !matches!(self, StatusError::Refused { .. })
    }
}

fn because(refusal: &Option<Refusal>) -> String {
    refusal.as_ref().map(|refusal| format!(": {refusal}")).unwrap_or_default()
}
