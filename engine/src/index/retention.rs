//! What a LogBook keeps by itself: the record that says so, and how old and how large what it keeps is.

use std::collections::VecDeque;

use sealog_protocol::{LogBookId, SeqNum, Tag};

/// What a LogBook keeps by itself. Zero: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub age_ms: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// Marks the tag that carries an age, and that of a number of bytes: no LogBook's id is so large, and
/// a record has a tag once.
const AGE: u64 = 0b10 << 62;
const BYTES: u64 = 0b11 << 62;
const BOUND_MAX: u64 = (1 << 62) - 1;

impl Retention {
    /// The tags of the record that sets it. An index sees nothing else of a record.
    pub fn tags(self, logbook: LogBookId) -> [Tag; 4] {
        let (age, bytes) = (self.age_ms.min(BOUND_MAX), self.bytes.min(BOUND_MAX));
        [Tag::SYSTEM_RETENTION, Tag(logbook.0), Tag(AGE | age), Tag(BYTES | bytes)]
    }

    /// What the tags after the first say. A LogBook whose id is that of the first tag is not repeated.
    pub fn of_tags(rest: [Option<Tag>; 3]) -> Option<(LogBookId, Retention)> {
        let (logbook, age, bytes) = match rest {
            [Some(age), Some(bytes), None] => (Tag::SYSTEM_RETENTION, age, bytes),
            [Some(logbook), Some(age), Some(bytes)] => (logbook, age, bytes),
            _ => return None,
        };
        let is_marked = age.0 & !BOUND_MAX == AGE && bytes.0 & !BOUND_MAX == BYTES;
        let retention = Retention { age_ms: age.0 & BOUND_MAX, bytes: bytes.0 & BOUND_MAX };
        is_marked.then_some((LogBookId(logbook.0), retention))
    }
}

/// Stretches that what is kept is divided into: what is let go is let go by stretches.
const STRETCHES: u64 = 32;
/// More of them are merged two by two.
const STRETCHES_MAX: usize = 2 * STRETCHES as usize;
/// A stretch of more than such a part of the bound was begun under a larger bound, or ends in a large
/// batch. It goes only when what follows it is as much as is to be kept.
const SMALL: u64 = STRETCHES / 2;

/// Consecutive records of a LogBook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    pub first: SeqNum,
    /// The greatest time of its records, by their writers' clocks, in milliseconds since 1970.
    pub time_ms: u64,
    /// Of payload.
    pub bytes: u64,
}

/// A LogBook that lets records go by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    pub retention: Retention,
    pub stretches: VecDeque<Stretch>,
    /// The time of the first record of the last stretch.
    began_ms: u64,
}

impl Retained {
    /// As a checkpoint describes it.
    pub fn restored(retention: Retention, stretches: VecDeque<Stretch>) -> Retained {
        Retained { retention, stretches, began_ms: 0 }
    }

    /// From this time on. What is there already counts as appended now, and as of no bytes.
    pub fn begin(retention: Retention, time_ms: u64) -> Retained {
        let before = Stretch { first: SeqNum::MIN, time_ms, bytes: 0 };
        Retained { retention, stretches: VecDeque::from([before]), began_ms: time_ms }
    }

    /// A batch of the LogBook became visible. Returns whether a stretch ended with it.
    pub fn push(&mut self, first: SeqNum, time_ms: u64, bytes: u64) -> bool {
        let Retention { age_ms, bytes: bytes_max } = self.retention;
        let begins = self.stretches.back().is_none_or(|last| {
            let is_large = bytes_max > 0 && last.bytes >= bytes_max / STRETCHES;
            // Times within a stretch differ by little: it is as old as its newest record.
            let is_long = age_ms > 0 && time_ms >= self.began_ms.saturating_add(age_ms / STRETCHES);
            is_large || is_long || last.first == SeqNum::MIN
        });
        if begins {
            if self.stretches.len() >= STRETCHES_MAX {
                self.merge();
            }
            self.stretches.push_back(Stretch { first, time_ms, bytes });
            self.began_ms = time_ms;
            return true;
        }
        let last = self.stretches.back_mut().expect("looked at above");
        last.time_ms = last.time_ms.max(time_ms);
        last.bytes += bytes;
        false
    }

    fn merge(&mut self) {
        let stretches = std::mem::take(&mut self.stretches);
        for pair in Vec::from(stretches).chunks(2) {
            let mut merged = pair[0];
            if let Some(second) = pair.get(1) {
                merged.time_ms = merged.time_ms.max(second.time_ms);
                merged.bytes += second.bytes;
            }
            self.stretches.push_back(merged);
        }
    }

    /// The LogBook was trimmed: what is below is not counted any more.
    pub fn trimmed(&mut self, first: SeqNum) {
        while self.stretches.get(1).is_some_and(|next| next.first <= first) {
            self.stretches.pop_front();
        }
    }

