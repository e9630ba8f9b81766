//! Reading what has long been written, now and then: a disk forgets in silence, and what nobody reads
//! is found to be gone only when its last copy is.
//!
//! ```text
//!   wait ─► segment: blocks ─► trailer ─► footer ─► next segment … ─► pass finished ─► wait
//!               └─ one small read under way, no more bytes a second than the rate ─┘
//! ```
//!
//! Sealed segments alone are read: what is younger was just written, and a restart reads it. They are
//! read in the order of their numbers; one that is given back meanwhile is left where it stands. What
//! is verified is what recovery and `sealog inspect` verify: block headers with their directories, data,
//! the numbers of blocks, trailers, Tags, footers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sealog_protocol::limits::PENDING_BYTES_MAX;
use sealog_protocol::time::Time;

use crate::ALIGNMENT;
use crate::config::Owner;
use crate::footer::SealedSegment;
use crate::header::{Block, BlockHeader};
use crate::report::{DAMAGES_MAX, Damage, DamageKind, Rotten};
use crate::trailer::Trailer;

/// Bytes of one read: some hundred microseconds of a disk, for appends wait behind it.
pub const SCRUB_READ_BYTES: usize = 128 << 10;

/// A block that says it is longer is none: the most that can be pending makes one entry.
const BLOCK_BYTES_MAX: u64 = (PENDING_BYTES_MAX + (1 << 20)) as u64;

/// How often, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// 0: never.
    pub bytes_per_s: u64,
    /// From the beginning of one pass to that of the next, at least.
    pub interval: Duration,
}

impl ScrubConfig {
    /// Nothing is read that nobody asks for.
    pub const OFF: ScrubConfig = ScrubConfig { bytes_per_s: 0, interval: Duration::ZERO };
}

/// A read that the driver is to make, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubRead {
    pub segment: u32,
    /// Multiples of 4096, as the length.
    pub offset: u64,
    pub bytes: usize,
}

/// How the scrub stands, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    pub passes: u64,
    /// When the last finished pass did, and what it read.
    pub last_pass: Option<Time>,
    pub last_pass_bytes: u64,
    /// Since the journal was opened.
    pub bytes: u64,
    /// The segment that is being read.
    pub segment: Option<u32>,
    /// Damaged ranges in segments that are still there.
    pub findings: u64,
}

/// What it goes through: segments, with what is known of each.
pub(crate) type Sealed = BTreeMap<u32, SealedSegment>;

pub(crate) struct Scrub {
    config: ScrubConfig,
    journal_id: u64,
    current: Option<SegmentScrub>,
    /// The segment that was read last in this pass.
    behind: Option<u32>,
    is_in_pass: bool,
    pass_began: Time,
    pass_bytes: u64,
    /// No read before it, so that the rate is kept; between passes, when the next begins.
    next_at: Time,
    is_reading: bool,
    /// Damaged ranges, by segment and offset.
    findings: BTreeMap<(u32, u64), Damage>,
    /// Findings that are not listed, for there are too many.
    unlisted: u64,
    /// Found for the first time, and not yet told.
    new: VecDeque<Damage>,
    /// To be told to machines.
    rotten: VecDeque<Rotten>,
    status: ScrubStatus,
}

impl Scrub {
    pub fn new(config: ScrubConfig, journal_id: u64) -> Scrub {
        Scrub {
            config,
            journal_id,
            current: None,
            behind: None,
            is_in_pass: false,
            pass_began: Time::ZERO,
            pass_bytes: 0,
            next_at: Time::ZERO,
            is_reading: false,
            findings: BTreeMap::new(),
            unlisted: 0,
            new: VecDeque::new(),
            rotten: VecDeque::new(),
            status: ScrubStatus::default(),
        }
    }

    /// When [`Scrub::next_read`] is due.
    pub fn deadline(&self) -> Option<Time> {
        (self.config.bytes_per_s > 0 && !self.is_reading).then_some(self.next_at)
    }

