//! A sequencer replica, driven by hand against a journal in memory: how its metalog shrinks behind a
//! committed checkpoint, and that nothing is forgotten with it.

use std::collections::{BTreeMap, VecDeque};

use sealog_protocol::machine::{Address, DurableEntry, Input, JournalPlace, Machine, Output, Outputs, Recovered, Role};
use sealog_protocol::message::Message;
use sealog_protocol::metalog::{EngineIncarnation, Entry, entries};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, Place, SeqNum, ShardId, Tag, Time, ViewNumber,
};
use sealog_sequencer::{RecoverError, Sequencer, SequencerConfig};

const LOGSPACE: LogspaceId = LogspaceId(0);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const ENGINE: Address = Address { node: ONE, logspace: LOGSPACE, role: Role::Engine };
const STORAGE: Address = Address { node: ONE, logspace: LOGSPACE, role: Role::Storage };
const CONTROLLER: Address = Address { node: ONE, logspace: LOGSPACE, role: Role::Controller };

fn sequencer_of(node: NodeId) -> Address {
    Address { node, logspace: LOGSPACE, role: Role::Sequencer }
}

fn place(view: u32, index: u64) -> Place {
    Place { view: ViewNumber(view), index }
}

struct World {
    node: NodeId,
    life: u64,
    sequencers: NodeSet,
    sequencer: Sequencer,
    open: u32,
    kept: BTreeMap<u32, Vec<DurableEntry>>,
    in_flight: VecDeque<u32>,
    holding: bool,
    sent: Vec<(Address, Message)>,
    released: Vec<u32>,
    now: Time,
}

impl World {
    fn new(node: NodeId, sequencers: &[NodeId]) -> World {
        let mut world = World {
            node,
            life: 1,
            sequencers: NodeSet::new(sequencers).expect("distinct"),
            sequencer: Sequencer::new(SequencerConfig::new(node, Incarnation(1), LOGSPACE)),
            open: 0,
            kept: BTreeMap::new(),
            in_flight: VecDeque::new(),
            holding: false,
            sent: Vec::new(),
            released: Vec::new(),
            now: Time(1_000_000_000),
        };
        world.start(&[]);
        world
    }

    /// The only replica, primary of view 1, with one open shard at index 0.
    fn alone() -> World {
        let mut world = World::new(ONE, &[ONE]);
        world.open_shard(1);
        world
    }

    fn chain(&self, ends: &[u64]) -> Chain {
        let view = |number: u32| View {
            number: ViewNumber(number),
            primary: ONE,
            primary_incarnation: Incarnation(u64::from(number)),
            sequencers: self.sequencers,
            storages: NodeSet::new(&[ONE]).expect("one"),
            write_quorum: 1,
            replicas: 1,
            moves: Vec::new(),
            cause: Default::default(),
        };
        Chain {
            settings: ClusterSettings::new(ClusterId(1), 1),
            logspace: LOGSPACE,
            views: (1..=ends.len() as u32 + 1).map(view).collect(),
            ends: ends.to_vec(),
        }
    }

    fn start(&mut self, ends: &[u64]) {
        let incarnation = Incarnation(self.life);
        self.input(Input::Chain(&self.chain(ends)));
        for node in [ONE, TWO] {
            self.input(Input::Connected { node, incarnation });
        }
    }

    fn recover(&mut self) -> Result<(), RecoverError> {
        self.life += 1;
        self.open += 1;
        self.in_flight.clear();
        self.sequencer = Sequencer::new(SequencerConfig::new(self.node, Incarnation(self.life), LOGSPACE));
        // The newest segment first: any order will do.
        for (segment, kept) in self.kept.iter().rev() {
            let segment = *segment;
            for entry in kept {
                let entry = match entry {
                    DurableEntry::Metalog { view, from, entries, .. } => {
                        Recovered::Metalog { view: *view, from: *from, entries, segment }
                    }
                    DurableEntry::Commit { view, commit } => {
                        Recovered::Commit { view: *view, commit: *commit, segment }
                    }
                    DurableEntry::SequencerSeal { view } => Recovered::SequencerSeal { view: *view, segment },
                    DurableEntry::MetalogBase { place } => Recovered::MetalogBase { place: *place, segment },
                    _ => unreachable!("none of a sequencer's"),
                };
                self.sequencer.recover(entry)?;
            }
        }
        self.sequencer.finish_recovery()
    }

