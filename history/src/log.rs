//! The log as it is in the end: what a scan of every LogBook found, and what was trimmed before.

use std::collections::{BTreeMap, BTreeSet};

use sealog_protocol::{LogBookId, LogspaceId, Logspaces, SeqNum, Tag};

use crate::history::{Fingerprint, Found};
use crate::position::{GoneTree, LAST, Position, Trims};
use crate::violation::Violation;

/// A record that was ever visible. 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub seqnum: SeqNum,
    pub fingerprint: Fingerprint,
    pub logbook: LogBookId,
    /// Records of its batch after it. Known when histories have been matched.
    pub batch_after: u16,
}

impl Logged {
    /// SeqNum of the last record of its batch.
    pub fn batch_last(&self) -> SeqNum {
        SeqNum(self.seqnum.0 + u64::from(self.batch_after))
    }
}

/// A LogBook's records with one tag, as indices of [`FinalLog::records`], in SeqNum order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream<'a> {
    records: &'a [Logged],
    indices: &'a [u32],
    key: (LogBookId, Tag),
    trims: &'a Trims,
    /// Where the records of tag 0 are gone, if tags of the LogBook were trimmed.
    gone: Option<&'a GoneTree>,
}

impl<'a> Stream<'a> {
    pub fn get(&self, at: usize) -> Option<&'a Logged> {
        Some(&self.records[*self.indices.get(at)? as usize])
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// How many records are before this SeqNum.
    pub fn count_before(&self, seqnum: SeqNum) -> usize {
        self.indices.partition_point(|at| self.records[*at as usize].seqnum < seqnum)
    }

    /// How many records are at this SeqNum or before.
    pub fn count_to(&self, seqnum: SeqNum) -> usize {
        self.indices.partition_point(|at| self.records[*at as usize].seqnum <= seqnum)
    }

    /// From where on the record is visible.
    pub fn born(&self, at: usize) -> Position {
        Position::of_batch(self.records[self.indices[at] as usize].batch_last())
    }

    /// From where on reads of this tag no longer find the record.
    pub fn gone(&self, at: usize) -> Position {
        match self.gone {
            Some(tree) => tree.get(at),
            None => self.passes(self.records[self.indices[at] as usize].seqnum),
        }
    }

    /// The first record from the `from`-th on that is not gone at a position; perhaps it is not yet
    /// visible there.
    pub fn next_present(&self, from: usize, position: Position) -> Option<usize> {
        match self.gone {
            Some(tree) => tree.next_present(from, position),
            None => {
                let at = from.max(self.count_before(self.trims.point_at(self.key, position)));
                (at < self.indices.len()).then_some(at)
            }
        }
    }

    /// From where on the tag's trim point is above this SeqNum.
    pub fn passes(&self, seqnum: SeqNum) -> Position {
        self.trims.passes(self.key, seqnum)
    }

    /// From where on the tag's tail is at least this.
    pub fn tail_reaches(&self, tail: SeqNum) -> Position {
        if tail == SeqNum::MIN {
            return Position::START;
        }
        let next = self.count_before(tail);
        let born = if next < self.indices.len() { self.born(next) } else { Position::NEVER };
        born.min(self.passes(tail))
    }
}

/// All records of a cluster's LogBooks that were ever visible, by tag, and the trims between them.
#[derive(Clone, Debug, Default)]
pub struct FinalLog {
    pub(crate) records: Vec<Logged>,
    streams: BTreeMap<(LogBookId, Tag), Vec<u32>>,
    pub(crate) trims: Trims,
    /// Trims of whole LogBooks that they may have made by themselves.
    pub(crate) own_trims: BTreeSet<(LogBookId, SeqNum)>,
    /// By LogBook of which tags were trimmed; known when all has been added.
    gone: BTreeMap<LogBookId, GoneTree>,
}

