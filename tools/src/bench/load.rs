//! What is appended: sizes, LogBooks, tags.

use std::time::{SystemTime, UNIX_EPOCH};

use sealog::session::Target;
use sealog::{Durability, LogBookId, Tag};

use crate::arguments::BenchArguments;
use crate::bench::mix::Spread;

/// The first bytes of a payload tell it from every other one of the run.
pub const UNIQUE_BYTES: usize = 16;

/// What all connections draw from.
#[derive(Debug)]
pub struct Load {
    pub logbooks: Vec<(LogBookId, String)>,
    tags: u64,
    spread: Spread,
    connections: u64,
    size: usize,
    seed: u64,
}

impl Load {
    pub fn new(arguments: &BenchArguments, class: Durability) -> Load {
        let name = base_name(arguments);
        let names = (0..arguments.logbooks).map(|nth| match arguments.logbooks {
            1 => name.clone(),
            _ => format!("{name}-{nth}"),
        });
        Load {
            logbooks: names.map(|name| (LogBookId::from_name(&name).in_class(class), name)).collect(),
            tags: u64::from(arguments.tags),
            spread: arguments.mix.spread,
            connections: u64::from(arguments.connections),
            size: arguments.size,
            seed: arguments.seed,
        }
    }

    /// The choices of one connection.
    pub fn draws(&self, connection: u32) -> Draws {
        let mut payload = vec![0; self.size];
        let mut random = Random(self.seed ^ u64::from(connection).wrapping_mul(0xD134_2543_DE82_EF95));
        payload.iter_mut().for_each(|byte| *byte = b'a' + (random.next() % 26) as u8);
        Draws { random, connection, number: 0, payload }
    }
}

/// The choices of one connection: record after record.
#[derive(Debug)]
pub struct Draws {
    random: Random,
    connection: u32,
    number: u64,
    payload: Vec<u8>,
}

/// A record to append.
pub struct Draw<'a> {
    pub logbook: Target<'a>,
    pub tag: Option<Tag>,
    pub payload: &'a [u8],
}

impl Draws {
    pub fn next<'a>(&'a mut self, load: &'a Load) -> Draw<'a> {
        self.number += 1;
        if let Some(unique) = self.payload.first_chunk_mut::<UNIQUE_BYTES>() {
            unique[..4].copy_from_slice(&self.connection.to_le_bytes());
            unique[4..8].copy_from_slice(b"conn");
            unique[8..].copy_from_slice(&self.number.to_le_bytes());
        }
        let nth = u64::from(self.connection) + (self.number - 1) * load.connections;
        let ((id, name), tag) = self.choose(load, nth);
        Draw { logbook: Target::Named { id: *id, name }, tag, payload: &self.payload }
    }

    /// A LogBook and a tag to read by.
    pub fn next_read(&mut self, load: &Load) -> (LogBookId, Tag) {
        let nth = self.random.next() % load.tags.max(load.logbooks.len() as u64);
        let ((id, _), tag) = self.choose(load, nth);
        (*id, tag.unwrap_or(Tag::ALL))
    }

    /// The LogBook and the tag of the nth operation of all connections.
    fn choose<'a>(&mut self, load: &'a Load, nth: u64) -> (&'a (LogBookId, String), Option<Tag>) {
        let logbooks = load.logbooks.len() as u64;
        let (logbook, tagged) = match load.spread {
            Spread::Turns => (nth % logbooks, nth % load.tags.max(1)),
            Spread::Random => {
                let logbook = if logbooks > 1 { self.random.next() % logbooks } else { 0 };
                (logbook, if load.tags > 0 { self.random.next() % load.tags } else { 0 })
            }
        };
        (&load.logbooks[logbook as usize], (load.tags > 0).then(|| tag(tagged)))
    }
}

/// What LogBooks are called, or begin with: as is said, or a new name for each run, for what an earlier
/// one appended has no part in this one.
pub fn base_name(arguments: &BenchArguments) -> String {
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    arguments.logbook.clone().unwrap_or_else(|| format!("bench-{}", now_ms()))
}

/// The id of the nth tag, spread as a hash of a name would be.
fn tag(nth: u64) -> Tag {
    Tag(Random(nth).next().max(1))
}

/// SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
