//! `sealog inspect verify`: reads everything in a data directory that no node uses, and holds it
//! against its checksums. Writes nothing.
//!
//! Two readings that complete each other. Every block and footer is read, wherever it is: that finds
//! damage in what a start does not look at, the payloads of sealed segments. And the journal is
//! opened as a start would open it: that finds what is missing, for recovery alone knows what has to
//! be there, which segments were given back, and which tail was torn by a crash.

use std::ops::Range;
use std::path::Path;

use sealog_journal::entry::{Entry, Run};
use sealog_journal::{
    BlockVerdict, Damage, DamageKind, Finding, Inspection, Journal, JournalConfig, RecoveryError, SegmentSource,
    SegmentState, SegmentSummary,
};
use sealog_node::examination::{Examination, JournalPlace};
use serde::Serialize;

use super::Segments;
use super::records::Loss;
use crate::arguments::VerifyArguments;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Ranges of positions that a line names; more are counted.
const RANGES_MAX: usize = 8;

/// A line for each damaged place.
#[derive(Debug, Default, Serialize)]
struct DamageLine {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    what: &'static str,
    /// What cannot be read any more, in words.
    lost: String,
    /// None when what is left does not tell.
    records_lost: Option<u64>,
    /// Ids of the LogBooks that are known to have lost records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logbooks: Vec<String>,
}

/// A line for each journal, after those of its damages.
#[derive(Debug, Default, Serialize)]
struct JournalLine {
    kind: &'static str,
    journal: usize,
    segments: usize,
    bytes: u64,
    blocks: u64,
    batch_runs: u64,
    records: u64,
    footers: u64,
    /// Blocks that a crash left half written, or that recovery cut off: nothing that was acknowledged.
    torn_blocks: u64,
    damages: u64,
}

pub fn run(arguments: &VerifyArguments) -> Result<(), Failure> {
    let data = &arguments.data;
    let examination = Examination::of(data).map_err(|error| Failure::other(error.to_string()))?;
    let mut output = Output::new(arguments.format.output);
    let mut damages = examination.damages.len() as u64;
    for lost in &examination.damages {
        let line = DamageLine { kind: "damage", what: "directory", lost: lost.clone(), ..DamageLine::default() };
        output.line(&line, DamageLine::row)?;
    }
    for (journal, place) in examination.journals.iter().enumerate() {
        let verified = Verification::of(journal, place);
        for line in &verified.damages {
            output.line(line, DamageLine::row)?;
        }
        damages += verified.line.damages;
        output.line(&verified.line, JournalLine::row)?;
    }
    output.flush()?;
    if damages == 0 { Ok(()) } else { Err(corrupt(data, damages)) }
}

fn corrupt(data: &Path, damages: u64) -> Failure {
    let message = format!(
        "{damages} damaged places in {}: a node serves all else, if it starts; a copy of the directory from before \
         would have what is lost",
        data.display()
    );
    Failure::new(Kind::Corrupt, message)
}

/// A journal as it is read.
struct Verification {
    journal: usize,
    damages: Vec<DamageLine>,
    line: JournalLine,
}

impl Verification {
    fn of(journal: usize, place: &JournalPlace) -> Verification {
        let line = JournalLine { kind: "journal", journal, ..JournalLine::default() };
        let mut verification = Verification { journal, damages: Vec::new(), line };
        if let Err(error) = verification.read(place) {
            verification.add_error(&error);
        }
        verification.line.damages = verification.damages.len() as u64;
        verification
    }

    fn read(&mut self, place: &JournalPlace) -> Result<(), RecoveryError> {
        let mut source = Segments::of(place.path.clone());
        let inspection = Inspection::open(&mut source, place.id)?;
        for summary in inspection.segments() {
            self.line.segments += 1;
            self.line.bytes += summary.bytes;
            // One file that cannot be read hides nothing of the others.
            if let Err(error) = self.read_segment(&inspection, summary, &mut source) {
                self.add_error(&error);
            }
        }
        // Nothing is written by recovery itself, and what it makes is dropped.
        let config = JournalConfig::new(inspection.journal_id());
        let journal = Journal::recover(config, &mut source, &mut |_, _| {})?;
        for damage in &journal.report().damages {
            self.add_missing(damage);
        }
        let unlisted = journal.report().damages_total - journal.report().damages.len() as u64;
        if unlisted > 0 {
            let lost = format!("{unlisted} more damaged ranges");
            self.damages.push(DamageLine { what: "blocks", lost, ..self.damage_line() });
        }
        Ok(())
    }

