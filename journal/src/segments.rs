//! The segments of a journal: the open one, those that get their footer, the sealed, the prepared.
//!
//! ```text
//!   wanted → preparing → prepared → open → sealing (footer is written) → sealed
//!               │  ↑                                                           │
//!            failed┘ (no space: the driver tries again)     used again ◄─ given back
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ALIGNMENT;
use crate::block::Need;
use crate::buffer::BlockBuffer;
use crate::config::{JournalConfig, Owner};
use crate::footer::{FooterBuilder, SealedSegment, SegmentPlace, Span};
use crate::freed::{Freed, FreedRange};
use crate::space::Space;

/// Segments that are prepared ahead, so that preparing one is never waited for.
pub const PREPARED_SEGMENTS: usize = 2;
/// Segments whose footers may be unwritten before blocks wait for them: what bounds the memory that
/// Tags of segments take before they are on disk, beside the open segment's.
pub const FOOTERS_PENDING_MAX: usize = 2;

/// A segment keeps this part of itself for its footer alone: what the Tags of records of 1 KiB take.
const FOOTER_SHARE: u64 = 14;

/// A list of what is gone takes at most one in so many bytes of a segment.
const FREED_SHARE: u64 = 32;
/// Blocks that fit the last segment behind what machines append, while no other is prepared: with no
/// room to say what is gone, and to mark that as durable, no room would ever come back. A restart
/// says it again.
const RESERVED_BLOCKS: usize = 3;

/// A segment file that the journal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSegment {
    /// Its number. If there is a file with it, that one is of no use.
    pub segment: u32,
    /// The file with this number is of no use any more either: it can be renamed, and need not be
    /// zeroed.
    pub recycled: Option<u32>,
}

/// A segment that blocks go to.
pub(crate) struct OpenSegment {
    pub place: SegmentPlace,
    /// Where the next block begins.
    pub used_bytes: u64,
    pub footer: FooterBuilder,
}

/// How much of a segment blocks may take, and a driver has to zero: the rest is kept for the footer.
/// Nobody waits for a footer, so its part need not be written twice to be written fast.
pub fn blocks_bytes(segment_bytes: u64) -> u64 {
    let footer = segment_bytes / FOOTER_SHARE / ALIGNMENT as u64 * ALIGNMENT as u64;
    segment_bytes - footer
}

/// How many ranges a list of what is gone may have.
fn freed_ranges_max(segment_bytes: u64) -> usize {
    Freed::ranges_max(segment_bytes / FREED_SHARE)
}

impl OpenSegment {
    pub fn fits(&self, need: Need) -> bool {
        let footer = self.footer.footer_bytes(need.footer_bytes);
        self.used_bytes + need.block_bytes() as u64 <= self.room(footer)
    }

    pub fn bytes_left(&self) -> u64 {
        self.room(self.footer.footer_bytes(0)).saturating_sub(self.used_bytes)
    }

    /// Where blocks have to end, with a footer of this size.
    fn room(&self, footer_bytes: u64) -> u64 {
        self.place.bytes.saturating_sub(footer_bytes).min(blocks_bytes(self.place.bytes))
    }
}

/// A full segment, until its footer is durable.
pub(crate) struct SealingSegment {
    pub segment: OpenSegment,
    pub progress: FooterProgress,
}

pub(crate) enum FooterProgress {
    /// Some of its blocks are not known to be durable: a footer must not vouch for them.
    Waiting,
    /// What follows the Tags, what is kept in the end, and how much is durable.
    Writing { tail: Vec<u8>, sealed: SealedSegment, written: usize },
    /// It has no room for its footer, and is scanned at each start.
    Never,
}

impl SealingSegment {
    /// Begins with the footer's writes, if all blocks are durable.
    pub fn begin(&mut self, durable: u64) -> bool {
        if matches!(self.progress, FooterProgress::Waiting) && self.segment.footer.span.end_number <= durable {
            self.progress = match self.segment.footer.seal(self.segment.place, self.segment.used_bytes) {
                Some((tail, sealed)) => FooterProgress::Writing { tail, sealed, written: 0 },
                None => FooterProgress::Never,
            };
        }
        matches!(self.progress, FooterProgress::Writing { .. })
    }

    /// Puts the next part of the footer into `buffer`; returns its offset. The trailer is a part of
    /// its own, the last: were it written with others, a crash could leave it to vouch for a footer
    /// that is torn.
    pub fn next_part(&self, buffer: &mut BlockBuffer) -> u64 {
        let FooterProgress::Writing { tail, sealed, written } = &self.progress else {
            panic!("parts are asked for while a footer is written")
        };
        let (before_trailer, trailer) = tail.split_at(tail.len() - ALIGNMENT);
        let mut skip = *written;
        for part in self.segment.footer.tags_chunks().chain([before_trailer]) {
            let room = buffer.capacity() - buffer.len();
            let left = part.get(skip..).unwrap_or_default();
            buffer.push(&left[..left.len().min(room)]);
            skip = skip.saturating_sub(part.len());
        }
        if buffer.is_empty() {
            buffer.push(trailer);
        }
        sealed.footer_offset + *written as u64
    }

