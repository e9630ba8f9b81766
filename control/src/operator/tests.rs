use sealog_protocol::members::Roles;
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{ClusterId, Incarnation, Place, ViewNumber};

use super::*;

use MemberState::{Active, Draining, RemovedWithLoss};

fn set(nodes: &[u64]) -> NodeSet {
    NodeSet::new(&nodes.iter().copied().map(NodeId).collect::<Vec<_>>()).expect("few distinct nodes")
}

fn members(states: &[MemberState]) -> Members {
    let nodes = states.iter().zip(1..).map(|(state, node)| Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        roles: Roles::ALL,
        state: *state,
        replacement: None,
        peer_address: String::new(),
        client_address: String::new(),
    });
    Members { cluster: ClusterId(7), version: 1, nodes: nodes.collect() }
}

fn chain(sequencers: &[u64], storages: &[u64]) -> Chain {
    let view = View {
        number: ViewNumber(1),
        primary: NodeId(sequencers[0]),
        primary_incarnation: Incarnation(1),
        sequencers: set(sequencers),
        storages: set(storages),
        write_quorum: 2,
        replicas: 3,
        moves: Vec::new(),
        cause: Default::default(),
    };
    let settings = ClusterSettings::new(ClusterId(7), 1);
    Chain { settings, logspace: LogspaceId(0), views: vec![view], ends: Vec::new() }
}

/// What an index in view 1 says: shards on each of these sets.
fn holdings(copies: &[&[u64]], checkpoint: Option<&[u64]>) -> BTreeMap<LogspaceId, Holdings> {
    let applied = Place { view: ViewNumber(1), index: 3 };
    let mut holdings = Holdings { applied, copies: Vec::new(), checkpoint: checkpoint.map(set) };
    copies.iter().for_each(|replicas| holdings.add(&set(replicas), 10, 1000));
    [(LogspaceId(0), holdings)].into()
}

struct Facts {
    members: Members,
    chain: Chain,
    holdings: BTreeMap<LogspaceId, Holdings>,
    away: Vec<u64>,
}

