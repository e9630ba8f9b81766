//! Making segments ready before they are needed: created, allocated, zeroed, flushed, and only then
//! named. One at a time, every step on the ring, so that the executor never waits for the disk.
//!
//! Zeroing takes bandwidth from commits. So it goes on in proportion to what the journal consumes,
//! slowly while the journal is idle, and at full speed only when the journal has nothing left.
//!
//! ```text
//!   wanted ─► Opening ─► Allocating ─► Zeroing… ─► Flushing ─► Naming ─► FlushingName ─► ready
//!      │         └───────────┴─── failed: removed, tried again after a second ──┘
//!      └─ a file that nobody needs any more ───────────────────────┘
//! ```
//!
//! Files that nobody needs, and that are too many to be kept for that, are removed here as well.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use io_uring::types::FsyncFlags;
use io_uring::{opcode, squeue, types};
use sealog_journal::{BlockBuffer, WantedSegment, blocks_bytes};
use sealog_protocol::Time;

use crate::counters::Counters;
use crate::directory::Directory;
use crate::ring::{Completion, Kind, Ring, Token};

/// Zeros of one write.
const ZERO_BYTES: usize = 512 << 10;
/// Bytes zeroed for each byte that the journal writes: enough to be done well before the segment in
/// use is full.
const PACE: u64 = 2;
/// Credit that is kept at most, so that no burst of zeroing follows a burst of appends.
const CREDIT_BYTES_MAX: u64 = 4 * ZERO_BYTES as u64;
/// Between two writes of zeros while the journal is idle.
const IDLE_PAUSE: Duration = Duration::from_millis(4);
/// After a failure, before the next try.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Opening,
    Allocating,
    Zeroing { at: u64 },
    Flushing,
    Naming,
    FlushingName,
    Removing,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It is made, for this segment.
    Make(u32),
    /// It was another segment's, and gets this number.
    Rename {
        from: u32,
        to: u32,
    },
    Remove(u32),
}

/// A segment on its way.
struct Preparation {
    work: Work,
    step: Step,
    file: Option<File>,
    path: PathBuf,
    path_bytes: CString,
    final_path_bytes: CString,
    in_flight: bool,
    /// The next zeros are not due before this time, unless there is credit or hurry.
    not_before: Time,
}

/// How a step ended the preparation of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ready(u32),
    Failed(u32),
}

/// Prepares segments, one at a time.
pub(crate) struct Preparer {
    segment_bytes: u64,
    wanted: VecDeque<WantedSegment>,
    unneeded: VecDeque<u32>,
    current: Option<Preparation>,
    zeros: BlockBuffer,
    /// The zeros' number among the ring's registered buffers.
    zeros_index: Option<u16>,
    credit: u64,
    retry_at: Option<Time>,
    generation: u32,
    is_stopping: bool,
}

impl Preparer {
    pub fn new(segment_bytes: u64) -> Preparer {
        Preparer {
            segment_bytes,
            wanted: VecDeque::new(),
            unneeded: VecDeque::new(),
            current: None,
            zeros: BlockBuffer::zeroed(ZERO_BYTES),
            zeros_index: None,
            credit: 0,
            retry_at: None,
            generation: 0,
            is_stopping: false,
        }
    }

    /// Address and size of the zeros, to be registered with the ring.
    pub fn zeros_region(&self) -> (usize, usize) {
        (self.zeros.as_ptr().addr(), self.zeros.len())
    }

    pub fn zeros_registered(&mut self, index: u16) {
        self.zeros_index = Some(index);
    }

    /// The journal wants this segment.
    pub fn want(&mut self, wanted: WantedSegment) {
        self.wanted.push_back(wanted);
    }

    /// The journal does not need this segment's file.
    pub fn remove(&mut self, segment: u32) {
        self.unneeded.push_back(segment);
    }

    /// The journal has written so much.
    pub fn consumed(&mut self, bytes: u64) {
        self.credit = (self.credit + bytes * PACE).min(CREDIT_BYTES_MAX);
    }

    /// Whether [`Preparer::submit`] has something to do.
    pub fn has_step_due(&self) -> bool {
        match &self.current {
            Some(current) => !current.in_flight,
            None => !self.wanted.is_empty() || !self.unneeded.is_empty(),
        }
    }

