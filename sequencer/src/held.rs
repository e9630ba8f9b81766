//! What a replica has in which segment of the journal, to tell when it needs nothing of it any more.

use std::collections::BTreeMap;

use sealog_protocol::{Place, ViewNumber};

/// Entries of a view that lie in one segment, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRun {
    pub view: ViewNumber,
    pub from: u64,
    pub end: u64,
}

impl HeldRun {
    /// The part of it that a checkpoint at `base` does not cover.
    pub fn after(self, base: Place) -> Option<HeldRun> {
        let from = if self.view == base.view { self.from.max(base.index) } else { self.from };
        (self.view >= base.view && from < self.end).then_some(HeldRun { from, ..self })
    }
}

/// Where the newest of something lies that has to outlive its segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest<T> {
    pub value: T,
    segment: Option<u32>,
}

impl<T: Copy + PartialOrd> Newest<T> {
    /// It is durable in this segment; so is what came later.
    pub fn lies(&mut self, value: T, segment: u32) {
        if value >= self.value {
            *self = Newest { value, segment: Some(segment) };
        }
    }

    pub fn is_in(&self, segment: u32) -> bool {
        self.segment == Some(segment)
    }
}

/// The segments that a replica has something in.
#[derive(Clone, Debug, Default)]
pub struct Held {
    segments: BTreeMap<u32, Vec<HeldRun>>,
    pub seal: Newest<ViewNumber>,
    /// The greatest commit index that the journal keeps, as a place.
    pub commit: Newest<Place>,
    /// The base that is durable.
    pub base: Place,
    /// Where it lies, with the `OpenShard` entries before it. Empty: not known since the start.
    pub base_segments: Vec<u32>,
    /// Where the last durable append lies. More may come there.
    latest: Option<u32>,
    /// Until something is durable in this life, nobody knows which segment gets more.
    started: bool,
}

impl Held {
    /// Something of this replica lies in a segment.
    pub fn touch(&mut self, segment: u32) {
        self.segments.entry(segment).or_default();
    }

    /// Entries lie in a segment.
    pub fn add(&mut self, segment: u32, run: HeldRun) {
        let runs = self.segments.entry(segment).or_default();
        match runs.last_mut() {
            Some(last) if last.view == run.view && last.end == run.from => last.end = run.end,
            _ => runs.push(run),
        }
    }

    /// The last append became durable here. Returns whether the one before did not.
    pub fn moved_to(&mut self, segment: u32) -> bool {
        if self.latest == Some(segment) {
            return false;
        }
        self.touch(segment);
        self.started = true;
        self.latest = Some(segment);
        true
    }

    /// The journal says that no more comes into this segment.
    pub fn close(&mut self, segment: u32) {
        if self.latest == Some(segment) {
            self.latest = None;
        }
    }

    /// The entries that lie in this segment and count.
    pub fn counting(&self, segment: u32) -> Vec<HeldRun> {
        let runs = self.segments.get(&segment).into_iter().flatten();
        runs.filter_map(|run| run.after(self.base)).collect()
    }

    /// Segments that get no more, and whose entries a durable base covers all.
    pub fn covered(&self) -> Vec<u32> {
        let covered = |runs: &[HeldRun]| runs.iter().all(|run| run.after(self.base).is_none());
        let closed = self.segments.iter().filter(|(segment, _)| self.started && self.latest != Some(**segment));
        closed.filter(|(_, runs)| covered(runs)).map(|(segment, _)| *segment).collect()
    }

    /// Nothing in this segment is needed any more.
    pub fn forget(&mut self, segment: u32) {
        self.segments.remove(&segment);
    }

    pub fn holds(&self, segment: u32) -> bool {
        self.segments.contains_key(&segment)
    }

    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}
