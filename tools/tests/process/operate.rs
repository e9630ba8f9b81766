//! What operators do with the nodes of a cluster: drain, replace and remove them under load, restart them
//! one after another, and end a view whose nodes are gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use sealog::Durability;
use sealog_history::History;
use serde_json::Value;

use crate::cluster::{form, form_of, init_in, member, member_of, register, until};
use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{Ended, Node, NodeCommand, fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0061;
const PATIENCE: Duration = Duration::from_secs(120);

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// A command that is done.
fn done(node: &Node, arguments: &[&str]) -> Value {
    let ended = node.sealog(arguments);
    assert_eq!(ended.code(), Some(0), "{arguments:?}: {ended:?}");
    json(&ended)
}

fn id(node: &Node) -> String {
    node.status()["node"].as_str().expect("a string").to_owned()
}

fn start(command: &NodeCommand) -> Node {
    command.start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"))
}

/// Clients that know of these nodes.
fn load(nodes: &[&Node], name: &str, seed: u64, clock: Instant) -> Load {
    let addresses: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
    let settings = LoadSettings {
        name: name.to_owned(),
        address: addresses.join(","),
        clients: 4,
        in_flight_per_client: 8,
        deadline: PATIENCE,
        seed,
        logspaces: 2.into(),
        class: Durability::Disk,
    };
    Load::start(&settings, clock)
}

/// It ends by itself, for it was removed, and does not come back.
fn ends(mut node: Node, command: &NodeCommand) {
    let began = Instant::now();
    while node.is_running() {
        assert!(began.elapsed() < PATIENCE, "it goes on although it was removed");
        std::thread::yield_now();
    }
    node.wait().expect_failure(1, &["was removed from the cluster"]);
    command.start_failing().expect_failure(1, &["was removed", "empty data directory"]);
}

/// Under load, each node that the cluster was formed of is drained and removed, its data gone for good,
/// and another takes its place: at the end nobody is left who took the first record.
#[test]
fn a_logspace_moves_to_other_nodes_under_load_and_loses_nothing() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("operate-moves");
    let commands = ["a", "b", "c", "d", "e", "f"].map(|name| member(&directory, name));
    let mut nodes = form(&directory, &commands[..3]);
    let (clock, mut history, mut lines) = (Instant::now(), History::new(2), 0);
    for round in 0..3 {
        nodes.push(start(&commands[3 + round]));
        let staying: Vec<&Node> = nodes[1..].iter().collect();
        let load = load(&staying, &format!("round {round}"), seed ^ round as u64, clock);
        assert!(load.wait_for_acknowledgements(1000), "the clients have given up");
        let (leaving, new) = (id(&nodes[0]), id(&nodes[3]));
        nodes[1].sealog(&["node", "remove", &leaving, "--yes"]).expect_failure(5, &["has to be drained before"]);
        // The last time, a certain one takes the place.
        let drained = match round {
            2 => done(&nodes[1], &["node", "replace", &leaving, &new, "--yes", "--wait"]),
            _ => done(&nodes[1], &["node", "drain", &leaving, "--yes", "--wait"]),
        };
        assert_eq!((&drained["empty"], &drained["state"]), (&true.into(), &"draining".into()), "{drained}");
        let removed = done(&nodes[1], &["node", "remove", &leaving, "--yes"]);
        assert_eq!((&removed["changed"], &removed["lost"]), (&true.into(), &Value::Array(Vec::new())), "{removed}");
        ends(nodes.remove(0), &commands[round]);
        std::fs::remove_dir_all(&commands[round].data).expect("ours to remove");
        assert!(load.wait_for_acknowledgements(2000), "the clients have given up");
        join(&mut history, load.stop_without_errors(), &mut lines);
    }
    let report = read_everything_and_check(&nodes[2].address, &history).expect("a correct log");
    println!("{report:?}");
    assert!(report.appends_acknowledged >= 6000);
    let members = nodes[0].status()["members"].clone();
    let removed = members.as_array().expect("members").iter().filter(|member| member["state"] == "removed").count();
    assert_eq!(removed, 3, "{members}");
    let views = nodes[0].sealog(&["view", "0"]);
    assert!(views.stdout.contains("node replaced"), "{views:?}");
    nodes.into_iter().for_each(Node::stop);
}

