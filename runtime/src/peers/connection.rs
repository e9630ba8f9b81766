//! One connection to another node, and why it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sealog_protocol::Time;
use sealog_protocol::frame::{FrameError, FrameKind};
use sealog_protocol::ids::NodeId;
use sealog_protocol::machine::{Address, ConnectionId};
use sealog_protocol::peer::PeerRefusal;
use thiserror::Error;

use crate::connection::{Connection, Phase};
use crate::peers::socket::SocketAddress;

/// A connection. Its phases mean: fresh, it is not greeted; serving, both nodes speak on it.
pub(crate) struct PeerConnection {
    /// The frames of it, in and out.
    pub wire: Connection,
    pub talk: Talk,
}

/// Who speaks on a connection, and how alive it is.
pub(crate) struct Talk {
    /// The node that was called; none for one that calls.
    pub called: Option<NodeId>,
    /// A call that the kernel has not ended; it looks at the address meanwhile.
    pub calling: Option<Box<SocketAddress>>,
    /// A call that was never made, for a cut loses it.
    pub hangs: bool,
    /// The node that was let in, or let us in.
    pub node: Option<NodeId>,
    /// When something came last.
    pub heard: Time,
    /// Something was sent since the last look.
    pub spoke: bool,
}

impl PeerConnection {
    /// One that calls, or that is called.
    pub fn new(now: Time, generation: u32, socket: OwnedFd, call: Option<(NodeId, SocketAddress)>) -> PeerConnection {
        let (called, calling) = call.map(|(node, address)| (node, Box::new(address))).unzip();
        let wire = Connection::new(now, ConnectionId(0), generation, socket, None);
        PeerConnection { wire, talk: Talk { called, calling, hangs: false, node: None, heard: now, spoke: false } }
    }

    /// The node at the other end, as far as it is known.
    pub fn other(&self) -> Option<NodeId> {
        self.talk.called.or(self.talk.node)
    }

    /// Its socket is connected, or was.
    pub fn is_open(&self) -> bool {
        self.talk.calling.is_none() && !self.talk.hangs
    }

    /// Nothing of it is in flight, and nothing will be.
    pub fn is_done(&self) -> bool {
        let wire = &self.wire;
        wire.phase == Phase::Dead && !wire.receiving && !wire.is_sending() && self.talk.calling.is_none()
    }
}

/// Why a connection to another node ends, or does not begin.
#[derive(Debug, Error)]
pub(crate) enum PeerFault {
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("its greeting did not come within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it began with a frame of kind {0:?}, not with a greeting: is the address that of a node's peer_listen?")]
    NoGreeting(FrameKind),
    #[error("its greeting is larger than one is")]
    LargeGreeting,
    #[error("nodes send each other messages, not frames of kind {0:?}")]
    Unexpected(FrameKind),
    #[error("it sent a message of {from:?} to {to:?}, which it can't have")]
    Misaddressed { from: Address, to: Address },
    /// By us.
    #[error("refused: {0}")]
    Refused(PeerRefusal),
    /// By them.
    #[error("it refuses this node: {0}")]
    Rejected(PeerRefusal),
    #[error("nothing came from it for {0:?}")]
    Silent(Duration),
    #[error("it took nothing of what was sent to it for {0:?}")]
    Stuck(Duration),
    #[error("{unsent} bytes wait for it to take them: it is too slow, or the network is")]
    Slow { unsent: usize },
    #[error("it ended the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("a newer connection of it took its place")]
    Replaced,
    #[error("this node stops")]
    Stopping,
    #[error("it is no member of the cluster any more")]
    Forgotten,
}

impl PeerFault {
    /// It will be so again at the next try.
    pub fn is_refusal(&self) -> bool {
        use PeerFault::*;
        matches!(
            self,
            Refused(_) | Rejected(_) | Frame(FrameError::Version { .. } | FrameError::Magic(_)) | NoGreeting(_)
        )
    }
}
