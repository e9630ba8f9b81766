//! What a journal is told when it begins.

use std::time::Duration;

use sealog_protocol::ids::LogspaceId;
use sealog_protocol::machine::Role;

use crate::ALIGNMENT;
use crate::scrub::ScrubConfig;

/// Whose entry it is: machines of one executor share its journal.
pub type Owner = (LogspaceId, Role);

/// Bytes of a segment file in production.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest segment: a few blocks, a footer, a trailer. Simulations draw small ones.
pub const SEGMENT_BYTES_MIN: u64 = 8 * ALIGNMENT as u64;
/// Segments that a bound allows at least: one that is written, one that is sealed, two prepared ones,
/// and two to move what lives to.
pub const SEGMENTS_MIN: usize = 6;
/// Largest segment: offsets in units of 8 bytes fit 32 bits with room to spare.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 32;

/// Sizes and times of a journal. The defaults are production's; simulations draw others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Bytes of each segment file that is made from now on; a multiple of 4096. Those that exist
    /// keep their size.
    pub segment_bytes: u64,
    /// A block is closed before it grows beyond this; a larger single entry gets a block of its own.
    pub block_bytes_max: usize,
    /// Segment files that there may be, prepared ones included; 0: as many as fit the disk. At the
    /// bound the journal is full as it is when the disk is.
    pub segments_max: usize,
    /// Machines are asked to vacate segments of which little is held.
    pub asks_to_vacate: bool,
    /// Blocks that are written at once. One write of a footer may come on top.
    pub writes_in_flight_max: usize,
    /// After this long without a write, what is durable is marked so on disk.
    pub idle_mark: Duration,
    /// How often, and how fast, what was written is read again.
    pub scrub: ScrubConfig,
    /// Drawn at random when the journal is made, kept by the node, part of every checksum: blocks
    /// of another journal are never taken for ours.
    pub journal_id: u64,
}

impl JournalConfig {
    /// Production's sizes for this journal.
    pub fn new(journal_id: u64) -> JournalConfig {
        JournalConfig {
            segment_bytes: SEGMENT_BYTES,
            segments_max: 0,
            // Simulated storages that were asked lost records: off until it is known why.
            asks_to_vacate: true,
            block_bytes_max: 1 << 20,
            writes_in_flight_max: 3,
            idle_mark: Duration::from_millis(200),
            scrub: ScrubConfig::OFF,
            journal_id,
        }
    }

    /// Panics when a size makes no sense: configuration is parsed before it comes here.
    pub(crate) fn check(&self) {
        assert!(self.segment_bytes.is_multiple_of(ALIGNMENT as u64), "segments are whole multiples of {ALIGNMENT}");
        assert!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes),
            "a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes"
        );
        assert!(self.block_bytes_max >= ALIGNMENT, "a block has at least {ALIGNMENT} bytes");
        assert!(
            self.segments_max == 0 || self.segments_max >= SEGMENTS_MIN,
            "a journal has room for {SEGMENTS_MIN} segments at least"
        );
        assert!(self.writes_in_flight_max > 0, "at least one write at a time");
    }
}
