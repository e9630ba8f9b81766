//! A running node: its data directory, its executors, and the thread of its register.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use sealog_control::{Controller, ControllerConfig, RegisterError};
use sealog_engine::{Engine, EngineConfig};
use sealog_protocol::lives::Life;
use sealog_protocol::machine::{Address, Role};
use sealog_protocol::members::{Member, MemberState, Members};
use sealog_protocol::peer::PeerIdentity;
use sealog_runtime::{
    ClientLimits, ExecutorConfig, ExecutorContext, ExecutorId, Handle, HostError, JournalConfig, Listen, NodeConfig,
    PeerCuts, Poster, RunError, ScrubConfig, StartError,
};
use sealog_sequencer::{Sequencer, SequencerConfig};
use sealog_storage::{Storage, StorageConfig};
use thiserror::Error;

use crate::cluster::{JoinError, admit, await_chains, await_members, join, peers_now};
use crate::directory::{DataDirectory, DirectoryError, Founding, random_id};
use crate::host::{Event, HostConfig, NodeHost};
use crate::identity::Identity;
use crate::life;
use crate::machines::{Machines, Placement, RoleMachine};
use crate::peer_settings::{Meeting, is_any_port};
use crate::readiness::{Readiness, Start};
use crate::register::{self, OpenRegisterError, RegisterSetting, WatchedRegister};
use crate::register_health::RegisterHealth;
use crate::register_thread::RegisterThread;
use crate::settings::{Settings, SettingsError};
use crate::space_watch::{SpaceLooks, SpaceWatch};
use crate::status::NodeFacts;

/// The longest path that a Unix socket may have on Linux.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Why a node did not start. Nothing was served.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    OpenRegister(#[from] OpenRegisterError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot {doing}: {error}")]
    Io { doing: &'static str, error: io::Error },
    #[error("the Unix socket's path is longer than {UNIX_PATH_BYTES_MAX} bytes: {}; give a shorter --unix-socket", path.display())]
    UnixSocket { path: PathBuf },
}

/// A node of this process. Dropping it stops it, without waiting for it.
pub struct Node {
    handle: Handle<Event>,
    readiness: Arc<Readiness>,
    executors: usize,
    _space_looks: SpaceLooks,
    /// Why it stops by itself, if it does.
    ending: Arc<OnceLock<String>>,
    /// What is left for the next life.
    life: Life,
    /// Held until the executors have ended: nobody else may use the directory before.
    directory: DataDirectory,
}

/// Stops a node from another thread.
#[derive(Clone)]
pub struct Stopper {
    poster: Poster<Event>,
    readiness: Arc<Readiness>,
}

impl Stopper {
    /// Asks the node to stop; returns at once.
    pub fn stop(&self) {
        self.readiness.give_up();
        self.poster.stop();
    }
}

/// Cuts a node off from others, as if the network lost everything between them: for trying out what a
/// cluster does then.
#[derive(Clone)]
pub struct Cutter(Poster<Event>);

impl Cutter {
    /// From now on these cuts are in force, and no others.
    pub fn cut(&self, cuts: PeerCuts) {
        self.0.post(ExecutorId(0), Event::Cuts(Box::new(cuts)));
    }
}

impl Node {
    /// Starts a node. It answers clients when this returns; [`Node::wait_ready`] says when it has
    /// everything that was acknowledged in earlier lives.
    ///
    /// # Errors
    /// Nothing was served.
    pub fn start(settings: &Settings) -> Result<Node, NodeError> {
        let address = settings.listen_address()?;
        let meeting = settings.meeting()?;
        let (directory, register, members) = if settings.register == RegisterSetting::Own {
            let directory = DataDirectory::open(&settings.data, &founding(settings))?;
            let register = register::open(&settings.register, &directory.path)?;
            (directory, register, None)
        } else {
            let mut register = register::open(&settings.register, &settings.data)?;
            let (directory, members) = member_of(settings, &mut *register)?;
            (directory, register, Some(members))
        };
        let mut listen = vec![Listen::Tcp(address)];
        listen.extend(unix_socket(settings, &directory)?.map(Listen::Unix));
        Node::start_on(settings, directory, listen, meeting, (register, members))
    }

