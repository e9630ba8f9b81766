//! Frames: all that crosses a socket, and the form in which batches rest on disk.
//!
//! ```text
//!  0      2      3    4              8              12     14    16        20            24
//!  +------+------+----+--------------+--------------+------+-----+---------+-------------+-----------+
//!  |magic |versn |kind| metadata size| payload size |count |  0  |checksum | place check | place     |
//!  +------+------+----+--------------+--------------+------+-----+---------+-------------+-----------+
//!  32: metadata (rkyv), then payload, then zeros up to a multiple of 8
//! ```
//!
//! Little-endian. `checksum` is CRC-32 of bytes 0..16, the metadata, and the payload, but for kinds
//! whose payload checks itself ([`FrameKind::payload_checks_itself`]): its parts are never hashed
//! twice. `place` belongs to whoever carries the frame: a request's id, or a batch's first position
//! in its shard; `place check` is CRC-32 of (checksum, scope, place), so a batch that is read from
//! the wrong place of a disk is noticed.

use thiserror::Error;

use crate::ids::ShardId;
use crate::limits::{FORMAT_VERSION, FRAME_BYTES_MAX};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;
const MAGIC: u16 = 0x5EA1;

/// What a frame is. The number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Records of one request: also the form of records on disk.
    Batch = 1,
    /// A client's first frame.
    ClientHello = 2,
    /// The answer to it.
    Welcome = 3,
    /// A client's request other than an append.
    Request = 4,
    /// The answer to a request, but for records.
    Reply = 5,
    /// The answer to a read: parts of batches.
    Records = 6,
    /// A node's first frame to another.
    PeerHello = 7,
    /// A message between machines whose payload is covered by the checksum.
    Message = 8,
    /// A message between machines that carries batches, which check themselves.
    BatchMessage = 9,
    /// A logspace's chain of views, in a register.
    Chain = 10,
    /// The answer to a node that is let in.
    PeerWelcome = 11,
    /// The answer to a node that is not, with the reason.
    PeerRefusal = 12,
    /// A node's sign of life to another, when it has nothing else to say.
    PeerPing = 13,
    /// The nodes of a cluster, in a register.
    Members = 14,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        let kinds = [
            Batch,
            ClientHello,
            Welcome,
            Request,
            Reply,
            Records,
            PeerHello,
            Message,
            BatchMessage,
            Chain,
            PeerWelcome,
            PeerRefusal,
            PeerPing,
            Members,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The payload is made of batches or parts of them, each with its own checksums.
    pub fn payload_checks_itself(self) -> bool {
        matches!(self, FrameKind::Batch | FrameKind::Records | FrameKind::BatchMessage)
    }
}

/// Why bytes are not a frame. The connection that sent them is beyond repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("not a Sealog frame (magic {0:#06x}): is the peer a Sealog node or client?")]
    Magic(u16),
    #[error("format version {found}, but this build speaks {FORMAT_VERSION}: use the same release on both sides")]
    Version { found: u8 },
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge { bytes: u64 },
    #[error("checksum mismatch: the frame was damaged on its way")]
    Checksum,
    #[error("the frame is not at the place it claims")]
    Place,
    #[error("malformed metadata")]
    Metadata,
    #[error("the frame ends early")]
    Truncated,
}

/// A parsed header. Sizes are within limits; checksums are not yet verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: FrameKind,
    pub metadata_bytes: u32,
    pub payload_bytes: u32,
    /// Records of a batch; parts of a carrier; else 0.
    pub count: u16,
    pub checksum: u32,
    pub place_check: u32,
    pub place: u64,
}

