//! What a node tells of itself: one JSON object, gathered from all its executors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sealog_control::ControllerStatus;
use sealog_engine::EngineStatus;
use sealog_protocol::client::{Durability, Reply};
use sealog_protocol::holdings::Holdings;
use sealog_protocol::machine::{ConnectionId, Role};
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, NodeId, ShardId, Time};
use sealog_runtime::{Action, Counters, ExecutorContext, JournalWatch, PeerStatus};
use sealog_sequencer::SequencerStatus;
use sealog_storage::StorageStatus;
use serde_json::{Map, Value, json};

use crate::cluster_status::ClusterFacts;
use crate::machines::{Machines, RoleMachine};
use crate::operations::reason_name;
use crate::register_health::RegisterHealth;
use crate::space_watch::SpaceWatch;

/// What does not change while a node runs.
#[derive(Debug)]
pub struct NodeFacts {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub index_bytes_max: u64,
    pub started: Instant,
    pub register: Arc<RegisterHealth>,
    pub space: Arc<SpaceWatch>,
}

/// What one executor's machines say.
#[derive(Debug, Default)]
pub struct StatusPart {
    engines: Vec<(LogspaceId, EngineStatus)>,
    storages: Vec<(LogspaceId, StorageStatus)>,
    sequencers: Vec<(LogspaceId, SequencerStatus)>,
    /// Logspaces whose view is being changed.
    changing: Vec<(LogspaceId, ControllerStatus)>,
    /// Where copies are, where somebody is drained.
    holdings: BTreeMap<LogspaceId, Holdings>,
}

impl StatusPart {
    pub fn of(machines: &Machines, with_holdings: bool) -> StatusPart {
        let mut part = StatusPart::default();
        for slot in machines.slots() {
            let logspace = slot.address.logspace;
            match &slot.machine {
                RoleMachine::Engine(engine) => {
                    part.engines.push((logspace, engine.status()));
                    if with_holdings {
                        part.holdings.insert(logspace, engine.holdings());
                    }
                }
                RoleMachine::Storage(storage) => part.storages.push((logspace, storage.status())),
                RoleMachine::Sequencer(sequencer) => part.sequencers.push((logspace, sequencer.status())),
                RoleMachine::Controller(controller) if controller.is_changing() => {
                    part.changing.push((logspace, controller.status()));
                }
                RoleMachine::Controller(_) => {}
            }
        }
        part
    }

    fn absorb(&mut self, other: StatusPart) {
        self.engines.extend(other.engines);
        self.storages.extend(other.storages);
        self.sequencers.extend(other.sequencers);
        self.changing.extend(other.changing);
        self.holdings.extend(other.holdings);
    }
}

/// Questions for the status that wait for other executors.
#[derive(Debug, Default)]
pub struct StatusRounds {
    next: u64,
    rounds: Vec<Round>,
}

#[derive(Debug)]
struct Round {
    id: u64,
    connection: ConnectionId,
    request: u64,
    missing: u8,
    told: StatusPart,
}

impl StatusRounds {
    /// A client asks; so many executors will tell.
    pub fn begin(&mut self, connection: ConnectionId, request: u64, executors: u8) -> u64 {
        self.next += 1;
        self.rounds.push(Round { id: self.next, connection, request, missing: executors, told: StatusPart::default() });
        self.next
    }

    /// An executor told its part; the answer, when it was the last.
    pub fn told<E>(
        &mut self,
        id: u64,
        part: StatusPart,
        facts: &NodeFacts,
        cluster: &ClusterFacts<'_>,
        context: &ExecutorContext<E>,
    ) -> Option<Action> {
        let at = self.rounds.iter().position(|round| round.id == id)?;
        let round = &mut self.rounds[at];
        round.told.absorb(part);
        round.missing -= 1;
        if round.missing > 0 {
            return None;
        }
        let Round { connection, request, told, .. } = self.rounds.swap_remove(at);
        let json = node_status(facts, &told, cluster, context).to_string();
        Some(Action::Reply { connection, request, reply: Reply::Status { json } })
    }

    pub fn forget(&mut self, connection: ConnectionId) {
        self.rounds.retain(|round| round.connection != connection);
    }
}

