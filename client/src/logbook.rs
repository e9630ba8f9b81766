//! The async face: a LogBook.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::{Description, ReadRecord as Record};
use sealog_protocol::limits::READ_RECORDS_MAX;
use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::error::{AppendError, CheckTailError, ManageError, ReadError, SetAuxError};
use crate::face::call::{
    Call, append_outcome, aux_outcome, described, manage_outcome, read_outcome, tail_outcome, trimmed,
};
use crate::face::driver::Shared;
use crate::face::operation::Book;
use crate::session::{
    Appended, Condition, Direction, Manage, Managed, Operation, Read, ReadRecords, Retention, SetAux, Subscribe,
};
use crate::subscription::Subscription;

/// A log of a [`crate::Client`]. Cheap to make and to clone.
#[derive(Clone)]
pub struct LogBook {
    shared: Arc<Shared>,
    book: Book,
    deadline: Duration,
    has_aux: bool,
}

impl LogBook {
    pub(crate) fn new(shared: Arc<Shared>, book: Book, deadline: Duration) -> LogBook {
        LogBook { shared, book, deadline, has_aux: false }
    }

    /// Its id: the hash of its name, and its class.
    pub fn id(&self) -> LogBookId {
        self.book.id
    }

    /// Its name, unless it was opened by id.
    pub fn name(&self) -> Option<&str> {
        self.book.name.as_deref()
    }

