//! The journal on the ring: its blocks written, each with its flush, and its bytes read.
//!
//! A write that fails in any way ends the process: what it left on the disk is unknown, a later
//! flush would succeed without it, and nothing of it was acknowledged.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use bytes::Bytes;
use io_uring::{opcode, types};
use sealog_journal::{
    ALIGNMENT, BlockBuffer, Damage, FooterChunk, Journal, JournalStatus, Owner, RecoveryReport, ScrubRead, TagsSource,
    WantedSegment,
};
use sealog_protocol::Time;
use sealog_protocol::ids::ShardId;
use sealog_protocol::machine::{DurableEntry, JournalPlace, ReadFailure};

use crate::counters::Counters;
use crate::directory::Directory;
use crate::host::Host;
use crate::preparer::{Outcome, Preparer};
use crate::ring::{Completion, Kind, Ring, Token};

#[cfg(all(feature = "skip-flush", not(debug_assertions)))]
compile_error!("skip-flush loses what was acknowledged: it is for tests alone, never for a release");

/// Every write is durable when it completes. Without that, which no shipped build has, power-loss
/// tests must fail: the feature makes the build that shows it.
const WRITE_FLAGS: i32 = if cfg!(feature = "skip-flush") { 0 } else { libc::RWF_DSYNC };

/// Journal and files of an executor.
pub(crate) struct JournalIo {
    journal: Journal,
    directory: Directory,
    preparer: Preparer,
    /// Blocks being written; a slot is a write's token.
    writes: Vec<Option<WriteFlight>>,
    writes_in_flight: usize,
    reads: Vec<Option<ReadFlight>>,
    free_reads: Vec<u32>,
    /// The scrub's read: one at a time.
    scrub: Option<ScrubFlight>,
    /// Tags that were in memory: told to the host in the next turn.
    tags_at_hand: Vec<(Owner, u64, u64, Bytes)>,
    /// Files to be used again that are still being read: what is read stays what it is until then.
    still_read: Vec<WantedSegment>,
    was_full: Option<bool>,
    /// The ring knows the journal's usual buffers: the kernel need not pin their pages each time.
    are_buffers_registered: bool,
}

struct WriteFlight {
    id: u64,
    segment: u32,
    offset: u64,
    buffer: BlockBuffer,
}

struct ReadFlight {
    owner: Owner,
    ticket: u64,
    what: Wanted,
    segment: u32,
    offset: u64,
    buffer: BlockBuffer,
}

struct ScrubFlight {
    read: ScrubRead,
    buffer: BlockBuffer,
}

enum Wanted {
    Bytes { skip: usize, bytes: usize },
    Tags(FooterChunk),
}

