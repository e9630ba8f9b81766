//! Many clients that append, remember what they were told, and read everything again at the end.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sealog::blocking::{Client, LogBook, PendingAppend};
use sealog::{AppendError, Durability, LogBookId, SeqNum, Tag};
use sealog_history::{FinalLog, Fingerprint, Found, History, Line, OperationId, Report, Timestamp, check};
use sealog_protocol::Logspaces;

const LOGBOOKS: u64 = 4;
const TAGS: u64 = 8;
/// Most payloads are small; some need a block of their own.
const PAYLOAD_BYTES: [usize; 8] = [0, 10, 100, 100, 300, 1000, 5000, 40_000];

/// What a load is to do.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// In every payload: two loads of one test have different names.
    pub name: String,
    pub address: String,
    pub clients: usize,
    pub in_flight_per_client: usize,
    /// Of each append. Within it, a client tries again, over a new connection too.
    pub deadline: Duration,
    pub seed: u64,
    /// Of the cluster.
    pub logspaces: Logspaces,
    /// Of the LogBooks.
    pub class: Durability,
}

/// Clients at work.
pub struct Load {
    logspaces: Logspaces,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<History>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    acknowledged: u64,
    errors: u64,
    clients_ended: usize,
    stop: bool,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().expect("no holder panics"));
        self.changed.notify_all();
    }
}

impl Load {
    /// Starts the clients; `clock` is the one of the test's history.
    pub fn start(settings: &LoadSettings, clock: Instant) -> Load {
        let shared = Arc::new(Shared::default());
        let client = |number: usize| {
            let (settings, shared) = (settings.clone(), shared.clone());
            std::thread::spawn(move || Appender::new(&settings, number, clock, shared).run())
        };
        Load { logspaces: settings.logspaces, clients: (0..settings.clients).map(client).collect(), shared }
    }

    /// Waits until so many appends were acknowledged in all; whether they were before all clients
    /// had given up.
    pub fn wait_for_acknowledgements(&self, count: u64) -> bool {
        let waits =
            |progress: &mut Progress| progress.acknowledged < count && progress.clients_ended < self.clients.len();
        let progress = self.shared.progress.lock().expect("no holder panics");
        let progress = self.shared.changed.wait_while(progress, waits).expect("no holder panics");
        progress.acknowledged >= count
    }

    /// As [`Load::wait_for_acknowledgements`]; also whether they were in time.
    pub fn wait_for_acknowledgements_within(&self, count: u64, patience: Duration) -> bool {
        let waits =
            |progress: &mut Progress| progress.acknowledged < count && progress.clients_ended < self.clients.len();
        let progress = self.shared.progress.lock().expect("no holder panics");
        let waited = self.shared.changed.wait_timeout_while(progress, patience, waits).expect("no holder panics");
        waited.0.acknowledged >= count
    }

    /// Appends that were acknowledged until now.
    pub fn acknowledged(&self) -> u64 {
        self.shared.progress.lock().expect("no holder panics").acknowledged
    }

    /// As [`Load::stop`], of clients none of which met an error.
    pub fn stop_without_errors(self) -> History {
        let shared = self.shared.clone();
        let history = self.stop();
        assert_eq!(shared.progress.lock().expect("no holder panics").errors, 0, "clients met errors");
        history
    }

    /// Ends the load: nothing new is sent, and what is in flight is waited for.
    pub fn stop(self) -> History {
        self.shared.update(|progress| progress.stop = true);
        let mut history = History::new(self.logspaces);
        for (number, client) in (0..).zip(self.clients) {
            history.absorb(client.join().expect("clients do not panic"), Line(number));
        }
        history
    }
}

/// One client: so many appends in flight, answered in any order, waited for in order.
struct Appender {
    settings: LoadSettings,
    number: usize,
    clock: Instant,
    shared: Arc<Shared>,
    random: fastrand::Rng,
    history: History,
    in_flight: VecDeque<(OperationId, PendingAppend)>,
}

impl Appender {
    fn new(settings: &LoadSettings, number: usize, clock: Instant, shared: Arc<Shared>) -> Appender {
        let random = fastrand::Rng::with_seed(settings.seed ^ (number as u64) << 32);
        let history = History::new(settings.logspaces);
        let (settings, in_flight) = (settings.clone(), VecDeque::new());
        Appender { settings, number, clock, shared, random, history, in_flight }
    }

