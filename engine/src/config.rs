//! What an engine is told at its start, and what it tells of itself.

use std::time::Duration;

use sealog_protocol::limits::{
    AUX_MEMORY_BYTES_MAX, CACHE_BYTES_MAX, CHECKPOINT_LOG_BYTES_MIN, CHECKPOINT_LOG_FACTOR, CHECKPOINT_PART_BYTES,
    COPIES_LOOK, PENDING_BYTES_MAX, PENDING_RECORDS_MAX, REPLICA_PATIENCE, SESSION_OPENINGS_MAX, STORAGE_LOST,
    SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX, WAITING_READS_MAX,
};
use sealog_protocol::{Incarnation, LogspaceId, NodeId, Place};

use crate::aux::AuxStatus;

/// What an engine is told at its start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub logspace: LogspaceId,
    /// Drawn at random by the driver, so that no client can choose keys that collide.
    pub hash_seed: u64,
    /// Records that wait for their commit, in bytes; beyond it no request is taken.
    pub pending_bytes_max: usize,
    pub pending_records_max: usize,
    /// Records of its own shards kept for readers, in bytes.
    pub cache_bytes_max: usize,
    /// Aux data of records, in bytes; 0 keeps none.
    pub aux_bytes_max: usize,
    /// Memory of the index; beyond it appends are refused.
    pub index_bytes_max: usize,
    pub waiting_reads_max: usize,
    /// The time of day at [`sealog_protocol::Time::ZERO`], in milliseconds since 1970: retention by age
    /// goes by it.
    pub time_of_day_ms: u64,
    pub subscriptions_max: usize,
    /// Of one connection.
    pub subscriptions_per_connection_max: usize,
    /// A checkpoint of the index is written when so many bytes of batches came since the last one, and
    /// so many times that one's bytes.
    pub checkpoint_log_bytes_min: u64,
    pub checkpoint_log_factor: u64,
    /// Bytes of its parts.
    pub checkpoint_part_bytes: usize,
    /// Sessions that a connection may open at once.
    pub session_openings_max: u32,
    /// How long a storage of the open shard may be gone before the shard is left for another one.
    pub replica_patience: Duration,
    /// After so long a storage that is gone is taken to be lost: what it has is copied elsewhere.
    pub storage_lost: Duration,
    /// How often shards are looked at for what has to be copied.
    pub copies_look: Duration,
}

impl EngineConfig {
    /// The defaults of [`sealog_protocol::limits`], and an index without a bound.
    pub fn new(node: NodeId, incarnation: Incarnation, logspace: LogspaceId, hash_seed: u64) -> EngineConfig {
        EngineConfig {
            node,
            incarnation,
            logspace,
            hash_seed,
            pending_bytes_max: PENDING_BYTES_MAX,
            pending_records_max: PENDING_RECORDS_MAX,
            cache_bytes_max: CACHE_BYTES_MAX,
            aux_bytes_max: AUX_MEMORY_BYTES_MAX,
            index_bytes_max: usize::MAX,
            waiting_reads_max: WAITING_READS_MAX,
            time_of_day_ms: 0,
            subscriptions_max: SUBSCRIPTIONS_MAX,
            subscriptions_per_connection_max: SUBSCRIPTIONS_PER_CONNECTION_MAX,
            checkpoint_log_bytes_min: CHECKPOINT_LOG_BYTES_MIN,
            checkpoint_log_factor: CHECKPOINT_LOG_FACTOR,
            checkpoint_part_bytes: CHECKPOINT_PART_BYTES,
            session_openings_max: SESSION_OPENINGS_MAX,
            replica_patience: REPLICA_PATIENCE,
            storage_lost: STORAGE_LOST,
            copies_look: COPIES_LOOK,
        }
    }
}

/// What an engine tells of itself, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    pub ready: bool,
    pub applied: Place,
    pub records: u64,
    pub voids: u64,
    pub sessions: usize,
    pub tags: usize,
    pub runs: usize,
    pub index_bytes: usize,
    pub cache_bytes: usize,
    pub aux: AuxStatus,
    pub pending_records: usize,
    pub waiting_reads: usize,
    pub subscriptions: usize,
    pub appends: u64,
    pub reads: u64,
    pub fetches: u64,
    /// Ranges of the log whose Tags are damaged on every disk asked.
    pub lost_ranges: usize,
    pub disk_full: bool,
    /// The place of the last checkpoint of the index; the first place: none.
    pub checkpoint: Place,
    /// Bytes of batches since then.
    pub checkpoint_log_bytes: u64,
    /// Bytes of the last checkpoint that this engine wrote.
    pub checkpoint_bytes: u64,
    /// Parts of checkpoints that were damaged when they were loaded.
    pub checkpoint_parts_damaged: u64,
    /// Shards that lack copies, and about how many bytes of copies, where this engine is the one that has
    /// them made again.
    pub copies_shards: usize,
    pub copies_bytes: u64,
}
