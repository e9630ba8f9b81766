//! One shard as a storage holds it: what is durable and where, what is on its way to the disk.

use std::collections::VecDeque;

use bytes::Bytes;
use sealog_protocol::machine::{Address, JournalPlace};
use sealog_protocol::tags::{EntryHead, batch_headers, heads};

/// Records of a shard that lie in one segment, positions without gaps. Four bytes a record.
#[derive(Debug)]
struct Extent {
    first: u64,
    segment: u32,
    /// Of each record: where its batch begins, in units of 8 bytes.
    offsets: Vec<u32>,
    /// Where the last batch ends.
    end: u32,
}

/// A run of batches that the journal has not yet made durable.
#[derive(Debug)]
struct InFlight {
    first: u64,
    records: u64,
    batches: Bytes,
    tags: Bytes,
}

/// Where a batch lies: read `bytes` from `at`; the batch is at their beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    pub at: JournalPlace,
    pub bytes: u32,
}

/// Where a record is.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    Disk(BatchPlace),
    /// The whole batch, received and not yet durable.
    Memory(Bytes),
    /// It was durable, and recovery found no trace of it.
    Lost,
    NotHere,
}

/// A shard's stream.
#[derive(Debug, Default)]
pub struct StoredShard {
    /// Records that the journal has taken; as a position, exclusive.
    received: u64,
    /// Records that are on disk. Says so to others only up to here.
    durable: u64,
    extents: Vec<Extent>,
    in_flight: VecDeque<InFlight>,
    /// The engine that streams this shard now.
    pub writer: Option<Address>,
    /// Engines that get Tags as they come.
    pub learners: Vec<Address>,
    /// Something to report since the last flush.
    pub dirty: bool,
}

impl StoredShard {
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Takes a run of batches that begins at `received`; they go to the journal next.
    pub fn receive(&mut self, records: u64, batches: Bytes, tags: Bytes) {
        assert!(records > 0, "a run has records");
        self.in_flight.push_back(InFlight { first: self.received, records, batches, tags });
        self.received += records;
        self.dirty = true;
    }

    /// The oldest run on its way is durable, and begins here.
    pub fn settle(&mut self, at: JournalPlace) {
        let run = self.in_flight.pop_front().expect("the journal reports what it was given, in order");
        assert_eq!(run.first, self.durable, "runs become durable in order");
        let sizes = batch_headers(&run.batches).map(|batch| {
            let (_, header) = batch.expect("verified when it was received");
            (u64::from(header.count), header.frame_bytes() as u32)
        });
        place_run(&mut self.extents, run.first, at, sizes);
        self.durable += run.records;
        self.dirty = true;
    }

    /// A run that recovery found on disk. What is missing before it is lost.
    ///
    /// # Errors
    /// When the Tags are malformed.
    pub fn recover(
        &mut self,
        first: u64,
        at: JournalPlace,
        tags: &[u8],
    ) -> Result<(), sealog_protocol::frame::FrameError> {
        let mut records = 0;
        for head in heads(tags) {
            records += head?.records;
        }
        let sizes = heads(tags).flatten().map(|head| (head.records, head.frame_bytes));
        place_run(&mut self.extents, first, at, sizes);
        self.durable = self.durable.max(first + records);
        self.received = self.durable;
        Ok(())
    }

    /// Finds the batch that holds a position.
    pub fn locate(&self, position: u64) -> Located {
        if position >= self.received {
            return Located::NotHere;
        }
        if position >= self.durable {
            return self.locate_in_flight(position);
        }
        let Some(extent) = self.extent_of(position) else { return Located::Lost };
        let nth = (position - extent.first) as usize;
        let offset = extent.offsets[nth];
        let end = extent.offsets[nth..].iter().copied().find(|next| *next != offset).unwrap_or(extent.end);
        Located::Disk(BatchPlace { at: JournalPlace { segment: extent.segment, offset }, bytes: (end - offset) * 8 })
    }

    /// The segment that holds a durable position, or the next position that is not lost.
    pub fn segment_of(&self, position: u64) -> Result<u32, Option<u64>> {
        match self.extent_of(position) {
            Some(extent) => Ok(extent.segment),
            None => {
                let after = self.extents.partition_point(|extent| extent.first <= position);
                Err(self.extents.get(after).map(|extent| extent.first))
            }
        }
    }

    /// Tags of what is not yet durable, from a batch's first position on.
    pub fn tags_in_flight(&self, from: u64) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        self.in_flight.iter().filter_map(move |run| tags_from(run.first, &run.tags, from))
    }

    fn extent_of(&self, position: u64) -> Option<&Extent> {
        let after = self.extents.partition_point(|extent| extent.first <= position);
        let extent = &self.extents[after.checked_sub(1)?];
        (position < extent.first + extent.offsets.len() as u64).then_some(extent)
    }

    fn locate_in_flight(&self, position: u64) -> Located {
        for run in &self.in_flight {
            let mut first = run.first;
            for batch in batch_headers(&run.batches) {
                let (start, header) = batch.expect("verified when it was received");
                let next = first + u64::from(header.count);
                if (first..next).contains(&position) {
                    return Located::Memory(run.batches.slice(start..start + header.frame_bytes()));
                }
                first = next;
            }
        }
        Located::NotHere
    }
}

/// The part of a run's Tags entries that begins at or after `from`; `None` when nothing is left.
pub fn tags_from(first: u64, tags: &Bytes, from: u64) -> Option<(u64, Bytes)> {
    if first >= from {
        return Some((first, tags.clone()));
    }
    let (mut position, mut rest) = (first, &tags[..]);
    while !rest.is_empty() && position < from {
        let head = EntryHead::parse(rest).expect("Tags of verified batches");
        position += head.records;
        rest = &rest[head.entry_bytes..];
    }
    (!rest.is_empty()).then(|| (position, tags.slice_ref(rest)))
}

fn place_run(extents: &mut Vec<Extent>, first: u64, at: JournalPlace, sizes: impl Iterator<Item = (u64, u32)>) {
    let follows = extents.last().is_some_and(|last| {
        last.segment == at.segment && last.first + last.offsets.len() as u64 == first && last.end <= at.offset
    });
    if !follows {
        if let Some(last) = extents.last_mut() {
            last.offsets.shrink_to_fit();
        }
        extents.push(Extent { first, segment: at.segment, offsets: Vec::new(), end: at.offset });
    }
    let extent = extents.last_mut().expect("there is one now");
    let mut offset = at.offset;
    for (records, frame_bytes) in sizes {
        extent.offsets.extend(std::iter::repeat_n(offset, records as usize));
        offset += frame_bytes / 8;
    }
    extent.end = offset;
}
