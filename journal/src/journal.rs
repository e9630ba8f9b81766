//! The journal of one executor: entries in, blocks out, durability in order.
//!
//! ```text
//!  append → gathering ─(too large)→ queue ─┐
//!               └───────(a write is free)──┴→ flights → durable, in order → next_durable
//! ```
//!
//! A block gets its place and its number when it is written. At most
//! [`JournalConfig::writes_in_flight_max`] blocks lie beyond the durable prefix.

mod scrubbing;

use std::collections::VecDeque;

use bytes::Bytes;
use sealog_protocol::ids::ShardId;
use sealog_protocol::machine::{DurableEntry, JournalPlace, Recovered};
use sealog_protocol::time::Time;

use crate::ALIGNMENT;
use crate::block::{Gathering, Need, header_at};
use crate::buffer::{BlockBuffer, BufferPool};
use crate::config::{JournalConfig, Owner};
use crate::entry::{Entry, Line, lines};
use crate::header::{BlockHeader, BlockKind, HEADER_BYTES};
use crate::recovery::recover;
use crate::report::{RecoveryError, RecoveryReport};
use crate::scrub::Scrub;
use crate::segments::{OpenSegment, Segments, WantedSegment};
use crate::source::SegmentSource;
use crate::status::JournalStatus;
use crate::tags::{FooterChunk, TagsSource};

/// Data of a block that takes a page, with its header and directory.
const PAGE_DATA_BYTES: usize = ALIGNMENT * 5 / 8;
/// Beside a write of up to so much data a block waits until it is as large; beside a larger one until
/// it is half as large again. docs/measurements.md has what that changed.
const SMALL_DATA_BYTES: usize = 16 << 10;
/// A block of so much data never waits.
const HELD_DATA_BYTES_MAX: usize = 64 << 10;

/// Blocks without content whose memory is kept for others.
const SPARE_BLOCKS_MAX: usize = 8;

/// A write that the driver is to make: exactly these bytes, there, durable when it completes
/// (O_DIRECT with RWF_DSYNC). Writes in flight may complete in any order.
#[derive(Debug)]
pub struct BlockWrite {
    pub id: u64,
    pub segment: u32,
    /// A multiple of 4096, as is the buffer's length and its address.
    pub offset: u64,
    pub buffer: BlockBuffer,
}

/// A block that is written, or waits for those before it.
struct Flight {
    id: u64,
    number: u64,
    done: bool,
    /// Of its entries' data.
    data_bytes: usize,
    entries: u32,
    forcing: bool,
    /// The durable prefix that it carries.
    carries: u64,
}

/// The first block of an incarnation is written alone: whatever else is found of the incarnation
/// after a crash then proves that the first is there too, and the next recovery cannot give the
/// same incarnation again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecoveryBlock {
    Wanted,
    InFlight,
    Durable,
}

/// The journal that the machines of one executor share.
pub struct Journal {
    config: JournalConfig,
    pool: BufferPool,
    gathering: Gathering,
    queue: VecDeque<Gathering>,
    /// Empty ones whose memory is used again.
    spare: Vec<Gathering>,
    flights: VecDeque<Flight>,
    footer_flight: Option<(u64, u32)>,
    /// Owner and place of entries that are not yet reported, oldest first; the first `reportable`
    /// are durable.
    unreported: VecDeque<(Owner, JournalPlace)>,
    reportable: usize,
    segments: Segments,
    incarnation: u64,
    incarnation_first: u64,
    recovery_block: RecoveryBlock,
    next_id: u64,
    next_number: u64,
    /// Vital entries in all blocks with numbers.
    vital: u64,
    /// Blocks below are durable.
    durable: u64,
    /// What a durable block says is durable.
    marked: u64,
    /// The end of what must be marked: past the last block that holds more than commits.
    to_mark: u64,
    queued_bytes: usize,
    last_activity: Time,
    stopping: bool,
    scrub: Scrub,
    counts: JournalStatus,
    report: RecoveryReport,
}

