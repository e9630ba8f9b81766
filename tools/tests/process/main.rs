//! The real binary on real sockets and disks: killed, without power, on disks that lie, fill up or
//! rot, on networks that are cut or slow, and among peers that send nonsense.
//!
//! [`node`] runs it, [`load`] appends from many clients, records what they were told, and reads
//! everything again at the end. Each random choice comes from a seed that is printed.

mod backup;
mod bench;
mod cluster;
mod damage;
mod dev;
mod disk_faults;
mod frames;
mod hostile;
mod kill;
mod load;
mod memory;
mod mend;
mod network;
mod node;
mod operate;
mod power_loss;
mod readme;
mod register;
mod service;
mod space;
mod start;
mod subscribe;
