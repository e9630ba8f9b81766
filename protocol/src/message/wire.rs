//! A message as a frame: its fields as the frame's metadata, its bulk as payload.

use bytes::Bytes;
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use super::Message;
use crate::frame::{Frame, FrameError, FrameKind, PlaceScope, write_frame};
use crate::ids::{Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, Place, ShardId, Tag, ViewNumber};
use crate::machine::{Address, Role};
use crate::metalog::EngineIncarnation;
use crate::seqnum::SeqNum;
use crate::view_cause::ViewReason;

/// The form of a message's metadata in a frame.
#[derive(Archive, Serialize, Deserialize)]
struct Envelope {
    from_node: u64,
    from_role: u8,
    to_role: u8,
    logspace: u16,
    body: Body,
}

#[derive(Archive, Serialize, Deserialize)]
enum Body {
    ReplicateOpen(Shard),
    ReplicateResume(Shard, u64, u64),
    Replicate(Shard, u64),
    ReplicateDurable(Shard, u64),
    ReplicateRefused(Shard),
    StorageSpace(bool),
    Progress(Shard, u64, u64),
    BackupResume(u32, u64),
    BackupAppend(u32, u64, u64, u64, u32),
    BackupAck(u32, u64, u64),
    Confirm(u32, u64),
    Confirmed(u32, u64),
    MetalogBase(u32, u64, Vec<u64>),
    MetalogOpen(u32, u64),
    MetalogEntries(u32, u64, u32, bool),
    MetalogNotHere(u32, u64),
    MetalogGone(u32, u64, u32, u64, Vec<u64>),
    CheckpointPart(u32, u64, u32, bool),
    CheckpointStored(u32, u64, u32),
    CheckpointDone(u32, u64, u64, Vec<u64>),
    CheckpointOpen(u32, u64, u32),
    CheckpointNotHere(u32, u64, u32),
    CheckpointCommitted(u32, u64),
    Trim(u64, u64, u64),
    Dying(Shard, u64, u64, u64),
    Judge(u64, Shard, u64),
    Judged(u64, u32, u64),
    TagsOpen(Shard, u64),
    TagsEntries(Shard, u64, bool),
    TagsGone(Shard, u64, u32, u64),
    Fetch(u64, Shard, u64, u64),
    Fetched(u64),
    FetchNotHere(u64),
    FetchCorrupt(u64),
    OpenShard(u64, u64, u64, Vec<u64>),
    CloseShard(Shard),
    CommitQuery(u64),
    CommitAnswer(u64, u32, u64),
    ViewWanted(u32, ViewReason),
    Seal(u32),
    SequencerSealed(bool, u32, u64, u64, Vec<(u64, Vec<u64>)>),
    StorageSealed(bool, u32, Vec<(Shard, u64)>),
    RepairMetalog(u32, u64, u64),
    RepairPull(u32, u64, u64),
    RepairEntries(u32, u64, u32),
    MetalogRepaired(u32, u64),
    RepairShard(Shard, u64, u64),
    ShardPull(Shard, u64, u64),
    ShardCopy(Shard, u64),
    ShardRepaired(Shard, u64),
    CopyShard(Shard, u64, u8, Vec<u64>),
    CopyState(Shard, u64, u64, bool),
    CopyPull(Shard, u64, u64),
    CopyPart(Shard, u64, u64, bool),
    MoveShard(Shard, u32, u64, Vec<u64>),
    CopyDamaged(Shard, u64, u64),
}

#[derive(Clone, Copy, Archive, Serialize, Deserialize)]
struct Shard(u32, u64);

impl From<ShardId> for Shard {
    fn from(shard: ShardId) -> Shard {
        Shard(shard.view.0, shard.index)
    }
}

impl From<Shard> for ShardId {
    fn from(shard: Shard) -> ShardId {
        ShardId { view: ViewNumber(shard.0), index: shard.1 }
    }
}

