//! How a storage reads what it has: Fetch, Tags, copies for a repair and for a rewrite, parts of
//! checkpoints.
//!
//! A place in the journal stands for several batches. They are walked by their headers, each verified
//! to be at its position, up to the one that is wanted; that one and those after it are verified
//! wholly. What moved or went while it was read is looked up again.

use std::ops::Range;

use sealog_protocol::frame::{Frame, HEADER_BYTES, Header, verify_metadata};
use sealog_protocol::limits::{STORED_READ_BYTES, STREAM_MESSAGE_BYTES_MAX};

use super::*;
use crate::checkpoints::PartId;
use crate::extents::Found;

/// What is read, and for whom.
#[derive(Clone, Debug)]
pub(super) enum ReadFor {
    Batches(Reading),
    Tags {
        to: Address,
        shard: ShardId,
        from: u64,
        segment: u32,
    },
    Part {
        to: Address,
        id: PartId,
    },
    /// The rewrite of a segment reads its Tags.
    Judge,
    /// The rewrite of a segment moves a part.
    MovePart(PartId),
}

impl ReadFor {
    /// Whom the answer goes to.
    pub(super) fn to(&self) -> Option<Address> {
        match self {
            ReadFor::Tags { to, .. } | ReadFor::Part { to, .. } => Some(*to),
            ReadFor::Batches(Reading {
                reader: Reader::Fetch { to, .. } | Reader::Copy { to } | Reader::Part { to, .. },
                ..
            }) => Some(*to),
            ReadFor::Batches(_) | ReadFor::Judge | ReadFor::MovePart(_) => None,
        }
    }
}

/// Batches that are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) reader: Reader,
    pub(super) shard: ShardId,
    pub(super) position: u64,
    /// Where it was found to be.
    found: Found,
    /// Where this read begins: a batch's first position, and the bytes of what was found before it.
    next: u64,
    skipped: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    /// An engine, which wants nothing from a position on.
    Fetch {
        to: Address,
        request: u64,
        until: u64,
    },
    Copy {
        to: Address,
    },
    /// Another storage that wants a part of its copy, and nothing from this position on.
    Part {
        to: Address,
        until: u64,
    },
    /// The rewrite of a segment, which wants nothing from this position on.
    Rewrite {
        until: u64,
    },
}

impl Reader {
    /// Nothing from here on is wanted.
    fn until(self) -> u64 {
        match self {
            Reader::Fetch { until, .. } | Reader::Part { until, .. } | Reader::Rewrite { until } => until,
            Reader::Copy { .. } => u64::MAX,
        }
    }
}

/// What a read of batches led to.
enum Walked {
    /// Verified batches, the first of which holds the position, and their positions.
    Found { first: u64, end: u64, batches: Bytes },
    /// The position is further on: read so many bytes from here.
    Further { next: u64, skipped: u32, bytes: u32 },
    /// It can't be read. What may be readable again begins at this position.
    Damaged { next: u64 },
    /// The disk gave nothing.
    Refused,
}

impl Storage {
    pub(super) fn fetch(
        &mut self,
        (from, request): (Address, u64),
        shard: ShardId,
        position: u64,
        until: u64,
        outputs: &mut Outputs,
    ) {
        let until = until.max(position + 1);
        let located = self.shards.get(&shard).map_or(Located::NotHere, |stored| stored.locate(position, until));
        match located {
            Located::Disk(found) => {
                self.read(Reader::Fetch { to: from, request, until }, shard, position, found, outputs);
            }
            Located::Memory(batch) => outputs.send(from, Message::Fetched { request, batch }),
            Located::NotHere => outputs.send(from, Message::FetchNotHere { request }),
        }
    }

    pub(super) fn read(&mut self, reader: Reader, shard: ShardId, position: u64, found: Found, outputs: &mut Outputs) {
        let reading = Reading { reader, shard, position, found, next: found.first, skipped: 0 };
        self.read_on(reading, found.bytes.min(STORED_READ_BYTES), outputs);
    }

    fn read_on(&mut self, reading: Reading, bytes: u32, outputs: &mut Outputs) {
        let JournalPlace { segment, offset } = reading.found.at;
        let at = JournalPlace { segment, offset: offset + reading.skipped / 8 };
        let ticket = self.next_ticket(ReadFor::Batches(reading));
        outputs.push(Output::Read { ticket, at, bytes });
    }

    pub(super) fn next_ticket(&mut self, read: ReadFor) -> u64 {
        self.ticket += 1;
        self.reads.insert(self.ticket, read);
        self.ticket
    }

