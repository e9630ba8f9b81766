//! `sealog node`: what operators do with the nodes of a cluster. The node that is asked decides; here the
//! plan is shown, and who asked is asked back.

use std::io::{IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use sealog::blocking::Client;
use sealog::{NodeChange, OperateRequest, StatusError};
use serde_json::Value;

use crate::arguments::{ClientArguments, Format, StatusArguments, duration};
use crate::connection::connect;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Between two looks at how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List the nodes of the cluster, and what each has that counts.
    List(StatusArguments),
    /// Give a node work again that was drained.
    ///
    /// A new node needs no command: started with the cluster's register, it joins by itself. It then takes
    /// the place of the next node that is drained or lost, or of the one that `node replace` names.
    Add(ChangeArguments),
    /// Have a node's work go to others: its views change, and what it holds is copied.
    ///
    /// Refused where it could never end: each logspace needs as many storages as it keeps copies, and as
    /// many sequencers as it has. The node goes on serving clients; when it has nothing that counts any
    /// more, `node remove` forgets it. `node add` takes it back.
    Drain(DrainArguments),
    /// Drain a node, and have another one take its place.
    Replace(ReplaceArguments),
    /// Forget a node that was drained and has nothing that counts any more. Its process ends.
    Remove(RemoveArguments),
}

#[derive(Debug, Args)]
pub struct ChangeArguments {
    /// The node: its number, or an address of it as `node list` prints them.
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Do not ask back.
    #[arg(long)]
    pub yes: bool,
    /// Print what it would do, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Wait until it has nothing that counts any more.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait; what was begun goes on by itself.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct DrainArguments {
    #[command(flatten)]
    pub change: ChangeArguments,
    #[command(flatten)]
    pub wait: WaitArguments,
}

#[derive(Debug, Args)]
pub struct ReplaceArguments {
    #[command(flatten)]
    pub change: ChangeArguments,
    /// The node that is to take its place, the same way.
    #[arg(value_name = "NEW")]
    pub new: String,
    #[command(flatten)]
    pub wait: WaitArguments,
}

#[derive(Debug, Args)]
pub struct RemoveArguments {
    #[command(flatten)]
    pub change: ChangeArguments,
    /// The node is gone for good, and what nobody else has is given up. The members remember it.
    #[arg(long)]
    pub accept_loss: bool,
}

pub fn run(verb: &NodeVerb) -> Result<(), Failure> {
    match verb {
        NodeVerb::List(arguments) => list(arguments),
        NodeVerb::Add(arguments) => change(arguments, |_| Ok(NodeChange::Add), None),
        NodeVerb::Drain(arguments) => {
            change(&arguments.change, |_| Ok(NodeChange::Drain { replacement: 0 }), Some(&arguments.wait))
        }
        NodeVerb::Replace(arguments) => {
            let by = |client: &Client| Ok(NodeChange::Drain { replacement: find(client, &arguments.new)? });
            change(&arguments.change, by, Some(&arguments.wait))
        }
        NodeVerb::Remove(arguments) => {
            let accept_loss = arguments.accept_loss;
            change(&arguments.change, |_| Ok(NodeChange::Remove { accept_loss }), None)
        }
    }
}

/// Asks the cluster, and reads the answer.
pub fn ask(client: &Client, request: OperateRequest) -> Result<Value, Failure> {
    let json = client.operate(request).map_err(|error| {
        let is_late = matches!(error, StatusError::Deadline { refusal: None });
        let failure = Failure::from(error);
        let changes = matches!(request, OperateRequest::Node { act: true, .. });
        match is_late && changes {
            true => Failure::new(
                Kind::OutcomeUnknown,
                format!("{failure}: it may be in force all the same; asking again is safe"),
            ),
            false => failure,
        }
    })?;
    serde_json::from_str(&json).map_err(|error| Failure::other(format!("the node's answer can't be read: {error}")))
}

/// Why it was refused, if it was: the exit code tells a wrong name from what would do harm.
pub fn refusal(answer: &Value) -> Option<Failure> {
    let refused = texts(&answer["refused"]);
    if refused.is_empty() {
        return None;
    }
    let is_usage = answer["unknown_node"] == true || answer["unknown_logspace"] == true;
    let kind = if is_usage { Kind::Usage } else { Kind::ConditionFailed };
    Some(Failure::new(kind, refused.join("\nsealog: ")))
}

