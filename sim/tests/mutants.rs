//! Every deliberate bug is caught within the seeds of every run: a check that no bug can trip is not
//! a check.

use std::num::NonZero;
use std::thread::available_parallelism;

use sealog_protocol::mutant::Mutant;
use sealog_sim::campaign::run_mutants;

/// Most need a few. One that needs nearly as many as this is caught by luck: make what it breaks common.
const SEEDS: u64 = 1_200;

#[test]
fn every_mutant_is_killed() {
    // Panics of mutated machines are caught, and say what killed the mutant.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = available_parallelism().map_or(1, NonZero::get);
    let verdicts = run_mutants(Mutant::ALL, 1, SEEDS, threads);
    let _ = std::panic::take_hook();
    for verdict in &verdicts {
        match &verdict.killed {
            Some((seed, failure)) => {
                let text = failure.to_string();
                println!("{:?}: seed {seed}: {}", verdict.mutant, text.lines().next().unwrap_or_default());
            }
            None => println!("{:?}: SURVIVED {} seeds", verdict.mutant, verdict.seeds),
        }
    }
    let survivors: Vec<Mutant> =
        verdicts.iter().filter(|verdict| verdict.killed.is_none()).map(|verdict| verdict.mutant).collect();
    assert_eq!(survivors, []);
    println!("{} mutants killed", verdicts.len());
}
