//! Positions of a logspace's log, and what is asked of trim points in terms of them.

use std::collections::BTreeMap;

use sealog_protocol::{LogBookId, SeqNum, Tag};

/// How far a logspace's log has got: every record up to `seqnum` is visible, and the first `trims`
/// trims of the log are in force. Only ends of batches are positions, for a batch is visible whole
/// or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub seqnum: SeqNum,
    trims: u32,
}

impl Position {
    /// Nothing has happened.
    pub const START: Position = Position { seqnum: SeqNum::MIN, trims: 0 };
    /// What has not come by then never does.
    pub const NEVER: Position = Position { seqnum: SeqNum::MAX, trims: u32::MAX };

    /// A batch that ends here is visible.
    pub fn of_batch(last: SeqNum) -> Position {
        Position { seqnum: last, trims: 0 }
    }

    /// It is where a batch becomes visible, not where a trim comes into force.
    pub fn is_batch(self) -> bool {
        self.trims == 0
    }

    /// The last SeqNum that is visible just before it; of a batch of several records one of them.
    pub fn last_before(self) -> SeqNum {
        if self.is_batch() { self.seqnum.prev() } else { self.seqnum }
    }
}

/// After everything: all that ever goes is gone there.
pub(crate) const LAST: Position = Position { seqnum: SeqNum::MAX, trims: u32::MAX - 1 };

/// A trim of the log, in log order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    pub logbook: LogBookId,
    pub tag: Tag,
    /// As it was asked for.
    pub first: SeqNum,
    /// From here on it is in force.
    pub position: Position,
}

/// A trim point that rose.
#[derive(Clone, Copy, Debug)]
struct Step {
    position: Position,
    point: SeqNum,
}

/// Trims in log order, and the trim points that they make: never beyond the next SeqNum, never lower
/// than before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trims {
    all: Vec<Trim>,
    /// Of each trimmed (LogBook, tag), rising.
    steps: BTreeMap<(LogBookId, Tag), Vec<Step>>,
}

impl Trims {
    /// Adds a trim where the logspace's next SeqNum is `next`.
    pub fn push(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum, next: SeqNum) {
        let trims = u32::try_from(self.all.len() + 1).expect("a final log has fewer than 2^32 trims");
        let position = Position { seqnum: next.prev(), trims };
        self.all.push(Trim { logbook, tag, first, position });
        let steps = self.steps.entry((logbook, tag)).or_default();
        let point = first.min(next);
        if steps.last().is_none_or(|step| step.point < point) {
            steps.push(Step { position, point });
        }
    }

    pub fn all(&self) -> &[Trim] {
        &self.all
    }

    /// Whether tags of the LogBook were trimmed, the LogBook as a whole not counted.
    pub fn has_tags(&self, logbook: LogBookId) -> bool {
        let first = (logbook, Tag(Tag::ALL.0 + 1));
        self.steps.range(first..).next().is_some_and(|((of, _), _)| *of == logbook)
    }

    /// From where on the tag's own trim point is at least this.
    pub fn own_reaches(&self, key: (LogBookId, Tag), point: SeqNum) -> Position {
        if point == SeqNum::MIN {
            return Position::START;
        }
        let steps = self.steps.get(&key).map_or(&[][..], Vec::as_slice);
        steps.get(steps.partition_point(|step| step.point < point)).map_or(Position::NEVER, |step| step.position)
    }

    /// From where on the trim point of the tag is at least this: its own or its LogBook's.
    pub fn reaches(&self, key: (LogBookId, Tag), point: SeqNum) -> Position {
        self.own_reaches(key, point).min(self.own_reaches((key.0, Tag::ALL), point))
    }

    /// From where on the tag's trim point is above this SeqNum.
    pub fn passes(&self, key: (LogBookId, Tag), seqnum: SeqNum) -> Position {
        if seqnum == SeqNum::MAX { Position::NEVER } else { self.reaches(key, seqnum.next()) }
    }

    /// The trim point of the tag just before a batch that begins at this SeqNum.
    pub fn point_before(&self, key: (LogBookId, Tag), first: SeqNum) -> SeqNum {
        self.point_at(key, Position { seqnum: first.prev(), trims: u32::MAX })
    }

    /// The trim point of the tag at a position.
    pub fn point_at(&self, key: (LogBookId, Tag), position: Position) -> SeqNum {
        let own = |key| {
            let steps: &[Step] = self.steps.get(&key).map_or(&[], Vec::as_slice);
            let passed = steps.partition_point(|step| step.position <= position);
            passed.checked_sub(1).map_or(SeqNum::MIN, |last| steps[last].point)
        };
        own(key).max(own((key.0, Tag::ALL)))
    }
}

/// Where each record of a list is gone: a tree of maxima, to find those that are not.
#[derive(Clone, Debug)]
pub(crate) struct GoneTree {
    /// Leaves from `leaves` on; node `n` is the maximum of `2n` and `2n + 1`.
    nodes: Vec<Position>,
    leaves: usize,
    len: usize,
}

impl GoneTree {
    pub fn new(gone: &[Position]) -> GoneTree {
        let leaves = gone.len().next_power_of_two();
        let mut nodes = vec![Position::START; leaves * 2];
        nodes[leaves..leaves + gone.len()].copy_from_slice(gone);
        for at in (1..leaves).rev() {
            nodes[at] = nodes[at * 2].max(nodes[at * 2 + 1]);
        }
        GoneTree { nodes, leaves, len: gone.len() }
    }

    pub fn get(&self, at: usize) -> Position {
        self.nodes[self.leaves + at]
    }

    /// The first record at or after this one that is not gone at a position.
    pub fn next_present(&self, from: usize, position: Position) -> Option<usize> {
        if from >= self.len {
            return None;
        }
        let mut node = self.leaves + from;
        while self.nodes[node] <= position {
            // To the next subtree on the right; on the right edge there is none.
            while node & 1 == 1 {
                node >>= 1;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node = if self.nodes[node * 2] > position { node * 2 } else { node * 2 + 1 };
        }
        Some(node - self.leaves)
    }
}
