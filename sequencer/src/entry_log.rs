//! A view's metalog entries in memory, in their encoding: a few bytes each, in chunks.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, BytesMut};
use sealog_protocol::logspace::Checkpoint;
use sealog_protocol::metalog::{Entry, EntryError, entries};

/// Small enough that finding an entry in a chunk by decoding those before it costs microseconds.
const CHUNK_BYTES: usize = 8 << 10;

/// Entries of one view without gaps: from index 0, or from where a committed checkpoint allows.
#[derive(Clone, Debug, Default)]
pub struct EntryLog {
    chunks: VecDeque<Chunk>,
    /// Chunks that are gone: a cursor counts them, so that it outlives a drop.
    dropped: usize,
    /// The index of the first entry that is kept.
    first: u64,
    /// As an index, exclusive.
    end: u64,
    /// The `OpenShard` entries by their index. They stay when the log before them goes, for as long
    /// as a cut may still move their shard: who is asked when the view is sealed stands in them.
    opened: BTreeMap<u64, Box<[u8]>>,
    /// The index of each `CloseShard`, and which shard it closes.
    closed: VecDeque<(u64, u64)>,
    /// The checkpoints that entries name, with the entries' indices, until somebody takes them.
    checkpoints: VecDeque<(u64, Checkpoint)>,
}

#[derive(Clone, Debug)]
struct Chunk {
    first: u64,
    bytes: Vec<u8>,
}

/// Where an entry begins. Whoever reads on in order finds the next one without a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    index: u64,
    chunk: usize,
    offset: usize,
}

impl Cursor {
    /// The index of the entry it stands before.
    pub fn index(&self) -> u64 {
        self.index
    }
}

impl EntryLog {
    /// The index of the first entry that is kept.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index after the last entry.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends one entry, as it is encoded.
    pub fn push(&mut self, entry: &Entry<'_>, encoded: &[u8]) {
        let room = self.chunks.back().is_some_and(|chunk| chunk.bytes.len() + encoded.len() <= CHUNK_BYTES);
        if !room {
            if let Some(full) = self.chunks.back_mut() {
                full.bytes.shrink_to_fit();
            }
            self.chunks.push_back(Chunk { first: self.end, bytes: Vec::with_capacity(CHUNK_BYTES) });
        }
        self.chunks.back_mut().expect("there is one now").bytes.extend_from_slice(encoded);
        self.note(self.end, entry, encoded);
        if let Entry::Checkpoint { place, next, replicas } = *entry {
            self.checkpoints.push_back((self.end, Checkpoint { place, next, replicas }));
        }
        self.end += 1;
    }

    /// Remembers what an entry says of a shard; also one from before [`EntryLog::first`].
    pub fn note(&mut self, index: u64, entry: &Entry<'_>, encoded: &[u8]) {
        match *entry {
            Entry::OpenShard { .. } => {
                self.opened.insert(index, encoded.into());
            }
            Entry::CloseShard { shard_index } if index < self.first => {
                self.opened.remove(&shard_index);
            }
            Entry::CloseShard { shard_index } => self.closed.push_back((index, shard_index)),
            _ => {}
        }
    }

    /// Appends those of these entries, the first at index `from`, that are not there yet; returns
    /// how many.
    ///
    /// # Errors
    /// When they are malformed. What came before the malformed one is kept.
    pub fn extend(&mut self, from: u64, encoded: &[u8]) -> Result<u64, EntryError> {
        let before = self.end;
        for (entry, index) in entries(encoded).zip(from..) {
            let (entry, bytes) = entry?;
            if index == self.end {
                self.push(&entry, bytes);
            } else if index < self.first {
                self.note(index, &entry, bytes);
            }
        }
        Ok(self.end - before)
    }

    /// Lets go of the entries before `index`: a committed checkpoint covers them. When there is
    /// nothing from there on, the log goes on there.
    pub fn drop_before(&mut self, index: u64) {
        if index <= self.first {
            return;
        }
        self.first = index;
        if index >= self.end {
            self.end = index;
            self.dropped += self.chunks.len();
            self.chunks.clear();
        }
        while self.chunks.get(1).is_some_and(|chunk| chunk.first <= index) {
            self.chunks.pop_front();
            self.dropped += 1;
        }
        while let Some((closed, shard_index)) = self.closed.front().copied()
            && closed < index
        {
            self.closed.pop_front();
            self.opened.remove(&shard_index);
        }
    }

