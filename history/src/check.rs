//! The checker: exact, in O(n log n), without a search.
//!
//! The final log fixes the order, of records and of the trims between them. So each operation's
//! answer allows some positions of its logspace and no others (see `interval`): an append one; a tail
//! those where the tail was so; a read those where each record found was there, and each one passed
//! over or looked for in vain was not: it was not yet visible, or trimmed. Events are swept in time
//! order; `forced` is the greatest position that any operation that has returned shows to be reached.
//! An operation that must see all that was known when it began (an append, a trim, a linearizable
//! read, a failed condition) is at or after what was forced then; one of a session at or after what
//! the session saw. Each takes the least position that is left to it.
//!
//! Why this suffices: all that one operation demands of another is to be at or after it, if it
//! returned before the other began. Taken in time order, the least positions are therefore the least
//! solution; where one has none left, there is none at all.
//!
//! A trim is in the log as often as its client or an engine sent it again, and each of these must
//! have been asked for. Where a read by tag 0 skips records that all of their tags let go, the allowed
//! positions are no interval, for a record is missing before it comes and after it is gone. A jump
//! over such a gap costs a search, and a read crosses a trim only once: these are the steps beyond
//! O(n log n). Trims whose place in the log nobody knows can't be checked: a log without them says
//! that there were none.

use sealog_protocol::{LogBookId, LogspaceId, Logspaces, SeqNum};

use crate::history::{Action, Answer, Fingerprint, History, Line, Operation, OperationId, Outcome, Timestamp};
use crate::interval::{Interval, Refusal, condition_tail};
use crate::log::FinalLog;
use crate::position::Position;
use crate::trims::TrimMatches;
use crate::violation::Violation;

/// What a check looked at: a check of nothing is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub operations: u64,
    pub appends_acknowledged: u64,
    pub conditions_failed: u64,
    /// Appends of unknown outcome, and those of them that are in the log.
    pub appends_unknown: u64,
    pub appends_unknown_visible: u64,
    /// Reads and tails that were answered.
    pub reads_answered: u64,
    pub records_found: u64,
    /// Trims that were answered, and reads that were told of one.
    pub trims_answered: u64,
    pub reads_trimmed: u64,
    /// Records of the final log.
    pub records_logged: u64,
}

/// Whether a correct log could have answered as the history says, and then be `log`. The log is
/// told which records are of one batch.
///
/// # Errors
/// The first promise that was broken.
pub fn check(history: &History, log: &mut FinalLog) -> Result<Report, Violation> {
    log.check_unique(history.logspaces())?;
    log.bury();
    let places = match_appends(history, log)?;
    let trims = TrimMatches::new(history, log)?;
    let mut report = Report { operations: history.len() as u64, records_logged: log.len() as u64, ..Report::default() };
    let claims = Claims { history, log, places, trims };
    let mut intervals = Vec::with_capacity(history.len());
    for id in (0..history.len()).map(|at| OperationId(at as u32)) {
        if history.is_lossy(claims.operation(id).1) {
            intervals.push(None);
            continue;
        }
        claims.check_append(id, &mut report)?;
        claims.count(id, &mut report);
        intervals.push(claims.interval(id, Position::START).transpose().map_err(|refusal| intrinsic(id, refusal))?);
    }
    sweep(&claims, &intervals)?;
    Ok(report)
}

/// What is wrong with an answer that no position allows.
fn intrinsic(operation: OperationId, refusal: Refusal) -> Violation {
    match refusal {
        Refusal::Wrong(violation) => violation,
        Refusal::Over { low, high } if high.is_batch() => {
            Violation::HalfBatch { operation, low: low.seqnum, high: high.last_before() }
        }
        Refusal::Over { low, high } => Violation::TrimmedFound { operation, low: low.seqnum, high: high.last_before() },
    }
}

