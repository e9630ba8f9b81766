//! Opening a journal: what is there, what a crash left half written, what is damaged.
//!
//! ```text
//!  number:  0 … … … e … … D … … …
//!           └ whole ┘     └ the greatest durable prefix that any block carries
//! ```
//!
//! Blocks are taken in order of their numbers. A missing block below D was durable once: that is
//! damage, which is reported and gone past, unless metalog entries or seals were lost with it. The
//! first missing block at or above D is the torn tail: it and all after it were never reported
//! durable, and are cut off. The next incarnation begins there, with a block that every later block
//! of it names, so what was cut off is known as such for ever.
//!
//! Memory: one segment's bytes, the headers of blocks of segments that are scanned, and the Tags of
//! segments that have no footer yet (normally the open one, and one or two before it).

use sealog_protocol::machine::Recovered;
use sealog_protocol::mutant::{Mark, mark};

use crate::ALIGNMENT;
use crate::config::{JournalConfig, Owner};
use crate::entry::{Line, lines};
use crate::footer::{Footer, SegmentPlace};
use crate::freed::Freed;
use crate::header::Block;
use crate::report::{Damage, DamageKind, RecoveryError, RecoveryReport, Rotten};
use crate::segments::{OpenSegment, Segments};
use crate::source::SegmentSource;
use crate::space::FreeFile;
use crate::survey::{Content, Incarnations, Reader, ScannedBlock, Survey, scan};
use crate::trailer::Trailer;
use crate::walk::Walk;

/// A journal as recovery found it.
pub(crate) struct Found {
    pub segments: Segments,
    pub next_number: u64,
    pub vital: u64,
    /// Of the life that begins.
    pub incarnation: u64,
    pub report: RecoveryReport,
    /// Whom to tell of damage.
    pub rotten: Vec<Rotten>,
}