    fn run(mut self) -> History {
        // A client that comes too late for its node has nothing to tell.
        if let Ok(client) = Client::builder().deadline(self.settings.deadline).connect(&self.settings.address) {
            let logbooks: Vec<LogBook> =
                (0..LOGBOOKS).map(|n| client.logbook_in_class(&self.name(n), self.settings.class)).collect();
            let mut count = 0_u64;
            while !self.shared.progress.lock().expect("no holder panics").stop {
                self.append(&logbooks, count);
                count += 1;
                if self.in_flight.len() >= self.settings.in_flight_per_client {
                    self.wait_for_oldest();
                }
            }
            while !self.in_flight.is_empty() {
                self.wait_for_oldest();
            }
        }
        self.shared.update(|progress| progress.clients_ended += 1);
        self.history
    }

    /// A name has one class.
    fn name(&self, number: u64) -> String {
        match self.settings.class {
            Durability::Disk => format!("load-{number}"),
            class => format!("{}-{number}", class.name()),
        }
    }

    fn append(&mut self, logbooks: &[LogBook], count: u64) {
        let logbook = &logbooks[self.random.usize(..logbooks.len())];
        let tags: Vec<Tag> = (0..self.random.u64(..3)).map(|_| Tag(1 + self.random.u64(..TAGS))).collect();
        let mut payload = format!("{} client {} append {count} ", self.settings.name, self.number).into_bytes();
        let bytes_max = PAYLOAD_BYTES[self.random.usize(..PAYLOAD_BYTES.len())];
        let bytes = self.random.usize(..=bytes_max);
        payload.extend((0..bytes).map(|at| at as u8));
        let fingerprint = Fingerprint::new(logbook.id(), &tags, &payload);
        let operation = self.history.append(self.now(), Line(0), logbook.id(), &[fingerprint], None);
        match logbook.begin_append(&tags, &payload) {
            Ok(pending) => self.in_flight.push_back((operation, pending)),
            Err(error) => self.failed(operation, &error),
        }
    }

    fn wait_for_oldest(&mut self) {
        let Some((operation, pending)) = self.in_flight.pop_front() else { return };
        match pending.wait() {
            Ok(appended) => {
                assert_eq!(appended.durability, self.settings.class);
                self.history.acknowledged(self.now(), operation, appended.seqnum);
                self.shared.update(|progress| progress.acknowledged += 1);
            }
            Err(error) => self.failed(operation, &error),
        }
    }

    fn failed(&mut self, operation: OperationId, error: &AppendError) {
        println!("client {}: {error}", self.number);
        self.shared.update(|progress| progress.errors += 1);
        if !error.is_outcome_unknown() {
            self.history.refused(operation);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.elapsed().as_nanos() as u64)
    }
}

/// Adds one history to another, whose lines stay apart.
pub fn join(history: &mut History, other: History, lines: &mut u32) {
    history.absorb(other, Line(*lines));
    *lines += 64;
}

/// Reads all that the history's clients may have written, by every tag, and checks that a correct
/// log could have answered as it did.
///
/// # Errors
/// What cannot be read, or which promise was broken.
pub fn read_everything_and_check(address: &str, history: &History) -> Result<Report, String> {
    let client = Client::builder().deadline(Duration::from_secs(60)).connect(address).map_err(|e| e.to_string())?;
    let mut log = FinalLog::new();
    for id in history.logbooks() {
        for record in client.logbook_by_id(*id).scan(Tag::ALL, SeqNum::MIN..=SeqNum::MAX) {
            let record = record.map_err(|error| error.to_string())?;
            let fingerprint = Fingerprint::new(*id, &record.tags, &record.payload);
            let found = Found { seqnum: record.seqnum, fingerprint };
            log.push(*id, found, &record.tags).map_err(|violation| violation.to_string())?;
        }
    }
    let streams: Vec<(LogBookId, Tag)> = log.streams().collect();
    for (id, tag) in streams {
        let records = client.logbook_by_id(id).scan(tag, SeqNum::MIN..=SeqNum::MAX);
        let records: Result<Vec<Found>, String> = records
            .map(|record| {
                let record = record.map_err(|error| error.to_string())?;
                let fingerprint = Fingerprint::new(id, &record.tags, &record.payload);
                Ok(Found { seqnum: record.seqnum, fingerprint })
            })
            .collect();
        log.compare_scan(id, tag, records?).map_err(|violation| violation.to_string())?;
    }
    check(history, &mut log).map_err(|violation| {
        let operation = violation.operation().map(|operation| history.describe(operation));
        format!("{violation}: {}", operation.unwrap_or_default())
    })
}