/// Each node is stopped in order and started again; no client meets an error.
#[test]
fn a_rolling_restart_of_every_node_is_no_error_to_any_client() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("operate-rolling");
    let commands = ["a", "b", "c"].map(|name| member(&directory, name));
    let mut nodes = form(&directory, &commands);
    let load = load(&nodes.iter().collect::<Vec<_>>(), "rolling", seed, Instant::now());
    let mut wanted = 0;
    for (at, command) in commands.iter().enumerate() {
        wanted += 500;
        assert!(load.wait_for_acknowledgements(wanted), "the clients have given up");
        let node = nodes.remove(at);
        node.stop();
        nodes.insert(at, start(command));
        for node in &nodes {
            until(node, "all are there again", |status| status["state"] == "ready");
        }
    }
    assert!(load.wait_for_acknowledgements(wanted + 500), "the clients have given up");
    let history = load.stop_without_errors();
    let report = read_everything_and_check(&nodes[0].address, &history).expect("a correct log");
    println!("{report:?}");
    assert!(report.appends_acknowledged >= 2000);
    nodes.into_iter().for_each(Node::stop);
}

/// What can't be done is refused before anything is changed, with what to do instead; and what is done
/// already is no error.
#[test]
fn commands_that_would_lose_something_are_refused() {
    let directory = fresh_directory("operate-refused");
    let commands = ["a", "b", "c", "d"].map(|name| member(&directory, name));
    let mut nodes = form(&directory, &commands[..3]);
    let ids: Vec<String> = nodes.iter().map(id).collect();
    let (asked, first) = (&nodes[1], &*ids[0]);
    assert_eq!(asked.sealog(&["append", "orders", "placed"]).code(), Some(0));
    asked.sealog(&["node", "drain", first, "--yes"]).expect_failure(5, &["copies of each record", "start one more"]);
    asked.sealog(&["node", "drain", "7", "--yes"]).expect_failure(2, &["no node 7", "node list"]);
    asked.sealog(&["node", "drain", "nowhere:1", "--yes"]).expect_failure(2, &["'nowhere:1'", "node list"]);
    asked.sealog(&["node", "remove", first, "--yes"]).expect_failure(5, &["has to be drained before"]);
    asked.sealog(&["node", "remove", first, "--yes", "--accept-loss"]).expect_failure(5, &["is there and connected"]);
    asked.sealog(&["node", "replace", first, &ids[1], "--yes"]).expect_failure(5, &["start one more"]);
    asked.sealog(&["view", "9"]).expect_failure(2, &["no logspace 9"]);
    asked.sealog(&["view", "force-seal", "9", "--accept-loss"]).expect_failure(2, &["no logspace 9"]);
    let forced = asked.sealog(&["view", "force-seal", "0"]);
    forced.expect_failure(2, &["--accept-loss"]);
    assert_eq!(json(&forced)["lossless"], true);
    assert_eq!(asked.status()["views"][0]["view"], 1, "nothing was changed");
    let added = done(asked, &["node", "add", first, "--yes"]);
    assert_eq!((&added["done"], &added["changed"]), (&true.into(), &false.into()));

    nodes.push(start(&commands[3]));
    let asked = &nodes[1];
    let plan = done(asked, &["node", "drain", first, "--dry-run"]);
    assert_eq!((&plan["changed"], plan["views"].as_array().map(Vec::len)), (&false.into(), Some(3)), "{plan}");
    asked.sealog(&["node", "drain", first]).expect_failure(2, &["--yes", "no terminal"]);
    // By an address, as well, and of a node that is not asked itself.
    let drained = done(asked, &["node", "drain", &nodes[0].address, "--yes", "--wait"]);
    assert_eq!(drained["empty"], true);
    let again = done(asked, &["node", "drain", first, "--yes"]);
    assert_eq!((&again["done"], &again["changed"]), (&true.into(), &false.into()));
    let second = asked.sealog(&["node", "drain", &ids[2], "--yes"]);
    second.expect_failure(5, &["start one more"]);
    let list = asked.sealog(&["node", "list"]);
    let states: Vec<Value> = list.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |id: &str| states.iter().find(|node| node["node"] == id).expect("it is listed");
    assert_eq!((of(first)["state"].as_str(), of(first)["empty"].as_bool()), (Some("draining"), Some(true)));
    assert_eq!((of(&ids[1])["state"].as_str(), of(&ids[1])["empty"].as_bool()), (Some("active"), Some(false)));
    // It is taken back, and is the spare for the next.
    assert_eq!(done(asked, &["node", "add", first, "--yes"])["changed"], true);
    let replaced = done(asked, &["node", "replace", &ids[2], first, "--yes", "--wait"]);
    assert_eq!(replaced["empty"], true);
    nodes.into_iter().for_each(Node::stop);
    // A node alone is in no cluster.
    let alone = Node::start(&directory.join("alone"));
    alone.sealog(&["node", "drain", "1", "--yes"]).expect_failure(5, &["this node is alone"]);
    assert_eq!(alone.sealog(&["node", "list"]).stdout.lines().count(), 1);
    assert!(alone.sealog(&["view"]).stdout.contains("created"));
    alone.stop();
}

