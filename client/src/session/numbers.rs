//! Request numbers of one session in one logspace: handed out from 1 on, within the window that the
//! server keeps verdicts for.

use std::collections::VecDeque;

use sealog_protocol::RequestNumber;

pub(super) struct Numbers {
    lowest: u64,
    /// From `lowest` on: the table index of the append that waits for the number's verdict.
    waiting: VecDeque<Option<u32>>,
}

impl Numbers {
    pub fn new() -> Numbers {
        Numbers { lowest: 1, waiting: VecDeque::new() }
    }

    /// The lowest number without an answer; one past the last when all have theirs.
    pub fn lowest_unanswered(&self) -> RequestNumber {
        RequestNumber(self.lowest)
    }

    /// The next number, unless it would be `window` or more ahead of the lowest unanswered one.
    pub fn next(&self, window: u32) -> Option<RequestNumber> {
        let ahead = self.waiting.len() as u64;
        (ahead < u64::from(window)).then_some(RequestNumber(self.lowest + ahead))
    }

    /// Gives the next number to the append at this index.
    pub fn take(&mut self, index: u32) {
        self.waiting.push_back(Some(index));
    }

    /// The append that holds the lowest number.
    pub fn lowest_holder(&self) -> Option<u32> {
        self.waiting.front().copied().flatten()
    }

    /// The number needs no verdict any more. Returns whether the window moved.
    pub fn answered(&mut self, number: RequestNumber) -> bool {
        let slot = self.waiting.get_mut((number.0 - self.lowest) as usize);
        *slot.expect("a number that was handed out and not answered") = None;
        let before = self.lowest;
        while self.waiting.front() == Some(&None) {
            self.waiting.pop_front();
            self.lowest += 1;
        }
        self.lowest > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_counted_from_the_lowest_without_an_answer() {
        let mut numbers = Numbers::new();
        for index in 0..3 {
            assert_eq!(numbers.next(3), Some(RequestNumber(u64::from(index) + 1)));
            numbers.take(index);
        }
        assert_eq!(numbers.next(3), None);
        assert!(!numbers.answered(RequestNumber(2)));
        assert_eq!((numbers.next(3), numbers.lowest_holder()), (None, Some(0)));
        assert!(numbers.answered(RequestNumber(1)));
        assert_eq!((numbers.next(3), numbers.lowest_unanswered()), (Some(RequestNumber(4)), RequestNumber(3)));
    }
}
