//! LogBooks that let records go by themselves: one engine asks for their trims.

use std::time::Duration;

use sealog_protocol::machine::{Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LogBookId, Tag, Time};

use super::Engine;

/// LogBooks that grow are looked at as they do; the others, for their records grow old, so often.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many of them at a time: with more, a round takes longer.
const BOOKS_AT_A_TIME: usize = 4096;

impl Engine {
    /// The time of day, in milliseconds since 1970, by this node's clock as it was at the start.
    pub(super) fn time_of_day(&self, now: Time) -> u64 {
        self.config.time_of_day_ms.saturating_add(now.0 / 1_000_000)
    }

    /// Asks for the trims that retention wants now.
    pub(super) fn retain(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(index) = self.index.as_mut().filter(|index| !index.retained().is_empty()) else {
            self.retain_at = None;
            return;
        };
        let mut books = index.take_retained_due();
        if self.retain_at.is_none_or(|at| at <= now) {
            self.retain_at = Some(now + INTERVAL);
            let after = self.retained_until.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let round = index.retained().range((after, std::ops::Bound::Unbounded));
            let before = books.len();
            books.extend(round.map(|(logbook, _)| *logbook).take(BOOKS_AT_A_TIME));
            self.retained_until = books.last().copied().filter(|_| books.len() - before == BOOKS_AT_A_TIME);
        }
        if books.is_empty() || !self.is_first_alive() {
            return;
        }
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        let (to, time_of_day) = (self.address(primary, Role::Sequencer), self.time_of_day(now));
        for logbook in books {
            if let Some(first) = self.retention_wants(logbook, time_of_day) {
                outputs.send(to, Message::Trim { logbook, tag: Tag::ALL, first });
            }
        }
    }

    fn retention_wants(&self, logbook: LogBookId, time_of_day: u64) -> Option<sealog_protocol::SeqNum> {
        let index = self.index.as_ref()?;
        let retained = index.retained().get(&logbook)?;
        let wanted = retained.due(time_of_day, index.last_record(logbook))?;
        let wanted = if active(Mutant::RetentionTrimsOneMore) { wanted.next() } else { wanted };
        let wanted = Some(wanted).filter(|first| *first > index.first(logbook, Tag::ALL))?;
        mark(Mark::RetentionTrims);
        Some(wanted)
    }
}
