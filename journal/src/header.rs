//! The head of a block: where it belongs, what it holds, what was durable when it was written.
//!
//! ```text
//!  0        4       5     6   8            16              20         24
//!  +--------+-------+-----+---+------------+---------------+----------+---------+---------+
//!  | "SLJB" |version| kind| 0 | journal id | preamble check| checksum | segment | use     |
//!  +--------+-------+-----+---+------------+---------------+----------+---------+---------+
//!  32       36              40           44                48
//!  +--------+---------------+------------+-----------------+-----------------------------+
//!  | place  | data checksum | data bytes | directory bytes | number                      |
//!  +--------+---------------+------------+-----------------+-----------------------------+
//!  56                 64                        72                   80          88      92
//!  +------------------+-------------------------+--------------------+-----------+-------+---+
//!  | incarnation      | incarnation's first     | durable            | vital     |entries| 0 |
//!  +------------------+-------------------------+--------------------+-----------+-------+---+
//!  96: data, then the directory, then zeros up to a multiple of 4096
//! ```
//!
//! `preamble check` is CRC-32 of bytes 0..16, the same in every format version, so that another
//! version is told from damage. `checksum` is CRC-32 of bytes 0..20, 24..96 and the directory;
//! `data checksum` that of the data. They are two, so that a damaged payload does not take the
//! metalog entries of its block with it.

use sealog_protocol::limits::{DISK_VERSION, DISK_VERSION_OLDEST};

use crate::ALIGNMENT;

/// Bytes of a block's header. The data begins after it.
pub const HEADER_BYTES: usize = 96;
pub(crate) const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"SLJB");

/// What a block is for. The number is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// A group commit.
    Data = 1,
    /// The first block of an incarnation: written alone. Says which blocks are gone.
    Recovery = 2,
    /// Says what is durable, when nothing else is there to say it.
    Mark = 3,
    /// Says which blocks are gone: the first block of a segment, and after one was given back.
    Freed = 4,
}

impl BlockKind {
    /// Whether such a block says which blocks are gone, and holds nothing else.
    pub fn says_freed(self) -> bool {
        matches!(self, BlockKind::Recovery | BlockKind::Freed)
    }

    fn from_byte(byte: u8) -> Option<BlockKind> {
        [BlockKind::Data, BlockKind::Recovery, BlockKind::Mark, BlockKind::Freed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A block's header, without its magic, version and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub kind: BlockKind,
    pub journal_id: u64,
    pub segment: u32,
    /// The how-manieth use of a segment this is, in the journal's life, from 1. Segments are in
    /// order of use.
    pub use_number: u32,
    /// Where the block begins in its segment, in units of 4096 bytes.
    pub place: u32,
    pub data_checksum: u32,
    pub data_bytes: u32,
    pub directory_bytes: u32,
    /// The block's number in the journal's life, from 0, without gaps.
    pub number: u64,
    /// The journal's life: raised by every recovery.
    pub incarnation: u64,
    /// The number of the incarnation's first block. Blocks of earlier incarnations with this number
    /// or a higher one were cut off.
    pub incarnation_first: u64,
    /// All blocks with lower numbers were known to be durable.
    pub durable: u64,
    /// How many metalog entries and seals lie in the blocks before this one: after damage it tells
    /// whether any was lost.
    pub vital: u64,
    pub entries: u32,
}

/// The first bytes of what may be a block or a trailer, in any format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// Neither: zeros, the middle of a block, damage.
    Nothing,
    OtherVersion(u8),
    Ours {
        journal_id: u64,
    },
}

impl Preamble {
    /// Reads it. `bytes` has at least [`HEADER_BYTES`].
    pub fn parse(bytes: &[u8], magic: u32) -> Preamble {
        if u32_at(bytes, 0) != magic || crc32fast::hash(&bytes[..16]) != u32_at(bytes, 16) {
            return Preamble::Nothing;
        }
        if !(DISK_VERSION_OLDEST..=DISK_VERSION).contains(&bytes[4]) {
            return Preamble::OtherVersion(bytes[4]);
        }
        Preamble::Ours { journal_id: u64_at(bytes, 8) }
    }

