//! Why an operator's command is not done, and what to do instead.

use sealog_protocol::machine::Role;
use sealog_protocol::{LogspaceId, NodeId, ViewNumber};
use thiserror::Error;

use super::{Has, RoleName};

/// Why a command is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("there is no node {node} in the cluster: `sealog node list` prints those that there are")]
    NoMember { node: NodeId },
    #[error(
        "node {node} was removed, which is for ever: start it with an empty data directory, and it joins as a new node"
    )]
    Removed { node: NodeId },
    #[error(
        "node {node} is the only one that lives and stays with the role {role}: start another one with it before",
        role = RoleName(*role)
    )]
    LastOfRole { node: NodeId, role: Role },
    #[error(
        "no other node can take the place of node {node} as a sequencer of logspace {logspace}: start one more with \
         the role sequencer and the same register, which joins by itself, and try again"
    )]
    NoSequencer { node: NodeId, logspace: LogspaceId },
    #[error(
        "logspace {logspace} keeps {replicas} copies of each record, and without node {node} there would be {left} \
         storages that live and stay: start one more with the role storage and the same register, which joins by \
         itself, and try again"
    )]
    NoStorage { node: NodeId, logspace: LogspaceId, left: usize, replicas: usize },
    #[error(
        "node {node} has the last copy of logspace {logspace}: start another node with the role storage and the same \
         register, which joins by itself, and try again"
    )]
    LastCopy { node: NodeId, logspace: LogspaceId },
    #[error(
        "the view of logspace {logspace} can't be changed now: {sequencers} of its sequencers are there ({majority} \
         are a majority) and {storages} of its storages (of {quorum} that acknowledge). Bring them back first; if \
         they are gone for good, `sealog view force-seal {logspace}` says what is left to do"
    )]
    NoQuorum { logspace: LogspaceId, sequencers: usize, majority: usize, storages: usize, quorum: usize },
    #[error("node {by} can't take another's place: it is not an active node of the cluster, or it is the same one")]
    NoReplacement { by: NodeId },
    #[error("node {by}, which is to take its place, is not connected: start it, or choose another one")]
    ReplacementAway { by: NodeId },
    #[error(
        "node {by} does not run the role {role}, which it would have to take over: choose another one, or start it \
         with that role",
        role = RoleName(*role)
    )]
    ReplacementLacks { by: NodeId, role: Role },
    #[error("node {node} has to be drained before: `sealog node drain {node} --wait`")]
    NotDrained { node: NodeId },
    #[error("node {node} still has {}", has_text(.has))]
    Holds { node: NodeId, has: Has },
    #[error(
        "node {node} is there and connected: nothing has to be lost. Drain it; if its disk is gone for good, stop its \
         process first"
    )]
    StillThere { node: NodeId },
    #[error("there is no logspace {logspace}: `sealog view` prints those that there are")]
    NoLogspace { logspace: LogspaceId },
    #[error("logspace {logspace} is in view {now}, not in {view}: look again, it may go on by now")]
    OtherView { logspace: LogspaceId, view: ViewNumber, now: ViewNumber },
    #[error(
        "none of the sequencers of logspace {logspace} is there: nobody knows the order of what was appended since \
         the last checkpoint of the index. Bring back one of {nodes:?} with its data directory, on any machine"
    )]
    NoReplica { logspace: LogspaceId, nodes: Vec<NodeId> },
    #[error(
        "the next view of logspace {logspace} needs {missing} more living nodes with the role {role}: start them with \
         the same register, they join by themselves, and try again",
        role = RoleName(*role)
    )]
    TooFewNodes { logspace: LogspaceId, role: Role, missing: usize },
}

fn has_text(has: &Has) -> String {
    let mut parts = Vec::new();
    if has.is_unknown {
        parts.push("perhaps something that this node does not know yet: wait, or ask another one".to_owned());
    }
    if has.is_sequencer {
        parts.push("a place in its view as a sequencer".to_owned());
    }
    if has.is_storage {
        parts.push("a place in its view as a storage".to_owned());
    }
    if has.shards > 0 {
        parts.push(format!("{} shards with {} records whose copies are not yet elsewhere", has.shards, has.records));
    }
    if has.checkpoint {
        parts.push("a part in the newest checkpoint of the index, until the next one".to_owned());
    }
    format!("of logspace {}: {}", has.logspace, parts.join(", "))
}
