//! `sealog bench`: appends under load, measured.
//!
//! Each thread drives its connections, a session each, from one loop that waits for their sockets:
//! nothing is handed from thread to thread, so what is measured is the service and not the
//! generator. Latency counts from the submission of an append to its completion. [`worker`] is the
//! loop, [`link`] a connection, [`measure`] what is counted, [`verify`] the check at the end;
//! [`faults`] what happens to the nodes meanwhile, [`beside`] what else clients do; [`subscribe`] and
//! [`connect`] are measurements of their own.

mod beside;
mod connect;
mod faults;
mod link;
mod load;
mod measure;
pub mod mix;
mod report;
mod server;
mod subscribe;
mod verify;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use sealog::Durability;
use sealog_history::{History, Line};

use crate::arguments::BenchArguments;
use crate::bench::beside::{BesideReport, Company};
use crate::bench::faults::Faults;
use crate::bench::link::Address;
use crate::bench::load::Load;
use crate::bench::measure::{Clock, Phase, Shared, Tally};
use crate::bench::mix::Mode;
use crate::bench::report::Report;
use crate::bench::server::ServerProcess;
use crate::bench::worker::Worker;
use crate::connection;
use crate::failure::{Failure, Kind};
use crate::output::Output;

pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    check(arguments)?;
    match arguments.mode {
        Mode::Subscribe => return subscribe::run(arguments),
        Mode::Connect => return connect::run(arguments),
        Mode::Open | Mode::Closed | Mode::Read => {}
    }
    let Some(nodes) = &arguments.nodes else { return measure(arguments, None) };
    let mut faults = Faults::start(nodes, arguments)?;
    let mut arguments = arguments.clone();
    arguments.client.connect = faults.connect_text();
    let result = measure(&arguments, Some(&mut faults));
    faults.end();
    result
}

/// What a run of the load brought.
struct Measured {
    tally: Tally,
    time: Duration,
    cpu: CpuTimes,
    shared: Arc<Shared>,
    load: Arc<Load>,
    history: History,
}

fn measure(arguments: &BenchArguments, mut faults: Option<&mut Faults>) -> Result<(), Failure> {
    let mut beside = None;
    if let Some(what) = arguments.mix.beside {
        let name = Company::prepare(what, arguments)?;
        eprintln!("Alone:");
        let alone = run_load(arguments, None)?;
        alone.tally.failure()?;
        eprintln!("Beside {}:", what.name());
        beside = Some((what, alone, Company::start(what, arguments, &name)?));
    }
    let measured = run_load(arguments, faults.as_deref_mut())?;
    let mut report = Report::new(arguments, &measured.tally, measured.time, measured.cpu);
    if let Some((what, alone, company)) = beside {
        report.beside = Some(BesideReport::new(what, company.end()?, &alone, &measured.tally));
    }
    if let Some(faults) = faults {
        faults.harvest(&measured.shared);
        report.gaps = Some(faults.gaps()?).filter(|_| !arguments.fault.is_empty());
    }
    let mut output = Output::new(arguments.client.format.output);
    let verify = |report: &mut Report| verify::verify(arguments, &measured.load, &measured.history, report);
    let violation = if arguments.verify { verify(&mut report)? } else { None };
    output.line(&report, Report::table)?;
    output.flush()?;
    match violation {
        Some(violation) => Err(violation),
        None => measured.tally.failure(),
    }
}

/// Takes the load through its phases once.
fn run_load(arguments: &BenchArguments, faults: Option<&mut Faults>) -> Result<Measured, Failure> {
    let addresses: Arc<[Address]> = Address::parse_list(&arguments.client.connect)?.into();
    let load = Arc::new(Load::new(arguments, class(arguments)?));
    let shared = Arc::new(Shared::new(Clock::start(), arguments.verify));
    if arguments.verify {
        verify::refuse_old_records(arguments, &load)?;
    }
    let workers = connect(arguments, &addresses, &load, &shared)?;
    let logspaces = workers[0].logspaces();
    let threads: Vec<_> = workers
        .into_iter()
        .map(|worker| std::thread::Builder::new().name("bench".to_owned()).spawn(move || worker.run()))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
    let (time, cpu) = conduct(arguments, &shared, ServerProcess::find(arguments), faults);

    let mut tally = Tally::new();
    let mut history = History::new(logspaces);
    let mut lines = 0;
    for thread in threads {
        let ended = thread.join().map_err(|_| Failure::other("a thread of the load generator panicked"))?;
        tally.add(&ended.tally);
        history.absorb(ended.history, Line(lines));
        lines += ended.connections;
    }
    Ok(Measured { tally, time, cpu, shared, load, history })
}

/// The class of the LogBooks that are appended to: what is said, else what they are.
fn class(arguments: &BenchArguments) -> Result<Durability, Failure> {
    let name = arguments.logbook.as_ref().filter(|_| arguments.logbooks == 1);
    match (arguments.class, name) {
        (Some(class), _) => Ok(class.durability()),
        (None, None) => Ok(Durability::Disk),
        (None, Some(name)) => {
            let found = connection::connect(&arguments.client)?.find_logbook(name)?;
            Ok(found.map_or(Durability::Disk, |logbook| logbook.id().class()))
        }
    }
}