    fn damage_line(&self) -> DamageLine {
        DamageLine { kind: "damage", journal: Some(self.journal), ..DamageLine::default() }
    }

    fn add_error(&mut self, error: &RecoveryError) {
        let (segment, offset) = match error {
            RecoveryError::Source(error) => (Some(error.segment), Some(error.offset)),
            RecoveryError::Version { segment, offset, .. }
            | RecoveryError::MetalogDamaged { segment, offset, .. }
            | RecoveryError::Malformed { segment, offset, .. } => (Some(*segment), Some(*offset)),
            RecoveryError::ForeignJournal { segment, .. } => (Some(*segment), None),
        };
        let what = if matches!(error, RecoveryError::MetalogDamaged { .. }) { "metalog" } else { "journal" };
        let lost = format!("a node does not start from it: {error}");
        self.damages.push(DamageLine { segment, offset, what, lost, ..self.damage_line() });
    }

    /// What recovery misses, unless it was found here already.
    fn add_missing(&mut self, damage: &Damage) {
        let range = damage.offset..damage.offset + damage.bytes.max(1);
        if self.damages.iter().any(|line| line.covers(damage.segment, &range)) {
            return;
        }
        let (what, lost) = match damage.kind {
            DamageKind::Data => ("data", "records of this block"),
            DamageKind::Blocks => ("blocks", "the records of whole blocks; no metalog entry is among them"),
            DamageKind::Footer => ("footer", NOTHING_OF_FOOTER),
        };
        self.damages.push(DamageLine {
            segment: Some(damage.segment),
            offset: Some(damage.offset),
            bytes: Some(damage.bytes),
            what,
            lost: lost.to_owned(),
            ..self.damage_line()
        });
    }

    fn read_segment(
        &mut self,
        inspection: &Inspection,
        summary: &SegmentSummary,
        source: &mut Segments,
    ) -> Result<(), RecoveryError> {
        let mut blocks: Vec<ReadBlock> = Vec::new();
        let mut is_footer_intact = None;
        inspection.visit(source, summary, &mut |finding| match finding {
            Finding::Block { header, verdict } => blocks.push(ReadBlock {
                number: header.number,
                range: header.offset()..header.offset() + header.block_bytes(),
                verdict,
                runs: Vec::new(),
                is_malformed: false,
            }),
            Finding::Entry { entry: Entry::Batches(run), .. } => {
                blocks.last_mut().expect("entries follow their block").runs.push(run);
            }
            Finding::MalformedEntry => blocks.last_mut().expect("entries follow their block").is_malformed = true,
            // Remains of earlier uses look like this; what is missing is told by numbers.
            Finding::Entry { .. } | Finding::Unreadable { .. } => {}
            Finding::Footer { is_intact, .. } => is_footer_intact = Some(is_intact),
        })?;
        self.line.torn_blocks +=
            blocks.iter().filter(|block| matches!(block.verdict, BlockVerdict::Torn | BlockVerdict::CutOff)).count()
                as u64;
        blocks.retain(ReadBlock::counts);
        for block in &blocks {
            self.read_block(summary.segment, block, source)?;
        }
        if let SegmentState::Sealed(trailer) = summary.state {
            self.line.footers += 1;
            let numbers = trailer.first_number..trailer.end_number;
            self.look_for_gaps(
                summary.segment,
                &blocks,
                numbers,
                trailer.footer_offset,
                is_footer_intact == Some(true),
            );
            if is_footer_intact == Some(false) {
                self.damages.push(DamageLine {
                    segment: Some(summary.segment),
                    offset: Some(trailer.footer_offset),
                    bytes: Some(summary.bytes - trailer.footer_offset),
                    what: "footer",
                    lost: NOTHING_OF_FOOTER.to_owned(),
                    records_lost: Some(0),
                    ..self.damage_line()
                });
            }
        }
        Ok(())
    }

