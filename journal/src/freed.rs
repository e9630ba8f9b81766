//! The blocks that are gone because nobody needed them: what tells a segment that was given back from
//! one that was lost.
//!
//! ```text
//!  0    1   4         8
//!  +----+---+---------+-----------------------------------------------------------------+
//!  |  8 | 0 | count 4 | first number 8 | end number 8 | first vital 8 | end vital 8 | … |
//!  +----+---+---------+-----------------------------------------------------------------+
//! ```
//!
//! The list names what is gone, not what counts: neighbours that are gone become one range, so it has
//! at most one range more than there are segments that count, and it says how many vital entries went
//! with them.

use crate::header::{u32_at, u64_at};

/// The kind of its line in a directory.
pub(crate) const FREED: u8 = 8;
const HEAD_BYTES: usize = 8;
const RANGE_BYTES: usize = 32;

/// Blocks that are gone: by number, and by the vital entries before and behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedRange {
    pub first_number: u64,
    pub end_number: u64,
    pub first_vital: u64,
    pub end_vital: u64,
}

/// All blocks that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// In order; neighbours do not touch.
    ranges: Vec<FreedRange>,
}

impl Freed {
    pub fn ranges(&self) -> &[FreedRange] {
        &self.ranges
    }

    /// The blocks of a segment are gone.
    pub(crate) fn add(&mut self, range: FreedRange) {
        let at = self.ranges.partition_point(|before| before.end_number <= range.first_number);
        let joins_next = self.ranges.get(at).is_some_and(|next| next.first_number == range.end_number);
        let before = at.checked_sub(1).and_then(|before| self.ranges.get_mut(before));
        match before.filter(|before| before.end_number == range.first_number) {
            Some(before) => {
                (before.end_number, before.end_vital) = (range.end_number, range.end_vital);
                if joins_next {
                    let next = self.ranges.remove(at);
                    let before = &mut self.ranges[at - 1];
                    (before.end_number, before.end_vital) = (next.end_number, next.end_vital);
                }
            }
            None if joins_next => {
                let next = &mut self.ranges[at];
                (next.first_number, next.first_vital) = (range.first_number, range.first_vital);
            }
            None => self.ranges.insert(at, range),
        }
    }

    /// Whether the list grows by a range with it.
    pub(crate) fn grows_with(&self, range: &FreedRange) -> bool {
        !self
            .ranges
            .iter()
            .any(|other| other.end_number == range.first_number || other.first_number == range.end_number)
    }

