//! A thread of the load generator: its connections, and the loop that keeps each of them busy.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use sealog::session::{Append, Direction, Operation, Outcome, Read, Session, SessionConfig};
use sealog::{OperationId, SeqNum};
use sealog_history::{Fingerprint, History, Line, OperationId as Recorded, Timestamp};
use sealog_protocol::batch::NewRecord;
use sealog_protocol::client::Welcome;
use sealog_protocol::{Logspaces, Time};

use crate::arguments::BenchArguments;
use crate::bench::link::{Address, Link, Waiting};
use crate::bench::load::{Draw, Draws, Load};
use crate::bench::measure::{Clock, Phase, Shared, Tally, histogram};
use crate::bench::mix::Mode;
use crate::failure::Failure;

/// How often deadlines, phases and the live table are looked after.
const HOUSEKEEPING: Duration = Duration::from_millis(10);
/// With more under way, writing could block while the server waits for us to read.
const INFLIGHT_BLOCKING_MAX: u32 = 8;
const READ_BUFFER_BYTES: usize = 256 << 10;

/// What a thread brings home.
pub struct Ended {
    pub tally: Tally,
    pub history: History,
    pub connections: u32,
}

/// An append or a read under way.
#[derive(Clone, Copy)]
struct UnderWay {
    submitted: Time,
    recorded: Option<Recorded>,
}

/// A connection and what it does.
struct Connection {
    link: Link,
    draws: Draws,
    line: Line,
    /// By the index of the session's operation.
    under_way: Vec<Option<UnderWay>>,
    /// Appends that are not under way and could be.
    idle: u32,
    /// When it last got an acknowledgement.
    acknowledged_at: Option<Time>,
}

impl Connection {
    fn began(&mut self, operation: OperationId, under_way: UnderWay) {
        if self.under_way.len() <= operation.index() {
            self.under_way.resize(operation.index() + 1, None);
        }
        self.under_way[operation.index()] = Some(under_way);
        self.idle -= 1;
    }
}

/// See the module's documentation.
pub struct Worker {
    addresses: Arc<[Address]>,
    load: Arc<Load>,
    shared: Arc<Shared>,
    deadline: Duration,
    size: u64,
    /// Reads, not appends.
    reads: bool,
    poll: Poll,
    connections: Vec<Connection>,
    waits_in_read: bool,
    tally: Tally,
    history: History,
    recent: Recent,
    /// The client's clock, advisory, read at each housekeeping.
    time_ms: u64,
}

/// What the live table has not seen yet.
struct Recent {
    latency_ns: Histogram<u64>,
    bytes: u64,
    errors: u64,
}

impl Worker {
    /// A thread's connections, made and welcomed.
    pub fn connect(
        addresses: &Arc<[Address]>,
        load: &Arc<Load>,
        shared: &Arc<Shared>,
        arguments: &BenchArguments,
        connections: Range<u32>,
    ) -> Result<Worker, Failure> {
        let poll = Poll::new().map_err(|error| Failure::other(format!("cannot wait for sockets: {error}")))?;
        let waits_in_read = connections.len() == 1 && arguments.inflight <= INFLIGHT_BLOCKING_MAX;
        let mut made = Vec::with_capacity(connections.len());
        for (nth, connection) in connections.enumerate() {
            let session = Session::new(SessionConfig {
                addresses: addresses.iter().map(Address::text).collect(),
                address_first: connection as usize,
                name: "sealog-bench".to_owned(),
                seed: arguments.seed ^ u64::from(connection),
                operations_max: arguments.inflight as usize,
                buffer_bytes_max: usize::MAX,
                ..SessionConfig::default()
            });
            let waiting = if waits_in_read { Waiting::InRead } else { Waiting::InPoll(nth) };
            let mut link = Link::new(session, waiting);
            link.connect(shared.clock.now(), addresses, poll.registry())?;
            made.push(Connection {
                link,
                draws: load.draws(connection),
                line: Line(nth as u32),
                under_way: Vec::new(),
                idle: arguments.inflight,
                acknowledged_at: None,
            });
        }
        let mut worker = Worker {
            addresses: addresses.clone(),
            load: load.clone(),
            shared: shared.clone(),
            deadline: arguments.client.deadline,
            size: arguments.size as u64,
            reads: arguments.mode == Mode::Read,
            poll,
            connections: made,
            waits_in_read,
            tally: Tally::new(),
            history: History::new(1),
            recent: Recent { latency_ns: histogram(), bytes: 0, errors: 0 },
            time_ms: 0,
        };
        worker.await_welcomes()?;
        worker.history = History::new(worker.logspaces());
        Ok(worker)
    }

