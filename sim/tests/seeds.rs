//! The seeds of every run: each promise holds, each rare event is reached, the same seed does the
//! same again. `sealog-sim run --start N` takes others.

use std::num::NonZero;
use std::thread::available_parallelism;

use sealog_sim::campaign::{check_determinism, run_seeds};

/// Of them at least eleven hundred count: 500 operations under 10 faults.
const SEEDS: u64 = 1_200;
const COUNTED_MIN: u64 = 1_100;
const FIRST_SEED: u64 = 1;

fn threads() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

#[test]
fn seeds_keep_every_promise_and_reach_every_rare_event() {
    let totals = run_seeds(FIRST_SEED, SEEDS, threads(), None, 3);
    println!("{totals}");
    for (seed, failure) in &totals.failures {
        println!("seed {seed} FAILED: {failure}\n  replay it with: sealog-sim replay {seed}");
    }
    assert!(totals.failures.is_empty(), "{} seeds failed, see above", totals.failures.len());
    assert!(totals.counted >= COUNTED_MIN, "only {} seeds counted", totals.counted);
    assert_eq!(totals.marks_missed(), [], "no seed came there");
    assert_eq!(totals.faults_missed(), [], "no seed met them");
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in FIRST_SEED..FIRST_SEED + 20 {
        check_determinism(seed).unwrap_or_else(|(once, again)| {
            panic!("seed {seed}: trace hash {once:016x}, then {again:016x}");
        });
    }
}
