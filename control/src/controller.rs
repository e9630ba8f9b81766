//! The controller: seal, decide, repair, install. Several at once are safe, for the register takes one
//! change of a view, and merely slow: the first that is connected begins, the others stand back for a
//! while each.

use std::time::Duration;

use sealog_protocol::limits::{CONTROLLER_STAND_BACK, PRIMARY_SUSPICION, REPLACE_LOST_NODE, REQUEST_RETRY};
use sealog_protocol::machine::{Address, Input, Machine, Output, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::view::{Chain, View};
use sealog_protocol::{LogspaceId, Members, NodeId, NodeSet, Time, ViewCause, ViewNumber, ViewReason};

use crate::decide::{Loss, SequencerAnswer, StorageAnswer, decide};
use crate::plan::{NextNodes, Situation, rank};
use crate::suspicion::{Damping, Peers};

mod change;
mod wanting;

use change::{Change, Repair};
use wanting::Wanted;

const REPAIR_RETRIES_MAX: u32 = 10;
/// So often nodes are asked for what they have before it is given up that the others answer, where an
/// operator accepts the loss.
const FORCED_RETRIES: u32 = 3;

/// What a controller is told at its start.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    pub node: NodeId,
    pub logspace: LogspaceId,
    /// After so many retries of a repair its sources are given up: the change begins again at the seal.
    pub repair_retries_max: u32,
    /// How long a primary may be disconnected.
    pub primary_suspicion: Duration,
    /// How long a node may be disconnected before another takes its place in the view.
    pub replace_lost: Duration,
    /// The time of day at [`Time::ZERO`], in milliseconds since 1970: when views were installed.
    pub time_of_day_ms: u64,
}

impl ControllerConfig {
    /// The defaults of [`sealog_protocol::limits`].
    pub fn new(node: NodeId, logspace: LogspaceId) -> ControllerConfig {
        ControllerConfig {
            node,
            logspace,
            repair_retries_max: REPAIR_RETRIES_MAX,
            primary_suspicion: PRIMARY_SUSPICION,
            replace_lost: REPLACE_LOST_NODE,
            time_of_day_ms: 0,
        }
    }
}

/// What a controller tells of itself, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerStatus {
    pub view: ViewNumber,
    /// Why a change is under way, and since when.
    pub changing: Option<(ViewReason, Time)>,
    /// Answers to the seal, of replicas and of storages.
    pub sealed: (usize, usize),
    /// Whether the end is decided, and what is kept is being made durable.
    pub repairing: bool,
}

/// Changes the views of one logspace.
#[derive(Clone, Debug)]
pub struct Controller {
    config: ControllerConfig,
    chain: Option<Chain>,
    members: Option<Members>,
    peers: Peers,
    damping: Damping,
    wanted: Option<Wanted>,
    /// Since when the view has named a node that another is to replace.
    differs_since: Option<Time>,
    /// When a change may be due.
    look_at: Option<Time>,
    change: Option<Change>,
    retry_at: Option<Time>,
}

impl Controller {
    pub fn new(config: ControllerConfig) -> Controller {
        Controller {
            config,
            chain: None,
            members: None,
            peers: Peers::default(),
            damping: Damping::default(),
            wanted: None,
            differs_since: None,
            look_at: None,
            change: None,
            retry_at: None,
        }
    }

    /// Whether a view change is under way.
    pub fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    pub fn status(&self) -> ControllerStatus {
        let change = self.change.as_ref();
        ControllerStatus {
            view: self.chain.as_ref().map_or(ViewNumber(0), |chain| chain.current().number),
            changing: change.map(|change| (change.reason, change.began)),
            sealed: change.map_or((0, 0), |change| (change.sequencers.len(), change.storages.len())),
            repairing: change.is_some_and(|change| change.repair.is_some()),
        }
    }

    fn address(&self, node: NodeId, role: Role) -> Address {
        Address { node, logspace: self.config.logspace, role }
    }

