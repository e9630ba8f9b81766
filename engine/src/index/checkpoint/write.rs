//! Writing a checkpoint: a part at a time, each a bounded amount of work.

use std::collections::{BTreeSet, VecDeque};

use bytes::{BufMut, Bytes};
use sealog_protocol::logspace::{Checkpoint, Logspace};
use sealog_protocol::metalog::{write_nodes, write_varint};
use sealog_protocol::{Place, SeqNum, ShardId, Tag};

use super::{
    BOOK, DEAD, END, HEAD, Index, LIVING, LOST, PART_HEAD_BYTES, RETENTION, RUN, SESSION, SHARD, TAG, finish_part,
    new_part,
};
use crate::index::{Listed, Retention};
use crate::order::Order;
use crate::sessions::Verdict;

/// A list's entry, with what is said before it, takes at most so many bytes.
const TOKEN_BYTES_MAX: usize = 16;
/// So do the fields of a record of a fixed form.
const RECORD_BYTES_MAX: usize = 128;

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct Writer {
    logspace: Logspace,
    /// Records that were encoded at the beginning.
    head: VecDeque<Vec<u8>>,
    next: Next,
    /// No record below lives.
    lowest: SeqNum,
    /// Shards with records that may live.
    shards: BTreeSet<ShardId>,
    bytes: u64,
    part_bytes: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    Books { book: u32, at: usize },
    Tags { place: usize, at: usize },
    Runs(usize),
    Shards(ShardId),
    Nothing,
}

impl Writer {
    /// Begins the checkpoint of an index that has applied all before the logspace's place, in parts of
    /// about so many bytes.
    pub fn begin(index: &mut Index, logspace: &Logspace, part_bytes: usize) -> Writer {
        index.freeze(logspace.next_seqnum());
        let mut head = VecDeque::from([encode_head(index, logspace)]);
        head.extend(index.lost.iter().map(|(from, to)| record(LOST, &[from.0, to.0])));
        head.extend(index.sessions.oldest_first().map(|(id, lowest, verdicts)| {
            let mut session = record(SESSION, &[id.0, lowest, verdicts.len() as u64]);
            for verdict in verdicts {
                let (kind, seqnum) = match verdict {
                    None => (0, SeqNum::MIN),
                    Some(Verdict::Visible { seqnum }) => (1, *seqnum),
                    Some(Verdict::ConditionFailed { tail }) => (2, *tail),
                };
                session.put_u8(kind);
                write_varint(&mut session, seqnum.0);
            }
            session
        }));
        head.extend(index.retained.iter().map(|(logbook, retained)| {
            let Retention { age_ms, bytes } = retained.retention;
            let mut fields = vec![logbook.0, age_ms, bytes, retained.stretches.len() as u64];
            fields.extend(retained.stretches.iter().flat_map(|of| [of.first.0, of.time_ms, of.bytes]));
            record(RETENTION, &fields)
        }));
        let shards = logspace.shards_of_view().map(|(shard, _)| shard).collect();
        let logspace = logspace.clone();
        Writer { logspace, head, next: Next::Head, lowest: SeqNum::MAX, shards, bytes: 0, part_bytes }
    }

    pub fn place(&self) -> Place {
        self.logspace.place()
    }

    /// The SeqNum that is given next at its place.
    pub fn next_seqnum(&self) -> SeqNum {
        self.logspace.next_seqnum()
    }

    /// No record below lives, once all is written. What came since may.
    pub fn lowest(&self) -> SeqNum {
        self.lowest.min(self.next_seqnum())
    }

