//! The simulator: the real machines, one thread, a seeded network, disk and clock.
