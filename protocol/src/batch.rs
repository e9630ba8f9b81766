//! Batches: the one encoding of records, from the client that makes it to the client that reads it.
//!
//! A batch is a [`FrameKind::Batch`] frame: [`BatchMetadata`] as rkyv metadata, the records'
//! payloads one after the other. The frame's checksum covers the metadata, which holds a checksum
//! for each payload. So a part of a batch (its metadata and some of the payloads) can be sent to a
//! reader who verifies it all the same, and the Tags stream carries the metadata alone.

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

use crate::frame::{Frame, FrameError, FrameKind, write_frame};
use crate::ids::{LogBookId, RequestNumber, SessionId, Tag};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BATCH_TAGS_MAX, RECORD_BYTES_MAX, TAGS_PER_RECORD_MAX};
use crate::seqnum::SeqNum;

/// What a batch says of itself, beside its payloads.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BatchMetadata {
    pub logbook: u64,
    pub session: u64,
    pub request: u64,
    /// The session's lowest request number without an answer when this was sent.
    pub lowest_unanswered: u64,
    /// The client's clock, milliseconds since 1970, advisory.
    pub time_ms: u64,
    pub condition: Option<Box<BatchCondition>>,
    pub records: Vec<RecordMetadata>,
}

/// The batch is void unless the tail of `tag` is at most `expected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct BatchCondition {
    pub tag: u64,
    /// A SeqNum; 0: no record ever.
    pub expected: u64,
}

/// What a batch says of one of its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RecordMetadata {
    pub payload_bytes: u32,
    pub payload_checksum: u32,
    pub tags: Vec<u64>,
}

/// One record to be appended.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    pub tags: &'a [Tag],
    pub payload: &'a [u8],
}

/// All of a batch but its records.
#[derive(Clone, Copy, Debug)]
pub struct BatchHead {
    pub logbook: LogBookId,
    pub session: SessionId,
    pub request: RequestNumber,
    pub lowest_unanswered: RequestNumber,
    pub time_ms: u64,
    pub condition: Option<(Tag, SeqNum)>,
}

/// Why records can't be a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    #[error("a batch needs at least one record")]
    Empty,
    #[error("a record of {bytes} bytes is over the limit of {RECORD_BYTES_MAX} (1 MiB): split it")]
    RecordTooLarge { bytes: usize },
    #[error("a batch of {bytes} bytes is over the limit of {BATCH_BYTES_MAX} (1 MiB): append it in parts")]
    BatchTooLarge { bytes: usize },
    #[error("{records} records in a batch are over the limit of {BATCH_RECORDS_MAX}: append them in parts")]
    TooManyRecords { records: usize },
    #[error("{tags} tags on a record are over the limit of {TAGS_PER_RECORD_MAX}")]
    TooManyTags { tags: usize },
    #[error("{tags} tags in a batch are over the limit of {BATCH_TAGS_MAX}: append it in parts")]
    TooManyBatchTags { tags: usize },
    #[error("tag 0 means \"every record\" and cannot be set")]
    TagZero,
}

