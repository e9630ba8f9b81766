//! A journal's numbers, for `sealog status` and for tests.

use crate::scrub::ScrubStatus;

/// Counters since the journal was opened, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// Segments that hold entries, the open one included.
    pub segments: u64,
    /// Segments that wait to be used.
    pub segments_prepared: u64,
    /// Files of segments that nobody needs: they are used again, or removed.
    pub segments_free: u64,
    /// Segments that all machines gave back, since the journal was opened.
    pub segments_released: u64,
    /// Of these, files that were used again, and that were removed.
    pub segments_recycled: u64,
    pub segments_removed: u64,
    /// The segment that is written now.
    pub open_segment: Option<u32>,
    /// Bytes that blocks may still take in it, its footer's room set aside.
    pub open_segment_bytes_left: u64,
    /// The journal's life: raised at each recovery.
    pub incarnation: u64,
    /// How many blocks, since the journal was made, are durable.
    pub durable_blocks: u64,
    pub blocks_written: u64,
    /// Of these, durable marks.
    pub marks_written: u64,
    pub footers_written: u64,
    /// Bytes of all completed writes: blocks with their padding, footers, trailers.
    pub bytes_written: u64,
    /// Bytes of batches that were appended.
    pub batch_bytes: u64,
    pub entries: u64,
    pub writes_in_flight: usize,
    /// Whether all that was given and has to be durable is.
    pub all_durable: bool,
    /// Blocks that wait for a write, and the bytes of their entries.
    pub blocks_queued: usize,
    pub bytes_queued: usize,
    /// Bytes of Tags that are held for footers to come.
    pub footer_bytes_in_memory: u64,
    pub is_full: bool,
    /// Damaged ranges found when the journal was opened, in segments that are still there.
    pub damages: u64,
    pub scrub: ScrubStatus,
}
