//! Index checkpoints as a storage holds them: parts, and where they lie.

use std::collections::BTreeMap;

use sealog_protocol::limits::CHECKPOINTS_KEPT_MAX;
use sealog_protocol::machine::{Address, JournalPlace};
use sealog_protocol::{NodeId, Place};

/// Where a part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlace {
    pub at: JournalPlace,
    pub bytes: u32,
}

/// A part of the checkpoint at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartId {
    pub place: Place,
    pub part: u32,
    pub last: bool,
}

#[derive(Clone, Debug, Default)]
struct Stored {
    /// Parts that the journal was given.
    taken: u32,
    durable: BTreeMap<u32, PartPlace>,
    /// The number of the last part, once it was given.
    last: Option<u32>,
    /// Who writes it. Nobody's that recovery found: those are complete.
    writer: Option<Address>,
    /// Tells parts on their way to the disk from those of a writer that was replaced.
    attempt: u64,
}

impl Stored {
    fn parts(&self) -> u32 {
        self.durable.len() as u32
    }

    fn is_complete(&self) -> bool {
        self.last.is_some_and(|last| self.durable.len() as u64 == u64::from(last) + 1)
    }
}

/// What becomes of a part that an engine sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the next one: to the journal with it, in this attempt.
    Take(u64),
    /// Another one is: so many are durable.
    Have(u32),
}

/// The checkpoints that a storage holds.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    kept: BTreeMap<Place, Stored>,
    /// The newest whose entry in the metalog is committed: those before it count no more.
    committed: Option<Place>,
    attempts: u64,
}

impl Checkpoints {
    pub fn committed(&self) -> Option<Place> {
        self.committed
    }

    /// An engine sends a part. Contents of a part never differ while its writer lives; another's, or
    /// another life's, begins again with part 0.
    pub fn offer(&mut self, from: Address, id: PartId, dropped: &mut Vec<PartPlace>) -> Offer {
        if self.committed.is_some_and(|committed| id.place < committed) {
            return Offer::Have(0);
        }
        if !self.kept.contains_key(&id.place) {
            if id.part != 0 {
                return Offer::Have(0);
            }
            self.make_room(dropped);
        }
        let stored = self.kept.entry(id.place).or_default();
        if !stored.is_complete() && stored.writer.is_some_and(|writer| writer != from) && stored.last.is_none() {
            if id.part != 0 {
                return Offer::Have(0);
            }
            dropped.extend(std::mem::take(stored).durable.into_values());
        }
        if id.part != stored.taken || stored.last.is_some() {
            return Offer::Have(stored.parts());
        }
        if id.part == 0 {
            self.attempts += 1;
            stored.attempt = self.attempts;
            stored.writer = Some(from);
        }
        stored.taken += 1;
        stored.last = id.last.then_some(id.part);
        Offer::Take(stored.attempt)
    }

    /// The oldest unfinished one gives way, when there are too many: nobody counts on it.
    fn make_room(&mut self, dropped: &mut Vec<PartPlace>) {
        if self.kept.len() < CHECKPOINTS_KEPT_MAX {
            return;
        }
        let unfinished = self.kept.iter().find(|(_, stored)| !stored.is_complete()).map(|(place, _)| *place);
        if let Some(stored) = unfinished.and_then(|place| self.kept.remove(&place)) {
            dropped.extend(stored.durable.into_values());
        }
    }

    /// A part is durable, and lies here. Returns how many are; `None` when it is not wanted any more.
    pub fn durable(&mut self, attempt: u64, id: PartId, at: PartPlace) -> Option<u32> {
        let stored = self.kept.get_mut(&id.place).filter(|stored| stored.attempt == attempt)?;
        stored.durable.insert(id.part, at);
        Some(stored.parts())
    }

    /// A copy of a part is durable. Returns where it was; `None` when it is not wanted any more.
    pub fn moved(&mut self, id: PartId, at: PartPlace) -> Option<PartPlace> {
        let part = self.kept.get_mut(&id.place)?.durable.get_mut(&id.part)?;
        Some(std::mem::replace(part, at))
    }

    /// Recovery found a part. Later copies count.
    pub fn recover(&mut self, id: PartId, at: PartPlace) {
        let stored = self.kept.entry(id.place).or_default();
        stored.durable.insert(id.part, at);
        if id.last {
            stored.last = Some(id.part);
        }
    }

    /// Recovery is over: what is unfinished is dropped, for nobody can say who would go on with it.
    pub fn finish_recovery(&mut self) {
        self.kept.retain(|_, stored| stored.is_complete());
        for stored in self.kept.values_mut() {
            stored.taken = stored.parts();
        }
    }

    /// The writer of unfinished ones has begun another life.
    pub fn abandon(&mut self, node: NodeId) -> Vec<PartPlace> {
        let theirs = |stored: &Stored| stored.last.is_none() && stored.writer.is_some_and(|writer| writer.node == node);
        self.drop_if(|_, stored| theirs(stored))
    }

    /// The entry of the checkpoint at `place` is committed.
    pub fn commit(&mut self, place: Place) -> Vec<PartPlace> {
        self.committed = self.committed.max(Some(place));
        self.drop_before(place)
    }

    pub fn drop_before(&mut self, place: Place) -> Vec<PartPlace> {
        self.drop_if(|of, _| of < place)
    }

    fn drop_if(&mut self, goes: impl Fn(Place, &Stored) -> bool) -> Vec<PartPlace> {
        let mut dropped = Vec::new();
        self.kept.retain(|place, stored| {
            let goes = goes(*place, stored);
            if goes {
                dropped.extend(std::mem::take(&mut stored.durable).into_values());
            }
            !goes
        });
        dropped
    }

    /// Where a part is, and whether it is the last.
    pub fn part(&self, place: Place, part: u32) -> Option<(PartPlace, bool)> {
        let stored = self.kept.get(&place)?;
        stored.durable.get(&part).map(|at| (*at, stored.last == Some(part)))
    }

    pub fn is_complete(&self, place: Place) -> bool {
        self.kept.get(&place).is_some_and(Stored::is_complete)
    }

    /// The newest complete one, and its parts.
    pub fn newest(&self) -> Option<(Place, u32)> {
        let complete = self.kept.iter().rev().find(|(_, stored)| stored.is_complete());
        complete.map(|(place, stored)| (*place, stored.parts()))
    }

    /// A part that lies in this segment, if there is one.
    pub fn part_in(&self, segment: u32) -> Option<(PartId, PartPlace)> {
        self.kept.iter().find_map(|(place, stored)| {
            let (part, at) = stored.durable.iter().find(|(_, at)| at.at.segment == segment)?;
            Some((PartId { place: *place, part: *part, last: stored.last == Some(*part) }, *at))
        })
    }

    /// Where all parts lie.
    pub fn parts(&self) -> impl Iterator<Item = PartPlace> + '_ {
        self.kept.values().flat_map(|stored| stored.durable.values().copied())
    }
}
