//! Which nodes the next view names, who leads it, and which controller changes to it: pure rules over
//! the members, the current view, and who is connected.

use sealog_protocol::machine::Role;
use sealog_protocol::members::{MemberState, Members};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::View;
use sealog_protocol::{LogspaceId, NodeId, NodeSet};

/// The nodes of a view to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextNodes {
    pub sequencers: NodeSet,
    pub storages: NodeSet,
}

impl NextNodes {
    /// Those of the view as it is.
    pub fn of(view: &View) -> NextNodes {
        NextNodes { sequencers: view.sequencers, storages: view.storages }
    }
}

/// What a choice rests on.
pub struct Situation<'a> {
    pub logspace: LogspaceId,
    pub view: &'a View,
    /// None where the register has none: nobody can be replaced.
    pub members: Option<&'a Members>,
    pub is_connected: &'a dyn Fn(NodeId) -> bool,
    /// Whether a node has been lost for so long that another shall take its place.
    pub is_given_up: &'a dyn Fn(NodeId) -> bool,
    /// Replace all that have to go at once, not only so many that what stays is a quorum.
    pub all_at_once: bool,
}

impl Situation<'_> {
    /// The nodes of the next view: those of this one, but that a node which is drained, removed or given
    /// up makes way for an active, connected one that is in no such set yet, rather the one that was
    /// chosen for it. Where there is none it stays; but a storage that is drained or removed leaves
    /// where R others live and stay. What stays has a quorum, so that the new ones can take their time to
    /// copy; those that still have to go do so in the change after.
    pub fn next_nodes(&self) -> NextNodes {
        let view = self.view;
        let sequencers = (view.sequencers.len() - view.sequencers.majority()).max(1);
        let storages = view.storages.len().saturating_sub(usize::from(view.write_quorum)).max(1);
        NextNodes {
            sequencers: self.replaced(&view.sequencers, Role::Sequencer, sequencers, usize::MAX),
            storages: self.replaced(&view.storages, Role::Storage, storages, usize::from(view.replicas)),
        }
    }

    fn replaced(&self, nodes: &NodeSet, role: Role, at_once_max: usize, least: usize) -> NodeSet {
        let mut next: Vec<NodeId> = nodes.as_slice().to_vec();
        // The worst first: what is gone counts for nothing, what is drained still does.
        let mut going: Vec<NodeId> = nodes.iter().filter(|node| self.has_to_go(*node)).collect();
        going.sort_by_key(|node| (self.is_connected)(*node));
        let at_once_max = if self.all_at_once { going.len() } else { at_once_max };
        let mut spares = self.spares(nodes, role);
        for gone in going.into_iter().take(at_once_max) {
            let at = next.iter().position(|node| *node == gone).expect("it is of the view");
            if let Some(spare) = self.take_spare(&mut spares, gone) {
                next[at] = spare;
            } else if self.is_leaving(gone) && next.iter().filter(|node| self.can_stay(**node)).count() >= least {
                mark(Mark::NodeLeftOut);
                next.remove(at);
            }
        }
        NodeSet::new(&next).expect("as many as before or fewer, each once")
    }

    /// The one that was chosen for a node, or the first that was chosen for no other.
    fn take_spare(&self, spares: &mut Vec<NodeId>, gone: NodeId) -> Option<NodeId> {
        let members = || self.members.into_iter().flat_map(|members| &members.nodes);
        let chosen = members().find(|member| member.node == gone).and_then(|member| member.replacement);
        let is_chosen = |node: NodeId| members().any(|member| member.replacement == Some(node));
        let at = spares.iter().position(|spare| Some(*spare) == chosen);
        let at = at.or_else(|| spares.iter().position(|spare| !is_chosen(*spare)));
        Some(spares.remove(at.or(Some(0).filter(|_| !spares.is_empty()))?))
    }

    fn can_stay(&self, node: NodeId) -> bool {
        (self.is_connected)(node) && !self.is_leaving(node)
    }

    fn has_to_go(&self, node: NodeId) -> bool {
        if active(Mutant::LivingNodeReplaced) {
            return self.members.is_some();
        }
        self.is_leaving(node) || (self.is_given_up)(node)
    }

    fn is_leaving(&self, node: NodeId) -> bool {
        let member = self.members.and_then(|members| members.get(node));
        member.is_some_and(|member| member.state != MemberState::Active)
    }

    /// Nodes that can take another's place, in an order that differs from logspace to logspace.
    fn spares(&self, nodes: &NodeSet, role: Role) -> Vec<NodeId> {
        let members = self.members.into_iter().flat_map(|members| members.with_role(role));
        let able = members.filter(|member| member.state == MemberState::Active).map(|member| member.node);
        let able = able.filter(|node| (self.is_connected)(*node) && !nodes.contains(*node));
        rotated(able.collect(), self.logspace)
    }

    /// The primary of the next view, among replicas that have all that is kept: rather one that stays,
    /// rather not `avoided`; which of several depends on the logspace, so that they are spread.
    pub fn primary(
        &self,
        next: &NodeSet,
        able: impl Iterator<Item = NodeId>,
        avoided: Option<NodeId>,
    ) -> Option<NodeId> {
        let able: Vec<NodeId> = able.collect();
        let order = rotated(next.as_slice().to_vec(), self.logspace);
        let able = order.into_iter().filter(|node| able.contains(node) && (self.is_connected)(*node));
        able.min_by_key(|node| (Some(*node) == avoided, self.is_leaving(*node)))
    }
}

