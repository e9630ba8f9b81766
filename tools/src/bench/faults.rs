//! Faults while it is measured: nodes are killed, stopped, cut off and brought back, and the gap that
//! each makes in the acknowledgements is told: the longest time that any connection, with appends
//! under way all the while, waited from one acknowledgement to the next.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::bench::measure::Shared;
use crate::dev::cluster::{Cluster, ClusterSettings};
use crate::dev::command::{Action, Deed, Fault};
use crate::dev::layout::Layout;
use crate::failure::Failure;

/// After a repeated fault, and after its node is back: what it does shows by then.
const SETTLE: Duration = Duration::from_secs(2);
/// The same of a fault that shows only by silence.
const SETTLE_SILENT: Duration = Duration::from_secs(6);
/// Bounds of the histogram's bars, in milliseconds.
const BARS_MS: [u64; 9] = [5, 10, 20, 50, 100, 250, 500, 1000, 2000];

/// The cluster of a run and what is to happen to it.
pub struct Faults {
    cluster: Cluster,
    data: PathBuf,
    timed: VecDeque<(Duration, Deed)>,
    repeated: Vec<Deed>,
    rounds: u32,
    /// What was done last, and waits to be told its gap.
    last: Option<String>,
    gaps: Vec<Gap>,
    failure: Option<Failure>,
}

/// One fault.
#[derive(Clone, Debug, Serialize)]
struct Gap {
    fault: String,
    gap_ms: f64,
}

/// What all faults did.
#[derive(Clone, Debug, Serialize)]
pub struct Gaps {
    faults: usize,
    median_ms: f64,
    max_ms: f64,
    histogram: Vec<Bar>,
    each: Vec<Gap>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Bar {
    /// `None`: longer than the bar before.
    up_to_ms: Option<u64>,
    count: usize,
}

impl Faults {
    /// Starts the cluster of `--nodes`, in a directory of its own.
    ///
    /// # Errors
    /// The arguments contradict each other, or a node does not start.
    pub fn start(nodes: &Layout, arguments: &BenchArguments) -> Result<Faults, Failure> {
        let is_repeated = |fault: &&Fault| fault.at.is_none();
        let repeated: Vec<_> = arguments.fault.iter().filter(is_repeated).map(|fault| fault.deed).collect();
        if repeated.is_empty() == arguments.kills.is_some() {
            return Err(Failure::usage("--kills says how often each --fault without a time is made: give both"));
        }
        if repeated.iter().any(|deed| undone(*deed).is_none()) {
            return Err(Failure::usage("kill, stop and partition can be repeated: the node then comes back by itself"));
        }
        let mut timed: Vec<_> = arguments.fault.iter().filter_map(|fault| Some((fault.at?, fault.deed))).collect();
        timed.sort_by_key(|(at, ..)| *at);
        if let Some((at, ..)) = timed.last().filter(|(at, ..)| *at >= arguments.duration || !repeated.is_empty()) {
            return Err(Failure::usage(format!(
                "a --fault at {at:?} is after the end: give a longer --duration, and none with --kills"
            )));
        }
        let data = PathBuf::from(format!("./sealog-bench-{}", std::process::id()));
        let settings = ClusterSettings {
            nodes: nodes.clone(),
            data: data.clone(),
            listen: "127.0.0.1:0".to_owned(),
            logspaces: None,
            memory_logspaces: None,
            register: None,
            node: Vec::new(),
        };
        eprintln!("sealog: starting {} nodes in {}", nodes.count(), data.display());
        let started = Cluster::start(&settings);
        if started.is_err() {
            remove(&data);
        }
        Ok(Faults {
            cluster: started?,
            data,
            timed: timed.into(),
            repeated,
            rounds: arguments.kills.unwrap_or(0),
            last: None,
            gaps: Vec::new(),
            failure: None,
        })
    }

    pub fn connect_text(&self) -> String {
        self.cluster.connect_text()
    }

    /// How long after so much time the next fault is due.
    pub fn next_in(&self, elapsed: Duration) -> Option<Duration> {
        self.timed.front().map(|(at, ..)| at.saturating_sub(elapsed))
    }

