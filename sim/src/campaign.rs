//! Many seeds, on all cores; totals, coverage marks, mutants.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sealog_protocol::mutant::{Mark, Mutant, set_active, take_marks};

use crate::queue::{Instant, SECOND};
use crate::seed::{SeedReport, run};
use crate::swarm::FaultKind;
use crate::trace::Trace;
use crate::violation::Failure;

/// What many seeds did.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub counted: u64,
    pub operations: u64,
    pub faults: BTreeMap<FaultKind, u64>,
    pub view_changes: u64,
    pub commits: u64,
    pub events: u64,
    pub simulated: Instant,
    pub torn_sectors: u64,
    pub appends_acknowledged: u64,
    pub appends_unknown: u64,
    pub conditions_failed: u64,
    pub trims_answered: u64,
    pub reads_trimmed: u64,
    pub told: u64,
    pub records_logged: u64,
    pub marks: BTreeMap<Mark, u64>,
    pub failures: Vec<(u64, Failure)>,
}

impl Totals {
    fn add(&mut self, seed: u64, run: Result<SeedReport, Failure>) {
        self.seeds += 1;
        let report = match run {
            Ok(report) => report,
            Err(failure) => return self.failures.push((seed, failure)),
        };
        self.counted += u64::from(report.counts());
        self.operations += report.operations;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.view_changes += report.view_changes;
        self.commits += report.commits;
        self.events += report.events;
        self.simulated += report.simulated;
        self.torn_sectors += report.torn_sectors;
        self.appends_acknowledged += report.history.appends_acknowledged;
        self.appends_unknown += report.history.appends_unknown;
        self.conditions_failed += report.history.conditions_failed;
        self.trims_answered += report.history.trims_answered;
        self.reads_trimmed += report.history.reads_trimmed;
        self.told += report.told;
        self.records_logged += report.history.records_logged;
    }

    fn absorb(&mut self, marks: BTreeMap<Mark, u64>) {
        for (mark, count) in marks {
            *self.marks.entry(mark).or_default() += count;
        }
    }

    /// Faults that no seed met.
    pub fn faults_missed(&self) -> Vec<FaultKind> {
        FaultKind::ALL.into_iter().filter(|kind| !self.faults.contains_key(kind)).collect()
    }

    /// Rare events that no seed reached.
    pub fn marks_missed(&self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|mark| !self.marks.contains_key(mark)).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "coverage marks:")?;
        for (mark, count) in &self.marks {
            writeln!(f, "  {count:>9}  {mark:?}")?;
        }
        writeln!(f, "faults:")?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {count:>9}  {kind:?}")?;
        }
        write!(f, "{} seeds: {} counted, {} failed; ", self.seeds, self.counted, self.failures.len())?;
        write!(f, "{} operations ({} appends acknowledged, ", self.operations, self.appends_acknowledged)?;
        write!(f, "{} of unknown outcome, {} conditions failed, ", self.appends_unknown, self.conditions_failed)?;
        write!(f, "{} trims answered, {} reads told of one), ", self.trims_answered, self.reads_trimmed)?;
        write!(f, "{} events of subscriptions, ", self.told)?;
        write!(f, "{} records ever visible, {} entries committed, ", self.records_logged, self.commits)?;
        write!(f, "{} view changes, {} faults, ", self.view_changes, self.faults.values().sum::<u64>())?;
        write!(f, "{} torn sectors, {} events, ", self.torn_sectors, self.events)?;
        write!(f, "{} s simulated", self.simulated / SECOND)
    }
}

/// Runs seeds `first..first + seeds`, on `threads` threads; stops after `failures_max` failures.
pub fn run_seeds(first: u64, seeds: u64, threads: usize, mutant: Option<Mutant>, failures_max: usize) -> Totals {
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(first);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                set_active(mutant);
                take_marks();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = || totals.lock().expect("no thread panics with it").failures.len() >= failures_max;
                    if seed >= first + seeds || enough() {
                        break;
                    }
                    let report = run(seed, Trace::silent());
                    let marks = take_marks();
                    let mut totals = totals.lock().expect("no thread panics with it");
                    totals.add(seed, report);
                    totals.absorb(marks);
                }
                set_active(None);
            });
        }
    });
    let mut totals = totals.into_inner().expect("no thread panics with it");
    totals.failures.sort_by_key(|(seed, _)| *seed);
    totals
}

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct MutantVerdict {
    pub mutant: Mutant,
    /// The seed that caught it, and how.
    pub killed: Option<(u64, Failure)>,
    pub seeds: u64,
}

/// Runs each mutant until a seed catches it, at most `seeds` of them.
pub fn run_mutants(mutants: &[Mutant], first: u64, seeds: u64, threads: usize) -> Vec<MutantVerdict> {
    mutants
        .iter()
        .map(|mutant| {
            let totals = run_seeds(first, seeds, threads, Some(*mutant), 1);
            let killed = totals.failures.first().cloned();
            MutantVerdict { mutant: *mutant, killed, seeds: totals.seeds }
        })
        .collect()
}

/// Runs a seed twice; both times the same must happen.
///
/// # Errors
/// The two hashes, where they differ.
pub fn check_determinism(seed: u64) -> Result<u64, (u64, u64)> {
    let hash = || match run(seed, Trace::silent()) {
        Ok(report) => report.hash,
        // A seed that fails must fail the same way.
        Err(failure) => failure.to_string().bytes().fold(0, |hash, byte| hash * 31 + u64::from(byte)),
    };
    let (once, again) = (hash(), hash());
    if once == again { Ok(once) } else { Err((once, again)) }
}
