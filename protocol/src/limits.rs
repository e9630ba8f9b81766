//! Every bound, with its name and its reason. What a simulation draws at random is a field of a
//! machine's configuration, and has its default here.

use std::time::Duration;

/// The version of the wire format. Another one is refused.
pub const FORMAT_VERSION: u8 = 1;
/// The version of what is written to disk. Another one is refused, but for those before it from the
/// oldest that is read: 2 says what was given back, which 1 would take for lost.
pub const DISK_VERSION: u8 = 2;
/// The oldest that is read.
pub const DISK_VERSION_OLDEST: u8 = 1;

/// Payload of one record.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Payload of all records of one batch.
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX;
/// Tags of one record.
pub const TAGS_PER_RECORD_MAX: usize = 64;
/// Records of one batch.
pub const BATCH_RECORDS_MAX: usize = 1024;
/// Tags of all records of one batch together.
pub const BATCH_TAGS_MAX: usize = 4096;
/// Bytes of a LogBook's name.
pub const NAME_BYTES_MAX: usize = 255;
/// A frame with its header: the largest batch with its metadata, or a page of records. A reader
/// that announces more is cut off.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Logspaces of a cluster, and so the places of a token.
pub const LOGSPACES_MAX: u16 = 256;
/// Nodes that a register remembers, also those that were removed.
pub const MEMBERS_MAX: usize = 1024;

/// Bytes of records that an engine's shard holds before all its replicas have them durable.
/// Beyond it, the engine takes no more requests and its sockets fill up.
pub const PENDING_BYTES_MAX: usize = 32 << 20;
/// Records that an engine's shard holds in the same way.
pub const PENDING_RECORDS_MAX: usize = 1 << 16;
/// Records of the tail that an engine keeps in memory for readers, in bytes.
pub const CACHE_BYTES_MAX: usize = 64 << 20;
/// Cuts that may be uncommitted at once; the next one gathers what has arrived.
pub const CUTS_IN_FLIGHT_MAX: usize = 16;
/// How long the first uncommitted cut may stay so, its engine gone, before a view change is asked for.
pub const STUCK_CUT: Duration = Duration::from_millis(500);
/// How long the primary may be gone, its connection closed, before a controller changes the view. What
/// is silent without a closed connection is found by the runtime, which closes it.
pub const PRIMARY_SUSPICION: Duration = Duration::from_millis(20);
/// How long a controller that was never connected to a node since its start does not call it lost.
pub const FIRST_CONTACT: Duration = Duration::from_secs(1);
/// How long a controller leaves a view change to each connected one that comes before it.
pub const CONTROLLER_STAND_BACK: Duration = Duration::from_millis(100);
/// Between two view changes that rest on suspicion alone: doubled from the least to the most with each
/// that comes soon after the last.
pub const SUSPICION_BACK_OFF: Duration = Duration::from_millis(50);
pub const SUSPICION_BACK_OFF_MAX: Duration = Duration::from_millis(1600);
/// View changes with so much time between them do not count as one soon after the other.
pub const SUSPICION_QUIET: Duration = Duration::from_secs(5);
/// How long a node may be gone before another takes its place in a view: longer than a restart takes,
/// for its successor copies what it had.
pub const REPLACE_LOST_NODE: Duration = Duration::from_secs(300);
/// How long an append may be pending before its engine reads the register.
pub const PENDING_PROBE: Duration = Duration::from_secs(1);
/// Before a request between nodes without an answer is sent again on a living connection.
pub const REQUEST_RETRY: Duration = Duration::from_millis(200);
/// Bytes of one Tags, Metalog, or Replicate message.
pub const STREAM_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes of one part of an index checkpoint: it shares journal blocks with appends, which wait for it.
pub const CHECKPOINT_PART_BYTES: usize = 16 << 10;
/// Bytes of batches after which a checkpoint may be worth writing: what is younger is applied again at
/// a restart.
pub const CHECKPOINT_LOG_BYTES_MIN: u64 = 256 << 20;
/// A checkpoint is begun when this many times the last one's bytes were appended since: writing one
/// takes longer than its size suggests.
pub const CHECKPOINT_LOG_FACTOR: u64 = 256;
/// When records died that are younger than the last checkpoint, and so can't be given back, it is begun
/// at this part of those bounds.
pub const CHECKPOINT_DEAD_PART: u64 = 8;
/// A checkpoint that is likely no larger may be written to a full disk: it fits what is kept free for
/// what is promised, and it is what gives room.
pub const CHECKPOINT_WHEN_FULL_BYTES_MAX: u64 = 2 << 20;
/// Bytes of a checkpoint for a record, about.
pub const CHECKPOINT_RECORD_BYTES: u64 = 4;
/// Parts of a checkpoint on their way to the storages at once.
pub const CHECKPOINT_PARTS_IN_FLIGHT_MAX: u32 = 2;
/// Parts of a checkpoint that an engine asks for at once.
pub const CHECKPOINT_PARTS_LOADING_MAX: u32 = 8;