impl Header {
    /// Parses the first [`HEADER_BYTES`]; `None` when there are fewer.
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        // A wrong peer is told from its first bytes, not after 32 of them came.
        if bytes.len() >= 2 && u16_at(bytes, 0) != MAGIC {
            return Err(FrameError::Magic(u16_at(bytes, 0)));
        }
        if bytes.len() >= 3 && bytes[2] != FORMAT_VERSION {
            return Err(FrameError::Version { found: bytes[2] });
        }
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let header = Header {
            kind: FrameKind::from_byte(bytes[3]).ok_or(FrameError::Kind(bytes[3]))?,
            metadata_bytes: u32_at(bytes, 4),
            payload_bytes: u32_at(bytes, 8),
            count: u16_at(bytes, 12),
            checksum: u32_at(bytes, 16),
            place_check: u32_at(bytes, 20),
            place: u64_at(bytes, 24),
        };
        let total = HEADER_BYTES as u64 + u64::from(header.metadata_bytes) + u64::from(header.payload_bytes);
        if total > FRAME_BYTES_MAX as u64 {
            return Err(FrameError::TooLarge { bytes: total });
        }
        Ok(Some(header))
    }

    /// Bytes of the whole frame: header, metadata, payload, padding to 8.
    pub fn frame_bytes(&self) -> usize {
        (HEADER_BYTES + self.metadata_bytes as usize + self.payload_bytes as usize).next_multiple_of(8)
    }
}

/// A whole frame, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub header: Header,
    pub metadata: &'a [u8],
    pub payload: &'a [u8],
    /// All of it, padding included.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, its checksum verified; `None` when it is not all there.
    /// A self-checking payload is not looked at.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let Some(frame) = Self::parse_unverified(bytes)? else { return Ok(None) };
        frame.verify()?;
        Ok(Some(frame))
    }

    /// As [`Frame::parse`], for bytes whose checksum was verified before.
    pub fn parse_unverified(bytes: &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let Some(header) = Header::parse(bytes)? else { return Ok(None) };
        let total = header.frame_bytes();
        if bytes.len() < total {
            return Ok(None);
        }
        let metadata_end = HEADER_BYTES + header.metadata_bytes as usize;
        let payload_end = metadata_end + header.payload_bytes as usize;
        Ok(Some(Frame {
            header,
            metadata: &bytes[HEADER_BYTES..metadata_end],
            payload: &bytes[metadata_end..payload_end],
            bytes: &bytes[..total],
        }))
    }

    fn verify(&self) -> Result<(), FrameError> {
        let payload: &[u8] = if self.header.kind.payload_checks_itself() { &[] } else { self.payload };
        if checksum(&self.bytes[..16], self.metadata, payload) != self.header.checksum {
            return Err(FrameError::Checksum);
        }
        Ok(())
    }

    /// Verifies that the place is what its setter wrote, in this scope.
    pub fn verify_place(&self, scope: PlaceScope) -> Result<u64, FrameError> {
        let header = &self.header;
        if place_check(header.checksum, scope, header.place) != header.place_check {
            return Err(FrameError::Place);
        }
        Ok(header.place)
    }
}

/// What a place counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceScope {
    /// A connection: the place is a request's id.
    Connection,
    /// A shard: the place is a batch's first position.
    Shard(ShardId),
}

/// Appends a frame to `out`.
///
/// # Panics
/// When the frame is over [`FRAME_BYTES_MAX`]: callers check their input first.
pub fn write_frame(out: &mut Vec<u8>, kind: FrameKind, place: u64, count: u16, metadata: &[u8], payload: &[&[u8]]) {
    let payload_bytes: usize = payload.iter().map(|part| part.len()).sum();
    let total = HEADER_BYTES + metadata.len() + payload_bytes;
    assert!(total <= FRAME_BYTES_MAX, "a frame of {total} bytes is over the limit");
    let start = out.len();
    out.reserve(total.next_multiple_of(8));
    out.extend_from_slice(&header_bytes(kind, count, metadata.len() as u32, payload_bytes as u32));
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(metadata);
    for part in payload {
        out.extend_from_slice(part);
    }
    let metadata_end = start + HEADER_BYTES + metadata.len();
    let checked: &[u8] = if kind.payload_checks_itself() { &[] } else { &out[metadata_end..] };
    let sum = checksum(&out[start..start + 16], metadata, checked);
    out[start + 16..start + 20].copy_from_slice(&sum.to_le_bytes());
    out.resize(start + total.next_multiple_of(8), 0);
    set_place(&mut out[start..], PlaceScope::Connection, place);
}

