//! Subscriptions: cursors that read on by themselves when there is something to read, and credit.
//!
//! ```text
//!          page without an end, or woken meanwhile
//!          ┌────────────────────────────────┐
//!          ▼         its turn               │       nothing more
//!  ──▶  Queued  ───────────────────────▶ Reading ───────────────▶ Idle
//!        ▲  ▲  │ no credit                                          │
//!        │  │  ▼                            a record came           │
//!        │  │ Broke                                                 │
//!        │  └──┘ credit                                             │
//!        └──────────────────────────────────────────────────────────┘
//! ```
//!
//! An idle one costs memory alone: a record under its LogBook and tag wakes it, no timer does. Those
//! with something to do wait in a queue and get a page each, so that one that catches up with
//! gigabytes keeps nobody waiting; one without credit is not in the queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sealog_protocol::client::{CreditRequest, ErrorCode, RecordsReply, Reply, SubscribeRequest};
use sealog_protocol::limits::{
    SUBSCRIPTION_CREDIT_MAX, SUBSCRIPTION_PAGE_BYTES, SUBSCRIPTION_TURN_BYTES, SUBSCRIPTION_TURN_PAGES,
};
use sealog_protocol::machine::{ConnectionId, Outputs};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LogBookId, Place, SeqNum, Tag};

/// A subscription, never used again: a client may use a request id again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u64);

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionLimits {
    pub subscriptions_max: usize,
    pub per_connection_max: usize,
}

/// What is to be read for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedPage {
    pub subscription: SubscriptionId,
    pub connection: ConnectionId,
    pub request: u64,
    pub key: (LogBookId, Tag),
    pub from: SeqNum,
    /// Wait until the index has applied this place.
    pub place: Place,
    pub bytes_max: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct ReadPage {
    pub subscription: SubscriptionId,
    pub reply: Reply,
    /// A page that is complete has all that there is below.
    pub seen: SeqNum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the queue.
    Queued,
    /// A page of it is being read. `is_stale`: a record came since.
    Reading { is_stale: bool },
    /// There was nothing more at the last look.
    Idle,
    /// It has no credit.
    Broke,
}

#[derive(Debug)]
struct Subscription {
    connection: ConnectionId,
    request: u64,
    key: (LogBookId, Tag),
    /// All that it wants below this was sent, or was told to be gone.
    next: SeqNum,
    place: Place,
    /// Bytes that may be sent. Less than nothing after a page that was larger.
    credit: i64,
    state: State,
    /// It was told something: the first answer says that it stands.
    is_told: bool,
}

/// Subscriptions to one LogBook and tag.
#[derive(Debug, Default)]
struct Watchers {
    ids: BTreeSet<SubscriptionId>,
    /// Listed in [`Subscriptions::woken`].
    is_woken: bool,
}

/// All subscriptions of an engine.
#[derive(Debug)]
pub struct Subscriptions {
    subscriptions: HashMap<SubscriptionId, Subscription, FixedState>,
    last: u64,
    by_request: BTreeMap<(ConnectionId, u64), SubscriptionId>,
    by_key: HashMap<(LogBookId, Tag), Watchers, FixedState>,
    queue: VecDeque<SubscriptionId>,
    /// Keys that got a record since the last turn.
    woken: Vec<(LogBookId, Tag)>,
    /// What this turn may still send.
    turn_bytes: usize,
    turn_pages: usize,
    limits: SubscriptionLimits,
}

