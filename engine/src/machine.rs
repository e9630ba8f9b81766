//! The engine machine: takes requests, follows the metalog, answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sealog_protocol::limits::{PENDING_PROBE, REQUEST_RETRY};
use sealog_protocol::logspace::{Logspace, Ordered};
use sealog_protocol::machine::{Address, Input, Machine, Output, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::EngineIncarnation;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{Incarnation, LogBookId, NodeId, NodeSet, Place, ShardId, Time};

use crate::checkpoints::{Loading, Writing};
use crate::config::{EngineConfig, EngineStatus};
use crate::copies::Copies;
use crate::follower::{Follower, choose};
use crate::index::{Dying, Index};
use crate::openings::Openings;
use crate::order::Order;
use crate::producer::{Producer, ProducerLimits};
use crate::reads::{Reads, whole_batches};
use crate::replicas::{Advice, Replicas};
use crate::subscriptions::{SubscriptionLimits, Subscriptions};
use crate::trims::Trims;

mod checkpointing;
mod copying;
mod following;
mod replies;
mod requests;
mod retaining;
mod space;
mod subscribing;

/// An engine of one logspace.
pub struct Engine {
    config: EngineConfig,
    chain: Option<Chain>,
    connected: BTreeMap<NodeId, Incarnation>,
    logspace: Option<Logspace>,
    index: Option<Index>,
    order: Order,
    follower: Follower,
    producer: Producer,
    reads: Reads,
    subscriptions: Subscriptions,
    trims: Trims,
    /// A checkpoint of the index that is written, and one that is loaded.
    writing: Option<Writing>,
    loading: Option<Box<Loading>>,
    /// Bytes of batches since the last checkpoint; so many of them when a checkpoint was given up; and
    /// how large the last one was.
    log_bytes: u64,
    log_bytes_spared: u64,
    /// Records since the last checkpoint, and of these those that died.
    log_records: u64,
    log_records_dead: u64,
    checkpoint_bytes: u64,
    damaged_parts: u64,
    /// When LogBooks are next looked at for what they are to let go, and up to which one they were.
    retain_at: Option<Time>,
    retained_until: Option<LogBookId>,
    /// Records that died and are not yet told of.
    dying: Vec<Dying>,
    openings: Openings,
    /// The shard that was asked for and is not yet open: its ordinal, and when it was asked for.
    opening: Option<(u64, Time)>,
    ordinal: u64,
    /// A shard that was left, and when the primary was asked to close it.
    leaving: Option<(ShardId, Time)>,
    replicas: Replicas,
    copies: Copies,
    /// When the open shard's storages are looked at again.
    advise_at: Option<Time>,
    full: BTreeSet<NodeId>,
    /// When an append first had to wait for its verdict, or the register was last read for it.
    pending_since: Option<Time>,
    /// A committed cut waits for Tags.
    starved: bool,
    retry_at: Option<Time>,
    scratch: Vec<u8>,
    ordered: Vec<Ordered>,
    appends: u64,
    read_requests: u64,
    fetches: u64,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Engine {
        let limits = ProducerLimits {
            pending_bytes_max: config.pending_bytes_max,
            pending_records_max: config.pending_records_max,
            cache_bytes_max: config.cache_bytes_max,
        };
        Engine {
            producer: Producer::new(config.logspace, limits),
            reads: Reads::new(config.waiting_reads_max, config.aux_bytes_max, config.hash_seed),
            subscriptions: Subscriptions::new(
                SubscriptionLimits {
                    subscriptions_max: config.subscriptions_max,
                    per_connection_max: config.subscriptions_per_connection_max,
                },
                config.hash_seed,
            ),
            trims: Trims::default(),
            writing: None,
            loading: None,
            log_bytes: 0,
            log_bytes_spared: 0,
            log_records: 0,
            log_records_dead: 0,
            checkpoint_bytes: 0,
            damaged_parts: 0,
            retain_at: None,
            retained_until: None,
            dying: Vec::new(),
            openings: Openings::new(config.session_openings_max),
            config,
            chain: None,
            connected: BTreeMap::new(),
            logspace: None,
            index: None,
            order: Order::default(),
            follower: Follower::default(),
            opening: None,
            ordinal: 0,
            leaving: None,
            replicas: Replicas::default(),
            copies: Copies::default(),
            advise_at: None,
            full: BTreeSet::new(),
            pending_since: None,
            starved: false,
            retry_at: None,
            scratch: Vec::new(),
            ordered: Vec::new(),
            appends: 0,
            read_requests: 0,
            fetches: 0,
        }
    }

    /// Whether there is room for another append. Without, the driver stops reading from clients.
    pub fn accepts(&self) -> bool {
        self.producer.accepts()
    }

    /// Whether every earlier acknowledgement is readable, and appends have a shard to go to.
    pub fn is_ready(&self) -> bool {
        let current = self.chain.as_ref().map(|chain| chain.current().number);
        self.producer.open_shard().is_some_and(|shard| Some(shard.view) == current)
    }

    /// The storages of the shard that takes appends now.
    pub fn open_replicas(&self) -> Option<NodeSet> {
        let shard = self.producer.open_shard()?;
        self.logspace.as_ref()?.shard(shard).map(|known| known.replicas)
    }

    /// The place that the index has applied.
    pub fn applied(&self) -> Place {
        self.logspace.as_ref().map_or(Place::default(), Logspace::place)
    }

    /// What a read would be answered from, for whoever checks it.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Where records are, for whoever checks it.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The place of the last checkpoint that counts; the first place if there is none.
    pub(crate) fn checkpoint(&self) -> Place {
        self.logspace.as_ref().and_then(Logspace::checkpoint).map_or(Place::default(), |last| last.place)
    }

    pub fn status(&self) -> EngineStatus {
        let index = self.index.as_ref();
        EngineStatus {
            ready: self.is_ready(),
            applied: self.applied(),
            records: index.map_or(0, Index::records),
            voids: index.map_or(0, Index::voids),
            sessions: index.map_or(0, |index| index.sessions().len()),
            tags: index.map_or(0, Index::tags),
            runs: self.order.runs(),
            index_bytes: self.index_bytes(),
            cache_bytes: self.producer.cached_bytes(),
            aux: self.reads.aux.status(),
            pending_records: self.producer.pending_records(),
            waiting_reads: self.reads.len(),
            subscriptions: self.subscriptions.len(),
            appends: self.appends,
            reads: self.read_requests,
            fetches: self.fetches,
            lost_ranges: index.map_or(0, Index::lost_ranges),
            disk_full: self.is_disk_full(),
            checkpoint: self.checkpoint(),
            checkpoint_log_bytes: self.log_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_parts_damaged: self.damaged_parts,
            copies_shards: self.copies.shards_to_go,
            copies_bytes: self.copies.bytes_to_go(),
        }
    }

    fn index_bytes(&self) -> usize {
        self.index.as_ref().map_or(0, Index::bytes) + self.order.bytes()
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    fn life(&self) -> EngineIncarnation {
        EngineIncarnation { node: self.config.node, incarnation: self.config.incarnation }
    }

    fn current(&self) -> Option<&View> {
        self.chain.as_ref().map(Chain::current)
    }

    // Messages of other machines.

    fn message(&mut self, now: Time, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::ReplicateResume { shard, received, durable } => {
                self.producer.resume(from, shard, received, durable);
            }
            Message::ReplicateDurable { shard, durable } => self.producer.durable(from, shard, durable),
            Message::ReplicateRefused { .. } => self.probe(now, outputs),
            Message::StorageSpace { full: true } => {
                self.full.insert(from.node);
                if let Some(writing) = &mut self.writing {
                    writing.full(from.node);
                }
            }
            Message::StorageSpace { full: false } => {
                self.full.remove(&from.node);
            }
            Message::MetalogEntries { from: place, count, more, entries } => {
                self.metalog_entries(now, (place, count), more, entries, outputs);
            }
            Message::MetalogNotHere { from: place } => {
                if place == self.follower.next() && self.follower.source == Some(from.node) {
                    self.try_next_source(now);
                }
            }
            Message::TagsEntries { shard, first, more, entries } => {
                self.tags(now, from, shard, first, more, entries, outputs)
            }
            Message::TagsGone { shard, first, checkpoint } => {
                self.tags_gone(now, from, (shard, first, checkpoint), outputs)
            }
            Message::Fetched { request, batch } => self.fetched(now, request, &batch, outputs),
            Message::FetchNotHere { request } => self.reads.refetch(request),
            Message::FetchCorrupt { request } => {
                if let Some(fetch) = self.reads.fetch_mut(request) {
                    fetch.corrupt = true;
                }
                self.reads.refetch(request);
            }
            Message::MetalogGone { from: place, checkpoint, replicas } => {
                if place == self.follower.next() {
                    self.metalog_gone(now, checkpoint, *replicas, outputs);
                }
            }
            Message::CheckpointStored { place, parts } => self.checkpoint_stored(from.node, place, parts),
            Message::CheckpointPart { place, part, last, bytes } => {
                self.checkpoint_part(now, place, (part, last, bytes), outputs);
            }
            Message::CheckpointNotHere { place, part } => {
                self.checkpoint_not_here(now, from.node, (place, part), outputs);
            }
            Message::Judge { request, shard, first, entries } => {
                self.judge(from, request, (shard, first), &entries, outputs);
            }
            Message::CopyState { shard, position, bytes, done } => {
                self.copy_state(from.node, shard, (position, bytes), done, outputs);
            }
            Message::CommitAnswer { request, place } => {
                if let Some((sources, reads)) = self.reading(now) {
                    reads.confirmed(request, place, sources, outputs);
                }
            }
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    /// Reads the register, in case the view has changed without anyone saying so.
    fn probe(&mut self, now: Time, outputs: &mut Outputs) {
        let recent = self.retry_at.is_some_and(|at| now < at);
        if !recent {
            outputs.push(Output::ReadRegister);
            self.retry_at = Some(now + REQUEST_RETRY);
        }
    }

    fn fetched(&mut self, now: Time, request: u64, batches: &Bytes, outputs: &mut Outputs) {
        let Some(at) = self.reads.fetch_mut(request).map(|fetch| fetch.at) else { return };
        // The storage verified what it read; this verifies what came, and that it is what was asked.
        let whole = whole_batches(batches, at);
        if whole.is_empty() {
            return self.reads.refetch(request);
        }
        if let Some((sources, reads)) = self.reading(now) {
            reads.fetched(request, Some(&whole), sources, outputs);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn tags(
        &mut self,
        now: Time,
        from: Address,
        shard: ShardId,
        first: u64,
        more: bool,
        entries: Bytes,
        outputs: &mut Outputs,
    ) {
        let Some(tags) = self.follower.tags(shard) else { return };
        tags.push(first, entries);
        if more && tags.source == Some(from.node) {
            tags.asked_at = now;
            let message = Message::TagsOpen { shard, from: tags.received() };
            outputs.send(from, message);
        }
    }

    // The shard that this engine writes.

    /// Asks for a shard, if there is none and the view is one to write in.
    fn open_shard(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(view) = self.current() else { return };
        if self.producer.open_shard().is_some() || self.applied().view != view.number {
            return;
        }
        let primary = view.primary;
        let Some(replicas) = self.choose_storages(now, view) else { return };
        let ordinal = match self.opening {
            Some((_, asked_at)) if now.since(asked_at) < REQUEST_RETRY => return,
            Some((ordinal, _)) => ordinal,
            None => {
                self.ordinal += 1;
                self.ordinal
            }
        };
        self.opening = Some((ordinal, now));
        let message = Message::OpenShard { engine: self.life(), ordinal, replicas: Box::new(replicas) };
        outputs.send(self.address(primary, Role::Sequencer), message);
    }

    fn choose_storages(&self, now: Time, view: &View) -> Option<NodeSet> {
        let is_connected = |node| self.connected.contains_key(&node);
        let is_full = |node| self.full.contains(&node);
        self.replicas.choose(now, view, self.config.node, self.ordinal, (is_connected, is_full))
    }

    /// Leaves the open shard when a storage of it is lost and another could take its place.
    fn look_at_storages(&mut self, now: Time, outputs: &mut Outputs) {
        self.advise_at = None;
        let (Some(chain), Some(logspace)) = (&self.chain, &self.logspace) else { return };
        let view = chain.current();
        let Some(shard) = self.producer.open_shard().filter(|shard| shard.view == view.number) else { return };
        let Some(known) = logspace.shard(shard) else { return };
        let is_connected = |node| self.connected.contains_key(&node);
        let is_full = |node| self.full.contains(&node);
        let patience = self.config.replica_patience;
        match self.replicas.advise(now, patience, view, &known.replicas, (is_connected, is_full)) {
            Advice::Stay => {}
            Advice::StayUntil(at) => self.advise_at = Some(at),
            Advice::Leave if active(Mutant::LostReplicaIgnored) => {}
            Advice::Leave => {
                mark(Mark::ShardLeftLostStorage);
                self.leave_shard(now, shard, outputs);
            }
        }
    }

    fn leave_shard(&mut self, now: Time, shard: ShardId, outputs: &mut Outputs) {
        let asked = self.leaving.filter(|(leaving, _)| *leaving == shard);
        if asked.is_some_and(|(_, asked_at)| now.since(asked_at) < REQUEST_RETRY) {
            return;
        }
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        self.leaving = Some((shard, now));
        outputs.send(self.address(primary, Role::Sequencer), Message::CloseShard { shard });
    }

    // Fetches and queries.

    fn send_fetches(&mut self, now: Time, outputs: &mut Outputs) {
        for id in self.reads.fetches_to_send() {
            let Some(fetch) = self.reads.fetch_mut(id) else { continue };
            let shard = fetch.at.shard;
            let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
            let replicas = known.map_or(NodeSet::default(), |known| known.replicas);
            if fetch.corrupt && fetch.attempt >= replicas.len() {
                if let Some((sources, reads)) = self.reading(now) {
                    reads.fetched(id, None, sources, outputs);
                }
                continue;
            }
            let all_asked = fetch.attempt > 0 && fetch.attempt.is_multiple_of(replicas.len().max(1));
            if all_asked && now.since(fetch.asked_at) < REQUEST_RETRY {
                // Not at once again: the retry timer comes back to it.
                fetch.asked = None;
                continue;
            }
            let is_connected = |node| self.connected.contains_key(&node);
            fetch.asked = choose(replicas.iter(), self.config.node, is_connected, fetch.attempt);
            fetch.asked_at = now;
            if let Some(node) = fetch.asked {
                let (position, until) = (fetch.at.position, fetch.until);
                let message = Message::Fetch { request: id, shard, position, until };
                self.fetches += 1;
                let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
                outputs.send(to, message);
            }
        }
    }

    fn send_query(&mut self, outputs: &mut Outputs) {
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        if self.connected.contains_key(&primary)
            && let Some(request) = self.reads.next_query()
        {
            outputs.send(self.address(primary, Role::Sequencer), Message::CommitQuery { request });
        }
    }

    // Connections and time.

    fn node_connected(&mut self, now: Time, node: NodeId, incarnation: Incarnation, outputs: &mut Outputs) {
        self.node_disconnected(node);
        self.connected.insert(node, incarnation);
        if self.replicas.connected(node, incarnation) {
            self.copies.doubt(node);
        }
        self.producer.connected(node, outputs);
        self.load(now, outputs);
        self.follow(now, outputs);
        let unsourced: Vec<ShardId> =
            self.follower.all_tags().filter(|(_, tags)| tags.source.is_none()).map(|(shard, _)| shard).collect();
        for shard in unsourced {
            let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
            if let Some(replicas) = known.map(|known| known.replicas) {
                self.open_tags(now, shard, &replicas, outputs);
            }
        }
        if self.current().is_some_and(|view| view.primary == node) {
            self.opening = self.opening.map(|(ordinal, _)| (ordinal, Time::ZERO));
            self.reads.requery();
            self.trims.retry();
        }
    }

    fn node_disconnected(&mut self, node: NodeId) {
        self.connected.remove(&node);
        self.full.remove(&node);
        self.producer.disconnected(node);
        self.reads.storage_lost(node);
        if self.follower.source == Some(node) {
            self.follower.source = None;
        }
        if let Some(writing) = &mut self.writing {
            writing.lose(node);
        }
        if let Some(loading) = self.loading.as_mut().filter(|loading| loading.source == Some(node)) {
            loading.turn_to(None);
        }
        for (_, tags) in self.follower.all_tags().filter(|(_, tags)| tags.source == Some(node)) {
            tags.source = None;
        }
    }

    fn tick(&mut self, now: Time, outputs: &mut Outputs) {
        if let Some((sources, reads)) = self.reading(now) {
            reads.expire(sources, outputs);
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        if let Some((sources, reads)) = self.reading(now) {
            reads.retry(sources, outputs);
        }
        self.reads.requery();
        self.trims.retry();
        let ended = self.chain.as_ref().is_some_and(|chain| chain.end(self.follower.next().view).is_some());
        if ended && self.follower.source.is_some() && now.since(self.follower.asked_at) >= REQUEST_RETRY {
            self.try_next_source(now);
        }
        self.hurry_load(now, outputs);
        self.follow(now, outputs);
        let stale: Vec<ShardId> =
            self.follower.all_tags().filter(|(_, tags)| tags.source.is_none()).map(|(shard, _)| shard).collect();
        for shard in stale {
            self.hurry_tags(now, shard, outputs);
        }
        if self.pending_since.is_some_and(|since| now.since(since) >= PENDING_PROBE) {
            self.pending_since = Some(now);
            outputs.push(Output::ReadRegister);
        }
    }

    /// Whether something was asked that may have to be asked again.
    fn is_waiting(&self) -> bool {
        let Some(chain) = &self.chain else { return false };
        let behind = chain.current().number != self.applied().view || self.follower.source.is_none();
        behind
            || self.starved
            || self.opening.is_some()
            || self.leaving.is_some()
            || self.reads.has_fetches()
            || self.reads.has_queries()
            || !self.trims.is_empty()
            || self.loading.is_some()
            || self.writing.is_some()
    }
}

impl Machine for Engine {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match input {
            Input::Message { from, message } => self.message(now, from, message, outputs),
            Input::Chain(chain) => self.chain(now, chain, outputs),
            Input::Connected { node, incarnation } => self.node_connected(now, node, incarnation, outputs),
            Input::Disconnected { node } => self.node_disconnected(node),
            Input::Members(members) => self.replicas.members(members),
            Input::Tick => self.tick(now, outputs),
            Input::Durable(_)
            | Input::Read { .. }
            | Input::TagsRead { .. }
            | Input::Swapped
            | Input::Space { .. }
            | Input::Vacate { .. }
            | Input::Rotten { .. } => {}
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        self.apply(now, outputs);
        self.push_subscriptions(now, outputs);
        self.open_shard(now, outputs);
        if let Some((shard, slowest)) = self.producer.flush(outputs) {
            self.replicas.lagged(now, slowest);
            self.leave_shard(now, shard, outputs);
        }
        self.look_at_storages(now, outputs);
        self.send_query(outputs);
        self.send_fetches(now, outputs);
        self.send_trims(outputs);
        self.retain(now, outputs);
        self.write_checkpoint(now, outputs);
        self.make_copies(now, outputs);
        if self.retry_at.is_none() && (self.is_waiting() || self.pending_since.is_some()) {
            self.retry_at = Some(now + REQUEST_RETRY);
        }
    }

    fn deadline(&self) -> Option<Time> {
        // What a turn left for the next is due at once.
        if self.is_sweeping() || self.subscriptions.has_work() {
            return Some(Time::ZERO);
        }
        let others = self.retry_at.into_iter().chain(self.retain_at).chain(self.advise_at).chain(self.copies.look_at);
        self.reads.deadline().into_iter().chain(others).min()
    }
}
