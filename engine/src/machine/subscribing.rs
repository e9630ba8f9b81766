//! Subscriptions: what clients ask of them, and the pages that are read for them.

use sealog_protocol::Time;
use sealog_protocol::client::Request;
use sealog_protocol::machine::{ConnectionId, Outputs};

use super::Engine;
use super::replies::unavailable;
use crate::reads::Sources;

impl Engine {
    pub(super) fn subscription_request(
        &mut self,
        connection: ConnectionId,
        id: u64,
        request: &Request,
        outputs: &mut Outputs,
    ) {
        let applied = self.applied();
        match request {
            Request::Subscribe(_) if self.index.is_none() => outputs.reply(connection, id, unavailable()),
            Request::Subscribe(wanted) => self.subscriptions.subscribe(connection, id, wanted, outputs),
            Request::Credit(credit) => self.subscriptions.credit(applied, connection, credit, outputs),
            Request::Unsubscribe { subscription, .. } => self.subscriptions.unsubscribe(connection, *subscription),
            _ => panic!("not about a subscription"),
        }
    }

    /// Reads on for the subscriptions that have something to read, and sends what was read.
    pub(super) fn push_subscriptions(&mut self, now: Time, outputs: &mut Outputs) {
        let (Some(index), Some(logspace)) = (&self.index, &self.logspace) else { return };
        let (applied, next) = (logspace.place(), logspace.next_seqnum());
        let sources = Sources { index, order: &self.order, producer: &self.producer, applied, next, now };
        self.subscriptions.begin_turn();
        loop {
            for page in self.reads.take_pages() {
                self.subscriptions.page_read(page, outputs);
            }
            let Some(wanted) = self.subscriptions.next_page(applied, outputs) else { return };
            self.reads.read_page(sources, &wanted, outputs);
        }
    }
}