    pub(super) fn read_done(
        &mut self,
        now: Time,
        ticket: u64,
        result: Result<Bytes, ReadFailure>,
        outputs: &mut Outputs,
    ) {
        match self.reads.remove(&ticket) {
            Some(ReadFor::Batches(reading)) => self.batches_read(now, reading, result, outputs),
            Some(ReadFor::Part { to, id }) => {
                let PartId { place, part, last } = id;
                match result {
                    Ok(bytes) => outputs.send(to, Message::CheckpointPart { place, part, last, bytes }),
                    Err(ReadFailure::Corrupt) => {
                        self.corrupt_reads += 1;
                        outputs.send(to, Message::CheckpointNotHere { place, part });
                    }
                }
            }
            Some(ReadFor::MovePart(id)) => self.part_read(now, id, result.ok(), outputs),
            Some(ReadFor::Tags { .. } | ReadFor::Judge) | None => {}
        }
    }

    fn batches_read(&mut self, now: Time, reading: Reading, result: Result<Bytes, ReadFailure>, outputs: &mut Outputs) {
        let Reading { reader, shard, position, found, .. } = reading;
        if result.is_err()
            && let Some(one) = self.shards.get(&shard).and_then(|stored| stored.extents.find(position))
            && one.at.segment == found.at.segment
            && one.bytes < found.bytes
        {
            // Something in a run can't be read: perhaps not what is looked for.
            return self.read(reader, shard, position, one, outputs);
        }
        let walked = result.map_or(Walked::Refused, |bytes| self.walk(&reading, &bytes));
        match walked {
            Walked::Found { first, end, batches } => match reading.reader {
                Reader::Fetch { to, request, .. } => outputs.send(to, Message::Fetched { request, batch: batches }),
                Reader::Copy { to } => {
                    outputs.send(to, Message::ShardCopy { shard: reading.shard, first, batches });
                }
                Reader::Part { to, .. } => {
                    let (shard, from) = (reading.shard, reading.position);
                    outputs.send(to, Message::CopyPart { shard, from, first, had: true, batches });
                }
                Reader::Rewrite { .. } => {
                    self.rewrite_read(now, reading.shard, (first, end), batches, false, outputs);
                }
            },
            Walked::Further { next, skipped, bytes } => {
                self.read_on(Reading { next, skipped, ..reading }, bytes, outputs);
            }
            Walked::Damaged { next } => self.unreadable(reading, Some(next), outputs),
            Walked::Refused => self.unreadable(reading, None, outputs),
        }
    }

    /// What was read is not what was looked for. Perhaps it moved meanwhile, or went; else it is damaged, up
    /// to `next`, or the disk gave nothing.
    fn unreadable(&mut self, reading: Reading, next: Option<u64>, outputs: &mut Outputs) {
        let Reading { reader, shard, position, found, .. } = reading;
        match self.shards.get(&shard).map_or(Located::NotHere, |stored| stored.locate(position, reader.until())) {
            Located::Disk(again) if again.at.segment != found.at.segment => {
                self.read(reader, shard, position, again, outputs);
            }
            located => {
                let damaged = matches!(located, Located::Disk(_));
                if damaged {
                    self.corrupt_reads += 1;
                    self.rot_found(found.at.segment);
                }
                match reader {
                    Reader::Fetch { to, request, .. } if damaged => outputs.send(to, Message::FetchCorrupt { request }),
                    Reader::Fetch { to, request, .. } => outputs.send(to, Message::FetchNotHere { request }),
                    Reader::Copy { .. } => {}
                    Reader::Part { to, .. } if damaged => {
                        // A disk that refused may give it the next time: only bytes that were seen and are
                        // wrong are beyond hope, so that a copy may go on without them.
                        let unsure = Message::CopyPart {
                            shard,
                            from: position,
                            first: position,
                            had: true,
                            batches: Bytes::new(),
                        };
                        let seen = |next| Message::CopyDamaged { shard, from: position, next };
                        outputs.send(to, next.map_or(unsure, seen));
                    }
                    Reader::Part { to, until } => self.copy_pull(to, shard, (position, until), outputs),
                    Reader::Rewrite { .. } => self.mend(shard, position, next.unwrap_or(found.end)),
                }
            }
        }
    }

