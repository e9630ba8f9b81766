//! Nodes on this machine that form a cluster: processes of this program, a register in files that they
//! share, a data directory with one for each.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealog::blocking::Client;
use sealog_node::forming::{Formation, FormingError, form};
use sealog_node::probe;
use sealog_node::register::{self, RegisterSetting, WatchedRegister};
use sealog_protocol::LogspaceId;
use sealog_protocol::machine::Role;
use serde_json::{Value, json};

use crate::control::Cuts;
use crate::dev::child::{ChildCommand, NodeProcess};
use crate::dev::command::{Action, Deed, Span, Target};
use crate::dev::cuts::Partition;
use crate::dev::layout::{Layout, ROLE_NAMES};
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
    pub nodes: Layout,
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
    layout: Layout,
    partition: Partition,
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
        let layout = settings.nodes.clone();
        let mut nodes = Vec::with_capacity(layout.count());
        for (at, (listen, peer_listen)) in listens(&settings.listen, layout.count())?.into_iter().enumerate() {
            let mut node_settings = settings.node.clone();
            if !layout.is_uniform() {
                node_settings.push(("roles", layout.names(at + 1)));
            }
            let command = ChildCommand {
                data: data.join(format!("node-{}", at + 1)),
                listen,
                peer_listen,
                register: register_name.clone(),
                settings: node_settings,
            };
            nodes.push(ClusterNode { process: Some(command.spawn()?), command });
        }
        let replicas = layout.with(Role::Storage).count().min(REPLICAS);
        let formation = Formation {
            nodes: layout.count(),
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
        let mut cluster = Cluster { nodes, layout, partition: Partition::default(), register, register_name };
        let until = Instant::now() + READY_MAX;
        for node in &mut cluster.nodes {
            node.process.as_mut().expect("it was started").wait_ready(until)?;
        }
        Ok(cluster)
    }

    /// Where clients connect, all nodes with engines, as `--connect` takes it.
    pub fn connect_text(&self) -> String {
        let listen = |number: usize| self.nodes[number - 1].command.listen.as_str();
        self.layout.with(Role::Engine).map(listen).collect::<Vec<_>>().join(",")
    }

    pub fn register_name(&self) -> &str {
        &self.register_name
    }

    /// Does something to nodes. Returns what was done.
    ///
    /// # Errors
    /// There is no such node, or it is not in a state for it.
    pub fn act(&mut self, deed: Deed) -> Result<String, Failure> {
        match deed {
            Deed::Act(action, target) => self.act_on(action, target),
            Deed::Partition(span) => {
                let added = self.directions(span)?;
                self.partition.add(&added);
                self.cut(&added.nodes())?;
                Ok(format!("partition {}", written(self.resolve_span(span)?)))
            }
            Deed::Heal(None) => {
                let touched = std::mem::take(&mut self.partition).nodes();
                self.cut(&touched)?;
                Ok("heal".to_owned())
            }
            Deed::Heal(Some(span)) => {
                let removed = self.directions(span)?;
                self.partition.remove(&removed);
                self.cut(&removed.nodes())?;
                Ok(format!("heal {}", written(self.resolve_span(span)?)))
            }
        }
    }

    fn act_on(&mut self, action: Action, target: Target) -> Result<String, Failure> {
        let number = self.number(target)?;
        let node = &mut self.nodes[number - 1];
        let not_running = || Failure::usage(format!("node {number} does not run: restart {number} starts it"));
        match action {
            Action::Kill => node.process.take().ok_or_else(not_running)?.kill(),
            Action::Stop => node.process.as_mut().ok_or_else(not_running)?.signal(Signal::STOP),
            Action::Resume => node.process.as_mut().ok_or_else(not_running)?.signal(Signal::CONT),
            Action::Restart => self.restart(number)?,
        }
        Ok(format!("{} {number}", action.name()))
    }

    fn restart(&mut self, number: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[number - 1];
        drop(node.process.take());
        node.process = Some(node.command.spawn()?);
        if self.partition.nodes().contains(&number) {
            // It may not become ready before it is healed.
            return self.cut(&BTreeSet::from([number]));
        }
        let process = self.nodes[number - 1].process.as_mut().expect("it was just started");
        process.wait_ready(Instant::now() + READY_MAX)
    }

    /// Tells these nodes whom they are cut off from now.
    fn cut(&mut self, numbers: &BTreeSet<usize>) -> Result<(), Failure> {
        let members = self.register.members();
        let members = members.map_err(|error| Failure::other(format!("who is which node is not known: {error}")))?;
        let id = |number: usize| {
            let address = &self.nodes[number - 1].command.peer_listen;
            let member =
                members.iter().flat_map(|members| &members.nodes).find(|member| member.peer_address == *address);
            member.map(|member| member.node.0)
        };
        let cuts = |number: &usize| {
            let to = self.partition.deaf_to(*number).filter_map(id).collect();
            (*number, Cuts { to, from: self.partition.unheard_by(*number).filter_map(id).collect() })
        };
        let cuts: Vec<(usize, Cuts)> = numbers.iter().map(cuts).collect();
        for (number, cuts) in cuts {
            // One that does not run is told when it is started.
            if let Some(process) = &mut self.nodes[number - 1].process {
                process.cut(&cuts)?;
            }
        }
        Ok(())
    }

    fn directions(&mut self, span: Span) -> Result<Partition, Failure> {
        let count = self.nodes.len();
        Partition::of(span, count, |target| self.number(target).map_err(Wrong)).map_err(|Wrong(failure)| failure)
    }

    /// The same deed, its nodes by their numbers as they are meant now.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&mut self, deed: Deed) -> Result<Deed, Failure> {
        Ok(match deed {
            Deed::Act(action, target) => Deed::Act(action, Target::Node(self.number(target)?)),
            Deed::Partition(span) => Deed::Partition(self.resolve_span(span)?),
            Deed::Heal(span) => Deed::Heal(span.map(|span| self.resolve_span(span)).transpose()?),
        })
    }

    fn resolve_span(&mut self, span: Span) -> Result<Span, Failure> {
        let mut node = |target| self.number(target).map(Target::Node);
        Ok(match span {
            Span::Around(target) => Span::Around(node(target)?),
            Span::Between(one, other) => Span::Between(node(one)?, node(other)?),
            Span::OneWay(one, other) => Span::OneWay(node(one)?, node(other)?),
        })
    }

    /// The number of a node that is meant.
    fn number(&mut self, target: Target) -> Result<usize, Failure> {
        match target {
            Target::Node(number) if number <= self.nodes.len() => Ok(number),
            Target::Node(number) => {
                Err(Failure::usage(format!("there is no node {number}: they are 1 to {}", self.nodes.len())))
            }
            Target::Nth(role, nth) => self.layout.with(role).nth(nth - 1).ok_or_else(|| {
                let name = ROLE_NAMES.iter().find(|(known, _)| *known == role).expect("all have names").1;
                Failure::usage(format!(
                    "there is no {name}-{nth}: {} nodes have that role",
                    self.layout.with(role).count()
                ))
            }),
            Target::Primary => self.primary(),
            Target::Controller => self.controller(),
        }
    }

    /// For logspace 0 controllers have their turns in the order of their ids.
    fn controller(&mut self) -> Result<usize, Failure> {
        let unknown = |why: String| Failure::other(format!("which controller is first is not known: {why}"));
        let members = self.register.members().map_err(|error| unknown(error.to_string()))?;
        let runs =
            |number: &usize| self.nodes[number - 1].process.as_ref().is_some_and(|process| !process.is_stopped());
        let id = |number: usize| {
            let address = &self.nodes[number - 1].command.peer_listen;
            members.iter().flat_map(|members| &members.nodes).find(|member| member.peer_address == *address)
        };
        let running = self.layout.with(Role::Controller).filter(runs);
        let first = running.filter_map(|number| Some((id(number)?.node, number))).min();
        first.map(|(_, number)| number).ok_or_else(|| unknown("none runs".to_owned()))
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
            let unheard: Vec<usize> = self.partition.unheard_by(at + 1).collect();
            json!({
                "node": at + 1,
                "state": state,
                "process": process,
                "listen": node.command.listen,
                "primary": is_primary,
                "unheard": unheard,
            })
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

/// A failure of a target, or of a span.
struct Wrong(Failure);

impl From<String> for Wrong {
    fn from(text: String) -> Wrong {
        Wrong(Failure::usage(text))
    }
}

/// A resolved span, as it is written.
fn written(span: Span) -> String {
    let number = |target| match target {
        Target::Node(number) => number,
        _ => unreachable!("it is resolved"),
    };
    match span {
        Span::Around(target) => number(target).to_string(),
        Span::Between(one, other) => format!("{} {}", number(one), number(other)),
        Span::OneWay(one, other) => format!("{}->{}", number(one), number(other)),
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
