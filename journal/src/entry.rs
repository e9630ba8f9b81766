//! Entries as a directory lists them: the directory of a block, and that of a segment's footer.
//!
//! ```text
//!  0    1    2        4      8
//!  +----+----+--------+------+-------------------------------------------------------------------+
//!  |  1 |role|logspace| view | shard index 8 | first 8 | offset 4 | bytes 4 | records 4 | tags 4 |
//!  |  2 |role|logspace| view | from 8 | count 4 | bytes 4 | metalog entries, zeros up to 8         |
//!  |  3 |role|logspace| view | commit 8                                                           |
//!  |  4 |role|logspace| view |   a sequencer replica's seal                                       |
//!  |  5 |role|logspace| view |   a storage's seal                                                 |
//!  |  6 |role|logspace| view | index 8: the metalog's base                                       |
//!  |  7 |role|logspace| view | index 8 | part 4 | last 4 | offset 4 | bytes 4: of a checkpoint     |
//!  |  8 |   the journal's own: see `freed.rs`                                                       |
//!  +----+----+--------+------+-------------------------------------------------------------------+
//! ```
//!
//! `offset` is where a run of batches, or a part of an index checkpoint, begins in its segment, in
//! units of 8 bytes; `tags` how many bytes the run's Tags entries take in the segment's footer.

use sealog_protocol::ids::{LogspaceId, Place, ShardId, ViewNumber};
use sealog_protocol::machine::{DurableEntry, Role};

use crate::config::Owner;
use crate::freed::{FREED, Freed};
use crate::header::{u32_at, u64_at};

const BATCHES: u8 = 1;
const METALOG: u8 = 2;
const COMMIT: u8 = 3;
const SEQUENCER_SEAL: u8 = 4;
const STORAGE_SEAL: u8 = 5;
const METALOG_BASE: u8 = 6;
const CHECKPOINT: u8 = 7;

/// Bytes of the part that all entries have.
const HEAD_BYTES: usize = 8;
/// Bytes of a run of batches in a directory.
pub const BATCHES_BYTES: usize = 40;
const METALOG_HEAD_BYTES: usize = 24;
const CHECKPOINT_BYTES: usize = 32;
/// Where in its line an entry with data has its offset.
const OFFSET_AT: usize = 24;

/// A run of batches, as a directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub shard: ShardId,
    /// The first batch's first position.
    pub first: u64,
    /// Where it begins in its segment, in units of 8 bytes.
    pub offset: u32,
    pub bytes: u32,
    pub records: u32,
    pub tags_bytes: u32,
}

impl Run {
    /// The position after its last record.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.records))
    }
}

/// A part of an index checkpoint, as a directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the checkpoint.
    pub place: Place,
    pub part: u32,
    pub last: bool,
    /// Where it begins in its segment, in units of 8 bytes.
    pub offset: u32,
    pub bytes: u32,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Batches(Run),
    Metalog { view: ViewNumber, from: u64, count: u32, entries: &'a [u8] },
    Commit { view: ViewNumber, commit: u64 },
    SequencerSeal { view: ViewNumber },
    StorageSeal { view: ViewNumber },
    MetalogBase { place: Place },
    Checkpoint(Part),
}

