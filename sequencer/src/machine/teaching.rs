//! What a sequencer replica does as keeper of the metalog: tells learners what is committed.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Learner {
    pub(super) to: Address,
    pub(super) next: Place,
}

impl Sequencer {
    /// Up to where the view's entries may be told to learners: they are committed, and here.
    pub(super) fn told(&self, view: ViewNumber) -> u64 {
        let Some(log) = self.views.get(&view) else { return 0 };
        let end = self.chain.as_ref().and_then(|chain| chain.end(view));
        end.unwrap_or(log.commit).min(log.entries.end())
    }

    pub(super) fn metalog_open(&mut self, from: Address, place: Place, outputs: &mut Outputs) {
        self.learners.retain(|learner| learner.to != from);
        if let Some(checkpoint) = self.checkpoint.filter(|checkpoint| place < checkpoint.place) {
            mark(Mark::MetalogGoneTold);
            let replicas = Box::new(checkpoint.replicas);
            outputs.send(from, Message::MetalogGone { from: place, checkpoint: checkpoint.place, replicas });
            return;
        }
        if place < self.base {
            // The entry that names the checkpoint's storages is not here; a base is its place.
            mark(Mark::MetalogGoneTold);
            let replicas = Box::default();
            outputs.send(from, Message::MetalogGone { from: place, checkpoint: self.base, replicas });
            return;
        }
        let told = self.told(place.view);
        let ended = self.chain.as_ref().and_then(|chain| chain.end(place.view));
        let current = self.chain.as_ref().is_some_and(|chain| chain.current().number == place.view);
        if place.index < told {
            let mut learner = Learner { to: from, next: place };
            self.teach(&mut learner, told, outputs);
            if !self.is_ended(place.view) && learner.next.index == told {
                self.learners.push(learner);
            }
        } else if current && self.views_keeps(place.view) {
            self.learners.push(Learner { to: from, next: place });
        } else if ended != Some(place.index) {
            outputs.send(from, Message::MetalogNotHere { from: place });
        }
    }

    pub(super) fn is_ended(&self, view: ViewNumber) -> bool {
        self.chain.as_ref().is_some_and(|chain| chain.end(view).is_some())
    }

    /// Whether this replica is one of the view's.
    fn views_keeps(&self, view: ViewNumber) -> bool {
        let view = self.chain.as_ref().and_then(|chain| chain.view(view));
        view.is_some_and(|view| view.sequencers.contains(self.config.node))
    }

    /// Sends a learner one message of what it lacks up to `told`.
    fn teach(&mut self, learner: &mut Learner, told: u64, outputs: &mut Outputs) {
        let log = &self.views[&learner.next.view];
        let mut cursor = if learner.next.index == log.entries.end() {
            return;
        } else {
            log.entries.cursor(learner.next.index)
        };
        let count = log.entries.copy(&mut cursor, told, STREAM_MESSAGE_BYTES_MAX, &mut self.encoded);
        let more = cursor.index() < told;
        let message =
            Message::MetalogEntries { from: learner.next, count, more, entries: self.encoded.split().freeze() };
        outputs.send(learner.to, message);
        learner.next.index = cursor.index();
    }

    pub(super) fn teach_all(&mut self, outputs: &mut Outputs) {
        self.reserve();
        let mut learners = std::mem::take(&mut self.learners);
        learners.retain_mut(|learner| {
            let told = self.told(learner.next.view);
            if learner.next.index < told {
                self.teach(learner, told, outputs);
            }
            // One that was told of more to come asks again by itself.
            learner.next.index >= told
        });
        self.learners = learners;
    }
}
