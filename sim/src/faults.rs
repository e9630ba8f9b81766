//! What breaks, and when it heals; the end of all faults; and the watch that closes silent connections,
//! as the runtime does.

use std::collections::{BTreeMap, BTreeSet};

use sealog::ConnectionError;
use sealog_history::Line;
use sealog_protocol::machine::{Address, Role};
use sealog_protocol::members::MemberState;
use sealog_protocol::message::Message;
use sealog_protocol::{LogspaceId, NodeId, ViewReason};

use crate::client::Client;
use crate::disk::Stop;
use crate::node::NodeInput;
use crate::queue::{Instant, MILLISECOND, SECOND};
use crate::rot::Rot;
use crate::swarm::{FaultKind, NodeIndex, Plan};
use crate::violation::Failure;
use crate::world::{Event, World};

/// Once faults stop, every node counts in the views of class memory within this long.
const CALM_MAX: Instant = 20 * SECOND;

/// The end of one fault.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    Restart(NodeIndex),
    Unblock { from: NodeIndex, to: NodeIndex },
    DiskFast(NodeIndex),
    DiskRoom(NodeIndex),
    ReadsFine(NodeIndex),
}

#[derive(Debug)]
pub struct Faults {
    /// Faults happen.
    active: bool,
    pub counts: BTreeMap<FaultKind, u64>,
    /// The disk of a node is lost for good: nothing rots then.
    pub has_lost_disk: bool,
    /// Nodes that stay dead, and of them those that were removed.
    buried: Vec<NodeIndex>,
    removed: Vec<NodeIndex>,
    /// Nodes that were to be drained at some time.
    pub drained: BTreeSet<NodeId>,
    /// Since when pairs of connected nodes have not heard of each other.
    silent_since: BTreeMap<(NodeIndex, NodeIndex), Instant>,
    pub torn_sectors: u64,
    pub rot: Rot,
    /// The next line of a client that takes a vanished one's place.
    next_line: u32,
}

impl Faults {
    pub fn new(plan: &Plan) -> Faults {
        Faults {
            active: false,
            counts: BTreeMap::new(),
            buried: Vec::new(),
            has_lost_disk: false,
            removed: Vec::new(),
            drained: BTreeSet::new(),
            silent_since: BTreeMap::new(),
            torn_sectors: 0,
            rot: Rot::default(),
            next_line: plan.load.clients as u32,
        }
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// A line that no client has.
    pub fn new_line(&mut self) -> Line {
        self.next_line += 1;
        Line(self.next_line - 1)
    }
}

impl World {
    /// The faulty phase begins.
    pub fn begin_faults(&mut self) {
        self.faults.active = true;
        self.schedule_fault();
    }

    fn schedule_fault(&mut self) {
        let at = self.now + self.plan.fault_interval.draw(&mut self.rng);
        self.queue.push(at, Event::Fault);
    }

    /// Something breaks.
    pub fn fault(&mut self) -> Result<(), Failure> {
        if !self.faults.active {
            return Ok(());
        }
        let mut kind = self.plan.faults[self.rng.usize(0..self.plan.faults.len())];
        let lost = if kind == FaultKind::DiskLost { self.draw_lost() } else { None };
        if kind == FaultKind::DiskLost && lost.is_none() {
            kind = FaultKind::PowerLossOfOne;
        }
        self.trace.event(self.now, &[9, kind as u64], || format!("FAULT {kind:?}"));
        *self.faults.counts.entry(kind).or_default() += 1;
        match lost {
            Some(node) => self.lose_disk(node),
            None => self.break_something(kind)?,
        }
        self.schedule_fault();
        Ok(())
    }

