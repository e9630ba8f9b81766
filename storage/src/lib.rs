//! The state machine of a storage.
