//! Reading Tags back: from memory, or from a segment's footer.

use bytes::Bytes;
use sealog_protocol::machine::ReadFailure;

use crate::ALIGNMENT;
use crate::footer::ChunkPlace;

/// Where Tags are.
#[derive(Clone, Debug)]
pub enum TagsSource {
    /// Here: entries of whole batches from position `first` on. Empty: there are none.
    Memory { first: u64, entries: Bytes },
    /// In a footer: the driver reads this part of it, then calls [`FooterChunk::tags`].
    Footer(FooterChunk),
}

/// A part of a footer to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterChunk {
    pub segment: u32,
    /// What to read: multiples of 4096.
    pub offset: u64,
    pub bytes: usize,
    /// Where the chunk lies in what is read.
    pub(crate) skip: usize,
    pub(crate) chunk_bytes: usize,
    pub(crate) checksum: u32,
    /// The chunk's first position, and the one that is asked for.
    pub(crate) first: u64,
    pub(crate) from: u64,
}

impl FooterChunk {
    pub(crate) fn new(segment: u32, footer_offset: u64, chunk: &ChunkPlace, from: u64) -> FooterChunk {
        let begin = footer_offset + u64::from(chunk.offset);
        let end = begin + u64::from(chunk.bytes);
        let offset = begin / ALIGNMENT as u64 * ALIGNMENT as u64;
        FooterChunk {
            segment,
            offset,
            bytes: (end - offset).next_multiple_of(ALIGNMENT as u64) as usize,
            skip: (begin - offset) as usize,
            chunk_bytes: chunk.bytes as usize,
            checksum: chunk.checksum,
            first: chunk.first,
            from,
        }
    }

    /// The entries in what was read, from the first batch that ends after the position asked for,
    /// and that batch's first position.
    ///
    /// # Errors
    /// When `read` has another length, or does not match its checksum.
    pub fn tags(&self, read: &Bytes) -> Result<(u64, Bytes), ReadFailure> {
        if read.len() != self.bytes {
            return Err(ReadFailure::Corrupt);
        }
        let chunk = read.slice(self.skip..self.skip + self.chunk_bytes);
        if crc32fast::hash(&chunk) != self.checksum {
            return Err(ReadFailure::Corrupt);
        }
        let (first, skipped) = skip_entries(&chunk, self.first, self.from).ok_or(ReadFailure::Corrupt)?;
        Ok((first, chunk.slice(skipped..)))
    }
}

/// Steps over the entries of batches that end at or before `from`: the position of the first that
/// is left, and its offset. `None` when they are malformed.
pub(crate) fn skip_entries(entries: &[u8], first: u64, from: u64) -> Option<(u64, usize)> {
    let (mut position, mut at) = (first, 0);
    while at < entries.len() {
        let (entry, bytes) = sealog_protocol::tags::first_entry(&entries[at..]).ok()?;
        if position + entry.records() > from {
            break;
        }
        position += entry.records();
        at += bytes;
    }
    Some((position, at))
}
