//! The checker against a search through every execution, on tiny random histories: they agree on
//! each, so the checker neither overlooks nor invents anything.

use proptest::prelude::*;
use sealog_history::{Direction, FinalLog, Fingerprint, Found, History, Line, Range, Timestamp, check};
use sealog_protocol::{LogBookId, SeqNum, Tag};

const LOGBOOK: LogBookId = LogBookId(1);
/// What calls name by their index; the first stands for every record.
const TAGS: [Tag; 3] = [Tag::ALL, Tag(9), Tag(10)];
/// The tag of conditions.
const CONDITION: usize = 1;

/// An entry of the final log.
#[derive(Clone, Debug)]
enum Entry {
    /// Records at consecutive SeqNums; `tagged[i][t]`: whether the i-th has the tag `t + 1`.
    Batch {
        first: u64,
        tagged: Vec<[bool; 2]>,
    },
    Trim {
        tag: usize,
        first: u64,
        next: u64,
    },
}

#[derive(Clone, Debug)]
enum Call {
    /// Index of a batch of the final log. `expected`: its condition.
    Append {
        entry: usize,
        expected: Option<u64>,
        acknowledged: bool,
    },
    FailedAppend {
        expected: u64,
        tail: u64,
    },
    Tail {
        tag: usize,
        tail: u64,
        linearizable: bool,
    },
    Read {
        tag: usize,
        backward: bool,
        from: u64,
        answer: Answer,
        linearizable: bool,
    },
    Trim {
        tag: usize,
        first: u64,
        point: Option<u64>,
    },
}

#[derive(Clone, Debug)]
enum Answer {
    Records { found: Vec<u64>, complete: bool },
    Trimmed { first: u64 },
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
    log: Vec<Entry>,
    operations: Vec<Operation>,
    /// Time at which line 0's token goes to line 1.
    hand_over: Option<u64>,
}

impl Case {
    /// Records that are or were visible after so many entries, with their tags.
    fn records(&self, entries: usize) -> impl Iterator<Item = (u64, [bool; 2])> {
        self.log[..entries].iter().flat_map(|entry| match entry {
            Entry::Batch { first, tagged } => (*first..).zip(tagged.iter().copied()).collect::<Vec<_>>(),
            Entry::Trim { .. } => Vec::new(),
        })
    }

    fn has(tagged: [bool; 2], tag: usize) -> bool {
        tag == 0 || tagged[tag - 1]
    }

    fn own_point(&self, entries: usize, tag: usize) -> u64 {
        let points = self.log[..entries].iter().filter_map(|entry| match entry {
            Entry::Trim { tag: of, first, next } if *of == tag => Some(*first.min(next)),
            _ => None,
        });
        points.max().unwrap_or(0)
    }

    fn point(&self, entries: usize, tag: usize) -> u64 {
        self.own_point(entries, tag).max(self.own_point(entries, 0))
    }

    fn tail(&self, entries: usize, tag: usize) -> u64 {
        let last = self.records(entries).filter(|(_, tagged)| Case::has(*tagged, tag)).last();
        last.map_or(0, |(seqnum, _)| seqnum).max(self.point(entries, tag).saturating_sub(1))
    }

    /// What reads of the tag find.
    fn stream(&self, entries: usize, tag: usize) -> Vec<u64> {
        let (point, own) = (self.point(entries, tag), [1, 2].map(|tag| self.own_point(entries, tag)));
        let is_dead =
            |seqnum: u64, tagged: [bool; 2]| tagged != [false; 2] && (0..2).all(|at| !tagged[at] || seqnum < own[at]);
        let here = self.records(entries).filter(|(seqnum, tagged)| {
            Case::has(*tagged, tag) && *seqnum >= point && (tag != 0 || !is_dead(*seqnum, *tagged))
        });
        here.map(|(seqnum, _)| seqnum).collect()
    }

    /// What a look at one moment answers: the records from a cursor on, or nothing, for it was trimmed.
    fn look(&self, entries: usize, tag: usize, backward: bool, cursor: u64) -> Option<Vec<u64>> {
        if cursor < self.point(entries, tag) {
            return None;
        }
        let mut found = self.stream(entries, tag);
        found.retain(|seqnum| if backward { *seqnum <= cursor } else { *seqnum >= cursor });
        if backward {
            found.reverse();
        }
        Some(found)
    }

    fn fingerprint(&self, seqnum: u64) -> Fingerprint {
        let known = self.records(self.log.len()).any(|(known, _)| known == seqnum);
        Fingerprint(if known { seqnum * 10 } else { u64::MAX })
    }

