//! A journal on a disk in memory that forgets what was not flushed, and a driver for it that checks
//! at every crash what the journal promised.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use sealog_journal::{
    BlockWrite, Journal, JournalConfig, Owner, RecoveryError, ScrubConfig, SegmentSource, SourceError, WantedSegment,
};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::frame::{PlaceScope, set_place};
use sealog_protocol::ids::{LogBookId, LogspaceId, RequestNumber, SessionId, ShardId, Tag, ViewNumber};
use sealog_protocol::machine::{DurableEntry, JournalPlace, Recovered, Role};
use sealog_protocol::tags::{self, write_tags};
use sealog_protocol::time::Time;

pub const SECTOR: usize = 512;
pub const JOURNAL_ID: u64 = 0xfeed_f00d_dead_beef;
pub const STORAGE: Owner = (LogspaceId(0), Role::Storage);
pub const SEQUENCER: Owner = (LogspaceId(0), Role::Sequencer);
pub const VIEW: ViewNumber = ViewNumber(1);

pub fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 256 << 10,
        segments_max: 0,
        asks_to_vacate: true,
        block_bytes_max: 16 << 10,
        writes_in_flight_max: 3,
        idle_mark: Duration::from_millis(200),
        journal_id: JOURNAL_ID,
        scrub: ScrubConfig::OFF,
    }
}

pub fn shard(index: u64) -> ShardId {
    ShardId { view: VIEW, index }
}

/// A small generator: the same seed, the same disk.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Segment files as they are on the platter.
#[derive(Clone, Default)]
pub struct Disk {
    pub segments: BTreeMap<u32, Vec<u8>>,
    pub bytes_read: u64,
}

impl Disk {
    pub fn write(&mut self, segment: u32, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        self.segments.get_mut(&segment).expect("a segment that was made")[offset..offset + bytes.len()]
            .copy_from_slice(bytes);
    }

    /// Writes one sector of a write, and no other.
    pub fn write_sector(&mut self, write: &BlockWrite, sector: usize) {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        self.write(write.segment, write.offset + range.start as u64, &write.buffer[range]);
    }

    /// A file that was of no use gets another number.
    pub fn rename(&mut self, wanted: WantedSegment) {
        let content = self.segments.remove(&wanted.recycled.expect("what is renamed was something"));
        let before = self.segments.insert(wanted.segment, content.expect("a file that is there is renamed"));
        assert!(before.is_none(), "numbers are used once");
    }

    pub fn flip(&mut self, segment: u32, offset: u64, bit: u8) {
        self.segments.get_mut(&segment).expect("a segment")[offset as usize] ^= 1 << bit;
    }

    pub fn bytes(&self, place: JournalPlace, bytes: usize) -> &[u8] {
        let offset = place.byte_offset() as usize;
        &self.segments[&place.segment][offset..offset + bytes]
    }
}

impl SegmentSource for Disk {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        Ok(self.segments.keys().rev().copied().collect())
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        Ok(self.segments[&segment].len() as u64)
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        assert!(offset.is_multiple_of(4096) && buffer.len().is_multiple_of(4096), "reads are aligned");
        assert!(buffer.as_ptr().addr().is_multiple_of(4096), "so is memory");
        self.bytes_read += buffer.len() as u64;
        let offset = offset as usize;
        buffer.copy_from_slice(&self.segments[&segment][offset..offset + buffer.len()]);
        Ok(())
    }
}

/// An entry as a test compares it: what was appended, what was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub owner: Owner,
    pub entry: String,
}

impl Seen {
    pub fn appended(owner: Owner, entry: &DurableEntry) -> Seen {
        let entry = match entry {
            DurableEntry::Batches { shard, first, batches, tags } => {
                let records: u64 = tags::entries(tags).map(|entry| entry.expect("whole").records()).sum();
                format!("batches {shard} {first} {records} {}", batches.len())
            }
            DurableEntry::Metalog { view, from, entries, .. } => format!("metalog {view} {from} {entries:?}"),
            DurableEntry::Commit { view, commit } => format!("commit {view} {commit}"),
            DurableEntry::SequencerSeal { view } => format!("sequencer seal {view}"),
            DurableEntry::StorageSeal { view } => format!("storage seal {view}"),
            DurableEntry::MetalogBase { place } => format!("metalog base {place:?}"),
            DurableEntry::Checkpoint { place, part, last, bytes } => {
                format!("checkpoint {place:?} {part} {last} {}", bytes.len())
            }
        };
        Seen { owner, entry }
    }

