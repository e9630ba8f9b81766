//! The index under random appends, trims and checkpoints, against a list of records that is searched
//! from end to end.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sealog_engine::index::checkpoint::{Loader, Writer};
use sealog_engine::index::{Applied, Index};
use sealog_engine::order::Order;
use sealog_engine::sessions::Verdict;
use sealog_protocol::batch::{Batch, BatchHead, NewRecord, write_batch};
use sealog_protocol::logspace::Logspace;
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{ClusterId, LogBookId, Place, RequestNumber, SeqNum, SessionId, Tag, ViewNumber};

struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[derive(Default)]
struct Model {
    records: BTreeMap<SeqNum, (LogBookId, BTreeSet<Tag>)>,
    points: BTreeMap<(LogBookId, Tag), SeqNum>,
    /// The last visible record ever, of each tag: trims of other tags do not take it away.
    last: BTreeMap<(LogBookId, Tag), SeqNum>,
}

impl Model {
    fn first(&self, logbook: LogBookId, tag: Tag) -> SeqNum {
        let point = |tag| self.points.get(&(logbook, tag)).copied().unwrap_or_default();
        point(tag).max(point(Tag::ALL))
    }

    fn lives(&self, seqnum: SeqNum) -> bool {
        let (logbook, tags) = &self.records[&seqnum];
        seqnum >= self.first(*logbook, Tag::ALL)
            && (tags.is_empty() || tags.iter().any(|tag| seqnum >= self.first(*logbook, *tag)))
    }

    fn read(&self, logbook: LogBookId, tag: Tag) -> Vec<SeqNum> {
        let first = self.first(logbook, tag);
        let tagged = |tags: &BTreeSet<Tag>| tag == Tag::ALL || tags.contains(&tag);
        let records = self.records.iter().filter(|(_, (of, tags))| *of == logbook && tagged(tags));
        records.map(|(seqnum, _)| *seqnum).filter(|seqnum| *seqnum >= first && self.lives(*seqnum)).collect()
    }

    fn tail(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        let last = self.last.get(&(logbook, tag)).copied().unwrap_or_default();
        Some(last.max(self.first(logbook, tag).prev())).filter(|tail| *tail > SeqNum::MIN)
    }
}

fn frame(logbook: LogBookId, request: u64, tags: &[Tag], condition: Option<(Tag, SeqNum)>) -> Vec<u8> {
    let head = BatchHead {
        logbook,
        session: SessionId(1),
        request: RequestNumber(request),
        lowest_unanswered: RequestNumber(request),
        time_ms: 0,
        condition,
    };
    let mut frame = Vec::new();
    write_batch(&mut frame, 0, &head, &[NewRecord { tags, payload: b"" }]).expect("a small batch");
    frame
}

fn open_session(index: &mut Index) {
    let head = BatchHead {
        logbook: LogBookId::SYSTEM,
        session: SessionId::NONE,
        request: RequestNumber(0),
        lowest_unanswered: RequestNumber(0),
        time_ms: 0,
        condition: None,
    };
    let mut frame = Vec::new();
    write_batch(&mut frame, 0, &head, &[NewRecord { tags: &[Tag::SYSTEM_SESSION], payload: b"" }]).expect("small");
    index.apply(SeqNum(1), Batch::parse(&frame).expect("whole").metadata, |_, _| {});
}

const LOGBOOKS: u64 = 3;
const TAGS: u64 = 5;

