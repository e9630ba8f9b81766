//! Nodes on this machine that form a cluster: processes of this program, a register in files that they
//! share, a data directory with one for each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealog::blocking::Client;
use sealog_node::forming::{Formation, FormingError, form};
use sealog_node::probe;
use sealog_node::register::{self, RegisterSetting, WatchedRegister};
use sealog_protocol::LogspaceId;
use serde_json::{Value, json};

use crate::dev::child::{ChildCommand, NodeProcess};
use crate::dev::command::{Action, Target};
use crate::failure::{Failure, Kind};

/// All nodes are ready by then, or something is wrong.
const READY_MAX: Duration = Duration::from_secs(120);
/// A node that says nothing so long is shown as silent.
const STATUS_MAX: Duration = Duration::from_millis(500);
const REPLICAS: usize = 3;
const LOGSPACES: u16 = 1;
const MEMORY_LOGSPACES: u16 = 1;

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    pub nodes: usize,
    pub data: PathBuf,
    /// Where the first node listens for clients; the others at the next ports. Port 0: free ones.
    pub listen: String,
    pub logspaces: Option<u16>,
    pub memory_logspaces: Option<u16>,
    /// Of a shared register; `None`: files in the data directory.
    pub register: Option<String>,
    /// Further settings of each node, by their keys.
    pub node: Vec<(&'static str, String)>,
}

struct ClusterNode {
    command: ChildCommand,
    process: Option<NodeProcess>,
}

/// See the module's documentation. Dropping it kills all nodes.
pub struct Cluster {
    nodes: Vec<ClusterNode>,
    register: Box<dyn WatchedRegister>,
    register_name: String,
}

impl Cluster {
    /// Starts the nodes and, unless their data directories are of a cluster already, forms one of them.
    /// To be called on the thread that lives as long as this program.
    ///
    /// # Errors
    /// A setting is wrong, or a node does not start.
    pub fn start(settings: &ClusterSettings) -> Result<Cluster, Failure> {
        let unusable = |error: io::Error| Failure::other(format!("cannot use {}: {error}", settings.data.display()));
        std::fs::create_dir_all(&settings.data).map_err(unusable)?;
        let data = settings.data.canonicalize().map_err(unusable)?;
        let register_name =
            settings.register.clone().unwrap_or_else(|| format!("file:{}", data.join("register").display()));
        let setting = RegisterSetting::parse(&register_name)
            .filter(|register| *register != RegisterSetting::Own)
            .ok_or_else(|| Failure::usage("--register: write it as etcd://HOST:PORT/PREFIX, or file:/DIR"))?;
        let mut register =
            register::open(&setting, Path::new(".")).map_err(|error| Failure::usage(error.to_string()))?;
        let mut nodes = Vec::with_capacity(settings.nodes);
        for (at, (listen, peer_listen)) in listens(&settings.listen, settings.nodes)?.into_iter().enumerate() {
            let command = ChildCommand {
                data: data.join(format!("node-{}", at + 1)),
                listen,
                peer_listen,
                register: register_name.clone(),
                settings: settings.node.clone(),
            };
            nodes.push(ClusterNode { process: Some(command.spawn()?), command });
        }
        let replicas = settings.nodes.min(REPLICAS);
        let formation = Formation {
            nodes: settings.nodes,
            replicas,
            write_quorum: replicas.div_ceil(2),
            sequencers: None,
            logspaces: settings.logspaces.unwrap_or(LOGSPACES),
            memory_logspaces: settings.memory_logspaces.unwrap_or(MEMORY_LOGSPACES),
            cluster: None,
        };
        match form(&mut *register, &formation, READY_MAX, |_| {}) {
            // It is started again.
            Ok(_) | Err(FormingError::Exists { .. }) => {}
            Err(error) => return Err(Failure::new(Kind::Unreachable, error.to_string())),
        }
        let mut cluster = Cluster { nodes, register, register_name };
        let until = Instant::now() + READY_MAX;
        for node in &mut cluster.nodes {
            node.process.as_mut().expect("it was started").wait_ready(until)?;
        }
        Ok(cluster)
    }

    /// Where clients connect, all nodes, as `--connect` takes it.
    pub fn connect_text(&self) -> String {
        self.nodes.iter().map(|node| node.command.listen.as_str()).collect::<Vec<_>>().join(",")
    }

    pub fn register_name(&self) -> &str {
        &self.register_name
    }

    /// Does something to a node. Returns what was done.
    ///
    /// # Errors
    /// There is no such node, or it is not in a state for it.
    pub fn act(&mut self, action: Action, target: Target) -> Result<String, Failure> {
        let number = self.number(target)?;
        let node = &mut self.nodes[number - 1];
        let not_running = || Failure::usage(format!("node {number} does not run: restart {number} starts it"));
        match action {
            Action::Kill => node.process.take().ok_or_else(not_running)?.kill(),
            Action::Stop => node.process.as_mut().ok_or_else(not_running)?.signal(Signal::STOP),
            Action::Resume => node.process.as_mut().ok_or_else(not_running)?.signal(Signal::CONT),
            Action::Restart => {
                drop(node.process.take());
                let mut process = node.command.spawn()?;
                let ready = process.wait_ready(Instant::now() + READY_MAX);
                node.process = Some(process);
                ready?;
            }
        }
        Ok(format!("{} {number}", action.name()))
    }

