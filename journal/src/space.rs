//! Which machine still needs which segment, which segments nobody needs, and what becomes of their
//! files.
//!
//! ```text
//!   held ─(all released, and sealed)─► unlisted ─(a block says that it is gone)─► listed
//!        ─(that block is durable)─► spare ─► used again, or removed
//! ```
//!
//! A file stays as it is until the block that says so is durable, and all before it: were it used
//! earlier, a crash that loses that block would find a segment missing that, as far as it knows,
//! counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::Owner;
use crate::footer::SealedSegment;
use crate::freed::{Freed, FreedRange};

/// Files that are kept to be used again, beside one in so many that count: what a machine gives back
/// in one go is soon wanted again.
pub const SPARE_SEGMENTS: usize = 4;
const SPARE_SHARE: usize = 16;

/// At most one in so many bytes of a segment is little: machines are asked to append that again.
const LITTLE_SHARE: u64 = 8;
/// A segment is old when so many were begun since for each that counts, and so many more: all in it is
/// appended again, so that nothing pins one for ever, at the cost of a fourth more writes.
const OLD_SHARE: u32 = 4;
const OLD_LEAST: u32 = 16;
/// Segments that machines are asked to vacate at once. When the journal is full, one: what is appended
/// again takes room that was kept for what is promised.
const VACATED_SEGMENTS: usize = 4;

/// The file of a segment that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeFile {
    pub segment: u32,
    pub bytes: u64,
}

/// Who needs a segment, and how many bytes of it at most.
#[derive(Default)]
struct Holders {
    bytes: BTreeMap<Owner, u64>,
    /// One that had something there needs none of it any more.
    is_released_by_one: bool,
    /// When they were last asked to vacate it: the number of the use that was next then.
    asked_at: u32,
}

pub(crate) struct Space {
    segment_bytes: u64,
    /// Ranges that a list may have.
    ranges_max: usize,
    holders: BTreeMap<u32, Holders>,
    freed: Freed,
    /// Nobody needs them, but the list has no room for them now.
    postponed: BTreeSet<u32>,
    unlisted: Vec<FreeFile>,
    /// With the number of the block that said it, in order.
    listed: VecDeque<(u64, Vec<FreeFile>)>,
    spares: VecDeque<FreeFile>,
    /// Whom to ask to vacate which segment.
    asks: VecDeque<(Owner, u32)>,
    /// Something changed since that was considered.
    look: bool,
    pub released: u64,
    pub recycled: u64,
    pub removed: u64,
}

impl Space {
    pub fn new(segment_bytes: u64, ranges_max: usize) -> Space {
        Space {
            segment_bytes,
            ranges_max,
            holders: BTreeMap::new(),
            freed: Freed::default(),
            postponed: BTreeSet::new(),
            unlisted: Vec::new(),
            listed: VecDeque::new(),
            spares: VecDeque::new(),
            asks: VecDeque::new(),
            look: false,
            released: 0,
            recycled: 0,
            removed: 0,
        }
    }

    /// What recovery found: the blocks that are gone, and files of theirs that are still there.
    pub fn recovered(&mut self, freed: Freed, files: Vec<FreeFile>) {
        self.freed = freed;
        self.unlisted = files;
    }

    pub fn freed(&self) -> &Freed {
        &self.freed
    }

    /// Ranges of the list as it is now; more than the bound only if segments were larger once.
    pub fn ranges(&self) -> usize {
        self.freed.ranges().len()
    }

    /// A machine has so much more in a segment.
    pub fn hold(&mut self, segment: u32, owner: Owner, bytes: u64) {
        *self.holders.entry(segment).or_default().bytes.entry(owner).or_default() += bytes;
    }

    /// A machine needs nothing any more of what it has there.
    pub fn release(&mut self, owner: Owner, segment: u32) {
        self.look = true;
        if let Some(holders) = self.holders.get_mut(&segment)
            && holders.bytes.remove(&owner).is_some()
        {
            holders.is_released_by_one = true;
            if holders.bytes.is_empty() {
                self.holders.remove(&segment);
            }
        }
    }

    /// A segment was begun.
    pub fn begun(&mut self) {
        self.look = true;
    }

    pub fn take_look(&mut self) -> bool {
        std::mem::take(&mut self.look)
    }