    fn walk(&mut self, reading: &Reading, bytes: &Bytes) -> Walked {
        let Reading { reader, shard, position, found, next, skipped } = *reading;
        let left = found.bytes - skipped;
        let until = reader.until().min(found.end);
        let (mut at, mut first) = (0, next);
        let mut sizes: Vec<(u64, u32)> = Vec::new();
        let mut is_whole = true;
        loop {
            let rest = &bytes[at..];
            let (step, frame_bytes) = match step(rest, shard, first) {
                Step::Batch { records, bytes } => (records, bytes),
                // Not wholly read: it is the first of the next read.
                Step::Short { wanted } if wanted as u64 + at as u64 <= u64::from(left) => {
                    let skipped = skipped + at as u32;
                    let bytes = STORED_READ_BYTES.max(wanted as u32).min(found.bytes - skipped);
                    self.refine(reading, if is_whole { &sizes } else { &[] });
                    return Walked::Further { next: first, skipped, bytes };
                }
                Step::Short { .. } | Step::Damaged => match next_whole(rest, shard, first + 1..found.end) {
                    Some((bytes, place)) if place <= position => {
                        (at, first, is_whole) = (at + bytes, place, false);
                        continue;
                    }
                    behind => return Walked::Damaged { next: behind.map_or(found.end, |(_, place)| place) },
                },
            };
            if position < first + step {
                break;
            }
            sizes.push((step, frame_bytes as u32));
            first += step;
            at += frame_bytes;
        }
        let (start, mut end, mut last) = (at, at, first);
        while last < until && end - start < STREAM_MESSAGE_BYTES_MAX {
            let Some((records, frame_bytes)) = readable(&bytes[end..], reader, shard, last) else { break };
            let is_beyond = last + records > until && !matches!(reader, Reader::Fetch { .. });
            if last > first && (end - start + frame_bytes > STREAM_MESSAGE_BYTES_MAX || is_beyond) {
                break;
            }
            sizes.push((records, frame_bytes as u32));
            last += records;
            end += frame_bytes;
        }
        self.refine(reading, if is_whole { &sizes } else { &[] });
        if end == start {
            Walked::Damaged { next: behind_damaged(&bytes[at..], shard, first..found.end) }
        } else {
            Walked::Found { first, end: last, batches: bytes.slice(start..end) }
        }
    }

    /// What a read of the begin of a run showed of it.
    fn refine(&mut self, reading: &Reading, sizes: &[(u64, u32)]) {
        if reading.skipped == 0
            && let Some(stored) = self.shards.get_mut(&reading.shard)
        {
            stored.extents.refine(reading.found, sizes.iter().copied());
        }
    }

    pub(super) fn tags_open(&mut self, from: Address, shard: ShardId, position: u64, outputs: &mut Outputs) {
        let ended = self.chain.as_ref().is_some_and(|chain| chain.end(shard.view).is_some());
        if ended && self.shards.get(&shard).is_none_or(|stored| position >= stored.durable()) {
            // Dropped with all that was here, or never here. An engine that is behind the checkpoint needs
            // nothing of it; another one asks elsewhere.
            if let Some(checkpoint) = self.told_checkpoint {
                outputs.send(from, Message::TagsGone { shard, first: position, checkpoint });
            }
            if !self.shards.contains_key(&shard) {
                return;
            }
        }
        let stored = self.shards.entry(shard).or_default();
        stored.learners.retain(|learner| *learner != from);
        if position < stored.durable() {
            mark(Mark::TagsResumed);
            let Some(found) = stored.extents.find(position) else {
                // Dropped, if it is covered by the checkpoint that counts, or else lost. Who has not heard
                // which one counts can't tell: the engine asks again.
                let first = stored.extents.next_after(position).unwrap_or(stored.durable());
                if let Some(checkpoint) = self.told_checkpoint {
                    outputs.send(from, Message::TagsGone { shard, first, checkpoint });
                }
                return;
            };
            let segment = found.at.segment;
            let ticket = self.next_ticket(ReadFor::Tags { to: from, shard, from: position, segment });
            outputs.push(Output::ReadTags { ticket, shard, segment, from: position });
            return;
        }
        for (first, entries) in stored.tags_in_flight(position) {
            outputs.send(from, Message::TagsEntries { shard, first, more: false, entries });
        }
        stored.learners.push(from);
    }

