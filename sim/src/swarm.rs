//! What a seed draws before anything runs: topology, limits, rates. Each seed its own mixture, so
//! that rare paths become common in some of them ("swarm testing").

use std::time::Duration;

use fastrand::Rng;
use sealog_journal::{JournalConfig, ScrubConfig};
use sealog_protocol::machine::Role;
use sealog_protocol::members::{Member, MemberState, Members};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, NodeId, NodeSet, ViewNumber};

use crate::client::SESSIONS_MANY;
use crate::queue::{Instant, MICROSECOND, MILLISECOND};

/// A node, by its place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub usize);

/// What runs on a node, for every logspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    pub engine: bool,
    pub storage: bool,
    pub sequencer: bool,
    pub controller: bool,
    /// No first view names it: it can take another's place.
    pub spare: bool,
}

/// A fault the swarm may switch on for a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    CrashProcess,
    PowerLossOfOne,
    PowerLossOfAll,
    /// All but one lose their power: what only that one has, and was not committed, nobody sends again.
    PowerLossOfOthers,
    Pause,
    BreakConnection,
    Partition,
    OneWayPartition,
    /// Two groups of nodes do not hear of each other, or one of them does not.
    Split,
    Clog,
    SlowDisk,
    DiskFull,
    /// A node that can be missed is gone, and its disk with it.
    DiskLost,
    ReadErrors,
    ClockStep,
    RegisterTrouble,
    ViewRequested,
    /// All controllers are asked at once.
    ViewsRaced,
    /// A view change is asked for, and its controller dies in it.
    ViewChangeInterrupted,
    /// An operator drains a node, or wants a drained one back.
    NodeDrained,
    /// An operator drains a node and, once nothing speaks against it, removes it for good.
    NodeRemoved,
    BreakClient,
    ClientVanishes,
    /// Bits flip in what was written long ago.
    BitRot,
    /// A page of what was written long ago is overwritten with another one.
    StrayWrite,
}

impl FaultKind {
    pub const ALL: [FaultKind; 23] = [
        FaultKind::CrashProcess,
        FaultKind::PowerLossOfOne,
        FaultKind::PowerLossOfAll,
        FaultKind::PowerLossOfOthers,
        FaultKind::Pause,
        FaultKind::BreakConnection,
        FaultKind::Partition,
        FaultKind::OneWayPartition,
        FaultKind::Split,
        FaultKind::Clog,
        FaultKind::SlowDisk,
        FaultKind::DiskFull,
        FaultKind::DiskLost,
        FaultKind::ReadErrors,
        FaultKind::ClockStep,
        FaultKind::RegisterTrouble,
        FaultKind::ViewRequested,
        FaultKind::ViewsRaced,
        FaultKind::ViewChangeInterrupted,
        FaultKind::NodeDrained,
        FaultKind::NodeRemoved,
        FaultKind::BreakClient,
        FaultKind::ClientVanishes,
    ];
}

/// How long things take: a least time, and a spread on top of it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub least: Instant,
    pub spread: Instant,
}

impl Span {
    pub fn draw(self, rng: &mut Rng) -> Instant {
        self.least + rng.u64(0..=self.spread)
    }
}

/// Limits handed to the machines.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub cuts_in_flight_max: usize,
    pub stuck_cut: Duration,
    pub replica_patience: Duration,
    pub repair_retries_max: u32,
    /// How long controllers bear the loss of a primary, and of a node for which there is another.
    pub primary_suspicion: Duration,
    pub replace_lost: Duration,
    /// After so much silence a connection is closed.
    pub peer_silence: Instant,
    pub pending_bytes_max: usize,
    pub pending_records_max: usize,
    pub cache_bytes_max: usize,
    pub aux_bytes_max: usize,
    pub waiting_reads_max: usize,
    /// Of engines' checkpoints: bytes of batches between them, times of their own size, bytes of a part.
    pub checkpoint_log_bytes_min: u64,
    pub checkpoint_log_factor: u64,
    pub checkpoint_part_bytes: usize,
    /// How fast storages look for space.
    pub rewrite_bytes_per_s: u64,
    /// After how long a storage is lost, how often copies are looked for, and how fast they are made.
    pub storage_lost: Duration,
    pub copies_look: Duration,
    pub copy_bytes_per_s: u64,
    pub mend_retry: Duration,
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    pub in_flight_max: usize,
    pub logbooks: usize,
    pub tags: u64,
    pub payload_bytes_max: usize,
    pub batch_records_max: usize,
    pub think: Span,
    /// In 100: how many operations are reads or tails; of the appends, have a condition.
    pub reads: u8,
    pub conditions: u8,
    /// In 100: operations that are trims.
    pub trims: u8,
    /// In 100: operations that attach aux data.
    pub aux: u8,
    /// In 100: operations that set what a LogBook keeps by itself.
    pub retention: u8,
    /// Subscriptions of a client at once, and bytes of credit of each.
    pub subscriptions: usize,
    pub subscription_bytes: usize,
    /// In 100: operations whose deadline is soon.
    pub impatient: u8,
}

