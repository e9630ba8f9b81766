//! What operators are told, as JSON: nodes, views, plans. Ids are strings, for they outgrow the numbers
//! of many JSON readers.

use sealog_control::operator::{Cluster, ForcedEnd, Has, Lost, Plan, Refusal, ViewPlan};
use sealog_protocol::client::NodeChange;
use sealog_protocol::members::Member;
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{LogspaceId, NodeId, NodeSet, ViewNumber, ViewReason};
use serde_json::{Value, json};

use crate::cluster_status::{role_names, state_name};

/// Views that are told of a logspace at once; older ones are asked for by a greater limit.
const VIEWS_TOLD_MAX: u32 = 2048;
/// Views that are told in one answer, of all logspaces.
const VIEWS_ANSWERED_MAX: usize = 4096;

fn names(nodes: &NodeSet) -> Vec<String> {
    nodes.iter().map(|node| node.to_string()).collect()
}

/// All nodes, with what they have.
pub fn nodes(cluster: &Cluster<'_>, own: NodeId) -> Value {
    let node = |member: &Member| {
        let has: Vec<Has> = cluster.has(member.node).collect();
        json!({
            "node": member.node.to_string(),
            "state": state_name(member.state),
            "replacement": member.replacement.map(|node| node.to_string()),
            "roles": role_names(member.roles),
            "connected": (cluster.is_connected)(member.node),
            "asked": member.node == own,
            "incarnation": member.incarnation.0,
            "peer_address": member.peer_address,
            "client_address": member.client_address,
            "empty": has.iter().all(Has::is_nothing),
            "has": has_json(&has),
        })
    };
    json!({ "nodes": cluster.members.nodes.iter().map(node).collect::<Vec<Value>>() })
}

/// What a node has, of logspaces of which it has something.
pub fn has_json(has: &[Has]) -> Vec<Value> {
    let has = has.iter().filter(|has| !has.is_nothing()).map(|has| {
        json!({
            "logspace": has.logspace.0,
            "primary": has.is_primary,
            "sequencer": has.is_sequencer,
            "storage": has.is_storage,
            "shards": has.shards,
            "records": has.records,
            "bytes": has.bytes,
            "checkpoint": has.checkpoint,
            "unknown": has.is_unknown,
        })
    });
    has.collect()
}

/// The chains: the newest views, and each that lost something.
pub fn views(chains: &[Chain], logspace: Option<u16>, limit: u32) -> Value {
    let wanted = |chain: &&Chain| logspace.is_none_or(|logspace| chain.logspace.0 == logspace);
    let chains: Vec<&Chain> = chains.iter().filter(wanted).collect();
    if chains.is_empty() {
        let logspace = LogspaceId(logspace.unwrap_or(0));
        return refused(&Refusal::NoLogspace { logspace });
    }
    let each_max = (VIEWS_ANSWERED_MAX / chains.len()).min(limit.clamp(1, VIEWS_TOLD_MAX) as usize);
    let chain = |chain: &&Chain| {
        let newest = chain.views.len().saturating_sub(each_max);
        let told = chain.views.iter().enumerate().filter(|(at, view)| *at >= newest || is_after_loss(view));
        // Losses are few; should they not be, the newest count most.
        let mut told: Vec<Value> = told.rev().take(2 * each_max).map(|(at, _)| view_json(chain, at)).collect();
        told.reverse();
        json!({ "logspace": chain.logspace.0, "left_out": chain.views.len() - told.len(), "views": told })
    };
    json!({ "logspaces": chains.iter().map(chain).collect::<Vec<Value>>() })
}

fn is_after_loss(view: &View) -> bool {
    view.cause.after_loss || view.cause.reason == ViewReason::ForceSealed
}

