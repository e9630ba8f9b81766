//! Looking at a journal without opening it: every segment, block and entry, each with a verdict.
//! Read-only, for `sealog inspect`; whole segments are read, footers or not.

use sealog_protocol::machine::JournalPlace;

use crate::ALIGNMENT;
use crate::config::Owner;
use crate::entry::{Entry, entries};
use crate::footer::Footer;
use crate::header::{BLOCK_MAGIC, Block, BlockHeader, Preamble};
use crate::recovery::{drop_cut_off, known_durable, newest_list, survey_all};
use crate::report::RecoveryError;
use crate::source::SegmentSource;
use crate::survey::{Content, Incarnations, Reader};
use crate::trailer::Trailer;

/// What is known of all segments together, which verdicts on single blocks need.
pub struct Inspection {
    journal_id: u64,
    incarnations: Incarnations,
    durable: u64,
    segments: Vec<SegmentSummary>,
}

/// A segment, at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    pub segment: u32,
    pub bytes: u64,
    pub state: SegmentState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It has a trailer, and so a footer.
    Sealed(Trailer),
    /// It holds blocks that are read one by one.
    Unsealed { use_number: u32 },
    /// It was given back: nobody needs what is in it.
    Freed,
    /// It holds nothing of this journal that counts.
    Unused,
}

/// Something in a segment, by offset; entries follow their block.
#[derive(Clone, Copy, Debug)]
pub enum Finding<'a> {
    Block {
        header: BlockHeader,
        verdict: BlockVerdict,
    },
    Entry {
        owner: Owner,
        entry: Entry<'a>,
        at: JournalPlace,
    },
    /// A block whose checksum is right lists what is no entry.
    MalformedEntry,
    /// Bytes among the segment's blocks that are neither zeros nor a block: damage. Behind them lies
    /// what a torn write or an earlier use left.
    Unreadable {
        offset: u64,
        bytes: u64,
    },
    Footer {
        trailer: Trailer,
        is_intact: bool,
    },
}

/// What recovery makes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockVerdict {
    /// Whole, and known to be durable.
    Durable,
    /// Whole; nothing on the disk says that it was reported durable. It counts if all blocks before
    /// it are there.
    NotMarked,
    /// Durable once, and its data does not match.
    DamagedData,
    /// Its data does not match, and nothing says that it was ever durable.
    Torn,
    /// A recovery cut it off.
    CutOff,
    /// Of an earlier use of the file.
    Stale,
    /// Of another journal.
    Foreign,
}

impl Inspection {
    /// Surveys all segments of the journal of this id, or of the one that the first block found
    /// names.
    ///
    /// # Errors
    /// When a file cannot be read, or is of another version or journal.
    pub fn open(source: &mut dyn SegmentSource, journal_id: Option<u64>) -> Result<Inspection, RecoveryError> {
        let mut reader = Reader::new(source);
        let journal_id = match journal_id {
            Some(journal_id) => journal_id,
            None => find_journal_id(&mut reader)?.unwrap_or(0),
        };
        let mut surveys = survey_all(&mut reader, journal_id)?;
        let incarnations = drop_cut_off(&mut surveys);
        let freed = newest_list(&mut reader, &surveys, journal_id, &incarnations)?;
        let segments = surveys.iter().map(|survey| SegmentSummary {
            segment: survey.segment,
            bytes: survey.bytes,
            state: match &survey.content {
                Content::Sealed(trailer) if freed.contains(trailer.first_number) => SegmentState::Freed,
                Content::Scanned(blocks) if blocks.iter().any(|block| freed.contains(block.header.number)) => {
                    SegmentState::Freed
                }
                Content::Sealed(trailer) => SegmentState::Sealed(*trailer),
                Content::Scanned(blocks) if blocks.is_empty() => SegmentState::Unused,
                Content::Scanned(_) => SegmentState::Unsealed { use_number: survey.use_number() },
                Content::Nothing => SegmentState::Unused,
            },
        });
        let segments = segments.collect();
        Ok(Inspection { journal_id, incarnations, durable: known_durable(&surveys), segments })
    }

    pub fn journal_id(&self) -> u64 {
        self.journal_id
    }

    /// Blocks with lower numbers are known to have been durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last life that any block names.
    pub fn incarnation(&self) -> u64 {
        self.incarnations.last()
    }

    /// All segments, in order of use; unused ones last.
    pub fn segments(&self) -> &[SegmentSummary] {
        &self.segments
    }

    /// Shows what is in a segment.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn visit(
        &self,
        source: &mut dyn SegmentSource,
        summary: &SegmentSummary,
        visitor: &mut dyn FnMut(Finding<'_>),
    ) -> Result<(), RecoveryError> {
        if summary.bytes < 2 * ALIGNMENT as u64 || summary.state == SegmentState::Freed {
            return Ok(());
        }
        let mut reader = Reader::new(source);
        let trailer = match summary.state {
            SegmentState::Sealed(trailer) => Some(trailer),
            _ => None,
        };
        let blocks_end = trailer.map_or(summary.bytes, |trailer| trailer.footer_offset);
        let bytes = reader.read(summary.segment, 0, summary.bytes as usize)?;
        self.visit_blocks(summary, &bytes[..blocks_end as usize], visitor);
        if let Some(trailer) = trailer {
            let footer = &bytes[blocks_end as usize..];
            let (tags, directory) = footer.split_at((trailer.tags_bytes as usize).min(footer.len()));
            let parsed = Footer::parse(&trailer, directory, summary.bytes);
            let is_intact = parsed.is_some_and(|parsed| parsed.are_tags_intact(tags));
            visitor(Finding::Footer { trailer, is_intact });
        }
        Ok(())
    }

