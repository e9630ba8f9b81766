//! Cuts: this node and others, as if the network between them lost everything.
//!
//! Nothing tells of a cut but that nothing comes: no connection is closed for it, what is to be sent
//! waits, what was sent is not read, calls hang. It ends as a real one does, by the silence that each
//! side notices for itself. Without a cut it costs a look at an empty set.

use std::collections::BTreeSet;

use sealog_protocol::ids::NodeId;

use crate::connection::Phase;
use crate::peers::PeerSockets;
use crate::peers::connection::PeerConnection;
use crate::ring::{Kind, Ring, Token};

/// What is lost between this node and others. For trying out what a cluster does then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCuts {
    /// What this node says to these.
    pub to: BTreeSet<NodeId>,
    /// What these say to this node.
    pub from: BTreeSet<NodeId>,
}

impl PeerCuts {
    /// A connection needs both directions to begin.
    pub(crate) fn prevents(&self, node: NodeId) -> bool {
        self.to.contains(&node) || self.from.contains(&node)
    }

    /// What is to be sent on a connection waits.
    pub(crate) fn holds_sends(&self, connection: &PeerConnection) -> bool {
        connection.other().is_some_and(|node| self.to.contains(&node))
    }

    /// What comes on a connection is not read.
    pub(crate) fn holds_receives(&self, connection: &PeerConnection) -> bool {
        connection.other().is_some_and(|node| self.from.contains(&node))
    }
}

impl PeerSockets {
    /// From now on these are in force, and no others.
    pub fn set_cuts(&mut self, cuts: PeerCuts, ring: &mut Ring) {
        self.roster.cuts = cuts;
        for slot in 0..self.slots.len() as u32 {
            let entry = &self.slots[slot as usize];
            let Some(connection) = entry.connection.as_deref() else { continue };
            if connection.wire.phase == Phase::Dead {
                continue;
            }
            match (self.roster.cuts.holds_receives(connection), connection.wire.receiving) {
                (true, true) => ring.cancel(Token::new(Kind::PeerReceive, slot, entry.generation)),
                // One whose call hangs, or has not gone through, has nothing to receive.
                (false, false) if connection.is_open() => self.unarmed.push(slot),
                _ => {}
            }
            self.mark_dirty(slot);
        }
    }
}
