//! The Tags stream: of each batch all but its payloads, for indexes and for segment footers.
//!
//! An entry is `metadata bytes: u32`, `frame bytes: u32`, then the batch's metadata as it stands in
//! its frame. The frame's size is there so that whoever knows where a run of batches begins on a
//! disk knows where each of them begins.

use bytes::BufMut;

use crate::batch::{ArchivedBatchMetadata, access_metadata};
use crate::frame::{Frame, FrameError, Header, u32_at};

const ENTRY_HEAD_BYTES: usize = 8;

/// One batch, in the Tags stream.
#[derive(Clone, Copy)]
pub struct TagsEntry<'a> {
    /// Bytes of the batch's frame, padding included.
    pub frame_bytes: u32,
    pub metadata: &'a ArchivedBatchMetadata,
}

impl TagsEntry<'_> {
    /// How many records, and so shard positions, the batch has.
    pub fn records(&self) -> u64 {
        self.metadata.records.len() as u64
    }
}

/// Appends the entries of a run of batches to `out`; returns how many records they hold.
///
/// # Errors
/// When `batches` is not a run of whole batch frames. Checksums are not verified.
pub fn write_tags(out: &mut impl BufMut, batches: &[u8]) -> Result<u64, FrameError> {
    let (mut at, mut records) = (0, 0);
    while at < batches.len() {
        let frame = Frame::parse_unverified(&batches[at..])?.ok_or(FrameError::Truncated)?;
        out.put_u32_le(frame.header.metadata_bytes);
        out.put_u32_le(frame.bytes.len() as u32);
        out.put_slice(frame.metadata);
        records += u64::from(frame.header.count);
        at += frame.bytes.len();
    }
    Ok(records)
}

/// The headers of a run of batches, and where each begins. Checksums are not verified.
pub fn batch_headers(batches: &[u8]) -> impl Iterator<Item = Result<(usize, Header), FrameError>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= batches.len() {
            return None;
        }
        let start = at;
        let header = match Header::parse(&batches[at..]) {
            Ok(Some(header)) if batches.len() - at >= header.frame_bytes() => header,
            Ok(_) => {
                at = batches.len();
                return Some(Err(FrameError::Truncated));
            }
            Err(error) => {
                at = batches.len();
                return Some(Err(error));
            }
        };
        at += header.frame_bytes();
        Some(Ok((start, header)))
    })
}

/// The first entry of `bytes`, checked, and how many bytes it takes.
pub fn first_entry(bytes: &[u8]) -> Result<(TagsEntry<'_>, usize), FrameError> {
    if bytes.len() < ENTRY_HEAD_BYTES {
        return Err(FrameError::Truncated);
    }
    let end = ENTRY_HEAD_BYTES + u32_at(bytes, 0) as usize;
    let metadata = bytes.get(ENTRY_HEAD_BYTES..end).ok_or(FrameError::Truncated)?;
    Ok((TagsEntry { frame_bytes: u32_at(bytes, 4), metadata: access_metadata(metadata)? }, end))
}

/// All entries of `bytes`, in order; stops after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<TagsEntry<'_>, FrameError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match first_entry(rest) {
            Ok((entry, bytes)) => {
                rest = &rest[bytes..];
                Some(Ok(entry))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}