    /// Begins another life, which is primary of the next view after one that ended at `end`.
    fn restart(&mut self, ends: &[u64]) {
        self.recover().expect("what it wrote");
        self.start(ends);
    }

    fn say(&mut self, from: Address, message: Message) {
        self.input(Input::Message { from, message });
    }

    fn input(&mut self, input: Input<'_>) {
        let mut outputs = Outputs::default();
        self.sequencer.handle(self.now, input, &mut outputs);
        self.run(outputs);
    }

    fn run(&mut self, mut outputs: Outputs) {
        loop {
            self.sequencer.flush(self.now, &mut outputs);
            let mut moved = false;
            for output in outputs.drain().collect::<Vec<_>>() {
                moved = true;
                match output {
                    Output::Append(entry) => {
                        self.kept.entry(self.open).or_default().push(entry);
                        self.in_flight.push_back(self.open);
                    }
                    Output::Send { to, message } => self.sent.push((to, message)),
                    Output::Release { segment } => {
                        assert_ne!(segment, self.open, "more may come there");
                        self.kept.remove(&segment);
                        self.released.push(segment);
                    }
                    _ => {}
                }
            }
            if let Some(segment) = self.in_flight.front().copied().filter(|_| !self.holding) {
                self.in_flight.pop_front();
                let at = JournalPlace { segment, offset: 8 };
                self.sequencer.handle(self.now, Input::Durable(at), &mut outputs);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn open_shard(&mut self, ordinal: u64) {
        let engine = EngineIncarnation { node: ONE, incarnation: Incarnation(self.life) };
        let replicas = Box::new(NodeSet::new(&[ONE]).expect("one"));
        self.say(ENGINE, Message::OpenShard { engine, ordinal, replicas });
    }

    fn trim(&mut self, first: u64) {
        self.say(ENGINE, Message::Trim { logbook: LogBookId(1), tag: Tag(2), first: SeqNum(first) });
    }

    fn trims(&mut self, from: u64, count: u64) {
        for first in from..from + count {
            self.trim(first);
        }
    }

    fn done(&mut self, place: Place) {
        let replicas = Box::new(NodeSet::new(&[ONE]).expect("one"));
        self.say(ENGINE, Message::CheckpointDone { place, next: SeqNum(1), replicas });
    }

    /// What comes of opening the metalog here.
    fn learn(&mut self, from: Place) -> Option<Message> {
        self.sent.clear();
        self.say(ENGINE, Message::MetalogOpen { from });
        self.sent.pop().map(|(_, message)| message)
    }

    fn end(&self, view: u32) -> u64 {
        let of = self.sequencer.views().find(|(number, ..)| *number == ViewNumber(view));
        of.map_or(0, |(_, durable, _)| durable)
    }
}

#[test]
fn a_trim_becomes_an_entry_once_while_it_is_on_its_way() {
    let mut world = World::alone();
    world.holding = true;
    world.trim(5);
    world.trim(5);
    world.trim(6);
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.end(1), 3);
    world.trim(5);
    assert_eq!(world.end(1), 4, "harmless, and nobody remembers");
    world.say(STORAGE, Message::Trim { logbook: LogBookId(1), tag: Tag(2), first: SeqNum(9) });
    assert_eq!(world.end(1), 4, "only engines ask");
}

#[test]
fn a_checkpoint_is_checked_before_it_becomes_an_entry() {
    let mut world = World::alone();
    world.trims(0, 9);
    world.done(place(1, 11));
    world.done(place(2, 0));
    let nobody = Message::CheckpointDone { place: place(1, 5), next: SeqNum(1), replicas: Box::default() };
    world.say(ENGINE, nobody);
    let stranger = Box::new(NodeSet::new(&[TWO]).expect("one"));
    world.say(ENGINE, Message::CheckpointDone { place: place(1, 5), next: SeqNum(1), replicas: stranger });
    assert_eq!((world.end(1), world.sequencer.checkpoint()), (10, None));
    world.done(place(1, 5));
    assert_eq!((world.end(1), world.sequencer.base()), (11, place(1, 5)));
    world.done(place(1, 5));
    world.done(place(1, 4));
    assert_eq!(world.end(1), 11, "older ones have no effect");
    assert!(world.sent.contains(&(STORAGE, Message::CheckpointCommitted { place: place(1, 5) })));
}

fn the_metalog_stays_until_the_checkpoint_is_committed() {
    let mut world = World::alone();
    world.trims(0, 9);
    world.open += 1;
    world.holding = true;
    world.done(place(1, 5));
    assert_eq!(world.sequencer.base(), Place::default());
    assert!(matches!(world.learn(place(1, 0)), Some(Message::MetalogEntries { count: 10, .. })));
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.sequencer.base(), place(1, 5));
}

#[test]
fn the_metalog_goes_when_the_entry_of_the_checkpoint_is_committed_and_not_before() {
    the_metalog_stays_until_the_checkpoint_is_committed();
}

#[test]
fn who_asks_for_what_is_gone_is_told_of_the_checkpoint() {
    let mut world = World::alone();
    world.trims(0, 9);
    world.done(place(1, 5));
    let replicas = Box::new(NodeSet::new(&[ONE]).expect("one"));
    let gone = |from| Message::MetalogGone { from, checkpoint: place(1, 5), replicas: replicas.clone() };
    for from in [Place::default(), place(1, 0), place(1, 4)] {
        assert_eq!(world.learn(from), Some(gone(from)));
    }
    assert!(matches!(world.learn(place(1, 5)), Some(Message::MetalogEntries { count: 6, .. })));
    world.restart(&[11]);
    assert_eq!(world.learn(place(1, 4)), Some(gone(place(1, 4))), "the entry is past the base it names");
    assert!(matches!(world.learn(place(1, 5)), Some(Message::MetalogEntries { count: 6, .. })));
}

#[test]
fn a_new_primary_tells_the_storages_which_checkpoint_counts() {
    let mut world = World::alone();
    world.trims(0, 9);
    world.done(place(1, 5));
    world.restart(&[]);
    assert!(world.sequencer.status().view == ViewNumber(1) && !world.sequencer.status().is_primary);
    world.sent.clear();
    let chain = world.chain(&[11]);
    world.input(Input::Chain(&chain));
    assert!(world.sent.contains(&(STORAGE, Message::CheckpointCommitted { place: place(1, 5) })));
}

#[test]
fn segments_before_a_durable_base_are_given_back() {
    let mut world = World::alone();
    for _ in 0..4 {
        world.trims(0, 10);
        world.open += 1;
    }
    world.trims(0, 1);
    assert!(world.released.is_empty());
    for (base, released) in [(25, &[0, 1][..]), (35, &[0, 1, 2][..])] {
        let before = world.released.len();
        world.holding = true;
        world.done(place(1, base));
        // The entry becomes durable, and so committed; the base has not.
        let at = JournalPlace { segment: world.in_flight.pop_front().expect("the entry"), offset: 8 };
        world.input(Input::Durable(at));
        assert_eq!(world.sequencer.base(), place(1, base));
        assert_eq!(world.released.len(), before);
        world.holding = false;
        world.run(Outputs::default());
        assert_eq!(world.released, released);
    }
    world.restart(&[44]);
    assert_eq!((world.sequencer.base(), world.end(1)), (place(1, 35), 44));
    let status = world.sequencer.status();
    assert_eq!((status.base, status.refused), (place(1, 35), false));
}

#[test]
fn a_seal_is_answered_with_the_replicas_of_shards_that_were_opened_before_the_base() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.open += 1;
    world.trims(0, 10);
    world.done(place(1, 20));
    assert_eq!(world.released, [0]);
    // A cut of that shard, which its storage has only received.
    world.say(STORAGE, Message::Progress { shard: ShardId { view: ViewNumber(1), index: 0 }, received: 3, durable: 0 });
    assert_eq!(world.end(1), 23, "20 trims and two entries, and a cut that waits for the storage");
    for _ in 0..2 {
        world.recover().expect("what it wrote");
        world.start(&[]);
        world.sent.clear();
        world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
        let sealed = world.sent.iter().find_map(|(_, message)| match message {
            Message::SequencerSealed { tail, commit, entries: tail_entries, shards, .. } => {
                Some((*tail, *commit, entries(tail_entries).count() as u64, shards.clone()))
            }
            _ => None,
        });
        let (tail, commit, count, shards) = sealed.expect("an answer");
        assert!(commit >= 20 && tail == 23 && count == tail - commit);
        assert_eq!(&shards[..], [(0, NodeSet::new(&[ONE]).expect("one"))]);
        // What lay in the segments until now goes; it is all in the newest.
        for segment in world.kept.keys().copied().filter(|segment| *segment < world.open).collect::<Vec<_>>() {
            world.input(Input::Vacate { segment });
        }
        assert_eq!(world.kept.keys().copied().collect::<Vec<_>>(), [world.open]);
    }
}