/// Appends a message's frame to `out`.
pub fn encode(out: &mut Vec<u8>, from: Address, to: Address, message: &Message) {
    let (body, payload) = to_body(message);
    let kind = match message {
        Message::Replicate { .. } | Message::Fetched { .. } | Message::ShardCopy { .. } | Message::CopyPart { .. } => {
            FrameKind::BatchMessage
        }
        _ => FrameKind::Message,
    };
    let envelope = Envelope {
        from_node: from.node.0,
        from_role: from.role as u8,
        to_role: to.role as u8,
        logspace: to.logspace.0,
        body,
    };
    let metadata = rkyv::to_bytes::<rancor::Error>(&envelope).expect("serialising into memory cannot fail");
    write_frame(out, kind, to.node.0, 0, &metadata, &[payload]);
}

/// The message of a verified frame that came as `bytes`: a slice of them becomes its bulk.
/// Batches in it are not verified; whoever takes them in does that.
///
/// # Errors
/// When the metadata is not a message.
pub fn decode(bytes: &Bytes) -> Result<(Address, Address, Message), FrameError> {
    let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
    if !matches!(frame.header.kind, FrameKind::Message | FrameKind::BatchMessage) {
        return Err(FrameError::Kind(frame.header.kind as u8));
    }
    let envelope = rkyv::from_bytes::<Envelope, rancor::Error>(frame.metadata).map_err(|_| FrameError::Metadata)?;
    let logspace = LogspaceId(envelope.logspace);
    let from = Address { node: NodeId(envelope.from_node), logspace, role: role(envelope.from_role)? };
    let to =
        Address { node: NodeId(frame.verify_place(PlaceScope::Connection)?), logspace, role: role(envelope.to_role)? };
    let message = from_body(envelope.body, bytes.slice_ref(frame.payload)).ok_or(FrameError::Metadata)?;
    Ok((from, to, message))
}

fn role(byte: u8) -> Result<Role, FrameError> {
    [Role::Engine, Role::Storage, Role::Sequencer, Role::Controller]
        .into_iter()
        .find(|role| *role as u8 == byte)
        .ok_or(FrameError::Metadata)
}

