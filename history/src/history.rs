//! What clients did: operations with the times of their invocation and return.
//!
//! Made for millions of operations: an operation takes 56 bytes, a record of it 8 (its
//! fingerprint) and a record that a read found 16.

use std::collections::{BTreeMap, BTreeSet};

use sealog_protocol::{LogBookId, LogspaceId, Logspaces, SeqNum, Tag};
use xxhash_rust::xxh3::Xxh3;

/// When something happened, on any clock that all recorders share. Of two events at the same
/// time neither is before the other; the simulator counts events instead, so none are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Never.
    const NEVER: Timestamp = Timestamp(u64::MAX);
}

/// A line of operations that see what those before them saw: whoever holds one session token.
/// Lines are numbered from 0 without large gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(pub u32);

/// An operation of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// Stands for a record's LogBook, tags and payload. Whoever records a history appends no two
/// records that are alike in all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The fingerprint of a record. The order of its tags does not matter, nor do repeats.
    pub fn new(logbook: LogBookId, tags: &[Tag], payload: &[u8]) -> Fingerprint {
        let mut hasher = Xxh3::new();
        hasher.update(&logbook.0.to_le_bytes());
        let mut last = None;
        // Few tags: looking for the next greater one is cheaper than a sorted copy.
        while let Some(next) = tags.iter().filter(|tag| Some(**tag) > last).min() {
            hasher.update(&next.0.to_le_bytes());
            last = Some(*next);
        }
        hasher.update(&[0xff]);
        hasher.update(payload);
        Fingerprint(hasher.digest())
    }
}

/// A record that a read or a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub seqnum: SeqNum,
    pub fingerprint: Fingerprint,
}

/// Which way a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// What a read asks for: records of a LogBook that carry a tag, from a SeqNum on, the last of them
/// wanted being `until`. Backward, `from` is the greatest and `until` the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub logbook: LogBookId,
    pub tag: Tag,
    pub from: SeqNum,
    pub until: SeqNum,
    pub direction: Direction,
}

impl Range {
    /// What `read_next` asks for.
    pub fn next(logbook: LogBookId, tag: Tag, from: SeqNum) -> Range {
        Range { logbook, tag, from, until: SeqNum::MAX, direction: Direction::Forward }
    }

    /// What `read_prev` asks for.
    pub fn prev(logbook: LogBookId, tag: Tag, from: SeqNum) -> Range {
        Range { logbook, tag, from, until: SeqNum::MIN, direction: Direction::Backward }
    }
}

/// What is known of an append in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Perhaps it is in the log.
    Unknown,
    /// Its first record has this SeqNum.
    Acknowledged(SeqNum),
    /// Its condition did not hold, for the tail was this.
    ConditionFailed(SeqNum),
    /// It was refused for good: it has no effect.
    Refused,
}

/// What is known of a read in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was not answered, or not with records: it says nothing.
    None,
    /// `records` found records from `first` of the history's list on; with `complete` there were no
    /// more in the range.
    Records { first: u32, records: u32, complete: bool },
    /// Everything below was trimmed.
    Trimmed { first: SeqNum },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// `records` fingerprints from `first` of the history's list on.
    Append {
        first: u32,
        records: u32,
        /// Index of its condition, if it has one.
        condition: Option<u32>,
        outcome: Outcome,
    },
    /// Index of its range.
    Read { range: u32, linearizable: bool, answer: Answer },
    /// Index of the LogBook and tag it asks for; the tail that it was told, `None` when not answered.
    CheckTail { subject: u32, linearizable: bool, tail: Option<SeqNum> },
    /// Index of what it asks for; the trim point that it was told, `None` when not answered: perhaps it
    /// is in the log.
    Trim { trim: u32, point: Option<SeqNum> },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub invoked: Timestamp,
    /// [`Timestamp::NEVER`] when it was not answered.
    pub returned: Timestamp,
    pub line: Line,
    /// Index of the LogBook.
    pub logbook: u32,
    pub action: Action,
}

impl Operation {
    pub fn is_answered(&self) -> bool {
        self.returned != Timestamp::NEVER
    }
}

/// A condition of an append: the tail of `tag` is at most `expected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub tag: Tag,
    pub expected: SeqNum,
}

