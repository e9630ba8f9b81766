//! The simulator: the machines that production runs, in one thread, with a seeded network, disks,
//! clocks and register, under every fault we can think of.
//!
//! ```text
//!  swarm (a seed's plan) -> world: events in time order
//!                             |- node: machines, journal, turns       (the code that ships)
//!                             |- network, disk, clock, register       (simulated)
//!                             |- client: sessions of the client crate (the code that ships)
//!                             |- faults: what breaks, and when it heals
//!                             '- invariants, after every turn; model and history, at the end
//! ```
//!
//! [`seed::run`] runs one seed, [`campaign`] many. A failure is a seed and a command.

pub mod campaign;
pub mod client;
pub mod clock;
pub mod connections;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod model;
pub mod network;
pub mod node;
pub mod operator;
pub mod queue;
pub mod register;
pub mod rot;
pub mod seed;
pub mod swarm;
pub mod trace;
mod turn;
pub mod violation;
pub mod workload;
pub mod world;
