//! The trailer of a sealed segment: its last 4096 bytes, which find and check its footer.
//!
//! ```text
//!  0        4       5     6   8            16              20         24        28
//!  +--------+-------+-----+---+------------+---------------+----------+---------+---------+
//!  | "SLJT" |version|  1  | 0 | journal id | preamble check| checksum | segment | use     |
//!  +--------+-------+-----+---+------------+---------------+----------+---------+---------+
//!  32              40           44              48             52              56
//!  +---------------+------------+---------------+--------------+---------------+----------+
//!  | footer offset | tags bytes | entries bytes | chunks bytes | damages bytes | checksum |
//!  +---------------+------------+---------------+--------------+---------------+----------+
//!  60        64              72            80              88          96            104
//!  +---------+---------------+-------------+---------------+-----------+-------------+-------------------+
//!  | entries | first number  | end number  | first vital   | end vital | incarnation | incarnation first |
//!  +---------+---------------+-------------+---------------+-----------+-------------+-------------------+
//!  112: zeros up to 4096
//! ```
//!
//! The footer is complete, and with it the segment sealed, when this block is on the disk: it is
//! the last of the footer's writes, made after the others completed.

use crate::ALIGNMENT;
use crate::header::{Preamble, are_possible, checksum, put_u32, put_u64, u32_at, u64_at};

pub(crate) const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"SLJT");
const TRAILER_HEAD_BYTES: usize = 112;

/// What a trailer says. Numbers are as in [`crate::header::BlockHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub journal_id: u64,
    pub segment: u32,
    pub use_number: u32,
    /// Where the footer begins in the segment; a multiple of 4096.
    pub footer_offset: u64,
    /// The footer's parts, one after the other.
    pub tags_bytes: u32,
    pub entries_bytes: u32,
    pub chunks_bytes: u32,
    pub damages_bytes: u32,
    /// CRC-32 of entries, chunks and damages. Tags have a checksum for each chunk.
    pub directory_checksum: u32,
    pub entries: u32,
    /// Number of the segment's first block.
    pub first_number: u64,
    /// Number of the next segment's first block.
    pub end_number: u64,
    /// Vital entries before the segment, and after it.
    pub first_vital: u64,
    pub end_vital: u64,
    /// The last block's.
    pub incarnation: u64,
    pub incarnation_first: u64,
}

impl Trailer {
    /// Bytes of the footer, without padding and trailer.
    pub fn footer_bytes(&self) -> u64 {
        u64::from(self.tags_bytes) + self.directory_bytes()
    }

    pub(crate) fn directory_bytes(&self) -> u64 {
        u64::from(self.entries_bytes) + u64::from(self.chunks_bytes) + u64::from(self.damages_bytes)
    }

    /// The trailer in a segment's last 4096 bytes, its checksum verified.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Trailer> {
        let Preamble::Ours { journal_id } = Preamble::parse(bytes, TRAILER_MAGIC) else { return None };
        if checksum(&bytes[..TRAILER_HEAD_BYTES], &[]) != u32_at(bytes, 20) {
            return None;
        }
        let trailer = Trailer {
            journal_id,
            segment: u32_at(bytes, 24),
            use_number: u32_at(bytes, 28),
            footer_offset: u64_at(bytes, 32),
            tags_bytes: u32_at(bytes, 40),
            entries_bytes: u32_at(bytes, 44),
            chunks_bytes: u32_at(bytes, 48),
            damages_bytes: u32_at(bytes, 52),
            directory_checksum: u32_at(bytes, 56),
            entries: u32_at(bytes, 60),
            first_number: u64_at(bytes, 64),
            end_number: u64_at(bytes, 72),
            first_vital: u64_at(bytes, 80),
            end_vital: u64_at(bytes, 88),
            incarnation: u64_at(bytes, 96),
            incarnation_first: u64_at(bytes, 104),
        };
        let Trailer { first_number, end_number, first_vital, end_vital, .. } = trailer;
        let counts = [end_number, end_vital, trailer.incarnation, trailer.incarnation_first];
        let is_possible = are_possible([trailer.segment, trailer.use_number], &counts)
            && first_number <= end_number
            && first_vital <= end_vital;
        is_possible.then_some(trailer)
    }

    /// The whole block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; ALIGNMENT];
        Preamble::write(&mut bytes, TRAILER_MAGIC, 1, self.journal_id);
        put_u32(&mut bytes, 24, self.segment);
        put_u32(&mut bytes, 28, self.use_number);
        put_u64(&mut bytes, 32, self.footer_offset);
        put_u32(&mut bytes, 40, self.tags_bytes);
        put_u32(&mut bytes, 44, self.entries_bytes);
        put_u32(&mut bytes, 48, self.chunks_bytes);
        put_u32(&mut bytes, 52, self.damages_bytes);
        put_u32(&mut bytes, 56, self.directory_checksum);
        put_u32(&mut bytes, 60, self.entries);
        put_u64(&mut bytes, 64, self.first_number);
        put_u64(&mut bytes, 72, self.end_number);
        put_u64(&mut bytes, 80, self.first_vital);
        put_u64(&mut bytes, 88, self.end_vital);
        put_u64(&mut bytes, 96, self.incarnation);
        put_u64(&mut bytes, 104, self.incarnation_first);
        let sum = checksum(&bytes[..TRAILER_HEAD_BYTES], &[]);
        put_u32(&mut bytes, 20, sum);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Trailer {
        Trailer {
            journal_id: 0x1122_3344_5566_7788,
            segment: 1,
            use_number: 2,
            footer_offset: 8192,
            tags_bytes: 3,
            entries_bytes: 4,
            chunks_bytes: 5,
            damages_bytes: 6,
            directory_checksum: 7,
            entries: 8,
            first_number: 9,
            end_number: 10,
            first_vital: 11,
            end_vital: 12,
            incarnation: 13,
            incarnation_first: 14,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode();
        let hex: String = bytes[..TRAILER_HEAD_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the byte format of trailers changed: it is on disks");
        assert!(bytes[TRAILER_HEAD_BYTES..].iter().all(|byte| *byte == 0));
    }

    const GOLDEN: &str = concat!(
        "534c4a54020100008877665544332211cffa3a8d78b09c52",
        "01000000020000000020000000000000",
        "03000000040000000500000006000000",
        "0700000008000000",
        "09000000000000000a00000000000000",
        "0b000000000000000c00000000000000",
        "0d000000000000000e00000000000000",
    );

    #[test]
    fn a_right_checksum_over_impossible_counts_is_no_trailer() {
        let counts = u64::MAX - 1;
        for forged in [
            Trailer { use_number: u32::MAX, ..sample() },
            Trailer { segment: u32::MAX, ..sample() },
            Trailer { first_number: counts, end_number: counts, ..sample() },
            Trailer { first_vital: counts, end_vital: counts, ..sample() },
            Trailer { incarnation: counts, ..sample() },
            Trailer { first_number: 11, end_number: 10, ..sample() },
        ] {
            assert_eq!(Trailer::parse(&forged.encode()), None, "{forged:?}");
        }
    }

    #[test]
    fn round_trips_and_every_flipped_bit_is_noticed() {
        let bytes = sample().encode();
        assert_eq!(Trailer::parse(&bytes), Some(sample()));
        for bit in 0..TRAILER_HEAD_BYTES * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Trailer::parse(&flipped), None, "bit {bit}");
        }
    }
}
