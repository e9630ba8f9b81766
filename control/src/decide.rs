//! Where a sealed view ends: a pure rule over the answers to its seal.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealog_protocol::metalog::{Entry, entries};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::View;
use sealog_protocol::{NodeId, NodeSet, ShardId};

/// What a sequencer replica answered: its durable tail, the commit index it knows, the entries
/// between, and the shards that those cut.
#[derive(Clone, Debug)]
pub struct SequencerAnswer {
    /// Of class memory: it has forgotten what it said in the view, and counts for no quorum of it.
    pub restarted: bool,
    pub tail: u64,
    pub commit: u64,
    pub entries: Bytes,
    pub shards: Box<[(u64, NodeSet)]>,
}

/// What a storage answered: its shards of the view, with their durable prefixes.
#[derive(Clone, Debug, Default)]
pub struct StorageAnswer {
    /// As of a sequencer replica.
    pub restarted: bool,
    pub shards: BTreeMap<ShardId, u64>,
}

/// What the storages answered.
pub type StorageAnswers = BTreeMap<NodeId, StorageAnswer>;

/// Where a view ends, and what must be on enough disks before the next one is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub end: u64,
    /// A replica that has all entries up to the end.
    pub source: NodeId,
    /// The shards that kept entries past the known commit index cut, and how far.
    pub shards: Vec<KeptShard>,
    /// So many nodes have forgotten what they said that no quorum remembers: disks alone decide, and
    /// what was acknowledged and not flushed may be past the end.
    pub forgotten: bool,
}

/// A shard whose records up to `prefix` the view's end orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptShard {
    pub shard: ShardId,
    pub replicas: NodeSet,
    pub prefix: u64,
}

/// Whether a view may end although what was acknowledged in it may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Refused,
    /// An operator said so: those that answered decide, however few.
    Accepted,
}

/// Decides the end of a view; `None` while answers are missing.
pub fn decide(
    view: &View,
    sequencers: &BTreeMap<NodeId, SequencerAnswer>,
    storages: &StorageAnswers,
    loss: Loss,
) -> Option<Decision> {
    let refused = loss == Loss::Refused;
    let majority = if active(Mutant::MinoritySeals) || !refused { 1 } else { view.sequencers.majority() };
    let restarted = sequencers.values().filter(|answer| answer.restarted).count();
    let early = active(Mutant::LossAcceptedEarly);
    let mut forgotten = view.sequencers.len() - restarted < view.sequencers.majority() || (early && restarted > 0);
    if sequencers.len() < majority || (refused && !forgotten && sequencers.len() - restarted < majority) {
        return None;
    }
    let known = sequencers.values().map(|answer| answer.commit).max()?;
    // The first of the longest, so that the same answers always decide the same.
    let (source, longest) = sequencers.iter().rev().max_by_key(|(_, answer)| answer.tail)?;
    let skip = known.saturating_sub(longest.commit) as usize;
    let tail: Vec<Entry<'_>> = entries(&longest.entries).flatten().map(|(entry, _)| entry).skip(skip).collect();

    // The shards that anything past the known commit index moves, closed or not: no other matters.
    let mut needed: BTreeMap<u64, NodeSet> = BTreeMap::new();
    for moved in tail.iter().flat_map(moves) {
        let replicas = longest.shards.iter().find(|(index, _)| *index == moved.0).map(|(_, nodes)| *nodes)?;
        needed.insert(moved.0, replicas);
    }
    let quorum = match loss {
        Loss::Refused => view.read_quorum() - usize::from(active(Mutant::OneAnswerTooFew)),
        Loss::Accepted => 0,
    };
    let answered = |replicas: &NodeSet| replicas.iter().filter(|node| storages.contains_key(node)).count();
    for replicas in needed.values() {
        let forgetful = |node: &NodeId| storages.get(node).is_some_and(|answer| answer.restarted);
        let restarted = replicas.iter().filter(forgetful).count();
        let hopeless = replicas.len() - restarted < quorum || (early && restarted > 0);
        if answered(replicas) < quorum || (!hopeless && answered(replicas) - restarted < quorum) {
            return None;
        }
        forgotten |= hopeless;
    }

    let mut decision = Decision { end: known.min(longest.tail), source: *source, shards: Vec::new(), forgotten };
    let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in &tail {
        if !moves(entry).all(|moved| is_kept(view, moved, &needed[&moved.0], storages)) {
            mark(Mark::SealDropsTail);
            break;
        }
        kept.extend(moves(entry));
        decision.end += 1;
        mark(Mark::SealKeepsUncommitted);
    }
    decision.shards = kept
        .into_iter()
        .map(|(index, prefix)| KeptShard {
            shard: ShardId { view: view.number, index },
            replicas: needed[&index],
            prefix,
        })
        .collect();
    Some(decision)
}