    fn break_something(&mut self, kind: FaultKind) -> Result<(), Failure> {
        let node = NodeIndex(self.rng.usize(0..self.nodes.len()));
        let lasts = self.now + self.plan.fault_lasts.draw(&mut self.rng);
        match kind {
            FaultKind::CrashProcess => {
                self.end_or_crash(node);
                if self.plan.settings.memory_logspaces > 0 && self.rng.u8(0..3) == 0 {
                    self.crash_keepers();
                }
            }
            FaultKind::PowerLossOfOne => self.crash(node, Stop::Power),
            FaultKind::PowerLossOfAll => {
                for node in (0..self.nodes.len()).map(NodeIndex) {
                    self.crash(node, Stop::Power);
                }
            }
            FaultKind::PowerLossOfOthers => {
                for other in (0..self.nodes.len()).map(NodeIndex).filter(|other| *other != node) {
                    self.crash(other, Stop::Power);
                }
            }
            FaultKind::Pause => {
                let paused = &mut self.nodes[node.0].paused_until;
                *paused = lasts.max(*paused);
            }
            FaultKind::BreakConnection => {
                let other = self.other_than(node);
                self.break_connection(node, other);
            }
            FaultKind::Partition => self.partition(node, lasts, true),
            FaultKind::OneWayPartition => {
                let other = self.other_than(node);
                self.block(node, other, lasts);
                if self.rng.bool() {
                    self.break_connection(node, other);
                }
            }
            FaultKind::Split => self.split(lasts),
            FaultKind::Clog => self.partition(node, lasts, false),
            FaultKind::SlowDisk => {
                self.nodes[node.0].disk_factor = self.rng.u64(5..60);
                self.queue.push(lasts, Event::Heal(Heal::DiskFast(node)));
            }
            FaultKind::DiskFull => {
                self.nodes[node.0].disk.segments_max = self.nodes[node.0].disk.segments_count();
                self.queue.push(lasts, Event::Heal(Heal::DiskRoom(node)));
            }
            FaultKind::DiskLost => unreachable!("it has a node of its own"),
            FaultKind::ReadErrors => {
                self.recorder.damage_allowed = true;
                self.nodes[node.0].read_errors = self.rng.u8(5..60);
                self.queue.push(lasts, Event::Heal(Heal::ReadsFine(node)));
            }
            FaultKind::ClockStep => {
                let (forward, rate) = (self.rng.u64(0..2_000 * MILLISECOND), self.rng.u64(700..1400));
                self.nodes[node.0].clock.step(self.now, forward, rate);
                self.schedule_turn(node);
            }
            FaultKind::RegisterTrouble => self.register.trouble(lasts),
            FaultKind::ViewRequested => {
                let logspace = LogspaceId(self.rng.u16(0..self.plan.settings.logspaces));
                self.want_view(logspace);
            }
            FaultKind::NodeDrained => self.drain_or_not(node),
            FaultKind::NodeRemoved => self.remove_sometime(node),
            FaultKind::ViewsRaced => {
                let logspace = LogspaceId(self.rng.u16(0..self.plan.settings.logspaces));
                for node in self.plan.with_role(|roles| roles.controller) {
                    self.want_view_of(node, logspace, ViewReason::Requested);
                }
            }
            FaultKind::ViewChangeInterrupted => {
                for logspace in self.plan.logspaces() {
                    self.want_view(logspace);
                }
                let at = self.now + self.rng.u64(0..15 * MILLISECOND);
                self.queue.push(at, Event::ControllerDies);
            }
            FaultKind::BreakClient => {
                let client = self.rng.usize(0..self.clients.len());
                self.drop_client(client, ConnectionError::Closed);
            }
            FaultKind::BitRot | FaultKind::StrayWrite => self.rot(kind)?,
            FaultKind::ClientVanishes => {
                let client = self.rng.usize(0..self.clients.len());
                self.replace_client(client);
            }
        }
        Ok(())
    }

    /// The node's work is to go to others, or it may be given some again; all hear of it.
    fn drain_or_not(&mut self, node: NodeIndex) {
        let id = self.nodes[node.0].id;
        let members = self.register.members();
        let state = match members.get(id).map(|member| member.state) {
            Some(MemberState::Active) => MemberState::Draining,
            Some(MemberState::Draining) => MemberState::Active,
            _ => return,
        };
        self.register.set_state(id, state);
        self.members_changed(id);
    }

    /// The register has other members, of whom this one is to be drained, or was. All hear of it.
    pub fn members_changed(&mut self, id: NodeId) {
        self.faults.drained.insert(id);
        for node in (0..self.nodes.len()).map(NodeIndex) {
            let at = self.now + self.register.delay(self.now, &mut self.rng);
            let life = self.nodes[node.0].incarnation.0;
            self.queue.push(at, Event::MembersChanged { node, life });
        }
    }