fn check(arguments: &BenchArguments) -> Result<(), Failure> {
    if arguments.mode == Mode::Open {
        return Err(Failure::usage("--mode open is not there yet: use --mode closed, with --inflight for the load"));
    }
    if arguments.threads > arguments.connections {
        return Err(Failure::usage("there are more --threads than --connections: each thread needs one at least"));
    }
    if arguments.mode == Mode::Read && (arguments.logbook.is_none() || arguments.verify) {
        return Err(Failure::usage(
            "--mode read reads what is there: give the --logbook that was appended to, and no --verify",
        ));
    }
    if arguments.verify && arguments.size < load::UNIQUE_BYTES {
        return Err(Failure::usage(format!(
            "--verify tells records apart by their content: give a --size of at least {}",
            load::UNIQUE_BYTES
        )));
    }
    Ok(())
}

/// The threads' workers, connected: a service that is not there is told before anything is measured.
fn connect(
    arguments: &BenchArguments,
    addresses: &Arc<[Address]>,
    load: &Arc<Load>,
    shared: &Arc<Shared>,
) -> Result<Vec<Worker>, Failure> {
    let (threads, connections) = (arguments.threads, arguments.connections);
    let share = |thread: u32| connections * thread / threads..connections * (thread + 1) / threads;
    (0..threads).map(|thread| Worker::connect(addresses, load, shared, arguments, share(thread))).collect()
}

/// CPU time that a measurement took.
#[derive(Clone, Copy, Debug)]
struct CpuTimes {
    client: Duration,
    /// Of a node on this machine.
    server: Option<Duration>,
}

impl CpuTimes {
    fn now(server: Option<ServerProcess>) -> CpuTimes {
        CpuTimes { client: measure::cpu_time(), server: server.and_then(ServerProcess::cpu_time) }
    }

    fn since(self, earlier: CpuTimes) -> CpuTimes {
        CpuTimes {
            client: self.client.saturating_sub(earlier.client),
            server: self.server.zip(earlier.server).map(|(now, earlier)| now.saturating_sub(earlier)),
        }
    }
}

/// Takes the workers through the phases, with a line of the live table each second; how long was
/// measured, and the CPU time it took.
fn conduct(
    arguments: &BenchArguments,
    shared: &Shared,
    server: Option<ServerProcess>,
    mut faults: Option<&mut Faults>,
) -> (Duration, CpuTimes) {
    const SECOND: Duration = Duration::from_secs(1);
    /// Between two looks whether so many operations were done.
    const OPS_LOOK: Duration = Duration::from_millis(20);
    if !arguments.warmup.is_zero() {
        std::thread::sleep(arguments.warmup);
    }
    let (begun, cpu_begun) = (shared.begin(Phase::Measure), CpuTimes::now(server));
    if let Some(faults) = faults.as_deref_mut().filter(|faults| faults.are_repeated()) {
        faults.repeat(shared);
        let ended = shared.begin(Phase::Drain);
        return (ended.since(begun), CpuTimes::now(server).since(cpu_begun));
    }
    eprintln!("{}", measure::LIVE_HEADING);
    let mut told = begun;
    let look = if arguments.mix.ops.is_some() { OPS_LOOK } else { SECOND };
    loop {
        let elapsed = shared.clock.now().since(begun);
        if let Some(faults) = faults.as_deref_mut() {
            faults.make_due(elapsed, shared);
        }
        let left = arguments.duration.saturating_sub(elapsed).min(look);
        let next_fault = faults.as_deref().and_then(|faults| faults.next_in(elapsed)).unwrap_or(SECOND);
        let next_line = SECOND.saturating_sub(shared.clock.now().since(told));
        std::thread::sleep(left.min(next_line).min(next_fault));
        let now = shared.clock.now();
        let are_done = arguments.mix.ops.is_some_and(|ops| shared.ops() >= ops);
        let is_over = are_done || now.since(begun) >= arguments.duration;
        if now.since(told) >= SECOND || is_over {
            eprintln!("{}", shared.live_line(begun, now.since(told)));
            told = now;
        }
        if is_over {
            break;
        }
    }
    let ended = shared.begin(Phase::Drain);
    (ended.since(begun), CpuTimes::now(server).since(cpu_begun))
}

impl Tally {
    /// A run in which nothing succeeded has failed, as its first error says.
    fn failure(&self) -> Result<(), Failure> {
        match &self.first_error {
            Some(failure) if self.latency_ns.is_empty() => Err(failure.clone()),
            None if self.latency_ns.is_empty() => {
                Err(Failure::new(Kind::Unreachable, "no append was answered while it was measured"))
            }
            _ => Ok(()),
        }
    }
}
