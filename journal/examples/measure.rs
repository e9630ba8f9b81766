//! What the journal itself costs: CPU to append and to recover, device bytes per payload byte.
//!
//! `cargo run --release -p sealog-journal --example measure -- [records] [payload bytes] [records a block]`
//!
//! Segments are in memory, so no disk is measured; nor is what machines do with what is recovered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sealog_journal::{Journal, JournalConfig, SegmentSource, SourceError};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::ids::{LogBookId, LogspaceId, RequestNumber, SessionId, ShardId, Tag, ViewNumber};
use sealog_protocol::machine::{DurableEntry, Recovered, Role};
use sealog_protocol::tags::write_tags;
use sealog_protocol::time::Time;

#[derive(Default)]
struct Memory {
    segments: BTreeMap<u32, Vec<u8>>,
}

impl SegmentSource for Memory {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        Ok(self.segments.keys().copied().collect())
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        Ok(self.segments[&segment].len() as u64)
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let offset = offset as usize;
        buffer.copy_from_slice(&self.segments[&segment][offset..offset + buffer.len()]);
        Ok(())
    }
}

struct Written {
    segment_bytes: u64,
    device_bytes: u64,
    append: Duration,
}

fn main() {
    let mut arguments =
        std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("arguments are numbers"));
    let records = arguments.next().unwrap_or(1_000_000);
    let payload_bytes = arguments.next().unwrap_or(1024);
    let block_records = arguments.next().unwrap_or(128);
    let mut memory = Memory::default();
    let written = write(&mut memory, records, payload_bytes, block_records);
    let payload = (records * payload_bytes) as f64;
    println!(
        "append: {records} records of {payload_bytes} bytes, {block_records} a block: {:.0} ns a record, {:.3} device bytes \
         per payload byte, {} segments",
        written.append.as_nanos() as f64 / records as f64,
        written.device_bytes as f64 / payload,
        written.segment_bytes / (64 << 20),
    );
    recover(&mut memory, records);
}

fn write(memory: &mut Memory, records: u64, payload_bytes: u64, block_records: u64) -> Written {
    let shard = ShardId { view: ViewNumber(1), index: 0 };
    let owner = (LogspaceId(0), Role::Storage);
    let mut journal = Journal::recover(JournalConfig::new(1), memory, &mut |_, _| {}).expect("a new journal");
    let (batches, tags) = run(payload_bytes as usize, block_records);
    let mut append = Duration::ZERO;
    for block in 0..records / block_records {
        let start = Instant::now();
        let first = block * block_records;
        let entry = DurableEntry::Batches { shard, first, batches: batches.clone(), tags: tags.clone() };
        journal.append(Time::ZERO, owner, entry);
        append += start.elapsed();
        loop {
            while let Some(wanted) = journal.wanted_segment() {
                memory.segments.insert(wanted.segment, vec![0; 64 << 20]);
                journal.segment_ready(wanted.segment);
            }
            let start = Instant::now();
            let write = journal.next_write(Time::ZERO);
            append += start.elapsed();
            let Some(write) = write else { break };
            let offset = write.offset as usize;
            memory.segments.get_mut(&write.segment).expect("it was made")[offset..offset + write.buffer.len()]
                .copy_from_slice(&write.buffer);
            let start = Instant::now();
            journal.write_done(Time::ZERO, write.id, write.buffer);
            while journal.next_durable().is_some() {}
            append += start.elapsed();
        }
    }
    let status = journal.status();
    Written { segment_bytes: status.segments * (64 << 20), device_bytes: status.bytes_written, append }
}

fn run(payload_bytes: usize, records: u64) -> (Bytes, Bytes) {
    let payload = vec![7; payload_bytes];
    let mut batches = Vec::new();
    for request in 1..=records {
        let head = BatchHead {
            logbook: LogBookId(3),
            session: SessionId(4),
            request: RequestNumber(request),
            lowest_unanswered: RequestNumber(1),
            time_ms: 6,
            condition: None,
        };
        write_batch(&mut batches, 0, &head, &[NewRecord { tags: &[Tag(7)], payload: &payload }])
            .expect("within limits");
    }
    let mut tags = Vec::new();
    write_tags(&mut tags, &batches).expect("whole frames");
    (batches.into(), tags.into())
}

fn recover(memory: &mut Memory, records: u64) {
    let (mut entries, mut batch_bytes) = (0u64, 0u64);
    let start = Instant::now();
    let journal = Journal::recover(JournalConfig::new(1), memory, &mut |_, recovered| {
        entries += 1;
        if let Recovered::Batches { bytes, .. } = recovered {
            batch_bytes += u64::from(bytes);
        }
    })
    .expect("what was written");
    let elapsed = start.elapsed();
    let report = journal.report();
    println!(
        "recover: {} sealed and {} scanned segments, {} MB read, {entries} entries, {} MB of batches: {:.1} ms, {:.1} ns a \
         record ({:.2} s for 10 million)",
        report.sealed_segments,
        report.scanned_segments,
        report.bytes_read >> 20,
        batch_bytes >> 20,
        elapsed.as_secs_f64() * 1e3,
        elapsed.as_nanos() as f64 / records as f64,
        elapsed.as_secs_f64() * 1e7 / records as f64,
    );
}
