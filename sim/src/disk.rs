//! A simulated disk: durable writes that take a while, and what a crash leaves of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use sealog_journal::{ALIGNMENT, BlockWrite, SegmentSource, SourceError, WantedSegment};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// How a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The process dies: each write in flight is done whole, or never reached the kernel.
    Process,
    /// The power goes: each sector that was being written is old, new, or torn.
    Power,
}

/// The segment files of one node. Survives everything.
#[derive(Debug, Default)]
pub struct Disk {
    segments: BTreeMap<u32, Vec<u8>>,
    in_flight: Vec<BlockWrite>,
    /// Room for this many segments.
    pub segments_max: usize,
}

impl Disk {
    pub fn new() -> Disk {
        Disk { segments_max: usize::MAX, ..Disk::default() }
    }

    /// A write begins. It ends with [`Disk::complete`], or by a crash.
    pub fn submit(&mut self, write: BlockWrite) {
        let file = self.segments.get(&write.segment).expect("a journal writes to segments that are ready");
        assert!(write.offset as usize + write.buffer.len() <= file.len(), "a write ends within its segment");
        self.in_flight.push(write);
    }

    /// The write is durable.
    pub fn complete(&mut self, id: u64) -> BlockWrite {
        let at = self.in_flight.iter().position(|write| write.id == id).expect("a write completes once");
        let write = self.in_flight.swap_remove(at);
        let file = self.segments.get_mut(&write.segment).expect("looked up when it began");
        file[write.offset as usize..][..write.buffer.len()].copy_from_slice(&write.buffer);
        write
    }

    /// The first write that is under way is durable.
    pub fn complete_next(&mut self) -> Option<BlockWrite> {
        let id = self.in_flight.first()?.id;
        Some(self.complete(id))
    }

    /// Makes a zeroed segment, if there is room; or gives a file that is not needed its number.
    pub fn prepare(&mut self, wanted: WantedSegment, bytes: u64) -> bool {
        let WantedSegment { segment, recycled } = wanted;
        if let Some(recycled) = recycled {
            let file = self.segments.remove(&recycled).expect("a journal uses files again that are there");
            self.segments.insert(segment, file);
            return true;
        }
        if self.segments.len() >= self.segments_max {
            return false;
        }
        self.segments.insert(segment, vec![0; bytes as usize]);
        true
    }

    /// A file is not needed. Whoever removes it does not flush its name; a crash may bring it back,
    /// which the journal's own tests try.
    pub fn remove(&mut self, segment: u32) {
        self.segments.remove(&segment).expect("a journal removes files that are there");
    }

    pub fn segments_count(&self) -> usize {
        self.segments.len()
    }

    /// What is durable there.
    pub fn read(&self, segment: u32, offset: u64, bytes: usize) -> Option<Bytes> {
        let file = self.segments.get(&segment)?;
        file.get(offset as usize..offset as usize + bytes).map(Bytes::copy_from_slice)
    }

    /// Bits flip in a byte.
    pub fn flip(&mut self, segment: u32, offset: u64, bits: u8) {
        if let Some(byte) = self.segments.get_mut(&segment).and_then(|file| file.get_mut(offset as usize)) {
            *byte ^= bits;
        }
    }

    /// A page is overwritten with one that was meant for another segment.
    pub fn stray(&mut self, segment: u32, offset: u64, rng: &mut Rng) {
        let others: Vec<u32> = self.segments.keys().copied().filter(|other| *other != segment).collect();
        let from = others.get(rng.usize(0..others.len().max(1))).and_then(|other| self.segments.get(other));
        let page = from.map_or(vec![0; ALIGNMENT], |file| {
            let nth = rng.usize(0..file.len() / ALIGNMENT);
            file[nth * ALIGNMENT..][..ALIGNMENT].to_vec()
        });
        if let Some(target) = self.segments.get_mut(&segment).and_then(|file| file.get_mut(offset as usize..)) {
            target[..ALIGNMENT].copy_from_slice(&page);
        }
    }

    /// The node stops; returns how many sectors were torn.
    pub fn crash(&mut self, stop: Stop, rng: &mut Rng) -> u64 {
        let mut torn = 0;
        for write in std::mem::take(&mut self.in_flight) {
            let file = self.segments.get_mut(&write.segment).expect("looked up when it began");
            let target = &mut file[write.offset as usize..][..write.buffer.len()];
            match stop {
                Stop::Process if rng.bool() => target.copy_from_slice(&write.buffer),
                Stop::Process => {}
                Stop::Power => torn += tear(target, &write.buffer, rng),
            }
        }
        torn
    }
}

fn tear(target: &mut [u8], written: &[u8], rng: &mut Rng) -> u64 {
    let mut torn = 0;
    // Often all is there or nothing, so that both are common for small and large writes.
    let whole = rng.u8(0..4);
    for (old, new) in target.chunks_mut(SECTOR_BYTES).zip(written.chunks(SECTOR_BYTES)) {
        match (whole, rng.u8(0..8)) {
            (0, _) | (2.., 0..=3) => old.copy_from_slice(new),
            (2.., 4) => {
                let until = rng.usize(0..new.len());
                old[..until].copy_from_slice(&new[..until]);
                torn += 1;
            }
            _ => {}
        }
    }
    torn
}

impl SegmentSource for Disk {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        Ok(self.segments.keys().copied().collect())
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        match self.segments.get(&segment) {
            Some(file) => Ok(file.len() as u64),
            None => Err(SourceError { segment, offset: 0, reason: "no such segment".to_owned() }),
        }
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        match Disk::read(self, segment, offset, buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
            None => Err(SourceError { segment, offset, reason: "outside of the segment".to_owned() }),
        }
    }
}
