//! Metalog entries, the only thing that decides order, and their compact encoding.
//!
//! An entry is a kind byte and LEB128 integers: a cut of one shard takes about five bytes, for a
//! system that commits records one by one writes one cut for each. Entries follow each other
//! without separators; their indices are counted, not stored.

use bytes::BufMut;
use thiserror::Error;

use crate::ids::{Incarnation, LogBookId, NodeId, NodeSet, Place, ShardId, Tag, ViewNumber};
use crate::seqnum::SeqNum;

/// An engine in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineIncarnation {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// One metalog entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The engine may write a shard to these storages. Its id is this entry's place. A repeated
    /// (engine, ordinal) has no effect.
    OpenShard { engine: EngineIncarnation, ordinal: u64, replicas: NodeSet },
    /// No cut ever covers more of the shard, which is of this view.
    CloseShard { shard_index: u64 },
    /// The ordered prefix of a shard that is closed, or of an ended view, is durable on these.
    MoveShard { shard: ShardId, replicas: NodeSet },
    /// Records between the shards' old and new prefixes become ordered.
    Cut(Cut<'a>),
    /// Records of the LogBook with the tag below `first` may go; tag 0: all of them.
    Trim { logbook: LogBookId, tag: Tag, first: SeqNum },
    /// An index checkpoint at this place is durable on these storages: nobody needs what the metalog
    /// has before it, and the index needs the Tags of records from `next` on alone. One at an earlier place than the last has no effect.
    Checkpoint { place: Place, next: SeqNum, replicas: NodeSet },
}

/// The moves of a cut, in its order, read in place: shards of the entry's own view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cut<'a> {
    moves: u64,
    bytes: &'a [u8],
}

/// A shard's prefix as a cut moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMove {
    pub shard_index: u64,
    /// The new prefix: an exclusive position.
    pub prefix: u64,
}

impl<'a> Cut<'a> {
    pub fn moves(&self) -> impl Iterator<Item = CutMove> + use<'a> {
        let mut rest = self.bytes;
        (0..self.moves).map_while(move |_| {
            Some(CutMove { shard_index: read_varint(&mut rest).ok()?, prefix: read_varint(&mut rest).ok()? })
        })
    }
}

impl std::fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.moves().map(|moved| (moved.shard_index, moved.prefix))).finish()
    }
}

/// Bytes are not a metalog entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed metalog entry")]
pub struct EntryError;

const OPEN_SHARD: u8 = 1;
const CLOSE_SHARD: u8 = 2;
const MOVE_SHARD: u8 = 3;
const CUT: u8 = 4;
const TRIM: u8 = 5;
const CHECKPOINT: u8 = 6;

impl<'a> Entry<'a> {
    /// The entry at the start of `bytes`, and how many bytes it takes.
    pub fn decode(bytes: &'a [u8]) -> Result<(Entry<'a>, usize), EntryError> {
        let mut rest = bytes;
        let entry = match read_byte(&mut rest)? {
            OPEN_SHARD => Entry::OpenShard {
                engine: EngineIncarnation {
                    node: NodeId(read_varint(&mut rest)?),
                    incarnation: Incarnation(read_varint(&mut rest)?),
                },
                ordinal: read_varint(&mut rest)?,
                replicas: read_nodes(&mut rest)?,
            },
            CLOSE_SHARD => Entry::CloseShard { shard_index: read_varint(&mut rest)? },
            MOVE_SHARD => Entry::MoveShard { shard: read_shard(&mut rest)?, replicas: read_nodes(&mut rest)? },
            CUT => {
                let moves = read_varint(&mut rest)?;
                let start = rest;
                for _ in 0..moves {
                    read_varint(&mut rest)?;
                    read_varint(&mut rest)?;
                }
                Entry::Cut(Cut { moves, bytes: &start[..start.len() - rest.len()] })
            }
            TRIM => Entry::Trim {
                logbook: LogBookId(read_varint(&mut rest)?),
                tag: Tag(read_varint(&mut rest)?),
                first: SeqNum(read_varint(&mut rest)?),
            },
            CHECKPOINT => {
                let ShardId { view, index } = read_shard(&mut rest)?;
                let next = SeqNum(read_varint(&mut rest)?);
                Entry::Checkpoint { place: Place { view, index }, next, replicas: read_nodes(&mut rest)? }
            }
            _ => return Err(EntryError),
        };
        Ok((entry, bytes.len() - rest.len()))
    }