    pub fn recovered(owner: Owner, recovered: &Recovered<'_>) -> Seen {
        let entry = match recovered {
            Recovered::Batches { shard, first, records, bytes, .. } => {
                format!("batches {shard} {first} {records} {bytes}")
            }
            Recovered::Metalog { view, from, entries, .. } => {
                format!("metalog {view} {from} {:?}", Bytes::copy_from_slice(entries))
            }
            Recovered::Commit { view, commit, .. } => format!("commit {view} {commit}"),
            Recovered::SequencerSeal { view, .. } => format!("sequencer seal {view}"),
            Recovered::StorageSeal { view, .. } => format!("storage seal {view}"),
            Recovered::MetalogBase { place, .. } => format!("metalog base {place:?}"),
            Recovered::Checkpoint { place, part, last, bytes, .. } => {
                format!("checkpoint {place:?} {part} {last} {bytes}")
            }
        };
        Seen { owner, entry }
    }
}

/// A journal, the entries that it was opened with, and where the runs of batches among them lie.
pub type Opened = (Journal, Vec<Seen>, Vec<(usize, JournalPlace)>);

/// All that a disk gives.
pub fn recover(config: JournalConfig, disk: &mut Disk) -> Result<Opened, RecoveryError> {
    recover_segments(config, disk, &mut Vec::new())
}

/// As before; `segments` are those of the entries.
fn recover_segments(config: JournalConfig, disk: &mut Disk, segments: &mut Vec<u32>) -> Result<Opened, RecoveryError> {
    let (mut seen, mut places) = (Vec::new(), Vec::new());
    let journal = Journal::recover(config, disk, &mut |owner, recovered| {
        if let Recovered::Batches { at, .. } = recovered {
            places.push((seen.len(), at));
        }
        segments.push(match &recovered {
            Recovered::Batches { at, .. } | Recovered::Checkpoint { at, .. } => at.segment,
            Recovered::Metalog { segment, .. }
            | Recovered::Commit { segment, .. }
            | Recovered::SequencerSeal { segment, .. }
            | Recovered::StorageSeal { segment, .. }
            | Recovered::MetalogBase { segment, .. } => *segment,
        });
        seen.push(Seen::recovered(owner, &recovered));
    })?;
    Ok((journal, seen, places))
}

/// One frame of one record with this payload, at this position of the shard.
pub fn batch(shard: ShardId, position: u64, payload: &[u8]) -> Vec<u8> {
    let head = BatchHead {
        logbook: LogBookId(3),
        session: SessionId(4),
        request: RequestNumber(position + 1),
        lowest_unanswered: RequestNumber(1),
        time_ms: 6,
        condition: None,
    };
    let mut frame = Vec::new();
    write_batch(&mut frame, 0, &head, &[NewRecord { tags: &[Tag(7)], payload }]).expect("a small batch");
    set_place(&mut frame, PlaceScope::Shard(shard), position);
    frame
}

pub fn tags_of(batches: &[u8]) -> Bytes {
    let mut tags = Vec::new();
    write_tags(&mut tags, batches).expect("whole frames");
    tags.into()
}

/// A run of records with payloads of this size.
pub fn run(shard: ShardId, first: u64, records: u64, payload_bytes: usize) -> DurableEntry {
    let frames = (first..first + records).map(|position| batch(shard, position, &vec![position as u8; payload_bytes]));
    let batches: Bytes = frames.collect::<Vec<_>>().concat().into();
    DurableEntry::Batches { shard, first, tags: tags_of(&batches), batches }
}

pub fn metalog(from: u64, bytes: usize) -> DurableEntry {
    DurableEntry::Metalog { view: VIEW, from, count: 1, entries: vec![from as u8; bytes].into() }
}

/// A journal, its disk, and what it was told and said.
pub struct Driver {
    pub config: JournalConfig,
    pub journal: Journal,
    pub disk: Disk,
    pub now: Time,
    pub in_flight: Vec<BlockWrite>,
    /// Everything appended that is not cut off, in order; the first `durable` were reported so.
    pub appended: Vec<(Seen, Bytes)>,
    pub durable: usize,
    /// Places of entries that became durable in this life.
    pub places: Vec<JournalPlace>,
    /// Segments of the first `durable` entries.
    pub segments: Vec<u32>,
    /// Whose part of which segment was given back since the last start.
    pub released: BTreeSet<(Owner, u32)>,
    /// Files that are being renamed: a crash leaves them under the one name or the other.
    pub renaming: Vec<WantedSegment>,
    /// Files that were removed, and may come back: their directory was not flushed.
    pub removed: Vec<(u32, Vec<u8>)>,
    /// Renaming takes a while now and then.
    pub is_slow: bool,
    copies: u64,
    /// What a new segment file holds.
    pub fresh: Fresh,
    /// Segments that found no room on the disk.
    pub failed: Vec<u32>,
    pub random: Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    Zeros,
    /// What another segment held before.
    Stale,
    /// The disk is full.
    None,
}

