//! The register: for each logspace its chain of views, and the nodes of the cluster; changed by
//! compare-and-swap alone.

use sealog_protocol::LogspaceId;
use sealog_protocol::Members;
use sealog_protocol::frame::FrameError;
use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::view::Chain;
use thiserror::Error;

/// How a compare-and-swap went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The new chain is in force, durably.
    Installed,
    /// The register held something else; nothing was changed.
    Held(Box<Chain>),
}

/// How a compare-and-swap of the members went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersSwap {
    /// The new members are in force, durably.
    Installed,
    /// The register held others; nothing was changed.
    Held(Members),
}

/// Why a register gave no answer. After a failed swap the chain may be either: read it again.
#[derive(Debug, Error)]
pub enum RegisterError {
    #[error("the register of logspace {logspace} could not be read or written: {source}")]
    Unavailable { logspace: LogspaceId, source: std::io::Error },
    #[error("the register of logspace {logspace} is damaged: {source}; restore it from a backup")]
    Damaged { logspace: LogspaceId, source: FrameError },
    #[error("the register of members could not be read or written: {source}")]
    MembersUnavailable { source: std::io::Error },
    #[error("the register of members is damaged: {source}; restore it from a backup")]
    MembersDamaged { source: FrameError },
    #[error("changes of the register could not be followed: {source}")]
    Unwatchable { source: std::io::Error },
}

/// A durable compare-and-swap store of chains. Its contract:
/// - what [`Register::read`] returned once, it or an extension of it is returned ever after;
/// - of two swaps that extend the same chain, at most one is installed.
pub trait Register {
    /// The chain in force; `None` before the first.
    fn read(&mut self, logspace: LogspaceId) -> Result<Option<Chain>, RegisterError>;

    /// Installs a logspace's first chain, if there is none.
    fn create(&mut self, chain: &Chain) -> Result<Swap, RegisterError>;

    /// Installs `next`, if the chain in force is the one that it extends by one view.
    fn compare_and_swap(&mut self, next: &Chain) -> Result<Swap, RegisterError>;

    /// The nodes of the cluster; `None` before the first was written.
    fn members(&mut self) -> Result<Option<Members>, RegisterError>;

    /// Writes `next`, if what is in force [precedes](Members::precedes) it; version 1, if nothing is.
    fn swap_members(&mut self, next: &Members) -> Result<MembersSwap, RegisterError>;
}

/// Whether `next` is `held` with one view ended and one installed.
pub fn extends(held: &Chain, next: &Chain) -> bool {
    if active(Mutant::InstallWithoutCompare) {
        return next.views.len() > 1 && next != held;
    }
    let views = held.views.len();
    next.settings == held.settings
        && next.logspace == held.logspace
        && next.views.len() == views + 1
        && next.ends.len() == held.ends.len() + 1
        && next.views[..views] == held.views[..]
        && next.ends[..held.ends.len()] == held.ends[..]
}