/// A buffer that a disk read filled, as the owner of slices of it.
struct ReadBuffer(BlockBuffer);

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl JournalIo {
    pub fn new(journal: Journal, directory: Directory, segment_bytes: u64) -> JournalIo {
        JournalIo {
            journal,
            directory,
            preparer: Preparer::new(segment_bytes),
            writes: Vec::new(),
            writes_in_flight: 0,
            reads: Vec::new(),
            free_reads: Vec::new(),
            scrub: None,
            tags_at_hand: Vec::new(),
            still_read: Vec::new(),
            was_full: None,
            are_buffers_registered: false,
        }
    }

    /// Makes the journal's buffers known to the ring. They count as locked memory: where the limit
    /// is too low for them, writes are a little slower.
    pub fn register_buffers(&mut self, ring: &Ring) {
        let part = |(address, bytes): (usize, usize)| libc::iovec { iov_base: address as *mut _, iov_len: bytes };
        let blocks = self.journal.buffer_regions();
        let parts: Vec<libc::iovec> = blocks.iter().copied().chain([self.preparer.zeros_region()]).map(part).collect();
        // SAFETY: journal and preparer keep this memory, unmoved, as long as they live; the driver
        // drops the ring before them.
        match unsafe { ring.submitter().register_buffers(&parts) } {
            Ok(()) => {
                self.are_buffers_registered = true;
                self.preparer.zeros_registered(blocks.len() as u16);
            }
            Err(error) => tracing::info!(%error, "the journal's buffers are not registered with io_uring"),
        }
    }

    pub fn append(&mut self, now: Time, owner: Owner, entry: DurableEntry) {
        self.journal.append(now, owner, entry);
    }

    pub fn release(&mut self, owner: Owner, segment: u32) {
        self.journal.release(owner, segment);
    }

    pub fn status(&self) -> JournalStatus {
        self.journal.status()
    }

    /// What recovery found.
    pub fn report(&self) -> RecoveryReport {
        self.journal.report().clone()
    }

    /// What the scrub found in segments that are still there.
    pub fn findings(&self) -> Vec<Damage> {
        self.journal.findings()
    }

    /// Reads or writes are in flight that somebody waits for.
    pub fn is_waiting_for_disk(&self) -> bool {
        self.writes_in_flight > 0 || self.free_reads.len() < self.reads.len()
    }

    /// Reads from the journal: [`Host::read_done`] follows.
    pub fn read(&mut self, ring: &mut Ring, owner: Owner, ticket: u64, at: JournalPlace, bytes: u32) {
        let begin = at.byte_offset();
        let offset = begin / ALIGNMENT as u64 * ALIGNMENT as u64;
        let skip = (begin - offset) as usize;
        let length = (skip + bytes as usize).next_multiple_of(ALIGNMENT);
        let what = Wanted::Bytes { skip, bytes: bytes as usize };
        let buffer = BlockBuffer::zeroed(length);
        self.push_read(ring, ReadFlight { owner, ticket, what, segment: at.segment, offset, buffer });
    }

    /// Reads Tags: [`Host::tags_read`] follows.
    pub fn read_tags(&mut self, ring: &mut Ring, owner: Owner, ticket: u64, shard: ShardId, segment: u32, from: u64) {
        match self.journal.read_tags(owner, shard, segment, from) {
            TagsSource::Memory { first, entries } => self.tags_at_hand.push((owner, ticket, first, entries)),
            TagsSource::Footer(chunk) => {
                let buffer = BlockBuffer::zeroed(chunk.bytes);
                let (segment, offset) = (chunk.segment, chunk.offset);
                self.push_read(ring, ReadFlight { owner, ticket, what: Wanted::Tags(chunk), segment, offset, buffer });
            }
        }
    }

    fn push_read(&mut self, ring: &mut Ring, mut read: ReadFlight) {
        let slot = self.free_reads.pop().unwrap_or(self.reads.len() as u32);
        if slot as usize == self.reads.len() {
            self.reads.push(None);
        }
        // A segment that cannot be opened fails as its read would: the descriptor is refused.
        let descriptor = self.directory.segment(read.segment).unwrap_or_else(|error| {
            tracing::error!(segment = read.segment, %error, "cannot open a journal segment");
            -1
        });
        let (address, bytes) = (read.buffer.as_mut_ptr(), read.buffer.len() as u32);
        let entry = opcode::Read::new(types::Fd(descriptor), address, bytes).offset(read.offset).build();
        self.reads[slot as usize] = Some(read);
        // SAFETY: the buffer's memory does not move with it, and stays in `reads` until completion.
        unsafe { ring.push(Token::new(Kind::JournalRead, slot, 0), entry) };
    }

    /// Begins the scrub's next read, if one is due.
    fn scrub(&mut self, now: Time, ring: &mut Ring) {
        let Some(read) = self.journal.next_scrub(now) else { return };
        let descriptor = self.directory.segment(read.segment).unwrap_or_else(|error| {
            tracing::error!(segment = read.segment, %error, "cannot open a journal segment");
            -1
        });
        let mut buffer = BlockBuffer::zeroed(read.bytes);
        let entry = opcode::Read::new(types::Fd(descriptor), buffer.as_mut_ptr(), read.bytes as u32);
        let entry = entry.offset(read.offset).build();
        self.scrub = Some(ScrubFlight { read, buffer });
        // SAFETY: the buffer's memory does not move with it, and stays in `scrub` until completion.
        unsafe { ring.push(Token::new(Kind::Scrub, 0, 0), entry) };
    }

    /// The scrub's read has ended.
    pub fn on_scrub(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let ScrubFlight { read, buffer } = self.scrub.take().expect("the scrub's read was submitted");
        counters.scrub_reads.add(1);
        let content = match completion.bytes() {
            Ok(bytes) if bytes == read.bytes => Some(&buffer[..]),
            result => {
                tracing::error!(
                    segment = read.segment,
                    offset = read.offset,
                    ?result,
                    "the scrub cannot read the journal"
                );
                None
            }
        };
        self.journal.scrub_done(now, read, content);
        while let Some(Damage { kind, segment, offset, bytes }) = self.journal.next_finding() {
            counters.scrub_findings.add(1);
            let path = self.directory.segment_path(segment);
            tracing::error!(
                file = %path.display(), offset, bytes, what = kind.name(),
                "the scrub found damage on the disk: what is damaged can't be read from here, all else is served; \
                 check the disk (dmesg, smartctl)"
            );
        }
    }

    /// A read has ended.
    pub fn on_read<H: Host>(&mut self, now: Time, completion: Completion, host: &mut H, counters: &Counters) {
        let slot = completion.token.slot;
        let read = self.reads[slot as usize].take().expect("a read in flight has its slot");
        self.free_reads.push(slot);
        counters.journal_reads.add(1);
        let ReadFlight { owner, ticket, what, segment, offset, buffer } = read;
        let result = match completion.bytes() {
            Ok(bytes) if bytes == buffer.len() => Ok(buffer),
            result => {
                tracing::error!(segment, offset, ?result, expected = buffer.len(), "a read of the journal failed");
                Err(ReadFailure::Corrupt)
            }
        };
        match what {
            Wanted::Bytes { skip, bytes } => {
                host.read_done(now, owner, ticket, result.map(|buffer| slice(buffer, skip, bytes)));
            }
            Wanted::Tags(chunk) => {
                let tags = result.and_then(|buffer| chunk.tags(&Bytes::from_owner(ReadBuffer(buffer))));
                let (first, entries) = match tags {
                    Ok((first, entries)) => (first, Ok(entries)),
                    Err(failure) => (0, Err(failure)),
                };
                host.tags_read(now, owner, ticket, first, entries);
            }
        }
    }

    /// A block's write has ended.
    pub fn on_write(&mut self, now: Time, completion: Completion, counters: &Counters) {
        let write = self.writes[completion.token.slot as usize].take().expect("a write in flight has its slot");
        self.writes_in_flight -= 1;
        match completion.bytes() {
            Ok(bytes) if bytes == write.buffer.len() => {}
            Ok(bytes) => self.poison(&write, &format!("only {bytes} of {} bytes were written", write.buffer.len())),
            Err(error) => self.poison(&write, &error.to_string()),
        }
        counters.journal_writes.add(1);
        counters.journal_bytes.add(write.buffer.len() as u64);
        self.preparer.consumed(write.buffer.len() as u64);
        self.journal.write_done(now, write.id, write.buffer);
    }

    fn poison(&self, write: &WriteFlight, reason: &str) -> ! {
        let path = self.directory.segment_path(write.segment);
        eprintln!(
            "sealog: writing the journal failed: {}, offset {}: {reason}. The node stops: nothing that this write \
             held was acknowledged, and what was acknowledged before is on disk. Check the disk (dmesg, smartctl), \
             then start the node again: it recovers by itself",
            path.display(),
            write.offset
        );
        std::process::exit(1);
    }

    /// A step of preparing a segment has ended.
    pub fn on_prepare(&mut self, now: Time, completion: Completion, counters: &Counters) {
        match self.preparer.on_completion(now, completion, &mut self.directory, counters) {
            Some(Outcome::Ready(segment)) => self.journal.segment_ready(segment),
            Some(Outcome::Failed(segment)) => self.journal.segment_failed(segment),
            None => {}
        }
    }

    /// Tells the host what is durable, what was at hand, and whether there is space.
    pub fn tell<H: Host>(&mut self, now: Time, host: &mut H) -> bool {
        let mut told = false;
        while let Some((owner, place)) = self.journal.next_durable() {
            host.durable(now, owner, place);
            told = true;
        }
        for (owner, ticket, first, entries) in self.tags_at_hand.drain(..) {
            host.tags_read(now, owner, ticket, first, Ok(entries));
            told = true;
        }
        while let Some((owner, segment)) = self.journal.next_vacate() {
            host.vacate(now, owner, segment);
            told = true;
        }
        while let Some(rotten) = self.journal.next_rotten() {
            host.rotten(now, rotten);
            told = true;
        }
        let full = self.journal.is_full();
        if self.was_full != Some(full) {
            self.was_full = Some(full);
            host.space(now, full);
            told = true;
        }
        told
    }

    /// Tags that were in memory wait to be told.
    pub fn has_tags_at_hand(&self) -> bool {
        !self.tags_at_hand.is_empty()
    }

    /// Gives the ring what is to be written, and goes on with preparing segments.
    pub fn submit(&mut self, now: Time, ring: &mut Ring) {
        while let Some(write) = self.journal.next_write(now) {
            let (address, bytes) = (write.buffer.as_ptr(), write.buffer.len() as u32);
            let flight =
                WriteFlight { id: write.id, segment: write.segment, offset: write.offset, buffer: write.buffer };
            let descriptor = match self.directory.segment(flight.segment) {
                Ok(descriptor) => descriptor,
                Err(error) => self.poison(&flight, &format!("cannot open it: {error}")),
            };
            self.push_write(ring, descriptor, address, bytes, flight);
        }
        self.manage_files();
        self.scrub(now, ring);
        if self.preparer.has_step_due() {
            let hurry = self.journal.status().segments_prepared == 0;
            self.preparer.submit(now, hurry, &self.directory, ring);
        }
    }

    /// Hands on which files are wanted, and which are not.
    fn manage_files(&mut self) {
        while let Some(segment) = self.journal.next_removal() {
            self.preparer.remove(segment);
        }
        let mut wanted = std::mem::take(&mut self.still_read);
        wanted.extend(std::iter::from_fn(|| self.journal.wanted_segment()));
        for wanted in wanted {
            let is_scrubbed = |segment| self.scrub.as_ref().is_some_and(|scrub| scrub.read.segment == segment);
            let is_read =
                |segment| is_scrubbed(segment) || self.reads.iter().flatten().any(|read| read.segment == segment);
            if wanted.recycled.is_some_and(is_read) {
                self.still_read.push(wanted);
            } else {
                self.preparer.want(wanted);
            }
        }
    }

    fn push_write(&mut self, ring: &mut Ring, descriptor: RawFd, address: *const u8, bytes: u32, flight: WriteFlight) {
        let slot = self.writes.iter().position(Option::is_none).unwrap_or(self.writes.len());
        if slot == self.writes.len() {
            self.writes.push(None);
        }
        let (file, offset) = (types::Fd(descriptor), flight.offset);
        let entry = match flight.buffer.registered_index().filter(|_| self.are_buffers_registered) {
            Some(index) => {
                opcode::WriteFixed::new(file, address, bytes, index as u16).offset(offset).rw_flags(WRITE_FLAGS).build()
            }
            None => opcode::Write::new(file, address, bytes).offset(offset).rw_flags(WRITE_FLAGS).build(),
        };
        self.writes[slot] = Some(flight);
        self.writes_in_flight += 1;
        // SAFETY: the buffer's memory does not move with it, and stays in `writes` until completion.
        unsafe { ring.push(Token::new(Kind::JournalWrite, slot as u32, 0), entry) };
    }

    /// The kernel has all that was queued: surplus files may be closed.
    pub fn submitted(&mut self) {
        self.directory.close_surplus();
    }

    /// When [`JournalIo::submit`] is due at the latest.
    pub fn deadline(&self) -> Option<Time> {
        [self.journal.deadline(), self.journal.scrub_deadline(), self.preparer.deadline()].into_iter().flatten().min()
    }

    /// Finishes writing, with a last mark, and prepares no more segments unless one is needed.
    pub fn stop(&mut self, now: Time) {
        self.journal.stop(now);
        self.preparer.stop();
    }

    /// Nothing is in flight, and nothing more can be made durable.
    pub fn is_settled(&self) -> bool {
        self.journal.is_settled() && self.writes_in_flight == 0
    }
}

