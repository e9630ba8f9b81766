//! SIGKILL at random moments, on one data directory, again and again.

use std::time::{Duration, Instant};

use sealog_history::History;

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{NodeCommand, fresh_directory, quiet_machine};

const ROUNDS: u64 = 50;
const ACKNOWLEDGEMENTS_MIN: u64 = 100_000;
const SEED: u64 = 0x5EA1_0001;

/// Of 64 appends in flight, 48 are of clients that live through all kills, reconnect and try again:
/// what they sent must be there exactly once. 16 are of clients that live as long as the node and
/// never learn what became of their last appends.
#[test]
fn nothing_acknowledged_is_lost_by_kills_at_random_moments() {
    let _machine = quiet_machine();
    println!("seed {SEED:#x}");
    let mut random = fastrand::Rng::with_seed(SEED);
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(1), 0);
    let data = fresh_directory("kill");
    let mut command = NodeCommand::new(&data);
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
    for round in 0..ROUNDS {
        let seed = random.u64(..);
        let brief = Load::start(&settings(format!("round {round}"), 2, Duration::from_millis(500), seed), clock);
        wanted += random.u64(1..2 * ACKNOWLEDGEMENTS_MIN / ROUNDS);
        assert!(lasting.wait_for_acknowledgements(wanted), "the lasting clients have given up");
        node.kill();
        join(&mut history, brief.stop(), &mut lines);
        node = command.start().unwrap_or_else(|ended| panic!("round {round}: {ended:?}"));
    }
    lasting.wait_for_acknowledgements(ACKNOWLEDGEMENTS_MIN);
    join(&mut history, lasting.stop(), &mut lines);
    node.kill();
    let node = command.start().expect("a last start");
    let report = read_everything_and_check(&node.address, &history).expect("a correct log");
    println!("{ROUNDS} kills: {report:?}");
    assert!(report.appends_acknowledged >= ACKNOWLEDGEMENTS_MIN);
    assert!(report.appends_unknown > 0, "kills hit appends in flight");
    node.stop();
}
