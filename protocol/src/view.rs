//! Views and the chain of them that a register holds for each logspace.

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::{Frame, FrameError, FrameKind, write_frame};
use crate::ids::{ClusterId, Incarnation, LogspaceId, Logspaces, NodeId, NodeSet, Place, ShardId, ViewNumber};
use crate::limits::{LOGSPACES_MAX, SESSION_WINDOW, SESSIONS_MAX};
use crate::seqnum::SeqNum;
use crate::view_cause::{ViewCause, ViewReason};

/// An immutable configuration of one logspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub number: ViewNumber,
    /// The sequencer replica that cuts and commits, in which of its lives. No other life may.
    pub primary: NodeId,
    pub primary_incarnation: Incarnation,
    pub sequencers: NodeSet,
    pub storages: NodeSet,
    /// Durable copies that commit a record (W).
    pub write_quorum: u8,
    /// Storages that a shard is written to (R).
    pub replicas: u8,
    /// Where the view before was repaired to: `MoveShard`s that begin this view.
    pub moves: Vec<(ShardId, NodeSet)>,
    /// How it came to be.
    pub cause: ViewCause,
}

impl View {
    /// How many answers of a shard's replicas are sure to meet every write quorum: R − W + 1.
    pub fn read_quorum(&self) -> usize {
        usize::from(self.replicas) - usize::from(self.write_quorum) + 1
    }
}

/// What verdicts depend on, fixed when a cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    pub cluster: ClusterId,
    /// Of both classes.
    pub logspaces: u16,
    /// How many of them, the last ones, are of class memory.
    pub memory_logspaces: u16,
    pub sessions_max: u32,
    pub session_window: u32,
}

impl ClusterSettings {
    pub fn new(cluster: ClusterId, logspaces: impl Into<Logspaces>) -> ClusterSettings {
        let classes = logspaces.into();
        ClusterSettings {
            cluster,
            logspaces: classes.count(),
            memory_logspaces: classes.memory,
            sessions_max: SESSIONS_MAX,
            session_window: SESSION_WINDOW,
        }
    }

    /// How many logspaces there are of each class.
    pub fn classes(&self) -> Logspaces {
        Logspaces { disk: self.logspaces - self.memory_logspaces, memory: self.memory_logspaces }
    }
}

/// A logspace's views, oldest first. All but the last have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub settings: ClusterSettings,
    pub logspace: LogspaceId,
    pub views: Vec<View>,
    /// `ends[i]` is the end of `views[i]`: how many entries its metalog has.
    pub ends: Vec<u64>,
}

impl Chain {
    pub fn current(&self) -> &View {
        self.views.last().expect("a chain begins with a view")
    }

    /// Whether this logspace commits what is held in memory.
    pub fn is_memory(&self) -> bool {
        self.settings.classes().is_memory(self.logspace)
    }

    pub fn view(&self, number: ViewNumber) -> Option<&View> {
        self.views.get(number.0.checked_sub(1)? as usize)
    }

    /// The end of a view that has ended.
    pub fn end(&self, number: ViewNumber) -> Option<u64> {
        self.ends.get(number.0.checked_sub(1)? as usize).copied()
    }

    /// Whether `place` is in the chain: not past the end of its view, nor in a view to come.
    pub fn covers(&self, place: Place) -> bool {
        self.view(place.view).is_some() && self.end(place.view).is_none_or(|end| place.index <= end)
    }

    /// The chain with its last view ended and another installed.
    pub fn extended(&self, end: u64, next: View) -> Chain {
        assert_eq!(next.number.0, self.current().number.0 + 1, "views follow each other");
        let mut chain = self.clone();
        chain.ends.push(end);
        chain.views.push(next);
        chain
    }

    /// Errors in what a register held: a wrong hand, or another program, wrote it.
    pub fn validate(&self) -> Result<(), FrameError> {
        let settings = &self.settings;
        let numbered = self.views.iter().enumerate().all(|(at, view)| view.number.0 as usize == at + 1);
        let sized = self.views.iter().all(|view| {
            view.write_quorum >= 1
                && view.write_quorum <= view.replicas
                && usize::from(view.replicas) <= view.storages.len()
                && view.sequencers.contains(view.primary)
                && view.number.0 <= SeqNum::VIEW_MAX
        });
        let settled = (1..=LOGSPACES_MAX).contains(&settings.logspaces)
            && self.logspace.0 < settings.logspaces
            && settings.memory_logspaces < settings.logspaces
            && settings.sessions_max > 0
            && settings.session_window > 0;
        let ended = self.ends.len() + 1 == self.views.len();
        if numbered && sized && settled && ended { Ok(()) } else { Err(FrameError::Metadata) }
    }

