//! What the async and the blocking face share: the socket, and the session behind a lock.

pub(crate) mod address;
pub(crate) mod call;
pub(crate) mod core;
pub(crate) mod driver;
pub(crate) mod operation;
