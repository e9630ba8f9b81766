//! The Tags stream: of each batch all but its payloads, for indexes and for segment footers.
//!
//! An entry is `metadata bytes: u16`, `records: u16`, `frame bytes: u32`, then the batch's metadata
//! as it stands in its frame. The frame's size is there so that whoever knows where a run of batches
//! begins on a disk knows where each of them begins.

use bytes::BufMut;

use crate::batch::{ArchivedBatchMetadata, access_metadata};
use crate::frame::{Frame, FrameError, Header, u16_at, u32_at};

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
        out.put_u16_le(u16::try_from(frame.header.metadata_bytes).map_err(|_| FrameError::Metadata)?);
        out.put_u16_le(frame.header.count);
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

/// The head of an entry: what can be told of a batch without looking at its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead<'a> {
    /// How many records, and so shard positions, the batch has.
    pub records: u64,
    /// Bytes of the batch's frame, padding included.
    pub frame_bytes: u32,
    /// Bytes of this entry.
    pub entry_bytes: usize,
    metadata: &'a [u8],
}

impl<'a> EntryHead<'a> {
    /// The head of the first entry of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<EntryHead<'a>, FrameError> {
        if bytes.len() < ENTRY_HEAD_BYTES {
            return Err(FrameError::Truncated);
        }
        let (metadata_bytes, records) = (u16_at(bytes, 0), u16_at(bytes, 2));
        let entry_bytes = ENTRY_HEAD_BYTES + usize::from(metadata_bytes);
        let metadata = bytes.get(ENTRY_HEAD_BYTES..entry_bytes).ok_or(FrameError::Truncated)?;
        if records == 0 {
            return Err(FrameError::Metadata);
        }
        Ok(EntryHead { records: u64::from(records), frame_bytes: u32_at(bytes, 4), entry_bytes, metadata })
    }

    /// The batch's metadata, checked.
    pub fn metadata(&self) -> Result<&'a ArchivedBatchMetadata, FrameError> {
        let metadata = access_metadata(self.metadata)?;
        if metadata.records.len() as u64 != self.records { Err(FrameError::Metadata) } else { Ok(metadata) }
    }
}

/// The heads of all entries of `bytes`, in order; stops after the first error.
pub fn heads(bytes: &[u8]) -> impl Iterator<Item = Result<EntryHead<'_>, FrameError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let head = EntryHead::parse(rest);
        rest = head.map_or(&[], |head| &rest[head.entry_bytes..]);
        Some(head)
    })
}

/// The first entry of `bytes`, checked, and how many bytes it takes.
pub fn first_entry(bytes: &[u8]) -> Result<(TagsEntry<'_>, usize), FrameError> {
    let head = EntryHead::parse(bytes)?;
    Ok((TagsEntry { frame_bytes: head.frame_bytes, metadata: head.metadata()? }, head.entry_bytes))
}

/// All entries of `bytes`, in order; stops after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<TagsEntry<'_>, FrameError>> {
    heads(bytes).map(|head| {
        let head = head?;
        Ok(TagsEntry { frame_bytes: head.frame_bytes, metadata: head.metadata()? })
    })
}