impl Journal {
    /// Opens a journal: hands every entry that is in it to `sink`, in the order of appending.
    /// A source without segments is a new journal. All that was handed over is durable.
    ///
    /// # Errors
    /// When the files cannot be read, are of another version or journal, or have lost metalog
    /// entries. Nothing is written by recovery itself.
    pub fn recover(
        config: JournalConfig,
        source: &mut dyn SegmentSource,
        sink: &mut dyn FnMut(Owner, Recovered<'_>),
    ) -> Result<Journal, RecoveryError> {
        config.check();
        let found = recover(&config, source, sink)?;
        let mut segments = found.segments;
        segments.set_durable(found.next_number);
        let mut scrub = Scrub::new(config.scrub, config.journal_id);
        scrub.recovered(found.rotten.into_iter());
        Ok(Journal {
            pool: BufferPool::new(config.writes_in_flight_max + 2, config.block_bytes_max),
            config,
            gathering: Gathering::default(),
            queue: VecDeque::new(),
            spare: Vec::new(),
            flights: VecDeque::new(),
            footer_flight: None,
            unreported: VecDeque::new(),
            reportable: 0,
            segments,
            incarnation: found.incarnation,
            incarnation_first: found.next_number,
            recovery_block: RecoveryBlock::Wanted,
            next_id: 0,
            next_number: found.next_number,
            vital: found.vital,
            durable: found.next_number,
            marked: 0,
            to_mark: found.next_number,
            queued_bytes: 0,
            last_activity: Time::ZERO,
            stopping: false,
            scrub,
            counts: JournalStatus::default(),
            report: found.report,
        })
    }

    /// Takes an entry into the block that is being gathered. It is written by a later
    /// [`Journal::next_write`], and reported by [`Journal::next_durable`]. What may be appended
    /// before it is durable is bounded by the machines
    /// ([`sealog_protocol::limits::PENDING_BYTES_MAX`]); it is held here until then.
    ///
    /// # Panics
    /// When the entry does not fit an empty segment, or its batches are not whole frames.
    pub fn append(&mut self, _now: Time, owner: Owner, entry: DurableEntry) {
        let need = Need::of(&entry);
        assert!(self.segments.fits_empty(need), "an entry of {} bytes fits no segment", need.block_bytes());
        let total = self.gathering.need() + need;
        let bytes = HEADER_BYTES + total.data_bytes + total.directory_bytes;
        let too_large = bytes > self.config.block_bytes_max;
        // What forces no write goes along even with an entry that is too large for other company.
        if (too_large && self.gathering.forcing) || !self.segments.fits_empty(total) {
            self.close_gathering();
        }
        if let DurableEntry::Batches { batches, .. } = &entry {
            self.counts.batch_bytes += batches.len() as u64;
        }
        self.counts.entries += 1;
        self.queued_bytes += need.data_bytes + need.directory_bytes;
        self.gathering.push(owner, entry, &mut self.pool);
    }

    fn close_gathering(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        self.queue.push_back(std::mem::replace(&mut self.gathering, next));
    }

    /// The next write, if one can go now. The driver calls it at the end of each turn, after each
    /// [`Journal::write_done`] and [`Journal::segment_ready`], and at the deadline, until `None`.
    pub fn next_write(&mut self, now: Time) -> Option<BlockWrite> {
        if let Some(write) = self.next_footer_write() {
            return Some(write);
        }
        if self.flights.len() >= self.config.writes_in_flight_max {
            return None;
        }
        let kind = self.next_kind(now)?;
        let need = self.room_wanted(kind);
        if kind == BlockKind::Data && self.is_worth_waiting(self.next_need(kind)) {
            return None;
        }
        let begins = !self.segments.open_takes(need);
        if begins && !self.segments.can_begin() {
            return None;
        }
        // Each segment begins with a word on what is gone: who looks for the newest looks into the
        // newest segments alone.
        let kind = if begins && kind != BlockKind::Recovery { BlockKind::Freed } else { kind };
        if begins {
            self.segments.begin(self.next_number, self.vital);
        }
        Some(self.write_block(kind))
    }

    /// The next block, in the open segment, which has room for it.
    fn write_block(&mut self, kind: BlockKind) -> BlockWrite {
        let need = self.next_need(kind);
        let mut block = match kind {
            BlockKind::Recovery | BlockKind::Freed => Gathering::freed(self.segments.space.freed()),
            _ => self
                .queue
                .pop_front()
                .unwrap_or_else(|| std::mem::replace(&mut self.gathering, self.spare.pop().unwrap_or_default())),
        };
        let segment = self.segments.open.as_mut().expect("the caller found room in it");
        let place = (segment.used_bytes / ALIGNMENT as u64) as u32;
        let header = BlockHeader {
            number: self.next_number,
            incarnation: self.incarnation,
            incarnation_first: self.incarnation_first,
            durable: self.durable,
            vital: self.vital,
            ..header_at(kind, place, self.config.journal_id, segment.place.segment, segment.place.use_number)
        };
        let buffer = block.close(header, &mut self.pool);
        segment.used_bytes += buffer.len() as u64;
        let (segment, offset) = (segment.place.segment, header.offset());
        let entries = self.list_lines(&header, &block);
        if kind.says_freed() {
            self.segments.space.list_written(header.number);
        } else {
            self.queued_bytes -= need.data_bytes + need.directory_bytes;
        }
        self.next_number += 1;
        self.vital += u64::from(block.vital);
        let id = self.new_id();
        self.flights.push_back(Flight {
            id,
            number: header.number,
            done: false,
            data_bytes: need.data_bytes,
            entries,
            forcing: block.forcing,
            carries: header.durable,
        });
        self.counts.marks_written += u64::from(kind == BlockKind::Mark);
        if kind == BlockKind::Recovery {
            self.recovery_block = RecoveryBlock::InFlight;
        }
        if !kind.says_freed() && self.spare.len() < SPARE_BLOCKS_MAX {
            block.clear();
            self.spare.push(block);
        }
        BlockWrite { id, segment, offset, buffer }
    }

    /// Lists a block's lines in its segment's footer to be, and its entries among those to be
    /// reported; returns how many these are.
    fn list_lines(&mut self, header: &BlockHeader, block: &Gathering) -> u32 {
        let Segments { open, space, .. } = &mut self.segments;
        let segment = open.as_mut().expect("a block lies in the open segment");
        let number = segment.place.segment;
        let mut tags = block.tags.iter();
        let mut reported = 0;
        for line in lines(&block.directory) {
            let (owner, entry) = match line.expect("a directory that was just encoded") {
                Line::Entry(owner, entry) => (owner, entry),
                Line::Freed(freed) => {
                    segment.footer.add_freed(&freed);
                    continue;
                }
            };
            let block_place = (header.offset() / 8) as u32;
            let (offset, run_tags) = match &entry {
                Entry::Batches(run) => (run.offset, tags.next().map_or(&[][..], |tags| tags)),
                Entry::Checkpoint(part) => (part.offset, &[][..]),
                _ => (block_place, &[][..]),
            };
            segment.footer.add(header.number, owner, &entry, run_tags);
            space.hold(number, owner, entry.bytes());
            self.unreported.push_back((owner, JournalPlace { segment: number, offset }));
            reported += 1;
        }
        segment.footer.span.add_block(header, block.vital);
        reported
    }

    fn next_kind(&self, now: Time) -> Option<BlockKind> {
        match self.recovery_block {
            RecoveryBlock::Wanted => Some(BlockKind::Recovery),
            RecoveryBlock::InFlight => None,
            RecoveryBlock::Durable if self.segments.space.wants_list() => Some(BlockKind::Freed),
            RecoveryBlock::Durable if self.has_forcing() => Some(BlockKind::Data),
            RecoveryBlock::Durable if self.stopping && self.can_mark() => Some(BlockKind::Mark),
            RecoveryBlock::Durable => {
                self.deadline().is_some_and(|deadline| now >= deadline).then_some(BlockKind::Mark)
            }
        }
    }

    /// Whether a block that is small beside the newest one being written had better wait for a write
    /// to complete: more will have come by then. Blocks that overtake each other shrink until each
    /// loses a tenth of itself to padding, and the disk its time to many small flushes.
    fn is_worth_waiting(&self, need: Need) -> bool {
        let newest = self.flights.iter().rev().find(|flight| !flight.done);
        let newest_bytes = newest.map_or(0, |flight| flight.data_bytes);
        let enough = if newest_bytes <= PAGE_DATA_BYTES {
            // What fits a page is one or two records: they gain nothing by company.
            0
        } else if newest_bytes <= SMALL_DATA_BYTES {
            newest_bytes
        } else {
            newest_bytes + newest_bytes / 2
        };
        need.data_bytes < enough.min(HELD_DATA_BYTES_MAX)
    }

    /// What the block that would be next takes.
    fn next_need(&self, kind: BlockKind) -> Need {
        match kind {
            BlockKind::Recovery | BlockKind::Freed => Need::freed(self.segments.space.ranges()),
            BlockKind::Data | BlockKind::Mark => self.queue.front().unwrap_or(&self.gathering).need(),
        }
    }

    /// What has to be free for it.
    fn room_wanted(&self, kind: BlockKind) -> Need {
        let need = self.next_need(kind);
        if kind == BlockKind::Data { need + self.segments.reserve() } else { need }
    }

    fn has_forcing(&self) -> bool {
        !self.queue.is_empty() || self.gathering.forcing
    }

    /// All else is durable, no block on disk says so, and there is room for one that does.
    fn can_mark(&self) -> bool {
        self.flights.is_empty()
            && self.recovery_block == RecoveryBlock::Durable
            && !self.has_forcing()
            && !self.segments.space.wants_list()
            && self.to_mark > self.marked
            && self.segments.has_room(self.gathering.need())
    }

    /// The next part of a footer, one at a time: blocks go on beside it.
    fn next_footer_write(&mut self) -> Option<BlockWrite> {
        if self.footer_flight.is_some() {
            return None;
        }
        let durable = self.durable;
        let sealing = self.segments.sealing.iter_mut().find_map(|sealing| sealing.begin(durable).then_some(sealing))?;
        let mut buffer = self.pool.take(ALIGNMENT);
        let offset = sealing.next_part(&mut buffer);
        let segment = sealing.segment.place.segment;
        let id = self.new_id();
        self.footer_flight = Some((id, segment));
        Some(BlockWrite { id, segment, offset, buffer })
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A write completed, in its full length. There is no way to say that it failed: the driver
    /// stops the process then, for nobody knows what such a write left on the disk.
    ///
    /// # Panics
    /// When no write of this id is in flight.
    pub fn write_done(&mut self, now: Time, id: u64, buffer: BlockBuffer) {
        self.last_activity = now;
        self.counts.bytes_written += buffer.len() as u64;
        match self.footer_flight {
            Some((footer_id, segment)) if footer_id == id => self.footer_part_done(segment, buffer.len()),
            _ => self.block_done(id),
        }
        self.pool.give_back(buffer);
    }

    fn footer_part_done(&mut self, segment: u32, bytes: usize) {
        self.footer_flight = None;
        let mut sealing = self.segments.sealing.iter_mut();
        let sealing = sealing.find(|sealing| sealing.segment.place.segment == segment).expect("its footer is written");
        if sealing.part_done(bytes) {
            self.segments.footer_done(segment);
            self.counts.footers_written += 1;
        }
    }

    fn block_done(&mut self, id: u64) {
        let flight = self.flights.iter_mut().find(|flight| flight.id == id).expect("a write that was asked for");
        assert!(!flight.done, "a write completes once");
        flight.done = true;
        self.counts.blocks_written += 1;
        while self.flights.front().is_some_and(|flight| flight.done) {
            let flight = self.flights.pop_front().expect("there is a front");
            self.durable = flight.number + 1;
            self.reportable += flight.entries as usize;
            self.marked = self.marked.max(flight.carries);
            if flight.forcing {
                self.to_mark = self.durable;
            }
        }
        if self.recovery_block == RecoveryBlock::InFlight {
            self.recovery_block = RecoveryBlock::Durable;
        }
        self.segments.set_durable(self.durable);
        self.segments.space.set_durable(self.durable);
    }

    /// The oldest entry that is durable and was not yet reported, and where it lies.
    pub fn next_durable(&mut self) -> Option<(Owner, JournalPlace)> {
        self.reportable = self.reportable.checked_sub(1)?;
        self.unreported.pop_front()
    }

    /// A segment file to be created and zeroed, or renamed from one that is no longer needed. Each is
    /// given out once; the driver retries by itself after a failure. The file gets its name when it
    /// is prepared, and its directory is flushed, before [`Journal::segment_ready`].
    pub fn wanted_segment(&mut self) -> Option<WantedSegment> {
        self.segments.wanted()
    }

    /// The number of a segment file that is not needed any more, to be removed: the driver forgets it,
    /// whether it can remove it or not. One that is still there is found again at the next start.
    pub fn next_removal(&mut self) -> Option<u32> {
        self.segments.removal()
    }

    /// # Panics
    /// When the segment was not wanted.
    pub fn segment_ready(&mut self, segment: u32) {
        self.segments.ready(segment);
    }

    /// A segment could not be prepared, for lack of space. The driver tries again now and then.
    pub fn segment_failed(&mut self, segment: u32) {
        self.segments.failed(segment);
    }

    /// A machine needs nothing any more of what it has in a segment, and gets nothing more there:
    /// later entries of it are durable elsewhere, or it was asked to vacate it. When nobody needs it,
    /// the segment is free.
    pub fn release(&mut self, owner: Owner, segment: u32) {
        self.segments.release(owner, segment);
    }

    /// A machine that still has a little in a sealed segment, or in one that is very old: the driver
    /// gives it [`sealog_protocol::machine::Input::Vacate`]. It appends again what counts, and releases
    /// the segment.
    pub fn next_vacate(&mut self) -> Option<(Owner, u32)> {
        if !self.config.asks_to_vacate {
            return None;
        }
        let is_full = self.is_full();
        self.segments.vacate(is_full)
    }

    /// The disk has no room for another segment, and what remains is needed for what is promised:
    /// three quarters of a segment, beside what is queued.
    pub fn is_full(&self) -> bool {
        self.segments.is_full(self.queued_bytes as u64)
    }

    /// When [`Journal::next_write`] wants to be called at the latest: the idle durable mark.
    pub fn deadline(&self) -> Option<Time> {
        self.can_mark().then(|| self.last_activity + self.config.idle_mark)
    }

    /// Asks for a last durable mark: [`Journal::next_write`] gives it as soon as all else is
    /// durable. The driver goes on until [`Journal::is_settled`].
    pub fn stop(&mut self, _now: Time) {
        self.stopping = true;
    }

    /// Nothing is in flight, and nothing is left that could be written or marked now.
    pub fn is_settled(&self) -> bool {
        let writable = match self.recovery_block {
            RecoveryBlock::Wanted => self.segments.has_room(self.room_wanted(BlockKind::Recovery)),
            RecoveryBlock::InFlight => true,
            RecoveryBlock::Durable => {
                let has_room = |kind| self.segments.has_room(self.room_wanted(kind));
                self.has_forcing() && has_room(BlockKind::Data)
                    || self.segments.space.wants_list() && has_room(BlockKind::Freed)
                    || self.can_mark()
            }
        };
        !writable && self.flights.is_empty() && self.footer_flight.is_none()
    }

    /// Where the Tags of durable batches of a shard in a segment are, from the first batch that
    /// ends after `from`. What is told at once is bounded by
    /// [`sealog_protocol::limits::STREAM_MESSAGE_BYTES_MAX`], unless a single run is larger.
    pub fn read_tags(&mut self, owner: Owner, shard: ShardId, segment: u32, from: u64) -> TagsSource {
        let nothing = TagsSource::Memory { first: from, entries: Bytes::new() };
        if let Some(sealed) = self.segments.sealed.get(&segment) {
            let Some(chunk) = sealed.chunk(owner, shard, from) else { return nothing };
            return TagsSource::Footer(FooterChunk::new(segment, sealed.footer_offset, chunk, from));
        }
        let mut unsealed = self.segments.unsealed();
        let Some(segment) = unsealed.find(|unsealed| unsealed.place.segment == segment) else { return nothing };
        match segment.footer.read_tags(owner, shard, from) {
            Some((first, entries)) => TagsSource::Memory { first, entries },
            None => nothing,
        }
    }

    /// Address and size of the buffers that are used in normal times, to be registered with the
    /// ring; see [`BlockBuffer::registered_index`].
    pub fn buffer_regions(&self) -> &[(usize, usize)] {
        self.pool.regions()
    }

    pub fn status(&self) -> JournalStatus {
        let segments = &self.segments;
        JournalStatus {
            segments: segments.live() as u64,
            segments_prepared: segments.prepared.len() as u64,
            segments_free: segments.space.files() as u64,
            segments_released: segments.space.released,
            segments_recycled: segments.space.recycled,
            segments_removed: segments.space.removed,
            open_segment: segments.open.as_ref().map(|open| open.place.segment),
            open_segment_bytes_left: segments.open.as_ref().map_or(0, OpenSegment::bytes_left),
            incarnation: self.incarnation,
            durable_blocks: self.durable,
            writes_in_flight: self.flights.iter().filter(|flight| !flight.done).count()
                + usize::from(self.footer_flight.is_some()),
            all_durable: !self.has_forcing() && self.flights.is_empty(),
            blocks_queued: self.queue.len() + usize::from(!self.gathering.is_empty()),
            bytes_queued: self.queued_bytes,
            footer_bytes_in_memory: segments.unsealed().map(|segment| segment.footer.memory_bytes()).sum(),
            is_full: self.is_full(),
            damages: self.damages_left(),
            scrub: self.scrub.status(&segments.sealed),
            ..self.counts
        }
    }

    /// What recovery found.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }
}
