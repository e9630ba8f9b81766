//! A cluster of hosts: each node in a network namespace of its own, between them a switch that cuts,
//! delays and throttles. Clients are at host 0, the namespace of the tests.

mod etcd;
mod partitions;
mod power;
mod slow;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealog::Durability;
use sealog_faults::Network;
use sealog_history::{History, Report};
use serde_json::Value;

use crate::cluster::form_in;
use crate::load::{Load, LoadSettings, read_everything_and_check};
use crate::node::{Node, NodeCommand};

/// Nodes, each on a host of its own, from 1.
const HOSTS: usize = 5;
const CLIENT_PORT: u16 = 7440;
const PEER_PORT: u16 = 7441;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of clients that are to see no fault at all.
const LASTING_DEADLINE: Duration = Duration::from_secs(120);
/// Logspaces of the cluster, as [`form_in`] makes it.
const LOGSPACES: u16 = 2;
/// Acknowledgements that prove that a load goes on.
const SOME_ACKNOWLEDGEMENTS: u64 = 300;

/// Running nodes, by their hosts. They end before the network does.
struct Hosts {
    nodes: Vec<Option<Node>>,
    /// Their ids, as a status names them.
    ids: Vec<String>,
    commands: Vec<NodeCommand>,
    network: Network,
}

/// The view of logspace 0, its nodes by their hosts.
#[derive(Clone, Debug)]
struct ViewNow {
    number: u64,
    primary: usize,
    sequencers: Vec<usize>,
    storages: Vec<usize>,
}

impl Hosts {
    /// Forms a cluster of nodes with these data directories, by this register.
    fn form(network: Network, register: &str, data: &[PathBuf]) -> Hosts {
        Hosts::form_of(network, register, data, |_, _| {})
    }

    /// As [`Hosts::form`]; how a host's node is run is changed before.
    fn form_of(network: Network, register: &str, data: &[PathBuf], change: impl Fn(usize, &mut NodeCommand)) -> Hosts {
        let command = |(at, data): (usize, &PathBuf)| {
            let mut command = command(&network, register, at + 1, data);
            change(at + 1, &mut command);
            command
        };
        let commands: Vec<NodeCommand> = data.iter().enumerate().map(command).collect();
        let nodes = form_in(register, &commands);
        let id = |node: &Node| node.status()["node"].as_str().expect("an id").to_owned();
        let ids = nodes.iter().map(id).collect();
        Hosts { nodes: nodes.into_iter().map(Some).collect(), ids, commands, network }
    }

    fn node(&self, host: usize) -> &Node {
        self.nodes[host - 1].as_ref().expect("it runs")
    }

    fn all(&self) -> Vec<usize> {
        (1..=self.nodes.len()).collect()
    }

    /// All hosts but these, the clients' among them.
    fn all_but(&self, these: &[usize]) -> Vec<usize> {
        (0..=self.nodes.len()).filter(|host| !these.contains(host)).collect()
    }

    /// Where clients connect, the nodes of these hosts in this order.
    fn addresses(&self, hosts: &[usize]) -> String {
        hosts.iter().map(|host| self.commands[host - 1].listen.as_str()).collect::<Vec<_>>().join(",")
    }

    /// As the node of this host has it.
    fn view(&self, host: usize) -> ViewNow {
        let status = self.node(host).status();
        let view = &status["views"][0];
        let hosts = |key: &str| {
            let nodes = view[key].as_array().expect("a list").iter();
            nodes.map(|id| self.host_of(id)).collect()
        };
        ViewNow {
            number: view["view"].as_u64().expect("a number"),
            primary: self.host_of(&view["primary"]),
            sequencers: hosts("sequencers"),
            storages: hosts("storages"),
        }
    }

    /// Of all logspaces, as the node of this host has them.
    fn primaries(&self, host: usize) -> Vec<usize> {
        let status = self.node(host).status();
        let views = status["views"].as_array().expect("a list").iter();
        views.map(|view| self.host_of(&view["primary"])).collect()
    }

