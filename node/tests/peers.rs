//! Nodes that know of each other: each serves its own clients, and says how it stands with the other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealog::blocking::Client;
use sealog::{SeqNum, Tag};
use sealog_node::peer_settings::PeerSetting;
use sealog_node::settings::Settings;
use sealog_node::{Node, NodeError, Start};
use sealog_protocol::NodeId;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A node of cluster 9 that knows one other, at this address.
fn settings(name: &str, node: u64, other: u64, address: &str) -> Settings {
    let data: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("peers-{name}-{node}"));
    if data.exists() {
        std::fs::remove_dir_all(&data).expect("ours to remove");
    }
    Settings {
        data,
        listen: "127.0.0.1:0".to_owned(),
        segment_bytes: 8 << 20,
        executors: Some(2),
        node: Some(node),
        cluster: Some(9),
        peer_listen: Some("127.0.0.1:0".to_owned()),
        peers: vec![PeerSetting { node: NodeId(other), address: address.to_owned() }],
        ..Settings::default()
    }
}

fn start(settings: &Settings) -> (Node, Client) {
    let node = Node::start(settings).expect("it starts");
    assert_eq!(node.wait_ready(PATIENCE), Start::Ready);
    let client = Client::connect(&node.addresses()[0].to_string()).expect("it answers");
    (node, client)
}

fn peer_address(node: &Node) -> String {
    node.peer_address().expect("it listens").to_string()
}

/// What a node says of its one peer, once that is so.
fn peer(client: &Client, is_so: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let status: Value = serde_json::from_str(&client.status().expect("answered")).expect("JSON");
        if is_so(&status["peers"][0]) {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "{}", status["peers"]);
    }
}

fn stop(node: Node) {
    node.stopper().stop();
    node.wait().expect("it stops in order");
}

#[test]
fn nodes_meet_lose_each_other_and_meet_again_while_clients_are_served() {
    let mut second = settings("meet", 2, 1, "127.0.0.1:1");
    let (node_2, client_2) = start(&second);
    let first = settings("meet", 1, 2, &peer_address(&node_2));
    let (node_1, client_1) = start(&first);
    for (client, other, life) in [(&client_1, "2", 1), (&client_2, "1", 1)] {
        let status = peer(client, |peer| peer["connected"] == true);
        assert_eq!((&status["peers"][0]["node"], &status["peers"][0]["incarnation"]), (&other.into(), &life.into()));
        assert_eq!(status["executors"][0]["peers_now"], 1);
        assert_eq!(status["state"], "ready");
        client.logbook("a").append(&[Tag(7)], "together").expect("acknowledged");
    }
    second.peer_listen = Some(peer_address(&node_2));
    stop(node_2);
    let status = peer(&client_1, |peer| peer["connected"] == false);
    assert!(status["peers"][0]["reason"].is_string(), "{}", status["peers"]);
    client_1.logbook("a").append(&[Tag(7)], "alone").expect("acknowledged");
    let (node_2, client_2) = start(&second);
    let status = peer(&client_1, |peer| peer["connected"] == true);
    let met = &status["peers"][0];
    assert_eq!((&met["incarnation"], &met["connects"], &met["reason"]), (&2.into(), &2.into(), &Value::Null));
    let kept = |client: &Client| {
        let range = client.logbook("a").read_range(Tag::ALL, SeqNum::MIN..=SeqNum::MAX, 100);
        range.expect("readable").len()
    };
    assert_eq!((kept(&client_1), kept(&client_2)), (2, 1), "each its own log");
    stop(node_1);
    stop(node_2);
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_say_so() {
    let (node_2, client_2) = start(&settings("other", 2, 1, "127.0.0.1:1"));
    let first = Settings { cluster: Some(8), ..settings("other", 1, 2, &peer_address(&node_2)) };
    let (node_1, client_1) = start(&first);
    let is_refused = |peer: &Value| peer["reason"].as_str().is_some_and(|reason| reason.contains("another cluster"));
    let status = peer(&client_1, is_refused);
    assert_eq!(status["peers"][0]["connected"], false);
    let status: Value = serde_json::from_str(&client_2.status().expect("answered")).expect("JSON");
    assert!(status["executors"][0]["peers_refused"].as_u64() >= Some(1), "{status}");
    stop(node_1);
    stop(node_2);
}

#[test]
fn half_a_configuration_starts_nothing() {
    let half = Settings { peer_listen: None, ..settings("half", 1, 2, "127.0.0.1:1") };
    let message = Node::start(&half).err().expect("it is refused").to_string();
    assert!(message.contains("peer_listen"), "{message}");
    assert!(!half.data.exists(), "nothing was made");
    let whole = settings("half", 1, 2, "127.0.0.1:1");
    let (node, _client) = start(&whole);
    let taken = Settings { peer_listen: Some(peer_address(&node)), ..settings("half", 2, 1, "127.0.0.1:1") };
    let error = Node::start(&taken).err().expect("the port is taken");
    assert!(matches!(error, NodeError::Start(_)) && error.to_string().contains("peer_listen"), "{error}");
    stop(node);
}