    /// Of the cluster, as the first welcome says.
    pub fn logspaces(&self) -> Logspaces {
        self.connections[0].link.session.welcome().and_then(Welcome::classes).unwrap_or(1.into())
    }

    fn await_welcomes(&mut self) -> Result<(), Failure> {
        let (clock, begun) = (self.shared.clock, self.shared.clock.now());
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut events = Events::with_capacity(1024);
        let is_welcomed = |connection: &Connection| connection.link.session.is_connected();
        while !self.connections.iter().all(is_welcomed) {
            self.wait(clock, &mut events, &mut buffer)?;
            let now = clock.now();
            let late = now.since(begun) >= self.deadline;
            for connection in &mut self.connections {
                let mut tries = self.addresses.len() - 1;
                while !connection.link.is_open() && tries > 0 {
                    tries -= 1;
                    connection.link.session.want_connection();
                    connection.link.reconnect(now, &self.addresses, self.poll.registry());
                }
            }
            if late || self.connections.iter().any(|connection| !connection.link.is_open()) {
                let address = self.addresses.iter().map(Address::text).collect::<Vec<_>>().join(",");
                let why = if late { "it does not answer" } else { "it closed the connection" };
                return Err(Failure::new(
                    crate::failure::Kind::Unreachable,
                    format!("cannot reach {address}: {why}: is a Sealog node of this release listening there?"),
                ));
            }
        }
        Ok(())
    }

    pub fn run(mut self) -> Ended {
        let clock = self.shared.clock;
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut events = Events::with_capacity(1024);
        let mut cared_at = Time::ZERO;
        let mut drain_until = None;
        loop {
            let now = clock.now();
            if now.since(cared_at) >= HOUSEKEEPING {
                cared_at = now;
                self.keep_house(now);
                if self.shared.phase() == Phase::Drain {
                    let until = *drain_until.get_or_insert(now + self.deadline + HOUSEKEEPING);
                    let busy = self.connections.iter().any(|connection| connection.link.session.in_flight() > 0);
                    if !busy || now >= until {
                        break;
                    }
                }
            }
            if self.wait(clock, &mut events, &mut buffer).is_err() {
                break;
            }
        }
        let retries = self.connections.iter().map(|connection| connection.link.session.counters().retries).sum();
        self.tally.retries = retries;
        Ended { tally: self.tally, history: self.history, connections: self.connections.len() as u32 }
    }

