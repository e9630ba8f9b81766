//! Where the records of a shard lie: a mark at the begin of each run of batches and about every 16 KiB
//! in it. The batch itself is found by reading from the mark before it.

use std::collections::BTreeMap;

use sealog_protocol::limits::STORED_MARK_BYTES;
use sealog_protocol::machine::JournalPlace;

/// Whole batches that lie one behind the other. 16 bytes, for there is one for every 16 KiB on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Of the first record, from the extent's base on.
    position: u32,
    records: u32,
    /// In units of 8 bytes.
    offset: u32,
    bytes: u32,
}

/// Records of a shard that lie in one segment, their positions ascending, perhaps with gaps in which
/// no other extent lies.
#[derive(Clone, Debug)]
struct Extent {
    /// What the marks' positions count from: at most the extent's first position.
    base: u64,
    /// Exclusive.
    end: u64,
    segment: u32,
    marks: Vec<Mark>,
}

/// Where to read for a record: `bytes` from `at`, which hold the batches of the positions `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub at: JournalPlace,
    pub bytes: u32,
    pub first: u64,
    pub end: u64,
}

/// The positions of a shard that a segment holds, gaps included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub end: u64,
}

/// The extents of a shard by their first position. They don't overlap.
#[derive(Clone, Debug, Default)]
pub struct Extents {
    extents: BTreeMap<u64, Extent>,
}

impl Extents {
    /// A run of so many records lies at `at`; `batches` are the records and bytes of each of its
    /// batches. It replaces what was known of these positions: returned are the segments that held
    /// them, with how many records.
    pub fn place(
        &mut self,
        first: u64,
        records: u64,
        at: JournalPlace,
        batches: impl Iterator<Item = (u64, u32)>,
    ) -> Vec<(u32, u64)> {
        let end = first + records;
        let replaced = self.cut(first, end);
        // Most runs follow the one before: nothing is allocated for them.
        if let Some(extent) = self.extent_before(first, end, at.segment) {
            let shift = (first - extent.base) as u32;
            add_marks(&mut extent.marks, shift, at.offset, batches);
            extent.end = end;
        } else {
            let mut extent = Extent { base: first, end, segment: at.segment, marks: Vec::new() };
            add_marks(&mut extent.marks, 0, at.offset, batches);
            self.extents.insert(first, extent);
        }
        replaced
    }

    /// The extent that goes on with the positions from `first` to `end` in this segment.
    fn extent_before(&mut self, first: u64, end: u64, segment: u32) -> Option<&mut Extent> {
        let (_, extent) = self.extents.range_mut(..first).next_back()?;
        (extent.segment == segment && end - extent.base < 1 << 32).then_some(extent)
    }

    fn add(&mut self, new: Extent) {
        match self.extent_before(new.base, new.end, new.segment) {
            Some(extent) => {
                let shift = (new.base - extent.base) as u32;
                extent.marks.extend(new.marks.iter().map(|mark| Mark { position: mark.position + shift, ..*mark }));
                extent.end = new.end;
            }
            None => {
                self.extents.insert(new.base, new);
            }
        }
    }

    /// Forgets where these positions lie; returns the segments that held them, with how many records.
    fn cut(&mut self, from: u64, to: u64) -> Vec<(u32, u64)> {
        let mut cut = Vec::new();
        while let Some((first, extent)) = self.extents.range(..to).next_back().filter(|(_, extent)| extent.end > from) {
            let first = *first;
            cut.push((extent.segment, extent.records(first.max(from), to)));
            let mut extent = self.extents.remove(&first).expect("found a moment ago");
            if extent.end > to {
                let mut right = extent.clone();
                right.marks.retain(|mark| right.base + u64::from(mark.position + mark.records) > to);
                if let Some(mark) = right.marks.first() {
                    self.extents.insert(to.max(right.base + u64::from(mark.position)), right);
                }
            }
            if first < from {
                let base = extent.base;
                extent.marks.retain(|mark| base + u64::from(mark.position) < from);
                extent.end = from;
                if let Some(last) = extent.marks.last_mut() {
                    last.records = last.records.min((from - base) as u32 - last.position);
                }
                if !extent.marks.is_empty() {
                    self.extents.insert(first, extent);
                }
                break;
            }
        }
        cut
    }