/// Checkpoints of which a storage keeps parts at once; the oldest unfinished one gives way.
pub const CHECKPOINTS_KEPT_MAX: usize = 4;
/// Trims that a primary has not yet committed; further requests are dropped, and come again.
pub const TRIMS_IN_FLIGHT_MAX: usize = 1024;
/// Bytes a second at which a storage reads segments to tell what lives in them, and appends that
/// again: a fraction of a disk's, for appends wait behind it.
pub const REWRITE_BYTES_PER_S: u64 = 64 << 20;
/// How long a storage waits for a verdict about dead records before it asks another engine.
pub const JUDGE_RETRY: Duration = Duration::from_secs(1);
/// How long a storage of an open shard may be gone before its engine goes on in another shard, where
/// the view has another storage: longer than a restart takes.
pub const REPLICA_PATIENCE: Duration = Duration::from_secs(5);
/// How long an engine avoids a storage for new shards after it had lagged too far behind.
pub const SLOW_REPLICA_AVOIDED: Duration = Duration::from_secs(60);
/// After so long a storage that is not seen is taken to be lost for good: copies of what it has are made
/// elsewhere.
pub const STORAGE_LOST: Duration = Duration::from_secs(60);
/// How often an engine looks for shards that have too few copies, and asks again how far copies are.
pub const COPIES_LOOK: Duration = Duration::from_secs(1);
/// A shard whose copies do not go on for so many looks gives way to the next.
pub const COPIES_STALLED_LOOKS: u32 = 10;
/// Shards whose copies an engine has made or verified at once.
pub const COPIES_IN_FLIGHT_MAX: usize = 4;
/// Shards that a storage copies, or is asked to; what comes beyond is asked for again.
pub const COPIES_TAKEN_MAX: usize = 64;
/// Bytes a second that a storage takes from others for copies: a fraction of a disk's, for appends wait
/// behind it.
pub const COPY_BYTES_PER_S: u64 = 32 << 20;
/// How long a storage waits before it tries again to mend what nobody could give it.
pub const MEND_RETRY: Duration = Duration::from_secs(30);
/// Batches that no replica can read, which a storage lists one by one; those beyond are not listed.
pub const LOST_LISTED_MAX: usize = 64;
/// Bytes that a storage reads at once from its journal, unless a batch is larger.
pub const STORED_READ_BYTES: u32 = 256 << 10;
/// Bytes of a run of batches between two places that a storage remembers.
pub const STORED_MARK_BYTES: u32 = 16 << 10;

/// Sessions of one logspace. The oldest by last record goes first. Part of every verdict, so it
/// is fixed in the chain of views when a cluster is created.
pub const SESSIONS_MAX: u32 = 65_536;
/// Sessions of a logspace that a connection may open at once. A client needs one, and another when
/// that has expired.
pub const SESSION_OPENINGS_MAX: u32 = 64;
/// After so long it may open one more.
pub const SESSION_OPENING_INTERVAL: Duration = Duration::from_secs(1);
/// How far a request number may be ahead of the session's lowest unanswered one. Fixed likewise.
pub const SESSION_WINDOW: u32 = 8_192;

/// Records in the answer to one range read.
pub const READ_RECORDS_MAX: usize = 1024;
/// Bytes in the answer to one range read, unless its first record is larger.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Aux data of one record.
pub const AUX_BYTES_MAX: usize = 64 << 10;
/// Aux data that an engine keeps in memory, in bytes.
pub const AUX_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Reads that wait on one engine.
pub const WAITING_READS_MAX: usize = 1 << 20;
/// Subscriptions of one engine.
pub const SUBSCRIPTIONS_MAX: usize = 1 << 17;
/// Subscriptions of one connection to one engine.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 4096;
/// Credit of one subscription in bytes; more is not counted. So much may be on its way to a consumer
/// that takes nothing.
pub const SUBSCRIPTION_CREDIT_MAX: usize = 8 << 20;
/// Bytes that a subscription is sent before it is the next one's turn, unless one record is larger.
pub const SUBSCRIPTION_PAGE_BYTES: usize = 256 << 10;
/// Bytes that all subscriptions of an engine are sent in one turn; appends wait behind it.
pub const SUBSCRIPTION_TURN_BYTES: usize = 1 << 20;
/// Subscriptions that an engine looks after in one turn.
pub const SUBSCRIPTION_TURN_PAGES: usize = 1024;
/// Trims that wait on an engine for their metalog entries; more are refused.
pub const WAITING_TRIMS_MAX: usize = 10_000;
/// Reads that fetch from a storage at once; further ones wait their turn.
pub const FETCHES_IN_FLIGHT_MAX: usize = 1024;

const _: () = assert!(BATCH_BYTES_MAX >= RECORD_BYTES_MAX);
const _: () = assert!(
    BATCH_BYTES_MAX + BATCH_RECORDS_MAX * 16 + BATCH_TAGS_MAX * 8 + 4096 <= FRAME_BYTES_MAX,
    "the largest batch fits a frame"
);
const _: () = assert!(PENDING_BYTES_MAX > FRAME_BYTES_MAX);
const _: () = assert!(READ_BYTES_MAX + 64 * READ_RECORDS_MAX + 4096 <= FRAME_BYTES_MAX);
const _: () = assert!(SUBSCRIPTION_PAGE_BYTES <= READ_BYTES_MAX, "a page is an answer to a read");
const _: () = assert!(
    BATCH_BYTES_MAX + BATCH_RECORDS_MAX * 16 + BATCH_TAGS_MAX * 8 + AUX_BYTES_MAX + 4096 <= FRAME_BYTES_MAX,
    "the largest record with its aux data fits a page of its own"
);