    /// Goes on if a step is due. With `hurry` the journal waits for the segment.
    pub fn submit(&mut self, now: Time, hurry: bool, directory: &Directory, ring: &mut Ring) {
        if self.is_stopping {
            return;
        }
        if self.current.is_none() {
            self.current = self.next_work(now).map(|work| Preparation::new(work, directory));
        }
        let Some(current) = self.current.as_mut().filter(|current| !current.in_flight) else { return };
        if let Step::Zeroing { .. } = current.step {
            let is_paid = self.credit >= ZERO_BYTES as u64;
            if !hurry && !is_paid && now < current.not_before {
                return;
            }
            self.credit = self.credit.saturating_sub(ZERO_BYTES as u64);
            current.not_before = now + IDLE_PAUSE;
        }
        let entry = current.entry(self.segment_bytes, &self.zeros, self.zeros_index, directory);
        current.in_flight = true;
        self.generation = self.generation.wrapping_add(1);
        // SAFETY: paths, file and zeros live in `self` until the completion clears `in_flight`, and
        // the driver drops `self` only when nothing is in flight.
        unsafe { ring.push(Token::new(Kind::Prepare, 0, self.generation), entry) };
    }

    /// Removing goes first: there may be no room for another file until then.
    fn next_work(&mut self, now: Time) -> Option<Work> {
        if let Some(segment) = self.unneeded.pop_front() {
            return Some(Work::Remove(segment));
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        let WantedSegment { segment, recycled } = self.wanted.pop_front()?;
        Some(recycled.map_or(Work::Make(segment), |from| Work::Rename { from, to: segment }))
    }

    /// A step has ended.
    pub fn on_completion(
        &mut self,
        now: Time,
        completion: Completion,
        directory: &mut Directory,
        counters: &Counters,
    ) -> Option<Outcome> {
        let current = self.current.as_mut().expect("a step in flight belongs to a segment");
        current.in_flight = false;
        match current.advance(completion, self.segment_bytes, directory, counters) {
            Ok(false) => None,
            Ok(true) => {
                let work = current.work;
                self.current = None;
                match work {
                    Work::Make(segment) | Work::Rename { to: segment, .. } => {
                        counters.segments_prepared.add(1);
                        Some(Outcome::Ready(segment))
                    }
                    Work::Remove(_) => {
                        // There is room now.
                        self.retry_at = None;
                        None
                    }
                }
            }
            Err(error) => {
                let current = self.current.take().expect("looked at above");
                self.failed(now, &current, &error, counters)
            }
        }
    }

    fn failed(&mut self, now: Time, current: &Preparation, error: &io::Error, counters: &Counters) -> Option<Outcome> {
        let path = current.path.display();
        let segment = match current.work {
            Work::Remove(_) => {
                tracing::warn!(%path, %error, "cannot remove a journal segment; the next start tries again");
                return None;
            }
            Work::Make(segment) => {
                current.clean_up();
                segment
            }
            // It stays under its own name, and the next start finds it as what it is.
            Work::Rename { to, .. } => to,
        };
        counters.segments_failed.add(1);
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                tracing::warn!(%path, %error, "no room for another journal segment; trying again");
            }
            _ => {
                tracing::error!(%path, %error, "cannot prepare a journal segment, and not for want of room; trying again")
            }
        }
        self.wanted.push_front(WantedSegment { segment, recycled: None });
        self.retry_at = Some(now + RETRY);
        Some(Outcome::Failed(segment))
    }

    /// When [`Preparer::submit`] is due again without a completion.
    pub fn deadline(&self) -> Option<Time> {
        match &self.current {
            _ if self.is_stopping => None,
            Some(current) => (!current.in_flight).then_some(current.not_before),
            None if !self.unneeded.is_empty() => Some(Time::ZERO),
            None if self.wanted.is_empty() => None,
            None => Some(self.retry_at.unwrap_or(Time::ZERO)),
        }
    }

    /// Begins no further step.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let Some(current) = &self.current {
            current.clean_up();
        }
    }
}

