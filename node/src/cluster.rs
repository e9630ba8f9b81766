//! How a node becomes a member of a cluster: it finds the cluster in the register, writes into its
//! members who it is in this life and where it is found, and waits for the chains of views.
//!
//! ```text
//!   cluster init ─► members, version 1        nodes ─► each adds itself
//!   cluster init ◄─ as many as wished ────────────────┘
//!   cluster init ─► first chain of each logspace ─► nodes serve
//! ```
//!
//! Nothing of it is on the node's disk but its own identity and the cluster's id: a node that starts
//! while the register is away waits for it, and says so.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sealog_control::register::{MembersSwap, RegisterError};
use sealog_protocol::limits::MEMBERS_MAX;
use sealog_protocol::members::{Member, Members};
use sealog_protocol::peer::PeerIdentity;
use sealog_protocol::view::Chain;
use sealog_protocol::{ClusterId, LogspaceId, NodeId};
use sealog_runtime::{Listen, PeerAddress, PeersConfig, PeersNow};
use thiserror::Error;

use crate::identity::Identity;
use crate::register::WatchedRegister;
use crate::twin::answers;

/// Between two looks into a register that does not have yet what is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two sayings of what is waited for.
const SAY_INTERVAL: Duration = Duration::from_secs(10);
/// What an address of a Unix socket begins with.
const UNIX: &str = "unix:";

/// Why a node is no member of the cluster. Nothing was served.
#[derive(Debug, Error)]
pub enum JoinError {
    #[error(
        "node {node} was removed from the cluster, which does not need what it holds: give it an empty data \
         directory to join again, as a new node"
    )]
    Removed { node: NodeId },
    #[error(
        "this data directory was last used by life {ours} of node {node}, but the cluster has met life {newest}: it is \
         a copy, or was set back to an earlier state. Start the node where its newest data is, or give this one an \
         empty data directory to join as a new node"
    )]
    Older { node: NodeId, ours: u64, newest: u64 },
    #[error(
        "the data directory is of cluster {ours}, but the register is that of cluster {theirs}: correct the setting \
         register, or use another data directory"
    )]
    Cluster { ours: ClusterId, theirs: ClusterId },
    #[error(
        "node {node} runs already: who answers at {address} has the same identity. Stop it before this data directory \
         is used; if this is a copy of its, give it an empty one to join as a new node"
    )]
    Runs { node: NodeId, address: String },
    #[error("the cluster has {max} nodes already, the most that there can be: remove one before", max = PeersConfig::PEERS_MAX)]
    Full,
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// Whether a node with this identity, of its last life, may begin a new one in the cluster. Asked
/// before that life has begun, so that a refusal leaves no trace.
///
/// # Errors
/// Why not.
pub fn admit(members: &Members, identity: &Identity) -> Result<(), JoinError> {
    let node = identity.node;
    if identity.cluster != members.cluster {
        return Err(JoinError::Cluster { ours: identity.cluster, theirs: members.cluster });
    }
    let living = members.nodes.iter().filter(|member| !member.state.is_removed()).count();
    let executor = 0;
    let own = PeerIdentity { cluster: identity.cluster, node, incarnation: identity.incarnation, executor };
    match members.get(node) {
        Some(member) if resolve(&member.peer_address).is_ok_and(|address| answers(&address, own)) => {
            Err(JoinError::Runs { node, address: member.peer_address.clone() })
        }
        Some(member) if member.state.is_removed() => Err(JoinError::Removed { node }),
        Some(member) if member.incarnation > identity.incarnation => {
            Err(JoinError::Older { node, ours: identity.incarnation.0, newest: member.incarnation.0 })
        }
        None if living >= PeersConfig::PEERS_MAX || members.nodes.len() >= MEMBERS_MAX => Err(JoinError::Full),
        _ => Ok(()),
    }
}

