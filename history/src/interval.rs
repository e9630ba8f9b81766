//! What an operation's answer says about how far the log had got: an interval of positions.
//!
//! A position is "every record up to this SeqNum is visible". Only ends of batches are positions,
//! for a batch is visible whole or not at all.

use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::history::{Condition, Direction, Found, OperationId, Range};
use crate::log::{FinalLog, Logged, Stream};
use crate::violation::Violation;

/// The operation took place at a position from `low` to `high`; of an append, just after `high`,
/// and `low` is visible from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub low: SeqNum,
    pub high: SeqNum,
}

impl Interval {
    /// Any position.
    const ALL: Interval = Interval { low: SeqNum::MIN, high: SeqNum::MAX };

    /// At or after `low`'s batch, before that of `high`.
    fn between(low: Option<&Logged>, high: Option<&Logged>) -> Interval {
        Interval {
            low: low.map_or(SeqNum::MIN, Logged::batch_last),
            high: high.map_or(SeqNum::MAX, |logged| logged.batch_first().prev()),
        }
    }

    /// An append that is in the log.
    pub fn of_append(first: SeqNum, last: SeqNum) -> Interval {
        Interval { low: last, high: first.prev() }
    }

    /// The answer to a read.
    pub fn of_read(
        log: &FinalLog,
        operation: OperationId,
        range: &Range,
        found: &[Found],
        complete: bool,
    ) -> Result<Interval, Violation> {
        let interval = match log.stream(range.logbook, range.tag) {
            None if found.is_empty() => Interval::ALL,
            None => {
                return Err(Violation::WrongRecord { operation, at: 0, seqnum: found[0].seqnum, expected: None });
            }
            Some(stream) => match range.direction {
                Direction::Forward => of_forward(stream, operation, range, found, complete)?,
                Direction::Backward => of_backward(stream, operation, range, found, complete)?,
            },
        };
        interval.whole(operation)
    }

    /// The answer to a question for the tail; 0: no record.
    pub fn of_tail(
        log: &FinalLog,
        operation: OperationId,
        logbook: LogBookId,
        tag: Tag,
        tail: SeqNum,
    ) -> Result<Interval, Violation> {
        let wrong = Violation::WrongTail { operation, tail };
        let Some(stream) = log.stream(logbook, tag) else {
            return if tail == SeqNum::MIN { Ok(Interval::ALL) } else { Err(wrong) };
        };
        let after = stream.count_before(tail.next());
        let last = after.checked_sub(1).and_then(|at| stream.get(at));
        if last.map_or(SeqNum::MIN, |logged| logged.seqnum) != tail {
            return Err(wrong);
        }
        Interval::between(last, stream.get(after)).whole(operation)
    }

    fn whole(self, operation: OperationId) -> Result<Interval, Violation> {
        if self.low > self.high {
            return Err(Violation::HalfBatch { operation, low: self.low, high: self.high });
        }
        Ok(self)
    }
}

/// The stream's tail just before `at`: what a condition of an append there is compared with.
pub(crate) fn condition_tail(log: &FinalLog, logbook: LogBookId, condition: &Condition, at: SeqNum) -> SeqNum {
    let Some(stream) = log.stream(logbook, condition.tag) else { return SeqNum::MIN };
    let before = stream.count_before(at).checked_sub(1).and_then(|at| stream.get(at));
    before.map_or(SeqNum::MIN, |logged| logged.seqnum)
}

/// The records found must be the first ones of the range, without gaps.
fn of_forward(
    stream: Stream<'_>,
    operation: OperationId,
    range: &Range,
    found: &[Found],
    complete: bool,
) -> Result<Interval, Violation> {
    let first = stream.count_before(range.from);
    let in_range = |logged: &&Logged| logged.seqnum <= range.until;
    for (nth, found) in found.iter().enumerate() {
        same_record(operation, nth, found, stream.get(first + nth).filter(in_range))?;
    }
    let low = found.len().checked_sub(1).and_then(|nth| stream.get(first + nth));
    let high = stream.get(first + found.len()).filter(in_range).filter(|_| complete);
    Ok(Interval::between(low, high))
}

/// The records found must be those at and below the first one, without gaps; how far the log had
/// got is told by the first alone.
fn of_backward(
    stream: Stream<'_>,
    operation: OperationId,
    range: &Range,
    found: &[Found],
    complete: bool,
) -> Result<Interval, Violation> {
    let in_range = |logged: &&Logged| logged.seqnum <= range.from && logged.seqnum >= range.until;
    let Some(greatest) = found.first() else {
        // Nothing in the range was visible: the first record of it was not.
        let first = stream.get(stream.count_before(range.until)).filter(in_range).filter(|_| complete);
        return Ok(Interval::between(None, first));
    };
    let above = stream.count_before(greatest.seqnum.next());
    let below = |nth: usize| above.checked_sub(nth + 1).and_then(|at| stream.get(at)).filter(in_range);
    for (nth, found) in found.iter().enumerate() {
        same_record(operation, nth, found, below(nth))?;
    }
    if let Some(missed) = below(found.len()).filter(|_| complete) {
        let (at, seqnum) = (found.len() as u32, SeqNum::MIN);
        return Err(Violation::WrongRecord { operation, at, seqnum, expected: Some(missed.seqnum) });
    }
    Ok(Interval::between(below(0), stream.get(above).filter(in_range)))
}

fn same_record(operation: OperationId, nth: usize, found: &Found, logged: Option<&Logged>) -> Result<(), Violation> {
    let seqnum = found.seqnum;
    match logged {
        Some(logged) if logged.seqnum == seqnum && logged.fingerprint == found.fingerprint => Ok(()),
        Some(logged) if logged.seqnum == seqnum => Err(Violation::WrongContent { operation, seqnum }),
        _ => Err(Violation::WrongRecord {
            operation,
            at: nth as u32,
            seqnum,
            expected: logged.map(|logged| logged.seqnum),
        }),
    }
}
