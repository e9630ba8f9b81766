//! `sealog cluster`: forming a cluster of several nodes.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use sealog_node::forming::{Formation, FormingError, form};
use sealog_node::register::{self, RegisterSetting};
use serde_json::{Value, json};

use crate::arguments::{OutputArguments, duration};
use crate::failure::{Failure, Kind};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Form a cluster, once: wait until the nodes have joined, and make the first views of them.
    ///
    /// Nodes are started before or meanwhile, by `sealog serve` with the same register. Interrupted, the
    /// command is run again and goes on.
    Init(InitArguments),
}

#[derive(Debug, Args)]
pub struct InitArguments {
    /// The register of the cluster: etcd://HOST:PORT/PREFIX, or file:/DIR for nodes of one machine.
    #[arg(long, value_name = "REGISTER", value_parser = shared_register)]
    pub register: RegisterSetting,
    /// Nodes to wait for.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub nodes: usize,
    /// Storages that each record is written to.
    #[arg(long, value_name = "R", default_value_t = 3)]
    pub replicas: usize,
    /// Of them, those that have it on disk when it is acknowledged.
    #[arg(long, value_name = "W", default_value_t = 2)]
    pub write_quorum: usize,
    /// Sequencer replicas of each logspace [default: 3, or 1 where fewer nodes could be].
    #[arg(long, value_name = "N")]
    pub sequencers: Option<usize>,
    /// Physical logs that LogBooks are spread over, for ever: more leave room to grow.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub logspaces: u16,
    /// Beside those, physical logs of class memory, likewise for ever; 0: `--class memory` is refused.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub memory_logspaces: u16,
    /// The cluster's id [default: drawn at random].
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub cluster: Option<u64>,
    /// How long to wait for the nodes, for example 30s or 10m.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub deadline: Duration,
    #[command(flatten)]
    pub format: OutputArguments,
}

fn shared_register(text: &str) -> Result<RegisterSetting, String> {
    RegisterSetting::parse(text)
        .filter(|register| *register != RegisterSetting::Own)
        .ok_or_else(|| "write it as etcd://HOST:PORT/PREFIX, or file:/DIR with an absolute path".to_owned())
}

pub fn run(verb: &ClusterVerb) -> Result<(), Failure> {
    match verb {
        ClusterVerb::Init(arguments) => init(arguments),
    }
}

fn init(arguments: &InitArguments) -> Result<(), Failure> {
    let InitArguments { nodes, replicas, write_quorum, sequencers, logspaces, memory_logspaces, cluster, .. } =
        *arguments;
    let formation = Formation { nodes, replicas, write_quorum, sequencers, logspaces, memory_logspaces, cluster };
    for doubt in formation.check().map_err(failure)? {
        eprintln!("sealog: {doubt}");
    }
    let mut register =
        register::open(&arguments.register, Path::new(".")).map_err(|error| Failure::usage(error.to_string()))?;
    let members = form(&mut *register, &formation, arguments.deadline, |members| {
        eprintln!("sealog: {} of {nodes} nodes have joined cluster {}", members.nodes.len(), members.cluster);
    })
    .map_err(failure)?;
    let addresses: Vec<&str> = members.nodes.iter().map(|member| &*member.client_address).collect();
    let members_json: Vec<Value> = members
        .nodes
        .iter()
        .map(|member| {
            json!({ "node": member.node.to_string(), "client": member.client_address, "peer": member.peer_address })
        })
        .collect();
    let line = json!({
        "cluster": members.cluster.to_string(),
        "logspaces": logspaces,
        "memory_logspaces": memory_logspaces,
        "replicas": replicas,
        "write_quorum": write_quorum,
        "nodes": members_json,
    });
    let mut output = Output::new(arguments.format.output);
    output.line(&line, |_| {
        format!("cluster {} is formed; clients connect to {}", members.cluster, addresses.join(" or "))
    })?;
    output.flush()
}

fn failure(error: FormingError) -> Failure {
    let kind = match error {
        FormingError::Contradiction { .. } | FormingError::Begun { .. } | FormingError::Exists { .. } => Kind::Usage,
        FormingError::Missing { .. } | FormingError::Register(_) => Kind::Unreachable,
        FormingError::Random(_) => Kind::Other,
    };
    Failure::new(kind, error.to_string())
}