/// Where each append is in the log. Everything in the log must be one.
fn match_appends(history: &History, log: &mut FinalLog) -> Result<Vec<Option<SeqNum>>, Violation> {
    let by_fingerprint = log.by_fingerprint();
    if let Some(pair) = by_fingerprint.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let [first, second] = [pair[0].1, pair[1].1].map(|at| &log.records[at as usize]);
        return Err(Violation::Duplicate { logbook: first.logbook, first: first.seqnum, second: second.seqnum });
    }
    let find = |fingerprint: Fingerprint| {
        let at = by_fingerprint.binary_search_by_key(&fingerprint, |known| known.0).ok()?;
        Some(by_fingerprint[at].1 as usize)
    };
    let mut matched = vec![false; log.len()];
    let mut places = Vec::with_capacity(history.len());
    for (operation, id) in history.operations.iter().zip(0..) {
        let Action::Append { first, records, .. } = operation.action else {
            places.push(None);
            continue;
        };
        let fingerprints = &history.fingerprints[first as usize..][..records as usize];
        let place = match_append(OperationId(id), fingerprints, find, log)?;
        for fingerprint in fingerprints.iter().filter(|_| place.is_some()) {
            let at = find(*fingerprint).expect("a batch that is in the log is there whole");
            assert!(!std::mem::replace(&mut matched[at], true), "a recorded history appends no record twice");
        }
        places.push(place);
    }
    match matched.iter().position(|matched| !matched) {
        Some(at) => {
            let phantom = &log.records[at];
            Err(Violation::Phantom {
                logbook: phantom.logbook,
                seqnum: phantom.seqnum,
                fingerprint: phantom.fingerprint,
            })
        }
        None => Ok(places),
    }
}

/// SeqNum of the first record of a batch in the log: all of it, in order, or nothing.
fn match_append(
    operation: OperationId,
    fingerprints: &[Fingerprint],
    find: impl Fn(Fingerprint) -> Option<usize>,
    log: &mut FinalLog,
) -> Result<Option<SeqNum>, Violation> {
    let Some(first) = find(fingerprints[0]) else {
        let stray = fingerprints.iter().zip(0..).find_map(|(fingerprint, nth)| Some((find(*fingerprint)?, nth)));
        return match stray {
            Some((at, record)) => Err(Violation::BatchSplit { operation, first: log.records[at].seqnum, record }),
            None => Ok(None),
        };
    };
    let first = log.records[first].seqnum;
    for (nth, fingerprint) in fingerprints.iter().enumerate() {
        let split = Violation::BatchSplit { operation, first, record: nth as u32 };
        let logged = &mut log.records[find(*fingerprint).ok_or(split)?];
        if logged.seqnum.0 != first.0 + nth as u64 {
            return Err(split);
        }
        logged.batch_after = (fingerprints.len() - 1 - nth) as u16;
    }
    Ok(Some(first))
}

/// What each operation says about the log.
struct Claims<'a> {
    history: &'a History,
    log: &'a FinalLog,
    /// Of each append that is in the log, the SeqNum of its first record.
    places: Vec<Option<SeqNum>>,
    trims: TrimMatches,
}