#[test]
fn a_vacated_segment_is_given_back_when_what_counts_in_it_is_durable_elsewhere() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.open += 1;
    // The base lies elsewhere, the entries after it in the segment that has to go.
    world.done(place(1, 5));
    world.open += 1;
    world.trims(0, 1);
    world.holding = true;
    world.input(Input::Vacate { segment: 0 });
    assert!(world.released.is_empty());
    world.input(Input::Vacate { segment: 0 });
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [0]);
    world.input(Input::Vacate { segment: 77 });
    assert_eq!(world.released, [0, 77], "nothing of it is here");
    world.restart(&[13]);
    assert!(matches!(world.learn(place(1, 5)), Some(Message::MetalogEntries { count: 8, .. })));
}

#[test]
fn a_vacated_segment_waits_for_the_base_that_its_copies_begin_at() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.open += 1;
    world.done(place(1, 5));
    world.open += 1;
    world.holding = true;
    world.done(place(1, 12));
    let at = JournalPlace { segment: world.in_flight.pop_front().expect("the entry"), offset: 8 };
    world.input(Input::Durable(at));
    assert_eq!(world.sequencer.base(), place(1, 12));
    world.input(Input::Vacate { segment: 0 });
    assert!(world.released.is_empty(), "a restart begins at the base that is durable");
    world.holding = false;
    world.run(Outputs::default());
    assert!(world.released.contains(&0));
}