/// The (shard index, prefix) pairs of a cut; nothing for other entries.
fn moves<'a>(entry: &Entry<'a>) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    let cut = if let Entry::Cut(cut) = entry { Some(*cut) } else { None };
    cut.into_iter().flat_map(|cut| cut.moves()).map(|moved| (moved.shard_index, moved.prefix))
}

/// Whether the prefix is durable on some answering storage. What was committed is: it is durable
/// on W, and R − W + 1 answers meet every W.
fn is_kept(view: &View, (index, prefix): (u64, u64), replicas: &NodeSet, storages: &StorageAnswers) -> bool {
    let shard = ShardId { view: view.number, index };
    let holders = holders(replicas, shard, prefix, storages).count();
    if active(Mutant::KeepEverything) {
        return true;
    }
    if active(Mutant::KeepWantsWriteQuorum) {
        return holders >= usize::from(view.write_quorum);
    }
    holders >= 1
}

/// The answering storages that have the shard up to `prefix` on disk.
pub fn holders<'a>(
    replicas: &'a NodeSet,
    shard: ShardId,
    prefix: u64,
    storages: &'a StorageAnswers,
) -> impl Iterator<Item = NodeId> + 'a {
    replicas.iter().filter(move |node| {
        storages.get(node).and_then(|answer| answer.shards.get(&shard)).is_some_and(|durable| *durable >= prefix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::metalog::{CutMove, encode_cut};
    use sealog_protocol::{Incarnation, ViewNumber};

    fn nodes() -> NodeSet {
        NodeSet::new(&[NodeId(1), NodeId(2), NodeId(3)]).expect("three nodes")
    }

    fn view() -> View {
        View {
            number: ViewNumber(1),
            primary: NodeId(1),
            primary_incarnation: Incarnation(1),
            sequencers: nodes(),
            storages: nodes(),
            write_quorum: 2,
            replicas: 3,
            moves: Vec::new(),
            cause: Default::default(),
        }
    }

    /// Cuts of shard 0 to these prefixes, after entry 0 (its OpenShard), which is committed.
    fn answer(commit: u64, prefixes: &[u64]) -> SequencerAnswer {
        let mut encoded = Vec::new();
        for prefix in &prefixes[(commit - 1) as usize..] {
            encode_cut(&mut encoded, [CutMove { shard_index: 0, prefix: *prefix }].into_iter());
        }
        let tail = 1 + prefixes.len() as u64;
        SequencerAnswer { restarted: false, tail, commit, entries: encoded.into(), shards: Box::new([(0, nodes())]) }
    }

    fn storages(durable: &[(u64, u64)]) -> StorageAnswers {
        let shard = ShardId { view: ViewNumber(1), index: 0 };
        let answer = |prefix| StorageAnswer { restarted: false, shards: BTreeMap::from([(shard, prefix)]) };
        durable.iter().map(|(node, prefix)| (NodeId(*node), answer(*prefix))).collect()
    }

    fn end(sequencers: &[(u64, SequencerAnswer)], storages: &StorageAnswers) -> Option<u64> {
        let sequencers = sequencers.iter().map(|(node, answer)| (NodeId(*node), answer.clone())).collect();
        decide(&view(), &sequencers, storages, Loss::Refused).map(|decision| decision.end)
    }

    /// The end, and whether it may be a loss, when these replicas and storages have restarted.
    fn end_of_memory(
        replicas: &[u64],
        restarted: &[u64],
        storages: &StorageAnswers,
        forgetful: &[u64],
    ) -> Option<(u64, bool)> {
        let of = |node: &u64| {
            let prefixes: &[u64] = if restarted.contains(node) { &[10] } else { &[10, 20] };
            (NodeId(*node), SequencerAnswer { restarted: restarted.contains(node), ..answer(1, prefixes) })
        };
        let mut storages = storages.clone();
        for node in forgetful {
            storages.entry(NodeId(*node)).or_default().restarted = true;
        }
        let decided = decide(&view(), &replicas.iter().map(of).collect(), &storages, Loss::Refused);
        decided.map(|decision| (decision.end, decision.forgotten))
    }

    #[test]
    fn who_has_restarted_counts_for_no_quorum_of_class_memory() {
        let all = storages(&[(1, 20), (2, 20), (3, 0)]);
        assert_eq!(end_of_memory(&[1, 2], &[], &all, &[]), Some((3, false)));
        assert_eq!(end_of_memory(&[1, 2], &[1], &all, &[]), None, "another one may remember more");
        assert_eq!(end_of_memory(&[1, 2, 3], &[1], &all, &[]), Some((3, false)));
        assert_eq!(end_of_memory(&[1, 2], &[], &storages(&[(1, 0), (3, 0)]), &[1]), None);
        assert_eq!(end_of_memory(&[1, 2], &[], &storages(&[(1, 0), (2, 20), (3, 0)]), &[1]), Some((3, false)));
    }

    #[test]
    fn when_nobody_can_remember_disks_decide_and_the_loss_is_said() {
        let all = storages(&[(1, 10), (2, 10), (3, 0)]);
        assert_eq!(end_of_memory(&[1, 2], &[1, 2], &all, &[]), Some((2, true)));
        assert_eq!(end_of_memory(&[1, 2], &[], &all, &[1, 2]), Some((2, true)));
        assert_eq!(end_of_memory(&[1], &[1], &all, &[]), None, "a majority's disks are needed all the same");
    }

    #[test]
    fn an_entry_is_kept_if_one_answering_storage_has_its_records() {
        let answers = [(1, answer(1, &[10, 20])), (2, answer(1, &[10]))];
        assert_eq!(end(&answers, &storages(&[(1, 10), (2, 0)])), Some(2));
        assert_eq!(end(&answers, &storages(&[(1, 20), (3, 0)])), Some(3));
        assert_eq!(end(&answers, &storages(&[(1, 9), (3, 0)])), Some(1));
    }

    #[test]
    fn accepted_loss_decides_with_the_answers_there_are() {
        let answers = BTreeMap::from([(NodeId(2), answer(1, &[10, 20]))]);
        let end = |storages: &StorageAnswers| {
            decide(&view(), &answers, storages, Loss::Accepted).map(|decision| decision.end)
        };
        assert_eq!(end(&storages(&[(3, 10)])), Some(2), "what no answering storage has is not kept");
        assert_eq!(end(&storages(&[])), Some(1));
        assert_eq!(decide(&view(), &BTreeMap::new(), &storages(&[(3, 10)]), Loss::Accepted), None, "no metalog at all");
    }

    #[test]
    fn answers_of_a_majority_and_of_enough_storages_are_waited_for() {
        assert_eq!(end(&[(1, answer(1, &[10]))], &storages(&[(1, 10), (2, 10)])), None);
        let answers = [(1, answer(1, &[10])), (2, answer(1, &[]))];
        assert_eq!(end(&answers, &storages(&[(1, 10)])), None);
        let idle = [(1, answer(2, &[10])), (2, answer(1, &[10]))];
        assert_eq!(end(&idle, &storages(&[])), Some(2), "no storage matters to what is known to be committed");
    }
}
