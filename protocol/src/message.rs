//! Messages between machines, one per step of a flow. protocol.md's table of streams names them.
//!
//! On one executor they are passed as they are; between nodes they are frames. A message carries
//! all that one turn gathered; bulk is a reference-counted slice.

use bytes::Bytes;

use crate::ids::{LogBookId, NodeId, NodeSet, Place, ShardId, Tag, ViewNumber};
use crate::metalog::EngineIncarnation;
use crate::seqnum::SeqNum;
use crate::view_cause::ViewReason;

mod wire;

pub use wire::{decode, encode};

/// A message between machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    // Replicate: engine → storage.
    /// The engine asks how far the storage has the shard.
    ReplicateOpen {
        shard: ShardId,
    },
    /// Storage → engine: it has `received` records, the first `durable` of them on disk. The
    /// engine goes on from `received`, which may be lower than it was before a crash.
    ReplicateResume {
        shard: ShardId,
        received: u64,
        durable: u64,
    },
    /// Whole batches of a shard, the first at position `first`.
    Replicate {
        shard: ShardId,
        first: u64,
        batches: Bytes,
    },
    /// Storage → engine: this many records are durable. The engine may let go of them.
    ReplicateDurable {
        shard: ShardId,
        durable: u64,
    },
    /// Storage → engine: the shard's view is sealed here; nothing more is taken.
    ReplicateRefused {
        shard: ShardId,
    },
    /// Storage → engine: whether its disk is full. Appends are refused before they get a position.
    StorageSpace {
        full: bool,
    },

    // Progress: storage → primary.
    /// `durable` only grows; `received` is the latest and may fall.
    Progress {
        shard: ShardId,
        received: u64,
        durable: u64,
    },

    // Metalog, among replicas.
    /// Backup → primary: it has `tail` entries of the view; go on from there.
    BackupResume {
        view: ViewNumber,
        tail: u64,
    },
    /// Primary → backup: entries from `from` on (perhaps none), and the commit index.
    BackupAppend {
        view: ViewNumber,
        from: u64,
        commit: u64,
        /// So many are committed by what is on disks. In class disk all that are.
        settled: u64,
        count: u32,
        entries: Bytes,
    },
    /// Backup → primary: this many entries of the view are durable here. In class memory, `held` are
    /// held by a life that counts; the latest, may fall.
    BackupAck {
        view: ViewNumber,
        held: u64,
        durable: u64,
    },
    /// Primary → backup: a round that confirms that nobody sealed the view before it.
    Confirm {
        view: ViewNumber,
        round: u64,
    },
    /// Backup → primary.
    Confirmed {
        view: ViewNumber,
        round: u64,
    },

    /// Primary → backup, or replica → replica that is repaired from it: a committed checkpoint covers
    /// the metalog before this place, so only what follows is sent. `entries` are the `OpenShard`
    /// entries before it whose shards may still be cut, `indices` where in the view they are.
    MetalogBase {
        base: Place,
        indices: Box<[u64]>,
        entries: Bytes,
    },

    // Metalog, to learners: committed entries only.
    /// Learner → replica: send what is committed from this place on.
    MetalogOpen {
        from: Place,
    },
    /// Replica → learner. With `more` the learner asks again; without, the replica sends on by
    /// itself as entries commit, or (for an ended view) there are no more.
    MetalogEntries {
        from: Place,
        count: u32,
        more: bool,
        entries: Bytes,
    },
    /// Replica → learner: it does not have this place, and won't by itself.
    MetalogNotHere {
        from: Place,
    },

    /// Replica → learner: what is before the checkpoint at this place is gone, or not worth sending.
    /// Its parts are on these storages; none: who says so does not know where.
    MetalogGone {
        from: Place,
        checkpoint: Place,
        replicas: Box<NodeSet>,
    },

    // Checkpoints of the index: engine → storages → engines.
    /// Engine → storage: a part, the next after those that [`Message::CheckpointStored`] counts.
    /// Storage → engine: the answer to [`Message::CheckpointOpen`].
    CheckpointPart {
        place: Place,
        part: u32,
        last: bool,
        bytes: Bytes,
    },
    /// Storage → engine: so many parts of it are durable here.
    CheckpointStored {
        place: Place,
        parts: u32,
    },
    /// Engine → primary: the whole checkpoint is durable on these storages.
    CheckpointDone {
        place: Place,
        /// The SeqNum that is given next there.
        next: SeqNum,
        replicas: Box<NodeSet>,
    },
    /// Engine → storage: send this part.
    CheckpointOpen {
        place: Place,
        part: u32,
    },
    /// Storage → engine: it has no such part, or can't read it. Ask another.
    CheckpointNotHere {
        place: Place,
        part: u32,
    },
    /// Whoever knows → storage: the metalog's entry of this checkpoint is committed. Those at
    /// earlier places count no more.
    CheckpointCommitted {
        place: Place,
    },

    // Space.
    /// Engine → primary: trim. Done when the engine applies an entry that says so.
    Trim {
        logbook: LogBookId,
        tag: Tag,
        first: SeqNum,
    },
    /// Engine → storage, a hint: so many more records between these positions are dead.
    Dying {
        shard: ShardId,
        from: u64,
        to: u64,
        records: u64,
    },
    /// Storage → engine: which of these records are dead? Entries as in [`Message::TagsEntries`].
    Judge {
        request: u64,
        shard: ShardId,
        first: u64,
        entries: Bytes,
    },
    /// Engine → storage: a bit for each record, the first in the lowest bit of the first byte: dead,
    /// and no rebuilt index needs its Tags.
    Judged {
        request: u64,
        /// The last checkpoint that counts, as the engine has applied it.
        checkpoint: Place,
        dead: Bytes,
    },

    // Tags: storage → engine.
    /// Send Tags entries from this position on; also those that come.
    TagsOpen {
        shard: ShardId,
        from: u64,
    },
    /// Entries of whole batches, the first at position `first`. With `more` the engine asks again;
    /// without, the storage sends on by itself.
    TagsEntries {
        shard: ShardId,
        first: u64,
        more: bool,
        entries: Bytes,
    },

    /// There is nothing before position `first` any more: dropped, or lost. Records that a storage drops
    /// are covered by a checkpoint that counts; this is the last one that it was told of, the first
    /// place if there is none. An engine that is behind it goes on from there.
    TagsGone {
        shard: ShardId,
        first: u64,
        checkpoint: Place,
    },

    // Fetch: engine → storage.
    Fetch {
        request: u64,
        shard: ShardId,
        position: u64,
        /// Records from the position to before this one are wanted as well, as far as one read gets them.
        until: u64,
    },
    /// The whole batch that holds the position, and perhaps some that follow it without a gap.
    Fetched {
        request: u64,
        batch: Bytes,
    },
    /// The storage has no such record, any more or yet: try the next replica.
    FetchNotHere {
        request: u64,
    },
    /// The storage has it, and can't read it.
    FetchCorrupt {
        request: u64,
    },

    // Control: engine → primary.
    OpenShard {
        engine: EngineIncarnation,
        ordinal: u64,
        replicas: Box<NodeSet>,
    },
    CloseShard {
        shard: ShardId,
    },
    CommitQuery {
        request: u64,
    },
    /// All that was committed when the query came is before this place.
    CommitAnswer {
        request: u64,
        place: Place,
    },

    // Control: changing the view.
    /// Anyone → controller: the view needs a successor.
    ViewWanted {
        view: ViewNumber,
        reason: ViewReason,
    },
    /// Controller → sequencer replica or storage.
    Seal {
        view: ViewNumber,
    },
    /// Replica → controller, its seal durable: `entries` are those from `commit` to `tail`, `shards`
    /// those that they cut, with their replicas. In class memory, `commit` is what is settled, and
    /// `restarted` says that it began this life in the view: it does not know what it said before.
    SequencerSealed {
        restarted: bool,
        view: ViewNumber,
        tail: u64,
        commit: u64,
        entries: Bytes,
        shards: Box<[(u64, NodeSet)]>,
    },
    /// Storage → controller, its seal durable: all its shards of the view with their durable prefixes.
    StorageSealed {
        restarted: bool,
        view: ViewNumber,
        shards: Vec<(ShardId, u64)>,
    },
    /// Controller → replica: make the view's entries up to `end` durable; get them from `source`.
    RepairMetalog {
        view: ViewNumber,
        end: u64,
        source: NodeId,
    },
    /// Replica → replica: send entries of the view from `from`, also uncommitted, up to `end`.
    RepairPull {
        view: ViewNumber,
        from: u64,
        end: u64,
    },
    /// Replica → replica.
    RepairEntries {
        view: ViewNumber,
        from: u64,
        count: u32,
        entries: Bytes,
    },
    /// Replica → controller: it has `durable` entries of the view.
    MetalogRepaired {
        view: ViewNumber,
        durable: u64,
    },
    /// Controller → storage: make the shard durable up to `prefix`; get it from `source`.
    RepairShard {
        shard: ShardId,
        prefix: u64,
        source: NodeId,
    },
    /// Storage → storage: send the shard from `from` up to `prefix`, as `Repair`.
    ShardPull {
        shard: ShardId,
        from: u64,
        prefix: u64,
    },
    /// Storage → storage: a run of batches, as `Replicate`, but from another storage. What lies
    /// between the position asked for and `first` is not there any more.
    ShardCopy {
        shard: ShardId,
        first: u64,
        batches: Bytes,
    },
    /// Storage → controller: it has `durable` records of the shard.
    ShardRepaired {
        shard: ShardId,
        durable: u64,
    },

    // Copies that are made again in the background: engine → storage, storage → storage.
    /// Engine → storage: make the ordered prefix of a shard that gets no more durable, from these storages.
    /// What `enough` of them do not have was dropped: one of so many had it once.
    CopyShard {
        shard: ShardId,
        until: u64,
        enough: u8,
        sources: Box<NodeSet>,
    },
    /// Storage → engine: it has everything before `position` that there is, and took so many bytes of it
    /// since it was asked first. `done`: all of it is durable.
    CopyState {
        shard: ShardId,
        position: u64,
        bytes: u64,
        done: bool,
    },
    /// Storage → storage: send what there is of the shard from position `from` on.
    CopyPull {
        shard: ShardId,
        from: u64,
        until: u64,
    },
    /// Storage → storage: a run of batches, the first at the position that was asked for. Without batches
    /// there is nothing up to `first`; where that is the same position, there is something, and it can't be
    /// read yet. `had`: the storage had that position once.
    CopyPart {
        shard: ShardId,
        from: u64,
        first: u64,
        had: bool,
        batches: Bytes,
    },
    /// Storage → storage: there is something at the position that was asked for, and its bytes are damaged.
    /// What may be readable again begins at `next`.
    CopyDamaged {
        shard: ShardId,
        from: u64,
        next: u64,
    },
    /// Engine → primary: the ordered prefix of a shard that gets no more is durable on these, as the engine
    /// knows which has applied the metalog up to this place.
    MoveShard {
        shard: ShardId,
        place: Place,
        replicas: Box<NodeSet>,
    },
}

const _: () = assert!(size_of::<Message>() <= 88, "messages are moved about: they stay small");
