//! A first look at every segment: sealed, to be scanned, or nothing of ours.

use std::collections::BTreeMap;

use crate::ALIGNMENT;
use crate::buffer::BlockBuffer;
use crate::header::{BLOCK_MAGIC, Block, BlockHeader, Preamble};
use crate::report::RecoveryError;
use crate::source::{SegmentSource, SourceError};
use crate::trailer::{TRAILER_MAGIC, Trailer};

/// Reads parts of segments into one buffer, which is as large as the largest part: at most a
/// segment. It remembers what is in it.
pub(crate) struct Reader<'a> {
    pub source: &'a mut dyn SegmentSource,
    buffer: BlockBuffer,
    content: Option<(u32, u64, usize)>,
    pub bytes_read: u64,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a mut dyn SegmentSource) -> Reader<'a> {
        Reader { source, buffer: BlockBuffer::new(0), content: None, bytes_read: 0 }
    }

    /// `bytes` from `offset` of a segment: multiples of 4096.
    pub fn read(&mut self, segment: u32, offset: u64, bytes: usize) -> Result<&[u8], SourceError> {
        if self.content != Some((segment, offset, bytes)) {
            self.content = None;
            if self.buffer.capacity() < bytes {
                self.buffer = BlockBuffer::new(bytes);
            }
            self.buffer.clear();
            self.buffer.resize_for_reading(bytes);
            self.source.read(segment, offset, &mut self.buffer)?;
            self.bytes_read += bytes as u64;
            self.content = Some((segment, offset, bytes));
        }
        Ok(&self.buffer)
    }
}

/// A segment, at first sight.
pub(crate) struct Survey {
    pub segment: u32,
    /// Of the file, in whole 4096s.
    pub bytes: u64,
    pub content: Content,
}

pub(crate) enum Content {
    /// A trailer says that its footer is complete.
    Sealed(Trailer),
    /// Blocks of its last use, by offset.
    Scanned(Vec<ScannedBlock>),
    /// No block of this journal and segment.
    Nothing,
}

/// A block that was found whole but for its data, perhaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScannedBlock {
    pub header: BlockHeader,
    pub is_data_intact: bool,
}

impl ScannedBlock {
    pub fn offset(&self) -> u64 {
        self.header.offset()
    }

    pub fn end(&self) -> u64 {
        self.offset() + self.header.block_bytes()
    }
}

impl Survey {
    pub fn use_number(&self) -> u32 {
        match &self.content {
            Content::Sealed(trailer) => trailer.use_number,
            Content::Scanned(blocks) => blocks.first().map_or(0, |block| block.header.use_number),
            Content::Nothing => 0,
        }
    }

    pub fn of(reader: &mut Reader<'_>, segment: u32, journal_id: u64) -> Result<Survey, RecoveryError> {
        let bytes = reader.source.segment_bytes(segment)? / ALIGNMENT as u64 * ALIGNMENT as u64;
        if bytes < 2 * ALIGNMENT as u64 {
            return Ok(Survey { segment, bytes, content: Content::Nothing });
        }
        let trailer = read_trailer(reader, segment, bytes, journal_id)?;
        let first = reader.read(segment, 0, ALIGNMENT)?;
        refuse_other_version(first, segment, 0, BLOCK_MAGIC)?;
        let used_again = |trailer: &Trailer| {
            let header = BlockHeader::parse_unverified(first);
            header.is_some_and(|header| header.segment == segment && header.use_number > trailer.use_number)
        };
        if let Some(trailer) = trailer.filter(|trailer| !used_again(trailer)) {
            return Ok(Survey { segment, bytes, content: Content::Sealed(trailer) });
        }
        let blocks = scan(reader.read(segment, 0, bytes as usize)?, segment, journal_id)?;
        let content = if blocks.is_empty() { Content::Nothing } else { Content::Scanned(blocks) };
        Ok(Survey { segment, bytes, content })
    }
}

/// The trailer of a segment, if it has one that is its own and can be true.
fn read_trailer(
    reader: &mut Reader<'_>,
    segment: u32,
    bytes: u64,
    journal_id: u64,
) -> Result<Option<Trailer>, RecoveryError> {
    let offset = bytes - ALIGNMENT as u64;
    let page = reader.read(segment, offset, ALIGNMENT)?;
    refuse_other_version(page, segment, offset, TRAILER_MAGIC)?;
    let Some(trailer) = Trailer::parse(page) else { return Ok(None) };
    if trailer.journal_id != journal_id {
        return Err(RecoveryError::ForeignJournal { segment, found: trailer.journal_id, expected: journal_id });
    }
    let fits = trailer.footer_offset.is_multiple_of(ALIGNMENT as u64)
        && trailer.footer_offset.checked_add(trailer.footer_bytes()).is_some_and(|end| end <= offset);
    Ok((trailer.segment == segment && fits).then_some(trailer))
}

fn refuse_other_version(page: &[u8], segment: u32, offset: u64, magic: u32) -> Result<(), RecoveryError> {
    match Preamble::parse(page, magic) {
        Preamble::OtherVersion(found) => Err(RecoveryError::Version { segment, offset, found }),
        Preamble::Nothing | Preamble::Ours { .. } => Ok(()),
    }
}

/// All blocks of a segment's last use, wherever they are: damage hides what it covers, no more.
pub(crate) fn scan(bytes: &[u8], segment: u32, journal_id: u64) -> Result<Vec<ScannedBlock>, RecoveryError> {
    let mut blocks: Vec<ScannedBlock> = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let found = Block::parse(&bytes[offset..]).filter(|block| block.header.offset() == offset as u64);
        let Some(block) = found else {
            offset += ALIGNMENT;
            continue;
        };
        if block.header.journal_id != journal_id && offset == 0 {
            let found = block.header.journal_id;
            return Err(RecoveryError::ForeignJournal { segment, found, expected: journal_id });
        }
        let is_data_intact = block.is_data_intact();
        if block.header.journal_id == journal_id && block.header.segment == segment {
            blocks.push(ScannedBlock { header: block.header, is_data_intact });
        }
        // A block whose data is damaged may be one that others have partly overwritten.
        offset += if is_data_intact { block.header.block_bytes() as usize } else { ALIGNMENT };
    }
    let last_use = blocks.iter().map(|block| block.header.use_number).max();
    blocks.retain(|block| Some(block.header.use_number) == last_use);
    Ok(blocks)
}

/// Where each incarnation began: what tells blocks that a recovery cut off.
#[derive(Default)]
pub(crate) struct Incarnations {
    firsts: BTreeMap<u64, u64>,
}

impl Incarnations {
    pub fn add(&mut self, incarnation: u64, first: u64) {
        self.firsts.insert(incarnation, first);
    }

    /// The greatest that any block names; 0 when there is none.
    pub fn last(&self) -> u64 {
        self.firsts.last_key_value().map_or(0, |(incarnation, _)| *incarnation)
    }

    /// A later incarnation began at this block's number or before: it was cut off.
    pub fn is_cut_off(&self, header: &BlockHeader) -> bool {
        self.firsts.range(header.incarnation + 1..).any(|(_, first)| *first <= header.number)
    }
}
