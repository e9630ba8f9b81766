//! A view change under way: what was answered, what is decided, who has it.

use std::collections::{BTreeMap, BTreeSet};

use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::view::View;
use sealog_protocol::{NodeId, NodeSet, ShardId, Time, ViewReason};

use crate::decide::{Decision, KeptShard, SequencerAnswer, StorageAnswers, holders};
use crate::plan::NextNodes;

/// A view change under way.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub view: View,
    pub reason: ViewReason,
    pub began: Time,
    /// An operator said that it may go on without what can't be had.
    pub accepts_loss: bool,
    pub sequencers: BTreeMap<NodeId, SequencerAnswer>,
    pub storages: StorageAnswers,
    pub repair: Option<Repair>,
    pub retries: u32,
}

/// What must be durable before the next view is installed, and who has it.
#[derive(Clone, Debug)]
pub(super) struct Repair {
    pub decision: Decision,
    /// It was made with fewer answers than are sure to know all that was acknowledged.
    pub lossy: bool,
    pub next: NextNodes,
    /// Replicas that have the kept entries.
    pub metalog: BTreeSet<NodeId>,
    /// For each kept shard: the storages that have its records, of which [`Copies::targets`] are
    /// asked to.
    pub copies: Vec<Copies>,
    pub installing: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Copies {
    pub kept: KeptShard,
    pub have: BTreeSet<NodeId>,
    pub source: NodeId,
}

impl Change {
    pub fn new(view: &View, reason: ViewReason, began: Time) -> Change {
        Change {
            view: view.clone(),
            reason,
            began,
            accepts_loss: reason == ViewReason::ForceSealed,
            sequencers: BTreeMap::new(),
            storages: BTreeMap::new(),
            repair: None,
            retries: 0,
        }
    }

    /// Whether nobody of the view is left to be waited for.
    pub fn have_all_answered(&self) -> bool {
        self.sequencers.len() == self.view.sequencers.len() && self.storages.len() == self.view.storages.len()
    }

    /// From the seal on: nothing is installed, so another end is still safe.
    pub fn again(&self) -> Change {
        Change { accepts_loss: self.accepts_loss, ..Change::new(&self.view, self.reason, self.began) }
    }
}

impl Repair {
    pub fn new(change: &Change, decision: Decision, next: NextNodes, lossy: bool) -> Repair {
        let has_all = |answer: &SequencerAnswer| answer.tail >= decision.end;
        // A replica that makes way takes with it what it alone kept of earlier views: whoever is to keep it
        // has to say that it has all of it. Where all stay, so does what they kept.
        let stay = next.sequencers == change.view.sequencers || lossy;
        let told = change.sequencers.iter().filter(|(_, answer)| stay && has_all(answer));
        let metalog = told.map(|(node, _)| *node).collect();
        let copies = decision.shards.iter().map(|kept| {
            let have: BTreeSet<NodeId> = holders(&kept.replicas, kept.shard, kept.prefix, &change.storages).collect();
            let source = have.first().copied().unwrap_or(decision.source);
            Copies { kept: kept.clone(), have, source }
        });
        Repair { metalog, lossy, next, copies: copies.collect(), installing: false, decision }
    }

    /// Replicas that are to have the kept entries: of this view, then those new in the next.
    pub fn replicas(&self, view: &View) -> Vec<NodeId> {
        let new = self.next.sequencers.iter().filter(|node| !view.sequencers.contains(*node));
        view.sequencers.iter().chain(new).collect()
    }

    /// Whether the kept entries are on a majority of this view's replicas and of the next one's.
    pub fn is_metalog_safe(&self, view: &View) -> bool {
        let has_majority =
            |nodes: &NodeSet| nodes.iter().filter(|node| self.metalog.contains(node)).count() >= nodes.majority();
        (self.lossy || active(Mutant::MetalogNotRepaired) || has_majority(&view.sequencers))
            && (active(Mutant::MetalogNotRepaired)
                || active(Mutant::NextViewNotRepaired)
                || has_majority(&self.next.sequencers))
    }

    /// Whether the kept records are on W storages of the next view.
    pub fn are_records_safe(&self, view: &View) -> bool {
        let quorum = usize::from(view.write_quorum);
        let of_next = |copies: &Copies| copies.have.iter().filter(|node| self.next.storages.contains(**node)).count();
        active(Mutant::RecordsNotRepaired) || self.copies.iter().all(|copies| of_next(copies) >= quorum)
    }

    /// Where kept shards are now, as the next view says.
    pub fn moves(&self) -> Vec<(ShardId, NodeSet)> {
        self.copies.iter().filter_map(Copies::moved).collect()
    }
}

impl Copies {
    /// Storages that are asked for a copy: the shard's own first, then any other of the next view.
    pub fn targets(&self, view: &View, next: &NodeSet) -> Vec<NodeId> {
        let there = self.have.iter().filter(|node| next.contains(**node)).count();
        if there >= usize::from(view.write_quorum) {
            return Vec::new();
        }
        let missing = |node: &NodeId| !self.have.contains(node);
        let own = self.kept.replicas.iter().filter(|node| missing(node) && next.contains(*node));
        let others = next.iter().filter(|node| missing(node) && !self.kept.replicas.contains(*node));
        own.chain(others).take(NodeSet::MAX).collect()
    }

    /// Where the shard is now, if a copy is on a storage that is not one of its own.
    fn moved(&self) -> Option<(ShardId, NodeSet)> {
        if self.have.iter().all(|node| self.kept.replicas.contains(*node)) {
            return None;
        }
        let have: Vec<NodeId> = self.have.iter().copied().take(NodeSet::MAX).collect();
        Some((self.kept.shard, NodeSet::new(&have)?))
    }
}
