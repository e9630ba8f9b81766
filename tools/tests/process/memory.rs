//! Class memory: what it survives, what it may lose, and that the LogBooks of class disk beside it lose
//! nothing.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sealog::Durability;
use sealog_history::History;
use sealog_protocol::{LogspaceId, Logspaces};
use serde_json::Value;

use crate::cluster::{form_in, member_of};
use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{Ended, Node, NodeCommand, fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0051;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the clusters here: two logspaces of class disk, and the one of class memory that comes by itself.
const OF_CLUSTER: Logspaces = Logspaces { disk: 2, memory: 1 };
/// No view came after what may be a loss.
const NONE: Vec<u64> = Vec::new();
const OF_NODE: Logspaces = Logspaces { disk: 1, memory: 1 };

fn settings(name: &str, address: &str, class: Durability, logspaces: Logspaces, seed: u64) -> LoadSettings {
    LoadSettings {
        name: name.to_owned(),
        address: address.to_owned(),
        clients: 3,
        in_flight_per_client: 8,
        deadline: Duration::from_secs(120),
        seed,
        logspaces,
        class,
    }
}

/// Three nodes, and how each is started again.
fn cluster(directory: &Path) -> ([NodeCommand; 3], Vec<Node>) {
    let register = format!("file:{}", directory.join("register").display());
    let commands = ["a", "b", "c"].map(|name| member_of(&register, directory, name));
    let nodes = form_in(&register, &commands);
    (commands, nodes)
}

/// What a node says of a logspace in one of the lists of its status.
fn of_logspace<'a>(status: &'a Value, list: &str, logspace: u16) -> &'a Value {
    let all = status[list].as_array().expect("a list").iter();
    all.into_iter().find(|one| one["logspace"] == logspace).expect("it is there")
}

/// The views of a logspace that come after what may be a loss.
fn losses(status: &Value, logspace: u16) -> Vec<u64> {
    let losses = of_logspace(status, "views", logspace)["after_loss"].as_array().expect("a list");
    losses.iter().map(|view| view.as_u64().expect("a number")).collect()
}

/// Waits until every node counts in one view of class memory: as many as ever may be lost again.
fn until_all_count<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, logspace: u16) {
    let began = Instant::now();
    loop {
        let statuses: Vec<Value> = nodes.clone().map(Node::status).collect();
        let views: Vec<&Value> =
            statuses.iter().map(|status| &of_logspace(status, "views", logspace)["view"]).collect();
        let counts = |status: &Value, role: &str| of_logspace(status, "logspaces", logspace)[role]["counts"] == true;
        let all = statuses.iter().all(|status| {
            let is_current = of_logspace(status, "logspaces", logspace)["sequencer"]["view"] == *views[0];
            is_current && counts(status, "storage") && counts(status, "sequencer")
        });
        if all && views.iter().all(|view| *view == views[0]) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{statuses:#?}");
    }
}

/// W − 1 of the storages and a minority of the replicas may go within a view, also the primary; once who
/// came back counts again, the next one may.
#[test]
fn what_is_acknowledged_in_memory_outlives_kills_of_each_node() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("memory-kills");
    let (commands, nodes) = cluster(&directory);
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    let (clock, mut history, mut lines) = (Instant::now(), History::new(OF_CLUSTER), 0);
    for killed in 0..3 {
        let address = &commands[(killed + 1) % 3].listen;
        let name = format!("round {killed}");
        let load = settings(&name, address, Durability::Memory, OF_CLUSTER, seed ^ killed as u64);
        let load = Load::start(&load, clock);
        assert!(load.wait_for_acknowledgements(500), "the clients have given up");
        nodes[killed].take().expect("it runs").kill();
        assert!(load.wait_for_acknowledgements(1000), "the clients have given up");
        nodes[killed] = Some(commands[killed].start().unwrap_or_else(|ended| panic!("{killed}: {ended:?}")));
        until_all_count(nodes.iter().flatten(), OF_CLUSTER.disk);
        assert!(load.wait_for_acknowledgements(1500), "the clients have given up");
        join(&mut history, load.stop(), &mut lines);
    }
    let report = read_everything_and_check(&commands[0].listen, &history).expect("a correct log");
    println!("{report:?}");
    assert!(report.appends_acknowledged >= 4500);
    let status = nodes[0].as_ref().expect("it runs").status();
    assert_eq!(losses(&status, OF_CLUSTER.disk), NONE, "nothing was given up");
    nodes.into_iter().flatten().for_each(Node::stop);
}