#[test]
fn a_seal_is_answered_while_a_base_past_the_tail_is_on_its_way_to_the_disk() {
    let mut world = World::new(TWO, &[ONE, TWO, NodeId(3)]);
    let view = ViewNumber(1);
    world.say(CONTROLLER, Message::Seal { view });
    world.say(CONTROLLER, Message::RepairMetalog { view, end: 20, source: ONE });
    world.holding = true;
    let base = Message::MetalogBase { base: place(1, 15), indices: Box::default(), entries: Default::default() };
    world.say(sequencer_of(ONE), base);
    world.sent.clear();
    world.say(CONTROLLER, Message::Seal { view });
    let answer = world.sent.pop().map(|(_, message)| message);
    assert!(matches!(answer, Some(Message::SequencerSealed { tail: 0, commit: 15, .. })));
    world.holding = false;
    world.run(Outputs::default());
    world.say(CONTROLLER, Message::Seal { view });
    let answer = world.sent.pop().map(|(_, message)| message);
    assert!(matches!(answer, Some(Message::SequencerSealed { tail: 15, commit: 15, .. })));
}

fn seals_outlive_their_segment() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    world.restart(&[11]);
    world.trims(0, 10);
    world.done(place(2, 3));
    assert_eq!(world.released, [0]);
    world.recover().expect("what it wrote");
    assert_eq!(world.sequencer.status().sealed, ViewNumber(1));
}

