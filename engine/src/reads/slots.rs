//! The records that a read has found, and their bytes as they come.

use bytes::Bytes;
use sealog_protocol::batch::{ArchivedBatchMetadata, Batch};
use sealog_protocol::client::RecordsPart;
use sealog_protocol::frame::{Frame, HEADER_BYTES, Header};
use sealog_protocol::{LocalId, LogBookId, SeqNum};

use super::fetching::FETCH_GAP_MAX;
use super::{Read, Want};
use crate::aux::AuxCache;
use crate::index::Index;
use crate::order::Order;

#[derive(Debug)]
pub(super) struct Slot {
    pub seqnum: SeqNum,
    pub at: LocalId,
    pub batch: Option<Bytes>,
}

impl Slot {
    /// Whether each tag of the record, or all of its LogBook, is trimmed past it.
    pub fn is_dead(&self, index: &Index, logbook: LogBookId) -> bool {
        let frame = self.batch.as_ref().and_then(|batch| Frame::parse_unverified(batch).ok().flatten());
        let Some(batch) = frame.and_then(|frame| Batch::parse_metadata(frame).ok()) else { return false };
        let nth = self.at.position - batch.frame.header.place;
        let Some(record) = batch.metadata.records.get(nth as usize) else { return false };
        record.tags().len() > 0 && record.tags().all(|tag| self.seqnum < index.first(logbook, tag))
    }
}

impl Read {
    /// The records that it looks for are these. Bytes of them that it has it keeps.
    pub(super) fn found(&mut self, found: &[SeqNum], order: &Order) {
        let mut known = std::mem::take(&mut self.slots);
        known.sort_unstable_by_key(|slot| slot.seqnum);
        let mut slot = |seqnum: SeqNum| {
            let before = known.binary_search_by_key(&seqnum, |slot| slot.seqnum).ok();
            let batch = before.and_then(|before| known[before].batch.take());
            Slot { seqnum, at: order.find(seqnum).expect("indexed, so ordered"), batch }
        };
        self.slots = found.iter().map(|seqnum| slot(*seqnum)).collect();
    }

    /// Looks for what comes after a record.
    pub(super) fn go_on_after(&mut self, last: SeqNum) {
        if let Want::Records { from, backward, .. } = &mut self.want {
            *from = if *backward { last.prev() } else { last.next() };
            self.went_back = *backward;
        }
    }

    /// The next fetches: which slot each begins with, and up to which position it should get what is
    /// behind it.
    pub(super) fn to_fetch(&self, from: usize, fetches_max: usize, records_max: usize) -> Vec<(usize, u64)> {
        // It is not known how far one gets: the first of a run tells, and then twice as far is tried.
        let reach_max = if self.stride == 0 { records_max } else { (2 * self.stride).min(records_max) }.max(1);
        let mut fetches = Vec::new();
        let mut next = from;
        while fetches.len() < fetches_max
            && let Some(rest) = self.slots.get(next..)
            && let Some(missing) = rest.iter().position(|slot| slot.batch.is_none())
        {
            let slot = next + missing;
            next = slot + self.reach(slot).min(reach_max);
            fetches.push((slot, self.slots[next - 1].at.position + 1));
        }
        fetches
    }

    /// How many slots a fetch that begins with this one should get: as long as most of what lies there
    /// is wanted.
    fn reach(&self, slot: usize) -> usize {
        let first = &self.slots[slot];
        let mut last = first.at.position;
        let is_near = |next: &&Slot| {
            let gap = next.at.position.checked_sub(last + 1);
            last = next.at.position;
            next.at.shard == first.at.shard && gap.is_some_and(|gap| gap <= FETCH_GAP_MAX) && next.batch.is_none()
        };
        1 + self.slots[slot + 1..].iter().take_while(is_near).count()
    }

    /// Batches came that lie one behind the other: fills the slots of all their records that the read
    /// wants.
    pub(super) fn fill_all(&mut self, slot: usize, batches: &[Bytes]) {
        let filled = batches.iter().fold(0, |filled, batch| filled + self.fill(slot, slot + filled, batch));
        self.stride = self.stride.max(filled);
    }

    /// A batch came, for the slot `asked`: fills the slots of its records from `slot` on. Returns how many
    /// these are.
    pub(super) fn fill(&mut self, asked: usize, slot: usize, batch: &Bytes) -> usize {
        let header = Header::parse(batch).ok().flatten().expect("batches in memory are whole");
        let (shard, first) = (self.slots[asked].at.shard, header.place);
        let positions = first..first + u64::from(header.count);
        let covered = |slot: &&mut Slot| slot.at.shard == shard && positions.contains(&slot.at.position);
        let mut filled = 0;
        for found in self.slots[slot..].iter_mut().take_while(covered) {
            found.batch = Some(batch.clone());
            filled += 1;
        }
        filled
    }

    /// How many of the first `present` slots go into one answer, and the bytes that they take in it. A
    /// record that would take it over its bound goes into the next one, unless it is the first.
    pub(super) fn fitting(&self, present: usize, aux: &AuxCache) -> (usize, usize) {
        let mut bytes = 0;
        let mut last: Option<(SeqNum, &Bytes, &ArchivedBatchMetadata)> = None;
        for (at, slot) in self.slots[..present].iter().enumerate() {
            let batch = slot.batch.as_ref().expect("it is present");
            let header = Header::parse(batch).ok().flatten().expect("batches in memory are whole");
            let known = last.filter(|(_, known, _)| known.as_ptr() == batch.as_ptr());
            let metadata = known.map_or_else(|| metadata_of(batch), |(.., metadata)| metadata);
            let record = &metadata.records[(slot.at.position - header.place) as usize];
            let mut wanted = record.payload_bytes.to_native() as usize;
            // Each part brings the head of its batch.
            if known.is_none_or(|(seqnum, ..)| seqnum.next() != slot.seqnum) {
                wanted += HEADER_BYTES + header.metadata_bytes as usize;
            }
            if self.aux {
                wanted += aux.data_bytes((self.key.0, slot.seqnum));
            }
            if at > 0 && bytes + wanted > self.bytes_max {
                return (at, bytes);
            }
            bytes += wanted;
            last = Some((slot.seqnum, batch, metadata));
        }
        (present, bytes)
    }

    /// The answer's parts: consecutive records of one batch together.
    pub(super) fn parts(&self) -> Vec<RecordsPart> {
        let mut parts: Vec<RecordsPart> = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let batch = slot.batch.as_ref().expect("gathered");
            let header = Header::parse(batch).ok().flatten().expect("batches in memory are whole");
            let index = (slot.at.position - header.place) as u16;
            if let Some(last) = parts.last_mut()
                && last.seqnum.0 + u64::from(last.records) == slot.seqnum.0
                && last.batch.as_ptr() == batch.as_ptr()
            {
                last.records += 1;
                continue;
            }
            parts.push(RecordsPart { seqnum: slot.seqnum, index, records: 1, batch: batch.clone() });
        }
        parts
    }
}

fn metadata_of(batch: &Bytes) -> &ArchivedBatchMetadata {
    let frame = Frame::parse_unverified(batch).ok().flatten().expect("batches in memory are whole");
    Batch::parse_metadata(frame).expect("batches in memory are whole").metadata
}
