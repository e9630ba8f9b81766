//! The machines of one executor as its driver meets them: inputs in, messages between them
//! delivered until nothing moves, and what leaves the executor as actions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sealog_protocol::batch::Batch;
use sealog_protocol::client::{ClientHello, ErrorCode, Reply, Request, Welcome, decode_request};
use sealog_protocol::frame::{Frame, FrameError, FrameKind};
use sealog_protocol::holdings::Holdings;
use sealog_protocol::machine::{
    Address, ConnectionId, Input, JournalPlace, Output, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::members::{Member, MemberState, Members};
use sealog_protocol::message::Message;
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogBookId, LogspaceId, NodeId, Time};
use sealog_runtime::{Action, Damage, ExecutorContext, ExecutorId, Host, HostError, Owner, PeerCuts, PeersNow, Rotten};

use crate::cluster_status::ClusterFacts;
use crate::machines::{Machines, Placement, RoleMachine};
use crate::readiness::Readiness;
use crate::register_thread::{RegisterRequest, RegisterTold, RegisterWish, RegisterWishes};
use crate::status::{NodeFacts, StatusPart, StatusRounds};

mod operating;

use operating::Operations;

/// What comes to a host from other threads.
pub enum Event {
    /// What a register holds now; `swapped`: after a compare-and-swap of this machine.
    Chain {
        chain: Arc<Chain>,
        swapped: Option<Address>,
    },
    /// The nodes of the cluster as a register holds them now.
    Members(Arc<Members>),
    /// Whom the connections of this node are with, by the same. For the executor that holds them.
    Peers(Box<PeersNow>),
    /// Whom this node is cut off from, on purpose. For the executor that holds the connections.
    Cuts(Box<PeerCuts>),
    /// Another executor collects the node's status.
    StatusWanted {
        by: ExecutorId,
        round: u64,
    },
    /// What an executor said to that.
    StatusTold {
        round: u64,
        part: StatusPart,
    },
    /// Another executor wants to know where copies are, for an operator.
    HoldingsWanted {
        by: ExecutorId,
        round: u64,
    },
    HoldingsTold {
        round: u64,
        holdings: Vec<(LogspaceId, Holdings)>,
    },
    /// What the register said, for an operator.
    RegisterTold {
        round: u64,
        told: Box<RegisterTold>,
    },
}

/// What a host is made with, besides its executor's context.
#[derive(Clone)]
pub struct HostConfig {
    pub facts: Arc<NodeFacts>,
    pub placement: Placement,
    /// The newest that is known of each logspace.
    pub chains: Arc<Vec<Chain>>,
    /// The nodes of the cluster, where the register has them.
    pub members: Option<Arc<Members>>,
    pub register: RegisterWishes,
    pub readiness: Arc<Readiness>,
    /// Why the node stops by itself.
    pub ending: Arc<OnceLock<String>>,
}

/// The machines of one executor.
pub struct NodeHost {
    config: HostConfig,
    context: ExecutorContext<Event>,
    node: NodeId,
    incarnation: Incarnation,
    machines: Machines,
    outputs: Outputs,
    /// What the machines want from the driver, until the next flush takes it.
    actions: Vec<Action>,
    /// Messages between machines of this executor, in order.
    local: VecDeque<(Address, Address, Message)>,
    status: StatusRounds,
    /// The status as it was told in a turn, by its time.
    status_of_turn: Option<(Time, String)>,
    operations: Operations,
    /// Since when nodes of the cluster are not connected.
    lost_since: BTreeMap<NodeId, Time>,
    /// Why recovery failed, told at the start.
    unrecoverable: Option<String>,
    ready: bool,
}

impl NodeHost {
    pub fn new(config: HostConfig, context: ExecutorContext<Event>, machines: Machines) -> NodeHost {
        NodeHost {
            node: config.facts.node,
            incarnation: config.facts.incarnation,
            config,
            context,
            machines,
            outputs: Outputs::default(),
            actions: Vec::new(),
            local: VecDeque::new(),
            status: StatusRounds::default(),
            status_of_turn: None,
            operations: Operations::default(),
            lost_since: BTreeMap::new(),
            unrecoverable: None,
            ready: false,
        }
    }