#[test]
fn the_newest_seal_is_appended_again_before_its_segment_goes() {
    seals_outlive_their_segment();
}

#[test]
fn a_backup_behind_the_base_takes_it_over() {
    let mut primary = World::alone();
    primary.trims(0, 20);
    primary.done(place(1, 15));
    // As a primary with a backup would say it.
    primary.sent.clear();
    primary.say(CONTROLLER, Message::RepairMetalog { view: ViewNumber(1), end: 22, source: ONE });
    primary.say(sequencer_of(TWO), Message::RepairPull { view: ViewNumber(1), from: 2, end: 22 });
    let base = primary.sent.pop().expect("an answer");
    assert!(matches!(&base, (to, Message::MetalogBase { base, indices, .. })
        if *to == sequencer_of(TWO) && *base == place(1, 15) && indices[..] == [0]));
    primary.say(sequencer_of(TWO), Message::RepairPull { view: ViewNumber(1), from: 15, end: 22 });
    let Some((_, Message::RepairEntries { from: 15, count: 7, entries, .. })) = primary.sent.pop() else {
        panic!("what follows")
    };

    let mut backup = World::new(TWO, &[ONE, TWO, NodeId(3)]);
    backup.sent.clear();
    backup.say(sequencer_of(ONE), base.1);
    assert_eq!((backup.sequencer.base(), backup.end(1)), (place(1, 15), 15));
    assert!(
        backup.sent.contains(&(sequencer_of(ONE), Message::BackupAck { view: ViewNumber(1), held: 15, durable: 15 }))
    );
    let (view, commit) = (ViewNumber(1), 22);
    backup.say(sequencer_of(ONE), Message::BackupAppend { view, from: 15, commit, settled: commit, count: 7, entries });
    assert_eq!(backup.end(1), 22);
    assert_eq!(backup.sequencer.checkpoint().map(|known| known.place), Some(place(1, 15)));
    backup.recover().expect("what it wrote");
    assert_eq!((backup.sequencer.base(), backup.end(1)), (place(1, 15), 22));
}

#[test]
fn a_primary_tells_its_base_to_a_backup_that_resumes_before_it() {
    let mut world = World::new(ONE, &[ONE, TWO, NodeId(3)]);
    world.open_shard(1);
    world.trims(0, 20);
    let three = sequencer_of(NodeId(3));
    let view = ViewNumber(1);
    world.say(three, Message::BackupAck { view, held: 21, durable: 21 });
    world.done(place(1, 15));
    world.sent.clear();
    world.say(three, Message::BackupAck { view, held: 22, durable: 22 });
    let told = |world: &World, to: NodeId| {
        let told = world.sent.iter().filter(|(address, _)| *address == sequencer_of(to));
        told.filter(|(_, message)| matches!(message, Message::MetalogBase { .. })).count()
    };
    assert_eq!(told(&world, TWO), 0, "it was sent all of it, and is connected");
    world.input(Input::Connected { node: TWO, incarnation: Incarnation(2) });
    world.sent.clear();
    world.say(sequencer_of(TWO), Message::BackupResume { view, tail: 3 });
    assert_eq!(told(&world, TWO), 1);
    let next = world.sent.iter().find_map(|(_, message)| match message {
        Message::BackupAppend { from, count, .. } => Some((*from, *count)),
        _ => None,
    });
    assert_eq!(next, Some((15, 7)));
}

#[test]
fn a_hole_past_the_base_is_refused() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.open += 1;
    world.trims(0, 10);
    world.kept.remove(&0);
    assert_eq!(world.recover(), Err(RecoverError::Missing { view: ViewNumber(1), from: 0, next: 11 }));
    world.sent.clear();
    world.start(&[]);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    assert!(world.sent.is_empty(), "it would forget what it has acknowledged");
    assert!(world.sequencer.status().refused);
}

