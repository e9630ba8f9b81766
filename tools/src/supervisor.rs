//! What a node tells the supervisor that started it (sd_notify(3)): nothing, unless it asks by
//! `NOTIFY_SOCKET`.

use sd_notify::NotifyState;

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
