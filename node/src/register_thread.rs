//! The threads of the register: what it takes to answer, flushes or a network, must not stop an
//! executor. One serves the wishes of machines, one watches what others change. Without the register
//! no view changes, and nothing else stops.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use sealog_control::register::{MembersSwap, RegisterError, Swap};
use sealog_protocol::LogspaceId;
use sealog_protocol::Members;
use sealog_protocol::machine::Address;
use sealog_protocol::view::Chain;
use sealog_runtime::{ExecutorId, Poster};

use crate::cluster::{peers_now, read_chains};
use crate::host::Event;
use crate::register::{Change, RegisterWatch, WatchedRegister};
use crate::register_health::{RegisterHealth, Way};

/// Wishes that wait for the register. Those beyond are dropped: machines ask again.
const WISHES_MAX: usize = 1024;
/// How long a watch waits for a change before it looks whether its node still runs.
const WATCH_PATIENCE: Duration = Duration::from_millis(500);
/// Between two tries to watch a register that can't be reached.
const WATCH_RETRY: Duration = Duration::from_millis(250);

/// What a machine wants of the register.
pub struct RegisterRequest {
    pub from: Address,
    pub wish: RegisterWish,
    pub poster: Poster<Event>,
}

pub enum RegisterWish {
    Read,
    Swap(Box<Chain>),
    /// Of an operator's command, which is told in any case: [`Event::RegisterTold`].
    Operation {
        executor: ExecutorId,
        round: u64,
        wish: OperationWish,
    },
}

/// What an operator's command wants of the register.
pub enum OperationWish {
    /// All that it holds.
    Look,
    Swap(Box<Members>),
}

/// What a register holds at one moment.
#[derive(Clone, Debug)]
pub struct RegisterNow {
    /// `None`: the node is alone.
    pub members: Option<Members>,
    /// Of every logspace.
    pub chains: Vec<Chain>,
}

/// What became of an operator's wish.
pub enum RegisterTold {
    Looked(RegisterNow),
    Swapped(MembersSwap),
    /// It gave no answer. A swap may have been made.
    Failed(String),
}

/// Where machines leave their wishes.
#[derive(Clone)]
pub struct RegisterWishes(SyncSender<RegisterRequest>);

impl RegisterWishes {
    /// Hands it to the register's thread. Dropped when too many wait, which happens when the register
    /// does not answer.
    pub fn ask(&self, request: RegisterRequest) {
        match self.0.try_send(request) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            // It ends only when this node does.
            Err(TrySendError::Disconnected(_)) => tracing::error!("the register's thread is gone"),
        }
    }
}

/// The thread that serves wishes, as long as an executor is left to make one.
pub struct RegisterThread {
    pub wishes: RegisterWishes,
    watch: Box<dyn RegisterWatch>,
    health: Arc<RegisterHealth>,
    executors: u8,
    /// As long as wishes are served.
    serves: Weak<()>,
}

impl RegisterThread {
    pub fn start(
        register: Box<dyn WatchedRegister>,
        health: Arc<RegisterHealth>,
        executors: u8,
    ) -> io::Result<RegisterThread> {
        let (wishes, requests) = sync_channel(WISHES_MAX);
        let watch = register.watch();
        let alive = Arc::new(());
        let serves = Arc::downgrade(&alive);
        let server = Server { register, health: health.clone(), executors };
        thread::Builder::new().name("sealog-register".to_owned()).spawn(move || {
            server.serve(&requests);
            drop(alive);
        })?;
        Ok(RegisterThread { wishes: RegisterWishes(wishes), watch, health, executors, serves })
    }

    /// Tells every executor what changes in the register, beginning with all that it holds.
    pub fn watch(self, poster: Poster<Event>) -> io::Result<()> {
        let RegisterThread { watch, health, executors, serves, wishes } = self;
        // Else the thread that serves them would wait for this one.
        drop(wishes);
        let watcher = Watcher { watch, health, announcer: Announcer { poster, executors }, serves };
        thread::Builder::new().name("sealog-watch".to_owned()).spawn(move || watcher.run()).map(drop)
    }
}

/// Tells all executors.
struct Announcer {
    poster: Poster<Event>,
    executors: u8,
}

impl Announcer {
    fn chain(&self, chain: Chain, swapped: Option<Address>) {
        let chain = Arc::new(chain);
        for executor in 0..self.executors {
            self.poster.post(ExecutorId(executor), Event::Chain { chain: chain.clone(), swapped });
        }
    }

