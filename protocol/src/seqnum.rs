//! A record's place in its LogBook's order.

use std::fmt;

use crate::ids::ViewNumber;

/// A record's place in its LogBook's order: the view in the high 20 bits, the position in the
/// view in the low 44. Increases without end, is not dense, and is unique only together with the
/// LogBook. Views count from 1, so 0 names no record.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNum(pub u64);

impl SeqNum {
    pub const POSITION_BITS: u32 = 44;
    pub const POSITION_MAX: u64 = (1 << Self::POSITION_BITS) - 1;
    pub const VIEW_MAX: u32 = (1 << (64 - Self::POSITION_BITS)) - 1;

    /// Before every record.
    pub const MIN: SeqNum = SeqNum(0);
    /// After every record.
    pub const MAX: SeqNum = SeqNum(u64::MAX);

    /// The SeqNum of a position in a view.
    ///
    /// # Panics
    /// When either is out of range: the sequencer refuses to get there.
    pub fn new(view: ViewNumber, position: u64) -> SeqNum {
        assert!(view.0 <= Self::VIEW_MAX && position <= Self::POSITION_MAX, "SeqNum out of range");
        SeqNum(u64::from(view.0) << Self::POSITION_BITS | position)
    }

    pub fn view(self) -> ViewNumber {
        ViewNumber((self.0 >> Self::POSITION_BITS) as u32)
    }

    pub fn position(self) -> u64 {
        self.0 & Self::POSITION_MAX
    }

    /// The smallest SeqNum after this one; `MAX` stays.
    pub fn next(self) -> SeqNum {
        SeqNum(self.0.saturating_add(1))
    }

    /// The greatest SeqNum before this one; `MIN` stays.
    pub fn prev(self) -> SeqNum {
        SeqNum(self.0.saturating_sub(1))
    }
}

impl fmt::Display for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeqNum({}+{})", self.view(), self.position())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn view_and_position_round_trip_at_the_edges() {
        for (view, position) in [(1, 0), (1, SeqNum::POSITION_MAX), (SeqNum::VIEW_MAX, 7)] {
            let seqnum = SeqNum::new(ViewNumber(view), position);
            assert_eq!((seqnum.view().0, seqnum.position()), (view, position));
        }
        assert_eq!(SeqNum::new(ViewNumber(1), 0).0, 1 << 44);
        assert!(SeqNum::new(ViewNumber(1), SeqNum::POSITION_MAX) < SeqNum::new(ViewNumber(2), 0));
    }
}
