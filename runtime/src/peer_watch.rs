//! How a node stands with each other one, for whoever asks from another thread or from a host.

use std::sync::Mutex;
use std::time::SystemTime;

use sealog_protocol::ids::{Incarnation, NodeId};

/// How it stands with one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub node: NodeId,
    pub address: String,
    /// This node calls that one; otherwise it is called by it.
    pub is_called: bool,
    pub is_connected: bool,
    /// Of the node's newest life that was met; 0 before the first.
    pub incarnation: Incarnation,
    /// Connections that began in this life of this node.
    pub connects: u64,
    /// Why there is no connection, as far as is known.
    pub reason: Option<String>,
    /// By how many milliseconds its clock was ahead of this node's when it was told last; negative:
    /// behind. What was told late looks behind.
    pub clock_ahead_ms: Option<i64>,
}

/// The time of day by this machine's clock, in milliseconds since 1970; a clock before that counts as
/// then.
pub(crate) fn time_of_day_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// All of them, by node.
#[derive(Debug, Default)]
pub struct PeerWatch {
    peers: Mutex<Vec<PeerStatus>>,
}

impl PeerWatch {
    /// How it stands now.
    pub fn all(&self) -> Vec<PeerStatus> {
        self.peers.lock().expect("nobody panics with this lock held").clone()
    }

    pub(crate) fn remove(&self, node: NodeId) {
        self.peers.lock().expect("nobody panics with this lock held").retain(|peer| peer.node != node);
    }

    pub(crate) fn set(&self, status: PeerStatus) {
        let mut peers = self.peers.lock().expect("nobody panics with this lock held");
        match peers.binary_search_by_key(&status.node, |peer| peer.node) {
            Ok(at) => peers[at] = status,
            Err(at) => peers.insert(at, status),
        }
    }
}
