//! Lines of the log that clients can provoke. A flood of bad connections is to be seen in the log,
//! and must not fill the disk that the log is on: of each kind a few lines are written in a while,
//! the others are counted, and the count is told when the while is over.

use sealog_protocol::Time;

use crate::limits::{WARNINGS_MAX, WARNINGS_WINDOW};

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warning {
    Malformed,
    Late,
    Slow,
    NotAccepted,
    /// Another node is not connected.
    NoNode,
}

impl Warning {
    const ALL: [Warning; 5] = [Warning::Malformed, Warning::Late, Warning::Slow, Warning::NotAccepted, Warning::NoNode];

    fn name(self) -> &'static str {
        match self {
            Warning::Malformed => "malformed",
            Warning::Late => "late",
            Warning::Slow => "slow",
            Warning::NotAccepted => "not accepted",
            Warning::NoNode => "no connection to a node",
        }
    }
}

/// The lines of an executor.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    limiters: [Limiter; Warning::ALL.len()],
}

impl Warnings {
    /// Whether one more line of this kind is written.
    pub fn admit(&mut self, now: Time, warning: Warning) -> bool {
        self.limiters[warning as usize].admit(now)
    }

    /// Tells what was left out where that is due.
    pub fn tell(&mut self, now: Time) {
        for (limiter, warning) in self.limiters.iter_mut().zip(Warning::ALL) {
            if let Some(left_out) = limiter.tell(now) {
                let (kind, seconds) = (warning.name(), WARNINGS_WINDOW.as_secs());
                tracing::warn!(kind, left_out, seconds, "more connections of this kind: their lines were left out");
            }
        }
    }

    /// When [`Warnings::tell`] is due.
    pub fn deadline(&self) -> Option<Time> {
        self.limiters.iter().filter_map(Limiter::deadline).min()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Limiter {
    /// Of the first line of the present while.
    since: Option<Time>,
    written: u32,
    left_out: u64,
}

impl Limiter {
    fn admit(&mut self, now: Time) -> bool {
        if self.left_out == 0 && self.is_over(now) {
            *self = Limiter { since: Some(now), ..Limiter::default() };
        }
        let is_written = self.written < WARNINGS_MAX;
        if is_written {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        is_written
    }

    fn tell(&mut self, now: Time) -> Option<u64> {
        if self.left_out == 0 || !self.is_over(now) {
            return None;
        }
        Some(std::mem::take(self).left_out)
    }

    fn is_over(&self, now: Time) -> bool {
        self.since.is_none_or(|since| since + WARNINGS_WINDOW <= now)
    }

    fn deadline(&self) -> Option<Time> {
        self.since.filter(|_| self.left_out > 0).map(|since| since + WARNINGS_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Time = Time(1_000_000_000);

    #[test]
    fn a_flood_is_some_lines_and_a_count() {
        let mut limiter = Limiter::default();
        let written = (0..1000).filter(|millisecond| limiter.admit(Time(BEGAN.0 + millisecond * 1_000_000))).count();
        assert_eq!(written, WARNINGS_MAX as usize);
        let over = BEGAN + WARNINGS_WINDOW;
        assert_eq!(limiter.deadline(), Some(over));
        assert_eq!(limiter.tell(Time(over.0 - 1)), None);
        assert_eq!(limiter.tell(over), Some(1000 - u64::from(WARNINGS_MAX)));
        assert_eq!((limiter.tell(over), limiter.deadline()), (None, None), "it is told once");
        assert!(limiter.admit(over), "the next while has lines of its own");
    }

    #[test]
    fn now_and_then_everything_is_written() {
        let mut limiter = Limiter::default();
        let step = WARNINGS_WINDOW / WARNINGS_MAX;
        let mut now = BEGAN;
        for _ in 0..10 * WARNINGS_MAX {
            assert!(limiter.admit(now));
            assert_eq!(limiter.tell(now), None);
            now = now + step;
        }
    }

    #[test]
    fn what_was_left_out_is_not_forgotten_by_a_line_that_comes_late() {
        let mut limiter = Limiter::default();
        for _ in 0..=WARNINGS_MAX {
            limiter.admit(BEGAN);
        }
        let later = BEGAN + 5 * WARNINGS_WINDOW;
        assert!(!limiter.admit(later));
        assert_eq!(limiter.tell(later), Some(2));
    }

    #[test]
    fn a_flood_of_one_kind_hides_no_other() {
        let mut warnings = Warnings::default();
        while warnings.admit(BEGAN, Warning::Malformed) {}
        for other in Warning::ALL.into_iter().filter(|other| *other != Warning::Malformed) {
            assert!(warnings.admit(BEGAN, other));
        }
        assert_eq!(warnings.deadline(), Some(BEGAN + WARNINGS_WINDOW));
        warnings.tell(BEGAN + WARNINGS_WINDOW);
        assert_eq!(warnings.deadline(), None);
    }
}
