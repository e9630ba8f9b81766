//! A turn of a node of a small cluster, as the runtime and the simulator take theirs; and its recovery.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sealog_protocol::machine::{
    Address, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, ReadFailure, Recovered, Role,
};
use sealog_protocol::tags::batch_headers;
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, NodeId, Time};
use sealog_sim::invariants::Invariants;
use sealog_sim::turn::{Said, said};
use sealog_sim::violation::Failure;

use super::cluster::{Answer, Cluster, Kept, LOGSPACE, Letter, Node, Swap};

/// All is in one segment, to which more may come: none is ever looked at for space.
const SEGMENT: u32 = 1;
/// From one entry to the next, in units of 8 bytes: more than an entry is long.
const STRIDE: u32 = 1 << 16;

/// What a node's turn begins with.
pub enum Given {
    Letter(Letter),
    Connected {
        node: NodeId,
        incarnation: Incarnation,
    },
    Disconnected {
        node: NodeId,
    },
    /// This entry of the journal is on disk.
    Durable(usize),
    Chain {
        chain: Arc<Chain>,
        swapped: bool,
    },
    Tick,
}

pub struct Turn<'a> {
    cluster: &'a mut Cluster,
    at: usize,
    node: Node,
    truth: Invariants,
    local: VecDeque<Letter>,
    outputs: Outputs,
}

const ROLES: [Role; 3] = [Role::Sequencer, Role::Storage, Role::Controller];

impl Node {
    fn machine(&mut self, role: Role) -> Option<&mut dyn Machine> {
        match role {
            Role::Sequencer => self.sequencer.as_mut().map(|machine| machine as &mut dyn Machine),
            Role::Storage => self.storage.as_mut().map(|machine| machine as &mut dyn Machine),
            Role::Controller => self.controller.as_mut().map(|machine| machine as &mut dyn Machine),
            Role::Engine => None,
        }
    }

    /// When the node wants to be woken.
    pub fn deadline(&self) -> Option<Time> {
        let deadlines = [
            self.sequencer.as_ref().and_then(Machine::deadline),
            self.storage.as_ref().and_then(Machine::deadline),
            self.controller.as_ref().and_then(Machine::deadline),
        ];
        deadlines.into_iter().flatten().min()
    }
}

fn place(entry: usize) -> JournalPlace {
    JournalPlace { segment: SEGMENT, offset: (entry as u32 + 1) * STRIDE }
}

impl<'a> Turn<'a> {
    pub fn new(cluster: &'a mut Cluster, at: usize, node: Node, truth: Invariants) -> Turn<'a> {
        Turn { cluster, at, node, truth, local: VecDeque::new(), outputs: Outputs::default() }
    }

    /// Takes the turn; returns the node and what is known as they are then.
    pub fn run(mut self, given: Vec<Given>) -> (Node, Invariants) {
        for given in given {
            self.given(given);
        }
        self.settle();
        if let Some(storage) = &self.node.storage {
            let looked = self.truth.look_at_storage(self.address(Role::Storage), storage);
            self.cluster.fail(looked);
        }
        if let Some(sequencer) = &self.node.sequencer {
            let looked = self.truth.look_at_sequencer(self.address(Role::Sequencer), sequencer);
            self.cluster.fail(looked);
        }
        (self.node, self.truth)
    }

    fn address(&self, role: Role) -> Address {
        Address { node: self.node.id, logspace: LOGSPACE, role }
    }

    fn given(&mut self, given: Given) {
        match given {
            Given::Letter((from, to, message)) => self.handle(to.role, Input::Message { from, message }),
            Given::Connected { node, incarnation } => self.handle_all(|| Input::Connected { node, incarnation }),
            Given::Disconnected { node } => self.handle_all(|| Input::Disconnected { node }),
            Given::Durable(entry) => {
                self.node.durable = entry + 1;
                self.handle(self.node.journal[entry].0, Input::Durable(place(entry)));
            }
            Given::Chain { chain, swapped } => {
                if swapped {
                    self.handle(Role::Controller, Input::Swapped);
                }
                self.handle_all(|| Input::Chain(&chain));
            }
            Given::Tick => {
                self.node.now = self.node.deadline().unwrap_or(self.node.now).max(self.node.now);
                for role in ROLES {
                    let now = self.node.now;
                    let due = |machine: &mut dyn Machine| machine.deadline().is_some_and(|at| at <= now);
                    if self.node.machine(role).is_some_and(due) {
                        self.handle(role, Input::Tick);
                    }
                }
            }
        }
    }

    fn handle_all<'b>(&mut self, input: impl Fn() -> Input<'b>) {
        for role in ROLES {
            self.handle(role, input());
        }
    }

    fn handle(&mut self, role: Role, input: Input<'_>) {
        let (now, mut outputs) = (self.node.now, std::mem::take(&mut self.outputs));
        if let Some(machine) = self.node.machine(role) {
            machine.handle(now, input, &mut outputs);
        }
        self.outputs(role, outputs);
    }