    fn read_block(&mut self, segment: u32, block: &ReadBlock, source: &mut Segments) -> Result<(), RecoveryError> {
        let is_damaged = block.is_malformed || block.verdict == BlockVerdict::DamagedData;
        let (mut lost, mut records_lost, mut logbooks) = (Vec::new(), 0, Vec::new());
        self.line.blocks += 1;
        for run in &block.runs {
            self.line.batch_runs += 1;
            self.line.records += u64::from(run.records);
            let begin = u64::from(run.offset) * 8;
            if begin < block.range.start || begin + u64::from(run.bytes) > block.range.end {
                lost.push("a run of batches that its block lists beyond its own end".to_owned());
                continue;
            }
            let mut bytes = vec![0; run.bytes as usize];
            source.read(segment, begin, &mut bytes)?;
            let loss = Loss::of(run, &bytes);
            if loss.records() > 0 {
                records_lost += loss.records();
                lost.push(in_words(run, &loss));
                logbooks.extend(loss.logbooks.iter().map(ToString::to_string));
            }
        }
        if !is_damaged && lost.is_empty() {
            return Ok(());
        }
        if lost.is_empty() {
            lost.push("no record: a part of an index checkpoint, or bytes between batches".to_owned());
        }
        self.damages.push(DamageLine {
            segment: Some(segment),
            offset: Some(block.range.start),
            bytes: Some(block.range.end - block.range.start),
            what: if block.is_malformed { "entries" } else { "data" },
            lost: lost.join(", "),
            records_lost: Some(records_lost),
            logbooks,
            ..self.damage_line()
        });
        Ok(())
    }

    /// A sealed segment has every block that its trailer counts. A gap is not a segment that was
    /// given back: those go as a whole.
    fn look_for_gaps(
        &mut self,
        segment: u32,
        blocks: &[ReadBlock],
        numbers: Range<u64>,
        footer_offset: u64,
        is_footer_intact: bool,
    ) {
        let (mut number, mut end) = (numbers.start, 0);
        let last = (numbers.end, footer_offset, footer_offset);
        let ends = blocks.iter().map(|block| (block.number, block.range.start, block.range.end)).chain([last]);
        for (found, begins, ends) in ends {
            if found > number {
                let records = format!("the records of {} blocks", found - number);
                let metalog = if is_footer_intact {
                    "what orders them is in the footer"
                } else {
                    "metalog entries among them are lost too"
                };
                self.damages.push(DamageLine {
                    segment: Some(segment),
                    offset: Some(end),
                    bytes: Some(begins - end),
                    what: "blocks",
                    lost: format!("{records}; {metalog}"),
                    ..self.damage_line()
                });
            }
            (number, end) = (found + 1, ends);
        }
    }
}

const NOTHING_OF_FOOTER: &str = "nothing: the next start reads the segment block by block";

/// A block that was read, and the runs that it lists.
struct ReadBlock {
    number: u64,
    range: Range<u64>,
    verdict: BlockVerdict,
    runs: Vec<Run>,
    is_malformed: bool,
}

impl ReadBlock {
    fn counts(&self) -> bool {
        matches!(self.verdict, BlockVerdict::Durable | BlockVerdict::NotMarked | BlockVerdict::DamagedData)
    }
}

fn in_words(run: &Run, loss: &Loss) -> String {
    let named = loss.positions.iter().take(RANGES_MAX).map(|range| match range.end - range.start {
        1 => range.start.to_string(),
        _ => format!("{}–{}", range.start, range.end - 1),
    });
    let named = named.collect::<Vec<String>>().join(", ");
    let more = match loss.positions.len().saturating_sub(RANGES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more ranges"),
    };
    let (records, shard) = (loss.records(), run.shard);
    format!("{records} records: positions {named}{more} of shard {} of view {}", shard.index, shard.view.0)
}

impl DamageLine {
    fn covers(&self, segment: u32, range: &Range<u64>) -> bool {
        let (Some(offset), Some(bytes)) = (self.offset, self.bytes) else { return false };
        self.segment == Some(segment) && offset < range.end && range.start < offset + bytes
    }

    fn row(&self) -> String {
        let mut row = "DAMAGED".to_owned();
        for (name, value) in [
            ("journal", self.journal.map(|journal| journal as u64)),
            ("segment", self.segment.map(u64::from)),
            ("offset", self.offset),
            ("bytes", self.bytes),
        ] {
            row.extend(value.map(|value| format!(" {name} {value}")));
        }
        row.push_str(&format!(", {}; lost: {}", self.what, self.lost));
        if !self.logbooks.is_empty() {
            row.push_str(&format!("; of LogBooks {}", self.logbooks.join(", ")));
        }
        row
    }
}

impl JournalLine {
    fn row(&self) -> String {
        let torn = match self.torn_blocks {
            0 => String::new(),
            torn => format!(", {torn} blocks torn by a crash or cut off"),
        };
        let verdict = if self.damages == 0 { "all whole".to_owned() } else { format!("{} DAMAGED", self.damages) };
        format!(
            "journal-{}: {} segments, {} bytes, {} blocks, {} records, {} footers read{torn}: {verdict}",
            self.journal, self.segments, self.bytes, self.blocks, self.records, self.footers
        )
    }
}
