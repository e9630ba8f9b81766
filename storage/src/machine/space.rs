//! How space comes back: segments in which little lives are looked for, what lives in them is appended
//! again, and they are given back.
//!
//! Who is dead is told by an engine, which knows order and trim points. One segment at a time, one read
//! or append under way, and no faster than the configured rate, for appends wait behind it.
//!
//! The last batch of a shard whose view has not ended counts as living, so the durable prefix that a
//! restart finds, which is where the last batch ends, is the one that was told. Once the chain has a
//! successor of the view, nobody counts on the number: the view's end is in the register, a seal of it
//! can install nothing, its primary cuts no more, its engine streams no more. And who builds an index
//! asks for nothing that is dead, for a committed checkpoint covers that.

use sealog_protocol::limits::{JUDGE_RETRY, STORED_READ_BYTES};
use sealog_protocol::tags::heads;

use super::reading::Reader;
use super::*;
use crate::extents::Span;

/// Engines that are asked about a damaged segment before all in it is taken to live.
const JUDGE_ATTEMPTS: u32 = 2;

/// Looking for space, and its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewriting {
    current: Option<Rewrite>,
    /// No step before it, so that the rate is kept.
    next_at: Time,
    /// The newest seal is on its way to another segment.
    seal_again: bool,
    pub(super) examined: u64,
    pub(super) released: u64,
    pub(super) bytes: u64,
}

/// A segment that is looked at.
#[derive(Clone, Debug)]
struct Rewrite {
    segment: u32,
    /// What it holds of which shard, and which of it is judged next, from which position on.
    spans: Vec<(ShardId, Span)>,
    nth: usize,
    position: u64,
    step: Step,
    /// Runs of living batches.
    living: VecDeque<(ShardId, Span)>,
    bytes: u64,
    living_bytes: u64,
    /// All is judged, and what lives is copied.
    is_copying: bool,
    /// Nearly all of it was said to be dying when it was begun.
    nearly_dead: bool,
    /// Something that lives can't be read by anyone: the segment stays.
    is_lossy: bool,
    /// Engines that were asked and did not answer.
    unanswered: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Idle,
    /// A read or an append is under way.
    Waiting,
    Judging {
        request: u64,
        to: Address,
        since: Time,
        first: u64,
        entries: Bytes,
    },
}

impl Rewriting {
    pub(super) fn deadline(&self) -> Option<Time> {
        match self.current.as_ref()?.step {
            Step::Idle => Some(self.next_at),
            Step::Waiting => None,
            Step::Judging { since, .. } => Some(since + JUDGE_RETRY),
        }
    }

    /// The segment that is looked at.
    pub(super) fn segment(&self) -> Option<u32> {
        self.current.as_ref().map(|rewrite| rewrite.segment)
    }

    fn pace(&mut self, now: Time, bytes: usize, bytes_per_s: u64) {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
        let pause = std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next_at = self.next_at.max(now) + pause;
    }

    pub(super) fn seal_kept(&mut self) {
        self.seal_again = false;
    }
}

impl Storage {
    /// An engine's hint: so many of these records are dead, or soon will be.
    pub(super) fn dying(&mut self, shard: ShardId, from: u64, to: u64, records: u64) {
        let Some(stored) = self.shards.get(&shard).filter(|_| from < to) else { return };
        let (total, records) = (u128::from(to - from), u128::from(records.min(to - from)));
        let segments = &mut self.segments;
        stored.extents.count(from, to, |segment, here| {
            let share = (records * u128::from(here)).div_ceil(total);
            segments.add_dying(segment, share as u64);
        });
    }

    pub(super) fn vacate(&mut self, segment: u32, outputs: &mut Outputs) {
        if self.segments.holds(segment) {
            self.segments.vacate(segment);
        } else {
            outputs.push(Output::Release { segment });
        }
    }

