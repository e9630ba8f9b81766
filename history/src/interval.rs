//! What an operation's answer says about how far the log had got: an interval of positions.
//!
//! A read is a chain of looks, each at or after the one before: a client puts a long answer together
//! from several, and between two of them the log grows and is trimmed. Each look finds the next
//! record that is there, or at the end that there is none.

use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::history::{Condition, Direction, Found, OperationId, Range};
use crate::log::{FinalLog, Stream};
use crate::position::Position;
use crate::violation::Violation;

/// The operation ended at `low`, the least position that its answer allows from the floor on that it
/// was asked for; with any other floor below `high` at the greater of that and `low`. With a floor at
/// or after `high` it is to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub low: Position,
    pub high: Position,
}

/// Why no position from the floor on allows the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The answer is wrong wherever it was given.
    Wrong(Violation),
    /// Something of it was so only before `high`, and something else not before `low`.
    Over { low: Position, high: Position },
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Refusal {
        Refusal::Wrong(violation)
    }
}

impl Interval {
    /// From `low` and the floor on, before `high`.
    pub fn between(floor: Position, low: Position, high: Position) -> Result<Interval, Refusal> {
        let low = low.max(floor);
        if low >= high { Err(Refusal::Over { low, high }) } else { Ok(Interval { low, high }) }
    }

    /// An append that is in the log: it began before its place, and is visible there.
    pub fn of_append(floor: Position, last: SeqNum) -> Result<Interval, Refusal> {
        let place = Position::of_batch(last);
        if floor >= place {
            Err(Refusal::Over { low: floor, high: place })
        } else {
            Ok(Interval { low: place, high: place })
        }
    }

    /// The answer to a question for the tail; 0: no record, and nothing trimmed.
    pub fn of_tail(
        log: &FinalLog,
        floor: Position,
        operation: OperationId,
        (logbook, tag): (LogBookId, Tag),
        tail: SeqNum,
    ) -> Result<Interval, Refusal> {
        let stream = log.stream(logbook, tag);
        let (low, high) = (stream.tail_reaches(tail), stream.tail_reaches(tail.next()));
        let is_record = stream.get(stream.count_before(tail)).is_some_and(|logged| logged.seqnum == tail);
        if low == Position::NEVER || (low >= high && !is_record) {
            return Err(Violation::WrongTail { operation, tail }.into());
        }
        Interval::between(floor, low, high)
    }

    /// A trim point that an operation was told.
    pub fn of_point(
        log: &FinalLog,
        floor: Position,
        operation: OperationId,
        (logbook, tag): (LogBookId, Tag),
        first: SeqNum,
    ) -> Result<Interval, Refusal> {
        let reaches = |point| log.trims.reaches((logbook, tag), point);
        let high = if first == SeqNum::MAX { Position::NEVER } else { reaches(first.next()) };
        if reaches(first) >= high {
            return Err(Violation::WrongTrimPoint { operation, first }.into());
        }
        Interval::between(floor, reaches(first), high)
    }

    /// The answer to a read.
    pub fn of_read(
        log: &FinalLog,
        floor: Position,
        operation: OperationId,
        range: &Range,
        found: &[Found],
        complete: bool,
    ) -> Result<Interval, Refusal> {
        let stream = log.stream(range.logbook, range.tag);
        let mut walk = Walk { stream, operation, range, position: floor, high: Position::NEVER };
        match range.direction {
            Direction::Forward => walk.forward(found, complete)?,
            Direction::Backward => walk.backward(found, complete)?,
        }
        Ok(Interval { low: walk.position, high: walk.high })
    }
}

/// The stream's tail just before a batch that ends at `last`: what its condition is compared with.
pub(crate) fn condition_tail(log: &FinalLog, logbook: LogBookId, condition: &Condition, first: SeqNum) -> SeqNum {
    let stream = log.stream(logbook, condition.tag);
    let before = stream.count_before(first).checked_sub(1).and_then(|at| stream.get(at));
    // All trims up to there: a position of the batch before it, with every trim that came after that.
    let point = log.trims.point_before((logbook, condition.tag), first);
    before.map_or(SeqNum::MIN, |logged| logged.seqnum).max(point.prev())
}

/// A read, look by look.
struct Walk<'a> {
    stream: Stream<'a>,
    operation: OperationId,
    range: &'a Range,
    /// Where the last look was, at the least.
    position: Position,
    /// The first position at which one of the looks would no longer be true.
    high: Position,
}

