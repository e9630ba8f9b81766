//! The state machine of an engine: the shard it writes, index, cache, reads, sessions.
