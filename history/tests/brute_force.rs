//! The checker against a search through every execution, on tiny random histories: they agree on
//! each, so the checker neither overlooks nor invents anything.

use proptest::prelude::*;
use sealog_history::{Direction, FinalLog, Fingerprint, Found, History, Line, Range, Timestamp, check};
use sealog_protocol::{LogBookId, SeqNum, Tag};

const LOGBOOK: LogBookId = LogBookId(1);
const TAG: Tag = Tag(9);

/// A batch of the final log, at consecutive SeqNums; `tagged[i]`: whether its i-th record has [`TAG`].
#[derive(Clone, Debug)]
struct Batch {
    first: u64,
    tagged: Vec<bool>,
    fingerprints: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Call {
    /// Index of a batch of the final log. `expected`: its condition on the tag.
    Append {
        batch: usize,
        expected: Option<u64>,
        acknowledged: bool,
    },
    FailedAppend {
        expected: u64,
        tail: u64,
    },
    Tail {
        tagged: bool,
        tail: u64,
        linearizable: bool,
    },
    Read {
        tagged: bool,
        backward: bool,
        from: u64,
        found: Vec<u64>,
        complete: bool,
        linearizable: bool,
    },
}

#[derive(Clone, Debug)]
struct Operation {
    line: u32,
    invoked: u64,
    returned: u64,
    call: Call,
}

#[derive(Clone, Debug)]
struct Case {
    log: Vec<Batch>,
    operations: Vec<Operation>,
    /// Time at which line 0's token goes to line 1.
    hand_over: Option<u64>,
}

impl Case {
    fn records(&self, batches: usize, tagged: bool) -> Vec<u64> {
        let seqnums = |batch: &Batch| {
            let first = batch.first;
            let kept = batch.tagged.iter().zip(0..).filter(move |(has, _)| **has || !tagged);
            kept.map(move |(_, nth)| first + nth).collect::<Vec<u64>>()
        };
        self.log[..batches].iter().flat_map(seqnums).collect()
    }

    fn fingerprint(&self, seqnum: u64) -> Fingerprint {
        let batch = self.log.iter().rev().find(|batch| batch.first <= seqnum);
        let at = batch.and_then(|batch| batch.fingerprints.get((seqnum - batch.first) as usize));
        Fingerprint(at.copied().unwrap_or(u64::MAX))
    }

    /// Whether this call would be answered so with the first `batches` of the log visible.
    fn answers(&self, call: &Call, batches: usize) -> bool {
        match call {
            Call::Append { .. } => true,
            Call::FailedAppend { expected, tail } => {
                let now = self.records(batches, true).last().copied().unwrap_or(0);
                now == *tail && tail > expected
            }
            Call::Tail { tagged, tail, .. } => self.records(batches, *tagged).last().copied().unwrap_or(0) == *tail,
            Call::Read { tagged, backward, from, found, complete, .. } => {
                let all = self.records(batches, *tagged);
                let wanted: Vec<u64> = match backward {
                    false => all.into_iter().filter(|seqnum| seqnum >= from).collect(),
                    true => all.into_iter().rev().filter(|seqnum| seqnum <= from).collect(),
                };
                wanted.starts_with(found) && (!complete || wanted.len() == found.len())
            }
        }
    }
}

/// One event of an execution, in time order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Invoked(usize),
    HandOver,
    Returned(usize),
}

struct Search<'a> {
    case: &'a Case,
    events: Vec<Event>,
}

#[derive(Clone)]
struct State {
    /// How many batches of the log are visible.
    visible: usize,
    invoked: Vec<bool>,
    /// What each operation must at least see.
    least: Vec<usize>,
    /// What each line has seen.
    seen: [usize; 2],
}

