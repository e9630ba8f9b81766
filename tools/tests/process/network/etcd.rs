//! The register on a host of its own, an etcd: nodes that reach it and not the others, or the others
//! and not it.

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sealog_faults::Network;
use sealog_history::History;

use super::{Hosts, LASTING_DEADLINE, LOGSPACES, PATIENCE, goes_on, load_of};
use crate::load::{Load, join};
use crate::node::{fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0054;
const NODES: usize = 3;
/// The host after the nodes'.
const ETCD: usize = NODES + 1;
const ETCD_PORT: u16 = 2379;
const BRIEF_DEADLINE: Duration = Duration::from_secs(3);

/// An etcd on a host; it ends when this is dropped.
struct HostEtcd(Child);

impl HostEtcd {
    fn start(network: &Network, directory: &Path) -> HostEtcd {
        let words = network.enter(ETCD);
        let address = network.address(ETCD);
        let (clients, peers) = (format!("http://{address}:{ETCD_PORT}"), format!("http://{address}:2380"));
        let log = File::create(directory.join("etcd.log")).expect("a log");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["etcd", "--name", "sealog", "--initial-cluster"]);
        command.arg(format!("sealog={peers}"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.arg("--data-dir").arg(directory.join("etcd"));
        let log_too = log.try_clone().expect("a second handle");
        let child = command.stdin(Stdio::null()).stdout(log_too).stderr(log).spawn();
        let etcd = HostEtcd(child.expect("nsenter is there, and etcd: ./test installs it"));
        let began = Instant::now();
        while TcpStream::connect((&*address, ETCD_PORT)).is_err() {
            assert!(began.elapsed() < PATIENCE, "etcd does not start: {}", directory.join("etcd.log").display());
        }
        etcd
    }
}

impl Drop for HostEtcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nodes_cut_off_from_etcd_or_from_their_peers_or_from_both() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("network-etcd");
    let network = Network::create(ETCD).expect("a network");
    let etcd = HostEtcd::start(&network, &directory);
    let register = format!("etcd://{}:{ETCD_PORT}/orders", network.address(ETCD));
    let data: Vec<_> = (1..=NODES).map(|host| directory.join(format!("host-{host}"))).collect();
    let mut hosts = Hosts::form(network, &register, &data);
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(LOGSPACES), 0);
    let lasting = Load::start(&load_of("lasting", hosts.addresses(&hosts.all()), LASTING_DEADLINE, seed), clock);
    goes_on(&lasting, "whole");
    let view = hosts.view(1);
    let others: Vec<usize> = hosts.all().into_iter().filter(|host| *host != view.primary).collect();

    // A primary needs etcd for nothing.
    hosts.network.cut(&[view.primary], &[ETCD]);
    let began = Instant::now();
    while !hosts.node(view.primary).status()["register"]["unreachable_s"].is_u64() {
        assert!(began.elapsed() < PATIENCE, "it does not notice");
    }
    goes_on(&lasting, "the primary without etcd");
    assert_eq!(hosts.view(others[0]).number, view.number, "nothing was to change");
    hosts.network.heal();
    hosts.await_all_ready();

    // One that has etcd to itself can't change a view without a majority of its replicas.
    let alone = others[0];
    let peers: Vec<usize> = hosts.all().into_iter().filter(|host| *host != alone).collect();
    hosts.network.cut(&[alone], &peers);
    let began = Instant::now();
    while hosts.node(view.primary).status()["state"] == "ready" {
        assert!(began.elapsed() < PATIENCE, "it is not missed");
    }
    goes_on(&lasting, "one with etcd and without peers");
    assert_eq!(hosts.view(view.primary).number, view.number, "nothing was to change");
    hosts.network.heal();
    hosts.await_all_ready();

    // The primary, with clients of its own, without etcd and peers.
    let settings = load_of("of the primary", hosts.addresses(&[view.primary]), BRIEF_DEADLINE, seed);
    let confined = Load::start(&settings, clock);
    goes_on(&confined, "whole");
    hosts.network.cut(&[view.primary], &[others[0], others[1], ETCD]);
    hosts.await_later_view(others[0], &view);
    goes_on(&lasting, "the primary without etcd and peers");
    let arguments = ["check-tail", "load-0", "--linearizable", "--deadline", "1s"];
    hosts.node(view.primary).sealog(&arguments).expect_failure(3, &[]);
    hosts.network.heal();
    hosts.await_all_ready();
    goes_on(&confined, "healed");
    goes_on(&lasting, "healed");

    [confined, lasting].map(Load::stop).into_iter().for_each(|other| join(&mut history, other, &mut lines));
    hosts.check(view.primary, &history);
    hosts.stop_all();
    drop(etcd);
}