pub fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn list(arguments: &StatusArguments) -> Result<(), Failure> {
    let answer = ask(&connect(&arguments.client)?, OperateRequest::Nodes)?;
    let mut output = Output::new(arguments.client.format.output);
    output.heading(&format!("{:20}  {:17}  {:9}  {:32}  has", "node", "state", "connected", "clients"))?;
    for node in answer["nodes"].as_array().into_iter().flatten() {
        output.line(node, |node| {
            let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
            let connected = if node["connected"] == true { "yes" } else { "no" };
            let has = has(&node["has"]);
            let has = if has.is_empty() { "nothing that counts".to_owned() } else { has.join("; ") };
            let address = text("client_address");
            format!("{:20}  {:17}  {connected:9}  {address:32}  {has}", text("node"), text("state"))
        })?;
    }
    output.flush()
}

/// What a node has, of each logspace.
fn has(has: &Value) -> Vec<String> {
    let of_logspace = |has: &Value| {
        let mut parts = Vec::new();
        for role in ["primary", "sequencer", "storage"] {
            if has[role] == true && !(role == "sequencer" && has["primary"] == true) {
                parts.push(role.to_owned());
            }
        }
        if has["shards"] != 0 {
            let bytes = ByteSize(has["bytes"].as_u64().unwrap_or(0)).display().iec().to_string();
            parts.push(format!("{} shards of {} records, about {bytes}", has["shards"], has["records"]));
        }
        if has["checkpoint"] == true {
            parts.push("checkpoint".to_owned());
        }
        if has["unknown"] == true {
            parts.push("copies not known here".to_owned());
        }
        format!("logspace {}: {}", has["logspace"], parts.join(", "))
    };
    has.as_array().into_iter().flatten().map(of_logspace).collect()
}

/// The number of a node that is named by it, or by an address.
fn find(client: &Client, name: &str) -> Result<u64, Failure> {
    if let Ok(node) = name.parse::<u64>() {
        return Ok(node);
    }
    let answer = ask(client, OperateRequest::Nodes)?;
    let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
    let is_named = |node: &&Value| node["client_address"] == name || node["peer_address"] == name;
    let found = nodes.iter().find(is_named).and_then(|node| node["node"].as_str()?.parse().ok());
    found.ok_or_else(|| {
        Failure::usage(format!("no node is called '{name}': give its number or address, as `sealog node list` does"))
    })
}

/// Shows what a change would do, asks back, and does it.
fn change(
    arguments: &ChangeArguments,
    change: impl FnOnce(&Client) -> Result<NodeChange, Failure>,
    wait: Option<&WaitArguments>,
) -> Result<(), Failure> {
    let client = connect(&arguments.client)?;
    let (node, change) = (find(&client, &arguments.node)?, change(&client)?);
    let mut output = Output::new(arguments.client.format.output);
    let plan = ask(&client, OperateRequest::Node { node, change, act: false })?;
    let refused = refusal(&plan);
    let is_json = arguments.client.format.output == Format::Json;
    if arguments.dry_run || refused.is_some() {
        if is_json || refused.is_none() {
            output.line(&plan, |plan| sentences(plan).join("\n"))?;
            output.flush()?;
        }
        return refused.map_or(Ok(()), Err);
    }
    let mut answer = plan;
    if answer["done"] != true {
        eprintln!("{}", sentences(&answer).join("\n"));
        confirm(arguments.yes)?;
        answer = ask(&client, OperateRequest::Node { node, change, act: true })?;
        if let Some(refused) = refusal(&answer) {
            return Err(refused);
        }
    }
    let wait = wait.filter(|wait| wait.wait);
    if let Some(wait) = wait {
        let changed = answer["changed"].take();
        answer = wait_until_empty(&client, node, change, wait.timeout)?;
        answer["changed"] = changed;
    }
    output.line(&answer, |answer| outcome(answer, wait.is_some()))?;
    output.flush()
}

