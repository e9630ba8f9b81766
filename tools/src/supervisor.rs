//! What a node tells the supervisor that started it (sd_notify(3)): nothing, unless it asks by
//! `NOTIFY_SOCKET`.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use sd_notify::NotifyState;

use crate::failure::Failure;

/// From now on, this process is killed when the one that started it ends: a node that was started for
/// somebody does not outlive him.
///
/// # Errors
/// The parent has ended already, or the kernel refuses.
pub fn end_with_parent(parent: i32) -> Result<(), Failure> {
    let refused = |error| Failure::other(format!("cannot be told of the end of process {parent}: {error}"));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
    // It may have ended before.
    match getppid().map(Pid::as_raw_pid) {
        Some(found) if found == parent => Ok(()),
        _ => Err(Failure::other(format!("process {parent}, which started this node, has ended"))),
    }
}

/// Every append that was ever acknowledged is readable.
pub fn tell_ready(addresses: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {addresses}"))]);
}

/// It stops in order.
pub fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Who does not listen misses it: a node serves all the same.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the supervisor: is NOTIFY_SOCKET right?");
    }
}
