//! Copies of a journal's segments, made while the journal is written.
//!
//! A sealed segment does not change: a copy of it that was begun after its trailer was there is whole.
//! Of the others a copy has each block that was written when it began, and perhaps some of those that
//! came while it was made. Behind the last block that has all blocks before it, recovery will cut it
//! off, like what a crash leaves; it only must not take what was not yet there for damaged.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sealog_journal::{
    BlockBuffer, BlockVerdict, Finding, Inspection, RecoveryError, SegmentSource, SegmentState, SegmentSummary,
    SourceError,
};

use super::manifest::FileFacts;

/// Read and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The segment files of a journal's directory, for reading.
pub(super) struct SegmentFiles {
    directory: PathBuf,
    /// Past the page cache, as the node writes them: what is read is what is on the disk, and nothing
    /// that the node would rather have in memory is pushed out.
    is_direct: bool,
    open: Option<(u32, File)>,
}

impl SegmentFiles {
    pub fn live(directory: PathBuf) -> SegmentFiles {
        SegmentFiles { directory, is_direct: true, open: None }
    }

    pub fn copied(directory: PathBuf) -> SegmentFiles {
        SegmentFiles { directory, is_direct: false, open: None }
    }

    pub fn path(&self, segment: u32) -> PathBuf {
        self.directory.join(format!("segment-{segment:08}.seg"))
    }

    pub fn list(&self) -> io::Result<Vec<u32>> {
        let number = |name: &str| name.strip_prefix("segment-")?.strip_suffix(".seg")?.parse::<u32>().ok();
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            segments.extend(entry?.file_name().to_str().and_then(number));
        }
        Ok(segments)
    }

    fn file(&mut self, segment: u32) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = self.path(segment);
            let flags = if self.is_direct { OFlags::DIRECT } else { OFlags::empty() };
            let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
            self.open = Some((segment, file));
        }
        Ok(&self.open.as_ref().expect("it was just opened").1)
    }
}

fn failed(segment: u32, offset: u64, error: &io::Error) -> SourceError {
    SourceError { segment, offset, reason: error.to_string() }
}

impl SegmentSource for SegmentFiles {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        self.list().map_err(|error| failed(0, 0, &error))
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        let bytes = self.file(segment).and_then(|file| Ok(file.metadata()?.len()));
        bytes.map_err(|error| failed(segment, 0, &error))
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let read = self.file(segment).and_then(|file| file.read_exact_at(buffer, offset));
        read.map_err(|error| failed(segment, offset, &error))
    }
}

/// Which end of a copy failed.
pub(super) enum CopyError {
    Source(SourceError),
    Target(io::Error),
}

/// Copies the first `bytes` of a segment to a file of its size; the rest stays zeros.
pub(super) fn copy(
    from: &mut SegmentFiles,
    summary: &SegmentSummary,
    bytes: u64,
    to: &Path,
) -> Result<FileFacts, CopyError> {
    let file = File::create(to).map_err(CopyError::Target)?;
    file.set_len(summary.bytes).map_err(CopyError::Target)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut offset = 0;
    let mut buffer = BlockBuffer::zeroed(CHUNK_BYTES);
    while offset < bytes {
        let chunk = &mut buffer[..(bytes - offset).min(CHUNK_BYTES as u64) as usize];
        from.read(summary.segment, offset, chunk).map_err(CopyError::Source)?;
        hasher.update(chunk);
        // Zeros need no room.
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, offset).map_err(CopyError::Target)?;
        }
        offset += chunk.len() as u64;
    }
    file.sync_all().map_err(CopyError::Target)?;
    Ok(FileFacts { bytes: summary.bytes, checksum: hasher.finalize() })
}

/// Bytes and checksum of a file.
pub(super) fn facts(path: &Path) -> io::Result<FileFacts> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let (mut hasher, mut offset, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; CHUNK_BYTES]);
    while offset < bytes {
        let chunk = &mut buffer[..(bytes - offset).min(CHUNK_BYTES as u64) as usize];
        file.read_exact_at(chunk, offset)?;
        hasher.update(chunk);
        offset += chunk.len() as u64;
    }
    Ok(FileFacts { bytes, checksum: hasher.finalize() })
}

/// What a copy is good for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It is a journal. So many blocks of unsealed segments are damaged, as they are in what was copied.
    Whole { damages: u64 },
    /// A block that was durable is not whole in it: it was read while it was written, and has to be read
    /// again; or it is damaged.
    Missing { number: u64 },
}

