//! The state machine of a storage: deliberately dumb, it keeps the shard streams of a logspace and
//! serves a record by its place in them. It needs no SeqNum to do so.
//!
//! [`machine`] takes the inputs; [`shard`] is one stream with the places of its records.

pub mod machine;
pub mod shard;

pub use machine::{Storage, StorageConfig, StorageStatus};
