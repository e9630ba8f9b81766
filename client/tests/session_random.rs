//! The session under random cuts, partial sends, refusals, forgotten sessions, deadlines, retries and
//! cancellations: whatever happens, an answer is true, and nothing takes effect twice.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::FakeServer;
use sealog::session::{Append, Failover, Operation, OperationId, Outcome, Session, SessionConfig, SubmitError, Target};
use sealog::{AppendError, ConnectionError, NewRecord, SeqNum, Tag};
use sealog_protocol::Time;
use sealog_protocol::client::ErrorCode;

const SEEDS: u64 = 2_000;
const STEPS: usize = 600;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What is known of an append by its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Appended(SeqNum),
    NoEffect,
    Unknown,
}

struct World {
    random: Random,
    session: Session,
    server: FakeServer,
    now: Time,
    connection: usize,
    is_connected: bool,
    /// Connections given up for these reasons.
    unavailable: u64,
    stalled: u64,
    silent: u64,
    last_payload: u64,
    pending: BTreeMap<OperationId, u64>,
    unknown: Vec<(OperationId, u64)>,
    known: BTreeMap<u64, Known>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let config = SessionConfig {
            seed,
            // With several, a connection is left for another that stands before the same log.
            addresses: (0..random.below(4)).map(|address| address.to_string()).collect(),
            failover: Failover {
                // Some notice silence late: to them a node that does not answer is one that does not go on.
                quiet_max: Duration::from_millis([2, 100][random.below(2) as usize]),
                sign_max: Duration::from_millis(4),
                stall_max: Duration::from_millis(10),
                ..Failover::default()
            },
            operations_max: 1 + random.below(40) as usize,
            unknown_max: random.below(6) as usize,
            buffer_bytes_max: 600 + random.below(60_000) as usize,
            ..SessionConfig::default()
        };
        let server = FakeServer::new(1 + random.below(3) as u16, 1 + random.below(20) as u32);
        World {
            random,
            session: Session::new(config),
            server,
            now: Time::ZERO,
            connection: 0,
            is_connected: false,
            unavailable: 0,
            stalled: 0,
            silent: 0,
            last_payload: 0,
            pending: BTreeMap::new(),
            unknown: Vec::new(),
            known: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..20 => self.append(),
            20..50 => self.send(),
            50..80 => self.deliver(),
            80..90 => self.pass(),
            90..93 if self.is_connected => self.cut(),
            93..95 => self.refuse(),
            95 => self.server.forget_sessions(),
            96..98 => self.retry(),
            98 => self.cancel(),
            99 => self.server.is_mute = self.random.below(8) == 0,
            _ => {}
        }
        self.take_completions();
    }

    fn append(&mut self) {
        self.last_payload += 1;
        let mut payload = self.last_payload.to_le_bytes().to_vec();
        payload.resize(8 + self.random.below(300) as usize, 0);
        let name = ["a", "b", "c"][self.random.below(3) as usize];
        let records = [NewRecord { tags: &[Tag(1)], payload: &payload }];
        let append = Append { logbook: Target::Name(name), condition: None, time_ms: 0, records: &records };
        let deadline = self.now + Duration::from_millis(1 + self.random.below(300));
        match self.session.submit(self.now, Operation::Append(append), deadline) {
            Ok(operation) => drop(self.pending.insert(operation, self.last_payload)),
            Err(SubmitError::Full) => drop(self.known.insert(self.last_payload, Known::NoEffect)),
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&mut self) {
        let bytes = self.session.transmit();
        if !self.is_connected || bytes.is_empty() {
            return;
        }
        let sent = 1 + self.random.below(bytes.len() as u64) as usize;
        self.server.receive(self.connection, &bytes[..sent]);
        self.session.transmitted(sent);
    }

    fn deliver(&mut self) {
        if !self.is_connected {
            return;
        }
        let output = self.server.output(self.connection);
        for portion in output.chunks(1 + self.random.below(500) as usize) {
            match self.session.receive(self.now, portion) {
                Ok(()) => {}
                Err(ConnectionError::Refused { code: ErrorCode::Unavailable, .. }) => {
                    self.unavailable += 1;
                    return self.cut();
                }
                Err(error) => panic!("the server sends valid frames: {error}"),
            }
        }
    }

    fn pass(&mut self) {
        let most = if self.random.below(16) == 0 { 80_000 } else { 4_000 };
        self.now = self.now + Duration::from_micros(self.random.below(most));
        if let Err(reason) = self.session.tick(self.now) {
            self.stalled += u64::from(reason == ConnectionError::Stalled);
            self.silent += u64::from(reason == ConnectionError::Silent);
            self.cut();
        }
        if !self.is_connected && self.session.connect_at().is_some_and(|at| at <= self.now) {
            if self.random.below(8) == 0 {
                return self.session.disconnected(self.now, ConnectionError::Closed);
            }
            self.connection += 1;
            self.is_connected = true;
            self.session.connected(self.now);
        }
    }

    fn cut(&mut self) {
        // What the server still has to say may be lost, or not have been asked for.
        self.server.disconnect(self.connection);
        self.is_connected = false;
        self.session.disconnected(self.now, ConnectionError::Closed);
    }

    fn refuse(&mut self) {
        let codes = [ErrorCode::Busy, ErrorCode::Unavailable, ErrorCode::DiskFull, ErrorCode::IndexFull];
        for _ in 0..self.random.below(6) {
            self.server.refusals.push_back(codes[self.random.below(4) as usize]);
        }
    }

    fn retry(&mut self) {
        if let Some((operation, payload)) = self.unknown.pop() {
            let deadline = self.now + Duration::from_millis(self.random.below(300));
            match self.session.retry(self.now, operation, deadline) {
                Ok(operation) => drop(self.pending.insert(operation, payload)),
                Err(SubmitError::Full) => self.unknown.push((operation, payload)),
                Err(SubmitError::Append(error)) => assert_eq!(error, AppendError::SessionExpired),
            }
        }
    }

    fn cancel(&mut self) {
        if let Some((operation, payload)) = self.pending.pop_first() {
            self.session.cancel(self.now, operation);
            self.known.insert(payload, Known::Unknown);
        }
    }

    fn take_completions(&mut self) {
        while let Some((operation, outcome)) = self.session.next_completion() {
            let payload = self.pending.remove(&operation).expect("each completes once");
            let Outcome::Append(result) = outcome else { panic!("only appends were submitted") };
            let known = match result {
                Ok(appended) => Known::Appended(appended.seqnum),
                Err(AppendError::OutcomeUnknown { retry }) => {
                    self.unknown.push((retry, payload));
                    Known::Unknown
                }
                Err(error) if error.is_outcome_unknown() => Known::Unknown,
                Err(_) => Known::NoEffect,
            };
            self.known.insert(payload, known);
        }
    }

    /// Without faults, everything comes to its end.
    fn settle(&mut self) {
        self.server.refusals.clear();
        self.server.is_mute = false;
        for _ in 0..100_000 {
            if self.pending.is_empty() && self.session.in_flight() == 0 {
                return;
            }
            self.send();
            self.deliver();
            self.pass();
            self.take_completions();
        }
        panic!("{} operations never end", self.session.in_flight());
    }

    fn check(&self, seed: u64) {
        let mut log = BTreeMap::new();
        for (stored, payload) in self.server.records.iter().zip(self.server.payloads()) {
            let payload = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
            assert_eq!(log.insert(payload, stored.seqnum), None, "seed {seed}: {payload} took effect twice");
        }
        assert_eq!(self.known.len() as u64, self.last_payload, "seed {seed}: each has an outcome");
        for (payload, known) in &self.known {
            let at = log.get(payload).copied();
            let is_true = match known {
                Known::Appended(seqnum) => at == Some(*seqnum),
                Known::NoEffect => at.is_none(),
                Known::Unknown => true,
            };
            assert!(is_true, "seed {seed}: append {payload} is said to be {known:?}, and is at {at:?}");
        }
        assert!(self.server.ahead_max < u64::from(self.server.welcome.session_window), "seed {seed}");
    }
}

#[test]
fn answers_are_true_and_nothing_takes_effect_twice() {
    let (mut appended, mut without_effect, mut unknown, mut connections) = (0, 0, 0, 0);
    let (mut stalled, mut left) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.check(seed);
        stalled += world.stalled.min(1);
        left += (world.unavailable + world.silent).min(1);
        connections += world.session.counters().connections;
        for known in world.known.values() {
            match known {
                Known::Appended(_) => appended += 1,
                Known::NoEffect => without_effect += 1,
                Known::Unknown => unknown += 1,
            }
        }
    }
    // All that is to be tested must have happened.
    assert!(
        appended > 10 * SEEDS && without_effect > 20 * SEEDS && unknown > 3 * SEEDS && connections > 2 * SEEDS,
        "{appended} appended, {without_effect} without effect, {unknown} unknown, {connections} connections"
    );
    assert!(stalled > SEEDS / 20 && left > SEEDS / 20, "of {SEEDS}: {stalled} stalled, {left} unavailable or silent");
}
