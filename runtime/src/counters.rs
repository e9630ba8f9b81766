//! What an executor has done, for `status` and tests. Written by one thread, read by any.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one executor. They only grow, but for those called `…_now`.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// All of them by name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Client connections that are open.
    connections_now,
    /// Client connections that were accepted.
    connections_accepted,
    /// Connections refused because there were too many.
    connections_refused,
    /// Of them those of which one address had too many.
    connections_refused_by_address,
    /// Tries to accept a connection that failed: too many open files, no memory.
    accepts_failed,
    /// Connections closed because their hello, or the rest of a frame, did not come in time.
    connections_late,
    /// Connections closed for what they sent: not a frame, too large, damaged, or another version.
    connections_malformed,
    /// Connections cut off because their replies were not read.
    connections_slow,
    /// Frames handed to the host.
    frames_received,
    /// Replies encoded.
    replies_sent,
    /// Bytes from clients.
    received_bytes,
    /// Bytes to clients.
    sent_bytes,
    /// Blocks written to the journal, each with a flush.
    journal_writes,
    /// Bytes of them.
    journal_bytes,
    /// Bytes of zeros written to prepare segments.
    zeroed_bytes,
    /// Reads from the journal.
    journal_reads,
    /// Reads of the scrub.
    scrub_reads,
    /// Damaged ranges that it found, each once.
    scrub_findings,
    /// Segments made ready.
    segments_prepared,
    /// Tries to prepare a segment that failed, mostly for want of space.
    segments_failed,
    /// Turns that had something to do.
    turns,
    /// Times that the executor slept.
    parks,
    /// Messages to other executors.
    messages_sent,
    /// Other nodes that are connected.
    peers_now,
    /// Connections to other nodes that began, for the first time or again.
    peer_connects,
    /// Calls to other nodes that failed, or were refused.
    peer_calls_failed,
    /// Callers that were refused: of another cluster, version or life, unknown, or too many.
    peers_refused,
    /// Connections of nodes closed for what came on them, or because no greeting came in time.
    peers_malformed,
    /// Connections of nodes that ended because nothing came on them any more.
    peers_silent,
    /// Connections of nodes cut off because they did not take what was sent to them.
    peers_slow,
    /// Messages to other nodes.
    peer_messages_sent,
    /// Messages from other nodes.
    peer_messages_received,
    /// Messages to other nodes dropped for want of a connection, or from them for machines not here.
    peer_messages_dropped,
    /// Bytes to other nodes.
    peer_sent_bytes,
    /// Bytes from other nodes.
    peer_received_bytes,
}

/// A number that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A plain load and store: only the counter's own executor writes it.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