impl<'a> Entry<'a> {
    /// What a machine appends, as a directory lists it.
    pub fn of(entry: &'a DurableEntry, offset: u32, records: u32) -> Entry<'a> {
        match entry {
            DurableEntry::Batches { shard, first, batches, tags } => Entry::Batches(Run {
                shard: *shard,
                first: *first,
                offset,
                bytes: batches.len() as u32,
                records,
                tags_bytes: tags.len() as u32,
            }),
            DurableEntry::Metalog { view, from, count, entries } => {
                Entry::Metalog { view: *view, from: *from, count: *count, entries }
            }
            DurableEntry::Commit { view, commit } => Entry::Commit { view: *view, commit: *commit },
            DurableEntry::SequencerSeal { view } => Entry::SequencerSeal { view: *view },
            DurableEntry::StorageSeal { view } => Entry::StorageSeal { view: *view },
            DurableEntry::MetalogBase { place } => Entry::MetalogBase { place: *place },
            DurableEntry::Checkpoint { place, part, last, bytes } => {
                Entry::Checkpoint(Part { place: *place, part: *part, last: *last, offset, bytes: bytes.len() as u32 })
            }
        }
    }

    /// Losing it could break a promise: metalog entries, their base, and seals. Lost records are
    /// noticed by whoever reads them, a lost commit index is learned again, a checkpoint has copies.
    pub fn is_vital(&self) -> bool {
        match self {
            Entry::Metalog { .. }
            | Entry::SequencerSeal { .. }
            | Entry::StorageSeal { .. }
            | Entry::MetalogBase { .. } => true,
            Entry::Batches(_) | Entry::Commit { .. } | Entry::Checkpoint(_) => false,
        }
    }

    /// It wants to be written soon. A commit index waits for company.
    pub fn is_forcing(&self) -> bool {
        !matches!(self, Entry::Commit { .. })
    }

    /// Bytes that it takes in its segment, about.
    pub(crate) fn bytes(&self) -> u64 {
        let data_bytes = match self {
            Entry::Batches(run) => run.bytes,
            Entry::Checkpoint(part) => part.bytes,
            _ => 0,
        };
        u64::from(data_bytes) + self.encoded_bytes() as u64
    }

    /// Bytes of its encoding.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Entry::Batches(_) => BATCHES_BYTES,
            Entry::Metalog { entries, .. } => METALOG_HEAD_BYTES + entries.len().next_multiple_of(8),
            Entry::Commit { .. } | Entry::MetalogBase { .. } => HEAD_BYTES + 8,
            Entry::Checkpoint(_) => CHECKPOINT_BYTES,
            Entry::SequencerSeal { .. } | Entry::StorageSeal { .. } => HEAD_BYTES,
        }
    }

    /// Appends its encoding to `out`.
    pub fn encode(&self, owner: Owner, out: &mut Vec<u8>) {
        let mut head = |kind: u8, view: ViewNumber| {
            out.extend_from_slice(&[kind, owner.1 as u8]);
            out.extend_from_slice(&owner.0.0.to_le_bytes());
            out.extend_from_slice(&view.0.to_le_bytes());
        };
        match self {
            Entry::Batches(run) => {
                head(BATCHES, run.shard.view);
                out.extend_from_slice(&run.shard.index.to_le_bytes());
                out.extend_from_slice(&run.first.to_le_bytes());
                for field in [run.offset, run.bytes, run.records, run.tags_bytes] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
            Entry::Metalog { view, from, count, entries } => {
                head(METALOG, *view);
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
                out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
                out.extend_from_slice(entries);
                out.resize(out.len().next_multiple_of(8), 0);
            }
            Entry::Commit { view, commit } => {
                head(COMMIT, *view);
                out.extend_from_slice(&commit.to_le_bytes());
            }
            Entry::SequencerSeal { view } => head(SEQUENCER_SEAL, *view),
            Entry::StorageSeal { view } => head(STORAGE_SEAL, *view),
            Entry::MetalogBase { place } => {
                head(METALOG_BASE, place.view);
                out.extend_from_slice(&place.index.to_le_bytes());
            }
            Entry::Checkpoint(part) => {
                head(CHECKPOINT, part.place.view);
                out.extend_from_slice(&part.place.index.to_le_bytes());
                for field in [part.part, u32::from(part.last), part.offset, part.bytes] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
        }
    }

    /// The entry at the start of `bytes`, its owner, and how many bytes it takes.
    pub fn decode(bytes: &'a [u8]) -> Option<(Owner, Entry<'a>, usize)> {
        let head = bytes.get(..HEAD_BYTES)?;
        let owner = (LogspaceId(u16::from_le_bytes([head[2], head[3]])), role(head[1])?);
        let view = ViewNumber(u32_at(head, 4));
        let entry = match head[0] {
            BATCHES => {
                let body = bytes.get(..BATCHES_BYTES)?;
                Entry::Batches(Run {
                    shard: ShardId { view, index: u64_at(body, 8) },
                    first: u64_at(body, 16),
                    offset: u32_at(body, 24),
                    bytes: u32_at(body, 28),
                    records: u32_at(body, 32),
                    tags_bytes: u32_at(body, 36),
                })
            }
            METALOG => {
                let body = bytes.get(..METALOG_HEAD_BYTES)?;
                let end = METALOG_HEAD_BYTES + u32_at(body, 20) as usize;
                let entries = bytes.get(METALOG_HEAD_BYTES..end)?;
                Entry::Metalog { view, from: u64_at(body, 8), count: u32_at(body, 16), entries }
            }
            COMMIT => Entry::Commit { view, commit: u64_at(bytes.get(..HEAD_BYTES + 8)?, HEAD_BYTES) },
            SEQUENCER_SEAL => Entry::SequencerSeal { view },
            STORAGE_SEAL => Entry::StorageSeal { view },
            METALOG_BASE => {
                let index = u64_at(bytes.get(..HEAD_BYTES + 8)?, HEAD_BYTES);
                Entry::MetalogBase { place: Place { view, index } }
            }
            CHECKPOINT => {
                let body = bytes.get(..CHECKPOINT_BYTES)?;
                Entry::Checkpoint(Part {
                    place: Place { view, index: u64_at(body, 8) },
                    part: u32_at(body, 16),
                    last: match u32_at(body, 20) {
                        0 => false,
                        1 => true,
                        _ => return None,
                    },
                    offset: u32_at(body, OFFSET_AT),
                    bytes: u32_at(body, 28),
                })
            }
            _ => return None,
        };
        let encoded = entry.encoded_bytes();
        (encoded <= bytes.len()).then_some((owner, entry, encoded))
    }
}

/// A line of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// What a machine appended.
    Entry(Owner, Entry<'a>),
    /// The journal's own word on what is gone.
    Freed(Freed),
}

impl<'a> Line<'a> {
    /// The line at the start of `bytes`, and how many bytes it takes.
    fn decode(bytes: &'a [u8]) -> Option<(Line<'a>, usize)> {
        if bytes.first() == Some(&FREED) {
            let line = Freed::line(bytes)?;
            return Some((Line::Freed(Freed::decode(line)?), line.len()));
        }
        let (owner, entry, bytes) = Entry::decode(bytes)?;
        Some((Line::Entry(owner, entry), bytes))
    }
}

/// The lines of a directory, in order. Stops after an error, which is `Err`.
pub fn lines(directory: &[u8]) -> impl Iterator<Item = Result<Line<'_>, MalformedEntry>> {
    let mut rest = directory;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((line, bytes)) = Line::decode(rest) else {
            rest = &[];
            return Some(Err(MalformedEntry));
        };
        rest = &rest[bytes..];
        Some(Ok(line))
    })
}

