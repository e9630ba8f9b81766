//! The order of a logspace, as cuts made it: from a SeqNum to where its record lives.

use sealog_protocol::logspace::Ordered;
use sealog_protocol::{LocalId, SeqNum};

/// Runs of records that are consecutive both in order and in their shard. A log that one engine
/// writes is one run a shard, however many cuts made it.
#[derive(Debug, Default)]
pub struct Order {
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    seqnum: SeqNum,
    first: LocalId,
    records: u64,
}

impl Order {
    /// Takes the next ordered records.
    pub fn push(&mut self, ordered: &Ordered) {
        let records = ordered.to - ordered.from;
        if let Some(last) = self.runs.last_mut()
            && last.first.shard == ordered.shard
            && last.first.position + last.records == ordered.from
            && last.seqnum.0 + last.records == ordered.seqnum.0
        {
            last.records += records;
            return;
        }
        let first = LocalId { shard: ordered.shard, position: ordered.from };
        self.runs.push(Run { seqnum: ordered.seqnum, first, records });
    }

    /// Where the record of this SeqNum lives.
    pub fn find(&self, seqnum: SeqNum) -> Option<LocalId> {
        let after = self.runs.partition_point(|run| run.seqnum <= seqnum);
        let run = &self.runs[after.checked_sub(1)?];
        let nth = seqnum.0 - run.seqnum.0;
        let position = run.first.position + nth;
        (nth < run.records).then_some(LocalId { shard: run.first.shard, position })
    }

    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::{ShardId, ViewNumber};

    #[test]
    fn runs_merge_and_are_found() {
        let shard = |index| ShardId { view: ViewNumber(1), index };
        let mut order = Order::default();
        let mut seqnum = 1 << 44;
        let mut push = |order: &mut Order, index, from, to| {
            order.push(&Ordered { shard: shard(index), from, to, seqnum: SeqNum(seqnum) });
            seqnum += to - from;
        };
        push(&mut order, 0, 0, 3);
        push(&mut order, 0, 3, 4);
        push(&mut order, 7, 0, 1);
        push(&mut order, 0, 4, 6);
        assert_eq!(order.runs(), 3);
        let found: Vec<(u64, u64)> = (0..7)
            .map(|nth| order.find(SeqNum((1 << 44) + nth)).expect("ordered"))
            .map(|id| (id.shard.index, id.position))
            .collect();
        assert_eq!(found, [(0, 0), (0, 1), (0, 2), (0, 3), (7, 0), (0, 4), (0, 5)]);
        assert_eq!(order.find(SeqNum((1 << 44) + 7)), None);
        assert_eq!(order.find(SeqNum(5)), None);
    }
}