impl Search<'_> {
    /// Whether some execution makes these events from `at` on.
    fn possible(&self, at: usize, state: &State) -> bool {
        self.commit_one(at, state) || self.take_event(at, state)
    }

    /// The next batch becomes visible now.
    fn commit_one(&self, at: usize, state: &State) -> bool {
        if state.visible == self.case.log.len() {
            return false;
        }
        let allowed =
            self.case.operations.iter().zip(&state.invoked).any(|(operation, invoked)| match operation.call {
                Call::Append { batch, expected, .. } if batch == state.visible && *invoked => {
                    let tail = self.case.records(state.visible, true).last().copied().unwrap_or(0);
                    expected.is_none_or(|expected| tail <= expected)
                }
                _ => false,
            });
        allowed && self.possible(at, &State { visible: state.visible + 1, ..state.clone() })
    }

    fn take_event(&self, at: usize, state: &State) -> bool {
        let Some(event) = self.events.get(at) else { return state.visible == self.case.log.len() };
        let mut next = state.clone();
        match *event {
            Event::HandOver => next.seen[1] = next.seen[1].max(next.seen[0]),
            Event::Invoked(id) => {
                let operation = &self.case.operations[id];
                let of_all = match operation.call {
                    Call::Append { .. } | Call::FailedAppend { .. } => true,
                    Call::Tail { linearizable, .. } | Call::Read { linearizable, .. } => linearizable,
                };
                next.invoked[id] = true;
                next.least[id] = state.seen[operation.line as usize].max(if of_all { state.visible } else { 0 });
            }
            Event::Returned(id) => {
                let operation = &self.case.operations[id];
                let line = operation.line as usize;
                if let Call::Append { batch, .. } = operation.call {
                    next.seen[line] = next.seen[line].max(batch + 1);
                    return state.visible > batch && self.possible(at + 1, &next);
                }
                // The place it was answered at: any from the least one to now.
                return (state.least[id]..=state.visible).any(|place| {
                    let mut next = next.clone();
                    next.seen[line] = next.seen[line].max(place);
                    self.case.answers(&operation.call, place) && self.possible(at + 1, &next)
                });
            }
        }
        self.possible(at + 1, &next)
    }
}

fn brute_force(case: &Case) -> bool {
    let mut events: Vec<(u64, Event)> = Vec::new();
    for (id, operation) in case.operations.iter().enumerate() {
        events.push((operation.invoked, Event::Invoked(id)));
        let unknown = matches!(operation.call, Call::Append { acknowledged: false, .. });
        if !unknown {
            events.push((operation.returned, Event::Returned(id)));
        }
    }
    events.extend(case.hand_over.map(|at| (at, Event::HandOver)));
    events.sort();
    let operations = case.operations.len();
    let start = State { visible: 0, invoked: vec![false; operations], least: vec![0; operations], seen: [0; 2] };
    // Acknowledged SeqNums are right by construction; that every batch has its append is required.
    let appended = |at| {
        case.operations
            .iter()
            .filter(|operation| matches!(operation.call, Call::Append { batch, .. } if batch == at))
            .count()
            == 1
    };
    let search = Search { case, events: events.into_iter().map(|(_, event)| event).collect() };
    (0..case.log.len()).all(appended) && search.possible(0, &start)
}

fn exact(case: &Case) -> bool {
    let mut history = History::new(1);
    let mut log = FinalLog::new();
    for batch in &case.log {
        for (nth, tagged) in batch.tagged.iter().enumerate() {
            let found =
                Found { seqnum: SeqNum(batch.first + nth as u64), fingerprint: Fingerprint(batch.fingerprints[nth]) };
            let tags: &[Tag] = if *tagged { &[TAG] } else { &[] };
            log.push(LOGBOOK, found, tags).expect("in order");
        }
    }
    if let Some(at) = case.hand_over {
        history.hand_over(Timestamp(at), Line(0), Line(1));
    }
    for (operation, nth) in case.operations.iter().zip(0..) {
        record(case, &mut history, operation, nth);
    }
    check(&history, &mut log).is_ok()
}

fn record(case: &Case, history: &mut History, operation: &Operation, nth: u64) {
    let (invoked, returned) = (Timestamp(operation.invoked), Timestamp(operation.returned));
    let line = Line(operation.line);
    let tag = |tagged| if tagged { TAG } else { Tag::ALL };
    match &operation.call {
        Call::Append { batch, expected, acknowledged } => {
            let batch = &case.log[*batch];
            let fingerprints: Vec<Fingerprint> = batch.fingerprints.iter().copied().map(Fingerprint).collect();
            let condition = expected.map(|expected| (TAG, SeqNum(expected)));
            let id = history.append(invoked, line, LOGBOOK, &fingerprints, condition);
            if *acknowledged {
                history.acknowledged(returned, id, SeqNum(batch.first));
            }
        }
        Call::FailedAppend { expected, tail } => {
            let condition = Some((TAG, SeqNum(*expected)));
            let id = history.append(invoked, line, LOGBOOK, &[Fingerprint(1_000_000 + nth)], condition);
            history.condition_failed(returned, id, SeqNum(*tail));
        }
        Call::Tail { tagged, tail, linearizable } => {
            let id = history.check_tail(invoked, line, LOGBOOK, tag(*tagged), *linearizable);
            history.tail(returned, id, (*tail != 0).then_some(SeqNum(*tail)));
        }
        Call::Read { tagged, backward, from, found, complete, linearizable } => {
            let range = match backward {
                false => Range::next(LOGBOOK, tag(*tagged), SeqNum(*from)),
                true => Range::prev(LOGBOOK, tag(*tagged), SeqNum(*from)),
            };
            assert_eq!(range.direction == Direction::Backward, *backward);
            let id = history.read(invoked, line, range, *linearizable);
            let found =
                found.iter().map(|seqnum| Found { seqnum: SeqNum(*seqnum), fingerprint: case.fingerprint(*seqnum) });
            history.found(returned, id, found.collect::<Vec<_>>(), *complete);
        }
    }
}

