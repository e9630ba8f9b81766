//! Several processes that form a cluster, by a register in files that they share.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

fn register(directory: &Path) -> String {
    format!("file:{}", directory.join("register").display())
}

/// A node with all roles of the cluster in this directory.
fn member(directory: &Path, name: &str) -> NodeCommand {
    let mut command = NodeCommand::new(&directory.join(name));
    command.verb = "serve";
    command.listen = format!("127.0.0.1:{}", free_port());
    command.variables =
        vec![("SEALOG_REGISTER", register(directory)), ("SEALOG_PEER_LISTEN", format!("127.0.0.1:{}", free_port()))];
    command
}

fn init(directory: &Path, more: &[&str]) -> Ended {
    let mut command = Command::new(binary());
    command.args(["cluster", "init", "-o", "json", "--register", &register(directory)]).args(more);
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Starts nodes that serve only once the cluster is formed, and forms it of them.
fn form(directory: &Path, commands: &[NodeCommand]) -> Vec<Node> {
    let start = |command: &NodeCommand| {
        let command = command.clone();
        std::thread::spawn(move || command.start())
    };
    let starting: Vec<JoinHandle<Result<Node, Ended>>> = commands.iter().map(start).collect();
    let nodes = commands.len().to_string();
    let ended = init(directory, &["--nodes", &nodes, "--replicas", "3", "--write-quorum", "2", "--logspaces", "2"]);
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
            logspaces: 2,
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
    // The data directory of a member, as it was a life ago.
    let mut nodes = nodes.into_iter();
    let first = nodes.next().expect("three nodes");
    first.stop();
    let identity = directory.join("a/identity");
    let earlier = std::fs::read(&identity).expect("it is there");
    let first = commands[0].start().expect("its second life");
    first.stop();
    std::fs::write(&identity, earlier).expect("it is ours");
    commands[0].start_failing().expect_failure(1, &["is a copy, or was set back"]);
    nodes.for_each(Node::stop);
}
