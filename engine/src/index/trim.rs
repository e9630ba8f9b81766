//! Trims: a trim point moves at once, what it leaves behind is swept away bit by bit.
//!
//! A point decides what is read and what the tail is. Sweeping takes entries below points out of the
//! lists, and finds out which records died with their last tag; it changes no answer but that of reads
//! by tag 0, which skip such records from then on.

use std::collections::VecDeque;

use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LogBookId, SeqNum, Tag};

use super::tags::Key;
use super::{Index, Listed};

/// Records that died: so many between these, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dying {
    pub first: SeqNum,
    pub last: SeqNum,
    pub records: u64,
}

/// What is to be swept.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    due: VecDeque<Due>,
    /// How far the sweep over all tags has come, after the trim of a whole LogBook.
    tags: Option<usize>,
    /// Another one is due after it.
    again: bool,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Book(u32),
    Tag(Key),
    Compaction(u32),
}

impl Index {
    /// The trim point of a tag: the first SeqNum that is kept, its own or its LogBook's. 0: none.
    pub fn first(&self, logbook: LogBookId, tag: Tag) -> SeqNum {
        let Some(book) = self.books.find(logbook) else { return SeqNum::MIN };
        let own = || self.tags.find(Key::new(book, tag)).map_or(SeqNum::MIN, super::tags::TagEntry::first);
        let of_book = self.books.at(book).first;
        if tag == Tag::ALL { of_book } else { of_book.max(own()) }
    }

    /// Applies a trim that was clamped to the log's end. Tag 0: of the whole LogBook.
    pub fn trim(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum) {
        let tag = if active(Mutant::TrimAffectsOtherTag) { Tag::ALL } else { tag };
        if logbook == LogBookId::SYSTEM || first <= self.first(logbook, tag) && !active(Mutant::TrimLowersPoint) {
            return;
        }
        mark(Mark::TrimApplied);
        let book = self.books.entry(logbook);
        if tag == Tag::ALL {
            self.point_moves(book, tag, self.books.at(book).first);
            self.books.at_mut(book).first = first;
            if let Some(retained) = self.retained.get_mut(&logbook) {
                retained.trimmed(first);
            }
            self.sweep.due.push_back(Due::Book(book));
            match self.sweep.tags {
                None => self.sweep.tags = Some(0),
                Some(_) => self.sweep.again = true,
            }
        } else {
            let key = Key::new(book, tag);
            let entry = self.tags.entry(key);
            let before = entry.first();
            entry.set_first(first);
            self.point_moves(book, tag, before);
            self.sweep.due.push_back(Due::Tag(key));
        }
    }

    /// Whether [`Index::forward`] and [`Index::backward`] skip every record that died by its tags.
    pub fn knows_its_dead(&self) -> bool {
        self.sweep.due.is_empty() && self.sweep.tags.is_none()
    }

    /// Whether nothing is left to be swept, or nothing may be now.
    pub fn is_swept(&self) -> bool {
        self.frozen.is_some() || self.sweep.due.is_empty() && self.sweep.tags.is_none() && !self.books.is_compacting()
    }

    /// Everything may have something to be swept: an index that was loaded is not told what.
    pub(super) fn sweep_all(&mut self) {
        self.sweep.tags = Some(0);
        let begin_later = |book: &u32| self.books.at(*book).first > SeqNum::MIN;
        self.sweep.due.extend((0..self.books.len() as u32).filter(begin_later).map(Due::Book));
    }

    /// Sweeps, for a bounded time: looks at about `budget` entries. Tells in `dying` which records
    /// died.
    pub fn sweep(&mut self, budget: usize, dying: &mut Vec<Dying>) {
        let mut left = budget;
        while left > 0 && !self.is_swept() {
            let done = match self.sweep.due.front().copied() {
                Some(Due::Book(book)) => self.sweep_book(book, left, dying),
                Some(Due::Tag(key)) => self.sweep_tag(key, left, dying),
                Some(Due::Compaction(book)) => self.compact(book, left),
                None => self.sweep_next_tags(left, dying),
            };
            left = left.saturating_sub(done.max(1));
        }
    }

    fn sweep_book(&mut self, book: u32, budget: usize, dying: &mut Vec<Dying>) -> usize {
        let Some((died, count)) = self.books.drop_front(&mut self.lists, book, budget) else {
            self.sweep.due.pop_front();
            return 1;
        };
        dying.push(died);
        count.min(budget)
    }