    /// Waits for a socket, and deals with what came.
    fn wait(&mut self, clock: Clock, events: &mut Events, buffer: &mut [u8]) -> Result<(), Failure> {
        if self.waits_in_read && self.connections[0].link.is_open() {
            self.serve(0, clock, buffer);
            return Ok(());
        }
        match self.poll.poll(events, Some(HOUSEKEEPING)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::other(format!("cannot wait for sockets: {error}"))),
        }
        for event in events.iter() {
            let Token(at) = event.token();
            self.serve(at, clock, buffer);
        }
        Ok(())
    }

    fn serve(&mut self, at: usize, clock: Clock, buffer: &mut [u8]) {
        // What is to be sent goes first: a blocking read would wait for its answer.
        self.connections[at].link.transmit(clock.now());
        let now = self.connections[at].link.receive(clock, buffer);
        // With somewhere else to go, that is not left to the housekeeping.
        self.connections[at].link.reconnect(now, &self.addresses, self.poll.registry());
        self.complete(at, now);
        self.connections[at].link.transmit(now);
    }

    /// Counts what is done, and then begins as much anew: an operation that begins may get the index
    /// of one whose completion has not been taken.
    fn complete(&mut self, at: usize, now: Time) {
        let phase = self.shared.phase();
        let mut acknowledged = 0;
        while let Some((operation, outcome)) = self.connections[at].link.session.next_completion() {
            let connection = &mut self.connections[at];
            let slot = connection.under_way.get_mut(operation.index()).and_then(Option::take);
            let Some(under_way) = slot else { continue };
            connection.idle += 1;
            match outcome {
                Outcome::Append(Ok(appended)) => {
                    if let Some(recorded) = under_way.recorded {
                        self.history.acknowledged(Timestamp(now.0), recorded, appended.seqnum);
                    }
                    if phase == Phase::Measure {
                        self.tally.durability = Some(appended.durability);
                        self.acknowledged(now.since(under_way.submitted), self.size);
                    }
                    acknowledged += 1;
                }
                Outcome::Read(Ok(read)) => {
                    if phase == Phase::Measure {
                        self.tally.empty += u64::from(read.records.is_empty());
                        let bytes = read.records.iter().map(|record| record.payload.len() as u64).sum();
                        self.acknowledged(now.since(under_way.submitted), bytes);
                    }
                    acknowledged += 1;
                }
                // The next try waits for the housekeeping: refusals can come as fast as requests.
                Outcome::Append(Err(error)) => {
                    self.failed(error.is_outcome_unknown(), error.into(), under_way.recorded);
                }
                Outcome::Read(Err(error)) => self.failed(false, error.into(), None),
                Outcome::CheckTail(_)
                | Outcome::Status(_)
                | Outcome::Manage(_)
                | Outcome::Name(_)
                | Outcome::SetAux(_) => {}
            }
        }
        if acknowledged > 0
            && let Some(earlier) = self.connections[at].acknowledged_at.replace(now)
        {
            self.shared.waited(now.since(earlier));
        }
        if phase != Phase::Drain {
            for _ in 0..acknowledged {
                self.submit(at, now);
            }
        }
    }

    fn acknowledged(&mut self, latency: Duration, bytes: u64) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.tally.latency_ns.saturating_record(latency_ns);
        self.tally.bytes += bytes;
        self.recent.latency_ns.saturating_record(latency_ns);
        self.recent.bytes += bytes;
    }

    fn failed(&mut self, is_outcome_unknown: bool, failure: Failure, recorded: Option<Recorded>) {
        if is_outcome_unknown {
            self.tally.unknown += 1;
        } else {
            self.tally.errors += 1;
            if let Some(recorded) = recorded {
                self.history.refused(recorded);
            }
        }
        self.recent.errors += 1;
        self.tally.first_error.get_or_insert(failure);
    }

    /// Begins one operation, if the session takes it.
    fn submit(&mut self, at: usize, now: Time) -> bool {
        if self.reads {
            return self.submit_read(at, now);
        }
        let connection = &mut self.connections[at];
        let Draw { logbook, tag, payload } = connection.draws.next(&self.load);
        let record = NewRecord { tags: tag.as_slice(), payload };
        let append = Append { logbook, condition: None, time_ms: self.time_ms, records: std::slice::from_ref(&record) };
        let submitted = connection.link.session.submit(now, Operation::Append(append), now + self.deadline);
        let Ok(operation) = submitted else { return false };
        let recorded = self.shared.verify.then(|| {
            let fingerprint = Fingerprint::new(logbook.id(), record.tags, payload);
            self.history.append(Timestamp(now.0), connection.line, logbook.id(), &[fingerprint], None)
        });
        connection.began(operation, UnderWay { submitted: now, recorded });
        true
    }

    fn submit_read(&mut self, at: usize, now: Time) -> bool {
        let connection = &mut self.connections[at];
        let (logbook, tag) = connection.draws.next_read(&self.load);
        let read = Read {
            logbook,
            tag,
            first: SeqNum::MIN,
            last: SeqNum::MAX,
            direction: Direction::Forward,
            records_max: 1,
            wait: Duration::ZERO,
            linearizable: false,
            aux: false,
        };
        let submitted = connection.link.session.submit(now, Operation::Read(read), now + self.deadline);
        let Ok(operation) = submitted else { return false };
        connection.began(operation, UnderWay { submitted: now, recorded: None });
        true
    }

    /// Deadlines, lost connections, appends that could not begin, the live table.
    fn keep_house(&mut self, now: Time) {
        self.time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        for at in 0..self.connections.len() {
            let link = &mut self.connections[at].link;
            link.tick(now);
            link.reconnect(now, &self.addresses, self.poll.registry());
            self.complete(at, now);
            if self.shared.phase() != Phase::Drain {
                while self.connections[at].idle > 0 && self.submit(at, now) {}
            }
            self.connections[at].link.transmit(now);
        }
        let recent = &mut self.recent;
        self.shared.report(&mut recent.latency_ns, recent.bytes, recent.errors);
        (recent.bytes, recent.errors) = (0, 0);
    }
}
