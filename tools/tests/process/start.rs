//! Starts that cannot succeed: each says why, and what to do.

use std::fs;
use std::net::TcpListener;

use crate::node::{Node, NodeCommand, fresh_directory};

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let data = fresh_directory("second");
    let mut first = Node::start(&data);
    NodeCommand::new(&data).start_failing().expect_failure(1, &["in use", "--data"]);
    assert!(first.is_running());
    assert_eq!(first.sealog(&["append", "orders", "still there"]).code(), Some(0));
    first.stop();
    Node::start(&data).stop();
}

#[test]
fn a_taken_port_is_said_and_leaves_the_directory_usable() {
    let data = fresh_directory("port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("it is bound").to_string();
    let ended = NodeCommand { listen: listen.clone(), ..NodeCommand::new(&data) }.start_failing();
    ended.expect_failure(1, &[&listen]);
    drop(taken);
    Node::start(&data).stop();
}

#[test]
fn too_little_locked_memory_is_said_with_the_fix() {
    let data = fresh_directory("memlock");
    let wrapper = ["prlimit", "--memlock=65536:65536", "--"].map(str::to_owned).to_vec();
    let ended = NodeCommand { wrapper, ..NodeCommand::new(&data) }.start_failing();
    ended.expect_failure(1, &["memlock", "ulimit -l"]);
    Node::start(&data).stop();
}

#[test]
fn a_directory_of_another_format_is_refused_and_left_alone() {
    let data = fresh_directory("format");
    let node = Node::start(&data);
    assert_eq!(node.sealog(&["append", "orders", "precious"]).code(), Some(0));
    node.stop();
    let identity = data.join("identity");
    let ours = fs::read_to_string(&identity).expect("text");
    let other = ours.replace("\nformat 2\n", "\nformat 9\n");
    assert_ne!(ours, other, "the identity says its format");
    fs::write(&identity, &other).expect("it can be written");
    let ended = NodeCommand::new(&data).start_failing();
    assert_ne!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("format 9") && ended.stderr.contains("release"), "{ended:?}");
    assert_eq!(fs::read_to_string(&identity).expect("text"), other, "nothing was changed");
    fs::write(&identity, ours).expect("it can be written");
    let node = Node::start(&data);
    assert!(node.sealog(&["read", "orders"]).stdout.contains("precious"));
    node.stop();
}

/// A segment that another release wrote: its preamble is whole, its version is not ours.
#[test]
fn a_segment_of_another_format_is_refused() {
    let data = fresh_directory("segment-format");
    let node = Node::start(&data);
    assert_eq!(node.sealog(&["append", "orders", "precious"]).code(), Some(0));
    node.stop();
    for entry in fs::read_dir(data.join("journal-0")).expect("a journal") {
        let path = entry.expect("it can be listed").path();
        let mut bytes = fs::read(&path).expect("it can be read");
        for block in bytes.chunks_mut(4096).filter(|block| block.starts_with(b"SLJB")) {
            block[4] = 9;
            let check = crc32fast::hash(&block[..16]);
            block[16..20].copy_from_slice(&check.to_le_bytes());
        }
        fs::write(&path, bytes).expect("it can be written");
    }
    let ended = NodeCommand::new(&data).start_failing();
    assert_ne!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("version 9") || ended.stderr.contains("format 9"), "{ended:?}");
}

/// A journal whose node's identity is gone is never taken over.
#[test]
fn a_journal_without_an_identity_is_refused() {
    let data = fresh_directory("no-identity");
    Node::start(&data).stop();
    fs::remove_file(data.join("identity")).expect("it is there");
    let ended = NodeCommand::new(&data).start_failing();
    assert_ne!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("cannot use"), "{ended:?}");
}
