//! Each promise of the log broken once, on purpose: the checker objects to each, and says which.

use sealog_history::{FinalLog, Fingerprint, Found, History, Line, Range, Report, Timestamp, Violation, check};
use sealog_protocol::{LogBookId, SeqNum, Tag};

const BOOK: LogBookId = LogBookId(7);
const TAG: Tag = Tag(3);
/// On the same records as TAG.
const OTHER: Tag = Tag(4);
const A: Line = Line(0);
const B: Line = Line(1);

/// A right history of two lines, and its log: records 10, 11+12 (a batch), 13; TAG and OTHER on all but 12.
struct Plant {
    history: History,
    log: Vec<(u64, u64, bool)>,
    /// Tag, first SeqNum kept, next SeqNum where it is in the log.
    trims: Vec<(Tag, u64, u64)>,
    now: u64,
}

impl Plant {
    fn new() -> Plant {
        let mut plant = Plant {
            history: History::new(1),
            log: vec![(10, 100, true), (11, 110, true), (12, 120, false), (13, 130, true)],
            trims: Vec::new(),
            now: 0,
        };
        plant.append(A, &[100], None, Some(10));
        plant.append(B, &[110, 120], Some((TAG, SeqNum(10))), Some(11));
        plant.append(A, &[130], None, Some(13));
        plant
    }

    fn tick(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp(self.now)
    }

    fn append(&mut self, line: Line, records: &[u64], condition: Option<(Tag, SeqNum)>, seqnum: Option<u64>) {
        let records: Vec<Fingerprint> = records.iter().copied().map(Fingerprint).collect();
        let now = self.tick();
        let id = self.history.append(now, line, BOOK, &records, condition);
        if let Some(seqnum) = seqnum {
            let now = self.tick();
            self.history.acknowledged(now, id, SeqNum(seqnum));
        }
    }

    fn failed(&mut self, line: Line, record: u64, expected: u64, tail: u64) {
        let now = self.tick();
        let id = self.history.append(now, line, BOOK, &[Fingerprint(record)], Some((TAG, SeqNum(expected))));
        let now = self.tick();
        self.history.condition_failed(now, id, SeqNum(tail));
    }

    fn read(&mut self, line: Line, range: Range, linearizable: bool, found: &[(u64, u64)], complete: bool) {
        let now = self.tick();
        let id = self.history.read(now, line, range, linearizable);
        let found = found.iter().map(|(seqnum, content)| found_record(*seqnum, *content));
        let now = self.tick();
        self.history.found(now, id, found, complete);
    }

    fn tail(&mut self, line: Line, linearizable: bool, tail: Option<u64>) {
        let now = self.tick();
        let id = self.history.check_tail(now, line, BOOK, TAG, linearizable);
        let now = self.tick();
        self.history.tail(now, id, tail.map(SeqNum));
    }

    /// A trim that is in the log where the next SeqNum is 14, and was told of a trim point.
    fn trim(&mut self, line: Line, tag: Tag, first: u64, point: u64) {
        let now = self.tick();
        let id = self.history.trim(now, line, BOOK, tag, SeqNum(first));
        let now = self.tick();
        self.history.trimmed(now, id, SeqNum(point));
        self.trims.push((tag, first, 14));
    }

    fn told_trimmed(&mut self, line: Line, range: Range, first: u64) {
        let now = self.tick();
        let id = self.history.read(now, line, range, true);
        let now = self.tick();
        self.history.found_trimmed(now, id, SeqNum(first));
    }

    fn check(&self) -> Result<Report, Violation> {
        check(&self.history, &mut self.final_log()?)
    }

    fn final_log(&self) -> Result<FinalLog, Violation> {
        let mut log = FinalLog::new();
        for (seqnum, content, tagged) in &self.log {
            log.push(BOOK, found_record(*seqnum, *content), if *tagged { &[TAG, OTHER] } else { &[] })?;
        }
        for (tag, first, next) in &self.trims {
            log.push_trim(BOOK, *tag, SeqNum(*first), SeqNum(*next));
        }
        Ok(log)
    }
}

fn found_record(seqnum: u64, content: u64) -> Found {
    Found { seqnum: SeqNum(seqnum), fingerprint: Fingerprint(content) }
}