    /// Ends a turn: goes on towards more space, up to where something has to be waited for.
    pub(super) fn reclaim(&mut self, now: Time, outputs: &mut Outputs) {
        loop {
            let Some(rewrite) = &self.rewriting.current else {
                if !self.segments.take_look() {
                    return;
                }
                self.free_segments(outputs);
                self.begin_rewrite();
                continue;
            };
            match rewrite.step {
                Step::Waiting => return,
                Step::Judging { to, since, .. } => {
                    if self.engines.contains(&to) && now < since + JUDGE_RETRY {
                        return;
                    }
                    self.judge_again(now, outputs);
                }
                // What is only damaged waits until there is room.
                Step::Idle if self.full && self.segments.is_rotten(rewrite.segment) && !self.is_vacated_now() => {
                    self.leave(false);
                }
                Step::Idle if rewrite.is_copying && self.is_put_aside(rewrite) => {
                    mark(Mark::RewritePutAside);
                    self.rewriting.current = None;
                    self.segments.look();
                }
                Step::Idle if now < self.rewriting.next_at => return,
                Step::Idle if rewrite.is_copying => self.copy_next(outputs),
                Step::Idle => self.judge_next(outputs),
            }
        }
    }

    /// Whether copying what lives in a segment had better wait: space is to be had for nothing elsewhere,
    /// or here, for nearly all has died since. What was copied stays where it is now.
    fn is_put_aside(&self, rewrite: &Rewrite) -> bool {
        let is_slow = !rewrite.nearly_dead && !self.segments.has_to_go(rewrite.segment);
        let can_judge = !self.engines.is_empty();
        is_slow && can_judge && self.segments.has_nearly_dead(self.checkpoints.committed())
    }

    fn is_vacated_now(&self) -> bool {
        self.rewriting.segment().is_some_and(|segment| self.segments.is_vacated(segment))
    }

    fn begin_rewrite(&mut self) {
        let Some(segment) = self.segments.next(self.checkpoints.committed(), !self.full && self.chain.is_some()) else {
            return;
        };
        let can_judge = !self.engines.is_empty();
        if !can_judge && !self.segments.has_to_go(segment) {
            return;
        }
        let spans_of = |(id, stored): (&ShardId, &StoredShard)| {
            let id = *id;
            stored.extents.spans_in(segment).map(move |span| (id, span)).collect::<Vec<_>>()
        };
        let spans: Vec<(ShardId, Span)> = self.shards.iter().flat_map(spans_of).collect();
        self.rewriting.current = Some(Rewrite {
            segment,
            nearly_dead: self.segments.is_nearly_dead(segment),
            nth: 0,
            position: 0,
            step: Step::Idle,
            // It has to go, and nobody says what is dead: all of it lives.
            living: if can_judge { VecDeque::new() } else { spans.iter().copied().collect() },
            bytes: 0,
            living_bytes: 0,
            is_copying: !can_judge,
            is_lossy: false,
            unanswered: 0,
            spans,
        });
    }

    /// Asks for the Tags that are judged next.
    fn judge_next(&mut self, outputs: &mut Outputs) {
        let rewrite = self.rewriting.current.as_mut().expect("looked at by the caller");
        let Some((shard, span)) = rewrite.spans.get(rewrite.nth).copied() else {
            return self.conclude();
        };
        if rewrite.position >= span.end {
            rewrite.nth += 1;
            rewrite.position = 0;
            return self.judge_next(outputs);
        }
        rewrite.position = rewrite.position.max(span.first);
        rewrite.step = Step::Waiting;
        let (segment, from) = (rewrite.segment, rewrite.position);
        let ticket = self.next_ticket(ReadFor::Judge);
        outputs.push(Output::ReadTags { ticket, shard, segment, from });
    }

