//! A node: in each of its lives the machines of its roles and their journal, driven in turns as the
//! runtime drives them. What leaves the node becomes an [`Effect`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sealog_control::{Controller, ControllerConfig};
use sealog_engine::{Engine, EngineConfig};
use sealog_journal::{BlockWrite, FooterChunk, Journal, ScrubRead, WantedSegment};
use sealog_protocol::frame::FrameError;
use sealog_protocol::lives;
use sealog_protocol::machine::{
    Address, ConnectionId, DurableEntry, Input, JournalPlace, Machine, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::message::Message;
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogspaceId, Members, NodeId, Time, ViewNumber};
use sealog_sequencer::{Sequencer, SequencerConfig};
use sealog_storage::{Storage, StorageConfig};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::ConnectionIndex;
use crate::queue::Instant;
use crate::swarm::{NodeIndex, Plan, Roles};
use crate::turn::Turn;
use crate::violation::Failure;

pub type Owner = (LogspaceId, Role);

/// The machine of one role: dispatch is a match.
pub enum RoleMachine {
    Engine(Box<Engine>),
    Storage(Box<Storage>),
    Sequencer(Box<Sequencer>),
    Controller(Box<Controller>),
}

impl Machine for RoleMachine {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match self {
            RoleMachine::Engine(machine) => machine.handle(now, input, outputs),
            RoleMachine::Storage(machine) => machine.handle(now, input, outputs),
            RoleMachine::Sequencer(machine) => machine.handle(now, input, outputs),
            RoleMachine::Controller(machine) => machine.handle(now, input, outputs),
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        match self {
            RoleMachine::Engine(machine) => machine.flush(now, outputs),
            RoleMachine::Storage(machine) => machine.flush(now, outputs),
            RoleMachine::Sequencer(machine) => machine.flush(now, outputs),
            RoleMachine::Controller(machine) => machine.flush(now, outputs),
        }
    }

    fn deadline(&self) -> Option<Time> {
        match self {
            RoleMachine::Engine(machine) => machine.deadline(),
            RoleMachine::Storage(machine) => machine.deadline(),
            RoleMachine::Sequencer(machine) => machine.deadline(),
            RoleMachine::Controller(machine) => machine.deadline(),
        }
    }
}

/// What waits for a node's next turn.
#[derive(Debug)]
pub enum NodeInput {
    Message {
        connection: ConnectionIndex,
        from: Address,
        to: Address,
        message: Message,
    },
    Connected {
        node: NodeId,
        incarnation: Incarnation,
        connection: ConnectionIndex,
    },
    Disconnected {
        node: NodeId,
        connection: ConnectionIndex,
    },
    /// From nobody on the wire: an operator, or what stands for failure detection.
    Request {
        to: Address,
        message: Message,
    },
    Written(BlockWrite),
    Read {
        owner: Owner,
        ticket: u64,
        result: Result<Bytes, ReadFailure>,
    },
    TagsRead {
        owner: Owner,
        ticket: u64,
        first: u64,
        result: Result<Bytes, ReadFailure>,
    },
    Scrubbed {
        read: ScrubRead,
        content: Option<Bytes>,
    },
    SegmentPrepared {
        segment: u32,
        ready: bool,
    },
    Chain {
        chain: Box<Chain>,
        swapped: bool,
    },
    Members(Box<Members>),
    ClientBytes {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    ClientClosed {
        connection: ConnectionId,
    },
}

/// What a turn asks the world to do.
#[derive(Debug)]
pub enum Effect {
    Frame {
        connection: ConnectionIndex,
        frame: Bytes,
    },
    Reply {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    CloseClient {
        connection: ConnectionId,
        error: FrameError,
    },
    Write(BlockWrite),
    Read {
        owner: Owner,
        ticket: u64,
        at: JournalPlace,
        bytes: u32,
    },
    ReadFooter {
        owner: Owner,
        ticket: u64,
        chunk: FooterChunk,
    },
    Scrub(ScrubRead),
    Prepare {
        wanted: WantedSegment,
    },
    Remove {
        segment: u32,
    },
    Swap {
        chain: Box<Chain>,
    },
    ReadRegister {
        logspace: LogspaceId,
    },
    /// For the invariants: what the journal was given.
    Appended {
        owner: Owner,
        entry: DurableEntry,
    },
    /// For the invariants: this role said something for a view that a seal of it forbids.
    Spoke {
        owner: Owner,
        view: ViewNumber,
    },
    /// For the invariants: this role said that it has sealed a view.
    SealSaid {
        owner: Owner,
        view: ViewNumber,
    },
}

/// A client's connection, as its node sees it.
#[derive(Debug, Default)]
pub(crate) struct ClientLink {
    pub greeted: bool,
    pub received: Vec<u8>,
}

/// What a crash ends.
pub struct Life {
    pub machines: Vec<(Address, RoleMachine)>,
    pub journal: Journal,
    pub inbox: Vec<NodeInput>,
    pub turn_scheduled: bool,
    /// When the world wakes the node for its deadlines.
    pub timer: Option<Instant>,
    pub peers: BTreeMap<NodeId, ConnectionIndex>,
    pub(crate) clients: BTreeMap<ConnectionId, ClientLink>,
    /// Messages between machines of this node that are not delivered yet.
    pub(crate) local: VecDeque<(Address, Address, Message)>,
    pub(crate) outputs: Outputs,
    pub(crate) full: bool,
}

/// A node with what survives its lives.
pub struct Node {
    pub id: NodeId,
    pub index: NodeIndex,
    pub roles: Roles,
    pub incarnation: Incarnation,
    /// What the data directory says of this life, or the last one.
    pub kept: Option<lives::Life>,
    /// All that the last life had said is on disk.
    pub ended_in_order: bool,
    pub disk: Disk,
    pub clock: Clock,
    pub life: Option<Box<Life>>,
    /// While paused it takes no turn, and everything waits.
    pub paused_until: Instant,
    /// Until then it hears nothing from the register.
    pub register_deaf_until: Instant,
    /// How much slower its disk is now.
    pub disk_factor: u64,
    /// In 100: reads that fail.
    pub read_errors: u8,
    pub next_connection: u64,
    /// Something on its disk was damaged.
    pub has_rotted: bool,
}

impl Node {
    pub fn new(plan: &Plan, index: NodeIndex, clock: Clock) -> Node {
        let (id, roles) = plan.nodes[index.0];
        Node {
            id,
            index,
            roles,
            incarnation: Incarnation(0),
            kept: None,
            ended_in_order: false,
            disk: Disk::new(),
            clock,
            life: None,
            paused_until: 0,
            register_deaf_until: 0,
            disk_factor: 1,
            read_errors: 0,
            next_connection: 0,
            has_rotted: false,
        }
    }

