//! What a node tells of its cluster: the other nodes as the register has them and as it finds them,
//! the views, and what is not as it should be.

use std::collections::BTreeMap;

use sealog_control::operator::{Cluster, Has};
use sealog_protocol::holdings::Holdings;
use sealog_protocol::machine::Role;
use sealog_protocol::members::{Member, MemberState, Members, Roles};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{Durability, LogspaceId, NodeId, NodeSet, Time};
use sealog_runtime::PeerStatus;
use serde_json::{Value, json};

use crate::operations::has_json;

/// What a node knows of its cluster.
pub struct ClusterFacts<'a> {
    pub node: NodeId,
    pub roles: Roles,
    /// `None`: the node is alone.
    pub members: Option<&'a Members>,
    pub chains: &'a [Chain],
    pub peers: &'a [PeerStatus],
    /// Since when nodes are not connected.
    pub lost_since: &'a BTreeMap<NodeId, Time>,
    pub now: Time,
}

impl ClusterFacts<'_> {
    pub fn role_names(&self) -> Value {
        role_names(self.roles)
    }

    /// All nodes of the cluster; none for a node alone.
    pub fn members(&self, holdings: &BTreeMap<LogspaceId, Holdings>) -> Vec<Value> {
        let Some(members) = self.members else { return Vec::new() };
        let is_connected = |node| self.is_connected(node);
        let cluster = Cluster { members, chains: self.chains, holdings, is_connected: &is_connected };
        let member = |member: &Member| {
            let leaves = member.state == MemberState::Draining;
            let has: Vec<Has> = if leaves { cluster.has(member.node).collect() } else { Vec::new() };
            json!({
                "node": member.node.to_string(),
                "state": state_name(member.state),
                "roles": role_names(member.roles),
                "connected": self.is_connected(member.node),
                "lost_s": self.lost_s(member.node),
                "replacement": member.replacement.map(|node| node.to_string()),
                "still_has": leaves.then(|| has_json(&has)),
                "incarnation": member.incarnation.0,
                "peer_address": member.peer_address,
                "client_address": member.client_address,
            })
        };
        members.nodes.iter().map(member).collect()
    }

    /// For how long a node has not been connected.
    fn lost_s(&self, node: NodeId) -> Option<u64> {
        let since = self.lost_since.get(&node).filter(|_| !self.is_connected(node))?;
        Some(self.now.since(*since).as_secs())
    }

    /// For how long so few of these have been connected that a quorum is missing, in a sentence.
    fn missed_for(&self, nodes: &NodeSet, quorum: usize) -> String {
        let mut lost: Vec<u64> = nodes.iter().filter_map(|node| self.lost_s(node)).collect();
        lost.sort_unstable_by(|one, other| other.cmp(one));
        let seconds = nodes.len().checked_sub(quorum).and_then(|spare| lost.get(spare));
        seconds.map_or_else(String::new, |seconds| format!(", since {seconds} s"))
    }

    /// What a logspace waits for before it acknowledges.
    pub fn class(&self, logspace: LogspaceId) -> Option<Durability> {
        self.chains.first().map(|chain| chain.settings.classes().class(logspace))
    }

    /// The view in force of each logspace.
    pub fn views(&self) -> Vec<Value> {
        let nodes = |nodes: &NodeSet| nodes.iter().map(|node| node.to_string()).collect::<Vec<String>>();
        let view = |chain: &Chain| {
            let view = chain.current();
            json!({
                "logspace": chain.logspace.0,
                "class": self.class(chain.logspace).map(Durability::name),
                "view": view.number.0,
                "primary": view.primary.to_string(),
                "primary_incarnation": view.primary_incarnation.0,
                "sequencers": nodes(&view.sequencers),
                "storages": nodes(&view.storages),
                "write_quorum": view.write_quorum,
                "replicas": view.replicas,
                "after_loss": losses(chain),
            })
        };
        self.chains.iter().map(view).collect()
    }

    /// Nodes that should be there and are not, and what is in danger by that.
    pub fn degraded(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for member in self.members.into_iter().flat_map(|members| &members.nodes) {
            if member.state.is_removed() || self.is_connected(member.node) {
                continue;
            }
            let why = self.peers.iter().find(|peer| peer.node == member.node).and_then(|peer| peer.reason.as_deref());
            let (node, address, why) = (member.node, &member.peer_address, why.unwrap_or("it has not called yet"));
            let since = self.lost_s(node).map_or_else(String::new, |seconds| format!(" since {seconds} s"));
            reasons.push(format!("node {node} at {address} is not connected to this one{since}: {why}"));
        }
        reasons.extend(self.chains.iter().filter_map(|chain| self.in_danger(chain)));
        reasons.extend(self.chains.iter().filter_map(|chain| self.names_strangers(chain)));
        reasons.extend(self.peers.iter().filter_map(clock_apart));
        reasons
    }

    /// A view that names whom the members do not know, or have removed.
    fn names_strangers(&self, chain: &Chain) -> Option<String> {
        let (view, members) = (chain.current(), self.members?);
        let is_stranger = |node: &NodeId| members.get(*node).is_none_or(|member| member.state.is_removed());
        let strangers: Vec<String> = view
            .sequencers
            .iter()
            .chain(view.storages.iter())
            .filter(is_stranger)
            .map(|node| node.to_string())
            .collect();
        let (logspace, first) = (chain.logspace, strangers.first()?);
        Some(format!(
            "the view of logspace {logspace} names node {first}, which is no member of the cluster: it is replaced once \
             another node can take its place; start one more with the same register"
        ))
    }

    /// A view whose nodes, as far as this one sees them, are too few to acknowledge.
    fn in_danger(&self, chain: &Chain) -> Option<String> {
        let (view, logspace): (&View, _) = (chain.current(), chain.logspace);
        let seen = |nodes: &NodeSet| nodes.iter().filter(|node| self.is_connected(*node)).count();
        let (storages, sequencers) = (seen(&view.storages), seen(&view.sequencers));
        let (quorum, majority) = (usize::from(view.write_quorum), view.sequencers.majority());
        if storages < quorum {
            let since = self.missed_for(&view.storages, quorum);
            return Some(format!(
                "logspace {logspace} waits for storages: {storages} of the {quorum} that acknowledge{since}"
            ));
        }
        (sequencers < majority).then(|| {
            let since = self.missed_for(&view.sequencers, majority);
            format!(
                "logspace {logspace} waits for sequencers: {sequencers} of the {majority} that make a majority{since}"
            )
        })
    }

    /// The node itself is there.
    fn is_connected(&self, node: NodeId) -> bool {
        node == self.node || self.peers.iter().any(|peer| peer.node == node && peer.is_connected)
    }
}

