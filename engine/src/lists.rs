//! Sorted lists of SeqNums, hundreds of thousands of them, in one arena.
//!
//! A single SeqNum is kept in the list itself. From the second on a list lives in one slot of 4, 8,
//! 16 … 512 entries and moves to the next size as it grows; what it leaves is reused by another.
//! Beyond 512 it is a directory of full slots of the largest size. So a short list wastes little, a
//! long one never moves as a whole, and growth allocates a page now and then, not a block a list.
//!
//! A list loses entries at its front alone. They are skipped; a long list gives back the slots that
//! only such entries are in, and one that has become much shorter than its slot moves to a smaller one.

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
    /// Entries held, with those that are skipped.
    held: u32,
    /// Of one entry: its halves. Of up to [`LARGEST`]: its slot. Of more: its directory. Of two or
    /// more entries, the second half is how many are skipped.
    place: [u32; 2],
}

/// The arena.
#[derive(Debug, Default)]
pub struct Lists {
    classes: [Class; CLASSES],
    /// The slots of each long list; all but the last are full.
    directories: Vec<Vec<u32>>,
    /// Directories that were given back.
    free_directories: Vec<u32>,
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
        self.held() - self.skipped()
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn held(&self) -> usize {
        self.held as usize
    }

    fn skipped(&self) -> usize {
        if self.held > 1 { self.place[1] as usize } else { 0 }
    }

    /// The entry of a list that has one.
    fn single(&self) -> SeqNum {
        SeqNum(u64::from(self.place[0]) | u64::from(self.place[1]) << 32)
    }

    fn of_one(seqnum: SeqNum) -> List {
        List { held: 1, place: [seqnum.0 as u32, (seqnum.0 >> 32) as u32] }
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
        let held = list.held();
        assert!(held < u32::MAX as usize, "a list holds at most 2^32 - 1 records");
        if (SMALLEST..=LARGEST).contains(&held) && held.is_power_of_two() && list.skipped() * 4 >= held {
            // Its slot is full, and a good part of it is of no use.
            self.move_to_fitting(list);
            return self.push(list, seqnum);
        }
        match held {
            0 => {
                *list = List::of_one(seqnum);
                return;
            }
            1 => {
                let first = list.single();
                list.place = [self.classes[0].take(SMALLEST), 0];
                self.classes[0].slot_mut(list.place[0], SMALLEST)[0] = first.0;
            }
            _ if held == LARGEST => {
                let slot = self.classes[CLASSES - 1].take(LARGEST);
                list.place[0] = self.new_directory([list.place[0], slot]);
            }
            _ if held > LARGEST && held.is_multiple_of(LARGEST) => {
                let slot = self.classes[CLASSES - 1].take(LARGEST);
                self.directories[list.place[0] as usize].push(slot);
            }
            _ if (SMALLEST..LARGEST).contains(&held) && held.is_power_of_two() => self.grow(list, held),
            _ => {}
        }
        list.held += 1;
        let (class, slot) = self.slot_of(list, held);
        self.classes[class].slot_mut(slot, SMALLEST << class)[held % LARGEST] = seqnum.0;
    }

    /// Takes the first `count` entries away.
    pub fn drop_front(&mut self, list: &mut List, count: usize) {
        let left = list.len().saturating_sub(count);
        if left == 0 {
            return self.clear(list);
        }
        if count == 0 {
            return;
        }
        list.place[1] += count as u32;
        if list.held() > LARGEST {
            let slots = list.skipped() / LARGEST;
            let directory = &mut self.directories[list.place[0] as usize];
            self.classes[CLASSES - 1].free.extend(directory.drain(..slots));
            list.place[1] -= (slots * LARGEST) as u32;
            list.held -= (slots * LARGEST) as u32;
            if let [only] = directory[..] {
                *directory = Vec::new();
                self.free_directories.push(list.place[0]);
                list.place[0] = only;
                // The slot is of the largest class, whatever is left in it.
                self.move_from(list, CLASSES - 1, only);
            }
        } else if left * 4 <= list.held().next_power_of_two().max(SMALLEST) {
            self.move_to_fitting(list);
        }
    }