    /// Where to read for the record at this position.
    pub fn find(&self, position: u64) -> Option<Found> {
        let (_, extent) = self.extents.range(..=position).next_back()?;
        let nth = position.checked_sub(extent.base).filter(|_| position < extent.end)?;
        let after = extent.marks.partition_point(|mark| u64::from(mark.position) <= nth);
        let mark = extent.marks[after.checked_sub(1)?];
        let first = extent.base + u64::from(mark.position);
        let end = (first + u64::from(mark.records)).min(extent.end);
        let at = JournalPlace { segment: extent.segment, offset: mark.offset };
        (position < end).then_some(Found { at, bytes: mark.bytes, first, end })
    }

    /// As [`Extents::find`], with what lies behind it without a gap: up to a position, and up to so many
    /// bytes.
    pub fn find_run(&self, position: u64, until: u64, bytes_max: u32) -> Option<Found> {
        let mut found = self.find(position)?;
        if found.end >= until || found.bytes >= bytes_max {
            return Some(found);
        }
        let (_, extent) = self.extents.range(..=position).next_back()?;
        let behind = extent.marks.partition_point(|mark| extent.base + u64::from(mark.position) <= position);
        for next in &extent.marks[behind..] {
            let first = extent.base + u64::from(next.position);
            let is_next = first == found.end && next.offset == found.at.offset + found.bytes / 8;
            if !is_next || first >= until || found.bytes + next.bytes > bytes_max {
                break;
            }
            found.bytes += next.bytes;
            found.end = (first + u64::from(next.records)).min(extent.end);
        }
        Some(found)
    }

    /// A run that was read turned out to be so: `batches` are its first ones. Recovery knows only where
    /// runs begin; from now on less has to be read.
    pub fn refine(&mut self, found: Found, batches: impl Iterator<Item = (u64, u32)>) {
        if found.bytes < 2 * STORED_MARK_BYTES {
            return;
        }
        let Some((_, extent)) = self.extents.range_mut(..found.end).next_back() else { return };
        let is_it = |mark: &Mark| mark.offset == found.at.offset && mark.bytes == found.bytes;
        let Some(nth) = extent.marks.iter().position(is_it).filter(|_| extent.segment == found.at.segment) else {
            return;
        };
        let mut rest = extent.marks[nth];
        let mut finer = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        for (batch_records, batch_bytes) in batches {
            records += batch_records as u32;
            bytes += batch_bytes;
            if bytes >= STORED_MARK_BYTES && records < rest.records && bytes < rest.bytes {
                finer.push(Mark { records, bytes, ..rest });
                rest = Mark {
                    position: rest.position + records,
                    records: rest.records - records,
                    offset: rest.offset + bytes / 8,
                    bytes: rest.bytes - bytes,
                };
                (records, bytes) = (0, 0);
            }
        }
        finer.push(rest);
        extent.marks.splice(nth..=nth, finer);
    }

    /// The first position after this one that lies somewhere.
    pub fn next_after(&self, position: u64) -> Option<u64> {
        let before = self.extents.range(..=position).next_back().map(|(_, extent)| extent);
        let in_gap = before.filter(|extent| position < extent.end).and_then(|extent| {
            let firsts = extent.marks.iter().map(|mark| extent.base + u64::from(mark.position));
            firsts.into_iter().find(|first| *first > position && *first < extent.end)
        });
        in_gap.or_else(|| self.extents.range(position + 1..).next().map(|(first, _)| *first))
    }

