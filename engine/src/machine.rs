//! The engine machine: takes requests, follows the metalog, answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sealog_protocol::batch::{Batch, BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{Durability, ErrorCode, Reply, Request};
use sealog_protocol::frame::{FrameError, PlaceScope};
use sealog_protocol::limits::{NAME_BYTES_MAX, PENDING_PROBE, REQUEST_RETRY, STREAM_MESSAGE_BYTES_MAX};
use sealog_protocol::logspace::{Logspace, Ordered};
use sealog_protocol::machine::{Address, ConnectionId, Input, Machine, Output, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::{EngineIncarnation, Entry};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{
    Incarnation, LogBookId, NodeId, NodeSet, Place, RequestNumber, SeqNum, SessionId, ShardId, Tag, Time,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::{EngineConfig, EngineStatus};
use crate::follower::{Follower, NextTags, choose};
use crate::index::{Applied, Index, Named};
use crate::order::Order;
use crate::producer::{Origin, Producer, ProducerLimits};
use crate::reads::{Reads, Sources};
use crate::sessions::{Known, Verdict};

/// Entries that wait to be applied; more are asked for when there are fewer.
const QUEUED_ENTRY_BYTES_MAX: usize = 4 * STREAM_MESSAGE_BYTES_MAX;
/// Storages of a shard whose Tags ran dry are given this long before another one is asked.
const TAGS_PATIENCE: std::time::Duration = REQUEST_RETRY;

/// An engine of one logspace.
pub struct Engine {
    config: EngineConfig,
    chain: Option<Chain>,
    connected: BTreeMap<NodeId, Incarnation>,
    logspace: Option<Logspace>,
    index: Option<Index>,
    order: Order,
    follower: Follower,
    producer: Producer,
    reads: Reads,
    /// The shard that was asked for and is not yet open: its ordinal, and when it was asked for.
    opening: Option<(u64, Time)>,
    ordinal: u64,
    /// A shard that was left, and when the primary was asked to close it.
    leaving: Option<(ShardId, Time)>,
    full: BTreeSet<NodeId>,
    /// When an append first had to wait for its verdict, or the register was last read for it.
    pending_since: Option<Time>,
    /// A committed cut waits for Tags.
    starved: bool,
    retry_at: Option<Time>,
    scratch: Vec<u8>,
    ordered: Vec<Ordered>,
    appends: u64,
    read_requests: u64,
    fetches: u64,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Engine {
        let limits = ProducerLimits {
            pending_bytes_max: config.pending_bytes_max,
            pending_records_max: config.pending_records_max,
            cache_bytes_max: config.cache_bytes_max,
        };
        Engine {
            producer: Producer::new(config.logspace, limits),
            reads: Reads::new(config.waiting_reads_max, config.hash_seed),
            config,
            chain: None,
            connected: BTreeMap::new(),
            logspace: None,
            index: None,
            order: Order::default(),
            follower: Follower::default(),
            opening: None,
            ordinal: 0,
            leaving: None,
            full: BTreeSet::new(),
            pending_since: None,
            starved: false,
            retry_at: None,
            scratch: Vec::new(),
            ordered: Vec::new(),
            appends: 0,
            read_requests: 0,
            fetches: 0,
        }
    }

    /// Whether there is room for another append. Without, the driver stops reading from clients.
    pub fn accepts(&self) -> bool {
        self.producer.accepts()
    }

    /// Whether every earlier acknowledgement is readable, and appends have a shard to go to.
    pub fn is_ready(&self) -> bool {
        let current = self.chain.as_ref().map(|chain| chain.current().number);
        self.producer.open_shard().is_some_and(|shard| Some(shard.view) == current)
    }

    /// The place that the index has applied.
    pub fn applied(&self) -> Place {
        self.logspace.as_ref().map_or(Place::default(), Logspace::place)
    }

    /// What a read would be answered from, for whoever checks it.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Where records are, for whoever checks it.
    pub fn order(&self) -> &Order {
        &self.order
    }

    pub fn status(&self) -> EngineStatus {
        let index = self.index.as_ref();
        EngineStatus {
            ready: self.is_ready(),
            applied: self.applied(),
            records: index.map_or(0, Index::records),
            voids: index.map_or(0, Index::voids),
            sessions: index.map_or(0, |index| index.sessions().len()),
            tags: index.map_or(0, Index::tags),
            runs: self.order.runs(),
            index_bytes: self.index_bytes(),
            cache_bytes: self.producer.cached_bytes(),
            pending_records: self.producer.pending_records(),
            waiting_reads: self.reads.len(),
            appends: self.appends,
            reads: self.read_requests,
            fetches: self.fetches,
            lost_ranges: index.map_or(0, Index::lost_ranges),
            disk_full: self.is_disk_full(),
        }
    }

    fn index_bytes(&self) -> usize {
        self.index.as_ref().map_or(0, Index::bytes) + self.order.bytes()
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    fn life(&self) -> EngineIncarnation {
        EngineIncarnation { node: self.config.node, incarnation: self.config.incarnation }
    }

    fn current(&self) -> Option<&View> {
        self.chain.as_ref().map(Chain::current)
    }

    // Requests of clients.

    /// Takes a client's append: a whole batch frame, whose place is the request's id.
    ///
    /// # Errors
    /// When the frame is damaged: the connection is beyond repair. What is merely not allowed is
    /// answered.
    pub fn append(
        &mut self,
        now: Time,
        connection: ConnectionId,
        frame: &[u8],
        outputs: &mut Outputs,
    ) -> Result<(), FrameError> {
        let batch = Batch::parse(frame)?;
        let request = batch.frame.verify_place(PlaceScope::Connection)?;
        if let Err((code, message)) = self.admit(&batch) {
            outputs.reply(connection, request, Reply::Error { code, message });
            return Ok(());
        }
        // A repeat whose verdict is known needs no second record.
        let (session, number) = (batch.metadata.session(), batch.metadata.request());
        if let Some(Known::Repeat(verdict)) = self.index.as_ref().map(|index| index.peek(session, number)) {
            mark(Mark::DuplicateAnsweredFromIndex);
            outputs.reply(connection, request, answer(verdict, self.applied()));
            return Ok(());
        }
        self.appends += 1;
        let records = batch.metadata.records.len() as u32;
        self.push(now, Origin::Append { connection, request }, frame, records);
        Ok(())
    }

    fn push(&mut self, now: Time, origin: Origin, frame: &[u8], records: u32) {
        self.producer.push(origin, frame, records);
        self.pending_since.get_or_insert(now);
        if !self.producer.accepts() {
            mark(Mark::EngineBackpressure);
        }
    }

    /// Whether a batch may be appended, before it gets a position.
    fn admit(&self, batch: &Batch<'_>) -> Result<(), (ErrorCode, String)> {
        let metadata = batch.metadata;
        let invalid = |message: &str| Err((ErrorCode::Invalid, message.to_owned()));
        let logbook = metadata.logbook();
        if logbook == LogBookId::SYSTEM {
            return invalid("LogBook 0 is reserved: choose another");
        }
        if logbook.is_memory() {
            return invalid("LogBook ids from 2^63 on are of class memory, which this release does not have");
        }
        let logspaces = self.chain.as_ref().map_or(1, |chain| chain.settings.logspaces);
        if logbook.logspace(logspaces) != self.config.logspace {
            return invalid("the LogBook belongs to another logspace: ask the engine that serves it");
        }
        if metadata.session() == SessionId::NONE || metadata.request().0 == 0 {
            return invalid("an append needs a session and a request number from 1: open a session first");
        }
        if metadata.records.iter().any(|record| record.tags().any(|tag| tag == Tag::ALL)) {
            return invalid("tag 0 means \"every record\" and cannot be set");
        }
        self.admit_space()
    }

    fn admit_space(&self) -> Result<(), (ErrorCode, String)> {
        if self.is_disk_full() {
            let message = "the disk is full: free space on it, and appends go on by themselves; reads are served";
            return Err((ErrorCode::DiskFull, message.into()));
        }
        if self.index_bytes() > self.config.index_bytes_max {
            let message = format!(
                "the index has reached its limit of {} bytes: raise `index_memory` or use another node; reads are served",
                self.config.index_bytes_max
            );
            return Err((ErrorCode::IndexFull, message));
        }
        Ok(())
    }

    /// Whether too few storages have room for a record to commit.
    fn is_disk_full(&self) -> bool {
        let Some(view) = self.current() else { return false };
        let with_room = view.storages.iter().filter(|node| !self.full.contains(node)).count();
        !self.full.is_empty() && with_room < usize::from(view.write_quorum)
    }

    /// Takes any other request. `Status` is the driver's to answer.
    pub fn request(&mut self, now: Time, connection: ConnectionId, id: u64, request: Request, outputs: &mut Outputs) {
        match request {
            Request::OpenSession { .. } => self.open_session(now, connection, id, outputs),
            Request::NameLogBook { name } => self.name_logbook(now, connection, id, &name, outputs),
            Request::Read(read) => {
                self.read_requests += 1;
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.read(sources, connection, id, &read, outputs);
            }
            Request::CheckTail(wanted) => {
                self.read_requests += 1;
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.check_tail(sources, connection, id, &wanted, outputs);
            }
            Request::Status => {
                let message = "status is answered by the node".to_owned();
                outputs.reply(connection, id, Reply::Error { code: ErrorCode::Invalid, message });
            }
        }
    }

    /// Forgets what a connection waits for. Its appends go on.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.reads.connection_closed(connection);
    }

    fn open_session(&mut self, now: Time, connection: ConnectionId, request: u64, outputs: &mut Outputs) {
        if let Err((code, message)) = self.admit_space() {
            outputs.reply(connection, request, Reply::Error { code, message });
            return;
        }
        self.append_system(
            now,
            Origin::OpenSession { connection, request, logspace: self.config.logspace },
            &[Tag::SYSTEM_SESSION],
            b"",
        );
    }

    fn name_logbook(&mut self, now: Time, connection: ConnectionId, request: u64, name: &str, outputs: &mut Outputs) {
        let (logbook, hash) = (LogBookId::from_name(name), second_hash(name));
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let message = format!("a LogBook's name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
            outputs.reply(connection, request, Reply::Error { code: ErrorCode::Invalid, message });
            return;
        }
        match self.index.as_ref().map_or(Named::Unknown, |index| index.named(logbook, hash)) {
            Named::Unknown => {}
            known => return outputs.reply(connection, request, named_reply(known, self.applied())),
        }
        if let Err((code, message)) = self.admit_space() {
            outputs.reply(connection, request, Reply::Error { code, message });
            return;
        }
        let origin = Origin::NameLogBook { connection, request, logbook, name: hash };
        self.append_system(now, origin, &[Tag::SYSTEM_NAME, Tag(logbook.0), hash], name.as_bytes());
    }

    /// Appends a record of LogBook 0.
    fn append_system(&mut self, now: Time, origin: Origin, tags: &[Tag], payload: &[u8]) {
        let head = BatchHead {
            logbook: LogBookId::SYSTEM,
            session: SessionId::NONE,
            request: RequestNumber(0),
            lowest_unanswered: RequestNumber(0),
            time_ms: 0,
            condition: None,
        };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        write_batch(&mut frame, 0, &head, &[NewRecord { tags, payload }]).expect("a short record with three tags");
        self.push(now, origin, &frame, 1);
        self.scratch = frame;
    }

    /// What reads are answered from, once the index exists.
    fn reading(&mut self, now: Time) -> Option<(Sources<'_>, &mut Reads)> {
        let applied = self.applied();
        let index = self.index.as_ref()?;
        Some((Sources { index, order: &self.order, producer: &self.producer, applied, now }, &mut self.reads))
    }

    // Messages of other machines.

    fn message(&mut self, now: Time, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::ReplicateResume { shard, received, durable } => {
                self.producer.resume(from, shard, received, durable);
            }
            Message::ReplicateDurable { shard, durable } => self.producer.durable(from, shard, durable),
            Message::ReplicateRefused { .. } => self.probe(now, outputs),
            Message::StorageSpace { full: true } => {
                self.full.insert(from.node);
            }
            Message::StorageSpace { full: false } => {
                self.full.remove(&from.node);
            }
            Message::MetalogEntries { from: place, count, more, entries } => {
                if self.follower.push(place, count, entries) {
                    self.follow_on(now, more, outputs);
                }
            }
            Message::MetalogNotHere { from: place } => {
                if place == self.follower.next() && self.follower.source == Some(from.node) {
                    self.try_next_source(now);
                }
            }
            Message::TagsEntries { shard, first, more, entries } => {
                self.tags(now, from, shard, first, more, entries, outputs)
            }
            Message::Fetched { request, batch } => self.fetched(now, request, batch, outputs),
            Message::FetchNotHere { request } => self.reads.refetch(request),
            Message::FetchCorrupt { request } => {
                if let Some(fetch) = self.reads.fetch_mut(request) {
                    fetch.corrupt = true;
                }
                self.reads.refetch(request);
            }
            Message::CommitAnswer { request, place } => {
                if let Some((sources, reads)) = self.reading(now) {
                    reads.confirmed(request, place, sources, outputs);
                }
            }
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    /// Reads the register, in case the view has changed without anyone saying so.
    fn probe(&mut self, now: Time, outputs: &mut Outputs) {
        let recent = self.retry_at.is_some_and(|at| now < at);
        if !recent {
            outputs.push(Output::ReadRegister);
            self.retry_at = Some(now + REQUEST_RETRY);
        }
    }

    fn fetched(&mut self, now: Time, request: u64, batch: Bytes, outputs: &mut Outputs) {
        let Some(at) = self.reads.fetch_mut(request).map(|fetch| fetch.at) else { return };
        // The storage verified what it read; this verifies what came, and that it is what was asked.
        let whole = Batch::parse(&batch).and_then(|parsed| {
            let first = parsed.frame.verify_place(PlaceScope::Shard(at.shard))?;
            Ok((first..first + u64::from(parsed.frame.header.count)).contains(&at.position))
        });
        if whole != Ok(true) {
            return self.reads.refetch(request);
        }
        if let Some((sources, reads)) = self.reading(now) {
            reads.fetched(request, Some(batch), sources, outputs);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn tags(
        &mut self,
        now: Time,
        from: Address,
        shard: ShardId,
        first: u64,
        more: bool,
        entries: Bytes,
        outputs: &mut Outputs,
    ) {
        let Some(tags) = self.follower.tags(shard) else { return };
        tags.push(first, entries);
        if more && tags.source == Some(from.node) {
            tags.asked_at = now;
            let message = Message::TagsOpen { shard, from: tags.received() };
            outputs.send(from, message);
        }
    }

    // Following the metalog.

    fn chain(&mut self, now: Time, chain: &Chain, outputs: &mut Outputs) {
        if self.chain.as_ref().is_some_and(|known| known.views.len() >= chain.views.len()) {
            return;
        }
        if self.logspace.is_none() {
            let first = chain.views.first().expect("a chain begins with a view");
            self.logspace = Some(Logspace::new(first));
            self.index = Some(Index::new(&chain.settings, self.config.hash_seed));
            self.follower.start();
        }
        self.chain = Some(chain.clone());
        self.reads.requery();
        self.follower.source = None;
        self.follow(now, outputs);
    }

    /// The replica that was asked has no more: another one is next. Once all were asked, after a while.
    fn try_next_source(&mut self, now: Time) {
        self.follower.attempts += 1;
        self.follower.source = None;
        let view = self.chain.as_ref().and_then(|chain| chain.view(self.follower.next().view));
        let replicas = view.map_or(1, |view| view.sequencers.len());
        if self.follower.attempts.is_multiple_of(replicas) {
            self.follower.not_before = now + REQUEST_RETRY;
        }
    }

    /// Asks a replica for the metalog from where this engine is.
    fn follow(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(chain) = &self.chain else { return };
        while self.follower.advance_view(chain) {}
        if self.follower.source.is_some() || now < self.follower.not_before {
            return;
        }
        let next = self.follower.next();
        let Some(view) = chain.view(next.view) else { return };
        let is_connected = |node| self.connected.contains_key(&node);
        let source = if chain.current().number == next.view {
            Some(view.primary).filter(|node| is_connected(*node))
        } else {
            choose(view.sequencers.iter(), self.config.node, is_connected, self.follower.attempts)
        };
        self.follower.source = source;
        self.follower.asked_at = now;
        if let Some(node) = source {
            outputs.send(self.address(node, Role::Sequencer), Message::MetalogOpen { from: next });
        }
    }

    /// Entries came: asks for those that follow, if nobody sends them by itself.
    fn follow_on(&mut self, now: Time, more: bool, outputs: &mut Outputs) {
        let Some(chain) = &self.chain else { return };
        let ended = self.follower.advance_view(chain);
        // In an ended view without more, this replica has no more.
        let short = !ended && !more && chain.end(self.follower.next().view).is_some();
        if ended || more {
            self.follower.source = None;
            self.follower.not_before = Time::ZERO;
        } else if short {
            self.try_next_source(now);
        }
        if self.follower.source.is_none() && self.follower.queued_bytes() < QUEUED_ENTRY_BYTES_MAX {
            self.follow(now, outputs);
        }
    }

    /// Applies committed entries as far as their Tags are here.
    fn apply(&mut self, now: Time, outputs: &mut Outputs) {
        let before = self.applied();
        self.starved = false;
        loop {
            let Some(place) = self.logspace.as_ref().map(Logspace::place) else { return };
            if self.advance_view() {
                continue;
            }
            match self.follower.take_ready(place.view) {
                Ok(Some(encoded)) => self.apply_entry(now, &encoded, outputs),
                Ok(None) => break,
                Err(shard) => {
                    self.starved = true;
                    self.hurry_tags(now, shard, outputs);
                    break;
                }
            }
        }
        if self.applied() != before {
            self.pending_since = (self.producer.pending_records() > 0).then_some(now);
        }
        if let Some((sources, reads)) = self.reading(now) {
            reads.applied(sources, outputs);
        }
        if self.follower.source.is_none() && self.follower.queued_bytes() < QUEUED_ENTRY_BYTES_MAX {
            self.follow(now, outputs);
        }
    }

    /// Leaves a view that has ended and is applied.
    fn advance_view(&mut self) -> bool {
        let (Some(chain), Some(logspace)) = (&self.chain, &mut self.logspace) else { return false };
        if !logspace.advance_view(chain) {
            return false;
        }
        let view = logspace.place().view;
        for shard in self.follower.followed_before(view) {
            self.follower.unfollow(shard);
        }
        self.producer.close_all();
        self.opening = None;
        self.leaving = None;
        if active(Mutant::WindowDroppedAtViewChange)
            && let Some(index) = &mut self.index
        {
            index.forget_verdicts();
        }
        true
    }

    fn apply_entry(&mut self, now: Time, encoded: &[u8], outputs: &mut Outputs) {
        let (entry, _) = Entry::decode(encoded).expect("checked when it was received");
        let logspace = self.logspace.as_mut().expect("entries come after the chain");
        let place = logspace.place();
        let mut ordered = std::mem::take(&mut self.ordered);
        logspace.apply(&entry, |run| ordered.push(run));
        for run in ordered.drain(..) {
            self.apply_records(&run, outputs);
        }
        self.ordered = ordered;
        match entry {
            Entry::OpenShard { engine, ordinal, replicas } => {
                let shard = ShardId { view: place.view, index: place.index };
                if self.logspace.as_ref().is_some_and(|logspace| logspace.shard(shard).is_some()) {
                    self.follower.follow(shard);
                    self.open_tags(now, shard, &replicas, outputs);
                    self.shard_opened(shard, engine, ordinal, &replicas, outputs);
                }
            }
            Entry::CloseShard { shard_index } => {
                let shard = ShardId { view: place.view, index: shard_index };
                self.follower.unfollow(shard);
                if self.producer.is_own(shard) {
                    self.producer.close(shard);
                    self.leaving = None;
                }
            }
            Entry::MoveShard { .. } | Entry::Cut(_) | Entry::Trim { .. } => {}
        }
    }

    /// Gives a run of ordered records their verdicts, and answers who waits for them.
    fn apply_records(&mut self, run: &Ordered, outputs: &mut Outputs) {
        let place = self.applied();
        let (Some(index), Some(tags)) = (&mut self.index, self.follower.tags(run.shard)) else { return };
        self.order.push(run);
        let own = self.producer.is_own(run.shard);
        let mut position = run.from;
        while position < run.to {
            let Some((next, bytes)) = tags.peek() else { return };
            let seqnum = SeqNum(run.seqnum.0 + (position - run.from));
            let (records, applied) = match next {
                NextTags::Batch(batch) => {
                    let reads = &mut self.reads;
                    let applied = index.apply(seqnum, batch, |logbook, tag| reads.wake((logbook, tag)));
                    (batch.records.len() as u64, applied)
                }
                NextTags::Lost(records) => {
                    let records = records.min(run.to - position);
                    index.lose(seqnum, SeqNum(seqnum.0 + records));
                    (records, Applied::SessionExpired)
                }
            };
            if own && let Some(origin) = self.producer.answered(run.shard, position, records) {
                let reply = reply_to(origin, seqnum, applied, place, index);
                let (connection, request) = origin.client();
                outputs.reply(connection, request, reply);
            }
            tags.advance(records, bytes);
            position += records;
        }
    }

    /// Asks a replica of a shard for its Tags from where this engine is.
    fn open_tags(&mut self, now: Time, shard: ShardId, replicas: &NodeSet, outputs: &mut Outputs) {
        let Some(tags) = self.follower.tags(shard) else { return };
        let is_connected = |node| self.connected.contains_key(&node);
        tags.asked_at = now;
        tags.source = choose(replicas.iter(), self.config.node, is_connected, tags.attempts);
        if let Some(node) = tags.source {
            let from = tags.received();
            let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
            outputs.send(to, Message::TagsOpen { shard, from });
        }
    }

    /// Tags that a committed cut needs do not come: another replica is asked.
    fn hurry_tags(&mut self, now: Time, shard: ShardId, outputs: &mut Outputs) {
        let Some(tags) = self.follower.tags(shard) else { return };
        if now.since(tags.asked_at) < TAGS_PATIENCE && tags.source.is_some() {
            return;
        }
        tags.attempts += 1;
        let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
        if let Some(replicas) = known.map(|known| known.replicas) {
            self.open_tags(now, shard, &replicas, outputs);
        }
    }

    // The shard that this engine writes.

    fn shard_opened(
        &mut self,
        shard: ShardId,
        engine: EngineIncarnation,
        ordinal: u64,
        replicas: &NodeSet,
        outputs: &mut Outputs,
    ) {
        if engine == self.life() && self.opening.is_some_and(|(asked, _)| asked == ordinal) {
            self.opening = None;
            self.producer.open(shard, replicas, outputs);
        }
    }

    /// Asks for a shard, if there is none and the view is one to write in.
    fn open_shard(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(view) = self.current() else { return };
        if self.producer.open_shard().is_some() || self.applied().view != view.number {
            return;
        }
        let primary = view.primary;
        let Some(replicas) = self.choose_storages(view) else { return };
        let ordinal = match self.opening {
            Some((_, asked_at)) if now.since(asked_at) < REQUEST_RETRY => return,
            Some((ordinal, _)) => ordinal,
            None => {
                self.ordinal += 1;
                self.ordinal
            }
        };
        self.opening = Some((ordinal, now));
        let message = Message::OpenShard { engine: self.life(), ordinal, replicas: Box::new(replicas) };
        outputs.send(self.address(primary, Role::Sequencer), message);
    }

    /// R storages of the view: connected ones with room first, beginning with the own node.
    fn choose_storages(&self, view: &View) -> Option<NodeSet> {
        let mut nodes: Vec<NodeId> = view.storages.iter().collect();
        nodes.sort_by_key(|node| {
            (!self.connected.contains_key(node), self.full.contains(node), *node != self.config.node)
        });
        nodes.truncate(usize::from(view.replicas));
        NodeSet::new(&nodes)
    }

    fn leave_shard(&mut self, now: Time, shard: ShardId, outputs: &mut Outputs) {
        let asked = self.leaving.filter(|(leaving, _)| *leaving == shard);
        if asked.is_some_and(|(_, asked_at)| now.since(asked_at) < REQUEST_RETRY) {
            return;
        }
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        self.leaving = Some((shard, now));
        outputs.send(self.address(primary, Role::Sequencer), Message::CloseShard { shard });
    }

    // Fetches and queries.

    fn send_fetches(&mut self, now: Time, outputs: &mut Outputs) {
        for id in self.reads.fetches_to_send() {
            let Some(fetch) = self.reads.fetch_mut(id) else { continue };
            let shard = fetch.at.shard;
            let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
            let replicas = known.map_or(NodeSet::default(), |known| known.replicas);
            if fetch.corrupt && fetch.attempt >= replicas.len() {
                if let Some((sources, reads)) = self.reading(now) {
                    reads.fetched(id, None, sources, outputs);
                }
                continue;
            }
            let all_asked = fetch.attempt > 0 && fetch.attempt.is_multiple_of(replicas.len().max(1));
            if all_asked && now.since(fetch.asked_at) < REQUEST_RETRY {
                // Not at once again: the retry timer comes back to it.
                fetch.asked = None;
                continue;
            }
            let is_connected = |node| self.connected.contains_key(&node);
            fetch.asked = choose(replicas.iter(), self.config.node, is_connected, fetch.attempt);
            fetch.asked_at = now;
            if let Some(node) = fetch.asked {
                let message = Message::Fetch { request: id, shard, position: fetch.at.position };
                self.fetches += 1;
                let to = Address { node, logspace: self.config.logspace, role: Role::Storage };
                outputs.send(to, message);
            }
        }
    }

    fn send_query(&mut self, outputs: &mut Outputs) {
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        if self.connected.contains_key(&primary)
            && let Some(request) = self.reads.next_query()
        {
            outputs.send(self.address(primary, Role::Sequencer), Message::CommitQuery { request });
        }
    }

    // Connections and time.

    fn node_connected(&mut self, now: Time, node: NodeId, incarnation: Incarnation, outputs: &mut Outputs) {
        self.node_disconnected(node);
        self.connected.insert(node, incarnation);
        self.producer.connected(node, outputs);
        self.follow(now, outputs);
        let unsourced: Vec<ShardId> =
            self.follower.all_tags().filter(|(_, tags)| tags.source.is_none()).map(|(shard, _)| shard).collect();
        for shard in unsourced {
            let known = self.logspace.as_ref().and_then(|logspace| logspace.shard(shard));
            if let Some(replicas) = known.map(|known| known.replicas) {
                self.open_tags(now, shard, &replicas, outputs);
            }
        }
        if self.current().is_some_and(|view| view.primary == node) {
            self.opening = self.opening.map(|(ordinal, _)| (ordinal, Time::ZERO));
            self.reads.requery();
        }
    }

    fn node_disconnected(&mut self, node: NodeId) {
        self.connected.remove(&node);
        self.full.remove(&node);
        self.producer.disconnected(node);
        self.reads.storage_lost(node);
        if self.follower.source == Some(node) {
            self.follower.source = None;
        }
        for (_, tags) in self.follower.all_tags().filter(|(_, tags)| tags.source == Some(node)) {
            tags.source = None;
        }
    }

    fn tick(&mut self, now: Time, outputs: &mut Outputs) {
        if let Some((sources, reads)) = self.reading(now) {
            reads.expire(sources, outputs);
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        self.reads.retry(now);
        self.reads.requery();
        let ended = self.chain.as_ref().is_some_and(|chain| chain.end(self.follower.next().view).is_some());
        if ended && self.follower.source.is_some() && now.since(self.follower.asked_at) >= REQUEST_RETRY {
            self.try_next_source(now);
        }
        self.follow(now, outputs);
        let stale: Vec<ShardId> =
            self.follower.all_tags().filter(|(_, tags)| tags.source.is_none()).map(|(shard, _)| shard).collect();
        for shard in stale {
            self.hurry_tags(now, shard, outputs);
        }
        if self.pending_since.is_some_and(|since| now.since(since) >= PENDING_PROBE) {
            self.pending_since = Some(now);
            outputs.push(Output::ReadRegister);
        }
    }

    /// Whether something was asked that may have to be asked again.
    fn is_waiting(&self) -> bool {
        let Some(chain) = &self.chain else { return false };
        let behind = chain.current().number != self.applied().view || self.follower.source.is_none();
        behind
            || self.starved
            || self.opening.is_some()
            || self.leaving.is_some()
            || self.reads.has_fetches()
            || self.reads.has_queries()
    }
}

impl Machine for Engine {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match input {
            Input::Message { from, message } => self.message(now, from, message, outputs),
            Input::Chain(chain) => self.chain(now, chain, outputs),
            Input::Connected { node, incarnation } => self.node_connected(now, node, incarnation, outputs),
            Input::Disconnected { node } => self.node_disconnected(node),
            Input::Tick => self.tick(now, outputs),
            Input::Durable(_) | Input::Read { .. } | Input::TagsRead { .. } | Input::Swapped | Input::Space { .. } => {}
        }
    }

    fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        self.apply(now, outputs);
        self.open_shard(now, outputs);
        if let Some(shard) = self.producer.flush(outputs) {
            self.leave_shard(now, shard, outputs);
        }
        self.send_query(outputs);
        self.send_fetches(now, outputs);
        if self.retry_at.is_none() && (self.is_waiting() || self.pending_since.is_some()) {
            self.retry_at = Some(now + REQUEST_RETRY);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.reads.deadline().into_iter().chain(self.retry_at).min()
    }
}

fn reply_to(origin: Origin, seqnum: SeqNum, applied: Applied, place: Place, index: &Index) -> Reply {
    match origin {
        Origin::Append { .. } => match applied {
            _ if active(Mutant::AnswerBeforeVerdict) => answer(Verdict::Visible { seqnum }, place),
            Applied::Verdict(verdict) => answer(verdict, place),
            Applied::SessionExpired => session_expired(),
        },
        Origin::OpenSession { logspace, .. } => Reply::SessionOpened { session: SessionId(seqnum.0), logspace, place },
        Origin::NameLogBook { logbook, name, .. } => named_reply(index.named(logbook, name), place),
    }
}

fn answer(verdict: Verdict, place: Place) -> Reply {
    match verdict {
        Verdict::Visible { seqnum } => Reply::Appended { seqnum, durability: Durability::Disk, place },
        Verdict::ConditionFailed { tail } => Reply::ConditionFailed { tail, place },
    }
}

fn named_reply(named: Named, place: Place) -> Reply {
    match named {
        Named::ByThisName => Reply::Named { place },
        Named::ByAnother | Named::Unknown => Reply::Error {
            code: ErrorCode::NameTaken,
            message: "another LogBook's name has the same id: choose another name".into(),
        },
    }
}

fn session_expired() -> Reply {
    Reply::Error {
        code: ErrorCode::SessionExpired,
        message: "the session was forgotten, or the request is outside its window: open a new one, and read \
                  whether an earlier try of this request is in the log before appending it again"
            .into(),
    }
}

fn unavailable() -> Reply {
    let message = "the engine has not yet read its view: try again".into();
    Reply::Error { code: ErrorCode::Unavailable, message }
}

/// A second hash of a LogBook's name, in its `Name` record: tells names with the same id apart.
fn second_hash(name: &str) -> Tag {
    Tag(xxh3_64_with_seed(name.as_bytes(), 1).max(3))
}