/// Ids are strings: they outgrow the numbers of many JSON readers.
fn node_status<E>(
    facts: &NodeFacts,
    part: &StatusPart,
    cluster: &ClusterFacts<'_>,
    context: &ExecutorContext<E>,
) -> Value {
    let (counters, journals) = (&context.counters, &context.journals);
    let ready = part.engines.iter().all(|(_, engine)| engine.ready);
    let mut degraded = degraded_reasons(facts, part, journals, context.clock.now());
    degraded.extend(cluster.degraded());
    let state = match (ready, degraded.is_empty()) {
        (false, _) => "starting",
        (true, false) => "degraded",
        (true, true) => "ready",
    };
    let index_bytes: usize = part.engines.iter().map(|(_, engine)| engine.index_bytes).sum();
    let records: u64 = part.engines.iter().map(|(_, engine)| engine.records).sum();
    let now = context.clock.now();
    let executors: Vec<Value> = counters
        .iter()
        .zip(journals.iter())
        .map(|(counters, journal)| executor_status(counters, journal, now))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "degraded": degraded,
        "node": facts.node.to_string(),
        "cluster": facts.cluster.to_string(),
        "incarnation": facts.incarnation.0,
        "process": std::process::id(),
        "uptime_s": facts.started.elapsed().as_secs(),
        "durability": "disk",
        "register": register_status(&facts.register),
        "index": { "records": records, "bytes": index_bytes, "bytes_max": facts.index_bytes_max },
        "space": facts.space.status(),
        "logspaces": logspaces_status(part, cluster),
        "executors": executors,
        "roles": cluster.role_names(),
        "members": cluster.members(&part.holdings),
        "views": cluster.views(),
        "peers": context.peers.all().iter().map(peer_status).collect::<Vec<Value>>(),
    })
}

/// `unreachable_s`: for how long it can't be used.
fn register_status(health: &RegisterHealth) -> Value {
    let outage = health.outage();
    json!({
        "name": health.name(),
        "unreachable_s": outage.as_ref().map(|outage| outage.since.elapsed().as_secs()),
        "reason": outage.map(|outage| outage.reason),
    })
}

/// How it stands with another node. What was said is in the counters of the executor that holds the
/// connections, the first.
fn peer_status(peer: &PeerStatus) -> Value {
    json!({
        "node": peer.node.to_string(),
        "address": peer.address,
        "called": peer.is_called,
        "connected": peer.is_connected,
        "incarnation": peer.incarnation.0,
        "connects": peer.connects,
        "reason": peer.reason,
        "clock_ahead_ms": peer.clock_ahead_ms,
    })
}

/// Each with what it means for a user.
fn degraded_reasons(facts: &NodeFacts, part: &StatusPart, journals: &[JournalWatch], now: Time) -> Vec<String> {
    let mut reasons = Vec::new();
    let damages: u64 = journals.iter().map(|journal| journal.status().damages).sum();
    if damages > 0 {
        reasons.push(format!(
            "{damages} damaged ranges were found in the journal at the start: records in them can't be read from here, \
             all else is served; `sealog inspect` shows where{}",
            mending(part)
        ));
    }
    if let Some(outage) = facts.register.outage() {
        let (name, seconds) = (facts.register.name(), outage.since.elapsed().as_secs());
        let reason = outage.reason;
        reasons.push(format!(
            "the register {name} can't be used since {seconds} s: views can't be changed, appends and reads go on ({reason})"
        ));
    }
    let rotten: u64 = journals.iter().map(|journal| journal.status().scrub.findings).sum();
    if rotten > 0 {
        reasons.push(format!(
            "the scrub found {rotten} damaged ranges in the journal: what is damaged can't be read from here, all else \
             is served; `scrub.findings` of the executors says where; check the disk (dmesg, smartctl){}",
            mending(part)
        ));
    }
    for (logspace, storage) in &part.storages {
        if storage.found_by_reads > 0 {
            let segments = storage.found_by_reads;
            reasons.push(format!(
                "reads of logspace {logspace} found damaged bytes in {segments} segments of the journal{}",
                mending(part)
            ));
        }
        if !storage.lost.is_empty() {
            let batches = storage.lost.len();
            reasons.push(format!(
                "no replica can read {batches} batches of logspace {logspace}: `storage.lost` says which; they are \
                 asked for again every 30 s, in case a replica comes back that has them"
            ));
        }
        if storage.full {
            reasons.push("the disk is full: appends are refused until space is freed, reads go on".to_owned());
        }
    }
    for (logspace, engine) in &part.engines {
        if engine.lost_ranges > 0 {
            let ranges = engine.lost_ranges;
            reasons.push(format!("{ranges} ranges of logspace {logspace} are damaged, with what described them"));
        }
    }
    let index_bytes: usize = part.engines.iter().map(|(_, engine)| engine.index_bytes).sum();
    if index_bytes as u64 >= facts.index_bytes_max {
        reasons.push("the index is at its memory limit: appends are refused; raise index_memory".to_owned());
    }
    for (logspace, status) in &part.changing {
        let why = status.changing.map_or_else(String::new, |(reason, since)| {
            format!(" since {} s ({})", now.since(since).as_secs(), reason_name(reason))
        });
        let (sequencers, storages) = status.sealed;
        let how_far = match status.repairing {
            true => "what is kept is being copied".to_owned(),
            false => format!("{sequencers} sequencers and {storages} storages have answered"),
        };
        reasons.push(format!("logspace {logspace} changes its view{why}: appends wait; {how_far}"));
    }
    reasons
}