    pub fn write(bytes: &mut [u8], magic: u32, kind: u8, journal_id: u64) {
        put_u32(bytes, 0, magic);
        bytes[4] = DISK_VERSION;
        bytes[5] = kind;
        bytes[6..8].fill(0);
        put_u64(bytes, 8, journal_id);
        let check = crc32fast::hash(&bytes[..16]);
        put_u32(bytes, 16, check);
    }
}

impl BlockHeader {
    /// Bytes of the whole block, padding included.
    pub fn block_bytes(&self) -> u64 {
        block_bytes(self.data_bytes as usize, self.directory_bytes as usize) as u64
    }

    pub fn offset(&self) -> u64 {
        u64::from(self.place) * ALIGNMENT as u64
    }

    /// Writes the header over the first bytes of a block, its checksum over that and `directory`.
    pub(crate) fn write(&self, bytes: &mut [u8], directory: &[u8]) {
        Preamble::write(bytes, BLOCK_MAGIC, self.kind as u8, self.journal_id);
        put_u32(bytes, 24, self.segment);
        put_u32(bytes, 28, self.use_number);
        put_u32(bytes, 32, self.place);
        put_u32(bytes, 36, self.data_checksum);
        put_u32(bytes, 40, self.data_bytes);
        put_u32(bytes, 44, self.directory_bytes);
        put_u64(bytes, 48, self.number);
        put_u64(bytes, 56, self.incarnation);
        put_u64(bytes, 64, self.incarnation_first);
        put_u64(bytes, 72, self.durable);
        put_u64(bytes, 80, self.vital);
        put_u32(bytes, 88, self.entries);
        put_u32(bytes, 92, 0);
        let sum = checksum(&bytes[..HEADER_BYTES], directory);
        put_u32(bytes, 20, sum);
    }

    /// Parses the header at the start of `bytes`, nothing of it verified but its preamble.
    pub(crate) fn parse_unverified(bytes: &[u8]) -> Option<BlockHeader> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        let Preamble::Ours { journal_id } = Preamble::parse(bytes, BLOCK_MAGIC) else { return None };
        let header = BlockHeader {
            kind: BlockKind::from_byte(bytes[5])?,
            journal_id,
            segment: u32_at(bytes, 24),
            use_number: u32_at(bytes, 28),
            place: u32_at(bytes, 32),
            data_checksum: u32_at(bytes, 36),
            data_bytes: u32_at(bytes, 40),
            directory_bytes: u32_at(bytes, 44),
            number: u64_at(bytes, 48),
            incarnation: u64_at(bytes, 56),
            incarnation_first: u64_at(bytes, 64),
            durable: u64_at(bytes, 72),
            vital: u64_at(bytes, 80),
            entries: u32_at(bytes, 88),
        };
        let counts = [header.number, header.incarnation, header.incarnation_first, header.durable, header.vital];
        are_possible([header.segment, header.use_number], &counts).then_some(header)
    }
}

/// Whether a journal can have counted so far. Beyond, a right checksum is a forged one, and counting
/// on would overflow.
pub(crate) fn are_possible(files: [u32; 2], counts: &[u64]) -> bool {
    files.iter().all(|count| *count <= u32::MAX / 2) && counts.iter().all(|count| *count <= u64::MAX / 4)
}

/// A block read in place: header and directory are verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub header: BlockHeader,
    pub data: &'a [u8],
    pub directory: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block at the start of `bytes`, which reach to the segment's end; `None` when there is
    /// none that is whole but for its data.
    pub fn parse(bytes: &'a [u8]) -> Option<Block<'a>> {
        let header = BlockHeader::parse_unverified(bytes)?;
        let directory_at = HEADER_BYTES.checked_add(header.data_bytes as usize)?;
        let end = directory_at.checked_add(header.directory_bytes as usize)?;
        let directory = bytes.get(directory_at..end)?;
        if checksum(&bytes[..HEADER_BYTES], directory) != u32_at(bytes, 20) {
            return None;
        }
        Some(Block { header, data: &bytes[HEADER_BYTES..directory_at], directory })
    }

    pub fn is_data_intact(&self) -> bool {
        crc32fast::hash(self.data) == self.header.data_checksum
    }
}