    fn host_of(&self, id: &Value) -> usize {
        let at = self.ids.iter().position(|known| Some(known.as_str()) == id.as_str());
        at.expect("one of ours") + 1
    }

    /// Waits until logspace 0 has a later view, as the node of this host has it.
    fn await_later_view(&self, host: usize, earlier: &ViewNow) -> ViewNow {
        let began = Instant::now();
        loop {
            let view = self.view(host);
            if view.number > earlier.number {
                return view;
            }
            assert!(began.elapsed() < PATIENCE, "the view stays {earlier:?}");
        }
    }

    /// Waits until each node says that nothing is missing.
    fn await_all_ready(&self) {
        let began = Instant::now();
        for node in self.nodes.iter().flatten() {
            loop {
                let status = node.status();
                if status["state"] == "ready" {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "{status}");
            }
        }
    }

    fn kill(&mut self, host: usize) {
        self.nodes[host - 1].take().expect("it runs").kill();
    }

    fn signal(&self, host: usize, signal: Signal) {
        self.node(host).signal(signal);
    }

    fn start(&mut self, host: usize) {
        let node = self.commands[host - 1].start();
        self.nodes[host - 1] = Some(node.unwrap_or_else(|ended| panic!("host {host}: {ended:?}")));
    }

    /// Starts all nodes at once: none is ready without some of the others.
    ///
    /// # Errors
    /// One does not start.
    fn start_all(&mut self) -> Result<(), String> {
        let start = |command: &NodeCommand| {
            let command = command.clone();
            std::thread::spawn(move || command.start())
        };
        let starting: Vec<_> = self.commands.iter().map(start).collect();
        let started: Vec<_> = starting.into_iter().map(|starting| starting.join()).collect();
        for (at, started) in started.into_iter().enumerate() {
            // It panics when the node is not ready in time.
            let node = started.map_err(|_| format!("host {} is not ready: it does not start", at + 1))?;
            self.nodes[at] = Some(node.map_err(|ended| format!("host {} does not start: {ended:?}", at + 1))?);
        }
        Ok(())
    }

    fn kill_all(&mut self) {
        self.nodes.iter_mut().filter_map(Option::take).for_each(|node| drop(node.kill()));
    }

    fn stop_all(&mut self) {
        self.nodes.iter_mut().filter_map(Option::take).for_each(Node::stop);
    }

    /// Reads everything by the node of this host.
    fn check(&self, host: usize, history: &History) -> Report {
        let report = read_everything_and_check(&self.addresses(&[host]), history).expect("a correct log");
        println!("{report:?}; the switch: {:?}", self.network.counters());
        report
    }
}

/// How the node of a host is run.
fn command(network: &Network, register: &str, host: usize, data: &Path) -> NodeCommand {
    let mut command = NodeCommand::new(data);
    command.verb = "serve";
    command.wrapper = network.enter(host);
    let address = network.address(host);
    command.listen = format!("{address}:{CLIENT_PORT}");
    command.variables = vec![
        ("SEALOG_REGISTER", register.to_owned()),
        ("SEALOG_PEER_LISTEN", format!("{address}:{PEER_PORT}")),
        ("SEALOG_ALLOW_REMOTE", "true".to_owned()),
    ];
    command
}

/// Four clients of these addresses.
fn load_of(name: &str, address: String, deadline: Duration, seed: u64) -> LoadSettings {
    LoadSettings {
        name: name.to_owned(),
        address,
        clients: 4,
        in_flight_per_client: 8,
        deadline,
        seed,
        logspaces: LOGSPACES.into(),
        class: Durability::Disk,
    }
}

/// The load gets further acknowledgements.
fn goes_on(load: &Load, what: &str) {
    let began = Instant::now();
    let wanted = load.acknowledged() + SOME_ACKNOWLEDGEMENTS;
    assert!(load.wait_for_acknowledgements_within(wanted, PATIENCE), "{what}: no further acknowledgements");
    println!("{what}: {SOME_ACKNOWLEDGEMENTS} further acknowledgements in {:?}", began.elapsed());
}