    /// Sweeps a tag with a point of its own. Returns how many entries were looked at.
    fn sweep_tag(&mut self, key: Key, budget: usize, dying: &mut Vec<Dying>) -> usize {
        let of_book = self.books.at(key.book).first;
        let Some(entry) = self.tags.find_mut(key) else {
            self.sweep.due.pop_front();
            return 1;
        };
        let own = entry.first();
        let below = self.lists.lower_bound(&entry.list, own.max(of_book));
        let count = below.min(budget);
        let gone: Vec<SeqNum> = (0..count).filter_map(|at| self.lists.get(&entry.list, at)).collect();
        self.lists.drop_front(&mut entry.list, count);
        if entry.list.is_empty() && own <= of_book {
            self.tags.remove(key);
        }
        if count == below && matches!(self.sweep.due.front(), Some(Due::Tag(front)) if *front == key) {
            self.sweep.due.pop_front();
        }
        let mut died: Option<Dying> = None;
        for seqnum in gone {
            if seqnum < of_book {
                self.living_tags.remove(&seqnum);
            } else if self.loses_tag(seqnum) {
                mark(Mark::DiedByTags);
                self.died(key.book, seqnum);
                let died = died.get_or_insert(Dying { first: seqnum, last: seqnum, records: 0 });
                died.last = seqnum;
                died.records += 1;
            }
        }
        dying.extend(died);
        count
    }

    /// A record has lost its last tag.
    pub(super) fn died(&mut self, book: u32, seqnum: SeqNum) {
        if self.books.died(book, seqnum) {
            self.sweep.due.push_back(Due::Compaction(book));
        }
    }

    /// One of its tags was trimmed past a record. Returns whether it was the last.
    fn loses_tag(&mut self, seqnum: SeqNum) -> bool {
        if active(Mutant::DeadByOneTag) {
            return true;
        }
        match self.living_tags.get_mut(&seqnum) {
            None => true,
            Some(2) => {
                self.living_tags.remove(&seqnum);
                false
            }
            Some(living) => {
                *living -= 1;
                false
            }
        }
    }

    fn compact(&mut self, book: u32, budget: usize) -> usize {
        if !self.books.is_compacting() {
            if self.books.at(book).dead == 0 {
                self.sweep.due.pop_front();
                return 1;
            }
            mark(Mark::LogBookCompacted);
            self.books.begin_compaction(book);
        }
        let done = self.books.compact(&mut self.lists, budget);
        if !self.books.is_compacting() {
            self.sweep.due.retain(|due| !matches!(due, Due::Compaction(of) if *of == book));
        }
        done
    }

    /// Goes on with the sweep over all tags: those of LogBooks that were trimmed have entries to lose.
    fn sweep_next_tags(&mut self, budget: usize, dying: &mut Vec<Dying>) -> usize {
        let Some(place) = self.sweep.tags else { return 1 };
        if place >= self.tags.places() {
            self.sweep.tags = std::mem::take(&mut self.sweep.again).then_some(0);
            return 1;
        }
        let found = self.tags.at(place).map(|entry| {
            let first = self.books.at(entry.key.book).first;
            let kept = first.max(entry.first());
            let below = self.lists.get(&entry.list, 0).is_some_and(|seqnum| seqnum < kept);
            (entry.key, below || entry.list.is_empty() && entry.first() <= first)
        });
        match found {
            // It has entries to lose, perhaps more than can be looked at now.
            Some((key, true)) => self.sweep_tag(key, budget, dying).max(1),
            _ => {
                self.sweep.tags = Some(place + 1);
                1
            }
        }
    }

    /// Records of a LogBook that are kept.
    pub fn kept(&self, logbook: LogBookId) -> u64 {
        let Some(book) = self.books.find(logbook) else { return 0 };
        let listed = self.books.listed(&self.lists, book);
        let kept = listed.len() - listed.lower_bound(self.books.at(book).first);
        (kept as u64).saturating_sub(u64::from(self.books.at(book).dead))
    }

    /// Whether an ordered record is visible and above its trim points: someone may read it.
    pub fn lives(&self, logbook: LogBookId, seqnum: SeqNum) -> bool {
        let Some(book) = self.books.find(logbook) else { return false };
        let listed: Listed<'_> = self.books.listed(&self.lists, book);
        seqnum >= self.books.at(book).first && listed.contains(seqnum) && !self.books.is_dead(book, seqnum)
    }
}
