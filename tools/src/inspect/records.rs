//! Which records of a run of batches are lost: each batch checks its metadata, that each payload.

use std::collections::BTreeSet;
use std::ops::Range;

use sealog_journal::entry::Run;
use sealog_protocol::LogBookId;
use sealog_protocol::batch::Batch;
use sealog_protocol::frame::{Frame, HEADER_BYTES, PlaceScope, verify_metadata};

/// What a run has lost.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Positions in the run's shard.
    pub positions: Vec<Range<u64>>,
    /// Of the lost records whose metadata is whole.
    pub logbooks: BTreeSet<LogBookId>,
}

impl Loss {
    /// Reads a run, in its bytes as they are on the disk.
    pub fn of(run: &Run, bytes: &[u8]) -> Loss {
        let (mut loss, mut next, mut at) = (Loss::default(), run.first, 0);
        while at < bytes.len() {
            let Some((first, batch)) = batch_at(run, next, &bytes[at..]) else {
                // Frames begin at multiples of 8.
                at += 8;
                continue;
            };
            loss.add(next..first);
            loss.read_payloads(first, &batch);
            next = first + batch.metadata.records.len() as u64;
            at += batch.frame.bytes.len();
        }
        loss.add(next..run.end());
        loss
    }

    pub fn records(&self) -> u64 {
        self.positions.iter().map(|range| range.end - range.start).sum()
    }

    fn read_payloads(&mut self, first: u64, batch: &Batch<'_>) {
        let mut begin = 0;
        for (position, record) in (first..).zip(batch.metadata.records.iter()) {
            let end = begin + record.payload_bytes.to_native() as usize;
            let payload = batch.frame.payload.get(begin..end);
            if payload.is_none_or(|payload| crc32fast::hash(payload) != record.payload_checksum.to_native()) {
                self.add(position..position + 1);
                self.logbooks.insert(batch.metadata.logbook());
            }
            begin = end;
        }
    }

    fn add(&mut self, positions: Range<u64>) {
        match self.positions.last_mut() {
            _ if positions.is_empty() => {}
            Some(last) if last.end == positions.start => last.end = positions.end,
            _ => self.positions.push(positions),
        }
    }
}

/// The batch at the start of `bytes`, if its metadata is whole and it comes next in this run, with
/// its first position.
fn batch_at<'a>(run: &Run, next: u64, bytes: &'a [u8]) -> Option<(u64, Batch<'a>)> {
    let frame = Frame::parse_unverified(bytes).ok()??;
    verify_metadata(&bytes[..HEADER_BYTES + frame.metadata.len()], &frame.header).ok()?;
    let first = frame.verify_place(PlaceScope::Shard(run.shard)).ok()?;
    let end = first.checked_add(u64::from(frame.header.count))?;
    let batch = Batch::parse_metadata(frame).ok()?;
    (first >= next && end <= run.end()).then_some((first, batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
    use sealog_protocol::frame::set_place;
    use sealog_protocol::ids::ShardId;
    use sealog_protocol::{RequestNumber, SessionId, Tag, ViewNumber};

    /// Three batches of two records each, from position 10 on, and where each begins.
    fn run() -> (Run, Vec<u8>, Vec<usize>) {
        let shard = ShardId { view: ViewNumber(2), index: 3 };
        let (mut bytes, mut begins) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let head = BatchHead {
                logbook: LogBookId(100 + number),
                session: SessionId(1),
                request: RequestNumber(number + 1),
                lowest_unanswered: RequestNumber(1),
                time_ms: 0,
                condition: None,
            };
            let record = NewRecord { tags: &[Tag(7)], payload: &[number as u8; 50] };
            begins.push(bytes.len());
            write_batch(&mut bytes, 0, &head, &[record, record]).unwrap();
            set_place(&mut bytes[begins[number as usize]..], PlaceScope::Shard(shard), 10 + 2 * number);
        }
        let run = Run { shard, first: 10, offset: 0, bytes: bytes.len() as u32, records: 6, tags_bytes: 0 };
        (run, bytes, begins)
    }

    #[test]
    fn a_whole_run_has_lost_nothing() {
        let (run, bytes, _) = run();
        assert_eq!(Loss::of(&run, &bytes), Loss::default());
    }

    #[test]
    fn a_damaged_payload_is_one_record_and_its_logbook_is_known() {
        let (run, mut bytes, begins) = run();
        // The last byte of the second batch's second payload, but for padding.
        let payloads = bytes[begins[1]..begins[2]].iter().rposition(|byte| *byte == 1).unwrap();
        bytes[begins[1] + payloads] ^= 0x80;
        let loss = Loss::of(&run, &bytes);
        assert_eq!((loss.positions.len(), loss.positions[0].clone()), (1, 13..14));
        assert_eq!(loss.logbooks, BTreeSet::from([LogBookId(101)]));
    }

    #[test]
    fn damaged_metadata_loses_its_batch_and_no_other() {
        for (damaged, lost) in [(0, 10..12), (1, 12..14), (2, 14..16)] {
            let (run, mut bytes, begins) = run();
            bytes[begins[damaged] + HEADER_BYTES + 3] ^= 1;
            assert_eq!(Loss::of(&run, &bytes).positions, [lost]);
        }
        let (run, bytes, _) = run();
        assert_eq!(Loss::of(&run, &vec![0; bytes.len()]).records(), 6);
    }
}
