//! The shell that drives machines: executors, rings, sockets, disks.
//!
//! The only crate that names glommio, io-uring, core_affinity or a server socket. A node is a
//! [`Host`] per executor, started by [`start`] with a [`NodeConfig`] and steered by a [`Handle`].
//!
//! ```text
//!   start ─► one thread per executor, pinned, glommio on it, one driver task:
//!
//!     sockets ─► connection ─► Host ─► Action ─► journal_io ─► disk
//!        ▲           (frames)    ▲   (what machines want)  │
//!        └──── replies ──────────┴──── durable places ◄────┘
//! ```

mod clock;
mod config;
mod counters;
mod error;
mod executor;
mod host;

pub use clock::Clock;
pub use config::{ExecutorConfig, JournalConfig, Listen, NodeConfig, Pinning, Spinning};
pub use counters::Counters;
pub use error::{HostError, RunError, StartError};
pub use executor::{Handle, Poster, start};
pub use host::{Action, ExecutorContext, ExecutorId, Host, Owner};
