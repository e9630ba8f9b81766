//! Damage that is mended: what cannot be read here any more is taken from another replica of its shard,
//! appended again, and found there from then on.
//!
//! The journal says which bytes of a segment rotted, and a read finds it. Such a segment is emptied as one
//! that has to go is (`space.rs`): what can be read is moved, with new Tags, what can't is asked of the
//! others, one batch at a time; then the segment is given back, and the damage with it. So nothing has to
//! be remembered: a restart finds the damage again, or the segment gone.
//!
//! What recovery could not hand over is missing between the positions that are here. Those gaps are
//! asked for first. What others dropped, and this one did as well, is a gap, too: where all have nothing,
//! and one had it once, nothing is missing. What nobody can give is told as lost, and asked for again now
//! and then.

use sealog_protocol::limits::{LOST_LISTED_MAX, REQUEST_RETRY};

use super::*;

/// News that wait for the log; more are not told.
const NEWS_MAX: usize = 64;
/// Runs that are looked at for gaps in a turn: some tens of microseconds.
const GAP_STEPS: usize = 1024;

/// What is mended, and its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Mending {
    /// At most one of the segment that is emptied, and one gap.
    wants: VecDeque<Want>,
    /// Who was asked for the first of them, and when.
    asked: Option<(NodeId, Time)>,
    /// Nobody is asked before it, so that the rate is kept.
    next_at: Time,
    /// Segments of which recovery could not hand over everything.
    incomplete: BTreeSet<u32>,
    scan: Option<Scan>,
    /// Something could not be mended: it is tried again, then.
    is_to_retry: bool,
    retry_at: Option<Time>,
    /// Batches that no replica can read, with the segment that they lie in here.
    lost: BTreeMap<(ShardId, u64), Lost>,
    news: VecDeque<MendNews>,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// For the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MendNews {
    /// Some of a segment's bytes are damaged.
    Damaged { segment: u32 },
    /// All that counts of it is elsewhere; so many records were mended in this life, in all.
    Mended { segment: u32, records: u64 },
    /// No replica can read the batch at this position.
    Lost { shard: ShardId, position: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    end: u64,
    segment: Option<u32>,
}

/// Batches from `position` on that are asked of others.
#[derive(Clone, Debug)]
struct Want {
    shard: ShardId,
    position: u64,
    until: u64,
    /// Of the segment that is emptied: where it goes on if nobody has it. Else it is a gap.
    behind: Option<u64>,
    /// Who has nothing there, and where it has something again.
    lacking: BTreeMap<NodeId, u64>,
    /// One of those had it once.
    had: bool,
    /// Whose bytes are damaged there as well, and where they may be readable again.
    damaged: BTreeMap<NodeId, u64>,
    silent: BTreeSet<NodeId>,
}

/// A look for gaps: before this position of this shard there is none that can be filled.
#[derive(Clone, Debug, Default)]
struct Scan {
    shard: ShardId,
    position: u64,
    /// A gap is asked for, or what came of it is on its way to the disk.
    is_waiting: bool,
    /// There was one that could not be filled.
    is_lossy: bool,
}

impl Want {
    fn was_asked(&self, node: NodeId) -> bool {
        self.lacking.contains_key(&node) || self.damaged.contains_key(&node) || self.silent.contains(&node)
    }

    /// Where somebody has something again.
    fn next(&self) -> u64 {
        let next = self.lacking.values().chain(self.damaged.values()).copied().min();
        next.unwrap_or(self.until).clamp(self.position + 1, self.until)
    }
}

impl Mending {
    fn is_idle(&self) -> bool {
        self.wants.is_empty() && self.scan.is_none() && !self.has_gaps() && !self.is_to_retry && self.retry_at.is_none()
    }

    /// There may be gaps between positions that others can fill.
    pub(super) fn has_gaps(&self) -> bool {
        !self.incomplete.is_empty() || self.lost.values().any(|lost| lost.segment.is_none())
    }