    pub fn next_read(&mut self, now: Time, sealed: &Sealed) -> Option<ScrubRead> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        if !self.is_in_pass {
            self.is_in_pass = true;
            (self.pass_began, self.pass_bytes, self.behind) = (now, 0, None);
            self.forget_released(sealed);
        }
        self.current.take_if(|current| !current.is_still(sealed));
        if self.current.is_none() {
            let from = self.behind.map_or(0, |behind| behind.saturating_add(1));
            let Some((segment, sealed)) = sealed.range(from..).next() else {
                self.end_pass(now);
                return None;
            };
            self.current = Some(SegmentScrub::new(*segment, sealed, self.journal_id));
        }
        let read = self.current.as_ref()?.next_read();
        self.is_reading = true;
        Some(read)
    }

    fn end_pass(&mut self, now: Time) {
        self.is_in_pass = false;
        self.next_at = now.max(self.pass_began + self.config.interval);
        self.status.passes += 1;
        self.status.last_pass = Some(now);
        self.status.last_pass_bytes = self.pass_bytes;
    }

    /// A read has ended. `None`: the disk refused. `owners` are those that have something in a segment.
    pub fn read_done(
        &mut self,
        now: Time,
        read: ScrubRead,
        content: Option<&[u8]>,
        sealed: &Sealed,
        owners: impl Fn(u32) -> Vec<Owner>,
    ) {
        self.is_reading = false;
        let nanos = u128::from(read.bytes as u64) * 1_000_000_000 / u128::from(self.config.bytes_per_s.max(1));
        self.next_at = now.max(self.next_at) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.pass_bytes += read.bytes as u64;
        self.status.bytes += read.bytes as u64;
        let Some(current) = &mut self.current else { return };
        let segment = current.segment;
        // Given back while it was read: what was there may be anything.
        let Some(sealed) = sealed.get(&segment).filter(|_| current.is_still(sealed)) else { return };
        current.take(content, sealed);
        if current.is_done() {
            let found = std::mem::take(&mut current.found);
            (self.behind, self.current) = (Some(segment), None);
            self.take_findings(segment, found, &owners(segment));
        }
    }

    /// A segment was read to its end: what was found there before, and is whole, was a fault of the way.
    fn take_findings(&mut self, segment: u32, found: Vec<Damage>, owners: &[Owner]) {
        self.findings.retain(|(of, offset), _| *of != segment || found.iter().any(|damage| damage.offset == *offset));
        for damage in found {
            let place = (damage.segment, damage.offset);
            if !self.findings.contains_key(&place) {
                if self.findings.len() >= DAMAGES_MAX {
                    self.unlisted += 1;
                    continue;
                }
                self.new.push_back(damage);
            }
            self.findings.insert(place, damage);
            if self.rotten.len() < DAMAGES_MAX {
                let told = |owner: &Owner| Rotten { owner: *owner, damage, is_missing: false };
                self.rotten.extend(owners.iter().map(told));
            }
        }
    }

    /// What was found in segments that are gone is damage no more.
    fn forget_released(&mut self, sealed: &Sealed) {
        self.unlisted = 0;
        self.findings.retain(|(segment, _), _| sealed.contains_key(segment));
    }

    /// A damaged range that was found for the first time.
    pub fn next_new(&mut self) -> Option<Damage> {
        self.new.pop_front()
    }

    /// A machine that has something in a segment, and what was found there.
    pub fn next_rotten(&mut self) -> Option<Rotten> {
        self.rotten.pop_front()
    }

    /// Recovery found damage: these are told of it first.
    pub fn recovered(&mut self, rotten: impl Iterator<Item = Rotten>) {
        self.rotten.extend(rotten);
    }

    /// Damaged ranges of segments that are still there, the first [`DAMAGES_MAX`] of them.
    pub fn findings<'a>(&'a self, sealed: &'a Sealed) -> impl Iterator<Item = &'a Damage> {
        self.findings.values().filter(|damage| sealed.contains_key(&damage.segment))
    }

    pub fn status(&self, sealed: &Sealed) -> ScrubStatus {
        ScrubStatus {
            segment: self.current.as_ref().map(|current| current.segment),
            findings: self.findings(sealed).count() as u64 + self.unlisted,
            ..self.status
        }
    }
}