    /// The number of a node that is meant.
    ///
    /// # Errors
    /// There is none.
    pub fn number(&mut self, target: Target) -> Result<usize, Failure> {
        match target {
            Target::Node(number) if number <= self.nodes.len() => Ok(number),
            Target::Node(number) => {
                Err(Failure::usage(format!("there is no node {number}: they are 1 to {}", self.nodes.len())))
            }
            Target::Primary => self.primary(),
        }
    }

    fn primary(&mut self) -> Result<usize, Failure> {
        let unknown = |why: String| Failure::other(format!("who is primary is not known: {why}"));
        let chain = self.register.read(LogspaceId(0)).map_err(|error| unknown(error.to_string()))?;
        let members = self.register.members().map_err(|error| unknown(error.to_string()))?;
        let primary = chain.map(|chain| chain.current().primary);
        let address =
            primary.zip(members).and_then(|(primary, members)| Some(members.get(primary)?.peer_address.clone()));
        let at = self.nodes.iter().position(|node| Some(&node.command.peer_listen) == address.as_ref());
        at.map(|at| at + 1).ok_or_else(|| unknown("it is none of these nodes".to_owned()))
    }

    /// Nodes that have ended though nobody told them to, told once.
    pub fn take_ended(&mut self) -> Vec<(usize, PathBuf)> {
        let mut ended = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if node.process.as_mut().is_some_and(NodeProcess::has_ended) {
                node.process = None;
                ended.push((at + 1, node.command.log()));
            }
        }
        ended
    }

    /// Each node's state, an object each.
    pub fn status(&mut self) -> Vec<Value> {
        let primary = self.primary().ok();
        let status = |(at, node): (usize, &ClusterNode)| {
            let state = match &node.process {
                None => "down".to_owned(),
                Some(process) if process.is_stopped() => "stopped".to_owned(),
                Some(_) => said_state(&node.command.listen).unwrap_or_else(|| "silent".to_owned()),
            };
            let process = node.process.as_ref().map(NodeProcess::id);
            let is_primary = primary == Some(at + 1);
            json!({ "node": at + 1, "state": state, "process": process, "listen": node.command.listen, "primary": is_primary })
        };
        self.nodes.iter().enumerate().map(status).collect()
    }

    /// Stops all nodes in order.
    pub fn stop(mut self) {
        let mut processes: Vec<NodeProcess> = self.nodes.iter_mut().filter_map(|node| node.process.take()).collect();
        processes.iter_mut().for_each(NodeProcess::ask_to_stop);
        processes.into_iter().for_each(NodeProcess::await_end);
    }
}

/// What a node says of itself: `ready`, `degraded`, `starting`.
fn said_state(listen: &str) -> Option<String> {
    let client = Client::builder().deadline(STATUS_MAX).connect(listen).ok()?;
    let status: Value = serde_json::from_str(&client.status().ok()?).ok()?;
    Some(status["state"].as_str()?.to_owned())
}

/// Where each node listens for clients and for the other nodes.
fn listens(first: &str, nodes: usize) -> Result<Vec<(String, String)>, Failure> {
    let wrong = || Failure::usage(format!("--listen '{first}': write it as HOST:PORT, with room for {nodes} ports"));
    let (host, port) = first.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let free = probe::free_ports(host.trim_matches(['[', ']']), 2 * nodes)
        .map_err(|error| Failure::usage(format!("cannot listen on {host}: {error}")))?;
    let of_clients = |at: usize| match port {
        0 => Some(free[nodes + at]),
        _ => port.checked_add(u16::try_from(at).ok()?),
    };
    (0..nodes)
        .map(|at| {
            let client = of_clients(at).ok_or_else(wrong)?;
            Ok((format!("{host}:{client}"), format!("{host}:{}", free[at])))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_listen_at_consecutive_ports_or_at_free_ones() {
        let fixed = listens("127.0.0.1:7440", 3).expect("they fit");
        let clients: Vec<&str> = fixed.iter().map(|(client, _)| client.as_str()).collect();
        assert_eq!(clients, ["127.0.0.1:7440", "127.0.0.1:7441", "127.0.0.1:7442"]);
        let free = listens("127.0.0.1:0", 3).expect("there are free ports");
        let mut all: Vec<String> = free.into_iter().flat_map(|(client, peer)| [client, peer]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        for wrong in ["7440", "127.0.0.1:65535", "127.0.0.1:x"] {
            assert!(listens(wrong, 3).is_err(), "{wrong}");
        }
    }
}