    /// Where the operation may have ended, when it began to look at `least` and the log is at `now`.
    fn ends(&self, call: &Call, least: usize, now: usize) -> Vec<usize> {
        let at = |is: &dyn Fn(usize) -> bool| (least..=now).filter(|entries| is(*entries)).collect();
        match call {
            Call::Append { .. } => Vec::new(),
            Call::FailedAppend { expected, tail } => {
                at(&|entries| self.tail(entries, CONDITION) == *tail && tail > expected)
            }
            Call::Tail { tag, tail, .. } => at(&|entries| self.tail(entries, *tag) == *tail),
            Call::Read { tag, from, answer: Answer::Trimmed { first }, .. } => {
                at(&|entries| self.point(entries, *tag) == *first && first > from)
            }
            Call::Read { tag, backward, from, answer: Answer::Records { found, complete }, .. } => {
                self.pages(*tag, *backward, *from, found, *complete, least..=now)
            }
            Call::Trim { tag, first, point } => at(&|entries| {
                let of_log = self.log[least..entries].iter().any(
                    |entry| matches!(entry, Entry::Trim { tag: of, first: asked, .. } if of == tag && asked >= first),
                );
                point.is_none_or(|point| self.point(entries, *tag) == point && (point >= *first || of_log))
            }),
        }
    }