enum Stage {
    /// Whole blocks from `offset` on, the next with this number.
    Blocks {
        number: u64,
    },
    Trailer,
    /// The nth chunk of Tags, then, with the trailer's word on it, the rest of the footer.
    Footer {
        trailer: Trailer,
        chunk: usize,
    },
    Done,
}

/// A segment that is read.
struct SegmentScrub {
    segment: u32,
    use_number: u32,
    journal_id: u64,
    /// What is read of the file, before the trailer's block.
    end: u64,
    footer_offset: u64,
    stage: Stage,
    /// What lies from here on is not judged yet: a part of a block, or of a chunk.
    offset: u64,
    /// It begins `judged` bytes before that place.
    gathered: Vec<u8>,
    judged: usize,
    /// How many bytes have to be there before it can be judged.
    wanted: usize,
    /// Where bytes begin that are no block.
    lost_from: Option<u64>,
    found: Vec<Damage>,
}

impl SegmentScrub {
    fn new(segment: u32, sealed: &SealedSegment, journal_id: u64) -> SegmentScrub {
        SegmentScrub {
            segment,
            use_number: sealed.use_number,
            journal_id,
            end: sealed.bytes,
            footer_offset: sealed.footer_offset,
            stage: Stage::Blocks { number: sealed.range.first_number },
            offset: 0,
            gathered: Vec::new(),
            judged: 0,
            wanted: ALIGNMENT,
            lost_from: None,
            found: Vec::new(),
        }
    }

    /// The segment is still what it was when its reading began.
    fn is_still(&self, sealed: &Sealed) -> bool {
        sealed.get(&self.segment).is_some_and(|sealed| sealed.use_number == self.use_number)
    }

    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn waiting(&self) -> &[u8] {
        &self.gathered[self.judged..]
    }

    fn next_read(&self) -> ScrubRead {
        let offset = self.offset + self.waiting().len() as u64;
        let end = match self.stage {
            Stage::Blocks { .. } => self.footer_offset,
            Stage::Trailer => self.end,
            Stage::Footer { .. } | Stage::Done => self.end - ALIGNMENT as u64,
        };
        ScrubRead { segment: self.segment, offset, bytes: (SCRUB_READ_BYTES as u64).min(end - offset) as usize }
    }

    /// Takes what comes next, and judges what is whole. What cannot be read is as good as anything else
    /// that is no block.
    fn take(&mut self, content: Option<&[u8]>, sealed: &SealedSegment) {
        let bytes = self.next_read().bytes;
        self.gathered.drain(..std::mem::take(&mut self.judged));
        match content.filter(|content| content.len() == bytes) {
            Some(content) => self.gathered.extend_from_slice(content),
            None => self.gathered.resize(self.gathered.len() + bytes, 0xFF),
        }
        while self.waiting().len() >= self.wanted && !self.is_done() {
            match self.stage {
                Stage::Blocks { number } => self.judge_block(number, sealed),
                Stage::Trailer => self.judge_trailer(sealed),
                Stage::Footer { trailer, chunk } => self.judge_footer(&trailer, chunk, sealed),
                Stage::Done => {}
            }
        }
    }