/// What machines appended, of a directory, in order. Stops after an error, which is `Err`.
pub fn entries(directory: &[u8]) -> impl Iterator<Item = Result<(Owner, Entry<'_>), MalformedEntry>> {
    lines(directory).filter_map(|line| match line {
        Ok(Line::Entry(owner, entry)) => Some(Ok((owner, entry))),
        Ok(Line::Freed(_)) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

/// A directory whose checksum is right holds what is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedEntry;

/// Adds `base` to the offsets of all data: a block's place is known when it is written, not when
/// its entries come.
pub(crate) fn move_runs(directory: &mut [u8], base: u32) {
    let mut at = 0;
    while let Some((_, entry, bytes)) = Entry::decode(&directory[at..]) {
        let offset = match entry {
            Entry::Batches(run) => Some(run.offset),
            Entry::Checkpoint(part) => Some(part.offset),
            _ => None,
        };
        if let Some(offset) = offset {
            directory[at + OFFSET_AT..at + OFFSET_AT + 4].copy_from_slice(&(offset + base).to_le_bytes());
        }
        at += bytes;
    }
}

pub(crate) fn role(byte: u8) -> Option<Role> {
    [Role::Engine, Role::Storage, Role::Sequencer, Role::Controller].into_iter().find(|role| *role as u8 == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = (LogspaceId(0x0102), Role::Sequencer);
    const VIEW: ViewNumber = ViewNumber(3);
    const PLACE: Place = Place { view: VIEW, index: 18 };

    fn samples() -> [Entry<'static>; 7] {
        let run =
            Run { shard: ShardId { view: VIEW, index: 4 }, first: 5, offset: 6, bytes: 7, records: 8, tags_bytes: 9 };
        [
            Entry::Batches(run),
            Entry::Metalog { view: VIEW, from: 1, count: 2, entries: b"entries of it" },
            Entry::Commit { view: VIEW, commit: 17 },
            Entry::SequencerSeal { view: VIEW },
            Entry::StorageSeal { view: VIEW },
            Entry::MetalogBase { place: PLACE },
            Entry::Checkpoint(Part { place: PLACE, part: 2, last: true, offset: 3, bytes: 4 }),
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in samples() {
            entry.encode(OWNER, &mut bytes);
        }
        bytes
    }

    #[test]
    fn golden_bytes() {
        let hex: String = encoded().iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "0103020103000000",
            "04000000000000000500000000000000",
            "06000000070000000800000009000000",
            "0203020103000000",
            "0100000000000000020000000d000000",
            "656e7472696573206f66206974000000",
            "0303020103000000",
            "1100000000000000",
            "0403020103000000",
            "0503020103000000",
            "0603020103000000",
            "1200000000000000",
            "0703020103000000",
            "1200000000000000",
            "02000000010000000300000004000000",
        );
        assert_eq!(hex, golden, "the byte format of directories changed: it is on disks");
    }

    #[test]
    fn entries_round_trip_and_sizes_are_as_announced() {
        let bytes = encoded();
        let again: Vec<_> = entries(&bytes).map(|entry| entry.expect("what was encoded")).collect();
        assert_eq!(again, samples().map(|entry| (OWNER, entry)));
        assert_eq!(samples().iter().map(Entry::encoded_bytes).sum::<usize>(), bytes.len());
        assert!(entries(&bytes[..bytes.len() - 1]).any(|entry| entry.is_err()));
    }

    #[test]
    fn moving_touches_offsets_of_data_alone() {
        let mut bytes = encoded();
        move_runs(&mut bytes, 100);
        let mut expected = encoded();
        expected[OFFSET_AT] += 100;
        let part = expected.len() - CHECKPOINT_BYTES;
        expected[part + OFFSET_AT] += 100;
        assert_eq!(bytes, expected);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_decode_without_panic(bytes: Vec<u8>) {
            let _ = entries(&bytes).count();
        }
    }
}