    fn handle(&mut self, now: Time, at: usize, input: Input<'_>) {
        let slot = self.machines.slot(at);
        slot.dirty = true;
        slot.machine.handle(now, input, &mut self.outputs);
        self.route(at);
    }

    fn handle_owner(&mut self, now: Time, owner: Owner, input: Input<'_>) {
        let at = self.machines.find(owner.0, owner.1).expect("the driver answers machines that are here");
        self.handle(now, at, input);
    }

    fn deliver(&mut self, now: Time, from: Address, to: Address, message: Message) {
        match self.machines.find(to.logspace, to.role).filter(|_| to.node == self.node) {
            Some(at) => self.handle(now, at, Input::Message { from, message }),
            None => tracing::debug!(?to, "dropped a message to a machine that is not here"),
        }
    }

    /// Takes what a machine said to where it belongs.
    fn route(&mut self, at: usize) {
        if self.outputs.is_empty() {
            return;
        }
        let from = self.machines.slots()[at].address;
        let owner = (from.logspace, from.role);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain() {
            match output {
                Output::Send { to, message } => self.send(from, to, message),
                Output::Reply { connection, request, reply } => {
                    self.actions.push(Action::Reply { connection, request, reply });
                }
                Output::Append(entry) => self.actions.push(Action::Append { owner, entry }),
                Output::Read { ticket, at, bytes } => {
                    self.actions.push(Action::Read { owner, ticket, at, bytes });
                }
                Output::ReadTags { ticket, shard, segment, from } => {
                    self.actions.push(Action::ReadTags { owner, ticket, shard, segment, from });
                }
                Output::Release { segment } => self.actions.push(Action::Release { owner, segment }),
                Output::CompareAndSwap { chain } => self.ask_register(from, RegisterWish::Swap(chain)),
                Output::ReadRegister => self.ask_register(from, RegisterWish::Read),
            }
        }
        self.outputs = outputs;
    }

    fn send(&mut self, from: Address, to: Address, message: Message) {
        if to.node != self.node {
            // Lost when there is no connection, which the machine knows.
            self.actions.push(Action::SendToNode { from, to, message });
            return;
        }
        let executor = self.config.placement.executor(to.logspace, to.role);
        if executor == self.context.executor {
            self.local.push_back((from, to, message));
        } else {
            self.actions.push(Action::Send { executor, from, to, message });
        }
    }

    fn ask_register(&mut self, from: Address, wish: RegisterWish) {
        let request = RegisterRequest { from, wish, poster: self.context.poster.clone() };
        self.config.register.ask(request);
    }

    fn chain(&mut self, now: Time, chain: &Chain, swapped: Option<Address>) {
        let known = self.config.chains.get(usize::from(chain.logspace.0));
        if known.is_some_and(|known| known.views.len() < chain.views.len()) {
            Arc::make_mut(&mut self.config.chains)[usize::from(chain.logspace.0)] = chain.clone();
            if chain.current().cause.after_loss && self.context.executor == ExecutorId(0) {
                tracing::warn!(
                    logspace = chain.logspace.0,
                    view = chain.current().number.0,
                    "too many nodes of this logspace of class memory stopped at once: what was acknowledged in the \
                     view before and was not yet written may be lost; what is left is in order, and appends go on"
                );
            }
        }
        for at in 0..self.machines.slots().len() {
            let address = self.machines.slots()[at].address;
            if address.logspace != chain.logspace {
                continue;
            }
            if swapped == Some(address) {
                self.handle(now, at, Input::Swapped);
            }
            self.handle(now, at, Input::Chain(chain));
        }
    }

    /// The register is read and watched on two ways: what one of them saw earlier may come later.
    fn members(&mut self, now: Time, members: Arc<Members>) {
        if self.config.members.as_ref().is_some_and(|known| known.version >= members.version) {
            return;
        }
        for at in 0..self.machines.slots().len() {
            self.handle(now, at, Input::Members(&members));
        }
        if let Some(reason) = self.superseded(&members) {
            tracing::error!(reason, "this node stops");
            // The first reason is the one that is told.
            let _ = self.config.ending.set(reason);
            self.context.poster.stop();
        }
        self.config.members = Some(members);
    }