pub(crate) fn recover(
    config: &JournalConfig,
    source: &mut dyn SegmentSource,
    sink: &mut dyn FnMut(Owner, Recovered<'_>),
) -> Result<Found, RecoveryError> {
    let mut reader = Reader::new(source);
    let mut surveys = survey_all(&mut reader, config.journal_id)?;
    let incarnations = drop_cut_off(&mut surveys);
    let durable = known_durable(&surveys);
    let freed = newest_list(&mut reader, &surveys, config.journal_id, &incarnations)?;
    let mut segments = Segments::new(config);
    segments.next_segment =
        surveys.iter().map(|survey| survey.segment.saturating_add(1)).max().unwrap_or(segments.next_segment);
    segments.next_use = surveys.iter().map(Survey::use_number).max().unwrap_or(0) + 1;

    let files = take_freed(&mut surveys, &freed);
    let mut walk = Walk::new(durable, freed, sink);
    let mut unused = Vec::new();
    for survey in surveys {
        let place = SegmentPlace {
            journal_id: config.journal_id,
            segment: survey.segment,
            use_number: survey.use_number(),
            bytes: survey.bytes,
        };
        match survey.content {
            Content::Sealed(trailer) => {
                segments.seal_open();
                recover_sealed(&mut walk, &mut reader, &mut segments, place, &trailer, &incarnations)?;
            }
            Content::Scanned(blocks) => match recover_scanned(&mut walk, &mut reader, place, &blocks, None)? {
                Some(open) => {
                    segments.seal_open();
                    segments.open = Some(open);
                }
                None => unused.push((survey.segment, survey.bytes)),
            },
            Content::Nothing => unused.push((survey.segment, survey.bytes)),
        }
    }
    for (segment, bytes) in unused {
        walk.report.prepared_segments += 1;
        if bytes == config.segment_bytes {
            segments.prepared.push_back(segment);
        } else {
            segments.wanted_again.push_back(segment);
        }
    }
    for (segment, owner, bytes) in walk.held() {
        segments.space.hold(segment, owner, bytes);
    }
    let mut owners: Vec<Owner> = walk.held().map(|(_, owner, _)| owner).collect();
    owners.sort_unstable();
    owners.dedup();
    segments.missing = walk.take_missing();
    let (freed, mut report) = walk.finish();
    // Nothing more goes into a damaged segment: it is to be given back.
    let is_damaged = |open: &OpenSegment| {
        let here = |damage: &&Damage| damage.segment == open.place.segment && damage.kind != DamageKind::Footer;
        report.damages.iter().any(|damage| here(&damage))
    };
    if walk.is_tail_unclear() || segments.open.as_ref().is_some_and(is_damaged) {
        segments.seal_open();
    }
    let rotten = tell_damages(&mut segments, &report, &owners);
    report.bytes_read = reader.bytes_read;
    report.freed_segments = files.len() as u64;
    segments.space.recovered(freed, files);
    segments.free_all();
    let (next_number, vital, incarnation) = (walk.number, walk.vital, incarnations.last() + 1);
    Ok(Found { segments, next_number, vital, incarnation, report, rotten })
}

/// Who is to be told of damage: those that have something in the segment; where blocks are missing, all,
/// for nobody knows whose they were. Each holds the segment until it is done with it.
fn tell_damages(segments: &mut Segments, report: &RecoveryReport, owners: &[Owner]) -> Vec<Rotten> {
    let mut rotten = Vec::new();
    for damage in &report.damages {
        if damage.kind == DamageKind::Footer || !segments.is_live(damage.segment) {
            continue;
        }
        if damage.kind == DamageKind::Blocks {
            owners.iter().for_each(|owner| segments.space.hold(damage.segment, *owner, 0));
        }
        let told = segments.space.owners(damage.segment).into_iter();
        rotten.extend(told.map(|owner| Rotten { owner, damage: *damage, is_missing: true }));
    }
    rotten
}

/// What the newest list says, be it durable or not. All that a machine made durable before it gave a
/// segment back lies below the durable prefix that the block of the list carries, hence below *D*: that
/// this is damaged is noticed, wherever the tail is torn. And once a life has seen a segment that it
/// thought gone, no block is there that says so, and none gets there but from that life.
pub(crate) fn newest_list(
    reader: &mut Reader<'_>,
    surveys: &[Survey],
    journal_id: u64,
    incarnations: &Incarnations,
) -> Result<Freed, RecoveryError> {
    for survey in surveys.iter().rev() {
        let (segment, bytes) = (survey.segment, survey.bytes);
        let found = match &survey.content {
            Content::Nothing => None,
            Content::Scanned(blocks) => list_in_blocks(reader, segment, blocks)?,
            Content::Sealed(trailer) => {
                let (skip, directory) = read_directory(reader, trailer)?;
                match Footer::parse(trailer, &directory[skip..], bytes) {
                    Some(footer) => footer.lines().filter_map(|line| freed_of(line.ok()?)).last(),
                    None => {
                        let place = SegmentPlace { journal_id, segment, use_number: trailer.use_number, bytes };
                        let blocks = scan_sealed(reader, place, trailer, incarnations)?;
                        list_in_blocks(reader, segment, &blocks)?
                    }
                }
            }
        };
        if let Some(freed) = found {
            return Ok(freed);
        }
    }
    Ok(Freed::default())
}

fn freed_of(line: Line<'_>) -> Option<Freed> {
    match line {
        Line::Freed(freed) => Some(freed),
        Line::Entry(..) => None,
    }
}

fn list_in_blocks(
    reader: &mut Reader<'_>,
    segment: u32,
    blocks: &[ScannedBlock],
) -> Result<Option<Freed>, RecoveryError> {
    let lists = blocks.iter().filter(|block| block.header.kind.says_freed());
    let Some(newest) = lists.max_by_key(|block| block.header.number) else { return Ok(None) };
    let bytes = reader.read(segment, newest.offset(), newest.header.block_bytes() as usize)?;
    Ok(Block::parse(bytes).and_then(|block| lines(block.directory).filter_map(|line| freed_of(line.ok()?)).last()))
}

/// Takes out what is gone: segments that were given back and are still there, and single blocks with
/// the number of one that is gone. Those were cut off, by a life of which nothing else may be left.
fn take_freed(surveys: &mut Vec<Survey>, freed: &Freed) -> Vec<FreeFile> {
    let mut files = Vec::new();
    surveys.retain_mut(|survey| {
        let is_freed = match &mut survey.content {
            Content::Sealed(trailer) => freed.contains(trailer.first_number),
            Content::Scanned(blocks) => {
                let before = blocks.len();
                blocks.retain(|block| !freed.contains(block.header.number));
                blocks.is_empty() && before > 0
            }
            Content::Nothing => false,
        };
        if is_freed {
            files.push(FreeFile { segment: survey.segment, bytes: survey.bytes });
        }
        !is_freed
    });
    files
}

/// Entries and tables of a segment's footer, and where they begin in what is returned.
fn read_directory<'a>(reader: &'a mut Reader<'_>, trailer: &Trailer) -> Result<(usize, &'a [u8]), RecoveryError> {
    let begin = trailer.footer_offset + u64::from(trailer.tags_bytes);
    let offset = begin / ALIGNMENT as u64 * ALIGNMENT as u64;
    let skip = (begin - offset) as usize;
    let bytes = (skip + trailer.directory_bytes() as usize).next_multiple_of(ALIGNMENT);
    Ok((skip, reader.read(trailer.segment, offset, bytes)?))
}