    /// A part of this length is durable; whether it was the last.
    pub fn part_done(&mut self, bytes: usize) -> bool {
        let place = self.segment.place;
        let FooterProgress::Writing { sealed, written, .. } = &mut self.progress else {
            panic!("parts complete while a footer is written")
        };
        *written += bytes;
        sealed.footer_offset + *written as u64 == place.bytes
    }
}

pub(crate) struct Segments {
    journal_id: u64,
    segment_bytes: u64,
    /// Files that there may be; 0: no bound.
    segments_max: usize,
    pub space: Space,
    pub open: Option<OpenSegment>,
    /// In order of use.
    pub sealing: VecDeque<SealingSegment>,
    pub sealed: BTreeMap<u32, SealedSegment>,
    /// Lost blocks in no segment's range: they are gone with the segment that is said to be damaged.
    pub missing: BTreeMap<u32, Vec<FreedRange>>,
    pub prepared: VecDeque<u32>,
    /// Files that exist but are of no use as they are: to be made anew.
    pub wanted_again: VecDeque<u32>,
    preparing: BTreeSet<u32>,
    /// The last attempt to prepare one failed.
    failed: bool,
    pub next_segment: u32,
    pub next_use: u32,
}

impl Segments {
    pub fn new(config: &JournalConfig) -> Segments {
        Segments {
            journal_id: config.journal_id,
            segment_bytes: config.segment_bytes,
            segments_max: config.segments_max,
            space: Space::new(config.segment_bytes, freed_ranges_max(config.segment_bytes)),
            open: None,
            sealing: VecDeque::new(),
            sealed: BTreeMap::new(),
            missing: BTreeMap::new(),
            prepared: VecDeque::new(),
            wanted_again: VecDeque::new(),
            preparing: BTreeSet::new(),
            failed: false,
            next_segment: 1,
            next_use: 1,
        }
    }

    pub fn wanted(&mut self) -> Option<WantedSegment> {
        if self.prepared.len() + self.preparing.len() >= PREPARED_SEGMENTS {
            return None;
        }
        let wanted = match self.wanted_again.pop_front() {
            Some(segment) => WantedSegment { segment, recycled: None },
            None => {
                let recycled = self.space.recycle();
                if recycled.is_none() && self.is_at_bound() {
                    return None;
                }
                // Above all numbers before, also that of a file which is renamed: what remains in a
                // file of an earlier use names a lower number than its own.
                self.next_segment += 1;
                WantedSegment { segment: self.next_segment - 1, recycled }
            }
        };
        self.preparing.insert(wanted.segment);
        Some(wanted)
    }

    /// As many files as there may be.
    fn is_at_bound(&self) -> bool {
        let ahead = self.prepared.len() + self.preparing.len() + self.wanted_again.len();
        self.segments_max > 0 && self.live() + ahead + self.space.files() >= self.segments_max
    }

    /// Segments that count.
    pub fn live(&self) -> usize {
        self.sealed.len() + self.sealing.len() + usize::from(self.open.is_some())
    }

    /// Whether a segment counts.
    pub fn is_live(&self, segment: u32) -> bool {
        self.sealed.contains_key(&segment) || self.unsealed().any(|unsealed| unsealed.place.segment == segment)
    }

    /// The file of a segment that is not needed any more, to be removed.
    pub fn removal(&mut self) -> Option<u32> {
        self.space.remove(self.live(), self.failed)
    }

    pub fn release(&mut self, owner: Owner, segment: u32) {
        self.space.release(owner, segment);
        self.free(segment);
    }

    /// Gives a segment back, if nobody needs it any more and it is sealed: its numbers are known then.
    fn free(&mut self, segment: u32) {
        let mut segments = VecDeque::from([segment]);
        while let Some(segment) = segments.pop_front() {
            let Some(sealed) = self.sealed.get(&segment) else { continue };
            if self.space.is_held(segment) || !self.space.has_room_for(segment, &sealed.range) {
                continue;
            }
            self.space.free(segment, sealed, &self.missing.remove(&segment).unwrap_or_default());
            self.sealed.remove(&segment);
            segments.extend(self.space.take_postponed());
        }
    }

    /// Gives back all that nobody needs: recovery knows at its end.
    pub fn free_all(&mut self) {
        for segment in self.sealed.keys().copied().collect::<Vec<_>>() {
            self.free(segment);
        }
    }

    pub fn ready(&mut self, segment: u32) {
        assert!(self.preparing.remove(&segment), "segment {segment} was not asked for");
        self.prepared.push_back(segment);
        self.failed = false;
    }

