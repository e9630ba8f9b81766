//! When a sequencer replica asks the controllers for another view.

use sealog_protocol::Members;

use super::*;

impl Sequencer {
    pub(super) fn members(&mut self, members: &Members) {
        let controllers: Vec<NodeId> = members.with_role(Role::Controller).map(|member| member.node).collect();
        if !controllers.is_empty() {
            self.controllers = controllers;
        }
    }

    /// Whether the newest view that this replica knows is sealed here: it needs a successor, and a
    /// controller that died after its Seal does not know that.
    pub(super) fn is_sealed(&self) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.current().number <= self.sealed)
    }

    pub(super) fn ask_for_view(&mut self, now: Time, reason: ViewReason, outputs: &mut Outputs) {
        let Some(view) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        for node in &self.controllers {
            outputs.send(self.address(*node, Role::Controller), Message::ViewWanted { view, reason });
        }
        self.ask_again = Some(now + REQUEST_RETRY);
    }

    /// Notes since when a primary has been cut off from what it needs to commit. A controller may still
    /// be connected to it and to others that could go on.
    pub(super) fn count_quorum(&mut self, now: Time) {
        let short = self.active_primary().is_some_and(|primary| {
            let reached = |nodes: &NodeSet| {
                nodes.iter().filter(|node| *node == self.config.node || self.connected.contains_key(node)).count()
            };
            let view = &primary.view;
            reached(&view.sequencers) < view.sequencers.majority()
                || reached(&view.storages) < usize::from(view.write_quorum)
        });
        self.short_of_quorum = if short { Some(self.short_of_quorum.unwrap_or(now)) } else { None };
    }

    pub(super) fn tick_successor(&mut self, now: Time, outputs: &mut Outputs) {
        if self.short_of_quorum.is_some_and(|since| since + self.config.stuck_cut <= now) {
            mark(Mark::QuorumLostAsksForView);
            self.ask_for_view(now, ViewReason::QuorumLost, outputs);
            self.ask_again = None;
            self.short_of_quorum = Some(now);
        }
        if self.ask_again.is_some_and(|at| at <= now) {
            let sealed = self.is_sealed();
            let is_primary = self.chain.as_ref().is_some_and(|chain| chain.current().primary == self.config.node);
            let reason = match sealed {
                true => ViewReason::Sealed,
                false if is_primary && self.active_primary().is_none() => ViewReason::PrimaryRestarted,
                false => ViewReason::MemberRestarted,
            };
            if sealed {
                mark(Mark::SealedAsksForView);
            }
            self.ask_for_view(now, reason, outputs);
        }
    }
}
