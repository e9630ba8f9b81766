//! The world: everything simulated, and the one loop that takes events in time order.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use sealog::ConnectionError;
use sealog_history::Line;
use sealog_journal::{FooterChunk, ScrubRead, WantedSegment};
use sealog_protocol::machine::{ConnectionId, ReadFailure};
use sealog_protocol::message::decode;
use sealog_protocol::view::Chain;
use sealog_protocol::{LogspaceId, Members, Time};

use crate::client::{Client, Link, Recorder};
use crate::clock::Clock;
use crate::faults::{Faults, Heal};
use crate::invariants::{Invariants, SeenRecords, frame_name};
use crate::network::{ConnectionIndex, Network, Sent};
use crate::node::{Effect, Node, NodeInput, Owner};
use crate::queue::{Instant, MICROSECOND, MILLISECOND, Queue};
use crate::register::Register;
use crate::swarm::{NodeIndex, Plan};
use crate::trace::Trace;
use crate::violation::Failure;
use crate::workload::{Book, books};

/// How often the world looks for connections that are silent.
const WATCH: Instant = 25 * MILLISECOND;

/// What happens at a time. `life` is the node's incarnation that it is meant for.
#[derive(Debug)]
pub enum Event {
    Turn { node: NodeIndex, life: u64 },
    Timer { node: NodeIndex, life: u64 },
    Frame { connection: ConnectionIndex, end: usize, frame: Bytes },
    Opened { connection: ConnectionIndex, end: usize },
    Closed { connection: ConnectionIndex, end: usize },
    Dial { one: NodeIndex, other: NodeIndex },
    Written { node: NodeIndex, life: u64, write: u64 },
    ReadDone { node: NodeIndex, life: u64, owner: Owner, ticket: u64, read: Option<Bytes> },
    FooterRead { node: NodeIndex, life: u64, owner: Owner, ticket: u64, chunk: FooterChunk, read: Option<Bytes> },
    Scrubbed { node: NodeIndex, life: u64, read: ScrubRead, content: Option<Bytes> },
    Prepared { node: NodeIndex, life: u64, wanted: WantedSegment },
    SwapArrives { chain: Box<Chain> },
    RegisterAnswers { node: NodeIndex, life: u64, logspace: LogspaceId, swapped: bool },
    ClientWakes { client: usize },
    ClientDialed { client: usize, epoch: u64, node: NodeIndex },
    ToNode { client: usize, epoch: u64, bytes: Vec<u8> },
    ToClient { client: usize, epoch: u64, bytes: Vec<u8> },
    ClientLost { client: usize, epoch: u64 },
    NodeLostClient { node: NodeIndex, life: u64, connection: ConnectionId },
    Fault,
    ControllerDies,
    MembersChanged { node: NodeIndex, life: u64 },
    OperatorLooks { node: NodeIndex },
    OperatorActs { node: NodeIndex, members: Box<Members> },
    Heal(Heal),
    Watch,
}

pub struct World {
    pub now: Instant,
    pub plan: Plan,
    pub rng: Rng,
    pub queue: Queue<Event>,
    pub trace: Trace,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub register: Register,
    pub clients: Vec<Client>,
    pub client_connections: BTreeMap<(NodeIndex, ConnectionId), (usize, u64)>,
    pub books: Vec<Book>,
    pub recorder: Recorder,
    pub invariants: Invariants,
    pub(crate) seen: SeenRecords,
    pub faults: Faults,
    /// Clients go on submitting.
    pub submitting: bool,
    /// Pairs of nodes, lower first, for which a dial is scheduled.
    dialing: Vec<bool>,
    effects: Vec<Effect>,
}