    /// As [`Node::start`], on the Unix socket alone; where no path for one is short enough, on a free
    /// port of the loopback.
    pub(crate) fn start_private(settings: &Settings) -> Result<Node, NodeError> {
        let meeting = settings.meeting()?;
        let directory = DataDirectory::open(&settings.data, &founding(settings))?;
        let listen = match unix_socket(settings, &directory)? {
            Some(path) => Listen::Unix(path),
            None => Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        };
        let register = register::open(&RegisterSetting::Own, &directory.path)?;
        Node::start_on(settings, directory, vec![listen], meeting, (register, None))
    }

    fn start_on(
        settings: &Settings,
        directory: DataDirectory,
        listen: Vec<Listen>,
        meeting: Option<Meeting>,
        (register, members): (Box<dyn WatchedRegister>, Option<Members>),
    ) -> Result<Node, NodeError> {
        let executors = directory.identity.journals.len();
        let hash_seed = random_id().map_err(|error| NodeError::Io { doing: "draw a random number", error })?;
        let readiness = Arc::new(Readiness::default());
        let segments_max = segments_max(settings, executors);
        let space = Arc::new(SpaceWatch::new(directory.path.clone(), settings.segment_bytes, segments_max));
        let ending = Arc::new(OnceLock::new());
        let incarnation = directory.identity.incarnation;
        let life = Life::begin(incarnation, life::read(&directory.path).as_ref(), &directory.chains);
        life::write(&directory.path, &life).map_err(|error| NodeError::Io { doing: "note this life", error })?;
        let meeting = meeting.map(|meeting| match &members {
            Some(members) => meeting.with_peers(peers_now(members).peers),
            None => meeting,
        });
        let register_health = Arc::new(RegisterHealth::new(settings.register.to_string()));
        let register = RegisterThread::start(register, register_health.clone(), executors as u8)
            .map_err(|error| NodeError::Io { doing: "start the register's thread", error })?;
        let host = HostConfig {
            facts: Arc::new(NodeFacts {
                node: directory.identity.node,
                cluster: directory.identity.cluster,
                incarnation: directory.identity.incarnation,
                index_bytes_max: settings.index_bytes_max,
                started: Instant::now(),
                space: space.clone(),
                register: register_health,
            }),
            placement: Placement {
                executors: executors as u8,
                logspaces: directory.chains.len() as u16,
                roles: settings.roles,
            },
            chains: Arc::new(directory.chains.clone()),
            members: members.map(Arc::new),
            register: register.wishes.clone(),
            readiness: readiness.clone(),
            ending: ending.clone(),
        };
        let mut config = NodeConfig::new(directory.path.clone(), executor_configs(settings, &directory, listen));
        config.clients = ClientLimits {
            connections_max: settings.connections_max,
            connections_per_address_max: settings.connections_per_address_max,
            handshake_deadline: settings.handshake_deadline,
            frame_deadline: settings.frame_deadline,
            send_deadline: settings.send_deadline,
        };
        config.peers = meeting.map(|meeting| meeting.of(identity(&directory)));
        let forgotten = life.clone();
        let limits = Limits::new(settings, directory.chains.len() as u64, hash_seed);
        let handle = sealog_runtime::start(config, move |context: ExecutorContext<Event>| {
            let machines = machines(&host, context.executor, limits, &forgotten);
            Ok(NodeHost::new(host.clone(), context, machines))
        })?;
        let space_looks = SpaceLooks::start(space, handle.journals().clone());
        let space_looks = space_looks.map_err(|error| NodeError::Io { doing: "start the thread for space", error })?;
        if settings.register != RegisterSetting::Own {
            directory.serve_cluster()?;
        }
        register
            .watch(handle.poster())
            .map_err(|error| NodeError::Io { doing: "start the thread that watches the register", error })?;
        Ok(Node { handle, readiness, executors, directory, ending, life, _space_looks: space_looks })
    }

