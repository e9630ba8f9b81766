//! One seed, from its plan to its verdict: faults under load, then calm, then everything finishes,
//! then every engine is scanned and the history checked.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use sealog::session::Direction;
use sealog_history::{Expected, FinalLog, Fingerprint, Found, Report, Subscribed, check};
use sealog_protocol::members::MemberState;
use sealog_protocol::{LogBookId, NodeId, SeqNum, Tag};

use crate::client::Client;
use crate::disk::Stop;
use crate::node::RoleMachine;
use crate::queue::{Instant, SECOND};
use crate::swarm::{FaultKind, NodeIndex, Plan};
use crate::trace::Trace;
use crate::violation::Failure;
use crate::workload::{self, Book, TAG_WITHOUT_RECORDS};
use crate::world::World;

/// A seed counts if it completed so many operations under so many faults.
pub const OPERATIONS_MIN: u64 = 500;
pub const FAULTS_MIN: u64 = 10;
/// The faulty phase ends after this long at the latest.
const FAULTY_MAX: Instant = 60 * SECOND;
/// Once faults stop, everything pending finishes within this long, and so many events.
const CALM_MAX: Instant = 20 * SECOND;
/// How often copies are counted.
pub(crate) const COPIES_LOOK: Instant = SECOND / 20;
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
    /// What subscriptions told.
    pub told: u64,
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
    keep_all(&mut world)?;
    finish(&mut world)?;
    settle(&mut world)?;
    catch_up(&mut world)?;
    leave_the_lost(&mut world)?;
    copy_the_lost(&mut world)?;
    world.mend_the_rotten()?;
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
    check_names(&world, &log)?;
    let told = compare_subscriptions(&world, &log)?;
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
        told,
        nodes: world.nodes.len(),
    })
}

/// No LogBook lets anything go by itself any more, so that what scans find holds still.
fn keep_all(world: &mut World) -> Result<(), Failure> {
    if world.plan.load.retention == 0 {
        return Ok(());
    }
    let end = world.now + CALM_MAX;
    loop {
        let refused = world.recorder.retention_refused;
        for book in world.books.clone() {
            let now = world.now;
            world.clients[0].keep_all(now, book.id, &mut world.recorder);
            world.wake_client(0, now);
        }
        let is_done = |world: &World| world.clients.iter().all(|client| client.setting_retention.is_empty());
        if !world.run(end, is_done)? {
            return Err(Failure::Stuck { pending: 1, after: "setting retention".to_owned(), details: describe(world) });
        }
        // A disk that was full a moment ago may still be found so.
        if world.recorder.retention_refused == refused {
            return Ok(());
        }
    }
}

/// Subscriptions tell everything that there is.
fn catch_up(world: &mut World) -> Result<(), Failure> {
    let log = world.invariants.final_log()?;
    let mut ends: BTreeMap<(LogBookId, Tag), Option<SeqNum>> = BTreeMap::new();
    for subscribed in world.clients.iter().flat_map(|client| client.subscriptions.values()) {
        let key = (subscribed.logbook, subscribed.tag);
        ends.entry(key).or_insert_with(|| log.last_living(key.0, key.1));
    }
    let is_behind = |subscribed: &Subscribed| {
        ends[&(subscribed.logbook, subscribed.tag)].is_some_and(|end| end >= subscribed.next())
    };
    let behind = |world: &World| {
        world.clients.iter().flat_map(|client| client.subscriptions.values()).filter(|of| is_behind(of)).count()
    };
    if world.run(world.now + CALM_MAX, |world| behind(world) == 0)? {
        return Ok(());
    }
    let details = format!(" (subscriptions){}", describe(world));
    Err(Failure::Stuck { pending: behind(world), after: "their records".to_owned(), details })
}

/// A name is used in one class.
fn check_names(world: &World, log: &FinalLog) -> Result<(), Failure> {
    let used: BTreeSet<LogBookId> = log.streams().map(|(logbook, _)| logbook).collect();
    let in_both = |book: &&Book| used.contains(&book.id) && used.contains(&book.id.in_other_class());
    match world.books.iter().filter(in_both).find_map(|book| book.name.clone()) {
        Some(name) => Err(Failure::NameInBothClasses { name }),
        None => Ok(()),
    }
}

