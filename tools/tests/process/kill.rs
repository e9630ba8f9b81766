//! SIGKILL at random moments, on one data directory, again and again.

use std::time::{Duration, Instant};

use sealog_history::History;

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{NodeCommand, fresh_directory, quiet_machine};

const ROUNDS: u64 = 50;
const ACKNOWLEDGEMENTS_MIN: u64 = 100_000;
const SEED: u64 = 0x5EA1_0001;

#[test]
fn nothing_acknowledged_is_lost_by_kills_at_random_moments() {
    kill_again_and_again("kill", 1, ROUNDS, ACKNOWLEDGEMENTS_MIN);
}

/// Data and the order of it are in two journals then, and a kill falls between their writes.
#[test]
fn nothing_is_lost_with_the_sequencer_on_a_core_of_its_own() {
    kill_again_and_again("kill-two-executors", 2, ROUNDS / 5, ACKNOWLEDGEMENTS_MIN / 5);
}

/// Of 64 appends in flight, 48 are of clients that live through all kills, reconnect and try again:
/// what they sent must be there exactly once. 16 are of clients that live as long as the node and
/// never learn what became of their last appends.
fn kill_again_and_again(name: &str, executors: u8, rounds: u64, acknowledgements_min: u64) {
    let _machine = quiet_machine();
    println!("seed {SEED:#x}");
    let mut random = fastrand::Rng::with_seed(SEED);
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(1), 0);
    let data = fresh_directory(name);
    let mut command = NodeCommand::new(&data);
    command.wrapper = vec!["env".to_owned(), format!("SEALOG_EXECUTORS={executors}")];
    let mut node = command.start().expect("a new node");
    // Everyone finds the node where it was.
    command.listen = node.address.clone();
    let settings = |name: String, clients, deadline, seed| LoadSettings {
        name,
        address: command.listen.clone(),
        clients,
        in_flight_per_client: 8,
        deadline,
        seed,
    };
    let lasting = Load::start(&settings("lasting".to_owned(), 6, Duration::from_secs(120), SEED), clock);
    let mut wanted = 0;
    for round in 0..rounds {
        let seed = random.u64(..);
        let brief = Load::start(&settings(format!("round {round}"), 2, Duration::from_millis(500), seed), clock);
        wanted += random.u64(1..2 * acknowledgements_min / rounds);
        assert!(lasting.wait_for_acknowledgements(wanted), "the lasting clients have given up");
        node.kill();
        join(&mut history, brief.stop(), &mut lines);
        node = command.start().unwrap_or_else(|ended| panic!("round {round}: {ended:?}"));
    }
    lasting.wait_for_acknowledgements(acknowledgements_min);
    join(&mut history, lasting.stop(), &mut lines);
    node.kill();
    let node = command.start().expect("a last start");
    let report = read_everything_and_check(&node.address, &history).expect("a correct log");
    println!("{rounds} kills, {executors} executors: {report:?}");
    assert!(report.appends_acknowledged >= acknowledgements_min);
    assert!(report.appends_unknown > 0, "kills hit appends in flight");
    node.stop();
}
