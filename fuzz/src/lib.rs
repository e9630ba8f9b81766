//! What each fuzz target does with an input, and what must hold for every input: no panic, no
//! endless loop, no memory beyond the input's own size times a constant; and what was understood can
//! be said again and is understood the same.
//!
//! Checksums stand in a fuzzer's way, not in an attacker's: targets make them right, so that what
//! is behind them is reached.

pub mod checkpoint;
pub mod journal;
pub mod node;
pub mod seeds;
pub mod session;
pub mod wire;