/// What becomes of damage, as far as one can tell.
fn mending(part: &StatusPart) -> &'static str {
    let is_lost = part.storages.iter().any(|(_, storage)| !storage.lost.is_empty());
    let has_replicas = part.storages.iter().any(|(_, storage)| storage.has_replicas);
    match (has_replicas, is_lost) {
        (false, _) => "; there is no replica to mend it from",
        (true, false) => "; it is mended from the replicas",
        (true, true) => "; what a replica has of it is mended",
    }
}

fn logspaces_status(part: &StatusPart, cluster: &ClusterFacts<'_>) -> Vec<Value> {
    let engines = part.engines.iter().map(|(logspace, _)| *logspace);
    let storages = part.storages.iter().map(|(logspace, _)| *logspace);
    let sequencers = part.sequencers.iter().map(|(logspace, _)| *logspace);
    let mut logspaces: Vec<LogspaceId> = engines.chain(storages).chain(sequencers).collect();
    logspaces.sort_unstable();
    logspaces.dedup();
    let status = |logspace: LogspaceId| {
        let class = cluster.class(logspace).map(Durability::name);
        let mut value = json!({ "logspace": logspace.0, "class": class });
        let roles = [Role::Engine, Role::Storage, Role::Sequencer];
        for (role, name) in roles.into_iter().zip(["engine", "storage", "sequencer"]) {
            if let Some(status) = role_status(part, logspace, role) {
                value[name] = status;
            }
        }
        value
    };
    logspaces.into_iter().map(status).collect()
}

