//! How an executor sleeps: the ring's completions and other threads raise an eventfd, and glommio
//! waits for it.
//!
//! glommio 0.9 can go to sleep although a task is runnable: when its preemption flag is set as it
//! enters its task loop, it finds nothing to run. So no sleep relies on one wake-up: several timers
//! stand behind it, and the first one that fires while glommio pays attention ends it. A thread that
//! gets no core for long finds all timers of a sleep passed at once, which is one wake-up: on a machine
//! with five times as much to do as cores, a node slept for minutes, until a debugger came. So behind
//! those are timers that outlast any pause, and are wound up again while all goes well.

#![allow(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::limits::SLEEP_MIN;

/// After the timer that should end a sleep: one more, and one more, should glommio have missed it.
const BACKSTOPS: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(125)];

/// The first of the timers that are wound up now and then; each of the others takes twice as long as the
/// one before it.
const RESCUE_FIRST: Duration = Duration::from_millis(250);
const RESCUES: u32 = 12;
/// They are wound up when they have run for so long: before the first one fires.
const RESCUE_REWIND: Duration = Duration::from_millis(100);

/// Sleeps until an eventfd is raised.
pub(crate) struct Parker {
    rescues: Vec<Timer>,
    rewound_at: Option<Instant>,
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
        Ok(Parker { rescues: Vec::new(), rewound_at: None, eventfd: eventfd.try_clone()?, file })
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
    pub async fn sleep(&mut self, at_most: Duration) {
        let first = at_most.max(SLEEP_MIN);
        let mut timers =
            [Duration::ZERO, BACKSTOPS[0], BACKSTOPS[1], BACKSTOPS[2]].map(|more| Timer::new(first + more));
        let is_due = self.rewound_at.is_none_or(|at| at.elapsed() >= RESCUE_REWIND);
        if is_due {
            self.rescues = (0..RESCUES).map(|nth| Timer::new(RESCUE_FIRST * 2u32.pow(nth))).collect();
            self.rewound_at = Some(Instant::now());
        }
        let Parker { rescues, file, .. } = self;
        let mut rescues = rescues.iter_mut().filter(|_| is_due);
        let mut raised = pin!(file.read_at(0, 8));
        poll_fn(|context| {
            // All are polled, so that each of them wakes this task.
            let is_raised = raised.as_mut().poll(context).is_ready();
            let mut is_time = false;
            for timer in &mut timers {
                is_time |= Pin::new(timer).poll(context).is_ready();
            }
            // Polled once, they wake this task whatever it waits for: there is none but this one.
            for rescue in &mut rescues {
                is_time |= Pin::new(rescue).poll(context).is_ready();
            }
            if is_raised || is_time { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
