//! Aux data: what readers attached to records, for those who read them later; in memory, within a
//! bound, gone at any time. No verdict and no order depends on it.
//!
//! What gives way is found by a hand that goes through the entries in their order, again and again:
//! an entry that was read since it last came by is passed over once. Unlike a list by last use this
//! needs nothing at each read but a flag, and the order is there anyway, for trims.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::{LogBookId, SeqNum};

/// What an entry takes besides its data, about.
pub const ENTRY_BYTES: usize = 128;
/// Entries that the hand passes over at most before it takes the next one, read or not: a turn of the
/// engine must not wait for a walk through all of them.
const PASSED_OVER_MAX: usize = 64;

/// A record: SeqNums are unique only together with the LogBook.
type RecordKey = (LogBookId, SeqNum);

#[derive(Debug)]
struct Entry {
    data: Bytes,
    /// It was read since the hand last came by.
    is_used: bool,
}

/// What the cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxStatus {
    pub entries: usize,
    /// With what entries take besides their data.
    pub bytes: usize,
    pub bytes_max: usize,
    /// Aux data that was kept, the first of a record or another one.
    pub sets: u64,
    /// Records that were read with aux data, of those whose reader asked for it.
    pub hits: u64,
    /// Records without, of the same.
    pub misses: u64,
    /// Entries that gave way to others.
    pub evictions: u64,
}

/// The aux data of one engine's records.
#[derive(Debug)]
pub struct AuxCache {
    entries: BTreeMap<RecordKey, Entry>,
    /// Where the hand goes on.
    hand: RecordKey,
    /// Of LogBooks that were trimmed: where the look for what went goes on, and where it ends.
    trimmed: BTreeMap<LogBookId, (SeqNum, SeqNum)>,
    status: AuxStatus,
}

impl AuxCache {
    /// `bytes_max` of 0 keeps nothing.
    pub fn new(bytes_max: usize) -> AuxCache {
        let hand = (LogBookId(0), SeqNum::MIN);
        AuxCache {
            entries: BTreeMap::new(),
            hand,
            trimmed: BTreeMap::new(),
            status: AuxStatus { bytes_max, ..AuxStatus::default() },
        }
    }

    pub fn status(&self) -> AuxStatus {
        AuxStatus { entries: self.entries.len(), ..self.status }
    }

    /// Keeps a record's aux data in place of what it had. Returns whether it is kept.
    pub fn set(&mut self, record: RecordKey, data: Bytes) -> bool {
        self.remove(record);
        let bytes = data.len() + ENTRY_BYTES;
        if bytes > self.status.bytes_max {
            return false;
        }
        while self.status.bytes + bytes > self.status.bytes_max {
            self.evict();
        }
        self.entries.insert(record, Entry { data, is_used: false });
        self.status.bytes += bytes;
        self.status.sets += 1;
        true
    }

    /// The aux data of a record that is read; counted.
    pub fn get(&mut self, record: RecordKey) -> Option<Bytes> {
        let Some(entry) = self.entries.get_mut(&record) else {
            self.status.misses += 1;
            return None;
        };
        entry.is_used = true;
        self.status.hits += 1;
        mark(Mark::AuxCameBack);
        Some(entry.data.clone())
    }

    /// How much data [`AuxCache::get`] would return.
    pub fn data_bytes(&self, record: RecordKey) -> usize {
        self.entries.get(&record).map_or(0, |entry| entry.data.len())
    }

    /// Records of a LogBook below `first` may have been trimmed: they are to be swept.
    pub fn trimmed(&mut self, logbook: LogBookId, first: SeqNum) {
        if self.entries.range((logbook, SeqNum::MIN)..(logbook, first)).next().is_some() {
            let end = self.trimmed.get(&logbook).map_or(first, |(_, end)| first.max(*end));
            self.trimmed.insert(logbook, (SeqNum::MIN, end));
        }
    }

    pub fn is_swept(&self) -> bool {
        self.trimmed.is_empty()
    }

    /// Looks at up to `budget` entries of LogBooks that were trimmed, and forgets those whose records
    /// are not visible any more.
    pub fn sweep(&mut self, budget: usize, is_visible: impl Fn(LogBookId, SeqNum) -> bool) {
        for _ in 0..budget {
            let Some((logbook, (from, end))) = self.trimmed.pop_first() else { return };
            let next = self.entries.range((logbook, from)..(logbook, end.max(from))).next();
            let Some(record) = next.map(|(record, _)| *record) else { continue };
            if !is_visible(logbook, record.1) {
                mark(Mark::AuxOfTrimmed);
                self.remove(record);
            }
            self.trimmed.insert(logbook, (record.1.next(), end));
        }
    }

    fn remove(&mut self, record: RecordKey) {
        if let Some(entry) = self.entries.remove(&record) {
            self.status.bytes -= entry.data.len() + ENTRY_BYTES;
        }
    }