impl FinalLog {
    pub fn new() -> FinalLog {
        FinalLog::default()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a record of a LogBook, read by tag 0. A LogBook's records come in order, without those
    /// of another between them.
    ///
    /// # Errors
    /// When its SeqNum is not greater than that of the one before.
    pub fn push(&mut self, logbook: LogBookId, record: Found, tags: &[Tag]) -> Result<(), Violation> {
        let all = self.streams.get(&(logbook, Tag::ALL));
        if let Some(last) = all.and_then(|all| all.last()).map(|at| &self.records[*at as usize])
            && last.seqnum >= record.seqnum
        {
            return Err(Violation::ScanOutOfOrder { logbook, before: last.seqnum, after: record.seqnum });
        }
        let at = u32::try_from(self.records.len()).expect("a final log has fewer than 2^32 records");
        self.records.push(Logged { seqnum: record.seqnum, fingerprint: record.fingerprint, logbook, batch_after: 0 });
        self.streams.entry((logbook, Tag::ALL)).or_default().push(at);
        for tag in tags {
            let stream = self.streams.entry((logbook, *tag)).or_default();
            if stream.last() != Some(&at) {
                stream.push(at);
            }
        }
        Ok(())
    }

    /// Adds a trim of a LogBook's tag where the logspace's next SeqNum is `next`. A logspace's trims come
    /// in log order. Who knows where trims are in the log also knows the records that they let go, which
    /// no scan finds any more: those belong into the log, too.
    pub fn push_trim(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum, next: SeqNum) {
        self.trims.push(logbook, tag, first, next);
    }

    /// Says that the log may have a trim of this LogBook that no client asked for: it lets records go by
    /// itself.
    pub fn allow_trim(&mut self, logbook: LogBookId, first: SeqNum) {
        self.own_trims.insert((logbook, first));
    }

    /// The trim point of a tag in the end, its own or its LogBook's.
    pub fn trim_point(&self, logbook: LogBookId, tag: Tag) -> SeqNum {
        self.trims.point_at((logbook, tag), Position::NEVER)
    }

    /// Whether a record is visible in the end, and not gone.
    pub fn is_living(&self, logbook: LogBookId, seqnum: SeqNum) -> bool {
        let stream = self.stream(logbook, Tag::ALL);
        let missing = stream.gone.is_none() && self.trims.has_tags(logbook);
        let gone = missing.then(|| self.gone_tree(logbook));
        let stream = Stream { gone: stream.gone.or(gone.as_ref()), ..stream };
        let at = stream.count_before(seqnum);
        stream.get(at).is_some_and(|logged| logged.seqnum == seqnum) && stream.gone(at) == Position::NEVER
    }

    /// All (LogBook, tag) pairs that have records, tag 0 included.
    pub fn streams(&self) -> impl Iterator<Item = (LogBookId, Tag)> + '_ {
        self.streams.keys().copied()
    }

