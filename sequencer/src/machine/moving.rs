//! Where copies of a shard are that were made again: an engine says so, and the metalog.

use sealog_protocol::ShardId;

use super::*;

impl Sequencer {
    /// The ordered prefix of a shard is durable on these storages, says an engine that has applied the
    /// metalog up to this place. Refused when somebody moved the shard since then: the engine did not
    /// know of it.
    pub(super) fn move_shard(
        &mut self,
        from: Address,
        shard: ShardId,
        place: Place,
        replicas: NodeSet,
        outputs: &mut Outputs,
    ) {
        let (Some(primary), Some(chain)) = (self.active_primary(), &self.chain) else { return };
        let view = &primary.view;
        let committed = place.view == view.number && place.index <= primary.commit();
        let is_latest = primary.moved_at(shard).is_none_or(|index| index < place.index);
        // Once its CloseShard is committed, all cuts of it are: nobody counts copies on the old ones. In
        // class memory, once that is on disks: a seal takes the move for a proof.
        let is_final = chain.end(shard.view).is_some()
            || shard.view == view.number && primary.closed_at(shard.index).is_some_and(|at| at < primary.settled());
        let is_legal = replicas.len() >= usize::from(view.write_quorum)
            && replicas.len() <= usize::from(view.replicas)
            && replicas.iter().all(|node| view.storages.contains(node));
        if from.role != Role::Engine || !is_legal {
            return;
        }
        if committed && is_latest && (is_final || active(Mutant::OpenShardMoved)) {
            mark(Mark::ShardMoved);
            self.append(&Entry::MoveShard { shard, replicas }, outputs);
        } else {
            mark(Mark::MoveRefused);
        }
    }
}

/// How many entries are committed, as far as those from `from` on tell: who is told that a shard of the
/// view has moved knows that its CloseShard was committed. So a seal asks nothing of the storages that
/// the shard has left.
pub(super) fn committed_by_moves(view: ViewNumber, from: u64, encoded: &[u8]) -> u64 {
    let mut closed = BTreeMap::new();
    let mut committed = from;
    for ((entry, _), index) in sealog_protocol::metalog::entries(encoded).map_while(Result::ok).zip(from..) {
        match entry {
            Entry::CloseShard { shard_index } => {
                closed.entry(shard_index).or_insert(index);
            }
            Entry::MoveShard { shard, .. } if shard.view == view => {
                if let Some(at) = closed.get(&shard.index) {
                    committed = committed.max(at + 1);
                }
            }
            _ => {}
        }
    }
    committed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_of_a_shard_of_the_view_proves_that_its_close_was_committed() {
        let view = ViewNumber(3);
        let encode = |entries: &[Entry<'_>]| {
            let mut encoded = BytesMut::new();
            entries.iter().for_each(|entry| entry.encode(&mut encoded));
            encoded
        };
        let moved = |view| Entry::MoveShard { shard: ShardId { view, index: 0 }, replicas: NodeSet::default() };
        let close = Entry::CloseShard { shard_index: 0 };
        assert_eq!(committed_by_moves(view, 7, &encode(&[close, moved(view)])), 8);
        assert_eq!(committed_by_moves(view, 7, &encode(&[close, moved(ViewNumber(2))])), 7);
        assert_eq!(committed_by_moves(view, 7, &encode(&[moved(view), close])), 7);
    }
}