    pub(super) fn judge_read(&mut self, now: Time, first: u64, entries: Option<Bytes>, outputs: &mut Outputs) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        rewrite.step = Step::Idle;
        let (shard, span) = rewrite.spans[rewrite.nth];
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else {
            // Without Tags nobody can say who is dead: all of it lives, and gets Tags again with its copy.
            self.corrupt_reads += 1;
            rewrite.living.push_back((shard, Span { first: rewrite.position, end: span.end }));
            rewrite.position = span.end;
            let segment = rewrite.segment;
            return self.rot_found(segment);
        };
        if first > rewrite.position {
            // What the journal does not tell the Tags of, and should: it lives, as far as anyone knows.
            let (position, end) = (rewrite.position, first.min(span.end));
            let mut here = 0;
            if let Some(stored) = self.shards.get(&shard) {
                let segment = rewrite.segment;
                stored.extents.count(position, end, |of, records| here += if of == segment { records } else { 0 });
            }
            if here > 0 {
                rewrite.lives(shard, Span { first: position, end });
            }
            rewrite.position = end;
            if first >= span.end {
                return;
            }
        }
        self.rewriting.pace(now, entries.len(), self.config.rewrite_bytes_per_s);
        self.judge(now, None, first, entries, outputs);
    }

    /// Asks an engine; another one than `before`, if there is one.
    fn judge(&mut self, now: Time, before: Option<Address>, first: u64, entries: Bytes, outputs: &mut Outputs) {
        self.ticket += 1;
        let request = self.ticket;
        let own = |engine: &&Address| engine.node == self.config.node && before != Some(**engine);
        let other = || {
            let after = before.and_then(|before| self.engines.iter().position(|engine| *engine == before));
            self.engines.get(after.map_or(0, |at| (at + 1) % self.engines.len()))
        };
        let Some(to) = self.engines.iter().find(own).or_else(other).copied() else { return self.judged_by_nobody() };
        let Some(rewrite) = &mut self.rewriting.current else { return };
        let (shard, _) = rewrite.spans[rewrite.nth];
        outputs.send(to, Message::Judge { request, shard, first, entries: entries.clone() });
        rewrite.step = Step::Judging { request, to, since: now, first, entries };
    }

    fn judge_again(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        rewrite.unanswered += 1;
        // Engines may wait for Tags that are damaged here.
        if rewrite.unanswered > JUDGE_ATTEMPTS && self.segments.is_rotten(rewrite.segment) {
            return self.judged_by_nobody();
        }
        if let Step::Judging { to, first, entries, .. } = std::mem::replace(&mut rewrite.step, Step::Idle) {
            self.judge(now, Some(to), first, entries, outputs);
        }
    }

    /// No engine is left that could be asked. What has to go is taken to live; else a later one is.
    fn judged_by_nobody(&mut self) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        if self.segments.has_to_go(rewrite.segment) {
            rewrite.living = rewrite.spans.iter().copied().collect();
            rewrite.is_copying = true;
            rewrite.step = Step::Idle;
        } else {
            self.rewriting.current = None;
        }
    }

    pub(super) fn judged(&mut self, request: u64, dead: &[u8]) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        let (first, entries) = match &rewrite.step {
            Step::Judging { request: asked, first, entries, .. } if *asked == request => (*first, entries.clone()),
            _ => return,
        };
        rewrite.step = Step::Idle;
        rewrite.unanswered = 0;
        let (shard, span) = rewrite.spans[rewrite.nth];
        let ended = self.chain.as_ref().is_some_and(|chain| chain.end(shard.view).is_some());
        let Some(stored) = self.shards.get(&shard) else { return };
        // A bit that did not come says that its record lives.
        let is_dead = |nth: u64| dead.get((nth / 8) as usize).is_some_and(|byte| byte >> (nth % 8) & 1 == 1);
        let mut position = first;
        for head in heads(&entries).map_while(Result::ok) {
            if position >= span.end {
                break;
            }
            let next = position + head.records;
            // A copy that counts may lie elsewhere.
            if stored.extents.find(position).is_some_and(|found| found.at.segment == rewrite.segment) {
                rewrite.bytes += u64::from(head.frame_bytes);
                let all_dead = (position - first..next - first).all(is_dead);
                let is_last = !ended && (position..next).contains(&(stored.durable() - 1));
                if all_dead && is_last {
                    mark(Mark::BatchKeptForPrefix);
                }
                if !all_dead || is_last {
                    rewrite.living_bytes += u64::from(head.frame_bytes);
                    rewrite.lives(shard, Span { first: position, end: next });
                }
            }
            position = next;
        }
        // Entries that make no sense would be asked for again and again.
        rewrite.position = if position > rewrite.position { position } else { span.end };
    }

    /// All is judged: what lives is copied if it is little.
    fn conclude(&mut self) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        self.rewriting.examined += 1;
        if active(Mutant::SegmentReleasedWhileLiving) {
            rewrite.living.clear();
        }
        let is_sparse = rewrite.living_bytes * 2 <= rewrite.bytes && !self.full;
        if rewrite.living.is_empty() || is_sparse || self.segments.has_to_go(rewrite.segment) {
            rewrite.is_copying = true;
        } else {
            self.leave(false);
        }
    }

    fn leave(&mut self, is_damaged: bool) {
        if let Some(rewrite) = self.rewriting.current.take() {
            self.segments.left(rewrite.segment, self.checkpoints.committed(), is_damaged);
            if is_damaged {
                self.segments.rot(rewrite.segment);
                self.segments.left(rewrite.segment, self.checkpoints.committed(), true);
                self.mending.try_later();
            }
        }
    }

    /// Reads the next of what lives; when there is no more, the segment is empty.
    fn copy_next(&mut self, outputs: &mut Outputs) {
        let rewrite = self.rewriting.current.as_mut().expect("looked at by the caller");
        let segment = rewrite.segment;
        while let Some((shard, span)) = rewrite.living.front_mut() {
            let Some(stored) = self.shards.get(shard).filter(|_| span.first < span.end) else {
                rewrite.living.pop_front();
                continue;
            };
            let run = stored.extents.find_run(span.first, span.end, STORED_READ_BYTES);
            match run.filter(|found| found.at.segment == segment) {
                Some(found) => {
                    let (shard, span) = (*shard, *span);
                    rewrite.step = Step::Waiting;
                    self.read(Reader::Rewrite { until: span.end }, shard, span.first, found, outputs);
                    return;
                }
                None => span.first = stored.extents.next_after(span.first).map_or(span.end, |next| next.min(span.end)),
            }
        }
        match self.checkpoints.part_in(segment) {
            _ if rewrite.is_lossy => self.leave(true),
            Some((id, at)) => {
                rewrite.step = Step::Waiting;
                let ticket = self.next_ticket(ReadFor::MovePart(id));
                outputs.push(Output::Read { ticket, at: at.at, bytes: at.bytes });
            }
            None => self.empty(segment),
        }
    }

    /// Batches that live were read, or came from another replica: they go to the end of the journal.
    pub(super) fn rewrite_read(
        &mut self,
        now: Time,
        shard: ShardId,
        (first, end): (u64, u64),
        batches: Bytes,
        is_mended: bool,
        outputs: &mut Outputs,
    ) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        if write_tags(&mut self.tags, &batches).is_err() {
            return self.leave(true);
        }
        let tags = self.tags.split().freeze();
        if let Some((_, span)) = rewrite.living.front_mut() {
            span.first = end;
        }
        let is_careless = active(Mutant::SegmentReleasedBeforeCopy) || is_mended && active(Mutant::MendedBeforeDurable);
        rewrite.step = if is_careless { Step::Idle } else { Step::Waiting };
        self.count_rewritten(now, batches.len());
        self.appended.push_back(Appended::Copy { shard, first, batches: batches.clone() });
        outputs.append(DurableEntry::Batches { shard, first, batches, tags });
    }

    /// Nobody has what is damaged here: it stays, and what is behind it, from `behind` on, is moved.
    pub(super) fn rewrite_lacks(&mut self, behind: u64, has_replicas: bool) {
        let Some(rewrite) = &mut self.rewriting.current else { return };
        rewrite.step = Step::Idle;
        rewrite.is_lossy = true;
        // Without another copy of the shard nothing is gained by moving the rest.
        if !has_replicas {
            return self.leave(true);
        }
        if let Some((_, span)) = rewrite.living.front_mut() {
            span.first = behind;
        }
    }

    fn count_rewritten(&mut self, now: Time, bytes: usize) {
        self.rewriting.bytes += bytes as u64;
        self.rewriting.pace(now, bytes, self.config.rewrite_bytes_per_s);
    }

    pub(super) fn batches_moved(&mut self, shard: ShardId, first: u64, batches: &[u8], at: JournalPlace) {
        self.place_again(shard, first, batches, at);
        self.step_done();
    }

    /// A copy of these batches is durable: it is what counts. Returns their records.
    pub(super) fn place_again(&mut self, shard: ShardId, first: u64, batches: &[u8], at: JournalPlace) -> u64 {
        let records = batch_sizes(batches).map(|(records, _)| records).sum();
        if let Some(stored) = self.shards.get_mut(&shard) {
            let replaced = stored.extents.place(first, records, at, batch_sizes(batches));
            self.segments.replaced(&replaced);
            self.segments.add_records(at.segment, records);
        }
        records
    }

    fn step_done(&mut self) {
        if let Some(rewrite) = &mut self.rewriting.current {
            rewrite.step = Step::Idle;
        }
    }

    pub(super) fn part_read(&mut self, now: Time, id: PartId, bytes: Option<Bytes>, outputs: &mut Outputs) {
        let Some(bytes) = bytes else {
            self.corrupt_reads += 1;
            return self.leave(true);
        };
        self.count_rewritten(now, bytes.len());
        self.appended.push_back(Appended::PartCopy { id, bytes: bytes.len() as u32 });
        outputs.append(DurableEntry::Checkpoint { place: id.place, part: id.part, last: id.last, bytes });
    }

    pub(super) fn part_moved(&mut self, id: PartId, at: PartPlace) {
        if let Some(before) = self.checkpoints.moved(id, at) {
            self.segments.drop_part(before.at.segment);
            self.segments.add_part(at.at.segment);
        }
        self.step_done();
    }

    /// Nothing that counts is left in this segment.
    fn empty(&mut self, segment: u32) {
        let copied = self.rewriting.current.take().is_some_and(|rewrite| rewrite.living_bytes > 0);
        if copied {
            mark(Mark::SegmentRewritten);
        }
        if self.segments.is_rotten(segment) {
            mark(Mark::RottenSegmentReleased);
            self.mending.emptied(segment);
        }
        for stored in self.shards.values_mut() {
            stored.extents.forget(segment);
        }
        let (chain, repairs, copies) = (&self.chain, &self.repairs, &self.copies);
        let ended = |id: &ShardId| chain.as_ref().is_some_and(|chain| chain.end(id.view).is_some());
        let is_wanted = |id: &ShardId| repairs.contains_key(id) || copies.contains(*id);
        self.shards.retain(|id, stored| !(stored.is_bare() && ended(id) && !is_wanted(id)));
        self.segments.emptied(segment);
    }

    /// Gives back segments that hold nothing that counts, once the newest seal is elsewhere.
    fn free_segments(&mut self, outputs: &mut Outputs) {
        for segment in self.segments.free() {
            if let Some(view) = self.segments.seal_in(segment)
                && !active(Mutant::SealNotAppendedAgain)
            {
                if !std::mem::replace(&mut self.rewriting.seal_again, true) {
                    mark(Mark::SealAppendedAgain);
                    self.appended.push_back(Appended::Seal(view));
                    outputs.append(DurableEntry::StorageSeal { view });
                }
                continue;
            }
            if self.segments.forget(segment) {
                mark(Mark::VacateAnswered);
            }
            mark(Mark::SegmentReleased);
            self.rewriting.released += 1;
            outputs.push(Output::Release { segment });
        }
    }
}

impl Rewrite {
    fn lives(&mut self, shard: ShardId, span: Span) {
        match self.living.back_mut() {
            Some((of, last)) if *of == shard && last.end == span.first => last.end = span.end,
            _ => self.living.push_back((shard, span)),
        }
    }
}
