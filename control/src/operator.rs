//! What operators may do to a cluster's nodes, and what it would do: pure rules over the members, the
//! chains, who is connected, and what each index says of copies. A command that would lose something,
//! or could never come to its end, is refused, with what to do instead.

use std::collections::BTreeMap;
use std::fmt;

use sealog_protocol::client::NodeChange;
use sealog_protocol::holdings::Holdings;
use sealog_protocol::machine::Role;
use sealog_protocol::members::{Member, MemberState, Members};
use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{LogspaceId, NodeId, NodeSet};

use crate::plan::{NextNodes, Situation};

mod forcing;
mod refusal;

pub use forcing::ForcedEnd;
pub use refusal::Refusal;

/// What is known of a cluster, by one of its nodes.
pub struct Cluster<'a> {
    /// As the register has them now.
    pub members: &'a Members,
    /// The same, of every logspace.
    pub chains: &'a [Chain],
    /// What an index says, where one was asked.
    pub holdings: &'a BTreeMap<LogspaceId, Holdings>,
    pub is_connected: &'a dyn Fn(NodeId) -> bool,
}

/// What a change would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Why it is not done; empty: it can be.
    pub refused: Vec<Refusal>,
    /// It is so already.
    pub is_done: bool,
    /// The members then.
    pub members: Option<Members>,
    pub views: Vec<ViewPlan>,
    /// What the node has, and others are to have.
    pub has: Vec<Has>,
    /// What nobody may have then.
    pub lost: Vec<Lost>,
}

/// What becomes of a logspace's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewPlan {
    pub logspace: LogspaceId,
    pub is_primary: bool,
    pub now: NextNodes,
    /// By the nodes that are connected now.
    pub next: NextNodes,
}

/// What a node has of a logspace that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub logspace: LogspaceId,
    pub is_primary: bool,
    pub is_sequencer: bool,
    pub is_storage: bool,
    pub shards: u64,
    pub records: u64,
    pub bytes: u64,
    pub checkpoint: bool,
    /// No index tells of the shards: the other fields may say too little.
    pub is_unknown: bool,
}

impl Has {
    pub fn is_nothing(&self) -> bool {
        let named = self.is_primary || self.is_sequencer || self.is_storage;
        !named && self.shards == 0 && !self.checkpoint && !self.is_unknown
    }
}

/// Records of a logspace that may be on no node that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub logspace: LogspaceId,
    pub shards: u64,
    pub records: u64,
    /// How many the others are that might have them: 0, they are lost for certain.
    pub others: usize,
}

