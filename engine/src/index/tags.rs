//! The tags of all LogBooks: a table from (LogBook, tag) to its list and trim point.
//!
//! They lie in one row, so that a sweep over all of them can stop anywhere and go on.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use sealog_protocol::{SeqNum, Tag};

use crate::lists::List;

/// A tag of a LogBook: twelve bytes, for there are millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    tag: [u32; 2],
    /// Its LogBook's place in the index.
    pub book: u32,
}

impl Key {
    pub fn new(book: u32, tag: Tag) -> Key {
        Key { tag: [tag.0 as u32, (tag.0 >> 32) as u32], book }
    }

    pub fn tag(self) -> Tag {
        Tag(u64::from(self.tag[0]) | u64::from(self.tag[1]) << 32)
    }
}

/// What is known of a tag: 32 bytes.
#[derive(Debug)]
pub struct TagEntry {
    pub key: Key,
    pub list: List,
    /// Its own trim point, in halves.
    first: [u32; 2],
}

impl TagEntry {
    pub fn first(&self) -> SeqNum {
        SeqNum(u64::from(self.first[0]) | u64::from(self.first[1]) << 32)
    }

    pub fn set_first(&mut self, first: SeqNum) {
        self.first = [first.0 as u32, (first.0 >> 32) as u32];
    }
}

/// All tags that have a record or a trim point of their own.
#[derive(Debug)]
pub struct Tags {
    hasher: FixedState,
    table: HashTable<u32>,
    row: Vec<TagEntry>,
    /// Places in the row that were given back.
    free: Vec<u32>,
}

/// No LogBook's: marks a place in the row that is free.
const FREE: u32 = u32::MAX;

impl Tags {
    pub fn new(hash_seed: u64) -> Tags {
        Tags { hasher: FixedState::with_seed(hash_seed), table: HashTable::new(), row: Vec::new(), free: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        // Of the table a control byte and the entry, and an eighth of it stays free.
        self.table.capacity() * 5 * 8 / 7 + self.row.capacity() * size_of::<TagEntry>() + self.free.capacity() * 4
    }

    pub fn find(&self, key: Key) -> Option<&TagEntry> {
        let at = *self.table.find(self.hasher.hash_one(key), |at| self.row[*at as usize].key == key)?;
        Some(&self.row[at as usize])
    }

    pub fn find_mut(&mut self, key: Key) -> Option<&mut TagEntry> {
        let at = *self.table.find(self.hasher.hash_one(key), |at| self.row[*at as usize].key == key)?;
        Some(&mut self.row[at as usize])
    }

    pub fn entry(&mut self, key: Key) -> &mut TagEntry {
        let hash = self.hasher.hash_one(key);
        let at = match self.table.find(hash, |at| self.row[*at as usize].key == key) {
            Some(at) => *at,
            None => {
                let entry = TagEntry { key, list: List::default(), first: [0; 2] };
                let at = match self.free.pop() {
                    Some(at) => {
                        self.row[at as usize] = entry;
                        at
                    }
                    None => {
                        self.row.push(entry);
                        (self.row.len() - 1) as u32
                    }
                };
                let (hasher, row) = (&self.hasher, &self.row);
                self.table.insert_unique(hash, at, |at| hasher.hash_one(row[*at as usize].key));
                at
            }
        };
        &mut self.row[at as usize]
    }

    /// Forgets a tag; its list is empty.
    pub fn remove(&mut self, key: Key) {
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.table.find_entry(hash, |at| self.row[*at as usize].key == key) {
            let (at, _) = found.remove();
            self.row[at as usize].key.book = FREE;
            self.free.push(at);
        }
    }

    /// The length of the row: places for [`Tags::at`].
    pub fn places(&self) -> usize {
        self.row.len()
    }

    /// The tag at a place in the row, if there is one.
    pub fn at(&self, place: usize) -> Option<&TagEntry> {
        self.row.get(place).filter(|entry| entry.key.book != FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_and_go_and_their_places_are_used_again() {
        let mut tags = Tags::new(3);
        for round in 0..10u64 {
            for tag in 0..1_000 {
                tags.entry(Key::new(1, Tag(tag << 32 | round))).set_first(SeqNum(tag << 40));
            }
            assert_eq!(tags.len(), 1_000);
            assert_eq!((0..tags.places()).filter_map(|place| tags.at(place)).count(), 1_000);
            for tag in 0..1_000 {
                let key = Key::new(1, Tag(tag << 32 | round));
                assert_eq!(tags.find(key).map(|entry| (entry.key.tag(), entry.first())), {
                    Some((Tag(tag << 32 | round), SeqNum(tag << 40)))
                });
                assert!(tags.find(Key::new(2, key.tag())).is_none());
                tags.remove(key);
            }
        }
        assert_eq!((tags.len(), tags.places()), (0, 1_000));
    }
}
