//! A node's clock: monotonic, at its own rate, with steps forward. Machines see nothing else.

use sealog_protocol::Time;

use crate::queue::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Local time at `since`.
    local: u64,
    since: Instant,
    /// Local nanoseconds in 1,000 true ones.
    rate: u64,
}

impl Clock {
    pub fn new(rate: u64) -> Clock {
        assert!(rate > 0, "a clock goes on");
        Clock { local: 1, since: 0, rate }
    }

    pub fn now(&self, instant: Instant) -> Time {
        Time(self.local + (instant - self.since) * self.rate / 1_000)
    }

    /// When this clock will show `time`, if nothing happens to it; in the past if it already does.
    pub fn instant(&self, time: Time) -> Instant {
        self.since + (time.0.saturating_sub(self.local)).saturating_mul(1_000).div_ceil(self.rate)
    }

    /// The clock jumps forward, and goes on at another rate.
    pub fn step(&mut self, instant: Instant, forward: u64, rate: u64) {
        self.local = self.now(instant).0 + forward;
        self.since = instant;
        self.rate = rate.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_says_so() {
        let mut clock = Clock::new(700);
        clock.step(1_000, 55, 1_300);
        for deadline in [1_000, 2_001, 77_777] {
            let instant = clock.instant(Time(deadline)).max(1_000);
            assert!(clock.now(instant) >= Time(deadline));
            assert!(instant == 1_000 || clock.now(instant - 1) < Time(deadline));
        }
    }
}
