//! What a read fetches from storages, and from whom.

use sealog_protocol::NodeId;

use super::{Fetch, Reads};

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