    /// The `OpenShard` entry at this index, unless a cut can't move its shard any more.
    pub fn opened(&self, index: u64) -> Option<Entry<'_>> {
        self.opened.get(&index).map(|encoded| decoded(encoded))
    }

    /// The `OpenShard` entries that outlived the log before [`EntryLog::first`], encoded.
    pub fn opened_before_first(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.opened.range(..self.first).map(|(index, encoded)| (*index, &encoded[..]))
    }

    pub fn has_checkpoints(&self) -> bool {
        !self.checkpoints.is_empty()
    }

    /// The next checkpoint that an entry before `end` names, and the entry's index. Each is told once.
    pub fn take_checkpoint(&mut self, end: u64) -> Option<(u64, Checkpoint)> {
        self.checkpoints.front().is_some_and(|(index, _)| *index < end).then(|| self.checkpoints.pop_front()).flatten()
    }

    /// A cursor before the entry at `index`, which may be the end.
    ///
    /// # Panics
    /// When `index` is past the end, or gone.
    pub fn cursor(&self, index: u64) -> Cursor {
        assert!((self.first..=self.end).contains(&index), "a cursor within the log");
        let chunk = self.chunks.partition_point(|chunk| chunk.first <= index).saturating_sub(1);
        let first = self.chunks.get(chunk).map_or(self.end, |chunk| chunk.first);
        let mut cursor = Cursor { index: first, chunk: self.dropped + chunk, offset: 0 };
        while cursor.index < index {
            self.advance(&mut cursor);
        }
        cursor
    }

    /// The entry at the cursor; `None` at the end.
    pub fn get(&self, cursor: Cursor) -> Option<Entry<'_>> {
        self.encoded_at(cursor).map(|(entry, _)| entry)
    }

    /// Moves the cursor past the entry that it stands before, if there is one.
    pub fn advance(&self, cursor: &mut Cursor) {
        let Some((_, encoded)) = self.encoded_at(*cursor) else { return };
        let bytes = encoded.len();
        let (chunk, offset) = self.normalised(*cursor);
        *cursor = Cursor { index: cursor.index + 1, chunk: self.dropped + chunk, offset: offset + bytes };
    }

    /// Copies entries from the cursor on, up to index `end` and about `bytes_max`; moves the cursor
    /// past them and returns how many.
    pub fn copy(&self, cursor: &mut Cursor, end: u64, bytes_max: usize, out: &mut BytesMut) -> u32 {
        let (mut count, start) = (0, out.len());
        while cursor.index < end && out.len() - start < bytes_max {
            let Some((_, encoded)) = self.encoded_at(*cursor) else { break };
            out.put_slice(encoded);
            self.advance(cursor);
            count += 1;
        }
        count
    }

    fn encoded_at(&self, cursor: Cursor) -> Option<(Entry<'_>, &[u8])> {
        let (chunk, offset) = self.normalised(cursor);
        let rest = self.chunks.get(chunk)?.bytes.get(offset..)?;
        if rest.is_empty() {
            return None;
        }
        let (entry, bytes) = Entry::decode(rest).expect("decoded once when it was appended");
        Some((entry, &rest[..bytes]))
    }

    /// The cursor's chunk among those that are here, and where in it. A cursor at the end of a chunk
    /// stands at the start of the next one, once there is one; also when its own chunk is gone.
    fn normalised(&self, cursor: Cursor) -> (usize, usize) {
        let Some(number) = cursor.chunk.checked_sub(self.dropped) else { return (0, 0) };
        let at_end = self.chunks.get(number).is_some_and(|chunk| cursor.offset == chunk.bytes.len());
        if at_end && number + 1 < self.chunks.len() { (number + 1, 0) } else { (number, cursor.offset) }
    }
}

fn decoded(encoded: &[u8]) -> Entry<'_> {
    Entry::decode(encoded).expect("decoded once when it was appended").0
}

#[cfg(test)]
mod tests {
    use sealog_protocol::metalog::EngineIncarnation;
    use sealog_protocol::{Incarnation, NodeId, NodeSet, Place, SeqNum, ViewNumber};

    use super::*;

    fn encoded(entry: &Entry<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        bytes
    }

