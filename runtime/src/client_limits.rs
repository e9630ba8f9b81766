//! What a client may take of a node before it is shown the door: connections, and time.
//!
//! Deadlines are looked at in sweeps over the table of connections, several in the shortest of them:
//! a timer for each connection would cost each frame something, a sweep costs nothing while all
//! is well. So a connection lives a little longer than its deadline, never less.

use std::time::Duration;

use sealog_protocol::Time;
use thiserror::Error;

use crate::addresses::Peer;
use crate::connection::{Connection, Phase};

/// What clients of a node may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections of an executor. Whoever comes beyond them is told so, and closed.
    pub connections_max: usize,
    /// Of them for one address, or one network of IPv6. `None`: half of them, and all of them for
    /// this machine's own processes. Unix sockets are not counted: who may open one is told by files.
    pub connections_per_address_max: Option<usize>,
    /// From the connection to the end of its hello.
    pub handshake_deadline: Duration,
    /// From the first byte of a frame to its last.
    pub frame_deadline: Duration,
    /// For the next [`crate::limits::SEND_BYTES_MAX`] of what was sent, to be taken by the peer.
    pub send_deadline: Duration,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            connections_max: ClientLimits::CONNECTIONS_DEFAULT,
            connections_per_address_max: None,
            handshake_deadline: Duration::from_secs(10),
            frame_deadline: Duration::from_secs(30),
            send_deadline: Duration::from_secs(30),
        }
    }
}

/// Sweeps in the time of the shortest deadline.
const SWEEPS: u32 = 4;
/// The least time between two sweeps.
const SWEEP_MIN: Duration = Duration::from_millis(1);

impl ClientLimits {
    pub const CONNECTIONS_DEFAULT: usize = 10_000;
    /// The most that can be configured.
    pub const CONNECTIONS_MAX: usize = 1 << 20;

    /// The same with as many connections as `open_files` allow, which a node needs for itself too:
    /// a journal that finds no descriptor for its next segment would stop all clients.
    pub(crate) fn within(self, open_files: u64, reserved: u64) -> ClientLimits {
        let room = usize::try_from(open_files.saturating_sub(reserved)).unwrap_or(usize::MAX).max(1);
        ClientLimits { connections_max: self.connections_max.min(room), ..self }
    }

    /// Connections that one peer may have.
    pub(crate) fn connections_of(&self, peer: Peer) -> usize {
        match self.connections_per_address_max {
            Some(connections) => connections,
            None if peer.is_of_this_machine() => self.connections_max,
            None => (self.connections_max / 2).max(1),
        }
    }

    /// Between two sweeps.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let shortest = self.handshake_deadline.min(self.frame_deadline).min(self.send_deadline);
        (shortest / SWEEPS).max(SWEEP_MIN)
    }

    /// What a connection is too late with. Until `excused`, we ourselves kept clients waiting.
    pub(crate) fn overdue(&self, now: Time, excused: Time, connection: &Connection) -> Option<Overdue> {
        let clocks = connection.clocks;
        let is_over = |began: Time, deadline: Duration| began + deadline <= now;
        if connection.phase == Phase::Dead {
            return None;
        }
        if connection.is_sending() && is_over(clocks.sending_since, self.send_deadline) {
            return Some(Overdue::Send { deadline: self.send_deadline });
        }
        // What it would send is not missed where it is we who do not read.
        if connection.paused || !connection.receiving {
            return None;
        }
        match (connection.phase, clocks.frame_since) {
            (Phase::Fresh, _) if is_over(clocks.opened.max(excused), self.handshake_deadline) => {
                Some(Overdue::Handshake { deadline: self.handshake_deadline })
            }
            (Phase::Serving, Some(began)) if is_over(began.max(excused), self.frame_deadline) => {
                Some(Overdue::Frame { deadline: self.frame_deadline })
            }
            _ => None,
        }
    }
}

/// When a connection began what it has not finished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    pub opened: Time,
    /// The first byte of a frame whose last has not come.
    pub frame_since: Option<Time>,
    /// The send in flight, if there is one.
    pub sending_since: Time,
}

