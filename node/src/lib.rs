//! Composition root: from configuration to running machines.
//!
//! [`settings`] is what a user says, [`directory`] what a node keeps, [`register`] where views are
//! agreed upon on one machine.

pub mod directory;
mod durable_file;
pub mod identity;
pub mod register;
pub mod settings;
