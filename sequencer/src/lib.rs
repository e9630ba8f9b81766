//! The state machine of a sequencer replica.
