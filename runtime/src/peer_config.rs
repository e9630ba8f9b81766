//! What a node is told of the other nodes of its cluster, and what it allows them.

use std::time::Duration;

use sealog_protocol::ids::{Incarnation, NodeId};
use sealog_protocol::peer::PeerIdentity;

use crate::config::Listen;

/// The other nodes.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Who this node is, in this life.
    pub own: PeerIdentity,
    /// Where nodes with smaller ids reach this one.
    pub listen: Listen,
    /// The nodes that are let in until a host says who is; those with greater ids are called. This
    /// node itself may be among them, and is passed over. At most [`PeersConfig::PEERS_MAX`].
    pub peers: Vec<PeerAddress>,
    pub limits: PeerLimits,
}

impl PeersConfig {
    pub const PEERS_MAX: usize = 64;
}

/// Another node, and where it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
    /// Older lives of it are refused; 0 if none is known.
    pub incarnation: Incarnation,
    pub address: Listen,
}

/// All other nodes, as they are from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersNow {
    /// As [`PeersConfig::peers`]; what is beyond [`PeersConfig::PEERS_MAX`] is left out.
    pub peers: Vec<PeerAddress>,
    /// Nodes that are refused, and told that they were removed.
    pub removed: Vec<NodeId>,
}

/// What nodes may take of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// A connection on which nothing came for so long has ended. A node that has nothing to say says
    /// so several times in it: both ends want about the same.
    pub silence_max: Duration,
    /// From the call to the end of the greeting.
    pub greeting_deadline: Duration,
    /// For the next [`crate::limits::SEND_BYTES_MAX`] of what was sent, to be taken by the peer.
    pub send_deadline: Duration,
    /// Bytes that wait for a peer to take them. Beyond, its connection ends: what is lost with it is
    /// sent again on the next one by the rules of each stream, from what the sender holds anyway.
    pub unsent_bytes_max: usize,
    /// Before the second call; each further one waits twice as long.
    pub pause_min: Duration,
    /// The longest wait between two calls.
    pub pause_max: Duration,
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits {
            silence_max: Duration::from_secs(2),
            greeting_deadline: Duration::from_secs(2),
            send_deadline: Duration::from_secs(10),
            unsent_bytes_max: 256 << 20,
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_secs(1),
        }
    }
}

/// Looks at the connections in the time of the longest silence.
const SWEEPS: u32 = 4;
/// The least time between two looks.
const SWEEP_MIN: Duration = Duration::from_millis(1);

impl PeerLimits {
    /// Between two looks at all connections; also between two signs of life.
    pub(crate) fn sweep_interval(&self) -> Duration {
        (self.silence_max.min(self.greeting_deadline).min(self.send_deadline) / SWEEPS).max(SWEEP_MIN)
    }
}
