//! Why a seed failed.

use sealog_protocol::machine::Role;
use sealog_protocol::{LogBookId, LogspaceId, NodeId, Place, SeqNum, ShardId, ViewNumber};
use thiserror::Error;

/// What a seed found wrong: which promise, with the facts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    #[error("history: {violation}\n  {operation}")]
    History { violation: sealog_history::Violation, operation: String },
    #[error(
        "aux data came with another record than it was attached to (invariant 10): LogBook {logbook}, SeqNum {seqnum}"
    )]
    AuxOfAnother { logbook: LogBookId, seqnum: SeqNum },
    #[error("a committed entry differs (invariant 1): logspace {logspace}, view {view}, index {index}, on node {node}")]
    CommittedEntryDiffers { logspace: LogspaceId, view: ViewNumber, index: u64, node: NodeId },
    #[error(
        "two replicas were given different entries: logspace {logspace}, view {view}, index {index}, on node {node}"
    )]
    EntryDiffers { logspace: LogspaceId, view: ViewNumber, index: u64, node: NodeId },
    #[error("two storages took different records: shard {shard}, position {position}, on node {node}")]
    RecordDiffers { shard: ShardId, position: u64, node: NodeId },
    #[error(
        "committed beyond the view's end (invariant 7): logspace {logspace}, view {view} ends at {end}, \
         node {node} says {commit}"
    )]
    CommittedPastEnd { logspace: LogspaceId, view: ViewNumber, end: u64, commit: u64, node: NodeId },
    #[error(
        "committed without a majority of journals (invariant 7): logspace {logspace}, view {view}, \
         {entries} entries, on {copies} journals"
    )]
    CommittedWithoutMajority { logspace: LogspaceId, view: ViewNumber, entries: u64, copies: usize },
    #[error(
        "committed without its records on W disks (invariant 7): logspace {logspace}, view {view}, index {index}, \
         shard {shard} up to {prefix}, on {copies} disks"
    )]
    CommittedWithoutRecords {
        logspace: LogspaceId,
        view: ViewNumber,
        index: u64,
        shard: ShardId,
        prefix: u64,
        copies: usize,
    },
    #[error("view {view} replaces node {node}, which nobody drained and nobody could have given up")]
    ReplacedForNothing { node: NodeId, view: ViewNumber },
    #[error("the register went back or changed its past (invariant 7): logspace {logspace}, view {view}")]
    TwoEnds { logspace: LogspaceId, view: ViewNumber },
    #[error(
        "a view was installed whose end {end} cuts off what was committed ({committed}): logspace {logspace}, view {view}"
    )]
    EndBeforeCommit { logspace: LogspaceId, view: ViewNumber, end: u64, committed: u64 },
    #[error("what was durable is gone after a restart: node {node}, {what}: {before}, now {after}")]
    DurableLost { node: NodeId, what: String, before: u64, after: u64 },
    #[error("a sealed node still speaks for its view: {role:?} of node {node}, view {view}")]
    SpokeAfterSeal { node: NodeId, role: Role, view: ViewNumber },
    #[error("an engine applied what is not committed: node {node}, logspace {logspace}, view {view}, index {index}")]
    AppliedUncommitted { node: NodeId, logspace: LogspaceId, view: ViewNumber, index: u64 },
    #[error("committed records that no storage took, or not as they were appended: shard {shard}, position {position}")]
    RecordUnknown { shard: ShardId, position: u64 },
    #[error(
        "node {node} dropped the metalog of logspace {logspace} before {base}, which no committed checkpoint covers: \
         the last one is at {checkpoint}"
    )]
    MetalogDropped { node: NodeId, logspace: LogspaceId, base: Place, checkpoint: Place },
    #[error("the name {name:?} has records in both classes")]
    NameInBothClasses { name: String },
    #[error("nodes that have started again never count in their views of class memory")]
    MembersNeverCount,
    #[error("two reads saw different records (invariant 1): logspace {logspace}, {seqnum:?}")]
    ReadsDiffer { logspace: LogspaceId, seqnum: SeqNum },
    #[error("recovery of node {node} failed: {reason}")]
    Recovery { node: NodeId, reason: String },
    #[error("stuck (invariant 11): {pending} operations pending {after} after the faults stopped{details}")]
    Stuck { pending: usize, after: String, details: String },
    #[error("an engine goes on writing to storage {storage}, which is lost, though others live{details}")]
    LostStorageKept { storage: NodeId, details: String },
    #[error("a shard that still gets records was moved: logspace {logspace}, entry {place}, shard {shard}")]
    OpenShardMoved { logspace: LogspaceId, place: Place, shard: ShardId },
    #[error(
        "a shard was moved to a storage that lacks some of it: logspace {logspace}, entry {place}, shard {shard}, \
         position {position}, node {node}"
    )]
    MovedWithoutCopy { logspace: LogspaceId, place: Place, shard: ShardId, position: u64, node: NodeId },
    #[error(
        "lost copies were not made again: logspace {logspace}, shard {shard}, on {copies} of the storages that live \
         and that the metalog names{details}"
    )]
    CopiesMissing { logspace: LogspaceId, shard: ShardId, copies: usize, details: String },
    #[error("damage was not mended: {what}, on node {node}{details}")]
    NotMended { node: NodeId, what: String, details: String },
    #[error("a peer sent what is no message: {reason}")]
    BadFrame { reason: String },
    #[error("a client met an error that no fault explains: {error}")]
    ClientError { error: String },
    #[error("panic: {message}")]
    Panic { message: String },
}

impl Failure {
    /// A violation that no single operation shows.
    pub fn history(violation: sealog_history::Violation) -> Failure {
        Failure::History { violation, operation: String::new() }
    }
}
