//! A storage behind a slow line, a line that is narrow for all, and a restart of all nodes in turn.

use std::time::{Duration, Instant};

use sealog_faults::Link;

use super::partitions::cluster;
use super::{Hosts, LASTING_DEADLINE, goes_on, load_of};
use crate::load::Load;
use crate::node::{quiet_machine, seed};

const SEED: u64 = 0x5EA1_0052;
/// Each way. Whoever waits for that storage takes twice as long.
const DELAY: Duration = Duration::from_millis(250);
const APPENDS: usize = 12;

/// Appends one after the other; how long all took.
fn append_alone(hosts: &Hosts, host: usize) -> Duration {
    let client = sealog::blocking::Client::builder().deadline(LASTING_DEADLINE);
    let logbook = client.connect(&hosts.addresses(&[host])).expect("it listens").logbook("alone");
    let began = Instant::now();
    for number in 0..APPENDS {
        logbook.append(&[], format!("alone {number}").as_bytes()).expect("it is appended");
    }
    began.elapsed()
}

/// W of R goes on at the speed of the others; then all nodes are stopped and started again in turn.
#[test]
fn a_slow_storage_holds_nobody_up_and_nodes_restart_under_load() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let (_directory, mut hosts) = cluster("network-slow");
    let view = hosts.view(1);
    // Whoever leads a logspace can't be done without as long as it is there.
    let primaries = hosts.primaries(1);
    let slow = *view.storages.iter().find(|host| !primaries.contains(host)).expect("three hosts, two logspaces");
    let engine = hosts.all().into_iter().find(|host| *host != slow).expect("there are five");
    for other in hosts.all_but(&[slow]) {
        let link = Link { delay: DELAY, ..Link::default() };
        hosts.network.set_link(slow, other, link);
        hosts.network.set_link(other, slow, link);
    }
    let took = append_alone(&hosts, engine);
    println!("{APPENDS} appends, one after the other, with a storage {DELAY:?} away: {took:?}");
    // One that waited for the slow one each time would take six seconds.
    assert!(took < DELAY * APPENDS as u32, "{took:?}");
    assert!(hosts.network.counters().delayed > 0);

    let fast: Vec<usize> = hosts.all().into_iter().filter(|host| *host != slow).collect();
    let load = Load::start(&load_of("fast", hosts.addresses(&fast), LASTING_DEADLINE, seed), Instant::now());
    goes_on(&load, "slow");
    assert_eq!(hosts.view(engine).number, view.number, "slow is not lost");
    // A narrow line to it, on which it falls behind.
    for other in hosts.all_but(&[slow]) {
        hosts.network.set_link(other, slow, Link { bytes_per_s: 1_000_000, ..Link::default() });
    }
    goes_on(&load, "narrow");
    hosts.network.heal();
    hosts.await_all_ready();

    for host in hosts.all() {
        hosts.nodes[host - 1].take().expect("it runs").stop();
        goes_on(&load, &format!("without {host}"));
        hosts.start(host);
        hosts.await_all_ready();
    }
    goes_on(&load, "all restarted");
    let report = hosts.check(slow, &load.stop());
    assert_eq!(report.appends_unknown, 0, "clients that know all nodes see no error");
    hosts.stop_all();
}