impl Driver {
    pub fn new(config: JournalConfig) -> Driver {
        let mut disk = Disk::default();
        let (journal, seen, _) = recover(config, &mut disk).expect("an empty disk is a new journal");
        assert!(seen.is_empty());
        Driver {
            config,
            journal,
            disk,
            now: Time(1),
            in_flight: Vec::new(),
            appended: Vec::new(),
            durable: 0,
            places: Vec::new(),
            segments: Vec::new(),
            released: BTreeSet::new(),
            renaming: Vec::new(),
            removed: Vec::new(),
            is_slow: false,
            copies: 0,
            fresh: Fresh::Zeros,
            failed: Vec::new(),
            random: Random(1),
        }
    }

    pub fn append(&mut self, owner: Owner, entry: DurableEntry) {
        let batches = match &entry {
            DurableEntry::Batches { batches, .. } => batches.clone(),
            _ => Bytes::new(),
        };
        self.appended.push((Seen::appended(owner, &entry), batches));
        self.journal.append(self.now, owner, entry);
    }

    /// Submits what the journal wants to write.
    pub fn submit(&mut self) {
        self.prepare();
        while let Some(write) = self.journal.next_write(self.now) {
            assert!(write.offset.is_multiple_of(4096) && write.buffer.len().is_multiple_of(4096));
            assert!(self.in_flight.len() <= self.config.writes_in_flight_max, "bounded, and one footer");
            self.in_flight.push(write);
            self.prepare();
        }
    }

    pub fn prepare(&mut self) {
        while let Some(segment) = self.journal.next_removal() {
            self.assert_unneeded(segment);
            let content = self.disk.segments.remove(&segment).expect("a file that is there is removed");
            self.removed.push((segment, content));
        }
        if !self.is_slow || self.random.below(3) == 0 {
            self.rename();
        }
        while let Some(wanted) = self.journal.wanted_segment() {
            let segment = wanted.segment;
            if let Some(recycled) = wanted.recycled {
                self.assert_unneeded(recycled);
                self.renaming.push(wanted);
                continue;
            }
            let bytes = self.config.segment_bytes as usize;
            let content = match self.fresh {
                Fresh::Zeros => vec![0; bytes],
                Fresh::Stale if self.disk.segments.is_empty() => vec![0; bytes],
                Fresh::Stale => {
                    let index = self.random.below(self.disk.segments.len() as u64) as usize;
                    self.disk.segments.values().nth(index).expect("one of them").clone()
                }
                Fresh::None => {
                    self.journal.segment_failed(segment);
                    self.failed.push(segment);
                    continue;
                }
            };
            self.disk.segments.insert(segment, content);
            self.journal.segment_ready(segment);
        }
    }

    /// Files that get another name have it.
    fn rename(&mut self) {
        for wanted in std::mem::take(&mut self.renaming) {
            self.disk.rename(wanted);
            self.removed.clear();
            self.journal.segment_ready(wanted.segment);
        }
    }

    /// What is used again or removed holds nothing that a machine did not give back.
    fn assert_unneeded(&self, segment: u32) {
        for (at, _) in self.segments.iter().enumerate().filter(|(_, of)| **of == segment) {
            let seen = &self.appended[at].0;
            assert!(self.released.contains(&(seen.owner, segment)), "{} is needed", seen.entry);
        }
    }

    /// Segments in which this machine has something durable, and gets no more.
    pub fn releasable(&self, owner: Owner) -> Vec<u32> {
        let own = self.segments.iter().zip(&self.appended).filter(|(_, (seen, _))| seen.owner == owner);
        let mut segments: Vec<u32> = own.map(|(segment, _)| *segment).collect();
        let last = segments.last().copied();
        segments.dedup();
        segments.retain(|segment| Some(*segment) != last && !self.released.contains(&(owner, *segment)));
        segments
    }

    /// A machine needs nothing more of what it has there.
    pub fn release(&mut self, owner: Owner, segment: u32) {
        self.released.insert((owner, segment));
        self.journal.release(owner, segment);
    }

    /// A machine appends again what it has there, as cuts of its own, then needs the segment no more.
    pub fn append_again(&mut self, owner: Owner, segment: u32) {
        assert_eq!(owner, SEQUENCER, "nobody else holds little");
        let copies = self.segments.iter().filter(|of| **of == segment).count().min(3);
        for _ in 0..copies {
            self.copies += 1;
            self.append(owner, metalog(1 << 32 | self.copies, 10));
        }
        self.settle();
        self.release(owner, segment);
    }

