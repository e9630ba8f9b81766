//! The disk format of Sealog: segments, blocks, footers, recovery. Pure: it says what to write and
//! asks for what to read; the driver owns the files. `docs/formats/disk.md` has every byte.
//!
//! ```text
//!  machines --append--> Journal --next_write--> driver --RWF_DSYNC--> segment file
//!  machines <-durable-- Journal <-write_done--- driver
//!                       Journal::recover <----- SegmentSource
//! ```
//!
//! Begin with [`Journal`].

mod block;
pub mod buffer;
pub mod config;
pub mod entry;
pub mod footer;
pub mod freed;
pub mod header;
pub mod inspect;
pub mod journal;
mod recovery;
pub mod report;
mod salvage;
pub mod scrub;
mod segments;
pub mod source;
mod space;
pub mod status;
mod survey;
pub mod tags;
pub mod trailer;
mod walk;

pub use buffer::BlockBuffer;
pub use config::{JournalConfig, Owner};
pub use freed::{Freed, FreedRange};
pub use inspect::{BlockVerdict, Finding, Inspection, SegmentState, SegmentSummary};
pub use journal::{BlockWrite, Journal};
pub use report::{Damage, DamageKind, RecoveryError, RecoveryReport, Rotten, TornTail};
pub use scrub::{ScrubConfig, ScrubRead, ScrubStatus};
pub use segments::{WantedSegment, blocks_bytes};
pub use source::{SegmentSource, SourceError};
pub use status::JournalStatus;
pub use tags::{FooterChunk, TagsSource};

/// Blocks, reads and writes are aligned to this: the unit of O_DIRECT on every disk we know.
pub const ALIGNMENT: usize = 4096;
