//! The blocking face: the names of the async one, for plain threads.

use std::ops::RangeInclusive;
use std::time::Duration;

use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::ReadRecord as Record;
use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::error::{AppendError, CheckTailError, ConnectError, ReadError, StatusError};
use crate::session::{Appended, Counters, OperationId};
use crate::token::Token;

/// A client of one node. Cheap to clone: clones share the connection and the session.
#[derive(Clone)]
pub struct Client {}

/// How a client is to be made: see [`crate::Builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder(crate::Builder);

impl Builder {
    pub fn name(self, name: impl Into<String>) -> Builder {
        Builder(self.0.name(name))
    }

    pub fn deadline(self, deadline: Duration) -> Builder {
        Builder(self.0.deadline(deadline))
    }

    pub fn in_flight_max(self, operations: usize) -> Builder {
        Builder(self.0.in_flight_max(operations))
    }

    pub fn wait_for_server(self, wait: bool) -> Builder {
        Builder(self.0.wait_for_server(wait))
    }

    pub fn connect(self, address: &str) -> Result<Client, ConnectError> {
        let _ = address;
        unimplemented!()
    }
}

impl Client {
    pub fn connect(address: &str) -> Result<Client, ConnectError> {
        Client::builder().connect(address)
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn logbook(&self, name: &str) -> LogBook {
        let _ = name;
        unimplemented!()
    }

    pub fn logbook_by_id(&self, id: LogBookId) -> LogBook {
        let _ = id;
        unimplemented!()
    }

    pub fn token(&self) -> Token {
        unimplemented!()
    }

    pub fn merge(&self, token: &Token) {
        let _ = token;
        unimplemented!()
    }

    pub fn with_deadline(&self, deadline: Duration) -> Client {
        let _ = deadline;
        unimplemented!()
    }

    pub fn retry(&self, retry: OperationId) -> Result<Appended, AppendError> {
        let _ = retry;
        unimplemented!()
    }

    pub fn status(&self) -> Result<String, StatusError> {
        unimplemented!()
    }

    pub fn counters(&self) -> Counters {
        unimplemented!()
    }
}

/// A log of a [`Client`]. Cheap to clone.
#[derive(Clone)]
pub struct LogBook {}

/// An append under way: sent, not yet answered. Appends begun one after the other are answered in
/// any order, and waited for in the caller's.
#[must_use = "an append that nobody waits for may fail unnoticed"]
pub struct PendingAppend {}

impl PendingAppend {
    /// Waits for the answer.
    pub fn wait(self) -> Result<Appended, AppendError> {
        unimplemented!()
    }
}

impl LogBook {
    pub fn id(&self) -> LogBookId {
        unimplemented!()
    }

    pub fn with_deadline(&self, deadline: Duration) -> LogBook {
        let _ = deadline;
        unimplemented!()
    }

    pub fn append(&self, tags: &[Tag], payload: impl AsRef<[u8]>) -> Result<Appended, AppendError> {
        self.begin_append(tags, payload)?.wait()
    }

    /// Sends an append and returns; blocks only while too many are in flight.
    pub fn begin_append(&self, tags: &[Tag], payload: impl AsRef<[u8]>) -> Result<PendingAppend, AppendError> {
        let _ = (tags, payload);
        unimplemented!()
    }

    pub fn append_batch(&self, records: &[NewRecord<'_>]) -> Result<Appended, AppendError> {
        let _ = records;
        unimplemented!()
    }

    pub fn append_if(
        &self,
        tag: Tag,
        expected: Option<SeqNum>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Appended, AppendError> {
        let _ = (tag, expected, payload);
        unimplemented!()
    }

    pub fn read_next(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from);
        unimplemented!()
    }

    pub fn read_prev(&self, tag: Tag, from: SeqNum) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from);
        unimplemented!()
    }

    pub fn read_next_wait(&self, tag: Tag, from: SeqNum, wait: Duration) -> Result<Option<Record>, ReadError> {
        let _ = (tag, from, wait);
        unimplemented!()
    }

    pub fn read_range(
        &self,
        tag: Tag,
        range: RangeInclusive<SeqNum>,
        records_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let _ = (tag, range, records_max);
        unimplemented!()
    }

    pub fn scan(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let _ = (tag, range);
        unimplemented!()
    }

    pub fn scan_backward(&self, tag: Tag, range: RangeInclusive<SeqNum>) -> Scan {
        let _ = (tag, range);
        unimplemented!()
    }

    pub fn check_tail(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        let _ = tag;
        unimplemented!()
    }

    pub fn check_tail_linearizable(&self, tag: Tag) -> Result<Option<SeqNum>, CheckTailError> {
        let _ = tag;
        unimplemented!()
    }
}

/// A range being read.
pub struct Scan {}

impl Iterator for Scan {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