    /// Takes all entries away.
    pub fn clear(&mut self, list: &mut List) {
        match list.held() {
            0 | 1 => {}
            held if held <= LARGEST => {
                let (class, slot) = self.slot_of(list, 0);
                self.classes[class].free.push(slot);
            }
            _ => {
                let slots = std::mem::take(&mut self.directories[list.place[0] as usize]);
                self.classes[CLASSES - 1].free.extend(slots);
                self.free_directories.push(list.place[0]);
            }
        }
        *list = List::default();
    }

    /// Moves the entries of a list of one slot to the slot that fits them.
    fn move_to_fitting(&mut self, list: &mut List) {
        let (class, slot) = self.slot_of(list, 0);
        self.move_from(list, class, slot);
    }

    fn move_from(&mut self, list: &mut List, class: usize, slot: u32) {
        let mut entries = [0; LARGEST];
        let (skipped, held) = (list.skipped(), list.held());
        let count = held - skipped;
        entries[..count].copy_from_slice(&self.classes[class].slot(slot, SMALLEST << class)[skipped..held]);
        self.classes[class].free.push(slot);
        if count == 1 {
            *list = List::of_one(SeqNum(entries[0]));
            return;
        }
        let class = class_of(count);
        let slot = self.classes[class].take(SMALLEST << class);
        self.classes[class].slot_mut(slot, SMALLEST << class)[..count].copy_from_slice(&entries[..count]);
        *list = List { held: count as u32, place: [slot, 0] };
    }

    fn new_directory(&mut self, slots: [u32; 2]) -> u32 {
        match self.free_directories.pop() {
            Some(at) => {
                self.directories[at as usize].extend(slots);
                at
            }
            None => {
                self.directories.push(slots.to_vec());
                (self.directories.len() - 1) as u32
            }
        }
    }

    /// The entry at this place of the list, from 0.
    pub fn get(&self, list: &List, at: usize) -> Option<SeqNum> {
        if at >= list.len() {
            return None;
        }
        if list.held() == 1 {
            return Some(list.single());
        }
        let at = at + list.skipped();
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

    /// The class and slot that hold the entry at this place of a list of two or more, the skipped ones
    /// counted.
    fn slot_of(&self, list: &List, at: usize) -> (usize, u32) {
        if list.held() > LARGEST {
            return (CLASSES - 1, self.directories[list.place[0] as usize][at / LARGEST]);
        }
        (class_of(list.held()), list.place[0])
    }
}

/// The class of the slot of so many entries.
fn class_of(entries: usize) -> usize {
    (entries.next_power_of_two().clamp(SMALLEST, LARGEST) / SMALLEST).trailing_zeros() as usize
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
    fn lists_lose_their_front_and_their_memory_is_used_again() {
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut arena = Lists::default();
        let mut lists: Vec<(List, std::collections::VecDeque<u64>)> = (0..40).map(|_| Default::default()).collect();
        let mut value = 0;
        let mut most = 0;
        for round in 0..200_000 {
            let (list, model) = &mut lists[random(40)];
            if random(100) == 0 {
                let count = random(model.len() + 1);
                arena.drop_front(list, count);
                model.drain(..count);
            } else {
                value += 1 + random(2) as u64;
                arena.push(list, SeqNum(value));
                model.push_back(value);
            }
            assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
            for at in [0, model.len() / 2, model.len().saturating_sub(1), model.len()] {
                assert_eq!(arena.get(list, at).map(|found| found.0), model.get(at).copied(), "round {round}");
            }
            if round == 50_000 {
                most = arena.bytes();
            }
        }
        assert!(arena.bytes() < most * 2, "{} bytes, once {most}", arena.bytes());
        let long = &mut lists[0].0;
        for value in value + 1..value + 5_000 {
            arena.push(long, SeqNum(value));
        }
        for (list, _) in &mut lists {
            arena.clear(list);
        }
        let free: usize = arena.classes.iter().map(|class| class.used as usize - class.free.len()).sum();
        assert_eq!(free, 0, "every slot was given back");
        assert_eq!(arena.free_directories.len(), arena.directories.len());
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
