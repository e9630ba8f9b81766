//! Reads, tails and the node's state: requests without effect, sent again as often as need be. A
//! range longer than a page, and a wait longer than the server holds a read, are asked for in parts.

use std::time::Duration;

use sealog_protocol::client::{CheckTailRequest, ErrorCode, ReadRecord, ReadRequest, Reply, Request};
use sealog_protocol::limits::READ_RECORDS_MAX;
use sealog_protocol::{LogBookId, Place, SeqNum, Tag, Time};

use super::Session;
use super::appending::is_temporary;
use super::aux::aux_error;
use super::managing::manage_error;
use super::operation::{Direction, OperationId, Outcome, Read, ReadRecords};
use super::table::{Status, Work};
use crate::error::{CheckTailError, ConnectionError, ReadError, Refusal, StatusError};

/// A server that has nothing to say and says so sooner than asked is not asked again at once.
const EARLY: Duration = Duration::from_millis(50);

pub(super) struct ReadWork {
    /// What is left to read: its bounds move with each page.
    pub read: Read,
    /// When the answer "nothing" is final.
    pub wait_until: Time,
    asked_at: Time,
    records: Vec<ReadRecord>,
}

impl ReadWork {
    pub fn new(now: Time, read: Read) -> ReadWork {
        ReadWork { read, wait_until: now + read.wait, asked_at: now, records: Vec::new() }
    }
}

impl Session {
    pub(super) fn submit_read(&mut self, now: Time, read: Read, deadline: Time) -> OperationId {
        let index = self.table.insert(Status::Ready, deadline, Work::Read(ReadWork::new(now, read)));
        let operation = self.table.id(index);
        self.callers += 1;
        match read.records_max == 0 || read.first > read.last {
            true => self.complete_query(index, Outcome::Read(Ok(ReadRecords { records: Vec::new(), complete: true }))),
            false => self.ask_when_welcomed(now, index),
        }
        operation
    }

    pub(super) fn submit_query(&mut self, now: Time, work: Work, deadline: Time) -> OperationId {
        let index = self.table.insert(Status::Ready, deadline, work);
        self.callers += 1;
        self.ask_when_welcomed(now, index);
        self.table.id(index)
    }

    pub(super) fn query_request(&mut self, now: Time, index: u32) -> Request {
        let wait_max = self.config.wait_max;
        match self.table.entry_mut(index).work.as_mut().expect("it is under way") {
            Work::Read(work) => {
                work.asked_at = now;
                let (read, left) = (work.read, work.wait_until.since(now).min(wait_max));
                let records_left = read.records_max - work.records.len();
                let waits = work.records.is_empty() && read.direction == Direction::Forward;
                let (from, until) = match read.direction {
                    Direction::Forward => (read.first, read.last),
                    Direction::Backward => (read.last, read.first),
                };
                Request::Read(ReadRequest {
                    logbook: read.logbook.0,
                    tag: read.tag.0,
                    from: from.0,
                    until: until.0,
                    backward: read.direction == Direction::Backward,
                    records_max: records_left.min(READ_RECORDS_MAX) as u32,
                    // Rounded up: a wait of a microsecond is one.
                    wait_ms: if waits { left.as_nanos().div_ceil(1_000_000) as u32 } else { 0 },
                    place: self.place_seen(read.logbook).into(),
                    linearizable: read.linearizable,
                    aux: read.aux,
                })
            }
            Work::CheckTail { logbook, tag, linearizable } => {
                let (logbook, tag, linearizable) = (*logbook, tag.0, *linearizable);
                let place = self.place_seen(logbook).into();
                Request::CheckTail(CheckTailRequest { logbook: logbook.0, tag, place, linearizable })
            }
            Work::Status => Request::Status,
            Work::Operate(request) => Request::Operate(*request),
            Work::Manage(manage) => {
                let manage = *manage;
                manage.request(self.place_seen(manage.logbook()))
            }
            Work::Subscription(_) => self.subscribe_request(index),
            Work::Name(work) => work.request(),
            Work::SetAux(work) => work.request(),
            Work::Append(_) | Work::OpenSession { .. } | Work::NameLogBook { .. } => panic!("not a query"),
        }
    }

