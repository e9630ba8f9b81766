//! `sealog inspect`: what is in a data directory's journals, read without a node and without
//! changing anything.
//!
//! Blocks and footers are held against their checksums. While a node runs, the newest blocks can be
//! half written and look torn: they are, at that moment.

mod records;
mod verify;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sealog_journal::entry::Entry;
use sealog_journal::{BlockVerdict, Finding, Inspection, SegmentSource, SegmentState, SegmentSummary, SourceError};
use sealog_node::identity::Identity;
use serde::Serialize;

use crate::arguments::{InspectArguments, InspectVerb};
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// A line for each journal, after those of its segments.
#[derive(Debug, Serialize)]
struct JournalLine {
    kind: &'static str,
    journal: usize,
    journal_id: String,
    incarnation: u64,
    segments: usize,
    durable_blocks: u64,
    damaged: u64,
}

/// A line for each segment, after those of its blocks.
#[derive(Debug, Default, Serialize)]
struct SegmentLine {
    kind: &'static str,
    journal: usize,
    segment: u32,
    bytes: u64,
    state: &'static str,
    blocks: u64,
    /// Runs of batches: what one turn of a storage gave to the journal.
    runs: u64,
    records: u64,
    metalog_entries: u64,
    commits: u64,
    seals: u64,
    checkpoint_parts: u64,
    /// Blocks that match their checksums, and nothing says that they were reported durable.
    not_marked_blocks: u64,
    /// Blocks that a crash left half written, or that recovery cut off.
    torn_blocks: u64,
    /// Blocks that were durable once and are damaged, and pages that nothing can be made of.
    damaged_blocks: u64,
    unreadable_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    footer_intact: Option<bool>,
}

/// A line for each block, with --blocks.
#[derive(Debug, Serialize)]
struct BlockLine {
    kind: &'static str,
    journal: usize,
    segment: u32,
    offset: u64,
    bytes: u64,
    number: String,
    incarnation: u64,
    entries: u32,
    verdict: &'static str,
}

pub fn run(arguments: &InspectArguments) -> Result<(), Failure> {
    if let Some(InspectVerb::Verify(arguments)) = &arguments.verb {
        return verify::run(arguments);
    }
    let directory = arguments.data.as_ref().unwrap_or(&arguments.directory);
    let identity = identity(directory)?;
    let mut output = Output::new(arguments.format.output);
    output.heading(&format!(
        "node {}, cluster {}, incarnation {}, {} journal(s) in {}",
        identity.node,
        identity.cluster,
        identity.incarnation,
        identity.journals.len(),
        directory.display()
    ))?;
    let mut damaged = 0;
    for (journal, id) in identity.journals.iter().enumerate() {
        let mut source = Segments::of(directory.join(format!("journal-{journal}")));
        let inspection = Inspection::open(&mut source, Some(*id))
            .map_err(|error| Failure::new(Kind::Corrupt, format!("journal-{journal}: {error}")))?;
        damaged += inspect_journal(&mut output, journal, &inspection, &mut source, arguments.blocks)?;
    }
    output.flush()?;
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Corrupt,
        format!(
            "{damaged} blocks or footers are damaged: the records in them can't be read, all else is served; \
             a copy of the directory from before would have them"
        ),
    ))
}

fn identity(directory: &Path) -> Result<Identity, Failure> {
    let path = directory.join("identity");
    let bytes = std::fs::read(&path).map_err(|error| {
        Failure::other(format!("cannot read {}: {error}; is it a data directory of Sealog?", path.display()))
    })?;
    Identity::decode(&bytes).map_err(|error| Failure::new(Kind::Corrupt, format!("{}: {error}", directory.display())))
}

/// Prints what is in a journal; how many damaged places it has.
fn inspect_journal(
    output: &mut Output,
    journal: usize,
    inspection: &Inspection,
    source: &mut Segments,
    with_blocks: bool,
) -> Result<u64, Failure> {
    let mut damaged = 0;
    for summary in inspection.segments() {
        let (line, blocks) = inspect_segment(journal, inspection, summary, source)?;
        if with_blocks {
            blocks.iter().try_for_each(|block| output.line(block, BlockLine::row))?;
        }
        damaged += line.damaged_blocks + u64::from(line.footer_intact == Some(false));
        output.line(&line, SegmentLine::row)?;
    }
    let line = JournalLine {
        kind: "journal",
        journal,
        journal_id: inspection.journal_id().to_string(),
        incarnation: inspection.incarnation(),
        segments: inspection.segments().len(),
        durable_blocks: inspection.durable(),
        damaged,
    };
    output.line(&line, JournalLine::row)?;
    Ok(damaged)
}

