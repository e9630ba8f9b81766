//! The checkpoint of an index: all of it at one place of the metalog, in parts.
//!
//! It is written while the index goes on. From [`Index::freeze`] to [`Index::thaw`] lists only grow, so
//! what is below the SeqNum of that place are the lists as they were; trim points and names that change
//! meanwhile are remembered as they were. Sessions, which change with every append, are encoded at once.
//!
//! ```text
//!  part:    | version 1 | 0 0 0 | checksum 4, of what follows | records |
//!  record:  | kind 1 | fields: varints |
//!  list:    | token … | 0 |     1: the next is dead, 2 n: it has n living tags, else 2 + the difference
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use sealog_protocol::metalog::{read_byte, read_varint};
use sealog_protocol::{LogBookId, SeqNum, Tag};
use thiserror::Error;

use super::Index;

mod load;
mod write;

pub use load::{Loaded, Loader};
pub use write::Writer;

const VERSION: u8 = 1;
const PART_HEAD_BYTES: usize = 8;

const HEAD: u8 = 1;
const LOST: u8 = 2;
const SESSION: u8 = 3;
const RETENTION: u8 = 4;
const BOOK: u8 = 5;
const TAG: u8 = 6;
const RUN: u8 = 7;
const SHARD: u8 = 8;

/// The token that ends a list.
const END: u64 = 0;
const DEAD: u64 = 1;
const LIVING: u64 = 2;

/// A part is damaged, or of another version: nothing of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PartError {
    #[error("the part's checksum does not match: it is damaged")]
    Checksum,
    #[error("the part is of version {0}, this build reads version {VERSION}")]
    Version(u8),
    #[error("the part's content makes no sense")]
    Malformed,
}

impl From<sealog_protocol::metalog::EntryError> for PartError {
    fn from(_: sealog_protocol::metalog::EntryError) -> PartError {
        PartError::Malformed
    }
}

/// What an index was when its checkpoint began, where it has changed since.
#[derive(Debug)]
pub(super) struct Frozen {
    /// Records from here on came later.
    next: SeqNum,
    /// LogBooks from here on came later.
    books: usize,
    /// Trim points as they were.
    points: BTreeMap<(u32, Tag), SeqNum>,
    /// LogBooks that have got their names since.
    named: BTreeSet<u32>,
}

impl Index {
    /// Begins a checkpoint: sweeping stops, and what changes is remembered as it is.
    pub(super) fn freeze(&mut self, next: SeqNum) {
        self.frozen = Some(Frozen { next, books: self.books.len(), points: BTreeMap::new(), named: BTreeSet::new() });
    }

    /// All of the checkpoint was written, or nobody wants it any more.
    pub fn thaw(&mut self) {
        self.frozen = None;
    }

    pub(super) fn point_moves(&mut self, book: u32, tag: Tag, before: SeqNum) {
        if let Some(frozen) = &mut self.frozen {
            frozen.points.entry((book, tag)).or_insert(before);
        }
    }

    pub(super) fn name_comes(&mut self, book: u32) {
        if let Some(frozen) = &mut self.frozen {
            frozen.named.insert(book);
        }
    }
}

/// A part as it was made, verified: its records.
fn records_of(part: &[u8]) -> Result<&[u8], PartError> {
    let (head, records) = part.split_at_checked(PART_HEAD_BYTES).ok_or(PartError::Malformed)?;
    let checksum = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    if crc32fast::hash(records) != checksum {
        return Err(PartError::Checksum);
    }
    if head[0] != VERSION {
        return Err(PartError::Version(head[0]));
    }
    Ok(records)
}

fn finish_part(mut part: Vec<u8>) -> Bytes {
    let checksum = crc32fast::hash(&part[PART_HEAD_BYTES..]);
    part[4..8].copy_from_slice(&checksum.to_le_bytes());
    part.into()
}

fn new_part(bytes: usize) -> Vec<u8> {
    let mut part = Vec::with_capacity(bytes);
    part.put_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
    part
}

fn read_seqnum(rest: &mut &[u8]) -> Result<SeqNum, PartError> {
    Ok(SeqNum(read_varint(rest)?))
}

fn read_logbook(rest: &mut &[u8]) -> Result<LogBookId, PartError> {
    Ok(LogBookId(read_varint(rest)?))
}

/// Tags are hashes: eight bytes are shorter than a varint.
fn read_tag(rest: &mut &[u8]) -> Result<Tag, PartError> {
    let (tag, after) = rest.split_first_chunk::<8>().ok_or(PartError::Malformed)?;
    *rest = after;
    Ok(Tag(u64::from_le_bytes(*tag)))
}

fn read_small(rest: &mut &[u8]) -> Result<u32, PartError> {
    u32::try_from(read_varint(rest)?).map_err(|_| PartError::Malformed)
}

fn read_kind(rest: &mut &[u8]) -> Result<u8, PartError> {
    Ok(read_byte(rest)?)
}
