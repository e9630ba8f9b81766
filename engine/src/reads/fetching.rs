//! What a read fetches from storages, and from whom.

use bytes::Bytes;
use sealog_protocol::batch::Batch;
use sealog_protocol::frame::PlaceScope;
use sealog_protocol::limits::FETCHES_IN_FLIGHT_MAX;
use sealog_protocol::{LocalId, NodeId, Place, Time};

use super::{Fetch, Read, Reads, Stage};

/// Fetches of one read at once, while it is not known how large its records are.
const WAVE_FIRST: usize = 4;
const WAVE_MAX: usize = 64;
/// Records between two that a read wants, at most, for one fetch to be asked for both.
pub(super) const FETCH_GAP_MAX: u64 = 4;
/// Bytes that one read fetches at once, about: appends wait behind the work that they are.
const WAVE_BYTES: usize = 128 << 10;

impl Reads {
    /// Asks for the next bytes of a read.
    pub(super) fn fetch_wave(&mut self, id: u64, read: &mut Read, from: usize, bytes: usize) {
        let average = (bytes / from.max(1)).max(1);
        let wanted =
            if from == 0 { WAVE_FIRST } else { (WAVE_BYTES / average / read.stride.max(1)).clamp(1, WAVE_MAX) };
        let room = FETCHES_IN_FLIGHT_MAX.saturating_sub(self.fetches.len()).max(1);
        let fetches = read.to_fetch(from, wanted.min(room), WAVE_BYTES / average);
        read.stride = 0;
        for (slot, until) in fetches {
            self.last_fetch += 1;
            let fetch = Fetch {
                read: id,
                slot,
                at: read.slots[slot].at,
                until,
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

/// The batches at the begin of `bytes` that are whole, one behind the other, the first of which holds a
/// record.
pub fn whole_batches(bytes: &Bytes, at: LocalId) -> Vec<Bytes> {
    let mut whole: Vec<Bytes> = Vec::new();
    let (mut from, mut next) = (0, None);
    while let Ok(parsed) = Batch::parse(&bytes[from..])
        && let Ok(first) = parsed.frame.verify_place(PlaceScope::Shard(at.shard))
    {
        let end = first + u64::from(parsed.frame.header.count);
        if next.map_or(!(first..end).contains(&at.position), |next| first != next) {
            break;
        }
        let to = from + parsed.frame.bytes.len();
        whole.push(bytes.slice(from..to));
        (from, next) = (to, Some(end));
    }
    whole
}
