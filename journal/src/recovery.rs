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
use crate::footer::{Footer, SegmentPlace};
use crate::report::{Damage, DamageKind, RecoveryError, RecoveryReport};
use crate::segments::{OpenSegment, Segments};
use crate::source::SegmentSource;
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
}

pub(crate) fn recover(
    config: &JournalConfig,
    source: &mut dyn SegmentSource,
    sink: &mut dyn FnMut(Owner, Recovered<'_>),
) -> Result<Found, RecoveryError> {
    let mut reader = Reader::new(source);
    let mut surveys = survey_all(&mut reader, config.journal_id)?;
    let incarnations = drop_cut_off(&mut surveys);
    let mut segments = Segments::new(config);
    segments.next_segment =
        surveys.iter().map(|survey| survey.segment.saturating_add(1)).max().unwrap_or(segments.next_segment);
    segments.next_use = surveys.iter().map(Survey::use_number).max().unwrap_or(0) + 1;

    let mut walk = Walk::new(known_durable(&surveys), sink);
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
    if walk.is_tail_unclear {
        segments.seal_open();
    }
    for (segment, bytes) in unused {
        walk.report.prepared_segments += 1;
        if bytes == config.segment_bytes {
            segments.prepared.push_back(segment);
        } else {
            segments.wanted_again.push_back(segment);
        }
    }
    let mut report = walk.finish();
    report.bytes_read = reader.bytes_read;
    Ok(Found { segments, next_number: walk.number, vital: walk.vital, incarnation: incarnations.last() + 1, report })
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
    let footer_bytes = trailer.footer_bytes().next_multiple_of(ALIGNMENT as u64);
    let bytes = reader.read(place.segment, trailer.footer_offset, footer_bytes as usize)?;
    if let Some(footer) = Footer::parse(trailer, bytes) {
        walk.sealed(&footer)?;
        segments.sealed.insert(place.segment, footer.sealed);
        mark(Mark::RecoveredSealedSegment);
        return Ok(());
    }
    walk.report.add_damage(Damage {
        kind: DamageKind::Footer,
        segment: place.segment,
        offset: trailer.footer_offset,
        bytes: footer_bytes,
    });
    let bytes = reader.read(place.segment, 0, place.bytes as usize)?;
    let mut blocks = scan(bytes, place.segment, place.journal_id)?;
    blocks.retain(|block| block.header.use_number == place.use_number && !incarnations.is_cut_off(&block.header));
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
