//! A turn of a node: what waits is delivered, machines are flushed until nothing moves, the journal
//! writes. The order of steps is the runtime's.

use sealog_engine::Engine;
use sealog_journal::{BlockBuffer, Damage, Rotten, TagsSource, WantedSegment};
use sealog_protocol::batch::Batch;
use sealog_protocol::client::{Welcome, decode_hello, decode_request, encode_reply, encode_welcome};
use sealog_protocol::frame::{Frame, FrameError, FrameKind};
use sealog_protocol::machine::{Address, ConnectionId, Input, Machine, Output, Outputs, Role};
use sealog_protocol::message::{Message, encode};
use sealog_protocol::view::Chain;
use sealog_protocol::{Incarnation, LogspaceId, NodeId, Place, ShardId, Time};

use crate::network::ConnectionIndex;
use crate::node::{Effect, Life, NodeInput, Owner, RoleMachine};
use crate::swarm::Plan;
use crate::violation::Failure;

/// A turn under way.
pub(crate) struct Turn<'a> {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub plan: &'a Plan,
    pub now: Time,
    pub life: &'a mut Life,
    pub effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    /// All inputs that wait, then flushes and local messages until nothing moves, then the journal's
    /// writes.
    pub fn run(&mut self) -> Result<(), Failure> {
        for input in std::mem::take(&mut self.life.inbox) {
            self.input(input)?;
        }
        for at in 0..self.life.machines.len() {
            if self.life.machines[at].1.deadline().is_some_and(|deadline| deadline <= self.now) {
                self.handle(at, Input::Tick);
            }
        }
        self.read_clients();
        self.settle();
        self.write();
        Ok(())
    }

    fn input(&mut self, input: NodeInput) -> Result<(), Failure> {
        match input {
            NodeInput::Message { connection, from, to, message } => {
                // What an older connection still brings is not heard any more.
                if self.life.peers.get(&from.node) == Some(&connection) {
                    self.deliver(from, to, message);
                }
            }
            NodeInput::Request { to, message } => self.deliver(to, to, message),
            NodeInput::Connected { node, incarnation, connection } => {
                self.life.peers.insert(node, connection);
                self.handle_all(|| Input::Connected { node, incarnation });
            }
            NodeInput::Disconnected { node, connection } => {
                if self.life.peers.get(&node) == Some(&connection) {
                    self.life.peers.remove(&node);
                    self.handle_all(|| Input::Disconnected { node });
                }
            }
            NodeInput::Written(write) => self.written(write.id, write.buffer),
            NodeInput::Read { owner, ticket, result } => {
                if let Some(at) = self.find(owner) {
                    self.handle(at, Input::Read { ticket, result });
                }
            }
            NodeInput::TagsRead { owner, ticket, first, result } => {
                if let Some(at) = self.find(owner) {
                    self.handle(at, Input::TagsRead { ticket, first, result });
                }
            }
            NodeInput::Scrubbed { read, content } => self.life.journal.scrub_done(self.now, read, content.as_deref()),
            NodeInput::SegmentPrepared { segment, ready: true } => self.life.journal.segment_ready(segment),
            NodeInput::SegmentPrepared { segment, ready: false } => {
                self.life.journal.segment_failed(segment);
                self.effects.push(Effect::Prepare { wanted: WantedSegment { segment, recycled: None } });
            }
            NodeInput::Chain { chain, swapped } => self.chain(&chain, swapped),
            NodeInput::Members(members) => {
                for at in 0..self.life.machines.len() {
                    self.handle(at, Input::Members(&members));
                }
            }
            NodeInput::ClientBytes { connection, bytes } => {
                self.life.clients.entry(connection).or_default().received.extend_from_slice(&bytes);
            }
            NodeInput::ClientClosed { connection } => self.client_closed(connection),
        }
        Ok(())
    }

    fn chain(&mut self, chain: &Chain, swapped: bool) {
        // The first chain of a life is read at its start; then the node knows itself, too.
        let first = !self.life.peers.contains_key(&self.id);
        for at in 0..self.life.machines.len() {
            let (address, _) = self.life.machines[at];
            if address.logspace != chain.logspace {
                continue;
            }
            if swapped && address.role == Role::Controller {
                self.handle(at, Input::Swapped);
            }
            self.handle(at, Input::Chain(chain));
            if first {
                let (node, incarnation, full) = (self.id, self.incarnation, self.life.full);
                self.handle(at, Input::Space { full });
                self.handle(at, Input::Connected { node, incarnation });
            }
        }
        if first && usize::from(chain.logspace.0) + 1 == usize::from(self.plan.settings.logspaces) {
            self.life.peers.insert(self.id, ConnectionIndex(usize::MAX));
        }
    }

    fn written(&mut self, id: u64, buffer: BlockBuffer) {
        self.life.journal.write_done(self.now, id, buffer);
        while let Some((owner, place)) = self.life.journal.next_durable() {
            let at = self.find(owner).expect("entries belong to machines of this node");
            self.handle(at, Input::Durable(place));
        }
    }

    fn client_closed(&mut self, connection: ConnectionId) {
        self.life.clients.remove(&connection);
        for (_, machine) in &mut self.life.machines {
            if let RoleMachine::Engine(engine) = machine {
                engine.connection_closed(connection);
            }
        }
    }

    fn find(&self, owner: Owner) -> Option<usize> {
        self.life.machines.iter().position(|(address, _)| (address.logspace, address.role) == owner)
    }

    fn deliver(&mut self, from: Address, to: Address, message: Message) {
        if let Some(at) = self.find((to.logspace, to.role)) {
            self.handle(at, Input::Message { from, message });
        }
    }

    fn handle_all(&mut self, input: impl Fn() -> Input<'static>) {
        for at in 0..self.life.machines.len() {
            self.handle(at, input());
        }
    }

    fn handle(&mut self, at: usize, input: Input<'_>) {
        let (address, machine) = &mut self.life.machines[at];
        let address = *address;
        machine.handle(self.now, input, &mut self.life.outputs);
        self.outputs(address);
    }

    /// Flushes and delivers local messages until nothing moves.
    fn settle(&mut self) {
        loop {
            for at in 0..self.life.machines.len() {
                let (address, machine) = &mut self.life.machines[at];
                let address = *address;
                machine.flush(self.now, &mut self.life.outputs);
                self.outputs(address);
            }
            if self.life.local.is_empty() {
                return;
            }
            while let Some((from, to, message)) = self.life.local.pop_front() {
                self.deliver(from, to, message);
            }
        }
    }

    fn outputs(&mut self, from: Address) {
        let mut outputs = std::mem::take(&mut self.life.outputs);
        for output in outputs.drain() {
            self.output(from, output);
        }
        self.life.outputs = outputs;
    }

    fn output(&mut self, from: Address, output: Output) {
        let owner = (from.logspace, from.role);
        match output {
            Output::Send { to, message } => self.send(from, to, message),
            Output::Reply { connection, request, reply } => {
                let mut bytes = Vec::new();
                encode_reply(&mut bytes, request, &reply);
                self.effects.push(Effect::Reply { connection, bytes });
            }
            Output::Append(entry) => {
                self.effects.push(Effect::Appended { owner, entry: entry.clone() });
                self.life.journal.append(self.now, owner, entry);
            }
            Output::Read { ticket, at, bytes } => self.effects.push(Effect::Read { owner, ticket, at, bytes }),
            Output::ReadTags { ticket, shard, segment, from } => {
                match self.life.journal.read_tags(owner, shard, segment, from) {
                    TagsSource::Memory { first, entries } => {
                        // As the runtime does: an answer of memory is an input of the next turn.
                        let result = Ok(entries);
                        self.life.inbox.push(NodeInput::TagsRead { owner, ticket, first, result });
                    }
                    TagsSource::Footer(chunk) => self.effects.push(Effect::ReadFooter { owner, ticket, chunk }),
                }
            }
            Output::Release { segment } => self.life.journal.release(owner, segment),
            Output::CompareAndSwap { chain } => self.effects.push(Effect::Swap { chain }),
            Output::ReadRegister => self.effects.push(Effect::ReadRegister { logspace: from.logspace }),
        }
    }

    fn send(&mut self, from: Address, to: Address, message: Message) {
        let owner = (from.logspace, from.role);
        match &message {
            Message::StorageSealed { view, .. } | Message::SequencerSealed { view, .. } => {
                self.effects.push(Effect::SealSaid { owner, view: *view });
            }
            Message::Progress { shard: ShardId { view, .. }, .. }
            | Message::BackupAck { view, .. }
            | Message::Confirmed { view, .. }
            | Message::BackupAppend { view, .. }
            | Message::CommitAnswer { place: Place { view, .. }, .. } => {
                self.effects.push(Effect::Spoke { owner, view: *view });
            }
            _ => {}
        }
        if to.node == self.id {
            self.life.local.push_back((from, to, message));
        } else if let Some(connection) = self.life.peers.get(&to.node) {
            let mut frame = Vec::new();
            encode(&mut frame, from, to, &message);
            self.effects.push(Effect::Frame { connection: *connection, frame: frame.into() });
        }
    }

    /// Takes whole frames of clients, while the engines accept them.
    fn read_clients(&mut self) {
        let connections: Vec<ConnectionId> =
            self.life.clients.iter().filter(|(_, link)| !link.received.is_empty()).map(|(id, _)| *id).collect();
        for connection in connections {
            let mut link = self.life.clients.remove(&connection).expect("listed a moment ago");
            let mut taken = 0;
            let read = loop {
                if !self.accepts() {
                    break Ok(());
                }
                match self.client_frame(connection, &mut link.greeted, &link.received[taken..]) {
                    Ok(0) => break Ok(()),
                    Ok(bytes) => taken += bytes,
                    Err(error) => break Err(error),
                }
            };
            match read {
                Ok(()) => {
                    link.received.drain(..taken);
                    self.life.clients.insert(connection, link);
                }
                Err(error) => {
                    self.client_closed(connection);
                    self.effects.push(Effect::CloseClient { connection, error });
                }
            }
        }
    }

    fn accepts(&self) -> bool {
        self.life.machines.iter().all(|(_, machine)| match machine {
            RoleMachine::Engine(engine) => engine.accepts(),
            _ => true,
        })
    }

    /// Takes the frame at the start of `bytes`; returns its size, 0 when it is not all there.
    fn client_frame(
        &mut self,
        connection: ConnectionId,
        greeted: &mut bool,
        bytes: &[u8],
    ) -> Result<usize, FrameError> {
        let Some(frame) = Frame::parse(bytes)? else { return Ok(0) };
        match frame.header.kind {
            FrameKind::ClientHello if !*greeted => {
                decode_hello(&frame)?;
                *greeted = true;
                let settings = &self.plan.settings;
                let welcome = Welcome::new(settings.cluster, self.id, settings.classes(), settings.session_window);
                let mut bytes = Vec::new();
                encode_welcome(&mut bytes, frame.header.place, &welcome);
                self.effects.push(Effect::Reply { connection, bytes });
            }
            FrameKind::Batch if *greeted => {
                let logbook = Batch::parse_metadata(frame)?.metadata.logbook();
                self.engine(logbook.logspace(self.plan.settings.classes()), |engine, now, outputs| {
                    engine.append(now, connection, frame.bytes, outputs)
                })?;
            }
            FrameKind::Request if *greeted => {
                let request = decode_request(&frame)?;
                let logspace = request.logspace(self.plan.settings.classes()).ok_or(FrameError::Metadata)?;
                self.engine(logspace, |engine, now, outputs| {
                    engine.request(now, connection, frame.header.place, request, outputs);
                    Ok(())
                })?;
            }
            kind => return Err(FrameError::Kind(kind as u8)),
        }
        Ok(frame.bytes.len())
    }

    fn engine(
        &mut self,
        logspace: LogspaceId,
        give: impl FnOnce(&mut Engine, Time, &mut Outputs) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        let at = self.find((logspace, Role::Engine)).ok_or(FrameError::Metadata)?;
        let (address, machine) = &mut self.life.machines[at];
        let address = *address;
        let RoleMachine::Engine(engine) = machine else { unreachable!("found by its role") };
        give(engine, self.now, &mut self.life.outputs)?;
        self.outputs(address);
        Ok(())
    }

    fn write(&mut self) {
        loop {
            while let Some(write) = self.life.journal.next_write(self.now) {
                self.effects.push(Effect::Write(write));
            }
            while let Some(segment) = self.life.journal.next_removal() {
                self.effects.push(Effect::Remove { segment });
            }
            while let Some(wanted) = self.life.journal.wanted_segment() {
                self.effects.push(Effect::Prepare { wanted });
            }
            while let Some(read) = self.life.journal.next_scrub(self.now) {
                self.effects.push(Effect::Scrub(read));
            }
            let mut moved = false;
            while let Some(rotten) = self.life.journal.next_rotten() {
                let Rotten { owner, damage: Damage { segment, offset, bytes, .. }, is_missing } = rotten;
                let at = self.find(owner).expect("entries belong to machines of this node");
                self.handle(at, Input::Rotten { segment, offset, bytes, missing: is_missing });
                moved = true;
            }
            while let Some((owner, segment)) = self.life.journal.next_vacate() {
                let at = self.find(owner).expect("entries belong to machines of this node");
                self.handle(at, Input::Vacate { segment });
                moved = true;
            }
            let full = self.life.journal.is_full();
            if std::mem::replace(&mut self.life.full, full) != full {
                self.handle_all(|| Input::Space { full });
                moved = true;
            }
            if !moved {
                return;
            }
            self.settle();
        }
    }
}