/// Bytes of a block that holds so much.
pub(crate) fn block_bytes(data_bytes: usize, directory_bytes: usize) -> usize {
    (HEADER_BYTES + data_bytes + directory_bytes).next_multiple_of(ALIGNMENT)
}

/// CRC-32 of a head but for its own field at 20..24, and of what belongs to it.
pub(crate) fn checksum(head: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..20]);
    hasher.update(&head[24..]);
    hasher.update(rest);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let header = BlockHeader {
            kind: BlockKind::Data,
            journal_id: 0x1122_3344_5566_7788,
            segment: 3,
            use_number: 4,
            place: 5,
            data_checksum: crc32fast::hash(b"datadata"),
            data_bytes: 8,
            directory_bytes: 9,
            number: 6,
            incarnation: 7,
            incarnation_first: 2,
            durable: 5,
            vital: 1,
            entries: 1,
        };
        let mut bytes = vec![0; ALIGNMENT];
        bytes[96..113].copy_from_slice(b"datadatadirectory");
        header.write(&mut bytes, b"directory");
        bytes
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample()[..HEADER_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the byte format of blocks changed: it is on disks");
    }

    const GOLDEN: &str = concat!(
        "534c4a42020100008877665544332211c883d8998bedbb46",
        "030000000400000005000000",
        "2c0b14a40800000009000000",
        "0600000000000000",
        "07000000000000000200000000000000",
        "05000000000000000100000000000000",
        "0100000000000000",
    );

    #[test]
    fn what_version_1_wrote_is_read() {
        let mut bytes = vec![0; ALIGNMENT];
        bytes[96..113].copy_from_slice(b"datadatadirectory");
        let byte = |at| u8::from_str_radix(&GOLDEN_1[at * 2..][..2], 16).expect("hexadecimal");
        (0..HEADER_BYTES - 4).for_each(|at| bytes[at] = byte(at));
        let block = Block::parse(&bytes).expect("it is whole");
        assert_eq!((block.header.number, block.is_data_intact()), (6, true));
    }

    const GOLDEN_1: &str = concat!(
        "534c4a42010100008877665544332211385146ee8bedbb46",
        "030000000400000005000000",
        "2c0b14a40800000009000000",
        "0600000000000000",
        "07000000000000000200000000000000",
        "05000000000000000100000000000000",
        "01000000",
    );

    #[test]
    fn every_flipped_bit_of_header_and_directory_is_noticed_and_of_data_told_apart() {
        let bytes = sample();
        assert!(Block::parse(&bytes).is_some_and(|block| block.is_data_intact()));
        for bit in 0..(HEADER_BYTES + 17) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let in_data = (HEADER_BYTES..HEADER_BYTES + 8).contains(&(bit / 8));
            match Block::parse(&flipped) {
                Some(block) => assert!(in_data && !block.is_data_intact(), "bit {bit}"),
                None => assert!(!in_data, "bit {bit}"),
            }
        }
    }

    /// Found by fuzzing: a forged use number of 2^32 - 1 made recovery count beyond it.
    #[test]
    fn a_right_checksum_over_impossible_counts_is_no_block() {
        for field in [24, 28, 48, 56, 64, 72, 80] {
            let mut bytes = sample();
            let width = if field < 48 { 4 } else { 8 };
            bytes[field..field + width].fill(0xff);
            let sum = checksum(&bytes[..HEADER_BYTES], b"directory");
            put_u32(&mut bytes, 20, sum);
            assert!(Block::parse(&bytes).is_none(), "field at {field}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = sample();
        bytes[4] = 9;
        assert_eq!(Preamble::parse(&bytes, BLOCK_MAGIC), Preamble::Nothing);
        let check = crc32fast::hash(&bytes[..16]);
        put_u32(&mut bytes, 16, check);
        assert_eq!(Preamble::parse(&bytes, BLOCK_MAGIC), Preamble::OtherVersion(9));
    }
}