    fn visit_blocks(&self, summary: &SegmentSummary, bytes: &[u8], visitor: &mut dyn FnMut(Finding<'_>)) {
        let mut offset = 0;
        let mut unreadable: Option<usize> = None;
        let blocks_end = self.blocks_end(summary, bytes);
        while offset < bytes.len() {
            let found = block_at(bytes, offset);
            let Some(block) = found else {
                let is_empty = bytes[offset..offset + ALIGNMENT].iter().all(|byte| *byte == 0);
                if is_empty || offset >= blocks_end {
                    end_unreadable(&mut unreadable, offset, visitor);
                } else {
                    unreadable.get_or_insert(offset);
                }
                offset += ALIGNMENT;
                continue;
            };
            end_unreadable(&mut unreadable, offset, visitor);
            let verdict = self.verdict(summary, &block);
            visitor(Finding::Block { header: block.header, verdict });
            visit_entries(summary.segment, &block, visitor);
            offset += block.header.block_bytes() as usize;
        }
        end_unreadable(&mut unreadable, bytes.len(), visitor);
    }

    /// Where the segment's own blocks end: behind the last one, unless the last is missing.
    fn blocks_end(&self, summary: &SegmentSummary, bytes: &[u8]) -> usize {
        let (mut offset, mut end, mut last) = (0, 0, 0);
        while offset < bytes.len() {
            let Some(block) = block_at(bytes, offset) else {
                offset += ALIGNMENT;
                continue;
            };
            offset += block.header.block_bytes() as usize;
            if !matches!(self.verdict(summary, &block), BlockVerdict::Stale | BlockVerdict::Foreign) {
                (end, last) = (offset, block.header.number);
            }
        }
        match summary.state {
            SegmentState::Sealed(trailer) if last + 1 < trailer.end_number => bytes.len(),
            _ => end,
        }
    }

    fn verdict(&self, summary: &SegmentSummary, block: &Block<'_>) -> BlockVerdict {
        let header = &block.header;
        let use_number = match summary.state {
            SegmentState::Sealed(trailer) => trailer.use_number,
            SegmentState::Unsealed { use_number } => use_number,
            SegmentState::Freed | SegmentState::Unused => header.use_number,
        };
        let is_marked = header.number < self.durable;
        if header.journal_id != self.journal_id {
            BlockVerdict::Foreign
        } else if header.segment != summary.segment || header.use_number != use_number {
            BlockVerdict::Stale
        } else if self.incarnations.is_cut_off(header) {
            BlockVerdict::CutOff
        } else {
            match (block.is_data_intact(), is_marked) {
                (true, true) => BlockVerdict::Durable,
                (true, false) => BlockVerdict::NotMarked,
                (false, true) => BlockVerdict::DamagedData,
                (false, false) => BlockVerdict::Torn,
            }
        }
    }
}

fn block_at(bytes: &[u8], offset: usize) -> Option<Block<'_>> {
    Block::parse(&bytes[offset..]).filter(|block| block.header.offset() == offset as u64)
}

fn visit_entries(segment: u32, block: &Block<'_>, visitor: &mut dyn FnMut(Finding<'_>)) {
    for entry in entries(block.directory) {
        let Ok((owner, entry)) = entry else {
            visitor(Finding::MalformedEntry);
            continue;
        };
        let offset = match &entry {
            Entry::Batches(run) => run.offset,
            Entry::Checkpoint(part) => part.offset,
            _ => (block.header.offset() / 8) as u32,
        };
        visitor(Finding::Entry { owner, entry, at: JournalPlace { segment, offset } });
    }
}

fn end_unreadable(begin: &mut Option<usize>, end: usize, visitor: &mut dyn FnMut(Finding<'_>)) {
    if let Some(begin) = begin.take() {
        visitor(Finding::Unreadable { offset: begin as u64, bytes: (end - begin) as u64 });
    }
}

/// The journal id of the first page that begins with one.
fn find_journal_id(reader: &mut Reader<'_>) -> Result<Option<u64>, RecoveryError> {
    for segment in reader.source.segments()? {
        let bytes = reader.source.segment_bytes(segment)? / ALIGNMENT as u64 * ALIGNMENT as u64;
        if bytes < 2 * ALIGNMENT as u64 {
            continue;
        }
        if let Preamble::Ours { journal_id } = Preamble::parse(reader.read(segment, 0, ALIGNMENT)?, BLOCK_MAGIC) {
            return Ok(Some(journal_id));
        }
    }
    Ok(None)
}