fn all() -> Range {
    Range::next(BOOK, Tag::ALL, SeqNum::MIN)
}

fn of_tag(tag: Tag, from: u64) -> Range {
    Range::next(BOOK, tag, SeqNum(from))
}

/// Plants one bug, and expects one kind of violation.
macro_rules! planted {
    ($($name:ident: $plant:ident => $bug:block, $violation:pat => ();)*) => {$(
        #[test]
        fn $name() {
            let mut $plant = Plant::new();
            $bug
            let checked = $plant.check();
            assert!(matches!(checked, Err($violation)), "{checked:?}");
        }
    )*};
}

planted! {
    a_lost_acknowledgement: plant => { plant.log.pop(); }, Violation::Lost { seqnum: SeqNum(13), .. } => ();
    a_phantom: plant => { plant.log.push((14, 140, false)); }, Violation::Phantom { seqnum: SeqNum(14), .. } => ();
    a_duplicate: plant => { plant.log.push((14, 130, true)); },
        Violation::Duplicate { first: SeqNum(13), second: SeqNum(14), .. } => ();
    another_place_than_acknowledged: plant => { plant.log[3].0 = 14; }, Violation::Misplaced { .. } => ();
    a_scan_out_of_order: plant => { plant.log.swap(0, 1); }, Violation::ScanOutOfOrder { .. } => ();
    a_batch_without_its_end: plant => { plant.log.remove(2); }, Violation::BatchSplit { record: 1, .. } => ();
    a_batch_without_its_beginning: plant => { plant.log.remove(1); }, Violation::BatchSplit { record: 1, .. } => ();
    a_batch_torn_apart: plant => { plant.log[3].1 = 120; plant.log[2].1 = 130; }, Violation::BatchSplit { .. } => ();
    a_condition_ignored: plant => {
        plant.append(A, &[140], Some((TAG, SeqNum(12))), None);
        plant.log.push((14, 140, false));
    }, Violation::ConditionIgnored { tail: SeqNum(13), .. } => ();
    a_condition_of_no_record_ever_ignored: plant => {
        plant.append(A, &[140], Some((TAG, SeqNum::MIN)), Some(14));
        plant.log.push((14, 140, false));
    }, Violation::ConditionIgnored { .. } => ();
    a_condition_that_held_and_was_refused: plant => { plant.failed(A, 140, 13, 13); }, Violation::ConditionHeld { .. } => ();
    a_condition_refused_by_a_tail_of_the_past: plant => { plant.failed(B, 140, 10, 11); },
        Violation::RealTime { forced: SeqNum(13), .. } => ();
    a_condition_refused_and_visible: plant => {
        plant.failed(A, 140, 12, 13);
        plant.log.push((14, 140, false));
    }, Violation::RefusedVisible { .. } => ();
    a_stale_linearizable_tail: plant => { plant.tail(B, true, Some(11)); }, Violation::RealTime { .. } => ();
    a_stale_tail_after_own_writes: plant => { plant.tail(A, false, Some(11)); }, Violation::SessionOrder { .. } => ();
    a_tail_that_is_no_record: plant => { plant.tail(A, false, Some(12)); }, Violation::WrongTail { .. } => ();
    a_stale_read_after_a_hand_over: plant => {
        let now = plant.tick();
        plant.history.hand_over(now, A, B);
        plant.tail(B, false, Some(11));
    }, Violation::SessionOrder { .. } => ();
    reads_that_go_back_in_time: plant => {
        let new = Line(2);
        plant.tail(new, false, Some(13));
        plant.tail(new, false, Some(10));
    }, Violation::SessionOrder { .. } => ();
    a_linearizable_read_that_its_session_forgets: plant => {
        let new = Line(2);
        plant.read(new, Range { until: SeqNum(10), ..all() }, true, &[(10, 100)], true);
        plant.tail(new, false, Some(10));
    }, Violation::SessionOrder { seen: SeqNum(13), .. } => ();
    a_read_with_a_gap: plant => { plant.read(B, all(), false, &[(10, 100), (12, 120)], false); },
        Violation::WrongRecord { at: 1, .. } => ();
    a_read_of_another_content: plant => { plant.read(B, all(), false, &[(10, 110)], false); },
        Violation::WrongContent { .. } => ();
    a_read_of_another_tag: plant => {
        plant.read(B, Range::next(BOOK, TAG, SeqNum(12)), false, &[(12, 120)], false);
    }, Violation::WrongRecord { .. } => ();
    a_backward_read_with_a_gap: plant => {
        plant.read(B, Range::prev(BOOK, Tag::ALL, SeqNum::MAX), false, &[(13, 130), (11, 110)], false);
    }, Violation::WrongRecord { at: 1, .. } => ();
    a_backward_read_that_ends_early: plant => {
        plant.read(B, Range::prev(BOOK, Tag::ALL, SeqNum::MAX), false, &[(13, 130), (12, 120)], true);
    }, Violation::WrongRecord { at: 2, .. } => ();
    half_a_batch_seen: plant => { plant.read(Line(2), all(), false, &[(10, 100), (11, 110)], true); },
        Violation::HalfBatch { .. } => ();
    nothing_found_where_something_was: plant => { plant.read(A, Range::next(BOOK, TAG, SeqNum(12)), false, &[], true); },
        Violation::SessionOrder { .. } => ();
    appends_against_real_time: plant => {
        plant.log.push((14, 140, true));
        plant.log.push((15, 150, true));
        plant.append(A, &[150], None, Some(15));
        plant.append(B, &[140], None, Some(14));
    }, Violation::RealTime { .. } => ();
    an_append_seen_before_it_began: plant => {
        plant.log.push((14, 140, true));
        plant.tail(B, false, Some(14));
        plant.append(A, &[140], None, None);
    }, Violation::RealTime { .. } => ();
    a_refused_append_that_is_visible: plant => {
        let now = plant.tick();
        let id = plant.history.append(now, A, BOOK, &[Fingerprint(140)], None);
        plant.history.refused(id);
        plant.log.push((14, 140, true));
    }, Violation::RefusedVisible { .. } => ();
    a_trimmed_record_still_found: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.read(B, of_tag(TAG, 10), true, &[(10, 100), (11, 110), (13, 130)], true);
    }, Violation::RealTime { .. } => ();
    a_trimmed_record_found_by_its_own_session: plant => {
        plant.trim(A, Tag::ALL, 11, 11);
        plant.read(A, of_tag(TAG, 10), false, &[(10, 100)], false);
    }, Violation::SessionOrder { .. } => ();
    a_trimmed_record_found_backward: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.read(B, Range::prev(BOOK, TAG, SeqNum(11)), true, &[(11, 110), (10, 100)], true);
    }, Violation::RealTime { .. } => ();
    a_record_dead_by_all_its_tags_still_found: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.trim(A, OTHER, 12, 12);
        plant.read(B, all(), true, &[(10, 100)], false);
    }, Violation::RealTime { .. } => ();
    a_record_dead_by_one_of_its_tags_skipped: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.read(B, all(), true, &[(11, 110), (12, 120), (13, 130)], true);
    }, Violation::WrongRecord { at: 0, seqnum: SeqNum(11), expected: Some(SeqNum(10)), .. } => ();
    a_record_above_the_point_lost: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.read(B, of_tag(TAG, 11), true, &[(13, 130)], true);
    }, Violation::WrongRecord { at: 0, expected: Some(SeqNum(11)), .. } => ();
    a_record_of_another_tag_lost: plant => {
        plant.trim(A, TAG, 13, 13);
        plant.read(B, of_tag(OTHER, 10), true, &[(13, 130)], true);
    }, Violation::WrongRecord { .. } => ();
    another_tag_trimmed: plant => {
        plant.trim(A, TAG, 13, 13);
        plant.told_trimmed(B, of_tag(OTHER, 10), 13);
    }, Violation::WrongTrimPoint { .. } => ();
    a_record_without_tags_lost_by_the_trim_of_one: plant => {
        plant.trim(A, TAG, 14, 14);
        plant.trim(A, OTHER, 14, 14);
        plant.read(Line(2), all(), true, &[], true);
    }, Violation::RealTime { .. } => ();
    a_trim_point_that_goes_down: plant => {
        plant.trim(A, TAG, 13, 13);
        plant.trim(B, TAG, 11, 11);
    }, Violation::WrongTrimPoint { .. } => ();
    a_trim_point_that_goes_down_for_a_read: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.trim(A, TAG, 13, 13);
        plant.told_trimmed(B, of_tag(TAG, 5), 11);
    }, Violation::RealTime { .. } => ();
    a_trim_beyond_the_next_record: plant => { plant.trim(A, TAG, 100, 100); }, Violation::WrongTrimPoint { .. } => ();
    a_trim_that_reaches_less_than_it_could: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.trim(A, TAG, 100, 11);
    }, Violation::WrongTrimPoint { .. } => ();
    a_trim_answered_by_an_earlier_one_like_it: plant => {
        plant.trim(A, TAG, 100, 14);
        plant.log.push((14, 140, true));
        plant.append(A, &[140], None, Some(14));
        plant.trim(A, TAG, 100, 14);
        plant.trims.pop();
    }, Violation::SessionOrder { seen: SeqNum(14), .. } => ();
    a_read_told_of_a_wrong_trim_point: plant => {
        plant.trim(A, TAG, 12, 12);
        plant.told_trimmed(B, of_tag(TAG, 5), 13);
    }, Violation::WrongTrimPoint { .. } => ();
    a_read_above_the_trim_point_told_of_it: plant => {
        plant.trim(A, TAG, 12, 12);
        plant.told_trimmed(B, of_tag(TAG, 12), 12);
    }, Violation::WrongTrimPoint { .. } => ();
    nothing_found_below_the_trim_point: plant => {
        plant.trim(A, TAG, 14, 14);
        plant.read(Line(2), of_tag(TAG, 5), true, &[], true);
    }, Violation::RealTime { .. } => ();
    a_tail_lowered_by_a_trim: plant => {
        plant.trim(A, Tag::ALL, 14, 14);
        plant.tail(Line(2), true, None);
    }, Violation::RealTime { .. } => ();
    a_tail_that_forgets_the_trim_point: plant => {
        plant.trim(A, Tag(5), 14, 14);
        let now = plant.tick();
        let id = plant.history.check_tail(now, B, BOOK, Tag(5), true);
        let now = plant.tick();
        plant.history.tail(now, id, None);
    }, Violation::RealTime { .. } => ();
    a_condition_decided_against_a_forgotten_tail: plant => {
        plant.trim(A, Tag(5), 14, 14);
        plant.append(A, &[140], Some((Tag(5), SeqNum::MIN)), Some(14));
        plant.log.push((14, 140, false));
    }, Violation::ConditionIgnored { tail: SeqNum(13), .. } => ();
    a_condition_refused_by_the_trim_of_another_tag: plant => {
        plant.trim(A, TAG, 14, 14);
        let now = plant.tick();
        let id = plant.history.append(now, A, BOOK, &[Fingerprint(140)], Some((Tag(5), SeqNum(12))));
        let now = plant.tick();
        plant.history.condition_failed(now, id, SeqNum(13));
    }, Violation::WrongTail { .. } => ();
    a_trim_that_nobody_asked_for: plant => { plant.trims.push((TAG, 11, 14)); }, Violation::PhantomTrim { .. } => ();
    a_trim_in_force_before_it_was_asked_for: plant => {
        let (now, later) = (plant.tick(), Timestamp(100));
        let id = plant.history.read(now, B, of_tag(TAG, 5), false);
        let now = plant.tick();
        plant.history.found_trimmed(now, id, SeqNum(11));
        plant.history.trim(later, A, BOOK, TAG, SeqNum(11));
        plant.trims.push((TAG, 11, 14));
    }, Violation::RealTime { .. } => ();
    a_backward_read_that_takes_a_trim_for_the_end: plant => {
        plant.trim(A, TAG, 14, 14);
        plant.read(Line(2), Range::prev(BOOK, TAG, SeqNum::MAX), false, &[(13, 130)], true);
    }, Violation::TrimmedFound { .. } => ();
    what_was_trimmed_together_with_what_came_later: plant => {
        plant.trim(A, TAG, 11, 11);
        plant.log.push((14, 140, true));
        plant.append(A, &[140], None, Some(14));
        plant.read(Line(2), Range::prev(BOOK, TAG, SeqNum::MAX), false,
            &[(14, 140), (13, 130), (11, 110), (10, 100)], true);
    }, Violation::TrimmedFound { .. } => ();
}

