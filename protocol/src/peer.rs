//! How a connection between two nodes opens: who calls, who answers, and why one is turned away.
//!
//! ```text
//! caller → answerer   PeerHello     cluster, node, incarnation, executor
//! answerer → caller   PeerWelcome   the same of the answerer      or   PeerRefusal, and the end
//! then both           Message, BatchMessage, and PeerPing where there is nothing to say
//! ```
//!
//! Of two nodes the one with the smaller id calls: there is one connection between them, and both
//! see its beginning and its end, so what is lost with it is lost to both.
//!
//! The version is the frame's own: a frame of another one is refused before it is read. [`Peers`]
//! is the one rule of who is let in; both sides ask it, so both hold the same of each other.

use std::collections::{BTreeMap, BTreeSet};

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

use crate::frame::{Frame, FrameError, FrameKind, PlaceScope, write_frame};
use crate::ids::{ClusterId, Incarnation, NodeId};

/// Who a node is, in this life of it, on the executor that speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// The executor that holds the connection, for all machines of the node.
    pub executor: u8,
}

/// The first frame of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The caller's.
    Hello(PeerIdentity),
    /// The answerer's, who let the caller in.
    Welcome(PeerIdentity),
    /// The answerer's, who did not. Nothing follows.
    Refused(PeerRefusal),
}

/// Why a peer is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Error, Archive, Serialize, Deserialize)]
pub enum PeerRefusal {
    #[error(
        "node {node} is of cluster {theirs}, but this one is of cluster {ours}: \
         an address in [[peers]] leads to another cluster, correct it"
    )]
    Cluster { node: u64, theirs: u64, ours: u64 },
    #[error(
        "node {node} is not among this node's peers: with a register, it is told of who joins, so wait, or look \
         whether both use the same; without one, add it to [[peers]] there, or correct the address here"
    )]
    Unknown { node: u64 },
    #[error(
        "node {node} has the identity of the node that it calls: a data directory was copied, \
         or an address in [[peers]] leads back; give each node a directory of its own"
    )]
    Itself { node: u64 },
    #[error(
        "node {node} speaks as incarnation {theirs}, but incarnation {newest} of it was here: \
         an older process of it still runs, or its data directory was set back; stop it"
    )]
    Older { node: u64, theirs: u64, newest: u64 },
    #[error("node {found} answers where node {wanted} was expected: correct its address in [[peers]]")]
    OtherNode { wanted: u64, found: u64 },
    #[error(
        "executor {found} of node {node} answers where its executor {wanted} was expected: \
         list the addresses in [[peers]] in the order of the executors"
    )]
    OtherExecutor { node: u64, wanted: u8, found: u8 },
    #[error("the caller speaks format version {theirs}, but this node {ours}: use the same release on both sides")]
    Version { theirs: u8, ours: u8 },
    #[error("node {node} calls node {own}, but of two nodes the one with the smaller id calls: use one release")]
    Direction { node: u64, own: u64 },
    #[error(
        "node {node} was removed from the cluster, which does not need what it holds: \
         stop it, and give it an empty data directory if it is to join again, as a new node"
    )]
    Removed { node: u64 },
}

/// The peers that a node knows, and the newest life of each that it has met.
#[derive(Clone, Debug)]
pub struct Peers {
    own: PeerIdentity,
    newest: BTreeMap<NodeId, Incarnation>,
    removed: BTreeSet<NodeId>,
}

impl Peers {
    /// The peers of the node that speaks as `own`: these, besides itself.
    pub fn new(own: PeerIdentity, peers: impl IntoIterator<Item = NodeId>) -> Peers {
        let newest = peers.into_iter().filter(|node| *node != own.node).map(|node| (node, Incarnation(0))).collect();
        Peers { own, newest, removed: BTreeSet::new() }
    }

    /// Lets a node in from now on, in this life of it or a later one.
    pub fn add(&mut self, node: NodeId, incarnation: Incarnation) {
        if node != self.own.node {
            let newest = self.newest.entry(node).or_default();
            *newest = incarnation.max(*newest);
        }
    }

    /// Does not let a node in any more.
    pub fn forget(&mut self, node: NodeId) {
        self.newest.remove(&node);
    }

    /// Who was removed, and is told so.
    pub fn set_removed(&mut self, removed: impl IntoIterator<Item = NodeId>) {
        self.removed = removed.into_iter().collect();
    }

