//! The index of a logspace: applies ordered batches and trims, gives each batch its verdict, and knows
//! under which tags what is visible. The same on every engine, for it is a function of the log.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sealog_protocol::batch::ArchivedBatchMetadata;
use sealog_protocol::client::Description;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{Durability, LogBookId, RequestNumber, SeqNum, SessionId, Tag};

use crate::lists::Lists;
use crate::sessions::{Known, Sessions, Verdict};

mod books;
pub mod checkpoint;
mod retention;
mod tags;
mod trim;

use books::{Books, Listed};
pub use retention::{Retained, Retention, Stretch};
use tags::{Key, Tags};
pub use trim::Dying;
use trim::Sweep;

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
    /// The name is a LogBook's of the other class, for ever.
    InOtherClass,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    lists: Lists,
    books: Books,
    tags: Tags,
    /// Of records with several living tags, how many those are.
    living_tags: HashMap<SeqNum, u8, FixedState>,
    sweep: Sweep,
    /// A checkpoint is being written.
    frozen: Option<checkpoint::Frozen>,
    sessions: Sessions,
    /// What LogBooks keep by themselves.
    retained: BTreeMap<LogBookId, Retained>,
    /// LogBooks of which a stretch has ended since somebody looked.
    retained_due: Vec<LogBookId>,
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
            books: Books::new(hash_seed),
            tags: Tags::new(hash_seed),
            living_tags: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            sweep: Sweep::default(),
            frozen: None,
            sessions: Sessions::new(settings, hash_seed),
            retained: BTreeMap::new(),
            retained_due: Vec::new(),
            lost: Vec::new(),
            records: 0,
            voids: 0,
        }
    }

    /// Records that became visible, those that were trimmed since too.
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

    /// LogBooks that have had a record or a trim.
    pub fn logbooks(&self) -> usize {
        self.books.len()
    }

    /// Tags that a record has, of each LogBook its own, and those with a trim point.
    pub fn tags(&self) -> usize {
        self.tags.len()
    }

    pub fn lost_ranges(&self) -> usize {
        self.lost.len()
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        let living = self.living_tags.capacity() * 17 * 8 / 7;
        self.lists.bytes() + self.books.bytes() + self.tags.bytes() + living + self.sessions.bytes()
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
                if let Some(retained) = self.retained.get_mut(&logbook)
                    && retained.push(seqnum, batch.time_ms(), batch.payload_bytes())
                {
                    self.retained_due.push(logbook);
                }
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

    /// The last visible record, or what is before the trim point if that is greater: what conditions
    /// are held against.
    pub fn tail(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        let last = self.listed(logbook, tag).and_then(|listed| listed.last());
        let before = if active(Mutant::TailForgetsTrim) { SeqNum::MIN } else { self.first(logbook, tag).prev() };
        Some(last.unwrap_or(SeqNum::MIN).max(before)).filter(|tail| *tail > SeqNum::MIN)
    }

    /// The records of a LogBook or of one of its tags. Some may be below the trim point, or dead.
    fn listed(&self, logbook: LogBookId, tag: Tag) -> Option<Listed<'_>> {
        let book = self.books.find(logbook)?;
        if tag == Tag::ALL {
            return Some(self.books.listed(&self.lists, book));
        }
        let entry = self.tags.find(Key::new(book, tag))?;
        Some(Listed::whole(&self.lists, &entry.list))
    }

    /// Whether a record found under this tag is dead by its own tags: a read by tag 0 skips it.
    fn is_skipped(&self, logbook: LogBookId, tag: Tag, seqnum: SeqNum) -> bool {
        tag == Tag::ALL && self.books.find(logbook).is_some_and(|book| self.books.is_dead(book, seqnum))
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
        let Some(listed) = self.listed(logbook, tag) else { return true };
        let from = from.max(self.first(logbook, tag));
        for at in listed.lower_bound(from)..listed.len() {
            let seqnum = listed.get(at).expect("below its length");
            if seqnum > until {
                return true;
            }
            if self.is_skipped(logbook, tag, seqnum) {
                continue;
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
        let Some(listed) = self.listed(logbook, tag) else { return true };
        let until = until.max(self.first(logbook, tag));
        let end = if from == SeqNum::MAX { listed.len() } else { listed.lower_bound(from.next()) };
        for at in (0..end).rev() {
            let seqnum = listed.get(at).expect("below its length");
            if seqnum < until {
                return true;
            }
            if self.is_skipped(logbook, tag, seqnum) {
                continue;
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
        match self.name_of(logbook) {
            Tag::ALL if self.is_in_other_class(logbook, name) => Named::InOtherClass,
            Tag::ALL => Named::Unknown,
            known if known == name => Named::ByThisName,
            _ => Named::ByAnother,
        }
    }

    /// The class that a name is used in, if it is: by its id in any class, and its second hash.
    pub fn class_of(&self, logbook: LogBookId, name: Tag) -> Option<Durability> {
        Durability::ALL.into_iter().find(|class| self.name_of(logbook.in_class(*class)) == name)
    }

    /// Whether this engine's first `Name` record of a name was the one with this SeqNum.
    pub fn named_by(&self, seqnum: SeqNum) -> bool {
        let mut found = Vec::new();
        self.forward((LogBookId::SYSTEM, Tag::SYSTEM_NAME), (seqnum, seqnum), 1, &mut found);
        !found.is_empty()
    }

    fn name_of(&self, logbook: LogBookId) -> Tag {
        self.books.find(logbook).map_or(Tag::ALL, |book| self.books.at(book).name)
    }

    fn is_in_other_class(&self, logbook: LogBookId, name: Tag) -> bool {
        self.name_of(logbook.in_other_class()) == name && !active(Mutant::NameInBothClasses)
    }

    fn set_retention(&mut self, logbook: LogBookId, retention: Retention, time_ms: u64) {
        if retention == Retention::default() {
            self.retained.remove(&logbook);
            return;
        }
        let retained = self.retained.entry(logbook).or_insert_with(|| Retained::begin(retention, time_ms));
        retained.retention = retention;
        self.retained_due.push(logbook);
    }

    /// The newest visible record of a LogBook that is kept.
    pub fn last_record(&self, logbook: LogBookId) -> Option<SeqNum> {
        let last = self.listed(logbook, Tag::ALL)?.last()?;
        Some(last).filter(|last| *last >= self.first(logbook, Tag::ALL))
    }

    /// LogBooks that let records go by themselves.
    pub fn retained(&self) -> &BTreeMap<LogBookId, Retained> {
        &self.retained
    }

    /// LogBooks to be looked at now, for they have grown.
    pub fn take_retained_due(&mut self) -> Vec<LogBookId> {
        std::mem::take(&mut self.retained_due)
    }

    pub fn retention(&self, logbook: LogBookId) -> Retention {
        self.retained.get(&logbook).map_or(Retention::default(), |retained| retained.retention)
    }

    /// What is known of a LogBook as a whole.
    pub fn describe(&self, logbook: LogBookId) -> Description {
        let retention = self.retention(logbook);
        Description {
            first: self.first(logbook, Tag::ALL).0,
            tail: self.tail(logbook, Tag::ALL).map_or(0, |tail| tail.0),
            records: self.kept(logbook),
            retain_ms: retention.age_ms,
            retain_bytes: retention.bytes,
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
        let book = self.books.entry(logbook);
        for (record, seqnum) in batch.records.iter().zip(first.0..).map(|(record, seqnum)| (record, SeqNum(seqnum))) {
            self.lists.push(&mut self.books.at_mut(book).list, seqnum);
            visible(logbook, Tag::ALL);
            let mut living = 0u8;
            for tag in record.tags() {
                let entry = self.tags.entry(Key::new(book, tag));
                // A tag that was given twice counts once.
                if self.lists.last(&entry.list) != Some(seqnum) {
                    self.lists.push(&mut entry.list, seqnum);
                    living += 1;
                    visible(logbook, tag);
                }
            }
            if living > 1 {
                self.living_tags.insert(seqnum, living);
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
            (Some(Tag::SYSTEM_SESSION), ..) => {
                // Nobody reads these: they are not listed.
                self.sessions.open(SessionId(seqnum.0));
                return Applied::Verdict(Verdict::Visible { seqnum });
            }
            (Some(Tag::SYSTEM_RETENTION), Some(second), Some(third)) => {
                if let Some((logbook, retention)) = Retention::of_tags([Some(second), Some(third), tags.next()]) {
                    self.set_retention(logbook, retention, batch.time_ms());
                }
                return Applied::Verdict(Verdict::Visible { seqnum });
            }
            (Some(Tag::SYSTEM_NAME), Some(logbook), Some(name)) => {
                // The first in log order wins; a repeat, another name, or another class is not listed.
                let known = self.named(LogBookId(logbook.0), name);
                if known != Named::Unknown {
                    match known {
                        Named::ByAnother => mark(Mark::NameCollision),
                        Named::InOtherClass => mark(Mark::NameOfOtherClass),
                        Named::ByThisName | Named::Unknown => {}
                    }
                    self.voids += 1;
                    return Applied::Verdict(Verdict::Visible { seqnum });
                }
                let book = self.books.entry(LogBookId(logbook.0));
                self.books.at_mut(book).name = name;
                self.name_comes(book);
            }
            _ => {}
        }
        self.insert(seqnum, batch, &mut visible);
        Applied::Verdict(Verdict::Visible { seqnum })
    }
}
