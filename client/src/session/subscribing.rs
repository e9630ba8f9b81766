//! Subscriptions: one request with many answers. What comes is kept until the consumer takes it, and
//! what it took is given back to the server as credit, so no more than the credit is ever here.
//!
//! A lost connection ends the request, not the subscription: the next one asks from the SeqNum after
//! the last that came, so that nothing comes twice and nothing is left out.

use std::collections::VecDeque;
use std::time::Duration;

use sealog_protocol::client::{CreditRequest, ErrorCode, ReadRecord, Reply, Request, SubscribeRequest};
use sealog_protocol::limits::FRAME_BYTES_MAX;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LogBookId, Place, SeqNum, Tag, Time};

use super::appending::is_temporary;
use super::operation::OperationId;
use super::table::{NEVER, Status, Work};
use super::{REQUEST_INDEX_BITS, Session, SubmitError};
use crate::error::SubscribeError;

/// What to subscribe to: the records of a LogBook that carry `tag`, from `from` on, those to come
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub logbook: LogBookId,
    /// [`Tag::ALL`] for every record.
    pub tag: Tag,
    /// The smallest SeqNum wanted.
    pub from: SeqNum,
    /// Without a subscription on the server for so long, that is told as an error; it is tried on.
    pub patience: Duration,
}

/// What a subscription tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// The next record.
    Record(ReadRecord),
    /// Records that were to come next were trimmed: those before `first` are gone. It goes on there.
    Trimmed { first: SeqNum },
}

pub(super) struct SubscriptionWork {
    wanted: Subscribe,
    /// The smallest SeqNum that has not come.
    next: SeqNum,
    /// What the consumer has not taken; each with the credit that is free once it has.
    events: VecDeque<(SubscriptionEvent, usize)>,
    /// Credit that the events hold.
    held_bytes: usize,
    /// Credit that is free and was not given back yet. Less than nothing: so much of what is held was
    /// not given for good.
    free_bytes: i64,
    /// To be told after the events.
    failure: Option<SubscribeError>,
    /// The consumer was told that there is something, and has not taken it all.
    is_noticed: bool,
}

impl Session {
    /// Begins a subscription. What it tells is taken by [`Session::next_event`];
    /// [`Session::next_notice`] says when there is something. [`Session::cancel`] ends it.
    ///
    /// # Errors
    /// [`SubmitError::Full`] when there are [`super::SessionConfig::subscriptions_max`] already.
    pub fn subscribe(&mut self, now: Time, wanted: Subscribe) -> Result<OperationId, SubmitError> {
        if self.subscriptions >= self.config.subscriptions_max {
            return Err(SubmitError::Full);
        }
        self.subscriptions += 1;
        let work = SubscriptionWork {
            wanted,
            next: wanted.from,
            events: VecDeque::new(),
            held_bytes: 0,
            free_bytes: 0,
            failure: None,
            is_noticed: false,
        };
        let index = self.table.insert(Status::Ready, now + wanted.patience, Work::Subscription(work));
        self.ask_when_welcomed(now, index);
        Ok(self.table.id(index))
    }

    /// The next thing that a subscription tells; `None`: nothing yet. After an error that is
    /// retryable it goes on; after another one nothing more comes.
    pub fn next_event(
        &mut self,
        now: Time,
        subscription: OperationId,
    ) -> Option<Result<SubscriptionEvent, SubscribeError>> {
        let index = self.table.find(subscription)?;
        let work = self.subscription_mut(index);
        let Some((event, bytes)) = work.events.pop_front() else {
            let failure = work.failure.take();
            work.is_noticed = false;
            let goes_on = failure.as_ref().is_some_and(SubscribeError::is_retryable);
            if goes_on && self.table.entry(index).status != Status::Open {
                self.be_patient(now, index);
            }
            return failure.map(Err);
        };
        work.held_bytes -= bytes;
        work.free_bytes += bytes as i64;
        self.give_credit(index);
        Some(Ok(event))
    }

    /// A subscription that tells something, told once until all of it is taken.
    pub fn next_notice(&mut self) -> Option<OperationId> {
        self.notices.pop_front()
    }