/// Each subscription told what reading forward finds. Returns how much they told.
fn compare_subscriptions(world: &World, log: &FinalLog) -> Result<u64, Failure> {
    let mut told = 0;
    let mut compare = |subscribed: &Subscribed, is_whole| {
        told += subscribed.told.len() as u64;
        let may_be_lost = world.recorder.history.is_lossy(subscribed.logbook);
        log.compare_subscription(subscribed, Expected { is_whole, may_be_lost }).map_err(Failure::history)
    };
    for subscribed in &world.recorder.subscribed {
        compare(subscribed, false)?;
    }
    for subscribed in world.clients.iter().flat_map(|client| client.subscriptions.values()) {
        compare(subscribed, true)?;
    }
    Ok(told)
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

/// Where a view has enough living storages that are not drained, no engine goes on writing to a dead one.
fn leave_the_lost(world: &mut World) -> Result<(), Failure> {
    let on_lost = |world: &World| -> Option<NodeId> {
        let is_lost = |node: &NodeId| world.plan.index(*node).is_some_and(|index| world.is_buried(index));
        let machines = world.nodes.iter().filter_map(|node| node.life.as_ref()).flat_map(|life| &life.machines);
        let members = world.register.members();
        let stays = |node: &NodeId| {
            !is_lost(node) && members.get(*node).is_some_and(|member| member.state == MemberState::Active)
        };
        let mut engines = machines.filter_map(|(address, machine)| match machine {
            RoleMachine::Engine(engine) => Some((address.logspace, engine.open_replicas()?)),
            _ => None,
        });
        engines.find_map(|(logspace, replicas)| {
            let view = world.register.chain(logspace).current().clone();
            let living = view.storages.iter().filter(stays).count();
            let lost = replicas.iter().find(is_lost);
            lost.filter(|_| living >= usize::from(view.replicas))
        })
    };
    if world.run(world.now + CALM_MAX, |world| on_lost(world).is_none())? {
        return Ok(());
    }
    let storage = on_lost(world).expect("it was not left");
    Err(Failure::LostStorageKept { storage, details: describe(world) })
}

/// Where enough of a view's storages live and are not drained, what shards that get no more have lost is
/// copied again.
fn copy_the_lost(world: &mut World) -> Result<(), Failure> {
    let copies = usize::from(world.plan.replicas);
    let staying = |world: &World, logspace| -> Vec<NodeId> {
        let members = world.register.members();
        let stays = |node: &NodeId| {
            world.plan.index(*node).is_some_and(|index| !world.is_buried(index))
                && members.get(*node).is_some_and(|member| member.state == MemberState::Active)
        };
        world.register.chain(logspace).current().storages.iter().filter(stays).collect()
    };
    let until = world.now + CALM_MAX;
    for logspace in world.plan.logspaces() {
        loop {
            let nodes = staying(world, logspace);
            if nodes.len() < copies {
                break;
            }
            let lacking = world.invariants.lacking_copies(logspace, copies, |node| nodes.contains(&node))?;
            let Some((shard, copies)) = lacking else { break };
            if world.now >= until {
                return Err(Failure::CopiesMissing { logspace, shard, copies, details: describe(world) });
            }
            world.run(world.now + COPIES_LOOK, |_| false)?;
        }
    }
    Ok(())
}

/// How the machines stand, for a failure's report.
pub(crate) fn describe(world: &World) -> String {
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
                RoleMachine::Controller(controller) => format!("{:?}", controller.status()),
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
    for (node, nth) in engines.into_iter().zip(1..) {
        let line = world.faults.new_line();
        let mut scanner = Client::new(&world.plan, line, &mut world.rng);
        scanner.pinned = Some(node);
        // It has the place of the one before, some bytes to which are perhaps still under way.
        scanner.epoch = nth << 32;
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
