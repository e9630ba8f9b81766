//! The shell that drives machines: executors, rings, sockets, disks.
