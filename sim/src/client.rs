//! A simulated client: the client crate's session on a simulated connection, and the history of what
//! it does.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use sealog::session::{
    Direction, Failover, Managed, Outcome, Read, Retention, Session, SessionConfig, SubmitError, Subscribe,
    SubscriptionEvent,
};
use sealog::{AppendError, CheckTailError, ManageError, OperationId, ReadError, SetAuxError, SubscribeError};
use sealog_history::{Fingerprint, Found, History, Line, Range, Subscribed, Timestamp, Told};
use sealog_protocol::machine::ConnectionId;
use sealog_protocol::{LogBookId, SeqNum, Tag, Time};

use crate::queue::{Instant, MILLISECOND, SECOND};
use crate::swarm::{NodeIndex, Plan};
use crate::violation::Failure;
use crate::workload::{Book, Intent, Workload, aux_key};

/// After this long, an operation that waits patiently is taken for stuck.
pub const PATIENCE: Instant = 3_600 * SECOND;

/// Operations of a client that attach aux data, at once.
const SETTING_AUX_MAX: usize = 4;
/// Those that set retention, likewise.
const SETTING_RETENTION_MAX: usize = 2;
/// More sessions than a seed opens.
pub const SESSIONS_MANY: u32 = 100_000;

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Down,
    /// On its way to a node.
    Dialing,
    Up {
        node: NodeIndex,
        life: u64,
        connection: ConnectionId,
    },
}

/// An operation that has not ended.
#[derive(Clone, Debug)]
pub struct Pending {
    pub recorded: sealog_history::OperationId,
    logbook: LogBookId,
    tag: Tag,
}

/// What clients share.
pub struct Recorder {
    pub history: History,
    events: u64,
    pub completed: u64,
    /// So few sessions are kept that some are evicted.
    pub sessions_expire: bool,
    /// A read may say that bytes are damaged: disks fail to read in this seed.
    pub damage_allowed: bool,
    /// Wishes to set retention that were not granted.
    pub retention_refused: u64,
    /// What subscriptions told that ended before the rest did.
    pub subscribed: Vec<Subscribed>,
}

impl Recorder {
    pub fn new(plan: &Plan) -> Recorder {
        Recorder {
            history: History::new(plan.settings.classes()),
            events: 0,
            completed: 0,
            // Or are lost with what class memory may lose.
            sessions_expire: plan.settings.sessions_max < SESSIONS_MANY || plan.settings.memory_logspaces > 0,
            damage_allowed: false,
            retention_refused: 0,
            subscribed: Vec::new(),
        }
    }

    /// Events are counted, so that none are at the same time.
    fn next(&mut self) -> Timestamp {
        self.events += 1;
        Timestamp(self.events)
    }

    pub fn hand_over(&mut self, from: Line, to: Line) {
        let now = self.next();
        self.history.hand_over(now, from, to);
    }
}

pub struct Client {
    pub line: Line,
    pub session: Session,
    pub link: Link,
    /// Counts its connections: what belongs to an older one is dropped.
    pub epoch: u64,
    /// When the last bytes arrive at the node, and at the client: both ways are FIFO.
    pub last_there: Instant,
    pub last_back: Instant,
    /// The only node it connects to, for a scan.
    pub pinned: Option<NodeIndex>,
    pub pending: BTreeMap<OperationId, Pending>,
    /// No history has these: they change no answer.
    setting_aux: BTreeSet<OperationId>,
    /// As no history has these: the trims that come of them are known from the log.
    pub setting_retention: BTreeSet<OperationId>,
    pub subscriptions: BTreeMap<OperationId, Subscribed>,
    pub workload: Workload,
    pub next_submit: Instant,
    /// When the world looks at it again.
    pub wake: Instant,
    /// What a scan has read, when it is a scanner.
    pub scanned: Vec<sealog::Record>,
    /// Where it was told that it is trimmed.
    pub scanned_trimmed: Option<SeqNum>,
}