/// Views before which something may have been lost that was acknowledged and not yet flushed.
fn losses(chain: &Chain) -> Vec<u32> {
    chain.views.iter().filter(|view| view.cause.after_loss).map(|view| view.number.0).collect()
}

/// Clocks that differ matter to retention by age alone, and to whoever reads logs.
const CLOCKS_APART_MS: u64 = 10_000;

fn clock_apart(peer: &PeerStatus) -> Option<String> {
    let ahead = peer.clock_ahead_ms.filter(|ahead| ahead.unsigned_abs() >= CLOCKS_APART_MS && peer.is_connected)?;
    let (node, seconds) = (peer.node, ahead.unsigned_abs() / 1000);
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of node {node} is {seconds} s {which} this one's: correct it (NTP). Retention by age goes by the \
         clocks of writers; order and safety do not depend on clocks"
    ))
}

pub(crate) fn role_names(roles: Roles) -> Value {
    let name = |role: Role| match role {
        Role::Engine => "engine",
        Role::Storage => "storage",
        Role::Sequencer => "sequencer",
        Role::Controller => "controller",
    };
    roles.iter().map(name).collect()
}

pub(crate) fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Active => "active",
        MemberState::Draining => "draining",
        MemberState::Removed => "removed",
        MemberState::RemovedWithLoss => "removed with loss",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use sealog_protocol::view::ClusterSettings;
    use sealog_protocol::{ClusterId, Incarnation, ViewNumber};

    #[test]
    fn a_node_that_is_away_is_told_and_a_quorum_that_is_lost() {
        let member = |node: u64| Member {
            node: NodeId(node),
            incarnation: Incarnation(1),
            roles: Roles::ALL,
            state: MemberState::Active,
            replacement: None,
            peer_address: format!("host:{node}"),
            client_address: "unix:/run/sealog".to_owned(),
        };
        let members = Members { cluster: ClusterId(7), version: 4, nodes: [1, 2, 3].map(member).into() };
        let all = NodeSet::new(&[1, 2, 3].map(NodeId)).unwrap();
        let view = View {
            number: ViewNumber(1),
            primary: NodeId(1),
            primary_incarnation: Incarnation(1),
            sequencers: all,
            storages: all,
            write_quorum: 2,
            replicas: 3,
            moves: Vec::new(),
            cause: Default::default(),
        };
        let settings = ClusterSettings::new(ClusterId(7), 1);
        let chains = [Chain { settings, logspace: LogspaceId(0), views: vec![view], ends: Vec::new() }];
        let peer = |node: u64, is_connected: bool| PeerStatus {
            node: NodeId(node),
            address: String::new(),
            is_called: true,
            is_connected,
            incarnation: Incarnation(1),
            connects: 1,
            reason: Some("it broke".to_owned()).filter(|_| !is_connected),
            clock_ahead_ms: None,
        };
        let degraded = |peers: &[PeerStatus]| {
            let (node, roles) = (NodeId(1), Roles::ALL);
            let lost_since = [(NodeId(2), Time::ZERO), (NodeId(3), Time::ZERO + Duration::from_secs(7))].into();
            let now = Time::ZERO + Duration::from_secs(12);
            let members = Some(&members);
            ClusterFacts { node, roles, members, chains: &chains, peers, lost_since: &lost_since, now }.degraded()
        };
        assert_eq!(degraded(&[peer(2, true), peer(3, true)]), Vec::<String>::new());
        let one = degraded(&[peer(2, true), peer(3, false)]);
        assert_eq!(one, ["node 3 at host:3 is not connected to this one since 5 s: it broke"]);
        let two = degraded(&[peer(3, false)]);
        let late = PeerStatus { clock_ahead_ms: Some(-61_000), ..peer(3, true) };
        let apart = degraded(&[peer(2, true), late]);
        assert!(apart.len() == 1 && apart[0].contains("node 3 is 61 s behind"), "{apart:?}");
        assert_eq!(two.len(), 3, "{two:?}");
        assert_eq!(
            two[2], "logspace 0 waits for storages: 1 of the 2 that acknowledge, since 5 s",
            "the second was it"
        );
    }
}
