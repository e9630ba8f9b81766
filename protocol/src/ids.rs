//! Identifiers. Each is a newtype, so that no two can be confused; all are plain integers.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// A user's log. The top bit is its class (0 disk, 1 memory), the other 63 a hash of its name.
    LogBookId(u64)
}
id! {
    /// A key under which records can be read. 0 means "every record".
    Tag(u64)
}
id! {
    /// One of the cluster's physical logs, shared by many LogBooks.
    LogspaceId(u16)
}
id! {
    /// A node's identity, drawn at random when its data directory is made, and kept there.
    NodeId(u64)
}
id! {
    /// How often a node has started: raised durably before its first word.
    Incarnation(u64)
}
id! {
    /// A cluster's identity, drawn at random when it is created.
    ClusterId(u64)
}
id! {
    /// The number of a view in one logspace's chain. Views count from 1; 0 is before the first.
    ViewNumber(u32)
}
id! {
    /// A client's session in one logspace: the SeqNum of its `Session` record. 0 is "no session".
    SessionId(u64)
}
id! {
    /// The number a client gives to a request of its session; a retry carries the same one. From 1.
    RequestNumber(u64)
}

impl LogBookId {
    /// The reserved LogBook of `Name` and `Session` records.
    pub const SYSTEM: LogBookId = LogBookId(0);

    /// The id of the LogBook of this name, of class disk: XXH3-64 with seed 0, top bit cleared.
    /// A name that hashes to the reserved id gets 1.
    pub fn from_name(name: &str) -> LogBookId {
        LogBookId((xxh3_64(name.as_bytes()) & (u64::MAX >> 1)).max(1))
    }

    /// Whether it is of class memory: replicated, not flushed.
    pub fn is_memory(self) -> bool {
        self.0 >> 63 == 1
    }

    /// What holds a record of it that is acknowledged.
    pub fn class(self) -> Durability {
        if self.is_memory() { Durability::Memory } else { Durability::Disk }
    }

    /// The same name's id in the other class.
    pub fn in_other_class(self) -> LogBookId {
        LogBookId(self.0 ^ 1 << 63)
    }

    /// The same name's id in class memory.
    pub fn in_memory(self) -> LogBookId {
        LogBookId(self.0 | 1 << 63)
    }

    /// The same name's id in this class. A name has one of them for ever, but its id could be either.
    pub fn in_class(self, class: Durability) -> LogBookId {
        match class {
            Durability::Disk => LogBookId(self.0 & (u64::MAX >> 1)),
            Durability::Memory => self.in_memory(),
        }
    }

    /// The logspace that holds this LogBook, for ever: one of its class. Where there is none of class
    /// memory, one of class disk, which promises more.
    pub fn logspace(self, logspaces: impl Into<Logspaces>) -> LogspaceId {
        let Logspaces { disk, memory } = logspaces.into();
        assert!(disk > 0, "a cluster has at least one logspace of class disk");
        let (first, count) = if self.is_memory() && memory > 0 { (disk, memory) } else { (0, disk) };
        LogspaceId(first + (xxh3_64(&self.0.to_le_bytes()) % u64::from(count)) as u16)
    }
}

/// What holds a record when it is acknowledged: the class of its LogBook, and of that one's logspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
#[repr(u8)]
pub enum Durability {
    /// It is on disk on W storages, its order on disk on a majority of sequencer replicas.
    Disk,
    /// The same, in memory: it is on its way to their disks.
    Memory,
}

impl Durability {
    pub const ALL: [Durability; 2] = [Durability::Disk, Durability::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Durability::Disk => "disk",
            Durability::Memory => "memory",
        }
    }
}

/// How many logspaces of each class a cluster has: first come those of class disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logspaces {
    pub disk: u16,
    pub memory: u16,
}

impl Logspaces {
    pub fn count(self) -> u16 {
        self.disk + self.memory
    }

    /// All of them.
    pub fn ids(self) -> impl Iterator<Item = LogspaceId> {
        (0..self.count()).map(LogspaceId)
    }

    pub fn class(self, logspace: LogspaceId) -> Durability {
        if self.is_memory(logspace) { Durability::Memory } else { Durability::Disk }
    }

    /// Whether this one commits what W storages and a majority of replicas hold in memory.
    pub fn is_memory(self, logspace: LogspaceId) -> bool {
        logspace.0 >= self.disk
    }
}

