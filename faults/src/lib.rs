//! Disks and networks that fail as real ones do, under unmodified programs.
//!
//! `kill -9` alone proves little: the page cache survives it. [`FaultyDisk`] is a whole ext4 on a
//! disk that keeps what was not flushed in memory, and loses, tears or refuses it on demand.
//! [`SmallDisk`] is an ext4 that is quickly full.
//!
//! ```text
//! program ─O_DIRECT, RWF_DSYNC─▶ ext4 ─▶ loop device (direct I/O) ─▶ FUSE file ─▶ VolatileImage
//!                                                                                  │ flush
//!                                                                                  ▼
//!                                                                             durable file
//! ```
//!
//! [`Network`] is a few hosts on this machine, and a switch between them that cuts, delays and throttles
//! each direction for itself.
//!
//! Disks need root, `/dev/fuse`, loop devices, and mkfs.ext4; networks root, `/dev/net/tun`, and
//! iproute2. Each error says what is missing.

mod command;
mod faulty_disk;
mod filesystem;
mod network;
mod small_disk;
mod volatile;

pub use command::CommandError;
pub use faulty_disk::FaultyDisk;
pub use network::{Link, Network, SwitchCounters};
pub use small_disk::SmallDisk;
pub use volatile::{Counters, CutKind, PowerCut, SECTOR_BYTES, VolatileImage};