    /// Whether the last part was written.
    pub fn is_done(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part, and whether it is the last.
    pub fn next_part(&mut self, index: &Index, order: &Order) -> (Bytes, bool) {
        // Room for one record of a fixed form, or the head of a list and an entry, there always is.
        let part_bytes = self.part_bytes.max(2 * RECORD_BYTES_MAX);
        let mut part = new_part(part_bytes);
        while part.len() + RECORD_BYTES_MAX < part_bytes {
            match self.next {
                Next::Head => match self.head.pop_front() {
                    // A session with a wide window may be larger than what is left.
                    Some(record) if part.len() + record.len() > part_bytes && part.len() > PART_HEAD_BYTES => {
                        self.head.push_front(record);
                        break;
                    }
                    Some(record) => part.extend(record),
                    None => self.next = Next::Books { book: 0, at: 0 },
                },
                Next::Books { book, at } => self.write_book(index, book, at, &mut part),
                Next::Tags { place, at } => self.write_tag(index, place, at, &mut part),
                Next::Runs(at) => self.write_run(index, order, at, &mut part),
                Next::Shards(from) => self.write_shard(from, &mut part),
                Next::Nothing => break,
            }
        }
        let part = finish_part(part);
        self.bytes += part.len() as u64;
        (part, self.is_done())
    }

    fn write_book(&mut self, index: &Index, book: u32, at: usize, part: &mut Vec<u8>) {
        let frozen = index.frozen.as_ref().expect("it is thawed when all is written");
        if book as usize >= frozen.books {
            self.next = Next::Tags { place: 0, at: 0 };
            return;
        }
        let known = index.books.at(book);
        let first = frozen.points.get(&(book, Tag::ALL)).copied().unwrap_or(known.first);
        let name = if frozen.named.contains(&book) { Tag::ALL } else { known.name };
        part.put_u8(BOOK);
        write_varint(part, known.id.0);
        write_varint(part, first.0);
        part.put_u64_le(name.0);
        let listed = index.books.listed(&index.lists, book);
        if at == 0 {
            self.lowest = self.lowest.min(listed.get(0).unwrap_or(SeqNum::MAX));
        }
        let before = |part: &mut Vec<u8>, seqnum| {
            if index.books.is_dead(book, seqnum) {
                write_varint(part, DEAD);
            }
            if let Some(living) = index.living_tags.get(&seqnum) {
                write_varint(part, LIVING);
                part.put_u8(*living);
            }
        };
        self.next = match write_list((part, self.part_bytes), listed, at, frozen.next, before) {
            Some(at) => Next::Books { book, at },
            None => Next::Books { book: book + 1, at: 0 },
        };
    }

    fn write_tag(&mut self, index: &Index, place: usize, at: usize, part: &mut Vec<u8>) {
        let frozen = index.frozen.as_ref().expect("it is thawed when all is written");
        if place >= index.tags.places() {
            self.next = Next::Runs(0);
            return;
        }
        self.next = Next::Tags { place: place + 1, at: 0 };
        let Some(entry) = index.tags.at(place) else { return };
        let (book, tag) = (entry.key.book, entry.key.tag());
        let first = frozen.points.get(&(book, tag)).copied().unwrap_or(entry.first());
        let listed = Listed::whole(&index.lists, &entry.list);
        let is_empty = listed.get(at).is_none_or(|seqnum| seqnum >= frozen.next);
        if book as usize >= frozen.books || is_empty && (at > 0 || first == SeqNum::MIN) {
            return;
        }
        part.put_u8(TAG);
        write_varint(part, u64::from(book));
        part.put_u64_le(tag.0);
        write_varint(part, first.0);
        if let Some(at) = write_list((part, self.part_bytes), listed, at, frozen.next, |_, _| {}) {
            self.next = Next::Tags { place, at };
        }
    }

    fn write_run(&mut self, index: &Index, order: &Order, at: usize, part: &mut Vec<u8>) {
        let end = index.frozen.as_ref().expect("it is thawed when all is written").next;
        let Some(run) = order.run(at).filter(|run| run.seqnum < end) else {
            self.next = Next::Shards(ShardId { view: sealog_protocol::ViewNumber(0), index: 0 });
            return;
        };
        self.next = Next::Runs(at + 1);
        let records = run.records.min(if run.seqnum.view() == end.view() { end.0 - run.seqnum.0 } else { u64::MAX });
        if run.seqnum.0 + records <= self.lowest.0 {
            return;
        }
        self.shards.insert(run.first.shard);
        let shard = run.first.shard;
        part.extend(record(RUN, &[run.seqnum.0, u64::from(shard.view.0), shard.index, run.first.position, records]));
    }

    fn write_shard(&mut self, from: ShardId, part: &mut Vec<u8>) {
        let Some(id) = self.shards.range(from..).next().copied() else {
            self.next = Next::Nothing;
            return;
        };
        self.next = Next::Shards(ShardId { view: id.view, index: id.index + 1 });
        let Some(shard) = self.logspace.shard(id) else { return };
        let engine = shard.engine;
        part.extend(record(
            SHARD,
            &[
                u64::from(id.view.0),
                id.index,
                engine.node.0,
                engine.incarnation.0,
                shard.ordinal,
                shard.prefix,
                u64::from(shard.closed),
            ],
        ));
        write_nodes(part, &shard.replicas);
    }
}

fn encode_head(index: &Index, logspace: &Logspace) -> Vec<u8> {
    let (place, next) = (logspace.place(), logspace.next_seqnum());
    let mut head = record(HEAD, &[u64::from(place.view.0), place.index, next.0, index.records, index.voids]);
    match logspace.checkpoint() {
        None => head.put_u8(0),
        Some(Checkpoint { place, next, replicas }) => {
            head.put_u8(1);
            for field in [u64::from(place.view.0), place.index, next.0] {
                write_varint(&mut head, field);
            }
            write_nodes(&mut head, replicas);
        }
    }
    head
}

fn record(kind: u8, fields: &[u64]) -> Vec<u8> {
    let mut record = vec![kind];
    for field in fields {
        write_varint(&mut record, *field);
    }
    record
}

/// Writes a list from a place on, up to the SeqNum that is not of it any more. Returns where to go on,
/// when the part is full.
fn write_list(
    (part, part_bytes): (&mut Vec<u8>, usize),
    listed: Listed<'_>,
    from: usize,
    end: SeqNum,
    mut before: impl FnMut(&mut Vec<u8>, SeqNum),
) -> Option<usize> {
    let (mut at, mut last) = (from, 0);
    let go_on = loop {
        let Some(seqnum) = listed.get(at).filter(|seqnum| *seqnum < end) else { break None };
        if part.len() + TOKEN_BYTES_MAX > part_bytes.max(2 * RECORD_BYTES_MAX) {
            break Some(at);
        }
        before(part, seqnum);
        write_varint(part, LIVING + (seqnum.0 - last));
        last = seqnum.0;
        at += 1;
    };
    write_varint(part, END);
    go_on
}