    /// Where the LogBook is to be trimmed at this time of day, if it is; `last` is its newest record,
    /// which stays.
    pub fn due(&self, now_ms: u64, last: Option<SeqNum>) -> Option<SeqNum> {
        let Retention { age_ms, bytes: bytes_max } = self.retention;
        let total: u64 = self.stretches.iter().map(|stretch| stretch.bytes).sum();
        let is_old = |stretch: &Stretch| age_ms > 0 && stretch.time_ms.saturating_add(age_ms) <= now_ms;
        let mut left = total;
        let mut go = 0;
        for stretch in &self.stretches {
            // Of the first stretch some may be trimmed: what follows it is known exactly.
            let follows = left - stretch.bytes;
            let is_small = stretch.bytes <= bytes_max / SMALL;
            let is_beyond = bytes_max > 0 && left > bytes_max && (is_small || follows >= bytes_max);
            if !is_old(stretch) && !is_beyond {
                break;
            }
            left = follows;
            go += 1;
        }
        let first = match self.stretches.get(go) {
            Some(kept) => kept.first,
            // All are to go.
            None => last?,
        };
        Some(first.min(last?)).filter(|_| go > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(age_ms: u64, bytes: u64) -> Retained {
        Retained::begin(Retention { age_ms, bytes }, 1_000)
    }

    #[test]
    fn bytes_beyond_the_bound_go_but_not_the_newest_record() {
        let mut book = book(0, 3_200);
        let mut first = SeqNum::MIN;
        for seqnum in 1..=1_000u64 {
            book.push(SeqNum(seqnum), seqnum, 10);
            if let Some(due) = book.due(0, Some(SeqNum(seqnum))) {
                assert!(due > first, "a trim is asked for once");
                first = due;
                book.trimmed(due);
            }
            let kept = (seqnum + 1 - first.0.max(1)) * 10;
            assert!(kept <= 3_200, "{kept} bytes are kept");
            assert!(seqnum < 400 || kept >= 2_900, "{kept} bytes are kept");
        }
        let mut large = book.clone();
        large.push(SeqNum(1_001), 1, 5_000);
        assert_eq!(large.due(0, Some(SeqNum(1_001))), Some(SeqNum(1_001)), "one record over the bound stays");
    }

    #[test]
    fn a_lower_bound_lets_no_more_go_than_it_says() {
        let mut book = book(0, 20_000);
        for seqnum in 1..=10u64 {
            book.push(SeqNum(seqnum), seqnum, 50);
        }
        // The client trims most of it; all of it is one stretch.
        book.trimmed(SeqNum(10));
        book.retention.bytes = 200;
        assert_eq!(book.due(0, Some(SeqNum(10))), None, "50 bytes are left, of 200 that may stay");
        for seqnum in 11..=13u64 {
            book.push(SeqNum(seqnum), seqnum, 50);
            assert_eq!(book.due(0, Some(SeqNum(seqnum))), None);
        }
        book.push(SeqNum(14), 14, 50);
        assert_eq!(book.due(0, Some(SeqNum(14))), Some(SeqNum(11)), "200 bytes follow");
    }

    #[test]
    fn what_is_old_goes_by_the_clock_alone() {
        let mut book = book(1_000, 0);
        for seqnum in 1..=100u64 {
            book.push(SeqNum(seqnum), 1_000 + seqnum * 10, 1);
        }
        assert_eq!(book.due(1_900, Some(SeqNum(100))), None);
        // Those up to the fiftieth, and the stretch from before the first.
        let due = book.due(2_500, Some(SeqNum(100))).expect("half of them");
        assert!((45..=51).contains(&due.0), "{due:?}");
        book.trimmed(due);
        assert_eq!(book.due(2_500, Some(SeqNum(100))), None);
        assert_eq!(book.due(9_000, Some(SeqNum(100))), Some(SeqNum(100)), "the newest stays");
        assert_eq!(book.due(9_000, None), None, "a LogBook without records has nothing to lose");
    }

    #[test]
    fn what_was_there_before_counts_from_when_it_was_set() {
        let mut book = book(1_000, 0);
        assert_eq!(book.due(1_999, Some(SeqNum(7))), None);
        assert_eq!(book.due(2_000, Some(SeqNum(7))), Some(SeqNum(7)));
        book.push(SeqNum(8), 1_500, 1);
        assert_eq!(book.due(2_000, Some(SeqNum(8))), Some(SeqNum(8)));
    }

    #[test]
    fn stretches_are_bounded() {
        let mut book = book(1, 0);
        for seqnum in 1..=10_000u64 {
            book.push(SeqNum(seqnum), seqnum * 100, 1);
            assert!(book.stretches.len() <= STRETCHES_MAX);
        }
        assert_eq!(book.stretches.iter().map(|stretch| stretch.bytes).sum::<u64>(), 10_000);
    }
}
