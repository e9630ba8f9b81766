//! Who does not hear whom in a dev cluster.

use std::collections::BTreeSet;

use crate::dev::command::{Span, Target};

/// Directions that are cut, by the numbers of the nodes: what the first says, the second does not hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition(BTreeSet<(usize, usize)>);

impl Partition {
    /// All directions of a span between so many nodes, whose targets are resolved by `number`.
    ///
    /// # Errors
    /// Those of `number`; and what both ends of is one node.
    pub fn of<E: From<String>>(
        span: Span,
        count: usize,
        mut number: impl FnMut(Target) -> Result<usize, E>,
    ) -> Result<Partition, E> {
        let (one, others, is_one_way) = match span {
            Span::Around(target) => {
                let one = number(target)?;
                (one, (1..=count).filter(|other| *other != one).collect::<Vec<_>>(), false)
            }
            Span::Between(one, other) => (number(one)?, vec![number(other)?], false),
            Span::OneWay(one, other) => (number(one)?, vec![number(other)?], true),
        };
        if others.contains(&one) {
            return Err(format!("node {one} hears itself: give two nodes").into());
        }
        let there = others.iter().map(|other| (one, *other));
        let back = others.iter().map(|other| (*other, one)).filter(|_| !is_one_way);
        Ok(Partition(there.chain(back).collect()))
    }

    pub fn add(&mut self, other: &Partition) {
        self.0.extend(&other.0);
    }

    pub fn remove(&mut self, other: &Partition) {
        self.0.retain(|direction| !other.0.contains(direction));
    }

    /// Nodes that don't hear this one.
    pub fn deaf_to(&self, number: usize) -> impl Iterator<Item = usize> {
        self.0.iter().filter(move |(from, _)| *from == number).map(|(_, to)| *to)
    }

    /// Nodes that this one doesn't hear.
    pub fn unheard_by(&self, number: usize) -> impl Iterator<Item = usize> {
        self.0.iter().filter(move |(_, to)| *to == number).map(|(from, _)| *from)
    }

    /// Nodes that it is about.
    pub fn nodes(&self) -> BTreeSet<usize> {
        self.0.iter().flat_map(|(from, to)| [*from, *to]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(span: Span) -> Result<Partition, String> {
        Partition::of(span, 3, |target| match target {
            Target::Node(number) => Ok(number),
            _ => Ok(3),
        })
    }

    #[test]
    fn what_is_cut_can_be_healed_in_part() {
        let [one, two] = [1, 2].map(Target::Node);
        let mut partition = of(Span::Around(Target::Primary)).expect("all others");
        assert_eq!(partition.deaf_to(3).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(partition.unheard_by(3).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(partition.unheard_by(1).collect::<Vec<_>>(), [3]);
        partition.add(&of(Span::OneWay(one, two)).expect("two nodes"));
        assert_eq!((partition.deaf_to(1).count(), partition.unheard_by(1).count()), (2, 1));
        partition.remove(&of(Span::Between(Target::Primary, one)).expect("two nodes"));
        assert_eq!(partition.nodes(), BTreeSet::from([1, 2, 3]));
        assert_eq!((partition.deaf_to(1).count(), partition.unheard_by(1).count()), (1, 0));
        assert!(of(Span::Between(one, one)).is_err_and(|error| error.contains("hears itself")));
    }
}