impl Cluster<'_> {
    /// What a node has of each logspace.
    pub fn has(&self, node: NodeId) -> impl Iterator<Item = Has> + '_ {
        self.chains.iter().map(move |chain| self.has_of(node, chain))
    }

    fn has_of(&self, node: NodeId, chain: &Chain) -> Has {
        let view = chain.current();
        let known = self.holdings.get(&chain.logspace).filter(|known| known.applied.view == view.number);
        let held = known.map(|known| known.of(node));
        Has {
            logspace: chain.logspace,
            is_primary: view.primary == node,
            is_sequencer: view.sequencers.contains(node),
            is_storage: view.storages.contains(node),
            shards: held.map_or(0, |held| held.shards),
            records: held.map_or(0, |held| held.records),
            bytes: held.map_or(0, |held| held.bytes),
            checkpoint: known.is_some_and(|known| known.has_checkpoint(node)),
            is_unknown: known.is_none(),
        }
    }

    /// What a change of a node would do.
    pub fn plan(&self, node: NodeId, change: NodeChange) -> Plan {
        let Some(member) = self.members.get(node) else {
            return Plan { refused: vec![Refusal::NoMember { node }], ..Plan::default() };
        };
        if member.state.is_removed() {
            return match change {
                NodeChange::Remove { .. } => Plan { is_done: true, ..Plan::default() },
                _ => Plan { refused: vec![Refusal::Removed { node }], ..Plan::default() },
            };
        }
        match change {
            NodeChange::Add => self.add(member),
            NodeChange::Drain { replacement } => self.drain(member, Some(NodeId(replacement)).filter(|by| by.0 > 0)),
            NodeChange::Remove { accept_loss } => self.remove(member, accept_loss),
        }
    }

    fn add(&self, member: &Member) -> Plan {
        Plan {
            is_done: member.state == MemberState::Active,
            members: self.members.with_state(member.node, MemberState::Active, None),
            has: self.has(member.node).collect(),
            ..Plan::default()
        }
    }

    fn drain(&self, member: &Member, replacement: Option<NodeId>) -> Plan {
        let node = member.node;
        let members = self.members.with_state(node, MemberState::Draining, replacement);
        let Some(then) = &members else { return Plan::default() };
        let mut plan = Plan {
            is_done: member.state == MemberState::Draining && member.replacement == replacement,
            has: self.has(node).collect(),
            views: self.chains.iter().filter_map(|chain| self.view_plan(node, chain, then)).collect(),
            ..Plan::default()
        };
        if !plan.is_done {
            let by = replacement.into_iter().flat_map(|by| self.unfit(member, by));
            let last = self.last_of_roles(member);
            let views = plan.views.iter().flat_map(|view| self.cannot_leave(node, view, then));
            plan.refused = by.chain(last).chain(views).collect();
        }
        plan.members = members;
        plan
    }

    /// What the view becomes, by the members then. None where it does not name the node.
    fn view_plan(&self, node: NodeId, chain: &Chain, then: &Members) -> Option<ViewPlan> {
        let view = chain.current();
        let now = NextNodes::of(view);
        if !view.sequencers.contains(node) && !view.storages.contains(node) {
            return None;
        }
        let next = self.situation(chain, then, &|_| false).next_nodes();
        Some(ViewPlan { logspace: chain.logspace, is_primary: view.primary == node, now, next })
    }

    fn situation<'a>(
        &'a self,
        chain: &'a Chain,
        members: &'a Members,
        is_given_up: &'a dyn Fn(NodeId) -> bool,
    ) -> Situation<'a> {
        Situation {
            logspace: chain.logspace,
            view: chain.current(),
            members: Some(members),
            is_connected: self.is_connected,
            is_given_up,
            all_at_once: true,
        }
    }

    /// Why a node can't leave a view: nobody takes its place.
    fn cannot_leave(&self, node: NodeId, plan: &ViewPlan, then: &Members) -> Vec<Refusal> {
        let logspace = plan.logspace;
        let view = self.view(logspace);
        let mut refused = Vec::new();
        if plan.next.sequencers.contains(node) {
            refused.push(Refusal::NoSequencer { node, logspace });
        }
        let is_staying = |of: NodeId| {
            let member = then.get(of);
            member.is_some_and(|member| member.state == MemberState::Active) && (self.is_connected)(of)
        };
        let left = plan.next.storages.iter().filter(|of| is_staying(*of)).count();
        let replicas = usize::from(view.replicas);
        if plan.next.storages.contains(node) || left < replicas {
            let elsewhere = view.storages.iter().filter(|of| *of != node && (self.is_connected)(*of)).count();
            refused.push(match elsewhere {
                0 => Refusal::LastCopy { node, logspace },
                _ => Refusal::NoStorage { node, logspace, left, replicas },
            });
        }
        let seen = |nodes: &NodeSet| nodes.iter().filter(|of| (self.is_connected)(*of)).count();
        let (sequencers, storages) = (seen(&view.sequencers), seen(&view.storages));
        let (majority, quorum) = (view.sequencers.majority(), usize::from(view.write_quorum));
        if sequencers < majority || storages < quorum {
            refused.push(Refusal::NoQuorum { logspace, sequencers, majority, storages, quorum });
        }
        refused
    }

    fn view(&self, logspace: LogspaceId) -> &View {
        let chain = self.chains.iter().find(|chain| chain.logspace == logspace);
        chain.expect("plans are made of these chains").current()
    }

    /// Why a node can't take another's place.
    fn unfit(&self, member: &Member, by: NodeId) -> Vec<Refusal> {
        let (node, found) = (member.node, self.members.get(by));
        let Some(other) = found.filter(|other| other.state == MemberState::Active && by != node) else {
            return vec![Refusal::NoReplacement { by }];
        };
        let mut refused = Vec::new();
        if !(self.is_connected)(by) {
            refused.push(Refusal::ReplacementAway { by });
        }
        let named = |role: Role| {
            let nodes = |view: &View| if role == Role::Storage { view.storages } else { view.sequencers };
            self.chains.iter().any(|chain| nodes(chain.current()).contains(node))
        };
        let roles = [Role::Storage, Role::Sequencer].into_iter().filter(|role| named(*role) && !other.roles.has(*role));
        refused.extend(roles.map(|role| Refusal::ReplacementLacks { by, role }));
        refused
    }

    /// Roles that no other node runs which stays.
    fn last_of_roles(&self, member: &Member) -> Vec<Refusal> {
        let node = member.node;
        let is_last = |role: &Role| {
            let mut others = self.members.with_role(*role).filter(|other| other.node != node);
            !others.any(|other| other.state == MemberState::Active && (self.is_connected)(other.node))
        };
        let roles = [Role::Engine, Role::Controller].into_iter().filter(|role| member.roles.has(*role));
        roles.filter(is_last).map(|role| Refusal::LastOfRole { node, role }).collect()
    }

    fn remove(&self, member: &Member, accept_loss: bool) -> Plan {
        let node = member.node;
        let has: Vec<Has> = self.has(node).collect();
        let counts: Vec<&Has> = has.iter().filter(|has| !has.is_nothing()).collect();
        let is_empty = counts.is_empty() || active(Mutant::RemovedWhileHolding);
        let mut refused = Vec::new();
        if accept_loss && !is_empty && (self.is_connected)(node) {
            refused.push(Refusal::StillThere { node });
        }
        if !accept_loss {
            if member.state != MemberState::Draining {
                refused.push(Refusal::NotDrained { node });
            }
            if !is_empty {
                refused.extend(counts.iter().map(|has| Refusal::Holds { node, has: **has }));
            }
            // Those that were there when it was drained may be gone by now.
            refused.extend(self.last_of_roles(member));
        }
        let lost: Vec<Lost> = self.chains.iter().flat_map(|chain| self.lost_with(node, chain)).collect();
        let may_lose = accept_loss && (!lost.is_empty() || has.iter().any(|has| has.is_unknown));
        let state = if may_lose { MemberState::RemovedWithLoss } else { MemberState::Removed };
        let members = self.members.with_state(node, state, None);
        Plan { refused, is_done: false, members, views: Vec::new(), has, lost }
    }

    /// What is sure to be on no other node, or may be on none: W copies were made somewhere among its
    /// replicas, so all but W − 1 of them have to be there to be sure.
    fn lost_with(&self, node: NodeId, chain: &Chain) -> Vec<Lost> {
        let write_quorum = usize::from(chain.current().write_quorum);
        let copies = self.holdings.get(&chain.logspace).into_iter().flat_map(|known| &known.copies);
        let is_there = |of: NodeId| of != node && self.members.get(of).is_some_and(|of| !of.state.is_removed());
        let lost = copies.filter(|held| held.replicas.contains(node)).filter_map(|held| {
            let others = held.replicas.iter().filter(|of| is_there(*of)).count();
            let is_sure = others + write_quorum > held.replicas.len();
            let lost = Lost { logspace: chain.logspace, shards: held.shards, records: held.records, others };
            (!is_sure).then_some(lost)
        });
        lost.collect()
    }
}

/// A role in a sentence.
struct RoleName(Role);

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Role::Engine => "engine",
            Role::Storage => "storage",
            Role::Sequencer => "sequencer",
            Role::Controller => "controller",
        })
    }
}

#[cfg(test)]
mod tests;
