//! Which storages an engine writes its shard to, and when it leaves one of them.
//!
//! Losing a storage stops nothing while W of the others take the records, so nobody hurries. But what
//! is written meanwhile has a copy less. So a shard is left for another one when a storage of it has
//! been gone for long, or is to be emptied, and the view has another one that could take its place.
//! Without another one the engine goes on: the same storage may come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sealog_protocol::limits::SLOW_REPLICA_AVOIDED;
use sealog_protocol::machine::Role;
use sealog_protocol::members::{MemberState, Members};
use sealog_protocol::view::View;
use sealog_protocol::{Incarnation, NodeId, NodeSet, Time};

/// How the storages of a view look from here.
#[derive(Debug, Default)]
pub struct Replicas {
    /// Storages that are not connected, and since when.
    gone: BTreeMap<NodeId, Time>,
    /// Storages that lagged too far behind, and when.
    slow: BTreeMap<NodeId, Time>,
    /// The last life of each node that was seen.
    lives: BTreeMap<NodeId, Incarnation>,
    /// Nodes whose work is to go to others.
    leaving: BTreeSet<NodeId>,
    /// Nodes with an engine, where the register tells of nodes.
    engines: BTreeSet<NodeId>,
}

/// Whether a shard's storages are to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Stay,
    /// Ask again then: a storage may come back until then.
    StayUntil(Time),
    Leave,
}

impl Replicas {
    pub fn members(&mut self, members: &Members) {
        let leaving = members.nodes.iter().filter(|member| member.state != MemberState::Active);
        self.leaving = leaving.map(|member| member.node).collect();
        let engines = members.with_role(Role::Engine);
        self.engines = engines.map(|member| member.node).collect();
    }

