//! A segment's footer as it grows: everything in the segment but payloads.
//!
//! ```text
//!  segment:  | block | block | … | block |   free   | footer              | trailer 4096 |
//!  footer:   | Tags: chunk, chunk, … | entries | chunk table | damages | zeros up to 4096 |
//!  chunk:    | 0 |role|logspace| view | shard index 8 | first 8 | end 8 | bytes 4 | checksum 4 |
//!  damage:   | kind 8 | offset 8 | bytes 8 |
//! ```
//!
//! *Entries* are those of the segment's blocks, in order, encoded as in their directories. The Tags
//! entries of its batches are grouped by shard, so that one shard's are read without the others';
//! a shard's are cut into chunks of contiguous positions with a checksum each, so that a part is
//! read without the rest. Recovery goes through the entries in order, with a cursor for each shard.
//!
//! While a segment fills, room for the footer that it would get is kept free at its end.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealog_protocol::ids::ShardId;

use crate::ALIGNMENT;
use crate::config::Owner;
use crate::entry::{Entry, Line, lines};
use crate::freed::{Freed, FreedRange};
use crate::header::{BlockHeader, u32_at, u64_at};
use crate::report::{Damage, DamageKind};
use crate::tags::skip_entries;
use crate::trailer::Trailer;

/// A chunk is closed before it grows beyond this, unless a single run is larger: what one read of
/// Tags returns, about half of [`sealog_protocol::limits::STREAM_MESSAGE_BYTES_MAX`].
pub const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of a chunk's line in the table.
pub const CHUNK_ENTRY_BYTES: usize = 40;
/// Bytes of a damage's line.
pub const DAMAGE_BYTES: usize = 24;

const _: () = assert!(CHUNK_BYTES <= sealog_protocol::limits::STREAM_MESSAGE_BYTES_MAX);

/// Tags entries of contiguous positions of a shard.
struct Chunk {
    first: u64,
    end: u64,
    bytes: Vec<u8>,
}

/// A run whose block is not known to be durable: Tags from here on are not told yet.
struct RunInFlight {
    number: u64,
    chunk: usize,
    at: usize,
}

#[derive(Default)]
struct ShardTags {
    chunks: Vec<Chunk>,
    in_flight: std::collections::VecDeque<RunInFlight>,
}

/// Where a segment's blocks stand in the journal: what its trailer says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub first_number: u64,
    pub end_number: u64,
    pub first_vital: u64,
    pub end_vital: u64,
    pub incarnation: u64,
    pub incarnation_first: u64,
}

impl Span {
    /// Before the first block of a segment, which will have this number.
    pub fn starting(number: u64, vital: u64) -> Span {
        Span { first_number: number, end_number: number, first_vital: vital, end_vital: vital, ..Span::default() }
    }

    pub fn add_block(&mut self, header: &BlockHeader, vital: u32) {
        self.end_number = header.number + 1;
        self.end_vital = header.vital + u64::from(vital);
        (self.incarnation, self.incarnation_first) = (header.incarnation, header.incarnation_first);
    }
}

/// The footer of a segment that is not sealed yet.
pub(crate) struct FooterBuilder {
    pub span: Span,
    entries: Vec<u8>,
    entry_count: u32,
    shards: BTreeMap<(Owner, ShardId), ShardTags>,
    chunk_count: usize,
    tags_bytes: usize,
    damages: Vec<Damage>,
}

impl FooterBuilder {
    pub fn new(span: Span) -> FooterBuilder {
        FooterBuilder {
            span,
            entries: Vec::new(),
            entry_count: 0,
            shards: BTreeMap::new(),
            chunk_count: 0,
            tags_bytes: 0,
            damages: Vec::new(),
        }
    }

    /// Bytes of the footer, padding and trailer included, if this much were added.
    pub fn footer_bytes(&self, more: usize) -> u64 {
        let tables = self.chunk_count * CHUNK_ENTRY_BYTES + self.damages.len() * DAMAGE_BYTES;
        ((self.tags_bytes + self.entries.len() + tables + more).next_multiple_of(ALIGNMENT) + ALIGNMENT) as u64
    }

    /// Bytes of memory that its Tags and entries take.
    pub fn memory_bytes(&self) -> u64 {
        (self.tags_bytes + self.entries.len()) as u64
    }

    /// Adds the journal's word on which blocks are gone.
    pub fn add_freed(&mut self, freed: &Freed) {
        freed.encode(&mut self.entries);
        self.entry_count += 1;
    }

