//! Several processes that form a cluster, by a register in files that they share.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealog::Durability;
use sealog_history::History;

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{Ended, Node, NodeCommand, binary, fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0041;
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody has just now: nodes of a cluster are found at fixed ones.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

/// A register in files of this directory.
pub fn register(directory: &Path) -> String {
    format!("file:{}", directory.join("register").display())
}

/// A node with all roles of the cluster in this directory.
pub fn member(directory: &Path, name: &str) -> NodeCommand {
    member_of(&register(directory), directory, name)
}

/// As [`member`], of the cluster of another register.
pub fn member_of(register: &str, directory: &Path, name: &str) -> NodeCommand {
    let mut command = NodeCommand::new(&directory.join(name));
    command.verb = "serve";
    command.listen = format!("127.0.0.1:{}", free_port());
    command.variables =
        vec![("SEALOG_REGISTER", register.to_owned()), ("SEALOG_PEER_LISTEN", format!("127.0.0.1:{}", free_port()))];
    command
}

fn init(directory: &Path, more: &[&str]) -> Ended {
    init_in(&register(directory), more)
}

pub fn init_in(register: &str, more: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(["cluster", "init", "-o", "json", "--register", register]).args(more);
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

const WISHES: &[&str] = &["--replicas", "3", "--write-quorum", "2", "--logspaces", "2"];

/// Starts nodes that serve only once the cluster is formed, and forms it of them.
pub fn form(directory: &Path, commands: &[NodeCommand]) -> Vec<Node> {
    form_in(&register(directory), commands)
}

/// As [`form`], by another register.
pub fn form_in(register: &str, commands: &[NodeCommand]) -> Vec<Node> {
    form_of(register, commands, WISHES)
}

pub fn form_of(register: &str, commands: &[NodeCommand], wishes: &[&str]) -> Vec<Node> {
    let start = |command: &NodeCommand| {
        let command = command.clone();
        std::thread::spawn(move || command.start())
    };
    let starting: Vec<JoinHandle<Result<Node, Ended>>> = commands.iter().map(start).collect();
    let nodes = commands.len().to_string();
    let ended = init_in(register, &[&["--nodes", &nodes], wishes].concat());
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let ready = |starting: JoinHandle<Result<Node, Ended>>| {
        starting.join().expect("no panic").unwrap_or_else(|ended| panic!("it does not start: {ended:?}"))
    };
    starting.into_iter().map(ready).collect()
}

fn payloads(node: &Node, tag: &str) -> Vec<String> {
    let ended = node.sealog(&["read", "orders", "--tag", tag]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let payload = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        record["data"].as_str().or(record["payload"].as_str()).expect("text").to_owned()
    };
    ended.stdout.lines().map(payload).collect()
}

#[test]
fn three_processes_append_and_read_by_each_other() {
    let _machine = quiet_machine();
    let directory = fresh_directory("cluster-three");
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let nodes = form(&directory, &commands);
    for (number, node) in nodes.iter().enumerate() {
        let ended = node.sealog(&["append", "orders", "--tag", "all", &format!("of {number}")]);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
    }
    let linearizable = nodes[0].sealog(&["check-tail", "orders", "--linearizable"]);
    assert_eq!(linearizable.code(), Some(0), "{linearizable:?}");
    for node in &nodes {
        let began = Instant::now();
        while payloads(node, "all") != ["of 0", "of 1", "of 2"] {
            assert!(began.elapsed() < PATIENCE, "{:?}", payloads(node, "all"));
        }
    }
    init(&directory, &[]).expect_failure(2, &["has a cluster already"]);
    nodes.into_iter().for_each(Node::stop);
}

/// Each node is killed under load; those that are left are a quorum of all, and a node that comes back
/// finds its data. The primaries of two logspaces are among them.
#[test]
fn a_cluster_goes_on_through_kills_of_each_node_and_loses_nothing() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("cluster-kills");
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let mut nodes: Vec<Option<Node>> = form(&directory, &commands).into_iter().map(Some).collect();
    let (clock, mut history, mut lines) = (Instant::now(), History::new(2), 0);
    for killed in 0..3 {
        let address = commands[(killed + 1) % 3].listen.clone();
        let settings = LoadSettings {
            name: format!("round {killed}"),
            address,
            clients: 4,
            in_flight_per_client: 8,
            deadline: Duration::from_secs(120),
            seed: seed ^ killed as u64,
            logspaces: 2.into(),
            class: Durability::Disk,
        };
        let load = Load::start(&settings, clock);
        assert!(load.wait_for_acknowledgements(500), "the clients have given up");
        nodes[killed].take().expect("it runs").kill();
        nodes[killed] = Some(commands[killed].start().unwrap_or_else(|ended| panic!("{killed}: {ended:?}")));
        assert!(load.wait_for_acknowledgements(2000), "the clients have given up");
        join(&mut history, load.stop(), &mut lines);
    }
    let report = read_everything_and_check(&commands[0].listen, &history).expect("a correct log");
    println!("{report:?}");
    assert!(report.appends_acknowledged >= 6000);
    nodes.into_iter().flatten().for_each(Node::stop);
}

/// What a node says of its cluster, once that is so.
pub fn until(node: &Node, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let began = Instant::now();
    loop {
        let status = node.status();
        if is_so(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {status}");
    }
}

/// A node that leads no logspace is missed by nobody: the others are W of R and a majority.
#[test]
fn appends_go_on_without_a_node_that_leads_nothing_and_the_status_says_who_is_missing() {
    let _machine = quiet_machine();
    let directory = fresh_directory("cluster-without");
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let wishes = [WISHES, &["--memory-logspaces", "0"]].concat();
    let mut nodes: Vec<Node> = form_of(&register(&directory), &commands, &wishes);
    let status = until(&nodes[0], "all see each other", |status| status["state"] == "ready");
    assert_eq!((status["members"].as_array().map(Vec::len), &status["views"][1]["write_quorum"]), (Some(3), &2.into()));
    let leads = |node: &Node| {
        let status = node.status();
        status["views"].as_array().expect("views").iter().any(|view| view["primary"] == status["node"])
    };
    let idle = nodes.iter().position(|node| !leads(node)).expect("three nodes, two logspaces");
    let id = nodes[idle].status()["node"].clone();
    nodes.remove(idle).kill();
    let ask = |node: &Node| until(node, "it is missed", |status| status["state"] == "degraded");
    let degraded = ask(&nodes[0])["degraded"].to_string();
    assert!(degraded.contains(id.as_str().expect("a string")) && degraded.contains("not connected"), "{degraded}");
    let address = nodes[0].address.clone();
    let settings = LoadSettings {
        name: "without".to_owned(),
        address: address.clone(),
        clients: 4,
        in_flight_per_client: 8,
        deadline: Duration::from_secs(60),
        seed: SEED,
        logspaces: 2.into(),
        class: Durability::Disk,
    };
    let load = Load::start(&settings, Instant::now());
    assert!(load.wait_for_acknowledgements(2000), "the clients have given up");
    let history = load.stop();
    // What it missed comes to it when it is back: its own engine has every record, and says so.
    let back = commands[idle].start().unwrap_or_else(|ended| panic!("{ended:?}"));
    until(&back, "it is back", |status| status["state"] == "ready");
    read_everything_and_check(&back.address, &history).expect("a correct log");
    nodes.into_iter().chain([back]).for_each(Node::stop);
}

/// One node for each role, and a client that comes to one without an engine.
#[test]
fn roles_are_spread_over_nodes() {
    let _machine = quiet_machine();
    let directory = fresh_directory("cluster-roles");
    let roles = ["engine", "storage,sequencer", "controller"];
    let commands = roles.map(|roles| {
        let mut command = member(&directory, &roles.replace(',', "-"));
        command.variables.push(("SEALOG_ROLES", roles.to_owned()));
        command
    });
    let nodes =
        form_of(&register(&directory), &commands, &["--replicas", "1", "--write-quorum", "1", "--logspaces", "1"]);
    let ended = nodes[0].sealog(&["append", "orders", "--tag", "all", "spread"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(payloads(&nodes[0], "all"), ["spread"]);
    let ended = nodes[1].sealog(&["read", "orders", "--deadline", "1s"]);
    assert_ne!(ended.code(), Some(0));
    assert!(ended.stderr.contains("runs no engine") && ended.stderr.contains(&nodes[0].address), "{ended:?}");
    assert_eq!(nodes[1].status()["roles"], serde_json::json!(["storage", "sequencer"]));
    // One more joins the running cluster: the others are told of it, let it in and call it.
    let mut more = member(&directory, "more");
    more.variables.push(("SEALOG_ROLES", "engine".to_owned()));
    let more = more.start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    let ended = more.sealog(&["append", "orders", "--tag", "all", "more"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(payloads(&more, "all"), ["spread", "more"]);
    nodes.into_iter().chain([more]).for_each(Node::stop);
}

/// A copy that was made of a node while it was stopped takes its place; when the node goes on it ends,
/// and says why. Nothing tells which of the two its operator wants.
#[test]
fn a_node_whose_later_life_began_elsewhere_ends() {
    let _machine = quiet_machine();
    let directory = fresh_directory("cluster-twice");
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let mut nodes = form(&directory, &commands);
    let mut first = nodes.remove(0);
    first.signal(Signal::STOP);
    copy_files(&directory.join("a"), &directory.join("copy"));
    let copy = member(&directory, "copy").start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    first.signal(Signal::CONT);
    let began = Instant::now();
    while first.is_running() {
        assert!(began.elapsed() < PATIENCE, "it goes on in a life that is over");
        std::thread::yield_now();
    }
    first.wait().expect_failure(1, &["has begun at", "was copied, or is used twice"]);
    let ended = nodes[0].sealog(&["append", "orders", "--tag", "all", "on"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let ended = commands[0].start_failing();
    ended.expect_failure(1, &["runs already"]);
    nodes.into_iter().chain([copy]).for_each(Node::stop);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("it has one");
        if kind.is_dir() {
            copy_files(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

#[test]
fn what_is_no_member_is_refused() {
    let directory = fresh_directory("cluster-refused");
    let wrong = ["--write-quorum", "4"];
    init(&directory, &wrong).expect_failure(2, &["--write-quorum is 4", "--replicas (3)"]);
    init(&directory, &["--nodes", "2"]).expect_failure(2, &["--nodes is 2", "3 replicas"]);
    init(&directory, &["--deadline", "1ms"]).expect_failure(3, &["0 of 3 nodes", "run this again"]);
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let nodes = form(&directory, &commands);
    let mut alone = member(&directory, "alone");
    alone.variables[1].1 = "127.0.0.1:0".to_owned();
    alone.start_failing().expect_failure(2, &["peer_listen", "with a port"]);
    // A node that was alone does not become a member with what it has.
    let data = directory.join("d");
    Node::start(&data).stop();
    let mut other = member(&directory, "d");
    other.start_failing().expect_failure(2, &["of cluster"]);
    other.variables.clear();
    other.verb = "dev";
    other.start().expect("it is what it was").stop();
    // A copy of the data directory of a member, while that runs.
    let copy = directory.join("copy");
    std::fs::create_dir(&copy).expect("a directory");
    for file in ["identity", "member"] {
        std::fs::copy(directory.join("a").join(file), copy.join(file)).expect("copied");
    }
    member(&directory, "copy").start_failing().expect_failure(1, &["runs already", "give it an empty one"]);
    let mut nodes = nodes.into_iter();
    // The data directory of a member, as it was a life ago.
    let first = nodes.next().expect("three nodes");
    first.stop();
    let identity = directory.join("a/identity");
    let earlier = std::fs::read(&identity).expect("it is there");
    let first = commands[0].start().expect("its second life");
    first.stop();
    std::fs::write(&identity, earlier).expect("it is ours");
    commands[0].start_failing().expect_failure(1, &["is a copy, or was set back"]);
    // One whose journal is gone: it would answer for what it forgot.
    nodes.next().expect("a second").stop();
    std::fs::remove_dir_all(directory.join("b/journal-0")).expect("ours to remove");
    commands[1].start_failing().expect_failure(1, &["journal-0 is gone or empty"]);
    nodes.for_each(Node::stop);
}
