//! How an engine has lost copies made again: it asks those who are to have a shard how far they are, and
//! tells the primary where it is now.
//!
//! One engine does so, the first of those that live, as far as the members tell; several are safe. It
//! looks at shards that get no more: closed, or of a view that has ended, for what they hold is known.

use sealog_protocol::holdings::Holdings;
use sealog_protocol::machine::{Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::view::View;
use sealog_protocol::{NodeId, NodeSet, ShardId, Time};

use super::Engine;
use crate::copies::Wanted;

impl Engine {
    /// Looks for shards with too few copies once in a while, and goes on with those found.
    pub(super) fn make_copies(&mut self, now: Time, outputs: &mut Outputs) {
        if self.current().is_none_or(|view| self.applied().view != view.number) {
            self.copies.look_at = None;
            return;
        }
        if self.copies.look_at.is_none_or(|at| at <= now) {
            self.look_for_copies(now, outputs);
            self.copies.look_at = Some(now + self.config.copies_look);
        }
        while let Some(shard) = self.copies.take_next() {
            if let Some(wanted) = self.wanted_of(now, shard) {
                self.copies.begin(shard, wanted);
                self.ask_for_copies(shard, wanted, outputs);
            }
        }
    }

    fn look_for_copies(&mut self, now: Time, outputs: &mut Outputs) {
        let (Some(chain), Some(logspace)) = (&self.chain, &self.logspace) else { return };
        let view = chain.current();
        let is_connected = |node| self.connected.contains_key(&node);
        let nodes = logspace.shards().flat_map(|(_, shard)| shard.replicas.iter());
        self.replicas.note_gone(now, nodes.chain(view.storages.iter()), is_connected);
        if !self.replicas.is_first_engine(self.config.node, is_connected) {
            self.copies.look(std::iter::empty());
            return;
        }
        let shards: Vec<ShardId> = logspace.shards().map(|(shard, _)| shard).collect();
        let found: Vec<(ShardId, Option<Wanted>, u64)> =
            shards.into_iter().filter_map(|shard| self.lacks(now, shard)).collect();
        self.copies.look(found.into_iter());
        let again: Vec<(ShardId, Wanted)> = self.copies.work().map(|(shard, work)| (shard, work.wanted)).collect();
        for (shard, wanted) in again {
            self.ask_for_copies(shard, wanted, outputs);
            self.tell_move(shard, wanted, outputs);
        }
    }

    /// A shard that is not known to have all its copies: what is to be done about it, if something can
    /// be, and how many records lack copies.
    fn lacks(&self, now: Time, shard: ShardId) -> Option<(ShardId, Option<Wanted>, u64)> {
        let known = self.final_shard(shard)?;
        // It may have been moved to fewer than there should be, for want of others.
        let staying = known.replicas.iter().filter(|node| self.stays(now, *node)).count();
        let lost = usize::from(self.current()?.replicas).saturating_sub(staying);
        if lost == 0 && self.copies.are_verified(shard, &known.replicas) {
            return None;
        }
        let wanted = self.wanted_of(now, shard);
        let wanted = wanted.filter(|wanted| wanted.moves() || !self.copies.are_verified(shard, &wanted.holders));
        Some((shard, wanted, known.prefix * lost as u64))
    }

    /// Where what counts of this logspace is.
    pub fn holdings(&self) -> Holdings {
        let Some(logspace) = &self.logspace else { return Holdings::default() };
        let checkpoint = logspace.checkpoint().map(|known| known.replicas);
        let mut holdings = Holdings { applied: logspace.place(), copies: Vec::new(), checkpoint };
        for (id, shard) in logspace.shards() {
            if shard.prefix > 0 && self.order.runs_of(id, 0).next().is_some() {
                holdings.add(&shard.replicas, shard.prefix, self.copies.bytes_of(shard.prefix));
            }
        }
        holdings
    }

    /// A shard that gets no more, and of which something is ordered and not all trimmed.
    fn final_shard(&self, shard: ShardId) -> Option<&sealog_protocol::logspace::Shard> {
        let logspace = self.logspace.as_ref()?;
        let known = logspace.shard(shard)?;
        let gets_no_more = known.closed || shard.view < logspace.place().view || active(Mutant::OpenShardMoved);
        let lives = gets_no_more && known.prefix > 0 && self.order.runs_of(shard, 0).next().is_some();
        lives.then_some(known)
    }

    /// Whether a storage is to keep what it has: it is not lost, and not to be emptied.
    fn stays(&self, now: Time, node: NodeId) -> bool {
        let of_view = self.current().is_some_and(|view| view.storages.contains(node));
        of_view && !self.replicas.is_leaving(node) && !self.replicas.is_lost(now, self.config.storage_lost, node)
    }

    /// Who is to have a shard: its replicas that stay, then others of the view, and where those are too few
    /// the ones that are to be emptied. None when nothing can be done now.
    fn wanted_of(&self, now: Time, shard: ShardId) -> Option<Wanted> {
        let (view, known) = (self.current()?, self.final_shard(shard)?);
        let replicas = known.replicas;
        let is_connected = |node: &NodeId| self.connected.contains_key(node);
        let mut holders: Vec<NodeId> = replicas.iter().filter(|node| self.stays(now, *node)).collect();
        let count = view.storages.len();
        let turn = (shard.index as usize) % count.max(1);
        let (before, from) = view.storages.as_slice().split_at(turn);
        let others = from.iter().chain(before).copied().filter(|node| !replicas.contains(*node));
        holders.extend(others.filter(|node| is_connected(node) && self.stays(now, *node) && !self.full.contains(node)));
        holders.truncate(usize::from(view.replicas).max(1));
        let leaving = replicas.iter().filter(|node| is_connected(node) && !self.stays(now, *node));
        let room = usize::from(view.replicas).saturating_sub(holders.len());
        holders.extend(leaving.take(room));
        let wanted = Wanted { replicas, holders: NodeSet::new(&holders)?, prefix: known.prefix };
        // One of them may come back soon: what it has is not known, and nothing is lost yet.
        let can = holders.iter().all(is_connected) && replicas.iter().any(|node| is_connected(&node));
        let helps = wanted.moves() || view.replicas > 1 && holders.len() > 1;
        (can && helps && holders.len() >= usize::from(view.write_quorum)).then_some(wanted)
    }

    /// Asks the holders of a shard that have not said yet that they have all of it.
    fn ask_for_copies(&self, shard: ShardId, wanted: Wanted, outputs: &mut Outputs) {
        let Some(view) = self.current() else { return };
        let done = self.copies.work().find(|(id, _)| *id == shard).map(|(_, work)| &work.done);
        let asked = wanted.holders.iter().filter(|node| done.is_none_or(|done| !done.contains(node)));
        for node in asked {
            let sources = wanted.replicas.iter().filter(|of| *of != node && self.connected.contains_key(of));
            let sources: Vec<NodeId> = sources.collect();
            let Some(sources) = NodeSet::new(&sources) else { continue };
            let message = Message::CopyShard {
                shard,
                until: wanted.prefix,
                enough: enough(view, &wanted.replicas, node),
                sources: Box::new(sources),
            };
            outputs.send(self.address(node, Role::Storage), message);
        }
    }

    pub(super) fn copy_state(
        &mut self,
        from: NodeId,
        shard: ShardId,
        (position, bytes): (u64, u64),
        done: bool,
        outputs: &mut Outputs,
    ) {
        if done && bytes > 0 {
            self.copies.saw(position, bytes);
        }
        if let Some(wanted) = self.copies.told(shard, from, position, done) {
            self.tell_move(shard, wanted, outputs);
        }
    }

    /// All copies are made: the primary is told, again and again until the metalog says so.
    fn tell_move(&self, shard: ShardId, wanted: Wanted, outputs: &mut Outputs) {
        let is_done = |node| self.copies.work().any(|(id, work)| id == shard && work.done.contains(&node));
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        if wanted.moves() && wanted.holders.iter().all(is_done) {
            let (place, replicas) = (self.applied(), Box::new(wanted.holders));
            outputs.send(self.address(primary, Role::Sequencer), Message::MoveShard { shard, place, replicas });
        }
    }
}

/// How many other replicas have to lack a position to prove that it was dropped: R − W + 1 of them, with
/// the one that asks, meet the W that had it.
fn enough(view: &View, replicas: &NodeSet, node: NodeId) -> u8 {
    let enough = view.read_quorum() - usize::from(replicas.contains(node));
    enough.max(1) as u8
}
