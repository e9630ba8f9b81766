//! How many sessions a connection may open.
//!
//! A logspace keeps so many sessions, and forgets the one whose last record is oldest: that is a
//! function of the log, and cannot know who deserves to be kept. So what enters the log is bounded:
//! a client needs one session of a logspace, and another one when that has expired. One that asks
//! for more and more would have the sessions of idle clients forgotten.

use std::collections::BTreeMap;

use sealog_protocol::Time;
use sealog_protocol::limits::SESSION_OPENING_INTERVAL;
use sealog_protocol::machine::ConnectionId;

/// What connections have left. One that has opened nothing takes no memory, nor one that is closed.
#[derive(Debug)]
pub(crate) struct Openings {
    openings_max: u32,
    spent: BTreeMap<ConnectionId, Spent>,
}

#[derive(Clone, Copy, Debug)]
struct Spent {
    openings: u32,
    /// Up to here time has given openings back.
    until: Time,
}

impl Openings {
    pub fn new(openings_max: u32) -> Openings {
        Openings { openings_max, spent: BTreeMap::new() }
    }

    /// Takes one opening of a connection's; false when it has none left.
    pub fn take(&mut self, now: Time, connection: ConnectionId) -> bool {
        let spent = self.spent.entry(connection).or_insert(Spent { openings: 0, until: now });
        while spent.openings > 0 && spent.until + SESSION_OPENING_INTERVAL <= now {
            spent.openings -= 1;
            spent.until = spent.until + SESSION_OPENING_INTERVAL;
        }
        if spent.openings == 0 {
            spent.until = now;
        }
        let is_left = spent.openings < self.openings_max;
        spent.openings += u32::from(is_left);
        is_left
    }

    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.spent.remove(&connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENINGS_MAX: u32 = 8;
    const ONE: ConnectionId = ConnectionId(1);
    const OTHER: ConnectionId = ConnectionId(2);

    #[test]
    fn so_many_at_once_then_as_time_goes_by() {
        let mut openings = Openings::new(OPENINGS_MAX);
        let began = Time(5);
        assert_eq!((0..1000).filter(|_| openings.take(began, ONE)).count(), OPENINGS_MAX as usize);
        assert!(openings.take(began, OTHER), "others have their own");
        let next = began + SESSION_OPENING_INTERVAL;
        assert!(!openings.take(Time(next.0 - 1), ONE));
        assert!(openings.take(next, ONE));
        assert!(!openings.take(next, ONE), "one for one interval");
        let later = next + 5 * SESSION_OPENING_INTERVAL;
        assert_eq!((0..1000).filter(|_| openings.take(later, ONE)).count(), 5);
        let much_later = later + 1000 * SESSION_OPENING_INTERVAL;
        assert_eq!(
            (0..1000).filter(|_| openings.take(much_later, ONE)).count(),
            OPENINGS_MAX as usize,
            "silence is not saved up"
        );
    }

    #[test]
    fn a_connection_that_is_closed_takes_no_memory() {
        let mut openings = Openings::new(OPENINGS_MAX);
        for connection in 0..100 {
            assert!(openings.take(Time(1), ConnectionId(connection)));
            openings.connection_closed(ConnectionId(connection));
        }
        assert!(openings.spent.is_empty());
    }
}
