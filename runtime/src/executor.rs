//! Starting a node's executors, and the handle that steers them.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder};

use crate::buffers::{BufferGroup, ReceiveBuffers};
use crate::checks::check;
use crate::client_limits::ClientLimits;
use crate::clock::Clock;
use crate::config::{ExecutorConfig, Listen, NodeConfig};
use crate::cores::Cores;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::driver::Driver;
use crate::error::{HostError, RunError, StartError};
use crate::host::{ExecutorContext, ExecutorId, Host};
use crate::inbox::{Inbox, Outbox, Shared, connect};
use crate::journal_io::recover;
use crate::limits::{PEER_FILES, RESERVED_FILES};
use crate::listener::Listener;
use crate::park::Parker;
use crate::peer_config::PeersConfig;
use crate::peering::{HOLDER, Peering};
use crate::peers::PeerSockets;
use crate::ring::Ring;
use crate::sockets::Sockets;
use crate::watch::JournalWatch;

/// glommio's own buffers: it does next to nothing here, and the default does not fit common limits.
const GLOMMIO_MEMORY_BYTES: usize = 64 << 10;
const GLOMMIO_RING_ENTRIES: usize = 128;
const PREEMPT_TIMER: Duration = Duration::from_millis(10);

/// Starts a node: makes each executor's host on its own thread with `build`, opens its journal,
/// and serves. Returns when every executor does, or with the first error.
///
/// # Errors
/// Nothing was served, and everything is closed again.
pub fn start<H, B>(config: NodeConfig, build: B) -> Result<Handle<H::Event>, StartError>
where
    H: Host,
    B: Fn(ExecutorContext<H::Event>) -> Result<H, HostError> + Send + Sync + 'static,
{
    let executors = config.executors.len();
    if !(1..=NodeConfig::EXECUTORS_MAX).contains(&executors) {
        return Err(StartError::Executors { executors });
    }
    let open_files = check(&config.data)?;
    let peer_files = if config.peers.is_some() { PEER_FILES } else { 0 };
    let clients = config.clients.within(open_files, RESERVED_FILES * executors as u64 + peer_files);
    if clients.connections_max < config.clients.connections_max {
        let connections_max = clients.connections_max;
        tracing::warn!(connections_max, open_files, "fewer connections: the limit of open files (ulimit -n) is low");
    }
    let mut listeners = Vec::new();
    for executor in &config.executors {
        listeners.push(executor.listen.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?);
    }
    let mut peers = config.peers.map(PeersPlan::new).transpose()?;
    let peer_address = peers.as_ref().map(|peers| peers.listener.address().clone());
    let addresses = listeners.iter().flatten().map(|listener| listener.address().clone()).collect();
    let unusable = |source| StartError::Directory { path: config.data.clone(), source };
    let shared = (0..executors).map(|_| Ok(Arc::new(Shared::new()?))).collect::<Result<Vec<_>, _>>();
    let shared = shared.map_err(unusable)?;
    let poster = Poster { executors: shared.clone().into() };
    let context = ExecutorContext {
        executor: ExecutorId(0),
        executors: executors as u8,
        clock: Clock::start(),
        counters: (0..executors).map(|_| Counters::default()).collect(),
        journals: (0..executors).map(|_| JournalWatch::default()).collect(),
        peers: Arc::default(),
        poster: poster.clone(),
    };
    let counters = Arc::clone(&context.counters);
    let journals = Arc::clone(&context.journals);
    let cores = Cores::choose(executors, config.pinning, config.spinning);
    let build = Arc::new(build);
    let mut threads = Vec::new();
    let parts = config.executors.into_iter().zip(listeners).zip(shared).zip(connect(poster.shared())).enumerate();
    for (index, (((config_of, listeners), shared), (inbox, outbox))) in parts {
        let executor = ExecutorId(index as u8);
        let (go, wait) = channel();
        let (report, reported) = channel();
        let plan = Plan {
            config: config_of,
            clients,
            directory: config.data.join(format!("journal-{index}")),
            context: ExecutorContext { executor, ..context.clone() },
            listeners,
            peers: if executor == HOLDER { peers.take() } else { None },
            shared,
            inbox,
            outbox,
            spins: cores.spins,
            report,
            wait,
        };
        let build = Arc::clone(&build);
        let thread = LocalExecutorBuilder::new(cores.placement(index))
            .name(&format!("sealog-{index}"))
            .io_memory(GLOMMIO_MEMORY_BYTES)
            .ring_depth(GLOMMIO_RING_ENTRIES)
            .preempt_timer(PREEMPT_TIMER)
            .spawn(move || plan.run(build));
        let thread = thread.map_err(|error| StartError::Thread { executor, message: error.to_string() })?;
        threads.push(Thread { executor, thread, go, reported });
    }
    let mut failure = None;
    for thread in &threads {
        let ended = || StartError::Thread { executor: thread.executor, message: "it ended early".to_owned() };
        let result = thread.reported.recv().unwrap_or_else(|_| Err(ended()));
        failure = failure.or(result.err());
    }
    if let Some(failure) = failure {
        for Thread { thread, go, .. } in threads {
            drop(go);
            // It has nothing more to tell than what it reported.
            let _ = thread.join();
        }
        return Err(failure);
    }
    for thread in &threads {
        thread.go.send(Go).expect("a thread that reported success waits for this");
    }
    Ok(Handle { addresses, peer_address, counters, journals, poster, threads })
}

