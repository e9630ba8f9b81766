//! Composition root: from configuration to running machines.
