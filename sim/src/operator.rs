//! An operator who drains nodes and removes them for good, by the rules that a node's command follows.
//! What a removed node had is gone with it: whatever it alone kept is missed from then on.

use std::collections::BTreeMap;

use sealog_control::operator::Cluster;
use sealog_protocol::client::NodeChange;
use sealog_protocol::holdings::Holdings;
use sealog_protocol::members::{MemberState, Members};
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::view::Chain;
use sealog_protocol::{LogspaceId, NodeId};

use crate::disk::Stop;
use crate::node::RoleMachine;
use crate::queue::{Instant, MILLISECOND};
use crate::swarm::NodeIndex;
use crate::world::{Event, World};

/// The operator looks so often whether a node that is drained can be removed.
const LOOK: Instant = 60 * MILLISECOND;

impl World {
    /// An operator wants a node gone, and comes back to it until it is.
    pub fn remove_sometime(&mut self, node: NodeIndex) {
        self.queue.push(self.now, Event::OperatorLooks { node });
    }

    pub fn operator_looks(&mut self, node: NodeIndex) {
        if !self.faults_are_active() || self.is_buried(node) {
            return;
        }
        let id = self.nodes[node.0].id;
        let state = self.register.members().get(id).map(|member| member.state);
        let change = match state {
            Some(MemberState::Active) => NodeChange::Drain { replacement: 0 },
            _ => NodeChange::Remove { accept_loss: false },
        };
        if let Some(members) = self.allowed(id, change) {
            // What was decided by is older than the change.
            let at = self.now + self.register.delay(self.now, &mut self.rng);
            self.queue.push(at, Event::OperatorActs { node, members: Box::new(members) });
        } else if state == Some(MemberState::Active) {
            return;
        }
        self.queue.push(self.now + LOOK, Event::OperatorLooks { node });
    }

    /// The members after a change, if some node with an engine that is asked has nothing against it.
    fn allowed(&mut self, id: NodeId, change: NodeChange) -> Option<Members> {
        let engines = self.plan.with_role(|roles| roles.engine);
        let living: Vec<NodeIndex> = engines.into_iter().filter(|node| self.is_alive(*node)).collect();
        let asked = *living.get(self.rng.usize(0..living.len().max(1)))?;
        let life = self.nodes[asked.0].life.as_ref()?;
        let held = life.machines.iter().filter_map(|(address, machine)| match machine {
            RoleMachine::Engine(engine) => Some((address.logspace, engine.holdings())),
            _ => None,
        });
        let holdings: BTreeMap<LogspaceId, Holdings> = held.collect();
        let members = self.register.members();
        let chains: Vec<Chain> = self.plan.logspaces().map(|logspace| self.register.chain(logspace)).collect();
        let is_connected = |node: NodeId| {
            let other = self.plan.index(node);
            other.is_some_and(|other| other == asked || self.network.living(asked, other).is_some())
        };
        let cluster = Cluster { members: &members, chains: &chains, holdings: &holdings, is_connected: &is_connected };
        let plan = cluster.plan(id, change);
        plan.members.filter(|_| plan.refused.is_empty() && !plan.is_done)
    }

    /// The change reaches the register, which takes it if nothing was changed since.
    pub fn operator_acts(&mut self, node: NodeIndex, members: &Members) {
        let id = self.nodes[node.0].id;
        if !self.faults_are_active() || !self.register.swap_members(members) {
            return;
        }
        self.members_changed(id);
        let is_removed = members.get(id).is_some_and(|member| member.state.is_removed());
        self.trace.event(self.now, &[14, node.0 as u64, u64::from(is_removed)], || {
            format!("node {id} is {}", if is_removed { "removed" } else { "drained" })
        });
        if is_removed {
            mark(Mark::NodeRemoved);
            self.invariants.removed.insert(id);
            self.bury_removed(node);
            self.crash(node, Stop::Power);
        }
    }
}
