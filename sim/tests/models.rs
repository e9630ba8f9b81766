//! Every order in which a view change of three nodes can go, within bounds: the real machines of seal,
//! repair and install, breadth first. What the simulator meets by chance is here met for certain.

mod small {
    pub mod cluster;
    pub mod turn;
}

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Instant;

use sealog_protocol::mutant::{Mutant, set_active, take_marks};
use small::cluster::{Bounds, Cluster, Scene, Step};
use stateright::{Checker, HasDiscoveries, Model, Property};

struct ViewChange {
    bounds: Bounds,
    mutant: Option<Mutant>,
}

impl Model for ViewChange {
    type State = Cluster;
    type Action = Step;

    fn init_states(&self) -> Vec<Cluster> {
        set_active(None);
        vec![Cluster::new(self.bounds)]
    }

    fn actions(&self, cluster: &Cluster, steps: &mut Vec<Step>) {
        cluster.steps(steps);
    }

    fn next_state(&self, cluster: &Cluster, step: Step) -> Option<Cluster> {
        // Each of the checker's threads has a switch of its own; and nobody reads its marks.
        set_active(self.mutant);
        take_marks();
        Some(cluster.after(step))
    }

    fn properties(&self) -> Vec<Property<ViewChange>> {
        vec![
            Property::always("no invariant is broken", |_, cluster: &Cluster| cluster.failure.is_none()),
            Property::always("nothing is stuck", |_, cluster: &Cluster| !cluster.is_stuck()),
        ]
    }
}

struct Verdict {
    states: usize,
    depth: usize,
    /// All was looked at, not only what comes first.
    is_whole: bool,
    /// What was found wrong, and the steps that lead there.
    found: Option<(String, Vec<Step>)>,
}

fn check(bounds: Bounds, mutant: Option<Mutant>, states_max: usize) -> Verdict {
    let threads = available_parallelism().map_or(1, NonZero::get);
    let checker = ViewChange { bounds, mutant }.checker().threads(threads).finish_when(HasDiscoveries::Any);
    let checker = checker.target_state_count(states_max).spawn_bfs().join();
    let found = checker.discoveries().into_iter().next().map(|(property, path)| {
        let failure = path.last_state().failure.as_ref().map(ToString::to_string);
        (failure.unwrap_or_else(|| property.to_owned()), path.into_actions())
    });
    Verdict {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        is_whole: checker.state_count() < states_max,
        found,
    }
}

/// States that are made in a model which is too large to be seen whole, repeats counted.
const STATES_MAX: usize = 150_000;
/// All models together see so many different ones.
const STATES_MIN: usize = 200_000;

const REPLICAS: Bounds =
    Bounds { sequencers: 3, storages: 1, controllers: &[1], scene: Scene::Sent, crashes: 0, breaks: 0, ticks: 0 };
const STORAGES: Bounds = Bounds { sequencers: 1, storages: 3, ..REPLICAS };
const BOTH: Bounds = Bounds { storages: 3, scene: Scene::Committed, ..REPLICAS };
const TWO: &[usize] = &[1, 2];

/// The models, and those that are small enough to be seen whole.
const MODELS: [(&str, Bounds, bool); 10] = [
    ("three replicas, one storage", REPLICAS, true),
    ("one replica, three storages", STORAGES, true),
    ("committed at the primary alone", BOTH, false),
    ("committed, two controllers", Bounds { controllers: TWO, ..BOTH }, false),
    ("cut and not written", Bounds { scene: Scene::Cut, ..BOTH }, false),
    ("cut and not written, a crash", Bounds { scene: Scene::Cut, crashes: 1, ..BOTH }, false),
    ("three replicas, two controllers", Bounds { controllers: TWO, ..REPLICAS }, false),
    ("three replicas, a crash", Bounds { crashes: 1, ..REPLICAS }, false),
    ("three replicas, a connection breaks, a deadline passes", Bounds { breaks: 1, ticks: 1, ..REPLICAS }, false),
    ("three storages, a crash", Bounds { crashes: 1, ..STORAGES }, false),
];

/// Panics of machines are found by the model, which says what led to them.
fn panic_quietly() {
    std::panic::set_hook(Box::new(|panic| {
        let is_own = std::thread::current().name().is_some_and(|name| name.contains("_"));
        if is_own {
            eprintln!("{panic}");
        }
    }));
}

#[test]
fn no_order_of_a_view_change_breaks_a_promise() {
    panic_quietly();
    let mut states = 0;
    for (name, bounds, is_small) in MODELS {
        let began = Instant::now();
        let verdict = check(bounds, None, if is_small { usize::MAX } else { STATES_MAX });
        let extent = if verdict.is_whole { "all" } else { "those of the fewest steps" };
        println!(
            "{name}: {} states, {extent}, up to {} steps, {:.1} s",
            verdict.states,
            verdict.depth,
            began.elapsed().as_secs_f64()
        );
        if let Some((what, steps)) = verdict.found {
            panic!("{name}: {what}, after {steps:#?}");
        }
        assert!(verdict.is_whole || !is_small, "{name}: not seen whole");
        states += verdict.states;
    }
    println!("{states} states");
    assert!(states >= STATES_MIN, "only {states} states");
}

/// Rules of seal, decide, repair and install, of which each is needed; and where it is missed soonest. What
/// comes of KeepEverything and InstallWithoutCompare takes more steps: those are the simulator's.
const MUTANTS: [(Mutant, Bounds); 14] = [
    (Mutant::CommitOnReceived, REPLICAS),
    (Mutant::ReceivedAsDurable, REPLICAS),
    (Mutant::SkipMajority, REPLICAS),
    (Mutant::SealNotDurable, Bounds { scene: Scene::Cut, crashes: 1, ..BOTH }),
    (Mutant::SealedStorageReports, REPLICAS),
    (Mutant::SealedBackupAcknowledges, REPLICAS),
    (Mutant::SealedPrimaryCommits, REPLICAS),
    (Mutant::PrimaryResumes, Bounds { crashes: 1, ..REPLICAS }),
    (Mutant::KeepWantsWriteQuorum, BOTH),
    (Mutant::OneAnswerTooFew, BOTH),
    (Mutant::MinoritySeals, BOTH),
    (Mutant::MetalogNotRepaired, REPLICAS),
    (Mutant::RecordsNotRepaired, Bounds { scene: Scene::Cut, ..BOTH }),
    (Mutant::SealedRefusesRepair, BOTH),
];

#[test]
fn models_catch_the_mutants_of_a_view_change() {
    panic_quietly();
    let mut survivors = Vec::new();
    for (mutant, bounds) in MUTANTS {
        let verdict = check(bounds, Some(mutant), 3 * STATES_MAX);
        match verdict.found {
            Some((what, steps)) => {
                println!("{mutant:?}: caught in {} states, after {} steps: {what}", verdict.states, steps.len());
            }
            None => {
                println!("{mutant:?}: SURVIVED {} states", verdict.states);
                survivors.push(mutant);
            }
        }
    }
    assert_eq!(survivors, []);
}