/// When all nodes go at once, what was not flushed yet may be lost: it is said, and the log goes on in
/// order. What class disk has acknowledged is there.
#[test]
fn when_all_nodes_are_killed_memory_may_lose_and_says_so_and_disk_loses_nothing() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let directory = fresh_directory("memory-all-killed");
    let (commands, mut nodes) = cluster(&directory);
    let clock = Instant::now();
    let (mut of_memory, mut memory_lines) = (History::new(OF_CLUSTER), 0);
    let (mut of_disk, mut disk_lines) = (History::new(OF_CLUSTER), 0);
    let addresses = commands.each_ref().map(|command| &*command.listen).join(",");
    for round in 0..3 {
        let load =
            |class, seed| Load::start(&settings(&format!("round {round}"), &addresses, class, OF_CLUSTER, seed), clock);
        let (memory, disk) = (load(Durability::Memory, seed ^ round), load(Durability::Disk, seed ^ 16 ^ round));
        for load in [&memory, &disk] {
            assert!(load.wait_for_acknowledgements(500), "the clients have given up");
        }
        nodes.into_iter().for_each(|node| drop(node.kill()));
        let starting = commands.each_ref().map(|command| {
            let command = command.clone();
            std::thread::spawn(move || command.start())
        });
        let start =
            |thread: JoinHandle<Result<Node, Ended>>| thread.join().expect("no panic").expect("it starts again");
        nodes = starting.into_iter().map(start).collect();
        for load in [&memory, &disk] {
            assert!(load.wait_for_acknowledgements(1000), "the clients have given up");
        }
        join(&mut of_memory, memory.stop(), &mut memory_lines);
        join(&mut of_disk, disk.stop(), &mut disk_lines);
    }
    until_all_count(nodes.iter(), OF_CLUSTER.disk);
    let status = nodes[0].status();
    assert_eq!(losses(&status, OF_CLUSTER.disk).len(), 3, "{status}");
    assert_eq!((losses(&status, 0), losses(&status, 1)), (NONE, NONE));
    let strictly = read_everything_and_check(&commands[0].listen, &of_memory);
    println!("held against the promise of class disk, class memory is: {strictly:?}");
    of_memory.lose(LogspaceId(OF_CLUSTER.disk));
    read_everything_and_check(&commands[0].listen, &of_memory).expect("in order, and nothing twice");
    let report = read_everything_and_check(&commands[0].listen, &of_disk).expect("a correct log");
    println!("{report:?}");
    assert!(report.appends_acknowledged >= 3000);
    nodes.into_iter().for_each(Node::stop);
}

/// On one node every life but the first would be a loss, had not the one before left word that all it
/// said is on its disk.
#[test]
fn a_node_that_is_stopped_in_order_loses_nothing_and_one_that_is_killed_says_what_it_may_have() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    for executors in [1, 2] {
        let data = fresh_directory(&format!("memory-stopped-{executors}"));
        let mut command = NodeCommand::new(&data);
        command.executors = executors;
        let (clock, mut history, mut lines) = (Instant::now(), History::new(OF_NODE), 0);
        for round in 0..5 {
            let node = command.start().expect("it starts");
            let mut load =
                settings(&format!("round {round}"), &node.address, Durability::Memory, OF_NODE, seed ^ round);
            load.deadline = Duration::from_millis(500);
            let load = Load::start(&load, clock);
            assert!(load.wait_for_acknowledgements(1000), "the clients have given up");
            node.stop();
            join(&mut history, load.stop(), &mut lines);
        }
        let node = command.start().expect("it starts");
        let report = read_everything_and_check(&node.address, &history).expect("nothing is lost");
        println!("{executors} executors: {report:?}");
        assert!(report.appends_acknowledged >= 5000);
        assert_eq!(losses(&node.status(), OF_NODE.disk), NONE);
        node.kill();
        let node = command.start().expect("it starts");
        assert_eq!(losses(&node.status(), OF_NODE.disk).len(), 1, "{}", node.status());
        assert_eq!(losses(&node.status(), 0), NONE);
        history.lose(LogspaceId(OF_NODE.disk));
        read_everything_and_check(&node.address, &history).expect("in order, and nothing twice");
        node.stop();
    }
}