/// In which place a controller is to change the view: 0, it does so at once. Those that are connected
/// count, in an order that differs from logspace to logspace.
pub fn rank(
    logspace: LogspaceId,
    members: Option<&Members>,
    own: NodeId,
    is_connected: impl Fn(NodeId) -> bool,
) -> u32 {
    let controllers = members.into_iter().flat_map(|members| members.with_role(Role::Controller));
    let order = rotated(controllers.map(|member| member.node).collect(), logspace);
    let before = order.into_iter().take_while(|node| *node != own);
    before.filter(|node| is_connected(*node)).count() as u32
}

fn rotated(mut nodes: Vec<NodeId>, logspace: LogspaceId) -> Vec<NodeId> {
    nodes.sort_unstable();
    let count = nodes.len().max(1);
    nodes.rotate_left(usize::from(logspace.0) % count);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::members::{Member, Roles};
    use sealog_protocol::{ClusterId, Incarnation, ViewNumber};

    fn set(nodes: &[u64]) -> NodeSet {
        NodeSet::new(&nodes.iter().copied().map(NodeId).collect::<Vec<_>>()).expect("few distinct nodes")
    }

    fn view() -> View {
        View {
            number: ViewNumber(1),
            primary: NodeId(1),
            primary_incarnation: Incarnation(1),
            sequencers: set(&[1, 2, 3]),
            storages: set(&[1, 2, 3]),
            write_quorum: 2,
            replicas: 3,
            moves: Vec::new(),
            cause: Default::default(),
        }
    }

    fn members(states: &[(u64, MemberState)]) -> Members {
        let nodes = states.iter().map(|(node, state)| Member {
            node: NodeId(*node),
            incarnation: Incarnation(1),
            roles: Roles::ALL,
            state: *state,
            replacement: None,
            peer_address: String::new(),
            client_address: String::new(),
        });
        Members { cluster: ClusterId(1), version: 1, nodes: nodes.collect() }
    }

    fn next(members: &Members, connected: &[u64], given_up: &[u64], all_at_once: bool) -> (Vec<u64>, Vec<u64>) {
        let view = view();
        let situation = Situation {
            logspace: LogspaceId(0),
            view: &view,
            members: Some(members),
            is_connected: &|node| connected.contains(&node.0),
            is_given_up: &|node| given_up.contains(&node.0),
            all_at_once,
        };
        let next = situation.next_nodes();
        let numbers = |nodes: NodeSet| nodes.iter().map(|node| node.0).collect();
        (numbers(next.sequencers), numbers(next.storages))
    }

    use MemberState::{Active, Draining, Removed};

    #[test]
    fn who_lives_stays_and_who_goes_is_replaced_one_quorum_at_a_time() {
        let all = members(&[(1, Active), (2, Active), (3, Active), (4, Active), (5, Active)]);
        assert_eq!(next(&all, &[1, 2, 3, 4, 5], &[], false).0, [1, 2, 3]);
        assert_eq!(next(&all, &[1, 3, 4, 5], &[], false).0, [1, 2, 3], "lost, but not yet for long");
        assert_eq!(next(&all, &[1, 3, 4, 5], &[2], false), (vec![1, 4, 3], vec![1, 4, 3]));
        assert_eq!(next(&all, &[1, 4, 5], &[2, 3], true).1, [1, 4, 5]);
        let drained = members(&[(1, Draining), (2, Active), (3, Removed), (4, Active), (5, Active)]);
        assert_eq!(next(&drained, &[1, 2, 4, 5], &[], false).0, [1, 2, 4], "the one that is gone goes first");
        assert_eq!(next(&drained, &[1, 2, 5], &[], false).0, [1, 2, 5], "a spare that is not there is none");
    }

    #[test]
    fn without_a_spare_a_view_keeps_its_nodes() {
        let three = members(&[(1, Active), (2, Draining), (3, Removed)]);
        assert_eq!(next(&three, &[1, 2], &[3], true), (vec![1, 2, 3], vec![1, 2, 3]));
    }

    #[test]
    fn primaries_are_spread_and_rather_not_the_one_avoided_or_drained() {
        let view = view();
        let members = members(&[(1, Draining), (2, Active), (3, Active)]);
        let primary = |logspace: u16, able: &[u64], avoided: Option<u64>| {
            let situation = Situation {
                logspace: LogspaceId(logspace),
                view: &view,
                members: Some(&members),
                is_connected: &|_| true,
                is_given_up: &|_| false,
                all_at_once: false,
            };
            let able = able.iter().copied().map(NodeId);
            situation.primary(&view.sequencers, able, avoided.map(NodeId)).map(|node| node.0)
        };
        assert_eq!(primary(1, &[1, 2, 3], None), Some(2));
        assert_eq!(primary(2, &[1, 2, 3], None), Some(3));
        assert_eq!(primary(0, &[1, 2, 3], None), Some(2), "its turn, but it is drained");
        assert_eq!(primary(1, &[1, 2, 3], Some(2)), Some(3));
        assert_eq!(primary(1, &[2], Some(2)), Some(2), "better than none");
        assert_eq!(primary(1, &[], None), None);
    }

    #[test]
    fn the_first_connected_controller_changes_the_view_in_each_logspace_another() {
        let members = members(&[(1, Active), (2, Active), (3, Active)]);
        let rank =
            |logspace, own, lost: u64| rank(LogspaceId(logspace), Some(&members), NodeId(own), |node| node.0 != lost);
        assert_eq!([rank(0, 1, 9), rank(0, 2, 9), rank(0, 3, 9)], [0, 1, 2]);
        assert_eq!([rank(1, 1, 9), rank(1, 2, 9), rank(1, 3, 9)], [2, 0, 1]);
        assert_eq!(rank(0, 2, 1), 0);
        assert_eq!(super::rank(LogspaceId(0), None, NodeId(7), |_| true), 0);
    }
}
