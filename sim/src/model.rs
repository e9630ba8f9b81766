//! The log as it must be: committed entries and the records that they order, applied by the plainest
//! code that follows the protocol's text. What every engine's index is held against in the end, and
//! what the history is checked with: it knows the records that were trimmed, and where the trims are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sealog_history::{FinalLog, Fingerprint, Found};
use sealog_protocol::batch::{ArchivedBatchMetadata, Batch};
use sealog_protocol::metalog::{Cut, EngineIncarnation, Entry};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{LogBookId, SeqNum, ShardId, Tag, ViewNumber};

use crate::violation::Failure;

/// Batches that some storage took, by shard and first position.
pub type Batches = BTreeMap<(ShardId, u64), Bytes>;

#[derive(Debug)]
struct Shard {
    engine: EngineIncarnation,
    ordinal: u64,
    prefix: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Session {
    /// When its last record came, counted in records.
    last: u64,
    lowest: u64,
    /// Requests that had a verdict, a failed one too.
    known: BTreeSet<u64>,
}

/// One logspace, entry by entry.
#[derive(Debug)]
pub struct Model<'a> {
    settings: ClusterSettings,
    batches: &'a Batches,
    view: ViewNumber,
    /// Entries and SeqNums of the view so far.
    index: u64,
    position: u64,
    shards: BTreeMap<u64, Shard>,
    sessions: BTreeMap<u64, Session>,
    session_records: u64,
    tails: BTreeMap<(LogBookId, Tag), SeqNum>,
    points: BTreeMap<(LogBookId, Tag), SeqNum>,
    /// What LogBooks keep by themselves: every age and number of bytes that was ever set.
    retentions: BTreeMap<LogBookId, Vec<(u64, u64)>>,
    /// Visible batches of each LogBook, and bytes of payload of each.
    kept: BTreeMap<LogBookId, Vec<(SeqNum, u64)>>,
    /// Where batches are in the log that are not of the system's own LogBook, void ones too.
    pub places: BTreeMap<(ShardId, u64), (LogBookId, SeqNum)>,
    log: &'a mut FinalLog,
}