    /// Waits until every append that was ever acknowledged is readable; at most so long.
    pub fn wait_ready(&self, patience: Duration) -> Start {
        self.readiness.wait(self.executors, patience)
    }

    /// Where clients can connect.
    pub fn addresses(&self) -> &[Listen] {
        self.handle.addresses()
    }

    /// Where other nodes can connect, if there are any.
    pub fn peer_address(&self) -> Option<&Listen> {
        self.handle.peer_address()
    }

    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    pub fn stopper(&self) -> Stopper {
        Stopper { poster: self.handle.poster(), readiness: self.readiness.clone() }
    }

    pub fn cutter(&self) -> Cutter {
        Cutter(self.handle.poster())
    }

    /// Waits until the node has stopped.
    ///
    /// # Errors
    /// When it stopped without being asked to.
    pub fn wait(mut self) -> Result<(), RunError> {
        let journals = self.handle.journals().clone();
        let ended = self.handle.wait();
        self.readiness.give_up();
        ended?;
        if let Some(reason) = self.ending.get() {
            return Err(RunError::Host(HostError(reason.clone())));
        }
        self.life.ended_in_order = journals.iter().all(|journal| journal.status().all_durable);
        // Without this word the next life takes it for a crash, which is safe.
        if let Err(error) = life::write(&self.directory.path, &self.life) {
            tracing::warn!(%error, "it could not be noted that the node ended in order");
        }
        Ok(())
    }
}

/// Opens the data directory of a node of a cluster, in a new life that the members know. Waits until
/// the cluster is formed.
fn member_of(settings: &Settings, register: &mut dyn WatchedRegister) -> Result<(DataDirectory, Members), NodeError> {
    let members = await_members(register)?;
    let mut founding = founding(settings);
    founding.cluster = founding.cluster.or(Some(members.cluster.0));
    let mut directory = DataDirectory::open_member(&settings.data, &founding, |identity| admit(&members, identity))?;
    let unix = unix_socket(settings, &directory)?;
    let own_socket = unix.map(|path| format!("unix:{}", std::path::absolute(&path).unwrap_or(path).display()));
    let listen = Some(settings.listen.clone()).filter(|listen| !is_any_port(listen));
    let client_address = settings.advertise_clients.clone().or(listen).or(own_socket);
    let Identity { node, incarnation, cluster, .. } = directory.identity;
    let own = Member {
        node,
        incarnation,
        roles: settings.roles,
        state: MemberState::Active,
        replacement: None,
        peer_address: settings.advertised().expect("checked with the meeting"),
        client_address: client_address.unwrap_or_default(),
    };
    join(register, &own)?;
    directory.chains = await_chains(register, cluster)?;
    // Others have joined meanwhile.
    Ok((directory, await_members(register)?))
}

fn founding(settings: &Settings) -> Founding {
    let Settings { executors, logspaces, memory_logspaces, node, cluster, .. } = *settings;
    Founding { executors, logspaces, memory_logspaces, node, cluster }
}

/// Who the node says it is to others.
fn identity(directory: &DataDirectory) -> PeerIdentity {
    let Identity { cluster, node, incarnation, .. } = directory.identity;
    PeerIdentity { cluster, node, incarnation, executor: 0 }
}

/// The socket beside TCP. The default one is left out where its path would be too long; one that
/// was asked for is not.
fn unix_socket(settings: &Settings, directory: &DataDirectory) -> Result<Option<PathBuf>, NodeError> {
    let fits = |path: &PathBuf| path.as_os_str().len() <= UNIX_PATH_BYTES_MAX;
    match &settings.unix_socket {
        Some(path) if fits(path) => Ok(Some(path.clone())),
        Some(path) => Err(NodeError::UnixSocket { path: path.clone() }),
        None => {
            let path = directory.unix_socket();
            if !fits(&path) {
                tracing::warn!("no Unix socket: the data directory's path is too long for one");
            }
            Ok(Some(path).filter(fits))
        }
    }
}

