//! Composition root: from configuration to running machines.
//!
//! [`settings`] is what a user can say, [`configuration`] where it is said, [`peer_settings`] which
//! other nodes there are, [`directory`] what a node keeps, [`backup`] copies of it, [`register`]
//! where views are agreed upon; [`Node`] starts it all, in this process, and
//! [`Embedded`] is one with its clients. The machines of an executor and what they say to each other
//! are in `host` and `machines`.

pub mod backup;
pub mod cluster;
mod cluster_status;
pub mod configuration;
pub mod directory;
mod durable_file;
mod embedded;
pub mod examination;
pub mod forming;
mod host;
pub mod identity;
mod life;
mod machines;
mod node;
mod operations;
pub mod peer_settings;
mod readiness;
pub mod register;
mod register_health;
mod register_thread;
pub mod settings;
mod space_watch;
mod status;
mod twin;

pub use embedded::{Embedded, EmbeddedError};
pub use node::{Cutter, Node, NodeError, Stopper};
pub use readiness::Start;
pub use sealog_runtime::probe;
pub use sealog_runtime::{Listen, PeerCuts, RunError, StartError};
