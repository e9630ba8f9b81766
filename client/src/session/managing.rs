//! What a LogBook keeps: trims, retention, and what is known of it. Each may be asked for again
//! without harm, so they are sent again like reads.

use std::time::Duration;

use sealog_protocol::client::{Description, ErrorCode, Reply, Request, RetentionRequest, TrimRequest};
use sealog_protocol::{LogBookId, Place, SeqNum, Tag};

use super::querying::QueryFailure;
use crate::error::ManageError;

/// What a LogBook keeps without being told to trim. Nothing given: everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records that were appended longer ago may go, by their writers' clocks; the newest stays.
    pub age: Option<Duration>,
    /// Beyond so many bytes of payload the oldest records may go; the newest stays.
    pub bytes: Option<u64>,
}

/// A question or change that concerns what a LogBook keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manage {
    /// Lets records with the tag below `first` go; [`Tag::ALL`]: all records.
    Trim {
        logbook: LogBookId,
        tag: Tag,
        first: SeqNum,
    },
    SetRetention {
        logbook: LogBookId,
        retention: Retention,
    },
    Describe {
        logbook: LogBookId,
    },
}

/// What came of a [`Manage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Managed {
    /// Reads of the tag begin here from now on. Less than was asked for if that was past the tail,
    /// more if it was trimmed further already.
    Trimmed {
        first: SeqNum,
    },
    RetentionSet,
    Described(Description),
}

impl Manage {
    pub(super) fn logbook(&self) -> LogBookId {
        match *self {
            Manage::Trim { logbook, .. } | Manage::SetRetention { logbook, .. } | Manage::Describe { logbook } => {
                logbook
            }
        }
    }

    pub(super) fn request(&self, seen: Place) -> Request {
        match *self {
            Manage::Trim { logbook, tag, first } => {
                Request::Trim(TrimRequest { logbook: logbook.0, tag: tag.0, first: first.0 })
            }
            Manage::SetRetention { logbook, retention } => {
                // A bound of nothing is none on the wire: the least there is stands for it.
                let age_ms = retention.age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1));
                let bytes = retention.bytes.map_or(0, |bytes| bytes.max(1));
                Request::SetRetention(RetentionRequest { logbook: logbook.0, age_ms, bytes })
            }
            Manage::Describe { logbook } => Request::Describe { logbook: logbook.0, place: seen.into() },
        }
    }

    /// What an answer says, and the place it reflects. `None`: it is no answer to this.
    pub(super) fn answered(&self, reply: Reply) -> Option<(Managed, Place)> {
        match (self, reply) {
            (Manage::Trim { .. }, Reply::TrimDone { first, place }) => Some((Managed::Trimmed { first }, place)),
            (Manage::SetRetention { .. }, Reply::RetentionSet { place }) => Some((Managed::RetentionSet, place)),
            (Manage::Describe { .. }, Reply::Described { description, place }) => {
                Some((Managed::Described(*description), place))
            }
            _ => None,
        }
    }
}

pub(super) fn manage_error(failure: QueryFailure) -> ManageError {
    match failure {
        QueryFailure::Refused { code: ErrorCode::DiskFull, message } => ManageError::DiskFull { message },
        QueryFailure::Refused { code: ErrorCode::NameTaken, message } => ManageError::NameTaken { message },
        QueryFailure::Refused { message, .. } => ManageError::Refused { message },
        QueryFailure::Deadline { refusal } => ManageError::Deadline { refusal },
        QueryFailure::Unreachable { reason } => ManageError::Unreachable { reason },
    }
}