    pub(super) fn deadline(&self, is_full: bool) -> Option<Time> {
        let asking = match self.asked {
            Some((_, since)) => Some(since + REQUEST_RETRY),
            None => (!self.wants.is_empty()).then_some(self.next_at),
        };
        let scanning = self.scan.as_ref().is_some_and(|scan| !scan.is_waiting && !is_full).then_some(Time::ZERO);
        let later = self.is_to_retry.then_some(Time::ZERO);
        asking.into_iter().chain(scanning).chain(later).chain(self.retry_at).min()
    }

    pub(super) fn try_later(&mut self) {
        self.is_to_retry = true;
    }

    /// No replica can read these.
    pub(super) fn lose(&mut self, shard: ShardId, position: u64, end: u64, segment: Option<u32>) {
        let is_known = self.lost.contains_key(&(shard, position));
        if !is_known && self.lost.len() >= LOST_LISTED_MAX {
            return;
        }
        self.lost.insert((shard, position), Lost { end, segment });
        if !is_known {
            self.tell(MendNews::Lost { shard, position });
        }
    }

    /// What counts of a segment is elsewhere, or dead.
    pub(super) fn emptied(&mut self, segment: u32) {
        self.lost.retain(|_, lost| lost.segment != Some(segment));
        let records = self.records;
        self.tell(MendNews::Mended { segment, records });
    }

    /// These are here again.
    fn found(&mut self, shard: ShardId, first: u64, end: u64) {
        self.lost.retain(|(of, position), lost| *of != shard || lost.end <= first || end <= *position);
    }

    /// The want that an answer of this node is for.
    fn take_answer(&mut self, source: Address, shard: ShardId, from: u64) -> Option<&mut Want> {
        let want = self.wants.front_mut().filter(|want| want.shard == shard && asked_position(want) == from)?;
        self.asked.take_if(|(node, _)| *node == source.node)?;
        Some(want)
    }

    /// Batches that no replica can read, by shard and position.
    pub(super) fn lost(&self) -> impl Iterator<Item = (ShardId, u64)> + '_ {
        self.lost.keys().copied()
    }

    fn tell(&mut self, news: MendNews) {
        if self.news.len() < NEWS_MAX {
            self.news.push_back(news);
        }
    }
}

/// Where a want begins.
fn asked_position(want: &Want) -> u64 {
    want.position - u64::from(active(Mutant::MendedFromWrongPosition) && want.position > 0)
}

impl Storage {
    /// The journal says that bytes of this segment are damaged.
    pub(super) fn rotten(&mut self, segment: u32, is_missing: bool, outputs: &mut Outputs) {
        mark(Mark::RotFound);
        let is_held = self.segments.holds(segment);
        if is_held {
            self.segments.close(segment);
        }
        let is_looked_after = self.mending.incomplete.contains(&segment);
        let is_news = if is_looked_after || is_missing && !active(Mutant::MissingNotLookedFor) {
            if is_held {
                self.segments.keep(segment, true);
            }
            self.mending.incomplete.insert(segment)
        } else if is_held {
            self.segments.rot(segment)
        } else {
            outputs.push(Output::Release { segment });
            false
        };
        if is_news {
            self.mending.tell(MendNews::Damaged { segment });
        }
    }

    /// A read found that a segment has damage.
    pub(super) fn rot_found(&mut self, segment: u32) {
        if !self.segments.is_rotten(segment) && self.segments.rot(segment) {
            mark(Mark::RotFound);
            self.mending.tell(MendNews::Damaged { segment });
        }
    }

    /// Damaged segments that are not mended yet; of these, those that only reads have found.
    pub(super) fn damage(&self) -> (usize, usize) {
        let (rotten, read) = self.segments.rotten();
        (rotten + self.mending.incomplete.len(), read)
    }

    /// What the log is to be told next.
    pub fn next_news(&mut self) -> Option<MendNews> {
        self.mending.news.pop_front()
    }

    /// Where to read for the record at this position, and how much.
    pub fn find(&self, shard: ShardId, position: u64) -> Option<(JournalPlace, u32)> {
        let found = self.shards.get(&shard)?.extents.find(position)?;
        Some((found.at, found.bytes))
    }

