//! What is asked and told of what a LogBook keeps.

use rkyv::{Archive, Deserialize, Serialize};

/// Trims a LogBook's tag.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TrimRequest {
    pub logbook: u64,
    /// 0 trims the whole LogBook.
    pub tag: u64,
    /// The first SeqNum kept.
    pub first: u64,
}

/// What a LogBook keeps. Zero: no bound.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RetentionRequest {
    pub logbook: u64,
    pub age_ms: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// What is known of a LogBook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Description {
    /// Its trim point: the first SeqNum kept. 0: nothing was trimmed.
    pub first: u64,
    /// The last visible record. 0: none.
    pub tail: u64,
    /// Records that are kept.
    pub records: u64,
    /// Retention by age, in milliseconds. 0: none.
    pub retain_ms: u64,
    /// Retention by bytes of payload. 0: none.
    pub retain_bytes: u64,
}