    fn outputs(&mut self, role: Role, mut outputs: Outputs) {
        let given: Vec<Output> = outputs.drain().collect();
        self.outputs = outputs;
        for output in given {
            self.output(role, output);
        }
    }

    /// Flushes and delivers local messages until nothing moves.
    fn settle(&mut self) {
        loop {
            for role in ROLES {
                let (now, mut outputs) = (self.node.now, std::mem::take(&mut self.outputs));
                if let Some(machine) = self.node.machine(role) {
                    machine.flush(now, &mut outputs);
                }
                self.outputs(role, outputs);
            }
            if self.local.is_empty() {
                return;
            }
            while let Some((from, to, message)) = self.local.pop_front() {
                self.handle(to.role, Input::Message { from, message });
            }
        }
    }

    fn output(&mut self, role: Role, output: Output) {
        match output {
            Output::Send { to, message } => {
                let from = self.address(role);
                match said(&message) {
                    Some(Said::Seal(view)) => self.truth.seal_said(from.node, (LOGSPACE, role), view),
                    Some(Said::Word(view)) => {
                        let spoke = self.truth.spoke(from.node, (LOGSPACE, role), view);
                        self.cluster.fail(spoke);
                    }
                    None => {}
                }
                let peer = self.cluster.nodes.iter().position(|node| node.value.id == to.node);
                match peer.filter(|_| to.role != Role::Engine) {
                    Some(peer) if peer == self.at => self.local.push_back((from, to, message)),
                    Some(peer) => self.cluster.send(self.at, peer, (from, to, message)),
                    None => {}
                }
            }
            Output::Append(entry) => {
                let appended = self.truth.appended(self.node.id, (LOGSPACE, role), &entry);
                self.cluster.fail(appended);
                self.node.journal.push((role, entry));
            }
            Output::Read { ticket, at, bytes } => {
                let result = self.read(at, bytes as usize).ok_or(ReadFailure::Corrupt);
                self.handle(role, Input::Read { ticket, result });
            }
            Output::CompareAndSwap { chain } => {
                let chain = Kept::new(*chain);
                self.cluster.swaps[self.at] = Some(Swap { chain, life: self.node.incarnation });
            }
            Output::ReadRegister => {
                let answer = &mut self.cluster.answers[self.at];
                if *answer == Answer::None {
                    *answer = Answer::Read;
                }
            }
            Output::Reply { .. } | Output::ReadTags { .. } | Output::Release { .. } => {
                panic!("nobody asks for it, and all is in the open segment: {output:?}")
            }
        }
    }

    fn read(&self, at: JournalPlace, bytes: usize) -> Option<Bytes> {
        let (entry, within) = ((at.offset / STRIDE) as usize - 1, (at.offset % STRIDE) as usize * 8);
        match &self.node.journal[..self.node.durable].get(entry)?.1 {
            DurableEntry::Batches { batches, .. } if within + bytes <= batches.len() => {
                Some(batches.slice(within..within + bytes))
            }
            _ => None,
        }
    }
}

/// Fresh machines take what the disk has.
pub fn recover(node: &mut Node) -> Result<(), Failure> {
    let id = node.id;
    let failure = |reason: String| Failure::Recovery { node: id, reason };
    for (entry, (role, appended)) in node.journal.iter().enumerate() {
        let at = place(entry);
        let recovered = match appended {
            DurableEntry::Batches { shard, first, batches, .. } => {
                let records = batch_headers(batches).flatten().map(|(_, header)| u64::from(header.count)).sum();
                Recovered::Batches { shard: *shard, first: *first, records, at, bytes: batches.len() as u32 }
            }
            DurableEntry::Metalog { view, from, entries, .. } => {
                Recovered::Metalog { view: *view, from: *from, entries, segment: SEGMENT }
            }
            DurableEntry::Commit { view, commit } => {
                Recovered::Commit { view: *view, commit: *commit, segment: SEGMENT }
            }
            DurableEntry::SequencerSeal { view } => Recovered::SequencerSeal { view: *view, segment: SEGMENT },
            DurableEntry::StorageSeal { view } => Recovered::StorageSeal { view: *view, segment: SEGMENT },
            DurableEntry::MetalogBase { place } => Recovered::MetalogBase { place: *place, segment: SEGMENT },
            DurableEntry::Checkpoint { .. } => return Err(failure("nobody makes a checkpoint here".to_owned())),
        };
        let taken = match (role, &mut node.storage, &mut node.sequencer) {
            (Role::Storage, Some(storage), _) => storage.recover(recovered).map_err(|error| error.to_string()),
            (Role::Sequencer, _, Some(sequencer)) => sequencer.recover(recovered).map_err(|error| error.to_string()),
            _ => Err(format!("an entry of {role:?}, which does not run here")),
        };
        taken.map_err(failure)?;
    }
    match &mut node.sequencer {
        Some(sequencer) => sequencer.finish_recovery().map_err(|error| failure(error.to_string())),
        None => Ok(()),
    }
}