impl Preparation {
    fn new(work: Work, directory: &Directory) -> Preparation {
        let (path, final_path, step) = match work {
            Work::Make(segment) => (directory.preparing_path(segment), directory.segment_path(segment), Step::Opening),
            Work::Rename { from, to } => (directory.segment_path(from), directory.segment_path(to), Step::Naming),
            Work::Remove(segment) => (directory.segment_path(segment), directory.segment_path(segment), Step::Removing),
        };
        let bytes = |path: PathBuf| {
            CString::new(path.into_os_string().into_vec()).expect("a path that was opened before holds no zero byte")
        };
        Preparation {
            work,
            step,
            file: None,
            path_bytes: bytes(path.clone()),
            final_path_bytes: bytes(final_path),
            path,
            in_flight: false,
            not_before: Time::ZERO,
        }
    }

    /// Removes what was made and has no name yet: what it took is needed more than ever. If it stays,
    /// the next start removes it.
    fn clean_up(&self) {
        if let Work::Make(_) = self.work {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn entry(
        &self,
        segment_bytes: u64,
        zeros: &BlockBuffer,
        zeros_index: Option<u16>,
        directory: &Directory,
    ) -> squeue::Entry {
        let here = types::Fd(libc::AT_FDCWD);
        let file = || types::Fd(self.file.as_ref().expect("it was opened first").as_raw_fd());
        match self.step {
            Step::Opening => opcode::OpenAt::new(here, self.path_bytes.as_ptr())
                .flags(libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_DIRECT | libc::O_CLOEXEC)
                .mode(0o600)
                .build(),
            Step::Allocating => opcode::Fallocate::new(file(), segment_bytes).build(),
            Step::Zeroing { at } => {
                let bytes = (zeros.len() as u64).min(blocks_bytes(segment_bytes) - at) as u32;
                match zeros_index {
                    Some(index) => opcode::WriteFixed::new(file(), zeros.as_ptr(), bytes, index).offset(at).build(),
                    None => opcode::Write::new(file(), zeros.as_ptr(), bytes).offset(at).build(),
                }
            }
            Step::Flushing => opcode::Fsync::new(file()).build(),
            Step::Naming => {
                opcode::RenameAt::new(here, self.path_bytes.as_ptr(), here, self.final_path_bytes.as_ptr()).build()
            }
            Step::Removing => opcode::UnlinkAt::new(here, self.path_bytes.as_ptr()).build(),
            Step::FlushingName => {
                opcode::Fsync::new(types::Fd(directory.descriptor())).flags(FsyncFlags::empty()).build()
            }
        }
    }

    /// Takes a step's result; whether the segment is ready.
    fn advance(
        &mut self,
        completion: Completion,
        segment_bytes: u64,
        directory: &mut Directory,
        counters: &Counters,
    ) -> io::Result<bool> {
        let result = completion.bytes()?;
        self.step = match self.step {
            Step::Opening => {
                // SAFETY: the kernel has just opened it for us; nobody else has it.
                self.file = Some(unsafe { File::from_raw_fd(result as i32) });
                Step::Allocating
            }
            Step::Allocating => Step::Zeroing { at: 0 },
            Step::Zeroing { at } => {
                counters.zeroed_bytes.add(result as u64);
                match at + result as u64 {
                    _ if result == 0 => return Err(io::ErrorKind::WriteZero.into()),
                    end if end == blocks_bytes(segment_bytes) => Step::Flushing,
                    end => Step::Zeroing { at: end },
                }
            }
            Step::Flushing => {
                // A file of this number that is of no use may be there, and open.
                if let Work::Make(segment) = self.work {
                    directory.close(segment);
                }
                Step::Naming
            }
            Step::Naming => {
                if let Work::Rename { from, .. } = self.work {
                    directory.close(from);
                }
                Step::FlushingName
            }
            Step::FlushingName => return Ok(true),
            // Its name need not be flushed: if it comes back, so much of it is known as to remove it
            // again.
            Step::Removing => {
                if let Work::Remove(segment) = self.work {
                    directory.close(segment);
                }
                return Ok(true);
            }
        };
        Ok(false)
    }
}
