//! The journal's side of its scrub: which segments there are, and who has something in them.

use super::*;
use crate::report::Damage;
use crate::scrub::ScrubRead;

impl Journal {
    /// The next read of the scrub, if one is due: one at a time. [`Journal::scrub_done`] follows, also
    /// when the segment was given back meanwhile; the driver sees to it that its file is no other
    /// segment's before.
    pub fn next_scrub(&mut self, now: Time) -> Option<ScrubRead> {
        if self.stopping { None } else { self.scrub.next_read(now, &self.segments.sealed) }
    }

    /// A read of the scrub has ended. `None`: the disk refused it.
    pub fn scrub_done(&mut self, now: Time, read: ScrubRead, content: Option<&[u8]>) {
        let Segments { sealed, space, .. } = &self.segments;
        self.scrub.read_done(now, read, content, sealed, |segment| space.owners(segment));
    }

    /// When [`Journal::next_scrub`] wants to be called.
    pub fn scrub_deadline(&self) -> Option<Time> {
        self.scrub.deadline().filter(|_| !self.stopping)
    }

    /// A damaged range that the scrub found for the first time: for the log.
    pub fn next_finding(&mut self) -> Option<Damage> {
        self.scrub.next_new()
    }

    /// A machine that has something in a segment of which a part is damaged: the driver gives it
    /// [`sealog_protocol::machine::Input::Rotten`]. Comes again with each pass that finds it.
    pub fn next_rotten(&mut self) -> Option<(Owner, Damage)> {
        self.scrub.next_rotten()
    }

    /// What the scrub found in segments that are still there, in their order, as far as it is listed.
    pub fn findings(&self) -> Vec<Damage> {
        self.scrub.findings(&self.segments.sealed).copied().collect()
    }
}
