//! How an engine writes a checkpoint of its index, and how one that lags behind the metalog's base, or
//! has just started, loads it.

use bytes::Bytes;
use sealog_protocol::limits::{
    CHECKPOINT_DEAD_PART, CHECKPOINT_RECORD_BYTES, CHECKPOINT_WHEN_FULL_BYTES_MAX, REQUEST_RETRY,
};
use sealog_protocol::logspace::Logspace;
use sealog_protocol::machine::{Address, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::EngineIncarnation;
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::{NodeId, NodeSet, Place, ShardId, Time};

use super::Engine;
use crate::checkpoints::{Loading, Taken, Writing};
use crate::follower::choose;
use crate::index::checkpoint::{Loaded, Writer};

impl Engine {
    /// Ends a turn: begins a checkpoint if one is worth it, and goes on with one that is under way.
    pub(super) fn write_checkpoint(&mut self, now: Time, outputs: &mut Outputs) {
        if self.writing.is_none() && self.is_checkpoint_due() {
            self.begin_checkpoint();
        }
        let (Some(index), Some(writing)) = (&mut self.index, &mut self.writing) else { return };
        if !writing.can_succeed() {
            // Too few storages are left; what they have of it gives way to the next one.
            index.thaw();
            self.log_bytes_spared = self.log_bytes;
            self.writing = None;
            return;
        }
        if writing.wants_part() {
            let (part, last) = writing.writer.next_part(index, &self.order);
            writing.push(part);
            if last {
                index.thaw();
            }
        }
        let place = writing.writer.place();
        for (node, part, last, bytes) in writing.to_send() {
            let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
            outputs.send(to, Message::CheckpointPart { place, part, last, bytes });
        }
        let is_asked = writing.asked_at.is_some_and(|asked_at| now.since(asked_at) < REQUEST_RETRY);
        if let Some(replicas) = writing.complete_on().filter(|_| !is_asked) {
            writing.asked_at = Some(now);
            let next = writing.writer.next_seqnum();
            let Some(primary) = self.current().map(|view| view.primary) else { return };
            let message = Message::CheckpointDone { place, next, replicas: Box::new(replicas) };
            outputs.send(self.address(primary, Role::Sequencer), message);
        }
    }

    /// Whether this engine is the one that writes checkpoints, and enough was appended since the last.
    fn is_checkpoint_due(&self) -> bool {
        let enough =
            self.config.checkpoint_log_bytes_min.max(self.checkpoint_bytes * self.config.checkpoint_log_factor);
        let appended = self.log_bytes - self.log_bytes_spared;
        let dead = appended / self.log_records.max(1) * self.log_records_dead;
        let is_enough = appended >= enough || dead >= enough / CHECKPOINT_DEAD_PART || self.is_checkpoint_leaving();
        if !is_enough || self.loading.is_some() || !self.is_ready() {
            return false;
        }
        // While a sweep is behind, it goes on; not for ever, though.
        if self.is_sweeping() && appended < 2 * enough {
            return false;
        }
        self.is_first_alive()
    }

    /// Whether a storage that is to be emptied has the newest checkpoint, and enough others could have one.
    fn is_checkpoint_leaving(&self) -> bool {
        let (Some(logspace), Some(view)) = (&self.logspace, self.current()) else { return false };
        let is_leaving = |node: &NodeId| self.replicas.is_leaving(*node);
        if !logspace.checkpoint().is_some_and(|known| known.replicas.iter().any(|node| is_leaving(&node))) {
            return false;
        }
        let open = self.producer.open_shard().and_then(|shard| logspace.shard(shard));
        let takers = open.iter().flat_map(|shard| shard.replicas.iter());
        let takers = takers.filter(|node| self.connected.contains_key(node) && !is_leaving(node)).count();
        takers >= usize::from(view.write_quorum)
    }

    /// Of the engines that are alive, as far as this one can tell, the first: it writes checkpoints, and
    /// sees to retention.
    pub(super) fn is_first_alive(&self) -> bool {
        let is_alive = |engine: &EngineIncarnation| self.connected.get(&engine.node) == Some(&engine.incarnation);
        let open = self.logspace.iter().flat_map(Logspace::shards_of_view).filter(|(_, shard)| !shard.closed);
        open.map(|(_, shard)| shard.engine).find(is_alive) == Some(self.life())
    }

    fn begin_checkpoint(&mut self) {
        let leaves = self.is_checkpoint_leaving();
        let (Some(chain), Some(index), Some(logspace)) = (&self.chain, &mut self.index, &self.logspace) else { return };
        let view = chain.current();
        let likely_bytes = self.checkpoint_bytes + self.log_records * CHECKPOINT_RECORD_BYTES;
        let fits_full = likely_bytes <= CHECKPOINT_WHEN_FULL_BYTES_MAX;
        let has_room = |node: &NodeId| fits_full || !self.full.contains(node);
        let quorum = usize::from(view.write_quorum);
        // Those that this engine's records go to: they say when they are full.
        let Some(shard) = self.producer.open_shard().and_then(|shard| logspace.shard(shard)) else { return };
        let can_take = |node: &NodeId| self.connected.contains_key(node) && has_room(node);
        let mut nodes: Vec<NodeId> = shard.replicas.iter().filter(can_take).collect();
        if leaves {
            mark(Mark::CheckpointLeftNode);
            nodes.retain(|node| !self.replicas.is_leaving(*node));
        }
        let Some(storages) = NodeSet::new(&nodes).filter(|storages| storages.len() >= quorum) else { return };
        let writer = Writer::begin(index, logspace, self.config.checkpoint_part_bytes);
        mark(Mark::CheckpointBegun);
        self.writing = Some(Writing::new(writer, self.log_bytes, &storages, quorum, fits_full));
    }

    /// A storage has so many parts of a checkpoint on disk.
    pub(super) fn checkpoint_stored(&mut self, node: NodeId, place: Place, parts: u32) {
        if let Some(writing) = self.writing.as_mut().filter(|writing| writing.writer.place() == place) {
            writing.stored(node, parts);
        }
    }

    /// An entry of the metalog makes a checkpoint count.
    pub(super) fn checkpoint_committed(&mut self, place: Place) {
        let own = self.writing.take_if(|writing| writing.writer.place() <= place);
        if let Some(index) = self.index.as_mut().filter(|_| own.is_some()) {
            index.thaw();
        }
        // Another engine may have written one of the same place before this one was through.
        match own.filter(|writing| writing.writer.place() == place && writing.writer.is_done()) {
            Some(writing) => {
                mark(Mark::CheckpointCommitted);
                self.order.drop_before(writing.writer.lowest());
                self.checkpoint_bytes = writing.writer.bytes();
                self.log_bytes = self.log_bytes.saturating_sub(writing.log_bytes);
            }
            None => {
                self.log_bytes = 0;
                if let Some(newer) = &mut self.writing {
                    newer.log_bytes = 0;
                }
            }
        }
        (self.log_bytes_spared, self.log_records, self.log_records_dead) = (0, 0, 0);
    }

    /// The metalog before a checkpoint is gone: the checkpoint has to be loaded.
    pub(super) fn metalog_gone(&mut self, now: Time, place: Place, replicas: NodeSet, outputs: &mut Outputs) {
        let Some(settings) = self.chain.as_ref().map(|chain| chain.settings) else { return };
        // Who knows that there is one need not know where: any storage may have it.
        let storages = self.current().map(|view| view.storages).unwrap_or_default();
        let replicas = if replicas.is_empty() { storages } else { replicas };
        if place <= self.applied() {
            // An answer to what was asked long ago.
            self.follower.source = None;
            return self.follow(now, outputs);
        }
        self.follower.source = None;
        if self.loading.as_ref().is_some_and(|loading| loading.place >= place) {
            return;
        }
        let loading = Loading::new(place, replicas, &settings, self.config.hash_seed);
        self.loading = Some(Box::new(loading));
        self.load(now, outputs);
    }

    /// A storage has nothing of a shard before a position any more. What was dropped is covered by a
    /// checkpoint; what this engine needs past the last one is lost.
    pub(super) fn tags_gone(
        &mut self,
        now: Time,
        from: Address,
        (shard, first, checkpoint): (ShardId, u64, Place),
        outputs: &mut Outputs,
    ) {
        if checkpoint > self.applied() {
            mark(Mark::TagsGoneTold);
            let storages = self.current().map(|view| view.storages).unwrap_or_default();
            return self.metalog_gone(now, checkpoint, storages, outputs);
        }
        let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
        let (Some(replicas), Some(tags)) = (known.map(|known| known.replicas), self.follower.tags(shard)) else {
            return;
        };
        if first <= tags.received() {
            // It has nothing; others may.
            return;
        }
        if !replicas.contains(from.node) {
            // It was asked for want of others: what it does not have is no loss.
            tags.attempts += 1;
            return self.open_tags(now, shard, &replicas, outputs);
        }
        tags.gone += 1;
        if tags.gone < replicas.len() {
            tags.attempts += 1;
            return self.open_tags(now, shard, &replicas, outputs);
        }
        tags.gone = 0;
        self.tags(now, from, shard, first, true, Bytes::new(), outputs);
    }

    /// Asks for the parts that are wanted next, of a storage that is connected.
    pub(super) fn load(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(loading) = &mut self.loading else { return };
        let place = loading.place;
        if loading.source.is_none() {
            let is_connected = |node| self.connected.contains_key(&node);
            let source = choose(loading.replicas.iter(), self.config.node, is_connected, loading.attempts);
            loading.turn_to(source);
        }
        let Some(node) = loading.source else { return };
        let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
        for part in loading.to_ask() {
            loading.asked_at = now;
            outputs.send(to, Message::CheckpointOpen { place, part });
        }
    }

    /// Parts did not come: another storage is asked. When all were, what counts may be another
    /// checkpoint by now: the metalog's keepers are asked again.
    pub(super) fn hurry_load(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(loading) = &mut self.loading else { return };
        if loading.source.is_some() && now.since(loading.asked_at) < REQUEST_RETRY {
            return;
        }
        self.load_elsewhere(now, outputs);
    }

    fn load_elsewhere(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(loading) = &mut self.loading else { return };
        loading.attempts += 1;
        loading.source = None;
        if loading.attempts.is_multiple_of(loading.replicas.len().max(1)) {
            loading.asked_at = now;
            self.loading = None;
            // Another keeper may know of a newer one.
            self.follower.attempts += 1;
            self.follower.not_before = now + REQUEST_RETRY;
            return;
        }
        self.load(now, outputs);
    }

    pub(super) fn checkpoint_not_here(
        &mut self,
        now: Time,
        node: NodeId,
        (place, part): (Place, u32),
        outputs: &mut Outputs,
    ) {
        // Parts are asked for before it is known how many there are: only the next one matters.
        let is_next = |loading: &Loading| loading.place == place && loading.next() == part;
        if self.loading.as_deref().is_some_and(|loading| is_next(loading) && loading.source == Some(node)) {
            self.load_elsewhere(now, outputs);
        }
    }

    pub(super) fn checkpoint_part(
        &mut self,
        now: Time,
        place: Place,
        (part, last, bytes): (u32, bool, Bytes),
        outputs: &mut Outputs,
    ) {
        let Some(mut loading) = self.loading.take_if(|loading| loading.place == place) else { return };
        loading.asked_at = now;
        let (loading, taken) = loading.part(part, last, bytes);
        self.loading = loading;
        match taken {
            Taken::More => self.load(now, outputs),
            Taken::Damaged(_) => {
                self.damaged_parts += 1;
                self.load_elsewhere(now, outputs);
            }
            Taken::Whole(loader) => match loader.finish() {
                Ok(loaded) => self.loaded(now, loaded, outputs),
                Err(_) => self.damaged_parts += 1,
            },
        }
    }

    /// The checkpoint is here: the index goes on from there.
    fn loaded(&mut self, now: Time, loaded: Loaded, outputs: &mut Outputs) {
        let Loaded { index, order, logspace } = loaded;
        if logspace.place() <= self.applied() {
            // It has come by another way meanwhile.
            return self.follow(now, outputs);
        }
        mark(Mark::CheckpointLoaded);
        // What is pending is appended again; what of it was ordered already is a repeat.
        self.producer.close_all();
        (self.opening, self.leaving, self.writing) = (None, None, None);
        (self.log_bytes, self.log_bytes_spared, self.log_records, self.log_records_dead) = (0, 0, 0, 0);
        (self.index, self.order) = (Some(index), order);
        self.follow_from(now, logspace, outputs);
        self.subscriptions.wake_all();
        if let Some((sources, reads)) = self.reading(now) {
            reads.wake_all();
            reads.applied(sources, outputs);
        }
    }

    pub(super) fn follow_from(&mut self, now: Time, logspace: Logspace, outputs: &mut Outputs) {
        self.follower.start_at(logspace.place());
        let open: Vec<(ShardId, NodeSet, u64)> = logspace
            .shards_of_view()
            .filter(|(_, shard)| !shard.closed)
            .map(|(id, shard)| (id, shard.replicas, shard.prefix))
            .collect();
        self.logspace = Some(logspace);
        self.copies.restart();
        for (shard, replicas, prefix) in open {
            self.follower.follow(shard, prefix);
            self.open_tags(now, shard, &replicas, outputs);
        }
        self.follow(now, outputs);
    }
}
