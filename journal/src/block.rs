//! The block that is being gathered: one group commit.
//!
//! A payload is copied once, from the machine's slice into the buffer that goes to the disk. What
//! describes the entries is gathered beside it, and follows the data when the block is closed.

use bytes::Bytes;
use sealog_protocol::machine::DurableEntry;
use sealog_protocol::tags::batch_headers;

use crate::ALIGNMENT;
use crate::buffer::{BlockBuffer, BufferPool};
use crate::config::Owner;
use crate::entry::{Entry, move_runs};
use crate::footer::CHUNK_ENTRY_BYTES;
use crate::freed::Freed;
use crate::header::{BlockHeader, BlockKind, HEADER_BYTES, block_bytes};

/// Commit indices wait for company up to this many bytes of directory.
const COMMITS_WAITING_BYTES_MAX: usize = ALIGNMENT / 2;

/// Bytes of a Tags entry besides its batch's metadata.
const TAGS_HEAD_BYTES: usize = 8;

/// A block without a place yet.
#[derive(Default)]
pub(crate) struct Gathering {
    /// Room for the header, then data. Taken when the first data comes.
    buffer: Option<BlockBuffer>,
    data_checksum: crc32fast::Hasher,
    pub directory: Vec<u8>,
    /// The Tags entries of its runs, in order.
    pub tags: Vec<Bytes>,
    tags_bytes: usize,
    pub entries: u32,
    /// Metalog entries and seals among them.
    pub vital: u32,
    /// Something in it wants to be written soon.
    pub forcing: bool,
}

/// What an entry would add to a block and to its segment's footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub data_bytes: usize,
    pub directory_bytes: usize,
    pub footer_bytes: usize,
}

impl Need {
    pub fn of(entry: &DurableEntry) -> Need {
        let directory_bytes = Entry::of(entry, 0, 0).encoded_bytes();
        let (data_bytes, tags_bytes) = match entry {
            DurableEntry::Batches { batches, tags, .. } => (batches.len(), tags.len() + CHUNK_ENTRY_BYTES),
            DurableEntry::Checkpoint { bytes, .. } => (bytes.len().next_multiple_of(8), 0),
            _ => (0, 0),
        };
        Need { data_bytes, directory_bytes, footer_bytes: directory_bytes + tags_bytes }
    }

    /// What a block takes that says so much of what is gone.
    pub fn freed(ranges: usize) -> Need {
        let directory_bytes = Freed::line_bytes(ranges);
        Need { data_bytes: 0, directory_bytes, footer_bytes: directory_bytes }
    }

    pub fn block_bytes(&self) -> usize {
        block_bytes(self.data_bytes, self.directory_bytes)
    }
}

impl std::ops::Add for Need {
    type Output = Need;

    fn add(self, other: Need) -> Need {
        Need {
            data_bytes: self.data_bytes + other.data_bytes,
            directory_bytes: self.directory_bytes + other.directory_bytes,
            footer_bytes: self.footer_bytes + other.footer_bytes,
        }
    }
}

