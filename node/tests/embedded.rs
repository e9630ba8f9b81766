//! A node in this process, as tests and programs that want one inside start it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealog::blocking::Client;
use sealog::{SeqNum, Tag};
use sealog_node::settings::Settings;
use sealog_node::{Embedded, EmbeddedError, Node, NodeError, Start};

/// An empty directory on the disk of the build: not every file system of temporary files can be
/// written past its cache.
fn settings(name: &str) -> Settings {
    let data: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if data.exists() {
        std::fs::remove_dir_all(&data).expect("ours to remove");
    }
    Settings { data, listen: "127.0.0.1:0".to_owned(), segment_bytes: 8 << 20, ..Settings::default() }
}

fn start(settings: &Settings) -> (Node, Client) {
    let node = Node::start(settings).expect("it starts");
    assert_eq!(node.wait_ready(Duration::from_secs(60)), Start::Ready);
    let client = Client::connect(&node.addresses()[0].to_string()).expect("it answers");
    (node, client)
}

fn stop(node: Node) {
    node.stopper().stop();
    node.wait().expect("it stops in order");
}

#[test]
fn what_was_appended_is_there_at_every_later_start() {
    for (executors, logspaces) in [(1, 1), (2, 1), (2, 3), (3, 4)] {
        let mut settings = settings(&format!("embedded-{executors}-{logspaces}"));
        (settings.executors, settings.logspaces) = (Some(executors), Some(logspaces));
        for round in 0..3usize {
            let (node, client) = start(&settings);
            for name in ["a", "b", "c", "d", "e"] {
                let logbook = client.logbook(name);
                let kept = logbook.read_range(Tag::ALL, SeqNum::MIN..=SeqNum::MAX, 100).expect("readable");
                assert_eq!(kept.len(), round, "LogBook {name}, {executors} executors, {logspaces} logspaces");
                let appended = logbook.append(&[Tag(7)], format!("round {round}")).expect("acknowledged");
                assert_eq!(logbook.check_tail_linearizable(Tag(7)).expect("answered"), Some(appended.seqnum));
            }
            stop(node);
        }
    }
}

#[test]
fn the_status_has_what_all_executors_say() {
    let mut settings = settings("embedded-status");
    (settings.executors, settings.logspaces) = (Some(3), Some(2));
    let (node, client) = start(&settings);
    client.logbook("a").append(&[], "x").expect("acknowledged");
    let status: serde_json::Value = serde_json::from_str(&client.status().expect("answered")).expect("JSON");
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["executors"].as_array().map(Vec::len), Some(3));
    let logspaces = status["logspaces"].as_array().expect("a list");
    // Two of class disk, one of class memory.
    assert_eq!(logspaces.len(), 3);
    for logspace in logspaces {
        for role in ["engine", "storage", "sequencer"] {
            assert!(logspace[role].is_object(), "no {role} in {logspace}");
        }
    }
    stop(node);
}

#[test]
fn a_node_that_cannot_start_leaves_its_directory_to_the_next() {
    let mut settings = settings("embedded-refused");
    let (first, _) = start(&settings);
    assert!(matches!(Node::start(&settings), Err(NodeError::Directory(_))), "the directory is in use");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    first.stopper().stop();
    assert_eq!(first.wait_ready(Duration::from_secs(60)), Start::Over);
    stop(first);
    let listen = std::mem::replace(&mut settings.listen, taken.local_addr().expect("bound").to_string());
    assert!(matches!(Node::start(&settings), Err(NodeError::Start(_))), "the port is taken");
    settings.listen = listen;
    stop(start(&settings).0);
}

#[test]
fn an_embedded_node_gives_clients_and_stops_when_dropped() {
    let settings = settings("embedded-clients");
    for round in 0..2u8 {
        let sealog = Embedded::with_settings(&settings).expect("it starts");
        assert!(matches!(Embedded::with_settings(&settings), Err(EmbeddedError::Node(NodeError::Directory(_)))));
        let book = sealog.blocking_client().expect("connected").logbook("book");
        assert_eq!(book.read_range(Tag::ALL, SeqNum::MIN..=SeqNum::MAX, 10).expect("read").len(), usize::from(round));
        book.append(&[], [round]).expect("acknowledged");
        // An async client, which shares nothing with the blocking one, sees what its session must.
        let client = pollster::block_on(sealog.client()).expect("connected");
        let tail = pollster::block_on(client.logbook("book").check_tail_linearizable(Tag::ALL)).expect("answered");
        assert!(tail.is_some());
    }
}