/// Looks whether recovery would make of a copy what it would have made of the journal. With
/// `is_damaged`, a block that is missing is taken for damaged in what was copied: the copy is like it.
pub(super) fn check(copy: &mut SegmentFiles, journal_id: u64, is_damaged: bool) -> Result<Copied, RecoveryError> {
    let inspection = Inspection::open(copy, Some(journal_id))?;
    let mut walk = Walk { durable: inspection.durable(), is_damaged, next: None, damages: 0 };
    let mut before = 0;
    for summary in inspection.segments() {
        let use_number = match summary.state {
            SegmentState::Sealed(trailer) => trailer.use_number,
            SegmentState::Unsealed { use_number } => use_number,
            SegmentState::Freed | SegmentState::Unused => continue,
        };
        if use_number != before + 1 {
            // Segments between were given back: the first block says where it goes on.
            walk.next = None;
        }
        before = use_number;
        let blocks = match summary.state {
            SegmentState::Sealed(trailer) => vec![(0, trailer.first_number..trailer.end_number)],
            _ => blocks_of(&inspection, copy, summary)?,
        };
        if let Some((offset, numbers)) = blocks.first().filter(|_| walk.next.is_none()) {
            // One that does not begin the segment has one before it.
            walk.next = Some(numbers.start.saturating_sub(u64::from(*offset > 0)));
        }
        for (_, numbers) in blocks {
            if let Some(number) = walk.step(numbers) {
                return Ok(Copied::Missing { number });
            }
        }
    }
    Ok(Copied::Whole { damages: walk.damages })
}

/// Blocks by their numbers, one after the other.
struct Walk {
    /// Blocks with lower numbers were durable once.
    durable: u64,
    is_damaged: bool,
    /// The number that comes next, when what is before it is known.
    next: Option<u64>,
    damages: u64,
}

impl Walk {
    /// Goes on with the blocks of these numbers. Returns the one that is missing before them and should
    /// be there.
    fn step(&mut self, numbers: Range<u64>) -> Option<u64> {
        let gap = self.next.filter(|next| *next < numbers.start);
        match gap {
            // It is the end: nobody says that it, or what follows, was durable.
            Some(number) if number >= self.durable => {}
            Some(number) if !self.is_damaged => return Some(number),
            _ => {
                self.damages += gap.map_or(0, |number| numbers.start - number);
                self.next = Some(numbers.end);
            }
        }
        None
    }
}

/// The whole blocks of a segment: where they begin, and their numbers.
fn blocks_of(
    inspection: &Inspection,
    copy: &mut SegmentFiles,
    summary: &SegmentSummary,
) -> Result<Vec<(u64, Range<u64>)>, RecoveryError> {
    let mut blocks = Vec::new();
    inspection.visit(copy, summary, &mut |finding| {
        if let Finding::Block { header, verdict: BlockVerdict::Durable | BlockVerdict::NotMarked } = finding {
            blocks.push((header.offset(), header.number..header.number + 1));
        }
    })?;
    Ok(blocks)
}

/// How many blocks and footers of sealed segments are damaged, as they are in what was copied.
pub(super) fn damages_of_sealed(copy: &mut SegmentFiles, journal_id: u64) -> Result<u64, RecoveryError> {
    let inspection = Inspection::open(copy, Some(journal_id))?;
    let mut damages = 0;
    for summary in inspection.segments() {
        let SegmentState::Sealed(trailer) = summary.state else { continue };
        let mut blocks = 0;
        inspection.visit(copy, summary, &mut |finding| match finding {
            Finding::Block { verdict: BlockVerdict::Durable | BlockVerdict::NotMarked, .. } => blocks += 1,
            Finding::Footer { is_intact: false, .. } => damages += 1,
            _ => {}
        })?;
        damages += (trailer.end_number - trailer.first_number).saturating_sub(blocks);
    }
    Ok(damages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a copy in which blocks below `durable` are named as durable.
    fn walk(durable: u64, is_damaged: bool) -> Walk {
        Walk { durable, is_damaged, next: None, damages: 0 }
    }

    #[test]
    fn a_copy_ends_where_the_first_block_is_missing_that_nobody_vouches_for() {
        let mut walk = walk(8, false);
        for numbers in [5..7, 7..8, 8..9, 10..11, 12..13] {
            assert_eq!(walk.step(numbers), None);
        }
        assert_eq!((walk.next, walk.damages), (Some(9), 0), "9 was under way when it was read");
    }

    #[test]
    fn a_block_that_was_durable_and_is_missing_is_read_again_and_then_taken_for_damaged() {
        let mut first = walk(9, false);
        assert_eq!(first.step(5..7), None);
        assert_eq!(first.step(9..10), Some(7));
        let mut last = walk(9, true);
        for numbers in [5..7, 9..10, 11..12] {
            assert_eq!(last.step(numbers), None);
        }
        assert_eq!((last.next, last.damages), (Some(10), 2), "nobody says that 10 was durable");
    }
}
