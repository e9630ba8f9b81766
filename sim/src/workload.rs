//! What clients ask for: operations drawn at random, records that are all different.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use sealog::session::{Append, Condition, Direction, Manage, Operation, Read, Retention, SetAux, Subscribe, Target};
use sealog_history::Fingerprint;
use sealog_protocol::batch::NewRecord;
use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::swarm::Load;

/// No record has it; it is trimmed all the same.
pub const TAG_WITHOUT_RECORDS: Tag = Tag(99);

/// A LogBook of the workload: with a name, which is then listed, or with an id alone.
#[derive(Clone, Debug)]
pub struct Book {
    pub id: LogBookId,
    pub name: Option<String>,
}

/// Two names of one LogBook id, found by a search of 2^32 hashes: only one of them can be given.
const COLLIDING_NAMES: [&str; 2] = ["5a3d4d37a0d2e9bc", "05f44302e98decf6"];

fn book_of(name: &str) -> Book {
    Book { id: LogBookId::from_name(name), name: Some(name.to_owned()) }
}

/// The LogBooks that a seed uses.
pub fn books(load: &Load, has_memory: bool, rng: &mut Rng) -> Vec<Book> {
    if rng.u8(0..8) == 0 {
        return COLLIDING_NAMES.iter().map(|name| book_of(name)).collect();
    }
    (0..load.logbooks)
        .map(|nth| {
            if has_memory && nth % 2 == 0 {
                // Some of these names are wanted in class disk, too.
                let name = rng.bool().then(|| format!("book-{}", nth + 1));
                let id = name.as_deref().map_or(LogBookId(rng.u64(1..u64::MAX / 2)), LogBookId::from_name);
                Book { id: id.in_memory(), name }
            } else if rng.bool() {
                book_of(&format!("book-{nth}"))
            } else {
                Book { id: LogBookId(rng.u64(1..u64::MAX / 2)), name: None }
            }
        })
        .collect()
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct Payload {
    pub tags: Vec<Tag>,
    pub bytes: Vec<u8>,
}

/// An operation that was drawn.
#[derive(Clone, Debug)]
pub enum Intent {
    Append { book: Book, records: Vec<Payload>, condition: Option<Condition> },
    Read(Read),
    CheckTail { logbook: LogBookId, tag: Tag, linearizable: bool },
    Trim { logbook: LogBookId, tag: Tag, first: SeqNum },
    SetAux { logbook: LogBookId, seqnum: SeqNum, data: Vec<u8> },
    SetRetention { logbook: LogBookId, retention: Retention },
}

impl Intent {
    /// Gives the operation, in the client crate's words, to `submit`.
    pub fn with_operation<T>(&self, time_ms: u64, submit: impl FnOnce(Operation<'_>) -> T) -> T {
        match self {
            Intent::Append { book, records, condition } => {
                let records: Vec<NewRecord<'_>> =
                    records.iter().map(|record| NewRecord { tags: &record.tags, payload: &record.bytes }).collect();
                let logbook =
                    book.name.as_deref().map_or(Target::Id(book.id), |name| Target::Named { id: book.id, name });
                submit(Operation::Append(Append { logbook, condition: *condition, time_ms, records: &records }))
            }
            Intent::Read(read) => submit(Operation::Read(*read)),
            Intent::CheckTail { logbook, tag, linearizable } => {
                submit(Operation::CheckTail { logbook: *logbook, tag: *tag, linearizable: *linearizable })
            }
            Intent::Trim { logbook, tag, first } => {
                submit(Operation::Manage(Manage::Trim { logbook: *logbook, tag: *tag, first: *first }))
            }
            Intent::SetRetention { logbook, retention } => {
                submit(Operation::Manage(Manage::SetRetention { logbook: *logbook, retention: *retention }))
            }
            Intent::SetAux { logbook, seqnum, data } => {
                submit(Operation::SetAux(SetAux { logbook: *logbook, seqnum: *seqnum, data }))
            }
        }
    }

    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        match self {
            Intent::Append { book, records, .. } => {
                records.iter().map(|record| Fingerprint::new(book.id, &record.tags, &record.bytes)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// What a client has met, to ask about it again.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    tails: BTreeMap<(LogBookId, Tag), SeqNum>,
    /// Trim points.
    firsts: BTreeMap<(LogBookId, Tag), SeqNum>,
}

impl Knowledge {
    pub fn saw(&mut self, logbook: LogBookId, tag: Tag, seqnum: SeqNum) {
        self.tails.insert((logbook, tag), seqnum);
    }

    pub fn saw_trim(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum) {
        self.firsts.insert((logbook, tag), first);
    }

    fn first(&self, logbook: LogBookId, tag: Tag) -> SeqNum {
        self.firsts.get(&(logbook, tag)).copied().unwrap_or_default()
    }

    fn tail(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        self.tails.get(&(logbook, tag)).copied()
    }
}

/// Draws operations for one client.
#[derive(Debug)]
pub struct Workload {
    load: Load,
    /// Which client it is: part of each payload, so that no two are alike.
    client: u32,
    records: u64,
    pub knowledge: Knowledge,
}

impl Workload {
    pub fn new(mut load: Load, client: u32, rng: &mut Rng) -> Workload {
        // Some clients only read: nothing that they wait for holds them up. The first one appends.
        if client > 0 && rng.u8(0..3) == 0 {
            load.reads = 100;
        }
        Workload { load, client, records: 0, knowledge: Knowledge::default() }
    }

    pub fn draw(&mut self, books: &[Book], rng: &mut Rng) -> Intent {
        let book = &books[rng.usize(0..books.len())];
        let tag = self.tag_or_all(rng);
        if rng.u8(0..100) < self.load.trims {
            return self.trim(book.id, tag, rng);
        }
        if rng.u8(0..100) < self.load.retention {
            return Intent::SetRetention { logbook: book.id, retention: retention(rng) };
        }
        if rng.u8(0..100) < self.load.aux {
            return self.set_aux(book.id, tag, rng);
        }
        if rng.u8(0..100) >= self.load.reads {
            let records = (0..rng.usize(1..=self.load.batch_records_max)).map(|_| self.record(rng)).collect();
            let condition = (rng.u8(0..100) < self.load.conditions).then(|| self.condition(book.id, tag, rng));
            return Intent::Append { book: book.clone(), records, condition };
        }
        let linearizable = rng.u8(0..100) < if self.load.reads == 100 { 50 } else { 25 };
        if rng.u8(0..4) == 0 {
            return Intent::CheckTail { logbook: book.id, tag, linearizable };
        }
        Intent::Read(self.read(book.id, tag, linearizable, rng))
    }

    /// A subscription, if one more is wanted: from the beginning, from about what is known, or from the
    /// tail on.
    pub fn subscription(&self, books: &[Book], rng: &mut Rng) -> Subscribe {
        let (logbook, tag) = (books[rng.usize(0..books.len())].id, self.tag_or_all(rng));
        let known = self.knowledge.tail(logbook, tag).unwrap_or(SeqNum::MIN);
        let from = match rng.u8(0..3) {
            0 => SeqNum::MIN,
            1 => SeqNum((known.0 + rng.u64(0..20)).saturating_sub(15)),
            _ => known.next(),
        };
        Subscribe { logbook, tag, from, patience: Duration::from_secs(3600) }
    }

    fn tag_or_all(&self, rng: &mut Rng) -> Tag {
        if rng.u8(0..3) == 0 { Tag::ALL } else { self.tag(rng) }
    }

    fn tag(&self, rng: &mut Rng) -> Tag {
        Tag(100 + rng.u64(0..self.load.tags))
    }

    fn record(&mut self, rng: &mut Rng) -> Payload {
        self.records += 1;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.client.to_le_bytes());
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.resize(12 + rng.usize(0..self.load.payload_bytes_max), rng.u8(..));
        let tags = (0..rng.usize(0..3)).map(|_| self.tag(rng)).collect();
        Payload { tags, bytes }
    }

    /// Most trims leave some records: an empty log shows little.
    fn trim(&self, logbook: LogBookId, tag: Tag, rng: &mut Rng) -> Intent {
        let tag = if rng.u8(0..12) == 0 { TAG_WITHOUT_RECORDS } else { tag };
        let known = self.knowledge.tail(logbook, tag).or_else(|| self.knowledge.tail(logbook, Tag::ALL));
        let known = known.unwrap_or(SeqNum::MIN).0;
        let first = match rng.u8(0..10) {
            0 => SeqNum::MAX,
            1 => SeqNum(known + 1),
            // Beyond the tail, unless others have appended meanwhile.
            2 => SeqNum(known + rng.u64(2..30)),
            // Backward, as likely as not.
            3 => SeqNum(self.knowledge.first(logbook, tag).0.saturating_sub(rng.u64(0..10))),
            _ => SeqNum(known.saturating_sub(rng.u64(0..25))),
        };
        Intent::Trim { logbook, tag, first }
    }

    /// Of a record that was met, of one beside it, of none.
    fn set_aux(&self, logbook: LogBookId, tag: Tag, rng: &mut Rng) -> Intent {
        let known = self.knowledge.tail(logbook, tag).unwrap_or(SeqNum::MIN);
        let seqnum = SeqNum((known.0 + 1).saturating_sub(rng.u64(0..6)));
        let mut data = aux_key(logbook, seqnum);
        data.resize(data.len() + rng.usize(0..200), rng.u8(..));
        Intent::SetAux { logbook, seqnum, data }
    }

    fn condition(&self, logbook: LogBookId, tag: Tag, rng: &mut Rng) -> Condition {
        let expected = match rng.u8(0..8) {
            0 => None,
            1 => Some(SeqNum::MAX),
            _ => self.knowledge.tail(logbook, tag),
        };
        Condition { tag, expected }
    }

    fn read(&self, logbook: LogBookId, tag: Tag, linearizable: bool, rng: &mut Rng) -> Read {
        let known = self.knowledge.tail(logbook, tag).unwrap_or(SeqNum::MIN);
        let around = SeqNum((known.0 + rng.u64(0..20)).saturating_sub(10));
        let records_max = [1, 1, 3, 40][rng.usize(0..4)];
        let backward = rng.bool();
        let far = rng.u8(0..3) == 0;
        let (first, last) = match (backward, far) {
            // From the beginning; where that was trimmed, now and then from before it.
            (false, true) if rng.u8(0..4) == 0 => (SeqNum::MIN, SeqNum::MAX),
            (false, true) => (self.knowledge.first(logbook, tag), SeqNum::MAX),
            (false, false) => (around, if rng.u8(0..4) == 0 { SeqNum(around.0 + 6) } else { SeqNum::MAX }),
            (true, true) => (SeqNum::MIN, SeqNum::MAX),
            (true, false) => (if rng.u8(0..4) == 0 { SeqNum(around.0.saturating_sub(6)) } else { SeqNum::MIN }, around),
        };
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let wait = match rng.u8(0..6) {
            0 if !backward => Duration::from_millis(rng.u64(1..40)),
            _ => Duration::ZERO,
        };
        let aux = self.load.aux > 0 && rng.bool();
        Read { logbook, tag, first, last, direction, records_max, wait, linearizable, aux }
    }
}

/// Small bounds: much is let go.
fn retention(rng: &mut Rng) -> Retention {
    let bytes = [None, Some(200), Some(2_000), Some(20_000)][rng.usize(0..4)];
    let age = [None, None, Some(Duration::from_millis(50)), Some(Duration::from_secs(2))][rng.usize(0..4)];
    Retention { age, bytes }
}

/// What all aux data of a record begins with: nobody sets another.
pub fn aux_key(logbook: LogBookId, seqnum: SeqNum) -> Vec<u8> {
    [logbook.0.to_le_bytes(), seqnum.0.to_le_bytes()].concat()
}

/// The read of everything with a tag from a trim point on, for a scan.
pub fn scan(logbook: LogBookId, tag: Tag, first: SeqNum, direction: Direction) -> Read {
    let last = SeqNum::MAX;
    Read {
        logbook,
        tag,
        first,
        last,
        direction,
        records_max: usize::MAX,
        wait: Duration::ZERO,
        linearizable: true,
        aux: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colliding_names_collide() {
        let [one, other] = COLLIDING_NAMES.map(LogBookId::from_name);
        assert_eq!(one, other);
    }
}
