//! The bytes a session sends, each copied once: into a chunk, from which it is both transmitted and,
//! for an append, sent again after a reconnect.
//!
//! ```text
//!  chunks:  [ frame frame frame ] [ frame frame        ]     kept while pinned or queued
//!  queue:     ......|============|=============|              what this connection still has to send
//!                   ^ position: counts all bytes ever queued, so "was it sent?" is a comparison
//! ```

use std::collections::VecDeque;

use sealog_protocol::client::set_request;

/// Small enough that one append without an answer keeps little alive, large enough that a chunk is
/// rarely made and one system call takes many frames.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks kept for reuse.
const SPARE_MAX: usize = 4;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameRef {
    chunk: u64,
    start: u32,
    end: u32,
}

impl FrameRef {
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Frames in it that may be sent again.
    pins: u32,
    /// Segments of the queue in it.
    segments: u32,
}

struct Segment {
    chunk: u64,
    start: usize,
    end: usize,
    position: u64,
}

#[derive(Default)]
pub(super) struct SendBuffer {
    chunks: VecDeque<Chunk>,
    /// Number of the first chunk.
    first: u64,
    queue: VecDeque<Segment>,
    spare: Vec<Vec<u8>>,
    /// Bytes ever queued.
    queued: u64,
    /// All queued bytes below it were transmitted, or taken back.
    transmitted: u64,
    pinned_bytes: usize,
}

