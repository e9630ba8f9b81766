//! A few of the real machines as one value: what can happen to it next, and what it is then.
//!
//! Of three nodes some run a sequencer replica, some a storage, some a controller; an engine that only sends
//! has a shard open and records on their way to it. Time stands still until a step moves the clock
//! of a node. What the machines say and do is held against the simulator's invariants.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use sealog_control::register::extends;
use sealog_control::{Controller, ControllerConfig};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::frame::{PlaceScope, set_place};
use sealog_protocol::machine::{Address, DurableEntry, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::EngineIncarnation;
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, RequestNumber, SessionId, ShardId, Tag, Time,
    ViewNumber, ViewReason,
};
use sealog_sequencer::{Sequencer, SequencerConfig};
use sealog_sim::invariants::Invariants;
use sealog_sim::violation::Failure;
use sealog_storage::{Storage, StorageConfig};

use super::turn::{Given, Turn, recover};

pub const LOGSPACE: LogspaceId = LogspaceId(0);
/// Of the cluster, by index; the engine is none of them.
pub const NODES: usize = 3;
const ENGINE: NodeId = NodeId(9);
const SHARD: ShardId = ShardId { view: ViewNumber(1), index: 0 };

/// What has happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scene {
    /// A record is on its way to the storages.
    Sent,
    /// Two nodes have received it, and the primary has cut; nothing is on any disk, and the third node has
    /// heard of nothing.
    Cut,
    /// It is committed, which only the primary knows; the third node has heard of nothing.
    Committed,
}

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The first so many nodes run a replica, and a storage. The first node is the primary.
    pub sequencers: usize,
    pub storages: usize,
    /// Which nodes run a controller that is asked for a view change once.
    pub controllers: &'static [usize],
    pub scene: Scene,
    /// Nodes that stop, with or without what they were writing, and start again.
    pub crashes: u8,
    /// Connections that break, with all that is on its way in both directions.
    pub breaks: u8,
    /// Deadlines that pass.
    pub ticks: u8,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// What is on its way from one node to another arrives. From the engine: the next record.
    Arrives {
        from: usize,
        to: usize,
    },
    /// What the node's journal was given is on disk.
    Written(usize),
    /// A controller is asked for a view change.
    Wanted(usize),
    /// A chain reaches the register.
    SwapArrives(usize),
    /// A node hears from the register.
    RegisterAnswers(usize),
    /// A node stops. What it was writing is on disk, or not.
    Crash {
        node: usize,
        written: bool,
    },
    Restart(usize),
    Break(usize, usize),
    /// A node's next deadline passes.
    Tick(usize),
}

impl Step {
    /// What nobody can count on to happen.
    pub fn is_chance(self) -> bool {
        matches!(self, Step::Wanted(_) | Step::Crash { .. } | Step::Break(..) | Step::Tick(_))
    }
}

/// A part of the state, with its fingerprint: that of its `Debug` form.
#[derive(Clone)]
pub struct Kept<T> {
    pub value: Arc<T>,
    print: u64,
}

struct Print(DefaultHasher);

impl Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl<T: Debug> Kept<T> {
    pub fn new(value: T) -> Kept<T> {
        let mut print = Print(DefaultHasher::new());
        write!(print, "{value:?}").expect("hashing does not fail");
        Kept { value: Arc::new(value), print: print.0.finish() }
    }
}

/// One node: its machines, and what its disk has.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub is_up: bool,
    pub now: Time,
    pub sequencer: Option<Sequencer>,
    pub storage: Option<Storage>,
    pub controller: Option<Controller>,
    /// What the journal was given, of which so much is on disk.
    pub journal: Vec<(Role, DurableEntry)>,
    pub durable: usize,
    /// Views that it has heard of.
    pub views: usize,
    /// It was asked for a view change, in this life.
    pub owes: bool,
}

