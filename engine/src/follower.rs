//! What an engine learns: committed metalog entries in order, and the Tags of the records that they
//! order. An entry is given out once everything that it needs is here.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sealog_protocol::batch::ArchivedBatchMetadata;
use sealog_protocol::metalog::{self, Entry};
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::tags::{EntryHead, heads};
use sealog_protocol::view::Chain;
use sealog_protocol::{NodeId, Place, ShardId, Time, ViewNumber};

/// A run of Tags entries of a shard; without entries: what lies before `next` is lost.
#[derive(Debug)]
struct TagsRun {
    /// The position after its last record.
    next: u64,
    entries: Bytes,
}

/// The Tags of one shard that are not yet applied.
#[derive(Debug, Default)]
pub struct ShardTags {
    /// Tags below this position were received; as a position, exclusive.
    received: u64,
    /// Tags below this position were taken.
    taken: u64,
    runs: VecDeque<TagsRun>,
    /// Bytes of the first run that were taken.
    offset: usize,
    /// The storage that sends them.
    pub source: Option<NodeId>,
    /// How often another source was chosen.
    pub attempts: usize,
    /// How many have said that the next ones are gone.
    pub gone: usize,
    /// When they were last asked for.
    pub asked_at: Time,
}

/// What the next records of a shard are.
pub enum NextTags<'a> {
    /// A batch, and the bytes of its frame.
    Batch(&'a ArchivedBatchMetadata, u32),
    /// The Tags of so many records are lost.
    Lost(u64),
}

impl ShardTags {
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes what a storage sent. Parts that are here already are skipped; what would leave a gap
    /// is dropped.
    pub fn push(&mut self, first: u64, bytes: Bytes) {
        if bytes.is_empty() {
            // Nobody has what is before `first` any more.
            if first > self.received {
                self.runs.push_back(TagsRun { next: first, entries: bytes });
                self.received = first;
            }
            return;
        }
        if first > self.received {
            return;
        }
        let (mut position, mut start, mut rest) = (first, first, bytes.clone());
        for head in heads(&bytes) {
            let Ok(head) = head else { return };
            position += head.records;
            if position <= self.received {
                rest = rest.slice(head.entry_bytes..);
                start = position;
            }
        }
        if position > self.received && start == self.received {
            self.gone = 0;
            self.runs.push_back(TagsRun { next: position, entries: rest });
            self.received = position;
        }
    }

    /// What the next records are, and in how many bytes of Tags.
    pub fn peek(&self) -> Option<(NextTags<'_>, usize)> {
        let run = self.runs.front()?;
        if run.entries.is_empty() {
            return Some((NextTags::Lost(run.next - self.taken), 0));
        }
        let head = EntryHead::parse(&run.entries[self.offset..]).expect("walked when it was received");
        let next = match head.metadata() {
            Ok(metadata) => NextTags::Batch(metadata, head.frame_bytes),
            Err(_) => NextTags::Lost(head.records),
        };
        Some((next, head.entry_bytes))
    }

    /// Takes what [`ShardTags::peek`] showed: so many records, in so many bytes.
    pub fn advance(&mut self, records: u64, bytes: usize) {
        self.taken += records;
        self.offset += bytes;
        if self.runs.front().is_some_and(|run| self.taken >= run.next) {
            self.runs.pop_front();
            self.offset = 0;
        }
    }
}

/// The learning side of an engine.
#[derive(Debug, Default)]
pub struct Follower {
    /// The next entry to be received.
    next: Place,
    /// Received entries that wait to be applied.
    queue: VecDeque<Bytes>,
    /// Bytes of the first element of `queue` that were taken.
    offset: usize,
    queued_bytes: usize,
    tags: BTreeMap<ShardId, ShardTags>,
    /// The replica that sends the metalog, and how often another one was chosen.
    pub source: Option<NodeId>,
    pub attempts: usize,
    pub asked_at: Time,
    /// No replica is asked before this time: all have been.
    pub not_before: Time,
}

impl Follower {
    pub fn next(&self) -> Place {
        self.next
    }

    /// Begins with the first entry of the first view.
    pub fn start(&mut self) {
        self.start_at(Place { view: ViewNumber(1), index: 0 });
    }

    /// Begins with the entry at a place: what was received is dropped.
    pub fn start_at(&mut self, place: Place) {
        *self = Follower { next: place, attempts: self.attempts, ..Follower::default() };
    }

    /// Bytes of entries that wait to be applied.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Takes committed entries, if they are the next; returns whether they were.
    pub fn push(&mut self, from: Place, count: u32, entries: Bytes) -> bool {
        let whole = || metalog::entries(&entries).filter(Result::is_ok).count() == count as usize;
        if from != self.next || count == 0 || !whole() {
            return false;
        }
        self.next.index += u64::from(count);
        self.queued_bytes += entries.len();
        self.queue.push_back(entries);
        true
    }

    /// Goes on to the next view if what was received is all of this one.
    pub fn advance_view(&mut self, chain: &Chain) -> bool {
        if chain.end(self.next.view) != Some(self.next.index) {
            return false;
        }
        self.next = Place { view: ViewNumber(self.next.view.0 + 1), index: 0 };
        true
    }

    pub fn tags(&mut self, shard: ShardId) -> Option<&mut ShardTags> {
        self.tags.get_mut(&shard)
    }

    pub fn all_tags(&mut self) -> impl Iterator<Item = (ShardId, &mut ShardTags)> {
        self.tags.iter_mut().map(|(id, tags)| (*id, tags))
    }

    /// Begins to follow a shard's Tags, from the record at `prefix` on.
    pub fn follow(&mut self, shard: ShardId, prefix: u64) {
        self.tags.entry(shard).or_insert_with(|| ShardTags { received: prefix, taken: prefix, ..ShardTags::default() });
    }

    /// Ends it: the shard will have no more records.
    pub fn unfollow(&mut self, shard: ShardId) {
        self.tags.remove(&shard);
    }

    /// Shards of views before this one that still are followed.
    pub fn followed_before(&self, view: ViewNumber) -> Vec<ShardId> {
        self.tags.keys().copied().take_while(|shard| shard.view < view).collect()
    }

    /// The next entry's encoding, if all Tags that it needs are here; else the shard that lacks some.
    pub fn take_ready(&mut self, view: ViewNumber) -> Result<Option<Bytes>, ShardId> {
        let Some(front) = self.queue.front() else { return Ok(None) };
        let (entry, bytes) = Entry::decode(&front[self.offset..]).expect("checked when it was received");
        if let Entry::Cut(cut) = entry {
            for moved in cut.moves() {
                let id = ShardId { view, index: moved.shard_index };
                if self.tags.get(&id).is_some_and(|tags| tags.received < moved.prefix) {
                    return Err(id);
                }
            }
        }
        let encoded = front.slice(self.offset..self.offset + bytes);
        self.offset += bytes;
        self.queued_bytes -= bytes;
        if self.offset == front.len() {
            self.queue.pop_front();
            self.offset = 0;
        }
        Ok(Some(encoded))
    }
}

/// Chooses, of these nodes, the one to ask in this attempt: those connected, the own node first.
pub fn choose(
    nodes: impl Iterator<Item = NodeId>,
    own: NodeId,
    is_connected: impl Fn(NodeId) -> bool,
    attempt: usize,
) -> Option<NodeId> {
    let mut able: Vec<NodeId> = nodes.filter(|node| is_connected(*node)).collect();
    able.sort_by_key(|node| *node != own);
    if able.is_empty() {
        return None;
    }
    if attempt > 0 {
        mark(Mark::FetchTriedNextReplica);
    }
    Some(able[attempt % able.len()])
}
