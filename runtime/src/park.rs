//! How an executor sleeps: the ring's completions and other threads raise an eventfd, and glommio
//! waits for it.
//!
//! glommio 0.9 can go to sleep although a task is runnable: when its preemption flag is set as it
//! enters its task loop, it finds nothing to run. So no sleep relies on one wake-up: several timers
//! stand behind it, and the first one that fires while glommio pays attention ends it.

#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::limits::SLEEP_MIN;

/// After the timer that should end a sleep: one more, and one more, should glommio have missed it.
const BACKSTOPS: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(125)];

/// Sleeps until an eventfd is raised.
pub(crate) struct Parker {
    eventfd: OwnedFd,
    file: BufferedFile,
}

impl Parker {
    /// # Errors
    /// When the process has too many files open.
    pub fn new(eventfd: &OwnedFd) -> io::Result<Parker> {
        let for_glommio = eventfd.as_fd().try_clone_to_owned()?;
        // SAFETY: the file is given a descriptor of its own.
        let file = unsafe { BufferedFile::from_raw_fd(for_glommio.into_raw_fd()) };
        Ok(Parker { eventfd: eventfd.try_clone()?, file })
    }

    /// Lowers the eventfd, without waiting. What was raised before is looked at after this.
    pub fn drain(&self) {
        let mut count = [0u8; 8];
        let parts = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
        // SAFETY: one buffer of eight bytes that lives through the call. That it fails means that
        // nothing was raised.
        unsafe { libc::preadv2(self.eventfd.as_raw_fd(), &parts, 1, -1, libc::RWF_NOWAIT) };
    }

    /// Sleeps until the eventfd is raised, or about this long at most.
    pub async fn sleep(&self, at_most: Duration) {
        let first = at_most.max(SLEEP_MIN);
        let mut timers =
            [Duration::ZERO, BACKSTOPS[0], BACKSTOPS[1], BACKSTOPS[2]].map(|more| Timer::new(first + more));
        let mut raised = pin!(self.file.read_at(0, 8));
        poll_fn(|context| {
            // All are polled, so that each of them wakes this task.
            let is_raised = raised.as_mut().poll(context).is_ready();
            let mut is_time = false;
            for timer in &mut timers {
                is_time |= Pin::new(timer).poll(context).is_ready();
            }
            if is_raised || is_time { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
