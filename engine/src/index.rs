//! The index of a logspace: applies ordered batches, gives each its verdict, and knows under which
//! tags what is visible. The same on every engine, for it is a function of the log.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use sealog_protocol::batch::ArchivedBatchMetadata;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{LogBookId, RequestNumber, SeqNum, SessionId, Tag};

use crate::lists::{List, Lists};
use crate::sessions::{Known, Sessions, Verdict};

/// What became of a batch as it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Its own verdict, or the one that its first copy got.
    Verdict(Verdict),
    /// Void: its session is unknown, or it is outside its window.
    SessionExpired,
}

/// What is known of the name of a LogBook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Unknown,
    ByThisName,
    ByAnother,
}

/// A tag of a LogBook: twelve bytes, for there are millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    tag: [u32; 2],
    /// Its LogBook's place in [`Index::books`].
    book: u32,
}

impl Key {
    fn new(book: u32, tag: Tag) -> Key {
        Key { tag: [tag.0 as u32, (tag.0 >> 32) as u32], book }
    }
}

/// The index.
#[derive(Debug)]
pub struct Index {
    lists: Lists,
    by_id: HashMap<LogBookId, u32, FixedState>,
    /// Of each LogBook that has a record, all its records.
    books: Vec<List>,
    by_tag: HashMap<Key, List, FixedState>,
    sessions: Sessions,
    /// Of each named LogBook the second hash of its name, as its first `Name` record has it.
    names: HashMap<LogBookId, Tag, FixedState>,
    /// Ranges of SeqNums whose Tags no disk has: what was there nobody can say.
    lost: Vec<(SeqNum, SeqNum)>,
    records: u64,
    voids: u64,
}

impl Index {
    /// `hash_seed` is drawn by the driver, so that no client can choose keys that collide.
    pub fn new(settings: &ClusterSettings, hash_seed: u64) -> Index {
        Index {
            lists: Lists::default(),
            by_id: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            books: Vec::new(),
            by_tag: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            sessions: Sessions::new(settings, hash_seed),
            names: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            lost: Vec::new(),
            records: 0,
            voids: 0,
        }
    }

