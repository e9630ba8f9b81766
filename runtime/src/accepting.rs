//! Accepting connections: every listener has one accept in flight, which repeats itself.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;

use io_uring::{opcode, types};
use sealog_protocol::Time;

use crate::counters::Counters;
use crate::limits::ACCEPT_PAUSE;
use crate::listener::{Listener, accepted};
use crate::ring::{Completion, Kind, Ring, Token};
use crate::warnings::{Warning, Warnings};

struct Listening {
    listener: Listener,
    is_armed: bool,
    /// Not before this time: accepting failed.
    arm_at: Option<Time>,
}

/// The listeners of an executor.
pub(crate) struct Accepting {
    /// Of clients, or of nodes.
    kind: Kind,
    listening: Vec<Listening>,
    is_stopped: bool,
}

impl Accepting {
    pub fn new(kind: Kind, listeners: Vec<Listener>) -> Accepting {
        let listening =
            listeners.into_iter().map(|listener| Listening { listener, is_armed: false, arm_at: None }).collect();
        Accepting { kind, listening, is_stopped: false }
    }

    /// Asks for connections where that is not asked for yet.
    pub fn arm(&mut self, now: Time, ring: &mut Ring) {
        for (slot, listening) in self.listening.iter_mut().enumerate() {
            if listening.is_armed || self.is_stopped || listening.arm_at.is_some_and(|at| now < at) {
                continue;
            }
            (listening.is_armed, listening.arm_at) = (true, None);
            let entry = opcode::AcceptMulti::new(types::Fd(listening.listener.descriptor()));
            let entry = entry.flags(libc::SOCK_CLOEXEC).build();
            // SAFETY: it points at no memory.
            unsafe { ring.push(Token::new(self.kind, slot as u32, 0), entry) };
        }
    }

    /// A listener has a connection, or its accept has ended.
    pub fn on_completion(
        &mut self,
        now: Time,
        completion: Completion,
        counters: &Counters,
        warnings: &mut Warnings,
    ) -> Option<OwnedFd> {
        let listening = &mut self.listening[completion.token.slot as usize];
        listening.is_armed = completion.more();
        match completion.bytes() {
            Ok(descriptor) => return Some(accepted(descriptor as i32)),
            Err(error) if self.is_stopped => tracing::debug!(%error, "accepts no more connections"),
            Err(error) => {
                counters.accepts_failed.add(1);
                if warnings.admit(now, Warning::NotAccepted) {
                    tracing::warn!(address = %listening.listener.address(), %error, "cannot accept a connection");
                }
                listening.arm_at = Some(now + ACCEPT_PAUSE);
            }
        }
        None
    }

    /// When [`Accepting::arm`] is due again without a completion.
    pub fn deadline(&self) -> Option<Time> {
        self.listening.iter().filter_map(|listening| listening.arm_at).min()
    }

    /// Accepts no more connections.
    pub fn stop(&mut self, ring: &mut Ring) {
        self.is_stopped = true;
        for (slot, listening) in self.listening.iter_mut().enumerate() {
            listening.arm_at = None;
            if listening.is_armed {
                ring.cancel(Token::new(self.kind, slot as u32, 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;

    #[test]
    fn without_descriptors_it_is_tried_again_after_a_pause_and_not_before() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("a free port");
        let (mut accepting, counters) = (Accepting::new(Kind::Accept, vec![listener]), Counters::default());
        let mut ring = Ring::new().expect("a ring");
        accepting.arm(Time(1), &mut ring);
        assert_eq!(ring.in_flight(), 1);
        let failed = Completion::failed(Token::new(Kind::Accept, 0, 0), libc::EMFILE);
        assert!(accepting.on_completion(Time(1), failed, &counters, &mut Warnings::default()).is_none());
        assert_eq!(counters.accepts_failed.get(), 1);
        let again = Time(1) + ACCEPT_PAUSE;
        assert_eq!(accepting.deadline(), Some(again));
        accepting.arm(Time(again.0 - 1), &mut ring);
        assert_eq!(ring.in_flight(), 1, "it waits");
        accepting.arm(again, &mut ring);
        assert_eq!(ring.in_flight(), 2, "it tries again");
        assert_eq!(accepting.deadline(), None);
    }
}