fn compare(index: &Index, model: &Model, swept: bool, what: &str) {
    for logbook in (1..=LOGBOOKS).map(LogBookId) {
        for tag in (0..=TAGS).map(Tag) {
            let key = (logbook, tag);
            assert_eq!(index.first(logbook, tag), model.first(logbook, tag), "{what}: first of {key:?}");
            assert_eq!(index.tail(logbook, tag), model.tail(logbook, tag), "{what}: tail of {key:?}");
            if tag == Tag::ALL && !swept {
                // Which records have died by their tags is known after the sweep.
                continue;
            }
            let expected = model.read(logbook, tag);
            let (mut forward, mut backward) = (Vec::new(), Vec::new());
            assert!(index.forward(key, (SeqNum::MIN, SeqNum::MAX), usize::MAX, &mut forward));
            assert_eq!(forward, expected, "{what}: records of {key:?}");
            assert!(index.backward(key, (SeqNum::MAX, SeqNum::MIN), usize::MAX, &mut backward));
            backward.reverse();
            assert_eq!(backward, expected, "{what}: records of {key:?}, backward");
        }
        if swept {
            assert_eq!(index.kept(logbook), model.read(logbook, Tag::ALL).len() as u64, "{what}: kept of {logbook:?}");
        }
    }
    if swept {
        for (seqnum, (logbook, _)) in &model.records {
            assert_eq!(index.lives(*logbook, *seqnum), model.lives(*seqnum), "{what}: life of {seqnum:?}");
        }
    }
}

/// What changes an index.
#[derive(Clone)]
enum Change {
    Trim(LogBookId, Tag, SeqNum),
    Append(SeqNum, Vec<u8>),
}

impl Change {
    fn apply(&self, index: &mut Index) -> Option<Applied> {
        match self {
            Change::Trim(logbook, tag, first) => {
                index.trim(*logbook, *tag, *first);
                None
            }
            Change::Append(seqnum, frame) => {
                Some(index.apply(*seqnum, Batch::parse(frame).expect("whole").metadata, |_, _| {}))
            }
        }
    }
}

/// A checkpoint under way, and what has changed since it began.
struct Checkpoint {
    writer: Writer,
    parts: Vec<Bytes>,
    changes: Vec<Change>,
}

/// The index that the parts and the changes since make.
fn loaded(checkpoint: &Checkpoint, seed: u64) -> Index {
    let mut loader = Loader::new(&ClusterSettings::new(ClusterId(1), 1), seed + 1);
    for part in &checkpoint.parts {
        loader.take(part).expect("a whole part");
    }
    let mut index = loader.finish().expect("it has a head").index;
    for change in &checkpoint.changes {
        change.apply(&mut index);
    }
    while !index.is_swept() {
        index.sweep(9, &mut Vec::new());
    }
    index
}