/// The wanted part of what was read: a copy where most of the buffer is not wanted, so that a
/// reader who keeps it does not keep the rest.
fn slice(buffer: BlockBuffer, skip: usize, bytes: usize) -> Bytes {
    if bytes * 2 < buffer.len() {
        return Bytes::copy_from_slice(&buffer[skip..skip + bytes]);
    }
    Bytes::from_owner(ReadBuffer(buffer)).slice(skip..skip + bytes)
}

/// Opens a journal: reads what is on disk, and hands every entry to `host`.
pub(crate) fn recover<H: Host>(
    config: &sealog_journal::JournalConfig,
    mut directory: Directory,
    host: &mut H,
) -> Result<JournalIo, sealog_journal::RecoveryError> {
    let journal = Journal::recover(*config, &mut directory, &mut |owner, entry| host.recovered(owner, entry))?;
    Ok(JournalIo::new(journal, directory, config.segment_bytes))
}

/// Whether files of this directory can be read and written past the page cache.
pub(crate) fn probe_direct(directory: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let path = directory.join("probe.tmp");
    let mut options = std::fs::OpenOptions::new();
    let result = options
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .and_then(|file| file.write_all_at(&BlockBuffer::zeroed(ALIGNMENT), 0));
    // It may not have been made.
    let _ = std::fs::remove_file(&path);
    result
}