fn view_json(chain: &Chain, at: usize) -> Value {
    let view = &chain.views[at];
    json!({
        "view": view.number.0,
        "reason": reason_name(view.cause.reason),
        "after_loss": is_after_loss(view),
        "change_ms": view.cause.change_ms,
        "installed_at_ms": Some(view.cause.installed_at_ms).filter(|at| *at > 0),
        "end": chain.ends.get(at),
        "primary": view.primary.to_string(),
        "primary_incarnation": view.primary_incarnation.0,
        "sequencers": names(&view.sequencers),
        "storages": names(&view.storages),
        "write_quorum": view.write_quorum,
        "replicas": view.replicas,
        "shards_moved": view.moves.len(),
    })
}

/// Why a view was installed, in words.
pub fn reason_name(reason: ViewReason) -> &'static str {
    match reason {
        ViewReason::PrimaryRestarted => "primary restarted",
        ViewReason::StuckCut => "cut was stuck",
        ViewReason::Requested => "requested",
        ViewReason::Sealed => "was sealed",
        ViewReason::Created => "created",
        ViewReason::PrimaryLost => "primary lost",
        ViewReason::QuorumLost => "quorum lost",
        ViewReason::NodeReplaced => "node replaced",
        ViewReason::ForceSealed => "force-sealed",
        ViewReason::MemberRestarted => "member restarted",
    }
}

fn change_name(change: NodeChange) -> &'static str {
    match change {
        NodeChange::Add => "add",
        NodeChange::Drain { .. } => "drain",
        NodeChange::Remove { .. } => "remove",
    }
}

/// What a change of a node would do. `changed` is true once it was done by this very command, `done` when it
/// is so.
pub fn plan(cluster: &Cluster<'_>, node: NodeId, change: NodeChange, plan: &Plan) -> Value {
    let view = |view: &ViewPlan| {
        json!({
            "logspace": view.logspace.0,
            "primary": view.is_primary,
            "sequencers": names(&view.now.sequencers),
            "next_sequencers": names(&view.next.sequencers),
            "storages": names(&view.now.storages),
            "next_storages": names(&view.next.storages),
        })
    };
    let lost = |lost: &Lost| {
        json!({
            "logspace": lost.logspace.0,
            "shards": lost.shards,
            "records": lost.records,
            "others": lost.others,
        })
    };
    json!({
        "command": change_name(change),
        "node": node.to_string(),
        "state": cluster.members.get(node).map(|member| state_name(member.state)),
        "connected": (cluster.is_connected)(node),
        "refused": plan.refused.iter().map(Refusal::to_string).collect::<Vec<String>>(),
        "unknown_node": plan.refused.iter().any(|refusal| matches!(refusal, Refusal::NoMember { .. })),
        "done": plan.is_done,
        "changed": false,
        "empty": plan.has.iter().all(Has::is_nothing),
        "views": plan.views.iter().map(view).collect::<Vec<Value>>(),
        "has": has_json(&plan.has),
        "lost": plan.lost.iter().map(lost).collect::<Vec<Value>>(),
    })
}

/// What forcing the end of a view would do, or has begun.
pub fn forced_end(logspace: LogspaceId, view: ViewNumber, end: &ForcedEnd, begun: bool) -> Value {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.to_string()).collect::<Vec<String>>();
    json!({
        "command": "force-seal",
        "logspace": logspace.0,
        "view": view.0,
        "refused": end.refused.iter().map(Refusal::to_string).collect::<Vec<String>>(),
        "changed": begun,
        "lossless": end.is_lossless,
        "missing_sequencers": ids(&end.missing_sequencers),
        "missing_storages": ids(&end.missing_storages),
        "sequencers": names(&end.now.sequencers),
        "next_sequencers": names(&end.next.sequencers),
        "storages": names(&end.now.storages),
        "next_storages": names(&end.next.storages),
    })
}

/// A command that makes no sense.
pub fn refused(refusal: &Refusal) -> Value {
    json!({ "refused": [refusal.to_string()], "unknown_logspace": true })
}

/// What a node without a cluster says.
pub fn alone(node: u64) -> Value {
    json!({
        "node": node.to_string(),
        "refused": ["this node is alone: it is in no cluster. To form one, see `sealog cluster init --help`"],
    })
}