    /// Where the last page of a read may be: each is at or after the one before.
    fn pages(
        &self,
        tag: usize,
        backward: bool,
        cursor: u64,
        found: &[u64],
        complete: bool,
        places: std::ops::RangeInclusive<usize>,
    ) -> Vec<usize> {
        let mut ends = Vec::new();
        for place in places.clone() {
            let Some(wanted) = self.look(place, tag, backward, cursor) else { continue };
            if wanted.starts_with(found) && (!complete || wanted.len() == found.len()) {
                ends.push(place);
            }
            for first in 1..=found.len() {
                let next = if backward { found[first - 1].checked_sub(1) } else { Some(found[first - 1] + 1) };
                if let Some(next) = next.filter(|_| wanted.starts_with(&found[..first])) {
                    ends.extend(self.pages(tag, backward, next, &found[first..], complete, place..=*places.end()));
                }
            }
        }
        ends.sort_unstable();
        ends.dedup();
        ends
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
    /// How many entries of the log there are.
    reached: usize,
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

    /// The next entry comes into the log now.
    fn commit_one(&self, at: usize, state: &State) -> bool {
        let Some(next) = self.case.log.get(state.reached) else { return false };
        let allowed = self.case.operations.iter().zip(&state.invoked).any(|(operation, invoked)| {
            *invoked
                && match (&operation.call, next) {
                    (Call::Append { entry, expected, .. }, _) if *entry == state.reached => {
                        expected.is_none_or(|expected| self.case.tail(state.reached, CONDITION) <= expected)
                    }
                    (Call::Trim { tag, first, .. }, Entry::Trim { tag: of, first: asked, .. }) => {
                        tag == of && first == asked
                    }
                    _ => false,
                }
        });
        allowed && self.possible(at, &State { reached: state.reached + 1, ..state.clone() })
    }

    fn take_event(&self, at: usize, state: &State) -> bool {
        let Some(event) = self.events.get(at) else { return state.reached == self.case.log.len() };
        let mut next = state.clone();
        match *event {
            Event::HandOver => next.seen[1] = next.seen[1].max(next.seen[0]),
            Event::Invoked(id) => {
                let operation = &self.case.operations[id];
                let of_all = match operation.call {
                    Call::Append { .. } | Call::FailedAppend { .. } | Call::Trim { .. } => true,
                    Call::Tail { linearizable, .. } | Call::Read { linearizable, .. } => linearizable,
                };
                next.invoked[id] = true;
                next.least[id] = state.seen[operation.line as usize].max(if of_all { state.reached } else { 0 });
            }
            Event::Returned(id) => {
                let operation = &self.case.operations[id];
                let line = operation.line as usize;
                if let Call::Append { entry, .. } = operation.call {
                    next.seen[line] = next.seen[line].max(entry + 1);
                    return state.reached > entry && self.possible(at + 1, &next);
                }
                // The place it was answered at: any from the least one to now.
                return self.case.ends(&operation.call, state.least[id], state.reached).into_iter().any(|place| {
                    let mut next = next.clone();
                    next.seen[line] = next.seen[line].max(place);
                    self.possible(at + 1, &next)
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
        let unknown =
            matches!(operation.call, Call::Append { acknowledged: false, .. } | Call::Trim { point: None, .. });
        if !unknown {
            events.push((operation.returned, Event::Returned(id)));
        }
    }
    events.extend(case.hand_over.map(|at| (at, Event::HandOver)));
    events.sort();
    let operations = case.operations.len();
    let start = State { reached: 0, invoked: vec![false; operations], least: vec![0; operations], seen: [0; 2] };
    let search = Search { case, events: events.into_iter().map(|(_, event)| event).collect() };
    search.possible(0, &start)
}

fn exact(case: &Case) -> bool {
    let mut history = History::new(1);
    let mut log = FinalLog::new();
    for entry in &case.log {
        match entry {
            Entry::Batch { first, tagged } => {
                for (seqnum, tagged) in (*first..).zip(tagged) {
                    let found = Found { seqnum: SeqNum(seqnum), fingerprint: case.fingerprint(seqnum) };
                    let tags: Vec<Tag> = (0..2).filter(|at| tagged[*at]).map(|at| TAGS[at + 1]).collect();
                    log.push(LOGBOOK, found, &tags).expect("in order");
                }
            }
            Entry::Trim { tag, first, next } => log.push_trim(LOGBOOK, TAGS[*tag], SeqNum(*first), SeqNum(*next)),
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
    match &operation.call {
        Call::Append { entry, expected, acknowledged } => {
            let Entry::Batch { first, tagged } = &case.log[*entry] else { panic!("appends are of batches") };
            let fingerprints: Vec<Fingerprint> =
                (*first..).take(tagged.len()).map(|seqnum| case.fingerprint(seqnum)).collect();
            let condition = expected.map(|expected| (TAGS[CONDITION], SeqNum(expected)));
            let id = history.append(invoked, line, LOGBOOK, &fingerprints, condition);
            if *acknowledged {
                history.acknowledged(returned, id, SeqNum(*first));
            }
        }
        Call::FailedAppend { expected, tail } => {
            let condition = Some((TAGS[CONDITION], SeqNum(*expected)));
            let id = history.append(invoked, line, LOGBOOK, &[Fingerprint(1_000_000 + nth)], condition);
            history.condition_failed(returned, id, SeqNum(*tail));
        }
        Call::Tail { tag, tail, linearizable } => {
            let id = history.check_tail(invoked, line, LOGBOOK, TAGS[*tag], *linearizable);
            history.tail(returned, id, (*tail != 0).then_some(SeqNum(*tail)));
        }
        Call::Read { tag, backward, from, answer, linearizable } => {
            let range = match backward {
                false => Range::next(LOGBOOK, TAGS[*tag], SeqNum(*from)),
                true => Range::prev(LOGBOOK, TAGS[*tag], SeqNum(*from)),
            };
            assert_eq!(range.direction == Direction::Backward, *backward);
            let id = history.read(invoked, line, range, *linearizable);
            match answer {
                Answer::Records { found, complete } => {
                    let found = found
                        .iter()
                        .map(|seqnum| Found { seqnum: SeqNum(*seqnum), fingerprint: case.fingerprint(*seqnum) });
                    history.found(returned, id, found.collect::<Vec<_>>(), *complete);
                }
                Answer::Trimmed { first } => history.found_trimmed(returned, id, SeqNum(*first)),
            }
        }
        Call::Trim { tag, first, point } => {
            let id = history.trim(invoked, line, LOGBOOK, TAGS[*tag], SeqNum(*first));
            if let Some(point) = point {
                history.trimmed(returned, id, SeqNum(*point));
            }
        }
    }
}

/// Small numbers to make a case of: its shape first, then what goes wrong.
#[derive(Clone, Debug)]
struct Seeds {
    entries: Vec<EntrySeed>,
    times: Vec<(u64, u64)>,
    calls: Vec<CallSeed>,
    conditions: Vec<Option<u64>>,
    unknown: Vec<bool>,
    /// What an answered trim is told, off by this.
    points: Vec<i64>,
    hand_over: Option<u64>,
    missing: bool,
}

#[derive(Clone, Debug)]
struct EntrySeed {
    gap: u64,
    tagged: Vec<[bool; 2]>,
    /// A trim of this tag instead of a batch.
    trim: Option<(usize, u64)>,
}

/// A call that is answered as after `seen` entries, its last page as after `later` more.
#[derive(Clone, Debug)]
struct CallSeed {
    kind: u8,
    seen: usize,
    later: usize,
    from: u64,
    tag: usize,
    line: u32,
    page: usize,
}

const ENTRIES_MAX: usize = 4;
const CALLS_MAX: usize = 4;

fn seeds() -> impl Strategy<Value = Seeds> {
    let first = prop_oneof![1u64..12, 1u64..12, Just(u64::MAX)];
    let trim = prop::option::weighted(0.45, (0usize..3, first));
    let entry = (0u64..2, prop::collection::vec(any::<[bool; 2]>(), 1..3), trim)
        .prop_map(|(gap, tagged, trim)| EntrySeed { gap, tagged, trim });
    let call = (0u8..6, 0usize..5, 0usize..3, 0u64..12, 0usize..3, 0u32..2, 0usize..3)
        .prop_map(|(kind, seen, later, from, tag, line, page)| CallSeed { kind, seen, later, from, tag, line, page });
    (
        prop::collection::vec(entry, 0..=ENTRIES_MAX),
        prop::collection::vec((0u64..24, 1u64..10), ENTRIES_MAX + CALLS_MAX),
        prop::collection::vec(call, 0..CALLS_MAX),
        prop::collection::vec(prop::option::weighted(0.3, 0u64..10), ENTRIES_MAX),
        prop::collection::vec(prop::bool::weighted(0.2), ENTRIES_MAX),
        prop::collection::vec(prop_oneof![8 => Just(0i64), 1 => Just(-1), 1 => Just(1)], ENTRIES_MAX),
        prop::option::weighted(0.3, 0u64..24),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(entries, times, calls, conditions, unknown, points, hand_over, missing)| Seeds {
            entries,
            times,
            calls,
            conditions,
            unknown,
            points,
            hand_over,
            missing,
        })
}

fn case(seeds: Seeds) -> Case {
    let mut case = Case { log: Vec::new(), operations: Vec::new(), hand_over: seeds.hand_over };
    let mut next = 1;
    for entry in &seeds.entries {
        next += entry.gap;
        case.log.push(match entry.trim {
            Some((tag, first)) => Entry::Trim { tag, first, next },
            None => Entry::Batch { first: next, tagged: entry.tagged.clone() },
        });
        next += if entry.trim.is_none() { entry.tagged.len() as u64 } else { 0 };
    }
    let time = |at: usize| (seeds.times[at].0 * 2, seeds.times[at].0 * 2 + seeds.times[at].1);
    for at in 0..case.log.len() - usize::from(seeds.missing && !case.log.is_empty()) {
        let (invoked, returned) = time(at);
        let call = match case.log[at] {
            Entry::Batch { .. } => {
                let (expected, acknowledged) = (seeds.conditions[at], !seeds.unknown[at]);
                Call::Append { entry: at, expected, acknowledged }
            }
            Entry::Trim { tag, first, .. } => {
                let point = case.point(at + 1, tag).saturating_add_signed(seeds.points[at]);
                Call::Trim { tag, first, point: (!seeds.unknown[at]).then_some(point) }
            }
        };
        case.operations.push(Operation { line: at as u32 % 2, invoked, returned, call });
    }
    for (nth, seed) in seeds.calls.iter().enumerate() {
        let (invoked, returned) = time(ENTRIES_MAX + nth);
        let call = call(&case, seed);
        case.operations.push(Operation { line: seed.line, invoked, returned, call });
    }
    case
}

/// A call with the answer of some prefix of the log, so that histories are right often enough.
fn call(case: &Case, seed: &CallSeed) -> Call {
    let (tag, from, linearizable) = (seed.tag, seed.from, seed.from.is_multiple_of(2));
    let seen = seed.seen.min(case.log.len());
    let tail = |tag| case.tail(seen, tag);
    match seed.kind {
        0 => Call::FailedAppend { expected: from / 2, tail: tail(CONDITION) },
        1 => Call::Tail { tag, tail: tail(tag), linearizable },
        kind => {
            let backward = kind < 4;
            let Some(mut found) = case.look(seen, tag, backward, from) else {
                let answer = Answer::Trimmed { first: case.point(seen, tag) };
                return Call::Read { tag, backward, from, answer, linearizable };
            };
            let mut complete = from % 3 != 0;
            if !complete {
                found.truncate(1);
            }
            if seed.page > 0 && found.len() >= seed.page {
                // What comes after the first page is as it was later.
                found.truncate(seed.page);
                let last = found[seed.page - 1];
                let cursor = if backward { last - 1 } else { last + 1 };
                let later = (seen + seed.later).min(case.log.len());
                match case.look(later, tag, backward, cursor) {
                    Some(rest) => found.extend(rest),
                    // Told of a trim, a client has no more to say; now and then it says it all the same.
                    None => complete &= seed.later == 2,
                }
            }
            Call::Read { tag, backward, from, answer: Answer::Records { found, complete }, linearizable }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

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