    /// The chain as a frame.
    pub fn encode(&self) -> Vec<u8> {
        const FITS: &str = "serialising into memory cannot fail";
        let bytes = rkyv::to_bytes::<rancor::Error>(&StoredChain::from(self)).expect(FITS);
        let causes: Vec<StoredCause> = self.views.iter().map(|view| view.cause.into()).collect();
        let lossy = self.views.iter().filter(|view| view.cause.after_loss).map(|view| view.number.0);
        let memory = StoredMemory { logspaces: self.settings.memory_logspaces, after_loss: lossy.collect(), causes };
        // Without any of class memory it is what releases before it wrote, and read.
        let (count, payload) = if memory.logspaces == 0 && memory.after_loss.is_empty() {
            (CAUSES, rkyv::to_bytes::<rancor::Error>(&memory.causes).expect(FITS))
        } else {
            (CAUSES_AND_MEMORY, rkyv::to_bytes::<rancor::Error>(&memory).expect(FITS))
        };
        let mut out = Vec::new();
        write_frame(&mut out, FrameKind::Chain, u64::from(self.logspace.0), count, &bytes, &[&payload]);
        out
    }

    /// The chain that a frame holds, validated.
    pub fn decode(bytes: &[u8]) -> Result<Chain, FrameError> {
        let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
        if frame.header.kind != FrameKind::Chain {
            return Err(FrameError::Kind(frame.header.kind as u8));
        }
        let stored =
            rkyv::from_bytes::<StoredChain, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)?;
        let mut chain = stored.into_chain().ok_or(FrameError::Metadata)?;
        let malformed = |_: rancor::Error| FrameError::Metadata;
        let memory = match (frame.header.count, frame.payload) {
            // The first release wrote none: it kept no reasons.
            (CAUSES, []) => None,
            (CAUSES, causes) => {
                let causes = rkyv::from_bytes::<Vec<StoredCause>, _>(causes).map_err(malformed)?;
                Some(StoredMemory { logspaces: 0, after_loss: Vec::new(), causes })
            }
            (CAUSES_AND_MEMORY, memory) => Some(rkyv::from_bytes::<StoredMemory, _>(memory).map_err(malformed)?),
            _ => return Err(FrameError::Metadata),
        };
        if let Some(memory) = memory {
            if memory.causes.len() != chain.views.len() {
                return Err(FrameError::Metadata);
            }
            chain.settings.memory_logspaces = memory.logspaces;
            for (view, cause) in chain.views.iter_mut().zip(memory.causes) {
                let StoredCause { reason, change_ms, installed_at_ms } = cause;
                let after_loss = memory.after_loss.contains(&view.number.0);
                view.cause = ViewCause { reason, after_loss, change_ms, installed_at_ms };
            }
        }
        chain.validate()?;
        Ok(chain)
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredChain {
    cluster: u64,
    logspaces: u16,
    sessions_max: u32,
    session_window: u32,
    logspace: u16,
    views: Vec<StoredView>,
    ends: Vec<u64>,
}

/// What the payload of a chain is, by the count in its header.
const CAUSES: u16 = 0;
const CAUSES_AND_MEMORY: u16 = 1;

#[derive(Archive, Serialize, Deserialize)]
struct StoredCause {
    reason: ViewReason,
    change_ms: u64,
    installed_at_ms: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMemory {
    /// Logspaces of class memory.
    logspaces: u16,
    /// Numbers of views.
    after_loss: Vec<u32>,
    causes: Vec<StoredCause>,
}

impl From<ViewCause> for StoredCause {
    fn from(cause: ViewCause) -> StoredCause {
        let ViewCause { reason, change_ms, installed_at_ms, after_loss: _ } = cause;
        StoredCause { reason, change_ms, installed_at_ms }
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredView {
    primary: u64,
    primary_incarnation: u64,
    sequencers: Vec<u64>,
    storages: Vec<u64>,
    write_quorum: u8,
    replicas: u8,
    moves: Vec<StoredMove>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMove {
    view: u32,
    index: u64,
    replicas: Vec<u64>,
}

fn stored_nodes(nodes: &NodeSet) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn node_set(stored: &[u64]) -> Option<NodeSet> {
    let nodes: Vec<NodeId> = stored.iter().copied().map(NodeId).collect();
    NodeSet::new(&nodes)
}

impl From<&Chain> for StoredChain {
    fn from(chain: &Chain) -> StoredChain {
        let views = chain.views.iter().map(|view| StoredView {
            primary: view.primary.0,
            primary_incarnation: view.primary_incarnation.0,
            sequencers: stored_nodes(&view.sequencers),
            storages: stored_nodes(&view.storages),
            write_quorum: view.write_quorum,
            replicas: view.replicas,
            moves: view
                .moves
                .iter()
                .map(|(shard, replicas)| StoredMove {
                    view: shard.view.0,
                    index: shard.index,
                    replicas: stored_nodes(replicas),
                })
                .collect(),
        });
        StoredChain {
            cluster: chain.settings.cluster.0,
            logspaces: chain.settings.logspaces,
            sessions_max: chain.settings.sessions_max,
            session_window: chain.settings.session_window,
            logspace: chain.logspace.0,
            views: views.collect(),
            ends: chain.ends.clone(),
        }
    }
}

impl StoredChain {
    fn into_chain(self) -> Option<Chain> {
        let views = self.views.iter().zip(1..).map(|(stored, number)| {
            let moves = stored.moves.iter().map(|moved| {
                let shard = ShardId { view: ViewNumber(moved.view), index: moved.index };
                Some((shard, node_set(&moved.replicas)?))
            });
            Some(View {
                number: ViewNumber(number),
                primary: NodeId(stored.primary),
                primary_incarnation: Incarnation(stored.primary_incarnation),
                sequencers: node_set(&stored.sequencers)?,
                storages: node_set(&stored.storages)?,
                write_quorum: stored.write_quorum,
                replicas: stored.replicas,
                moves: moves.collect::<Option<_>>()?,
                cause: ViewCause::default(),
            })
        });
        let views: Vec<View> = views.collect::<Option<_>>()?;
        if views.is_empty() {
            return None;
        }
        Some(Chain {
            settings: ClusterSettings {
                cluster: ClusterId(self.cluster),
                logspaces: self.logspaces,
                memory_logspaces: 0,
                sessions_max: self.sessions_max,
                session_window: self.session_window,
            },
            logspace: LogspaceId(self.logspace),
            views,
            ends: self.ends,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view_cause::ViewReason;

    fn chain() -> Chain {
        let nodes = NodeSet::new(&[NodeId(1), NodeId(2), NodeId(3)]).expect("three nodes");
        let view = View {
            number: ViewNumber(1),
            primary: NodeId(2),
            primary_incarnation: Incarnation(4),
            sequencers: nodes,
            storages: nodes,
            write_quorum: 2,
            replicas: 3,
            moves: vec![(ShardId { view: ViewNumber(1), index: 0 }, nodes)],
            cause: ViewCause::default(),
        };
        Chain {
            settings: ClusterSettings::new(ClusterId(9), 1),
            logspace: LogspaceId(0),
            views: vec![view],
            ends: vec![],
        }
    }

    #[test]
    fn a_chain_round_trips_and_refuses_nonsense() {
        let mut next = chain().current().clone();
        next.number = ViewNumber(2);
        next.cause = ViewCause {
            reason: ViewReason::ForceSealed,
            after_loss: true,
            change_ms: 41,
            installed_at_ms: 1_790_000_000_000,
        };
        let chain = chain().extended(17, next);
        assert_eq!(Chain::decode(&chain.encode()), Ok(chain.clone()));
        assert!(chain.covers(Place { view: ViewNumber(1), index: 17 }));
        assert!(!chain.covers(Place { view: ViewNumber(1), index: 18 }));
        assert!(!chain.covers(Place { view: ViewNumber(3), index: 0 }));
        let mut broken = chain;
        broken.ends.push(3);
        assert!(Chain::decode(&broken.encode()).is_err());
    }

    #[test]
    fn a_chain_without_causes_is_read_as_before() {
        let chain = chain();
        let bytes = rkyv::to_bytes::<rancor::Error>(&StoredChain::from(&chain)).expect("fits memory");
        let mut old = Vec::new();
        write_frame(&mut old, FrameKind::Chain, 0, 0, &bytes, &[]);
        assert_eq!(Chain::decode(&old), Ok(chain));
    }

    #[test]
    fn a_chain_without_class_memory_is_what_was_written_before_it() {
        let mut next = chain().current().clone();
        next.number = ViewNumber(2);
        next.cause =
            ViewCause { reason: ViewReason::PrimaryLost, after_loss: false, change_ms: 1 << 40, installed_at_ms: 7 };
        let mut chain = chain().extended(17, next);
        let written = chain.encode();
        assert_eq!((written.len(), crc32fast::hash(&written)), (392, 0x9aaa_167c));
        assert_eq!(Chain::decode(&written), Ok(chain.clone()));
        (chain.settings.logspaces, chain.settings.memory_logspaces) = (2, 1);
        assert_ne!(chain.encode(), written);
        assert_eq!(Chain::decode(&chain.encode()), Ok(chain));
    }

    #[test]
    fn a_chain_has_a_logspace_of_class_disk() {
        let mut chain = chain();
        (chain.settings.logspaces, chain.settings.memory_logspaces) = (3, 2);
        chain.logspace = LogspaceId(1);
        assert_eq!(Chain::decode(&chain.encode()), Ok(chain.clone()));
        assert!(chain.is_memory());
        chain.settings.memory_logspaces = 3;
        assert_eq!(Chain::decode(&chain.encode()), Err(FrameError::Metadata));
    }
}
