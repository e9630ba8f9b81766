//! The log as it is in the end: what a scan of every LogBook found.

use std::collections::BTreeMap;

use sealog_protocol::{LogBookId, LogspaceId, SeqNum, Tag};

use crate::history::{Fingerprint, Found};
use crate::violation::Violation;

/// A visible record. 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub seqnum: SeqNum,
    pub fingerprint: Fingerprint,
    pub logbook: LogBookId,
    /// Records of its batch before it, and after it. Known when histories have been matched.
    pub batch_before: u16,
    pub batch_after: u16,
}

impl Logged {
    /// SeqNum of the first record of its batch.
    pub fn batch_first(&self) -> SeqNum {
        SeqNum(self.seqnum.0 - u64::from(self.batch_before))
    }

    /// SeqNum of the last record of its batch.
    pub fn batch_last(&self) -> SeqNum {
        SeqNum(self.seqnum.0 + u64::from(self.batch_after))
    }
}

/// A LogBook's visible records with one tag, as indices of [`FinalLog::records`], in SeqNum order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream<'a> {
    records: &'a [Logged],
    indices: &'a [u32],
}

impl<'a> Stream<'a> {
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn get(&self, at: usize) -> Option<&'a Logged> {
        Some(&self.records[*self.indices.get(at)? as usize])
    }

    /// How many records are before this SeqNum.
    pub fn count_before(&self, seqnum: SeqNum) -> usize {
        self.indices.partition_point(|at| self.records[*at as usize].seqnum < seqnum)
    }
}

/// All visible records of a cluster's LogBooks, by tag.
#[derive(Clone, Debug, Default)]
pub struct FinalLog {
    pub(crate) records: Vec<Logged>,
    streams: BTreeMap<(LogBookId, Tag), Vec<u32>>,
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
        if let Some(last) = self.stream(logbook, Tag::ALL).and_then(|stream| stream.get(stream.len() - 1))
            && last.seqnum >= record.seqnum
        {
            return Err(Violation::ScanOutOfOrder { logbook, before: last.seqnum, after: record.seqnum });
        }
        let at = u32::try_from(self.records.len()).expect("a final log has fewer than 2^32 records");
        self.records.push(Logged {
            seqnum: record.seqnum,
            fingerprint: record.fingerprint,
            logbook,
            batch_before: 0,
            batch_after: 0,
        });
        self.streams.entry((logbook, Tag::ALL)).or_default().push(at);
        for tag in tags {
            let stream = self.streams.entry((logbook, *tag)).or_default();
            if stream.last() != Some(&at) {
                stream.push(at);
            }
        }
        Ok(())
    }

    /// All (LogBook, tag) pairs that have records, tag 0 included.
    pub fn streams(&self) -> impl Iterator<Item = (LogBookId, Tag)> + '_ {
        self.streams.keys().copied()
    }

    /// Compares a scan of a whole LogBook by tag, forward, with this log: another replica's, or one
    /// by another tag.
    ///
    /// # Errors
    /// When it is not exactly the LogBook's records with that tag, in order.
    pub fn compare_scan(
        &self,
        logbook: LogBookId,
        tag: Tag,
        scan: impl IntoIterator<Item = Found>,
    ) -> Result<(), Violation> {
        let stream = self.stream(logbook, tag);
        let expected_at =
            |at| stream.and_then(|stream| stream.get(at)).map(|logged| (logged.seqnum, logged.fingerprint));
        let mut count = 0;
        for found in scan {
            let expected = expected_at(count);
            if expected != Some((found.seqnum, found.fingerprint)) {
                let expected = expected.map(|(seqnum, _)| seqnum);
                return Err(Violation::ScansDiffer { logbook, tag, at: count, expected, found: Some(found.seqnum) });
            }
            count += 1;
        }
        match expected_at(count) {
            Some((seqnum, _)) => {
                Err(Violation::ScansDiffer { logbook, tag, at: count, expected: Some(seqnum), found: None })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn stream(&self, logbook: LogBookId, tag: Tag) -> Option<Stream<'_>> {
        let indices = self.streams.get(&(logbook, tag))?;
        Some(Stream { records: &self.records, indices })
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
    pub(crate) fn check_unique(&self, logspaces: u16) -> Result<(), Violation> {
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