impl Client {
    pub fn new(plan: &Plan, line: Line, rng: &mut Rng) -> Client {
        let ms = |range: std::ops::Range<u64>, rng: &mut Rng| std::time::Duration::from_millis(rng.u64(range));
        let engines = plan.with_role(|roles| roles.engine);
        let config = SessionConfig {
            addresses: engines.iter().map(|node| format!("node {}", node.0)).collect(),
            address_first: rng.usize(0..engines.len()),
            // Also so hasty that nodes are left which would have answered.
            failover: Failover {
                quiet_max: ms(1..400, rng),
                sign_max: ms(1..800, rng),
                idle_max: ms(50..5000, rng),
                stall_max: ms(20..3000, rng),
                unavailable_max: rng.u32(1..5),
            },
            name: format!("client {}", line.0),
            seed: rng.u64(..),
            operations_max: 64,
            subscription_bytes: plan.load.subscription_bytes,
            quiet_max: std::time::Duration::from_millis(rng.u64(300..3000)),
            silence_max: std::time::Duration::from_millis(rng.u64(200..3000)),
            wait_max: std::time::Duration::from_millis(rng.u64(5..100)),
            backoff_max: std::time::Duration::from_millis(rng.u64(5..100)),
            ..SessionConfig::default()
        };
        Client {
            line,
            session: Session::new(config),
            link: Link::Down,
            epoch: 0,
            last_there: 0,
            last_back: 0,
            pinned: None,
            pending: BTreeMap::new(),
            setting_aux: BTreeSet::new(),
            setting_retention: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            workload: Workload::new(plan.load, line.0, rng),
            next_submit: 0,
            wake: Instant::MAX,
            scanned: Vec::new(),
            scanned_trimmed: None,
        }
    }

    /// Submits operations as far as the plan lets it.
    pub fn submit(&mut self, now: Instant, plan: &Plan, books: &[Book], recorder: &mut Recorder, rng: &mut Rng) {
        while self.pending.len() < plan.load.in_flight_max && self.next_submit <= now {
            self.subscribe(now, plan, books, recorder, rng);
            let intent = self.workload.draw(books, rng);
            let is_aux = matches!(intent, Intent::SetAux { .. });
            let is_retention = matches!(intent, Intent::SetRetention { .. });
            if is_aux && self.setting_aux.len() >= SETTING_AUX_MAX
                || is_retention && self.setting_retention.len() >= SETTING_RETENTION_MAX
            {
                self.next_submit = now + plan.load.think.draw(rng);
                continue;
            }
            let impatient = rng.u8(0..100) < plan.load.impatient;
            let patience = if impatient { rng.u64(MILLISECOND..80 * MILLISECOND) } else { PATIENCE };
            self.begin(now, &intent, now + patience, recorder);
            self.next_submit = now + plan.load.think.draw(rng);
        }
    }

    fn begin(&mut self, now: Instant, intent: &Intent, deadline: Instant, recorder: &mut Recorder) {
        let submitted = intent
            .with_operation(now / MILLISECOND, |operation| self.session.submit(Time(now), operation, Time(deadline)));
        let operation = match submitted {
            Ok(operation) => operation,
            // Known from an earlier answer: nothing is begun.
            Err(SubmitError::Append(AppendError::NameTaken { .. })) => return,
            Err(error) => panic!("drawn within the limits, and few at once: {error}"),
        };
        let (at, line) = (recorder.next(), self.line);
        let history = &mut recorder.history;
        let pending = match intent {
            Intent::Append { book, condition, .. } => {
                let condition = condition.map(|condition| (condition.tag, condition.expected.unwrap_or(SeqNum::MIN)));
                let recorded = history.append(at, line, book.id, &intent.fingerprints(), condition);
                Pending { recorded, logbook: book.id, tag: condition.map_or(Tag::ALL, |condition| condition.0) }
            }
            Intent::Read(read) => {
                let recorded = history.read(at, line, range(read), read.linearizable);
                Pending { recorded, logbook: read.logbook, tag: read.tag }
            }
            Intent::CheckTail { logbook, tag, linearizable } => {
                let recorded = history.check_tail(at, line, *logbook, *tag, *linearizable);
                Pending { recorded, logbook: *logbook, tag: *tag }
            }
            Intent::Trim { logbook, tag, first } => {
                let recorded = history.trim(at, line, *logbook, *tag, *first);
                Pending { recorded, logbook: *logbook, tag: *tag }
            }
            Intent::SetAux { .. } => {
                self.setting_aux.insert(operation);
                return;
            }
            Intent::SetRetention { .. } => {
                self.setting_retention.insert(operation);
                return;
            }
        };
        self.pending.insert(operation, pending);
    }

    /// Begins a subscription where there are fewer than the plan has, and ends one now and then.
    fn subscribe(&mut self, now: Instant, plan: &Plan, books: &[Book], recorder: &mut Recorder, rng: &mut Rng) {
        if plan.load.subscriptions == 0 || rng.u8(0..10) > 0 {
            return;
        }
        if self.subscriptions.len() < plan.load.subscriptions {
            let wanted = self.workload.subscription(books, rng);
            let begun = self.session.subscribe(Time(now), wanted).expect("few of them");
            let Subscribe { logbook, tag, from, .. } = wanted;
            self.subscriptions.insert(begun, Subscribed { logbook, tag, from, told: Vec::new() });
        } else if rng.u8(0..10) == 0
            && let Some((ended, subscribed)) = self.subscriptions.pop_first()
        {
            self.session.cancel(Time(now), ended);
            recorder.subscribed.push(subscribed);
        }
    }