impl Gathering {
    /// A block that says which blocks are gone.
    pub fn freed(freed: &Freed) -> Gathering {
        let mut gathering = Gathering { entries: 1, ..Gathering::default() };
        freed.encode(&mut gathering.directory);
        gathering
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn need(&self) -> Need {
        let data_bytes = self.buffer.as_ref().map_or(0, |buffer| buffer.len() - HEADER_BYTES);
        let directory_bytes = self.directory.len();
        let tables = self.tags.len() * CHUNK_ENTRY_BYTES;
        Need { data_bytes, directory_bytes, footer_bytes: directory_bytes + self.tags_bytes + tables }
    }

    /// Takes an entry. Data goes straight to its place in the buffer.
    ///
    /// # Panics
    /// When the batches are not whole frames, or the Tags not theirs: the machine that appends them
    /// has parsed them.
    pub fn push(&mut self, owner: Owner, entry: DurableEntry, pool: &mut BufferPool) {
        let need = Need::of(&entry);
        let listed = match &entry {
            DurableEntry::Batches { batches, tags, .. } => {
                let (records, tags_bytes) = measure(batches);
                assert!(records > 0 && tags.len() == tags_bytes, "a run has batches, and the Tags of each");
                let offset = self.push_data(batches, need, pool);
                Entry::of(&entry, offset, records)
            }
            DurableEntry::Checkpoint { bytes, .. } => Entry::of(&entry, self.push_data(bytes, need, pool), 0),
            _ => Entry::of(&entry, 0, 0),
        };
        listed.encode(owner, &mut self.directory);
        self.entries += 1;
        self.vital += u32::from(listed.is_vital());
        // A page full of commit indices has waited long enough.
        self.forcing |= listed.is_forcing() || self.directory.len() > COMMITS_WAITING_BYTES_MAX;
        if let DurableEntry::Batches { tags, .. } = entry {
            self.tags_bytes += tags.len();
            self.tags.push(tags);
        }
    }

    /// Returns where the data begins, in units of 8 bytes. What follows begins at such a unit too.
    fn push_data(&mut self, data: &[u8], need: Need, pool: &mut BufferPool) -> u32 {
        let room = HEADER_BYTES + self.directory.len() + need.data_bytes + need.directory_bytes;
        let buffer = self.buffer.get_or_insert_with(|| new_buffer(pool, room));
        let start = buffer.len();
        buffer.push(data);
        buffer.pad_to(start + need.data_bytes);
        self.data_checksum.update(&buffer[start..]);
        (start / 8) as u32
    }

    /// Makes the block's bytes, for this place. The header's sizes, checksum and counts are filled
    /// in here. What is left of `self` is the directory and the tags, for the footer.
    pub fn close(&mut self, mut header: BlockHeader, pool: &mut BufferPool) -> BlockBuffer {
        let need = self.need();
        let mut buffer = self.buffer.take().unwrap_or_else(|| new_buffer(pool, need.block_bytes()));
        move_runs(&mut self.directory, header.place * (ALIGNMENT / 8) as u32);
        header.data_bytes = need.data_bytes as u32;
        header.data_checksum = std::mem::take(&mut self.data_checksum).finalize();
        header.directory_bytes = need.directory_bytes as u32;
        header.entries = self.entries;
        buffer.push(&self.directory);
        buffer.pad_to(need.block_bytes());
        header.write(&mut buffer, &self.directory);
        buffer
    }

    /// Makes it ready for other entries; its memory stays.
    pub fn clear(&mut self) {
        assert!(self.buffer.is_none(), "a block is closed before it is cleared");
        self.directory.clear();
        self.tags.clear();
        (self.tags_bytes, self.entries, self.vital, self.forcing) = (0, 0, 0, false);
    }
}

fn new_buffer(pool: &mut BufferPool, bytes: usize) -> BlockBuffer {
    let mut buffer = pool.take(bytes);
    buffer.pad_to(HEADER_BYTES);
    buffer
}

/// How many records a run of batches has, and how many bytes their Tags entries, by its frames'
/// headers.
fn measure(batches: &[u8]) -> (u32, usize) {
    let headers = batch_headers(batches).map(|header| header.expect("machines append whole frames").1);
    headers.fold((0, 0), |(records, tags_bytes), header| {
        (records + u32::from(header.count), tags_bytes + TAGS_HEAD_BYTES + header.metadata_bytes as usize)
    })
}

/// The header of a block to come; [`Gathering::close`] fills in the rest.
pub(crate) fn header_at(kind: BlockKind, place: u32, journal_id: u64, segment: u32, use_number: u32) -> BlockHeader {
    BlockHeader {
        kind,
        journal_id,
        segment,
        use_number,
        place,
        data_checksum: 0,
        data_bytes: 0,
        directory_bytes: 0,
        number: 0,
        incarnation: 0,
        incarnation_first: 0,
        durable: 0,
        vital: 0,
        entries: 0,
    }
}