    /// Whether the block of this number is gone. One with this number that is still found is another,
    /// which a recovery cut off.
    pub fn contains(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.end_number <= number);
        self.ranges.get(after).is_some_and(|range| range.first_number <= number)
    }

    /// The range that begins with this block.
    pub(crate) fn at(&self, first_number: u64) -> Option<&FreedRange> {
        let at = self.ranges.binary_search_by_key(&first_number, |range| range.first_number);
        at.ok().map(|at| &self.ranges[at])
    }

    /// How many of the blocks from `first` to before `end` are gone, and the vital entries in them.
    /// Ranges lie within these numbers or outside of them.
    pub(crate) fn within(&self, first: u64, end: u64) -> (u64, u64) {
        let within = self.ranges.iter().filter(|range| first <= range.first_number && range.end_number <= end);
        within.fold((0, 0), |(blocks, vital), range| {
            (blocks + (range.end_number - range.first_number), vital + (range.end_vital - range.first_vital))
        })
    }

    /// The blocks from `first` to before `end` that are not gone, and of which none is vital; `vital` of
    /// those were in the blocks before `first`.
    pub(crate) fn gaps(&self, first: u64, end: u64, mut vital: u64) -> Vec<FreedRange> {
        let mut gaps = Vec::new();
        let mut from = first;
        let mut gap = |from, to, vital| {
            if from < to {
                gaps.push(FreedRange { first_number: from, end_number: to, first_vital: vital, end_vital: vital });
            }
        };
        for range in self.ranges.iter().filter(|range| first <= range.first_number && range.end_number <= end) {
            gap(from, range.first_number, vital);
            vital += range.end_vital - range.first_vital;
            from = range.end_number;
        }
        gap(from, end, vital);
        gaps
    }

    /// Bytes of a line with so many ranges.
    pub(crate) fn line_bytes(ranges: usize) -> usize {
        HEAD_BYTES + ranges * RANGE_BYTES
    }

    /// How many ranges a line of at most so many bytes has.
    pub(crate) fn ranges_max(bytes: u64) -> usize {
        (bytes as usize).saturating_sub(HEAD_BYTES) / RANGE_BYTES
    }

    /// Appends its line to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[FREED, 0, 0, 0]);
        out.extend_from_slice(&(self.ranges.len() as u32).to_le_bytes());
        for range in &self.ranges {
            for field in [range.first_number, range.end_number, range.first_vital, range.end_vital] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
    }

    /// The line at the start of `bytes`.
    pub(crate) fn line(bytes: &[u8]) -> Option<&[u8]> {
        let count = u32_at(bytes.get(..HEAD_BYTES)?, 4) as usize;
        bytes.get(..HEAD_BYTES.checked_add(count.checked_mul(RANGE_BYTES)?)?)
    }

    /// What a line says. `None` when its ranges are not in order.
    pub(crate) fn decode(line: &[u8]) -> Option<Freed> {
        let mut ranges: Vec<FreedRange> = Vec::new();
        for bytes in line.get(HEAD_BYTES..)?.chunks_exact(RANGE_BYTES) {
            let range = FreedRange {
                first_number: u64_at(bytes, 0),
                end_number: u64_at(bytes, 8),
                first_vital: u64_at(bytes, 16),
                end_vital: u64_at(bytes, 24),
            };
            let follows = ranges
                .last()
                .is_none_or(|before| before.end_number < range.first_number && before.end_vital <= range.first_vital);
            if !follows || range.first_number >= range.end_number || range.first_vital > range.end_vital {
                return None;
            }
            ranges.push(range);
        }
        Some(Freed { ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first_number: u64, end_number: u64) -> FreedRange {
        FreedRange { first_number, end_number, first_vital: first_number * 2, end_vital: end_number * 2 }
    }

    fn freed(ranges: &[(u64, u64)]) -> Freed {
        let mut freed = Freed::default();
        ranges.iter().for_each(|(first, end)| freed.add(range(*first, *end)));
        freed
    }

    #[test]
    fn neighbours_become_one() {
        let scattered = freed(&[(10, 20), (0, 5), (30, 40)]);
        assert_eq!(scattered.ranges(), [range(0, 5), range(10, 20), range(30, 40)]);
        assert!(scattered.grows_with(&range(21, 29)) && !scattered.grows_with(&range(20, 30)));
        assert_eq!(freed(&[(10, 20), (0, 5), (30, 40), (20, 30), (5, 10)]).ranges(), [range(0, 40)]);
        assert_eq!(freed(&[(10, 20), (5, 10), (20, 22)]).ranges(), [range(5, 22)]);
    }

    #[test]
    fn says_what_is_gone() {
        let freed = freed(&[(0, 5), (10, 20), (30, 40)]);
        let gone: Vec<u64> = (0..50).filter(|number| freed.contains(*number)).collect();
        assert_eq!(gone, (0..5).chain(10..20).chain(30..40).collect::<Vec<_>>());
        assert_eq!(freed.within(5, 40), (20, 40));
        assert_eq!(freed.within(5, 25), (10, 20));
        assert_eq!(freed.within(20, 30), (0, 0));
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        freed(&[(1, 5), (10, 20)]).encode(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "0800000002000000",
            "0100000000000000050000000000000002000000000000000a00000000000000",
            "0a00000000000000140000000000000014000000000000002800000000000000",
        );
        assert_eq!(hex, golden, "the byte format of what was freed changed: it is on disks");
        assert_eq!(bytes.len(), Freed::line_bytes(2));
        assert_eq!(Freed::line(&bytes), Some(&bytes[..]));
        assert_eq!(Freed::decode(&bytes), Some(freed(&[(1, 5), (10, 20)])));
        assert_eq!(Freed::line(&bytes[..bytes.len() - 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_decode_without_panic(bytes: Vec<u8>) {
            let _ = Freed::line(&bytes).and_then(Freed::decode);
        }
    }
}