    /// Whether this is the first engine of those that live. All are where nobody knows which there are.
    pub fn is_first_engine(&self, own: NodeId, is_connected: impl Fn(NodeId) -> bool) -> bool {
        !self.engines.iter().any(|node| *node < own && is_connected(*node))
    }

    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.leaving.contains(&node)
    }

    /// Notes which of these are not seen now.
    pub fn note_gone(&mut self, now: Time, nodes: impl Iterator<Item = NodeId>, is_connected: impl Fn(NodeId) -> bool) {
        for node in nodes.filter(|node| !is_connected(*node)) {
            self.gone.entry(node).or_insert(now);
        }
    }

    /// Whether a storage was not seen for so long.
    pub fn is_lost(&self, now: Time, patience: Duration, node: NodeId) -> bool {
        self.gone.get(&node).is_some_and(|since| now.since(*since) >= patience)
    }

    /// A node has come; returns whether in another life than before.
    pub fn connected(&mut self, node: NodeId, incarnation: Incarnation) -> bool {
        self.gone.remove(&node);
        self.lives.insert(node, incarnation).is_none_or(|before| before != incarnation)
    }

    pub fn lagged(&mut self, now: Time, node: NodeId) {
        self.slow.insert(node, now);
    }

    fn is_slow(&self, now: Time, node: NodeId) -> bool {
        self.slow.get(&node).is_some_and(|since| now.since(*since) < SLOW_REPLICA_AVOIDED)
    }

    /// R storages of the view: those first that are connected, stay, have room and keep up, beginning
    /// with the own node; among equals each shard (`nth`) begins with another one.
    pub fn choose(
        &self,
        now: Time,
        view: &View,
        own: NodeId,
        nth: u64,
        (is_connected, is_full): (impl Fn(NodeId) -> bool, impl Fn(NodeId) -> bool),
    ) -> Option<NodeSet> {
        let count = view.storages.len() as u64;
        let mut nodes: Vec<(u64, NodeId)> =
            view.storages.iter().zip(0..).map(|(node, at)| ((at + nth) % count, node)).collect();
        nodes.sort_by_key(|(turn, node)| {
            let (is_gone, leaves) = (!is_connected(*node), self.leaving.contains(node));
            (is_gone, leaves, is_full(*node), self.is_slow(now, *node), *node != own, *turn)
        });
        let nodes: Vec<NodeId> = nodes.into_iter().map(|(_, node)| node).take(usize::from(view.replicas)).collect();
        NodeSet::new(&nodes)
    }

    /// Whether to leave a shard that is on these storages.
    pub fn advise(
        &mut self,
        now: Time,
        patience: Duration,
        view: &View,
        replicas: &NodeSet,
        (is_connected, is_full): (impl Fn(NodeId) -> bool, impl Fn(NodeId) -> bool),
    ) -> Advice {
        for node in view.storages.iter().filter(|node| !is_connected(*node)) {
            self.gone.entry(node).or_insert(now);
        }
        let is_spare = |node: &NodeId| {
            !replicas.contains(*node) && is_connected(*node) && !is_full(*node) && !self.leaving.contains(node)
        };
        if !view.storages.iter().any(|node| is_spare(&node)) {
            return Advice::Stay;
        }
        if replicas.iter().any(|node| self.leaving.contains(&node)) {
            return Advice::Leave;
        }
        match replicas.iter().filter_map(|node| self.gone.get(&node)).min() {
            None => Advice::Stay,
            Some(since) if now.since(*since) >= patience => Advice::Leave,
            Some(since) => Advice::StayUntil(*since + patience),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sealog_protocol::members::{Member, Roles};
    use sealog_protocol::{ClusterId, ViewNumber};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn nodes(ids: &[u64]) -> NodeSet {
        NodeSet::new(&ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>()).expect("few nodes")
    }

    fn view(storages: &[u64]) -> View {
        View {
            number: ViewNumber(1),
            primary: NodeId(1),
            primary_incarnation: Incarnation(1),
            sequencers: nodes(&[1]),
            storages: nodes(storages),
            write_quorum: 2,
            replicas: 3,
            moves: Vec::new(),
            cause: Default::default(),
        }
    }

    fn advise(replicas: &mut Replicas, seconds: u64, view: &View, gone: &[u64]) -> Advice {
        let now = Time::ZERO + Duration::from_secs(seconds);
        let state = (|node: NodeId| !gone.contains(&node.0), |_| false);
        replicas.advise(now, PATIENCE, view, &nodes(&[1, 2, 3]), state)
    }

    #[test]
    fn a_shard_is_left_when_a_storage_stays_away_and_another_could_take_its_place() {
        let (mut replicas, four) = (Replicas::default(), view(&[1, 2, 3, 4]));
        assert_eq!(advise(&mut replicas, 1, &four, &[]), Advice::Stay);
        let until = Time::ZERO + Duration::from_secs(7);
        assert_eq!(advise(&mut replicas, 2, &four, &[3]), Advice::StayUntil(until));
        assert_eq!(advise(&mut replicas, 7, &four, &[3]), Advice::Leave);
        assert_eq!(advise(&mut replicas, 7, &four, &[3, 4]), Advice::Stay, "the other one is gone, too");
        replicas.connected(NodeId(3), Incarnation(1));
        assert_eq!(advise(&mut replicas, 8, &four, &[]), Advice::Stay);
        assert_eq!(advise(&mut Replicas::default(), 9, &view(&[1, 2, 3]), &[3]), Advice::Stay);
    }

    #[test]
    fn a_storage_that_is_to_be_emptied_gets_no_more_shards() {
        let member = Member {
            node: NodeId(2),
            incarnation: Incarnation(1),
            roles: Roles::ALL,
            state: MemberState::Draining,
            replacement: None,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Members { cluster: ClusterId(1), version: 1, nodes: Vec::new() }.with(member);
        let (mut replicas, four) = (Replicas::default(), view(&[1, 2, 3, 4]));
        replicas.members(&members);
        assert_eq!(advise(&mut replicas, 1, &four, &[]), Advice::Leave);
        let state = (|_| true, |_| false);
        let chosen = replicas.choose(Time::ZERO, &four, NodeId(4), 1, state).expect("three");
        assert_eq!(chosen.as_slice()[0], NodeId(4));
        assert!(!chosen.contains(NodeId(2)));
    }

    #[test]
    fn storages_take_turns_and_slow_ones_come_last() {
        let (mut replicas, five) = (Replicas::default(), view(&[1, 2, 3, 4, 5]));
        let choose = |replicas: &Replicas, nth| {
            let state = (|_| true, |_| false);
            replicas.choose(Time::ZERO, &five, NodeId(9), nth, state).expect("three")
        };
        assert_ne!(choose(&replicas, 1), choose(&replicas, 2));
        replicas.lagged(Time::ZERO, NodeId(3));
        assert!((0..5).all(|nth| !choose(&replicas, nth).contains(NodeId(3))));
    }
}
