//! Whether the node at the other end is of use: signs of life that are asked for, and when a session
//! leaves one of several nodes for another.
//!
//! A node that is gone closes its connections. One that was stopped, or whose network is gone, is
//! silent: it is found by the sign of life that does not come. One that is cut off from the others
//! gives signs and finishes nothing: it is found by a request that takes too long.

use std::time::Duration;

use sealog_protocol::client::{CreditRequest, ErrorCode, Request};
use sealog_protocol::{LogBookId, Time};

use super::link::Link;
use super::table::{Status, Work};
use super::{REQUEST_INDEX_BITS, Session};
use crate::error::ConnectionError;

/// After a request is overdue, what the socket may hold already is looked at first.
const GRACE: Duration = Duration::from_millis(50);
/// How often the time that a request may take is doubled at most.
const STALL_DOUBLINGS_MAX: u32 = 4;

/// When a session with several addresses leaves one for another, though its connection stands. Leaving
/// too early costs a reconnect, and no answer.
#[derive(Clone, Debug)]
pub struct Failover {
    /// After so long a silence with anything outstanding, a sign of life is asked for.
    pub quiet_max: Duration,
    /// A sign of life, and a welcome, come within this time, or the node is given up.
    pub sign_max: Duration,
    /// As `quiet_max`, for a connection that has only subscriptions.
    pub idle_max: Duration,
    /// A request takes no longer, or the node is taken for one that is cut off from the others. Doubled
    /// with each time that another one did no better.
    pub stall_max: Duration,
    /// So many times a request is refused as [`ErrorCode::Unavailable`] before another node is asked.
    pub unavailable_max: u32,
}

impl Default for Failover {
    fn default() -> Failover {
        Failover {
            quiet_max: Duration::from_millis(300),
            sign_max: Duration::from_millis(700),
            idle_max: Duration::from_secs(5),
            stall_max: Duration::from_secs(2),
            unavailable_max: 3,
        }
    }
}

impl Session {
    /// When the connection, with requests outstanding, has been silent for too long.
    pub(super) fn silent_at(&self) -> Option<Time> {
        let several = self.addresses.are_several();
        let since = match self.link {
            Link::Down { .. } => None,
            Link::Up if self.asked == 0 || several => self.sign_asked_at,
            Link::Greeting | Link::Up => Some(self.heard_at),
        };
        let silence_max = if several { self.config.failover.sign_max } else { self.config.silence_max };
        since.map(|since| since + silence_max)
    }

    /// When the connection is to be asked whether it lives.
    pub(super) fn sign_at(&self) -> Option<Time> {
        if !self.is_connected() || self.sign_asked_at.is_some() {
            return None;
        }
        let quiet_max = match (self.asked > 0, self.addresses.are_several()) {
            (true, true) => self.config.failover.quiet_max,
            (true, false) => return None,
            (false, _) if self.open == 0 => return None,
            (false, true) => self.config.failover.idle_max,
            (false, false) => self.config.quiet_max,
        };
        Some(self.heard_at + quiet_max)
    }

    /// Asks whether a subscription still stands; without any, whether one does that never was. Either
    /// question is answered.
    pub(super) fn ask_for_sign(&mut self, now: Time) {
        self.sign_asked_at = Some(now);
        self.requests += 1;
        let never = self.requests << REQUEST_INDEX_BITS;
        let (logbook, subscription) = match self.table.with_status(Status::Open).first().copied() {
            Some(index) => (self.subscribed(index), self.table.entry(index).request),
            None => (LogBookId::SYSTEM, never),
        };
        let question = Request::Credit(CreditRequest { logbook: logbook.0, subscription, bytes: 0 });
        let frame = self.request_frame(never, &question);
        self.sends.queue(frame);
    }

    /// When what is asked now is to be looked at again: at its deadline, or when it takes too long.
    pub(super) fn look_again_at(&self, now: Time, index: u32) -> Time {
        let entry = self.table.entry(index);
        if !self.addresses.are_several() {
            return entry.deadline;
        }
        // The node may hold a read as long as it was asked to.
        let held = match &entry.work {
            Some(Work::Read(work)) => work.read.wait.min(self.config.wait_max),
            _ => Duration::ZERO,
        };
        let allowed = self.config.failover.stall_max.saturating_mul(1 << self.stalls.min(STALL_DOUBLINGS_MAX));
        entry.deadline.min(now + held + allowed)
    }

    /// What was asked takes long: its node is left, unless the answer comes at once.
    pub(super) fn overdue(&mut self, now: Time, index: u32) {
        let entry = self.table.entry_mut(index);
        let deadline = entry.deadline;
        if !std::mem::replace(&mut entry.is_overdue, true) {
            return self.table.set_wake(index, deadline.min(now + GRACE));
        }
        self.table.set_wake(index, deadline);
        if self.addresses.are_several() && self.leaving.is_none() {
            self.stalls += 1;
            self.leaving = Some(ConnectionError::Stalled);
        }
    }

    /// The node refused a request as one that it cannot serve now. With others to go to, it is left
    /// when it says so again and again.
    pub(super) fn is_unavailable(&mut self, index: u32, message: &str) {
        let refusals = self.table.entry(index).refusals;
        if self.addresses.are_several() && refusals >= self.config.failover.unavailable_max {
            self.leaving = Some(ConnectionError::Refused { code: ErrorCode::Unavailable, message: message.to_owned() });
        }
    }

    /// The connection failed: when its address may be tried again. A node that did its work before is
    /// tried again at once, unless there is another.
    pub(super) fn try_again_at(&mut self, now: Time, reason: &ConnectionError) -> Time {
        let failures = self.addresses.failures();
        match (self.addresses.are_several(), failures) {
            (true, _) if reason.is_final() => now + self.config.backoff_max,
            (true, _) => now + self.backoff(failures.saturating_add(1)),
            (false, 0) => now,
            (false, _) => now + self.backoff(failures),
        }
    }

    /// What one node refused for now, another may take.
    pub(super) fn end_rests(&mut self) {
        if self.addresses.are_several() {
            for index in self.table.with_status(Status::Resting) {
                self.set_status(index, Status::Ready);
                self.table.entry_mut(index).refusals = 0;
            }
        }
    }
}