    /// Why this life of the node is over, if the members say so.
    fn superseded(&self, members: &Members) -> Option<String> {
        let own = members.get(self.node)?;
        let node = self.node;
        if own.state.is_removed() {
            return Some(format!(
                "node {node} was removed from the cluster: its data directory is not needed any more"
            ));
        }
        (own.incarnation > self.incarnation).then(|| {
            let (ours, newest, address) = (self.incarnation, own.incarnation, &own.peer_address);
            format!(
                "life {newest} of node {node} has begun at {address}, and this is life {ours}: its data directory was \
                 copied, or is used twice. Keep the one whose data is the newest"
            )
        })
    }

    /// What is said to a client whose request is for an engine, on a node that runs none.
    fn no_engine(&self) -> Reply {
        let members = self.config.members.as_deref();
        let engines = members.into_iter().flat_map(|members| members.with_role(Role::Engine));
        let addresses: Vec<&str> = engines.map(|member| &*member.client_address).collect();
        let where_to = if addresses.is_empty() { "no node does".to_owned() } else { addresses.join(", ") };
        let message = format!("this node runs no engine; connect to one that does: {where_to}");
        Reply::Error { code: ErrorCode::Unavailable, message }
    }

    fn flush_machines(&mut self, now: Time) {
        loop {
            for at in 0..self.machines.slots().len() {
                let slot = self.machines.slot(at);
                if std::mem::take(&mut slot.dirty) {
                    slot.machine.flush(now, &mut self.outputs);
                    slot.machine.log_news(slot.address.logspace);
                    self.route(at);
                }
            }
            if self.local.is_empty() {
                return;
            }
            while let Some((from, to, message)) = self.local.pop_front() {
                self.deliver(now, from, to, message);
            }
        }
    }

    /// The logspace that a client's frame concerns; `None` for one that any executor answers.
    fn logspace(&self, frame: &Frame<'_>) -> Result<Option<LogspaceId>, FrameError> {
        let logspaces = self.config.chains[0].settings.classes();
        let of_logbook = |logbook: u64| Some(LogBookId(logbook).logspace(logspaces));
        if frame.header.kind == FrameKind::Batch {
            // With one logspace there is nothing to look up.
            if logspaces.count() == 1 {
                return Ok(Some(LogspaceId(0)));
            }
            return Ok(of_logbook(Batch::parse_metadata(*frame)?.metadata.logbook().0));
        }
        Ok(decode_request(frame)?.logspace(logspaces))
    }

    fn status_part(&self) -> StatusPart {
        let is_drained = |member: &Member| member.state == MemberState::Draining;
        let members = self.config.members.iter().flat_map(|members| &members.nodes);
        StatusPart::of(&self.machines, members.into_iter().any(is_drained))
    }

    fn status_wanted(&mut self, now: Time, connection: ConnectionId, request: u64) {
        // Whoever asks a thousand times in a turn must not hold up all others with a thousand texts.
        if let Some((_, json)) = self.status_of_turn.as_ref().filter(|(at, _)| *at == now) {
            let reply = Reply::Status { json: json.clone() };
            self.actions.push(Action::Reply { connection, request, reply });
            return;
        }
        let part = self.status_part();
        let round = self.status.begin(connection, request, self.context.executors);
        for executor in (0..self.context.executors).map(ExecutorId) {
            if executor != self.context.executor {
                self.context.poster.post(executor, Event::StatusWanted { by: self.context.executor, round });
            }
        }
        self.status_told(round, part);
        if let Some(Action::Reply { request: answered, reply: Reply::Status { json }, .. }) = self.actions.last()
            && *answered == request
        {
            self.status_of_turn = Some((now, json.clone()));
        }
    }

    fn status_told(&mut self, round: u64, part: StatusPart) {
        let cluster = ClusterFacts {
            node: self.node,
            roles: self.config.placement.roles,
            members: self.config.members.as_deref(),
            chains: &self.config.chains,
            peers: &self.context.peers.all(),
            lost_since: &self.lost_since,
            now: self.context.clock.now(),
        };
        let whole = self.status.told(round, part, &self.config.facts, &cluster, &self.context);
        self.actions.extend(whole);
    }

    fn announce_readiness(&mut self) {
        if !self.ready && self.machines.engines().all(|engine| engine.is_ready()) {
            self.ready = true;
            self.config.readiness.executor_is_ready();
        }
    }
}