    fn some_controller(&mut self) -> NodeIndex {
        let controllers = self.plan.with_role(|roles| roles.controller);
        controllers[self.rng.usize(0..controllers.len())]
    }

    /// A controller's process dies, unless the faults are over.
    pub fn controller_dies(&mut self) {
        if self.faults.active {
            let node = self.some_controller();
            self.crash(node, Stop::Process);
        }
    }

    /// Class memory has nodes that remember: some of them stop at once, engines and clients go on.
    fn crash_keepers(&mut self) {
        for keeper in self.plan.with_role(|roles| roles.sequencer || roles.storage) {
            if self.rng.u8(0..3) > 0 {
                self.end_or_crash(keeper);
            }
        }
    }

    /// A process ends. In class memory it matters whether in order.
    fn end_or_crash(&mut self, node: NodeIndex) {
        if self.plan.settings.memory_logspaces > 0 && self.rng.u8(0..3) == 0 {
            let ending = &mut self.nodes[node.0];
            ending.end_in_order(&self.plan, self.now);
        }
        self.crash(node, Stop::Process);
    }

    fn other_than(&mut self, node: NodeIndex) -> NodeIndex {
        let other = self.rng.usize(0..self.nodes.len() - 1);
        NodeIndex(if other >= node.0 { other + 1 } else { other })
    }

    /// The node stops; it comes back after a while, unless it is buried.
    pub fn crash(&mut self, node: NodeIndex, stop: Stop) {
        if self.nodes[node.0].life.take().is_none() {
            return;
        }
        self.faults.torn_sectors += self.nodes[node.0].disk.crash(stop, &mut self.rng);
        self.nodes[node.0].paused_until = 0;
        self.trace.event(self.now, &[10, node.0 as u64], || format!("{} stops: {stop:?}", node.0));
        for other in (0..self.nodes.len()).map(NodeIndex).filter(|other| *other != node) {
            self.break_connection(node, other);
        }
        let stale: Vec<_> =
            self.client_connections.iter().filter(|((at, _), _)| *at == node).map(|(key, _)| *key).collect();
        for key in stale {
            let (client, epoch) = self.client_connections.remove(&key).expect("listed a moment ago");
            let at = self.now + self.plan.network.draw(&mut self.rng);
            self.queue.push(at, Event::ClientLost { client, epoch });
        }
        if !self.faults.buried.contains(&node) {
            let at = self.now + self.plan.restart.draw(&mut self.rng);
            self.queue.push(at, Event::Heal(Heal::Restart(node)));
        }
    }

    fn block(&mut self, from: NodeIndex, to: NodeIndex, until: Instant) {
        self.network.block(from, to, true);
        self.queue.push(until, Event::Heal(Heal::Unblock { from, to }));
    }

    /// Cuts a node off from some others; a partition also breaks its connections to them.
    fn partition(&mut self, node: NodeIndex, until: Instant, breaks: bool) {
        let all = self.rng.bool();
        if all && breaks {
            // It does not hear of new views, either: what it was, it believes to be still.
            let deaf_until = &mut self.nodes[node.0].register_deaf_until;
            *deaf_until = until.max(*deaf_until);
        }
        for other in (0..self.nodes.len()).map(NodeIndex).filter(|other| *other != node) {
            if all || self.rng.bool() {
                self.block(node, other, until);
                self.block(other, node, until);
                if breaks {
                    self.break_connection(node, other);
                }
            }
        }
    }

    /// Cuts the nodes in two groups, in both directions or in one.
    fn split(&mut self, until: Instant) {
        let nodes = (0..self.nodes.len()).map(NodeIndex);
        let (one, other): (Vec<NodeIndex>, Vec<NodeIndex>) = nodes.partition(|_| self.rng.bool());
        let (both, breaks) = (self.rng.u8(0..4) > 0, self.rng.bool());
        for (here, there) in one.iter().flat_map(|here| other.iter().map(move |there| (*here, *there))) {
            self.block(here, there, until);
            if both {
                self.block(there, here, until);
            }
            if breaks {
                self.break_connection(here, there);
            }
        }
    }