impl<'a> Model<'a> {
    pub fn new(settings: ClusterSettings, batches: &'a Batches, log: &'a mut FinalLog) -> Model<'a> {
        Model {
            settings,
            batches,
            view: ViewNumber(0),
            index: 0,
            position: 0,
            shards: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_records: 0,
            tails: BTreeMap::new(),
            points: BTreeMap::new(),
            retentions: BTreeMap::new(),
            kept: BTreeMap::new(),
            places: BTreeMap::new(),
            log,
        }
    }

    /// The next view begins.
    pub fn enter(&mut self, view: ViewNumber) {
        self.view = view;
        self.index = 0;
        self.position = 0;
        self.shards.clear();
    }

    /// The next committed entry of the view.
    ///
    /// # Errors
    /// When it orders records that no storage has taken, or that are not as they were appended.
    pub fn apply(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        match *entry {
            Entry::OpenShard { engine, ordinal, .. } => {
                if !self.shards.values().any(|shard| shard.engine == engine && shard.ordinal == ordinal) {
                    self.shards.insert(self.index, Shard { engine, ordinal, prefix: 0, closed: false });
                }
            }
            Entry::CloseShard { shard_index } => {
                if let Some(shard) = self.shards.get_mut(&shard_index) {
                    shard.closed = true;
                }
            }
            Entry::Cut(cut) => self.cut(cut)?,
            Entry::Trim { logbook, tag, first } => self.trim(logbook, tag, first),
            Entry::MoveShard { .. } | Entry::Checkpoint { .. } => {}
        }
        self.index += 1;
        Ok(())
    }

    fn next(&self) -> SeqNum {
        SeqNum::new(self.view, self.position)
    }

    fn trim(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum) {
        let next = self.next();
        let point = self.points.entry((logbook, tag)).or_default();
        *point = first.min(next).max(*point);
        self.log.push_trim(logbook, tag, first, next);
        if tag == Tag::ALL && self.may_let_go(logbook, first) {
            self.log.allow_trim(logbook, first);
        }
    }

    /// Whether a LogBook may have been trimmed so far by its retention: the newest record stays, and of a
    /// number of bytes about as many. Who is old is a matter of clocks.
    fn may_let_go(&self, logbook: LogBookId, first: SeqNum) -> bool {
        let Some(set) = self.retentions.get(&logbook) else { return false };
        let newest_stays = first <= self.tails.get(&(logbook, Tag::ALL)).copied().unwrap_or_default();
        let kept = self.kept.get(&logbook).map_or(&[][..], Vec::as_slice);
        let left: u64 = kept.iter().filter(|(seqnum, _)| *seqnum >= first).map(|(_, bytes)| bytes).sum();
        // What is let go is let go by stretches, none of which is more than a sixteenth of the bound where
        // that much does not follow it; and so much of the first one may have been trimmed before.
        let is_enough = |bytes: u64| bytes > 0 && left + bytes / 8 >= bytes;
        newest_stays && set.iter().any(|(age_ms, bytes)| *age_ms > 0 || is_enough(*bytes))
    }

    /// A record that says what a LogBook keeps by itself: its tags are the LogBook, an age and a number
    /// of bytes with two bits each that mark them.
    fn set_retention(&mut self, mut tags: impl Iterator<Item = Tag>) {
        const MARKS: u64 = 0b11 << 62;
        if let (Some(logbook), Some(age), Some(bytes)) = (tags.next(), tags.next(), tags.next()) {
            let set = (age.0 & !MARKS, bytes.0 & !MARKS);
            self.retentions.entry(LogBookId(logbook.0)).or_default().push(set);
        }
    }

    fn cut(&mut self, cut: Cut<'_>) -> Result<(), Failure> {
        for moved in cut.moves() {
            let Some(shard) = self.shards.get_mut(&moved.shard_index) else { continue };
            if shard.closed || moved.prefix <= shard.prefix {
                continue;
            }
            let mut position = std::mem::replace(&mut shard.prefix, moved.prefix);
            let shard = ShardId { view: self.view, index: moved.shard_index };
            while position < moved.prefix {
                let unknown = || Failure::RecordUnknown { shard, position };
                let bytes = self.batches.get(&(shard, position)).ok_or_else(unknown)?;
                let batch = Batch::parse(bytes).map_err(|_| unknown())?;
                if batch.metadata.logbook() != LogBookId::SYSTEM {
                    self.places.insert((shard, position), (batch.metadata.logbook(), self.next()));
                }
                self.batch(&batch)?;
                let records = batch.metadata.records.len() as u64;
                self.position += records;
                position += records;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<'_>) -> Result<(), Failure> {
        let (seqnum, metadata) = (self.next(), batch.metadata);
        if metadata.logbook() == LogBookId::SYSTEM {
            let first_tag = metadata.records.iter().flat_map(|record| record.tags()).next();
            if first_tag == Some(Tag::SYSTEM_SESSION) {
                self.open_session(seqnum.0);
            }
            if first_tag == Some(Tag::SYSTEM_RETENTION) {
                self.set_retention(metadata.records.iter().flat_map(|record| record.tags()).skip(1));
            }
            return Ok(());
        }
        if !self.is_new(metadata) {
            return Ok(());
        }
        let fails = metadata.condition().is_some_and(|(tag, expected)| self.tail(metadata.logbook(), tag) > expected);
        if !fails { self.insert(seqnum, batch) } else { Ok(()) }
    }

    fn open_session(&mut self, id: u64) {
        if self.sessions.len() >= self.settings.sessions_max as usize
            && let Some(oldest) = self.sessions.iter().min_by_key(|(_, session)| session.last).map(|(id, _)| *id)
        {
            self.sessions.remove(&oldest);
        }
        self.session_records += 1;
        self.sessions.insert(id, Session { last: self.session_records, lowest: 1, ..Session::default() });
    }

    /// Whether a batch has a session that knows its request as new; from now on it knows it.
    fn is_new(&mut self, metadata: &ArchivedBatchMetadata) -> bool {
        let Some(session) = self.sessions.get_mut(&metadata.session().0) else { return false };
        self.session_records += 1;
        session.last = self.session_records;
        let request = metadata.request().0;
        session.lowest = session.lowest.max(metadata.lowest_unanswered().0.min(request));
        let in_window = (session.lowest..session.lowest + u64::from(self.settings.session_window)).contains(&request);
        in_window && session.known.insert(request)
    }

    fn tail(&self, logbook: LogBookId, tag: Tag) -> SeqNum {
        let of = |map: &BTreeMap<(LogBookId, Tag), SeqNum>, tag| map.get(&(logbook, tag)).copied().unwrap_or_default();
        let point = of(&self.points, tag).max(of(&self.points, Tag::ALL));
        of(&self.tails, tag).max(point.prev())
    }

    fn insert(&mut self, first: SeqNum, batch: &Batch<'_>) -> Result<(), Failure> {
        let logbook = batch.metadata.logbook();
        let mut payloads = batch.frame.payload;
        self.kept.entry(logbook).or_default().push((first, payloads.len() as u64));
        for (record, seqnum) in batch.metadata.records.iter().zip(first.0..).map(|(at, seqnum)| (at, SeqNum(seqnum))) {
            let (payload, rest) = payloads.split_at(record.payload_bytes.to_native() as usize);
            payloads = rest;
            let tags: Vec<Tag> = record.tags().collect();
            let found = Found { seqnum, fingerprint: Fingerprint::new(logbook, &tags, payload) };
            self.log.push(logbook, found, &tags).map_err(Failure::history)?;
            for tag in tags.into_iter().chain([Tag::ALL]) {
                self.tails.insert((logbook, tag), seqnum);
            }
        }
        Ok(())
    }
}