    pub(super) fn place_seen(&self, logbook: LogBookId) -> Place {
        self.logspace(logbook).map(|logspace| self.token.place(logspace)).unwrap_or_default()
    }

    pub(super) fn records_answered(
        &mut self,
        now: Time,
        index: u32,
        place: Place,
        complete: bool,
        page: Vec<ReadRecord>,
    ) -> Result<(), &'static str> {
        let Some(Work::Read(work)) = &mut self.table.entry_mut(index).work else {
            return Err("records came for what was no read");
        };
        let (is_empty, logbook) = (page.is_empty(), work.read.logbook);
        work.take_page(page)?;
        let is_enough = work.records.len() == work.read.records_max || work.is_exhausted();
        let is_waiting = work.records.is_empty() && now < work.wait_until;
        let is_done = is_enough || (complete && !is_waiting);
        let was_early = now.since(work.asked_at) < EARLY;
        let result = is_done.then(|| ReadRecords {
            complete: complete || work.is_exhausted(),
            records: std::mem::take(&mut work.records),
        });
        self.saw(logbook, place);
        match result {
            Some(read) => self.complete_query(index, Outcome::Read(Ok(read))),
            // It says there is more, and gives none: not a reason to ask in a loop.
            None if is_empty && was_early => self.rest(now, index),
            None => self.ask(now, index),
        }
        Ok(())
    }

    pub(super) fn query_answered(&mut self, now: Time, index: u32, reply: Reply) -> Result<(), &'static str> {
        if let Reply::Error { code, message } = reply {
            if is_temporary(code) {
                self.refused(now, index, code, message);
            } else {
                let outcome = self.query_error(index, QueryFailure::Refused { code, message });
                self.complete_query(index, outcome);
            }
            return Ok(());
        }
        let work = self.table.entry_mut(index).work.as_mut().expect("it is under way");
        let outcome = match (work, reply) {
            (Work::Read(work), Reply::Trimmed { first, place }) => {
                let logbook = work.read.logbook;
                let records = std::mem::take(&mut work.records);
                self.saw(logbook, place);
                match records.is_empty() {
                    true => Outcome::Read(Err(ReadError::Trimmed { first })),
                    // Read before it was trimmed: the next read will say so.
                    false => Outcome::Read(Ok(ReadRecords { records, complete: false })),
                }
            }
            (Work::CheckTail { logbook, .. }, Reply::Tail { tail, place }) => {
                let logbook = *logbook;
                self.saw(logbook, place);
                Outcome::CheckTail(Ok(tail))
            }
            (Work::Status, Reply::Status { json }) | (Work::Operate(_), Reply::Operated { json }) => {
                Outcome::Status(Ok(json))
            }
            (Work::Manage(manage), reply) => {
                let logbook = manage.logbook();
                let (managed, place) = manage.answered(reply).ok_or("a request was answered with something else")?;
                self.saw(logbook, place);
                Outcome::Manage(Ok(managed))
            }
            (Work::Name(work), reply) => {
                let logbook = work.logbook();
                let (known, place) = work.answered(&reply).ok_or("a request was answered with something else")?;
                self.saw(logbook, place);
                Outcome::Name(Ok(known))
            }
            (Work::SetAux(work), Reply::AuxSet { kept, place }) => {
                let logbook = work.logbook;
                self.saw(logbook, place);
                Outcome::SetAux(Ok(kept))
            }
            _ => return Err("a request was answered with something else"),
        };
        self.complete_query(index, outcome);
        Ok(())
    }

    pub(super) fn query_expired(&mut self, index: u32) {
        let failure = match self.lack() {
            Ok(refusal) => QueryFailure::Deadline { refusal },
            Err(reason) => QueryFailure::Unreachable { reason },
        };
        let outcome = self.query_error(index, failure);
        self.complete_query(index, outcome);
    }

    fn query_error(&self, index: u32, failure: QueryFailure) -> Outcome {
        match &self.table.entry(index).work {
            Some(Work::Read(_)) => Outcome::Read(Err(match failure {
                QueryFailure::Refused { code: ErrorCode::Corrupt, message } => ReadError::Corrupt { message },
                QueryFailure::Refused { message, .. } => ReadError::Refused { message },
                QueryFailure::Deadline { refusal } => ReadError::Deadline { refusal },
                QueryFailure::Unreachable { reason } => ReadError::Unreachable { reason },
            })),
            Some(Work::CheckTail { .. }) => Outcome::CheckTail(Err(match failure {
                QueryFailure::Refused { message, .. } => CheckTailError::Refused { message },
                QueryFailure::Deadline { refusal } => CheckTailError::Deadline { refusal },
                QueryFailure::Unreachable { reason } => CheckTailError::Unreachable { reason },
            })),
            Some(Work::Status | Work::Operate(_)) => Outcome::Status(Err(match failure {
                QueryFailure::Refused { message, .. } => StatusError::Refused { message },
                QueryFailure::Deadline { refusal } => StatusError::Deadline { refusal },
                QueryFailure::Unreachable { reason } => StatusError::Unreachable { reason },
            })),
            Some(Work::Manage(_)) => Outcome::Manage(Err(manage_error(failure))),
            Some(Work::Name(_)) => Outcome::Name(Err(manage_error(failure))),
            Some(Work::SetAux(_)) => Outcome::SetAux(Err(aux_error(failure))),
            _ => panic!("not a query"),
        }
    }

    pub(super) fn complete_query(&mut self, index: u32, outcome: Outcome) {
        let operation = self.table.id(index);
        self.cancel_query(index);
        self.completions.push_back((operation, outcome));
    }

    pub(super) fn cancel_query(&mut self, index: u32) {
        self.take_back(index);
        self.set_status(index, Status::Ready);
        if let Some(Work::SetAux(work)) = &self.table.entry(index).work {
            self.own_bytes -= work.data.len();
        }
        self.table.remove(index);
        self.callers -= 1;
    }
}

