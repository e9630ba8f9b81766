//! The answers that an engine gives, from verdicts and for want of them.

use sealog_protocol::client::{Durability, ErrorCode, Reply};
use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::{LogBookId, Place, SeqNum, SessionId, Tag};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::index::{Applied, Index, Named};
use crate::producer::Origin;
use crate::sessions::Verdict;

/// An own batch that was applied, with the place and the class of its logspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub seqnum: SeqNum,
    pub applied: Applied,
    pub place: Place,
    pub durability: Durability,
}

pub(super) fn reply_to(origin: Origin, judged: Judged, index: &Index) -> Reply {
    let Judged { seqnum, applied, place, durability } = judged;
    match origin {
        Origin::Append { .. } => match applied {
            _ if active(Mutant::AnswerBeforeVerdict) => answer(Verdict::Visible { seqnum }, durability, place),
            Applied::Verdict(verdict) => answer(verdict, durability, place),
            Applied::SessionExpired => session_expired(),
        },
        Origin::OpenSession { logspace, .. } => Reply::SessionOpened { session: SessionId(seqnum.0), logspace, place },
        Origin::SetRetention { .. } => Reply::RetentionSet { place },
        Origin::NameLogBook { logbook, name, .. } => named_reply(index.named(logbook, name), place),
        Origin::CreateLogBook { logbook, name, .. } => {
            created_reply(index.named(logbook, name), logbook, index.named_by(seqnum), place)
        }
    }
}

/// What an append to a logspace of this class is told.
pub(super) fn answer(verdict: Verdict, durability: Durability, place: Place) -> Reply {
    match verdict {
        Verdict::Visible { seqnum } => Reply::Appended { seqnum, durability, place },
        Verdict::ConditionFailed { tail } => Reply::ConditionFailed { tail, place },
    }
}

pub(super) fn named_reply(named: Named, place: Place) -> Reply {
    match named {
        Named::ByThisName => Reply::Named { place },
        Named::ByAnother | Named::Unknown => Reply::Error {
            code: ErrorCode::NameTaken,
            message: "another LogBook's name has the same id: choose another name".into(),
        },
        Named::InOtherClass => Reply::Error {
            code: ErrorCode::NameTaken,
            message: "the name is a LogBook's of the other class, for ever: use that one (`sealog logbook show` tells \
                      its class), or choose another name"
                .into(),
        },
    }
}

pub(super) fn created_reply(named: Named, logbook: LogBookId, is_new: bool, place: Place) -> Reply {
    match named {
        Named::ByThisName => Reply::NameKnown { class: Some(logbook.class()), is_new, place },
        _ => named_reply(named, place),
    }
}

pub(super) fn session_expired() -> Reply {
    Reply::Error {
        code: ErrorCode::SessionExpired,
        message: "the session was forgotten, or the request is outside its window: open a new one, and read \
                  whether an earlier try of this request is in the log before appending it again"
            .into(),
    }
}

pub(super) fn unavailable() -> Reply {
    let message = "the engine has not yet read its view: try again".into();
    Reply::Error { code: ErrorCode::Unavailable, message }
}

/// A second hash of a LogBook's name, in its `Name` record: tells names with the same id apart.
pub(super) fn second_hash(name: &str) -> Tag {
    Tag(xxh3_64_with_seed(name.as_bytes(), 1).max(4))
}
