//! A logspace as its metalog builds it: the one implementation of "apply entries in order".
//! Primary, backups, engines and storages all run it.

use std::collections::BTreeMap;

use crate::ids::{NodeSet, Place, ShardId, ViewNumber};
use crate::metalog::{EngineIncarnation, Entry};
use crate::mutant::{Mutant, active};
use crate::seqnum::SeqNum;
use crate::view::{Chain, View};

/// A shard, as the metalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub engine: EngineIncarnation,
    pub ordinal: u64,
    /// Where its records are. `MoveShard` changes it.
    pub replicas: NodeSet,
    /// How many of its records are ordered.
    pub prefix: u64,
    pub closed: bool,
}

/// Records that an entry ordered: positions `from..to` of `shard`, the first at `seqnum`, the
/// others by ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    pub shard: ShardId,
    pub from: u64,
    pub to: u64,
    pub seqnum: SeqNum,
}

/// State of a logspace after a prefix of its metalog.
#[derive(Clone, Debug)]
pub struct Logspace {
    /// What has been applied. An ended view's end and the next view's begin are different places.
    place: Place,
    /// How many SeqNums of the view are given out.
    position: u64,
    shards: BTreeMap<ShardId, Shard>,
    checkpoint: Option<Checkpoint>,
}

/// The last checkpoint of the index that the metalog names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub place: Place,
    /// The SeqNum that was given next there.
    pub next: SeqNum,
    /// Storages that hold it.
    pub replicas: NodeSet,
}

impl Logspace {
    /// Before the first entry of this view, the first of its chain.
    pub fn new(view: &View) -> Logspace {
        let mut logspace = Logspace { place: Place::default(), position: 0, shards: BTreeMap::new(), checkpoint: None };
        logspace.enter(view);
        logspace
    }

    /// As a checkpoint of the index describes it.
    pub fn restored(
        next: SeqNum,
        place: Place,
        shards: BTreeMap<ShardId, Shard>,
        checkpoint: Option<Checkpoint>,
    ) -> Logspace {
        Logspace { place, position: next.position(), shards, checkpoint }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The SeqNum that the next ordered record gets.
    pub fn next_seqnum(&self) -> SeqNum {
        SeqNum::new(self.place.view, self.position)
    }

    /// Where a trim applied here takes effect: it never reaches records that are still to come.
    pub fn clamp_trim(&self, first: SeqNum) -> SeqNum {
        first.min(self.next_seqnum())
    }

    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.get(&shard)
    }

    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        self.shards.iter().map(|(id, shard)| (*id, shard))
    }

    /// The shards of the view that is being applied.
    pub fn shards_of_view(&self) -> impl Iterator<Item = (ShardId, &Shard)> {
        let first = ShardId { view: self.place.view, index: 0 };
        self.shards.range(first..).map(|(id, shard)| (*id, shard))
    }

    /// The shard that this engine opened under this ordinal in the present view.
    pub fn find_shard(&self, engine: EngineIncarnation, ordinal: u64) -> Option<ShardId> {
        let reused = active(Mutant::ShardPositionReused);
        let is_its = |known: EngineIncarnation| known == engine || (reused && known.node == engine.node);
        self.shards_of_view().find(|(_, shard)| is_its(shard.engine) && shard.ordinal == ordinal).map(|(id, _)| id)
    }

    /// Applies the entry at [`Logspace::place`]; `ordered` is told of each run of records that it
    /// orders, in order. Entries that make no sense (an unknown shard, a prefix that would fall)
    /// have no effect, the same on every node; they still take their index.
    pub fn apply(&mut self, entry: &Entry<'_>, mut ordered: impl FnMut(Ordered)) {
        let id = ShardId { view: self.place.view, index: self.place.index };
        match *entry {
            Entry::OpenShard { engine, ordinal, replicas } => {
                if self.find_shard(engine, ordinal).is_none() {
                    self.shards.insert(id, Shard { engine, ordinal, replicas, prefix: 0, closed: false });
                }
            }
            Entry::CloseShard { shard_index } => {
                if let Some(shard) = self.shards.get_mut(&ShardId { view: id.view, index: shard_index }) {
                    shard.closed = true;
                }
            }
            Entry::MoveShard { shard, replicas } => self.move_shard(shard, replicas),
            Entry::Cut(cut) => {
                for moved in cut.moves() {
                    let shard_id = ShardId { view: id.view, index: moved.shard_index };
                    let Some(shard) = self.shards.get_mut(&shard_id) else { continue };
                    if shard.closed || moved.prefix <= shard.prefix {
                        continue;
                    }
                    let from = std::mem::replace(&mut shard.prefix, moved.prefix);
                    let seqnum = SeqNum::new(id.view, self.position);
                    self.position += moved.prefix - from;
                    ordered(Ordered { shard: shard_id, from, to: moved.prefix, seqnum });
                }
            }
            // The index keeps the trim points; see [`Logspace::clamp_trim`].
            Entry::Trim { .. } => {}
            Entry::Checkpoint { place, next, replicas } => {
                let is_newer = self.checkpoint.is_none_or(|last| last.place < place);
                if is_newer && place <= self.place {
                    self.checkpoint = Some(Checkpoint { place, next, replicas });
                }
            }
        }
        self.place.index += 1;
    }

    /// Goes on to the next view of the chain, if the present one has ended here.
    pub fn advance_view(&mut self, chain: &Chain) -> bool {
        if chain.end(self.place.view) != Some(self.place.index) {
            return false;
        }
        let next = chain.view(ViewNumber(self.place.view.0 + 1)).expect("a view that ended has a successor");
        self.enter(next);
        true
    }

    fn enter(&mut self, view: &View) {
        self.place = Place { view: view.number, index: 0 };
        self.position = 0;
        for (shard, replicas) in &view.moves {
            self.move_shard(*shard, *replicas);
        }
    }

    fn move_shard(&mut self, shard: ShardId, replicas: NodeSet) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.replicas = replicas;
        }
    }
}