/// The word that all executors wait for: every one of them can serve.
struct Go;

struct Thread {
    executor: ExecutorId,
    thread: ExecutorJoinHandle<()>,
    go: Sender<Go>,
    reported: Receiver<Result<(), StartError>>,
}

/// What the executor that holds the connections to other nodes is made with.
struct PeersPlan {
    config: PeersConfig,
    listener: Listener,
}

impl PeersPlan {
    fn new(config: PeersConfig) -> Result<PeersPlan, StartError> {
        let peers = config.peers.len();
        if peers > PeersConfig::PEERS_MAX {
            return Err(StartError::Peers { peers });
        }
        let listener = Listener::bind(&config.listen).map_err(|error| match error {
            StartError::Listen { address, source, .. } => StartError::PeerListen { address, source },
            other => other,
        })?;
        Ok(PeersPlan { config, listener })
    }
}

/// What an executor's thread is made with.
struct Plan<E: Send + 'static> {
    config: ExecutorConfig,
    clients: ClientLimits,
    directory: PathBuf,
    context: ExecutorContext<E>,
    listeners: Vec<Listener>,
    peers: Option<PeersPlan>,
    shared: Arc<Shared<E>>,
    inbox: Inbox,
    outbox: Outbox<E>,
    spins: bool,
    report: Sender<Result<(), StartError>>,
    wait: Receiver<Go>,
}