    /// Visible records.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Batches that were void.
    pub fn voids(&self) -> u64 {
        self.voids
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// LogBooks that have a record.
    pub fn logbooks(&self) -> usize {
        self.books.len()
    }

    /// Tags that a record has, of each LogBook its own.
    pub fn tags(&self) -> usize {
        self.by_tag.len()
    }

    pub fn lost_ranges(&self) -> usize {
        self.lost.len()
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        // Of each table a control byte and the entry, and an eighth of it stays free.
        let by_tag = self.by_tag.capacity() * (size_of::<(Key, List)>() + 1) * 8 / 7;
        let books = self.books.capacity() * size_of::<List>() + self.by_id.capacity() * 17 * 8 / 7;
        self.lists.bytes() + by_tag + books + self.sessions.bytes() + self.names.capacity() * 17 * 8 / 7
    }

    /// Applies the next batch in log order, whose first record has this SeqNum. `visible` is told
    /// of each (LogBook, tag) that it adds a record to.
    pub fn apply(
        &mut self,
        seqnum: SeqNum,
        batch: &ArchivedBatchMetadata,
        mut visible: impl FnMut(LogBookId, Tag),
    ) -> Applied {
        let logbook = batch.logbook();
        if logbook == LogBookId::SYSTEM {
            return self.apply_system(seqnum, batch, visible);
        }
        let (session, request) = (batch.session(), batch.request());
        if active(Mutant::ConditionBeforeDuplicate)
            && let Some(verdict) = self.failed_condition(logbook, batch)
        {
            self.voids += 1;
            return Applied::Verdict(verdict);
        }
        match self.sessions.touch(session, request, batch.lowest_unanswered()) {
            Known::Expired => {
                mark(Mark::VoidByExpiredSession);
                self.voids += 1;
                return Applied::SessionExpired;
            }
            Known::Repeat(verdict) => {
                let failed = matches!(verdict, Verdict::ConditionFailed { .. });
                mark(if failed { Mark::ConditionFailedRepeated } else { Mark::VoidByDuplicate });
                self.voids += 1;
                return Applied::Verdict(verdict);
            }
            Known::New => {}
        }
        let verdict = match self.failed_condition(logbook, batch) {
            Some(verdict) => {
                mark(Mark::VoidByCondition);
                self.voids += 1;
                verdict
            }
            None => {
                self.insert(seqnum, batch, &mut visible);
                Verdict::Visible { seqnum }
            }
        };
        self.sessions.keep(session, request, verdict);
        Applied::Verdict(verdict)
    }

    /// Takes note that the Tags of these records, the last excluded, are nowhere.
    pub fn lose(&mut self, from: SeqNum, to: SeqNum) {
        self.lost.push((from, to));
    }

    /// Whether something was lost between these SeqNums, both included.
    pub fn lost_between(&self, from: SeqNum, to: SeqNum) -> bool {
        self.lost.iter().any(|(first, end)| *first <= to && from < *end)
    }

    /// Ends what a view change must not end: a mutant's mistake.
    pub fn forget_verdicts(&mut self) {
        self.sessions.forget_verdicts();
    }

    /// The last visible record.
    pub fn tail(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        self.lists.last(self.list(logbook, tag)?)
    }

    fn list(&self, logbook: LogBookId, tag: Tag) -> Option<&List> {
        let book = *self.by_id.get(&logbook)?;
        if tag == Tag::ALL { self.books.get(book as usize) } else { self.by_tag.get(&Key::new(book, tag)) }
    }

    /// Whether there is such a record, for a reader to see.
    pub fn is_visible(&self, logbook: LogBookId, seqnum: SeqNum) -> bool {
        let Some(list) = self.list(logbook, Tag::ALL) else { return false };
        self.lists.get(list, self.lists.lower_bound(list, seqnum)) == Some(seqnum)
    }

    /// Appends to `found` up to `records_max` visible records with SeqNums from `from` on, at most
    /// `until`; returns whether these were all.
    pub fn forward(
        &self,
        (logbook, tag): (LogBookId, Tag),
        (from, until): (SeqNum, SeqNum),
        records_max: usize,
        found: &mut Vec<SeqNum>,
    ) -> bool {
        let Some(list) = self.list(logbook, tag) else { return true };
        let start = self.lists.lower_bound(list, from);
        for at in start..list.len() {
            let seqnum = self.lists.get(list, at).expect("below its length");
            if seqnum > until {
                return true;
            }
            if found.len() == records_max {
                return false;
            }
            found.push(seqnum);
        }
        true
    }

    /// As [`Index::forward`], from `from` down to `until`.
    pub fn backward(
        &self,
        (logbook, tag): (LogBookId, Tag),
        (from, until): (SeqNum, SeqNum),
        records_max: usize,
        found: &mut Vec<SeqNum>,
    ) -> bool {
        let Some(list) = self.list(logbook, tag) else { return true };
        let end = if from == SeqNum::MAX { list.len() } else { self.lists.lower_bound(list, from.next()) };
        for at in (0..end).rev() {
            let seqnum = self.lists.get(list, at).expect("below its length");
            if seqnum < until {
                return true;
            }
            if found.len() == records_max {
                return false;
            }
            found.push(seqnum);
        }
        true
    }

    /// Whether the LogBook has this name, by its second hash.
    pub fn named(&self, logbook: LogBookId, name: Tag) -> Named {
        match self.names.get(&logbook) {
            None => Named::Unknown,
            Some(known) if *known == name => Named::ByThisName,
            Some(_) => Named::ByAnother,
        }
    }

    /// What is known of a request without the log.
    pub fn peek(&self, session: SessionId, request: RequestNumber) -> Known {
        self.sessions.peek(session, request)
    }

    fn failed_condition(&self, logbook: LogBookId, batch: &ArchivedBatchMetadata) -> Option<Verdict> {
        let (tag, expected) = batch.condition()?;
        let tail = self.tail(logbook, tag).unwrap_or(SeqNum::MIN);
        (tail > expected).then_some(Verdict::ConditionFailed { tail })
    }

    fn insert(&mut self, first: SeqNum, batch: &ArchivedBatchMetadata, visible: &mut impl FnMut(LogBookId, Tag)) {
        let logbook = batch.logbook();
        let book = *self.by_id.entry(logbook).or_insert_with(|| {
            self.books.push(List::default());
            (self.books.len() - 1) as u32
        });
        for (record, seqnum) in batch.records.iter().zip(first.0..) {
            self.lists.push(&mut self.books[book as usize], SeqNum(seqnum));
            visible(logbook, Tag::ALL);
            for tag in record.tags() {
                self.lists.push(self.by_tag.entry(Key::new(book, tag)).or_default(), SeqNum(seqnum));
                visible(logbook, tag);
            }
            self.records += 1;
        }
    }

    /// Records that engines write for themselves: without a session, never void but as repeats.
    fn apply_system(
        &mut self,
        seqnum: SeqNum,
        batch: &ArchivedBatchMetadata,
        mut visible: impl FnMut(LogBookId, Tag),
    ) -> Applied {
        let mut tags = batch.records.iter().flat_map(|record| record.tags());
        match (tags.next(), tags.next(), tags.next()) {
            (Some(Tag::SYSTEM_SESSION), ..) => self.sessions.open(SessionId(seqnum.0)),
            (Some(Tag::SYSTEM_NAME), Some(logbook), Some(name)) => match self.names.entry(LogBookId(logbook.0)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(name);
                }
                Entry::Occupied(known) => {
                    // The first in log order wins; a repeat or another name is not listed.
                    if *known.get() != name {
                        mark(Mark::NameCollision);
                    }
                    self.voids += 1;
                    return Applied::Verdict(Verdict::Visible { seqnum });
                }
            },
            _ => {}
        }
        self.insert(seqnum, batch, &mut visible);
        Applied::Verdict(Verdict::Visible { seqnum })
    }
}
