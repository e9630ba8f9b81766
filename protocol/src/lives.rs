//! What a node knows of its earlier lives: in class memory, a life that does not know what an earlier
//! one said in a view counts for none of that view's quorums.

use std::collections::BTreeMap;

use crate::ids::{Incarnation, LogspaceId, ViewNumber};
use crate::mutant::{Mark, Mutant, active, mark};
use crate::view::Chain;

/// A life of a node, as its data directory keeps it for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub incarnation: Incarnation,
    /// All that its machines had said was on disk at its end.
    pub ended_in_order: bool,
    /// Of each logspace of class memory: views up to this one began in a life of which more may have
    /// been said than is on disk.
    pub forgotten: BTreeMap<LogspaceId, ViewNumber>,
}

impl Life {
    /// Begins a life, with the chains that the register has now. Of the life before, nothing is lost if it
    /// ended in order, and if it is known.
    pub fn begin(incarnation: Incarnation, before: Option<&Life>, chains: &[Chain]) -> Life {
        let in_order = before.filter(|life| life.ended_in_order && life.incarnation.0 + 1 == incarnation.0);
        let forgotten = |chain: &Chain| match in_order {
            _ if incarnation == Incarnation(1) => ViewNumber(0),
            Some(_) if active(Mutant::OrderRemembersAll) => ViewNumber(0),
            Some(life) => {
                mark(Mark::RestartRemembered);
                life.forgotten.get(&chain.logspace).copied().unwrap_or(chain.current().number)
            }
            None => chain.current().number,
        };
        let of_memory = chains.iter().filter(|chain| chain.is_memory());
        let forgotten = of_memory.map(|chain| (chain.logspace, forgotten(chain))).collect();
        Life { incarnation, ended_in_order: false, forgotten }
    }

    /// What the machines of a logspace are told.
    pub fn forgotten(&self, logspace: LogspaceId) -> ViewNumber {
        self.forgotten.get(&logspace).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Logspaces, NodeId, NodeSet};
    use crate::view::{ClusterSettings, View};

    fn chains(views: u32) -> Vec<Chain> {
        let nodes = NodeSet::new(&[NodeId(1)]).expect("one");
        let view = |number| View {
            number: ViewNumber(number),
            primary: NodeId(1),
            primary_incarnation: Incarnation(1),
            sequencers: nodes,
            storages: nodes,
            write_quorum: 1,
            replicas: 1,
            moves: Vec::new(),
            cause: Default::default(),
        };
        let logspaces = Logspaces { disk: 1, memory: 1 };
        let chain = |logspace| Chain {
            settings: ClusterSettings::new(ClusterId(1), logspaces),
            logspace,
            views: (1..=views).map(view).collect(),
            ends: vec![0; views as usize - 1],
        };
        logspaces.ids().map(chain).collect()
    }

    #[test]
    fn a_life_forgets_what_one_that_was_cut_off_had_said_and_hands_that_on() {
        let memory = LogspaceId(1);
        let mut first = Life::begin(Incarnation(1), None, &chains(3));
        assert_eq!((first.forgotten.len(), first.forgotten(memory)), (1, ViewNumber(0)), "the first knows everything");
        let cut_off = Life::begin(Incarnation(2), Some(&first), &chains(4));
        assert_eq!(cut_off.forgotten(memory), ViewNumber(4));
        first.ended_in_order = true;
        let knows = Life::begin(Incarnation(2), Some(&first), &chains(4));
        assert_eq!(knows.forgotten(memory), ViewNumber(0));
        let earlier = Life::begin(Incarnation(3), Some(&first), &chains(5));
        assert_eq!(earlier.forgotten(memory), ViewNumber(5), "another life was between");
        let unknown = Life::begin(Incarnation(2), None, &chains(4));
        assert_eq!(unknown.forgotten(memory), ViewNumber(4));
        let after_cut_off = Life::begin(Incarnation(3), Some(&Life { ended_in_order: true, ..cut_off }), &chains(6));
        assert_eq!(after_cut_off.forgotten(memory), ViewNumber(4), "what was forgotten stays so");
    }
}