    /// Begins a life: the incarnation is raised, machines recover from the journal, the register is read.
    pub fn start(&mut self, plan: &Plan, members: Members, chains: Vec<Chain>) -> Result<(), Failure> {
        self.incarnation.0 += 1;
        self.ended_in_order = self.kept.as_ref().is_some_and(|life| life.ended_in_order);
        self.kept = Some(lives::Life::begin(self.incarnation, self.kept.as_ref(), &chains));
        let mut machines = self.machines(plan);
        let mut config = plan.journal;
        config.journal_id = self.journal_id(plan);
        let mut malformed = None;
        let mut sink = |owner: Owner, entry: Recovered<'_>| {
            let machine = machines.iter_mut().find(|(address, _)| (address.logspace, address.role) == owner);
            let recovered = match machine {
                Some((_, RoleMachine::Storage(storage))) => storage.recover(entry).map_err(|error| error.to_string()),
                Some((_, RoleMachine::Sequencer(sequencer))) => {
                    sequencer.recover(entry).map_err(|error| error.to_string())
                }
                _ => Err(format!("an entry of {owner:?}, which does not run here")),
            };
            if let Err(reason) = recovered {
                malformed.get_or_insert(reason);
            }
        };
        let recovered = Journal::recover(config, &mut self.disk, &mut sink);
        let failure = |reason| Failure::Recovery { node: self.id, reason };
        let journal = recovered.map_err(|error| failure(error.to_string()))?;
        for (_, machine) in &mut machines {
            if let RoleMachine::Sequencer(sequencer) = machine {
                sequencer.finish_recovery().map_err(|error| failure(error.to_string()))?;
            }
        }
        if let Some(reason) = malformed {
            return Err(failure(reason));
        }
        if journal.report().is_degraded() && !self.has_rotted {
            return Err(failure(format!("a crash alone damaged the journal: {:?}", journal.report())));
        }
        let full = journal.is_full();
        let mut life = Life {
            machines,
            journal,
            inbox: Vec::new(),
            turn_scheduled: false,
            timer: None,
            peers: BTreeMap::new(),
            clients: BTreeMap::new(),
            local: VecDeque::new(),
            outputs: Outputs::default(),
            full,
        };
        life.inbox.push(NodeInput::Members(Box::new(members)));
        life.inbox.extend(chains.into_iter().map(|chain| NodeInput::Chain { chain: Box::new(chain), swapped: false }));
        self.life = Some(Box::new(life));
        Ok(())
    }

    pub fn journal_id(&self, plan: &Plan) -> u64 {
        plan.journal.journal_id ^ self.id.0
    }