    /// Makes the faults that are due.
    pub fn make_due(&mut self, elapsed: Duration, shared: &Shared) {
        while let Some((_, deed)) = self.timed.front().copied().filter(|(at, _)| *at <= elapsed) {
            self.timed.pop_front();
            self.harvest(shared);
            self.make(deed);
        }
    }

    fn make(&mut self, deed: Deed) {
        match self.cluster.act(deed) {
            Ok(done) => {
                eprintln!("sealog: {done}");
                self.last = Some(done);
            }
            Err(failure) => {
                eprintln!("sealog: {failure}");
                self.failure.get_or_insert(failure);
            }
        }
    }

    /// Whether faults are repeated, instead of a duration.
    pub fn are_repeated(&self) -> bool {
        self.rounds > 0
    }

    /// Makes each repeated fault as often as it was asked for, and brings its node back each time.
    pub fn repeat(&mut self, shared: &Shared) {
        let rounds = self.repeated.repeat(self.rounds as usize);
        for deed in rounds {
            // Before it is gone: then another one is primary.
            let deed = match self.cluster.resolve(deed) {
                Ok(deed) => deed,
                Err(failure) => {
                    self.failure = Some(failure);
                    return;
                }
            };
            shared.take_gap();
            self.make(deed);
            std::thread::sleep(if matches!(deed, Deed::Act(Action::Kill, _)) { SETTLE } else { SETTLE_SILENT });
            self.harvest(shared);
            let back = undone(deed).expect("it was checked at the start");
            if let Err(failure) = self.cluster.act(back) {
                self.failure = Some(failure);
                return;
            }
            std::thread::sleep(SETTLE);
        }
    }

    /// The last fault is told the gap since.
    pub fn harvest(&mut self, shared: &Shared) {
        let gap = shared.take_gap();
        if let Some(fault) = self.last.take() {
            let gap_ms = (gap.as_secs_f64() * 1e4).round() / 10.0;
            eprintln!("sealog: {fault}: no acknowledgement for {gap_ms} ms at most");
            self.gaps.push(Gap { fault, gap_ms });
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// A fault could not be made.
    pub fn gaps(&self) -> Result<Gaps, Failure> {
        self.failure.clone().map_or(Ok(()), Err)?;
        let mut sorted: Vec<f64> = self.gaps.iter().map(|gap| gap.gap_ms).collect();
        sorted.sort_by(f64::total_cmp);
        let mut histogram = Vec::new();
        let mut below = 0.0;
        for bound in BARS_MS.map(Some).into_iter().chain([None]) {
            let above = bound.map_or(f64::INFINITY, |bound| bound as f64);
            let count = sorted.iter().filter(|gap| **gap >= below && **gap < above).count();
            histogram.push(Bar { up_to_ms: bound, count });
            below = above;
        }
        Ok(Gaps {
            faults: sorted.len(),
            median_ms: sorted.get(sorted.len() / 2).copied().unwrap_or(0.0),
            max_ms: sorted.last().copied().unwrap_or(0.0),
            histogram,
            each: self.gaps.clone(),
        })
    }

    /// Stops the nodes, and removes what they wrote.
    pub fn end(self) {
        self.cluster.stop();
        remove(&self.data);
    }
}

/// What brings back what a deed took away.
fn undone(deed: Deed) -> Option<Deed> {
    match deed {
        Deed::Act(Action::Kill, target) => Some(Deed::Act(Action::Restart, target)),
        Deed::Act(Action::Stop, target) => Some(Deed::Act(Action::Resume, target)),
        Deed::Partition(span) => Some(Deed::Heal(Some(span))),
        _ => None,
    }
}

fn remove(data: &PathBuf) {
    if let Err(error) = std::fs::remove_dir_all(data) {
        eprintln!("sealog: cannot remove {}: {error}", data.display());
    }
}

impl Gaps {
    pub fn table(&self) -> String {
        let mut text =
            format!("\ngaps         {} faults: median {} ms, longest {} ms", self.faults, self.median_ms, self.max_ms);
        for bar in self.histogram.iter().filter(|bar| bar.count > 0) {
            let bound = bar.up_to_ms.map_or("longer".to_owned(), |bound| format!("< {bound} ms"));
            text.push_str(&format!("\n  {bound:>10}  {:>4}  {}", bar.count, "#".repeat(bar.count.min(60))));
        }
        text
    }
}
