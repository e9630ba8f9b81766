//! The register: chains of views behind compare-and-swap, with delays and answers that are lost.

use fastrand::Rng;
use sealog_control::register::extends;
use sealog_protocol::members::{MemberState, Members};
use sealog_protocol::view::Chain;
use sealog_protocol::{LogspaceId, NodeId};

use crate::queue::{Instant, MILLISECOND};
use crate::swarm::{Plan, Span};

/// How one swap fares on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapFate {
    /// When it reaches the register; `None`: it never does.
    pub arrives: Option<Instant>,
    /// When its sender is told that there is an answer, or that there won't be one.
    pub answered: Instant,
}

#[derive(Debug)]
pub struct Register {
    /// As stored: what a node reads is decoded from these bytes.
    chains: Vec<Vec<u8>>,
    members: Vec<u8>,
    delay: Span,
    /// Until then, requests are lost or late.
    troubled_until: Instant,
}

impl Register {
    pub fn new(plan: &Plan) -> Register {
        let chains = plan.logspaces().map(|logspace| plan.first_chain(logspace).encode()).collect();
        Register { chains, members: plan.first_members().encode(), delay: plan.register, troubled_until: 0 }
    }

    pub fn members(&self) -> Members {
        Members::decode(&self.members).expect("only encoded members are stored")
    }

    /// An operator wants another state of a node.
    pub fn set_state(&mut self, node: NodeId, state: MemberState) {
        let members = self.members();
        let member = members.get(node).expect("a member is never forgotten").clone();
        self.members = members.with(sealog_protocol::members::Member { state, ..member }).encode();
    }

    /// A swap of the members arrives. Returns whether it was taken.
    pub fn swap_members(&mut self, next: &Members) -> bool {
        let taken = self.members().precedes(next);
        if taken {
            self.members = next.encode();
        }
        taken
    }

    pub fn chain(&self, logspace: LogspaceId) -> Chain {
        Chain::decode(&self.chains[usize::from(logspace.0)]).expect("only encoded chains are stored")
    }

    /// A swap arrives. Returns whether it was taken.
    pub fn swap(&mut self, next: &Chain) -> bool {
        let held = self.chain(next.logspace);
        let taken = extends(&held, next);
        if taken {
            self.chains[usize::from(next.logspace.0)] = next.encode();
        }
        taken
    }

    pub fn trouble(&mut self, until: Instant) {
        self.troubled_until = self.troubled_until.max(until);
    }

    pub fn heal(&mut self) {
        self.troubled_until = 0;
    }

    pub fn delay(&self, now: Instant, rng: &mut Rng) -> Instant {
        let slow = if now < self.troubled_until { rng.u64(0..50 * MILLISECOND) } else { 0 };
        self.delay.draw(rng) + slow
    }

    pub fn fate(&self, now: Instant, rng: &mut Rng) -> SwapFate {
        let there = now + self.delay(now, rng);
        let back = there + self.delay(now, rng);
        if now >= self.troubled_until {
            return SwapFate { arrives: Some(there), answered: back };
        }
        match rng.u8(0..4) {
            // Lost on its way; the sender gives up waiting.
            0 => SwapFate { arrives: None, answered: back },
            // The sender gives up waiting, and it arrives after all, much later.
            1 => SwapFate { arrives: Some(back + rng.u64(0..400 * MILLISECOND)), answered: back },
            _ => SwapFate { arrives: Some(there), answered: back },
        }
    }
}
