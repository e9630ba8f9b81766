//! Our io_uring ring: one per executor, made and used on its thread alone.
//!
//! Every operation carries a [`Token`] that says where its completion belongs. Memory that an
//! operation points at must live, unmoved, until its last completion was reaped; the ring counts
//! what is in flight, so that its owner can wait for that at the end.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Entries of the submission queue: more than a turn usually submits; a fuller one submits midway.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue: a burst of small messages on every connection fits.
const COMPLETIONS: u32 = 4096;
const ENTER_GETEVENTS: u32 = 1;

/// What an operation was for. Packed into the 64 bits that the kernel hands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    JournalWrite = 4,
    JournalRead = 5,
    Prepare = 6,
    Cancel = 7,
    PeerAccept = 8,
    PeerConnect = 9,
    PeerReceive = 10,
    PeerSend = 11,
    Scrub = 12,
}

/// Whom a completion concerns: a slot of a table, and which use of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    /// Below 2^24.
    pub slot: u32,
    pub generation: u32,
}

impl Token {
    pub fn new(kind: Kind, slot: u32, generation: u32) -> Token {
        debug_assert!(slot < 1 << 24, "slots are few");
        Token { kind, slot, generation }
    }

    fn pack(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.slot) << 32 | u64::from(self.generation)
    }

    fn unpack(bits: u64) -> Option<Token> {
        use Kind::*;
        let of_peers = [PeerAccept, PeerConnect, PeerReceive, PeerSend];
        let kind = [Accept, Receive, Send, JournalWrite, JournalRead, Prepare, Cancel, Scrub]
            .into_iter()
            .chain(of_peers)
            .find(|kind| *kind as u64 == bits >> 56)?;
        Some(Token { kind, slot: (bits >> 32) as u32 & 0xFF_FFFF, generation: bits as u32 })
    }
}

/// The end of an operation, or one of several results of a repeating one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub token: Token,
    /// Negative: an errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// The last completion of an operation that failed.
    #[cfg(test)]
    pub fn failed(token: Token, errno: i32) -> Completion {
        Completion { token, result: -errno, flags: 0 }
    }

    /// The operation goes on, and will complete again.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that holds what was received.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The result as a count, or the error.
    pub fn bytes(&self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

/// The ring.
pub(crate) struct Ring {
    uring: IoUring,
    in_flight: usize,
}

impl Ring {
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        Ok(Ring { uring, in_flight: 0 })
    }

    /// For registering what belongs to the ring.
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues an operation for the next [`Ring::enter`].
    ///
    /// # Safety
    /// What the entry points at lives, unmoved, until the operation's last completion was reaped.
    pub unsafe fn push(&mut self, token: Token, entry: squeue::Entry) {
        let entry = entry.user_data(token.pack());
        self.in_flight += 1;
        loop {
            // SAFETY: the caller vouches for the entry's memory.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter().expect("submitting makes room in the submission queue");
        }
    }

    /// Asks the kernel to end an operation early. Its own completion tells how it ended.
    pub fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.pack()).build();
        // SAFETY: a cancellation points at no memory.
        unsafe { self.push(Token::new(Kind::Cancel, 0, 0), entry) };
    }

    /// Asks the kernel to end all operations early.
    pub fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        // SAFETY: a cancellation points at no memory.
        unsafe { self.push(Token::new(Kind::Cancel, 0, 0), entry) };
    }

    /// Hands over what is queued and lets the kernel post what has completed. Does not wait.
    pub fn enter(&mut self) -> io::Result<()> {
        let queued = self.uring.submission().len() as u32;
        // SAFETY: no argument is passed.
        let entered = unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) };
        match entered {
            Ok(_) => Ok(()),
            // Interrupted, or the completion queue must be emptied first: the next turn goes on.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for a completion, at the end, when nothing else is left to be done.
    pub fn enter_and_wait(&mut self) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether [`Ring::enter`] or [`Ring::reap`] would find something.
    pub fn is_ready(&mut self) -> bool {
        self.is_pending() || !self.uring.completion().is_empty()
    }

    /// Whether [`Ring::enter`] has something to do.
    pub fn is_pending(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Takes what has completed.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let token = Token::unpack(entry.user_data()).expect("the kernel hands back what it was given");
            self.in_flight -= usize::from(!cqueue::more(entry.flags()));
            completions.push(Completion { token, result: entry.result(), flags: entry.flags() });
        }
    }

    /// Operations whose last completion was not reaped yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Lets completions raise an eventfd from now on, or not. It only matters to a sleeper.
    pub fn set_eventfd_enabled(&mut self, enabled: bool) {
        let completion = self.uring.completion();
        if enabled { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }

    pub fn register_eventfd(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_eventfd(eventfd.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for kind in [Kind::Accept, Kind::Receive, Kind::Cancel, Kind::PeerAccept, Kind::PeerSend] {
            let token = Token::new(kind, 0xFF_FFFE, u32::MAX);
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
    }

    #[test]
    fn completions_come_back_and_are_counted() {
        let mut ring = Ring::new().expect("io_uring works where tests run");
        let token = Token::new(Kind::Prepare, 3, 4);
        // SAFETY: a no-op points at no memory.
        unsafe { ring.push(token, opcode::Nop::new().build()) };
        assert_eq!(ring.in_flight(), 1);
        ring.enter_and_wait().expect("enter");
        let mut completions = Vec::new();
        ring.reap(&mut completions);
        assert_eq!(completions.len(), 1);
        assert_eq!((completions[0].token, ring.in_flight()), (token, 0));
    }
}