#[test]
fn the_history_with_trims_and_without_a_bug_is_right() {
    let mut plant = Plant::new();
    plant.trim(A, TAG, 11, 11);
    plant.read(B, all(), true, &[(10, 100), (11, 110), (12, 120), (13, 130)], true);
    plant.read(B, of_tag(OTHER, 0), true, &[(10, 100), (11, 110), (13, 130)], true);
    plant.told_trimmed(B, of_tag(TAG, 10), 11);
    plant.read(B, Range::prev(BOOK, TAG, SeqNum::MAX), true, &[(13, 130), (11, 110)], true);
    plant.trim(A, OTHER, 12, 12);
    plant.read(B, all(), true, &[(11, 110), (12, 120), (13, 130)], true);
    // Of the past, which no session of its line forbids.
    plant.read(Line(2), all(), false, &[(10, 100), (11, 110)], false);
    plant.trim(B, TAG, 5, 11);
    plant.trim(B, Tag(5), 1_000, 14);
    plant.tail(B, true, Some(13));
    plant.failed(B, 999, 12, 13);
    plant.trim(B, Tag::ALL, 13, 13);
    plant.told_trimmed(B, all(), 13);
    plant.told_trimmed(B, of_tag(TAG, 12), 13);
    plant.read(B, of_tag(TAG, 13), true, &[(13, 130)], true);
    let report = plant.check().expect("right");
    assert_eq!((report.trims_answered, report.reads_trimmed, report.conditions_failed), (5, 3, 1));
    let log = plant.final_log().expect("in order");
    assert_eq!([TAG, OTHER, Tag(5), Tag(6)].map(|tag| log.trim_point(BOOK, tag).0), [13, 13, 14, 13]);
    assert_eq!(log.compare_scan(BOOK, Tag::ALL, [found_record(13, 130)]), Ok(()));
}

