//! What a node's executors are started with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use sealog_journal::JournalConfig;

use crate::client_limits::ClientLimits;
use crate::peer_config::PeersConfig;

/// A node: its data directory and its executors.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Holds `journal-<executor>/` for each executor. Exists, and is locked by the caller.
    pub data: PathBuf,
    /// One to [`NodeConfig::EXECUTORS_MAX`].
    pub executors: Vec<ExecutorConfig>,
    pub clients: ClientLimits,
    /// The other nodes of the cluster; `None`: it has none, and listens for none.
    pub peers: Option<PeersConfig>,
    pub pinning: Pinning,
    pub spinning: Spinning,
}

impl NodeConfig {
    pub const EXECUTORS_MAX: usize = 64;

    /// A node with the default limits and way of using cores.
    pub fn new(data: PathBuf, executors: Vec<ExecutorConfig>) -> NodeConfig {
        let clients = ClientLimits::default();
        NodeConfig { data, executors, clients, peers: None, pinning: Pinning::Auto, spinning: Spinning::Auto }
    }
}

/// One executor.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Where clients connect; may be empty.
    pub listen: Vec<Listen>,
    pub journal: JournalConfig,
}

/// Where an executor listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// Port 0 takes any free one: [`crate::Handle::addresses`] tells which.
    Tcp(SocketAddr),
    /// A socket file, made with mode 0600; one that nobody listens on any more is replaced.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether executors are bound to cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// One core each, from the last one down, if there are at least as many cores as executors.
    Auto,
    Off,
}

/// Whether an executor looks for work for a little while before it sleeps. Sleeping costs a
/// wake-up of some 40 µs on the next message; looking costs the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spinning {
    /// Only while traffic justifies it, and only with a core for each executor.
    Auto,
    On,
    Off,
}