/// All that a seed draws in advance.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: Vec<(NodeId, Roles)>,
    pub write_quorum: u8,
    pub replicas: u8,
    pub settings: ClusterSettings,
    pub journal: JournalConfig,
    pub limits: Limits,
    pub load: Load,
    pub network: Span,
    pub disk_write: Span,
    pub disk_read: Span,
    /// From the first input of a turn to the turn: what comes meanwhile is in it.
    pub turn: Span,
    pub register: Span,
    pub restart: Span,
    pub faults: Vec<FaultKind>,
    pub fault_interval: Span,
    pub fault_lasts: Span,
    /// The faulty phase lasts until so many operations completed and so many faults happened.
    pub operations_min: u64,
    pub faults_min: u64,
}

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ 0x5ea1);
        let rng = &mut rng;
        let copies = &mut Rng::with_seed(seed ^ 0xc0b1e5);
        let logspaces = *pick(rng, &[1, 1, 1, 2, 3]);
        // A third of the seeds have logspaces of class memory; the others are as if there were none.
        let memory_logspaces = if seed.is_multiple_of(3) { 1 + u16::from((seed / 3).is_multiple_of(4)) } else { 0 };
        let (nodes, replicas, write_quorum) = topology(rng);
        let settings = ClusterSettings {
            cluster: ClusterId(rng.u64(1..)),
            logspaces: logspaces + memory_logspaces,
            memory_logspaces,
            sessions_max: *pick(rng, &[4, 12, 64, SESSIONS_MANY]),
            session_window: *pick(rng, &[4, 16, 256]),
        };
        let mut faults = draw_faults(rng, nodes.len());
        let rot = &mut Rng::with_seed(seed ^ 0x0b17);
        // Where there is one copy of everything, what rots is lost.
        let rots = replicas > 1 && rot.u8(0..4) == 0;
        if rots {
            faults.extend([FaultKind::BitRot, FaultKind::StrayWrite]);
        }
        let scrub = ScrubConfig {
            bytes_per_s: *pick(rot, &[1 << 20, 16 << 20]),
            interval: Duration::from_millis(*pick(rot, &[20, 200, 1_000])),
        };
        let restart = *pick(rng, &[5, 60, 300, 5_000]) * MILLISECOND;
        let fault_lasts = *pick(rng, &[20, 100, 400, 3_000]) * MILLISECOND;
        // Where faults last long, they are rare: else nothing gets done.
        let fault_interval = (*pick(rng, &[30, 80, 200]) * MILLISECOND).max(restart / 4).max(fault_lasts / 4);
        let load = draw_load(rng, fault_interval);
        // All that can be pending at once may come in one message, and an entry must fit a segment.
        let entry_bytes = load.clients * load.in_flight_max * load.batch_records_max * (load.payload_bytes_max + 200);
        let segment_bytes = (*pick(rng, &[64, 128, 512]) * 1024).max((8 * entry_bytes as u64).next_multiple_of(4096));
        Plan {
            seed,
            nodes,
            write_quorum,
            replicas,
            settings,
            journal: JournalConfig {
                segment_bytes,
                segments_max: 0,
                asks_to_vacate: rng.bool(),
                block_bytes_max: *pick(rng, &[4096, 16 << 10, 1 << 20]),
                writes_in_flight_max: rng.usize(1..=4),
                idle_mark: Duration::from_millis(*pick(rng, &[2, 20, 200])),
                scrub: if rots { scrub } else { ScrubConfig::OFF },
                journal_id: rng.u64(1..),
            },
            limits: Limits {
                cuts_in_flight_max: *pick(rng, &[1, 2, 4, 16]),
                stuck_cut: Duration::from_millis(*pick(rng, &[30, 100, 500])),
                replica_patience: Duration::from_millis(*pick(rng, &[10, 100, 1_000])),
                repair_retries_max: *pick(rng, &[0, 2, 10]),
                primary_suspicion: Duration::from_millis(*pick(rng, &[0, 20, 100])),
                replace_lost: Duration::from_millis(*pick(rng, &[50, 500, 300_000])),
                peer_silence: *pick(rng, &[50, 150, 400]) * MILLISECOND,
                pending_bytes_max: *pick(rng, &[2 << 10, 16 << 10, 32 << 20]),
                pending_records_max: *pick(rng, &[4, 64, 1 << 16]),
                cache_bytes_max: *pick(rng, &[0, 1 << 10, 16 << 10, 1 << 20]),
                aux_bytes_max: *pick(rng, &[0, 1 << 10, 1 << 20]),
                waiting_reads_max: *pick(rng, &[2, 1 << 20]),
                checkpoint_log_bytes_min: *pick(rng, &[1 << 10, 8 << 10, 32 << 10, 64 << 20]),
                checkpoint_log_factor: *pick(rng, &[1, 4]),
                checkpoint_part_bytes: *pick(rng, &[300, 2 << 10, 16 << 10]),
                rewrite_bytes_per_s: (*pick(rng, &[64 << 10, 1 << 20, 64 << 20])).max(if rots { 1 << 20 } else { 0 }),
                storage_lost: Duration::from_millis(*pick(copies, &[20, 200, 1_500])),
                copies_look: Duration::from_millis(*pick(copies, &[10, 50, 200])),
                copy_bytes_per_s: *pick(copies, &[256 << 10, 1 << 20, 64 << 20]),
                mend_retry: Duration::from_millis(*pick(rot, &[20, 300])),
            },
            load,
            network: Span { least: 20 * MICROSECOND, spread: *pick(rng, &[20, 200, 3_000]) * MICROSECOND },
            // Where memory counts, disks are slow, so that what is held and not flushed is much.
            disk_write: Span {
                least: 60 * MICROSECOND,
                spread: *pick(rng, &[20, 300, 3_000, 15_000]) * MICROSECOND * if memory_logspaces > 0 { 8 } else { 1 },
            },
            disk_read: Span { least: 30 * MICROSECOND, spread: *pick(rng, &[20, 300]) * MICROSECOND },
            turn: Span { least: MICROSECOND, spread: *pick(rng, &[1, 20, 100]) * MICROSECOND },
            register: Span { least: 50 * MICROSECOND, spread: *pick(rng, &[100, 5_000]) * MICROSECOND },
            restart: Span { least: MILLISECOND, spread: restart },
            faults,
            fault_interval: Span { least: MILLISECOND, spread: fault_interval },
            fault_lasts: Span { least: MILLISECOND, spread: fault_lasts },
            operations_min: rng.u64(560..800),
            faults_min: rng.u64(11..20),
        }
    }

    pub fn index(&self, node: NodeId) -> Option<NodeIndex> {
        self.nodes.iter().position(|(id, _)| *id == node).map(NodeIndex)
    }

    pub fn with_role(&self, has: impl Fn(&Roles) -> bool) -> Vec<NodeIndex> {
        let indices = (0..self.nodes.len()).filter(|at| has(&self.nodes[*at].1));
        indices.map(NodeIndex).collect()
    }

    /// The nodes of the cluster, when it is created.
    pub fn first_members(&self) -> Members {
        let mut nodes: Vec<Member> = self.nodes.iter().map(|(node, roles)| member(*node, *roles)).collect();
        nodes.sort_by_key(|member| member.node);
        Members { cluster: self.settings.cluster, version: 1, nodes }
    }

    /// The logspace's chain when the cluster is created.
    pub fn first_chain(&self, logspace: LogspaceId) -> Chain {
        let ids = |has: fn(&Roles) -> bool| {
            let first =
                self.with_role(has).into_iter().map(|index| self.nodes[index.0]).filter(|(_, roles)| !roles.spare);
            let ids: Vec<NodeId> = first.map(|(node, _)| node).collect();
            NodeSet::new(&ids).expect("few distinct nodes")
        };
        let sequencers = ids(|roles| roles.sequencer);
        let primary = sequencers.as_slice()[usize::from(logspace.0) % sequencers.len()];
        let view = View {
            number: ViewNumber(1),
            primary,
            primary_incarnation: Incarnation(1),
            sequencers,
            storages: ids(|roles| roles.storage),
            write_quorum: self.write_quorum,
            replicas: self.replicas,
            moves: Vec::new(),
            cause: Default::default(),
        };
        Chain { settings: self.settings, logspace, views: vec![view], ends: Vec::new() }
    }

    pub fn logspaces(&self) -> impl Iterator<Item = LogspaceId> + use<> {
        (0..self.settings.logspaces).map(LogspaceId)
    }
}