impl Clocks {
    pub fn new(now: Time) -> Clocks {
        Clocks { opened: now, frame_since: None, sending_since: now }
    }

    /// After bytes were taken in that ended so many frames, and may have begun one.
    pub fn took_in(&mut self, now: Time, frames_ended: u64, has_partial: bool) {
        self.frame_since = match self.frame_since {
            Some(began) if frames_ended == 0 => Some(began),
            _ => Some(now),
        }
        .filter(|_| has_partial);
    }
}

/// What a client did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Overdue {
    #[error("no hello came within {deadline:?} of the connection: is this a Sealog client?")]
    Handshake { deadline: Duration },
    #[error("a frame was begun and not finished within {deadline:?}: send smaller batches over a slow network")]
    Frame { deadline: Duration },
    #[error("the peer took none of its answers for {deadline:?}")]
    Send { deadline: Duration },
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::machine::ConnectionId;

    const LIMITS: ClientLimits = ClientLimits {
        connections_max: 10,
        connections_per_address_max: None,
        handshake_deadline: Duration::from_nanos(100),
        frame_deadline: Duration::from_nanos(200),
        send_deadline: Duration::from_nanos(300),
    };

    fn connection() -> Connection {
        let socket = std::os::unix::net::UnixStream::pair().expect("a pair of sockets").0;
        let mut connection = Connection::new(Time(1000), ConnectionId(1), 1, socket.into(), None);
        connection.receiving = true;
        connection
    }

    #[test]
    fn a_hello_is_due_from_the_start_and_from_our_own_delays() {
        let connection = connection();
        assert_eq!(LIMITS.overdue(Time(1099), Time(0), &connection), None);
        assert!(matches!(LIMITS.overdue(Time(1100), Time(0), &connection), Some(Overdue::Handshake { .. })));
        assert_eq!(LIMITS.overdue(Time(1100), Time(1001), &connection), None);
    }

    #[test]
    fn a_frame_is_due_from_its_own_first_byte() {
        let mut connection = connection();
        connection.phase = Phase::Serving;
        assert_eq!(LIMITS.overdue(Time(9999), Time(0), &connection), None, "silence between frames is no fault");
        connection.clocks.took_in(Time(2000), 0, true);
        connection.clocks.took_in(Time(2150), 0, true);
        assert!(matches!(LIMITS.overdue(Time(2200), Time(0), &connection), Some(Overdue::Frame { .. })));
        connection.clocks.took_in(Time(2199), 1, true);
        assert_eq!(LIMITS.overdue(Time(2398), Time(0), &connection), None, "another frame began");
        connection.paused = true;
        assert_eq!(LIMITS.overdue(Time(9999), Time(0), &connection), None, "we do not read it");
        connection.paused = false;
        connection.clocks.took_in(Time(2398), 1, false);
        assert_eq!(LIMITS.overdue(Time(9999), Time(0), &connection), None);
    }

    #[test]
    fn what_is_sent_is_to_be_taken() {
        let mut connection = connection();
        connection.phase = Phase::Serving;
        connection.output().extend_from_slice(b"answer");
        connection.next_send(Time(3000)).expect("something to send");
        assert_eq!(LIMITS.overdue(Time(3299), Time(0), &connection), None);
        let overdue = LIMITS.overdue(Time(3300), Time(9999), &connection);
        assert!(matches!(overdue, Some(Overdue::Send { .. })), "that we are slow to read excuses nobody from it");
        connection.sent(6);
        assert_eq!(LIMITS.overdue(Time(9999), Time(0), &connection), None);
    }

    #[test]
    fn descriptors_are_left_for_the_journal() {
        assert_eq!(ClientLimits::default().within(1 << 20, 200).connections_max, 10_000);
        assert_eq!(ClientLimits::default().within(1024, 200).connections_max, 824);
        assert_eq!(ClientLimits::default().within(100, 200).connections_max, 1);
    }
}
