//! Loading a checkpoint: the parts in order, then all is as it was.

use std::collections::{BTreeMap, VecDeque};

use sealog_protocol::logspace::{Checkpoint, Logspace, Shard};
use sealog_protocol::metalog::{EngineIncarnation, read_nodes, read_varint};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{Incarnation, LocalId, NodeId, Place, SeqNum, SessionId, ShardId, Tag, ViewNumber};

use super::{
    BOOK, DEAD, END, HEAD, Index, LIVING, LOST, PartError, RETENTION, RUN, SESSION, SHARD, TAG, read_kind,
    read_logbook, read_seqnum, read_small, read_tag, records_of,
};
use crate::index::tags::Key;
use crate::index::{Retained, Retention, Stretch};
use crate::order::{Order, Run};
use crate::sessions::Verdict;

/// A checkpoint that is being loaded.
#[derive(Debug)]
pub struct Loader {
    index: Index,
    order: Order,
    head: Option<Head>,
    shards: BTreeMap<ShardId, Shard>,
    window: u64,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    place: Place,
    next: SeqNum,
    checkpoint: Option<Checkpoint>,
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Loaded {
    pub index: Index,
    pub order: Order,
    pub logspace: Logspace,
}

impl Loader {
    pub fn new(settings: &ClusterSettings, hash_seed: u64) -> Loader {
        Loader {
            index: Index::new(settings, hash_seed),
            order: Order::default(),
            head: None,
            shards: BTreeMap::new(),
            window: u64::from(settings.session_window),
        }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// When it is damaged or of another version. A checksum that does not match is found before
    /// anything is taken, so another copy of the part can follow.
    pub fn take(&mut self, part: &[u8]) -> Result<(), PartError> {
        let mut rest = records_of(part)?;
        while !rest.is_empty() {
            match read_kind(&mut rest)? {
                HEAD => self.take_head(&mut rest)?,
                LOST => {
                    let range = (read_seqnum(&mut rest)?, read_seqnum(&mut rest)?);
                    self.index.lost.push(range);
                }
                SESSION => self.take_session(&mut rest)?,
                RETENTION => {
                    let logbook = read_logbook(&mut rest)?;
                    let retention = Retention { age_ms: read_varint(&mut rest)?, bytes: read_varint(&mut rest)? };
                    let mut stretches = VecDeque::new();
                    for _ in 0..read_varint(&mut rest)? {
                        let (first, time_ms) = (read_seqnum(&mut rest)?, read_varint(&mut rest)?);
                        stretches.push_back(Stretch { first, time_ms, bytes: read_varint(&mut rest)? });
                    }
                    self.index.retained.insert(logbook, Retained::restored(retention, stretches));
                }
                BOOK => self.take_book(&mut rest)?,
                TAG => self.take_tag(&mut rest)?,
                RUN => self.take_run(&mut rest)?,
                SHARD => self.take_shard(&mut rest)?,
                _ => return Err(PartError::Malformed),
            }
        }
        Ok(())
    }

    /// All parts were taken.
    ///
    /// # Errors
    /// When there was no head among them.
    pub fn finish(mut self) -> Result<Loaded, PartError> {
        let Head { place, next, checkpoint } = self.head.ok_or(PartError::Malformed)?;
        self.index.sweep_all();
        let logspace = Logspace::restored(next, place, self.shards, checkpoint);
        Ok(Loaded { index: self.index, order: self.order, logspace })
    }

    fn take_head(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let place = read_place(rest)?;
        let next = read_seqnum(rest)?;
        (self.index.records, self.index.voids) = (read_varint(rest)?, read_varint(rest)?);
        let checkpoint = match read_kind(rest)? {
            0 => None,
            _ => Some(Checkpoint { place: read_place(rest)?, next: read_seqnum(rest)?, replicas: read_nodes(rest)? }),
        };
        self.head = Some(Head { place, next, checkpoint });
        Ok(())
    }

    fn take_session(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let (id, lowest, count) = (SessionId(read_varint(rest)?), read_varint(rest)?, read_varint(rest)?);
        if count > self.window {
            return Err(PartError::Malformed);
        }
        let mut verdicts = VecDeque::with_capacity(count as usize);
        for _ in 0..count {
            let (kind, seqnum) = (read_kind(rest)?, read_seqnum(rest)?);
            verdicts.push_back(match kind {
                0 => None,
                1 => Some(Verdict::Visible { seqnum }),
                2 => Some(Verdict::ConditionFailed { tail: seqnum }),
                _ => return Err(PartError::Malformed),
            });
        }
        self.index.sessions.restore(id, lowest, verdicts);
        Ok(())
    }

    fn take_book(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let (logbook, first, name) = (read_logbook(rest)?, read_seqnum(rest)?, read_tag(rest)?);
        let book = self.index.books.entry(logbook);
        let known = self.index.books.at_mut(book);
        (known.first, known.name) = (first, name);
        let mut last = self.index.lists.last(&known.list).map_or(0, |last| last.0);
        let (mut seqnum, mut is_dead) = (0, false);
        let mut living = None;
        loop {
            match read_varint(rest)? {
                END => return Ok(()),
                DEAD => is_dead = true,
                LIVING => living = Some(read_kind(rest)?),
                token => {
                    seqnum = follow(seqnum, token, &mut last)?;
                    self.index.lists.push(&mut self.index.books.at_mut(book).list, SeqNum(seqnum));
                    if std::mem::take(&mut is_dead) {
                        self.index.died(book, SeqNum(seqnum));
                    }
                    if let Some(living) = living.take() {
                        self.index.living_tags.insert(SeqNum(seqnum), living);
                    }
                }
            }
        }
    }

    fn take_tag(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let (book, tag, first) = (read_small(rest)?, read_tag(rest)?, read_seqnum(rest)?);
        if book as usize >= self.index.books.len() || tag == Tag::ALL {
            return Err(PartError::Malformed);
        }
        let entry = self.index.tags.entry(Key::new(book, tag));
        entry.set_first(first);
        let mut last = self.index.lists.last(&entry.list).map_or(0, |last| last.0);
        let mut seqnum = 0;
        loop {
            match read_varint(rest)? {
                END => return Ok(()),
                DEAD | LIVING => return Err(PartError::Malformed),
                token => {
                    seqnum = follow(seqnum, token, &mut last)?;
                    self.index.lists.push(&mut entry.list, SeqNum(seqnum));
                }
            }
        }
    }

    fn take_run(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let seqnum = read_seqnum(rest)?;
        let first = LocalId { shard: read_shard(rest)?, position: read_varint(rest)? };
        self.order.restore(Run { seqnum, first, records: read_varint(rest)? });
        Ok(())
    }

    fn take_shard(&mut self, rest: &mut &[u8]) -> Result<(), PartError> {
        let id = read_shard(rest)?;
        let engine =
            EngineIncarnation { node: NodeId(read_varint(rest)?), incarnation: Incarnation(read_varint(rest)?) };
        let (ordinal, prefix, closed) = (read_varint(rest)?, read_varint(rest)?, read_varint(rest)? != 0);
        let shard = Shard { engine, ordinal, replicas: read_nodes(rest)?, prefix, closed };
        self.shards.insert(id, shard);
        Ok(())
    }
}

/// The SeqNum that follows, by a list's token; greater than the last one of the list.
fn follow(seqnum: u64, token: u64, last: &mut u64) -> Result<u64, PartError> {
    let next = seqnum.checked_add(token - LIVING).filter(|next| *next > *last).ok_or(PartError::Malformed)?;
    *last = next;
    Ok(next)
}

fn read_view(rest: &mut &[u8]) -> Result<ViewNumber, PartError> {
    let view = read_small(rest)?;
    if view > SeqNum::VIEW_MAX { Err(PartError::Malformed) } else { Ok(ViewNumber(view)) }
}

fn read_place(rest: &mut &[u8]) -> Result<Place, PartError> {
    Ok(Place { view: read_view(rest)?, index: read_varint(rest)? })
}

fn read_shard(rest: &mut &[u8]) -> Result<ShardId, PartError> {
    Ok(ShardId { view: read_view(rest)?, index: read_varint(rest)? })
}
