//! What operators ask of a node about its cluster: gathered from all executors and the register, decided
//! by the rules of `sealog_control::operator`, and changed by compare-and-swap.
//!
//! Any node answers, whichever others are down. What is changed is changed in the register, by what it
//! holds at that moment; a change that was decided by something older is decided again.

use sealog_control::operator::Cluster;
use sealog_control::register::MembersSwap;
use sealog_protocol::client::OperateRequest;
use sealog_protocol::holdings::Holdings;
use sealog_protocol::{ViewNumber, ViewReason};
use serde_json::Value;

use super::*;
use crate::operations::{alone, forced_end, nodes, plan, refused, views};
use crate::register_thread::{OperationWish, RegisterNow, RegisterTold};

/// Operators' requests under way. Beyond, they are to come again.
const OPERATIONS_MAX: usize = 64;
/// So often a change is decided again when others were faster.
const TRIES_MAX: u32 = 8;

/// Operators' requests that wait for other executors and the register.
#[derive(Default)]
pub(super) struct Operations {
    next: u64,
    rounds: Vec<Round>,
}

struct Round {
    id: u64,
    connection: ConnectionId,
    request: u64,
    operate: OperateRequest,
    /// Executors that have not told yet what their engines know.
    missing: u8,
    holdings: BTreeMap<LogspaceId, Holdings>,
    register: Option<RegisterNow>,
    tries: u32,
}

impl Operations {
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.rounds.retain(|round| round.connection != connection);
    }

    fn round(&mut self, id: u64) -> Option<&mut Round> {
        self.rounds.iter_mut().find(|round| round.id == id)
    }
}

impl NodeHost {
    pub(super) fn operate(&mut self, connection: ConnectionId, request: u64, operate: OperateRequest) {
        if self.operations.rounds.len() >= OPERATIONS_MAX {
            let message = "too many commands of operators are under way on this node".to_owned();
            let reply = Reply::Error { code: ErrorCode::Busy, message };
            return self.actions.push(Action::Reply { connection, request, reply });
        }
        self.operations.next += 1;
        let (id, missing) = (self.operations.next, self.context.executors);
        let (holdings, register) = (BTreeMap::new(), None);
        let round = Round { id, connection, request, operate, missing, holdings, register, tries: 0 };
        self.operations.rounds.push(round);
        if matches!(operate, OperateRequest::Node { .. } | OperateRequest::ForceSeal { .. }) {
            self.look_into_register(id);
        }
        for executor in (0..self.context.executors).map(ExecutorId) {
            if executor != self.context.executor {
                self.context.poster.post(executor, Event::HoldingsWanted { by: self.context.executor, round: id });
            }
        }
        let own = self.holdings();
        self.holdings_told(id, own);
    }

    /// What this executor's engines know of copies.
    pub(super) fn holdings(&self) -> Vec<(LogspaceId, Holdings)> {
        let held = |slot: &crate::machines::Slot| match &slot.machine {
            RoleMachine::Engine(engine) => Some((slot.address.logspace, engine.holdings())),
            _ => None,
        };
        self.machines.slots().iter().filter_map(held).collect()
    }

    pub(super) fn holdings_told(&mut self, id: u64, holdings: Vec<(LogspaceId, Holdings)>) {
        let Some(round) = self.operations.round(id) else { return };
        round.holdings.extend(holdings);
        round.missing -= 1;
        self.decide_operation(id);
    }

    pub(super) fn register_told(&mut self, id: u64, told: RegisterTold) {
        let Some(round) = self.operations.round(id) else { return };
        match told {
            RegisterTold::Looked(now) => {
                round.register = Some(now);
                self.decide_operation(id);
            }
            RegisterTold::Swapped(MembersSwap::Installed) => self.end_changed(id),
            RegisterTold::Swapped(MembersSwap::Held(_)) if round.tries < TRIES_MAX => {
                round.tries += 1;
                round.register = None;
                self.look_into_register(id);
            }
            RegisterTold::Swapped(MembersSwap::Held(_)) => {
                let message = "the members change all the time: nothing was changed".to_owned();
                self.end_operation(id, Reply::Error { code: ErrorCode::Unavailable, message });
            }
            RegisterTold::Failed(reason) => {
                let name = self.config.facts.register.name();
                let message = format!("the register {name} can't be used: {reason}");
                self.end_operation(id, Reply::Error { code: ErrorCode::Unavailable, message });
            }
        }
    }

    fn look_into_register(&mut self, id: u64) {
        self.ask_for_operation(id, OperationWish::Look);
    }

    fn ask_for_operation(&mut self, round: u64, wish: OperationWish) {
        let from = Address { node: self.node, logspace: LogspaceId(0), role: Role::Controller };
        let executor = self.context.executor;
        self.ask_register(from, RegisterWish::Operation { executor, round, wish });
    }

    fn end_operation(&mut self, id: u64, reply: Reply) {
        let Some(at) = self.operations.rounds.iter().position(|round| round.id == id) else { return };
        let Round { connection, request, .. } = self.operations.rounds.swap_remove(at);
        self.actions.push(Action::Reply { connection, request, reply });
    }

    /// The change is in force: the plan that was carried out is the answer.
    fn end_changed(&mut self, id: u64) {
        let Some((_, Decided { mut json, .. })) = self.decided(id) else { return };
        json["changed"] = true.into();
        json["done"] = true.into();
        self.end_operation(id, Reply::Operated { json: json.to_string() });
    }

