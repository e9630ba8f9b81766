//! Recorded histories of a log and their exact checker, for the simulator, process tests and
//! `bench --verify`. Pure: recorders hand in the time.
//!
//! [`history::History`] takes what clients did; [`log::FinalLog`] takes what a scan of the log finds
//! at the end; [`check::check`] says whether a correct log could have answered so.

pub mod check;
pub mod history;
mod interval;
pub mod log;
mod position;
pub mod subscription;
mod trims;
pub mod violation;

pub use check::{Report, check};
pub use history::{Direction, Fingerprint, Found, History, Line, OperationId, Range, Timestamp};
pub use log::FinalLog;
pub use subscription::{Expected, Subscribed, Told};
pub use violation::Violation;