    fn push(log: &mut EntryLog, entry: &Entry<'_>) {
        log.push(entry, &encoded(entry));
    }

    fn close(shard_index: u64) -> Entry<'static> {
        Entry::CloseShard { shard_index }
    }

    #[test]
    fn cursors_find_and_follow_entries_across_chunks() {
        let mut log = EntryLog::default();
        let mut live = log.cursor(0);
        for index in 0..20_000 {
            push(&mut log, &close(index));
            assert_eq!(log.get(live), Some(close(index)));
            log.advance(&mut live);
        }
        assert!(log.chunks.len() > 2);
        for index in [0, 1, 9_999, 19_999] {
            assert_eq!(log.get(log.cursor(index)), Some(close(index)));
        }
        assert_eq!(log.get(log.cursor(20_000)), None);
        let (mut out, mut cursor) = (BytesMut::new(), log.cursor(5_000));
        assert_eq!(log.copy(&mut cursor, 15_000, usize::MAX, &mut out), 10_000);
        let mut again = EntryLog::default();
        assert_eq!(again.extend(0, &out), Ok(10_000));
        assert_eq!(again.extend(9_990, &out[..]), Ok(9_990), "only what is past the end is new");
    }

    #[test]
    fn cursors_outlive_the_drop_of_what_is_before_them() {
        for dropped in [0, 1, 4_000, 9_998, 10_000] {
            let mut log = EntryLog::default();
            for index in 0..10_000 {
                push(&mut log, &close(index));
            }
            let mut live = log.cursor(10_000);
            let mut cursor = log.cursor(9_999);
            log.drop_before(dropped);
            assert_eq!((log.first(), log.end()), (dropped, 10_000));
            if dropped < 10_000 {
                assert_eq!(log.get(cursor), Some(close(9_999)));
                assert_eq!(log.get(log.cursor(dropped)), Some(close(dropped)));
                log.advance(&mut cursor);
            }
            push(&mut log, &close(7));
            assert_eq!(log.get(live), Some(close(7)));
            log.advance(&mut live);
            assert_eq!(live.index(), 10_001);
        }
    }

    #[test]
    fn a_log_goes_on_at_a_place_past_its_end() {
        let mut log = EntryLog::default();
        push(&mut log, &close(1));
        let old = log.cursor(1);
        log.drop_before(500);
        assert_eq!((log.first(), log.end()), (500, 500));
        push(&mut log, &close(3));
        assert_eq!(log.get(log.cursor(500)), Some(close(3)));
        assert_eq!(old.index(), 1, "whoever stands there is behind, and has to look");
    }

    #[test]
    fn open_shards_outlive_the_log_before_them() {
        let replicas = NodeSet::new(&[NodeId(1)]).expect("one node");
        let engine = EngineIncarnation { node: NodeId(1), incarnation: Incarnation(1) };
        let mut log = EntryLog::default();
        push(&mut log, &Entry::OpenShard { engine, ordinal: 0, replicas });
        push(&mut log, &Entry::OpenShard { engine, ordinal: 1, replicas });
        push(&mut log, &close(0));
        push(&mut log, &close(9));
        log.drop_before(2);
        assert_eq!(log.opened_before_first().count(), 2, "the entry that closes one is still to come");
        log.drop_before(3);
        let kept: Vec<u64> = log.opened_before_first().map(|(index, _)| index).collect();
        assert_eq!(kept, [1]);
        assert_eq!(log.opened(1), Some(Entry::OpenShard { engine, ordinal: 1, replicas }));
        assert_eq!(log.opened(0), None);
    }

    #[test]
    fn a_checkpoint_is_told_once_when_its_entry_is_before_the_end() {
        let replicas = NodeSet::new(&[NodeId(1)]).expect("one node");
        let checkpoint = Checkpoint { place: Place { view: ViewNumber(1), index: 1 }, next: SeqNum(1), replicas };
        let mut log = EntryLog::default();
        push(&mut log, &close(0));
        push(&mut log, &Entry::Checkpoint { place: checkpoint.place, next: checkpoint.next, replicas });
        assert_eq!(log.take_checkpoint(1), None);
        assert!(log.has_checkpoints());
        assert_eq!(log.take_checkpoint(2), Some((1, checkpoint)));
        assert_eq!(log.take_checkpoint(2), None);
    }
}
