//! The state machine of a sequencer replica: it keeps a logspace's metalog, and as primary decides
//! what is next in it.
//!
//! [`machine`] takes the inputs of primary and backups alike; [`primary`] is what only the primary
//! knows; [`progress`] is how far storages have a shard; [`entry_log`] holds a view's entries.

pub mod entry_log;
pub mod machine;
pub mod primary;
pub mod progress;

pub use machine::{Sequencer, SequencerConfig, SequencerStatus};