/// Small numbers to make a case of: its shape first, then what goes wrong.
#[derive(Clone, Debug)]
struct Seeds {
    batches: Vec<(u64, Vec<bool>)>,
    times: Vec<(u64, u64)>,
    reads: Vec<(u8, usize, u64, bool, u32)>,
    conditions: Vec<Option<u64>>,
    unknown: Vec<bool>,
    hand_over: Option<u64>,
    missing: bool,
}

fn seeds() -> impl Strategy<Value = Seeds> {
    let batch = (0u64..2, prop::collection::vec(any::<bool>(), 1..3));
    let time = (0u64..24, 1u64..10);
    let read = (0u8..5, 0usize..4, 0u64..12, any::<bool>(), 0u32..2);
    (
        prop::collection::vec(batch, 0..4),
        prop::collection::vec(time, 8),
        prop::collection::vec(read, 0..4),
        prop::collection::vec(prop::option::weighted(0.3, 0u64..10), 4),
        prop::collection::vec(prop::bool::weighted(0.2), 4),
        prop::option::weighted(0.3, 0u64..24),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(batches, times, reads, conditions, unknown, hand_over, missing)| Seeds {
            batches,
            times,
            reads,
            conditions,
            unknown,
            hand_over,
            missing,
        })
}

fn case(seeds: Seeds) -> Case {
    let mut case = Case { log: Vec::new(), operations: Vec::new(), hand_over: seeds.hand_over };
    let mut next = 1;
    for (gap, tagged) in &seeds.batches {
        next += gap;
        let fingerprints = (next * 10..).take(tagged.len()).collect();
        case.log.push(Batch { first: next, tagged: tagged.clone(), fingerprints });
        next += tagged.len() as u64;
    }
    let time = |at: usize| (seeds.times[at].0 * 2, seeds.times[at].0 * 2 + seeds.times[at].1);
    for batch in 0..case.log.len() - usize::from(seeds.missing && !case.log.is_empty()) {
        let (invoked, returned) = time(batch);
        let (expected, acknowledged) = (seeds.conditions[batch], !seeds.unknown[batch]);
        let call = Call::Append { batch, expected, acknowledged };
        case.operations.push(Operation { line: batch as u32 % 2, invoked, returned, call });
    }
    for (nth, (kind, batches, from, flag, line)) in seeds.reads.iter().enumerate() {
        let (invoked, returned) = time(4 + nth);
        // The answer of some prefix of the log, so that histories are right often enough.
        let seen = (*batches).min(case.log.len());
        let tail = case.records(seen, *flag).last().copied().unwrap_or(0);
        let call = match kind {
            0 => Call::FailedAppend { expected: from / 2, tail: case.records(seen, true).last().copied().unwrap_or(0) },
            1 => Call::Tail { tagged: *flag, tail, linearizable: from % 2 == 0 },
            kind => {
                let backward = *kind == 2;
                let mut found = case.records(seen, *flag);
                if backward {
                    found.reverse();
                }
                found.retain(|seqnum| if backward { seqnum <= from } else { seqnum >= from });
                let complete = from % 3 != 0;
                if !complete {
                    found.truncate(1);
                }
                let linearizable = from % 2 == 0;
                Call::Read { tagged: *flag, backward, from: *from, found, complete, linearizable }
            }
        };
        case.operations.push(Operation { line: *line, invoked, returned, call });
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_checker_agrees_with_a_search_of_all_executions(seeds in seeds()) {
        let case = case(seeds);
        prop_assert_eq!(exact(&case), brute_force(&case), "{:#?}", case);
    }
}

/// The comparison says something only when both answers are common.
#[test]
fn random_histories_are_often_right_and_often_wrong() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let cases = 4_000;
    let right = (0..cases)
        .filter(|_| {
            let seeds = seeds().new_tree(&mut runner).expect("a strategy without filters").current();
            brute_force(&case(seeds))
        })
        .count();
    assert!((cases / 10..cases * 9 / 10).contains(&right), "{right} of {cases} were right");
}