    /// Adds an entry of the block with this number, and its Tags if it is a run of batches.
    pub fn add(&mut self, number: u64, owner: Owner, entry: &Entry<'_>, tags: &[u8]) {
        entry.encode(owner, &mut self.entries);
        self.entry_count += 1;
        let Entry::Batches(run) = entry else { return };
        assert_eq!(run.tags_bytes as usize, tags.len(), "a run is listed with its Tags");
        self.tags_bytes += tags.len();
        let shard = self.shards.entry((owner, run.shard)).or_default();
        match shard.chunks.last_mut() {
            Some(chunk) if chunk.end == run.first && chunk.bytes.len() + tags.len() <= CHUNK_BYTES => {
                chunk.end = run.end();
            }
            _ => {
                shard.chunks.push(Chunk { first: run.first, end: run.end(), bytes: Vec::with_capacity(tags.len()) });
                self.chunk_count += 1;
            }
        }
        let chunk = shard.chunks.len() - 1;
        let bytes = &mut shard.chunks[chunk].bytes;
        shard.in_flight.push_back(RunInFlight { number, chunk, at: bytes.len() });
        bytes.extend_from_slice(tags);
    }

    /// Blocks below this number are durable: their Tags may be told.
    pub fn set_durable(&mut self, durable: u64) {
        for shard in self.shards.values_mut() {
            while shard.in_flight.front().is_some_and(|run| run.number < durable) {
                shard.in_flight.pop_front();
            }
        }
    }

    pub fn add_damage(&mut self, damage: Damage) {
        self.damages.push(damage);
    }

    /// Durable Tags from the first batch that ends after `from`, up to the end of a chunk.
    pub fn read_tags(&self, owner: Owner, shard: ShardId, from: u64) -> Option<(u64, Bytes)> {
        let shard = self.shards.get(&(owner, shard))?;
        let index = nearest(shard.chunks.iter().map(|chunk| (chunk.first, chunk.end)), from)?;
        let chunk = &shard.chunks[index];
        let durable_bytes = match shard.in_flight.front() {
            Some(run) if run.chunk < index => 0,
            Some(run) if run.chunk == index => run.at,
            _ => chunk.bytes.len(),
        };
        let durable = &chunk.bytes[..durable_bytes];
        let (first, skipped) = skip_entries(durable, chunk.first, from).expect("machines append well-formed Tags");
        (skipped < durable.len()).then(|| (first, Bytes::copy_from_slice(&durable[skipped..])))
    }

    /// The footer and trailer to write, and what is kept of them in memory. `None` when they do not
    /// fit behind `used_bytes`: only damage that shattered runs could do that, and such a segment
    /// stays without a footer.
    pub fn seal(&mut self, segment: SegmentPlace, used_bytes: u64) -> Option<(Vec<u8>, SealedSegment)> {
        while self.footer_bytes(0) + used_bytes > segment.bytes {
            self.damages.pop()?;
        }
        let footer_offset = segment.bytes - self.footer_bytes(0);
        let (table, chunks) = self.chunk_table(footer_offset);
        let mut tail = Vec::with_capacity(self.entries.len() + table.len() + ALIGNMENT);
        tail.extend_from_slice(&self.entries);
        tail.extend_from_slice(&table);
        for damage in &self.damages {
            for field in [damage.kind as u64, damage.offset, damage.bytes] {
                tail.extend_from_slice(&field.to_le_bytes());
            }
        }
        let trailer = Trailer {
            journal_id: segment.journal_id,
            segment: segment.segment,
            use_number: segment.use_number,
            footer_offset,
            tags_bytes: self.tags_bytes as u32,
            entries_bytes: self.entries.len() as u32,
            chunks_bytes: table.len() as u32,
            damages_bytes: (self.damages.len() * DAMAGE_BYTES) as u32,
            directory_checksum: crc32fast::hash(&tail),
            entries: self.entry_count,
            first_number: self.span.first_number,
            end_number: self.span.end_number,
            first_vital: self.span.first_vital,
            end_vital: self.span.end_vital,
            incarnation: self.span.incarnation,
            incarnation_first: self.span.incarnation_first,
        };
        let padded = (self.tags_bytes + tail.len()).next_multiple_of(ALIGNMENT);
        tail.resize(padded - self.tags_bytes, 0);
        tail.extend_from_slice(&trailer.encode());
        Some((tail, SealedSegment::of(&trailer, segment.bytes, chunks)))
    }

    fn chunk_table(&self, footer_offset: u64) -> (Vec<u8>, Vec<ChunkPlace>) {
        let mut table = Vec::with_capacity(self.chunk_count * CHUNK_ENTRY_BYTES);
        let mut places = Vec::with_capacity(self.chunk_count);
        let mut offset = 0;
        for ((owner, shard), tags) in &self.shards {
            for chunk in &tags.chunks {
                let place = ChunkPlace {
                    owner: *owner,
                    shard: *shard,
                    first: chunk.first,
                    end: chunk.end,
                    offset,
                    bytes: chunk.bytes.len() as u32,
                    checksum: crc32fast::hash(&chunk.bytes),
                };
                place.encode(&mut table);
                offset += place.bytes;
                places.push(place);
            }
        }
        debug_assert!(footer_offset.is_multiple_of(ALIGNMENT as u64));
        (table, places)
    }

