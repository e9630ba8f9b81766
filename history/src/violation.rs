//! What is wrong with a history: one variant per promise that was broken.

use sealog_protocol::{LogBookId, SeqNum, Tag};
use thiserror::Error;

use crate::history::{Fingerprint, OperationId};

/// The first broken promise that the checker met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("a scan of LogBook {logbook} gives {after:?} after {before:?}")]
    ScanOutOfOrder { logbook: LogBookId, before: SeqNum, after: SeqNum },
    #[error("{seqnum:?} is in LogBook {one} and in {other} of one logspace")]
    SeqNumTwice { seqnum: SeqNum, one: LogBookId, other: LogBookId },
    #[error("scans of LogBook {logbook} by {tag:?} differ at record {at}: expected {expected:?}, found {found:?}")]
    ScansDiffer { logbook: LogBookId, tag: Tag, at: usize, expected: Option<SeqNum>, found: Option<SeqNum> },
    #[error(
        "a subscription to {tag:?} of LogBook {logbook} differs at its event {at}: expected {expected:?}, told {found:?}"
    )]
    SubscriptionDiffers { logbook: LogBookId, tag: Tag, at: usize, expected: Option<SeqNum>, found: Option<SeqNum> },
    #[error(
        "a subscription to {tag:?} of LogBook {logbook} told in its event {at} of trim point {first:?}, which is none"
    )]
    SubscriptionTrim { logbook: LogBookId, tag: Tag, at: usize, first: SeqNum },
    #[error("LogBook {logbook} has a record at {seqnum:?} that nobody appended ({fingerprint:?})")]
    Phantom { logbook: LogBookId, seqnum: SeqNum, fingerprint: Fingerprint },
    #[error("the same record is visible at {first:?} and at {second:?} of LogBook {logbook}")]
    Duplicate { logbook: LogBookId, first: SeqNum, second: SeqNum },
    #[error("{operation:?} was acknowledged at {seqnum:?}, and is not in the log")]
    Lost { operation: OperationId, seqnum: SeqNum },
    #[error("{operation:?} was acknowledged at {acknowledged:?}, and is in the log at {found:?}")]
    Misplaced { operation: OperationId, acknowledged: SeqNum, found: SeqNum },
    #[error("{operation:?} was refused or its condition failed, and it is visible at {found:?}")]
    RefusedVisible { operation: OperationId, found: SeqNum },
    #[error("of the batch of {operation:?}, record {record} is not in its place after {first:?}")]
    BatchSplit { operation: OperationId, first: SeqNum, record: u32 },
    #[error("{operation:?} took place at {at:?} though the tail was {tail:?}, which its condition forbids")]
    ConditionIgnored { operation: OperationId, at: SeqNum, tail: SeqNum },
    #[error("{operation:?} was told that its condition failed at tail {tail:?}, which the condition allows")]
    ConditionHeld { operation: OperationId, tail: SeqNum },
    #[error("{operation:?} was told of {seqnum:?} (its answer's record {at}), where the log has {expected:?}")]
    WrongRecord { operation: OperationId, at: u32, seqnum: SeqNum, expected: Option<SeqNum> },
    #[error("{operation:?} was told of {seqnum:?}, whose content is another")]
    WrongContent { operation: OperationId, seqnum: SeqNum },
    #[error("{operation:?} was told of tail {tail:?}, where no record with that tag is")]
    WrongTail { operation: OperationId, tail: SeqNum },
    #[error("{operation:?} was told of trim point {first:?}, which its tag never had, or not where it was asked")]
    WrongTrimPoint { operation: OperationId, first: SeqNum },
    #[error("LogBook {logbook} has a trim of {tag:?} below {first:?} that nobody asked for")]
    PhantomTrim { logbook: LogBookId, tag: Tag, first: SeqNum },
    #[error("{operation:?} saw what was trimmed at {high:?}, together with what came later, at {low:?}")]
    TrimmedFound { operation: OperationId, low: SeqNum, high: SeqNum },
    #[error("{operation:?} saw a part of a batch: {low:?}, but not {high:?} + 1")]
    HalfBatch { operation: OperationId, low: SeqNum, high: SeqNum },
    #[error("{operation:?} is at {high:?} or before, though {forced:?} was known before it began")]
    RealTime { operation: OperationId, high: SeqNum, forced: SeqNum },
    #[error("{operation:?} is at {high:?} or before, though its session had seen {seen:?}")]
    SessionOrder { operation: OperationId, high: SeqNum, seen: SeqNum },
}

impl Violation {
    /// The operation that shows it, if it is one.
    pub fn operation(&self) -> Option<OperationId> {
        match *self {
            Violation::Lost { operation, .. }
            | Violation::Misplaced { operation, .. }
            | Violation::RefusedVisible { operation, .. }
            | Violation::BatchSplit { operation, .. }
            | Violation::ConditionIgnored { operation, .. }
            | Violation::ConditionHeld { operation, .. }
            | Violation::WrongRecord { operation, .. }
            | Violation::WrongContent { operation, .. }
            | Violation::WrongTail { operation, .. }
            | Violation::WrongTrimPoint { operation, .. }
            | Violation::TrimmedFound { operation, .. }
            | Violation::HalfBatch { operation, .. }
            | Violation::RealTime { operation, .. }
            | Violation::SessionOrder { operation, .. } => Some(operation),
            Violation::ScanOutOfOrder { .. }
            | Violation::SeqNumTwice { .. }
            | Violation::ScansDiffer { .. }
            | Violation::SubscriptionDiffers { .. }
            | Violation::SubscriptionTrim { .. }
            | Violation::Phantom { .. }
            | Violation::PhantomTrim { .. }
            | Violation::Duplicate { .. } => None,
        }
    }
}