#[test]
fn the_history_without_a_bug_is_right() {
    let mut plant = Plant::new();
    plant.read(B, all(), true, &[(10, 100), (11, 110), (12, 120), (13, 130)], true);
    plant.read(Line(2), Range::prev(BOOK, TAG, SeqNum(12)), false, &[(11, 110), (10, 100)], true);
    plant.tail(Line(3), false, None);
    plant.failed(A, 140, 12, 13);
    plant.append(A, &[150], None, None);
    plant.append(B, &[160], None, None);
    plant.log.push((20, 160, false));
    let report = plant.check().expect("right");
    let expected = Report {
        operations: 9,
        appends_acknowledged: 3,
        conditions_failed: 1,
        appends_unknown: 2,
        appends_unknown_visible: 1,
        reads_answered: 3,
        records_found: 6,
        records_logged: 5,
        ..Report::default()
    };
    assert_eq!(report, expected);
}

#[test]
fn scans_that_differ_are_noticed() {
    let log = Plant::new().final_log().expect("in order");
    let scan = [found_record(10, 100), found_record(11, 110), found_record(13, 130)];
    assert_eq!(log.compare_scan(BOOK, TAG, scan), Ok(()));
    for wrong in [&scan[..2], &scan[1..], &[scan[0], scan[2]], &[scan[0], found_record(11, 111), scan[2]]] {
        let compared = log.compare_scan(BOOK, TAG, wrong.iter().copied());
        assert!(matches!(compared, Err(Violation::ScansDiffer { .. })), "{wrong:?}: {compared:?}");
    }
    assert!(log.compare_scan(BOOK, Tag::ALL, scan).is_err());
    assert_eq!(log.compare_scan(LogBookId(8), TAG, []), Ok(()));
}

#[test]
fn seqnums_are_unique_in_a_logspace() {
    let mut log = FinalLog::new();
    log.push(BOOK, found_record(1, 1), &[]).expect("the first");
    log.push(LogBookId(8), found_record(1, 2), &[]).expect("the first of its LogBook");
    assert!(matches!(check(&History::new(1), &mut log), Err(Violation::SeqNumTwice { .. })));
}
