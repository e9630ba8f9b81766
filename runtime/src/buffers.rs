//! Buffers that the kernel picks from when a socket has something: bounded memory for any number
//! of connections.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::limits::{PEER_RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};
use crate::ring::Ring;

/// Who the buffers are for. Clients that have to wait keep theirs meanwhile: peers, which may be
/// what they wait for, have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufferGroup {
    Clients,
    Peers,
}

impl BufferGroup {
    /// The group's number in the ring.
    pub fn id(self) -> u16 {
        self as u16
    }

    fn buffers(self) -> u16 {
        match self {
            BufferGroup::Clients => RECEIVE_BUFFERS,
            BufferGroup::Peers => PEER_RECEIVE_BUFFERS,
        }
    }
}

const PAGE_BYTES: usize = 4096;

/// The buffers and the ring of free ones, which is shared with the kernel.
pub(crate) struct ReceiveBuffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// How many there are.
    count: u16,
    tail: u16,
    free: u16,
}

impl ReceiveBuffers {
    /// Makes the buffers and registers them. They must outlive the ring's last receive: they are
    /// dropped after the ring.
    pub fn new(ring: &Ring, group: BufferGroup) -> io::Result<ReceiveBuffers> {
        let count = group.buffers();
        let entries = allocate(entries_layout(count)).cast::<BufRingEntry>();
        let memory = allocate(memory_layout(count));
        let mut buffers = ReceiveBuffers { entries, memory, count, tail: 0, free: 0 };
        for buffer in 0..count {
            buffers.give_back(buffer);
        }
        // SAFETY: the ring's entries are page-aligned, as many as said, and freed with `self`, which
        // outlives the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, group.id(), 0)?;
        }
        Ok(buffers)
    }

    /// The kernel has handed a buffer out: it is ours until [`ReceiveBuffers::give_back`].
    pub fn taken(&mut self) {
        self.free -= 1;
    }

    /// The first `bytes` of a buffer that the kernel has handed out.
    pub fn content(&self, buffer: u16, bytes: usize) -> &[u8] {
        assert!(buffer < self.count && bytes <= RECEIVE_BUFFER_BYTES, "the kernel names buffers that it has");
        // SAFETY: inside the allocation; the kernel does not write a buffer that it has handed out.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(usize::from(buffer) * RECEIVE_BUFFER_BYTES), bytes)
        }
    }

    /// Gives a buffer to the kernel.
    pub fn give_back(&mut self, buffer: u16) {
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below the number of entries; the kernel reads only entries below the tail,
        // which is raised after the entry is written. The tail shares the memory of the first
        // entry's reserved field, which `set_*` leaves alone.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(at);
            let memory = self.memory.as_ptr().add(usize::from(buffer) * RECEIVE_BUFFER_BYTES);
            entry.set_addr(memory as u64);
            entry.set_len(RECEIVE_BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
        self.free += 1;
    }

    /// Whether the kernel has a buffer to pick.
    pub fn has_free(&self) -> bool {
        self.free > 0
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: made by `allocate` with these layouts; the ring is gone.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(self.memory.as_ptr(), memory_layout(self.count));
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE_BYTES)
        .expect("a small size and a power of two")
}

fn memory_layout(count: u16) -> Layout {
    Layout::from_size_align(usize::from(count) * RECEIVE_BUFFER_BYTES, PAGE_BYTES)
        .expect("a small size and a power of two")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: neither layout is empty.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