/// Checks the limits that [`write_batch`] relies on.
pub fn check_records(records: &[NewRecord<'_>]) -> Result<(), BatchError> {
    check_sizes(records.iter().map(|record| (record.payload.len(), record.tags.len())))?;
    if records.iter().any(|record| record.tags.contains(&Tag::ALL)) {
        return Err(BatchError::TagZero);
    }
    Ok(())
}

fn check_sizes(records: impl ExactSizeIterator<Item = (usize, usize)>) -> Result<(), BatchError> {
    let (count, mut bytes, mut tags) = (records.len(), 0, 0);
    if count == 0 {
        return Err(BatchError::Empty);
    }
    if count > BATCH_RECORDS_MAX {
        return Err(BatchError::TooManyRecords { records: count });
    }
    for (payload_bytes, record_tags) in records {
        if payload_bytes > RECORD_BYTES_MAX {
            return Err(BatchError::RecordTooLarge { bytes: payload_bytes });
        }
        if record_tags > TAGS_PER_RECORD_MAX {
            return Err(BatchError::TooManyTags { tags: record_tags });
        }
        bytes += payload_bytes;
        tags += record_tags;
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(BatchError::BatchTooLarge { bytes });
    }
    if tags > BATCH_TAGS_MAX {
        return Err(BatchError::TooManyBatchTags { tags });
    }
    Ok(())
}

/// Appends a batch frame to `out`, with `place` (a request id) in its header. A record's tags are
/// kept in the order given, without repeats.
///
/// # Errors
/// When the records are over a limit; `out` is then as it was.
pub fn write_batch(
    out: &mut Vec<u8>,
    place: u64,
    head: &BatchHead,
    records: &[NewRecord<'_>],
) -> Result<(), BatchError> {
    BatchWriter::default().write(out, place, head, records)
}

/// Writes batches one after the other. It keeps its memory: a client that writes hundreds of thousands
/// a second, most of one record, does so without an allocation.
#[derive(Default)]
pub struct BatchWriter {
    records: Vec<RecordMetadata>,
}

impl BatchWriter {
    /// As [`write_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        place: u64,
        head: &BatchHead,
        records: &[NewRecord<'_>],
    ) -> Result<(), BatchError> {
        check_records(records)?;
        self.records.resize_with(records.len(), RecordMetadata::default);
        for (metadata, record) in self.records.iter_mut().zip(records) {
            metadata.payload_bytes = record.payload.len() as u32;
            metadata.payload_checksum = crc32fast::hash(record.payload);
            take_distinct(&mut metadata.tags, record.tags);
        }
        let metadata = BatchMetadata {
            logbook: head.logbook.0,
            session: head.session.0,
            request: head.request.0,
            lowest_unanswered: head.lowest_unanswered.0,
            time_ms: head.time_ms,
            condition: head
                .condition
                .map(|(tag, expected)| Box::new(BatchCondition { tag: tag.0, expected: expected.0 })),
            records: std::mem::take(&mut self.records),
        };
        write_metadata(out, place, &metadata, records);
        self.records = metadata.records;
        Ok(())
    }
}

fn write_metadata(out: &mut Vec<u8>, place: u64, metadata: &BatchMetadata, records: &[NewRecord<'_>]) {
    let count = records.len() as u16;
    let mut scratch = [0u8; 256];
    let short =
        rkyv::api::high::to_bytes_in::<_, rancor::Failure>(metadata, rkyv::ser::writer::Buffer::from(&mut scratch[..]));
    match (short, records) {
        (Ok(bytes), [record]) => write_frame(out, FrameKind::Batch, place, count, &bytes, &[record.payload]),
        (short, _) => {
            let payloads: Vec<&[u8]> = records.iter().map(|record| record.payload).collect();
            match short {
                Ok(bytes) => write_frame(out, FrameKind::Batch, place, count, &bytes, &payloads),
                // Longer than the scratch.
                Err(_) => {
                    let bytes = rkyv::to_bytes::<rancor::Error>(metadata).expect("serialising into memory cannot fail");
                    write_frame(out, FrameKind::Batch, place, count, &bytes, &payloads);
                }
            }
        }
    }
}

fn take_distinct(distinct: &mut Vec<u64>, tags: &[Tag]) {
    distinct.clear();
    for tag in tags {
        if !distinct.contains(&tag.0) {
            distinct.push(tag.0);
        }
    }
}

/// A batch, or a part of one, read in place. Its metadata has been checked.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub frame: Frame<'a>,
    pub metadata: &'a ArchivedBatchMetadata,
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`, wholly verified: checksums, limits, and that its payloads
    /// are all there. For bytes that come from a client or from a disk.
    pub fn parse(bytes: &'a [u8]) -> Result<Batch<'a>, FrameError> {
        let batch = Self::parse_metadata(Frame::parse(bytes)?.ok_or(FrameError::Truncated)?)?;
        let mut at = 0;
        for record in batch.metadata.records.iter() {
            let end = at + record.payload_bytes.to_native() as usize;
            let payload = batch.frame.payload.get(at..end).ok_or(FrameError::Metadata)?;
            if crc32fast::hash(payload) != record.payload_checksum.to_native() {
                return Err(FrameError::Checksum);
            }
            at = end;
        }
        if at != batch.frame.payload.len() {
            return Err(FrameError::Metadata);
        }
        Ok(batch)
    }

    /// The batch of a frame whose checksum was verified. Payloads are not looked at.
    pub fn parse_metadata(frame: Frame<'a>) -> Result<Batch<'a>, FrameError> {
        if frame.header.kind != FrameKind::Batch {
            return Err(FrameError::Kind(frame.header.kind as u8));
        }
        let metadata = access_metadata(frame.metadata)?;
        if metadata.records.len() != usize::from(frame.header.count) {
            return Err(FrameError::Metadata);
        }
        Ok(Batch { frame, metadata })
    }
}

/// Checked access to the metadata of a batch; also what an entry of the Tags stream holds.
pub fn access_metadata(bytes: &[u8]) -> Result<&ArchivedBatchMetadata, FrameError> {
    let metadata = rkyv::access::<ArchivedBatchMetadata, rancor::Failure>(bytes).map_err(|_| FrameError::Metadata)?;
    let sizes = metadata.records.iter().map(|record| (record.payload_bytes.to_native() as usize, record.tags.len()));
    check_sizes(sizes).map_err(|_| FrameError::Metadata)?;
    Ok(metadata)
}

impl ArchivedBatchMetadata {
    pub fn logbook(&self) -> LogBookId {
        LogBookId(self.logbook.to_native())
    }

    pub fn session(&self) -> SessionId {
        SessionId(self.session.to_native())
    }

    pub fn request(&self) -> RequestNumber {
        RequestNumber(self.request.to_native())
    }

    pub fn lowest_unanswered(&self) -> RequestNumber {
        RequestNumber(self.lowest_unanswered.to_native())
    }

    /// By the client's clock, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms.to_native()
    }

    /// Of all its records.
    pub fn payload_bytes(&self) -> u64 {
        self.records.iter().map(|record| u64::from(record.payload_bytes.to_native())).sum()
    }

    pub fn condition(&self) -> Option<(Tag, SeqNum)> {
        let condition = self.condition.as_ref()?;
        Some((Tag(condition.tag.to_native()), SeqNum(condition.expected.to_native())))
    }
}

impl ArchivedRecordMetadata {
    pub fn tags(&self) -> impl ExactSizeIterator<Item = Tag> + '_ {
        self.tags.iter().map(|tag| Tag(tag.to_native()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> BatchHead {
        BatchHead {
            logbook: LogBookId(3),
            session: SessionId(4),
            request: RequestNumber(5),
            lowest_unanswered: RequestNumber(2),
            time_ms: 6,
            condition: None,
        }
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        write_batch(&mut out, 9, &head(), &[NewRecord { tags: &[Tag(7)], payload: b"hello" }]).expect("small");
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the byte format of batches changed: it is on disks");
    }

    /// Header; payload 5 bytes, checksum, tags; logbook 3, session 4, request 5, lowest 2, time 6; no
    /// condition; one record; "hello"; padding.
    const GOLDEN: &str = concat!(
        "a15e01014d000000050000000100000077f010f7751750fd0900000000000000",
        "07000000000000000500000086a61036f0ffffff01000000",
        "03000000000000000400000000000000050000000000000002000000000000000600000000000000",
        "0000000000c3ffffff01000000",
        "68656c6c6f000000000000"
    );

    #[test]
    fn a_writer_that_is_used_again_writes_the_same_bytes() {
        let large = vec![3; 100];
        let many: Vec<NewRecord<'_>> =
            (0..50).map(|_| NewRecord { tags: &[Tag(1), Tag(2)], payload: &large }).collect();
        let one = [NewRecord { tags: &[Tag(7)], payload: b"hello" }];
        let mut writer = BatchWriter::default();
        for records in [&many[..], &one, &many[..3], &one] {
            let (mut used, mut fresh) = (Vec::new(), Vec::new());
            writer.write(&mut used, 9, &head(), records).expect("small");
            write_batch(&mut fresh, 9, &head(), records).expect("small");
            assert_eq!(used, fresh);
        }
    }

    #[test]
    fn one_kib_with_one_tag_costs_112_bytes_more() {
        let mut out = Vec::new();
        write_batch(&mut out, 0, &head(), &[NewRecord { tags: &[Tag(7)], payload: &[1; 1024] }]).expect("small");
        assert_eq!(out.len() - 1024, 112);
    }

    #[test]
    fn round_trip_with_condition_and_repeated_tags() {
        let mut out = Vec::new();
        let head = BatchHead { condition: Some((Tag(1), SeqNum(8))), ..head() };
        let records =
            [NewRecord { tags: &[Tag(7), Tag(7), Tag(8)], payload: b"a" }, NewRecord { tags: &[], payload: b"" }];
        write_batch(&mut out, 1, &head, &records).expect("small");
        let batch = Batch::parse(&out).expect("what was written");
        assert_eq!(batch.metadata.condition(), Some((Tag(1), SeqNum(8))));
        let tags: Vec<Vec<Tag>> = batch.metadata.records.iter().map(|record| record.tags().collect()).collect();
        assert_eq!(tags, [vec![Tag(7), Tag(8)], vec![]]);
    }

    #[test]
    fn limits_are_refused_with_what_they_are() {
        let mut out = Vec::new();
        let large = vec![0; RECORD_BYTES_MAX + 1];
        let many_tags = vec![Tag(1); TAGS_PER_RECORD_MAX + 1];
        let cases: [(&[NewRecord<'_>], BatchError); 4] = [
            (&[], BatchError::Empty),
            (&[NewRecord { tags: &[], payload: &large }], BatchError::RecordTooLarge { bytes: large.len() }),
            (&[NewRecord { tags: &many_tags, payload: b"" }], BatchError::TooManyTags { tags: 65 }),
            (&[NewRecord { tags: &[Tag(0)], payload: b"" }], BatchError::TagZero),
        ];
        for (records, expected) in cases {
            assert_eq!(write_batch(&mut out, 0, &head(), records), Err(expected));
        }
        assert!(out.is_empty());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = Vec::new();
        write_batch(&mut out, 0, &head(), &[NewRecord { tags: &[Tag(7)], payload: b"hello" }]).expect("small");
        let content_end = crate::frame::HEADER_BYTES + 77 + "hello".len();
        let content = crate::frame::HEADER_BYTES * 8..content_end * 8;
        for bit in (0..160).chain(content) {
            let mut flipped = out.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::parse(&flipped).is_err(), "bit {bit}");
        }
    }
}