    /// Compares a scan of a whole LogBook by tag, forward, with this log: another replica's, or one
    /// by another tag.
    ///
    /// # Errors
    /// When it is not exactly the LogBook's records with that tag that are not gone, in order.
    pub fn compare_scan(
        &self,
        logbook: LogBookId,
        tag: Tag,
        scan: impl IntoIterator<Item = Found>,
    ) -> Result<(), Violation> {
        let gone = self.gone_of(logbook, tag);
        let stream = Stream { gone: gone.as_ref(), ..self.stream(logbook, tag) };
        let mut next = 0;
        let mut expected = || {
            let at = stream.next_present(next, LAST)?;
            next = at + 1;
            stream.get(at).map(|logged| (logged.seqnum, logged.fingerprint))
        };
        let mut count = 0;
        for found in scan {
            let expected = expected();
            if expected != Some((found.seqnum, found.fingerprint)) {
                let expected = expected.map(|(seqnum, _)| seqnum);
                return Err(Violation::ScansDiffer { logbook, tag, at: count, expected, found: Some(found.seqnum) });
            }
            count += 1;
        }
        match expected() {
            Some((seqnum, _)) => {
                Err(Violation::ScansDiffer { logbook, tag, at: count, expected: Some(seqnum), found: None })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn stream(&self, logbook: LogBookId, tag: Tag) -> Stream<'_> {
        let indices = self.streams.get(&(logbook, tag)).map_or(&[][..], Vec::as_slice);
        let gone = if tag == Tag::ALL { self.gone.get(&logbook) } else { None };
        Stream { records: &self.records, indices, key: (logbook, tag), trims: &self.trims, gone }
    }

    /// Finds out where records of tag 0 are gone.
    pub(crate) fn bury(&mut self) {
        let books: Vec<LogBookId> =
            self.streams.keys().filter(|(_, tag)| *tag == Tag::ALL).map(|(logbook, _)| *logbook).collect();
        let trimmed = books.into_iter().filter(|logbook| self.trims.has_tags(*logbook));
        self.gone = trimmed.map(|logbook| (logbook, self.gone_tree(logbook))).collect();
    }

    /// Where a LogBook's records are gone, for reads by tag 0 where tags were trimmed.
    pub(crate) fn gone_of(&self, logbook: LogBookId, tag: Tag) -> Option<GoneTree> {
        (tag == Tag::ALL && self.trims.has_tags(logbook)).then(|| self.gone_tree(logbook))
    }

    /// Where each of a LogBook's records is gone: below its LogBook's trim point, or, if it has tags,
    /// below the trim point of each of them.
    fn gone_tree(&self, logbook: LogBookId) -> GoneTree {
        let all = self.streams.get(&(logbook, Tag::ALL)).map_or(&[][..], Vec::as_slice);
        let gone = all.iter().zip(self.gone_by_tags(logbook)).map(|(record, by_tags)| {
            let by_book = self.trims.passes((logbook, Tag::ALL), self.records[*record as usize].seqnum);
            by_tags.min(by_book)
        });
        GoneTree::new(&gone.collect::<Vec<Position>>())
    }

    /// Where each of a LogBook's records is below the trim point of each of its tags.
    pub(crate) fn gone_by_tags(&self, logbook: LogBookId) -> Vec<Position> {
        let all = self.streams.get(&(logbook, Tag::ALL)).map_or(&[][..], Vec::as_slice);
        // Of each record the last of its tags to pass it; `None`: it has none.
        let mut by_tags: Vec<Option<Position>> = vec![None; all.len()];
        let tags = self.streams.range((logbook, Tag(Tag::ALL.0 + 1))..).take_while(|((of, _), _)| *of == logbook);
        for (key, indices) in tags {
            for record in indices {
                let nth = all.binary_search(record).expect("a record with a tag is one of its LogBook");
                let passed = self.trims.own_reaches(*key, self.records[*record as usize].seqnum.next());
                by_tags[nth] = by_tags[nth].max(Some(passed));
            }
        }
        by_tags.into_iter().map(|by_tags| by_tags.unwrap_or(Position::NEVER)).collect()
    }

    /// Indices of all records by fingerprint.
    pub(crate) fn by_fingerprint(&self) -> Vec<(Fingerprint, u32)> {
        let mut sorted: Vec<(Fingerprint, u32)> =
            self.records.iter().zip(0..).map(|(logged, at)| (logged.fingerprint, at)).collect();
        sorted.sort_unstable();
        sorted
    }

    /// The logspace's records' indices, in SeqNum order.
    ///
    /// # Errors
    /// When two of them have one SeqNum.
    pub(crate) fn check_unique(&self, logspaces: Logspaces) -> Result<(), Violation> {
        let mut all: Vec<(LogspaceId, SeqNum, LogBookId)> = self
            .records
            .iter()
            .map(|logged| (logged.logbook.logspace(logspaces), logged.seqnum, logged.logbook))
            .collect();
        all.sort_unstable();
        match all.windows(2).find(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
            Some(pair) => Err(Violation::SeqNumTwice { seqnum: pair[0].1, one: pair[0].2, other: pair[1].2 }),
            None => Ok(()),
        }
    }
}
