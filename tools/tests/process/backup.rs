//! Backups of a node at work, put back elsewhere; and all that is no backup, or no place for one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sealog::Durability;
use sealog::blocking::Client;
use sealog::{SeqNum, Tag};
use sealog_history::History;

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{Ended, Node, NodeCommand, TestDirectory, binary, fresh_directory, quiet_machine, seed};

/// Clients that append while the backup is made.
const WRITERS: usize = 4;

fn sealog(arguments: &[&str], paths: &[&Path]) -> Ended {
    let output = Command::new(binary())
        .args(arguments)
        .args(paths)
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn back_up(data: &Path, to: &Path) -> Ended {
    sealog(&["backup", "--data"], &[data, to])
}

#[track_caller]
fn succeeds(ended: &Ended) {
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

/// A client that appends 0, 1, 2, … to a LogBook of its own, one after the other.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(number: usize, address: &str, stop: Arc<AtomicBool>) -> Writer {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let client = Client::builder().deadline(Duration::from_secs(60)).connect(address).expect("the node is there");
        let counter = acknowledged.clone();
        let thread = std::thread::spawn(move || {
            let logbook = client.logbook(&format!("during-{number}"));
            let mut payload = vec![0; 20_000];
            for count in 0_u64.. {
                payload[..8].copy_from_slice(&count.to_le_bytes());
                logbook.append(&[Tag(1 + count % 3)], &payload).expect("acknowledged");
                counter.store(count + 1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Writer { acknowledged, thread }
    }
}

fn numbers(client: &Client, writer: usize) -> Vec<u64> {
    let records = client.logbook(&format!("during-{writer}")).scan(Tag::ALL, SeqNum::MIN..=SeqNum::MAX);
    let number = |payload: &[u8]| u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
    records.map(|record| number(&record.expect("it can be read").payload)).collect()
}

/// What was acknowledged before a backup is in it; of what came while it was made, a beginning.
fn a_backup_under_load(name: &str, executors: usize) {
    let _machine = quiet_machine();
    let data = fresh_directory(name);
    let elsewhere = fresh_directory(&format!("{name}-elsewhere"));
    let mut command = NodeCommand::new(&data);
    command.executors = executors;
    let node = command.start().expect("a new node");
    let settings = LoadSettings {
        name: name.to_owned(),
        address: node.address.clone(),
        clients: 4,
        in_flight_per_client: 16,
        deadline: Duration::from_secs(60),
        seed: seed(0x5EA1_0009),
        logspaces: 1.into(),
        class: Durability::Disk,
    };
    let load = Load::start(&settings, Instant::now());
    assert!(load.wait_for_acknowledgements(10_000), "the clients have given up");
    let (mut history, mut lines) = (History::new(1), 0);
    join(&mut history, load.stop(), &mut lines);

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<Writer> = (0..WRITERS).map(|number| Writer::start(number, &node.address, stop.clone())).collect();
    // Several backups, so that they meet the journal in several states.
    for round in 0..3 {
        let before: Vec<u64> = writers.iter().map(|writer| writer.acknowledged.load(Ordering::SeqCst)).collect();
        let wanted = before[0] + 200;
        while writers[0].acknowledged.load(Ordering::SeqCst) < wanted {
            std::thread::yield_now();
        }
        let before: Vec<u64> = writers.iter().map(|writer| writer.acknowledged.load(Ordering::SeqCst)).collect();
        let (backup, restored) = (elsewhere.join(format!("backup-{round}")), elsewhere.join(format!("data-{round}")));
        let made = back_up(&data, &backup);
        succeeds(&made);
        println!("{} of {before:?}", made.stdout.trim());
        succeeds(&sealog(&["restore"], &[&backup, &restored]));
        let mut second = NodeCommand::new(&restored);
        second.executors = executors;
        let second = second.start().unwrap_or_else(|ended| panic!("round {round}: {ended:?}"));
        read_everything_and_check(&second.address, &history).expect("a correct log");
        let client = Client::connect(&second.address).expect("it answers");
        for (writer, before) in before.iter().enumerate() {
            let found = numbers(&client, writer);
            assert!(found.iter().copied().eq(0..found.len() as u64), "writer {writer}: {found:?}");
            assert!(found.len() as u64 >= *before, "writer {writer}: {} of {before} acknowledged", found.len());
        }
        let logbook = client.logbook("during-0");
        let appended = logbook.append(&[], 0_u64.to_le_bytes()).expect("the node goes on");
        assert_eq!(logbook.check_tail(Tag::ALL), Ok(Some(appended.seqnum)));
        assert_eq!(second.status()["degraded"].as_array().map(Vec::len), Some(0), "{}", second.status());
        second.stop();
    }
    stop.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.thread.join().expect("acknowledged to the end"));
    read_everything_and_check(&node.address, &history).expect("the node that was backed up is untouched");
    node.stop();
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged() {
    a_backup_under_load("backup-load", 1);
}

/// Data and their order are in two journals, which are copied one after the other.
#[test]
fn a_backup_of_two_journals_agrees_with_itself() {
    a_backup_under_load("backup-two", 2);
}

/// A stopped node's directory, its backup, and room beside them.
fn a_backup(name: &str) -> TestDirectory {
    let directory = fresh_directory(name);
    // Two lives, the first ended by force: the journal goes on behind what it left.
    for payload in ["one", "two"] {
        let node = Node::start(&directory.join("data"));
        succeeds(&node.sealog(&["append", "orders", payload]));
        if payload == "one" {
            node.kill();
        } else {
            node.stop();
        }
    }
    succeeds(&back_up(&directory.join("data"), &directory.join("backup")));
    directory
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is so long");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("it can be written");
}

#[test]
fn a_stopped_nodes_backup_has_everything_and_is_a_node_elsewhere() {
    let directory = a_backup("backup-cold");
    succeeds(&sealog(&["restore"], &[&directory.join("backup"), &directory.join("new/data")]));
    let node = Node::start(&directory.join("new/data"));
    let read = node.sealog(&["read", "orders"]);
    assert!(read.stdout.contains("\"one\"") && read.stdout.contains("\"two\""), "{read:?}");
    let old = std::fs::read_to_string(directory.join("data/identity")).expect("it is text");
    let line = |name: &str| old.lines().find_map(|line| line.strip_prefix(name)).expect("a line").to_owned();
    let status = node.status();
    assert_eq!((&status["node"], &status["cluster"]), (&line("node ").into(), &line("cluster ").into()));
    let life: u64 = line("incarnation ").parse().expect("a number");
    assert!(status["incarnation"].as_u64() > Some(life + 1_000_000), "above all lives of the old node");
    node.stop();
}

#[test]
fn what_is_no_whole_backup_is_refused() {
    let directory = a_backup("backup-damaged");
    let (backup, new) = (directory.join("backup"), directory.join("new"));
    let refused = |words: &[&str]| {
        sealog(&["restore"], &[&backup, &new]).expect_failure(8, words);
        assert!(!new.exists(), "nothing was made");
    };
    let segment = std::fs::read_dir(backup.join("journal-0")).expect("a list").next().expect("one").expect("one");
    for (path, word) in [(segment.path(), "segment-"), (backup.join("register/logspace-0.chain"), "logspace-0")] {
        flip(&path, 100);
        refused(&[word, "another checksum"]);
        flip(&path, 100);
    }
    flip(&backup.join("manifest"), 60);
    refused(&["manifest is damaged"]);
    flip(&backup.join("manifest"), 60);
    let bytes = segment.metadata().expect("it is there").len();
    let file = OpenOptions::new().write(true).open(segment.path()).expect("it is there");
    file.set_len(bytes / 2).expect("it can be cut");
    refused(&["another size"]);
    file.set_len(bytes).expect("it can be grown");
    let away = directory.join("away");
    std::fs::rename(segment.path(), &away).expect("it can be moved");
    refused(&["segment-", "is gone"]);
    std::fs::rename(&away, segment.path()).expect("it can be moved");
    // Cut off: the manifest is what is written last.
    std::fs::rename(backup.join("manifest"), &away).expect("it can be moved");
    refused(&["no manifest", "cut off"]);
    std::fs::rename(&away, backup.join("manifest")).expect("it can be moved");
    // A node would write into it.
    NodeCommand::new(&backup).start_failing().expect_failure(1, &["sealog restore"]);
}

#[test]
fn nothing_is_written_over() {
    let directory = a_backup("backup-places");
    let (data, backup) = (directory.join("data"), directory.join("backup"));
    sealog(&["restore"], &[&backup, &data]).expect_failure(1, &["not empty"]);
    back_up(&data, &backup).expect_failure(1, &["not empty"]);
    back_up(&data, &data.join("backup")).expect_failure(1, &["inside"]);
    assert!(!data.join("backup").exists());
    back_up(&directory.join("nowhere"), &directory.join("other")).expect_failure(1, &["no data directory"]);
    assert!(!directory.join("other").exists());
    let node = Node::start(&data);
    sealog(&["restore"], &[&backup, &data]).expect_failure(1, &["in use", &node.process().to_string()]);
    node.stop();
}

/// A block that is damaged on the disk is no reason to have no backup; it is told.
#[test]
fn damage_is_backed_up_and_told() {
    let directory = fresh_directory("backup-of-damage");
    let data = directory.join("data");
    let node = Node::start(&data);
    for payload in ["one", "two", "three"] {
        succeeds(&node.sealog(&["append", "orders", payload]));
    }
    node.stop();
    let segments = std::fs::read_dir(data.join("journal-0")).expect("a list");
    let damaged = segments.map(|segment| segment.expect("one").path()).find(|path| {
        let bytes = std::fs::read(path).expect("it can be read");
        let at = bytes.windows(3).position(|window| window == b"two");
        at.inspect(|at| flip(path, *at as u64)).is_some()
    });
    damaged.expect("it is in one of them");
    back_up(&data, &directory.join("backup")).expect_failure(8, &["1 blocks", "whole"]);
    succeeds(&sealog(&["restore"], &[&directory.join("backup"), &directory.join("new")]));
    let node = Node::start(&directory.join("new"));
    let first = node.sealog(&["read", "orders", "--limit", "1"]);
    assert!(first.stdout.contains("\"one\""), "{first:?}");
    node.sealog(&["read", "orders"]).expect_failure(8, &["damaged"]);
    node.stop();
}