    /// Takes what subscriptions tell.
    fn listen(&mut self, now: Instant, recorder: &mut Recorder) -> Result<(), Failure> {
        while let Some(subscription) = self.session.next_notice() {
            let Some(subscribed) = self.subscriptions.get_mut(&subscription) else { continue };
            let mut is_over = false;
            while let Some(event) = self.session.next_event(Time(now), subscription) {
                match event {
                    Ok(SubscriptionEvent::Record(record)) => {
                        check_aux(std::slice::from_ref(&record))?;
                        subscribed.told.push(Told::Record(found(&record)));
                    }
                    Ok(SubscriptionEvent::Trimmed { first }) => subscribed.told.push(Told::Trimmed { first }),
                    Err(error) if error.is_retryable() => {}
                    Err(SubscribeError::Corrupt { .. }) if recorder.damage_allowed => is_over = true,
                    Err(error) => return Err(Failure::ClientError { error: error.to_string() }),
                }
            }
            if is_over && let Some(subscribed) = self.subscriptions.remove(&subscription) {
                self.session.cancel(Time(now), subscription);
                recorder.subscribed.push(subscribed);
            }
        }
        Ok(())
    }

    /// Lets a LogBook keep everything again.
    pub fn keep_all(&mut self, now: Instant, logbook: LogBookId, recorder: &mut Recorder) {
        let retention = Retention { age: None, bytes: None };
        self.begin(now, &Intent::SetRetention { logbook, retention }, now + PATIENCE, recorder);
    }

    /// Begins one read of a scan; its records come to [`Client::scanned`].
    pub fn begin_scan(&mut self, now: Instant, read: Read, recorder: &mut Recorder) {
        self.scanned_trimmed = None;
        self.begin(now, &Intent::Read(read), now + PATIENCE, recorder);
    }

    /// Asks for the tail of a scanned tag.
    pub fn begin_scan_tail(&mut self, now: Instant, logbook: LogBookId, tag: Tag, recorder: &mut Recorder) {
        self.begin(now, &Intent::CheckTail { logbook, tag, linearizable: true }, now + PATIENCE, recorder);
    }

    /// Takes the session's completions into the history. Returns records that were read.
    pub fn complete(
        &mut self,
        now: Instant,
        recorder: &mut Recorder,
        rng: &mut Rng,
    ) -> Result<Vec<(LogBookId, SeqNum, Fingerprint)>, Failure> {
        let mut seen = Vec::new();
        self.listen(now, recorder)?;
        while let Some((operation, outcome)) = self.session.next_completion() {
            if self.setting_retention.remove(&operation) {
                recorder.retention_refused += u64::from(!retention_set(outcome)?);
                continue;
            }
            if self.setting_aux.remove(&operation) {
                aux_done(outcome)?;
                continue;
            }
            let Some(pending) = self.pending.remove(&operation) else { continue };
            recorder.completed += 1;
            match outcome {
                Outcome::Append(result) => self.append_done(now, pending, result, recorder, rng)?,
                Outcome::Read(Ok(read)) => {
                    check_aux(&read.records)?;
                    let found: Vec<Found> = read.records.iter().map(found).collect();
                    seen.extend(found.iter().map(|found| (pending.logbook, found.seqnum, found.fingerprint)));
                    if let Some(greatest) = found.iter().map(|found| found.seqnum).max() {
                        self.workload.knowledge.saw(pending.logbook, pending.tag, greatest);
                    }
                    let at = recorder.next();
                    recorder.history.found(at, pending.recorded, found, read.complete);
                    if self.pinned.is_some() {
                        self.scanned = read.records;
                    }
                }
                Outcome::Read(Err(ReadError::Trimmed { first })) => {
                    self.workload.knowledge.saw_trim(pending.logbook, pending.tag, first);
                    let at = recorder.next();
                    recorder.history.found_trimmed(at, pending.recorded, first);
                    self.scanned_trimmed = Some(first);
                }
                Outcome::Read(Err(ReadError::Deadline { .. } | ReadError::Unreachable { .. })) => {}
                Outcome::Read(Err(ReadError::Corrupt { .. })) if recorder.damage_allowed => {}
                Outcome::Read(Err(error)) => return Err(Failure::ClientError { error: error.to_string() }),
                Outcome::CheckTail(Ok(tail)) => {
                    if let Some(tail) = tail {
                        self.workload.knowledge.saw(pending.logbook, pending.tag, tail);
                    }
                    let at = recorder.next();
                    recorder.history.tail(at, pending.recorded, tail);
                }
                Outcome::CheckTail(Err(CheckTailError::Deadline { .. } | CheckTailError::Unreachable { .. })) => {}
                Outcome::CheckTail(Err(error)) => return Err(Failure::ClientError { error: error.to_string() }),
                Outcome::Manage(Ok(Managed::Trimmed { first })) => {
                    self.workload.knowledge.saw_trim(pending.logbook, pending.tag, first);
                    let at = recorder.next();
                    recorder.history.trimmed(at, pending.recorded, first);
                }
                Outcome::Manage(Err(ManageError::Deadline { .. } | ManageError::Unreachable { .. })) => {}
                Outcome::Manage(Err(error)) => return Err(Failure::ClientError { error: error.to_string() }),
                Outcome::Status(_) | Outcome::Manage(Ok(_)) | Outcome::Name(_) | Outcome::SetAux(_) => {}
            }
        }
        Ok(seen)
    }

