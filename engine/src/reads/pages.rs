//! Reads whose answers are pages of subscriptions.

use sealog_protocol::SeqNum;
use sealog_protocol::client::Reply;
use sealog_protocol::limits::READ_RECORDS_MAX;
use sealog_protocol::machine::Outputs;

use super::{Read, Reads, Sources, Want};
use crate::subscriptions::{ReadPage, WantedPage};

impl Reads {
    /// Reads a page of a subscription, which [`Reads::take_pages`] gives out. Subscriptions are bounded,
    /// and have one page read at a time: there is room for it.
    pub fn read_page(&mut self, sources: Sources<'_>, wanted: &WantedPage, outputs: &mut Outputs) {
        let until = SeqNum::MAX;
        let want = Want::Records { from: wanted.from, until, backward: false, records_max: READ_RECORDS_MAX };
        let mut read = Read::new(wanted.connection, wanted.request, wanted.key, want, wanted.place, None);
        read.subscription = Some(wanted.subscription);
        read.bytes_max = wanted.bytes_max;
        self.last += 1;
        self.look(self.last, read, sources, outputs);
    }

    /// Pages of subscriptions that were read since the last call.
    pub fn take_pages(&mut self) -> Vec<ReadPage> {
        std::mem::take(&mut self.pages)
    }

    /// Gives a read its answer, to whom it belongs.
    pub(super) fn answer(&mut self, read: &Read, reply: Reply, outputs: &mut Outputs) {
        match read.subscription {
            Some(subscription) => self.pages.push(ReadPage { subscription, reply, seen: read.seen }),
            None => outputs.reply(read.connection, read.request, reply),
        }
    }
}