    /// The Tags of the footer, chunk by chunk in the order of the table.
    pub fn tags_chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.values().flat_map(|shard| shard.chunks.iter().map(|chunk| &chunk.bytes[..]))
    }
}

/// Which segment a footer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentPlace {
    pub journal_id: u64,
    pub segment: u32,
    pub use_number: u32,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// Where a chunk lies in its footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    pub owner: Owner,
    pub shard: ShardId,
    pub first: u64,
    pub end: u64,
    /// From the footer's beginning. Not on disk: it follows from the chunks before it.
    pub offset: u32,
    pub bytes: u32,
    pub checksum: u32,
}

impl ChunkPlace {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, self.owner.1 as u8]);
        out.extend_from_slice(&self.owner.0.0.to_le_bytes());
        out.extend_from_slice(&self.shard.view.0.to_le_bytes());
        for field in [self.shard.index, self.first, self.end] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
    }

    fn decode(bytes: &[u8], offset: u32) -> Option<ChunkPlace> {
        let logspace = sealog_protocol::ids::LogspaceId(u16::from_le_bytes([bytes[2], bytes[3]]));
        Some(ChunkPlace {
            owner: (logspace, crate::entry::role(bytes[1])?),
            shard: ShardId { view: sealog_protocol::ids::ViewNumber(u32_at(bytes, 4)), index: u64_at(bytes, 8) },
            first: u64_at(bytes, 16),
            end: u64_at(bytes, 24),
            offset,
            bytes: u32_at(bytes, 32),
            checksum: u32_at(bytes, 36),
        })
    }
}

/// What is kept in memory of a sealed segment: where each shard's Tags are in its footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedSegment {
    /// Of the whole file.
    pub bytes: u64,
    pub use_number: u32,
    /// Its blocks.
    pub range: FreedRange,
    pub footer_offset: u64,
    /// By owner and shard, those of a shard in the order of appending.
    pub chunks: Vec<ChunkPlace>,
}

impl SealedSegment {
    fn of(trailer: &Trailer, bytes: u64, chunks: Vec<ChunkPlace>) -> SealedSegment {
        let range = FreedRange {
            first_number: trailer.first_number,
            end_number: trailer.end_number,
            first_vital: trailer.first_vital,
            end_vital: trailer.end_vital,
        };
        SealedSegment { bytes, use_number: trailer.use_number, range, footer_offset: trailer.footer_offset, chunks }
    }

    /// The chunk with the first batch of the shard that ends after `from`.
    pub fn chunk(&self, owner: Owner, shard: ShardId, from: u64) -> Option<&ChunkPlace> {
        let begin = self.chunks.partition_point(|chunk| (chunk.owner, chunk.shard) < (owner, shard));
        let of_shard = self.chunks[begin..].iter().take_while(|chunk| (chunk.owner, chunk.shard) == (owner, shard));
        let index = nearest(of_shard.map(|chunk| (chunk.first, chunk.end)), from)?;
        Some(&self.chunks[begin + index])
    }
}

/// Which of these chunks of a shard has the first batch that ends after `from`. They are in the order of
/// appending, which is not that of positions: what is moved from another segment comes after what is new.
fn nearest(chunks: impl Iterator<Item = (u64, u64)>, from: u64) -> Option<usize> {
    let candidates = chunks.enumerate().filter(|(_, (_, end))| *end > from);
    candidates.min_by_key(|(_, (first, _))| (*first).max(from)).map(|(index, _)| index)
}

/// A footer read from disk, in place: all of it but the Tags, which have their own checksums and are
/// verified when they are read.
pub(crate) struct Footer<'a> {
    pub trailer: &'a Trailer,
    entries: &'a [u8],
    pub sealed: SealedSegment,
    pub damages: Vec<Damage>,
}

