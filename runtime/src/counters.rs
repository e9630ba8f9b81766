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
