//! Copies that are made again in the background: a storage takes a shard that gets no more, up to the
//! end of its ordered prefix, from storages that have it.
//!
//! It asks for one part at a time, in order, no faster than the configured rate, for appends wait behind
//! it. What one source does not have may be lost there, so it is asked of all of them. Only where none
//! has it, and one of those had it once, was it dropped: the copy goes on behind it, as if it had dropped
//! it, too. What is damaged in all of them is waited for: one that is away, or is mended, may have it, and
//! whoever says that it has a copy must have all of it. An engine asks again and again, so nothing here is
//! remembered over a restart but the records.

use std::collections::BTreeSet;
use std::ops::Bound;

use sealog_protocol::NodeSet;
use sealog_protocol::limits::{COPIES_TAKEN_MAX, REQUEST_RETRY};

use super::reading::Reader;
use super::*;

/// Copies under way, and their counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    shards: BTreeMap<ShardId, Copy>,
    /// The part that was asked for and has not come.
    pull: Option<Pull>,
    /// The shard that a part was asked of last: the next one's turn is next.
    last: Option<ShardId>,
    /// Nothing is asked for before it, so that the rate is kept.
    next_at: Time,
    pub(super) bytes: u64,
}

/// A shard that is copied.
#[derive(Clone, Debug)]
struct Copy {
    until: u64,
    enough: usize,
    sources: NodeSet,
    /// Who is told of it.
    engines: BTreeSet<Address>,
    /// What is before it is here, or was dropped.
    position: u64,
    /// Sources that have nothing at `position`, and where they have something again.
    lacking: BTreeMap<NodeId, u64>,
    /// One of those had that position once.
    had: bool,
    /// Sources whose bytes are damaged at `position`.
    damaged: BTreeSet<NodeId>,
    /// Sources that did not answer, or could not read it yet.
    silent: BTreeSet<NodeId>,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Pull {
    shard: ShardId,
    source: NodeId,
    from: u64,
    since: Time,
}

impl Copies {
    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    pub(super) fn contains(&self, shard: ShardId) -> bool {
        self.shards.contains_key(&shard)
    }

    /// The copy that an answer is for.
    fn take_answer(&mut self, source: Address, shard: ShardId, from: u64) -> Option<&mut Copy> {
        let is_answer = |pull: &mut Pull| pull.shard == shard && pull.source == source.node && pull.from == from;
        self.pull.take_if(is_answer)?;
        self.shards.get_mut(&shard).filter(|copy| copy.position == from)
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.pull {
            Some(pull) => Some(pull.since + REQUEST_RETRY),
            None => self.shards.values().any(|copy| copy.next_source().is_some()).then_some(self.next_at),
        }
    }

    /// The next shard in turn that has somebody to ask.
    fn next(&self) -> Option<(ShardId, NodeId, u64)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let turns = self.shards.range((after, Bound::Unbounded)).chain(&self.shards);
        let mut able = turns.filter_map(|(shard, copy)| Some((*shard, copy.next_source()?, copy.position)));
        able.next()
    }
}

impl Copy {
    fn next_source(&self) -> Option<NodeId> {
        let asked = |node: &NodeId| {
            self.lacking.contains_key(node) || self.damaged.contains(node) || self.silent.contains(node)
        };
        self.sources.iter().find(|node| self.position < self.until && !asked(node))
    }

    fn advance(&mut self, position: u64) {
        self.position = position;
        self.lacking.clear();
        self.damaged.clear();
        self.silent.clear();
        self.had = false;
    }

    /// Goes on behind what nobody has, if it was dropped.
    fn skip(&mut self) {
        let all = self.sources.iter().all(|node| self.lacking.contains_key(&node));
        let next = self.lacking.values().copied().min();
        if let Some(next) = next.filter(|_| all && (self.had || self.lacking.len() >= self.enough)) {
            mark(Mark::CopySkipsDropped);
            self.advance(next.min(self.until));
        }
    }
}

impl Storage {
    /// An engine wants the shard here, up to `until`.
    pub(super) fn copy_shard(
        &mut self,
        from: Address,
        shard: ShardId,
        (until, enough): (u64, u8),
        sources: NodeSet,
        outputs: &mut Outputs,
    ) {
        let until = if active(Mutant::CopyCutShort) { until / 2 } else { until };
        if let Some(stored) = self.shards.get(&shard).filter(|stored| stored.durable() >= until) {
            let done = !self.mending.has_gaps();
            let message = Message::CopyState { shard, position: stored.durable(), bytes: 0, done };
            return outputs.send(from, message);
        }
        if !self.copies.contains(shard) && self.copies.len() >= COPIES_TAKEN_MAX {
            return;
        }
        let position = self.shards.entry(shard).or_default().received();
        let copy = self.copies.shards.entry(shard).or_insert_with(|| Copy {
            until,
            enough: usize::from(enough),
            sources,
            engines: BTreeSet::new(),
            position,
            lacking: BTreeMap::new(),
            damaged: BTreeSet::new(),
            had: false,
            silent: BTreeSet::new(),
            bytes: 0,
        });
        copy.until = copy.until.max(until);
        copy.enough = usize::from(enough);
        copy.sources = sources;
        copy.engines.insert(from);
        // Who did not answer is asked again.
        copy.silent.clear();
        if copy.next_source().is_none() {
            copy.lacking.clear();
            copy.damaged.clear();
            copy.had = false;
        }
        self.tell_copy(shard, outputs);
    }