/// A wish that records with a tag below `first` go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrimWish {
    pub tag: Tag,
    pub first: SeqNum,
}

/// A line's token given to another line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandOver {
    pub at: Timestamp,
    pub from: Line,
    pub to: Line,
}

/// What clients did, as they saw it.
#[derive(Clone, Debug)]
pub struct History {
    logspaces: Logspaces,
    /// Logspaces of class memory of which more was lost than they promise to outlive.
    lost: BTreeSet<LogspaceId>,
    pub(crate) logbooks: Vec<LogBookId>,
    logbook_indices: BTreeMap<LogBookId, u32>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) found: Vec<Found>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) ranges: Vec<Range>,
    pub(crate) subjects: Vec<Tag>,
    pub(crate) trims: Vec<TrimWish>,
    pub(crate) hand_overs: Vec<HandOver>,
}

const _: () = assert!(size_of::<Operation>() <= 64, "a history holds millions of operations");

impl History {
    /// Of a cluster with this many logspaces: each is one log, whose LogBooks share their order.
    pub fn new(logspaces: impl Into<Logspaces>) -> History {
        History {
            logspaces: logspaces.into(),
            lost: BTreeSet::new(),
            logbooks: Vec::new(),
            logbook_indices: BTreeMap::new(),
            operations: Vec::new(),
            fingerprints: Vec::new(),
            found: Vec::new(),
            conditions: Vec::new(),
            ranges: Vec::new(),
            subjects: Vec::new(),
            trims: Vec::new(),
            hand_overs: Vec::new(),
        }
    }

    pub fn logspaces(&self) -> Logspaces {
        self.logspaces
    }

    /// Acknowledged records of a logspace were lost, as its class allows. What is left of its promises
    /// is checked: nothing appears twice, half, or that nobody appended.
    pub fn lose(&mut self, logspace: LogspaceId) {
        self.lost.insert(logspace);
    }

    /// Whether acknowledged records of this LogBook's logspace were lost.
    pub fn is_lossy(&self, logbook: LogBookId) -> bool {
        self.lost.contains(&logbook.logspace(self.logspaces))
    }

    /// How many operations began.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// An append begins: a batch of these records, perhaps with a condition (tag, expected tail).
    pub fn append(
        &mut self,
        now: Timestamp,
        line: Line,
        logbook: LogBookId,
        records: &[Fingerprint],
        condition: Option<(Tag, SeqNum)>,
    ) -> OperationId {
        assert!(!records.is_empty(), "an append has records");
        let condition = condition.map(|(tag, expected)| {
            self.conditions.push(Condition { tag, expected });
            index(self.conditions.len() - 1)
        });
        let first = index(self.fingerprints.len());
        self.fingerprints.extend_from_slice(records);
        let action = Action::Append { first, records: index(records.len()), condition, outcome: Outcome::Unknown };
        self.begin(now, line, logbook, action)
    }

    /// A read begins.
    pub fn read(&mut self, now: Timestamp, line: Line, range: Range, linearizable: bool) -> OperationId {
        self.ranges.push(range);
        let action = Action::Read { range: index(self.ranges.len() - 1), linearizable, answer: Answer::None };
        self.begin(now, line, range.logbook, action)
    }

    /// A question for the tail begins.
    pub fn check_tail(
        &mut self,
        now: Timestamp,
        line: Line,
        logbook: LogBookId,
        tag: Tag,
        linearizable: bool,
    ) -> OperationId {
        self.subjects.push(tag);
        let action = Action::CheckTail { subject: index(self.subjects.len() - 1), linearizable, tail: None };
        self.begin(now, line, logbook, action)
    }

    /// A trim begins: records with the tag below `first` may go.
    pub fn trim(&mut self, now: Timestamp, line: Line, logbook: LogBookId, tag: Tag, first: SeqNum) -> OperationId {
        self.trims.push(TrimWish { tag, first });
        let action = Action::Trim { trim: index(self.trims.len() - 1), point: None };
        self.begin(now, line, logbook, action)
    }

    /// An append was acknowledged: its first record has this SeqNum.
    pub fn acknowledged(&mut self, now: Timestamp, operation: OperationId, seqnum: SeqNum) {
        self.end_append(operation, now, Outcome::Acknowledged(seqnum));
    }

