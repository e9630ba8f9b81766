//! Sorted lists of SeqNums, hundreds of thousands of them, in one arena.
//!
//! A single SeqNum is kept in the list itself. From the second on a list lives in one slot of 4, 8,
//! 16 … 512 entries and moves to the next size as it grows; what it leaves is reused by another.
//! Beyond 512 it is a directory of full slots of the largest size. So a short list wastes little, a
//! long one never moves as a whole, and growth allocates a page now and then, not a block a list.

use sealog_protocol::SeqNum;

const SMALLEST: usize = 4;
const CLASSES: usize = 8;
/// Entries of the largest slot, of which long lists are made.
const LARGEST: usize = SMALLEST << (CLASSES - 1);
/// Entries of a page: all slots of a page are of one size.
const PAGE_ENTRIES: usize = 8 << 10;

/// One list: twelve bytes, the entries are in the [`Lists`] that made it.
#[derive(Debug, Default)]
pub struct List {
    len: u32,
    /// Of one entry: its halves. Of up to [`LARGEST`]: its slot. Of more: its directory.
    place: [u32; 2],
}

/// The arena.
#[derive(Debug, Default)]
pub struct Lists {
    classes: [Class; CLASSES],
    /// The slots of each long list; all but the last are full.
    directories: Vec<Vec<u32>>,
}

#[derive(Debug, Default)]
struct Class {
    pages: Vec<Box<[u64]>>,
    /// Slots that were given back.
    free: Vec<u32>,
    /// Slots ever given out.
    used: u32,
}

impl List {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of a list that has one.
    fn single(&self) -> SeqNum {
        SeqNum(u64::from(self.place[0]) | u64::from(self.place[1]) << 32)
    }
}

impl Lists {
    /// Bytes of memory that the arena holds.
    pub fn bytes(&self) -> usize {
        let classes = self.classes.iter().map(|class| class.pages.len() * PAGE_ENTRIES * 8 + class.free.capacity() * 4);
        let directories = self.directories.iter().map(|directory| directory.capacity() * 4 + size_of::<Vec<u32>>());
        classes.sum::<usize>() + directories.sum::<usize>()
    }

    /// Appends a SeqNum greater than all in the list.
    pub fn push(&mut self, list: &mut List, seqnum: SeqNum) {
        let len = list.len();
        assert!(len < u32::MAX as usize, "a list holds at most 2^32 - 1 records");
        list.len += 1;
        match len {
            0 => {
                list.place = [seqnum.0 as u32, (seqnum.0 >> 32) as u32];
                return;
            }
            1 => {
                let first = list.single();
                list.place = [self.classes[0].take(SMALLEST), 0];
                self.classes[0].slot_mut(list.place[0], SMALLEST)[0] = first.0;
            }
            _ if len == LARGEST => {
                let slot = self.classes[CLASSES - 1].take(LARGEST);
                self.directories.push(vec![list.place[0], slot]);
                list.place = [(self.directories.len() - 1) as u32, 0];
            }
            _ if len > LARGEST && len.is_multiple_of(LARGEST) => {
                let slot = self.classes[CLASSES - 1].take(LARGEST);
                self.directories[list.place[0] as usize].push(slot);
            }
            _ if (SMALLEST..LARGEST).contains(&len) && len.is_power_of_two() => self.grow(list, len),
            _ => {}
        }
        let (class, slot) = self.slot_of(list, len);
        self.classes[class].slot_mut(slot, SMALLEST << class)[len % LARGEST] = seqnum.0;
    }

    /// The entry at this place of the list, from 0.
    pub fn get(&self, list: &List, at: usize) -> Option<SeqNum> {
        if at >= list.len() {
            return None;
        }
        if list.len() == 1 {
            return Some(list.single());
        }
        let (class, slot) = self.slot_of(list, at);
        Some(SeqNum(self.classes[class].slot(slot, SMALLEST << class)[at % LARGEST]))
    }

    pub fn last(&self, list: &List) -> Option<SeqNum> {
        self.get(list, list.len().checked_sub(1)?)
    }

    /// How many entries are below `seqnum`: the place of the first that is not.
    pub fn lower_bound(&self, list: &List, seqnum: SeqNum) -> usize {
        let (mut low, mut high) = (0, list.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(list, middle).is_some_and(|found| found < seqnum) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Moves a list whose slot of `len` entries is full to one of twice the size.
    fn grow(&mut self, list: &mut List, len: usize) {
        let class = (len / SMALLEST).trailing_zeros() as usize;
        let to = self.classes[class + 1].take(len * 2);
        let (before, after) = self.classes.split_at_mut(class + 1);
        after[0].slot_mut(to, len * 2)[..len].copy_from_slice(before[class].slot(list.place[0], len));
        self.classes[class].free.push(list.place[0]);
        list.place[0] = to;
    }

    /// The class and slot that hold the entry at this place of a list of two or more.
    fn slot_of(&self, list: &List, at: usize) -> (usize, u32) {
        if list.len() > LARGEST {
            return (CLASSES - 1, self.directories[list.place[0] as usize][at / LARGEST]);
        }
        let entries = list.len().next_power_of_two().clamp(SMALLEST, LARGEST);
        ((entries / SMALLEST).trailing_zeros() as usize, list.place[0])
    }
}

impl Class {
    fn take(&mut self, entries: usize) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = self.used;
        self.used += 1;
        let per_page = PAGE_ENTRIES / entries;
        if slot as usize / per_page == self.pages.len() {
            self.pages.push(vec![0; PAGE_ENTRIES].into_boxed_slice());
        }
        slot
    }

    fn slot(&self, slot: u32, entries: usize) -> &[u64] {
        let per_page = PAGE_ENTRIES / entries;
        let at = (slot as usize % per_page) * entries;
        &self.pages[slot as usize / per_page][at..at + entries]
    }

    fn slot_mut(&mut self, slot: u32, entries: usize) -> &mut [u64] {
        let per_page = PAGE_ENTRIES / entries;
        let at = (slot as usize % per_page) * entries;
        &mut self.pages[slot as usize / per_page][at..at + entries]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_every_length_hold_what_was_pushed() {
        let mut arena = Lists::default();
        let mut lists: Vec<List> = (0..50).map(|_| List::default()).collect();
        for value in 0..5_000u64 {
            for (nth, list) in lists.iter_mut().enumerate() {
                if value % (nth as u64 + 1) == 0 {
                    arena.push(list, SeqNum(value * 2));
                }
            }
        }
        for (nth, list) in lists.iter().enumerate() {
            let step = nth as u64 + 1;
            assert_eq!(list.len() as u64, 5_000u64.div_ceil(step));
            for at in 0..list.len() {
                let value = at as u64 * step * 2;
                assert_eq!(arena.get(list, at), Some(SeqNum(value)));
                assert_eq!(arena.lower_bound(list, SeqNum(value)), at);
                assert_eq!(arena.lower_bound(list, SeqNum(value + 1)), at + 1);
            }
            assert_eq!(arena.get(list, list.len()), None);
        }
    }

    #[test]
    fn a_million_entries_in_a_hundred_thousand_lists_stay_within_twice_their_size() {
        let mut arena = Lists::default();
        let mut lists: Vec<List> = (0..100_000).map(|_| List::default()).collect();
        for value in 0..1_000_000u64 {
            arena.push(&mut lists[(value % 100_000) as usize], SeqNum(value));
        }
        assert!(arena.bytes() < 1_000_000 * 8 * 4, "{} bytes", arena.bytes());
    }
}