    /// The disk has room again.
    pub fn retry_failed(&mut self) {
        for segment in std::mem::take(&mut self.failed) {
            self.disk.segments.insert(segment, vec![0; self.config.segment_bytes as usize]);
            self.journal.segment_ready(segment);
        }
    }

    /// Completes one write: it is durable now.
    pub fn complete(&mut self, index: usize) {
        let write = self.in_flight.remove(index);
        self.disk.write(write.segment, write.offset, &write.buffer);
        self.journal.write_done(self.now, write.id, write.buffer);
        self.take_durable();
    }

    fn take_durable(&mut self) {
        while let Some((owner, place)) = self.journal.next_durable() {
            let (seen, batches) = &self.appended[self.durable];
            assert_eq!(owner, seen.owner, "durability comes in order of appending");
            assert_eq!(self.disk.bytes(place, batches.len()), &batches[..], "a run lies where the journal says");
            self.places.push(place);
            self.segments.push(place.segment);
            self.durable += 1;
        }
    }

    /// Writes everything and waits for it.
    pub fn settle(&mut self) {
        loop {
            self.submit();
            if self.in_flight.is_empty() {
                return;
            }
            self.complete(0);
        }
    }

    /// Writes everything, with nothing to compare it to: after damage.
    pub fn settle_unchecked(&mut self) {
        loop {
            self.submit();
            let Some(write) = self.in_flight.pop() else { return };
            self.disk.write(write.segment, write.offset, &write.buffer);
            self.journal.write_done(self.now, write.id, write.buffer);
        }
    }

    /// Appends and waits: one block.
    pub fn append_durably(&mut self, owner: Owner, entry: DurableEntry) {
        self.append(owner, entry);
        self.settle();
    }

    /// The idle mark.
    pub fn idle(&mut self) {
        if let Some(deadline) = self.journal.deadline() {
            self.now = self.now.max(deadline);
        }
        self.settle();
    }

    pub fn stop(&mut self) {
        self.journal.stop(self.now);
        self.settle();
        assert!(self.journal.is_settled());
    }

    /// Power loss: each sector of each write in flight is kept, dropped or torn.
    pub fn lose_power(&mut self) {
        for wanted in std::mem::take(&mut self.renaming) {
            if self.random.below(2) == 0 {
                self.disk.rename(wanted);
            }
        }
        for (segment, content) in std::mem::take(&mut self.removed) {
            if self.random.below(2) == 0 {
                self.disk.segments.insert(segment, content);
            }
        }
        for write in std::mem::take(&mut self.in_flight) {
            // Whole writes survive or vanish often enough to matter.
            let mode = self.random.below(4);
            for sector in 0..write.buffer.len() / SECTOR {
                match (mode, self.random.below(8)) {
                    (0, _) => {}
                    (1, _) => self.disk.write_sector(&write, sector),
                    (_, 0..4) => self.disk.write_sector(&write, sector),
                    (_, 4) => {
                        let torn: Vec<u8> = (0..SECTOR).map(|_| self.random.next() as u8).collect();
                        self.disk.write(write.segment, write.offset + (sector * SECTOR) as u64, &torn);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Starts again on what the disk holds, and checks it against what was promised.
    pub fn restart(&mut self) {
        self.in_flight.clear();
        self.failed.clear();
        self.renaming.clear();
        self.removed.clear();
        let mut segments = Vec::new();
        let recovered = recover_segments(self.config, &mut self.disk, &mut segments);
        let (journal, seen, places) = recovered.expect("a crash damages nothing");
        assert_eq!(journal.report().damages, [], "a crash is no damage");
        let before = std::mem::take(&mut self.appended);
        let mut expected = before.into_iter().enumerate();
        for found in &seen {
            let entry = expected.by_ref().find_map(|(index, entry)| {
                (entry.0 == *found).then_some(entry.clone()).or_else(|| {
                    assert!(self.is_released(index, &entry.0), "entry {index} is gone: {:?}", entry.0);
                    None
                })
            });
            self.appended.push(entry.unwrap_or_else(|| panic!("{found:?} was not appended, or not there")));
        }
        for (index, (missing, _)) in expected {
            assert!(index >= self.durable || self.is_released(index, &missing), "entry {index} is gone: {missing:?}");
        }
        for (index, place) in places {
            let batches = &self.appended[index].1;
            assert_eq!(self.disk.bytes(place, batches.len()), &batches[..], "payloads of entry {index}");
        }
        self.durable = seen.len();
        self.segments = segments;
        // A machine does not remember what it gave back, and needs again what it finds.
        self.released.clear();
        self.journal = journal;
    }

    fn is_released(&self, index: usize, seen: &Seen) -> bool {
        self.segments.get(index).is_some_and(|segment| self.released.contains(&(seen.owner, *segment)))
    }
}