/// Files that a journal lives on with nothing in it but what is new.
const SEGMENTS_MIN: u64 = 8;

/// Each journal's part of the disk budget, in segments; 0: no bound.
fn segments_max(settings: &Settings, journals: usize) -> usize {
    if settings.disk_bytes_max == 0 {
        return 0;
    }
    let part = settings.disk_bytes_max / journals.max(1) as u64 / settings.segment_bytes;
    part.max(SEGMENTS_MIN) as usize
}

/// Each journal's part of the scrub.
fn scrub(settings: &Settings, journals: usize) -> ScrubConfig {
    let part = settings.scrub_bytes_per_s.div_ceil(journals.max(1) as u64);
    ScrubConfig { bytes_per_s: part, interval: settings.scrub_interval }
}

/// Clients connect to the first executor, which forwards what others serve.
fn executor_configs(settings: &Settings, directory: &DataDirectory, listen: Vec<Listen>) -> Vec<ExecutorConfig> {
    let mut listen = Some(listen);
    let config = |journal_id: &u64| ExecutorConfig {
        listen: listen.take().unwrap_or_default(),
        journal: JournalConfig {
            segment_bytes: settings.segment_bytes,
            segments_max: segments_max(settings, directory.identity.journals.len()),
            scrub: scrub(settings, directory.identity.journals.len()),
            ..JournalConfig::new(*journal_id)
        },
    };
    directory.identity.journals.iter().map(config).collect()
}

/// Each engine's part of the node's limits.
#[derive(Clone, Copy)]
struct Limits {
    index_bytes_max: usize,
    cache_bytes_max: usize,
    aux_bytes_max: usize,
    hash_seed: u64,
}

impl Limits {
    fn new(settings: &Settings, engines: u64, hash_seed: u64) -> Limits {
        Limits {
            index_bytes_max: (settings.index_bytes_max / engines) as usize,
            cache_bytes_max: (settings.cache_bytes_max / engines) as usize,
            aux_bytes_max: (settings.aux_bytes_max / engines) as usize,
            hash_seed,
        }
    }
}

/// Milliseconds since 1970; a clock before that counts as then.
fn time_of_day_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn machines(host: &HostConfig, executor: ExecutorId, limits: Limits, life: &Life) -> Machines {
    let (node, incarnation) = (host.facts.node, host.facts.incarnation);
    let mut machines = Machines::default();
    for (logspace, role) in host.placement.machines(executor) {
        let machine = match role {
            Role::Engine => {
                let mut config = EngineConfig::new(node, incarnation, logspace, limits.hash_seed);
                config.index_bytes_max = limits.index_bytes_max;
                config.time_of_day_ms = time_of_day_ms();
                config.cache_bytes_max = limits.cache_bytes_max;
                config.aux_bytes_max = limits.aux_bytes_max;
                RoleMachine::Engine(Box::new(Engine::new(config)))
            }
            Role::Storage => {
                let mut config = StorageConfig::new(node, logspace);
                config.forgotten = life.forgotten(logspace);
                RoleMachine::Storage(Box::new(Storage::new(config)))
            }
            Role::Sequencer => {
                let mut config = SequencerConfig::new(node, incarnation, logspace);
                config.forgotten = life.forgotten(logspace);
                RoleMachine::Sequencer(Box::new(Sequencer::new(config)))
            }
            Role::Controller => {
                let mut config = ControllerConfig::new(node, logspace);
                config.time_of_day_ms = time_of_day_ms();
                RoleMachine::Controller(Box::new(Controller::new(config)))
            }
        };
        machines.insert(Address { node, logspace, role }, machine);
    }
    machines
}
