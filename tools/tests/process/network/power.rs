//! All hosts lose their power at once, on disks that forget what was not flushed, the register's among
//! them. Two controls show that the test can fail.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealog_faults::{CutKind, FaultyDisk, Network, PowerCut};
use sealog_history::{History, Report};

use super::{HOSTS, Hosts, LOGSPACES, load_of};
use crate::load::{Load, join, read_everything_and_check};
use crate::node::{binary, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0053;
const ROUNDS: u64 = 5;
const DISK_BYTES: u64 = 512 << 20;
const DEADLINE: Duration = Duration::from_secs(2);

/// What is to survive what.
struct ClusterPowerLoss {
    name: &'static str,
    binary: PathBuf,
    /// All disks answer flushes and do nothing, from the moment that the nodes are ready.
    disks_lie: bool,
    /// Of every power cut; random if it is not given.
    kind: Option<CutKind>,
    rounds: u64,
}

impl ClusterPowerLoss {
    /// Loads the cluster and cuts the power of all, round by round; then reads everything.
    ///
    /// # Errors
    /// What was lost, or why a node no longer starts.
    fn run(&self) -> Result<Report, String> {
        let mut random = fastrand::Rng::with_seed(seed(SEED));
        let clock = Instant::now();
        let (mut history, mut lines) = (History::new(LOGSPACES), 0);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name);
        // The last is the register's.
        let disk = |at: usize| FaultyDisk::create(&directory.join(format!("disk-{at}")), DISK_BYTES);
        let disks: Vec<FaultyDisk> = (0..=HOSTS).map(|at| disk(at).expect("a faulty disk")).collect();
        let mounts: Vec<PathBuf> = disks.iter().map(|disk| disk.mount().expect("it can be mounted")).collect();
        let register = format!("file:{}", mounts[HOSTS].join("register").display());
        let data: Vec<PathBuf> = mounts[..HOSTS].iter().map(|mount| mount.join("data")).collect();
        let network = Network::create(HOSTS).expect("a network");
        let mut lost = 0;
        let mut hosts = Hosts::form_of(network, &register, &data, |_, command| {
            command.binary = self.binary.clone();
        });
        for round in 0..self.rounds {
            disks.iter().for_each(|disk| disk.lie(self.disks_lie));
            let settings = load_of(&format!("round {round}"), hosts.addresses(&hosts.all()), DEADLINE, random.u64(..));
            let load = Load::start(&settings, clock);
            assert!(load.wait_for_acknowledgements(random.u64(100..1500)), "no acknowledgements");
            let cuts: Vec<PowerCut> = match self.kind {
                Some(kind) => disks.iter().map(|disk| disk.cut_power_as(kind, random.u64(..))).collect(),
                None => {
                    // The primary's is written to as long as there is load.
                    let first = hosts.view(1).primary - 1;
                    let others: Vec<&FaultyDisk> = (0..=HOSTS).filter(|at| *at != first).map(|at| &disks[at]).collect();
                    FaultyDisk::cut_power_of_all(&disks[first], &others, random.u64(..))
                }
            };
            println!("round {round}: {cuts:?}");
            lost += cuts.iter().map(|cut| cut.sectors_lost).sum::<usize>();
            hosts.kill_all();
            join(&mut history, load.stop(), &mut lines);
            for disk in &disks {
                disk.lie(false);
                disk.restart().map_err(|error| format!("round {round}: {error}"))?;
            }
            hosts.start_all().map_err(|error| format!("round {round}: {error}"))?;
        }
        assert!(lost > 0, "power cuts hit writes that were not flushed");
        let report = read_everything_and_check(&hosts.addresses(&[1]), &history)?;
        hosts.stop_all();
        Ok(report)
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_all_hosts_lose_their_power() {
    let _machine = quiet_machine();
    let name = "network-power";
    let honest = ClusterPowerLoss { name, binary: binary(), disks_lie: false, kind: None, rounds: ROUNDS };
    let report = honest.run().expect("a correct log");
    println!("{ROUNDS} power cuts of all hosts: {report:?}");
    assert!(report.appends_acknowledged >= 100 * ROUNDS);
    assert!(report.appends_unknown > 0, "power cuts hit appends in flight");
}

#[test]
fn control_disks_of_all_hosts_that_lie_are_caught() {
    let _machine = quiet_machine();
    let name = "network-power-lies";
    let kind = Some(CutKind::DroppedAll);
    let lying = ClusterPowerLoss { name, binary: binary(), disks_lie: true, kind, rounds: 1 };
    let caught = lying.run().expect_err("what lying disks lost must be missed");
    println!("caught: {caught}");
    assert!(caught.contains("was acknowledged") || caught.contains("does not start"), "{caught}");
}

#[test]
fn control_hosts_that_do_not_flush_are_caught() {
    let _machine = quiet_machine();
    let name = "network-power-careless";
    let binary = crate::power_loss::binary_without_flush();
    let kind = Some(CutKind::DroppedAll);
    let careless = ClusterPowerLoss { name, binary, disks_lie: false, kind, rounds: 1 };
    let caught = careless.run().expect_err("what was never flushed must be missed");
    println!("caught: {caught}");
    assert!(caught.contains("was acknowledged") || caught.contains("does not start"), "{caught}");
}