/// What was done, in a sentence.
fn outcome(answer: &Value, has_waited: bool) -> String {
    let node = answer["node"].as_str().unwrap_or_default();
    let (command, changed) = (answer["command"].as_str().unwrap_or_default(), answer["changed"] == true);
    match (command, changed) {
        ("drain", _) if has_waited => {
            format!("node {node} is drained and has nothing that counts: `sealog node remove {node}` forgets it")
        }
        ("drain", true) => format!("node {node} is being drained: `sealog node drain {node} --wait` waits for it"),
        ("drain", false) => format!("node {node} is being drained already"),
        ("add", true) => format!("node {node} may be given work again"),
        ("add", false) => format!("node {node} is an active node of the cluster already: there is nothing to do"),
        ("remove", true) => format!("node {node} is forgotten; its process ends, and its data is not needed any more"),
        _ => format!("node {node} was removed already"),
    }
}

/// What a plan says, for people.
fn sentences(plan: &Value) -> Vec<String> {
    let node = plan["node"].as_str().unwrap_or_default();
    let mut lines = Vec::new();
    let (command, state) = (plan["command"].as_str().unwrap_or_default(), plan["state"].as_str().unwrap_or_default());
    let away = if plan["connected"] == true { "" } else { ", not connected" };
    lines.push(format!("{command} node {node} ({state}{away})"));
    if plan["done"] == true {
        lines.push("  it is so already".to_owned());
    }
    let names = |nodes: &Value| texts(nodes).join(", ");
    for view in plan["views"].as_array().into_iter().flatten() {
        let primary = if view["primary"] == true { ", with another primary" } else { "" };
        lines.push(format!("  the view of logspace {} changes{primary}:", view["logspace"]));
        for role in ["sequencers", "storages"] {
            let (now, next) = (names(&view[role]), names(&view[&*format!("next_{role}")]));
            if now != next {
                lines.push(format!("    {role} {now} become {next}"));
            }
        }
    }
    if command == "drain" {
        for has in plan["has"].as_array().into_iter().flatten().filter(|has| has["shards"] != 0) {
            let bytes = ByteSize(has["bytes"].as_u64().unwrap_or(0)).display().iec().to_string();
            let (shards, records, logspace) = (&has["shards"], &has["records"], &has["logspace"]);
            lines.push(format!(
                "  copies of {shards} shards of logspace {logspace} are made elsewhere: {records} records, about {bytes}"
            ));
        }
    }
    if command == "remove" {
        lines.extend(has(&plan["has"]).into_iter().map(|has| format!("  given up with it: {has}")));
    }
    for lost in plan["lost"].as_array().into_iter().flatten() {
        let (logspace, shards, records) = (&lost["logspace"], &lost["shards"], &lost["records"]);
        let others = match lost["others"].as_u64().unwrap_or(0) {
            0 => "LOST: no other node has them".to_owned(),
            others => format!("perhaps LOST: of the {others} nodes that may have them none has to"),
        };
        lines.push(format!("  {shards} shards with {records} records of logspace {logspace} are {others}"));
    }
    if command == "drain" && plan["empty"] == true {
        lines.push("  it has nothing that counts".to_owned());
    }
    lines
}

/// Asks back on a terminal.
fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nothing was changed: give --yes to do it, for there is no terminal to ask on"));
    }
    eprint!("Do it? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stderr().flush();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::stream("stdin", &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::other("nothing was changed")),
    }
}

/// Looks again and again what a node that is drained still has.
fn wait_until_empty(client: &Client, node: u64, change: NodeChange, timeout: Duration) -> Result<Value, Failure> {
    let (began, mut said) = (Instant::now(), String::new());
    loop {
        let plan = ask(client, OperateRequest::Node { node, change, act: false })?;
        if plan["state"] != "draining" {
            let state = plan["state"].as_str().unwrap_or("no member");
            return Err(Failure::other(format!("node {node} is {state} now: somebody changed it meanwhile")));
        }
        if plan["empty"] == true {
            return Ok(plan);
        }
        let has = has(&plan["has"]).join("; ");
        if began.elapsed() >= timeout {
            let message = format!("node {node} still has {has}: it goes on by itself, wait again");
            return Err(Failure::new(Kind::Unreachable, message));
        }
        if has != said {
            eprintln!("sealog: node {node} still has {has}");
            said = has;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