    pub fn failed(&mut self, segment: u32) {
        assert!(self.preparing.contains(&segment), "segment {segment} was not asked for");
        self.failed = true;
    }

    /// No further segment can be had, and less is left than three quarters of one beside what is
    /// queued: engines may have promised as much, and the next start needs some.
    pub fn is_full(&self, queued_bytes: u64) -> bool {
        let none_comes = self.failed || self.preparing.is_empty() && self.is_at_bound() && !self.space.has_spare();
        let open_bytes = self.open.as_ref().map_or(0, OpenSegment::bytes_left);
        let left = open_bytes + self.prepared.len() as u64 * self.segment_bytes;
        let reserved = self.reserve().block_bytes() as u64;
        none_comes && left < reserved + queued_bytes + self.segment_bytes / 4 * 3
    }

    /// Room that entries of machines leave free, see [`RESERVED_BLOCKS`].
    pub fn reserve(&self) -> Need {
        if !self.prepared.is_empty() {
            return Need::default();
        }
        let list = Need::freed(self.space.ranges() + 1);
        Need {
            data_bytes: RESERVED_BLOCKS * list.block_bytes(),
            directory_bytes: 0,
            footer_bytes: 2 * list.footer_bytes,
        }
    }

    /// Whether this fits an empty segment, behind the block that each begins with.
    pub fn fits_empty(&self, need: Need) -> bool {
        let list = Need::freed(freed_ranges_max(self.segment_bytes));
        let mut empty = self.empty(0, Span::default());
        empty.used_bytes = list.block_bytes() as u64;
        empty.fits(Need { footer_bytes: need.footer_bytes + list.footer_bytes, ..need })
    }

    fn empty(&self, segment: u32, span: Span) -> OpenSegment {
        let place =
            SegmentPlace { journal_id: self.journal_id, segment, use_number: self.next_use, bytes: self.segment_bytes };
        OpenSegment { place, used_bytes: 0, footer: FooterBuilder::new(span) }
    }

    pub fn has_room(&self, need: Need) -> bool {
        self.open_takes(need) || self.can_begin()
    }

    /// Whether this fits the open segment.
    pub fn open_takes(&self, need: Need) -> bool {
        self.open.as_ref().is_some_and(|open| open.fits(need))
    }

    /// Whether the next segment can be begun: not when none is prepared, or footers are to be written
    /// first.
    pub fn can_begin(&self) -> bool {
        !self.prepared.is_empty() && self.footers_pending() < FOOTERS_PENDING_MAX
    }

    /// Begins the next segment with a block of this number.
    pub fn begin(&mut self, number: u64, vital: u64) {
        self.seal_open();
        let segment = self.prepared.pop_front().expect("the caller asked whether it can begin");
        self.open = Some(self.empty(segment, Span::starting(number, vital)));
        self.next_use += 1;
        self.space.begun();
    }

    /// The next machine to ask for what it still has in a segment.
    pub fn vacate(&mut self, is_full: bool) -> Option<(Owner, u32)> {
        let live = self.live();
        if self.space.take_look() {
            self.space.choose(self.sealed.iter(), live, self.next_use, is_full);
        }
        self.space.next_ask()
    }

    pub fn seal_open(&mut self) {
        if let Some(segment) = self.open.take() {
            self.sealing.push_back(SealingSegment { segment, progress: FooterProgress::Waiting });
        }
    }

    fn footers_pending(&self) -> usize {
        self.sealing.iter().filter(|sealing| !matches!(sealing.progress, FooterProgress::Never)).count()
    }

    /// The footer of this segment is durable: its Tags go from memory.
    pub fn footer_done(&mut self, segment: u32) {
        let index = self.sealing.iter().position(|sealing| sealing.segment.place.segment == segment);
        let sealing = index.and_then(|index| self.sealing.remove(index)).expect("its footer was being written");
        let FooterProgress::Writing { sealed, .. } = sealing.progress else {
            panic!("a footer that is done was being written")
        };
        self.sealed.insert(segment, sealed);
        self.free(segment);
    }

    pub fn set_durable(&mut self, durable: u64) {
        for segment in self.unsealed_mut() {
            segment.footer.set_durable(durable);
        }
    }

    pub fn unsealed(&self) -> impl Iterator<Item = &OpenSegment> {
        self.sealing.iter().map(|sealing| &sealing.segment).chain(&self.open)
    }

    fn unsealed_mut(&mut self) -> impl Iterator<Item = &mut OpenSegment> {
        self.sealing.iter_mut().map(|sealing| &mut sealing.segment).chain(&mut self.open)
    }
}

const _: () =
    assert!(crate::config::SEGMENT_BYTES_MIN > 4 * ALIGNMENT as u64, "a block, a footer, a trailer, and room");
