//! Deliberate bugs, each of which the simulator must catch, and counters of rare events, each of
//! which a simulation must reach. Both exist only with the feature `simulation`; without it they
//! are constants that the compiler removes.

/// Whether this deliberate bug is switched on.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn active(_: Mutant) -> bool {
    false
}

/// Counts a rare event.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn mark(_: Mark) {}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
        }
    };
}

named! {
    /// A deliberate bug. testing.md of the design names them; each switches a production line.
    Mutant {
        /// The primary commits what storages have only received.
        CommitOnReceived,
        /// A storage reports what it received as durable.
        ReceivedAsDurable,
        /// The primary commits without a majority of sequencer replicas.
        SkipMajority,
        /// The primary commits an entry before those in front of it.
        CommitOutOfOrder,
        /// A seal is answered before it is durable, and so forgotten by a crash.
        SealNotDurable,
        /// A sealed storage still reports progress.
        SealedStorageReports,
        /// A sealed backup still acknowledges entries.
        SealedBackupAcknowledges,
        /// A sealed primary still commits.
        SealedPrimaryCommits,
        /// A restarted primary goes on in its view.
        PrimaryResumes,
        /// An entry is kept only if W answering storages have its records.
        KeepWantsWriteQuorum,
        /// Every entry of the longest metalog is kept.
        KeepEverything,
        /// R−W answers of a shard's storages are enough.
        OneAnswerTooFew,
        /// A minority of sequencer replicas is enough for a seal.
        MinoritySeals,
        /// Kept metalog entries are not made durable on a majority.
        MetalogNotRepaired,
        /// Records of kept entries are not made durable on W storages.
        RecordsNotRepaired,
        /// Kept metalog entries are not made durable on a majority of the next view's replicas.
        NextViewNotRepaired,
        /// A node of a view that lives is replaced as if it were lost.
        LivingNodeReplaced,
        /// A node is removed although it has what others are to have first.
        RemovedWhileHolding,
        /// A view is installed whatever the register holds.
        InstallWithoutCompare,
        /// The verdicts that tell a repeat are forgotten at a view change.
        WindowDroppedAtViewChange,
        /// A stuck cut asks nobody for a view change.
        StuckCutIgnored,
        /// A sealed replica leaves it to the controller that sealed it to go on.
        SealedAsksNobody,
        /// Sealed nodes refuse repair.
        SealedRefusesRepair,
        /// An append is answered when committed, before the index has given its verdict.
        AnswerBeforeVerdict,
        /// An engine answers a read before it has applied what the session has seen.
        ReadIgnoresPlace,
        /// The primary answers a query for the commit index without asking a majority.
        QueryUnconfirmed,
        /// The condition is tested before the duplicate.
        ConditionBeforeDuplicate,
        /// An engine that has restarted goes on in its earlier life's shard, from the beginning.
        ShardPositionReused,
        /// A sequencer replica drops the metalog before a checkpoint whose entry is not committed.
        MetalogDroppedEarly,
        /// A storage releases a segment in which batches live.
        SegmentReleasedWhileLiving,
        /// A storage releases a segment before the copies of what lives in it are durable.
        SegmentReleasedBeforeCopy,
        /// The newest seal goes with its segment.
        SealNotAppendedAgain,
        /// A storage drops a checkpoint before a newer one is committed.
        CheckpointDroppedEarly,
        /// A tail is the last visible record, however far the tag was trimmed.
        TailForgetsTrim,
        /// A trim reaches records that are still to come.
        TrimNotClamped,
        /// A later trim with a lower SeqNum brings the trim point back.
        TrimLowersPoint,
        /// A record with several tags dies with the first of them.
        DeadByOneTag,
        /// The trim of a tag trims its whole LogBook.
        TrimAffectsOtherTag,
        /// An engine takes what it has applied for what was committed before a trim was asked for.
        TrimUnconfirmed,
        /// A subscription goes on behind the record after the last one of a page.
        SubscriptionSkipsAtPageEnd,
        /// A subscription that is asked for again begins with what was told last.
        SubscriptionRepeatsWhenAskedAgain,
        /// A subscription goes on past what is trimmed without a word.
        SubscriptionSilentAboutTrim,
        /// Retention lets one record too many go.
        RetentionTrimsOneMore,
        /// A name that is used in one class is given to a LogBook of the other one.
        NameInBothClasses,
        /// A storage of class memory that has restarted in a view counts in it all the same.
        RestartedStorageCounts,
        /// A sequencer replica of class memory that has restarted in a view counts in it all the same.
        RestartedReplicaCounts,
        /// A life that ended in order is taken to have known all that lives before it said.
        OrderRemembersAll,
        /// A loss is accepted although a quorum that remembers may still answer.
        LossAcceptedEarly,
        /// Aux data comes with the first record of an answer, whichever it is of.
        AuxOfFirstRecord,
        /// An engine stays with a shard one of whose storages is lost.
        LostReplicaIgnored,
        /// A storage says that a copy is done before it is durable.
        CopiedBeforeDurable,
        /// Of a shard's ordered prefix only the first half is copied.
        CopyCutShort,
        /// A shard that still gets records is moved.
        OpenShardMoved,
        /// A damaged batch counts as mended before its new copy is durable.
        MendedBeforeDurable,
        /// A damaged batch is appended again as it is: nobody looks at its checksum.
        MendUnverified,
        /// A damaged batch is replaced by the one before it.
        MendedFromWrongPosition,
        /// A segment of which recovery could not hand over everything is given back all the same.
        MissingNotLookedFor,
        /// A copy goes on behind what one of its sources cannot read.
        CopySkipsWhatOneCannotRead,
    }
}