    /// Appends the entry to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Entry::OpenShard { engine, ordinal, replicas } => {
                out.put_u8(OPEN_SHARD);
                write_varint(out, engine.node.0);
                write_varint(out, engine.incarnation.0);
                write_varint(out, *ordinal);
                write_nodes(out, replicas);
            }
            Entry::CloseShard { shard_index } => {
                out.put_u8(CLOSE_SHARD);
                write_varint(out, *shard_index);
            }
            Entry::MoveShard { shard, replicas } => {
                out.put_u8(MOVE_SHARD);
                write_varint(out, u64::from(shard.view.0));
                write_varint(out, shard.index);
                write_nodes(out, replicas);
            }
            Entry::Cut(cut) => {
                out.put_u8(CUT);
                write_varint(out, cut.moves);
                out.put_slice(cut.bytes);
            }
            Entry::Trim { logbook, tag, first } => {
                out.put_u8(TRIM);
                write_varint(out, logbook.0);
                write_varint(out, tag.0);
                write_varint(out, first.0);
            }
            Entry::Checkpoint { place, next, replicas } => {
                out.put_u8(CHECKPOINT);
                write_varint(out, u64::from(place.view.0));
                write_varint(out, place.index);
                write_varint(out, next.0);
                write_nodes(out, replicas);
            }
        }
    }
}

/// Appends a `Cut` entry of these moves to `out`.
pub fn encode_cut(out: &mut impl BufMut, moves: impl ExactSizeIterator<Item = CutMove>) {
    out.put_u8(CUT);
    write_varint(out, moves.len() as u64);
    for moved in moves {
        write_varint(out, moved.shard_index);
        write_varint(out, moved.prefix);
    }
}

/// The entries of `bytes`, in order, each with its encoding; stops after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<(Entry<'_>, &[u8]), EntryError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match Entry::decode(rest) {
            Ok((entry, bytes)) => {
                let (encoded, after) = rest.split_at(bytes);
                rest = after;
                Some(Ok((entry, encoded)))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// The next byte.
///
/// # Errors
/// When there is none.
pub fn read_byte(rest: &mut &[u8]) -> Result<u8, EntryError> {
    let (first, after) = rest.split_first().ok_or(EntryError)?;
    *rest = after;
    Ok(*first)
}

/// The next number: seven bits a byte, the lowest first, all but the last with the high bit set.
///
/// # Errors
/// When it is cut off, or has more than 64 bits.
pub fn read_varint(rest: &mut &[u8]) -> Result<u64, EntryError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(EntryError);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(EntryError)
}

/// Appends a number as [`read_varint`] reads it.
pub fn write_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn read_shard(rest: &mut &[u8]) -> Result<ShardId, EntryError> {
    let view = u32::try_from(read_varint(rest)?).map_err(|_| EntryError)?;
    Ok(ShardId { view: ViewNumber(view), index: read_varint(rest)? })
}

/// The next set of nodes.
///
/// # Errors
/// When it is cut off, or no set.
pub fn read_nodes(rest: &mut &[u8]) -> Result<NodeSet, EntryError> {
    let count = usize::from(read_byte(rest)?);
    if count > NodeSet::MAX {
        return Err(EntryError);
    }
    let mut nodes = [NodeId(0); NodeSet::MAX];
    for node in &mut nodes[..count] {
        *node = NodeId(read_varint(rest)?);
    }
    NodeSet::new(&nodes[..count]).ok_or(EntryError)
}

/// Appends a set of nodes as [`read_nodes`] reads it.
pub fn write_nodes(out: &mut impl BufMut, nodes: &NodeSet) {
    out.put_u8(nodes.len() as u8);
    for node in nodes.iter() {
        write_varint(out, node.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let replicas = NodeSet::new(&[NodeId(u64::MAX), NodeId(2)]).expect("two nodes");
        let engine = EngineIncarnation { node: NodeId(300), incarnation: Incarnation(2) };
        let shard = ShardId { view: ViewNumber(3), index: 4 };
        let mut samples: Vec<Vec<u8>> = [
            Entry::OpenShard { engine, ordinal: 1, replicas },
            Entry::CloseShard { shard_index: 7 },
            Entry::MoveShard { shard, replicas },
            Entry::Trim { logbook: LogBookId(1), tag: Tag(0), first: SeqNum(u64::MAX) },
            Entry::Checkpoint { place: Place { view: ViewNumber(3), index: 300 }, next: SeqNum(200), replicas },
        ]
        .iter()
        .map(|entry| {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            bytes
        })
        .collect();
        let mut cut = Vec::new();
        let moves = [CutMove { shard_index: 0, prefix: 1000 }, CutMove { shard_index: 9, prefix: 1 }];
        encode_cut(&mut cut, moves.into_iter());
        samples.push(cut);
        samples
    }

    #[test]
    fn golden_bytes() {
        let cut = samples().pop().expect("the cut");
        assert_eq!(cut, [4, 2, 0, 0xe8, 7, 9, 1]);
        assert_eq!(samples()[1], [2, 7]);
    }

    #[test]
    fn entries_round_trip_and_no_prefix_of_one_decodes() {
        let all = samples().concat();
        let mut again = Vec::new();
        for entry in entries(&all) {
            entry.expect("what was encoded").0.encode(&mut again);
        }
        assert_eq!(again, all);
        for sample in samples() {
            for cut in 0..sample.len() {
                assert_eq!(Entry::decode(&sample[..cut]).err(), Some(EntryError));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_decode_without_panic(bytes: Vec<u8>) {
            for entry in entries(&bytes).flatten() {
                if let Entry::Cut(cut) = entry.0 {
                    cut.moves().count();
                }
            }
        }
    }
}
