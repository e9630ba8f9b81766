//! The operations under way, and when each next needs attention.
//!
//! Times lie in an array of their own, of which only a lower bound is kept: finding what is due is a
//! scan of eight bytes an operation, made when the bound is reached. With deadlines of seconds and
//! answers in microseconds that is hardly ever, and setting a time costs a comparison: a heap would
//! cost its logarithm for each of hundreds of thousands of operations a second.

use sealog_protocol::Time;

use super::appending::AppendWork;
use super::aux::AuxWork;
use super::managing::Manage;
use super::naming::NameWork;
use super::operation::OperationId;
use super::querying::ReadWork;
use super::subscribing::SubscriptionWork;
use sealog_protocol::client::OperateRequest;
use sealog_protocol::{LogBookId, LogspaceId, Tag};

/// No time.
pub(super) const NEVER: Time = Time(u64::MAX);

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// An append that lacks its session, its LogBook's name, or a request number.
    Waiting,
    /// To be sent when a connection is welcomed.
    Ready,
    /// In this connection's queue, or sent on it.
    Asked,
    /// Refused without effect; to be sent again after a while.
    Resting,
    /// An append of unknown outcome whose caller knows.
    Parked,
    /// A subscription that the server has.
    Open,
    /// A subscription that is over; its consumer may still take what came.
    Ended,
}

pub(super) enum Work {
    Append(AppendWork),
    Read(ReadWork),
    CheckTail { logbook: LogBookId, tag: Tag, linearizable: bool },
    Status,
    Operate(OperateRequest),
    Manage(Manage),
    Subscription(SubscriptionWork),
    Name(NameWork),
    SetAux(AuxWork),
    OpenSession { logspace: LogspaceId },
    NameLogBook { logbook: LogBookId },
}

impl Work {
    /// Whether the session itself wants it, not a caller.
    pub fn is_internal(&self) -> bool {
        matches!(self, Work::OpenSession { .. } | Work::NameLogBook { .. })
    }
}

pub(super) struct Entry {
    pub generation: u32,
    pub status: Status,
    /// Nobody wants the completion.
    pub detached: bool,
    /// It was asked long ago; if that is still so at the next look, its node is left.
    pub is_overdue: bool,
    /// Refusals so far.
    pub refusals: u32,
    /// Bytes of the frame that was queued last.
    pub frame_bytes: u32,
    /// Its request id; an answer to an earlier one is not for this try.
    pub request: u64,
    /// Where in the send queue it was queued.
    pub position: u64,
    /// Order of submission.
    pub sequence: u64,
    pub deadline: Time,
    /// `None` in a free entry.
    pub work: Option<Work>,
}

pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    wakes: Vec<Time>,
    /// At most the least of `wakes`.
    wake_bound: Time,
    sequence: u64,
}

impl Table {
    pub fn new() -> Table {
        Table { entries: Vec::new(), free: Vec::new(), wakes: Vec::new(), wake_bound: NEVER, sequence: 0 }
    }

    /// Adds an operation, to be woken at its deadline.
    pub fn insert(&mut self, status: Status, deadline: Time, work: Work) -> u32 {
        self.sequence += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.wakes.push(NEVER);
            self.entries.push(Entry {
                generation: 0,
                status,
                detached: false,
                is_overdue: false,
                refusals: 0,
                frame_bytes: 0,
                request: 0,
                position: 0,
                sequence: 0,
                deadline,
                work: None,
            });
            (self.entries.len() - 1) as u32
        });
        let sequence = self.sequence;
        let entry = self.entry_mut(index);
        (entry.status, entry.detached, entry.refusals, entry.request) = (status, false, 0, 0);
        (entry.sequence, entry.deadline, entry.work) = (sequence, deadline, Some(work));
        self.set_wake(index, deadline);
        index
    }

    pub fn remove(&mut self, index: u32) -> Work {
        self.wakes[index as usize] = NEVER;
        let entry = self.entry_mut(index);
        entry.generation = entry.generation.wrapping_add(1);
        entry.request = 0;
        let work = entry.work.take().expect("an entry is removed once");
        self.free.push(index);
        work
    }

    pub fn id(&self, index: u32) -> OperationId {
        OperationId::new(index, self.entry(index).generation)
    }

    /// The index of an operation that is still here.
    pub fn find(&self, operation: OperationId) -> Option<u32> {
        let index = operation.index() as u32;
        let entry = self.entries.get(operation.index())?;
        (entry.work.is_some() && self.id(index) == operation).then_some(index)
    }

    /// The index of the operation whose present request this is.
    pub fn find_request(&self, index: usize, request: u64) -> Option<u32> {
        let entry = self.entries.get(index)?;
        (entry.request == request && entry.work.is_some()).then_some(index as u32)
    }

    pub fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    pub fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    pub fn append_mut(&mut self, index: u32) -> &mut AppendWork {
        match &mut self.entry_mut(index).work {
            Some(Work::Append(append)) => append,
            _ => panic!("not an append"),
        }
    }

    pub fn append(&self, index: u32) -> &AppendWork {
        match &self.entry(index).work {
            Some(Work::Append(append)) => append,
            _ => panic!("not an append"),
        }
    }

    /// Those with this status, in order of submission.
    pub fn with_status(&self, status: Status) -> Vec<u32> {
        let mut found: Vec<u32> = (0..self.entries.len() as u32)
            .filter(|index| self.entry(*index).status == status && self.entry(*index).work.is_some())
            .collect();
        found.sort_unstable_by_key(|index| self.entry(*index).sequence);
        found
    }

    pub fn set_wake(&mut self, index: u32, at: Time) {
        self.wakes[index as usize] = at;
        self.wake_bound = self.wake_bound.min(at);
    }

    /// No entry wakes before.
    pub fn wake_bound(&self) -> Time {
        self.wake_bound
    }

    /// What is due; each is woken once, unless it is set again.
    pub fn take_due(&mut self, now: Time) -> Vec<u32> {
        if now < self.wake_bound {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.wake_bound = NEVER;
        for (index, wake) in self.wakes.iter_mut().enumerate() {
            if *wake <= now && *wake != NEVER {
                *wake = NEVER;
                due.push(index as u32);
            } else {
                self.wake_bound = self.wake_bound.min(*wake);
            }
        }
        due.sort_unstable_by_key(|index| self.entries[*index as usize].sequence);
        due
    }
}
