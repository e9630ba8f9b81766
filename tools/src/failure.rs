//! What ends a command early: its exit code, and what it says.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | anything else |
//! | 2 | usage: the command line or the configuration is wrong |
//! | 3 | unreachable, or a deadline passed while reading |
//! | 4 | outcome unknown: a deadline passed while appending, or the session expired |
//! | 5 | the condition failed |
//! | 6 | trimmed |
//! | 7 | disk full |
//! | 8 | corrupt |

use std::fmt;
use std::process::ExitCode;

use sealog::{
    AppendError, CheckTailError, ConnectError, ConnectionError, ManageError, ReadError, SetAuxError, StatusError,
    SubscribeError,
};
use sealog_protocol::client::ErrorCode;

/// Why a command failed, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing failed: whoever read our output has seen enough.
    Done = 0,
    Other = 1,
    Usage = 2,
    Unreachable = 3,
    OutcomeUnknown = 4,
    ConditionFailed = 5,
    Trimmed = 6,
    DiskFull = 7,
    Corrupt = 8,
}

/// A command's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// What happened, why probably, what to do. Empty: nothing needs to be said.
    pub message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    pub fn other(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Other, message)
    }

    /// A failure to read or write a stream of this process.
    pub fn stream(name: &str, error: &std::io::Error) -> Failure {
        Failure::other(format!("cannot use {name}: {error}"))
    }

    /// A connection that was not made, for an append: a deadline that passed is told as one that
    /// passed while appending, although nothing was sent.
    pub fn of_append(error: ConnectError) -> Failure {
        let is_late = matches!(error, ConnectError::Deadline { .. });
        let failure = Failure::from(error);
        if is_late { Failure::new(Kind::OutcomeUnknown, format!("{failure}; nothing was appended")) } else { failure }
    }

    /// A trim or a setting without an answer may be in force: that is told as of an append.
    pub fn of_change(error: ManageError) -> Failure {
        match error {
            ManageError::Deadline { .. } => {
                let message = format!("{error}: it may be in force all the same; asking again is safe");
                Failure::new(Kind::OutcomeUnknown, message)
            }
            _ => Failure::from(error),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        let kind = match error {
            ConnectError::Unreachable { .. } | ConnectError::Deadline { .. } => Kind::Unreachable,
            ConnectError::Refused { ref reason, .. } => match reason {
                ConnectionError::Address { .. } => Kind::Usage,
                ConnectionError::Resolve { .. } => Kind::Unreachable,
                _ => Kind::Other,
            },
            ConnectError::Start { .. } => Kind::Other,
        };
        match kind {
            Kind::Unreachable => {
                let text = error.to_string();
                let end = if text.ends_with('?') { "" } else { "." };
                Failure::new(
                    kind,
                    format!("{text}{end} Start one with `sealog dev`, or say where it is with --connect"),
                )
            }
            // The reason says what to do.
            _ => Failure::new(kind, error.to_string()),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Failure {
        let kind = match &error {
            AppendError::Invalid(_) | AppendError::NameTooLong { .. } => Kind::Usage,
            AppendError::NameTaken { .. } | AppendError::Refused { .. } | AppendError::IndexFull { .. } => Kind::Other,
            AppendError::ConditionFailed { .. } => Kind::ConditionFailed,
            AppendError::DiskFull { .. } => Kind::DiskFull,
            AppendError::Deadline { refusal } => match refusal.as_ref().map(|refusal| refusal.code) {
                Some(ErrorCode::DiskFull) => Kind::DiskFull,
                Some(ErrorCode::IndexFull) => Kind::Other,
                _ => Kind::OutcomeUnknown,
            },
            AppendError::Unreachable { .. } => Kind::Unreachable,
            AppendError::OutcomeUnknown { .. } => {
                let message = "no answer before the deadline: the append may have taken effect; read the LogBook to \
                               find out";
                return Failure::new(Kind::OutcomeUnknown, message);
            }
            AppendError::SessionExpired => Kind::OutcomeUnknown,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        let kind = match error {
            ReadError::Trimmed { .. } => Kind::Trimmed,
            ReadError::Corrupt { .. } => Kind::Corrupt,
            ReadError::Refused { .. } => Kind::Other,
            ReadError::Deadline { .. } | ReadError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Failure {
        let kind = match error {
            SubscribeError::Corrupt { .. } => Kind::Corrupt,
            SubscribeError::Refused { .. } | SubscribeError::TooMany { .. } => Kind::Other,
            SubscribeError::Deadline { .. } | SubscribeError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<CheckTailError> for Failure {
    fn from(error: CheckTailError) -> Failure {
        let kind = match error {
            CheckTailError::Refused { .. } => Kind::Other,
            CheckTailError::Deadline { .. } | CheckTailError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<ManageError> for Failure {
    fn from(error: ManageError) -> Failure {
        let kind = match error {
            ManageError::Refused { .. } | ManageError::NameTaken { .. } => Kind::Other,
            ManageError::DiskFull { .. } => Kind::DiskFull,
            ManageError::Deadline { .. } | ManageError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<SetAuxError> for Failure {
    fn from(error: SetAuxError) -> Failure {
        let kind = match error {
            SetAuxError::TooLarge { .. } => Kind::Usage,
            SetAuxError::Refused { .. } => Kind::Other,
            SetAuxError::Deadline { .. } | SetAuxError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<StatusError> for Failure {
    fn from(error: StatusError) -> Failure {
        let kind = match error {
            StatusError::Refused { .. } => Kind::Other,
            StatusError::Deadline { .. } | StatusError::Unreachable { .. } => Kind::Unreachable,
        };
        Failure::new(kind, error.to_string())
    }
}
