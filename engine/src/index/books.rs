//! The LogBooks of an index: of each its list of records, and where it begins.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use sealog_protocol::{LogBookId, SeqNum, Tag};

use super::Dying;
use crate::lists::{List, Lists};

/// A LogBook.
#[derive(Debug)]
pub struct Book {
    pub id: LogBookId,
    /// All its records that are not below its trim point, and those that are and were not swept yet.
    pub list: List,
    /// Its trim point: the first SeqNum kept.
    pub first: SeqNum,
    /// The second hash of its name, as its first `Name` record has it. 0: it has none.
    pub name: Tag,
    /// Records in the list that are dead, for each of their tags was trimmed past them.
    pub dead: u32,
    /// It waits to be rid of them.
    is_due: bool,
}

/// A LogBook's list that is being rid of its dead: the front of it, without them.
#[derive(Debug)]
struct Compacted {
    book: u32,
    front: List,
}

/// All LogBooks that have a record or a trim point.
#[derive(Debug)]
pub struct Books {
    by_id: HashMap<LogBookId, u32, FixedState>,
    row: Vec<Book>,
    /// Records that are dead by their tags and still are in their LogBook's list.
    dead: HashSet<SeqNum, FixedState>,
    compacted: Option<Compacted>,
}

/// The records of a LogBook, in two parts.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    lists: &'a Lists,
    front: Option<&'a List>,
    list: &'a List,
}

impl<'a> Listed<'a> {
    pub fn whole(lists: &'a Lists, list: &'a List) -> Listed<'a> {
        Listed { lists, front: None, list }
    }

    pub fn len(&self) -> usize {
        self.front.map_or(0, List::len) + self.list.len()
    }

    pub fn get(&self, at: usize) -> Option<SeqNum> {
        let front = self.front.map_or(0, List::len);
        match self.front {
            Some(list) if at < front => self.lists.get(list, at),
            _ => self.lists.get(self.list, at - front),
        }
    }

    pub fn last(&self) -> Option<SeqNum> {
        self.lists.last(self.list).or_else(|| self.lists.last(self.front?))
    }

    /// How many records are below `seqnum`.
    pub fn lower_bound(&self, seqnum: SeqNum) -> usize {
        let front = self.front.map_or(0, |front| self.lists.lower_bound(front, seqnum));
        if front < self.front.map_or(0, List::len) { front } else { front + self.lists.lower_bound(self.list, seqnum) }
    }

    pub fn contains(&self, seqnum: SeqNum) -> bool {
        self.get(self.lower_bound(seqnum)) == Some(seqnum)
    }
}

/// A LogBook with fewer dead than this is left alone.
const COMPACT_DEAD_MIN: u32 = 64;

impl Books {
    pub fn new(hash_seed: u64) -> Books {
        Books {
            by_id: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            row: Vec::new(),
            dead: HashSet::with_hasher(FixedState::with_seed(hash_seed)),
            compacted: None,
        }
    }

    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        let dead = self.dead.capacity() * 9 * 8 / 7;
        self.row.capacity() * size_of::<Book>() + self.by_id.capacity() * 17 * 8 / 7 + dead
    }

    pub fn find(&self, logbook: LogBookId) -> Option<u32> {
        self.by_id.get(&logbook).copied()
    }

    pub fn entry(&mut self, logbook: LogBookId) -> u32 {
        *self.by_id.entry(logbook).or_insert_with(|| {
            self.row.push(Book {
                id: logbook,
                list: List::default(),
                first: SeqNum::MIN,
                name: Tag::ALL,
                dead: 0,
                is_due: false,
            });
            (self.row.len() - 1) as u32
        })
    }

    pub fn at(&self, book: u32) -> &Book {
        &self.row[book as usize]
    }

    pub fn at_mut(&mut self, book: u32) -> &mut Book {
        &mut self.row[book as usize]
    }

    pub fn listed<'a>(&'a self, lists: &'a Lists, book: u32) -> Listed<'a> {
        let compacted = self.compacted.as_ref().filter(|compacted| compacted.book == book);
        Listed { lists, front: compacted.map(|compacted| &compacted.front), list: &self.at(book).list }
    }

    /// Whether a record of the list is dead by its tags.
    pub fn is_dead(&self, book: u32, seqnum: SeqNum) -> bool {
        self.at(book).dead > 0 && self.dead.contains(&seqnum)
    }

    /// A record of the list has lost its last tag. Returns whether there are too many of these now,
    /// and the list is to be rid of them.
    pub fn died(&mut self, book: u32, seqnum: SeqNum) -> bool {
        if !self.dead.insert(seqnum) {
            return false;
        }
        let book = self.at_mut(book);
        book.dead += 1;
        let many = book.dead > COMPACT_DEAD_MIN && book.dead as usize > book.list.len() / 2;
        many && !std::mem::replace(&mut book.is_due, true)
    }

    /// Takes records below the LogBook's trim point out of its list: all of them, or `budget` of them
    /// if they have to be looked at one by one. Returns which of them die by that, and how many were
    /// looked at; `None` when there are none.
    pub fn drop_front(&mut self, lists: &mut Lists, book: u32, budget: usize) -> Option<(Dying, usize)> {
        let listed = self.listed(lists, book);
        let budget = if self.at(book).dead > 0 { budget } else { usize::MAX };
        let count = listed.lower_bound(self.at(book).first).min(budget);
        let (first, last) = (listed.get(0)?, listed.get(count.checked_sub(1)?)?);
        let mut dying = Dying { first, last, records: count as u64 };
        if self.at(book).dead > 0 {
            let gone: Vec<SeqNum> = (0..count).filter_map(|at| listed.get(at)).collect();
            for seqnum in gone {
                if self.dead.remove(&seqnum) {
                    self.at_mut(book).dead -= 1;
                    dying.records -= 1;
                }
            }
        }
        let compacted = self.compacted.as_mut().filter(|compacted| compacted.book == book);
        let of_front = compacted.map_or(0, |compacted| {
            let of_front = count.min(compacted.front.len());
            lists.drop_front(&mut compacted.front, of_front);
            of_front
        });
        lists.drop_front(&mut self.row[book as usize].list, count - of_front);
        Some((dying, count))
    }

    /// Whether a LogBook's list is being rid of its dead.
    pub fn is_compacting(&self) -> bool {
        self.compacted.is_some()
    }

    /// Begins to rid a list of its dead.
    pub fn begin_compaction(&mut self, book: u32) {
        assert!(self.compacted.is_none(), "one list at a time");
        self.compacted = Some(Compacted { book, front: List::default() });
    }

    /// Goes on with it, for up to `budget` records. The last record stays, dead or not: it is the
    /// LogBook's tail. Returns how many were looked at.
    pub fn compact(&mut self, lists: &mut Lists, budget: usize) -> usize {
        let Some(Compacted { book, front }) = &mut self.compacted else { return 0 };
        let of = &mut self.row[*book as usize];
        let count = of.list.len().min(budget);
        for at in 0..count {
            let seqnum = lists.get(&of.list, at).expect("below its length");
            let is_last = at + 1 == of.list.len();
            if !is_last && self.dead.remove(&seqnum) {
                of.dead -= 1;
            } else {
                lists.push(front, seqnum);
            }
        }
        lists.drop_front(&mut of.list, count);
        if of.list.is_empty() {
            of.list = std::mem::take(front);
            of.is_due = false;
            self.compacted = None;
        }
        count
    }
}