#[test]
fn views_before_the_base_go_whole() {
    let mut world = World::alone();
    world.trims(0, 10);
    world.restart(&[11]);
    world.open_shard(1);
    world.trims(0, 10);
    assert!(matches!(world.learn(place(1, 0)), Some(Message::MetalogEntries { count: 11, .. })));
    world.done(place(2, 4));
    assert_eq!(world.sequencer.views().count(), 1);
    assert_eq!(world.released, [0]);
    let mut logbooks = Vec::new();
    for (entry, _) in entries(&world.sequencer.entries(ViewNumber(2), 4, 12)).flatten() {
        logbooks.push(matches!(entry, Entry::Trim { .. } | Entry::Checkpoint { .. }));
    }
    assert_eq!(logbooks, [true; 8]);
    world.restart(&[11, 12]);
    assert_eq!((world.sequencer.base(), world.end(2)), (place(2, 4), 12));
}

/// A fixed sequence of numbers that looks like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_happens_in_whatever_order_the_metalog_from_the_base_on_is_there() {
    let mut released = 0;
    for seed in 0..200 {
        let (mut chance, mut world) = (Chance(seed), World::alone());
        let (mut ends, mut base) = (Vec::new(), Place::default());
        // Of each view, what it holds; the first entry opens the shard.
        let mut trims: Vec<Vec<u64>> = vec![vec![0]];
        let mut next = 1;
        for _ in 0..80 {
            let view = ends.len() as u32 + 1;
            match chance.below(8) {
                0..=2 => {
                    for _ in 0..1 + chance.below(10) {
                        world.trim(next);
                        trims[view as usize - 1].push(next);
                        next += 1;
                    }
                }
                3 => world.open += 1,
                4 | 5 => {
                    let of = 1 + chance.below(u64::from(view)) as u32;
                    let index = chance.below(trims[of as usize - 1].len() as u64 + 1);
                    let before = world.end(view);
                    world.done(place(of, index));
                    if world.end(view) > before {
                        assert!(place(of, index) > base, "seed {seed}");
                        base = place(of, index);
                        trims[view as usize - 1].push(0);
                    }
                    assert_eq!(world.sequencer.base(), base, "seed {seed}");
                }
                6 => {
                    let segment = chance.below(u64::from(world.open) + 1) as u32;
                    if segment < world.open && world.kept.contains_key(&segment) {
                        world.input(Input::Vacate { segment });
                        assert!(!world.kept.contains_key(&segment), "seed {seed}: segment {segment} stays");
                    }
                }
                _ => {
                    let end = world.end(view);
                    if chance.below(2) == 0 {
                        world.say(CONTROLLER, Message::Seal { view: ViewNumber(view) });
                    }
                    ends.push(end);
                    world.restart(&ends);
                    world.open_shard(1);
                    trims.push(vec![0]);
                }
            }
            let view = ends.len() as u32 + 1;
            assert_eq!(world.end(view), trims[view as usize - 1].len() as u64, "seed {seed}: entries are missing");
            for of in base.view.0.max(1)..=view {
                let kept = &trims[of as usize - 1];
                let from = if of == base.view.0 { base.index } else { 0 };
                let encoded = world.sequencer.entries(ViewNumber(of), from, u64::MAX);
                let found: Vec<u64> = entries(&encoded)
                    .flatten()
                    .map(|(entry, _)| if let Entry::Trim { first, .. } = entry { first.0 } else { 0 })
                    .collect();
                assert_eq!(found, kept[from as usize..], "seed {seed}: view {of}");
            }
        }
        released += world.released.len();
    }
    assert!(released > 500, "{released} segments");
}

/// Each of these mistakes is noticed by the test that is about it.
#[cfg(feature = "simulation")]
#[test]
fn mutants_are_noticed() {
    use sealog_protocol::mutant::{Mutant, set_active};
    let cases: [(Mutant, fn()); 2] = [
        (Mutant::MetalogDroppedEarly, the_metalog_stays_until_the_checkpoint_is_committed),
        (Mutant::SealNotAppendedAgain, seals_outlive_their_segment),
    ];
    for (mutant, scenario) in cases {
        set_active(Some(mutant));
        let noticed = std::panic::catch_unwind(scenario).is_err();
        set_active(None);
        assert!(noticed, "{mutant:?}");
    }
}
