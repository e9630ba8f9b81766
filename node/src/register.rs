//! The register on one machine: a file for each logspace, and what any register must do.

use std::io;
use std::path::{Path, PathBuf};

use sealog_control::register::{MembersSwap, Register, RegisterError, Swap, extends};
use sealog_protocol::members::{Member, MemberState, Members, Roles};
use sealog_protocol::view::Chain;
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, NodeId};

use crate::durable_file;

/// Chains in files that only this process writes: the data directory's lock sees to that.
#[derive(Clone, Debug)]
pub struct FileRegister {
    directory: PathBuf,
}

impl FileRegister {
    /// The register in a directory that exists.
    pub fn new(directory: &Path) -> FileRegister {
        FileRegister { directory: directory.to_owned() }
    }

    fn path(&self, logspace: LogspaceId) -> PathBuf {
        self.directory.join(format!("logspace-{logspace}.chain"))
    }

    fn members_path(&self) -> PathBuf {
        self.directory.join("members")
    }

    fn write(&self, chain: &Chain) -> Result<Swap, RegisterError> {
        let logspace = chain.logspace;
        durable_file::replace(&self.path(logspace), &chain.encode())
            .map_err(|source| RegisterError::Unavailable { logspace, source })?;
        Ok(Swap::Installed)
    }
}

impl Register for FileRegister {
    fn read(&mut self, logspace: LogspaceId) -> Result<Option<Chain>, RegisterError> {
        let bytes = match std::fs::read(self.path(logspace)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RegisterError::Unavailable { logspace, source }),
        };
        Chain::decode(&bytes).map(Some).map_err(|source| RegisterError::Damaged { logspace, source })
    }

    fn create(&mut self, chain: &Chain) -> Result<Swap, RegisterError> {
        match self.read(chain.logspace)? {
            Some(held) => Ok(Swap::Held(Box::new(held))),
            None => self.write(chain),
        }
    }

    fn compare_and_swap(&mut self, next: &Chain) -> Result<Swap, RegisterError> {
        let missing = || RegisterError::Unavailable {
            logspace: next.logspace,
            source: io::Error::new(io::ErrorKind::NotFound, "it has no chain yet"),
        };
        let held = self.read(next.logspace)?.ok_or_else(missing)?;
        if extends(&held, next) { self.write(next) } else { Ok(Swap::Held(Box::new(held))) }
    }

    fn members(&mut self) -> Result<Option<Members>, RegisterError> {
        let bytes = match std::fs::read(self.members_path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RegisterError::MembersUnavailable { source }),
        };
        Members::decode(&bytes).map(Some).map_err(|source| RegisterError::MembersDamaged { source })
    }

    fn swap_members(&mut self, next: &Members) -> Result<MembersSwap, RegisterError> {
        match self.members()? {
            Some(held) if !held.precedes(next) => Ok(MembersSwap::Held(held)),
            None if next.version != 1 => {
                let source = io::Error::new(io::ErrorKind::NotFound, "it has no members yet");
                Err(RegisterError::MembersUnavailable { source })
            }
            _ => {
                durable_file::replace(&self.members_path(), &next.encode())
                    .map_err(|source| RegisterError::MembersUnavailable { source })?;
                Ok(MembersSwap::Installed)
            }
        }
    }
}

/// What every register must do: `register` holds nothing for the logspace of `chain` yet.
///
/// # Panics
/// When the register breaks its contract.
pub fn check_register(register: &mut impl Register, chain: &Chain) {
    let after = |chain: &Chain, end: u64| {
        let mut view = chain.current().clone();
        view.number.0 += 1;
        view.primary_incarnation.0 += 1;
        chain.extended(end, view)
    };
    let logspace = chain.logspace;
    assert_eq!(register.read(logspace).expect("readable"), None, "it holds nothing at first");
    assert_eq!(register.create(chain).expect("answers"), Swap::Installed);
    let second = after(chain, 7);
    let held = |chain: &Chain| Swap::Held(Box::new(chain.clone()));
    assert_eq!(register.create(&second).expect("answers"), held(chain), "a chain is created once");
    assert_eq!(register.compare_and_swap(&second).expect("answers"), Swap::Installed, "an extension is installed");
    assert_eq!(register.read(logspace).expect("readable").as_ref(), Some(&second), "and read again");

    let third = after(&second, 9);
    let mut other_past = third.clone();
    other_past.ends[0] = 8;
    let mut other_settings = third.clone();
    other_settings.settings.session_window += 1;
    let refused = [
        ("another extension of the old chain", after(chain, 8)),
        ("the same one twice", second.clone()),
        ("a step back", chain.clone()),
        ("two steps at once", after(&third, 10)),
        ("another past", other_past),
        ("other settings", other_settings),
    ];
    for (what, next) in &refused {
        assert_eq!(register.compare_and_swap(next).expect("answers"), held(&second), "{what} is refused");
        assert_eq!(register.read(logspace).expect("readable").as_ref(), Some(&second), "{what} changes nothing");
    }
    assert_eq!(register.compare_and_swap(&third).expect("answers"), Swap::Installed, "the next view goes on");
    assert_eq!(register.read(logspace).expect("readable"), Some(third));
    check_members(register, chain.settings.cluster);
}

fn check_members(register: &mut impl Register, cluster: ClusterId) {
    assert_eq!(register.members().expect("readable"), None, "there are no members at first");
    let first = Members { cluster, version: 1, nodes: Vec::new() };
    let member = |node: u64| Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        roles: Roles::ALL,
        state: MemberState::Active,
        peer_address: "10.0.0.1:7441".to_owned(),
        client_address: "10.0.0.1:7440".to_owned(),
    };
    let second = first.with(member(4));
    assert!(register.swap_members(&second).is_err(), "the second follows the first");
    assert_eq!(register.swap_members(&first).expect("answers"), MembersSwap::Installed);
    assert_eq!(register.swap_members(&first).expect("answers"), MembersSwap::Held(first.clone()), "once");
    assert_eq!(register.swap_members(&second).expect("answers"), MembersSwap::Installed);
    let refused = MembersSwap::Held(second.clone());
    assert_eq!(register.swap_members(&first.with(member(5))).expect("answers"), refused, "a version is given once");
    let other = Members { cluster: ClusterId(cluster.0 ^ 1), ..second.with(member(5)) };
    assert_eq!(register.swap_members(&other).expect("answers"), refused, "another cluster's are refused");
    assert_eq!(register.members().expect("readable"), Some(second));
}
