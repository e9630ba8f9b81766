//! The controller: seal, decide, repair, install. Several at once would be safe; one is enough on
//! one machine.

use std::collections::{BTreeMap, BTreeSet};

use sealog_protocol::limits::REQUEST_RETRY;
use sealog_protocol::machine::{Address, Input, Machine, Output, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{Incarnation, LogspaceId, NodeId, NodeSet, ShardId, Time, ViewNumber};

use crate::decide::{Decision, KeptShard, RestartedStorages, SequencerAnswer, StorageAnswers, decide, holders};

const REPAIR_RETRIES_MAX: u32 = 10;

/// What a controller is told at its start.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    pub logspace: LogspaceId,
    /// After so many retries of a repair its sources are given up: the change begins again at the seal.
    pub repair_retries_max: u32,
}

impl ControllerConfig {
    pub fn new(logspace: LogspaceId) -> ControllerConfig {
        ControllerConfig { logspace, repair_retries_max: REPAIR_RETRIES_MAX }
    }
}

/// Changes the views of one logspace.
pub struct Controller {
    config: ControllerConfig,
    chain: Option<Chain>,
    connected: BTreeMap<NodeId, Incarnation>,
    change: Option<Change>,
    retry_at: Option<Time>,
}

/// A view change under way.
struct Change {
    view: View,
    sequencers: BTreeMap<NodeId, SequencerAnswer>,
    storages: StorageAnswers,
    forgetful: RestartedStorages,
    repair: Option<Repair>,
    retries: u32,
}

/// What must be durable before the next view is installed, and who has it.
struct Repair {
    decision: Decision,
    /// Replicas that have the kept entries.
    metalog: BTreeSet<NodeId>,
    /// For each kept shard: the storages that have its records, of which [`Copies::targets`] are
    /// asked to.
    copies: Vec<Copies>,
    installing: bool,
}

struct Copies {
    kept: KeptShard,
    have: BTreeSet<NodeId>,
    source: NodeId,
}

impl Controller {
    pub fn new(config: ControllerConfig) -> Controller {
        Controller { config, chain: None, connected: BTreeMap::new(), change: None, retry_at: None }
    }

    /// Whether a view change is under way.
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    fn message(&mut self, now: Time, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::ViewWanted { view, .. } => self.begin(now, view, outputs),
            Message::SequencerSealed { restarted, view, tail, commit, entries, shards } => {
                if let Some(change) = self.sealing(view) {
                    let answer = SequencerAnswer { restarted, tail, commit, entries, shards };
                    change.sequencers.insert(from.node, answer);
                    self.advance(now, outputs);
                }
            }
            Message::StorageSealed { restarted, view, shards } => {
                if let Some(change) = self.sealing(view) {
                    if restarted {
                        change.forgetful.insert(from.node);
                    }
                    change.storages.insert(from.node, shards.into_iter().collect());
                    self.advance(now, outputs);
                }
            }
            Message::MetalogRepaired { view, durable } => {
                let repair = self.change.as_mut().filter(|change| change.view.number == view);
                if let Some(repair) = repair.and_then(|change| change.repair.as_mut())
                    && durable >= repair.decision.end
                {
                    repair.metalog.insert(from.node);
                    self.advance(now, outputs);
                }
            }
            Message::ShardRepaired { shard, durable } => {
                let repair = self.change.as_mut().and_then(|change| change.repair.as_mut());
                let copies = repair.into_iter().flat_map(|repair| &mut repair.copies);
                for copies in copies.filter(|copies| copies.kept.shard == shard && durable >= copies.kept.prefix) {
                    copies.have.insert(from.node);
                }
                self.advance(now, outputs);
            }
            // Meant for another role: a peer's mistake, without effect.
            _ => {}
        }
    }

    /// The change of this view, while answers to its seal still count.
    fn sealing(&mut self, view: ViewNumber) -> Option<&mut Change> {
        self.change.as_mut().filter(|change| change.view.number == view && change.repair.is_none())
    }

    fn begin(&mut self, now: Time, view: ViewNumber, outputs: &mut Outputs) {
        let Some(current) = self.chain.as_ref().map(Chain::current) else { return };
        if current.number < view {
            outputs.push(Output::ReadRegister);
            return;
        }
        if current.number != view || self.change.is_some() {
            return;
        }
        self.change = Some(Change::new(current));
        self.ask(now, outputs);
    }

    /// Takes the change as far as the answers allow.
    fn advance(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(change) = &mut self.change else { return };
        if change.repair.is_none() {
            let decided = decide(&change.view, &change.sequencers, &change.storages, &change.forgetful);
            let Some(decision) = decided else { return };
            let all = change.sequencers.len() == change.view.sequencers.len()
                && change.storages.len() == change.view.storages.len();
            if decision.loss && !all && change.retries == 0 {
                // Who answers a little later may have more.
                return;
            }
            if decision.loss {
                mark(Mark::LossAccepted);
            }
            change.repair = Some(Repair::new(change, decision));
            change.retries = 0;
            self.ask(now, outputs);
        }
        self.install(now, outputs);
    }

    /// Sends, again, whatever is not yet answered.
    fn ask(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(change) = &self.change else { return };
        let view = change.view.number;
        match &change.repair {
            None => {
                for node in change.view.sequencers.iter().filter(|node| !change.sequencers.contains_key(node)) {
                    outputs.send(self.address(node, Role::Sequencer), Message::Seal { view });
                }
                for node in change.view.storages.iter().filter(|node| !change.storages.contains_key(node)) {
                    outputs.send(self.address(node, Role::Storage), Message::Seal { view });
                }
            }
            Some(repair) if repair.installing => outputs.push(Output::ReadRegister),
            Some(repair) => {
                let (end, source) = (repair.decision.end, repair.decision.source);
                for node in change.view.sequencers.iter().filter(|node| !repair.metalog.contains(node)) {
                    let message = Message::RepairMetalog { view, end, source };
                    outputs.send(self.address(node, Role::Sequencer), message);
                }
                for copies in &repair.copies {
                    for node in copies.targets(&change.view) {
                        let (shard, prefix) = (copies.kept.shard, copies.kept.prefix);
                        let message = Message::RepairShard { shard, prefix, source: copies.source };
                        outputs.send(self.address(node, Role::Storage), message);
                    }
                }
            }
        }
        self.retry_at = Some(now + REQUEST_RETRY);
    }

    /// Installs the next view once everything kept is on enough disks.
    fn install(&mut self, now: Time, outputs: &mut Outputs) {
        let (Some(chain), Some(change)) = (&self.chain, &mut self.change) else { return };
        let Some(repair) = &mut change.repair else { return };
        let quorum = usize::from(change.view.write_quorum);
        let metalog_safe =
            repair.metalog.len() >= change.view.sequencers.majority() || active(Mutant::MetalogNotRepaired);
        let records_safe =
            repair.copies.iter().all(|copies| copies.have.len() >= quorum) || active(Mutant::RecordsNotRepaired);
        if repair.installing || !metalog_safe || !records_safe {
            return;
        }
        // A replica that has everything leads next, in the life in which it is connected now.
        let mut able = repair.metalog.iter().filter_map(|node| Some((*node, *self.connected.get(node)?)));
        let Some((primary, primary_incarnation)) = able.next() else { return };
        let next = View {
            number: ViewNumber(change.view.number.0 + 1),
            primary,
            primary_incarnation,
            moves: repair.copies.iter().filter_map(Copies::moved).collect(),
            after_loss: repair.decision.loss,
            ..change.view.clone()
        };
        let chain = Box::new(chain.extended(repair.decision.end, next));
        repair.installing = true;
        outputs.push(Output::CompareAndSwap { chain });
        self.retry_at = Some(now + REQUEST_RETRY);
    }

    fn chain(&mut self, chain: &Chain) {
        let newer = self.chain.as_ref().is_none_or(|known| known.views.len() < chain.views.len());
        if newer {
            self.chain = Some(chain.clone());
            self.change = None;
            self.retry_at = None;
        } else if let Some(repair) = self.change.as_mut().and_then(|change| change.repair.as_mut())
            && repair.installing
        {
            // The swap was not taken, or its answer was lost before it was: what is in the register
            // is what counts, so it is tried again.
            mark(Mark::ViewInstalledTwiceRead);
            repair.installing = false;
        }
    }

    fn tick(&mut self, now: Time, outputs: &mut Outputs) {
        if self.retry_at.is_none_or(|at| now < at) {
            return;
        }
        let Some(change) = &mut self.change else {
            self.retry_at = None;
            return;
        };
        change.retries += 1;
        if change.repair.is_some() && change.retries > self.config.repair_retries_max {
            // Nothing is installed, so a shorter end is still safe.
            mark(Mark::RepairStartedAgain);
            *change = Change::new(&change.view.clone());
        }
        self.advance(now, outputs);
        self.ask(now, outputs);
    }
}

