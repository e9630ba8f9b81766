//! Buffers of blocks: aligned for O_DIRECT, reused, never moved while they live.

use std::ops::{Deref, DerefMut};

use crate::ALIGNMENT;

/// Bytes whose address is a multiple of [`ALIGNMENT`]. Safe code: a vector with slack, in which the
/// bytes begin at the first aligned address. It never grows, so the address stays.
pub struct BlockBuffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
    capacity: usize,
    registered: Option<usize>,
}

impl BlockBuffer {
    /// An empty buffer with room for `capacity` bytes, rounded up to [`ALIGNMENT`].
    pub fn new(capacity: usize) -> BlockBuffer {
        let capacity = capacity.next_multiple_of(ALIGNMENT);
        // Zeroed memory from the allocator costs nothing until it is touched.
        let memory = vec![0; capacity + ALIGNMENT];
        let start = memory.as_ptr().addr().next_multiple_of(ALIGNMENT) - memory.as_ptr().addr();
        BlockBuffer { memory, start, bytes: 0, capacity, registered: None }
    }

    /// A buffer of `bytes` zeros, to read into.
    pub fn zeroed(bytes: usize) -> BlockBuffer {
        let mut buffer = BlockBuffer::new(bytes);
        buffer.bytes = bytes;
        buffer
    }

    /// The index among [`crate::Journal::buffer_regions`] of the region that this buffer is: what a
    /// driver needs to write from a registered buffer. `None` for one made for an unusual load.
    pub fn registered_index(&self) -> Option<usize> {
        self.registered
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Address and size of all its memory.
    pub(crate) fn region(&self) -> (usize, usize) {
        (self.memory.as_ptr().addr() + self.start, self.capacity)
    }

    /// Makes it `bytes` long, whatever they are: they are about to be read.
    pub(crate) fn resize_for_reading(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity, "a buffer is made as large as what is read into it");
        self.bytes = bytes;
    }

    pub(crate) fn clear(&mut self) {
        self.bytes = 0;
    }

    /// Appends `content`.
    pub(crate) fn push(&mut self, content: &[u8]) {
        let end = self.bytes + content.len();
        assert!(end <= self.capacity, "a block was given more than it has room for");
        self.memory[self.start + self.bytes..self.start + end].copy_from_slice(content);
        self.bytes = end;
    }

    /// Appends zeros up to `bytes` in all: the buffer may hold remains of an earlier use.
    pub(crate) fn pad_to(&mut self, bytes: usize) {
        assert!((self.bytes..=self.capacity).contains(&bytes), "padding goes forward, within the buffer");
        self.memory[self.start + self.bytes..self.start + bytes].fill(0);
        self.bytes = bytes;
    }
}

impl Deref for BlockBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for BlockBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl std::fmt::Debug for BlockBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockBuffer({} of {} bytes)", self.bytes, self.capacity)
    }
}

/// Buffers of the usual size, made once and reused. Under a load that needs more of them, or larger
/// ones, others are made and dropped after use.
pub(crate) struct BufferPool {
    free: Vec<BlockBuffer>,
    regions: Vec<(usize, usize)>,
    buffer_bytes: usize,
}

impl BufferPool {
    pub fn new(buffers: usize, buffer_bytes: usize) -> BufferPool {
        let mut free: Vec<BlockBuffer> = (0..buffers).map(|_| BlockBuffer::new(buffer_bytes)).collect();
        for (index, buffer) in free.iter_mut().enumerate() {
            buffer.registered = Some(index);
        }
        let regions = free.iter().map(BlockBuffer::region).collect();
        // The last is taken first: in quiet times the same memory is used again and again.
        free.reverse();
        BufferPool { free, regions, buffer_bytes }
    }

    /// Address and size of each buffer of the pool; they stay as long as it lives.
    pub fn regions(&self) -> &[(usize, usize)] {
        &self.regions
    }

    /// An empty buffer with room for `bytes`.
    pub fn take(&mut self, bytes: usize) -> BlockBuffer {
        if bytes > self.buffer_bytes {
            return BlockBuffer::new(bytes);
        }
        self.free.pop().unwrap_or_else(|| BlockBuffer::new(self.buffer_bytes))
    }

    pub fn give_back(&mut self, mut buffer: BlockBuffer) {
        if buffer.registered.is_some() {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_aligned_and_stay() {
        let mut pool = BufferPool::new(2, 5000);
        let regions = pool.regions().to_vec();
        let (first, second, third) = (pool.take(1), pool.take(5000), pool.take(5000));
        for buffer in [&first, &second, &third] {
            assert_eq!((buffer.as_ptr().addr() % ALIGNMENT, buffer.capacity()), (0, 8192));
        }
        assert_eq!(
            (first.registered_index(), second.registered_index(), third.registered_index()),
            (Some(0), Some(1), None)
        );
        assert_eq!(regions, [first.region(), second.region()]);
        pool.give_back(third);
        assert!(pool.free.is_empty(), "what was made for an unusual load is dropped");
        pool.give_back(second);
        assert_eq!(pool.take(1).region(), regions[1]);
    }

    #[test]
    fn padding_overwrites_what_an_earlier_use_left() {
        let mut buffer = BlockBuffer::new(16);
        buffer.push(&[7; 16]);
        buffer.clear();
        buffer.push(&[1]);
        buffer.pad_to(16);
        assert_eq!(buffer[..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