    /// Ends a turn: asks for the next part.
    pub(super) fn copy_on(&mut self, now: Time, outputs: &mut Outputs) {
        if let Some(pull) = self.copies.pull.take_if(|pull| now.since(pull.since) >= REQUEST_RETRY)
            && let Some(copy) = self.copies.shards.get_mut(&pull.shard)
        {
            copy.silent.insert(pull.source);
        }
        if self.copies.pull.is_some() || self.full || now < self.copies.next_at {
            return;
        }
        let Some((shard, source, from)) = self.copies.next() else { return };
        let until = self.copies.shards[&shard].until;
        self.copies.last = Some(shard);
        self.copies.pull = Some(Pull { shard, source, from, since: now });
        outputs.send(self.address(source, Role::Storage), Message::CopyPull { shard, from, until });
    }

    /// Another storage wants what there is of a shard.
    pub(super) fn copy_pull(&mut self, to: Address, shard: ShardId, (from, until): (u64, u64), outputs: &mut Outputs) {
        let nothing = |first, had| Message::CopyPart { shard, from, first, had, batches: Bytes::new() };
        let stored = self.shards.get(&shard);
        match stored.map_or(Located::NotHere, |stored| stored.locate(from, until)) {
            Located::Disk(found) => self.read(Reader::Part { to, until }, shard, from, found, outputs),
            // It soon can be read.
            Located::Memory(_) => outputs.send(to, nothing(from, true)),
            // What recovery did not find is not known to have been dropped.
            Located::NotHere if self.mending.has_gaps() && stored.is_some_and(|stored| from < stored.durable()) => {
                outputs.send(to, nothing(from, true));
            }
            Located::NotHere => {
                let next = stored.and_then(|stored| stored.extents.next_after(from)).unwrap_or(until).min(until);
                let had = stored.is_some_and(|stored| from < stored.durable());
                // Who has not, either, has to be able to say what it is covered by.
                if let Some(place) = self.told_checkpoint.filter(|place| *place > Place::default()) {
                    outputs.send(to, Message::CheckpointCommitted { place });
                }
                outputs.send(to, nothing(next, had));
            }
        }
    }

    /// A part came, or word that there is none.
    pub(super) fn copy_part(
        &mut self,
        now: Time,
        source: Address,
        (shard, from, first): (ShardId, u64, u64),
        had: bool,
        batches: Bytes,
        outputs: &mut Outputs,
    ) {
        if self.mend_part(now, source, (shard, from, first), had, &batches, outputs) {
            return;
        }
        let Some(copy) = self.copies.take_answer(source, shard, from) else { return };
        if batches.is_empty() && first > from {
            copy.lacking.insert(source.node, first);
            copy.had |= had;
            copy.skip();
        } else if batches.is_empty() || first != from {
            copy.silent.insert(source.node);
        } else {
            self.copy_taken(now, source, shard, first, batches, outputs);
        }
        self.tell_copy(shard, outputs);
    }

    /// A source has it, and its bytes are damaged there.
    pub(super) fn copy_damaged(
        &mut self,
        source: Address,
        shard: ShardId,
        (from, next): (u64, u64),
        outputs: &mut Outputs,
    ) {
        if next <= from || self.mend_damaged(source, shard, (from, next)) {
            return;
        }
        let Some(copy) = self.copies.take_answer(source, shard, from) else { return };
        copy.damaged.insert(source.node);
        if active(Mutant::CopySkipsWhatOneCannotRead) {
            copy.advance(next.min(copy.until));
        }
        self.tell_copy(shard, outputs);
    }

    fn copy_taken(
        &mut self,
        now: Time,
        source: Address,
        shard: ShardId,
        first: u64,
        batches: Bytes,
        outputs: &mut Outputs,
    ) {
        let received = |storage: &Storage| storage.shards.get(&shard).map_or(0, StoredShard::received);
        let (before, bytes) = (received(self), batches.len() as u64);
        if self.shards.contains_key(&shard) && before <= first {
            self.take(source, shard, first, batches, outputs);
        }
        let after = received(self);
        let Some(copy) = self.copies.shards.get_mut(&shard) else { return };
        if after > first {
            mark(Mark::CopyTaken);
            copy.advance(after);
            copy.bytes += bytes;
            self.copies.bytes += bytes;
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.config.copy_bytes_per_s.max(1));
            let pause = std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.copies.next_at = self.copies.next_at.max(now) + pause;
        } else {
            // What it sent is not what it should be.
            copy.silent.insert(source.node);
        }
    }

    /// Tells the engines how far a copy is, and forgets it when it is done.
    pub(super) fn tell_copy(&mut self, shard: ShardId, outputs: &mut Outputs) {
        let (Some(copy), Some(stored)) = (self.copies.shards.get_mut(&shard), self.shards.get(&shard)) else { return };
        // Its engine may still stream it.
        if stored.received() > copy.position {
            copy.advance(stored.received());
        }
        let durable = stored.durable() == stored.received() || active(Mutant::CopiedBeforeDurable);
        let ended = copy.position >= copy.until && durable;
        // Of what was here before, some may be missing.
        let done = ended && !self.mending.has_gaps();
        for engine in &copy.engines {
            let message = Message::CopyState { shard, position: copy.position, bytes: copy.bytes, done };
            outputs.send(*engine, message);
        }
        if ended {
            self.copies.shards.remove(&shard);
        }
    }

    /// A node is gone: what was asked of it is asked of another, and its engine hears no more.
    pub(super) fn copy_disconnected(&mut self, node: NodeId) {
        if let Some(pull) = self.copies.pull.take_if(|pull| pull.source == node)
            && let Some(copy) = self.copies.shards.get_mut(&pull.shard)
        {
            copy.silent.insert(node);
        }
        for copy in self.copies.shards.values_mut() {
            copy.engines.retain(|engine| engine.node != node);
        }
        // Nobody wants them any more; who does says so again.
        self.copies.shards.retain(|_, copy| !copy.engines.is_empty());
    }
}