impl Claims<'_> {
    fn operation(&self, id: OperationId) -> (&Operation, LogBookId) {
        let operation = &self.history.operations[id.0 as usize];
        (operation, self.history.logbooks[operation.logbook as usize])
    }

    /// Whether an append's outcome and condition agree with the log.
    fn check_append(&self, id: OperationId, report: &mut Report) -> Result<(), Violation> {
        let (operation, logbook) = self.operation(id);
        let Action::Append { condition, outcome, .. } = operation.action else { return Ok(()) };
        let place = self.places[id.0 as usize];
        check_outcome(id, outcome, place, report)?;
        let Some(condition) = condition.map(|at| &self.history.conditions[at as usize]) else { return Ok(()) };
        if let Outcome::ConditionFailed(tail) = outcome
            && tail <= condition.expected
        {
            return Err(Violation::ConditionHeld { operation: id, tail });
        }
        if let Some(at) = place {
            let tail = condition_tail(self.log, logbook, condition, at);
            if tail > condition.expected {
                return Err(Violation::ConditionIgnored { operation: id, at, tail });
            }
        }
        Ok(())
    }

    fn count(&self, id: OperationId, report: &mut Report) {
        match self.operation(id).0.action {
            Action::Read { answer: Answer::Records { records, .. }, .. } => {
                report.reads_answered += 1;
                report.records_found += u64::from(records);
            }
            Action::Read { answer: Answer::Trimmed { .. }, .. } => {
                report.reads_answered += 1;
                report.reads_trimmed += 1;
            }
            Action::CheckTail { tail: Some(_), .. } => report.reads_answered += 1,
            Action::Trim { point: Some(_), .. } => report.trims_answered += 1,
            _ => {}
        }
    }

    /// The operation's interval from a floor on; `None` when it says nothing.
    fn interval(&self, id: OperationId, floor: Position) -> Option<Result<Interval, Refusal>> {
        let (operation, logbook) = self.operation(id);
        match operation.action {
            Action::Append { condition, outcome: Outcome::ConditionFailed(tail), .. } => {
                let condition = condition.expect("only an append with a condition has it fail");
                let key = (logbook, self.history.conditions[condition as usize].tag);
                Some(Interval::of_tail(self.log, floor, id, key, tail))
            }
            Action::Append { records, .. } => {
                let place = self.places[id.0 as usize]?;
                Some(Interval::of_append(floor, SeqNum(place.0 + u64::from(records) - 1)))
            }
            Action::Read { answer: Answer::None, .. } | Action::CheckTail { tail: None, .. } => None,
            Action::Read { range, answer: Answer::Records { first, records, complete }, .. } => {
                let found = self.history.found_records(first, records);
                let range = &self.history.ranges[range as usize];
                Some(Interval::of_read(self.log, floor, id, range, found, complete))
            }
            Action::Read { range, answer: Answer::Trimmed { first }, .. } => {
                let range = &self.history.ranges[range as usize];
                if first <= range.from {
                    return Some(Err(Violation::WrongTrimPoint { operation: id, first }.into()));
                }
                Some(Interval::of_point(self.log, floor, id, (logbook, range.tag), first))
            }
            Action::CheckTail { subject, tail: Some(tail), .. } => {
                let key = (logbook, self.history.subjects[subject as usize]);
                Some(Interval::of_tail(self.log, floor, id, key, tail))
            }
            Action::Trim { trim, point } => Some(self.trim(id, floor, trim, point)),
        }
    }

    /// A trim that was answered took place where its point was so; if it was told of less than it asked
    /// for, at or after where the log has it.
    fn trim(&self, id: OperationId, floor: Position, trim: u32, point: Option<SeqNum>) -> Result<Interval, Refusal> {
        let bound = self.trims.bound(id);
        if floor >= bound {
            return Err(Refusal::Over { low: floor, high: bound });
        }
        let (wish, logbook) = (self.history.trims[trim as usize], self.operation(id).1);
        let Some(point) = point else { return Interval::between(floor, Position::START, bound) };
        let interval = Interval::of_point(self.log, floor, id, (logbook, wish.tag), point)?;
        if point >= wish.first {
            return Ok(Interval { high: interval.high.min(bound), ..interval });
        }
        let wrong = Violation::WrongTrimPoint { operation: id, first: point };
        let Some(place) = self.trims.next_after((logbook, wish.tag), wish.first, floor) else {
            return Err(wrong.into());
        };
        let reached = Interval::between(place, interval.low, interval.high);
        let reached = reached.map_err(|over| if floor == Position::START { wrong.into() } else { over })?;
        // Begun after this place, it is another one of the log.
        Ok(Interval { high: reached.high.min(bound).min(place), ..reached })
    }
}

fn check_outcome(
    operation: OperationId,
    outcome: Outcome,
    place: Option<SeqNum>,
    report: &mut Report,
) -> Result<(), Violation> {
    match (outcome, place) {
        (Outcome::Acknowledged(acknowledged), Some(found)) if acknowledged != found => {
            return Err(Violation::Misplaced { operation, acknowledged, found });
        }
        (Outcome::Acknowledged(_), Some(_)) => report.appends_acknowledged += 1,
        (Outcome::Acknowledged(seqnum), None) => return Err(Violation::Lost { operation, seqnum }),
        (Outcome::ConditionFailed(_) | Outcome::Refused, Some(found)) => {
            return Err(Violation::RefusedVisible { operation, found });
        }
        (Outcome::ConditionFailed(_), None) => report.conditions_failed += 1,
        (Outcome::Refused, None) => {}
        (Outcome::Unknown, place) => {
            report.appends_unknown += 1;
            report.appends_unknown_visible += u64::from(place.is_some());
        }
    }
    Ok(())
}

/// Events of one time: beginnings first, so that what happens at one time is concurrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Invoked(u32),
    HandOver(u32),
    Returned(u32),
}