    /// The same LogBook, whose calls have another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> LogBook {
        LogBook { deadline, ..self.clone() }
    }

    /// The same LogBook, whose reads bring the records' aux data along, as far as the server still has
    /// it: [`Record::aux`].
    pub fn with_aux(&self) -> LogBook {
        LogBook { has_aux: true, ..self.clone() }
    }

    /// Appends one record. The call itself sends it, or queues it when too much is in flight; the
    /// future awaits the acknowledgement, and borrows nothing. Dropping the future withdraws what was
    /// not sent yet; what was sent may take effect.
    ///
    /// # Errors
    /// [`AppendError`] says of each whether the append may have taken effect.
    pub fn append(&self, tags: &[Tag], payload: impl AsRef<[u8]>) -> PendingAppend {
        self.begin(None, &[NewRecord { tags, payload: payload.as_ref() }])
    }

    /// Appends records as one batch: visible whole or not at all, with consecutive SeqNums. As
    /// [`LogBook::append`] otherwise.
    ///
    /// # Errors
    /// As [`LogBook::append`].
    pub fn append_batch(&self, records: &[NewRecord<'_>]) -> PendingAppend {
        self.begin(None, records)
    }

    /// Appends one record with this tag if the tag's tail is at most `expected` (`None`: if it never
    /// had a record). With [`Tag::ALL`] the LogBook's tail counts, and the record has no tag.
    ///
    /// # Errors
    /// [`AppendError::ConditionFailed`] with the tail; else as [`LogBook::append`].
    pub fn append_if(&self, tag: Tag, expected: Option<SeqNum>, payload: impl AsRef<[u8]>) -> PendingAppend {
        let own = [tag];
        let tags: &[Tag] = if tag == Tag::ALL { &[] } else { &own };
        self.begin(Some(Condition { tag, expected }), &[NewRecord { tags, payload: payload.as_ref() }])
    }

    /// Appends records as one batch if a condition holds. As [`LogBook::append_if`] otherwise.
    ///
    /// # Errors
    /// As [`LogBook::append_if`].
    pub fn append_batch_if(&self, condition: Condition, records: &[NewRecord<'_>]) -> PendingAppend {
        self.begin(Some(condition), records)
    }

    fn begin(&self, condition: Option<Condition>, records: &[NewRecord<'_>]) -> PendingAppend {
        PendingAppend(Call::append(&self.shared, &self.book, condition, records, self.deadline))
    }

    /// The first record with this tag at or after `from`.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the trim point; [`ReadError`] lists the rest.
    pub async fn read_next(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let read = forward(self.book.id, tag, from..=SeqNum::MAX, 1);
        Ok(self.read(read).await?.records.pop())
    }

    /// The last record with this tag at or before `from`.
    ///
    /// # Errors
    /// As [`LogBook::read_next`].
    pub async fn read_prev(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let read = backward(self.book.id, tag, SeqNum::MIN..=from, 1);
        Ok(self.read(read).await?.records.pop())
    }

    /// As [`LogBook::read_next`], and waits for such a record for as long as `wait`; then `None`. The
    /// call's deadline begins after the wait.
    ///
    /// # Errors
    /// As [`LogBook::read_next`].
    pub async fn read_next_wait(&self, tag: Tag, from: SeqNum, wait: Duration) -> Result<Option<Record>, ReadError> {
        let read = Read { wait, ..forward(self.book.id, tag, from..=SeqNum::MAX, 1) };
        Ok(self.read(read).await?.records.pop())
    }

    /// The records with this tag in a range, at most `records_max` of them, in memory: see
    /// [`LogBook::scan`] for more than fits.
    ///
    /// # Errors
    /// As [`LogBook::read_next`].
    pub async fn read_range(
        &self,
        tag: Tag,
        range: RangeInclusive<SeqNum>,
        records_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        Ok(self.read(forward(self.book.id, tag, range, records_max)).await?.records)
    }

    /// The records with this tag in a range, fetched a page at a time.
    pub fn scan(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        Scan { logbook: self.clone(), pages: Pages::new(forward(self.book.id, tag, range, READ_RECORDS_MAX)) }
    }

    /// As [`LogBook::scan`], from the last to the first.
    pub fn scan_backward(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        Scan { logbook: self.clone(), pages: Pages::new(backward(self.book.id, tag, range, READ_RECORDS_MAX)) }
    }

    /// The records with this tag from `from` on: those that are there and then, in the same stream, those
    /// that come. [`Tag::ALL`]: all records. Without a connection for as long as the deadline, the
    /// subscription says so, and goes on.
    pub fn subscribe(&self, tag: Tag, from: SeqNum) -> Subscription {
        let wanted = Subscribe { logbook: self.book.id, tag, from, patience: self.deadline };
        Subscription::begin(&self.shared, wanted)
    }

    async fn read(&self, read: Read) -> Result<ReadRecords, ReadError> {
        let read = Read { aux: self.has_aux, ..read };
        let within = self.deadline.saturating_add(read.wait);
        read_outcome(Call::query(&self.shared, Operation::Read(read), within).await)
    }

    /// The SeqNum of the last visible record with this tag, at least as new as the session has seen.
    ///
    /// # Errors
    /// When it does not come before the deadline.
    pub async fn check_tail(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        self.tail(tag, false).await
    }

    /// As [`LogBook::check_tail`], reflecting every append acknowledged to anyone before the call.
    ///
    /// # Errors
    /// As [`LogBook::check_tail`].
    pub async fn check_tail_linearizable(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        self.tail(tag, true).await
    }

    async fn tail(&self, tag: Tag, linearizable: bool) -> Result<Option<SeqNum>, CheckTailError> {
        let operation = Operation::CheckTail { logbook: self.book.id, tag, linearizable };
        tail_outcome(Call::query(&self.shared, operation, self.deadline).await)
    }

    /// Lets the records with this tag below `first` go, for ever; [`Tag::ALL`]: all records below it.
    /// Returns the first SeqNum kept: less than `first` if that was past the tail, more if it was
    /// trimmed further before. A record with several tags goes when each of them is trimmed past it.
    ///
    /// # Errors
    /// [`ManageError`]; trimming again is safe.
    pub async fn trim(&self, tag: Tag, first: SeqNum) -> Result<SeqNum, ManageError> {
        Ok(trimmed(self.manage(Manage::Trim { logbook: self.book.id, tag, first }).await?))
    }

    /// Has the LogBook trimmed by itself from now on, in place of what was set before.
    ///
    /// # Errors
    /// [`ManageError`]; setting again is safe.
    pub async fn set_retention(&self, retention: Retention) -> Result<(), ManageError> {
        self.manage(Manage::SetRetention { logbook: self.book.id, retention }).await.map(drop)
    }

    /// What is known of the LogBook, at least as new as the session has seen.
    ///
    /// # Errors
    /// When it does not come before the deadline.
    pub async fn describe(&self) -> Result<Description, ManageError> {
        Ok(described(self.manage(Manage::Describe { logbook: self.book.id }).await?))
    }

    /// Attaches data to a record that was read, in place of what it had; readers through
    /// [`LogBook::with_aux`] may get it back. It is kept in the server's memory, within a bound, and
    /// may be gone at any time: it has to be something that can be made again from the log, like the
    /// state of all records up to this one. Returns whether it is kept for now; it is not when the
    /// server has no room for it, or no such record (any more).
    ///
    /// # Errors
    /// [`SetAuxError`]; setting again is safe.
    pub async fn set_aux(&self, seqnum: SeqNum, data: impl AsRef<[u8]>) -> Result<bool, SetAuxError> {
        let aux = SetAux { logbook: self.book.id, seqnum, data: data.as_ref() };
        aux_outcome(Call::set_aux(&self.shared, aux, self.deadline).await)
    }

    async fn manage(&self, manage: Manage) -> Result<Managed, ManageError> {
        manage_outcome(Call::query(&self.shared, Operation::Manage(manage), self.deadline).await)
    }
}

/// An append under way: resolves to its acknowledgement. Dropped before, it withdraws what was not sent
/// yet; what was sent may take effect.
#[must_use = "an append that nobody awaits may fail unnoticed"]
pub struct PendingAppend(Call);

impl Future for PendingAppend {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(context).map(append_outcome)
    }
}

/// A range being read: at most a page of it is in memory.
pub struct Scan {
    logbook: LogBook,
    pages: Pages,
}

impl Scan {
    /// The next record, or `None` at the end of the range.
    ///
    /// # Errors
    /// As [`LogBook::read_next`]; the scan may then be gone on with.
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        while let Some(read) = self.pages.wanted() {
            let page = self.logbook.read(read).await?;
            self.pages.took(page);
        }
        Ok(self.pages.records.pop_front())
    }
}

