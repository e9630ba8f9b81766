//! A view's metalog entries in memory, in their encoding: a few bytes each, in chunks.

use bytes::{BufMut, BytesMut};
use sealog_protocol::metalog::{Entry, EntryError, entries};

/// Small enough that finding an entry in a chunk by decoding those before it costs microseconds.
const CHUNK_BYTES: usize = 8 << 10;

/// Entries of one view, from index 0 without gaps.
#[derive(Debug, Default)]
pub struct EntryLog {
    chunks: Vec<Chunk>,
    /// How many entries there are; as an index, exclusive.
    len: u64,
}

#[derive(Debug)]
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
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends one entry, as it is encoded.
    pub fn push(&mut self, encoded: &[u8]) {
        let room = self.chunks.last().is_some_and(|chunk| chunk.bytes.len() + encoded.len() <= CHUNK_BYTES);
        if !room {
            if let Some(full) = self.chunks.last_mut() {
                full.bytes.shrink_to_fit();
            }
            self.chunks.push(Chunk { first: self.len, bytes: Vec::with_capacity(CHUNK_BYTES) });
        }
        self.chunks.last_mut().expect("there is one now").bytes.extend_from_slice(encoded);
        self.len += 1;
    }

    /// Appends those of these entries, the first at index `from`, that are not there yet; returns
    /// how many.
    ///
    /// # Errors
    /// When they are malformed. What came before the malformed one is kept.
    pub fn extend(&mut self, from: u64, encoded: &[u8]) -> Result<u64, EntryError> {
        let before = self.len;
        for (entry, index) in entries(encoded).zip(from..) {
            let (_, bytes) = entry?;
            if index == self.len {
                self.push(bytes);
            }
        }
        Ok(self.len - before)
    }

    /// A cursor before the entry at `index`, which may be the end.
    ///
    /// # Panics
    /// When `index` is past the end.
    pub fn cursor(&self, index: u64) -> Cursor {
        assert!(index <= self.len, "a cursor within the log");
        let chunk = self.chunks.partition_point(|chunk| chunk.first <= index).saturating_sub(1);
        let first = self.chunks.get(chunk).map_or(0, |chunk| chunk.first);
        let mut cursor = Cursor { index: first, chunk, offset: 0 };
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
        *cursor = Cursor { index: cursor.index + 1, chunk, offset: offset + bytes };
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

    /// A cursor at the end of a chunk stands at the start of the next one, once there is one.
    fn normalised(&self, cursor: Cursor) -> (usize, usize) {
        let at_end = self.chunks.get(cursor.chunk).is_some_and(|chunk| cursor.offset == chunk.bytes.len());
        if at_end && cursor.chunk + 1 < self.chunks.len() {
            (cursor.chunk + 1, 0)
        } else {
            (cursor.chunk, cursor.offset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(shard_index: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Entry::CloseShard { shard_index }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn cursors_find_and_follow_entries_across_chunks() {
        let mut log = EntryLog::default();
        let mut live = log.cursor(0);
        for index in 0..20_000 {
            log.push(&encoded(index));
            assert_eq!(log.get(live), Some(Entry::CloseShard { shard_index: index }));
            log.advance(&mut live);
        }
        assert!(log.chunks.len() > 2);
        for index in [0, 1, 9_999, 19_999] {
            assert_eq!(log.get(log.cursor(index)), Some(Entry::CloseShard { shard_index: index }));
        }
        assert_eq!(log.get(log.cursor(20_000)), None);
        let (mut out, mut cursor) = (BytesMut::new(), log.cursor(5_000));
        assert_eq!(log.copy(&mut cursor, 15_000, usize::MAX, &mut out), 10_000);
        let mut again = EntryLog::default();
        assert_eq!(again.extend(0, &out), Ok(10_000));
        assert_eq!(again.extend(9_990, &out[..]), Ok(9_990), "only what is past the end is new");
    }
}
