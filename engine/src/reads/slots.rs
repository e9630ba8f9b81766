//! The records that a read has found, and their bytes as they come.

use bytes::Bytes;
use sealog_protocol::client::RecordsPart;
use sealog_protocol::frame::Header;
use sealog_protocol::{LocalId, SeqNum};

use super::Read;

#[derive(Debug)]
pub(super) struct Slot {
    pub seqnum: SeqNum,
    pub at: LocalId,
    pub batch: Option<Bytes>,
}

impl Read {
    /// A batch came: fills the slots of all its records that the read wants.
    pub(super) fn fill(&mut self, slot: usize, batch: &Bytes) {
        let header = Header::parse(batch).ok().flatten().expect("batches in memory are whole");
        let (shard, first) = (self.slots[slot].at.shard, header.place);
        let positions = first..first + u64::from(header.count);
        self.stride = usize::from(header.count);
        let covered = |slot: &Slot| slot.at.shard == shard && positions.contains(&slot.at.position);
        for found in self.slots[slot..].iter_mut().take_while(|slot| covered(slot)) {
            found.batch = Some(batch.clone());
        }
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

/// About how many bytes a record of this batch adds to an answer.
pub(super) fn record_bytes(batch: &Bytes) -> usize {
    let header = Header::parse(batch).ok().flatten().expect("batches in memory are whole");
    batch.len() / usize::from(header.count).max(1)
}
