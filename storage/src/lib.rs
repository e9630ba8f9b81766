//! The state machine of a storage: deliberately dumb, it keeps the shard streams of a logspace and
//! serves a record by its place in them. It needs no SeqNum to do so.
//!
//! [`machine`] takes the inputs; [`shard`] is one stream, [`extents`] are the places of its records;
//! [`checkpoints`] are the parts of index checkpoints; [`segments`] knows what lies in which segment of
//! the journal, so that space comes back.

pub mod checkpoints;
pub mod extents;
pub mod machine;
pub mod segments;
pub mod shard;

pub use machine::{MendNews, Storage, StorageConfig, StorageStatus};