/// A name has one class for ever, and verbs find it by the name.
#[test]
fn a_logbook_is_created_in_a_class_and_found_in_it() {
    let data = fresh_directory("memory-names");
    let node = Node::start(&data);
    let line = |arguments: &[&str]| -> Value {
        let ended = node.sealog(arguments);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    };
    let created = line(&["logbook", "create", "fast", "--class", "memory"]);
    assert_eq!((&created["class"], &created["created"]), (&"memory".into(), &true.into()));
    let again = line(&["logbook", "create", "fast", "--class", "memory"]);
    assert_eq!((&again["logbook"], &again["created"]), (&created["logbook"], &false.into()));
    node.sealog(&["logbook", "create", "fast"]).expect_failure(1, &["of the other class, for ever"]);
    assert_eq!(line(&["logbook", "create", "safe"])["class"], "disk");
    node.sealog(&["logbook", "create", "safe", "--class", "memory"]).expect_failure(1, &["of the other class"]);

    for (name, class) in [("fast", "memory"), ("safe", "disk"), ("new", "disk")] {
        let appended = line(&["append", name, "one"]);
        assert_eq!(appended["durability"], class, "{name}");
        assert_eq!(line(&["read", name])["data"], "one");
        assert_eq!(line(&["check-tail", name])["tail"], appended["seqnum"]);
        assert_eq!(line(&["logbook", "show", name])["class"], class);
    }
    let by_id = node.sealog(&["read", "--id", created["logbook"].as_str().expect("a string")]);
    assert!(by_id.stdout.contains("\"one\""), "{by_id:?}");
    let listed = node.sealog(&["logbook", "list"]);
    assert_eq!(listed.stderr, "", "there is nothing that it does not list");
    let listed: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let classes: Vec<(&Value, &Value)> = listed.iter().map(|line| (&line["name"], &line["class"])).collect();
    let expected =
        ["fast", "safe", "new"].map(Value::from).into_iter().zip(["memory", "disk", "disk"].map(Value::from));
    let expected: Vec<(Value, Value)> = expected.collect();
    assert_eq!(classes, expected.iter().map(|(name, class)| (name, class)).collect::<Vec<_>>());
    let status = node.status();
    assert_eq!(of_logspace(&status, "logspaces", 1)["class"], "memory");
    assert_eq!(of_logspace(&status, "views", 0)["class"], "disk");
    let bench = ["bench", "--connections", "1", "--inflight", "2", "--duration", "200ms", "--warmup", "0s", "--verify"];
    assert_eq!(line(&[&bench[..], &["--class", "memory"]].concat())["durability"], "memory");
    assert_eq!(line(&[&bench[..], &["--logbook", "for-bench"]].concat())["durability"], "disk");
    node.stop();
}

#[test]
fn where_there_is_no_logspace_of_class_memory_it_is_refused_clearly() {
    let data = fresh_directory("memory-none");
    let mut command = NodeCommand::new(&data);
    command.variables = vec![("SEALOG_MEMORY_LOGSPACES", "0".to_owned())];
    let node = command.start().expect("it starts");
    let refused = node.sealog(&["logbook", "create", "fast", "--class", "memory"]);
    refused.expect_failure(2, &["no logspace of class memory", "use class disk"]);
    assert_eq!(node.sealog(&["append", "fast", "one"]).code(), Some(0), "the name is free");
    assert!(!data.join("life").exists());
    node.stop();
    command.variables.clear();
    command.start().expect("as it was made").stop();
}