    /// An append's condition did not hold: the tail was this.
    pub fn condition_failed(&mut self, now: Timestamp, operation: OperationId, tail: SeqNum) {
        self.end_append(operation, now, Outcome::ConditionFailed(tail));
    }

    /// An append was refused, and has no effect. An append that is never ended has an unknown
    /// outcome: it may be in the log or not.
    pub fn refused(&mut self, operation: OperationId) {
        self.end_append(operation, Timestamp::NEVER, Outcome::Refused);
    }

    /// A read was answered with these records; with `complete` there were no more in its range. A
    /// read that is never ended says nothing.
    pub fn found(
        &mut self,
        now: Timestamp,
        operation: OperationId,
        records: impl IntoIterator<Item = Found>,
        complete: bool,
    ) {
        let first = self.found.len();
        self.found.extend(records);
        let records = index(self.found.len() - first);
        let ended = self.end(operation, now);
        match &mut ended.action {
            Action::Read { answer, .. } => *answer = Answer::Records { first: index(first), records, complete },
            other => panic!("records can't answer {other:?}"),
        }
    }

    /// A read was told that everything below `first` was trimmed.
    pub fn found_trimmed(&mut self, now: Timestamp, operation: OperationId, first: SeqNum) {
        let ended = self.end(operation, now);
        match &mut ended.action {
            Action::Read { answer, .. } => *answer = Answer::Trimmed { first },
            other => panic!("a trim point can't answer {other:?}"),
        }
    }

    /// A trim is in force: reads of the tag begin at `first`. A trim that is never ended has an unknown
    /// outcome: it may be in the log or not.
    pub fn trimmed(&mut self, now: Timestamp, operation: OperationId, first: SeqNum) {
        let ended = self.end(operation, now);
        match &mut ended.action {
            Action::Trim { point, .. } => *point = Some(first),
            other => panic!("a trim can't end {other:?}"),
        }
    }

    /// A question for the tail was answered; `None`: no record.
    pub fn tail(&mut self, now: Timestamp, operation: OperationId, answer: Option<SeqNum>) {
        let ended = self.end(operation, now);
        match &mut ended.action {
            Action::CheckTail { tail, .. } => *tail = Some(answer.unwrap_or(SeqNum::MIN)),
            other => panic!("a tail can't answer {other:?}"),
        }
    }

    /// What `from` has seen by now, `to` must see from now on.
    pub fn hand_over(&mut self, now: Timestamp, from: Line, to: Line) {
        self.hand_overs.push(HandOver { at: now, from, to });
    }

    /// Adds what another recorder saw, on the same clock. Its lines are not ours: they are renumbered
    /// from `first_line` on.
    pub fn absorb(&mut self, other: History, first_line: Line) {
        assert_eq!(self.logspaces, other.logspaces, "histories of one cluster");
        let shift = |at: &mut u32, by: usize| *at = index(*at as usize + by);
        for mut operation in other.operations {
            operation.line.0 += first_line.0;
            operation.logbook = self.logbook_index(other.logbooks[operation.logbook as usize]);
            match &mut operation.action {
                Action::Append { first, condition, .. } => {
                    shift(first, self.fingerprints.len());
                    if let Some(condition) = condition {
                        shift(condition, self.conditions.len());
                    }
                }
                Action::Read { range, answer, .. } => {
                    shift(range, self.ranges.len());
                    if let Answer::Records { first, .. } = answer {
                        shift(first, self.found.len());
                    }
                }
                Action::CheckTail { subject, .. } => shift(subject, self.subjects.len()),
                Action::Trim { trim, .. } => shift(trim, self.trims.len()),
            }
            self.operations.push(operation);
        }
        self.fingerprints.extend(other.fingerprints);
        self.found.extend(other.found);
        self.conditions.extend(other.conditions);
        self.ranges.extend(other.ranges);
        self.subjects.extend(other.subjects);
        self.trims.extend(other.trims);
        self.hand_overs.extend(other.hand_overs.into_iter().map(|hand_over| HandOver {
            from: Line(hand_over.from.0 + first_line.0),
            to: Line(hand_over.to.0 + first_line.0),
            ..hand_over
        }));
    }

    /// All LogBooks that operations named: those to scan in the end.
    pub fn logbooks(&self) -> &[LogBookId] {
        &self.logbooks
    }

