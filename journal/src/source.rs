//! What recovery reads from.

use thiserror::Error;

/// A file could not be read at all. Damaged content is no error here: recovery judges it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("segment {segment} cannot be read at offset {offset}: {reason}")]
pub struct SourceError {
    pub segment: u32,
    pub offset: u64,
    pub reason: String,
}

/// The segment files, for reading: a directory with O_DIRECT, a simulated disk, a copy.
pub trait SegmentSource {
    /// The numbers of all files whose preparation had ended, in any order. A file that is being
    /// prepared has another name until it is zeroed, and is not among them.
    fn segments(&mut self) -> Result<Vec<u32>, SourceError>;

    /// Bytes of a segment's file.
    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError>;

    /// Fills `buffer` from `offset`. Offset and length are multiples of 4096 within the file, and
    /// so is the buffer's address.
    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError>;

    /// Flushes the file: after a crash of the process alone, what is read of it may still be in a
    /// volatile cache, and must not be called durable before it is. Recovery calls this for the
    /// segments that were not sealed. A source that is read only for looking does nothing.
    fn sync(&mut self, _segment: u32) -> Result<(), SourceError> {
        Ok(())
    }
}
