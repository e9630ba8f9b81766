//! How a replica gets the metalog of views that have ended: one that held nothing is given a place in a
//! view, or was away when a view ended.
//!
//! A view may be left to its successor's replicas only when a majority of those has its metalog, or a
//! checkpoint past it. So a replica that is repaired counts once it has what is before, too; and every
//! replica of the present view sees to it by itself. What the register has ended never changes, so
//! whichever replica has it may be asked.

use std::time::Duration;

use super::*;

/// What a replica does about ended views that it lacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// Something changed since it was looked at.
    pub(super) look: bool,
    /// When another replica is asked.
    pub(super) ask_at: Option<Time>,
    attempts: usize,
}

const PATIENCE: Duration = REQUEST_RETRY;

impl Sequencer {
    /// The first view before this one of whose entries some are not durable here, and its end.
    pub(super) fn lacking(&self, before: ViewNumber) -> Option<(ViewNumber, u64)> {
        let chain = self.chain.as_ref()?;
        (self.base.view.0.max(1)..before.0).map(ViewNumber).find_map(|view| {
            let end = chain.end(view)?;
            let covered = if view == self.base.view { self.base.index } else { 0 };
            let durable = self.views.get(&view).map_or(0, |log| log.durable).max(covered);
            (durable < end).then_some((view, end))
        })
    }

    /// Ends a turn: asks for what is lacking of ended views.
    pub(super) fn look_at_past(&mut self, now: Time, outputs: &mut Outputs) {
        if !std::mem::take(&mut self.past.look) {
            return;
        }
        let Some(current) = self.chain.as_ref().map(Chain::current) else { return };
        let own = current.sequencers.contains(self.config.node).then_some(current.number);
        let wanted = self.repairs.keys().copied().chain(own).max();
        let Some((view, end)) = wanted.and_then(|before| self.lacking(before)) else {
            self.past.ask_at = None;
            return;
        };
        self.past.ask_at = Some(now + PATIENCE);
        let from = self.views.get(&view).map_or(0, |log| log.entries.end());
        // What is on its way to the disk is not asked for again.
        if from < end
            && let Some(node) = self.past_source(view)
        {
            let to = self.address(node, Role::Sequencer);
            outputs.send(to, Message::RepairPull { view, from, end });
        }
    }

    /// It did not come: another replica is asked.
    pub(super) fn hurry_past(&mut self, now: Time) {
        if self.past.ask_at.is_some_and(|at| at <= now) {
            self.past.attempts += 1;
            self.past.look = true;
        }
    }

    /// Whoever is asked in this attempt: replicas of this view and those after it, the newest first.
    fn past_source(&self, view: ViewNumber) -> Option<NodeId> {
        let chain = self.chain.as_ref()?;
        let mut able: Vec<NodeId> = Vec::new();
        for node in chain.views[view.0 as usize - 1..].iter().rev().flat_map(|view| view.sequencers.iter()) {
            if node != self.config.node && self.connected.contains_key(&node) && !able.contains(&node) {
                able.push(node);
            }
        }
        able.get(self.past.attempts % able.len().max(1)).copied()
    }

    /// Whether this replica waits for what a node says of an ended view: one that had a part in it, or
    /// in a view after it.
    pub(super) fn wants_past(&self, from: NodeId, view: ViewNumber) -> bool {
        let Some(chain) = &self.chain else { return false };
        let keepers = chain.views.iter().filter(|of| of.number >= view);
        self.past.ask_at.is_some() && keepers.flat_map(|of| of.sequencers.iter()).any(|node| node == from)
    }
}
