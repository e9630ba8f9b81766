//! How the metalog shrinks: a committed checkpoint moves the base, and segments whose entries all lie
//! before it are given back.
//!
//! The base is said to be durable only behind the `OpenShard` entries that outlive it, so whoever
//! finds the base in the journal finds them. What has to outlive a segment (the newest seal, the
//! base) is appended again, and is durable elsewhere, before the segment goes.

use std::collections::BTreeMap;

use super::*;

/// What was appended again for the sake of a segment and is not yet durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    seal: bool,
    base: bool,
    /// Segments that have to go, and how many copies of what counts in them are under way.
    vacated: BTreeMap<u32, u32>,
    /// Where the pieces before the base that is under way lie.
    base_segments: Vec<u32>,
    /// Something changed since segments were looked at.
    pub(super) look: bool,
    pub(super) released: u64,
}

impl Sequencer {
    /// Takes the newest checkpoint whose entry is committed here.
    pub(super) fn take_checkpoints(&mut self, outputs: &mut Outputs) {
        if !self.checkpoints_pending {
            return;
        }
        let (mut newest, mut pending) = (None, false);
        for view in self.views.keys().copied().collect::<Vec<_>>() {
            let told = if active(Mutant::MetalogDroppedEarly) { u64::MAX } else { self.told(view) };
            let log = self.views.get_mut(&view).expect("its key was found");
            while let Some((index, checkpoint)) = log.entries.take_checkpoint(told) {
                // As the logspace applies it, everywhere.
                let known = newest.or(self.checkpoint);
                if known.is_none_or(|known| known.place < checkpoint.place)
                    && checkpoint.place <= (Place { view, index })
                {
                    newest = Some(checkpoint);
                }
            }
            pending |= log.entries.has_checkpoints();
        }
        self.checkpoints_pending = pending;
        let Some(checkpoint) = newest else { return };
        self.checkpoint = Some(checkpoint);
        self.tell_storages(outputs);
        if checkpoint.place > self.base {
            mark(Mark::MetalogBaseMoved);
            self.set_base(checkpoint.place, outputs);
        }
    }

    /// As primary: tells the view's storages which checkpoint counts. One that is not connected hears
    /// it when it is.
    pub(super) fn tell_storages(&self, outputs: &mut Outputs) {
        let Some(primary) = self.active_primary() else { return };
        for node in primary.view.storages.iter() {
            self.tell_storage(node, outputs);
        }
    }

    /// Also that there is none: whoever is asked for what is not there has to know.
    pub(super) fn tell_storage(&self, node: NodeId, outputs: &mut Outputs) {
        // A base is the place of a checkpoint that counts.
        let place = self.checkpoint.map_or(self.base, |checkpoint| checkpoint.place.max(self.base));
        outputs.send(self.address(node, Role::Storage), Message::CheckpointCommitted { place });
    }