    fn append_done(
        &mut self,
        now: Instant,
        pending: Pending,
        result: Result<sealog::Appended, AppendError>,
        recorder: &mut Recorder,
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        match result {
            Ok(appended) => {
                self.workload.knowledge.saw(pending.logbook, pending.tag, appended.seqnum);
                let at = recorder.next();
                recorder.history.acknowledged(at, pending.recorded, appended.seqnum);
            }
            Err(AppendError::ConditionFailed { tail }) => {
                self.workload.knowledge.saw(pending.logbook, pending.tag, tail);
                let at = recorder.next();
                recorder.history.condition_failed(at, pending.recorded, tail);
            }
            Err(AppendError::OutcomeUnknown { retry }) => {
                // Mostly it is taken up again; its outcome is then that of the operation that began.
                if rng.u8(0..4) > 0
                    && let Ok(operation) = self.session.retry(Time(now), retry, Time(now + PATIENCE))
                {
                    self.pending.insert(operation, pending);
                }
            }
            Err(AppendError::SessionExpired) if recorder.sessions_expire => {}
            Err(
                AppendError::NameTaken { .. }
                | AppendError::DiskFull { .. }
                | AppendError::IndexFull { .. }
                | AppendError::Deadline { .. }
                | AppendError::Unreachable { .. },
            ) => recorder.history.refused(pending.recorded),
            Err(error) => return Err(Failure::ClientError { error: error.to_string() }),
        }
        Ok(())
    }

    /// When the session wants something, at the latest.
    pub fn deadline(&self) -> Instant {
        let dial = if self.link == Link::Down { self.session.connect_at() } else { None };
        [self.session.deadline(), dial].into_iter().flatten().map(|time| time.0).min().unwrap_or(Instant::MAX)
    }
}

/// Whatever comes with a record, somebody attached it to that very record.
fn check_aux(records: &[sealog::Record]) -> Result<(), Failure> {
    let is_own = |record: &&sealog::Record| {
        record.aux.as_ref().is_none_or(|aux| aux.starts_with(&aux_key(record.logbook, record.seqnum)))
    };
    match records.iter().find(|record| !is_own(record)) {
        None => Ok(()),
        Some(record) => Err(Failure::AuxOfAnother { logbook: record.logbook, seqnum: record.seqnum }),
    }
}

/// Whether it is set; if not, for a reason that faults explain.
fn retention_set(outcome: Outcome) -> Result<bool, Failure> {
    match outcome {
        Outcome::Manage(Ok(Managed::RetentionSet)) => Ok(true),
        Outcome::Manage(Err(
            ManageError::Deadline { .. } | ManageError::Unreachable { .. } | ManageError::DiskFull { .. },
        )) => Ok(false),
        other => Err(Failure::ClientError { error: format!("setting retention ended as {other:?}") }),
    }
}

fn aux_done(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::SetAux(Ok(_) | Err(SetAuxError::Deadline { .. } | SetAuxError::Unreachable { .. })) => Ok(()),
        Outcome::SetAux(Err(error)) => Err(Failure::ClientError { error: error.to_string() }),
        other => Err(Failure::ClientError { error: format!("attaching aux data ended as {other:?}") }),
    }
}

fn found(record: &sealog::Record) -> Found {
    let fingerprint = Fingerprint::new(record.logbook, &record.tags, &record.payload);
    Found { seqnum: record.seqnum, fingerprint }
}

fn range(read: &Read) -> Range {
    let (logbook, tag) = (read.logbook, read.tag);
    match read.direction {
        Direction::Forward => {
            Range { logbook, tag, from: read.first, until: read.last, direction: sealog_history::Direction::Forward }
        }
        Direction::Backward => {
            Range { logbook, tag, from: read.last, until: read.first, direction: sealog_history::Direction::Backward }
        }
    }
}
