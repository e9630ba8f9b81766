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

mod accepting;
mod addresses;
mod buffers;
mod checks;
mod client_limits;
mod clock;
mod config;
mod connection;
mod cores;
mod counters;
mod directory;
mod driver;
mod error;
mod executor;
mod host;
mod inbox;
mod intake;
mod journal_io;
mod limits;
mod listener;
mod park;
mod peer_config;
mod peer_watch;
mod peering;
mod peers;
mod preparer;
pub mod probe;
mod ring;
mod sockets;
mod warnings;
mod watch;

pub use client_limits::ClientLimits;
pub use clock::Clock;
pub use config::{ExecutorConfig, Listen, NodeConfig, Pinning, Spinning};
pub use counters::Counters;
pub use error::{HostError, RunError, StartError};
pub use executor::{Handle, Poster, start};
pub use host::{Action, ExecutorContext, ExecutorId, Host};
pub use peer_config::{PeerAddress, PeerLimits, PeersConfig, PeersNow};
pub use peer_watch::{PeerStatus, PeerWatch};
pub use peers::PeerCuts;
pub use sealog_journal::{Damage, JournalConfig, Owner, Rotten, ScrubConfig};
pub use watch::JournalWatch;
