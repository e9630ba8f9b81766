//! One shard as a storage holds it: what is durable and where, what is on its way to the disk.

use std::collections::VecDeque;

use bytes::Bytes;
use sealog_protocol::limits::STORED_READ_BYTES;
use sealog_protocol::machine::{Address, JournalPlace};
use sealog_protocol::tags::{EntryHead, batch_headers};

use crate::extents::{Extents, Found};

/// A run of batches that the journal has not yet made durable.
#[derive(Clone, Debug)]
struct InFlight {
    first: u64,
    records: u64,
    batches: Bytes,
    tags: Bytes,
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    Disk(Found),
    /// The whole batch, received and not yet durable.
    Memory(Bytes),
    /// Not yet received; or not any more: its space was given back, or recovery found no trace of it.
    NotHere,
}

/// A shard's stream.
#[derive(Clone, Debug, Default)]
pub struct StoredShard {
    /// Records that the journal has taken; as a position, exclusive.
    received: u64,
    /// Records that are on disk, or were. Says so to others only up to here.
    durable: u64,
    pub extents: Extents,
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

    /// Whether nothing of it is here.
    pub fn is_bare(&self) -> bool {
        self.extents.is_empty() && self.in_flight.is_empty()
    }

    /// Takes a run of batches that begins at `first`, which is `received` unless the source of a
    /// repair has nothing between; they go to the journal next.
    pub fn receive(&mut self, first: u64, records: u64, batches: Bytes, tags: Bytes) {
        assert!(records > 0 && first >= self.received, "a run has records, and follows what is here");
        self.in_flight.push_back(InFlight { first, records, batches, tags });
        self.received = first + records;
        self.dirty = true;
    }

    /// The oldest run on its way is durable, and begins here; returns how many records it has.
    pub fn settle(&mut self, at: JournalPlace) -> u64 {
        let run = self.in_flight.pop_front().expect("the journal reports what it was given, in order");
        assert!(run.first >= self.durable, "runs become durable in order");
        self.extents.place(run.first, run.records, at, batch_sizes(&run.batches));
        self.durable = run.first + run.records;
        self.dirty = true;
        run.records
    }

    /// A run that recovery found on disk, in one piece. Returns the segments that held its positions
    /// as far as was known, with how many records.
    pub fn recover(&mut self, first: u64, records: u64, at: JournalPlace, bytes: u32) -> Vec<(u32, u64)> {
        self.durable = self.durable.max(first + records);
        self.received = self.durable;
        self.extents.place(first, records, at, std::iter::once((records, bytes)))
    }

    /// Finds the batch that holds a position.
    ///
    /// On disk, with what follows up to `until` as far as one read gets it.
    pub fn locate(&self, position: u64, until: u64) -> Located {
        if position >= self.durable {
            return self.locate_in_flight(position);
        }
        self.extents.find_run(position, until, STORED_READ_BYTES).map_or(Located::NotHere, Located::Disk)
    }

    /// Tags of what is not yet durable, from a batch's first position on.
    pub fn tags_in_flight(&self, from: u64) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        self.in_flight.iter().filter_map(move |run| tags_from(run.first, &run.tags, from))
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

/// Records and bytes of each batch of a run that was verified.
pub fn batch_sizes(batches: &[u8]) -> impl Iterator<Item = (u64, u32)> + '_ {
    batch_headers(batches).map(|batch| {
        let (_, header) = batch.expect("verified when it was received");
        (u64::from(header.count), header.frame_bytes() as u32)
    })
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
