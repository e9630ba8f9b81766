//! A LogBook as the async face offers it.

use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::ReadRecord as Record;
use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::error::{AppendError, CheckTailError, ReadError};
use crate::session::Appended;

/// A log of a [`crate::Client`]. Cheap to clone.
#[derive(Clone)]
pub struct LogBook {}

impl LogBook {
    pub fn id(&self) -> LogBookId {
        unimplemented!()
    }

    /// A LogBook whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> LogBook {
        let _ = deadline;
        unimplemented!()
    }

    /// Appends one record. The append is sent by the call itself; the future awaits its answer.
    pub fn append(
        &self,
        tags: &[Tag],
        payload: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        let _ = (tags, payload);
        async { unimplemented!() }
    }

    /// Appends records as one batch: visible whole or not at all, with consecutive SeqNums.
    pub fn append_batch(
        &self,
        records: &[NewRecord<'_>],
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        let _ = records;
        async { unimplemented!() }
    }

    /// Appends one record with this tag if the tag's tail is at most `expected` (`None`: if it has
    /// none yet). With [`Tag::ALL`] the LogBook's tail counts, and the record has no tag.
    pub fn append_if(
        &self,
        tag: Tag,
        expected: Option<SeqNum>,
        payload: impl AsRef<[u8]>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        let _ = (tag, expected, payload);
        async { unimplemented!() }
    }

    /// The first record with this tag at or after `from`.
    pub async fn read_next(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from);
        unimplemented!()
    }

    /// The last record with this tag at or before `from`.
    pub async fn read_prev(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from);
        unimplemented!()
    }

    /// As [`LogBook::read_next`], and waits for such a record for as long as `wait`; then `None`.
    pub async fn read_next_wait(&self, tag: Tag, from: SeqNum, wait: Duration) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from, wait);
        unimplemented!()
    }

    /// The records with this tag in a range, at most `records_max` of them, in memory.
    pub async fn read_range(
        &self,
        tag: Tag,
        range: RangeInclusive<SeqNum>,
        records_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let _ = (tag, range, records_max);
        unimplemented!()
    }

    /// The records with this tag in a range, read a page at a time.
    pub fn scan(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let _ = (tag, range);
        unimplemented!()
    }

    /// As [`LogBook::scan`], from the last to the first.
    pub fn scan_backward(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let _ = (tag, range);
        unimplemented!()
    }

    /// The SeqNum of the last visible record with this tag, as far as the session has seen at least.
    pub async fn check_tail(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        let _ = tag;
        unimplemented!()
    }

    /// As [`LogBook::check_tail`], reflecting every append acknowledged to anyone before the call.
    pub async fn check_tail_linearizable(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        let _ = tag;
        unimplemented!()
    }
}

/// A range being read.
pub struct Scan {}

impl Scan {
    /// The next record, or `None` at the end of the range.
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        unimplemented!()
    }
}