    /// A node whose loss nothing has to suffer from, where nothing rots. What class memory holds is not on its disk alone: who
    /// forgot what he held counts for nothing, so that a node that never comes back may be one too many.
    fn draw_lost(&mut self) -> Option<NodeIndex> {
        if self.plan.settings.memory_logspaces > 0 || self.faults.rot.node.is_some() {
            return None;
        }
        let able = |node: &NodeIndex| !self.is_buried(*node) && self.can_be_missed(*node, &self.faults.buried);
        let able: Vec<NodeIndex> = (0..self.nodes.len()).map(NodeIndex).filter(able).collect();
        if able.is_empty() { None } else { Some(able[self.rng.usize(0..able.len())]) }
    }

    fn lose_disk(&mut self, node: NodeIndex) {
        self.faults.has_lost_disk = true;
        self.faults.buried.push(node);
        self.crash(node, Stop::Power);
    }

    fn replace_client(&mut self, client: usize) {
        self.drop_client(client, ConnectionError::Closed);
        let line = self.faults.new_line();
        let mut successor = Client::new(&self.plan, line, &mut self.rng);
        let vanished = &mut self.clients[client];
        self.recorder.subscribed.extend(std::mem::take(&mut vanished.subscriptions).into_values());
        successor.epoch = vanished.epoch + 1;
        if self.rng.bool() {
            // Its token was handed on before it vanished.
            successor.session.merge(vanished.session.token());
            self.recorder.hand_over(vanished.line, line);
        }
        self.clients[client] = successor;
        self.wake_client(client, self.now);
    }

    /// A token goes from one client to another.
    pub fn hand_over(&mut self) {
        let (from, to) = (self.rng.usize(0..self.clients.len()), self.rng.usize(0..self.clients.len()));
        let token = self.clients[from].session.token().clone();
        self.clients[to].session.merge(&token);
        self.recorder.hand_over(self.clients[from].line, self.clients[to].line);
    }

    pub fn heal(&mut self, heal: Heal) -> Result<(), Failure> {
        self.trace.event(self.now, &[11], || format!("HEAL {heal:?}"));
        match heal {
            Heal::Restart(node) if self.is_alive(node) || self.faults.buried.contains(&node) => {}
            Heal::Restart(node) => self.start_node(node)?,
            Heal::Unblock { from, to } => {
                self.network.block(from, to, false);
                self.release(from, to);
                self.schedule_dial(from, to);
            }
            Heal::DiskFast(node) => self.nodes[node.0].disk_factor = 1,
            Heal::DiskRoom(node) => self.nodes[node.0].disk.segments_max = usize::MAX,
            Heal::ReadsFine(node) => self.nodes[node.0].read_errors = 0,
        }
        Ok(())
    }

    /// The end of all faults: a quorum is healed, the rest stays dead.
    pub fn calm(&mut self) -> Result<(), Failure> {
        self.faults.active = false;
        // Class memory outlives a minority that stops, once who has started again counts again.
        let counts_first = self.plan.settings.memory_logspaces > 0;
        if !counts_first {
            self.bury();
        }
        self.heal_all()?;
        if counts_first {
            let until = self.now + CALM_MAX;
            if !self.run(until, |world| world.invariants.all_count())? {
                return Err(Failure::MembersNeverCount);
            }
            self.bury();
        }
        Ok(())
    }

    fn bury(&mut self) {
        let buried = self.draw_buried();
        self.faults.buried.extend(buried);
        self.trace.event(self.now, &[12], || format!("CALM: {:?} stay dead", self.faults.buried));
        for node in self.faults.buried.clone() {
            self.crash(node, Stop::Power);
        }
    }

    fn heal_all(&mut self) -> Result<(), Failure> {
        self.register.heal();
        self.network.unblock_all();
        for at in 0..self.nodes.len() {
            let node = NodeIndex(at);
            self.nodes[at].disk_factor = 1;
            self.nodes[at].disk.segments_max = usize::MAX;
            self.nodes[at].read_errors = 0;
            self.nodes[at].paused_until = 0;
            self.nodes[at].register_deaf_until = 0;
            if !self.is_alive(node) && !self.faults.buried.contains(&node) {
                self.start_node(node)?;
            }
            for other in (0..self.nodes.len()).map(NodeIndex).filter(|other| *other != node) {
                self.release(node, other);
                self.schedule_dial(node, other);
            }
            self.schedule_turn(node);
        }
        Ok(())
    }

