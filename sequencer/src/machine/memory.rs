//! What a replica of class memory answers for: what it holds in a life that counts.

use super::*;

impl Sequencer {
    /// Whether this replica may have said more in a view than it knows now.
    pub(super) fn has_forgotten(&self, view: ViewNumber) -> bool {
        view <= self.config.forgotten && !active(Mutant::RestartedReplicaCounts)
    }

    pub(super) fn is_memory(&self) -> bool {
        self.chain.as_ref().is_some_and(Chain::is_memory)
    }

    /// How many entries of a view this replica answers for: those on disk; in class memory those that
    /// it holds, unless it has forgotten what it said.
    pub(super) fn held(&self, view: ViewNumber) -> u64 {
        let Some(log) = self.views.get(&view) else { return 0 };
        match self.is_memory() {
            true if self.has_forgotten(view) => 0,
            true => log.entries.end(),
            false => log.durable,
        }
    }
}