fn role_status(part: &StatusPart, logspace: LogspaceId, role: Role) -> Option<Value> {
    fn find<T>(all: &[(LogspaceId, T)], logspace: LogspaceId) -> Option<&T> {
        all.iter().find(|(of, _)| *of == logspace).map(|(_, status)| status)
    }
    match role {
        Role::Engine => find(&part.engines, logspace).map(|engine| {
            json!({
                "ready": engine.ready,
                "applied": { "view": engine.applied.view.0, "index": engine.applied.index },
                "records": engine.records,
                "void_records": engine.voids,
                "sessions": engine.sessions,
                "tags": engine.tags,
                "index_bytes": engine.index_bytes,
                "cache_bytes": engine.cache_bytes,
                "aux": {
                    "entries": engine.aux.entries,
                    "bytes": engine.aux.bytes,
                    "bytes_max": engine.aux.bytes_max,
                    "sets": engine.aux.sets,
                    "hits": engine.aux.hits,
                    "misses": engine.aux.misses,
                    "evictions": engine.aux.evictions,
                },
                "pending_records": engine.pending_records,
                "waiting_reads": engine.waiting_reads,
                "subscriptions": engine.subscriptions,
                "appends": engine.appends,
                "reads": engine.reads,
                "fetches": engine.fetches,
                "lost_ranges": engine.lost_ranges,
                "checkpoint": {
                    "view": engine.checkpoint.view.0,
                    "index": engine.checkpoint.index,
                    "bytes": engine.checkpoint_bytes,
                    "log_bytes_since": engine.checkpoint_log_bytes,
                    "parts_damaged": engine.checkpoint_parts_damaged,
                },
                "copies_to_make": { "shards": engine.copies_shards, "bytes": engine.copies_bytes },
            })
        }),
        Role::Storage => find(&part.storages, logspace).map(|storage| {
            json!({
                "counts": storage.counts,
                "shards": storage.shards,
                "records_durable": storage.records_durable,
                "corrupt_reads": storage.corrupt_reads,
                "disk_full": storage.full,
                "segments": storage.segments,
                "segments_examined": storage.segments_examined,
                "segments_released": storage.segments_released,
                "bytes_rewritten": storage.bytes_rewritten,
                "copies": storage.copies,
                "bytes_copied": storage.bytes_copied,
                "to_mend": { "segments": storage.to_mend },
                "mended": { "records": storage.records_mended, "bytes": storage.bytes_mended },
                "lost": storage.lost.iter().map(lost_batch).collect::<Vec<Value>>(),
            })
        }),
        Role::Sequencer => find(&part.sequencers, logspace).map(|sequencer| {
            json!({
                "view": sequencer.view.0,
                "counts": sequencer.counts,
                "primary": sequencer.is_primary,
                "commit": sequencer.commit,
                "durable": sequencer.durable,
                "cuts_in_flight": sequencer.cuts_in_flight,
                "sealed": sequencer.sealed.0,
            })
        }),
        Role::Controller => None,
    }
}

fn lost_batch((shard, position): &(ShardId, u64)) -> Value {
    json!({ "view": shard.view.0, "shard": shard.index.to_string(), "position": position.to_string() })
}

fn executor_status(counters: &Counters, journal: &JournalWatch, now: Time) -> Value {
    let mut status: Map<String, Value> = counters.all().map(|(name, value)| (name.to_owned(), value.into())).collect();
    status.insert("journal".to_owned(), journal_status(journal));
    status.insert("scrub".to_owned(), scrub_status(journal, now));
    Value::Object(status)
}

/// What is read again: the last finished pass, and what was found in segments that are still there.
fn scrub_status(journal: &JournalWatch, now: Time) -> Value {
    let status = journal.status().scrub;
    let findings = journal.findings().into_iter().map(|damage| {
        json!({
            "file": format!("segment-{:08}.seg", damage.segment),
            "offset": damage.offset,
            "bytes": damage.bytes,
            "what": damage.kind.name(),
        })
    });
    json!({
        "passes": status.passes,
        "last_pass_ago_s": status.last_pass.map(|finished| now.since(finished).as_secs()),
        "last_pass_bytes": status.last_pass_bytes,
        "bytes": status.bytes,
        "segment": status.segment,
        "damaged": status.findings,
        "findings": findings.collect::<Vec<Value>>(),
    })
}

fn journal_status(journal: &JournalWatch) -> Value {
    let (status, report) = (journal.status(), journal.report());
    json!({
        "segments": status.segments,
        "segments_prepared": status.segments_prepared,
        "segments_free": status.segments_free,
        "segments_released": status.segments_released,
        "segments_recycled": status.segments_recycled,
        "segments_removed": status.segments_removed,
        "open_segment": status.open_segment,
        "incarnation": status.incarnation,
        "durable_blocks": status.durable_blocks,
        "blocks_written": status.blocks_written,
        "bytes_written": status.bytes_written,
        "payload_bytes": status.batch_bytes,
        "entries": status.entries,
        "blocks_queued": status.blocks_queued,
        "footer_bytes_in_memory": status.footer_bytes_in_memory,
        "full": status.is_full,
        "damages": status.damages,
        "recovered_entries": report.entries,
        "torn_tail": report.torn_tail.map(|torn| json!({ "segment": torn.segment, "offset": torn.offset })),
    })
}