    fn machines(&self, plan: &Plan) -> Vec<(Address, RoleMachine)> {
        let (node, incarnation, roles) = (self.id, self.incarnation, self.roles);
        let kept = self.kept.as_ref();
        let forgotten = |logspace| kept.map_or(ViewNumber(0), |life| life.forgotten(logspace));
        let mut machines = Vec::new();
        for logspace in plan.logspaces() {
            let mut add = |role, machine| machines.push((Address { node, logspace, role }, machine));
            if roles.engine {
                let mut config = EngineConfig::new(node, incarnation, logspace, plan.seed ^ incarnation.0);
                config.pending_bytes_max = plan.limits.pending_bytes_max;
                config.pending_records_max = plan.limits.pending_records_max;
                config.cache_bytes_max = plan.limits.cache_bytes_max;
                config.aux_bytes_max = plan.limits.aux_bytes_max;
                config.waiting_reads_max = plan.limits.waiting_reads_max;
                config.checkpoint_log_bytes_min = plan.limits.checkpoint_log_bytes_min;
                config.checkpoint_log_factor = plan.limits.checkpoint_log_factor;
                config.checkpoint_part_bytes = plan.limits.checkpoint_part_bytes;
                config.replica_patience = plan.limits.replica_patience;
                config.storage_lost = plan.limits.storage_lost;
                config.copies_look = plan.limits.copies_look;
                // Where sessions are few, clients take each other's all the time, on purpose.
                config.session_openings_max = u32::MAX;
                add(Role::Engine, RoleMachine::Engine(Box::new(Engine::new(config))));
            }
            if roles.storage {
                let mut config = StorageConfig::new(node, logspace);
                config.forgotten = forgotten(logspace);
                config.rewrite_bytes_per_s = plan.limits.rewrite_bytes_per_s;
                config.copy_bytes_per_s = plan.limits.copy_bytes_per_s;
                config.mend_retry = plan.limits.mend_retry;
                add(Role::Storage, RoleMachine::Storage(Box::new(Storage::new(config))));
            }
            if roles.sequencer {
                let mut config = SequencerConfig::new(node, incarnation, logspace);
                config.forgotten = forgotten(logspace);
                config.cuts_in_flight_max = plan.limits.cuts_in_flight_max;
                config.stuck_cut = plan.limits.stuck_cut;
                add(Role::Sequencer, RoleMachine::Sequencer(Box::new(Sequencer::new(config))));
            }
            if roles.controller {
                let mut config = ControllerConfig::new(node, logspace);
                config.primary_suspicion = plan.limits.primary_suspicion;
                config.replace_lost = plan.limits.replace_lost;
                config.time_of_day_ms = 1_790_000_000_000;
                config.repair_retries_max = plan.limits.repair_retries_max;
                add(Role::Controller, RoleMachine::Controller(Box::new(Controller::new(config))));
            }
        }
        machines
    }

    /// What the runtime does when it is asked to stop: what was given to the journal is made durable.
    /// The life has ended in order if all of it is.
    pub fn end_in_order(&mut self, plan: &Plan, instant: Instant) {
        let now = self.clock.now(instant);
        let (Some(life), Some(kept)) = (&mut self.life, &mut self.kept) else { return };
        life.journal.stop(now);
        loop {
            while let Some(write) = self.disk.complete_next() {
                life.journal.write_done(now, write.id, write.buffer);
                while life.journal.next_durable().is_some() {}
            }
            while let Some(wanted) = life.journal.wanted_segment() {
                if !self.disk.prepare(wanted, plan.journal.segment_bytes) {
                    break;
                }
                life.journal.segment_ready(wanted.segment);
            }
            let Some(write) = life.journal.next_write(now) else { break };
            self.disk.submit(write);
        }
        kept.ended_in_order = life.journal.status().all_durable;
    }

    /// One turn: all inputs that wait, then flushes and local messages until nothing moves, then the
    /// journal's writes.
    pub fn turn(&mut self, plan: &Plan, instant: Instant, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let now = self.clock.now(instant);
        let life = self.life.as_mut().expect("a turn is taken in a life");
        life.turn_scheduled = false;
        let mut turn = Turn { id: self.id, incarnation: self.incarnation, plan, now, life, effects };
        turn.run()
    }

    /// When the node wants to be woken at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let life = self.life.as_ref()?;
        let machines = life.machines.iter().filter_map(|(_, machine)| machine.deadline());
        let earliest = machines.chain(life.journal.deadline()).chain(life.journal.scrub_deadline()).min()?;
        Some(self.clock.instant(earliest))
    }

    pub fn machine(&self, logspace: LogspaceId, role: Role) -> Option<&RoleMachine> {
        let machines = &self.life.as_ref()?.machines;
        let found = machines.iter().find(|(address, _)| address.logspace == logspace && address.role == role)?;
        Some(&found.1)
    }
}
