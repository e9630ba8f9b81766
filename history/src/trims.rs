//! Which trims of the log clients asked for, and when.

use std::collections::BTreeMap;

use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::history::{Action, History, OperationId, Timestamp};
use crate::log::FinalLog;
use crate::position::Position;
use crate::violation::Violation;

/// What a trim asks for: those that are alike can't be told apart in the log.
type Wish = (LogBookId, Tag, SeqNum);

/// Trims of the log, and the operations that they are of.
#[derive(Debug, Default)]
pub(crate) struct TrimMatches {
    /// Where the log has a trim, in log order.
    places: BTreeMap<Wish, Vec<Position>>,
    /// Of the operation that was the first to ask for it: where the log has it first. Nothing that has
    /// reached this place may have returned before the operation began.
    bounds: BTreeMap<OperationId, Position>,
}

impl TrimMatches {
    /// # Errors
    /// When the log has a trim that nobody asked for.
    pub fn new(history: &History, log: &FinalLog) -> Result<TrimMatches, Violation> {
        let mut matches = TrimMatches::default();
        for trim in log.trims.all() {
            matches.places.entry((trim.logbook, trim.tag, trim.first)).or_default().push(trim.position);
        }
        let mut first_asked: BTreeMap<Wish, (Timestamp, OperationId)> = BTreeMap::new();
        for (operation, id) in history.operations.iter().zip(0..) {
            let Action::Trim { trim, .. } = operation.action else { continue };
            let trim = history.trims[trim as usize];
            let wish = (history.logbooks[operation.logbook as usize], trim.tag, trim.first);
            let asked = (operation.invoked, OperationId(id));
            let first = first_asked.entry(wish).or_insert(asked);
            *first = asked.min(*first);
        }
        for (wish, places) in &matches.places {
            let Some((_, operation)) = first_asked.get(wish) else {
                return Err(Violation::PhantomTrim { logbook: wish.0, tag: wish.1, first: wish.2 });
            };
            matches.bounds.insert(*operation, places[0]);
        }
        Ok(matches)
    }

    /// Where the log must not yet have got when the operation begins.
    pub fn bound(&self, operation: OperationId) -> Position {
        self.bounds.get(&operation).copied().unwrap_or(Position::NEVER)
    }

    /// Where the log has such a trim next, after a position.
    pub fn next_after(&self, wish: Wish, position: Position) -> Option<Position> {
        let places = self.places.get(&wish)?;
        places.get(places.partition_point(|place| *place <= position)).copied()
    }
}