fn sweep(claims: &Claims<'_>, intervals: &[Option<Interval>]) -> Result<(), Violation> {
    let history = claims.history;
    let mut events: Vec<(Timestamp, Event)> = Vec::with_capacity(history.len() * 2 + history.hand_overs.len());
    for ((operation, interval), id) in history.operations.iter().zip(intervals).zip(0..) {
        if interval.is_some() {
            events.push((operation.invoked, Event::Invoked(id)));
            if operation.is_answered() {
                assert!(operation.returned >= operation.invoked, "an operation returns after it began");
                events.push((operation.returned, Event::Returned(id)));
            }
        }
    }
    events.extend(history.hand_overs.iter().zip(0..).map(|(hand_over, at)| (hand_over.at, Event::HandOver(at))));
    events.sort_unstable();

    let mut floors = Floors::new(history);
    // Where the operation took place: the least position that was left to it when it began.
    let mut places = vec![Position::START; history.len()];
    for (_, event) in events {
        match event {
            Event::Invoked(id) => {
                let interval = intervals[id as usize].expect("events are made of intervals");
                places[id as usize] = floors.begin(claims, OperationId(id), interval)?;
            }
            Event::HandOver(at) => {
                let hand_over = &history.hand_overs[at as usize];
                floors.hand_over(hand_over.from, hand_over.to);
            }
            Event::Returned(id) => floors.end(history, OperationId(id), places[id as usize]),
        }
    }
    Ok(())
}

/// The greatest positions shown to be reached, per logspace: by anyone, and to each line.
struct Floors {
    logspaces: Logspaces,
    forced: Vec<Position>,
    seen: Vec<Position>,
}

impl Floors {
    fn new(history: &History) -> Floors {
        let of_operations = history.operations.iter().map(|operation| operation.line.0);
        let of_hand_overs = history.hand_overs.iter().map(|hand_over| hand_over.from.max(hand_over.to).0);
        let lines = of_operations.chain(of_hand_overs).max().map_or(0, |last| last as usize + 1);
        let logspaces = usize::from(history.logspaces().count());
        Floors {
            logspaces: history.logspaces(),
            forced: vec![Position::START; logspaces],
            seen: vec![Position::START; logspaces * lines],
        }
    }

    /// An operation begins: the least position that is left to it.
    fn begin(&self, claims: &Claims<'_>, id: OperationId, interval: Interval) -> Result<Position, Violation> {
        let operation = &claims.history.operations[id.0 as usize];
        let logspace = self.logspace(claims.history, id);
        let seen = self.seen[self.line(operation.line, logspace)];
        let forced = self.forced[usize::from(logspace.0)];
        let of_all = match operation.action {
            Action::Append { .. } | Action::Trim { .. } => true,
            Action::Read { linearizable, .. } | Action::CheckTail { linearizable, .. } => linearizable,
        };
        let from = |floor: Position| match floor < interval.high {
            true => Ok(interval.low.max(floor)),
            false => claims.interval(id, floor).expect("it had one before").map(|interval| interval.low),
        };
        let high = |refusal| match refusal {
            Refusal::Over { high, .. } => high.last_before(),
            Refusal::Wrong(_) => interval.high.last_before(),
        };
        let place = from(seen).map_err(|refusal| Violation::SessionOrder {
            operation: id,
            high: high(refusal),
            seen: seen.seqnum,
        })?;
        if !of_all {
            return Ok(place);
        }
        from(forced).map_err(|refusal| Violation::RealTime {
            operation: id,
            high: high(refusal),
            forced: forced.seqnum,
        })
    }

    /// An operation has returned: the log had got to `reached`.
    fn end(&mut self, history: &History, id: OperationId, reached: Position) {
        let logspace = self.logspace(history, id);
        let line = self.line(history.operations[id.0 as usize].line, logspace);
        let forced = &mut self.forced[usize::from(logspace.0)];
        *forced = reached.max(*forced);
        self.seen[line] = reached.max(self.seen[line]);
    }

    fn hand_over(&mut self, from: Line, to: Line) {
        for logspace in (0..self.logspaces.count()).map(LogspaceId) {
            let seen = self.seen[self.line(from, logspace)];
            let line = self.line(to, logspace);
            self.seen[line] = seen.max(self.seen[line]);
        }
    }

    fn logspace(&self, history: &History, id: OperationId) -> LogspaceId {
        history.logbooks[history.operations[id.0 as usize].logbook as usize].logspace(self.logspaces)
    }

    fn line(&self, line: Line, logspace: LogspaceId) -> usize {
        line.0 as usize * usize::from(self.logspaces.count()) + usize::from(logspace.0)
    }
}
