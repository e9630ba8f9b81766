//! The order of a logspace, as cuts made it: from a SeqNum to where its record lives.

use sealog_protocol::logspace::Ordered;
use sealog_protocol::{LocalId, SeqNum, ShardId};

/// Runs of records that are consecutive both in order and in their shard. A log that one engine
/// writes is one run a shard, however many cuts made it.
#[derive(Debug, Default)]
pub struct Order {
    runs: Vec<Run>,
}

/// Records that are consecutive in order and in their shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub seqnum: SeqNum,
    pub first: LocalId,
    pub records: u64,
}

impl Run {
    /// The part of it between these SeqNums, both included.
    fn within(&self, first: SeqNum, last: SeqNum) -> Run {
        let skipped = first.0.saturating_sub(self.seqnum.0);
        let end = (self.seqnum.0 + self.records).min(last.0.saturating_add(1));
        let seqnum = SeqNum(self.seqnum.0 + skipped);
        let first = LocalId { shard: self.first.shard, position: self.first.position + skipped };
        Run { seqnum, first, records: end - seqnum.0 }
    }
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

    /// The runs of a shard, from the one that holds a position on, or from the next.
    pub fn runs_of(&self, shard: ShardId, from: u64) -> impl Iterator<Item = &Run> + '_ {
        let begin = self.runs.partition_point(|run| run.seqnum.view() < shard.view);
        let of_view = self.runs[begin..].iter().take_while(move |run| run.seqnum.view() == shard.view);
        of_view.filter(move |run| run.first.shard == shard && run.first.position + run.records > from)
    }

    /// The runs with records between these SeqNums, both included, cut off to those records.
    pub fn between(&self, first: SeqNum, last: SeqNum) -> impl Iterator<Item = Run> + '_ {
        let begin = self.runs.partition_point(|run| run.seqnum.0 + run.records <= first.0);
        self.runs[begin..].iter().take_while(move |run| run.seqnum <= last).map(move |run| run.within(first, last))
    }

    /// The run at this place, from 0.
    pub fn run(&self, at: usize) -> Option<&Run> {
        self.runs.get(at)
    }

    /// Takes a run back, the last of those so far.
    pub fn restore(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Forgets runs of which nothing is at or above this SeqNum.
    pub fn drop_before(&mut self, lowest: SeqNum) {
        let gone = self.runs.partition_point(|run| run.seqnum.0 + run.records <= lowest.0);
        self.runs.drain(..gone);
        if self.runs.len() * 4 < self.runs.capacity() {
            self.runs.shrink_to(self.runs.len() * 2);
        }
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
    use sealog_protocol::ViewNumber;

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