    pub(super) fn tags_read(
        &mut self,
        now: Time,
        ticket: u64,
        first: u64,
        result: Result<Bytes, ReadFailure>,
        outputs: &mut Outputs,
    ) {
        let (to, shard, from, segment) = match self.reads.remove(&ticket) {
            Some(ReadFor::Tags { to, shard, from, segment }) => (to, shard, from, segment),
            Some(ReadFor::Judge) => return self.judge_read(now, first, result.ok(), outputs),
            _ => return,
        };
        match result {
            Ok(entries) if !entries.is_empty() => {
                outputs.send(to, Message::TagsEntries { shard, first, more: true, entries });
            }
            _ => {
                let found = self.shards.get(&shard).and_then(|stored| stored.extents.find(from));
                if found.is_none_or(|found| found.at.segment != segment) {
                    // It moved, or went, while it was read.
                    self.tags_open(to, shard, from, outputs);
                } else {
                    // Unreadable, or less than was recovered. Without Tags there is no verdict: the engine
                    // waits, or asks another replica. They come again with the segment's batches.
                    self.corrupt_reads += 1;
                    self.rot_found(segment);
                }
            }
        }
    }

    pub(super) fn pull(&mut self, from: Address, shard: ShardId, position: u64, outputs: &mut Outputs) {
        let Some(stored) = self.shards.get(&shard) else { return };
        // A repair wants what the end of a view keeps past a commit index, and nothing of that is dead:
        // what is dead is below a committed checkpoint. So whoever lacks what was dropped before it
        // goes on behind it, as if it had dropped it too.
        let there = stored.extents.find(position).is_some();
        let position = if there { Some(position) } else { stored.extents.next_after(position) };
        if let Some(position) = position.filter(|position| *position < stored.durable())
            && let Located::Disk(found) = stored.locate(position, u64::MAX)
        {
            self.read(Reader::Copy { to: from }, shard, position, found, outputs);
        }
    }
}

enum Step {
    Batch { records: u64, bytes: usize },
    Short { wanted: usize },
    Damaged,
}

/// The batch at the begin of `bytes`, which has to be the one at this position. Its payload is not
/// looked at.
fn step(bytes: &[u8], shard: ShardId, first: u64) -> Step {
    let header = match Header::parse(bytes) {
        Ok(Some(header)) => header,
        Ok(None) => return Step::Short { wanted: HEADER_BYTES },
        Err(_) => return Step::Damaged,
    };
    if bytes.len() < header.frame_bytes() {
        return Step::Short { wanted: header.frame_bytes() };
    }
    let placed = Frame::parse_unverified(bytes).ok().flatten();
    match placed.map(|frame| frame.verify_place(PlaceScope::Shard(shard))) {
        Some(Ok(place)) if place == first && header.count > 0 => {
            Step::Batch { records: u64::from(header.count), bytes: header.frame_bytes() }
        }
        _ => Step::Damaged,
    }
}

/// Where a batch damaged in its payload ends, which begins at the first of these positions.
fn behind_damaged(bytes: &[u8], shard: ShardId, positions: Range<u64>) -> u64 {
    let frame = Frame::parse_unverified(bytes).ok().flatten();
    let whole =
        frame.filter(|frame| verify_metadata(&bytes[..HEADER_BYTES + frame.metadata.len()], &frame.header).is_ok());
    match whole {
        Some(frame) => positions.start + u64::from(frame.header.count),
        None => {
            let next = next_whole(bytes, shard, positions.start + 1..positions.end);
            next.map_or(positions.end, |(_, place)| place)
        }
    }
}

/// Behind bytes that are no batch: where the next one begins that is at one of these positions, and at
/// which. Frames begin at multiples of 8.
fn next_whole(bytes: &[u8], shard: ShardId, positions: Range<u64>) -> Option<(usize, u64)> {
    (8..bytes.len()).step_by(8).find_map(|at| {
        let frame = Frame::parse_unverified(&bytes[at..]).ok()??;
        let place = frame.verify_place(PlaceScope::Shard(shard)).ok()?;
        positions.contains(&place).then_some((at, place))
    })
}

fn readable(bytes: &[u8], reader: Reader, shard: ShardId, first: u64) -> Option<(u64, usize)> {
    if active(Mutant::MendUnverified)
        && matches!(reader, Reader::Rewrite { .. })
        && let Step::Batch { records, bytes } = step(bytes, shard, first)
    {
        return Some((records, bytes));
    }
    whole_batch(bytes, shard, first)
}

/// Records and bytes of the batch at the begin of `bytes`, wholly verified.
fn whole_batch(bytes: &[u8], shard: ShardId, first: u64) -> Option<(u64, usize)> {
    let batch = Batch::parse(bytes).ok()?;
    let place = batch.frame.verify_place(PlaceScope::Shard(shard)).ok()?;
    (place == first).then(|| (u64::from(batch.frame.header.count), batch.frame.bytes.len()))
}
