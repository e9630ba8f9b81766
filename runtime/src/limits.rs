//! Every bound of the shell, with its reason. Those of the protocol are in
//! [`sealog_protocol::limits`].

use std::time::Duration;

use sealog_protocol::limits::FRAME_BYTES_MAX;

use crate::client_limits::ClientLimits;
use crate::peer_config::PeersConfig;

/// Buffers that sockets of an executor are received into; a power of two. When all are in use,
/// what clients send stays in their sockets.
pub(crate) const RECEIVE_BUFFERS: u16 = 128;
/// The same for other nodes, which have buffers of their own.
pub(crate) const PEER_RECEIVE_BUFFERS: u16 = 64;
/// Bytes of each.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Connections beyond the configured limit that are being told so; more are closed without a word.
pub(crate) const REFUSED_MAX: usize = 64;
/// Descriptors that an executor needs beside those of its clients: segments that are read, those
/// that are written and prepared, rings, listeners, and who is being refused.
pub(crate) const RESERVED_FILES: u64 = OPEN_FILES_MAX as u64 + REFUSED_MAX as u64 + 64;
/// Bytes of one send. A peer has to take them within the deadline of sends: it is what tells a slow
/// reader from one that reads nothing.
pub(crate) const SEND_BYTES_MAX: usize = 256 << 10;
/// Unsent replies of one connection beyond which nothing more is taken from it.
pub(crate) const UNSENT_BYTES_PAUSE: usize = 1 << 20;
/// Unsent replies of one connection beyond which it is cut off.
pub(crate) const UNSENT_BYTES_MAX: usize = 64 << 20;
/// Unsent replies of all connections of an executor beyond which slow readers are cut off.
pub(crate) const UNSENT_BYTES_TOTAL_MAX: usize = 512 << 20;
/// Memory that an emptied buffer of a connection keeps for its next use.
pub(crate) const KEPT_BYTES_MAX: usize = 256 << 10;
/// How long a peer that was told why its connection ends has to read that.
pub(crate) const LEAVING: Duration = Duration::from_secs(1);
/// After accepting failed (too many open files, no memory), before it is tried again.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Lines of the log about bad connections of one kind, in so long; more are counted, and the count
/// is told.
pub(crate) const WARNINGS_MAX: u32 = 10;
pub(crate) const WARNINGS_WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a caller's first frame, when it is not known yet.
pub(crate) const GREETING_BYTES_MAX: usize = 256;
/// Connections to the address for nodes that are not greeted yet, or are being told why not; more
/// are closed without a word.
pub(crate) const STRANGERS_MAX: usize = 64;
/// Descriptors that connections between nodes may need.
pub(crate) const PEER_FILES: u64 = 2 * PeersConfig::PEERS_MAX as u64 + STRANGERS_MAX as u64;

/// Messages from one executor to another that it has not taken yet. What finds them full waits at
/// the sender, who takes nothing from clients meanwhile.
pub(crate) const PARCELS_MAX: usize = 4096;
/// Forwarded client frames, likewise.
pub(crate) const FORWARDED_MAX: usize = 1024;

/// Segment files that are kept open at once.
pub(crate) const OPEN_FILES_MAX: usize = 128;

/// After the last work, how long an executor looks for more before it sleeps.
pub(crate) const SPIN: Duration = Duration::from_micros(50);
/// The same while the disk works for it: sleeping then costs a third of the throughput.
pub(crate) const SPIN_WAITING: Duration = Duration::from_micros(400);
/// The longest sleep: what bounds a wake-up that glommio loses.
pub(crate) const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The longest sleep while the disk works for it.
pub(crate) const SLEEP_WAITING_MAX: Duration = Duration::from_millis(5);
/// The longest sleep while something waits for room at another executor, which does not tell when
/// there is some. glommio's timers are unreliable below.
pub(crate) const SLEEP_MIN: Duration = Duration::from_millis(1);
/// How long clients have to take their last replies when the node stops.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && PEER_RECEIVE_BUFFERS.is_power_of_two());
const _: () =
    assert!(ClientLimits::CONNECTIONS_MAX + REFUSED_MAX < 1 << 24, "a connection's slot has 24 bits of its id");
const _: () = assert!(UNSENT_BYTES_MAX > UNSENT_BYTES_PAUSE + FRAME_BYTES_MAX, "one answer alone cuts nobody off");
const _: () = assert!(UNSENT_BYTES_TOTAL_MAX >= UNSENT_BYTES_MAX);
