//! `sealog-sim`: runs seeds, replays one with a readable trace, hunts mutants, checks determinism.

use std::num::NonZero;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use sealog_protocol::mutant::{Mutant, set_active};
use sealog_sim::campaign::{check_determinism, run_mutants, run_seeds};
use sealog_sim::seed::{SeedReport, run};
use sealog_sim::trace::{Filter, Trace};

/// Simulates Sealog: the real machines, a seeded network, disks and clocks, and every fault.
#[derive(Parser)]
#[command(name = "sealog-sim")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Threads; by default as many as there are cores.
    #[arg(long, global = true)]
    threads: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds and prints what they did. Fails on a violation, and on a coverage mark at zero.
    Run {
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// Go on until so many seeds have failed.
        #[arg(long, default_value_t = 1)]
        failures: usize,
        /// Accept coverage marks at zero: for runs of few seeds.
        #[arg(long)]
        allow_missed_marks: bool,
    },
    /// Runs one seed and prints its trace, one line per event.
    Replay {
        seed: u64,
        /// Only lines that contain this text; may be given several times.
        #[arg(long)]
        filter: Vec<String>,
        /// Only from this simulated time on, in microseconds.
        #[arg(long, default_value_t = 0)]
        from_us: u64,
        /// With this deliberate bug switched on.
        #[arg(long)]
        mutant: Option<String>,
        /// Without the trace: only what came of it.
        #[arg(long)]
        quiet: bool,
    },
    /// Switches on each deliberate bug until a seed catches it. Fails if one survives.
    Mutants {
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        start: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
    /// Runs seeds twice: the same must happen.
    Determinism {
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        start: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    // Panics of the machines are failures of their seeds: they are printed with them.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.command {
        Command::Run { seeds, start, failures, allow_missed_marks } => {
            command_run(start, seeds, threads, failures, allow_missed_marks)
        }
        Command::Replay { seed, filter, from_us, mutant, quiet } => {
            std::panic::set_hook(Box::new(|panic| println!("{panic}")));
            command_replay(seed, Filter { texts: filter, from_us }, mutant.as_deref(), quiet)
        }
        Command::Mutants { seeds, start, only } => command_mutants(start, seeds, threads, only.as_deref()),
        Command::Determinism { seeds, start } => command_determinism(start, seeds),
    }
}

fn command_run(start: u64, seeds: u64, threads: usize, failures_max: usize, allow_missed_marks: bool) -> ExitCode {
    let began = Instant::now();
    let totals = run_seeds(start, seeds, threads, None, failures_max);
    println!("{totals}; {:.1} s on {threads} threads", began.elapsed().as_secs_f64());
    for (seed, failure) in &totals.failures {
        println!("seed {seed} FAILED: {failure}\n  replay it with: sealog-sim replay {seed}");
    }
    let (missed, faults_missed) = (totals.marks_missed(), totals.faults_missed());
    if !missed.is_empty() || !faults_missed.is_empty() {
        println!("marks never reached: {missed:?}; faults never met: {faults_missed:?}");
    }
    let all_met = missed.is_empty() && faults_missed.is_empty();
    let fine = totals.failures.is_empty() && (all_met || allow_missed_marks);
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command_replay(seed: u64, filter: Filter, mutant: Option<&str>, quiet: bool) -> ExitCode {
    match mutant.map(find_mutant) {
        None => set_active(None),
        Some(Some(mutant)) => set_active(Some(mutant)),
        Some(None) => {
            println!("no such mutant; there are {:?}", Mutant::ALL);
            return ExitCode::FAILURE;
        }
    }
    match run(seed, if quiet { Trace::silent() } else { Trace::printed(filter) }) {
        Ok(report) => {
            print_report(seed, &report);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed} FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn print_report(seed: u64, report: &SeedReport) {
    println!(
        "seed {seed}: {} operations, {:?}, {} view changes, {} entries committed, {} events, {} ms simulated on {} nodes, \
         hash {:016x}, counted {}",
        report.operations,
        report.faults,
        report.view_changes,
        report.commits,
        report.events,
        report.simulated / 1_000_000,
        report.nodes,
        report.hash,
        report.counts(),
    );
}

fn find_mutant(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
}

fn command_mutants(start: u64, seeds: u64, threads: usize, only: Option<&str>) -> ExitCode {
    let chosen: Vec<Mutant> =
        Mutant::ALL.iter().copied().filter(|mutant| only.is_none_or(|only| format!("{mutant:?}") == only)).collect();
    let mut survivors = 0;
    for mutant in chosen {
        let began = Instant::now();
        for verdict in run_mutants(&[mutant], start, seeds, threads) {
            let seconds = began.elapsed().as_secs_f64();
            match verdict.killed {
                Some((seed, failure)) => {
                    let text = failure.to_string();
                    let first = text.lines().next().unwrap_or_default();
                    println!("killed    {mutant:?} by seed {seed} ({} seeds, {seconds:.1} s): {first}", verdict.seeds);
                }
                None => {
                    survivors += 1;
                    println!("SURVIVED  {mutant:?} ({} seeds, {seconds:.1} s)", verdict.seeds);
                }
            }
        }
    }
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command_determinism(start: u64, seeds: u64) -> ExitCode {
    for seed in start..start + seeds {
        match check_determinism(seed) {
            Ok(hash) => println!("seed {seed}: {hash:016x} twice"),
            Err((once, again)) => {
                println!("seed {seed} DIFFERS: {once:016x}, then {again:016x}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