impl std::fmt::Display for Logspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} logspaces of class disk and {} of class memory", self.disk, self.memory)
    }
}

/// All of class disk.
impl From<u16> for Logspaces {
    fn from(disk: u16) -> Logspaces {
        Logspaces { disk, memory: 0 }
    }
}

impl Tag {
    /// Every record of the LogBook.
    pub const ALL: Tag = Tag(0);
    /// In LogBook 0: marks `Name` records.
    pub const SYSTEM_NAME: Tag = Tag(1);
    /// In LogBook 0: marks `Session` records.
    pub const SYSTEM_SESSION: Tag = Tag(2);
    /// Of a record in LogBook 0 that sets a LogBook's retention; its second tag is the LogBook's id.
    pub const SYSTEM_RETENTION: Tag = Tag(3);

    /// The tag of this name: XXH3-64 with seed 0, where 0 becomes 1. Collisions are accepted.
    pub fn from_name(name: &str) -> Tag {
        Tag(xxh3_64(name.as_bytes()).max(1))
    }
}

impl SessionId {
    /// No session: only records of LogBook 0 are written so.
    pub const NONE: SessionId = SessionId(0);
}

/// A stream of records inside a logspace, written by one incarnation of one engine in one view.
/// It is named by the place of its `OpenShard` entry, so ids never repeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId {
    pub view: ViewNumber,
    /// Metalog index of the shard's `OpenShard` entry in that view.
    pub index: u64,
}

/// Where a record lives: a position of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalId {
    pub shard: ShardId,
    pub position: u64,
}

/// A place in a logspace's metalog: `index` entries of `view`, and all of the views before it.
/// Places compare as pairs. As a prefix it is exclusive: the entry at `index` is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub view: ViewNumber,
    pub index: u64,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.view, self.index)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.view, self.index)
    }
}

/// Up to [`NodeSet::MAX`] distinct nodes, in a fixed order, without an allocation.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NodeSet {
    nodes: [NodeId; NodeSet::MAX],
    count: u8,
}

impl NodeSet {
    pub const MAX: usize = 8;

    /// The set of these nodes, or `None` when there are too many or one comes twice.
    pub fn new(nodes: &[NodeId]) -> Option<NodeSet> {
        let mut set = NodeSet::default();
        for node in nodes {
            if set.contains(*node) || set.len() == NodeSet::MAX {
                return None;
            }
            set.nodes[set.len()] = *node;
            set.count += 1;
        }
        Some(set)
    }

    pub fn as_slice(&self) -> &[NodeId] {
        &self.nodes[..usize::from(self.count)]
    }

    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.as_slice().iter().copied()
    }

    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.as_slice().contains(&node)
    }

    /// How many of the set make a majority of it.
    pub fn majority(&self) -> usize {
        self.len() / 2 + 1
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids of names are on disk for ever.
    #[test]
    fn names_hash_to_golden_ids() {
        assert_eq!(LogBookId::from_name("orders"), LogBookId(xxh3_64(b"orders") & (u64::MAX >> 1)));
        assert_eq!(LogBookId::from_name("").0 >> 63, 0);
        assert_ne!(Tag::from_name(""), Tag::ALL);
    }

    #[test]
    fn a_logbook_is_in_a_logspace_of_its_class() {
        let logspaces = Logspaces { disk: 2, memory: 3 };
        for at in 0..100 {
            let disk = LogBookId::from_name(&format!("name {at}"));
            let memory = disk.in_memory();
            assert!(!disk.is_memory() && memory.is_memory());
            assert_eq!((memory.in_class(Durability::Disk), disk.in_class(Durability::Memory)), (disk, memory));
            assert!(!logspaces.is_memory(disk.logspace(logspaces)) && logspaces.is_memory(memory.logspace(logspaces)));
            assert!(memory.logspace(logspaces).0 < logspaces.count());
            assert!(memory.logspace(2).0 < 2, "where there is none of its class, a stronger one");
        }
    }

    #[test]
    fn a_node_set_refuses_repeats_and_excess() {
        assert!(NodeSet::new(&[NodeId(1), NodeId(1)]).is_none());
        let nine: Vec<NodeId> = (0..9).map(NodeId).collect();
        assert!(NodeSet::new(&nine).is_none());
        let three = NodeSet::new(&nine[..3]).expect("three distinct nodes");
        assert_eq!((three.len(), three.majority()), (3, 2));
    }
}
