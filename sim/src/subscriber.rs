//! A client's subscription, told to the history as the reads that it stands for: what it brings is the
//! answer to a read from behind what it brought before, begun when that came.

use fastrand::Rng;
use sealog::session::Subscribe;
use sealog::{OperationId, SubscribeError, SubscriptionEvent};
use sealog_history::{Direction, Fingerprint, Found, Range};
use sealog_protocol::{LogBookId, SeqNum, Tag, Time};

use crate::client::{Client, PATIENCE, Recorder, found};
use crate::queue::Instant;
use crate::violation::Failure;
use crate::workload::Book;

#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    id: OperationId,
    logbook: LogBookId,
    tag: Tag,
    /// All before it was brought, or is gone.
    next: SeqNum,
    /// The read that what comes next is the answer to.
    recorded: sealog_history::OperationId,
}

impl Client {
    /// Subscribes now and then, if it does not.
    pub fn may_subscribe(&mut self, now: Instant, books: &[Book], recorder: &mut Recorder, rng: &mut Rng) {
        if self.subscriber.is_some() || rng.u8(0..16) > 0 {
            return;
        }
        let logbook = books[rng.usize(0..books.len())].id;
        let tag = self.workload.tag_or_all(rng);
        self.subscribe(now, (logbook, tag), SeqNum::MIN, recorder);
    }

    fn subscribe(&mut self, now: Instant, (logbook, tag): (LogBookId, Tag), next: SeqNum, recorder: &mut Recorder) {
        let patience = std::time::Duration::from_nanos(PATIENCE);
        let wanted = Subscribe { logbook, tag, from: next, patience };
        let Ok(id) = self.session.subscribe(Time(now), wanted) else { return };
        let recorded = self.record_read((logbook, tag), next, recorder);
        self.subscriber = Some(Subscriber { id, logbook, tag, next, recorded });
    }

    fn record_read(
        &mut self,
        (logbook, tag): (LogBookId, Tag),
        from: SeqNum,
        recorder: &mut Recorder,
    ) -> sealog_history::OperationId {
        let range = Range { logbook, tag, from, until: SeqNum::MAX, direction: Direction::Forward };
        let at = recorder.next();
        recorder.history.read(at, self.line, range, false)
    }

    /// It was handed what another client has seen: what was pushed before does not reflect that, so it
    /// subscribes anew.
    pub fn subscribe_again(&mut self, now: Instant, recorder: &mut Recorder) {
        let Some(subscriber) = self.subscriber.take() else { return };
        self.session.cancel(Time(now), subscriber.id);
        self.subscribe(now, (subscriber.logbook, subscriber.tag), subscriber.next, recorder);
    }

    /// Takes what was pushed into the history. Returns it.
    pub fn take_pushed(
        &mut self,
        now: Instant,
        recorder: &mut Recorder,
    ) -> Result<Vec<(LogBookId, SeqNum, Fingerprint)>, Failure> {
        let (mut seen, mut pushed) = (Vec::new(), Vec::new());
        while let Some(subscriber) = self.subscriber {
            let key = (subscriber.logbook, subscriber.tag);
            match self.session.next_event(Time(now), subscriber.id) {
                None => {
                    self.answer_read(&mut pushed, recorder);
                    break;
                }
                Some(Ok(SubscriptionEvent::Record(record))) => {
                    let found = found(&record);
                    seen.push((subscriber.logbook, found.seqnum, found.fingerprint));
                    self.workload.knowledge.saw(key.0, key.1, found.seqnum);
                    pushed.push(found);
                }
                Some(Ok(SubscriptionEvent::Trimmed { first })) => {
                    if first <= subscriber.next {
                        let error = format!("a gap before {first}, which is not ahead of {}", subscriber.next);
                        return Err(Failure::ClientError { error });
                    }
                    self.workload.knowledge.saw_trim(key.0, key.1, first);
                    if pushed.is_empty() {
                        let at = recorder.next();
                        recorder.history.found_trimmed(at, subscriber.recorded, first);
                    } else {
                        // What came before the gap; the gap itself is a read that nobody recorded.
                        self.answer_read(&mut pushed, recorder);
                    }
                    let recorded = self.record_read(key, first, recorder);
                    self.subscriber = Some(Subscriber { next: first, recorded, ..subscriber });
                }
                Some(Err(error)) if error.is_retryable() => {}
                Some(Err(SubscribeError::Corrupt { .. })) if recorder.damage_allowed => {
                    self.answer_read(&mut pushed, recorder);
                    self.session.cancel(Time(now), subscriber.id);
                    self.subscriber = None;
                }
                Some(Err(error)) => return Err(Failure::ClientError { error: error.to_string() }),
            }
        }
        Ok(seen)
    }

    /// What was pushed answers the read; the next one begins behind it.
    fn answer_read(&mut self, pushed: &mut Vec<Found>, recorder: &mut Recorder) {
        let (Some(subscriber), Some(last)) = (self.subscriber, pushed.last().map(|found| found.seqnum)) else { return };
        let at = recorder.next();
        recorder.history.found(at, subscriber.recorded, pushed.drain(..), false);
        recorder.completed += 1;
        let recorded = self.record_read((subscriber.logbook, subscriber.tag), last.next(), recorder);
        self.subscriber = Some(Subscriber { next: last.next(), recorded, ..subscriber });
    }
}