    pub fn own(&self) -> PeerIdentity {
        self.own
    }

    /// Whether a peer that says this of itself is let in. If it is, its connection replaces older
    /// ones from the same executor of it, and older lives of it are refused from now on.
    pub fn admit(&mut self, peer: PeerIdentity) -> Result<(), PeerRefusal> {
        let node = peer.node.0;
        if peer.cluster != self.own.cluster {
            return Err(PeerRefusal::Cluster { node, theirs: peer.cluster.0, ours: self.own.cluster.0 });
        }
        if peer.node == self.own.node {
            return Err(PeerRefusal::Itself { node });
        }
        if self.removed.contains(&peer.node) {
            return Err(PeerRefusal::Removed { node });
        }
        let newest = self.newest.get_mut(&peer.node).ok_or(PeerRefusal::Unknown { node })?;
        if peer.incarnation < *newest {
            return Err(PeerRefusal::Older { node, theirs: peer.incarnation.0, newest: newest.0 });
        }
        *newest = peer.incarnation;
        Ok(())
    }

    /// Whether this node calls that one, or is called by it.
    pub fn calls(&self, node: NodeId) -> bool {
        self.own.node < node
    }

    /// As [`Peers::admit`], for a peer that calls.
    pub fn admit_caller(&mut self, peer: PeerIdentity) -> Result<(), PeerRefusal> {
        let is_member = self.newest.contains_key(&peer.node) && !self.removed.contains(&peer.node);
        let is_known = peer.cluster == self.own.cluster && is_member;
        if is_known && self.calls(peer.node) {
            return Err(PeerRefusal::Direction { node: peer.node.0, own: self.own.node.0 });
        }
        self.admit(peer)
    }