    /// Lets go of the metalog before this place. A committed checkpoint covers it.
    pub(super) fn set_base(&mut self, base: Place, outputs: &mut Outputs) {
        self.base = base;
        self.views.retain(|view, _| *view >= base.view);
        self.repairs.retain(|view, _| *view >= base.view);
        self.learners.retain(|learner| learner.next >= base);
        self.views.entry(base.view).or_default().entries.drop_before(base.index);
        self.keep_base(outputs);
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.view.number == base.view) else { return };
        let behind = |next: Option<Cursor>| next.is_some_and(|next| next.index() < base.index);
        let behind: Vec<NodeId> =
            primary.backups.iter().filter(|(_, backup)| behind(backup.next)).map(|(node, _)| *node).collect();
        for node in behind {
            self.send_base(node, base.view, outputs);
            let next = self.views[&base.view].entries.cursor(base.index);
            if let Some(backup) = self.primary.as_mut().and_then(|primary| primary.backups.get_mut(&node)) {
                backup.next = Some(next);
            }
        }
    }

    /// Tells a replica that entries of this view before the base are not to be had.
    pub(super) fn send_base(&mut self, node: NodeId, view: ViewNumber, outputs: &mut Outputs) {
        if self.base.view != view {
            return;
        }
        let Some(log) = self.views.get(&view) else { return };
        let mut indices = Vec::new();
        for (index, encoded) in log.entries.opened_before_first() {
            indices.push(index);
            self.encoded.extend_from_slice(encoded);
        }
        let entries = self.encoded.split().freeze();
        let message = Message::MetalogBase { base: self.base, indices: indices.into(), entries };
        outputs.send(self.address(node, Role::Sequencer), message);
    }

    /// Makes the base durable, behind the `OpenShard` entries that outlive it.
    fn keep_base(&mut self, outputs: &mut Outputs) {
        let view = self.base.view;
        if let Some(log) = self.views.get(&view) {
            for (from, encoded) in log.entries.opened_before_first() {
                self.appended.push_back(Appended::Opened);
                let entries = Bytes::copy_from_slice(encoded);
                outputs.append(DurableEntry::Metalog { view, from, count: 1, entries });
            }
        }
        self.space.base = true;
        self.appended.push_back(Appended::Base(self.base));
        outputs.append(DurableEntry::MetalogBase { place: self.base });
    }

    pub(super) fn opened_durable(&mut self, segment: u32) {
        self.space.base_segments.push(segment);
    }

    pub(super) fn base_durable(&mut self, base: Place, segment: u32) {
        self.held.base = self.held.base.max(base);
        self.held.base_segments = std::mem::take(&mut self.space.base_segments);
        self.held.base_segments.push(segment);
        if base == self.base {
            self.space.base = false;
        }
        if let Some(log) = self.views.get_mut(&base.view) {
            log.durable = log.durable.max(base.index);
            self.acknowledge = true;
        }
        self.space.look = true;
    }

    pub(super) fn seal_kept(&mut self, view: ViewNumber, segment: u32) {
        self.held.seal.lies(view, segment);
        self.space.seal &= view < self.held.seal.value;
        self.space.look = true;
    }

    /// The journal wants a segment back: what counts in it goes to the end.
    pub(super) fn vacate(&mut self, segment: u32, outputs: &mut Outputs) {
        self.held.close(segment);
        if self.space.vacated.contains_key(&segment) {
            return;
        }
        if !self.held.holds(segment) {
            outputs.push(Output::Release { segment });
            return;
        }
        let mut copies = 0;
        for run in self.held.counting(segment) {
            // A view's entries past its end may be gone from memory, never those that count.
            let Some(log) = self.views.get(&run.view) else { continue };
            let from = run.from.max(log.entries.first());
            let end = run.end.min(log.entries.end());
            if from >= end {
                continue;
            }
            let mut cursor = log.entries.cursor(from);
            while cursor.index() < end {
                let from = cursor.index();
                let count = log.entries.copy(&mut cursor, end, STREAM_MESSAGE_BYTES_MAX, &mut self.encoded);
                let entries = self.encoded.split().freeze();
                let run = HeldRun { view: run.view, from, end: cursor.index() };
                self.appended.push_back(Appended::Copy { run, of: segment });
                outputs.append(DurableEntry::Metalog { view: run.view, from, count, entries });
                copies += 1;
            }
        }
        self.space.vacated.insert(segment, copies);
        self.space.look = true;
    }

    pub(super) fn copy_durable(&mut self, of: u32) {
        if let Some(copies) = self.space.vacated.get_mut(&of) {
            *copies -= 1;
        }
        self.space.look = true;
    }

    /// Gives back segments of which nothing is needed, once what has to outlive them is elsewhere.
    pub(super) fn free_segments(&mut self, outputs: &mut Outputs) {
        if !std::mem::take(&mut self.space.look) {
            return;
        }
        let vacated = self.space.vacated.keys().copied();
        let mut free: Vec<u32> = self.held.covered().into_iter().chain(vacated).collect();
        free.sort_unstable();
        free.dedup();
        for segment in free {
            // What is vacated was copied from the base in memory on, so that one has to be durable.
            let copying =
                self.space.vacated.get(&segment).is_some_and(|copies| *copies > 0 || self.base != self.held.base);
            if copying || self.outlives(segment, outputs) {
                continue;
            }
            if self.space.vacated.remove(&segment).is_some() {
                mark(Mark::VacateAnswered);
            }
            mark(Mark::SegmentReleased);
            self.space.released += 1;
            self.held.forget(segment);
            outputs.push(Output::Release { segment });
        }
    }

    /// Whether something in this segment has to outlive it: it is appended again, once.
    fn outlives(&mut self, segment: u32, outputs: &mut Outputs) -> bool {
        let seal = self.held.seal.is_in(segment) && !active(Mutant::SealNotAppendedAgain);
        if seal && !std::mem::replace(&mut self.space.seal, true) {
            mark(Mark::SealAppendedAgain);
            let view = self.held.seal.value;
            self.appended.push_back(Appended::Seal(view));
            outputs.append(DurableEntry::SequencerSeal { view });
        }
        let unknown = self.held.base_segments.is_empty() && self.base > Place::default();
        let base = unknown || self.held.base_segments.contains(&segment);
        if base && !self.space.base {
            self.keep_base(outputs);
        }
        if !(seal || base) && self.held.commit.is_in(segment) && self.held.commit.value > self.base {
            // Nobody waits for it: it makes no write of its own, and a seal's walk that begins earlier
            // ends at the same place.
            let Place { view, index } = self.held.commit.value;
            self.appended.push_back(Appended::Commit(self.held.commit.value));
            outputs.append(DurableEntry::Commit { view, commit: index });
        }
        seal || base
    }
}