impl World {
    pub fn new(plan: Plan, trace: Trace) -> Result<World, Failure> {
        let mut rng = Rng::with_seed(plan.seed);
        let nodes: Vec<Node> =
            (0..plan.nodes.len()).map(|at| Node::new(&plan, NodeIndex(at), Clock::new(rng.u64(800..1250)))).collect();
        let clients = (0..plan.load.clients).map(|at| Client::new(&plan, Line(at as u32), &mut rng)).collect();
        let mut world = World {
            now: MILLISECOND,
            queue: Queue::default(),
            trace,
            network: Network::new(nodes.len(), plan.network),
            register: Register::new(&plan),
            dialing: vec![false; nodes.len() * nodes.len()],
            nodes,
            clients,
            client_connections: BTreeMap::new(),
            books: books(&plan.load, plan.settings.memory_logspaces > 0, &mut rng),
            recorder: Recorder::new(&plan),
            invariants: Invariants::new(&plan),
            seen: SeenRecords::default(),
            faults: Faults::new(&plan),
            submitting: true,
            effects: Vec::new(),
            rng,
            plan,
        };
        for at in 0..world.nodes.len() {
            world.start_node(NodeIndex(at))?;
        }
        for client in 0..world.clients.len() {
            world.wake_client(client, world.now);
        }
        world.queue.push(world.now + WATCH, Event::Watch);
        Ok(world)
    }

    /// Takes events until `done` says so; false when there are none or it takes longer than `until`.
    pub fn run(&mut self, until: Instant, mut done: impl FnMut(&World) -> bool) -> Result<bool, Failure> {
        while !done(self) {
            if self.queue.next_at().is_none_or(|at| at > until) {
                self.now = self.now.max(until);
                return Ok(false);
            }
            let (at, event) = self.queue.pop().expect("looked at above");
            self.now = self.now.max(at);
            self.event(event)?;
        }
        Ok(true)
    }