impl<'a> Footer<'a> {
    /// Verifies the entries and tables of the footer that this trailer describes. `segment_bytes` are
    /// those of the file.
    pub fn parse(trailer: &'a Trailer, directory: &'a [u8], segment_bytes: u64) -> Option<Footer<'a>> {
        let directory = directory.get(..trailer.directory_bytes() as usize)?;
        if crc32fast::hash(directory) != trailer.directory_checksum {
            return None;
        }
        let (entries, tables) = directory.split_at(trailer.entries_bytes as usize);
        let (table, damages) = tables.split_at(trailer.chunks_bytes as usize);
        let mut chunks: Vec<ChunkPlace> = Vec::with_capacity(table.len() / CHUNK_ENTRY_BYTES);
        let mut offset = 0u32;
        for line in table.chunks_exact(CHUNK_ENTRY_BYTES) {
            let chunk = ChunkPlace::decode(line, offset)?;
            offset = offset.checked_add(chunk.bytes).filter(|end| *end <= trailer.tags_bytes)?;
            chunks.push(chunk);
        }
        let damages =
            damages.chunks_exact(DAMAGE_BYTES).map(|line| damage(trailer.segment, line)).collect::<Option<Vec<_>>>()?;
        Some(Footer { trailer, entries, sealed: SealedSegment::of(trailer, segment_bytes, chunks), damages })
    }

    /// The lines in order. `Err` when a directory whose checksum is right is malformed.
    pub fn lines(&self) -> impl Iterator<Item = Result<Line<'a>, crate::entry::MalformedEntry>> {
        lines(self.entries)
    }

    /// Whether the Tags match their checksums.
    pub fn are_tags_intact(&self, tags: &[u8]) -> bool {
        self.sealed.chunks.iter().all(|chunk| {
            let content = tags.get(chunk.offset as usize..).and_then(|rest| rest.get(..chunk.bytes as usize));
            content.is_some_and(|content| crc32fast::hash(content) == chunk.checksum)
        })
    }
}

fn damage(segment: u32, line: &[u8]) -> Option<Damage> {
    let kind = [DamageKind::Data, DamageKind::Blocks, DamageKind::Footer]
        .into_iter()
        .find(|kind| *kind as u64 == u64_at(line, 0))?;
    Some(Damage { kind, segment, offset: u64_at(line, 8), bytes: u64_at(line, 16) })
}

#[cfg(test)]
mod tests {
    use sealog_protocol::ids::{LogspaceId, ViewNumber};
    use sealog_protocol::machine::Role;

    use super::*;

    /// Moved batches come behind newer ones: they were looked up as if in order once, and living
    /// records were judged away.
    #[test]
    fn tags_of_moved_batches_are_found_behind_those_of_newer_ones() {
        let chunks = [(50, 60), (60, 75), (10, 20), (30, 32), (75, 80), (5, 8)];
        let found = |from| nearest(chunks.into_iter(), from).map(|index| chunks[index]);
        let cases = [
            // Before, at, within and behind each.
            (0, (5, 8)),
            (7, (5, 8)),
            (8, (10, 20)),
            (19, (10, 20)),
            (20, (30, 32)),
            (31, (30, 32)),
            (32, (50, 60)),
            (59, (50, 60)),
            (60, (60, 75)),
            (75, (75, 80)),
        ];
        for (from, chunk) in cases {
            assert_eq!(found(from), Some(chunk), "from {from}");
        }
        assert_eq!((found(80), nearest(std::iter::empty(), 0)), (None, None));
    }

    /// Of every order in which a shard's chunks may lie, the answer is the one of the sorted ones.
    #[test]
    fn every_order_of_chunks_gives_the_same_answers() {
        let sorted = [(0, 4), (4, 9), (20, 21), (30, 40)];
        for order in 0..24 {
            let (mut left, mut chunks, mut code) = (sorted.to_vec(), Vec::new(), order);
            while !left.is_empty() {
                chunks.push(left.remove(code % left.len()));
                code /= left.len() + 1;
            }
            for from in 0..45 {
                let expected = sorted.iter().find(|(_, end)| *end > from);
                let found = nearest(chunks.iter().copied(), from).map(|index| chunks[index]);
                assert_eq!(found.as_ref(), expected, "from {from} in {chunks:?}");
            }
        }
    }

    /// The same through a sealed segment's table, with another shard and owner beside it.
    #[test]
    fn a_sealed_segment_finds_the_chunk_of_its_owner_and_shard_in_any_order() {
        let owner = (LogspaceId(0), Role::Storage);
        let shard = |index| ShardId { view: ViewNumber(1), index };
        let place = |owner, index, first, end| ChunkPlace {
            owner,
            shard: shard(index),
            first,
            end,
            offset: 0,
            bytes: 1,
            checksum: 0,
        };
        let chunks = vec![
            place(owner, 0, 0, 100),
            place(owner, 1, 40, 60),
            place(owner, 1, 10, 20),
            place(owner, 2, 15, 18),
            place((LogspaceId(1), Role::Storage), 1, 20, 30),
        ];
        let range = FreedRange { first_number: 0, end_number: 1, first_vital: 0, end_vital: 0 };
        let sealed = SealedSegment { bytes: 0, use_number: 1, range, footer_offset: 0, chunks };
        let found = |from| sealed.chunk(owner, shard(1), from).map(|chunk| (chunk.first, chunk.end));
        assert_eq!((found(0), found(19), found(20), found(60)), (Some((10, 20)), Some((10, 20)), Some((40, 60)), None));
        assert_eq!(sealed.chunk(owner, shard(3), 0), None);
    }
}
