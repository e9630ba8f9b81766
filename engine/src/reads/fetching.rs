//! What a read fetches from storages, and from whom.

use sealog_protocol::{NodeId, Place};

use super::{Fetch, Reads, Stage};

impl Reads {
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

    /// What the index had is no more: reads that found something look again, once it has reached a place.
    pub fn start_over(&mut self, place: Place) {
        self.fetches.clear();
        self.unsent.clear();
        let ids: Vec<u64> = self.reads.keys().copied().collect();
        for id in ids {
            let mut read = self.take(id).expect("its key was found");
            if !matches!(read.stage, Stage::Query) {
                read.slots.clear();
                (read.fetches, read.corrupt) = (0, false);
                read.place = read.place.max(place);
                read.stage = Stage::Place;
                self.by_place.insert((read.place, id));
            }
            if let Some(until) = read.wait_until {
                self.by_deadline.insert((until, id));
            }
            self.keep(id, read);
        }
    }

    /// A storage is gone: what it was asked for is asked of another.
    pub fn storage_lost(&mut self, node: NodeId) {
        let lost: Vec<u64> =
            self.fetches.iter().filter(|(_, fetch)| fetch.asked == Some(node)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.refetch(id));
    }

    pub fn has_fetches(&self) -> bool {
        !self.fetches.is_empty()
    }
}