fn member(node: NodeId, roles: Roles) -> Member {
    let runs = [
        (roles.engine, Role::Engine),
        (roles.storage, Role::Storage),
        (roles.sequencer, Role::Sequencer),
        (roles.controller, Role::Controller),
    ];
    let roles: Vec<Role> = runs.into_iter().filter(|(runs, _)| *runs).map(|(_, role)| role).collect();
    Member {
        node,
        incarnation: Incarnation(1),
        roles: sealog_protocol::members::Roles::new(&roles),
        state: MemberState::Active,
        replacement: None,
        peer_address: String::new(),
        client_address: String::new(),
    }
}

fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(0..choices.len())]
}

/// Nodes with their roles, R, W.
fn topology(rng: &mut Rng) -> (Vec<(NodeId, Roles)>, u8, u8) {
    let mut roles = match rng.u8(0..8) {
        // One machine, as `sealog dev` runs it.
        0 => {
            let all = Roles { engine: true, storage: true, sequencer: true, controller: true, spare: false };
            return (vec![(NodeId(1), all)], 1, 1);
        }
        // Every role on each of three nodes; the engine perhaps not on all of them.
        1..=4 => {
            let (engines, controllers) = (rng.usize(1..=3), rng.usize(1..=3));
            (0..3)
                .map(|at| Roles {
                    engine: at < engines,
                    storage: true,
                    sequencer: true,
                    controller: at < controllers,
                    spare: false,
                })
                .collect::<Vec<Roles>>()
        }
        // Storages and sequencers together, engines apart.
        5 | 6 => {
            let mut nodes = vec![Roles { storage: true, sequencer: true, ..Roles::default() }; 3];
            nodes.extend(vec![Roles { engine: true, ..Roles::default() }; rng.usize(1..=3)]);
            for _ in 0..rng.usize(1..=3) {
                let controller = rng.usize(0..nodes.len());
                nodes[controller].controller = true;
            }
            nodes
        }
        // All apart, and the controllers on their own.
        _ => {
            let mut nodes = vec![Roles { storage: true, ..Roles::default() }; 3];
            nodes.extend(vec![Roles { sequencer: true, ..Roles::default() }; 3]);
            nodes.extend(vec![Roles { engine: true, ..Roles::default() }; rng.usize(1..=3)]);
            nodes.extend(vec![Roles { controller: true, ..Roles::default() }; rng.usize(1..=2)]);
            nodes
        }
    };
    // Storages that can be missed: engines put shards on any three.
    let more = *pick(rng, &[0, 0, 1, 2]);
    roles.extend(vec![Roles { storage: true, ..Roles::default() }; more]);
    if rng.bool() {
        let controller = rng.bool();
        let spare = Roles { storage: true, sequencer: true, controller, spare: true, engine: false };
        roles.extend(vec![spare; rng.usize(1..=2)]);
    }
    rng.shuffle(&mut roles);
    let mut ids: Vec<NodeId> = (1..=roles.len() as u64).map(NodeId).collect();
    rng.shuffle(&mut ids);
    (ids.into_iter().zip(roles).collect(), 3, 2)
}