fn to_body(message: &Message) -> (Body, &[u8]) {
    let body = match message {
        Message::ReplicateOpen { shard } => Body::ReplicateOpen((*shard).into()),
        Message::ReplicateResume { shard, received, durable } => {
            Body::ReplicateResume((*shard).into(), *received, *durable)
        }
        Message::Replicate { shard, first, batches } => return (Body::Replicate((*shard).into(), *first), batches),
        Message::ReplicateDurable { shard, durable } => Body::ReplicateDurable((*shard).into(), *durable),
        Message::ReplicateRefused { shard } => Body::ReplicateRefused((*shard).into()),
        Message::StorageSpace { full } => Body::StorageSpace(*full),
        Message::Progress { shard, received, durable } => Body::Progress((*shard).into(), *received, *durable),
        Message::BackupResume { view, tail } => Body::BackupResume(view.0, *tail),
        Message::BackupAppend { view, from, commit, settled, count, entries } => {
            return (Body::BackupAppend(view.0, *from, *commit, *settled, *count), entries);
        }
        Message::BackupAck { view, held, durable } => Body::BackupAck(view.0, *held, *durable),
        Message::Confirm { view, round } => Body::Confirm(view.0, *round),
        Message::Confirmed { view, round } => Body::Confirmed(view.0, *round),
        Message::MetalogBase { base, indices, entries } => {
            return (Body::MetalogBase(base.view.0, base.index, indices.to_vec()), entries);
        }
        Message::MetalogOpen { from } => Body::MetalogOpen(from.view.0, from.index),
        Message::MetalogEntries { from, count, more, entries } => {
            return (Body::MetalogEntries(from.view.0, from.index, *count, *more), entries);
        }
        Message::MetalogNotHere { from } => Body::MetalogNotHere(from.view.0, from.index),
        Message::MetalogGone { from, checkpoint, replicas } => {
            let (at, to) = (from, checkpoint);
            Body::MetalogGone(at.view.0, at.index, to.view.0, to.index, numbers(replicas))
        }
        Message::CheckpointPart { place, part, last, bytes } => {
            return (Body::CheckpointPart(place.view.0, place.index, *part, *last), bytes);
        }
        Message::CheckpointStored { place, parts } => Body::CheckpointStored(place.view.0, place.index, *parts),
        Message::CheckpointDone { place, next, replicas } => {
            Body::CheckpointDone(place.view.0, place.index, next.0, numbers(replicas))
        }
        Message::CheckpointOpen { place, part } => Body::CheckpointOpen(place.view.0, place.index, *part),
        Message::CheckpointNotHere { place, part } => Body::CheckpointNotHere(place.view.0, place.index, *part),
        Message::CheckpointCommitted { place } => Body::CheckpointCommitted(place.view.0, place.index),
        Message::Trim { logbook, tag, first } => Body::Trim(logbook.0, tag.0, first.0),
        Message::Dying { shard, from, to, records } => Body::Dying((*shard).into(), *from, *to, *records),
        Message::Judge { request, shard, first, entries } => {
            return (Body::Judge(*request, (*shard).into(), *first), entries);
        }
        Message::Judged { request, checkpoint: at, dead } => {
            return (Body::Judged(*request, at.view.0, at.index), dead);
        }
        Message::TagsOpen { shard, from } => Body::TagsOpen((*shard).into(), *from),
        Message::TagsGone { shard, first, checkpoint } => {
            Body::TagsGone((*shard).into(), *first, checkpoint.view.0, checkpoint.index)
        }
        Message::TagsEntries { shard, first, more, entries } => {
            return (Body::TagsEntries((*shard).into(), *first, *more), entries);
        }
        Message::Fetch { request, shard, position, until } => Body::Fetch(*request, (*shard).into(), *position, *until),
        Message::Fetched { request, batch } => return (Body::Fetched(*request), batch),
        Message::FetchNotHere { request } => Body::FetchNotHere(*request),
        Message::FetchCorrupt { request } => Body::FetchCorrupt(*request),
        Message::OpenShard { engine, ordinal, replicas } => {
            let replicas = replicas.iter().map(|node| node.0).collect();
            Body::OpenShard(engine.node.0, engine.incarnation.0, *ordinal, replicas)
        }
        Message::CloseShard { shard } => Body::CloseShard((*shard).into()),
        Message::CommitQuery { request } => Body::CommitQuery(*request),
        Message::CommitAnswer { request, place } => Body::CommitAnswer(*request, place.view.0, place.index),
        Message::ViewWanted { view, reason } => Body::ViewWanted(view.0, *reason),
        Message::Seal { view } => Body::Seal(view.0),
        Message::SequencerSealed { restarted, view, tail, commit, entries, shards } => {
            let shards = shards.iter().map(|(index, nodes)| (*index, nodes.iter().map(|node| node.0).collect()));
            return (Body::SequencerSealed(*restarted, view.0, *tail, *commit, shards.collect()), entries);
        }
        Message::StorageSealed { restarted, view, shards } => {
            let shards = shards.iter().map(|(shard, durable)| ((*shard).into(), *durable)).collect();
            Body::StorageSealed(*restarted, view.0, shards)
        }
        Message::RepairMetalog { view, end, source } => Body::RepairMetalog(view.0, *end, source.0),
        Message::RepairPull { view, from, end } => Body::RepairPull(view.0, *from, *end),
        Message::RepairEntries { view, from, count, entries } => {
            return (Body::RepairEntries(view.0, *from, *count), entries);
        }
        Message::MetalogRepaired { view, durable } => Body::MetalogRepaired(view.0, *durable),
        Message::RepairShard { shard, prefix, source } => Body::RepairShard((*shard).into(), *prefix, source.0),
        Message::ShardPull { shard, from, prefix } => Body::ShardPull((*shard).into(), *from, *prefix),
        Message::ShardCopy { shard, first, batches } => return (Body::ShardCopy((*shard).into(), *first), batches),
        Message::ShardRepaired { shard, durable } => Body::ShardRepaired((*shard).into(), *durable),
        Message::CopyShard { shard, until, enough, sources } => {
            Body::CopyShard((*shard).into(), *until, *enough, numbers(sources))
        }
        Message::CopyState { shard, position, bytes, done } => {
            Body::CopyState((*shard).into(), *position, *bytes, *done)
        }
        Message::CopyPull { shard, from, until } => Body::CopyPull((*shard).into(), *from, *until),
        Message::CopyDamaged { shard, from, next } => Body::CopyDamaged((*shard).into(), *from, *next),
        Message::CopyPart { shard, from, first, had, batches } => {
            return (Body::CopyPart((*shard).into(), *from, *first, *had), batches);
        }
        Message::MoveShard { shard, place, replicas } => {
            Body::MoveShard((*shard).into(), place.view.0, place.index, numbers(replicas))
        }
    };
    (body, &[])
}