    fn event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Turn { node, life } => self.turn(node, life),
            Event::Timer { node, life } => {
                let now = self.now;
                if let Some(life) = self.life(node, life).filter(|life| life.timer == Some(now)) {
                    life.timer = None;
                    self.schedule_turn(node);
                }
                Ok(())
            }
            Event::Frame { connection, end, frame } => self.frame(connection, end, &frame),
            Event::Opened { connection, end } => {
                self.opened(connection, end);
                Ok(())
            }
            Event::Closed { connection, end } => {
                let ends = &self.network.connections[connection.0];
                let (node, life, peer) = (ends.ends[end], ends.lives[end], self.nodes[ends.ends[1 - end].0].id);
                self.input(node, life, NodeInput::Disconnected { node: peer, connection });
                Ok(())
            }
            Event::Dial { one, other } => {
                self.dial(one, other);
                Ok(())
            }
            Event::Written { node, life, write } => {
                if self.life(node, life).is_some() {
                    let write = self.nodes[node.0].disk.complete(write);
                    self.trace.event(self.now, &[2, node.0 as u64, write.id, write.offset], || {
                        format!("{} disk: segment {} offset {} written", node.0, write.segment, write.offset)
                    });
                    self.input(node, life, NodeInput::Written(write));
                }
                Ok(())
            }
            Event::ReadDone { node, life, owner, ticket, read } => {
                let failed = self.rng.u8(0..100) < self.nodes[node.0].read_errors;
                let result = read.filter(|_| !failed).ok_or(ReadFailure::Corrupt);
                self.input(node, life, NodeInput::Read { owner, ticket, result });
                Ok(())
            }
            Event::FooterRead { node, life, owner, ticket, chunk, read } => {
                let tags = read.ok_or(ReadFailure::Corrupt).and_then(|read| chunk.tags(&read));
                let (first, result) = match tags {
                    Ok((first, entries)) => (first, Ok(entries)),
                    Err(failure) => (0, Err(failure)),
                };
                self.input(node, life, NodeInput::TagsRead { owner, ticket, first, result });
                Ok(())
            }
            Event::Scrubbed { node, life, read, content } => {
                self.input(node, life, NodeInput::Scrubbed { read, content });
                Ok(())
            }
            Event::Prepared { node, life, wanted } => {
                if self.life(node, life).is_some() {
                    let bytes = self.plan.journal.segment_bytes;
                    let ready = self.nodes[node.0].disk.prepare(wanted, bytes);
                    self.input(node, life, NodeInput::SegmentPrepared { segment: wanted.segment, ready });
                }
                Ok(())
            }
            Event::SwapArrives { chain } => self.swap_arrives(&chain),
            Event::RegisterAnswers { node, life, logspace, swapped } => {
                if self.now < self.nodes[node.0].register_deaf_until {
                    let at = self.now + 5 * MILLISECOND;
                    self.queue.push(at, Event::RegisterAnswers { node, life, logspace, swapped });
                    return Ok(());
                }
                let chain = Box::new(self.register.chain(logspace));
                self.input(node, life, NodeInput::Chain { chain, swapped });
                Ok(())
            }
            Event::ClientWakes { client } => {
                if self.clients[client].wake <= self.now {
                    self.clients[client].wake = Instant::MAX;
                    return self.client_step(client);
                }
                Ok(())
            }
            Event::ClientDialed { client, epoch, node } => self.client_dialed(client, epoch, node),
            Event::ToNode { client, epoch, bytes } => {
                if let Link::Up { node, life, connection } = self.clients[client].link
                    && self.clients[client].epoch == epoch
                {
                    self.trace.event(self.now, &[14, client as u64, bytes.len() as u64], || {
                        format!("{} gets {} bytes from client {client} on {connection:?}", node.0, bytes.len())
                    });
                    self.input(node, life, NodeInput::ClientBytes { connection, bytes });
                }
                Ok(())
            }
            Event::ToClient { client, epoch, bytes } => {
                if self.clients[client].epoch != epoch {
                    return Ok(());
                }
                self.trace.event(self.now, &[3, client as u64, bytes.len() as u64], || {
                    format!("client {client} gets {} bytes", bytes.len())
                });
                let now = Time(self.now);
                match self.clients[client].session.receive(now, &bytes) {
                    Ok(()) => {}
                    // It goes to another node.
                    Err(reason @ ConnectionError::Refused { .. }) => self.drop_client(client, reason),
                    Err(error) => return Err(Failure::ClientError { error: error.to_string() }),
                }
                self.client_step(client)
            }
            Event::ClientLost { client, epoch } => {
                if self.clients[client].epoch == epoch {
                    self.clients[client].link = Link::Down;
                    self.clients[client].epoch += 1;
                    self.clients[client].session.disconnected(Time(self.now), ConnectionError::Closed);
                    return self.client_step(client);
                }
                Ok(())
            }
            Event::NodeLostClient { node, life, connection } => {
                self.client_connections.remove(&(node, connection));
                self.input(node, life, NodeInput::ClientClosed { connection });
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::ControllerDies => {
                self.controller_dies();
                Ok(())
            }
            Event::MembersChanged { node, life } => {
                let members = Box::new(self.register.members());
                self.input(node, life, NodeInput::Members(members));
                Ok(())
            }
            Event::OperatorLooks { node } => {
                self.operator_looks(node);
                Ok(())
            }
            Event::OperatorActs { node, members } => {
                self.operator_acts(node, &members);
                Ok(())
            }
            Event::Heal(heal) => self.heal(heal),
            Event::Watch => {
                self.watch();
                self.queue.push(self.now + WATCH, Event::Watch);
                Ok(())
            }
        }
    }

    // Nodes.

    pub fn start_node(&mut self, node: NodeIndex) -> Result<(), Failure> {
        let chains = self.plan.logspaces().map(|logspace| self.register.chain(logspace)).collect();
        self.nodes[node.0].start(&self.plan, self.register.members(), chains)?;
        let incarnation = self.nodes[node.0].incarnation.0;
        self.trace.event(self.now, &[4, node.0 as u64, incarnation], || {
            let started = &self.nodes[node.0];
            format!("{} starts: node {}, life {incarnation}, {:?}", node.0, started.id, started.roles)
        });
        self.invariants.after_recovery(&self.nodes[node.0])?;
        self.schedule_turn(node);
        for other in (0..self.nodes.len()).map(NodeIndex).filter(|other| *other != node) {
            self.schedule_dial(node, other);
        }
        Ok(())
    }

    /// The node's life, if it is still this one.
    fn life(&mut self, node: NodeIndex, life: u64) -> Option<&mut crate::node::Life> {
        let node = &mut self.nodes[node.0];
        if node.incarnation.0 == life { node.life.as_deref_mut() } else { None }
    }

    pub fn is_alive(&self, node: NodeIndex) -> bool {
        self.nodes[node.0].life.is_some()
    }

    pub fn input(&mut self, node: NodeIndex, life: u64, input: NodeInput) {
        if let Some(life) = self.life(node, life) {
            life.inbox.push(input);
            self.schedule_turn(node);
        }
    }

    pub fn schedule_turn(&mut self, node: NodeIndex) {
        let at = (self.now + self.plan.turn.draw(&mut self.rng)).max(self.nodes[node.0].paused_until);
        let incarnation = self.nodes[node.0].incarnation.0;
        let Some(life) = &mut self.nodes[node.0].life else { return };
        if !std::mem::replace(&mut life.turn_scheduled, true) {
            self.queue.push(at, Event::Turn { node, life: incarnation });
        }
    }

    fn turn(&mut self, node: NodeIndex, life: u64) -> Result<(), Failure> {
        if self.life(node, life).is_none() {
            return Ok(());
        }
        let paused_until = self.nodes[node.0].paused_until;
        if self.now < paused_until {
            self.queue.push(paused_until, Event::Turn { node, life });
            return Ok(());
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.nodes[node.0].turn(&self.plan, self.now, &mut effects)?;
        self.trace.event(self.now, &[1, node.0 as u64, effects.len() as u64], || {
            let places: Vec<String> =
                self.plan.logspaces().map(|logspace| self.invariants.place(logspace).to_string()).collect();
            format!("{} turn: {} effects; committed {}", node.0, effects.len(), places.join(" "))
        });
        for effect in effects.drain(..) {
            self.effect(node, life, effect)?;
        }
        self.effects = effects;
        self.invariants.after_turn(&self.nodes[node.0])?;
        let again = self.life(node, life).is_some_and(|life| !life.inbox.is_empty());
        if again {
            self.schedule_turn(node);
        }
        self.schedule_timer(node);
        Ok(())
    }

    pub fn schedule_timer(&mut self, node: NodeIndex) {
        let Some(deadline) = self.nodes[node.0].deadline() else { return };
        let at = deadline.max(self.now + 20 * MICROSECOND);
        let life = self.nodes[node.0].incarnation.0;
        let scheduled = self.life(node, life).expect("it has deadlines").timer;
        if scheduled.is_none_or(|scheduled| at < scheduled) {
            self.life(node, life).expect("it has deadlines").timer = Some(at);
            self.queue.push(at, Event::Timer { node, life });
        }
    }

    fn effect(&mut self, node: NodeIndex, life: u64, effect: Effect) -> Result<(), Failure> {
        let now = self.now;
        match effect {
            Effect::Frame { connection, frame } => {
                if let Sent::Arrives(at) = self.network.send(now, connection, node, &frame, &mut self.rng) {
                    let end = 1 - self.network.connections[connection.0].end(node);
                    self.queue.push(at, Event::Frame { connection, end, frame });
                }
            }
            Effect::Reply { connection, bytes } => self.reply(node, connection, bytes),
            Effect::CloseClient { connection, error } => {
                return Err(Failure::BadFrame { reason: format!("node {} closed {connection:?}: {error}", node.0) });
            }
            Effect::Write(write) => {
                let factor = self.nodes[node.0].disk_factor;
                let at = now + self.plan.disk_write.draw(&mut self.rng) * factor;
                self.queue.push(at, Event::Written { node, life, write: write.id });
                self.nodes[node.0].disk.submit(write);
            }
            Effect::Read { owner, ticket, at, bytes } => {
                let when = now + self.plan.disk_read.draw(&mut self.rng) * self.nodes[node.0].disk_factor;
                // A file that is read is not used again before the read has ended.
                let read = self.nodes[node.0].disk.read(at.segment, at.byte_offset(), bytes as usize);
                self.queue.push(when, Event::ReadDone { node, life, owner, ticket, read });
            }
            Effect::ReadFooter { owner, ticket, chunk } => {
                let when = now + self.plan.disk_read.draw(&mut self.rng) * self.nodes[node.0].disk_factor;
                let read = self.nodes[node.0].disk.read(chunk.segment, chunk.offset, chunk.bytes);
                self.queue.push(when, Event::FooterRead { node, life, owner, ticket, chunk, read });
            }
            Effect::Scrub(read) => {
                let when = now + self.plan.disk_read.draw(&mut self.rng) * self.nodes[node.0].disk_factor;
                let content = self.nodes[node.0].disk.read(read.segment, read.offset, read.bytes);
                self.queue.push(when, Event::Scrubbed { node, life, read, content });
            }
            Effect::Prepare { wanted } => {
                let at = now + self.rng.u64(MICROSECOND..3 * MILLISECOND);
                self.queue.push(at, Event::Prepared { node, life, wanted });
            }
            Effect::Remove { segment } => self.nodes[node.0].disk.remove(segment),
            Effect::Swap { chain } => {
                let fate = self.register.fate(now, &mut self.rng);
                let logspace = chain.logspace;
                if let Some(at) = fate.arrives {
                    self.queue.push(at, Event::SwapArrives { chain });
                }
                self.queue.push(fate.answered, Event::RegisterAnswers { node, life, logspace, swapped: true });
            }
            Effect::ReadRegister { logspace } => {
                let at = now + self.register.delay(now, &mut self.rng);
                self.queue.push(at, Event::RegisterAnswers { node, life, logspace, swapped: false });
            }
            Effect::Appended { owner, entry } => {
                self.invariants.appended(self.nodes[node.0].id, owner, &entry)?;
            }
            Effect::Spoke { owner, view } => self.invariants.spoke(self.nodes[node.0].id, owner, view)?,
            Effect::SealSaid { owner, view } => self.invariants.seal_said(self.nodes[node.0].id, owner, view),
        }
        Ok(())
    }

    fn swap_arrives(&mut self, chain: &Chain) -> Result<(), Failure> {
        let taken = self.register.swap(chain);
        let view = chain.current().number.0;
        self.trace.event(self.now, &[5, u64::from(view), u64::from(taken)], || {
            let current = chain.current();
            format!(
                "register: logspace {} view {view}, end of the last {:?}, primary {} life {}: taken {taken}",
                chain.logspace,
                chain.ends.last(),
                current.primary,
                current.primary_incarnation
            )
        });
        if !taken {
            return Ok(());
        }
        self.invariants.installed(chain)?;
        self.look_at_replaced(chain)?;
        for node in (0..self.nodes.len()).map(NodeIndex) {
            let at = self.now + self.register.delay(self.now, &mut self.rng);
            let life = self.nodes[node.0].incarnation.0;
            self.queue.push(at, Event::RegisterAnswers { node, life, logspace: chain.logspace, swapped: false });
        }
        Ok(())
    }

    /// Who is in the view before and not in this one: drained once, or perhaps lost for long.
    fn look_at_replaced(&self, chain: &Chain) -> Result<(), Failure> {
        if self.plan.limits.replace_lost < Duration::from_secs(100) {
            return Ok(());
        }
        let [.., before, now] = chain.views.as_slice() else { return Ok(()) };
        let sets = [(before.sequencers, now.sequencers), (before.storages, now.storages)];
        for (before, now) in sets {
            let mut gone = before.iter().filter(|node| !now.contains(*node));
            if let Some(node) = gone.find(|node| !self.faults.drained.contains(node)) {
                return Err(Failure::ReplacedForNothing { node, view: chain.current().number });
            }
        }
        Ok(())
    }

    // The network between nodes.

    fn frame(&mut self, connection: ConnectionIndex, end: usize, frame: &Bytes) -> Result<(), Failure> {
        if !self.network.arrives(connection, end, self.now) {
            return Ok(());
        }
        let ends = &self.network.connections[connection.0];
        let (node, life) = (ends.ends[end], ends.lives[end]);
        let (from, to, message) = decode(frame).map_err(|error| Failure::BadFrame { reason: error.to_string() })?;
        self.trace.event(self.now, &[6, node.0 as u64, frame_name(frame)], || {
            let mut text = format!("{message:?}");
            text.truncate(text.char_indices().nth(300).map_or(text.len(), |(at, _)| at));
            format!("{} gets from {from:?} to {to:?}: {text}", node.0)
        });
        self.input(node, life, NodeInput::Message { connection, from, to, message });
        Ok(())
    }

    pub fn schedule_dial(&mut self, one: NodeIndex, other: NodeIndex) {
        let (one, other) = (one.min(other), one.max(other));
        if !std::mem::replace(&mut self.dialing[one.0 * self.nodes.len() + other.0], true) {
            let at = self.now + self.rng.u64(100 * MICROSECOND..15 * MILLISECOND);
            self.queue.push(at, Event::Dial { one, other });
        }
    }

    fn dial(&mut self, one: NodeIndex, other: NodeIndex) {
        self.dialing[one.0 * self.nodes.len() + other.0] = false;
        if !self.is_alive(one) || !self.is_alive(other) || self.network.living(one, other).is_some() {
            return;
        }
        if self.is_silent(one, other) {
            self.schedule_dial(one, other);
            return;
        }
        let lives = [one, other].map(|node| self.nodes[node.0].incarnation.0);
        let (connection, at) = self.network.connect(self.now, [one, other], lives, &mut self.rng);
        for (end, at) in at.into_iter().enumerate() {
            self.queue.push(at, Event::Opened { connection, end });
        }
    }

    fn opened(&mut self, connection: ConnectionIndex, end: usize) {
        let ends = &self.network.connections[connection.0];
        let (node, life, peer) = (ends.ends[end], ends.lives[end], ends.ends[1 - end]);
        let incarnation = sealog_protocol::Incarnation(ends.lives[1 - end]);
        self.trace.event(self.now, &[7, node.0 as u64, connection.0 as u64], || {
            format!("{} connected to {}, life {incarnation}", node.0, peer.0)
        });
        let peer = self.nodes[peer.0].id;
        self.input(node, life, NodeInput::Connected { node: peer, incarnation, connection });
    }

    /// Whether one of two nodes hears nothing of the other.
    pub fn is_silent(&self, one: NodeIndex, other: NodeIndex) -> bool {
        self.network.is_blocked(one, other)
            || self.network.is_blocked(other, one)
            || [one, other].iter().any(|node| self.nodes[node.0].paused_until > self.now)
    }

    /// Breaks the living connection of two nodes; it is dialed again after a while.
    pub fn break_connection(&mut self, one: NodeIndex, other: NodeIndex) {
        let Some(connection) = self.network.living(one, other) else { return };
        let Some(at) = self.network.break_connection(self.now, connection, &mut self.rng) else { return };
        for (end, at) in at.into_iter().enumerate() {
            self.queue.push(at, Event::Closed { connection, end });
        }
        self.schedule_dial(one, other);
    }

    /// Lets go what was held on the way from one node to another.
    pub fn release(&mut self, from: NodeIndex, to: NodeIndex) {
        let Some((connection, frames)) = self.network.release(self.now, from, to, &mut self.rng) else { return };
        let end = self.network.connections[connection.0].end(to);
        for (at, frame) in frames {
            self.queue.push(at, Event::Frame { connection, end, frame });
        }
    }
}
