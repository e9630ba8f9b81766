//! One seed, from its plan to its verdict: faults under load, then calm, then everything finishes,
//! then every engine is scanned and the history checked.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sealog::session::Direction;
use sealog_history::{FinalLog, Fingerprint, Found, Report, check};
use sealog_protocol::{LogBookId, NodeId, SeqNum, Tag};

use crate::client::Client;
use crate::disk::Stop;
use crate::node::RoleMachine;
use crate::queue::{Instant, SECOND};
use crate::swarm::{FaultKind, NodeIndex, Plan};
use crate::trace::Trace;
use crate::violation::Failure;
use crate::workload::{self, TAG_WITHOUT_RECORDS};
use crate::world::World;

/// A seed counts if it completed so many operations under so many faults.
pub const OPERATIONS_MIN: u64 = 500;
pub const FAULTS_MIN: u64 = 10;
/// The faulty phase ends after this long at the latest.
const FAULTY_MAX: Instant = 60 * SECOND;
/// Once faults stop, everything pending finishes within this long, and so many events.
const CALM_MAX: Instant = 20 * SECOND;
/// Long enough for what is on its way to arrive.
const QUIET: Instant = SECOND / 5;

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub struct SeedReport {
    pub operations: u64,
    pub faults: BTreeMap<FaultKind, u64>,
    pub view_changes: u64,
    pub commits: u64,
    pub events: u64,
    pub simulated: Instant,
    pub hash: u64,
    pub torn_sectors: u64,
    pub history: Report,
    pub nodes: usize,
}

impl SeedReport {
    pub fn counts(&self) -> bool {
        self.operations >= OPERATIONS_MIN && self.faults.values().sum::<u64>() >= FAULTS_MIN
    }
}

/// Runs a seed. Panics of the code under test are failures, too.
pub fn run(seed: u64, trace: Trace) -> Result<SeedReport, Failure> {
    let run = catch_unwind(AssertUnwindSafe(|| run_plan(Plan::draw(seed), trace)));
    run.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Err(Failure::Panic { message })
    })
}

fn run_plan(plan: Plan, trace: Trace) -> Result<SeedReport, Failure> {
    trace.remark(0, || format!("{plan:#?}"));
    let mut world = World::new(plan, trace)?;
    world.begin_faults();
    let (operations, faults) = (world.plan.operations_min, world.plan.faults_min);
    world.run(FAULTY_MAX, |world| world.recorder.completed >= operations && world.faults.total() >= faults)?;
    world.submitting = false;
    world.calm()?;
    finish(&mut world)?;
    settle(&mut world)?;
    leave_the_lost(&mut world)?;
    let again = world.rng.u8(0..4) == 0;
    if again {
        // The power goes everywhere, once more: what was acknowledged is still there.
        for node in (0..world.nodes.len()).map(NodeIndex) {
            world.crash(node, Stop::Power);
        }
    }
    let mut log = scan(&mut world)?;
    for logspace in world.invariants.lossy() {
        world.recorder.history.lose(logspace);
    }
    let history = check(&world.recorder.history, &mut log).map_err(|violation| {
        let operation = violation.operation().map(|id| world.recorder.history.describe(id)).unwrap_or_default();
        Failure::History { violation, operation }
    })?;
    Ok(SeedReport {
        operations: world.recorder.completed,
        faults: world.faults.counts.clone(),
        view_changes: world.invariants.view_changes(),
        commits: world.invariants.commits,
        events: world.trace.events(),
        simulated: world.now,
        hash: world.trace.hash(),
        torn_sectors: world.faults.torn_sectors,
        history,
        nodes: world.nodes.len(),
    })
}

/// Every pending operation finishes.
fn finish(world: &mut World) -> Result<(), Failure> {
    let began = world.now;
    let finished = world.run(began + CALM_MAX, |world| world.clients.iter().all(|client| client.pending.is_empty()))?;
    if finished {
        return Ok(());
    }
    let pending = world.clients.iter().map(|client| client.pending.len()).sum();
    let after = format!("{} ms", (world.now - began) / 1_000_000);
    Err(Failure::Stuck { pending, after, details: describe(world) })
}

/// What vanished clients had sent finishes, too: after that the log grows no more.
fn settle(world: &mut World) -> Result<(), Failure> {
    let (began, quiet) = (world.now, world.now + QUIET);
    let pending = |world: &World| -> usize {
        let machines = world.nodes.iter().filter_map(|node| node.life.as_ref()).flat_map(|life| &life.machines);
        let engines = machines.filter_map(|(_, machine)| match machine {
            RoleMachine::Engine(engine) => Some(engine.status().pending_records),
            _ => None,
        });
        engines.sum()
    };
    if world.run(began + CALM_MAX, |world| world.now >= quiet && pending(world) == 0)? {
        return Ok(());
    }
    let after = format!("{} ms", (world.now - began) / 1_000_000);
    Err(Failure::Stuck { pending: pending(world), after, details: describe(world) })
}

