//! What recovery found.

use sealog_protocol::limits::{DISK_VERSION, DISK_VERSION_OLDEST};
use thiserror::Error;

use crate::config::Owner;
use crate::source::SourceError;

/// Damaged ranges that a report lists one by one; more are only counted.
pub const DAMAGES_MAX: usize = 1024;

/// Why a journal cannot be opened. Nothing was changed on disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "segment {segment}, offset {offset}: written in disk format version {found}, but this build reads {DISK_VERSION_OLDEST} to {DISK_VERSION}: \
         start the release that wrote it"
    )]
    Version { segment: u32, offset: u64, found: u8 },
    #[error(
        "segment {segment} belongs to journal {found:#018x}, not to {expected:#018x} which the node's identity names: \
         the identity file or the segment files come from another data directory; put back the ones that belong together"
    )]
    ForeignJournal { segment: u32, found: u64, expected: u64 },
    #[error(
        "segment {segment}, offset {offset}: {lost} metalog entries or seals were lost to damage of the disk, and there is \
         no other copy here: restore the data directory from a copy, or remove this node and let the others repair it \
         (`sealog inspect` shows what is readable)"
    )]
    MetalogDamaged { segment: u32, offset: u64, lost: u64 },
    #[error(
        "segment {segment}, offset {offset}: a block whose checksum is right cannot be understood ({reason}): this is a bug \
         of the release that wrote it, please report it with the output of `sealog inspect`"
    )]
    Malformed { segment: u32, offset: u64, reason: &'static str },
}

/// A part of the journal that was durable once, and is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kind: DamageKind,
    pub segment: u32,
    /// Where the damaged range begins in the segment, and how long it is, in bytes.
    pub offset: u64,
    pub bytes: u64,
}

/// A machine that has something in a damaged segment, to be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotten {
    pub owner: Owner,
    pub damage: Damage,
    /// Recovery found it so, and did not hand over all that was there.
    pub is_missing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DamageKind {
    /// Records in this block do not match its checksum. What describes them does: each record that
    /// is damaged fails when it is read, the others are served.
    Data = 1,
    /// Whole blocks are unreadable: records are missing. No metalog entry is among them.
    Blocks = 2,
    /// A footer is damaged. The segment was read block by block instead: nothing is missing.
    Footer = 3,
}

impl DamageKind {
    /// In a word, for logs and `status`.
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::Data => "data",
            DamageKind::Blocks => "blocks",
            DamageKind::Footer => "footer",
        }
    }
}

/// The tail that a crash left half written, and that recovery cut off. Nothing of it had been
/// reported durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub segment: u32,
    pub offset: u64,
    /// Whole blocks beyond the first torn one that were cut off with it.
    pub valid_blocks_dropped: u64,
}

/// What recovery found, for the log, for `status`, for `inspect`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments of which the footer was read.
    pub sealed_segments: u64,
    /// Segments that were read block by block.
    pub scanned_segments: u64,
    /// Files that hold nothing of this journal: prepared for use.
    pub prepared_segments: u64,
    /// Files of segments that were given back: to be used again.
    pub freed_segments: u64,
    /// Blocks that were read one by one.
    pub scanned_blocks: u64,
    pub entries: u64,
    pub bytes_read: u64,
    pub torn_tail: Option<TornTail>,
    /// The first [`DAMAGES_MAX`] damaged ranges.
    pub damages: Vec<Damage>,
    /// All damaged ranges.
    pub damages_total: u64,
}

impl RecoveryReport {
    /// Something that was durable is damaged: the node says so in its status.
    pub fn is_degraded(&self) -> bool {
        self.damages_total > 0
    }

    pub(crate) fn add_damage(&mut self, damage: Damage) {
        self.damages_total += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        }
    }
}