/// What all queries can fail with.
pub(super) enum QueryFailure {
    Refused { code: ErrorCode, message: String },
    Deadline { refusal: Option<Refusal> },
    Unreachable { reason: ConnectionError },
}

impl ReadWork {
    /// Takes a page in, and moves the bounds behind it.
    fn take_page(&mut self, page: Vec<ReadRecord>) -> Result<(), &'static str> {
        for record in &page {
            let read = &mut self.read;
            let is_asked_for = record.logbook == read.logbook
                && (read.aux || record.aux.is_none())
                && (read.tag == Tag::ALL || record.tags.contains(&read.tag))
                && (read.first..=read.last).contains(&record.seqnum)
                && !self.is_exhausted();
            if !is_asked_for {
                return Err("a record came that was not asked for");
            }
            self.step_past(record.seqnum);
        }
        if self.records.len() + page.len() > self.read.records_max {
            return Err("more records came than were asked for");
        }
        match self.records.is_empty() {
            true => self.records = page,
            false => self.records.extend(page),
        }
        Ok(())
    }

    fn step_past(&mut self, seqnum: SeqNum) {
        let read = &mut self.read;
        match read.direction {
            // An empty range is written as last < first, as far as the ends of SeqNums let it.
            Direction::Forward if seqnum == read.last => read.last = SeqNum::MIN,
            Direction::Forward => read.first = seqnum.next(),
            Direction::Backward if seqnum == read.first => read.first = SeqNum::MAX,
            Direction::Backward => read.last = seqnum.prev(),
        }
    }

    /// Nothing is left of the range.
    fn is_exhausted(&self) -> bool {
        self.read.first > self.read.last
    }
}
