//! Why a node does not start, or stops by itself. Each message says what to do.

use std::io;
use std::path::PathBuf;

use sealog_journal::RecoveryError;
use thiserror::Error;

use crate::config::Listen;
use crate::host::ExecutorId;

/// What a host could not start from; its text is shown as it is.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// Why a node did not start. Nothing was served.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(
        "io_uring is refused: {source}. {reason}. Sealog does all its disk and network work with io_uring (Linux 6.1 or newer)"
    )]
    RingRefused { source: io::Error, reason: String },
    #[error(
        "the limit of locked memory is {limit_bytes} bytes, but {needed_bytes} are needed: raise it \
         (`ulimit -l {needed_kib}`, LimitMEMLOCK= in a systemd unit, `--ulimit memlock=-1` for docker)"
    )]
    LockedMemory { limit_bytes: u64, needed_bytes: u64, needed_kib: u64 },
    #[error(
        "the file system of {path} does not support O_DIRECT ({source}), without which Sealog cannot know what is on \
         disk: put the data directory on ext4 or xfs, not on tmpfs or an overlay"
    )]
    DirectIo { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}: {source}{hint}")]
    Listen { address: Listen, source: io::Error, hint: &'static str },
    #[error("cannot listen for other nodes on {address}: {source}; choose another peer_listen")]
    PeerListen { address: Listen, source: io::Error },
    #[error("a node has at most {max} peers, not {peers}", max = crate::PeersConfig::PEERS_MAX)]
    Peers { peers: usize },
    #[error("cannot use {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("a node has 1 to {max} executors, not {executors}", max = crate::NodeConfig::EXECUTORS_MAX)]
    Executors { executors: usize },
    #[error("cannot start the thread of executor {executor:?}: {message}")]
    Thread { executor: ExecutorId, message: String },
    #[error("the journal in {path} cannot be opened: {source}")]
    Recovery { path: PathBuf, source: RecoveryError },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why a running node stopped without being asked to.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("executor {executor:?} ended: {message}")]
    Executor { executor: ExecutorId, message: String },
    /// Its host stopped it, for this reason.
    #[error(transparent)]
    Host(#[from] HostError),
}