/// The blocks of a sealed segment whose footer is damaged.
fn scan_sealed(
    reader: &mut Reader<'_>,
    place: SegmentPlace,
    trailer: &Trailer,
    incarnations: &Incarnations,
) -> Result<Vec<ScannedBlock>, RecoveryError> {
    let bytes = reader.read(place.segment, 0, place.bytes as usize)?;
    let mut blocks = scan(bytes, place.segment, place.journal_id)?;
    blocks.retain(|block| {
        let header = &block.header;
        header.use_number == place.use_number
            && (trailer.first_number..trailer.end_number).contains(&header.number)
            && !incarnations.is_cut_off(header)
    });
    Ok(blocks)
}

/// All segments, in order of use; those without a use come last, by number.
pub(crate) fn survey_all(reader: &mut Reader<'_>, journal_id: u64) -> Result<Vec<Survey>, RecoveryError> {
    let mut numbers = reader.source.segments()?;
    numbers.sort_unstable();
    let mut surveys = Vec::with_capacity(numbers.len());
    for segment in numbers {
        surveys.push(Survey::of(reader, segment, journal_id)?);
    }
    surveys.sort_by_key(|survey| (matches!(survey.content, Content::Nothing), survey.use_number()));
    Ok(surveys)
}

/// Drops blocks that an earlier recovery cut off.
pub(crate) fn drop_cut_off(surveys: &mut [Survey]) -> Incarnations {
    let mut incarnations = Incarnations::default();
    for survey in surveys.iter() {
        match &survey.content {
            Content::Sealed(trailer) => incarnations.add(trailer.incarnation, trailer.incarnation_first),
            Content::Scanned(blocks) => {
                for block in blocks {
                    incarnations.add(block.header.incarnation, block.header.incarnation_first);
                }
            }
            Content::Nothing => {}
        }
    }
    for survey in surveys {
        if let Content::Scanned(blocks) = &mut survey.content {
            blocks.retain(|block| !incarnations.is_cut_off(&block.header));
        }
    }
    incarnations
}

/// The greatest durable prefix that anything on the disk vouches for.
pub(crate) fn known_durable(surveys: &[Survey]) -> u64 {
    let known = surveys.iter().map(|survey| match &survey.content {
        Content::Sealed(trailer) => trailer.end_number,
        Content::Scanned(blocks) => blocks.iter().map(|block| block.header.durable).max().unwrap_or(0),
        Content::Nothing => 0,
    });
    known.max().unwrap_or(0)
}

fn recover_sealed(
    walk: &mut Walk<'_>,
    reader: &mut Reader<'_>,
    segments: &mut Segments,
    place: SegmentPlace,
    trailer: &Trailer,
    incarnations: &Incarnations,
) -> Result<(), RecoveryError> {
    let (skip, directory) = read_directory(reader, trailer)?;
    if let Some(footer) = Footer::parse(trailer, &directory[skip..], place.bytes) {
        walk.sealed(&footer)?;
        segments.sealed.insert(place.segment, footer.sealed);
        mark(Mark::RecoveredSealedSegment);
        return Ok(());
    }
    walk.report.add_damage(Damage {
        kind: DamageKind::Footer,
        segment: place.segment,
        offset: trailer.footer_offset,
        bytes: trailer.footer_bytes().next_multiple_of(ALIGNMENT as u64),
    });
    let blocks = scan_sealed(reader, place, trailer, incarnations)?;
    // Its footer is written again, from what the blocks say.
    segments.open = recover_scanned(walk, reader, place, &blocks, Some(trailer))?;
    segments.seal_open();
    Ok(())
}

/// Takes the blocks of a segment without a footer. `None` when all of them are beyond the tail.
fn recover_scanned(
    walk: &mut Walk<'_>,
    reader: &mut Reader<'_>,
    place: SegmentPlace,
    blocks: &[ScannedBlock],
    trailer: Option<&Trailer>,
) -> Result<Option<OpenSegment>, RecoveryError> {
    reader.source.sync(place.segment)?;
    let bytes = reader.read(place.segment, 0, place.bytes as usize)?;
    let open = walk.scanned(place, bytes, blocks, trailer)?;
    if open.is_some() {
        mark(Mark::RecoveredOpenSegment);
    }
    Ok(open)
}