    /// The batch at this position cannot be moved, for it is damaged. What follows begins at `behind`.
    pub(super) fn mend(&mut self, shard: ShardId, position: u64, behind: u64) {
        self.mending.wants.push_back(Want {
            shard,
            position,
            // One batch: what is whole is not replaced.
            until: position + 1,
            behind: Some(behind.max(position + 1)),
            lacking: BTreeMap::new(),
            had: false,
            damaged: BTreeMap::new(),
            silent: BTreeSet::new(),
        });
    }

    /// Ends a turn: asks for what is to be mended next.
    pub(super) fn mend_on(&mut self, now: Time, outputs: &mut Outputs) {
        if self.mending.is_idle() {
            return;
        }
        if std::mem::take(&mut self.mending.is_to_retry) {
            self.mending.retry_at.get_or_insert(now + self.config.mend_retry);
        }
        if self.mending.retry_at.take_if(|at| *at <= now).is_some() {
            self.segments.try_again();
        }
        self.look_for_gaps(outputs);
        self.ask_others(now, outputs);
    }

    fn look_for_gaps(&mut self, outputs: &mut Outputs) {
        let mending = &mut self.mending;
        let can_begin = mending.has_gaps() && mending.retry_at.is_none() && self.chain.is_some();
        if self.full || mending.scan.is_none() && !can_begin {
            return;
        }
        let scan = mending.scan.get_or_insert_default();
        for _ in 0..GAP_STEPS {
            if scan.is_waiting {
                return;
            }
            let Some((shard, stored)) = self.shards.range(scan.shard..).next() else {
                return self.end_look(outputs);
            };
            if *shard != scan.shard {
                (scan.shard, scan.position) = (*shard, 0);
            }
            if scan.position >= stored.durable() {
                (scan.shard, scan.position) = (ShardId { index: shard.index + 1, ..*shard }, 0);
                continue;
            }
            match stored.extents.find(scan.position) {
                Some(found) => scan.position = found.end,
                None => {
                    let end = stored.extents.next_after(scan.position).unwrap_or(stored.durable());
                    scan.is_waiting = true;
                    mending.wants.push_back(Want {
                        shard: *shard,
                        position: scan.position,
                        until: end.min(stored.durable()),
                        behind: None,
                        lacking: BTreeMap::new(),
                        had: false,
                        damaged: BTreeMap::new(),
                        silent: BTreeSet::new(),
                    });
                }
            }
        }
    }

    /// All gaps were looked at. If none is left, the segments with what was between can be emptied.
    fn end_look(&mut self, outputs: &mut Outputs) {
        if self.mending.scan.take().is_some_and(|scan| scan.is_lossy) {
            return self.mending.try_later();
        }
        // What was lost and is no gap any more was forgotten with its shard.
        self.mending.lost.retain(|_, lost| lost.segment.is_some());
        for segment in std::mem::take(&mut self.mending.incomplete) {
            if self.segments.holds(segment) {
                self.segments.keep(segment, false);
                self.segments.rot(segment);
            } else {
                outputs.push(Output::Release { segment });
            }
        }
    }

    fn gap_goes_on(&mut self, position: u64, is_lossy: bool) {
        if let Some(scan) = &mut self.mending.scan {
            scan.position = scan.position.max(position);
            scan.is_waiting = false;
            scan.is_lossy |= is_lossy;
        }
    }

    fn ask_others(&mut self, now: Time, outputs: &mut Outputs) {
        if let Some((node, _)) = self.mending.asked.take_if(|(_, since)| now.since(*since) >= REQUEST_RETRY)
            && let Some(want) = self.mending.wants.front_mut()
        {
            want.silent.insert(node);
        }
        while self.mending.asked.is_none()
            && let Some(want) = self.mending.wants.front()
        {
            let others = self.replicas_of(want.shard);
            let next = others.iter().find(|node| !want.was_asked(**node)).copied().filter(|_| !self.full);
            let Some(node) = next else {
                let want = self.mending.wants.pop_front().expect("looked at above");
                self.nobody_has(&want, &others);
                continue;
            };
            if now < self.mending.next_at {
                return;
            }
            if !want.lacking.is_empty() || !want.damaged.is_empty() || !want.silent.is_empty() {
                mark(Mark::MendAskedNextReplica);
            }
            let (shard, until, from) = (want.shard, want.until, asked_position(want));
            self.mending.asked = Some((node, now));
            outputs.send(self.address(node, Role::Storage), Message::CopyPull { shard, from, until });
        }
    }

