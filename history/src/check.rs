//! The checker: exact, in O(n log n), without a search.
//!
//! The final log fixes the order. So each operation owns an interval of positions of its logspace
//! (see `interval`). Events are swept in time order; `forced` is the greatest position that any
//! operation that has returned shows to be reached. An operation that must see all that was known
//! when it began (an append, a linearizable read, a failed condition) needs an interval that
//! reaches what was forced then; one of a session needs one that reaches what the session saw.
//!
//! Why this suffices: "returned before it began" and "its interval ends before that one begins" are
//! both interval orders, and a cycle in the union of two of those is a cycle of two operations:
//! each such pair is met by the sweep.

use sealog_protocol::{LogspaceId, SeqNum};

use crate::history::{Action, Answer, Fingerprint, History, Line, OperationId, Outcome, Timestamp};
use crate::interval::{Interval, condition_tail};
use crate::log::FinalLog;
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
    let places = match_appends(history, log)?;
    let mut report = Report { operations: history.len() as u64, records_logged: log.len() as u64, ..Report::default() };
    let mut intervals = Vec::with_capacity(history.len());
    for (at, place) in places.iter().enumerate() {
        intervals.push(interval_of(history, log, OperationId(at as u32), *place, &mut report)?);
    }
    sweep(history, &intervals)?;
    Ok(report)
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
        logged.batch_before = nth as u16;
        logged.batch_after = (fingerprints.len() - 1 - nth) as u16;
    }
    Ok(Some(first))
}

/// The operation's interval; `None` when it says nothing.
fn interval_of(
    history: &History,
    log: &FinalLog,
    id: OperationId,
    place: Option<SeqNum>,
    report: &mut Report,
) -> Result<Option<Interval>, Violation> {
    let operation = &history.operations[id.0 as usize];
    let logbook = history.logbooks[operation.logbook as usize];
    match operation.action {
        Action::Append { records, condition, outcome, .. } => {
            let condition = condition.map(|at| &history.conditions[at as usize]);
            check_outcome(id, outcome, place, report)?;
            if let Outcome::ConditionFailed(tail) = outcome {
                let condition = condition.expect("only an append with a condition has it fail");
                if tail <= condition.expected {
                    return Err(Violation::ConditionHeld { operation: id, tail });
                }
                return Interval::of_tail(log, id, logbook, condition.tag, tail).map(Some);
            }
            let Some(place) = place else { return Ok(None) };
            if let Some(condition) = condition {
                let tail = condition_tail(log, logbook, condition, place);
                if tail > condition.expected {
                    return Err(Violation::ConditionIgnored { operation: id, at: place, tail });
                }
            }
            Ok(Some(Interval::of_append(place, SeqNum(place.0 + u64::from(records) - 1))))
        }
        Action::Read { answer: Answer::None, .. } | Action::CheckTail { tail: None, .. } => Ok(None),
        Action::Read { range, answer: Answer::Records { first, records, complete }, .. } => {
            report.reads_answered += 1;
            report.records_found += u64::from(records);
            let found = history.found_records(first, records);
            Interval::of_read(log, id, &history.ranges[range as usize], found, complete).map(Some)
        }
        Action::CheckTail { subject, tail: Some(tail), .. } => {
            report.reads_answered += 1;
            Interval::of_tail(log, id, logbook, history.subjects[subject as usize], tail).map(Some)
        }
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

fn sweep(history: &History, intervals: &[Option<Interval>]) -> Result<(), Violation> {
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
    // What was forced when the operation began: a linearizable one is at or after it.
    let mut forced_at_start = vec![SeqNum::MIN; history.len()];
    for (_, event) in events {
        match event {
            Event::Invoked(id) => {
                let interval = intervals[id as usize].expect("events are made of intervals");
                forced_at_start[id as usize] = floors.begin(history, OperationId(id), interval)?;
            }
            Event::HandOver(at) => {
                let hand_over = &history.hand_overs[at as usize];
                floors.hand_over(hand_over.from, hand_over.to);
            }
            Event::Returned(id) => {
                let interval = intervals[id as usize].expect("events are made of intervals");
                floors.end(history, OperationId(id), interval.low.max(forced_at_start[id as usize]));
            }
        }
    }
    Ok(())
}

/// The greatest positions shown to be reached, per logspace: by anyone, and to each line.
struct Floors {
    logspaces: u16,
    forced: Vec<SeqNum>,
    seen: Vec<SeqNum>,
}

impl Floors {
    fn new(history: &History) -> Floors {
        let of_operations = history.operations.iter().map(|operation| operation.line.0);
        let of_hand_overs = history.hand_overs.iter().map(|hand_over| hand_over.from.max(hand_over.to).0);
        let lines = of_operations.chain(of_hand_overs).max().map_or(0, |last| last as usize + 1);
        let logspaces = usize::from(history.logspaces());
        Floors {
            logspaces: history.logspaces(),
            forced: vec![SeqNum::MIN; logspaces],
            seen: vec![SeqNum::MIN; logspaces * lines],
        }
    }

    /// An operation begins: what it must have seen of all, if it must.
    fn begin(&self, history: &History, id: OperationId, interval: Interval) -> Result<SeqNum, Violation> {
        let operation = &history.operations[id.0 as usize];
        let logspace = self.logspace(history, id);
        let seen = self.seen[self.line(operation.line, logspace)];
        let forced = self.forced[usize::from(logspace.0)];
        let high = interval.high;
        if seen > high {
            return Err(Violation::SessionOrder { operation: id, high, seen });
        }
        let of_all = match operation.action {
            Action::Append { .. } => true,
            Action::Read { linearizable, .. } | Action::CheckTail { linearizable, .. } => linearizable,
        };
        if of_all && forced > high {
            return Err(Violation::RealTime { operation: id, high, forced });
        }
        Ok(if of_all { forced } else { SeqNum::MIN })
    }

    /// An operation has returned: the log had got to `reached`.
    fn end(&mut self, history: &History, id: OperationId, reached: SeqNum) {
        let logspace = self.logspace(history, id);
        let line = self.line(history.operations[id.0 as usize].line, logspace);
        let forced = &mut self.forced[usize::from(logspace.0)];
        *forced = reached.max(*forced);
        self.seen[line] = reached.max(self.seen[line]);
    }

    fn hand_over(&mut self, from: Line, to: Line) {
        for logspace in (0..self.logspaces).map(LogspaceId) {
            let seen = self.seen[self.line(from, logspace)];
            let line = self.line(to, logspace);
            self.seen[line] = seen.max(self.seen[line]);
        }
    }

    fn logspace(&self, history: &History, id: OperationId) -> LogspaceId {
        history.logbooks[history.operations[id.0 as usize].logbook as usize].logspace(self.logspaces)
    }

    fn line(&self, line: Line, logspace: LogspaceId) -> usize {
        line.0 as usize * usize::from(self.logspaces) + usize::from(logspace.0)
    }
}