impl Machine for Controller {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        match input {
            Input::Message { from, message } => self.message(now, from, message, outputs),
            Input::Connected { node, incarnation } => {
                self.connected.insert(node, incarnation);
                self.ask(now, outputs);
                self.install(now, outputs);
            }
            Input::Disconnected { node } => {
                self.connected.remove(&node);
            }
            Input::Chain(chain) => {
                self.chain(chain);
                self.install(now, outputs);
            }
            Input::Tick => self.tick(now, outputs),
            Input::Durable(_)
            | Input::Read { .. }
            | Input::TagsRead { .. }
            | Input::Swapped
            | Input::Members(_)
            | Input::Space { .. }
            | Input::Vacate { .. }
            | Input::Rotten { .. } => {}
        }
    }

    fn flush(&mut self, _now: Time, _outputs: &mut Outputs) {}

    fn deadline(&self) -> Option<Time> {
        self.retry_at
    }
}

impl Change {
    fn new(view: &View) -> Change {
        Change {
            view: view.clone(),
            sequencers: BTreeMap::new(),
            storages: BTreeMap::new(),
            forgetful: BTreeSet::new(),
            repair: None,
            retries: 0,
        }
    }
}

impl Repair {
    fn new(change: &Change, decision: Decision) -> Repair {
        let has_all = |answer: &SequencerAnswer| answer.tail >= decision.end;
        let metalog = change.sequencers.iter().filter(|(_, answer)| has_all(answer)).map(|(node, _)| *node).collect();
        let copies = decision.shards.iter().map(|kept| {
            let have: BTreeSet<NodeId> = holders(&kept.replicas, kept.shard, kept.prefix, &change.storages).collect();
            let source = have.first().copied().unwrap_or(decision.source);
            Copies { kept: kept.clone(), have, source }
        });
        Repair { metalog, copies: copies.collect(), installing: false, decision }
    }
}

impl Copies {
    /// Storages that are asked for a copy: the shard's own first, then any other of the view.
    fn targets(&self, view: &View) -> impl Iterator<Item = NodeId> {
        let missing = usize::from(view.write_quorum).saturating_sub(self.have.len());
        let own = self.kept.replicas.iter().filter(|node| !self.have.contains(node));
        let others =
            view.storages.iter().filter(|node| !self.kept.replicas.contains(*node) && !self.have.contains(node));
        let all: Vec<NodeId> = own.chain(others).collect();
        all.into_iter().take(if missing == 0 { 0 } else { NodeSet::MAX })
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