impl<E: Send + 'static> Plan<E> {
    async fn run<H, B>(self, build: Arc<B>)
    where
        H: Host<Event = E>,
        B: Fn(ExecutorContext<E>) -> Result<H, HostError>,
    {
        let _guard = AbortOnPanic;
        let (report, wait) = (self.report.clone(), self);
        match wait.prepare(build) {
            Ok((driver, wait)) => {
                report.send(Ok(())).expect("the starter waits for reports");
                if wait.recv().is_ok() {
                    driver.run().await;
                }
            }
            // The starter may have given up already.
            Err(error) => drop(report.send(Err(error))),
        }
    }

    fn prepare<H, B>(self, build: Arc<B>) -> Result<(Driver<H>, Receiver<Go>), StartError>
    where
        H: Host<Event = E>,
        B: Fn(ExecutorContext<E>) -> Result<H, HostError>,
    {
        let path = self.directory;
        let unusable = |source| StartError::Directory { path: path.clone(), source };
        let executor = self.context.executor;
        let (clock, counters, watch) =
            (self.context.clock, Arc::clone(&self.context.counters), Arc::clone(&self.context.journals));
        let peer_watch = Arc::clone(&self.context.peers);
        let mut host = build(self.context)?;
        let directory = Directory::open(path.clone()).map_err(unusable)?;
        let mut journal = recover(&self.config.journal, directory, &mut host)
            .map_err(|source| StartError::Recovery { path: path.clone(), source })?;
        watch[usize::from(executor.0)].set_report(journal.report());
        watch[usize::from(executor.0)].set(journal.status());
        host.start(clock.now())?;
        let ring = Ring::new().map_err(unusable)?;
        ring.register_eventfd(self.shared.eventfd().as_fd()).map_err(unusable)?;
        journal.register_buffers(&ring);
        let buffers = ReceiveBuffers::new(&ring, BufferGroup::Clients).map_err(unusable)?;
        let peers = match self.peers {
            Some(PeersPlan { config, listener }) => {
                let buffers = ReceiveBuffers::new(&ring, BufferGroup::Peers).map_err(unusable)?;
                Some(PeerSockets::new(&config, listener, buffers, peer_watch))
            }
            None => None,
        };
        let parker = Parker::new(self.shared.eventfd()).map_err(unusable)?;
        let driver = Driver {
            executor,
            host,
            clock,
            counters,
            watch,
            shared: self.shared,
            inbox: self.inbox,
            outbox: self.outbox,
            journal,
            ring,
            sockets: Sockets::new(executor, self.listeners, self.clients, buffers),
            peering: Peering::new(peers),
            parker,
            spins: self.spins,
            completions: Vec::new(),
            actions: Vec::new(),
            stop_at: None,
        };
        Ok((driver, self.wait))
    }
}

/// A panic on an executor's thread is our bug, and leaves its machines in an unknown state: its
/// message is printed, and the process ends.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A running node. It stops by [`Handle::stop`].
pub struct Handle<E> {
    addresses: Vec<Listen>,
    peer_address: Option<Listen>,
    counters: Arc<[Counters]>,
    journals: Arc<[JournalWatch]>,
    poster: Poster<E>,
    threads: Vec<Thread>,
}

impl<E: Send + 'static> Handle<E> {
    /// Where clients can connect: as configured, with the real port in the place of 0.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// Where other nodes can connect, if there are any, likewise.
    pub fn peer_address(&self) -> Option<&Listen> {
        self.peer_address.as_ref()
    }

    /// What the executors have done, by their ids.
    pub fn counters(&self) -> &Arc<[Counters]> {
        &self.counters
    }

    /// The executors' journals, by their ids.
    pub fn journals(&self) -> &Arc<[JournalWatch]> {
        &self.journals
    }

    /// Hands events to executors, and may stop them.
    pub fn poster(&self) -> Poster<E> {
        self.poster.clone()
    }

    /// Asks all executors to stop: no more connections, journal writes finished, a last durable
    /// mark. Returns at once; may be called again.
    pub fn stop(&self) {
        self.poster.stop();
    }

    /// Waits until all executors have stopped.
    ///
    /// # Errors
    /// When one ended in another way.
    pub fn wait(self) -> Result<(), RunError> {
        for Thread { executor, thread, .. } in self.threads {
            thread.join().map_err(|error| RunError::Executor { executor, message: error.to_string() })?;
        }
        Ok(())
    }
}

/// Hands events to the hosts of a node from any thread. Cheap to clone.
pub struct Poster<E> {
    executors: Arc<[Arc<Shared<E>>]>,
}

impl<E> Clone for Poster<E> {
    fn clone(&self) -> Poster<E> {
        Poster { executors: Arc::clone(&self.executors) }
    }
}

impl<E: Send + 'static> Poster<E> {
    /// Hands an event to an executor's host, and wakes it. Dropped when the executor has ended.
    ///
    /// # Panics
    /// When the node has no such executor.
    pub fn post(&self, executor: ExecutorId, event: E) {
        self.executors[usize::from(executor.0)].post(event);
    }

    /// As [`Handle::stop`]: for the thread that waits for signals.
    pub fn stop(&self) {
        for executor in self.executors.iter() {
            executor.stop();
        }
    }

    fn shared(&self) -> &[Arc<Shared<E>>] {
        &self.executors
    }
}