impl Drop for NodeHost {
    /// An executor has ended: whoever waits for the node to be ready waits in vain.
    fn drop(&mut self) {
        self.config.readiness.give_up();
    }
}

impl Host for NodeHost {
    type Event = Event;

    fn recovered(&mut self, owner: Owner, entry: Recovered<'_>) {
        let Some(at) = self.machines.find(owner.0, owner.1) else {
            let unknown =
                || format!("the journal holds entries of {:?} of logspace {}, which is not here", owner.1, owner.0);
            self.unrecoverable.get_or_insert_with(unknown);
            return;
        };
        let malformed = match &mut self.machines.slot(at).machine {
            RoleMachine::Storage(storage) => storage.recover(entry).err().map(|error| error.to_string()),
            RoleMachine::Sequencer(sequencer) => sequencer.recover(entry).err().map(|error| error.to_string()),
            RoleMachine::Engine(_) | RoleMachine::Controller(_) => None,
        };
        if let Some(error) = malformed {
            let message =
                || format!("an entry of the journal can't be understood: {error}; was it written by another release?");
            self.unrecoverable.get_or_insert_with(message);
        }
    }

    fn start(&mut self, now: Time) -> Result<(), HostError> {
        if let Some(message) = self.unrecoverable.take() {
            return Err(HostError(message));
        }
        for at in 0..self.machines.slots().len() {
            if let RoleMachine::Sequencer(sequencer) = &mut self.machines.slot(at).machine {
                sequencer.finish_recovery().map_err(|error| HostError(error.to_string()))?;
            }
        }
        // Until they come, they are missed from now on.
        let members = self.config.members.iter().flat_map(|members| &members.nodes);
        let others = members.map(|member| member.node).filter(|node| *node != self.node);
        self.lost_since.extend(others.map(|node| (node, now)));
        let (node, incarnation) = (self.node, self.incarnation);
        let chains = self.config.chains.clone();
        for at in 0..self.machines.slots().len() {
            let logspace = self.machines.slots()[at].address.logspace;
            self.handle(now, at, Input::Chain(&chains[usize::from(logspace.0)]));
            if let Some(members) = self.config.members.clone() {
                self.handle(now, at, Input::Members(&members));
            }
            self.handle(now, at, Input::Connected { node, incarnation });
        }
        Ok(())
    }

    fn place(&self, to: Address) -> Option<ExecutorId> {
        let placement = &self.config.placement;
        let is_here = to.node == self.node && to.logspace.0 < placement.logspaces && placement.roles.has(to.role);
        is_here.then(|| self.config.placement.executor(to.logspace, to.role))
    }

    fn node_connected(&mut self, now: Time, node: NodeId, incarnation: Incarnation) {
        self.lost_since.remove(&node);
        for at in 0..self.machines.slots().len() {
            self.handle(now, at, Input::Connected { node, incarnation });
        }
    }

    fn node_disconnected(&mut self, now: Time, node: NodeId) {
        self.lost_since.entry(node).or_insert(now);
        for at in 0..self.machines.slots().len() {
            self.handle(now, at, Input::Disconnected { node });
        }
    }

    fn message(&mut self, now: Time, from: Address, to: Address, message: Message) {
        self.deliver(now, from, to, message);
    }

    fn event(&mut self, now: Time, event: Event) {
        match event {
            Event::Chain { chain, swapped } => self.chain(now, &chain, swapped),
            Event::Members(members) => self.members(now, members),
            Event::Peers(peers) => self.actions.push(Action::Peers(peers)),
            Event::Cuts(cuts) => self.actions.push(Action::Cuts(cuts)),
            Event::StatusWanted { by, round } => {
                let part = self.status_part();
                self.context.poster.post(by, Event::StatusTold { round, part });
            }
            Event::StatusTold { round, part } => self.status_told(round, part),
            Event::HoldingsWanted { by, round } => {
                let holdings = self.holdings();
                self.context.poster.post(by, Event::HoldingsTold { round, holdings });
            }
            Event::HoldingsTold { round, holdings } => self.holdings_told(round, holdings),
            Event::RegisterTold { round, told } => self.register_told(round, *told),
        }
    }

