//! Faulty disks for tests.