    fn message(&mut self, now: Time, from: Address, message: Message, outputs: &mut Outputs) {
        match message {
            Message::ViewWanted { view, reason } => self.wanted(now, view, reason, outputs),
            Message::SequencerSealed { restarted, view, tail, commit, entries, shards } => {
                if let Some(change) = self.sealing(view) {
                    let answer = SequencerAnswer { restarted, tail, commit, entries, shards };
                    change.sequencers.insert(from.node, answer);
                    self.advance(now, outputs);
                }
            }
            Message::StorageSealed { restarted, view, shards } => {
                if let Some(change) = self.sealing(view) {
                    let answer = StorageAnswer { restarted, shards: shards.into_iter().collect() };
                    change.storages.insert(from.node, answer);
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

    fn begin(&mut self, now: Time, reason: ViewReason, outputs: &mut Outputs) {
        let Some(current) = self.chain.as_ref().map(Chain::current) else { return };
        if reason == ViewReason::PrimaryLost {
            mark(Mark::PrimarySuspected);
        }
        self.change = Some(Change::new(current, reason, now));
        self.wanted = None;
        self.ask(now, outputs);
    }

    /// Takes the change as far as the answers allow.
    fn advance(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(change) = &self.change else { return };
        if change.repair.is_none() {
            let with = |loss| decide(&change.view, &change.sequencers, &change.storages, loss);
            let given_up = change.accepts_loss && change.retries >= FORCED_RETRIES;
            let decided = with(Loss::Refused).map(|decision| (decision, false));
            let decided = decided.or_else(|| Some((with(Loss::Accepted).filter(|_| given_up)?, true)));
            let Some((decision, lossy)) = decided else { return };
            if decision.forgotten && !lossy && !change.have_all_answered() && change.retries == 0 {
                // Who answers a little later may have more.
                return;
            }
            if decision.forgotten {
                mark(Mark::LossAccepted);
            }
            let next = self.next_nodes(now, &change.view, lossy);
            if next != NextNodes::of(&change.view) {
                mark(Mark::NodeReplaced);
            }
            let repair = Repair::new(change, decision, next, lossy);
            let change = self.change.as_mut().expect("looked at above");
            change.repair = Some(repair);
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
                let replicas = repair.replicas(&change.view).into_iter();
                for node in replicas.filter(|node| !repair.metalog.contains(node)) {
                    let message = Message::RepairMetalog { view, end, source };
                    outputs.send(self.address(node, Role::Sequencer), message);
                }
                for copies in &repair.copies {
                    for node in copies.targets(&change.view, &repair.next.storages) {
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
        let (Some(chain), Some(change)) = (&self.chain, &self.change) else { return };
        let Some(repair) = &change.repair else { return };
        let safe = repair.is_metalog_safe(&change.view) && repair.are_records_safe(&change.view);
        if repair.installing || !safe {
            return;
        }
        // A replica that has everything leads next, in the life in which it is connected now.
        let able = repair.metalog.iter().copied().filter(|node| repair.next.sequencers.contains(*node));
        let accused = matches!(change.reason, ViewReason::PrimaryLost | ViewReason::QuorumLost);
        let avoided = Some(change.view.primary).filter(|_| accused);
        let is_connected = |node| self.peers.is_connected(node);
        let situation = self.situation(&change.view, &is_connected, &|_| false, false);
        let Some(primary) = situation.primary(&repair.next.sequencers, able, avoided) else { return };
        let primary_incarnation = self.peers.life(primary).expect("only a connected one is chosen");
        let next = View {
            number: ViewNumber(change.view.number.0 + 1),
            primary,
            primary_incarnation,
            sequencers: repair.next.sequencers,
            storages: repair.next.storages,
            moves: repair.moves(),
            cause: self.cause(now, change, repair),
            ..change.view.clone()
        };
        let chain = Box::new(chain.extended(repair.decision.end, next));
        if let Some(repair) = self.change.as_mut().and_then(|change| change.repair.as_mut()) {
            repair.installing = true;
        }
        outputs.push(Output::CompareAndSwap { chain });
        self.retry_at = Some(now + REQUEST_RETRY);
    }

    fn cause(&self, now: Time, change: &Change, repair: &Repair) -> ViewCause {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let reason = match change.reason {
            _ if repair.lossy => ViewReason::ForceSealed,
            // Asked for, but nothing had to be given up.
            ViewReason::ForceSealed => ViewReason::Requested,
            reason => reason,
        };
        let installed_at_ms = match self.config.time_of_day_ms {
            0 => 0,
            at_zero => at_zero.saturating_add(milliseconds(now.since(Time::ZERO))),
        };
        let after_loss = repair.decision.forgotten || repair.lossy && self.chain.as_ref().is_some_and(Chain::is_memory);
        ViewCause { reason, after_loss, change_ms: milliseconds(now.since(change.began)), installed_at_ms }
    }

    fn chain(&mut self, now: Time, chain: &Chain) {
        let known = self.chain.as_ref().map(|known| known.views.len());
        if known.is_none_or(|known| known < chain.views.len()) {
            if known.is_some() {
                self.damping.changed(now);
            }
            let repair = self.change.as_ref().and_then(|change| change.repair.as_ref());
            if repair.is_some_and(|repair| chain.current().number.0 > 1 && !repair.installing) {
                mark(Mark::ChangeLostToAnother);
            }
            self.chain = Some(chain.clone());
            self.change = None;
            self.wanted = None;
            self.differs_since = None;
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
            *change = change.again();
        }
        self.advance(now, outputs);
        self.ask(now, outputs);
    }
}

impl Machine for Controller {
    fn handle(&mut self, now: Time, input: Input<'_>, outputs: &mut Outputs) {
        self.peers.begin(now);
        match input {
            Input::Message { from, message } => self.message(now, from, message, outputs),
            Input::Connected { node, incarnation } => {
                self.peers.connected(node, incarnation);
                self.ask(now, outputs);
                self.install(now, outputs);
                self.look(now, outputs);
            }
            Input::Disconnected { node } => {
                self.peers.disconnected(now, node);
                self.look(now, outputs);
            }
            Input::Chain(chain) => {
                self.chain(now, chain);
                self.install(now, outputs);
                self.look(now, outputs);
            }
            Input::Members(members) => {
                self.members = Some(members.clone());
                self.look(now, outputs);
            }
            Input::Tick => {
                self.tick(now, outputs);
                self.look(now, outputs);
            }
            Input::Durable(_)
            | Input::Read { .. }
            | Input::TagsRead { .. }
            | Input::Swapped
            | Input::Space { .. }
            | Input::Vacate { .. }
            | Input::Rotten { .. } => {}
        }
    }

    fn flush(&mut self, _now: Time, _outputs: &mut Outputs) {}

    fn deadline(&self) -> Option<Time> {
        self.retry_at.into_iter().chain(self.look_at).min()
    }
}