    /// Who may have a shard: the storages of its view, and those of the newest, for it may have moved.
    fn replicas_of(&self, shard: ShardId) -> BTreeSet<NodeId> {
        let Some(chain) = &self.chain else { return BTreeSet::new() };
        let view = chain.view(shard.view).map(|view| view.storages).unwrap_or_default();
        let all = view.iter().chain(chain.current().storages.iter());
        all.filter(|node| *node != self.config.node).collect()
    }

    /// Nobody could give it.
    fn nobody_has(&mut self, want: &Want, others: &BTreeSet<NodeId>) {
        let all_answered = !self.full && !others.is_empty() && want.silent.is_empty();
        let Some(behind) = want.behind else {
            // Nothing is missing where all have nothing, and one of them had it once.
            let was_dropped = all_answered && want.damaged.is_empty() && want.had;
            if all_answered && !was_dropped {
                self.mending.lose(want.shard, want.position, want.next(), None);
            }
            if was_dropped {
                self.mending.found(want.shard, want.position, want.next());
            }
            return self.gap_goes_on(want.next(), !was_dropped);
        };
        if all_answered {
            let segment = self.rewriting.segment();
            self.mending.lose(want.shard, want.position, behind, segment);
        }
        self.rewrite_lacks(behind, !others.is_empty());
    }

    /// Another storage's answer, if it is for something that is mended here.
    pub(super) fn mend_part(
        &mut self,
        now: Time,
        source: Address,
        (shard, from, first): (ShardId, u64, u64),
        had: bool,
        batches: &Bytes,
        outputs: &mut Outputs,
    ) -> bool {
        let Some(want) = self.mending.take_answer(source, shard, from) else { return false };
        if batches.is_empty() && first > from {
            want.had |= had;
            want.lacking.insert(source.node, first);
        } else if batches.is_empty() || first != from || verify_run(batches, shard, first).is_err() {
            want.silent.insert(source.node);
        } else {
            let records: u64 = batch_sizes(batches).map(|(records, _)| records).sum();
            let end = want.position + records;
            // Of a gap not more than is missing.
            if want.behind.is_none() && end > want.until {
                want.silent.insert(source.node);
                return true;
            }
            let want = self.mending.wants.pop_front().expect("the answer is for it");
            self.mend_taken(now, &want, end, batches.clone(), outputs);
        }
        true
    }

    pub(super) fn mend_damaged(&mut self, source: Address, shard: ShardId, (from, next): (u64, u64)) -> bool {
        let Some(want) = self.mending.take_answer(source, shard, from) else { return false };
        want.damaged.insert(source.node, next);
        true
    }

    /// What is missing came, and is what it should be.
    fn mend_taken(&mut self, now: Time, want: &Want, end: u64, batches: Bytes, outputs: &mut Outputs) {
        let (shard, first, bytes) = (want.shard, want.position, batches.len() as u64);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.config.copy_bytes_per_s.max(1));
        let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.mending.next_at = self.mending.next_at.max(now) + pause;
        self.mending.records += end - first;
        self.mending.bytes += bytes;
        self.mending.found(shard, first, end);
        if want.behind.is_some() {
            mark(Mark::RotMended);
            return self.rewrite_read(now, shard, (first, end), batches, true, outputs);
        }
        mark(Mark::MissingMended);
        if write_tags(&mut self.tags, &batches).is_err() {
            return self.gap_goes_on(end, true);
        }
        let tags = self.tags.split().freeze();
        self.appended.push_back(Appended::Missing { shard, first, batches: batches.clone() });
        outputs.append(DurableEntry::Batches { shard, first, batches, tags });
    }

    /// What was missing is durable, and lies here.
    pub(super) fn missing_durable(&mut self, shard: ShardId, first: u64, batches: &[u8], at: JournalPlace) {
        let records = self.place_again(shard, first, batches, at);
        self.gap_goes_on(first + records, false);
    }
}