    fn change(&self, change: Change) {
        match change {
            Change::Chain(chain) => self.chain(chain, None),
            Change::Members(members) => {
                // Names of hosts are looked up here: an executor must not wait for that.
                self.poster.post(ExecutorId(0), Event::Peers(Box::new(peers_now(&members))));
                let members = Arc::new(members);
                for executor in 0..self.executors {
                    self.poster.post(ExecutorId(executor), Event::Members(members.clone()));
                }
            }
        }
    }
}

struct Server {
    register: Box<dyn WatchedRegister>,
    health: Arc<RegisterHealth>,
    executors: u8,
}

impl Server {
    fn serve(mut self, requests: &Receiver<RegisterRequest>) {
        while let Ok(first) = requests.recv() {
            let mut reads = BTreeSet::new();
            let poster = first.poster.clone();
            let announcer = Announcer { poster, executors: self.executors };
            let requests = std::iter::once(first).chain(requests.try_iter().take(WISHES_MAX));
            let is_operation = |request: &RegisterRequest| matches!(request.wish, RegisterWish::Operation { .. });
            let (operations, requests): (Vec<_>, Vec<_>) = requests.partition(is_operation);
            // When the register can't be reached the others would only wait for the same.
            let served = requests.into_iter().try_for_each(|request| match request.wish {
                RegisterWish::Read => {
                    reads.insert(request.from.logspace);
                    Ok(())
                }
                RegisterWish::Swap(next) => {
                    reads.remove(&next.logspace);
                    self.swap(request.from, *next, &announcer)
                }
                RegisterWish::Operation { .. } => Ok(()),
            });
            let _ = served.and_then(|()| reads.into_iter().try_for_each(|logspace| self.read(logspace, &announcer)));
            for request in operations {
                if let RegisterWish::Operation { executor, round, wish } = request.wish {
                    let told = self.operate(wish, &announcer).unwrap_or_else(|error| {
                        self.health.failed(Way::Wishes, &error);
                        RegisterTold::Failed(error.to_string())
                    });
                    request.poster.post(executor, Event::RegisterTold { round, told: Box::new(told) });
                }
            }
        }
    }

    /// Does what an operator's command wants.
    fn operate(&mut self, wish: OperationWish, announcer: &Announcer) -> Result<RegisterTold, RegisterError> {
        let told = match wish {
            OperationWish::Look => {
                let members = self.register.members()?;
                let chains = read_chains(&mut *self.register)?.unwrap_or_default();
                RegisterTold::Looked(RegisterNow { members, chains })
            }
            OperationWish::Swap(next) => {
                let swap = self.register.swap_members(&next)?;
                if swap == MembersSwap::Installed {
                    announcer.change(Change::Members(*next));
                }
                RegisterTold::Swapped(swap)
            }
        };
        self.health.reached(Way::Wishes);
        Ok(told)
    }

    fn swap(&mut self, from: Address, next: Chain, announcer: &Announcer) -> Result<(), Unreachable> {
        let held = match self.register.compare_and_swap(&next) {
            Ok(Swap::Installed) => {
                tracing::info!(logspace = next.logspace.0, view = next.current().number.0, "view installed");
                Some(next)
            }
            Ok(Swap::Held(held)) => Some(*held),
            Err(error) => {
                // It may be installed all the same: what is held says.
                self.health.failed(Way::Wishes, &error);
                self.register.read(next.logspace).or_else(|error| self.failed(&error).map(|()| None))?
            }
        };
        if let Some(chain) = held {
            self.health.reached(Way::Wishes);
            announcer.chain(chain, Some(from));
        }
        Ok(())
    }

    fn read(&mut self, logspace: LogspaceId, announcer: &Announcer) -> Result<(), Unreachable> {
        match self.register.read(logspace) {
            Ok(chain) => {
                self.health.reached(Way::Wishes);
                if let Some(chain) = chain {
                    announcer.chain(chain, None);
                }
                Ok(())
            }
            // The machine asks again when its own deadline passes.
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &RegisterError) -> Result<(), Unreachable> {
        self.health.failed(Way::Wishes, error);
        match error {
            RegisterError::Unavailable { source, .. } if source.kind() != io::ErrorKind::NotFound => Err(Unreachable),
            _ => Ok(()),
        }
    }
}

/// The register does not answer.
struct Unreachable;

struct Watcher {
    watch: Box<dyn RegisterWatch>,
    health: Arc<RegisterHealth>,
    announcer: Announcer,
    serves: Weak<()>,
}

impl Watcher {
    fn run(mut self) {
        while self.serves.strong_count() > 0 {
            match self.watch.changes(WATCH_PATIENCE) {
                Ok(changes) => {
                    self.health.reached(Way::Watch);
                    changes.into_iter().for_each(|change| self.announcer.change(change));
                }
                Err(error) => {
                    self.health.failed(Way::Watch, &error);
                    thread::sleep(WATCH_RETRY);
                }
            }
        }
    }
}
