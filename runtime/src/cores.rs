//! Which core each executor gets, and whether it may spin there.

use glommio::Placement;

use crate::config::{Pinning, Spinning};

/// The cores of a node's executors.
pub(crate) struct Cores {
    /// By executor; empty when they are not pinned.
    pinned: Vec<usize>,
    pub spins: bool,
}

impl Cores {
    /// Chooses among the cores that this process may use.
    pub fn choose(executors: usize, pinning: Pinning, spinning: Spinning) -> Cores {
        let allowed = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        Self::choose_from(allowed, executors, pinning, spinning)
    }

    fn choose_from(mut allowed: Vec<usize>, executors: usize, pinning: Pinning, spinning: Spinning) -> Cores {
        let fits = executors <= allowed.len();
        // From the last down: the first cores serve interrupts on most machines.
        allowed.sort_unstable_by(|a, b| b.cmp(a));
        allowed.truncate(executors);
        let pinned = if fits && pinning == Pinning::Auto { allowed } else { Vec::new() };
        let spins = match spinning {
            Spinning::Auto => !pinned.is_empty(),
            Spinning::On => true,
            Spinning::Off => false,
        };
        Cores { pinned, spins }
    }

    pub fn placement(&self, executor: usize) -> Placement {
        match self.pinned.get(executor) {
            Some(core) => Placement::Fixed(*core),
            None => Placement::Unbound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_executors_than_cores_are_not_pinned_and_do_not_spin() {
        let cores = Cores::choose_from(vec![0, 1], 3, Pinning::Auto, Spinning::Auto);
        assert!(matches!(cores.placement(0), Placement::Unbound) && !cores.spins);
        let cores = Cores::choose_from(vec![0, 1], 1, Pinning::Auto, Spinning::Auto);
        assert!(matches!(cores.placement(0), Placement::Fixed(1)) && cores.spins);
        let cores = Cores::choose_from(vec![0, 1], 1, Pinning::Off, Spinning::Auto);
        assert!(!cores.spins, "a core that is not ours is not spun on");
    }
}