impl Node {
    fn new(at: usize, incarnation: Incarnation, bounds: &Bounds) -> Node {
        let id = NodeId(at as u64 + 1);
        let sequencer = || Sequencer::new(SequencerConfig::new(id, incarnation, LOGSPACE));
        let storage = || Storage::new(StorageConfig::new(id, LOGSPACE));
        let controller = || Controller::new(ControllerConfig::new(id, LOGSPACE));
        Node {
            id,
            incarnation,
            is_up: true,
            now: Time(1_000_000_000),
            sequencer: (at < bounds.sequencers).then(sequencer),
            storage: (at < bounds.storages).then(storage),
            controller: bounds.controllers.contains(&at).then(controller),
            journal: Vec::new(),
            durable: 0,
            views: 0,
            owes: false,
        }
    }

    /// Whether something waits to be written. A commit index alone makes no write of its own.
    fn is_writing(&self) -> bool {
        self.journal[self.durable..].iter().any(|(_, entry)| !matches!(entry, DurableEntry::Commit { .. }))
    }
}

/// What a node waits for from the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    None,
    Read,
    Swapped,
}

/// A chain on its way to the register, and the life of the node that sent it.
#[derive(Clone)]
pub struct Swap {
    pub chain: Kept<Chain>,
    pub life: Incarnation,
}

pub type Letter = (Address, Address, Message);

/// All of it.
#[derive(Clone)]
pub struct Cluster {
    pub nodes: Vec<Kept<Node>>,
    /// What is on its way, by sender and receiver; the last sender is the engine.
    pub links: Vec<Kept<Vec<Letter>>>,
    pub register: Kept<Chain>,
    pub swaps: Vec<Option<Swap>>,
    pub answers: Vec<Answer>,
    pub truth: Kept<Invariants>,
    /// What is left of the bounds.
    pub bounds: Bounds,
    pub wants: Vec<usize>,
    pub failure: Option<Failure>,
}

impl Hash for Cluster {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.nodes.iter().for_each(|node| node.print.hash(hasher));
        self.links.iter().for_each(|link| link.print.hash(hasher));
        (self.register.print, self.truth.print).hash(hasher);
        for swap in &self.swaps {
            swap.as_ref().map(|swap| (swap.chain.print, swap.life)).hash(hasher);
        }
        (&self.answers, self.bounds, &self.wants, self.failure.is_some()).hash(hasher);
    }
}

impl PartialEq for Cluster {
    fn eq(&self, other: &Cluster) -> bool {
        let print = |cluster: &Cluster| {
            let mut hasher = DefaultHasher::new();
            cluster.hash(&mut hasher);
            hasher.finish()
        };
        print(self) == print(other)
    }
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view {}, {:?}", self.register.value.current().number, self.failure)
    }
}

impl Cluster {
    /// A view with a shard open, and records on their way to it.
    pub fn new(bounds: Bounds) -> Cluster {
        let ids: Vec<NodeId> = (1..=NODES as u64).map(NodeId).collect();
        let chain = first_chain(&ids[..bounds.sequencers], &ids[..bounds.storages]);
        let nodes = (0..NODES).map(|at| Node::new(at, Incarnation(1), &bounds));
        let mut cluster = Cluster {
            nodes: nodes.map(Kept::new).collect(),
            links: vec![Kept::new(Vec::new()); (NODES + 1) * NODES],
            truth: Kept::new(Invariants::new(std::iter::once(chain.clone()))),
            register: Kept::new(chain),
            swaps: vec![None; NODES],
            answers: vec![Answer::None; NODES],
            wants: bounds.controllers.to_vec(),
            bounds,
            failure: None,
        };
        for at in 0..NODES {
            cluster.told(at, false);
            let others = ids.iter().copied().chain([ENGINE]);
            let connected = others.map(|node| Given::Connected { node, incarnation: Incarnation(1) });
            cluster.give(at, connected.collect());
        }
        let engine = Address { node: ENGINE, logspace: LOGSPACE, role: Role::Engine };
        let say = |cluster: &mut Cluster, at: usize, role, message| {
            let to = Address { node: ids[at], logspace: LOGSPACE, role };
            cluster.send(NODES, at, (engine, to, message));
            cluster.settle();
        };
        let replicas = Box::new(cluster.register.value.current().storages);
        let open = EngineIncarnation { node: ENGINE, incarnation: Incarnation(1) };
        say(&mut cluster, 0, Role::Sequencer, Message::OpenShard { engine: open, ordinal: 0, replicas });
        for at in 0..bounds.storages {
            say(&mut cluster, at, Role::Storage, Message::ReplicateOpen { shard: SHARD });
        }
        for (at, id) in ids[..bounds.storages].iter().enumerate() {
            let to = Address { node: *id, logspace: LOGSPACE, role: Role::Storage };
            cluster.send(NODES, at, (engine, to, Message::Replicate { shard: SHARD, first: 0, batches: record() }));
        }
        cluster.play(bounds.scene);
        assert_eq!(cluster.failure, None);
        cluster
    }

