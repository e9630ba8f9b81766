//! Recorded histories of a log and their checker.
