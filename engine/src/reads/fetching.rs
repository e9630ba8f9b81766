//! Bytes that reads lack: what is asked of storages, and of which next.

use std::collections::BTreeSet;

use bytes::Bytes;
use sealog_protocol::limits::{FETCHES_IN_FLIGHT_MAX, READ_BYTES_MAX, REQUEST_RETRY};
use sealog_protocol::machine::Outputs;
use sealog_protocol::{NodeId, Time};

use super::{Fetch, Read, Reads, Sources, WAVE_FIRST, WAVE_MAX};

impl Reads {
    pub(super) fn fetch_wave(&mut self, id: u64, read: &mut Read, from: usize, bytes: usize) {
        let average = (bytes / from.max(1)).max(1);
        let wanted = if from == 0 { WAVE_FIRST } else { (READ_BYTES_MAX / average).clamp(1, WAVE_MAX) };
        let room = FETCHES_IN_FLIGHT_MAX.saturating_sub(self.fetches.len()).max(1);
        let missing = (from..read.slots.len()).filter(|at| read.slots[*at].batch.is_none());
        for slot in missing.step_by(read.stride.max(1)).take(wanted.min(room)) {
            self.last_fetch += 1;
            let fetch = Fetch {
                read: id,
                slot,
                at: read.slots[slot].at,
                attempt: 0,
                asked: None,
                asked_at: Time::ZERO,
                corrupt: false,
            };
            self.fetches.insert(self.last_fetch, fetch);
            self.unsent.push(self.last_fetch);
            read.fetches += 1;
        }
    }

    /// The bytes of a fetch came, or (`None`) no replica can read them.
    pub fn fetched(&mut self, fetch: u64, batch: Option<Bytes>, sources: Sources<'_>, outputs: &mut Outputs) {
        let Some(fetch) = self.fetches.remove(&fetch) else { return };
        let Some(mut read) = self.take(fetch.read) else { return };
        read.fetches -= 1;
        match batch {
            Some(batch) => read.fill(fetch.slot, &batch),
            None => read.corrupt = true,
        }
        if read.fetches > 0 {
            self.keep(fetch.read, read);
        } else {
            self.gather(fetch.read, read, sources, outputs);
        }
    }

    /// A fetch that is under way.
    pub fn fetch_mut(&mut self, fetch: u64) -> Option<&mut Fetch> {
        self.fetches.get_mut(&fetch)
    }

    /// Fetches to be sent now: new ones, and those whose storage went or did not answer.
    pub fn fetches_to_send(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unsent)
    }

    /// Has a fetch sent again, to the next replica.
    pub fn refetch(&mut self, fetch: u64) {
        if let Some(found) = self.fetches.get_mut(&fetch) {
            found.attempt += 1;
            found.asked = None;
            self.unsent.push(fetch);
        }
    }

    /// A storage is gone: what it was asked for is asked of another.
    pub fn storage_lost(&mut self, node: NodeId) {
        let lost: Vec<u64> =
            self.fetches.iter().filter(|(_, fetch)| fetch.asked == Some(node)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.refetch(id));
    }

    /// Begins reads anew that have waited too long for bytes: the records may have been trimmed.
    pub fn retry(&mut self, sources: Sources<'_>, outputs: &mut Outputs) {
        let overdue = |fetch: &Fetch| fetch.asked.is_none() || sources.now.since(fetch.asked_at) >= REQUEST_RETRY;
        let late: BTreeSet<u64> =
            self.fetches.values().filter(|fetch| overdue(fetch)).map(|fetch| fetch.read).collect();
        self.fetches.retain(|_, fetch| !late.contains(&fetch.read));
        for id in late {
            let Some(mut read) = self.take(id) else { continue };
            read.slots.clear();
            read.fetches = 0;
            self.look(id, read, sources, outputs);
        }
    }

    pub fn has_fetches(&self) -> bool {
        !self.fetches.is_empty()
    }
}