fn from_body(body: Body, payload: Bytes) -> Option<Message> {
    let view = ViewNumber;
    let place = |view: u32, index: u64| Place { view: ViewNumber(view), index };
    Some(match body {
        Body::ReplicateOpen(shard) => Message::ReplicateOpen { shard: shard.into() },
        Body::ReplicateResume(shard, received, durable) => {
            Message::ReplicateResume { shard: shard.into(), received, durable }
        }
        Body::Replicate(shard, first) => Message::Replicate { shard: shard.into(), first, batches: payload },
        Body::ReplicateDurable(shard, durable) => Message::ReplicateDurable { shard: shard.into(), durable },
        Body::ReplicateRefused(shard) => Message::ReplicateRefused { shard: shard.into() },
        Body::StorageSpace(full) => Message::StorageSpace { full },
        Body::Progress(shard, received, durable) => Message::Progress { shard: shard.into(), received, durable },
        Body::BackupResume(v, tail) => Message::BackupResume { view: view(v), tail },
        Body::BackupAppend(v, from, commit, settled, count) => {
            Message::BackupAppend { view: view(v), from, commit, settled, count, entries: payload }
        }
        Body::BackupAck(v, held, durable) => Message::BackupAck { view: view(v), held, durable },
        Body::Confirm(v, round) => Message::Confirm { view: view(v), round },
        Body::Confirmed(v, round) => Message::Confirmed { view: view(v), round },
        Body::MetalogBase(v, index, indices) => {
            Message::MetalogBase { base: place(v, index), indices: indices.into(), entries: payload }
        }
        Body::MetalogOpen(v, index) => Message::MetalogOpen { from: place(v, index) },
        Body::MetalogEntries(v, index, count, more) => {
            Message::MetalogEntries { from: place(v, index), count, more, entries: payload }
        }
        Body::MetalogNotHere(v, index) => Message::MetalogNotHere { from: place(v, index) },
        Body::MetalogGone(v, index, to_view, to_index, nodes) => Message::MetalogGone {
            from: place(v, index),
            checkpoint: place(to_view, to_index),
            replicas: Box::new(node_set(nodes)?),
        },
        Body::CheckpointPart(v, index, part, last) => {
            Message::CheckpointPart { place: place(v, index), part, last, bytes: payload }
        }
        Body::CheckpointStored(v, index, parts) => Message::CheckpointStored { place: place(v, index), parts },
        Body::CheckpointDone(v, index, next, nodes) => {
            let replicas = Box::new(node_set(nodes)?);
            Message::CheckpointDone { place: place(v, index), next: SeqNum(next), replicas }
        }
        Body::CheckpointOpen(v, index, part) => Message::CheckpointOpen { place: place(v, index), part },
        Body::CheckpointNotHere(v, index, part) => Message::CheckpointNotHere { place: place(v, index), part },
        Body::CheckpointCommitted(v, index) => Message::CheckpointCommitted { place: place(v, index) },
        Body::Trim(logbook, tag, first) => {
            Message::Trim { logbook: LogBookId(logbook), tag: Tag(tag), first: SeqNum(first) }
        }
        Body::Dying(shard, from, to, records) => Message::Dying { shard: shard.into(), from, to, records },
        Body::Judge(request, shard, first) => Message::Judge { request, shard: shard.into(), first, entries: payload },
        Body::Judged(request, v, index) => Message::Judged { request, checkpoint: place(v, index), dead: payload },
        Body::TagsOpen(shard, from) => Message::TagsOpen { shard: shard.into(), from },
        Body::TagsGone(shard, first, v, index) => {
            Message::TagsGone { shard: shard.into(), first, checkpoint: place(v, index) }
        }
        Body::TagsEntries(shard, first, more) => {
            Message::TagsEntries { shard: shard.into(), first, more, entries: payload }
        }
        Body::Fetch(request, shard, position, until) => {
            Message::Fetch { request, shard: shard.into(), position, until }
        }
        Body::Fetched(request) => Message::Fetched { request, batch: payload },
        Body::FetchNotHere(request) => Message::FetchNotHere { request },
        Body::FetchCorrupt(request) => Message::FetchCorrupt { request },
        Body::OpenShard(node, incarnation, ordinal, replicas) => Message::OpenShard {
            engine: EngineIncarnation { node: NodeId(node), incarnation: Incarnation(incarnation) },
            ordinal,
            replicas: Box::new(node_set(replicas)?),
        },
        Body::CloseShard(shard) => Message::CloseShard { shard: shard.into() },
        Body::CommitQuery(request) => Message::CommitQuery { request },
        Body::CommitAnswer(request, v, index) => Message::CommitAnswer { request, place: place(v, index) },
        Body::ViewWanted(v, reason) => Message::ViewWanted { view: view(v), reason },
        Body::Seal(v) => Message::Seal { view: view(v) },
        Body::SequencerSealed(restarted, v, tail, commit, shards) => {
            let shards = shards.into_iter().map(|(index, nodes)| Some((index, node_set(nodes)?)));
            let shards = shards.collect::<Option<Box<[_]>>>()?;
            Message::SequencerSealed { restarted, view: view(v), tail, commit, entries: payload, shards }
        }
        Body::StorageSealed(restarted, v, shards) => {
            let shards = shards.into_iter().map(|(shard, durable)| (shard.into(), durable)).collect();
            Message::StorageSealed { restarted, view: view(v), shards }
        }
        Body::RepairMetalog(v, end, source) => Message::RepairMetalog { view: view(v), end, source: NodeId(source) },
        Body::RepairPull(v, from, end) => Message::RepairPull { view: view(v), from, end },
        Body::RepairEntries(v, from, count) => Message::RepairEntries { view: view(v), from, count, entries: payload },
        Body::MetalogRepaired(v, durable) => Message::MetalogRepaired { view: view(v), durable },
        Body::RepairShard(shard, prefix, source) => {
            Message::RepairShard { shard: shard.into(), prefix, source: NodeId(source) }
        }
        Body::ShardPull(shard, from, prefix) => Message::ShardPull { shard: shard.into(), from, prefix },
        Body::ShardCopy(shard, first) => Message::ShardCopy { shard: shard.into(), first, batches: payload },
        Body::ShardRepaired(shard, durable) => Message::ShardRepaired { shard: shard.into(), durable },
        Body::CopyShard(shard, until, enough, nodes) => {
            Message::CopyShard { shard: shard.into(), until, enough, sources: Box::new(node_set(nodes)?) }
        }
        Body::CopyState(shard, position, bytes, done) => {
            Message::CopyState { shard: shard.into(), position, bytes, done }
        }
        Body::CopyPull(shard, from, until) => Message::CopyPull { shard: shard.into(), from, until },
        Body::CopyDamaged(shard, from, next) => Message::CopyDamaged { shard: shard.into(), from, next },
        Body::CopyPart(shard, from, first, had) => {
            Message::CopyPart { shard: shard.into(), from, first, had, batches: payload }
        }
        Body::MoveShard(shard, v, index, nodes) => {
            let replicas = Box::new(node_set(nodes)?);
            Message::MoveShard { shard: shard.into(), place: place(v, index), replicas }
        }
    })
}

fn numbers(nodes: &NodeSet) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn node_set(nodes: Vec<u64>) -> Option<NodeSet> {
    NodeSet::new(&nodes.into_iter().map(NodeId).collect::<Vec<_>>())
}
