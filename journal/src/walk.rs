//! The walk through all blocks in order: what is handed on, what is damage, where the tail is torn.

use std::collections::BTreeMap;

use sealog_protocol::machine::{JournalPlace, Recovered};
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::tags::write_tags;

use crate::config::Owner;
use crate::entry::{Entry, Line, Run, lines};
use crate::footer::{Footer, FooterBuilder, SegmentPlace, Span};
use crate::freed::{Freed, FreedRange};
use crate::header::{Block, BlockHeader, HEADER_BYTES};
use crate::report::{Damage, DamageKind, RecoveryError, RecoveryReport, TornTail};
use crate::salvage::salvage;
use crate::segments::OpenSegment;
use crate::survey::ScannedBlock;
use crate::trailer::Trailer;

pub(crate) struct Walk<'a> {
    /// Blocks below were taken, or are damaged.
    pub number: u64,
    /// Vital entries in them.
    pub vital: u64,
    /// Of the last block taken.
    incarnation: u64,
    /// Blocks below were durable once.
    durable: u64,
    /// Blocks that are gone because nobody needed them.
    freed: Freed,
    /// What each machine was handed of each segment, in bytes.
    held: BTreeMap<(u32, Owner), u64>,
    /// Blocks that are lost and in no segment's range, by the segment that is said to be damaged.
    missing: BTreeMap<u32, Vec<FreedRange>>,
    /// The tail is cut off: what comes is dropped.
    is_cut: bool,
    /// The number behind the last block taken.
    taken_end: u64,
    /// Where the last block taken ends.
    end: (u32, u64),
    pub report: RecoveryReport,
    sink: &'a mut dyn FnMut(Owner, Recovered<'_>),
    tags: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub fn new(durable: u64, freed: Freed, sink: &'a mut dyn FnMut(Owner, Recovered<'_>)) -> Walk<'a> {
        Walk {
            number: 0,
            vital: 0,
            incarnation: 0,
            durable,
            freed,
            held: BTreeMap::new(),
            missing: BTreeMap::new(),
            is_cut: false,
            taken_end: 0,
            end: (0, 0),
            report: RecoveryReport::default(),
            sink,
            tags: Vec::new(),
        }
    }

    /// Takes a whole sealed segment.
    pub fn sealed(&mut self, footer: &Footer<'_>) -> Result<(), RecoveryError> {
        let trailer = footer.trailer;
        self.pass_missing(trailer.first_number, trailer.first_vital, (trailer.segment, 0))?;
        for line in footer.lines() {
            if let Line::Entry(owner, entry) = line.map_err(|_| malformed(trailer.segment, trailer.footer_offset))? {
                self.hand_on(trailer.segment, owner, &entry);
            }
        }
        for damage in &footer.damages {
            self.report.add_damage(*damage);
        }
        self.report.sealed_segments += 1;
        (self.number, self.vital, self.incarnation) = (trailer.end_number, trailer.end_vital, trailer.incarnation);
        self.taken_end = self.number;
        self.end = (trailer.segment, trailer.footer_offset);
        Ok(())
    }

    /// Takes the blocks of a segment one by one; `bytes` are the whole segment. With a trailer, it
    /// is known where they end. `None` when none of them is taken.
    pub fn scanned(
        &mut self,
        place: SegmentPlace,
        bytes: &[u8],
        blocks: &[ScannedBlock],
        trailer: Option<&Trailer>,
    ) -> Result<Option<OpenSegment>, RecoveryError> {
        let mut open: Option<OpenSegment> = None;
        for block in blocks {
            if !self.comes_next(block, place.segment)? {
                continue;
            }
            let open = open.get_or_insert_with(|| {
                let footer = FooterBuilder::new(Span::starting(block.header.number, block.header.vital));
                OpenSegment { place, used_bytes: 0, footer }
            });
            let parsed =
                Block::parse(&bytes[block.offset() as usize..]).ok_or(malformed(place.segment, block.offset()))?;
            let vital = self.take(&mut open.footer, place.segment, &parsed, block.is_data_intact)?;
            open.footer.span.add_block(&block.header, vital);
            open.used_bytes = block.end();
            self.end = (place.segment, block.end());
        }
        if let Some(trailer) = trailer {
            self.pass_missing(trailer.end_number, trailer.end_vital, (place.segment, trailer.footer_offset))?;
            if let Some(open) = &mut open {
                (open.footer.span.end_number, open.footer.span.end_vital) = (trailer.end_number, trailer.end_vital);
            }
        }
        if let Some(open) = &mut open {
            self.report.scanned_segments += 1;
            for damage in self.report.damages.iter().filter(|damage| damage.segment == place.segment) {
                if damage.kind != DamageKind::Footer {
                    open.footer.add_damage(*damage);
                }
            }
            self.look_for_torn_block(place, bytes, open.used_bytes);
        }
        Ok(open)
    }

    /// Whether this block is the next to be taken: goes past damage in front of it, stops at the
    /// torn tail.
    fn comes_next(&mut self, block: &ScannedBlock, segment: u32) -> Result<bool, RecoveryError> {
        let header = &block.header;
        if self.is_cut {
            if let Some(tail) = &mut self.report.torn_tail {
                tail.valid_blocks_dropped += 1;
            }
            return Ok(false);
        }
        self.pass_freed();
        let out_of_order = header.number < self.number || header.incarnation < self.incarnation;
        if out_of_order || (self.end.0 == segment && block.offset() < self.end.1) {
            return Ok(false);
        }
        if header.number > self.number && header.number > self.durable {
            // The first block that is missing and was not known to be durable: all from there on
            // goes. If blocks in front of it are missing that were, they are damage all the same.
            self.pass_missing(self.durable, header.vital, (segment, block.offset()))?;
            self.cut(1);
            return Ok(false);
        }
        self.pass_missing(header.number, header.vital, (segment, block.offset()))?;
        if header.vital != self.vital {
            return Err(malformed(segment, block.offset()));
        }
        if !block.is_data_intact && header.number >= self.durable {
            self.end = (segment, block.offset());
            self.cut(0);
            return Ok(false);
        }
        Ok(true)
    }

    /// Goes past blocks that are gone.
    fn pass_freed(&mut self) {
        if let Some(range) = self.freed.at(self.number) {
            self.number = range.end_number;
            self.vital += range.end_vital - range.first_vital;
        }
    }

    /// Blocks behind the last one taken are gone, or damaged: the next one does not go behind it.
    pub fn is_tail_unclear(&self) -> bool {
        self.number > self.taken_end
    }

    /// Goes past missing blocks up to `number`, which were durable and end before `until`: they are
    /// gone because nobody needed them, or lost. Refuses if vital entries were lost.
    fn pass_missing(&mut self, number: u64, vital: u64, until: (u32, u64)) -> Result<(), RecoveryError> {
        self.pass_freed();
        if number <= self.number {
            return Ok(());
        }
        let (_, gone_vital) = self.freed.within(self.number, number);
        let gaps = self.freed.gaps(self.number, number, self.vital);
        self.vital += gone_vital;
        // Missing blocks lie between the last one and the next, perhaps in another segment.
        let (segment, offset) =
            if self.end.0 == until.0 || until.1 == 0 && self.end.0 != 0 { self.end } else { (until.0, 0) };
        if vital != self.vital {
            return Err(RecoveryError::MetalogDamaged { segment, offset, lost: vital.abs_diff(self.vital) });
        }
        let bytes = if segment == until.0 { until.1.saturating_sub(offset) } else { 0 };
        self.report.add_damage(Damage { kind: DamageKind::Blocks, segment, offset, bytes });
        if bytes == 0 || self.end.0 != until.0 {
            self.missing.entry(segment).or_default().extend(gaps);
        }
        self.number = number;
        Ok(())
    }

    fn cut(&mut self, valid_blocks_dropped: u64) {
        self.is_cut = true;
        let (segment, offset) = self.end;
        self.report.torn_tail = Some(TornTail { segment, offset, valid_blocks_dropped });
    }

    /// Takes a block's entries; how many of them are vital.
    fn take(
        &mut self,
        footer: &mut FooterBuilder,
        segment: u32,
        block: &Block<'_>,
        is_data_intact: bool,
    ) -> Result<u32, RecoveryError> {
        let header = &block.header;
        let mut vital = 0;
        for line in lines(block.directory) {
            let (owner, entry) = match line.map_err(|_| malformed(segment, header.offset()))? {
                Line::Entry(owner, entry) => (owner, entry),
                Line::Freed(freed) => {
                    footer.add_freed(&freed);
                    continue;
                }
            };
            vital += u32::from(entry.is_vital());
            // A part of a checkpoint with damaged data is not whole: it has copies.
            if matches!(entry, Entry::Checkpoint(_)) && !is_data_intact {
                continue;
            }
            let Entry::Batches(run) = entry else {
                footer.add(header.number, owner, &entry, &[]);
                self.hand_on(segment, owner, &entry);
                continue;
            };
            let batches = batches_of(block, &run).ok_or(malformed(segment, header.offset()))?;
            if is_data_intact {
                let mut tags = std::mem::take(&mut self.tags);
                tags.clear();
                let records = write_tags(&mut tags, batches).map_err(|_| malformed(segment, header.offset()))?;
                if records != u64::from(run.records) || tags.len() != run.tags_bytes as usize {
                    return Err(malformed(segment, header.offset()));
                }
                footer.add(header.number, owner, &entry, &tags);
                self.hand_on(segment, owner, &entry);
                self.tags = tags;
            } else {
                salvage(&run, batches, &mut |part, tags| {
                    let entry = Entry::Batches(part);
                    footer.add(header.number, owner, &entry, tags);
                    self.hand_on(segment, owner, &entry);
                });
            }
        }
        if !is_data_intact {
            let (offset, bytes) = (header.offset(), header.block_bytes());
            self.report.add_damage(Damage { kind: DamageKind::Data, segment, offset, bytes });
        }
        self.report.scanned_blocks += 1;
        (self.number, self.incarnation) = (header.number + 1, header.incarnation);
        self.taken_end = self.number;
        self.vital += u64::from(vital);
        Ok(vital)
    }

    fn hand_on(&mut self, segment: u32, owner: Owner, entry: &Entry<'_>) {
        let recovered = match *entry {
            Entry::Batches(run) => Recovered::Batches {
                shard: run.shard,
                first: run.first,
                records: u64::from(run.records),
                at: JournalPlace { segment, offset: run.offset },
                bytes: run.bytes,
            },
            Entry::Metalog { view, from, entries, .. } => Recovered::Metalog { view, from, entries, segment },
            Entry::Commit { view, commit } => Recovered::Commit { view, commit, segment },
            Entry::SequencerSeal { view } => Recovered::SequencerSeal { view, segment },
            Entry::StorageSeal { view } => Recovered::StorageSeal { view, segment },
            Entry::MetalogBase { place } => Recovered::MetalogBase { place, segment },
            Entry::Checkpoint(part) => Recovered::Checkpoint {
                place: part.place,
                part: part.part,
                last: part.last,
                at: JournalPlace { segment, offset: part.offset },
                bytes: part.bytes,
            },
        };
        self.report.entries += 1;
        *self.held.entry((segment, owner)).or_default() += entry.bytes();
        (self.sink)(owner, recovered);
    }

    /// A block that was begun behind the last one, and is not whole: said in the report. Whether
    /// it is there or not, the next incarnation begins at its place.
    fn look_for_torn_block(&mut self, place: SegmentPlace, bytes: &[u8], offset: u64) {
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let begun = BlockHeader::parse_unverified(rest).is_some_and(|header| {
            (header.journal_id, header.segment, header.use_number, header.number)
                == (place.journal_id, place.segment, place.use_number, self.number)
                && header.incarnation >= self.incarnation
        });
        if begun && !self.is_cut && self.number >= self.durable {
            self.report.torn_tail = Some(TornTail { segment: place.segment, offset, valid_blocks_dropped: 0 });
        }
    }

    /// Lost blocks that are in no segment's range, by the segment that is said to be damaged.
    pub fn take_missing(&mut self) -> BTreeMap<u32, Vec<FreedRange>> {
        std::mem::take(&mut self.missing)
    }

    /// What each machine was handed of each segment, in bytes: it needs that until it says otherwise.
    pub fn held(&self) -> impl Iterator<Item = (u32, Owner, u64)> {
        self.held.iter().map(|((segment, owner), bytes)| (*segment, *owner, *bytes))
    }

    /// What is gone, and what was found.
    pub fn finish(&mut self) -> (Freed, RecoveryReport) {
        self.pass_freed();
        if self.report.torn_tail.is_some() {
            mark(Mark::TornTailTruncated);
        }
        (std::mem::take(&mut self.freed), std::mem::take(&mut self.report))
    }
}

/// The batches of a run, in its block's data.
fn batches_of<'a>(block: &Block<'a>, run: &Run) -> Option<&'a [u8]> {
    let begin = (u64::from(run.offset) * 8).checked_sub(block.header.offset() + HEADER_BYTES as u64)?;
    block.data.get(begin as usize..)?.get(..run.bytes as usize)
}

fn malformed(segment: u32, offset: u64) -> RecoveryError {
    RecoveryError::Malformed { segment, offset, reason: "its entries do not agree with each other" }
}