named! {
    /// A rare event that simulations must have reached.
    Mark {
        CutWhileBackupLags,
        CutOnReceived,
        CutOnDurable,
        CutGathersShards,
        CommitWaitsForStorage,
        CommitWaitsForBackup,
        StuckCutAsksForView,
        SealedAsksForView,
        ShardClosedByPrimary,
        ShardRolledByEngine,
        ReplicateResumed,
        ReplicateResumedLower,
        ReplicateRefusedBySeal,
        TornTailTruncated,
        RecoveredSealedSegment,
        RecoveredOpenSegment,
        SealWithUncommittedTail,
        SealDropsTail,
        SealKeepsUncommitted,
        RepairedMetalog,
        RepairedRecords,
        RepairStartedAgain,
        QuorumLostAsksForView,
        PrimarySuspected,
        SuspicionDamped,
        ControllerTookOver,
        ChangeLostToAnother,
        NodeReplaced,
        NodeLeftOut,
        NodeRemoved,
        CheckpointLeftNode,
        ViewInstalledTwiceRead,
        ReappendAfterViewChange,
        VoidByCondition,
        VoidByDuplicate,
        VoidByExpiredSession,
        SessionEvicted,
        DuplicateAnsweredFromIndex,
        ConditionFailedRepeated,
        ReadWaitedForPlace,
        ReadWaitedForRecord,
        FetchTriedNextReplica,
        LinearizableConfirmedByMajority,
        EngineBackpressure,
        NameCollision,
        PrimaryRestarted,
        TagsResumed,
        SegmentReleased,
        SegmentRewritten,
        RewritePutAside,
        BatchKeptForPrefix,
        MetalogBaseMoved,
        MetalogGoneTold,
        SealAppendedAgain,
        CheckpointStored,
        VacateAnswered,
        BackupTookBase,
        TrimApplied,
        TrimClamped,
        ReadTrimmed,
        DiedByTags,
        LogBookCompacted,
        CheckpointBegun,
        CheckpointCommitted,
        CheckpointLoaded,
        TagsGoneTold,
        RetentionTrims,
        SubscriptionTrimTold,
        SubscriptionBroke,
        SubscriptionAskedAgain,
        AuxCameBack,
        AuxGaveWay,
        AuxOfTrimmed,
        NameOfOtherClass,
        MemoryCommittedUnflushed,
        MemberRestartedAsksForView,
        RestartRemembered,
        LossAccepted,
        CommittedLost,
        EngineStartedOver,
        ShardLeftLostStorage,
        PastTaught,
        CopyTaken,
        CopySkipsDropped,
        ShardMoved,
        MoveRefused,
        RotFound,
        RotMended,
        MendAskedNextReplica,
        MissingMended,
        RottenSegmentReleased,
    }
}

#[cfg(feature = "simulation")]
pub use simulation::{active, mark, set_active, take_marks};

#[cfg(feature = "simulation")]
mod simulation {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::{Mark, Mutant};

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
        static MARKS: RefCell<BTreeMap<Mark, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Whether this deliberate bug is switched on, on this thread.
    pub fn active(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Switches one deliberate bug on, or all off, on this thread.
    pub fn set_active(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Counts a rare event.
    pub fn mark(mark: Mark) {
        MARKS.with_borrow_mut(|marks| *marks.entry(mark).or_default() += 1);
    }

    /// The counts since the last call, on this thread.
    pub fn take_marks() -> BTreeMap<Mark, u64> {
        MARKS.take()
    }
}