    /// As [`Peers::admit`], for a peer that was called: it must be the one that was wanted.
    pub fn admit_called(&mut self, node: NodeId, executor: u8, peer: PeerIdentity) -> Result<(), PeerRefusal> {
        // Another cluster is the better reason: there, every node is another one.
        if peer.cluster == self.own.cluster && peer.node != node {
            return Err(PeerRefusal::OtherNode { wanted: node.0, found: peer.node.0 });
        }
        if peer.node == node && peer.executor != executor {
            return Err(PeerRefusal::OtherExecutor { node: node.0, wanted: executor, found: peer.executor });
        }
        self.admit(peer)
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredIdentity {
    cluster: u64,
    node: u64,
    incarnation: u64,
    executor: u8,
}

/// Appends a greeting's frame to `out`.
pub fn encode_greeting(out: &mut Vec<u8>, greeting: &Greeting) {
    let identity = |peer: &PeerIdentity| {
        let stored = StoredIdentity {
            cluster: peer.cluster.0,
            node: peer.node.0,
            incarnation: peer.incarnation.0,
            executor: peer.executor,
        };
        rkyv::to_bytes::<rancor::Error>(&stored)
    };
    let (kind, bytes) = match greeting {
        Greeting::Hello(peer) => (FrameKind::PeerHello, identity(peer)),
        Greeting::Welcome(peer) => (FrameKind::PeerWelcome, identity(peer)),
        Greeting::Refused(refusal) => (FrameKind::PeerRefusal, rkyv::to_bytes::<rancor::Error>(refusal)),
    };
    let bytes = bytes.expect("serialising into memory cannot fail");
    write_frame(out, kind, 0, 0, &bytes, &[]);
}

/// Appends a sign of life to `out`, with the time of day by the sender's clock, in milliseconds since
/// 1970; 0: not told.
pub fn encode_ping(out: &mut Vec<u8>, time_of_day_ms: u64) {
    write_frame(out, FrameKind::PeerPing, time_of_day_ms, 0, &[], &[]);
}

/// The greeting that a whole frame holds. The side that reads it says which ones it expects.
///
/// # Errors
/// When it is no frame, or one of another kind: the peer does not know how to greet.
pub fn decode_greeting(bytes: &[u8]) -> Result<Greeting, FrameError> {
    let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
    frame.verify_place(PlaceScope::Connection)?;
    let identity = || {
        let stored = rkyv::from_bytes::<StoredIdentity, rancor::Error>(frame.metadata);
        let stored = stored.map_err(|_| FrameError::Metadata)?;
        Ok(PeerIdentity {
            cluster: ClusterId(stored.cluster),
            node: NodeId(stored.node),
            incarnation: Incarnation(stored.incarnation),
            executor: stored.executor,
        })
    };
    match frame.header.kind {
        FrameKind::PeerHello => Ok(Greeting::Hello(identity()?)),
        FrameKind::PeerWelcome => Ok(Greeting::Welcome(identity()?)),
        FrameKind::PeerRefusal => {
            let refusal = rkyv::from_bytes::<PeerRefusal, rancor::Error>(frame.metadata);
            Ok(Greeting::Refused(refusal.map_err(|_| FrameError::Metadata)?))
        }
        other => Err(FrameError::Kind(other as u8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FORMAT_VERSION;

    fn identity(node: u64, incarnation: u64) -> PeerIdentity {
        PeerIdentity { cluster: ClusterId(9), node: NodeId(node), incarnation: Incarnation(incarnation), executor: 0 }
    }

    fn peers() -> Peers {
        Peers::new(identity(1, 5), [1, 2, 3].map(NodeId))
    }

    fn frame(greeting: &Greeting) -> Vec<u8> {
        let mut out = Vec::new();
        encode_greeting(&mut out, greeting);
        out
    }

    /// Releases must recognise each other's first frame to refuse it properly.
    #[test]
    fn golden_bytes() {
        let peer = PeerIdentity { executor: 3, ..identity(2, 7) };
        for (greeting, kind) in [(Greeting::Hello(peer), 7), (Greeting::Welcome(peer), 11)] {
            let bytes = frame(&greeting);
            assert_eq!(bytes[..16], [0xA1, 0x5E, FORMAT_VERSION, kind, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(bytes[32..57], *b"\x09\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x03");
            assert_eq!(bytes.len(), 64);
        }
        let refused = frame(&Greeting::Refused(PeerRefusal::Unknown { node: 2 }));
        assert_eq!((refused[3], refused[32]), (12, 1));
        assert_eq!(refused[33..41], 2u64.to_le_bytes());
        let version = frame(&Greeting::Refused(PeerRefusal::Version { theirs: 9, ours: 1 }));
        assert_eq!(version[32..35], [6, 9, 1]);
        let mut ping = Vec::new();
        encode_ping(&mut ping, 0x0102_0304);
        assert_eq!(ping[..16], [0xA1, 0x5E, FORMAT_VERSION, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ping[24..], [4, 3, 2, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn of_two_nodes_the_smaller_calls() {
        let mut peers = Peers::new(identity(2, 5), [1, 2, 3].map(NodeId));
        assert!(peers.calls(NodeId(3)) && !peers.calls(NodeId(1)));
        assert_eq!(peers.admit_caller(identity(3, 7)), Err(PeerRefusal::Direction { node: 3, own: 2 }));
        assert_eq!(peers.admit_caller(identity(1, 7)), Ok(()));
        assert_eq!(peers.admit_caller(identity(4, 7)), Err(PeerRefusal::Unknown { node: 4 }), "the better reason");
        assert_eq!(peers.admit_called(NodeId(3), 0, identity(3, 1)), Ok(()), "a refused call left no trace");
    }

    #[test]
    fn greetings_round_trip_and_nothing_else_is_one() {
        let refusal = PeerRefusal::Older { node: 2, theirs: 3, newest: 4 };
        for greeting in [Greeting::Hello(identity(1, 1)), Greeting::Welcome(identity(2, 2)), Greeting::Refused(refusal)]
        {
            let bytes = frame(&greeting);
            assert_eq!(decode_greeting(&bytes), Ok(greeting));
            assert_eq!(decode_greeting(&bytes[..bytes.len() - 1]), Err(FrameError::Truncated));
            for bit in 0..(bytes.len() - 7) * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_greeting(&flipped).is_err(), "bit {bit}");
            }
        }
        let mut other = Vec::new();
        write_frame(&mut other, FrameKind::Request, 0, 0, b"", &[]);
        assert_eq!(decode_greeting(&other), Err(FrameError::Kind(FrameKind::Request as u8)));
        let mut empty = Vec::new();
        write_frame(&mut empty, FrameKind::PeerHello, 0, 0, b"", &[]);
        assert_eq!(decode_greeting(&empty), Err(FrameError::Metadata));
    }

    #[test]
    fn another_version_is_refused_before_it_is_read() {
        let mut bytes = frame(&Greeting::Hello(identity(2, 1)));
        bytes[2] = FORMAT_VERSION + 1;
        let error = decode_greeting(&bytes).expect_err("another version");
        assert_eq!(error, FrameError::Version { found: FORMAT_VERSION + 1 });
        assert!(error.to_string().contains("use the same release on both sides"), "{error}");
    }

    #[test]
    fn strangers_are_told_why() {
        let mut peers = peers();
        let wrong = PeerIdentity { cluster: ClusterId(8), ..identity(2, 1) };
        let refusals = [
            (wrong, PeerRefusal::Cluster { node: 2, theirs: 8, ours: 9 }, "another cluster"),
            (identity(4, 1), PeerRefusal::Unknown { node: 4 }, "add it to [[peers]]"),
            (identity(1, 9), PeerRefusal::Itself { node: 1 }, "directory of its own"),
        ];
        for (peer, expected, says) in refusals {
            let refusal = peers.admit(peer).expect_err("a stranger");
            assert!(refusal.to_string().contains(says), "{refusal}");
            assert_eq!(refusal, expected);
        }
    }

    #[test]
    fn a_newer_life_of_a_node_shuts_out_the_older() {
        let mut peers = peers();
        assert_eq!(peers.admit(identity(2, 4)), Ok(()));
        assert_eq!(peers.admit(identity(2, 4)), Ok(()), "a newer connection of the same life");
        assert_eq!(peers.admit(identity(2, 6)), Ok(()));
        let older = Err(PeerRefusal::Older { node: 2, theirs: 4, newest: 6 });
        assert_eq!(peers.admit(identity(2, 4)), older);
        assert_eq!(peers.admit(identity(3, 1)), Ok(()), "each node counts its own lives");
    }

    #[test]
    fn nodes_come_and_go_and_one_that_was_removed_is_told_so() {
        let mut peers = peers();
        assert_eq!(peers.admit(identity(4, 3)), Err(PeerRefusal::Unknown { node: 4 }));
        peers.add(NodeId(4), Incarnation(3));
        assert_eq!(peers.admit(identity(4, 2)), Err(PeerRefusal::Older { node: 4, theirs: 2, newest: 3 }));
        assert_eq!(peers.admit(identity(4, 5)), Ok(()));
        peers.add(NodeId(4), Incarnation(4));
        assert_eq!(peers.admit(identity(4, 4)), Err(PeerRefusal::Older { node: 4, theirs: 4, newest: 5 }));
        peers.add(NodeId(1), Incarnation(9));
        assert_eq!(peers.admit(identity(1, 9)), Err(PeerRefusal::Itself { node: 1 }));
        peers.forget(NodeId(4));
        assert_eq!(peers.admit(identity(4, 5)), Err(PeerRefusal::Unknown { node: 4 }));
        peers.set_removed([NodeId(3), NodeId(4)]);
        for node in [3, 4] {
            assert_eq!(peers.admit(identity(node, 5)), Err(PeerRefusal::Removed { node }));
            assert_eq!(peers.admit_caller(identity(node, 5)), Err(PeerRefusal::Removed { node }), "the better reason");
        }
    }

    #[test]
    fn a_refused_stranger_leaves_no_trace() {
        let mut peers = peers();
        let forged = PeerIdentity { cluster: ClusterId(8), ..identity(2, 100) };
        assert!(peers.admit(forged).is_err());
        assert_eq!(peers.admit(identity(2, 1)), Ok(()));
    }

    #[test]
    fn who_answers_must_be_who_was_called() {
        let mut peers = peers();
        let other = PeerRefusal::OtherNode { wanted: 2, found: 3 };
        assert_eq!(peers.admit_called(NodeId(2), 0, identity(3, 1)), Err(other));
        let executor = PeerRefusal::OtherExecutor { node: 2, wanted: 1, found: 0 };
        assert_eq!(peers.admit_called(NodeId(2), 1, identity(2, 1)), Err(executor));
        let elsewhere = PeerIdentity { cluster: ClusterId(8), ..identity(3, 1) };
        let cluster = PeerRefusal::Cluster { node: 3, theirs: 8, ours: 9 };
        assert_eq!(peers.admit_called(NodeId(2), 0, elsewhere), Err(cluster));
        assert_eq!(peers.admit_called(NodeId(2), 0, identity(2, 1)), Ok(()));
    }
}
