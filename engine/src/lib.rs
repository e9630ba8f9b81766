//! The state machine of an engine: the shard it writes, the index it keeps, the reads it answers.
//!
//! [`machine`] takes the inputs. An append goes through [`producer`] (position, pending) to the
//! storages; committed entries come back through [`follower`] (metalog and Tags, in order) to
//! [`index`] (verdict), from which [`machine`] answers. Reads are in [`reads`], and [`subscriptions`]
//! have theirs made; what readers attach to records is in [`aux`], trims that wait in [`trims`],
//! checkpoints under way in [`checkpoints`]; [`lists`], [`order`] and [`sessions`] are what the index
//! is made of.

pub mod aux;
pub mod checkpoints;
pub mod config;
pub mod copies;
pub mod follower;
pub mod index;
pub mod lists;
pub mod machine;
mod openings;
pub mod order;
pub mod producer;
pub mod reads;
pub mod replicas;
pub mod sessions;
pub mod subscriptions;
pub mod trims;

pub use config::{EngineConfig, EngineStatus};
pub use machine::Engine;