/// Writes a frame's place, and its check, in this scope.
///
/// # Panics
/// When `frame` is shorter than a header.
pub fn set_place(frame: &mut [u8], scope: PlaceScope, place: u64) {
    let check = place_check(u32_at(frame, 16), scope, place);
    frame[20..24].copy_from_slice(&check.to_le_bytes());
    frame[24..32].copy_from_slice(&place.to_le_bytes());
}

/// Verifies the checksum of a self-checking frame's header and metadata, without its payload.
///
/// # Errors
/// When it does not match, or the frame is of a kind whose checksum covers its payload.
pub fn verify_metadata(head: &[u8], header: &Header) -> Result<(), FrameError> {
    if !header.kind.payload_checks_itself() {
        return Err(FrameError::Kind(header.kind as u8));
    }
    if checksum(&head[..16], &head[HEADER_BYTES..], &[]) != header.checksum {
        return Err(FrameError::Checksum);
    }
    Ok(())
}

fn header_bytes(kind: FrameKind, count: u16, metadata_bytes: u32, payload_bytes: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[2] = FORMAT_VERSION;
    bytes[3] = kind as u8;
    bytes[4..8].copy_from_slice(&metadata_bytes.to_le_bytes());
    bytes[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
    bytes[12..14].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn checksum(head: &[u8], metadata: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(metadata);
    hasher.update(payload);
    hasher.finalize()
}

fn place_check(checksum: u32, scope: PlaceScope, place: u64) -> u32 {
    let mut bytes = [0; 24];
    bytes[0..4].copy_from_slice(&checksum.to_le_bytes());
    if let PlaceScope::Shard(shard) = scope {
        bytes[4..8].copy_from_slice(&shard.view.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&shard.index.to_le_bytes());
    }
    bytes[16..24].copy_from_slice(&place.to_le_bytes());
    crc32fast::hash(&bytes)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, FrameKind::Request, 7, 0, b"meta", &[b"pay", b"load"]);
        out
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample();
        assert_eq!(bytes.len(), 48);
        assert_eq!(bytes[..16], [0xA1, 0x5E, 1, 4, 4, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..], *b"\x07\0\0\0\0\0\0\0metapayload\0\0\0\0\0");
    }

    #[test]
    fn round_trips_and_waits_for_the_rest() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(matches!(Frame::parse(&bytes[..cut]), Ok(None)), "cut at {cut}");
        }
        let frame = Frame::parse(&bytes).expect("valid").expect("whole");
        assert_eq!((frame.metadata, frame.payload), (&b"meta"[..], &b"payload"[..]));
        assert_eq!(frame.verify_place(PlaceScope::Connection), Ok(7));
        assert_eq!(
            frame.verify_place(PlaceScope::Shard(ShardId { view: crate::ids::ViewNumber(1), index: 0 })),
            Err(FrameError::Place)
        );
    }

    #[test]
    fn every_flipped_bit_of_header_and_content_is_noticed() {
        let bytes = sample();
        for bit in 0..(HEADER_BYTES + 11) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let noticed = match Frame::parse(&flipped) {
                Err(_) | Ok(None) => true,
                Ok(Some(frame)) => frame.verify_place(PlaceScope::Connection).is_err(),
            };
            assert!(noticed, "bit {bit}");
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header() {
        let mut bytes = sample();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::parse(&bytes), Err(FrameError::TooLarge { .. })));
        bytes[2] = 9;
        assert_eq!(Frame::parse(&bytes[..3]).err(), Some(FrameError::Version { found: 9 }));
    }
}