    /// After the last record that lies somewhere.
    pub fn end(&self) -> u64 {
        self.extents.last_key_value().map_or(0, |(_, extent)| extent.end)
    }

    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// What a segment holds of this shard.
    pub fn spans_in(&self, segment: u32) -> impl Iterator<Item = Span> + '_ {
        let extents = self.extents.iter().filter(move |(_, extent)| extent.segment == segment);
        extents.map(|(first, extent)| Span { first: *first, end: extent.end })
    }

    /// Forgets all that lies in a segment. What lay between copies that were made from it is gone now,
    /// so they share an extent.
    pub fn forget(&mut self, segment: u32) {
        if !self.extents.values().any(|extent| extent.segment == segment) {
            return;
        }
        for (first, mut extent) in std::mem::take(&mut self.extents) {
            if extent.segment != segment {
                // Of a mark that begins before the extent, only a part counts: it stays by itself.
                if extent.base == first {
                    self.add(extent);
                } else {
                    extent.marks.shrink_to_fit();
                    self.extents.insert(first, extent);
                }
            }
        }
    }

    /// How many of the records at these positions lie in which segment.
    pub fn count(&self, from: u64, to: u64, mut each: impl FnMut(u32, u64)) {
        let start = self.extents.range(..=from).next_back().map_or(from, |(first, _)| *first);
        for (first, extent) in self.extents.range(start..to.max(start)) {
            let records = extent.records(from.max(*first), to);
            if records > 0 {
                each(extent.segment, records);
            }
        }
    }
}

/// Adds the marks of a run whose first record is at `position` from the base on.
fn add_marks(marks: &mut Vec<Mark>, mut position: u32, mut offset: u32, batches: impl Iterator<Item = (u64, u32)>) {
    let mut run = None;
    for (records, bytes) in batches {
        let records = records as u32;
        let mark = run.get_or_insert(Mark { position, records: 0, offset, bytes: 0 });
        mark.records += records;
        mark.bytes += bytes;
        position += records;
        offset += bytes / 8;
        if mark.bytes >= STORED_MARK_BYTES {
            marks.extend(run.take());
        }
    }
    marks.extend(run);
}