    /// Goes on with an operation once all have told.
    fn decide_operation(&mut self, id: u64) {
        let Some((operate, decided)) = self.decided(id) else { return };
        match (operate, decided.act) {
            (OperateRequest::Node { .. }, Act::Change(members)) => {
                return self.ask_for_operation(id, OperationWish::Swap(members));
            }
            (OperateRequest::ForceSeal { logspace, view, .. }, Act::Force) => {
                self.force_end(LogspaceId(logspace), ViewNumber(view));
            }
            _ => {}
        }
        self.end_operation(id, Reply::Operated { json: decided.json.to_string() });
    }

    /// What is to be answered, and done; `None` while somebody has not told.
    fn decided(&mut self, id: u64) -> Option<(OperateRequest, Decided)> {
        let connected = self.connected_now();
        let round = self.operations.round(id).filter(|round| round.missing == 0)?;
        let operate = round.operate;
        let waits = matches!(operate, OperateRequest::Node { .. } | OperateRequest::ForceSeal { .. });
        if waits && round.register.is_none() {
            return None;
        }
        let register = round.register.clone();
        let holdings = std::mem::take(&mut round.holdings);
        let known = || RegisterNow {
            members: self.config.members.as_deref().cloned(),
            chains: self.config.chains.as_ref().clone(),
        };
        let now = register.unwrap_or_else(known);
        let decided = self.decide(operate, &now, &holdings, &connected);
        self.operations.round(id).expect("it was found above").holdings = holdings;
        Some((operate, decided))
    }

    fn decide(
        &self,
        operate: OperateRequest,
        now: &RegisterNow,
        holdings: &BTreeMap<LogspaceId, Holdings>,
        connected: &[NodeId],
    ) -> Decided {
        let Some(members) = &now.members else { return Decided::only(self.decide_alone(operate, now, holdings)) };
        let is_connected = |node: NodeId| connected.contains(&node);
        let cluster = Cluster { members, chains: &now.chains, holdings, is_connected: &is_connected };
        match operate {
            OperateRequest::Nodes => Decided::only(nodes(&cluster, self.node)),
            OperateRequest::Views { logspace, limit } => Decided::only(views(&now.chains, logspace, limit)),
            OperateRequest::Node { node, change, act } => {
                let change_plan = cluster.plan(NodeId(node), change);
                let json = plan(&cluster, NodeId(node), change, &change_plan);
                let is_possible = act && change_plan.refused.is_empty() && !change_plan.is_done;
                let members = change_plan.members.filter(|_| is_possible);
                Decided { json, act: members.map_or(Act::Nothing, |members| Act::Change(Box::new(members))) }
            }
            OperateRequest::ForceSeal { logspace, view, act } => {
                match cluster.forced_end(LogspaceId(logspace), ViewNumber(view)) {
                    Err(refusal) => Decided::only(refused(&refusal)),
                    Ok(end) => {
                        let current = now.chains[usize::from(logspace)].current().number;
                        let act = act && view == current.0 && end.refused.is_empty();
                        let json = forced_end(LogspaceId(logspace), current, &end, act);
                        Decided { json, act: if act { Act::Force } else { Act::Nothing } }
                    }
                }
            }
        }
    }

    fn decide_alone(
        &self,
        operate: OperateRequest,
        now: &RegisterNow,
        holdings: &BTreeMap<LogspaceId, Holdings>,
    ) -> Value {
        match operate {
            OperateRequest::Views { logspace, limit } => views(&now.chains, logspace, limit),
            OperateRequest::Nodes => {
                let members = Members { cluster: self.config.facts.cluster, version: 1, nodes: vec![self.as_member()] };
                let is_connected = |node| node == self.node;
                let cluster = Cluster { members: &members, chains: &now.chains, holdings, is_connected: &is_connected };
                nodes(&cluster, self.node)
            }
            OperateRequest::Node { node, .. } => alone(node),
            OperateRequest::ForceSeal { .. } => alone(self.node.0),
        }
    }

    /// This node, where the register has no members.
    fn as_member(&self) -> Member {
        Member {
            node: self.node,
            incarnation: self.incarnation,
            roles: self.config.placement.roles,
            state: MemberState::Active,
            replacement: None,
            peer_address: String::new(),
            client_address: String::new(),
        }
    }

    fn connected_now(&self) -> Vec<NodeId> {
        let peers = self.context.peers.all();
        let others = peers.iter().filter(|peer| peer.is_connected).map(|peer| peer.node);
        others.chain([self.node]).collect()
    }

    /// Tells every controller that an operator accepts a loss. Several at once are safe.
    fn force_end(&mut self, logspace: LogspaceId, view: ViewNumber) {
        let members = self.config.members.as_deref();
        let controllers = members.into_iter().flat_map(|members| members.with_role(Role::Controller));
        let controllers: Vec<NodeId> = controllers.map(|member| member.node).collect();
        tracing::warn!(%logspace, %view, "an operator ends a view and accepts the loss of what can't be had");
        let from = Address { node: self.node, logspace, role: Role::Engine };
        for node in controllers {
            let to = Address { node, logspace, role: Role::Controller };
            self.send(from, to, Message::ViewWanted { view, reason: ViewReason::ForceSealed });
        }
    }
}

/// The answer to an operation, and what is to be done for it first.
struct Decided {
    json: Value,
    act: Act,
}

enum Act {
    Nothing,
    Change(Box<Members>),
    Force,
}

impl Decided {
    fn only(json: Value) -> Decided {
        Decided { json, act: Act::Nothing }
    }
}
