//! Why a view was installed, how long the change to it took, and when: kept with it for ever.

use rkyv::{Archive, Deserialize, Serialize};

/// Why a view change is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum ViewReason {
    /// The primary has started again: it never goes on in a view of its earlier life.
    PrimaryRestarted,
    /// The first uncommitted cut can't commit, for its shard's engine is gone.
    StuckCut,
    /// Somebody asked.
    Requested,
    /// It was sealed and nothing came after it: the controller that sealed it may have forgotten.
    Sealed,
    /// It is the first one, or one of a release that did not keep the reason.
    #[default]
    Created,
    /// The primary is not connected to a controller that a majority of the replicas is connected to.
    PrimaryLost,
    /// The primary is connected to too few replicas or storages to commit anything.
    QuorumLost,
    /// A node of the view is to be drained, was removed, or has been gone for long, and another takes
    /// its place.
    NodeReplaced,
    /// An operator gave up what could not be had: the view before ended with what answered. What was
    /// acknowledged may be lost.
    ForceSealed,
    /// A node of a view of class memory has started again: it counts in the next one.
    MemberRestarted,
}

/// How a view came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCause {
    pub reason: ViewReason,
    /// The view before was ended without a quorum that remembered it: what was acknowledged in it and
    /// not yet flushed may be lost. Class memory alone.
    pub after_loss: bool,
    /// From the change's beginning to its installation, as the controller measured it.
    pub change_ms: u64,
    /// When it was installed, in milliseconds since 1970 by the controller's clock; 0: not known.
    pub installed_at_ms: u64,
}