    /// One operation as text, for a violation's report.
    pub fn describe(&self, operation: OperationId) -> String {
        let Some(operation) = self.operations.get(operation.0 as usize) else { return "(none)".to_owned() };
        let logbook = self.logbooks[operation.logbook as usize];
        let what = match operation.action {
            Action::Append { records, condition, outcome, .. } => {
                let condition = condition.map(|at| self.conditions[at as usize]);
                format!("append of {records} to LogBook {logbook}, condition {condition:?}: {outcome:?}")
            }
            Action::Read { range, linearizable, answer } => {
                let range = &self.ranges[range as usize];
                let found = match answer {
                    Answer::Records { first, records, complete } => {
                        format!("{:?}, complete {complete}", self.found_records(first, records))
                    }
                    Answer::Trimmed { first } => format!("trimmed up to {first:?}"),
                    Answer::None => "no answer".to_owned(),
                };
                format!("read of {range:?}, linearizable {linearizable}: {found}")
            }
            Action::CheckTail { subject, linearizable, tail } => {
                let tag = self.subjects[subject as usize];
                format!("check_tail of {tag:?} in LogBook {logbook}, linearizable {linearizable}: {tail:?}")
            }
            Action::Trim { trim, point } => {
                let TrimWish { tag, first } = self.trims[trim as usize];
                format!("trim of {tag:?} in LogBook {logbook} below {first:?}: {point:?}")
            }
        };
        let returned = if operation.is_answered() { operation.returned.0.to_string() } else { "never".to_owned() };
        format!("[{}, {returned}] line {}: {what}", operation.invoked.0, operation.line.0)
    }

    pub(crate) fn found_records(&self, first: u32, records: u32) -> &[Found] {
        &self.found[first as usize..][..records as usize]
    }

    fn begin(&mut self, now: Timestamp, line: Line, logbook: LogBookId, action: Action) -> OperationId {
        let logbook = self.logbook_index(logbook);
        self.operations.push(Operation { invoked: now, returned: Timestamp::NEVER, line, logbook, action });
        OperationId(index(self.operations.len() - 1))
    }

    fn logbook_index(&mut self, logbook: LogBookId) -> u32 {
        *self.logbook_indices.entry(logbook).or_insert_with(|| {
            self.logbooks.push(logbook);
            index(self.logbooks.len() - 1)
        })
    }

    fn end(&mut self, operation: OperationId, now: Timestamp) -> &mut Operation {
        let operation = &mut self.operations[operation.0 as usize];
        assert!(!operation.is_answered(), "an operation returns once");
        operation.returned = now;
        operation
    }

    fn end_append(&mut self, operation: OperationId, now: Timestamp, how: Outcome) {
        let ended = self.end(operation, now);
        match &mut ended.action {
            Action::Append { outcome, .. } => *outcome = how,
            other => panic!("{how:?} can't end {other:?}"),
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a history holds fewer than 2^32 of anything")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_logbook_tags_and_payload_apart() {
        let of = |logbook, tags: &[Tag], payload: &[u8]| Fingerprint::new(LogBookId(logbook), tags, payload);
        let one = of(1, &[Tag(1), Tag(2)], b"x");
        assert_eq!(one, of(1, &[Tag(2), Tag(1), Tag(2)], b"x"));
        assert_ne!(one, of(2, &[Tag(1), Tag(2)], b"x"));
        assert_ne!(one, of(1, &[Tag(1)], b"x"));
        assert_ne!(one, of(1, &[Tag(1), Tag(2)], b"y"));
    }

    #[test]
    fn absorbed_operations_keep_their_meaning() {
        let mut one = History::new(1);
        one.append(Timestamp(1), Line(0), LogBookId(7), &[Fingerprint(1)], None);
        let mut two = History::new(1);
        let read = two.read(Timestamp(2), Line(0), Range::next(LogBookId(8), Tag(1), SeqNum(3)), true);
        two.found(Timestamp(4), read, [Found { seqnum: SeqNum(5), fingerprint: Fingerprint(6) }], false);
        let alone = two.describe(read);
        one.absorb(two, Line(1));
        assert_eq!(one.describe(OperationId(1)), alone.replace("line 0", "line 1"));
        assert_eq!(one.logbooks(), [LogBookId(7), LogBookId(8)]);
    }
}