impl SendBuffer {
    /// Writes a frame of about `bytes`; it goes nowhere until it is queued. It must be pinned or
    /// queued before the next is written.
    pub fn write<E>(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<FrameRef, E> {
        let room = self.chunks.back().map_or(0, |chunk| chunk.bytes.capacity() - chunk.bytes.len());
        if room < bytes {
            self.add_chunk(bytes);
        }
        let chunk = self.first + self.chunks.len() as u64 - 1;
        let out = &mut self.chunks.back_mut().expect("one was added").bytes;
        let start = out.len() as u32;
        write(out)?;
        Ok(FrameRef { chunk, start, end: out.len() as u32 })
    }

    fn add_chunk(&mut self, bytes: usize) {
        let last = self.first + self.chunks.len() as u64;
        let buffer = if bytes <= CHUNK_BYTES { self.spare.pop() } else { None };
        let bytes = buffer.unwrap_or_else(|| Vec::with_capacity(bytes.max(CHUNK_BYTES)));
        self.chunks.push_back(Chunk { bytes, pins: 0, segments: 0 });
        if last > self.first {
            self.release(last - 1);
        }
    }

    pub fn bytes(&self, frame: FrameRef) -> &[u8] {
        &self.chunk(frame.chunk).bytes[frame.start as usize..frame.end as usize]
    }

    /// Gives a frame another request id. Nothing of it may be queued.
    pub fn set_request(&mut self, frame: FrameRef, request: u64) {
        let chunk = self.chunk_mut(frame.chunk);
        set_request(&mut chunk.bytes[frame.start as usize..frame.end as usize], request);
    }

    /// Keeps a frame until it is unpinned.
    pub fn pin(&mut self, frame: FrameRef) {
        self.chunk_mut(frame.chunk).pins += 1;
        self.pinned_bytes += frame.len();
    }

    pub fn unpin(&mut self, frame: FrameRef) {
        self.chunk_mut(frame.chunk).pins -= 1;
        self.pinned_bytes -= frame.len();
        self.release(frame.chunk);
    }

    /// Bytes of pinned frames.
    pub fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// Has a frame transmitted after all that is queued. Returns the position of its first byte.
    pub fn queue(&mut self, frame: FrameRef) -> u64 {
        let position = self.queued;
        self.queued += frame.len() as u64;
        let (start, end) = (frame.start as usize, frame.end as usize);
        if let Some(last) = self.queue.back_mut()
            && (last.chunk, last.end) == (frame.chunk, start)
            && last.position + (last.end - last.start) as u64 == position
        {
            last.end = end;
            return position;
        }
        self.queue.push_back(Segment { chunk: frame.chunk, start, end, position });
        self.chunk_mut(frame.chunk).segments += 1;
        position
    }

    /// The next bytes to transmit.
    pub fn head(&self) -> &[u8] {
        match self.queue.front() {
            Some(segment) => &self.chunk(segment.chunk).bytes[segment.start..segment.end],
            None => &[],
        }
    }

    /// The first `bytes` of the head went out.
    pub fn consume(&mut self, bytes: usize) {
        let Some(segment) = self.queue.front_mut() else {
            assert_eq!(bytes, 0, "transmitted more than there was");
            return;
        };
        assert!(segment.start + bytes <= segment.end, "transmitted more than there was");
        segment.start += bytes;
        segment.position += bytes as u64;
        self.transmitted = segment.position;
        if segment.start == segment.end {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(segment) = self.queue.pop_front() {
            self.chunk_mut(segment.chunk).segments -= 1;
            self.release(segment.chunk);
        }
    }

    /// Whether any byte of what was queued at this position went out.
    pub fn is_begun(&self, position: u64) -> bool {
        self.transmitted > position
    }

    /// Whether all of it went out.
    pub fn is_transmitted(&self, position: u64, bytes: usize) -> bool {
        self.transmitted >= position + bytes as u64
    }

    /// Takes a queued frame of which no byte went out back from the queue.
    pub fn take_back(&mut self, position: u64, bytes: usize) {
        assert!(!self.is_begun(position), "what was sent cannot be taken back");
        let end = position + bytes as u64;
        let holds = |segment: &Segment| {
            segment.position <= position && end <= segment.position + (segment.end - segment.start) as u64
        };
        let Some(at) = self.queue.iter().position(holds) else { return };
        let segment = &mut self.queue[at];
        let cut = segment.start + (position - segment.position) as usize;
        let after = Segment { chunk: segment.chunk, start: cut + bytes, end: segment.end, position: end };
        segment.end = cut;
        let chunk = segment.chunk;
        if after.start < after.end {
            self.queue.insert(at + 1, after);
            self.chunk_mut(chunk).segments += 1;
        }
        if self.queue[at].start == self.queue[at].end {
            self.queue.remove(at);
            self.chunk_mut(chunk).segments -= 1;
            self.release(chunk);
        }
    }

    /// Empties the queue: its connection is gone.
    pub fn clear_queue(&mut self) {
        while !self.queue.is_empty() {
            self.drop_front();
        }
        self.transmitted = self.queued;
    }

    /// Lets go of a chunk that nothing needs.
    fn release(&mut self, number: u64) {
        let last = self.first + self.chunks.len() as u64 - 1;
        let chunk = self.chunk_mut(number);
        if chunk.pins > 0 || chunk.segments > 0 {
            return;
        }
        if number == last {
            chunk.bytes.clear();
            return;
        }
        let mut bytes = std::mem::take(&mut chunk.bytes);
        if bytes.capacity() == CHUNK_BYTES && self.spare.len() < SPARE_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
        while self.chunks.len() > 1 && self.chunks.front().is_some_and(|chunk| chunk.bytes.capacity() == 0) {
            self.chunks.pop_front();
            self.first += 1;
        }
    }

    fn chunk(&self, number: u64) -> &Chunk {
        &self.chunks[(number - self.first) as usize]
    }

    fn chunk_mut(&mut self, number: u64) -> &mut Chunk {
        &mut self.chunks[(number - self.first) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &mut SendBuffer, text: &[u8]) -> FrameRef {
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(text);
            Ok::<(), ()>(())
        };
        buffer.write(text.len(), write).expect("infallible")
    }

    fn drain(buffer: &mut SendBuffer) -> Vec<u8> {
        let mut out = Vec::new();
        while !buffer.head().is_empty() {
            out.extend_from_slice(buffer.head());
            buffer.consume(buffer.head().len());
        }
        out
    }

    #[test]
    fn frames_merge_and_a_frame_not_begun_can_be_taken_back() {
        let mut buffer = SendBuffer::default();
        let frames: Vec<FrameRef> = [&b"aa"[..], b"bbb", b"c"].into_iter().map(|text| put(&mut buffer, text)).collect();
        let positions: Vec<u64> = frames.iter().map(|frame| buffer.queue(*frame)).collect();
        assert_eq!(buffer.head(), b"aabbbc");
        buffer.consume(1);
        assert!(buffer.is_begun(positions[0]) && !buffer.is_transmitted(positions[0], 2));
        buffer.take_back(positions[1], 3);
        assert_eq!(drain(&mut buffer), b"ac");
        assert!(buffer.is_transmitted(positions[2], 1));
    }

    #[test]
    fn a_pinned_frame_outlives_its_connection_and_its_chunk_is_reused_after() {
        let mut buffer = SendBuffer::default();
        let kept = put(&mut buffer, b"kept");
        buffer.pin(kept);
        buffer.queue(kept);
        buffer.clear_queue();
        let large = vec![7; CHUNK_BYTES];
        let other = put(&mut buffer, &large);
        buffer.queue(other);
        assert_eq!(buffer.bytes(kept), b"kept");
        assert_eq!(drain(&mut buffer), large);
        assert_eq!((buffer.chunks.len(), buffer.pinned_bytes()), (2, 4));
        buffer.unpin(kept);
        assert_eq!((buffer.chunks.len(), buffer.spare.len(), buffer.pinned_bytes()), (1, 1, 0));
    }
}
