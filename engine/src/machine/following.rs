//! How an engine follows the metalog: asks for entries and Tags, applies what is complete, answers
//! who waits for it.

use bytes::Bytes;
use sealog_protocol::limits::{REQUEST_RETRY, STREAM_MESSAGE_BYTES_MAX};
use sealog_protocol::logspace::{Checkpoint, Logspace, Ordered};
use sealog_protocol::machine::{Address, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::Entry;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::Chain;
use sealog_protocol::{NodeId, NodeSet, Place, SeqNum, ShardId, Time, ViewNumber};

use super::Engine;
use super::replies::{Judged, reply_to};
use crate::follower::{NextTags, choose};
use crate::index::{Applied, Index};
use crate::order::Order;

/// Entries that wait to be applied; more are asked for when there are fewer.
const QUEUED_ENTRY_BYTES_MAX: usize = 4 * STREAM_MESSAGE_BYTES_MAX;
/// Storages of a shard whose Tags ran dry are given this long before another one is asked.
const TAGS_PATIENCE: std::time::Duration = REQUEST_RETRY;
/// Replicas of a shard are asked so often for Tags before other storages are.
const TAGS_ROUNDS: usize = 2;

impl Engine {
    pub(super) fn chain(&mut self, now: Time, chain: &Chain, outputs: &mut Outputs) {
        if self.chain.as_ref().is_some_and(|known| known.views.len() >= chain.views.len()) {
            return;
        }
        if self.logspace.is_none() {
            let first = chain.views.first().expect("a chain begins with a view");
            self.logspace = Some(Logspace::new(first));
            self.index = Some(Index::new(&chain.settings, self.config.hash_seed));
            self.follower.start();
        }
        self.chain = Some(chain.clone());
        self.unlearn(now, outputs);
        self.reads.requery();
        self.follower.source = None;
        self.follow(now, outputs);
    }

    /// Whether so many entries from a place on are past the end of a view: of class memory, and lost.
    fn are_lost(&self, from: Place, count: u64) -> bool {
        let end = self.chain.as_ref().and_then(|chain| chain.end(from.view));
        end.is_some_and(|end| from.index + count > end)
    }

    /// Takes committed entries. Those past the end of a view were committed and are lost: another replica
    /// is asked.
    pub(super) fn metalog_entries(
        &mut self,
        now: Time,
        (from, count): (Place, u32),
        more: bool,
        entries: Bytes,
        outputs: &mut Outputs,
    ) {
        if self.are_lost(from, u64::from(count)) {
            if from == self.follower.next() {
                self.try_next_source(now);
            }
        } else if self.follower.push(from, count, entries) {
            self.follow_on(now, more, outputs);
        }
    }

    /// A view of class memory may end before what this engine has learnt of it, when nobody else
    /// remembers that: then it learns everything anew.
    fn unlearn(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(chain) = &self.chain else { return };
        if self.are_lost(self.applied(), 0) {
            mark(Mark::EngineStartedOver);
            let first = Logspace::new(chain.views.first().expect("a chain begins with a view"));
            let until = Place { view: chain.current().number, index: 0 };
            self.index = Some(Index::new(&chain.settings, self.config.hash_seed));
            self.order = Order::default();
            self.dying.clear();
            // What is pending is appended again; what of it is ordered is a repeat.
            self.producer.close_all();
            (self.opening, self.leaving, self.writing, self.loading) = (None, None, None, None);
            (self.log_bytes, self.log_bytes_spared, self.log_records, self.log_records_dead) = (0, 0, 0, 0);
            self.reads.start_over(until);
            self.follow_from(now, first, outputs);
        } else if self.are_lost(self.follower.next(), 0)
            && let Some(logspace) = self.logspace.take()
        {
            self.follow_from(now, logspace, outputs);
        }
    }

    /// The replica that was asked has no more: another one is next. Once all were asked, after a while.
    pub(super) fn try_next_source(&mut self, now: Time) {
        self.follower.attempts += 1;
        self.follower.source = None;
        let replicas = self.keepers(self.follower.next().view).len().max(1);
        if self.follower.attempts.is_multiple_of(replicas) {
            self.follower.not_before = now + REQUEST_RETRY;
        }
    }

    /// Who may have the metalog of a view: its replicas, and those of the present view, which take over
    /// what others leave.
    fn keepers(&self, view: ViewNumber) -> Vec<NodeId> {
        let Some(chain) = &self.chain else { return Vec::new() };
        let mut keepers: Vec<NodeId> = chain.current().sequencers.iter().collect();
        let before = chain.view(view).into_iter().flat_map(|view| view.sequencers.iter());
        keepers.extend(before.filter(|node| !chain.current().sequencers.contains(*node)));
        keepers
    }

    /// Asks a replica for the metalog from where this engine is.
    pub(super) fn follow(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(chain) = &self.chain else { return };
        while self.follower.advance_view(chain) {}
        if self.loading.is_some() || self.follower.source.is_some() || now < self.follower.not_before {
            return;
        }
        let next = self.follower.next();
        let Some(view) = chain.view(next.view) else { return };
        let is_connected = |node| self.connected.contains_key(&node);
        let source = if chain.current().number == next.view {
            Some(view.primary).filter(|node| is_connected(*node))
        } else {
            choose(self.keepers(next.view).into_iter(), self.config.node, is_connected, self.follower.attempts)
        };
        self.follower.source = source;
        self.follower.asked_at = now;
        if let Some(node) = source {
            outputs.send(self.address(node, Role::Sequencer), Message::MetalogOpen { from: next });
        }
    }

    /// Entries came: asks for those that follow, if nobody sends them by itself.
    pub(super) fn follow_on(&mut self, now: Time, more: bool, outputs: &mut Outputs) {
        let Some(chain) = &self.chain else { return };
        let ended = self.follower.advance_view(chain);
        // In an ended view without more, this replica has no more.
        let short = !ended && !more && chain.end(self.follower.next().view).is_some();
        if ended || more {
            self.follower.source = None;
            self.follower.not_before = Time::ZERO;
        } else if short {
            self.try_next_source(now);
        }
        if self.follower.source.is_none() && self.follower.queued_bytes() < QUEUED_ENTRY_BYTES_MAX {
            self.follow(now, outputs);
        }
    }

    /// Applies committed entries as far as their Tags are here.
    pub(super) fn apply(&mut self, now: Time, outputs: &mut Outputs) {
        let before = self.applied();
        self.starved = false;
        loop {
            let Some(place) = self.logspace.as_ref().map(Logspace::place) else { return };
            if self.advance_view() {
                continue;
            }
            match self.follower.take_ready(place.view) {
                Ok(Some(encoded)) => self.apply_entry(now, &encoded, outputs),
                Ok(None) => break,
                Err(shard) => {
                    self.starved = true;
                    self.hurry_tags(now, shard, outputs);
                    break;
                }
            }
        }
        if self.applied() != before {
            self.pending_since = (self.producer.pending_records() > 0).then_some(now);
        }
        // Before reads are answered: those by tag 0 skip what died.
        self.sweep(outputs);
        if let Some((sources, reads)) = self.reading(now) {
            reads.applied(sources, outputs);
        }
        if self.follower.source.is_none() && self.follower.queued_bytes() < QUEUED_ENTRY_BYTES_MAX {
            self.follow(now, outputs);
        }
    }

    /// Leaves a view that has ended and is applied.
    pub(super) fn advance_view(&mut self) -> bool {
        let (Some(chain), Some(logspace)) = (&self.chain, &mut self.logspace) else { return false };
        if !logspace.advance_view(chain) {
            return false;
        }
        let view = logspace.place().view;
        for shard in self.follower.followed_before(view) {
            self.follower.unfollow(shard);
        }
        self.producer.close_all();
        self.opening = None;
        self.leaving = None;
        if active(Mutant::WindowDroppedAtViewChange)
            && let Some(index) = &mut self.index
        {
            index.forget_verdicts();
        }
        true
    }

    pub(super) fn apply_entry(&mut self, now: Time, encoded: &[u8], outputs: &mut Outputs) {
        let (entry, _) = Entry::decode(encoded).expect("checked when it was received");
        let logspace = self.logspace.as_mut().expect("entries come after the chain");
        let place = logspace.place();
        let mut ordered = std::mem::take(&mut self.ordered);
        logspace.apply(&entry, |run| ordered.push(run));
        for run in ordered.drain(..) {
            self.apply_records(&run, outputs);
        }
        self.ordered = ordered;
        match entry {
            Entry::OpenShard { engine, ordinal, replicas } => {
                let shard = ShardId { view: place.view, index: place.index };
                if self.logspace.as_ref().is_some_and(|logspace| logspace.shard(shard).is_some()) {
                    self.follower.follow(shard, 0);
                    self.open_tags(now, shard, &replicas, outputs);
                    self.shard_opened(shard, engine, ordinal, &replicas, outputs);
                }
            }
            Entry::CloseShard { shard_index } => {
                let shard = ShardId { view: place.view, index: shard_index };
                self.follower.unfollow(shard);
                if self.producer.is_own(shard) {
                    self.producer.close(shard);
                    self.leaving = None;
                }
            }
            Entry::Trim { logbook, tag, first } => self.trimmed(logbook, tag, first, outputs),
            Entry::Checkpoint { place, .. } => {
                let counts = |known: &Checkpoint| known.place == place;
                if self.logspace.as_ref().and_then(Logspace::checkpoint).is_some_and(counts) {
                    self.checkpoint_committed(place);
                }
            }
            Entry::MoveShard { shard, replicas } => self.copies.moved(shard, &replicas),
            Entry::Cut(_) => {}
        }
    }

    /// Gives a run of ordered records their verdicts, and answers who waits for them.
    pub(super) fn apply_records(&mut self, run: &Ordered, outputs: &mut Outputs) {
        let (place, durability) = (self.applied(), self.durability());
        let (Some(index), Some(tags)) = (&mut self.index, self.follower.tags(run.shard)) else { return };
        self.order.push(run);
        let own = self.producer.is_own(run.shard);
        let mut position = run.from;
        while position < run.to {
            let Some((next, bytes)) = tags.peek() else { return };
            let seqnum = SeqNum(run.seqnum.0 + (position - run.from));
            let (records, applied) = match next {
                NextTags::Batch(batch, frame_bytes) => {
                    self.log_bytes += u64::from(frame_bytes);
                    self.copies.saw(batch.records.len() as u64, u64::from(frame_bytes));
                    self.log_records += batch.records.len() as u64;
                    let (reads, subscriptions) = (&mut self.reads, &mut self.subscriptions);
                    let applied = index.apply(seqnum, batch, |logbook, tag| {
                        reads.wake((logbook, tag));
                        subscriptions.wake((logbook, tag));
                    });
                    (batch.records.len() as u64, applied)
                }
                NextTags::Lost(records) => {
                    let records = records.min(run.to - position);
                    index.lose(seqnum, SeqNum(seqnum.0 + records));
                    (records, Applied::SessionExpired)
                }
            };
            if own && let Some(origin) = self.producer.answered(run.shard, position, records) {
                let reply = reply_to(origin, Judged { seqnum, applied, place, durability }, index);
                let (connection, request) = origin.client();
                outputs.reply(connection, request, reply);
            }
            tags.advance(records, bytes);
            position += records;
        }
    }

    /// Asks a replica of a shard for its Tags from where this engine is. Where none of them answers, another
    /// storage: the shard may have moved, and the entry that says so comes only after those that need the Tags.
    pub(super) fn open_tags(&mut self, now: Time, shard: ShardId, replicas: &NodeSet, outputs: &mut Outputs) {
        let storages = self.current().map(|view| view.storages).unwrap_or_default();
        let Some(tags) = self.follower.tags(shard) else { return };
        let is_connected = |node| self.connected.contains_key(&node);
        tags.asked_at = now;
        let of_replicas = replicas.iter().any(is_connected) && tags.attempts < TAGS_ROUNDS * replicas.len();
        let others = storages.iter().filter(|node| !of_replicas && !replicas.contains(*node));
        tags.source = choose(replicas.iter().chain(others), self.config.node, is_connected, tags.attempts);
        if let Some(node) = tags.source {
            let from = tags.received();
            let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
            outputs.send(to, Message::TagsOpen { shard, from });
        }
    }

    /// Tags that a committed cut needs do not come: another replica is asked.
    pub(super) fn hurry_tags(&mut self, now: Time, shard: ShardId, outputs: &mut Outputs) {
        let Some(tags) = self.follower.tags(shard) else { return };
        if now.since(tags.asked_at) < TAGS_PATIENCE && tags.source.is_some() {
            return;
        }
        tags.attempts += 1;
        let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
        if let Some(replicas) = known.map(|known| known.replicas) {
            self.open_tags(now, shard, &replicas, outputs);
        }
    }
}
