//! The journal of one executor: entries in, blocks out, durability in order.

use sealog_protocol::ids::ShardId;
use sealog_protocol::machine::{DurableEntry, JournalPlace, Recovered};
use sealog_protocol::time::Time;

use crate::buffer::BlockBuffer;
use crate::config::{JournalConfig, Owner};
use crate::report::{RecoveryError, RecoveryReport};
use crate::source::SegmentSource;
use crate::status::JournalStatus;
use crate::tags::TagsSource;

/// A write that the driver is to make: exactly these bytes, there, durable when it completes
/// (O_DIRECT with RWF_DSYNC). Writes in flight may complete in any order.
#[derive(Debug)]
pub struct BlockWrite {
    pub id: u64,
    pub segment: u32,
    /// A multiple of 4096, as is the buffer's length and its address.
    pub offset: u64,
    pub buffer: BlockBuffer,
}

/// The journal that the machines of one executor share.
pub struct Journal {
    report: RecoveryReport,
}

impl Journal {
    /// Opens a journal: hands every entry that is in it to `sink`, in the order of appending.
    /// A source without segments is a new journal. All that was handed over is durable.
    pub fn recover(
        config: JournalConfig,
        _source: &mut dyn SegmentSource,
        _sink: &mut dyn FnMut(Owner, Recovered<'_>),
    ) -> Result<Journal, RecoveryError> {
        config.check();
        Ok(Journal { report: RecoveryReport::default() })
    }

    /// Takes an entry into the block that is being gathered. It is written by a later
    /// [`Journal::next_write`], and reported by [`Journal::next_durable`].
    pub fn append(&mut self, _now: Time, _owner: Owner, _entry: DurableEntry) {}

    /// The next write, if one can go now. The driver calls it at the end of each turn, after each
    /// [`Journal::write_done`] and [`Journal::segment_ready`], and at the deadline, until `None`.
    pub fn next_write(&mut self, _now: Time) -> Option<BlockWrite> {
        None
    }

    /// A write completed, in its full length. There is no way to say that it failed: the driver
    /// stops the process then, for nobody knows what such a write left on the disk.
    pub fn write_done(&mut self, _now: Time, _id: u64, _buffer: BlockBuffer) {}

    /// The oldest entry that is durable and was not yet reported, and where it lies.
    pub fn next_durable(&mut self) -> Option<(Owner, JournalPlace)> {
        None
    }

    /// The number of a segment file to be created (or renamed from one that is no longer needed)
    /// and zeroed. Each number is given out once; the driver retries by itself after a failure.
    pub fn wanted_segment(&mut self) -> Option<u32> {
        None
    }

    pub fn segment_ready(&mut self, _segment: u32) {}

    /// A segment could not be prepared, for lack of space. The driver tries again now and then.
    pub fn segment_failed(&mut self, _segment: u32) {}

    /// The disk has no room for another segment, and what remains is needed for what is promised.
    pub fn is_full(&self) -> bool {
        false
    }

    /// When [`Journal::next_write`] wants to be called at the latest: the idle durable mark.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// Asks for a last durable mark: [`Journal::next_write`] gives it as soon as all else is
    /// durable. The driver goes on until [`Journal::is_settled`].
    pub fn stop(&mut self, _now: Time) {}

    /// Nothing is queued, in flight or left to be marked.
    pub fn is_settled(&self) -> bool {
        true
    }

    /// Where the Tags of durable batches of a shard in a segment are, from the first batch that
    /// ends after `from`.
    pub fn read_tags(&mut self, _owner: Owner, _shard: ShardId, _segment: u32, from: u64) -> TagsSource {
        TagsSource::Memory { first: from, entries: bytes::Bytes::new() }
    }

    /// Address and size of the buffers that are used in normal times, to be registered with the
    /// ring; see [`BlockBuffer::registered_index`].
    pub fn buffer_regions(&self) -> &[(usize, usize)] {
        &[]
    }

    pub fn status(&self) -> JournalStatus {
        JournalStatus::default()
    }

    /// What recovery found.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }
}