    /// Whom to ask next to vacate a segment.
    pub fn next_ask(&mut self) -> Option<(Owner, u32)> {
        self.asks.pop_front()
    }

    /// Chooses segments that are worth vacating: little is held of one that a machine gave back, or it
    /// is old. Each once, and again when another segment was begun since. One that nobody gave back may
    /// hold little because its blocks are small, and all of it may be alive.
    pub fn choose<'a>(
        &mut self,
        sealed: impl Iterator<Item = (&'a u32, &'a SealedSegment)>,
        live: usize,
        next_use: u32,
        is_full: bool,
    ) {
        let mut left = if is_full { 1 } else { VACATED_SEGMENTS };
        for (segment, sealed) in sealed {
            let Some(holders) = self.holders.get_mut(segment) else { continue };
            let is_little =
                holders.is_released_by_one && holders.bytes.values().sum::<u64>() <= sealed.bytes / LITTLE_SHARE;
            let age = next_use - sealed.use_number;
            let is_old = age > OLD_LEAST.saturating_add(OLD_SHARE.saturating_mul(live as u32)) && !is_full;
            if left == 0 || holders.asked_at == next_use || !(is_little || is_old) {
                continue;
            }
            left -= 1;
            holders.asked_at = next_use;
            self.asks.extend(holders.bytes.keys().map(|owner| (*owner, *segment)));
        }
    }

    /// The machines that have something in a segment.
    pub fn owners(&self, segment: u32) -> Vec<Owner> {
        self.holders.get(&segment).map(|holders| holders.bytes.keys().copied().collect()).unwrap_or_default()
    }

    pub fn is_held(&self, segment: u32) -> bool {
        self.holders.contains_key(&segment)
    }

    /// Whether the blocks of a segment may be called gone; if not, it is asked again later.
    pub fn has_room_for(&mut self, segment: u32, range: &FreedRange) -> bool {
        let has_room = self.ranges() < self.ranges_max || !self.freed.grows_with(range);
        if !has_room {
            self.postponed.insert(segment);
        }
        has_room
    }

    /// Segments that the list had no room for.
    pub fn take_postponed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.postponed)
    }

    /// Nobody needs this sealed segment any more.
    pub fn free(&mut self, segment: u32, sealed: &SealedSegment, missing: &[FreedRange]) {
        self.freed.add(sealed.range);
        missing.iter().for_each(|range| self.freed.add(*range));
        self.unlisted.push(FreeFile { segment, bytes: sealed.bytes });
        self.released += 1;
    }

    /// A block should say what is gone: something is that no block says yet.
    pub fn wants_list(&self) -> bool {
        !self.unlisted.is_empty()
    }

    /// The block of this number says what is gone.
    pub fn list_written(&mut self, number: u64) {
        if !self.unlisted.is_empty() {
            self.listed.push_back((number, std::mem::take(&mut self.unlisted)));
        }
    }

    /// Blocks below this number are durable.
    pub fn set_durable(&mut self, durable: u64) {
        while self.listed.front().is_some_and(|(number, _)| *number < durable) {
            let (_, files) = self.listed.pop_front().expect("there is a front");
            self.spares.extend(files);
        }
    }

    pub fn has_spare(&self) -> bool {
        self.spares.iter().any(|file| file.bytes == self.segment_bytes)
    }

    /// A file that may get another number, and with it other content.
    pub fn recycle(&mut self) -> Option<u32> {
        let at = self.spares.iter().position(|file| file.bytes == self.segment_bytes)?;
        self.recycled += 1;
        self.spares.remove(at).map(|file| file.segment)
    }

    /// A file to remove: more than are kept with so many segments that count; all, if room is wanted.
    pub fn remove(&mut self, live: usize, wants_room: bool) -> Option<u32> {
        let kept = if wants_room { 0 } else { SPARE_SEGMENTS + live / SPARE_SHARE };
        let odd = self.spares.iter().position(|file| file.bytes != self.segment_bytes);
        let at = odd.or((self.spares.len() > kept).then_some(0))?;
        self.removed += 1;
        self.spares.remove(at).map(|file| file.segment)
    }

    /// Files of segments that nobody needs.
    pub fn files(&self) -> usize {
        self.unlisted.len() + self.listed.iter().map(|(_, files)| files.len()).sum::<usize>() + self.spares.len()
    }
}
