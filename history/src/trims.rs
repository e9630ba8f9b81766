//! Which trims of the log clients asked for, and when.

use std::collections::BTreeMap;

use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::history::{Action, History, OperationId, Timestamp};
use crate::log::FinalLog;
use crate::position::Position;
use crate::violation::Violation;

/// What a trim asks for: those that are alike can't be told apart in the log.
type Wish = (LogBookId, Tag, SeqNum);

/// A LogBook's tag.
type Key = (LogBookId, Tag);

/// Trims of the log, and the operations that they are of.
#[derive(Debug, Default)]
pub(crate) struct TrimMatches {
    /// Where the log has trims, in log order, and what they ask for.
    places: BTreeMap<Key, Vec<(Position, SeqNum)>>,
    /// Of the operation that was the first to ask for it: where the log has it first. Nothing that has
    /// reached this place may have returned before the operation began.
    bounds: BTreeMap<OperationId, Position>,
}

impl TrimMatches {
    /// # Errors
    /// When the log has a trim that nobody asked for.
    pub fn new(history: &History, log: &FinalLog) -> Result<TrimMatches, Violation> {
        let mut matches = TrimMatches::default();
        let mut first_logged: BTreeMap<Wish, Position> = BTreeMap::new();
        for trim in log.trims.all() {
            matches.places.entry((trim.logbook, trim.tag)).or_default().push((trim.position, trim.first));
            first_logged.entry((trim.logbook, trim.tag, trim.first)).or_insert(trim.position);
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
        for (wish, place) in first_logged {
            // Whoever else asked for the same may have done so later.
            if wish.1 == Tag::ALL && log.own_trims.contains(&(wish.0, wish.2)) {
                continue;
            }
            let Some((_, operation)) = first_asked.get(&wish) else {
                return Err(Violation::PhantomTrim { logbook: wish.0, tag: wish.1, first: wish.2 });
            };
            matches.bounds.insert(*operation, place);
        }
        Ok(matches)
    }

    /// Where the log must not yet have got when the operation begins.
    pub fn bound(&self, operation: OperationId) -> Position {
        self.bounds.get(&operation).copied().unwrap_or(Position::NEVER)
    }

    /// Where the log has a trim next that lets all of this go or more, after a position: one may be
    /// answered by another's.
    pub fn next_after(&self, key: Key, first: SeqNum, position: Position) -> Option<Position> {
        let places = self.places.get(&key)?;
        let after = places.partition_point(|(place, _)| *place <= position);
        places[after..].iter().find(|(_, wished)| *wished >= first).map(|(place, _)| *place)
    }
}
