//! The journal's side of its scrub: which segments there are, and who has something in them.

use super::*;
use crate::report::{Damage, DamageKind, Rotten};
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
    /// [`sealog_protocol::machine::Input::Rotten`]. Recovery's findings come first; the scrub's come again
    /// with each pass that finds them.
    pub fn next_rotten(&mut self) -> Option<Rotten> {
        self.scrub.next_rotten()
    }

    /// Damaged ranges of recovery's report whose segments were not given back since. A footer that was
    /// damaged is damaged until it is written again.
    pub(super) fn damages_left(&self) -> u64 {
        let segments = &self.segments;
        let is_left = |damage: &&Damage| match damage.kind {
            DamageKind::Footer => segments.is_live(damage.segment) && !segments.sealed.contains_key(&damage.segment),
            DamageKind::Data | DamageKind::Blocks => segments.is_live(damage.segment),
        };
        let unlisted = self.report.damages_total - self.report.damages.len() as u64;
        self.report.damages.iter().filter(is_left).count() as u64 + unlisted
    }

    /// What the scrub found in segments that are still there, in their order, as far as it is listed.
    pub fn findings(&self) -> Vec<Damage> {
        self.scrub.findings(&self.segments.sealed).copied().collect()
    }
}