/// Where enough storages live, no engine goes on writing to one that is dead.
fn leave_the_lost(world: &mut World) -> Result<(), Failure> {
    let storages = world.plan.with_role(|roles| roles.storage);
    let lost = |world: &World| -> Vec<NodeId> {
        let buried = storages.iter().filter(|node| world.is_buried(**node));
        buried.map(|node| world.plan.nodes[node.0].0).collect()
    };
    if storages.len() - lost(world).len() < usize::from(world.plan.replicas) {
        return Ok(());
    }
    let on_lost = |world: &World| -> Option<NodeId> {
        let lost = lost(world);
        let machines = world.nodes.iter().filter_map(|node| node.life.as_ref()).flat_map(|life| &life.machines);
        let engines = machines.filter_map(|(_, machine)| match machine {
            RoleMachine::Engine(engine) => engine.open_replicas(),
            _ => None,
        });
        engines.into_iter().find_map(|replicas| replicas.iter().find(|node| lost.contains(node)))
    };
    if world.run(world.now + CALM_MAX, |world| on_lost(world).is_none())? {
        return Ok(());
    }
    let storage = on_lost(world).expect("it was not left");
    Err(Failure::LostStorageKept { storage, details: describe(world) })
}

/// How the machines stand, for a failure's report.
fn describe(world: &World) -> String {
    let mut text = String::new();
    for (at, client) in world.clients.iter().enumerate() {
        for pending in client.pending.values() {
            let operation = world.recorder.history.describe(pending.recorded);
            text += &format!("\n  client {at} {:?}: {operation}", client.link);
        }
    }
    for node in &world.nodes {
        let Some(life) = &node.life else {
            text += &format!("\n  {}: node {} is dead", node.index.0, node.id);
            continue;
        };
        for (address, machine) in &life.machines {
            let status = match machine {
                RoleMachine::Engine(engine) => format!("{:?}", engine.status()),
                RoleMachine::Storage(storage) => {
                    format!(
                        "{:?} sealed {} {:?}",
                        storage.status(),
                        storage.sealed(),
                        storage.shards().collect::<Vec<_>>()
                    )
                }
                RoleMachine::Sequencer(sequencer) => format!("{:?}", sequencer.status()),
                RoleMachine::Controller(controller) => format!("changing {}", controller.is_changing()),
            };
            text += &format!("\n  {}: {address:?} {status}", node.index.0);
        }
    }
    text
}

/// Scans every living engine: each LogBook whole, and by each tag, forward and backward, its trim points
/// and tails. All are as the committed entries have them.
fn scan(world: &mut World) -> Result<FinalLog, Failure> {
    let logbooks: Vec<LogBookId> = world.recorder.history.logbooks().to_vec();
    let drawn = (0..world.plan.load.tags).map(|nth| Tag(100 + nth));
    let tags: Vec<Tag> = [Tag::ALL, TAG_WITHOUT_RECORDS].into_iter().chain(drawn).collect();
    let engines: Vec<NodeIndex> =
        world.plan.with_role(|roles| roles.engine).into_iter().filter(|node| !world.is_buried(*node)).collect();
    let mut scans: Vec<(LogBookId, Tag, Vec<Found>)> = Vec::new();
    for node in engines {
        let line = world.faults.new_line();
        let mut scanner = Client::new(&world.plan, line, &mut world.rng);
        scanner.pinned = Some(node);
        world.clients.push(scanner);
        for logbook in &logbooks {
            for tag in &tags {
                let direction = if world.rng.bool() { Direction::Forward } else { Direction::Backward };
                let mut records = read_all(world, *logbook, *tag, direction)?;
                if direction == Direction::Backward {
                    records.reverse();
                }
                scans.push((*logbook, *tag, records.iter().map(found).collect()));
                check_tail(world, *logbook, *tag)?;
            }
        }
        world.clients.pop();
    }
    let log = world.invariants.final_log()?;
    for (logbook, tag, scan) in scans {
        log.compare_scan(logbook, tag, scan).map_err(Failure::history)?;
    }
    Ok(log)
}

/// Reads everything with a tag. Where it is trimmed, the first read is told where it begins.
fn read_all(
    world: &mut World,
    logbook: LogBookId,
    tag: Tag,
    direction: Direction,
) -> Result<Vec<sealog::Record>, Failure> {
    let at = world.clients.len() - 1;
    let mut first = SeqNum::MIN;
    loop {
        let now = world.now;
        world.clients[at].begin_scan(now, workload::scan(logbook, tag, first, direction), &mut world.recorder);
        world.wake_client(at, now);
        finish(world)?;
        match world.clients[at].scanned_trimmed.take() {
            Some(trimmed) if trimmed > first => first = trimmed,
            _ => return Ok(std::mem::take(&mut world.clients[at].scanned)),
        }
    }
}

fn check_tail(world: &mut World, logbook: LogBookId, tag: Tag) -> Result<(), Failure> {
    let (at, now) = (world.clients.len() - 1, world.now);
    world.clients[at].begin_scan_tail(now, logbook, tag, &mut world.recorder);
    world.wake_client(at, now);
    finish(world)
}

fn found(record: &sealog::Record) -> Found {
    let fingerprint = Fingerprint::new(record.logbook, &record.tags, &record.payload);
    Found { seqnum: record.seqnum, fingerprint }
}
