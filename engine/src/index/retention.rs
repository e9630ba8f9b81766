//! What a LogBook keeps by itself, and the record that says so.

use sealog_protocol::{LogBookId, Tag};

/// What a LogBook keeps by itself. Zero: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub age_ms: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

/// Marks the tag that carries an age, and that of a number of bytes: no LogBook's id is so large, and
/// a record has a tag once.
const AGE: u64 = 0b10 << 62;
const BYTES: u64 = 0b11 << 62;
const BOUND_MAX: u64 = (1 << 62) - 1;

impl Retention {
    /// The tags of the record that sets it. An index sees nothing else of a record.
    pub fn tags(self, logbook: LogBookId) -> [Tag; 4] {
        let (age, bytes) = (self.age_ms.min(BOUND_MAX), self.bytes.min(BOUND_MAX));
        [Tag::SYSTEM_RETENTION, Tag(logbook.0), Tag(AGE | age), Tag(BYTES | bytes)]
    }

    /// What the tags after the first say. A LogBook whose id is that of the first tag is not repeated.
    pub fn of_tags(rest: [Option<Tag>; 3]) -> Option<(LogBookId, Retention)> {
        let (logbook, age, bytes) = match rest {
            [Some(age), Some(bytes), None] => (Tag::SYSTEM_RETENTION, age, bytes),
            [Some(logbook), Some(age), Some(bytes)] => (logbook, age, bytes),
            _ => return None,
        };
        let is_marked = age.0 & !BOUND_MAX == AGE && bytes.0 & !BOUND_MAX == BYTES;
        let retention = Retention { age_ms: age.0 & BOUND_MAX, bytes: bytes.0 & BOUND_MAX };
        is_marked.then_some((LogBookId(logbook.0), retention))
    }
}
