//! The nodes of a cluster, as its register holds them: who they are, what they run, where they are
//! found. Nodes find each other through it, and controllers choose a view's nodes among them.

use std::fmt;

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::{Frame, FrameError, FrameKind, write_frame};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::limits::MEMBERS_MAX;
use crate::machine::Role;

/// Which roles a node runs, for every logspace.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    pub const ALL: Roles = Roles(0b1111);

    pub fn new(roles: &[Role]) -> Roles {
        Roles(roles.iter().fold(0, |bits, role| bits | Roles::bit(*role)))
    }

    fn bit(role: Role) -> u8 {
        1 << (role as u8 - 1)
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & Roles::bit(role) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        [Role::Engine, Role::Storage, Role::Sequencer, Role::Controller].into_iter().filter(move |role| self.has(*role))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum MemberState {
    /// It may be given work.
    Active = 0,
    /// Its work is to go to others: no new view names it. It still serves what it has.
    Draining = 1,
    /// It is forgotten: it holds nothing that counts, and is refused when it comes back.
    Removed = 2,
    /// As removed, but it may have held what nobody else has: an operator accepted the loss.
    RemovedWithLoss = 3,
}

impl MemberState {
    /// Whether it is no part of the cluster any more.
    pub fn is_removed(self) -> bool {
        matches!(self, MemberState::Removed | MemberState::RemovedWithLoss)
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// Of its life that wrote this.
    pub incarnation: Incarnation,
    pub roles: Roles,
    pub state: MemberState,
    /// Who is to take its place while it is drained, where it can; `None`: anybody.
    pub replacement: Option<NodeId>,
    /// Where other nodes call it: `host:port`, or `unix:` and a path.
    pub peer_address: String,
    /// Where clients call it, the same way.
    pub client_address: String,
}

/// All nodes of a cluster. Changed by compare-and-swap: each version follows the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub cluster: ClusterId,
    /// From 1.
    pub version: u64,
    /// By node.
    pub nodes: Vec<Member>,
}

impl Members {
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.nodes.iter().find(|member| member.node == node)
    }

    /// Nodes that run this role and were not removed.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(move |member| member.roles.has(role) && !member.state.is_removed())
    }

    /// The next version, in which this node is as said: added, or changed.
    pub fn with(&self, member: Member) -> Members {
        let mut nodes = self.nodes.clone();
        match nodes.binary_search_by_key(&member.node, |known| known.node) {
            Ok(at) => nodes[at] = member,
            Err(at) => nodes.insert(at, member),
        }
        Members { cluster: self.cluster, version: self.version + 1, nodes }
    }

    /// The next version, in which an operator wants this of a node that is a member.
    pub fn with_state(&self, node: NodeId, state: MemberState, replacement: Option<NodeId>) -> Option<Members> {
        let member = self.get(node)?.clone();
        Some(self.with(Member { state, replacement, ..member }))
    }

    /// Whether a register that holds this may take `next` in its place.
    pub fn precedes(&self, next: &Members) -> bool {
        self.cluster == next.cluster && self.version + 1 == next.version
    }

    fn is_valid(&self) -> bool {
        self.version > 0
            && self.nodes.len() <= MEMBERS_MAX
            && self.nodes.is_sorted_by(|one, next| one.node < next.node)
            && self.nodes.iter().all(|member| member.node.0 > 0)
    }

    /// The document as a frame.
    pub fn encode(&self) -> Vec<u8> {
        let stored = StoredMembers {
            cluster: self.cluster.0,
            version: self.version,
            nodes: self.nodes.iter().map(StoredMember::from).collect(),
        };
        let bytes = rkyv::to_bytes::<rancor::Error>(&stored).expect("serialising into memory cannot fail");
        let mut out = Vec::new();
        // Few members are replaced by a certain one, and few registers have ever had such.
        let replacements: Vec<(u64, u64)> =
            self.nodes.iter().filter_map(|member| Some((member.node.0, member.replacement?.0))).collect();
        let replacements = match replacements.is_empty() {
            true => rkyv::util::AlignedVec::new(),
            false => rkyv::to_bytes::<rancor::Error>(&replacements).expect("serialising into memory cannot fail"),
        };
        write_frame(&mut out, FrameKind::Members, 0, 0, &bytes, &[&replacements]);
        out
    }

    /// The document that a frame holds, validated.
    pub fn decode(bytes: &[u8]) -> Result<Members, FrameError> {
        let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
        if frame.header.kind != FrameKind::Members {
            return Err(FrameError::Kind(frame.header.kind as u8));
        }
        let stored =
            rkyv::from_bytes::<StoredMembers, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)?;
        let mut members = Members {
            cluster: ClusterId(stored.cluster),
            version: stored.version,
            nodes: stored.nodes.into_iter().map(Member::from).collect(),
        };
        if !frame.payload.is_empty() {
            let replacements = rkyv::from_bytes::<Vec<(u64, u64)>, rancor::Error>(frame.payload);
            for (node, replacement) in replacements.map_err(|_| FrameError::Metadata)? {
                let member = members.nodes.iter_mut().find(|member| member.node.0 == node);
                member.ok_or(FrameError::Metadata)?.replacement = Some(NodeId(replacement));
            }
        }
        if members.is_valid() { Ok(members) } else { Err(FrameError::Metadata) }
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMembers {
    cluster: u64,
    version: u64,
    nodes: Vec<StoredMember>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredMember {
    node: u64,
    incarnation: u64,
    roles: u8,
    state: MemberState,
    peer_address: String,
    client_address: String,
}

impl From<&Member> for StoredMember {
    fn from(member: &Member) -> StoredMember {
        StoredMember {
            node: member.node.0,
            incarnation: member.incarnation.0,
            roles: member.roles.0,
            state: member.state,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
        }
    }
}

impl From<StoredMember> for Member {
    fn from(stored: StoredMember) -> Member {
        Member {
            node: NodeId(stored.node),
            incarnation: Incarnation(stored.incarnation),
            roles: Roles(stored.roles & Roles::ALL.0),
            state: stored.state,
            replacement: None,
            peer_address: stored.peer_address,
            client_address: stored.client_address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, state: MemberState) -> Member {
        Member {
            node: NodeId(node),
            incarnation: Incarnation(3),
            roles: Roles::new(&[Role::Storage, Role::Controller]),
            state,
            replacement: None,
            peer_address: "10.0.0.1:7441".to_owned(),
            client_address: "unix:/run/sealog".to_owned(),
        }
    }

    #[test]
    fn members_round_trip_in_versions_and_by_node() {
        let none = Members { cluster: ClusterId(7), version: 1, nodes: Vec::new() };
        let two = none.with(member(5, MemberState::Active)).with(member(2, MemberState::Removed));
        assert_eq!(two.nodes.iter().map(|member| member.node.0).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(Members::decode(&two.encode()), Ok(two.clone()));
        assert!(none.precedes(&none.with(member(5, MemberState::Active))) && !none.precedes(&two));
        let storages: Vec<u64> = two.with_role(Role::Storage).map(|member| member.node.0).collect();
        assert_eq!(storages, [5], "one that was removed runs nothing");
        assert_eq!(two.with_role(Role::Engine).count(), 0);
        let replaced = two.with_state(NodeId(5), MemberState::Draining, Some(NodeId(9))).expect("it is a member");
        assert_eq!(Members::decode(&replaced.encode()), Ok(replaced.clone()));
        assert_eq!(replaced.get(NodeId(5)).and_then(|member| member.replacement), Some(NodeId(9)));
        assert_eq!(two.with_state(NodeId(7), MemberState::Draining, None), None, "it is none");
        let mut twice = two;
        twice.nodes[0].node = NodeId(5);
        assert!(Members::decode(&twice.encode()).is_err());
    }
}
