//! SIGKILL at random moments, on one data directory, again and again.

use std::time::{Duration, Instant};

use sealog::Durability;
use sealog_history::{History, Report};

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{NodeCommand, fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0001;

#[test]
fn nothing_acknowledged_is_lost_by_fifty_kills() {
    let report = Kills { name: "kill", executors: 1, rounds: 50, acknowledgements_min: 100_000 }.run();
    assert!(report.appends_acknowledged >= 100_000);
}

/// The sequencer on a core of its own: data and their order go through two journals.
#[test]
fn nothing_acknowledged_is_lost_by_kills_of_two_executors() {
    Kills { name: "kill-two", executors: 2, rounds: 15, acknowledgements_min: 15_000 }.run();
}

/// Kills of a loaded node, on one data directory.
struct Kills {
    name: &'static str,
    executors: usize,
    rounds: u64,
    acknowledgements_min: u64,
}

impl Kills {
    /// Of 64 appends in flight, 48 are of clients that live through all kills, reconnect and try
    /// again: what they sent must be there exactly once. 16 are of clients that live as long as
    /// the node and never learn what became of their last appends.
    fn run(&self) -> Report {
        let _machine = quiet_machine();
        let seed_of_test = seed(SEED);
        let mut random = fastrand::Rng::with_seed(seed_of_test);
        let clock = Instant::now();
        let (mut history, mut lines) = (History::new(1), 0);
        let data = fresh_directory(self.name);
        let mut command = NodeCommand::new(&data);
        command.executors = self.executors;
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
            logspaces: 1.into(),
            class: Durability::Disk,
        };
        let lasting = Load::start(&settings("lasting".to_owned(), 6, Duration::from_secs(120), seed_of_test), clock);
        let mut wanted = 0;
        for round in 0..self.rounds {
            let seed = random.u64(..);
            let brief = Load::start(&settings(format!("round {round}"), 2, Duration::from_millis(500), seed), clock);
            wanted += random.u64(1..2 * self.acknowledgements_min / self.rounds);
            assert!(lasting.wait_for_acknowledgements(wanted), "the lasting clients have given up");
            node.kill();
            join(&mut history, brief.stop(), &mut lines);
            node = command.start().unwrap_or_else(|ended| panic!("round {round}: {ended:?}"));
        }
        assert!(lasting.wait_for_acknowledgements(self.acknowledgements_min), "the lasting clients have given up");
        join(&mut history, lasting.stop(), &mut lines);
        node.kill();
        let node = command.start().expect("a last start");
        let report = read_everything_and_check(&node.address, &history).expect("a correct log");
        println!("{} kills, {} executors: {report:?}", self.rounds, self.executors);
        assert!(report.appends_unknown > 0, "kills hit appends in flight");
        node.stop();
        report
    }
}
