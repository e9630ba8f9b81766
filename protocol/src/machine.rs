//! How a role is driven: inputs in, outputs out, time handed in. No role does I/O.

use std::fmt;

use bytes::Bytes;

use crate::client::Reply;
use crate::ids::{Incarnation, LogspaceId, NodeId, Place, ShardId, ViewNumber};
use crate::members::Members;
use crate::message::Message;
use crate::time::Time;
use crate::view::Chain;

/// What a machine does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    Engine = 1,
    Storage = 2,
    Sequencer = 3,
    Controller = 4,
}

/// A machine's address: one node has at most one machine of a role for a logspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub node: NodeId,
    pub logspace: LogspaceId,
    pub role: Role,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}-{}/{}", self.role, self.node, self.logspace)
    }
}

/// A client's connection, as the driver numbers them; never reused in a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Where bytes lie in a journal. Offsets are in units of 8 bytes, to fit 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPlace {
    pub segment: u32,
    pub offset: u32,
}

impl JournalPlace {
    pub fn byte_offset(self) -> u64 {
        u64::from(self.offset) * 8
    }
}

/// Why bytes could not be read back from a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The disk refused, or what it gave does not match its checksum.
    Corrupt,
}

/// What reaches a machine of any role.
#[derive(Debug)]
pub enum Input<'a> {
    /// From another machine.
    Message { from: Address, message: Message },
    /// A connection to all machines of a node begins, in this life of it. An older one has ended:
    /// what was sent on it and not answered may be lost.
    Connected { node: NodeId, incarnation: Incarnation },
    /// It ended.
    Disconnected { node: NodeId },
    /// The machine's oldest [`Output::Append`] that is not yet so is durable now, and lies here.
    Durable(JournalPlace),
    /// The answer to [`Output::Read`]: as many bytes as asked for.
    Read { ticket: u64, result: Result<Bytes, ReadFailure> },
    /// The answer to [`Output::ReadTags`]: entries of whole batches from `first` on; empty when
    /// there are none in that segment at or after it.
    TagsRead { ticket: u64, first: u64, result: Result<Bytes, ReadFailure> },
    /// What the register holds, first at the start, then at each change.
    Chain(&'a Chain),
    /// The nodes of the cluster as the register holds them, first at the start where it has them, then at
    /// each change.
    Members(&'a Members),
    /// The register took a [`Output::CompareAndSwap`], or held something else, or did not answer:
    /// the chain that it holds now follows as [`Input::Chain`].
    Swapped,
    /// Whether the journal has room for more than what is already promised.
    Space { full: bool },
    /// Little in this segment is still held: append again what counts of yours, then say
    /// [`Output::Release`].
    Vacate { segment: u32 },
    /// These bytes of the segment, in which the machine has something, are not any more what was
    /// written: it may not be able to read back what lies there. Told again while it is so. No more comes
    /// into the segment. `missing`: recovery found it so, and did not hand over all that was there.
    Rotten { segment: u32, offset: u64, bytes: u64, missing: bool },
    /// The machine's deadline has passed.
    Tick,
}

/// What a machine wants durable. The journal groups what came in one turn into one block.
#[derive(Clone, Debug)]
pub enum DurableEntry {
    /// A run of whole batches of a shard, and their Tags entries.
    Batches { shard: ShardId, first: u64, batches: Bytes, tags: Bytes },
    /// Metalog entries, in their encoding, from this index of the view on.
    Metalog { view: ViewNumber, from: u64, count: u32, entries: Bytes },
    /// The commit index known now. Rides on the next block: makes no write of its own, and its
    /// [`Input::Durable`] comes with that block.
    Commit { view: ViewNumber, commit: u64 },
    /// This sequencer replica has sealed the view.
    SequencerSeal { view: ViewNumber },
    /// This storage has sealed the view.
    StorageSeal { view: ViewNumber },
    /// A committed checkpoint covers the metalog before this place: what this replica has of it may
    /// be missing from the journal from now on.
    MetalogBase { place: Place },
    /// A part of the index checkpoint at `place`.
    Checkpoint { place: Place, part: u32, last: bool, bytes: Bytes },
}

/// What a journal's recovery hands to a machine, in the order of its entries' appending.
#[derive(Clone, Copy, Debug)]
pub enum Recovered<'a> {
    /// A run of batches whose first begins at `at`; the others follow without gaps. Later copies of
    /// the same positions hold the same.
    Batches {
        shard: ShardId,
        first: u64,
        records: u64,
        at: JournalPlace,
        bytes: u32,
    },
    Metalog {
        view: ViewNumber,
        from: u64,
        entries: &'a [u8],
        segment: u32,
    },
    Commit {
        view: ViewNumber,
        commit: u64,
        segment: u32,
    },
    SequencerSeal {
        view: ViewNumber,
        segment: u32,
    },
    StorageSeal {
        view: ViewNumber,
        segment: u32,
    },
    MetalogBase {
        place: Place,
        segment: u32,
    },
    /// The part's bytes are read with [`Output::Read`].
    Checkpoint {
        place: Place,
        part: u32,
        last: bool,
        at: JournalPlace,
        bytes: u32,
    },
}

/// What a machine asks its driver to do.
#[derive(Debug)]
pub enum Output {
    /// Send to another machine, in order with what was sent to it before.
    Send { to: Address, message: Message },
    /// Answer a client's request. Dropped when the connection is gone.
    Reply { connection: ConnectionId, request: u64, reply: Reply },
    /// Make durable, in order. [`Input::Durable`] follows.
    Append(DurableEntry),
    /// Read from the journal. [`Input::Read`] follows.
    Read { ticket: u64, at: JournalPlace, bytes: u32 },
    /// Read Tags of durable batches of a shard in a segment, from the first batch that ends after
    /// `from`; at most about [`crate::limits::STREAM_MESSAGE_BYTES_MAX`]. [`Input::TagsRead`] follows.
    ReadTags { ticket: u64, shard: ShardId, segment: u32, from: u64 },
    /// This machine needs nothing any more of what it has in a segment that it gets no more places in.
    Release { segment: u32 },
    /// Install this chain if the register still holds the one that it extends.
    CompareAndSwap { chain: Box<Chain> },
    /// Read the register again. [`Input::Chain`] follows.
    ReadRegister,
}

/// Outputs of one turn, reused from turn to turn.
#[derive(Debug, Default)]
pub struct Outputs {
    items: Vec<Output>,
}

impl Outputs {
    pub fn push(&mut self, output: Output) {
        self.items.push(output);
    }

    pub fn send(&mut self, to: Address, message: Message) {
        self.items.push(Output::Send { to, message });
    }

    pub fn reply(&mut self, connection: ConnectionId, request: u64, reply: Reply) {
        self.items.push(Output::Reply { connection, request, reply });
    }

    pub fn append(&mut self, entry: DurableEntry) {
        self.items.push(Output::Append(entry));
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn drain(&mut self) -> std::vec::Drain<'_, Output> {
        self.items.drain(..)
    }
}

/// A role's logic: deterministic, without I/O.
pub trait Machine {
    /// Takes one input. What can wait for the end of the turn is gathered until [`Machine::flush`].
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs);

    /// Ends a turn: what was gathered goes out. The driver calls it again after it has delivered
    /// outputs of other machines, until nothing moves.
    fn flush(&mut self, now: Time, outputs: &mut Outputs);

    /// When the machine wants an [`Input::Tick`] at the latest.
    fn deadline(&self) -> Option<Time>;
}

const _: () = assert!(size_of::<Output>() <= 96, "outputs are moved about: they stay small");
