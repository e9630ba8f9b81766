//! When another node is called: at once, then after pauses that double, each shortened by chance so
//! that nodes which lost each other together do not call together.
//!
//! ```text
//!   Waiting ──due──► Calling ──greeted──► Connected
//!      ▲                │                     │
//!      └──── failed ────┴────── ended ────────┘
//! ```

use std::time::Duration;

use sealog_protocol::Time;

use crate::peer_config::PeerLimits;

/// The calls to one node.
#[derive(Debug)]
pub(crate) struct Dialing {
    state: State,
    /// Calls without a lasting connection since the last one that lasted.
    failures: u32,
    pause_min: Duration,
    pause_max: Duration,
    chance: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until: Time },
    Calling,
    Connected { since: Time },
}

impl Dialing {
    /// The first call is due at once. Different nodes draw from different seeds.
    pub fn new(limits: &PeerLimits, seed: u64) -> Dialing {
        Dialing {
            state: State::Waiting { until: Time::ZERO },
            failures: 0,
            pause_min: limits.pause_min,
            pause_max: limits.pause_max,
            // The generator stands still at zero.
            chance: seed | 1,
        }
    }

    /// Whether the next call is due.
    pub fn is_due(&self, now: Time) -> bool {
        matches!(self.state, State::Waiting { until } if until <= now)
    }

    /// There is reason to believe that the next call goes through: it is due at once.
    pub fn hurry(&mut self) {
        self.failures = 0;
        if let State::Waiting { until } = &mut self.state {
            *until = Time::ZERO;
        }
    }

    /// When it is.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// The node is being called.
    pub fn called(&mut self) {
        assert!(matches!(self.state, State::Waiting { .. }), "one call at a time");
        self.state = State::Calling;
    }

    /// It has let us in.
    pub fn greeted(&mut self, now: Time) {
        assert_eq!(self.state, State::Calling, "only who was called greets");
        self.state = State::Connected { since: now };
    }

    /// The call failed, or its connection ended.
    pub fn ended(&mut self, now: Time) {
        // A connection that breaks as soon as it is there is as good as none: it must not be made
        // again at once, over and over.
        let lasted = matches!(self.state, State::Connected { since } if since + self.pause_max <= now);
        self.failures = if lasted { 0 } else { self.failures + 1 };
        self.wait(now);
    }

    /// The call was refused, which the next one will be too unless somebody does something.
    pub fn refused(&mut self, now: Time) {
        self.failures = u32::MAX;
        self.wait(now);
        self.failures = 0;
    }

    fn wait(&mut self, now: Time) {
        let doublings = self.failures.saturating_sub(1).min(20);
        let full = (self.pause_min * (1 << doublings)).min(self.pause_max);
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let half = u64::try_from(full.as_nanos() / 2).unwrap_or(u64::MAX);
        let pause = full - Duration::from_nanos(self.chance % (half + 1));
        self.state = State::Waiting { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PeerLimits = PeerLimits {
        silence_max: Duration::from_secs(2),
        greeting_deadline: Duration::from_secs(2),
        send_deadline: Duration::from_secs(10),
        unsent_bytes_max: 1,
        pause_min: Duration::from_nanos(100),
        pause_max: Duration::from_nanos(1000),
    };

    fn pause(dialing: &Dialing, now: Time) -> u64 {
        dialing.deadline().expect("it waits").0 - now.0
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_chance() {
        let now = Time(5000);
        let pauses = |seed| {
            let mut dialing = Dialing::new(&LIMITS, seed);
            assert!(dialing.is_due(Time(0)), "the first call is due at once");
            let one = |full: u64| {
                dialing.called();
                assert!(!dialing.is_due(Time(u64::MAX)) && dialing.deadline().is_none(), "one call at a time");
                dialing.ended(now);
                let pause = pause(&dialing, now);
                assert!((full / 2..=full).contains(&pause), "{pause} of {full}");
                assert!(!dialing.is_due(Time(now.0 + pause - 1)) && dialing.is_due(Time(now.0 + pause)));
                pause
            };
            [100, 200, 400, 800, 1000, 1000, 1000].map(one)
        };
        assert_ne!(pauses(1), pauses(0xABCD_EF00), "two nodes call at different times");
    }

    #[test]
    fn only_a_connection_that_lasted_makes_the_next_call_soon() {
        let mut dialing = Dialing::new(&LIMITS, 7);
        for lasts in [0, 999] {
            for _ in 0..10 {
                dialing.called();
                dialing.greeted(Time(1));
                dialing.ended(Time(1 + lasts));
            }
            assert!(pause(&dialing, Time(1 + lasts)) >= 500, "it breaks each time");
        }
        dialing.called();
        dialing.greeted(Time(1));
        dialing.ended(Time(1001));
        assert!(pause(&dialing, Time(1001)) <= 100);
    }

    #[test]
    fn a_call_that_is_hurried_is_due_at_once() {
        let mut dialing = Dialing::new(&LIMITS, 7);
        dialing.called();
        dialing.hurry();
        assert!(!dialing.is_due(Time(u64::MAX)), "one call at a time");
        dialing.refused(Time(1));
        assert!(!dialing.is_due(Time(1)));
        dialing.hurry();
        assert!(dialing.is_due(Time(1)));
    }

    #[test]
    fn who_was_refused_waits_the_longest_and_then_begins_anew() {
        let mut dialing = Dialing::new(&LIMITS, 7);
        dialing.called();
        dialing.refused(Time(1));
        assert!(pause(&dialing, Time(1)) >= 500);
        dialing.called();
        dialing.ended(Time(1));
        assert!(pause(&dialing, Time(1)) <= 100);
    }
}