    /// Takes the next entry away that was not read lately.
    fn evict(&mut self) {
        let mut passed_over = 0;
        loop {
            let hand = self.hand;
            let Some((record, entry)) = self.entries.range_mut(hand..).next() else {
                let first = self.entries.keys().next();
                self.hand = *first.expect("bytes are held, so there is an entry");
                continue;
            };
            let (record, is_used) = (*record, std::mem::take(&mut entry.is_used));
            self.hand = (record.0, record.1.next());
            if !is_used || passed_over == PASSED_OVER_MAX {
                self.remove(record);
                self.status.evictions += 1;
                mark(Mark::AuxGaveWay);
                return;
            }
            passed_over += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOK: LogBookId = LogBookId(3);

    fn record(seqnum: u64) -> RecordKey {
        (BOOK, SeqNum(seqnum))
    }

    /// Room for so many entries of eight bytes.
    fn cache(entries: usize) -> AuxCache {
        AuxCache::new(entries * (ENTRY_BYTES + 8))
    }

    fn set(cache: &mut AuxCache, seqnum: u64) {
        assert!(cache.set(record(seqnum), Bytes::copy_from_slice(&seqnum.to_le_bytes())));
    }

    fn has(cache: &AuxCache, seqnum: u64) -> bool {
        cache.data_bytes(record(seqnum)) > 0
    }

    #[test]
    fn what_was_set_last_is_read_under_its_own_key_alone() {
        let mut cache = AuxCache::new(1 << 20);
        assert!(cache.set(record(7), Bytes::from_static(b"old")));
        assert!(cache.set(record(7), Bytes::from_static(b"newer")));
        assert_eq!(cache.get(record(7)), Some(Bytes::from_static(b"newer")));
        assert_eq!(cache.get((LogBookId(4), SeqNum(7))), None);
        assert_eq!(cache.get(record(8)), None);
        let status = cache.status();
        assert_eq!((status.entries, status.bytes), (1, 5 + ENTRY_BYTES));
        assert_eq!((status.sets, status.hits, status.misses, status.evictions), (2, 1, 2, 0));
    }

    #[test]
    fn the_bound_holds_and_what_is_read_outlives_what_is_not() {
        let mut cache = cache(10);
        for seqnum in 1..=10_000 {
            set(&mut cache, seqnum);
            cache.get(record(1));
            let status = cache.status();
            assert!(status.bytes <= status.bytes_max, "{status:?}");
        }
        assert!(has(&cache, 1), "it was read again and again");
        assert!(has(&cache, 10_000) && !has(&cache, 9_980));
        assert_eq!((cache.status().entries, cache.status().evictions), (10, 9_990));
    }

    #[test]
    fn when_all_were_read_one_gives_way_all_the_same() {
        let mut cache = cache(1_000);
        (1..=1_000).for_each(|seqnum| set(&mut cache, seqnum));
        (1..=1_000).for_each(|seqnum| drop(cache.get(record(seqnum))));
        set(&mut cache, 1_001);
        assert_eq!((cache.status().entries, cache.status().evictions), (1_000, 1));
        assert!(has(&cache, 1_001) && has(&cache, 1), "the first was passed over");
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_takes_the_old_with_it() {
        let mut cache = cache(1);
        set(&mut cache, 1);
        assert!(!cache.set(record(1), Bytes::from(vec![0; 9])));
        assert_eq!(cache.get(record(1)), None, "an answer after that must not be the old data");
        assert_eq!(cache.status().bytes, 0);
        let mut off = AuxCache::new(0);
        assert!(!off.set(record(1), Bytes::new()));
        assert_eq!(off.status().entries, 0);
    }

    #[test]
    fn a_trim_takes_what_is_not_visible_any_more_below_it() {
        let mut cache = cache(100);
        (1..=9).for_each(|seqnum| set(&mut cache, seqnum));
        assert!(cache.set((LogBookId(2), SeqNum(1)), Bytes::from_static(b"another's")));
        // Record 2 has a tag that was not trimmed.
        let is_visible = |_, seqnum| seqnum == SeqNum(2);
        cache.trimmed(BOOK, SeqNum(3));
        cache.sweep(1, is_visible);
        cache.trimmed(BOOK, SeqNum(5));
        assert!(!cache.is_swept() && !has(&cache, 1) && has(&cache, 3), "a bounded look");
        cache.sweep(100, is_visible);
        assert!(cache.is_swept());
        cache.trimmed(LogBookId(9), SeqNum::MAX);
        assert!(cache.is_swept(), "there is nothing of it here");
        let left: Vec<u64> = (1..=9).filter(|seqnum| has(&cache, *seqnum)).collect();
        assert_eq!(left, [2, 5, 6, 7, 8, 9]);
        assert_eq!(cache.get((LogBookId(2), SeqNum(1))), Some(Bytes::from_static(b"another's")));
        assert_eq!(cache.status().bytes, 6 * (ENTRY_BYTES + 8) + 9 + ENTRY_BYTES);
    }
}