fn draw_faults(rng: &mut Rng, nodes: usize) -> Vec<FaultKind> {
    let needs_several = |kind: &FaultKind| {
        matches!(
            kind,
            FaultKind::Partition
                | FaultKind::OneWayPartition
                | FaultKind::Split
                | FaultKind::BreakConnection
                | FaultKind::Clog
        )
    };
    let possible: Vec<FaultKind> =
        FaultKind::ALL.into_iter().filter(|kind| nodes > 1 || !needs_several(kind)).collect();
    // About half of them, so that some seeds have long runs of the same few.
    let mut drawn: Vec<FaultKind> = possible.iter().copied().filter(|_| rng.bool()).collect();
    if drawn.len() < 3 {
        drawn = possible;
    }
    drawn
}

fn draw_load(rng: &mut Rng, fault_interval: Instant) -> Load {
    let clients = rng.usize(2..=6);
    // Some forty operations from one fault to the next, or more.
    let slow_enough = fault_interval * clients as u64 / 40;
    Load {
        clients,
        in_flight_max: *pick(rng, &[1, 2, 4, 8]),
        logbooks: rng.usize(1..=4),
        tags: rng.u64(1..=5),
        payload_bytes_max: *pick(rng, &[16, 64, 600]),
        batch_records_max: *pick(rng, &[1, 2, 4]),
        think: Span { least: 0, spread: (*pick(rng, &[1, 5, 20]) * MILLISECOND).max(slow_enough) },
        reads: *pick(rng, &[20, 40, 60]),
        conditions: *pick(rng, &[0, 10, 40]),
        trims: *pick(rng, &[0, 1, 4, 15]),
        aux: *pick(rng, &[0, 3, 20]),
        retention: *pick(rng, &[0, 0, 0, 2]),
        subscriptions: *pick(rng, &[0, 1, 3]),
        subscription_bytes: *pick(rng, &[1, 300, 4 << 10, 1 << 20]),
        impatient: *pick(rng, &[0, 3, 15]),
    }
}
