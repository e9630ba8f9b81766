//! A cluster whose register is etcd, which dies and comes back.

use std::time::{Duration, Instant};

use sealog_node::register::EtcdProcess;
use serde_json::Value;

use crate::cluster::{form_in, member_of};
use crate::node::{Node, fresh_directory, quiet_machine};

const PATIENCE: Duration = Duration::from_secs(60);
const APPENDS: usize = 10;

fn append(node: &Node, payload: &str) {
    let ended = node.sealog(&["append", "orders", "--tag", "all", "--deadline", "30s", payload]);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

fn await_status(node: &Node, is_right: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = node.status();
        if is_right(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
    }
}

/// Without etcd appends and reads go on, and the status says what does not; when it is back, a view
/// changes.
#[test]
fn losing_etcd_stops_view_changes_and_nothing_else() {
    let _machine = quiet_machine();
    let directory = fresh_directory("cluster-etcd");
    let mut etcd = EtcdProcess::start(&directory.join("etcd")).expect("etcd-server is installed");
    let register = etcd.setting("orders").to_string();
    let commands = ["a", "b", "c"].map(|name| member_of(&register, &directory, name));
    let mut nodes = form_in(&register, &commands);
    append(&nodes[0], "before");

    etcd.kill();
    for number in 0..APPENDS {
        append(&nodes[number % nodes.len()], &format!("without {number}"));
    }
    for node in &nodes {
        let status = await_status(node, |status| status["register"]["unreachable_s"].is_u64());
        assert_eq!(status["register"]["name"], register, "{status}");
        let reason = status["degraded"].to_string();
        assert!(reason.contains("views can't be changed") && reason.contains(&etcd.endpoint()), "{reason}");
        let read = node.sealog(&["read", "orders", "--tag", "all"]);
        assert_eq!(read.code(), Some(0), "{read:?}");
    }
    append(&nodes[0], "still without");

    etcd.restart().expect("it has its data");
    for node in &nodes {
        await_status(node, |status| status["register"]["unreachable_s"].is_null());
    }
    // Whoever was primary has another life, which needs a view of its own.
    for (at, command) in commands.iter().enumerate() {
        nodes.remove(at).kill();
        nodes.insert(at, command.start().unwrap_or_else(|ended| panic!("{ended:?}")));
        append(&nodes[at], &format!("life {at}"));
    }
    // The last one's engine has its own append, and so all before it.
    let read = nodes[2].sealog(&["read", "orders", "--tag", "all"]);
    assert_eq!(read.stdout.lines().count(), 1 + APPENDS + 1 + commands.len(), "{read:?}");
    nodes.into_iter().for_each(Node::stop);
}
