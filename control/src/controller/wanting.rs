//! Whether and when this controller changes the view: what was asked for, what it suspects by itself,
//! whose turn it is.

use super::*;

/// A view change that somebody asked for, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub reason: ViewReason,
    pub since: Time,
}

impl Controller {
    pub(super) fn wanted(&mut self, now: Time, view: ViewNumber, reason: ViewReason, outputs: &mut Outputs) {
        let Some(current) = self.chain.as_ref().map(|chain| chain.current().number) else { return };
        if current < view {
            outputs.push(Output::ReadRegister);
        }
        if current != view {
            return;
        }
        let forced = reason == ViewReason::ForceSealed;
        match &mut self.change {
            Some(change) => change.accepts_loss |= forced,
            None if forced || self.wanted.is_none() => self.wanted = Some(Wanted { reason, since: now }),
            None => {}
        }
        self.look(now, outputs);
    }

    /// Begins a change that is due, or notes when to look again.
    pub(super) fn look(&mut self, now: Time, outputs: &mut Outputs) {
        self.look_at = None;
        if self.change.is_some() {
            return;
        }
        match self.due(now) {
            Some((reason, at)) if at <= now => {
                if self.rank() > 0 {
                    mark(Mark::ControllerTookOver);
                }
                self.begin(now, reason, outputs);
            }
            Some((_, at)) => self.look_at = Some(at),
            None => {}
        }
    }

    /// Why the view is to be changed, and from when on by this controller. What nobody can bring to an
    /// end is not begun: a seal of a few replicas would only silence them.
    fn due(&mut self, now: Time) -> Option<(ViewReason, Time)> {
        let view = self.chain.as_ref()?.current().clone();
        let forced = self.wanted.is_some_and(|wanted| wanted.reason == ViewReason::ForceSealed);
        if !forced && !self.can_finish(now, &view) {
            return None;
        }
        let turn = CONTROLLER_STAND_BACK * self.rank();
        let asked = self.wanted.map(|wanted| {
            let damped = wanted.reason == ViewReason::QuorumLost;
            let since = if damped { wanted.since.max(self.damping.not_before()) } else { wanted.since };
            (wanted.reason, since + turn)
        });
        let suspected = self.peers.lost_since(view.primary).map(|since| {
            let at = (since + self.config.primary_suspicion).max(self.damping.not_before());
            (ViewReason::PrimaryLost, at + turn)
        });
        let replaced = self.replacement_due(now, &view).map(|at| (ViewReason::NodeReplaced, at + turn));
        [asked, suspected, replaced].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    /// Whether a majority of this view's replicas, and W storages of the next, are connected.
    fn can_finish(&self, now: Time, view: &View) -> bool {
        let connected = |nodes: &NodeSet| nodes.iter().filter(|node| self.peers.is_connected(*node)).count();
        let next = self.next_nodes(now, view, false);
        connected(&view.sequencers) >= view.sequencers.majority()
            && connected(&next.storages) >= usize::from(view.write_quorum)
    }

    /// From when on a node of the view is to make way for another.
    fn replacement_due(&mut self, now: Time, view: &View) -> Option<Time> {
        if self.next_nodes(now, view, false) != NextNodes::of(view) {
            let since = *self.differs_since.get_or_insert(now);
            return Some(since.max(self.damping.not_before()));
        }
        self.differs_since = None;
        // Nobody has been gone for long enough; when will somebody be, for whom there is a spare?
        let lost = view.sequencers.iter().chain(view.storages.iter()).filter_map(|node| self.peers.lost_since(node));
        let given_up = lost.map(|since| since + self.config.replace_lost).min()?;
        let then = given_up.max(now);
        (self.next_nodes(then, view, false) != NextNodes::of(view)).then_some(then)
    }

    /// The nodes of the next view, as of a time.
    pub(super) fn next_nodes(&self, at: Time, view: &View, lossy: bool) -> NextNodes {
        let is_given_up = |node| self.is_given_up(at, node, lossy);
        self.situation(view, &|node| self.peers.is_connected(node), &is_given_up, lossy).next_nodes()
    }

    fn is_given_up(&self, at: Time, node: NodeId, lossy: bool) -> bool {
        let patience = if lossy { Duration::ZERO } else { self.config.replace_lost };
        self.peers.lost_since(node).is_some_and(|since| since + patience <= at)
    }

    pub(super) fn situation<'a>(
        &'a self,
        view: &'a View,
        is_connected: &'a dyn Fn(NodeId) -> bool,
        is_given_up: &'a dyn Fn(NodeId) -> bool,
        all_at_once: bool,
    ) -> Situation<'a> {
        let (logspace, members) = (self.config.logspace, self.members.as_ref());
        Situation { logspace, view, members, is_connected, is_given_up, all_at_once }
    }

    /// How many connected controllers are to change the view rather than this one.
    fn rank(&self) -> u32 {
        rank(self.config.logspace, self.members.as_ref(), self.config.node, |node| self.peers.is_connected(node))
    }
}