    /// What can happen.
    pub fn steps(&self, steps: &mut Vec<Step>) {
        if self.failure.is_some() {
            return;
        }
        for from in 0..=NODES {
            for to in (0..NODES).filter(|to| !self.link(from, *to).value.is_empty()) {
                steps.push(Step::Arrives { from, to });
            }
        }
        for at in 0..NODES {
            let node = &self.nodes[at].value;
            if self.swaps[at].is_some() {
                steps.push(Step::SwapArrives(at));
            }
            if !node.is_up {
                steps.push(Step::Restart(at));
                continue;
            }
            if node.is_writing() {
                steps.push(Step::Written(at));
            }
            if self.answers[at] != Answer::None || node.views < self.register.value.views.len() {
                steps.push(Step::RegisterAnswers(at));
            }
            if self.wants.contains(&at) {
                steps.push(Step::Wanted(at));
            }
            if self.bounds.ticks > 0 && node.deadline().is_some() {
                steps.push(Step::Tick(at));
            }
            if self.bounds.crashes > 0 {
                steps.push(Step::Crash { node: at, written: false });
                if node.is_writing() {
                    steps.push(Step::Crash { node: at, written: true });
                }
            }
            let others = (at + 1..NODES).filter(|other| self.nodes[*other].value.is_up && self.bounds.breaks > 0);
            steps.extend(others.map(|other| Step::Break(at, other)));
        }
    }

