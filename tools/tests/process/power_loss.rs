//! Power loss on a disk that forgets what was not flushed. Two controls show that the test can
//! fail: a disk that lies about flushes, and a build that does not ask for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealog::Durability;
use sealog_faults::{CutKind, FaultyDisk};
use sealog_history::{History, Report};

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{NodeCommand, binary, quiet_machine, seed};

const ROUNDS: u64 = 24;
const DISK_BYTES: u64 = 1 << 30;
const SEED: u64 = 0x5EA1_0002;

/// What is to survive what.
struct PowerLoss {
    name: &'static str,
    binary: PathBuf,
    /// The disk answers flushes and does nothing, from the moment that the node is ready.
    disk_lies: bool,
    /// The kind of every power cut; random if it is not given.
    kind: Option<CutKind>,
    rounds: u64,
    executors: usize,
}

impl PowerLoss {
    fn of_honest_disk(name: &'static str, rounds: u64, executors: usize) -> PowerLoss {
        PowerLoss { name, binary: binary(), disk_lies: false, kind: None, rounds, executors }
    }

    /// Loads a node and cuts the power, round by round; then reads everything.
    ///
    /// # Errors
    /// What was lost, or why the node no longer starts.
    fn run(&self) -> Result<Report, String> {
        let mut random = fastrand::Rng::with_seed(seed(SEED));
        let clock = Instant::now();
        let (mut history, mut lines) = (History::new(1), 0);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name);
        let disk = FaultyDisk::create(&directory, DISK_BYTES).expect("a faulty disk");
        let mut command = NodeCommand::new(&disk.mount().expect("it can be mounted").join("data"));
        command.binary = self.binary.clone();
        command.executors = self.executors;
        for round in 0..self.rounds {
            let node = command.start().map_err(|ended| format!("round {round}: it does not start: {ended:?}"))?;
            disk.lie(self.disk_lies);
            let settings = LoadSettings {
                name: format!("round {round}"),
                address: node.address.clone(),
                clients: 4,
                in_flight_per_client: 16,
                deadline: Duration::from_secs(1),
                seed: random.u64(..),
                logspaces: 1.into(),
                class: Durability::Disk,
            };
            let load = Load::start(&settings, clock);
            assert!(load.wait_for_acknowledgements(random.u64(100..3000)), "no acknowledgements");
            let seed = random.u64(..);
            let cut = match self.kind {
                Some(kind) => disk.cut_power_as(kind, seed),
                None if round % 3 == 0 => disk.cut_power(seed),
                None => disk.cut_power_in_a_write(seed),
            };
            println!("round {round}: {cut:?}");
            node.kill();
            join(&mut history, load.stop(), &mut lines);
            disk.lie(false);
            disk.restart().map_err(|error| format!("round {round}: {error}"))?;
        }
        let node = command.start().map_err(|ended| format!("it does not start: {ended:?}"))?;
        read_everything_and_check(&node.address, &history)
    }
}

/// The build that does not flush: beside the directory of the profile, where ./test puts it.
pub fn binary_without_flush() -> PathBuf {
    let built = binary().parent().and_then(Path::parent).expect("target/PROFILE/sealog").join("without-flush/sealog");
    assert!(
        built.exists(),
        "{} is missing: `./test without-flush` builds it, and ./test runs everything",
        built.display()
    );
    built
}

#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let _machine = quiet_machine();
    let honest = PowerLoss::of_honest_disk("power", ROUNDS, 1);
    let report = honest.run().expect("a correct log");
    println!("{ROUNDS} power cuts: {report:?}");
    assert!(report.appends_acknowledged >= 100 * ROUNDS);
    assert!(report.appends_unknown > 0, "power cuts hit appends in flight");
}

/// Data and the order of it are in two journals, of which a cut may tear either.
#[test]
fn nothing_acknowledged_is_lost_by_power_cuts_of_two_executors() {
    let _machine = quiet_machine();
    let report = PowerLoss::of_honest_disk("power-two", ROUNDS / 2, 2).run().expect("a correct log");
    println!("{} power cuts, two executors: {report:?}", ROUNDS / 2);
    assert!(report.appends_acknowledged >= 100 * ROUNDS / 2);
}

#[test]
fn control_a_disk_that_lies_is_caught() {
    let _machine = quiet_machine();
    let kind = Some(CutKind::DroppedAll);
    let lying = PowerLoss { name: "power-lies", binary: binary(), disk_lies: true, kind, rounds: 1, executors: 1 };
    let caught = lying.run().expect_err("what a lying disk lost must be missed");
    println!("caught: {caught}");
    assert!(caught.contains("was acknowledged") || caught.contains("does not start"), "{caught}");
}

#[test]
fn control_a_build_that_does_not_flush_is_caught() {
    let _machine = quiet_machine();
    let built = binary_without_flush();
    let kind = Some(CutKind::DroppedAll);
    let careless = PowerLoss { name: "power-careless", binary: built, disk_lies: false, kind, rounds: 1, executors: 1 };
    let caught = careless.run().expect_err("what was never flushed must be missed");
    println!("caught: {caught}");
    assert!(caught.contains("was acknowledged") || caught.contains("does not start"), "{caught}");
}
