//! The first frames of a connection: who calls, and what answers.

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::{Frame, FrameError};
use crate::ids::{ClusterId, Logspaces, NodeId};
use crate::limits::LOGSPACES_MAX;

/// A client's first frame. The frame's own version byte is what is checked.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ClientHello {
    /// What the client calls itself, for the server's log. At most 64 bytes.
    pub name: String,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Welcome {
    pub cluster: u64,
    pub node: u64,
    /// Of class disk.
    pub logspaces: u16,
    /// Behind those; a release that had none left zeros here.
    pub memory_logspaces: u16,
    /// How far a request number may be ahead of the lowest unanswered one.
    pub session_window: u32,
}

impl Welcome {
    pub fn new(cluster: ClusterId, node: NodeId, logspaces: impl Into<Logspaces>, session_window: u32) -> Welcome {
        let classes = logspaces.into();
        let (logspaces, memory_logspaces) = (classes.disk, classes.memory);
        Welcome { cluster: cluster.0, node: node.0, logspaces, memory_logspaces, session_window }
    }

    /// How many logspaces there are of each class; `None` when the numbers make no sense.
    pub fn classes(&self) -> Option<Logspaces> {
        let (disk, memory) = (self.logspaces, self.memory_logspaces);
        let is_possible = disk > 0 && disk <= LOGSPACES_MAX && memory <= LOGSPACES_MAX - disk;
        is_possible.then_some(Logspaces { disk, memory })
    }
}

/// The hello of a verified frame.
pub fn decode_hello(frame: &Frame<'_>) -> Result<ClientHello, FrameError> {
    rkyv::from_bytes::<ClientHello, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)
}

/// The welcome of a verified frame.
pub fn decode_welcome(frame: &Frame<'_>) -> Result<Welcome, FrameError> {
    rkyv::from_bytes::<Welcome, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)
}
