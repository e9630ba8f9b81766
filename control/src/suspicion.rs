//! Who is connected, who is lost since when, and how soon the next suspicion may be acted on.

use std::collections::BTreeMap;
use std::time::Duration;

use sealog_protocol::limits::{FIRST_CONTACT, SUSPICION_BACK_OFF, SUSPICION_BACK_OFF_MAX, SUSPICION_QUIET};
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::{Incarnation, NodeId, Time};

/// The nodes as one controller's connections show them. A closed connection is the sign of a killed
/// process; a silent one is closed by the runtime.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    connected: BTreeMap<NodeId, Incarnation>,
    lost: BTreeMap<NodeId, Time>,
    /// When this controller heard of anything first.
    began: Option<Time>,
}

impl Peers {
    pub fn begin(&mut self, now: Time) {
        self.began.get_or_insert(now);
    }

    pub fn connected(&mut self, node: NodeId, incarnation: Incarnation) {
        self.connected.insert(node, incarnation);
        self.lost.remove(&node);
    }

    pub fn disconnected(&mut self, now: Time, node: NodeId) {
        if self.connected.remove(&node).is_some() {
            self.lost.insert(node, now);
        }
    }

    pub fn is_connected(&self, node: NodeId) -> bool {
        self.connected.contains_key(&node)
    }

    /// The life in which a node is connected.
    pub fn life(&self, node: NodeId) -> Option<Incarnation> {
        self.connected.get(&node).copied()
    }

    /// Since when a node has been lost. One that never was connected gets the time to come.
    pub fn lost_since(&self, node: NodeId) -> Option<Time> {
        if self.is_connected(node) {
            return None;
        }
        let never = || self.began.map(|began| began + FIRST_CONTACT);
        self.lost.get(&node).copied().or_else(never)
    }
}

/// Keeps suspicions that were wrong from changing views without end: each view change that comes soon
/// after the last makes the next suspicion wait longer, up to a bound.
#[derive(Clone, Debug, Default)]
pub struct Damping {
    last: Option<Time>,
    level: u32,
}

impl Damping {
    /// A view was installed.
    pub fn changed(&mut self, now: Time) {
        let soon = self.last.is_some_and(|last| now.since(last) < SUSPICION_QUIET);
        self.level = if soon { self.level + 1 } else { 0 };
        if self.level > 1 {
            mark(Mark::SuspicionDamped);
        }
        self.last = Some(now);
    }

    fn back_off(&self) -> Duration {
        match self.level.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (SUSPICION_BACK_OFF * (1 << doublings.min(8))).min(SUSPICION_BACK_OFF_MAX),
        }
    }

    /// Before this, no suspicion changes a view.
    pub fn not_before(&self) -> Time {
        self.last.map_or(Time::ZERO, |last| last + self.back_off())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_node_is_lost_from_its_disconnection_on_and_a_new_one_has_time_to_come() {
        let mut peers = Peers::default();
        peers.begin(at(5));
        assert_eq!(peers.lost_since(NodeId(1)), Some(at(5) + FIRST_CONTACT));
        peers.connected(NodeId(1), Incarnation(3));
        assert_eq!((peers.lost_since(NodeId(1)), peers.life(NodeId(1))), (None, Some(Incarnation(3))));
        peers.disconnected(at(70), NodeId(1));
        peers.disconnected(at(90), NodeId(1));
        assert_eq!(peers.lost_since(NodeId(1)), Some(at(70)), "told twice, lost once");
    }

    #[test]
    fn changes_in_a_row_wait_longer_and_longer_up_to_a_bound_and_quiet_forgives() {
        let mut damping = Damping::default();
        assert_eq!(damping.not_before(), Time::ZERO);
        damping.changed(at(1_000));
        assert_eq!(damping.not_before(), at(1_000), "the first costs nothing");
        damping.changed(at(2_000));
        assert_eq!(damping.not_before(), at(2_000) + SUSPICION_BACK_OFF);
        for _ in 0..40 {
            damping.changed(at(3_000));
        }
        assert_eq!(damping.not_before(), at(3_000) + SUSPICION_BACK_OFF_MAX);
        damping.changed(at(60_000));
        assert_eq!(damping.not_before(), at(60_000));
    }
}