fn inspect_segment(
    journal: usize,
    inspection: &Inspection,
    summary: &SegmentSummary,
    source: &mut Segments,
) -> Result<(SegmentLine, Vec<BlockLine>), Failure> {
    let state = match summary.state {
        SegmentState::Sealed(_) => "sealed",
        SegmentState::Unsealed { .. } => "open",
        SegmentState::Freed => "free",
        SegmentState::Unused => "unused",
    };
    let mut line = SegmentLine {
        kind: "segment",
        journal,
        segment: summary.segment,
        bytes: summary.bytes,
        state,
        ..SegmentLine::default()
    };
    let mut blocks = Vec::new();
    let mut counts = false;
    let visited = inspection.visit(source, summary, &mut |finding| match finding {
        Finding::Block { header, verdict } => {
            counts = line.block(verdict);
            blocks.push(BlockLine {
                kind: "block",
                journal,
                segment: summary.segment,
                offset: header.offset(),
                bytes: header.block_bytes(),
                number: header.number.to_string(),
                incarnation: header.incarnation,
                entries: header.entries,
                verdict: verdict_name(verdict),
            });
        }
        Finding::Entry { entry, .. } if counts => line.entry(&entry),
        Finding::Entry { .. } => {}
        Finding::MalformedEntry => line.damaged_blocks += 1,
        Finding::Unreadable { bytes, .. } => line.unreadable_bytes += bytes,
        Finding::Footer { is_intact, .. } => line.footer_intact = Some(is_intact),
    });
    visited.map_err(|error| Failure::other(error.to_string()))?;
    if line.footer_intact.is_some() && line.unreadable_bytes > 0 {
        // A sealed segment holds blocks and nothing else up to its footer.
        line.damaged_blocks += 1;
    }
    Ok((line, blocks))
}

fn verdict_name(verdict: BlockVerdict) -> &'static str {
    match verdict {
        BlockVerdict::Durable => "durable",
        BlockVerdict::NotMarked => "not_marked",
        BlockVerdict::DamagedData => "damaged",
        BlockVerdict::Torn => "torn",
        BlockVerdict::CutOff => "cut_off",
        BlockVerdict::Stale => "stale",
        BlockVerdict::Foreign => "foreign",
    }
}

impl SegmentLine {
    /// Counts a block; whether its entries count as well.
    fn block(&mut self, verdict: BlockVerdict) -> bool {
        match verdict {
            BlockVerdict::Durable => {}
            BlockVerdict::NotMarked => self.not_marked_blocks += 1,
            BlockVerdict::DamagedData => self.damaged_blocks += 1,
            BlockVerdict::Torn | BlockVerdict::CutOff => {
                self.torn_blocks += 1;
                return false;
            }
            BlockVerdict::Stale | BlockVerdict::Foreign => return false,
        }
        self.blocks += 1;
        true
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Batches(run) => {
                self.runs += 1;
                self.records += u64::from(run.records);
            }
            Entry::Metalog { count, .. } => self.metalog_entries += u64::from(*count),
            Entry::Commit { .. } => self.commits += 1,
            Entry::SequencerSeal { .. } | Entry::StorageSeal { .. } => self.seals += 1,
            Entry::MetalogBase { .. } => {}
            Entry::Checkpoint(_) => self.checkpoint_parts += 1,
        }
    }

    fn row(&self) -> String {
        let footer = match self.footer_intact {
            Some(true) => "footer intact",
            Some(false) => "FOOTER DAMAGED",
            None => "no footer",
        };
        let mut row = format!(
            "journal-{} segment {:>6} {:<7} {:>5} blocks {:>9} records in {} runs, {} metalog entries, {} seals, {} checkpoint parts, {footer}",
            self.journal,
            self.segment,
            self.state,
            self.blocks,
            self.records,
            self.runs,
            self.metalog_entries,
            self.seals,
            self.checkpoint_parts,
        );
        for (count, what) in [
            (self.not_marked_blocks, "not marked durable"),
            (self.torn_blocks, "torn or cut off"),
            (self.damaged_blocks, "DAMAGED"),
            (self.unreadable_bytes, "bytes unreadable"),
        ] {
            if count > 0 {
                row.push_str(&format!(", {count} {what}"));
            }
        }
        row
    }
}

impl BlockLine {
    fn row(&self) -> String {
        format!(
            "journal-{} segment {:>6} offset {:>9} {:>7} bytes, block {}, incarnation {}, {} entries, {}",
            self.journal,
            self.segment,
            self.offset,
            self.bytes,
            self.number,
            self.incarnation,
            self.entries,
            self.verdict
        )
    }
}

impl JournalLine {
    fn row(&self) -> String {
        let verdict =
            if self.damaged == 0 { "nothing is damaged".to_owned() } else { format!("{} DAMAGED", self.damaged) };
        format!(
            "journal-{}: {} segments, incarnation {}, {} durable blocks, {verdict}",
            self.journal, self.segments, self.incarnation, self.durable_blocks
        )
    }
}

/// A journal's files, opened for reading only.
struct Segments {
    directory: PathBuf,
    open: Option<(u32, File)>,
}

impl Segments {
    fn of(directory: PathBuf) -> Segments {
        Segments { directory, open: None }
    }

    fn file(&mut self, segment: u32) -> Result<&File, SourceError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = self.directory.join(format!("segment-{segment:08}.seg"));
            let file = File::open(path).map_err(|error| failed(segment, 0, &error))?;
            self.open = Some((segment, file));
        }
        Ok(&self.open.as_ref().expect("it was just opened").1)
    }
}

fn failed(segment: u32, offset: u64, error: &std::io::Error) -> SourceError {
    SourceError { segment, offset, reason: error.to_string() }
}

impl SegmentSource for Segments {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        let number = |name: &str| name.strip_prefix("segment-")?.strip_suffix(".seg")?.parse::<u32>().ok();
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(|error| failed(0, 0, &error))? {
            let name = entry.map_err(|error| failed(0, 0, &error))?.file_name();
            segments.extend(name.to_str().and_then(number));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        let file = self.file(segment)?;
        Ok(file.metadata().map_err(|error| failed(segment, 0, &error))?.len())
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let file = self.file(segment)?;
        file.read_exact_at(buffer, offset).map_err(|error| failed(segment, offset, &error))
    }
}
