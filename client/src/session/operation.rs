//! What a session is asked to do, and what comes of it.

use std::fmt;
use std::time::Duration;

use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::{Durability, OperateRequest, ReadRecord};
use sealog_protocol::{LogBookId, SeqNum, Tag};

use super::managing::{Manage, Managed};
use super::naming::{NameKnown, NameQuestion};
use crate::error::{AppendError, CheckTailError, ManageError, ReadError, SetAuxError, StatusError};

/// Names one operation of one session; never used again by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub(crate) u64);

impl OperationId {
    pub(crate) fn new(index: u32, generation: u32) -> OperationId {
        OperationId(u64::from(generation) << 32 | u64::from(index))
    }

    /// The place in the session's table: small, and free for another operation after this one's
    /// completion.
    pub fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({}.{})", self.0 >> 32, self.index())
    }
}

/// A LogBook to append to: by name (which is then listed) or by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Name(&'a str),
    Id(LogBookId),
    /// A name whose id the caller has hashed already.
    Named {
        id: LogBookId,
        name: &'a str,
    },
}

impl Target<'_> {
    pub fn id(&self) -> LogBookId {
        match *self {
            Target::Name(name) => LogBookId::from_name(name),
            Target::Id(id) | Target::Named { id, .. } => id,
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        match *self {
            Target::Name(name) | Target::Named { name, .. } => Some(name),
            Target::Id(_) => None,
        }
    }
}

/// The batch takes effect if the tail of `tag` is at most `expected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// [`Tag::ALL`] for the LogBook's tail.
    pub tag: Tag,
    /// `None`: no record ever.
    pub expected: Option<SeqNum>,
}

/// Records to append as one batch.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    pub logbook: Target<'a>,
    pub condition: Option<Condition>,
    /// The client's clock, milliseconds since 1970, advisory.
    pub time_ms: u64,
    pub records: &'a [NewRecord<'a>],
}

/// Which way a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Records to read: those of `first..=last` that carry `tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub logbook: LogBookId,
    /// [`Tag::ALL`] for every record.
    pub tag: Tag,
    /// The smallest SeqNum wanted.
    pub first: SeqNum,
    /// The greatest SeqNum wanted.
    pub last: SeqNum,
    pub direction: Direction,
    /// At most this many records come back; more than one page is fetched if it must be.
    pub records_max: usize,
    /// Forward only: with nothing to read, wait so long for a record before answering that there
    /// is none.
    pub wait: Duration,
    /// Reflect every append acknowledged to anyone before this read began.
    pub linearizable: bool,
    /// Bring the records' aux data along, as far as the server still has it.
    pub aux: bool,
}

/// Aux data to attach to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAux<'a> {
    pub logbook: LogBookId,
    pub seqnum: SeqNum,
    pub data: &'a [u8],
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    Append(Append<'a>),
    Read(Read),
    CheckTail {
        logbook: LogBookId,
        tag: Tag,
        linearizable: bool,
    },
    Status,
    /// Ends as [`Outcome::Status`], too.
    Operate(OperateRequest),
    Manage(Manage),
    Name(NameQuestion<'a>),
    SetAux(SetAux<'a>),
}

/// An acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of the batch's first record; the others follow by ones.
    pub seqnum: SeqNum,
    /// How it is kept.
    pub durability: Durability,
}

/// Records that were read, in the order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRecords {
    pub records: Vec<ReadRecord>,
    /// The asked range held no further record when the last page was read.
    pub complete: bool,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Append(Result<Appended, AppendError>),
    Read(Result<ReadRecords, ReadError>),
    CheckTail(Result<Option<SeqNum>, CheckTailError>),
    /// JSON text.
    Status(Result<String, StatusError>),
    Manage(Result<Managed, ManageError>),
    Name(Result<NameKnown, ManageError>),
    /// Whether it is kept.
    SetAux(Result<bool, SetAuxError>),
}
