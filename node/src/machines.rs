//! The machines of one executor: which there are, and how a message finds one.

use sealog_control::Controller;
use sealog_engine::Engine;
use sealog_protocol::machine::{Address, Input, Machine, Outputs, Role};
use sealog_protocol::members::Roles;
use sealog_protocol::{LogspaceId, Time};
use sealog_runtime::ExecutorId;
use sealog_sequencer::Sequencer;
use sealog_storage::{MendNews, Storage};

/// Which executor runs what. The same on every executor of a node.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub executors: u8,
    pub logspaces: u16,
    /// What the node runs; the same for every logspace.
    pub roles: Roles,
}

impl Placement {
    /// With two or more executors, the last one decides order and does nothing else; engines and
    /// storages are spread over the others by logspace, each beside its own.
    pub fn executor(&self, logspace: LogspaceId, role: Role) -> ExecutorId {
        let last = self.executors - 1;
        match role {
            _ if last == 0 => ExecutorId(0),
            Role::Sequencer | Role::Controller => ExecutorId(last),
            Role::Engine | Role::Storage => ExecutorId((logspace.0 % u16::from(last)) as u8),
        }
    }

    /// What this executor runs: (logspace, role), by logspace.
    pub fn machines(&self, executor: ExecutorId) -> impl Iterator<Item = (LogspaceId, Role)> + '_ {
        let roles = [Role::Engine, Role::Storage, Role::Sequencer, Role::Controller];
        (0..self.logspaces)
            .flat_map(move |logspace| roles.map(|role| (LogspaceId(logspace), role)))
            .filter(move |(logspace, role)| self.roles.has(*role) && self.executor(*logspace, *role) == executor)
    }
}

/// A machine of any role: a `match`, not a pointer to a table of functions.
pub enum RoleMachine {
    Engine(Box<Engine>),
    Storage(Box<Storage>),
    Sequencer(Box<Sequencer>),
    Controller(Box<Controller>),
}

impl RoleMachine {
    pub fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match self {
            RoleMachine::Engine(machine) => machine.handle(now, input, outputs),
            RoleMachine::Storage(machine) => machine.handle(now, input, outputs),
            RoleMachine::Sequencer(machine) => machine.handle(now, input, outputs),
            RoleMachine::Controller(machine) => machine.handle(now, input, outputs),
        }
    }

    pub fn flush(&mut self, now: Time, outputs: &mut Outputs) {
        match self {
            RoleMachine::Engine(machine) => machine.flush(now, outputs),
            RoleMachine::Storage(machine) => machine.flush(now, outputs),
            RoleMachine::Sequencer(machine) => machine.flush(now, outputs),
            RoleMachine::Controller(machine) => machine.flush(now, outputs),
        }
    }

    /// What a machine has to tell the log.
    pub fn log_news(&mut self, logspace: LogspaceId) {
        let RoleMachine::Storage(storage) = self else { return };
        while let Some(news) = storage.next_news() {
            match news {
                MendNews::Damaged { segment } => tracing::warn!(
                    logspace = logspace.0,
                    segment,
                    "a segment is damaged: what can be read of it is moved, what can't is taken from other replicas"
                ),
                MendNews::Mended { segment, records } => tracing::info!(
                    logspace = logspace.0,
                    segment,
                    records_mended = records,
                    "a damaged segment is mended: nothing that counts is in it any more"
                ),
                MendNews::Lost { shard, position } => tracing::warn!(
                    logspace = logspace.0,
                    %shard,
                    position,
                    "no replica can read a batch: reads of its records fail, all else goes on; if a node that has it is \
                     down, bring it back"
                ),
            }
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        match self {
            RoleMachine::Engine(machine) => machine.deadline(),
            RoleMachine::Storage(machine) => machine.deadline(),
            RoleMachine::Sequencer(machine) => machine.deadline(),
            RoleMachine::Controller(machine) => machine.deadline(),
        }
    }
}

/// A machine and where it is.
pub struct Slot {
    pub address: Address,
    pub machine: RoleMachine,
    /// It had an input since its last flush.
    pub dirty: bool,
}

/// The machines of one executor.
#[derive(Default)]
pub struct Machines {
    slots: Vec<Slot>,
    /// By logspace and role: the slot, or [`NOWHERE`].
    table: Vec<u16>,
}

const NOWHERE: u16 = u16::MAX;
const ROLES: usize = 4;

impl Machines {
    pub fn insert(&mut self, address: Address, machine: RoleMachine) {
        let key = key(address.logspace, address.role);
        if self.table.len() <= key {
            self.table.resize(key + 1, NOWHERE);
        }
        self.table[key] = self.slots.len() as u16;
        self.slots.push(Slot { address, machine, dirty: true });
    }

    /// The index of the slot of a machine that is here.
    pub fn find(&self, logspace: LogspaceId, role: Role) -> Option<usize> {
        self.table.get(key(logspace, role)).filter(|slot| **slot != NOWHERE).map(|slot| usize::from(*slot))
    }

    pub fn engine(&mut self, logspace: LogspaceId) -> Option<(usize, &mut Engine)> {
        let slot = self.find(logspace, Role::Engine)?;
        match &mut self.slots[slot].machine {
            RoleMachine::Engine(engine) => Some((slot, engine)),
            _ => None,
        }
    }

    pub fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.slots.iter().filter_map(|slot| match &slot.machine {
            RoleMachine::Engine(engine) => Some(&**engine),
            _ => None,
        })
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn slot(&mut self, at: usize) -> &mut Slot {
        &mut self.slots[at]
    }
}

fn key(logspace: LogspaceId, role: Role) -> usize {
    usize::from(logspace.0) * ROLES + role as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_is_on_one_executor() {
        for executors in 1..=5 {
            let placement = Placement { executors, logspaces: 7, roles: Roles::ALL };
            let all: Vec<_> = (0..executors)
                .flat_map(|executor| placement.machines(ExecutorId(executor)).collect::<Vec<_>>())
                .collect();
            assert_eq!(all.len(), 7 * ROLES);
        }
    }

    #[test]
    fn with_two_executors_the_sequencer_is_alone() {
        let placement = Placement { executors: 2, logspaces: 1, roles: Roles::ALL };
        let roles = |executor| placement.machines(ExecutorId(executor)).map(|(_, role)| role).collect::<Vec<_>>();
        assert_eq!(roles(0), [Role::Engine, Role::Storage]);
        assert_eq!(roles(1), [Role::Sequencer, Role::Controller]);
        let storage = Placement { roles: Roles::new(&[Role::Storage]), ..placement };
        let all = (0..2).flat_map(|executor| storage.machines(ExecutorId(executor)).collect::<Vec<_>>());
        assert_eq!(all.collect::<Vec<_>>(), [(LogspaceId(0), Role::Storage)], "what else it could run, others do");
    }
}