/// An address where nothing answers, and one where what answers is no etcd.
#[test]
fn a_register_that_is_not_there_or_is_none_is_told() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("it has one");
    // It answers as a web server does, until the test ends.
    spawn(move || {
        for mut stream in other.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
        }
    });
    let directory = fresh_directory("operate-register");
    for (name, register) in [("no", "etcd://127.0.0.1:1/x".to_owned()), ("web", format!("etcd://{address}/x"))] {
        let endpoint = register.trim_start_matches("etcd://").trim_end_matches("/x");
        init_in(&register, &["--deadline", "2s"]).expect_failure(3, &["register", endpoint]);
        // A node waits for it, and says so.
        let mut node = member_of(&register, &directory, name).spawn();
        let stderr = BufReader::new(node.stderr.take().expect("it is piped"));
        let said = stderr.lines().map_while(Result::ok).find(|line| line.contains("waiting"));
        node.kill().and_then(|()| node.wait()).expect("it waits, so it runs");
        assert!(said.as_ref().is_some_and(|said| said.contains(endpoint)), "{said:?}");
    }
}

/// Two of three nodes are gone for good, with what only they had. Two new ones are started; the operator
/// gives up what can't be had, and appends go on. The chain and the members remember it.
#[test]
fn a_lost_quorum_is_given_up_by_force_and_that_is_remembered() {
    let _machine = quiet_machine();
    let directory = fresh_directory("operate-forced");
    let commands = ["a", "b", "c", "d", "e"].map(|name| member(&directory, name));
    let wishes = ["--replicas", "3", "--write-quorum", "2", "--logspaces", "1", "--memory-logspaces", "0"];
    let mut nodes = form_of(&register(&directory), &commands[..3], &wishes);
    assert_eq!(nodes[2].sealog(&["append", "orders", "placed"]).code(), Some(0));
    let gone: Vec<String> = nodes[..2].iter().map(id).collect();
    for (node, command) in nodes.drain(..2).zip(&commands) {
        node.kill();
        std::fs::remove_dir_all(&command.data).expect("ours to remove");
    }
    let left = &nodes[0];
    until(left, "they are missed", |status| status["degraded"].to_string().contains("waits for"));
    left.sealog(&["view", "force-seal", "0", "--accept-loss"]).expect_failure(5, &["more living nodes", "storage"]);
    left.sealog(&["node", "drain", &gone[0], "--yes"]).expect_failure(5, &["can't be changed now", "force-seal 0"]);
    // They join, and serve when the logspace goes on.
    let starting: Vec<JoinHandle<Node>> = commands[3..].iter().cloned().map(|of| spawn(move || start(&of))).collect();
    until(left, "the new ones are there", |status| {
        status["members"].to_string().matches("\"connected\":true").count() == 3
    });
    let told = left.sealog(&["view", "force-seal", "0"]);
    told.expect_failure(2, &["--accept-loss"]);
    assert_eq!(
        (&json(&told)["lossless"], json(&told)["missing_storages"].as_array().map(Vec::len)),
        (&false.into(), Some(2))
    );
    let next = done(left, &["view", "force-seal", "0", "--accept-loss"]);
    assert_eq!((&next["after_loss"], &next["reason"]), (&true.into(), &"force-sealed".into()), "{next}");
    let ended = left.sealog(&["append", "orders", "after", "--deadline", "30s"]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let started: Vec<Node> = starting.into_iter().map(|node| node.join().expect("no panic")).collect();
    for id in &gone {
        let removed = done(left, &["node", "remove", id, "--yes", "--accept-loss"]);
        assert_eq!(removed["changed"], true, "{removed}");
    }
    let views = left.sealog(&["view", "0", "--limit", "1"]);
    assert!(views.stdout.contains("\"after_loss\":true"), "for ever: {views:?}");
    until(left, "nobody is missed", |status| status["state"] == "ready");
    nodes.into_iter().chain(started).for_each(Node::stop);
}