    /// Subscriptions under way.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    fn subscription_mut(&mut self, index: u32) -> &mut SubscriptionWork {
        match &mut self.table.entry_mut(index).work {
            Some(Work::Subscription(work)) => work,
            _ => panic!("not a subscription"),
        }
    }

    /// The LogBook of a subscription.
    pub(super) fn subscribed(&mut self, index: u32) -> LogBookId {
        self.subscription_mut(index).wanted.logbook
    }

    pub(super) fn is_subscription(&self, index: u32) -> bool {
        matches!(self.table.entry(index).work, Some(Work::Subscription(_)))
    }

    pub(super) fn subscribe_request(&mut self, index: u32) -> Request {
        let window = self.config.subscription_bytes;
        let work = self.subscription_mut(index);
        if work.next > work.wanted.from {
            mark(Mark::SubscriptionAskedAgain);
            if active(Mutant::SubscriptionRepeatsWhenAskedAgain) {
                work.next = work.next.prev();
            }
        }
        // What is here counts as it did before; the rest is given anew.
        work.free_bytes = (window as i64 - work.held_bytes as i64).min(0);
        let (wanted, next, credit) = (work.wanted, work.next, window.saturating_sub(work.held_bytes));
        Request::Subscribe(SubscribeRequest {
            logbook: wanted.logbook.0,
            tag: wanted.tag.0,
            from: next.0,
            credit_bytes: credit as u32,
            place: self.place_seen(wanted.logbook).into(),
        })
    }

    /// Gives free credit back, when it is half of all: less is not worth a frame, and then the server
    /// has credit, or the consumer something to take, so neither waits for the other.
    fn give_credit(&mut self, index: u32) {
        let is_open = self.table.entry(index).status == Status::Open;
        let worth_telling = (self.config.subscription_bytes as i64 / 2).max(1);
        let work = self.subscription_mut(index);
        if !is_open || work.free_bytes < worth_telling {
            return;
        }
        let bytes = std::mem::take(&mut work.free_bytes) as u32;
        let logbook = work.wanted.logbook.0;
        let subscription = self.table.entry(index).request;
        self.tell(index, &Request::Credit(CreditRequest { logbook, subscription, bytes }));
    }

    /// Queues a request that is not answered.
    fn tell(&mut self, index: u32, body: &Request) {
        self.requests += 1;
        let frame = self.request_frame(self.requests << REQUEST_INDEX_BITS | u64::from(index), body);
        self.sends.queue(frame);
    }

    /// Records came for the subscription whose present request this is.
    pub(super) fn records_pushed(
        &mut self,
        index: u32,
        place: Place,
        records: Vec<ReadRecord>,
        bytes: usize,
    ) -> Result<(), &'static str> {
        self.stands(index);
        let window = self.config.subscription_bytes;
        let work = self.subscription_mut(index);
        if work.held_bytes + bytes > window + FRAME_BYTES_MAX {
            return Err("more records came than there was credit for");
        }
        let last = records.len().checked_sub(1);
        for (nth, record) in records.into_iter().enumerate() {
            let wanted = &work.wanted;
            let is_wanted = record.logbook == wanted.logbook
                && (wanted.tag == Tag::ALL || record.tags.contains(&wanted.tag))
                && record.seqnum >= work.next
                && record.seqnum < SeqNum::MAX;
            if !is_wanted {
                return Err("a record came that was not subscribed to");
            }
            work.next = record.seqnum.next();
            let freed = if Some(nth) == last { bytes } else { 0 };
            work.events.push_back((SubscriptionEvent::Record(record), freed));
        }
        if last.is_some() {
            work.held_bytes += bytes;
            self.notice(index);
        }
        let logbook = self.subscription_mut(index).wanted.logbook;
        self.saw(logbook, place);
        Ok(())
    }

    /// Anything but records came.
    pub(super) fn subscription_answered(&mut self, now: Time, index: u32, reply: Reply) -> Result<(), &'static str> {
        match reply {
            Reply::Trimmed { first, place } => {
                self.stands(index);
                let work = self.subscription_mut(index);
                if first > work.next {
                    work.next = first;
                    work.events.push_back((SubscriptionEvent::Trimmed { first }, 0));
                    let logbook = work.wanted.logbook;
                    self.notice(index);
                    self.saw(logbook, place);
                }
            }
            Reply::Error { code, message } if is_temporary(code) => {
                self.table.entry_mut(index).request = 0;
                if self.table.entry(index).status == Status::Open {
                    self.be_patient(now, index);
                }
                self.refused(now, index, code, message);
            }
            Reply::Error { code, message } => {
                self.table.entry_mut(index).request = 0;
                self.set_status(index, Status::Ended);
                self.table.set_wake(index, NEVER);
                self.subscription_mut(index).failure = Some(match code {
                    ErrorCode::Corrupt => SubscribeError::Corrupt { message },
                    _ => SubscribeError::Refused { message },
                });
                self.notice(index);
            }
            _ => return Err("a subscription was answered with something else"),
        }
        Ok(())
    }

    /// The server has the subscription.
    fn stands(&mut self, index: u32) {
        if self.table.entry(index).status == Status::Asked {
            self.set_status(index, Status::Open);
            let entry = self.table.entry_mut(index);
            (entry.deadline, entry.refusals) = (NEVER, 0);
            self.table.set_wake(index, NEVER);
            // Whoever has not heard of it need not.
            self.subscription_mut(index).failure = None;
            // What the consumer took since it was asked.
            self.give_credit(index);
        }
    }

    fn notice(&mut self, index: u32) {
        if !std::mem::replace(&mut self.subscription_mut(index).is_noticed, true) {
            self.notices.push_back(self.table.id(index));
        }
    }

    /// From now on, the consumer's patience counts.
    pub(super) fn be_patient(&mut self, now: Time, index: u32) {
        let deadline = now + self.subscription_mut(index).wanted.patience;
        let entry = self.table.entry_mut(index);
        entry.deadline = deadline;
        match entry.status {
            // When its rest is over it is woken, and sees the deadline.
            Status::Resting => {}
            _ => self.table.set_wake(index, deadline),
        }
    }

    /// Its patience is over, or nothing can be waited for any more: that is told, and it is tried on.
    pub(super) fn subscription_expired(&mut self, now: Time, index: u32) {
        let failure = match self.lack() {
            Ok(refusal) => SubscribeError::Deadline { refusal },
            Err(reason) => SubscribeError::Unreachable { reason },
        };
        self.table.entry_mut(index).deadline = NEVER;
        self.subscription_mut(index).failure.get_or_insert(failure);
        self.notice(index);
        if self.table.entry(index).status == Status::Resting {
            self.rest(now, index);
        }
    }

    pub(super) fn cancel_subscription(&mut self, index: u32) {
        let entry = self.table.entry(index);
        let (status, position, subscription) = (entry.status, entry.position, entry.request);
        let is_asked = matches!(status, Status::Asked | Status::Open);
        if is_asked && self.sends.is_begun(position) {
            let logbook = self.subscription_mut(index).wanted.logbook.0;
            self.tell(index, &Request::Unsubscribe { logbook, subscription });
            self.set_status(index, Status::Ready);
        } else {
            self.take_back(index);
        }
        self.set_status(index, Status::Ready);
        self.table.remove(index);
        self.subscriptions -= 1;
    }
}