impl Extent {
    /// How many records there are between these positions.
    fn records(&self, from: u64, to: u64) -> u64 {
        let (from, to) = (from.max(self.base) - self.base, to.min(self.end).max(self.base) - self.base);
        let start = self.marks.partition_point(|mark| u64::from(mark.position + mark.records) <= from);
        let within = |mark: &Mark| {
            let (first, end) = (u64::from(mark.position), u64::from(mark.position) + u64::from(mark.records));
            end.min(to).saturating_sub(first.max(from))
        };
        self.marks[start..].iter().take_while(|mark| u64::from(mark.position) < to).map(within).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> JournalPlace {
        JournalPlace { segment, offset }
    }

    fn ones(count: u64, bytes: u32) -> impl Iterator<Item = (u64, u32)> {
        (0..count).map(move |_| (1, bytes))
    }

    #[test]
    fn a_mark_stands_every_16_kib_and_covers_whole_batches() {
        let mut extents = Extents::default();
        assert!(extents.place(0, 100, at(1, 0), ones(100, 1024)).is_empty());
        let found = extents.find(40).expect("it is there");
        assert_eq!(found, Found { at: at(1, 32 * 128), bytes: 16 << 10, first: 32, end: 48 });
        assert_eq!(extents.find(100), None);
        let marks: usize = extents.extents.values().map(|extent| extent.marks.len()).sum();
        assert_eq!(marks, 7);
    }

    #[test]
    fn what_lies_behind_without_a_gap_is_found_with_it() {
        let mut extents = Extents::default();
        extents.place(0, 64, at(1, 0), ones(64, 1024));
        extents.place(64, 32, at(1, 64 * 128 + 512), ones(32, 1024));
        let found = |first: u64, records: u32, offset| Found {
            at: at(1, offset),
            bytes: records << 10,
            first,
            end: first + u64::from(records),
        };
        assert_eq!(extents.find_run(20, 21, 256 << 10), Some(found(16, 16, 16 * 128)), "one record is wanted");
        assert_eq!(extents.find_run(20, 33, 256 << 10), Some(found(16, 32, 16 * 128)));
        assert_eq!(extents.find_run(20, 1000, 40 << 10), Some(found(16, 32, 16 * 128)), "no more bytes than that");
        assert_eq!(extents.find_run(20, 1000, 256 << 10), Some(found(16, 48, 16 * 128)), "a gap is behind it");
        assert_eq!(extents.find_run(70, 1000, 256 << 10), Some(found(64, 32, 64 * 128 + 512)));
        extents.place(90, 20, at(2, 0), ones(20, 1024));
        let cut = Found { at: at(1, 64 * 128 + 512), bytes: 32 << 10, first: 64, end: 90 };
        assert_eq!(extents.find_run(70, 1000, 256 << 10), Some(cut), "what a later copy replaces is not of it");
    }

    #[test]
    fn a_later_copy_replaces_an_earlier_one_and_says_whose_place_it_took() {
        let mut extents = Extents::default();
        extents.place(0, 100, at(1, 0), ones(100, 1024));
        assert_eq!(extents.place(10, 5, at(2, 0), ones(5, 1024)), [(1, 5)]);
        assert_eq!(extents.place(90, 5, at(2, 900), ones(5, 1024)), [(1, 5)]);
        for (position, segment) in [(9, 1), (10, 2), (14, 2), (15, 1), (50, 1), (89, 1), (90, 2), (95, 1), (99, 1)] {
            assert_eq!(extents.find(position).map(|found| found.at.segment), Some(segment), "position {position}");
        }
        let mut counted = BTreeMap::new();
        extents.count(0, 100, |segment, records| *counted.entry(segment).or_insert(0) += records);
        assert_eq!(counted, BTreeMap::from([(1, 90), (2, 10)]));
        extents.forget(1);
        assert_eq!(extents.find(9), None);
        assert_eq!((extents.next_after(0), extents.next_after(14)), (Some(10), Some(90)));
        assert_eq!(extents.end(), 95, "the rest is told by nobody any more");
    }

    #[test]
    fn any_order_of_runs_finds_the_same_records() {
        let runs = [(0, 1), (10, 1), (20, 2), (30, 3)];
        for rotation in 0..runs.len() {
            let mut extents = Extents::default();
            for index in 0..runs.len() {
                let (first, segment) = runs[(index + rotation) % runs.len()];
                extents.place(first, 10, at(segment, first as u32 * 128), ones(10, 1024));
            }
            for position in 0..40u64 {
                let (_, segment) = runs[position as usize / 10];
                let found = extents.find(position).expect("it is there");
                assert_eq!(found.at.segment, segment);
                assert!((found.first..found.end).contains(&position));
                assert_eq!(u64::from(found.at.offset), found.first * 128);
            }
        }
    }

    #[test]
    fn copies_with_gaps_share_an_extent_while_nothing_lies_between() {
        let mut extents = Extents::default();
        extents.place(0, 30, at(1, 0), ones(30, 1024));
        extents.place(30, 30, at(2, 0), ones(30, 1024));
        for first in [3, 9, 40] {
            extents.place(first, 1, at(5, first as u32 * 128), ones(1, 1024));
        }
        extents.forget(1);
        assert_eq!(extents.extents.len(), 4, "3 and 9, to 30; to 40; 40; 41 to 60");
        assert_eq!(extents.find(5), None);
        assert_eq!(extents.find(9).map(|found| found.at), Some(at(5, 9 * 128)));
        assert_eq!(extents.find(41).map(|found| found.at.segment), Some(2));
        assert_eq!(extents.next_after(4), Some(9));
    }

    #[test]
    fn a_recovered_run_is_refined_once_it_was_read() {
        let mut extents = Extents::default();
        extents.place(0, 100, at(1, 0), [(100, 100 << 10)].into_iter());
        let found = extents.find(70).expect("it is there");
        assert_eq!((found.first, found.bytes), (0, 100 << 10));
        extents.refine(found, ones(64, 1024));
        assert_eq!(extents.find(20), Some(Found { at: at(1, 16 * 128), bytes: 16 << 10, first: 16, end: 32 }));
        assert_eq!(extents.find(99), Some(Found { at: at(1, 64 * 128), bytes: 36 << 10, first: 64, end: 100 }));
    }
}
