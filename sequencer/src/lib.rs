//! The state machine of a sequencer replica: it keeps a logspace's metalog, and as primary decides
//! what is next in it.
//!
//! [`machine`] takes the inputs of primary and backups alike; [`primary`] is what only the primary
//! knows; [`progress`] is how far storages have a shard; [`entry_log`] holds a view's entries;
//! [`held`] knows what of it lies in which segment of the journal.

pub mod entry_log;
pub mod held;
pub mod machine;
pub mod primary;
pub mod progress;

pub use machine::{RecoverError, Sequencer, SequencerConfig, SequencerStatus};