impl Subscriptions {
    pub fn new(limits: SubscriptionLimits, hash_seed: u64) -> Subscriptions {
        Subscriptions {
            subscriptions: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            last: 0,
            by_request: BTreeMap::new(),
            by_key: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            queue: VecDeque::new(),
            woken: Vec::new(),
            turn_bytes: 0,
            turn_pages: 0,
            limits,
        }
    }

    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// Takes a subscription; its first page is read in this turn.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        request: u64,
        wanted: &SubscribeRequest,
        outputs: &mut Outputs,
    ) {
        if let Err((code, message)) = self.admit(connection, request) {
            outputs.reply(connection, request, Reply::Error { code, message });
            return;
        }
        self.last += 1;
        let id = SubscriptionId(self.last);
        let key = (LogBookId(wanted.logbook), Tag(wanted.tag));
        let subscription = Subscription {
            connection,
            request,
            key,
            next: SeqNum(wanted.from),
            place: wanted.place.into(),
            credit: i64::from(wanted.credit_bytes).min(SUBSCRIPTION_CREDIT_MAX as i64),
            state: State::Queued,
            is_told: false,
        };
        self.subscriptions.insert(id, subscription);
        self.by_request.insert((connection, request), id);
        self.by_key.entry(key).or_default().ids.insert(id);
        self.queue.push_back(id);
    }

    fn admit(&self, connection: ConnectionId, request: u64) -> Result<(), (ErrorCode, String)> {
        if self.by_request.contains_key(&(connection, request)) {
            let message = format!("request {request} of this connection is a subscription: give each its own id");
            return Err((ErrorCode::Invalid, message));
        }
        if self.subscriptions.len() >= self.limits.subscriptions_max {
            let message = format!("this engine has {} subscriptions already: try again later", self.len());
            return Err((ErrorCode::Busy, message));
        }
        let of_connection = self.of_connection(connection).count();
        if of_connection >= self.limits.per_connection_max {
            let message = format!(
                "this connection has {of_connection} subscriptions already: end one, or use another connection"
            );
            return Err((ErrorCode::Busy, message));
        }
        Ok(())
    }

    /// Takes more credit; of no bytes, it is a question whether the subscription still stands.
    pub fn credit(&mut self, applied: Place, connection: ConnectionId, credit: &CreditRequest, outputs: &mut Outputs) {
        let request = credit.subscription;
        let Some(id) = self.by_request.get(&(connection, request)).copied() else {
            let message = format!("request {request} of this connection is no subscription: subscribe again");
            outputs.reply(connection, request, Reply::Error { code: ErrorCode::Invalid, message });
            return;
        };
        let subscription = self.subscriptions.get_mut(&id).expect("listed under its request");
        if credit.bytes == 0 {
            let complete = subscription.state == State::Idle;
            let sign = RecordsReply { place: applied, complete, ..RecordsReply::default() };
            outputs.reply(connection, request, Reply::Records(sign));
            return;
        }
        let raised = subscription.credit.saturating_add(i64::from(credit.bytes));
        subscription.credit = raised.min(SUBSCRIPTION_CREDIT_MAX as i64);
        if subscription.state == State::Broke && subscription.credit > 0 {
            self.enqueue(id);
        }
    }

    /// Ends a subscription, if it is there.
    pub fn unsubscribe(&mut self, connection: ConnectionId, request: u64) {
        if let Some(id) = self.by_request.get(&(connection, request)).copied() {
            self.remove(id);
        }
    }

    /// Ends the subscriptions of a connection.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        for id in self.of_connection(connection).collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    fn of_connection(&self, connection: ConnectionId) -> impl Iterator<Item = SubscriptionId> {
        self.by_request.range((connection, 0)..=(connection, u64::MAX)).map(|(_, id)| *id)
    }

    fn remove(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.remove(&id) else { return };
        self.by_request.remove(&(subscription.connection, subscription.request));
        let watchers = self.by_key.get_mut(&subscription.key).expect("listed under its key");
        watchers.ids.remove(&id);
        if watchers.ids.is_empty() {
            self.by_key.remove(&subscription.key);
        }
        // Its place in the queue is passed over when it comes.
    }

    /// A record under this key became visible.
    pub fn wake(&mut self, key: (LogBookId, Tag)) {
        if self.by_key.is_empty() {
            return;
        }
        if let Some(watchers) = self.by_key.get_mut(&key)
            && !watchers.is_woken
        {
            watchers.is_woken = true;
            self.woken.push(key);
        }
    }

    /// Another index has come, with records that woke nobody: all look again.
    pub fn wake_all(&mut self) {
        for (key, watchers) in &mut self.by_key {
            if !std::mem::replace(&mut watchers.is_woken, true) {
                self.woken.push(*key);
            }
        }
        // The map's order is that of its hashes.
        self.woken.sort_unstable();
    }

    /// Begins a turn: those that a record came for join the queue.
    pub fn begin_turn(&mut self) {
        self.turn_bytes = SUBSCRIPTION_TURN_BYTES;
        self.turn_pages = SUBSCRIPTION_TURN_PAGES;
        for key in std::mem::take(&mut self.woken) {
            // The last of them may have gone since.
            let Some(watchers) = self.by_key.get_mut(&key) else { continue };
            watchers.is_woken = false;
            for id in &watchers.ids {
                let subscription = self.subscriptions.get_mut(id).expect("listed under its key");
                match &mut subscription.state {
                    State::Idle => {
                        subscription.state = State::Queued;
                        self.queue.push_back(*id);
                    }
                    State::Reading { is_stale } => *is_stale = true,
                    State::Queued | State::Broke => {}
                }
            }
        }
    }

    /// The next page to read, until this turn has had enough.
    pub fn next_page(&mut self, applied: Place, outputs: &mut Outputs) -> Option<WantedPage> {
        while self.turn_bytes > 0 && self.turn_pages > 0 {
            let id = self.queue.pop_front()?;
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            self.turn_pages -= 1;
            if subscription.credit <= 0 {
                subscription.state = State::Broke;
                mark(Mark::SubscriptionBroke);
                if !std::mem::replace(&mut subscription.is_told, true) {
                    let nothing = RecordsReply { place: applied, ..RecordsReply::default() };
                    outputs.reply(subscription.connection, subscription.request, Reply::Records(nothing));
                }
                continue;
            }
            subscription.state = State::Reading { is_stale: false };
            return Some(WantedPage {
                subscription: id,
                connection: subscription.connection,
                request: subscription.request,
                key: subscription.key,
                from: subscription.next,
                place: subscription.place,
                bytes_max: SUBSCRIPTION_PAGE_BYTES.min(subscription.credit as usize),
            });
        }
        None
    }

    /// A page was read: it goes out, and the subscription goes on or rests.
    pub fn page_read(&mut self, page: ReadPage, outputs: &mut Outputs) {
        let ReadPage { subscription: id, reply, seen } = page;
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let (connection, request) = (subscription.connection, subscription.request);
        let State::Reading { is_stale } = subscription.state else { panic!("one page of it is read at a time") };
        let (mut is_over, mut is_news) = (false, !subscription.is_told);
        match &reply {
            Reply::Records(page) => {
                let bytes = page.payload_bytes();
                subscription.credit -= bytes as i64;
                self.turn_bytes = self.turn_bytes.saturating_sub(bytes);
                if let Some(last) = page.parts.last() {
                    let skipped = u64::from(!page.complete && active(Mutant::SubscriptionSkipsAtPageEnd));
                    subscription.next = SeqNum(last.seqnum.0 + u64::from(last.records) + skipped);
                    is_news = true;
                }
                if page.complete {
                    // What is trimmed of it from now on is no gap.
                    subscription.next = subscription.next.max(seen);
                    is_over = !is_stale;
                }
            }
            Reply::Trimmed { first, .. } => {
                subscription.next = subscription.next.max(*first);
                is_news = !active(Mutant::SubscriptionSilentAboutTrim);
                mark(Mark::SubscriptionTrimTold);
            }
            _ => {
                outputs.reply(connection, request, reply);
                return self.remove(id);
            }
        }
        subscription.is_told = true;
        if is_news {
            outputs.reply(connection, request, reply);
        }
        match is_over {
            true => subscription.state = State::Idle,
            false => self.enqueue(id),
        }
    }

    fn enqueue(&mut self, id: SubscriptionId) {
        self.subscriptions.get_mut(&id).expect("it was just there").state = State::Queued;
        self.queue.push_back(id);
    }

    /// Whether another turn has something to do.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.woken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: ConnectionId = ConnectionId(1);
    const KEY: (LogBookId, Tag) = (LogBookId(3), Tag(9));
    const PLACE: Place = Place { view: sealog_protocol::ViewNumber(1), index: 1 };

    fn subscribed(requests: std::ops::Range<u64>) -> Subscriptions {
        let limits = SubscriptionLimits { subscriptions_max: 10, per_connection_max: 10 };
        let mut subscriptions = Subscriptions::new(limits, 1);
        for request in requests {
            let wanted = SubscribeRequest { logbook: 3, tag: 9, from: 5, credit_bytes: 100, place: Default::default() };
            subscriptions.subscribe(CONNECTION, request, &wanted, &mut Outputs::default());
        }
        subscriptions.begin_turn();
        subscriptions
    }

    fn page(wanted: &WantedPage, seen: u64) -> ReadPage {
        let reply = Reply::Records(RecordsReply { place: PLACE, complete: true, ..RecordsReply::default() });
        ReadPage { subscription: wanted.subscription, reply, seen: SeqNum(seen) }
    }

    /// An engine that had fallen behind loaded a checkpoint with records that its subscribers never got,
    /// unless another record came.
    #[test]
    fn who_rests_looks_again_when_another_index_has_come() {
        let (mut subscriptions, mut outputs) = (subscribed(1..3), Outputs::default());
        while let Some(wanted) = subscriptions.next_page(PLACE, &mut outputs) {
            subscriptions.page_read(page(&wanted, 9), &mut outputs);
        }
        assert!(!subscriptions.has_work());
        subscriptions.wake_all();
        assert!(subscriptions.has_work());
        subscriptions.begin_turn();
        let wanted = subscriptions.next_page(PLACE, &mut outputs).expect("it looks again");
        assert_eq!(wanted.from, SeqNum(9));
        assert!(subscriptions.next_page(PLACE, &mut outputs).is_some(), "and the other one");
    }

    #[test]
    fn a_record_that_comes_while_a_page_is_read_is_not_overlooked() {
        let (mut subscriptions, mut outputs) = (subscribed(1..2), Outputs::default());
        let first = subscriptions.next_page(PLACE, &mut outputs).expect("it is its turn");
        assert_eq!((first.key, first.from, first.bytes_max), (KEY, SeqNum(5), 100));
        subscriptions.wake(KEY);
        subscriptions.begin_turn();
        assert_eq!(subscriptions.next_page(PLACE, &mut outputs), None, "one page at a time");
        subscriptions.page_read(page(&first, 20), &mut outputs);
        let second = subscriptions.next_page(PLACE, &mut outputs).expect("that page had not seen the record");
        assert_eq!(second.from, SeqNum(20), "below it there was nothing else");
        subscriptions.page_read(page(&second, 21), &mut outputs);
        assert!(!subscriptions.has_work());
        subscriptions.wake((LogBookId(3), Tag(8)));
        assert!(!subscriptions.has_work(), "not what it waits for");
        subscriptions.wake(KEY);
        assert!(subscriptions.has_work());
    }

    #[test]
    fn a_gap_is_told_and_gone_past() {
        let (mut subscriptions, mut outputs) = (subscribed(1..2), Outputs::default());
        let first = subscriptions.next_page(PLACE, &mut outputs).expect("it is its turn");
        let reply = Reply::Trimmed { first: SeqNum(8), place: PLACE };
        let gap = ReadPage { subscription: first.subscription, reply, seen: SeqNum(20) };
        subscriptions.page_read(gap, &mut outputs);
        assert_eq!(outputs.drain().count(), 1);
        let next = subscriptions.next_page(PLACE, &mut outputs).expect("it goes on");
        assert_eq!(next.from, SeqNum(8));
        let reply = Reply::Error { code: ErrorCode::Corrupt, message: "damaged".to_owned() };
        subscriptions.page_read(ReadPage { reply, ..page(&next, 0) }, &mut outputs);
        assert_eq!(outputs.drain().count(), 1);
        assert!(subscriptions.is_empty(), "an error ends it");
    }

    #[test]
    fn what_has_ended_leaves_nothing_behind() {
        let (mut subscriptions, mut outputs) = (subscribed(1..4), Outputs::default());
        let reading = subscriptions.next_page(PLACE, &mut outputs).expect("it is its turn");
        subscriptions.unsubscribe(CONNECTION, 2);
        subscriptions.wake(KEY);
        subscriptions.connection_closed(CONNECTION);
        subscriptions.page_read(page(&reading, 0), &mut outputs);
        subscriptions.begin_turn();
        assert_eq!(subscriptions.next_page(PLACE, &mut outputs), None);
        assert!(subscriptions.is_empty() && !subscriptions.has_work());
        assert_eq!((subscriptions.by_key.len(), subscriptions.by_request.len()), (0, 0));
        assert!(outputs.is_empty());
    }
}