    fn client_hello(&mut self, _now: Time, connection: ConnectionId, hello: ClientHello) -> Welcome {
        tracing::debug!(connection = connection.0, name = hello.name, "client connected");
        let settings = &self.config.chains[0].settings;
        Welcome::new(settings.cluster, self.node, settings.classes(), settings.session_window)
    }

    fn client_closed(&mut self, _now: Time, connection: ConnectionId) {
        self.status.forget(connection);
        self.operations.forget(connection);
        for at in 0..self.machines.slots().len() {
            if let RoleMachine::Engine(engine) = &mut self.machines.slot(at).machine {
                engine.connection_closed(connection);
            }
        }
    }

    fn client_frame(&mut self, now: Time, connection: ConnectionId, frame: &[u8]) -> Result<(), FrameError> {
        let parsed = Frame::parse_unverified(frame)?.ok_or(FrameError::Truncated)?;
        if !matches!(parsed.header.kind, FrameKind::Batch | FrameKind::Request) {
            return Err(FrameError::Kind(parsed.header.kind as u8));
        }
        let Some(logspace) = self.logspace(&parsed)? else {
            match decode_request(&parsed)? {
                Request::Operate(operate) => self.operate(connection, parsed.header.place, operate),
                _ => self.status_wanted(now, connection, parsed.header.place),
            }
            return Ok(());
        };
        if logspace.0 >= self.config.placement.logspaces {
            return Err(FrameError::Metadata);
        }
        if !self.config.placement.roles.has(Role::Engine) {
            let (request, reply) = (parsed.header.place, self.no_engine());
            self.actions.push(Action::Reply { connection, request, reply });
            return Ok(());
        }
        let executor = self.config.placement.executor(logspace, Role::Engine);
        if executor != self.context.executor {
            let frame = Bytes::copy_from_slice(frame);
            self.actions.push(Action::Forward { executor, connection, frame });
            return Ok(());
        }
        let outputs = &mut self.outputs;
        let (at, engine) = self.machines.engine(logspace).expect("placed here");
        let taken = match parsed.header.kind {
            FrameKind::Batch => engine.append(now, connection, frame, outputs),
            _ => {
                engine.request(now, connection, parsed.header.place, decode_request(&parsed)?, outputs);
                Ok(())
            }
        };
        self.machines.slot(at).dirty = true;
        self.route(at);
        taken
    }

    fn accepts(&self) -> bool {
        self.machines.engines().all(|engine| engine.accepts())
    }

    fn durable(&mut self, now: Time, owner: Owner, place: JournalPlace) {
        self.handle_owner(now, owner, Input::Durable(place));
    }

    fn read_done(&mut self, now: Time, owner: Owner, ticket: u64, result: Result<Bytes, ReadFailure>) {
        self.handle_owner(now, owner, Input::Read { ticket, result });
    }

    fn tags_read(&mut self, now: Time, owner: Owner, ticket: u64, first: u64, result: Result<Bytes, ReadFailure>) {
        self.handle_owner(now, owner, Input::TagsRead { ticket, first, result });
    }

    fn space(&mut self, now: Time, full: bool) {
        for at in 0..self.machines.slots().len() {
            self.handle(now, at, Input::Space { full });
        }
    }

    fn vacate(&mut self, now: Time, owner: Owner, segment: u32) {
        self.handle_owner(now, owner, Input::Vacate { segment });
    }

    fn rotten(&mut self, now: Time, rotten: Rotten) {
        let Rotten { owner, damage: Damage { segment, offset, bytes, .. }, is_missing } = rotten;
        self.handle_owner(now, owner, Input::Rotten { segment, offset, bytes, missing: is_missing });
    }

    fn tick(&mut self, now: Time) {
        for at in 0..self.machines.slots().len() {
            if self.machines.slots()[at].machine.deadline().is_some_and(|deadline| deadline <= now) {
                self.handle(now, at, Input::Tick);
            }
        }
    }

    fn flush(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.flush_machines(now);
        self.announce_readiness();
        actions.append(&mut self.actions);
    }

    fn deadline(&self) -> Option<Time> {
        self.machines.slots().iter().filter_map(|slot| slot.machine.deadline()).min()
    }
}
