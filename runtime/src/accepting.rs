//! Accepting connections: every listener has one accept in flight, which repeats itself.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;

use io_uring::{opcode, types};
use sealog_protocol::Time;

use crate::limits::ACCEPT_PAUSE;
use crate::listener::{Listener, accepted};
use crate::ring::{Completion, Kind, Ring, Token};

struct Listening {
    listener: Listener,
    is_armed: bool,
    /// Not before this time: accepting failed.
    arm_at: Option<Time>,
}

/// The listeners of an executor.
pub(crate) struct Accepting {
    listening: Vec<Listening>,
    is_stopped: bool,
}

impl Accepting {
    pub fn new(listeners: Vec<Listener>) -> Accepting {
        let listening =
            listeners.into_iter().map(|listener| Listening { listener, is_armed: false, arm_at: None }).collect();
        Accepting { listening, is_stopped: false }
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
            unsafe { ring.push(Token::new(Kind::Accept, slot as u32, 0), entry) };
        }
    }

    /// A listener has a connection, or its accept has ended.
    pub fn on_completion(&mut self, now: Time, completion: Completion) -> Option<OwnedFd> {
        let listening = &mut self.listening[completion.token.slot as usize];
        listening.is_armed = completion.more();
        match completion.bytes() {
            Ok(descriptor) => return Some(accepted(descriptor as i32)),
            Err(error) if self.is_stopped => tracing::debug!(%error, "accepts no more connections"),
            Err(error) => {
                tracing::warn!(address = %listening.listener.address(), %error, "cannot accept a connection");
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
                ring.cancel(Token::new(Kind::Accept, slot as u32, 0));
            }
        }
    }
}