    fn judge_block(&mut self, number: u64, sealed: &SealedSegment) {
        let is_next = |header: &BlockHeader| {
            header.journal_id == self.journal_id
                && (header.segment, header.use_number) == (self.segment, self.use_number)
                && header.offset() == self.offset
                && (number..sealed.range.end_number).contains(&header.number)
                && header.block_bytes() <= BLOCK_BYTES_MAX.min(self.footer_offset - self.offset)
        };
        let begun = BlockHeader::parse_unverified(self.waiting()).filter(is_next);
        if let Some(header) = begun
            && header.block_bytes() > self.waiting().len() as u64
        {
            self.wanted = header.block_bytes() as usize;
            return;
        }
        let block = begun.and_then(|_| Block::parse(self.waiting()));
        let Some(block) = block else {
            self.lost_from.get_or_insert(self.offset);
            self.skip(ALIGNMENT);
            if self.offset == self.footer_offset {
                self.end_blocks(self.footer_offset);
            }
            return;
        };
        let (header, is_intact) = (block.header, block.is_data_intact());
        if self.lost_from.is_some() || header.number > number {
            self.lose(DamageKind::Blocks, self.lost_from.unwrap_or(self.offset), self.offset);
        }
        self.lost_from = None;
        let end = self.offset + header.block_bytes();
        if !is_intact {
            self.lose(DamageKind::Data, self.offset, end);
        }
        self.skip(header.block_bytes() as usize);
        self.stage = Stage::Blocks { number: header.number + 1 };
        if header.number + 1 == sealed.range.end_number {
            self.end_blocks(end);
        } else if self.offset == self.footer_offset {
            self.lose(DamageKind::Blocks, end, end);
            self.end_blocks(end);
        }
    }

    /// Behind the last block.
    fn end_blocks(&mut self, end: u64) {
        if let Some(from) = self.lost_from.take() {
            self.lose(DamageKind::Blocks, from, end);
        }
        self.go_to(self.end - ALIGNMENT as u64, ALIGNMENT);
        self.stage = Stage::Trailer;
    }

    fn judge_trailer(&mut self, sealed: &SealedSegment) {
        let trailer = Trailer::parse(self.waiting()).filter(|trailer| {
            trailer.journal_id == self.journal_id
                && (trailer.segment, trailer.use_number) == (self.segment, self.use_number)
                && trailer.footer_offset == sealed.footer_offset
        });
        let Some(trailer) = trailer else {
            self.lose(DamageKind::Footer, self.end - ALIGNMENT as u64, self.end);
            self.stage = Stage::Done;
            return;
        };
        self.stage = Stage::Footer { trailer, chunk: 0 };
        self.go_to(self.footer_offset, 0);
        self.wanted = self.footer_part(&trailer, 0, sealed).0;
    }

    /// Length and checksum of a part of the footer: a chunk of Tags, or all behind them.
    fn footer_part(&self, trailer: &Trailer, chunk: usize, sealed: &SealedSegment) -> (usize, u32) {
        match sealed.chunks.get(chunk) {
            Some(chunk) => (chunk.bytes as usize, chunk.checksum),
            None => (trailer.directory_bytes() as usize, trailer.directory_checksum),
        }
    }

    fn judge_footer(&mut self, trailer: &Trailer, chunk: usize, sealed: &SealedSegment) {
        let (bytes, checksum) = self.footer_part(trailer, chunk, sealed);
        if crc32fast::hash(&self.waiting()[..bytes]) != checksum {
            self.lose(DamageKind::Footer, self.offset, self.offset + bytes as u64);
        }
        self.skip(bytes);
        if chunk == sealed.chunks.len() {
            self.stage = Stage::Done;
        } else {
            self.stage = Stage::Footer { trailer: *trailer, chunk: chunk + 1 };
            self.wanted = self.footer_part(trailer, chunk + 1, sealed).0;
        }
    }

    fn lose(&mut self, kind: DamageKind, from: u64, until: u64) {
        self.found.push(Damage { kind, segment: self.segment, offset: from, bytes: until - from });
    }

    fn skip(&mut self, bytes: usize) {
        self.judged += bytes;
        self.offset += bytes as u64;
        self.wanted = ALIGNMENT;
    }

    fn go_to(&mut self, offset: u64, wanted: usize) {
        self.gathered.clear();
        self.judged = 0;
        (self.offset, self.wanted) = (offset, wanted);
    }
}