fn run(seed: u64, steps: u64) {
    let mut rng = Rng(seed);
    let mut index = Index::new(&ClusterSettings::new(ClusterId(1), 1), seed);
    open_session(&mut index);
    let mut model = Model::default();
    let mut next = SeqNum::new(ViewNumber(1), 0);
    let (mut dying, mut checkpoint) = (Vec::new(), None::<Checkpoint>);
    for step in 1..=steps {
        let what = format!("seed {seed} step {step}");
        let logbook = LogBookId(1 + rng.below(LOGBOOKS));
        let change = match rng.below(20) {
            0 => {
                let tag = Tag(rng.below(TAGS + 1));
                // Behind the tail, before the last point: all of it is asked for.
                let first = SeqNum(next.0.saturating_sub(rng.below(100)));
                let point = model.points.entry((logbook, tag)).or_default();
                *point = first.max(*point);
                Change::Trim(logbook, tag, first)
            }
            1 => {
                index.sweep(1 + rng.below(40) as usize, &mut dying);
                continue;
            }
            2 => {
                next = SeqNum(next.0 + rng.below(3));
                continue;
            }
            3 => {
                if let Some(checkpoint) = &mut checkpoint {
                    let (part, last) = checkpoint.writer.next_part(&index, &Order::default());
                    checkpoint.parts.push(part);
                    if last {
                        index.thaw();
                        compare(&loaded(checkpoint, seed), &model, true, &what);
                    }
                }
                if checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.writer.is_done()) {
                    let place = Place { view: ViewNumber(1), index: step };
                    let logspace = Logspace::restored(next, place, BTreeMap::new(), None);
                    let writer = Writer::begin(&mut index, &logspace, 64);
                    checkpoint = Some(Checkpoint { writer, parts: Vec::new(), changes: Vec::new() });
                }
                continue;
            }
            _ => {
                let tags: Vec<Tag> = (0..rng.below(4)).map(|_| Tag(1 + rng.below(TAGS))).collect();
                let condition = (rng.below(3) == 0).then(|| {
                    let tag = Tag(rng.below(TAGS + 1));
                    (tag, SeqNum(model.tail(logbook, tag).unwrap_or_default().0 + 1 - rng.below(2)).prev())
                });
                let tail = condition.and_then(|(tag, _)| model.tail(logbook, tag)).unwrap_or_default();
                if condition.is_none_or(|(_, expected)| tail <= expected) {
                    for tag in tags.iter().copied().chain([Tag::ALL]) {
                        model.last.insert((logbook, tag), next);
                    }
                    model.records.insert(next, (logbook, tags.iter().copied().collect()));
                }
                Change::Append(next, frame(logbook, step, &tags, condition))
            }
        };
        if let Some(applied) = change.apply(&mut index) {
            let expected = match model.records.contains_key(&next) {
                true => Verdict::Visible { seqnum: next },
                false => match applied {
                    Applied::Verdict(failed @ Verdict::ConditionFailed { .. }) => failed,
                    other => panic!("{what}: {other:?}"),
                },
            };
            assert_eq!(applied, Applied::Verdict(expected), "{what}");
            next = next.next();
        }
        checkpoint.iter_mut().for_each(|checkpoint| checkpoint.changes.push(change.clone()));
        if step % 16 == 0 {
            compare(&index, &model, index.is_swept() && checkpoint.is_none(), &what);
        }
    }
    index.thaw();
    while !index.is_swept() {
        index.sweep(7, &mut dying);
    }
    compare(&index, &model, true, &format!("seed {seed} at the end"));
    let died: Vec<SeqNum> = model.records.keys().copied().filter(|seqnum| !model.lives(*seqnum)).collect();
    for seqnum in &died {
        assert!(dying.iter().any(|told| (told.first..=told.last).contains(seqnum)), "{seqnum:?} died in silence");
    }
    let told: u64 = dying.iter().map(|told| told.records).sum();
    assert_eq!(told, died.len() as u64, "each is told once");
}

#[test]
fn the_index_agrees_with_a_list_of_records() {
    for seed in 0..60 {
        run(seed, 1_500);
    }
}

/// A LogBook with so many records that died by their tags that its list is rid of them, while more come.
#[test]
fn a_long_list_is_rid_of_its_dead() {
    let mut index = Index::new(&ClusterSettings::new(ClusterId(1), 1), 1);
    open_session(&mut index);
    let (logbook, mut next) = (LogBookId(7), SeqNum::new(ViewNumber(1), 0));
    let mut dying = Vec::new();
    let mut bytes = 0;
    for request in 1..=200_000u64 {
        let frame = frame(logbook, request, &[Tag(1 + request % 10)], None);
        index.apply(next, Batch::parse(&frame).expect("whole").metadata, |_, _| {});
        next = next.next();
        if request % 1_000 == 0 {
            // All tags but one go.
            for tag in 1..10 {
                index.trim(logbook, Tag(tag), next);
            }
        }
        index.sweep(16, &mut dying);
        if request == 50_000 {
            bytes = index.bytes();
        }
    }
    while !index.is_swept() {
        index.sweep(100, &mut dying);
    }
    assert_eq!(index.kept(logbook), 20_000);
    let mut found = Vec::new();
    assert!(index.forward((logbook, Tag::ALL), (SeqNum::MIN, SeqNum::MAX), usize::MAX, &mut found));
    assert_eq!(found.len(), 20_000);
    assert!(index.bytes() < bytes * 2, "{} bytes for 20,000 records, {bytes} for 5,000", index.bytes());
    assert_eq!(index.tail(logbook, Tag::ALL), Some(next.prev()));
}
