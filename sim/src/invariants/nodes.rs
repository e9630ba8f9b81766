//! What is looked at in a node's machines: after each turn, and when it has started again.

use sealog_sequencer::Sequencer;
use sealog_storage::Storage;

use super::*;
use crate::node::{Node, RoleMachine};

impl Invariants {
    /// Looks at a node after its turn.
    pub fn after_turn(&mut self, node: &Node) -> Result<(), Failure> {
        let Some(life) = &node.life else { return Ok(()) };
        for (address, machine) in &life.machines {
            match machine {
                RoleMachine::Storage(storage) => self.look_at_storage(*address, storage)?,
                RoleMachine::Sequencer(sequencer) => self.look_at_sequencer(*address, sequencer)?,
                RoleMachine::Engine(_) | RoleMachine::Controller(_) => {}
            }
        }
        // A commit and its application may be of one turn.
        for (address, machine) in &life.machines {
            if let RoleMachine::Engine(engine) = machine {
                let applied = engine.status().applied;
                self.truth(address.logspace).applied(*address, applied)?;
            }
        }
        Ok(())
    }

    pub fn look_at_storage(&mut self, address: Address, storage: &Storage) -> Result<(), Failure> {
        let truth = self.truth(address.logspace);
        for (shard, received, durable) in storage.shards() {
            truth.disk(address, shard, durable)?;
            if truth.is_memory {
                let held = truth.held_records.entry((shard, address.node)).or_default();
                *held = received.max(*held);
            }
        }
        Ok(())
    }

    pub fn look_at_sequencer(&mut self, address: Address, sequencer: &Sequencer) -> Result<(), Failure> {
        let before = self.committed(address.logspace);
        let truth = self.truth(address.logspace);
        // What lies before the base is covered by a checkpoint, and may be forgotten.
        for (view, durable, _) in sequencer.views().filter(|(view, ..)| *view >= sequencer.base().view) {
            truth.journal(address, view, durable)?;
        }
        for (view, end) in sequencer.ends().filter(|_| truth.is_memory) {
            let held = truth.held_entries.entry((view, address.node)).or_default();
            *held = end.max(*held);
        }
        let base = sequencer.base();
        for (view, durable, commit) in sequencer.views() {
            let here = |from, end| sequencer.entries(view, from, end).to_vec();
            let from = if view == base.view { base.index } else { 0 };
            truth.heard_commit(address, (view, from), durable, commit, here)?;
        }
        truth.based(address, base)?;
        self.commits += self.committed(address.logspace).saturating_sub(before);
        Ok(())
    }

    /// Looks at a node that has just recovered: all that it ever called durable is there.
    pub fn after_recovery(&mut self, node: &Node) -> Result<(), Failure> {
        let Some(life) = &node.life else { return Ok(()) };
        for (address, machine) in &life.machines {
            match machine {
                RoleMachine::Storage(storage) => self.storage_recovered(*address, node.forgets(), storage)?,
                RoleMachine::Sequencer(sequencer) => self.sequencer_recovered(*address, node.forgets(), sequencer)?,
                RoleMachine::Engine(_) | RoleMachine::Controller(_) => {}
            }
        }
        Ok(())
    }

    pub fn storage_recovered(&mut self, address: Address, forgets: bool, storage: &Storage) -> Result<(), Failure> {
        let (truth, node) = (self.truth(address.logspace), address.node);
        let found: BTreeMap<ShardId, u64> = storage.shards().map(|(shard, _, durable)| (shard, durable)).collect();
        let here = truth.disks.iter().filter(|((_, id), _)| *id == node);
        let known: Vec<(ShardId, u64)> = here.map(|((shard, _), before)| (*shard, *before)).collect();
        for (shard, before) in known {
            let after = found.get(&shard).copied().unwrap_or(0);
            if after < before && !truth.are_dead(shard, after, before)? {
                return Err(Failure::DurableLost { node, what: format!("shard {shard}"), before, after });
            }
            truth.disks.insert((shard, node), after);
        }
        truth.seal_kept(address, storage.sealed())?;
        truth.started(address, forgets);
        Ok(())
    }

    pub fn sequencer_recovered(
        &mut self,
        address: Address,
        forgets: bool,
        sequencer: &Sequencer,
    ) -> Result<(), Failure> {
        let (truth, node) = (self.truth(address.logspace), address.node);
        let found: BTreeMap<ViewNumber, u64> = sequencer.views().map(|(view, durable, _)| (view, durable)).collect();
        let known = truth.journals.iter().filter(|((_, id), _)| *id == node);
        let base = sequencer.base();
        for ((view, _), (before, _)) in known.filter(|((view, _), _)| *view >= base.view) {
            let (before, after) = (*before, found.get(view).copied().unwrap_or(0));
            if after < before {
                return Err(Failure::DurableLost { node, what: format!("metalog of view {view}"), before, after });
            }
        }
        truth.seal_kept(address, sequencer.status().sealed)?;
        truth.started(address, forgets);
        truth.based(address, base)
    }
}