/// What a scan has in memory, and what it asks for next.
pub(crate) struct Pages {
    pub(crate) records: VecDeque<Record>,
    read: Read,
    is_complete: bool,
}

impl Pages {
    pub(crate) fn new(read: Read) -> Pages {
        Pages { records: VecDeque::new(), read, is_complete: read.first > read.last }
    }

    /// The page to fetch before the next record can be told.
    pub(crate) fn wanted(&self) -> Option<Read> {
        (self.records.is_empty() && !self.is_complete).then_some(self.read)
    }

    pub(crate) fn took(&mut self, page: ReadRecords) {
        self.is_complete = page.complete;
        if let Some(last) = page.records.last() {
            match self.read.direction {
                Direction::Forward if last.seqnum < self.read.last => self.read.first = last.seqnum.next(),
                Direction::Backward if last.seqnum > self.read.first => self.read.last = last.seqnum.prev(),
                Direction::Forward | Direction::Backward => self.is_complete = true,
            }
        }
        self.records = page.records.into();
    }
}

pub(crate) fn forward(logbook: LogBookId, tag: Tag, range: RangeInclusive<SeqNum>, records_max: usize) -> Read {
    Read {
        logbook,
        tag,
        first: *range.start(),
        last: *range.end(),
        direction: Direction::Forward,
        records_max,
        wait: Duration::ZERO,
        linearizable: false,
        aux: false,
    }
}

pub(crate) fn backward(logbook: LogBookId, tag: Tag, range: RangeInclusive<SeqNum>, records_max: usize) -> Read {
    Read { direction: Direction::Backward, ..forward(logbook, tag, range, records_max) }
}
