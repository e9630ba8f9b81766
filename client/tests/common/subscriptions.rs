//! Subscriptions of the server to test clients against.

use sealog_protocol::client::{CreditRequest, ErrorCode, ReadRequest, Reply, SubscribeRequest};
use sealog_protocol::limits::READ_RECORDS_MAX;

use super::FakeServer;

#[derive(Default)]
pub struct FakeSubscriptions {
    open: Vec<FakeSubscription>,
    /// What was asked, ends and signs of life excluded.
    pub subscribes_seen: Vec<SubscribeRequest>,
    pub credits_seen: Vec<u32>,
    /// Signs of life asked for.
    pub signs_seen: usize,
    /// Pushes nothing, and says nothing.
    pub are_mute: bool,
}

struct FakeSubscription {
    connection: usize,
    request: u64,
    wanted: SubscribeRequest,
    next: u64,
    credit: i64,
    is_told: bool,
}

impl FakeSubscriptions {
    pub fn disconnect(&mut self, connection: usize) {
        self.open.retain(|open| open.connection != connection);
    }

    pub fn end(&mut self, connection: usize, request: u64) {
        self.open.retain(|open| (open.connection, open.request) != (connection, request));
    }

    /// Has everyone sent everything from here on again.
    pub fn rewind(&mut self, next: u64) {
        self.open.iter_mut().for_each(|open| open.next = next);
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// The least credit of any.
    pub fn credit_min(&self) -> Option<i64> {
        self.open.iter().map(|open| open.credit).min()
    }
}

impl FakeServer {
    pub fn subscribe(&mut self, connection: usize, request: u64, wanted: SubscribeRequest) {
        self.subscriptions.subscribes_seen.push(wanted.clone());
        let (next, credit) = (wanted.from, i64::from(wanted.credit_bytes));
        self.subscriptions.open.push(FakeSubscription { connection, request, wanted, next, credit, is_told: false });
        self.push();
    }

    pub fn credit(&mut self, connection: usize, credit: &CreditRequest) {
        let mut open = std::mem::take(&mut self.subscriptions.open);
        let named = |open: &&mut FakeSubscription| (open.connection, open.request) == (connection, credit.subscription);
        match open.iter_mut().find(named) {
            Some(open) if credit.bytes == 0 => {
                self.subscriptions.signs_seen += 1;
                open.is_told = false;
            }
            Some(open) => {
                self.subscriptions.credits_seen.push(credit.bytes);
                open.credit += i64::from(credit.bytes);
            }
            None => {
                let reply = Reply::Error { code: ErrorCode::Invalid, message: "no such subscription".to_owned() };
                self.answer(connection, credit.subscription, &reply);
            }
        }
        self.subscriptions.open = open;
        self.push();
    }

    /// Ends every subscription with an error.
    pub fn end_subscriptions(&mut self, code: ErrorCode) {
        for open in std::mem::take(&mut self.subscriptions.open) {
            let reply = Reply::Error { code, message: "as the test says".to_owned() };
            self.answer(open.connection, open.request, &reply);
        }
    }

    /// Sends every subscription what it wants and may be sent.
    pub fn push(&mut self) {
        if self.subscriptions.are_mute {
            return;
        }
        let mut subscriptions = std::mem::take(&mut self.subscriptions.open);
        for open in &mut subscriptions {
            while let Some(reply) = self.next_page(open) {
                self.answer(open.connection, open.request, &reply);
            }
        }
        self.subscriptions.open = subscriptions;
    }

    fn next_page(&self, open: &mut FakeSubscription) -> Option<Reply> {
        let read = ReadRequest {
            logbook: open.wanted.logbook,
            tag: open.wanted.tag,
            from: open.next,
            until: u64::MAX,
            backward: false,
            records_max: if open.credit > 0 { READ_RECORDS_MAX as u32 } else { 0 },
            wait_ms: 0,
            place: open.wanted.place,
            linearizable: false,
            aux: false,
        };
        let is_told = std::mem::replace(&mut open.is_told, true);
        let reply = self.read(&read);
        match &reply {
            Reply::Trimmed { first, .. } => open.next = first.0,
            Reply::Records(page) => {
                open.credit -= page.payload_bytes() as i64;
                match page.parts.last() {
                    Some(last) => open.next = last.seqnum.0 + u64::from(last.records),
                    None if is_told => return None,
                    None => {}
                }
            }
            other => panic!("{other:?}"),
        }
        Some(reply)
    }
}
