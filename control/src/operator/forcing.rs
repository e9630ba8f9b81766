//! What forcing the end of a view would do.

use sealog_protocol::machine::Role;
use sealog_protocol::view::View;
use sealog_protocol::{LogspaceId, NodeId, NodeSet, ViewNumber};

use super::{Cluster, Refusal};
use crate::plan::NextNodes;

/// The end of a view by those that are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedEnd {
    pub refused: Vec<Refusal>,
    pub now: NextNodes,
    pub next: NextNodes,
    /// Sequencers and storages of the view that are not there, whose word will not count.
    pub missing_sequencers: Vec<NodeId>,
    pub missing_storages: Vec<NodeId>,
    /// A majority and a quorum are there: it ends without a loss, as on any request.
    pub is_lossless: bool,
}

impl Cluster<'_> {
    /// What ending this view of a logspace by force would do. `view`: the one to end; 0: the present one.
    ///
    /// # Errors
    /// There is no such logspace.
    pub fn forced_end(&self, logspace: LogspaceId, view: ViewNumber) -> Result<ForcedEnd, Refusal> {
        let chain = self.chains.iter().find(|chain| chain.logspace == logspace);
        let Some(chain) = chain else { return Err(Refusal::NoLogspace { logspace }) };
        let current: &View = chain.current();
        let is_there = |node: NodeId| (self.is_connected)(node);
        let missing = |nodes: &NodeSet| nodes.iter().filter(|node| !is_there(*node)).collect::<Vec<NodeId>>();
        let seen = |nodes: &NodeSet| nodes.iter().filter(|node| is_there(*node)).count();
        let (missing_sequencers, missing_storages) = (missing(&current.sequencers), missing(&current.storages));
        // As many answers as meet every write quorum, whichever storages a shard is on.
        let is_lossless = seen(&current.sequencers) >= current.sequencers.majority()
            && missing_storages.len() < usize::from(current.write_quorum);
        let next = self.situation(chain, self.members, &|node| !is_there(node)).next_nodes();
        let mut refused = Vec::new();
        if view.0 > 0 && view != current.number {
            refused.push(Refusal::OtherView { logspace, view, now: current.number });
        }
        if seen(&current.sequencers) == 0 {
            refused.push(Refusal::NoReplica { logspace, nodes: current.sequencers.iter().collect() });
        }
        let wanted = [
            (Role::Sequencer, seen(&next.sequencers), next.sequencers.majority()),
            (Role::Storage, seen(&next.storages), usize::from(current.write_quorum)),
        ];
        for (role, seen, wanted) in wanted {
            if seen < wanted {
                refused.push(Refusal::TooFewNodes { logspace, role, missing: wanted - seen });
            }
        }
        let now = NextNodes::of(current);
        Ok(ForcedEnd { refused, now, next, missing_sequencers, missing_storages, is_lossless })
    }
}