    /// More nodes that stay dead.
    fn draw_buried(&mut self) -> Vec<NodeIndex> {
        let mut order: Vec<NodeIndex> = (0..self.nodes.len()).map(NodeIndex).collect();
        self.rng.shuffle(&mut order);
        let wanted = self.rng.usize(0..=self.nodes.len());
        let mut gone = self.faults.buried.clone();
        let before = gone.len();
        for node in order {
            if gone.len() < wanted && !gone.contains(&node) && self.can_be_missed(node, &gone) {
                gone.push(node);
            }
        }
        gone.split_off(before)
    }

    /// Whether a node can be missed beside these: of all views together a minority of a view's sequencers,
    /// W − 1 storages, so that whatever a view before left on some of its nodes is still there; all engines
    /// but one, and all controllers but one. Where one has rotted the others have the only good copies: it
    /// counts as one of those that are missed. Nothing is left on those that were removed.
    fn can_be_missed(&self, node: NodeIndex, gone: &[NodeIndex]) -> bool {
        let replicas = self.plan.first_chain(LogspaceId(0)).current().sequencers;
        let (sequencers_max, storages_max) =
            (replicas.len() - replicas.majority(), usize::from(self.plan.write_quorum) - 1);
        let counts = |has: fn(&crate::swarm::Roles) -> bool| {
            let mut nodes = self.plan.with_role(has);
            nodes.retain(|node| !self.faults.removed.contains(node));
            let missed = nodes.iter().filter(|other| **other == node || gone.contains(other)).count();
            (missed, nodes.len() - missed)
        };
        let rotten = self.faults.rot.node.is_some_and(|rotten| rotten != node && !gone.contains(&rotten));
        counts(|roles| roles.engine).1 >= 1
            && (counts(|roles| roles.storage).0 + usize::from(rotten) <= storages_max
                || !self.plan.nodes[node.0].1.storage)
            && counts(|roles| roles.sequencer).0 <= sequencers_max
            && counts(|roles| roles.controller).1 >= 1
    }

    /// Closes connections that have been silent for too long.
    pub fn watch(&mut self) {
        if self.submitting && self.rng.u8(0..8) == 0 {
            self.hand_over();
        }
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                let pair = (NodeIndex(one), NodeIndex(other));
                if !self.is_silent(pair.0, pair.1) || self.network.living(pair.0, pair.1).is_none() {
                    self.faults.silent_since.remove(&pair);
                    continue;
                }
                let since = *self.faults.silent_since.entry(pair).or_insert(self.now);
                if self.now - since >= self.plan.limits.peer_silence {
                    self.break_connection(pair.0, pair.1);
                }
            }
        }
    }

    fn want_view(&mut self, logspace: LogspaceId) {
        let node = self.some_controller();
        // Either is asked for by somebody who may be wrong.
        let reason = if self.rng.u8(0..8) == 0 { ViewReason::QuorumLost } else { ViewReason::Requested };
        self.want_view_of(node, logspace, reason);
    }

    fn want_view_of(&mut self, node: NodeIndex, logspace: LogspaceId, reason: ViewReason) {
        let view = self.register.chain(logspace).current().number;
        let to = Address { node: self.nodes[node.0].id, logspace, role: Role::Controller };
        let message = Message::ViewWanted { view, reason };
        self.trace.event(self.now, &[13, u64::from(logspace.0)], || format!("view {view} of {logspace} is to end"));
        let life = self.nodes[node.0].incarnation.0;
        self.input(node, life, NodeInput::Request { to, message });
    }

    /// A node is removed: it never comes back.
    pub fn bury_removed(&mut self, node: NodeIndex) {
        self.faults.buried.push(node);
        self.faults.removed.push(node);
    }

    pub fn faults_are_active(&self) -> bool {
        self.faults.active
    }

    pub fn is_buried(&self, node: NodeIndex) -> bool {
        self.faults.buried.contains(&node)
    }
}