impl Facts {
    fn ask<R>(&self, ask: impl FnOnce(&Cluster<'_>) -> R) -> R {
        ask(&Cluster {
            members: &self.members,
            chains: std::slice::from_ref(&self.chain),
            holdings: &self.holdings,
            is_connected: &|node| !self.away.contains(&node.0),
        })
    }

    fn plan(&self, node: u64, change: NodeChange) -> Plan {
        self.ask(|cluster| cluster.plan(NodeId(node), change))
    }
}

const DRAIN: NodeChange = NodeChange::Drain { replacement: 0 };
const REMOVE: NodeChange = NodeChange::Remove { accept_loss: false };
const GIVE_UP: NodeChange = NodeChange::Remove { accept_loss: true };

fn four() -> Facts {
    Facts {
        members: members(&[Active; 4]),
        chain: chain(&[1, 2, 3], &[1, 2, 3]),
        holdings: holdings(&[&[1, 2, 3]], None),
        away: Vec::new(),
    }
}

#[test]
fn a_drain_names_who_takes_over_and_what_there_is_to_copy() {
    let plan = four().plan(1, DRAIN);
    assert_eq!(plan.refused, []);
    assert_eq!((plan.views[0].is_primary, plan.views[0].next.storages), (true, set(&[4, 2, 3])));
    assert_eq!((plan.has[0].shards, plan.has[0].records, plan.has[0].bytes), (1, 10, 1000));
    let then = plan.members.expect("it can be done");
    assert_eq!(then.get(NodeId(1)).map(|member| member.state), Some(Draining));
    let again = Facts { members: then, ..four() }.plan(1, DRAIN);
    assert!(again.is_done && again.refused.is_empty());
    let spare = four().plan(4, DRAIN);
    assert!(spare.views.is_empty() && spare.has[0].is_nothing(), "it has nothing to give");
}

#[test]
fn a_drain_that_could_never_end_is_refused() {
    let three = Facts { members: members(&[Active; 3]), ..four() };
    let (node, logspace) = (NodeId(1), LogspaceId(0));
    let no_storage = Refusal::NoStorage { node, logspace, left: 2, replicas: 3 };
    assert_eq!(three.plan(1, DRAIN).refused, [Refusal::NoSequencer { node, logspace }, no_storage]);
    let away = Facts { away: vec![4], ..four() };
    assert_eq!(away.plan(1, DRAIN).refused.len(), 2, "a node that is not there takes nothing over");
    let second = Facts { members: members(&[Active, Draining, Active, Active]), ..four() };
    let no_storage = Refusal::NoStorage { node, logspace, left: 2, replicas: 3 };
    assert_eq!(second.plan(1, DRAIN).refused, [no_storage], "another one goes already");
    let lost = Facts { away: vec![2, 3], ..four() };
    let refused = lost.plan(1, DRAIN).refused;
    let no_quorum = |refusal: &Refusal| matches!(refusal, Refusal::NoQuorum { sequencers: 1, storages: 1, .. });
    assert!(refused.iter().any(no_quorum), "{refused:?}");
    assert_eq!(three.plan(9, DRAIN).refused, [Refusal::NoMember { node: NodeId(9) }]);
    let mut one = Facts { members: members(&[Active]), chain: chain(&[1], &[1]), ..four() };
    (one.chain.views[0].replicas, one.chain.views[0].write_quorum) = (1, 1);
    let refused = one.plan(1, DRAIN).refused;
    assert!(refused.contains(&Refusal::LastCopy { node, logspace }), "{refused:?}");
    assert!(refused.contains(&Refusal::LastOfRole { node, role: Role::Engine }), "{refused:?}");
}

#[test]
fn of_more_storages_than_copies_one_just_leaves() {
    let five = Facts { members: members(&[Active; 4]), chain: chain(&[2, 3, 4], &[1, 2, 3, 4]), ..four() };
    let plan = five.plan(1, DRAIN);
    assert_eq!((plan.refused.len(), plan.views[0].next.storages), (0, set(&[2, 3, 4])));
}

#[test]
fn a_chosen_node_takes_the_place_if_it_can() {
    let five = Facts { members: members(&[Active; 5]), ..four() };
    let replace = |by| five.plan(1, NodeChange::Drain { replacement: by });
    assert_eq!(replace(5).views[0].next.sequencers, set(&[5, 2, 3]));
    assert_eq!(replace(9).refused, [Refusal::NoReplacement { by: NodeId(9) }]);
    assert_eq!(replace(1).refused, [Refusal::NoReplacement { by: NodeId(1) }]);
    let mut other = Facts { away: vec![4], ..five };
    let refused = |facts: &Facts| facts.plan(1, NodeChange::Drain { replacement: 4 }).refused;
    assert_eq!(refused(&other), [Refusal::ReplacementAway { by: NodeId(4) }]);
    (other.members.nodes[3].roles, other.away) = (Roles::new(&[Role::Storage]), vec![]);
    assert_eq!(refused(&other), [Refusal::ReplacementLacks { by: NodeId(4), role: Role::Sequencer }]);
}

#[test]
fn only_what_has_nothing_is_removed() {
    let drained = |copies: &[&[u64]], checkpoint, storages: &[u64]| Facts {
        members: members(&[Draining, Active, Active, Active]),
        chain: chain(&[2, 3, 4], storages),
        holdings: holdings(copies, checkpoint),
        away: Vec::new(),
    };
    let empty = drained(&[&[4, 2, 3]], Some(&[2, 3]), &[2, 3, 4]);
    let plan = empty.plan(1, REMOVE);
    assert_eq!(plan.refused, []);
    let state = |plan: &Plan| plan.members.as_ref().and_then(|then| then.get(NodeId(1))).map(|member| member.state);
    assert_eq!(state(&plan), Some(MemberState::Removed));
    let copies = drained(&[&[1, 2, 3]], Some(&[2, 3]), &[2, 3, 4]);
    let checkpoint = drained(&[&[4, 2, 3]], Some(&[1, 3]), &[2, 3, 4]);
    let view = drained(&[&[4, 2, 3]], None, &[1, 2, 3]);
    let mut behind = drained(&[&[4, 2, 3]], None, &[2, 3, 4]);
    behind.holdings.get_mut(&LogspaceId(0)).expect("it is there").applied.view = ViewNumber(0);
    let unknown = Facts { holdings: BTreeMap::new(), ..drained(&[], None, &[2, 3, 4]) };
    for facts in [copies, checkpoint, view, behind, unknown] {
        assert!(matches!(facts.plan(1, REMOVE).refused[..], [Refusal::Holds { .. }]), "{:?}", facts.plan(1, REMOVE));
    }
    let last = Facts { members: members(&[Draining; 4]), ..drained(&[], None, &[2, 3, 4]) };
    let of_role = |role| Refusal::LastOfRole { node: NodeId(1), role };
    assert_eq!(last.plan(1, REMOVE).refused, [of_role(Role::Engine), of_role(Role::Controller)]);
    let active = Facts { members: members(&[Active; 4]), ..empty };
    assert_eq!(active.plan(1, REMOVE).refused, [Refusal::NotDrained { node: NodeId(1) }]);
}

#[test]
fn a_node_that_is_gone_for_good_is_given_up_and_the_members_remember_a_loss() {
    let state = |facts: &Facts| {
        let plan = facts.plan(1, GIVE_UP);
        (plan.refused, plan.members.expect("a member").get(NodeId(1)).map(|member| member.state), plan.lost)
    };
    let there = four();
    assert_eq!(state(&there).0, [Refusal::StillThere { node: NodeId(1) }]);
    let safe = Facts { away: vec![1], ..four() };
    assert_eq!(state(&safe), (vec![], Some(MemberState::Removed), vec![]), "of three others two have it");
    let second = Facts { members: members(&[Active, Active, RemovedWithLoss, Active]), ..safe };
    let lost = Lost { logspace: LogspaceId(0), shards: 1, records: 10, others: 1 };
    assert_eq!(state(&second), (vec![], Some(RemovedWithLoss), vec![lost]));
    let removed = Facts { members: members(&[RemovedWithLoss, Active, Active, Active]), ..four() };
    assert_eq!(removed.plan(1, NodeChange::Add).refused, [Refusal::Removed { node: NodeId(1) }]);
    assert!(removed.plan(1, REMOVE).is_done);
}

#[test]
fn a_forced_end_says_who_is_missing_and_what_it_needs() {
    let forced = |facts: &Facts, view| facts.ask(|cluster| cluster.forced_end(LogspaceId(0), ViewNumber(view)));
    let whole = forced(&four(), 0).expect("a logspace");
    assert!(whole.is_lossless && whole.refused.is_empty());
    let two_left = Facts { members: members(&[Active; 5]), away: vec![1, 2], ..four() };
    let end = forced(&two_left, 1).expect("a logspace");
    assert_eq!((end.is_lossless, &end.refused[..]), (false, &[][..]));
    assert_eq!((end.missing_storages, end.next.storages), (vec![NodeId(1), NodeId(2)], set(&[4, 5, 3])));
    let too_few = Facts { away: vec![1, 2], ..four() };
    let end = forced(&too_few, 1).expect("a logspace");
    assert!(end.refused.is_empty(), "one takes a place, and two are a majority and a quorum: {end:?}");
    let logspace = LogspaceId(0);
    let missing = |role| Refusal::TooFewNodes { logspace, role, missing: 1 };
    let three = Facts { members: members(&[Active; 3]), ..too_few };
    let refused = forced(&three, 1).expect("a logspace").refused;
    assert_eq!(refused, [missing(Role::Sequencer), missing(Role::Storage)]);
    let nobody = Facts { members: members(&[Active; 6]), away: vec![1, 2, 3], ..four() };
    let refused = forced(&nobody, 2).expect("a logspace").refused;
    assert!(matches!(refused[..], [Refusal::OtherView { .. }, Refusal::NoReplica { .. }]), "{refused:?}");
    assert_eq!(
        four().ask(|cluster| cluster.forced_end(LogspaceId(9), ViewNumber(0))),
        Err(Refusal::NoLogspace { logspace: LogspaceId(9) })
    );
}