    /// What it is after a step. A panic of a machine is a failure.
    pub fn after(&self, step: Step) -> Cluster {
        let mut next = self.clone();
        let step = AssertUnwindSafe(|| next.step(step));
        if let Err(panic) = catch_unwind(step) {
            let text = panic.downcast_ref::<String>().cloned();
            let message = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            next.failure = Some(Failure::Panic { message: message.unwrap_or_default() });
        }
        next
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrives { from, to } => self.arrives(from, to),
            Step::Written(at) => {
                let node = Arc::clone(&self.nodes[at].value);
                let written = (node.durable..node.journal.len()).map(Given::Durable);
                self.give(at, written.collect());
            }
            Step::Wanted(at) => {
                self.wants.retain(|other| *other != at);
                let view = self.register.value.current().number;
                let to = Address { node: self.nodes[at].value.id, logspace: LOGSPACE, role: Role::Controller };
                let message = Message::ViewWanted { view, reason: ViewReason::Requested };
                self.change(at, |node| node.owes = true);
                self.give(at, vec![Given::Letter((to, to, message))]);
            }
            Step::SwapArrives(at) => self.swap_arrives(at),
            Step::RegisterAnswers(at) => {
                let swapped = std::mem::replace(&mut self.answers[at], Answer::None) == Answer::Swapped;
                self.told(at, swapped);
            }
            Step::Crash { node, written } => {
                self.bounds.crashes -= 1;
                self.crash(node, written);
            }
            Step::Restart(at) => self.restart(at),
            Step::Break(one, other) => {
                self.bounds.breaks -= 1;
                for (at, peer) in [(one, other), (other, one)] {
                    *self.link_mut(at, peer) = Kept::new(Vec::new());
                }
                for (at, peer) in [(one, other), (other, one)] {
                    let Node { id: node, incarnation, .. } = *self.nodes[peer].value;
                    self.give(at, vec![Given::Disconnected { node }, Given::Connected { node, incarnation }]);
                }
            }
            Step::Tick(at) => {
                self.bounds.ticks -= 1;
                self.give(at, vec![Given::Tick]);
            }
        }
    }

    /// Whether all that must happen has, and a controller that was asked for another view stands there
    /// without one.
    pub fn is_stuck(&self) -> bool {
        let owes = self.nodes.iter().any(|node| node.value.owes);
        if self.failure.is_some() || !owes || self.register.value.views.len() > 1 {
            return false;
        }
        let mut steps = Vec::new();
        self.steps(&mut steps);
        steps.iter().all(|step| step.is_chance())
    }

    /// All that must happen does, in some order.
    fn settle(&mut self) {
        loop {
            let mut steps = Vec::new();
            self.steps(&mut steps);
            let Some(step) = steps.into_iter().find(|step| !step.is_chance()) else { return };
            self.step(step);
        }
    }

    /// All that the third node has no part in happens, up to where the scene begins.
    fn play(&mut self, scene: Scene) {
        let before = self.truth.value.commits;
        let is_played = |step: &Step| match *step {
            Step::Arrives { from, to } => from != 2 && to != 2,
            Step::Written(at) => at != 2 && scene == Scene::Committed,
            _ => false,
        };
        while scene != Scene::Sent && self.truth.value.commits == before {
            let mut steps = Vec::new();
            self.steps(&mut steps);
            let Some(step) = steps.into_iter().find(is_played) else { return };
            self.step(step);
        }
    }

    fn link(&self, from: usize, to: usize) -> &Kept<Vec<Letter>> {
        &self.links[from * NODES + to]
    }

    pub fn link_mut(&mut self, from: usize, to: usize) -> &mut Kept<Vec<Letter>> {
        &mut self.links[from * NODES + to]
    }

    /// Puts a letter on its way, if there is a connection.
    pub fn send(&mut self, from: usize, to: usize, letter: Letter) {
        if self.nodes[to].value.is_up {
            let mut letters = Vec::clone(&self.link(from, to).value);
            letters.push(letter);
            *self.link_mut(from, to) = Kept::new(letters);
        }
    }

    fn arrives(&mut self, from: usize, to: usize) {
        let mut letters = VecDeque::from(Vec::clone(&self.link(from, to).value));
        let arrived = if from == NODES { 1 } else { letters.len() };
        let given = letters.drain(..arrived).map(Given::Letter).collect();
        *self.link_mut(from, to) = Kept::new(Vec::from(letters));
        self.give(to, given);
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(&self.nodes[at].value);
        change(&mut node);
        self.nodes[at] = Kept::new(node);
    }

    pub fn fail(&mut self, result: Result<(), Failure>) {
        if let (Err(failure), None) = (result, &self.failure) {
            self.failure = Some(failure);
        }
    }

    /// A turn of a node.
    fn give(&mut self, at: usize, given: Vec<Given>) {
        let node = Node::clone(&self.nodes[at].value);
        let truth = Invariants::clone(&self.truth.value);
        let (node, truth) = Turn::new(self, at, node, truth).run(given);
        self.nodes[at] = Kept::new(node);
        self.truth = Kept::new(truth);
    }

    /// A node hears what the register holds.
    fn told(&mut self, at: usize, swapped: bool) {
        let chain = Arc::clone(&self.register.value);
        self.change(at, |node| node.views = chain.views.len());
        self.give(at, vec![Given::Chain { chain, swapped }]);
    }

    fn swap_arrives(&mut self, at: usize) {
        let Some(Swap { chain, life }) = self.swaps[at].take() else { return };
        if extends(&self.register.value, &chain.value) {
            let mut truth = Invariants::clone(&self.truth.value);
            let installed = truth.installed(&chain.value);
            self.truth = Kept::new(truth);
            self.fail(installed);
            self.register = chain;
        }
        let node = &self.nodes[at].value;
        if node.is_up && node.incarnation == life {
            self.answers[at] = Answer::Swapped;
        }
    }

    fn crash(&mut self, at: usize, written: bool) {
        let stopped = Arc::clone(&self.nodes[at].value);
        let bounds = self.bounds;
        self.change(at, |node| {
            let mut journal = std::mem::take(&mut node.journal);
            if !written {
                journal.truncate(node.durable);
            }
            let (next, now) = (Incarnation(node.incarnation.0 + 1), node.now);
            *node = Node::new(at, next, &bounds);
            (node.is_up, node.now, node.durable, node.journal) = (false, now, journal.len(), journal);
        });
        self.answers[at] = Answer::None;
        for other in (0..NODES).filter(|other| *other != at) {
            *self.link_mut(at, other) = Kept::new(Vec::new());
            *self.link_mut(other, at) = Kept::new(Vec::new());
            if self.nodes[other].value.is_up {
                self.give(other, vec![Given::Disconnected { node: stopped.id }]);
            }
        }
        *self.link_mut(NODES, at) = Kept::new(Vec::new());
    }

    fn restart(&mut self, at: usize) {
        let mut recovered = Ok(());
        self.change(at, |node| {
            recovered = recover(node);
            node.is_up = true;
        });
        let node = Arc::clone(&self.nodes[at].value);
        let mut truth = Invariants::clone(&self.truth.value);
        let address = |role| Address { node: node.id, logspace: LOGSPACE, role };
        self.fail(recovered);
        if let Some(storage) = &node.storage {
            let looked = truth.storage_recovered(address(Role::Storage), node.incarnation.0 > 1, storage);
            self.fail(looked);
        }
        if let Some(sequencer) = &node.sequencer {
            let looked = truth.sequencer_recovered(address(Role::Sequencer), node.incarnation.0 > 1, sequencer);
            self.fail(looked);
        }
        self.truth = Kept::new(truth);
        self.told(at, false);
        let Node { id, incarnation, .. } = *node;
        self.give(at, vec![Given::Connected { node: id, incarnation }]);
        for other in (0..NODES).filter(|other| *other != at) {
            let peer = Arc::clone(&self.nodes[other].value);
            if peer.is_up {
                self.give(other, vec![Given::Connected { node: id, incarnation }]);
                self.give(at, vec![Given::Connected { node: peer.id, incarnation: peer.incarnation }]);
            }
        }
        self.give(at, vec![Given::Connected { node: ENGINE, incarnation: Incarnation(1) }]);
    }
}

fn first_chain(sequencers: &[NodeId], storages: &[NodeId]) -> Chain {
    let set = |nodes| NodeSet::new(nodes).expect("few distinct nodes");
    let view = View {
        number: ViewNumber(1),
        primary: sequencers[0],
        primary_incarnation: Incarnation(1),
        sequencers: set(sequencers),
        storages: set(storages),
        write_quorum: storages.len() as u8 / 2 + 1,
        replicas: storages.len() as u8,
        moves: Vec::new(),
        cause: Default::default(),
    };
    let settings = ClusterSettings::new(ClusterId(1), 1);
    Chain { settings, logspace: LOGSPACE, views: vec![view], ends: Vec::new() }
}

/// A batch of one record, the first of its shard.
fn record() -> Bytes {
    let head = BatchHead {
        logbook: LogBookId(3),
        session: SessionId(4),
        request: RequestNumber(1),
        lowest_unanswered: RequestNumber(1),
        time_ms: 0,
        condition: None,
    };
    let mut out = Vec::new();
    write_batch(&mut out, 0, &head, &[NewRecord { tags: &[Tag(7)], payload: b"" }]).expect("a small batch");
    set_place(&mut out, PlaceScope::Shard(SHARD), 0);
    out.into()
}
