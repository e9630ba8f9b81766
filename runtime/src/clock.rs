//! The one origin of time of a node: what machines see counts from here.

use std::time::{Duration, Instant};

use sealog_protocol::Time;

/// Reads the monotonic clock as [`Time`]. All executors of a node share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// Nanoseconds since the origin, from one on: a machine may take zero for "never".
    pub fn now(&self) -> Time {
        let nanoseconds = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Time(nanoseconds.saturating_add(1))
    }

    /// How long from `now` until `deadline`; zero when it has passed.
    pub(crate) fn until(now: Time, deadline: Time) -> Duration {
        deadline.since(now)
    }
}