impl Walk<'_> {
    fn forward(&mut self, found: &[Found], complete: bool) -> Result<(), Refusal> {
        let mut cursor = self.range.from;
        let mut next = self.stream.count_before(cursor);
        for (nth, found) in found.iter().enumerate() {
            let at = self.find(nth, found, next)?;
            self.position = self.position.max(self.stream.born(at));
            self.all_gone(nth, found.seqnum, next..at)?;
            self.only_before(self.stream.passes(cursor).min(self.stream.gone(at)))?;
            next = at + 1;
            cursor = found.seqnum.next();
        }
        let is_over = found.last().is_some_and(|last| last.seqnum >= self.range.until);
        if !complete || is_over {
            return if found.is_empty() { self.only_before(self.stream.passes(cursor)) } else { Ok(()) };
        }
        let end = self.stream.count_to(self.range.until);
        self.none_present(next..end)?;
        self.only_before(self.stream.passes(cursor))
    }

    fn backward(&mut self, found: &[Found], complete: bool) -> Result<(), Refusal> {
        let begin = self.stream.count_before(self.range.until);
        let mut end = self.stream.count_to(self.range.from);
        for (nth, found) in found.iter().enumerate() {
            let at = self.find(nth, found, begin)?;
            if at >= end {
                return Err(self.wrong(nth, found.seqnum, end.checked_sub(1)).into());
            }
            self.position = self.position.max(self.stream.born(at));
            if nth == 0 {
                self.none_present(at + 1..end)?;
                self.only_before(self.stream.passes(self.range.from))?;
            } else {
                self.all_gone(nth, found.seqnum, at + 1..end)?;
            }
            self.only_before(self.stream.gone(at))?;
            end = at;
        }
        let Some(last) = found.last() else {
            if complete {
                self.none_present(begin..end)?;
            }
            return self.only_before(self.stream.passes(self.range.from));
        };
        if complete && begin < end {
            self.all_gone(found.len(), SeqNum::MIN, begin..end)?;
            // The last look found that record, or another one began below it and was not told of a trim.
            let below = self.stream.passes(last.seqnum.prev());
            return self.only_before(below.max(self.stream.gone(end)));
        }
        Ok(())
    }

    /// Where a record that was found is in the stream: in the range, and as it was appended.
    fn find(&self, nth: usize, found: &Found, from: usize) -> Result<usize, Violation> {
        let (operation, seqnum) = (self.operation, found.seqnum);
        let at = self.stream.count_before(seqnum);
        let (least, greatest) = match self.range.direction {
            Direction::Forward => (self.range.from, self.range.until),
            Direction::Backward => (self.range.until, self.range.from),
        };
        match self.stream.get(at) {
            Some(logged) if logged.seqnum == seqnum && logged.fingerprint != found.fingerprint => {
                Err(Violation::WrongContent { operation, seqnum })
            }
            Some(logged) if logged.seqnum == seqnum && at >= from && (least..=greatest).contains(&seqnum) => Ok(at),
            _ => Err(self.wrong(nth, seqnum, Some(from))),
        }
    }

    /// What a look passed over was there already, and so must be gone.
    fn all_gone(&mut self, nth: usize, seqnum: SeqNum, passed: std::ops::Range<usize>) -> Result<(), Violation> {
        let mut from = passed.start;
        while let Some(at) = self.stream.next_present(from, self.position).filter(|at| *at < passed.end) {
            let gone = self.stream.gone(at);
            if gone == Position::NEVER {
                return Err(self.wrong(nth, seqnum, Some(at)));
            }
            self.position = self.position.max(gone);
            from = at + 1;
        }
        Ok(())
    }

    /// A look found none of these: each is not yet there, or gone.
    fn none_present(&mut self, range: std::ops::Range<usize>) -> Result<(), Refusal> {
        let mut from = range.start;
        while let Some(at) = self.stream.next_present(from, self.position).filter(|at| *at < range.end) {
            let born = self.stream.born(at);
            if self.position < born {
                self.high = self.high.min(born);
                return Ok(());
            }
            self.position = self.stream.gone(at);
            if self.position == Position::NEVER {
                return Err(Refusal::Over { low: born, high: born });
            }
            from = at + 1;
        }
        Ok(())
    }

    fn only_before(&mut self, high: Position) -> Result<(), Refusal> {
        self.high = self.high.min(high);
        if self.position >= high { Err(Refusal::Over { low: self.position, high }) } else { Ok(()) }
    }

    fn wrong(&self, nth: usize, seqnum: SeqNum, expected: Option<usize>) -> Violation {
        let expected = expected.and_then(|at| self.stream.get(at)).map(|logged| logged.seqnum);
        Violation::WrongRecord { operation: self.operation, at: nth as u32, seqnum, expected }
    }
}