/// Writes this life of a node into the members, and returns them. Waits for a register that is away.
///
/// # Errors
/// The node was removed, or another life of it was faster.
pub fn join(register: &mut dyn WatchedRegister, own: &Member) -> Result<Members, JoinError> {
    let node = own.node;
    loop {
        let members = await_members(register)?;
        let held = members.get(node);
        match held {
            // Also after a swap whose answer was lost.
            Some(held) if as_wanted(own, Some(held)) == *held => return Ok(members),
            Some(held) if held.state.is_removed() => return Err(JoinError::Removed { node }),
            Some(held) if held.incarnation >= own.incarnation => {
                return Err(JoinError::Older { node, ours: own.incarnation.0 - 1, newest: held.incarnation.0 });
            }
            _ => {}
        }
        let next = members.with(as_wanted(own, held));
        match register.swap_members(&next) {
            Ok(MembersSwap::Installed) => return Ok(next),
            Ok(MembersSwap::Held(_)) => {}
            Err(error) if is_passing(&error) => thread::sleep(LOOK_INTERVAL),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A life of a node, with what an operator wants of the node.
fn as_wanted(own: &Member, held: Option<&Member>) -> Member {
    let (state, replacement) = held.map_or((own.state, own.replacement), |held| (held.state, held.replacement));
    Member { state, replacement, ..own.clone() }
}

/// The members of the cluster, once there is one.
///
/// # Errors
/// What the register holds is damaged.
pub fn await_members(register: &mut dyn WatchedRegister) -> Result<Members, JoinError> {
    let wait = "the register has no cluster yet: form one with `sealog cluster init`";
    patiently(wait, || register.members())
}

/// The chains of all logspaces of the cluster, once there are all.
///
/// # Errors
/// What the register holds is damaged, or of another cluster.
pub fn await_chains(register: &mut dyn WatchedRegister, cluster: ClusterId) -> Result<Vec<Chain>, JoinError> {
    let wait = "this node has joined; the cluster has no views yet: `sealog cluster init` makes them when all have";
    let chains = patiently(wait, || read_chains(register))?;
    match chains.iter().find(|chain| chain.settings.cluster != cluster) {
        Some(other) => Err(JoinError::Cluster { ours: cluster, theirs: other.settings.cluster }),
        None => Ok(chains),
    }
}

/// The chains of all logspaces; `None` while one is missing.
pub fn read_chains(register: &mut dyn WatchedRegister) -> Result<Option<Vec<Chain>>, RegisterError> {
    let Some(first) = register.read(LogspaceId(0))? else { return Ok(None) };
    let mut chains = vec![first];
    for logspace in 1..chains[0].settings.logspaces {
        let Some(chain) = register.read(LogspaceId(logspace))? else { return Ok(None) };
        chains.push(chain);
    }
    Ok(Some(chains))
}

/// Asks until there is an answer, and says now and then why there is none.
fn patiently<T>(wait: &str, mut ask: impl FnMut() -> Result<Option<T>, RegisterError>) -> Result<T, JoinError> {
    let mut said: Option<Instant> = None;
    loop {
        let reason = match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => wait.to_owned(),
            Err(error) if is_passing(&error) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if said.is_none_or(|said| said.elapsed() >= SAY_INTERVAL) {
            tracing::warn!(reason, "waiting");
            said = Some(Instant::now());
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Whether it may be over at the next try.
fn is_passing(error: &RegisterError) -> bool {
    !matches!(error, RegisterError::Damaged { .. } | RegisterError::MembersDamaged { .. })
}

/// Whom a node lets in and calls, by the members. Names of hosts are looked up now: not on an
/// executor. One that has no address is let in, and called when it has.
pub fn peers_now(members: &Members) -> PeersNow {
    let is_removed = |member: &&Member| member.state.is_removed();
    let peer = |member: &Member| match resolve(&member.peer_address) {
        Ok(address) => Some(PeerAddress { node: member.node, incarnation: member.incarnation, address }),
        Err(reason) => {
            let (node, address) = (member.node, &member.peer_address);
            tracing::error!(%node, address, reason, "a node's address is none: it is left out until it changes");
            None
        }
    };
    PeersNow {
        peers: members.nodes.iter().filter(|member| !is_removed(member)).filter_map(peer).collect(),
        removed: members.nodes.iter().filter(is_removed).map(|member| member.node).collect(),
    }
}

/// Where an address of a setting or a member is.
pub(crate) fn resolve(address: &str) -> Result<Listen, String> {
    if let Some(path) = address.strip_prefix(UNIX) {
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    let mut addresses = address.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().map(Listen::Tcp).ok_or_else(|| "the name has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::RegisterSetting;
    use sealog_protocol::Incarnation;
    use sealog_protocol::members::{MemberState, Roles};

    fn member(node: u64, incarnation: u64) -> Member {
        Member {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            roles: Roles::ALL,
            state: MemberState::Active,
            replacement: None,
            peer_address: format!("127.0.0.1:{node}"),
            client_address: "unix:/run/sealog".to_owned(),
        }
    }

    fn identity(node: u64, incarnation: u64) -> Identity {
        let (cluster, incarnation) = (ClusterId(7), Incarnation(incarnation));
        Identity { node: NodeId(node), cluster, incarnation, journals: vec![1] }
    }

    #[test]
    fn only_the_newest_data_of_a_node_begins_its_next_life() {
        let members = Members { cluster: ClusterId(7), version: 1, nodes: Vec::new() }.with(member(1, 5));
        for (last_life, is_admitted) in [(4, false), (5, true), (6, true)] {
            assert_eq!(admit(&members, &identity(1, last_life)).is_ok(), is_admitted, "{last_life}");
        }
        assert!(admit(&members, &identity(2, 0)).is_ok(), "a new node");
        let removed = members.with(Member { state: MemberState::Removed, ..member(1, 5) });
        assert!(matches!(admit(&removed, &identity(1, 5)), Err(JoinError::Removed { .. })));
        let other = Identity { cluster: ClusterId(8), ..identity(1, 5) };
        assert!(matches!(admit(&members, &other), Err(JoinError::Cluster { .. })));
        assert_eq!(peers_now(&removed), PeersNow { peers: Vec::new(), removed: vec![NodeId(1)] });
    }

    #[test]
    fn a_node_joins_in_each_life_and_keeps_what_an_operator_wants_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let setting = RegisterSetting::Directory(directory.path().to_owned());
        let mut register = crate::register::open(&setting, directory.path()).unwrap();
        let none = Members { cluster: ClusterId(7), version: 1, nodes: Vec::new() };
        register.swap_members(&none).unwrap();
        let joined = join(&mut *register, &member(1, 1)).unwrap();
        assert_eq!(joined.nodes, [member(1, 1)]);
        assert_eq!(join(&mut *register, &member(1, 1)).unwrap(), joined, "it is there already");
        let drained = joined.with(Member { state: MemberState::Draining, ..member(1, 1) });
        register.swap_members(&drained).unwrap();
        let joined = join(&mut *register, &member(1, 2)).unwrap();
        assert_eq!(joined.nodes, [Member { state: MemberState::Draining, ..member(1, 2) }]);
        let elsewhere = Member { peer_address: "127.0.0.1:9".to_owned(), ..member(1, 2) };
        assert!(matches!(join(&mut *register, &elsewhere), Err(JoinError::Older { .. })), "two of one life");
    }
}
