//! A flush that fails, and a disk that is full.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sealog::AppendError;
use sealog::Durability;
use sealog::blocking::Client;
use sealog_faults::{FaultyDisk, SmallDisk};
use sealog_history::History;

use crate::load::{Load, LoadSettings, join, read_everything_and_check};
use crate::node::{Node, NodeCommand, quiet_machine};

const MIB: u64 = 1 << 20;

fn load_settings(name: &str, node: &Node) -> LoadSettings {
    LoadSettings {
        name: name.to_owned(),
        address: node.address.clone(),
        clients: 4,
        in_flight_per_client: 16,
        deadline: Duration::from_secs(2),
        seed: 0x5EA1_0003,
        logspaces: 1.into(),
        class: Durability::Disk,
    }
}

/// After one failed flush the next succeeds and the data is gone: so a node never tries again, and
/// ends instead.
#[test]
fn a_failed_flush_ends_the_node_and_nothing_lost_is_acknowledged() {
    let _machine = quiet_machine();
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(1), 0);
    let disk = FaultyDisk::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("flush-fails"), 512 * MIB);
    let disk = disk.expect("a faulty disk");
    let data = disk.mount().expect("it can be mounted").join("data");
    for round in 0..3 {
        let node = Node::start(&data);
        let load = Load::start(&load_settings(&format!("round {round}"), &node), clock);
        assert!(load.wait_for_acknowledgements(500), "no acknowledgements");
        disk.fail_flush();
        let ended = node.wait();
        println!("round {round}: {ended:?}");
        assert!(ended.code().is_none_or(|code| code != 0), "it must not end as if all were well: {ended:?}");
        let said = ended.stderr.to_lowercase();
        assert!(said.contains("journal") || said.contains("write") || said.contains("flush"), "{ended:?}");
        join(&mut history, load.stop(), &mut lines);
        // The kernel gave up on the file system as well; it is mounted anew.
        disk.cut_power(round);
        disk.restart().expect("it can be mounted again");
    }
    let node = Node::start(&data);
    let report = read_everything_and_check(&node.address, &history).expect("a correct log");
    println!("3 failed flushes: {report:?}");
    assert!(report.appends_acknowledged >= 1500);
    node.stop();
}

#[test]
fn a_write_that_fails_ends_the_node() {
    let disk = FaultyDisk::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("write-fails"), 512 * MIB);
    let disk = disk.expect("a faulty disk");
    let data = disk.mount().expect("it can be mounted").join("data");
    let node = Node::start(&data);
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    logbook.append(&[], "before").expect("the disk is well");
    disk.fail_writes(true);
    let failure = logbook.with_deadline(Duration::from_secs(1)).append(&[], "after");
    assert!(failure.is_err(), "{failure:?}");
    let ended = node.wait();
    assert!(ended.code().is_none_or(|code| code != 0) && !ended.stderr.is_empty(), "{ended:?}");
}

/// The node looks at its disk now and then, and says how full it is.
fn expect_disk_level(node: &Node, level: &str) {
    let began = Instant::now();
    loop {
        let disk = node.status()["space"]["disk"].clone();
        if disk["level"] == level {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is not {level}: {disk}");
    }
}

#[test]
fn a_full_disk_refuses_appends_serves_reads_and_recovers_without_a_restart() {
    let _machine = quiet_machine();
    let disk = SmallDisk::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("full"), 96 * MIB);
    let disk = disk.expect("a small disk");
    // Something that can be deleted later.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 24 * MIB as usize]).expect("the disk is empty");
    File::open(&ballast).expect("it is there").sync_all().expect("it fits");
    let command = NodeCommand { segment_size: "4MiB", ..NodeCommand::new(&disk.path().join("data")) };
    let mut node = command.start().expect("it starts on 70 MiB");
    let client = Client::builder().deadline(Duration::from_secs(5)).connect(&node.address).expect("a client");
    let logbook = client.logbook("orders");
    let payload = vec![b'x'; 512 << 10];
    let mut appended = Vec::new();
    let refusal = loop {
        match logbook.append(&[], &payload) {
            Ok(done) => appended.push(done.seqnum),
            Err(error) => break error,
        }
        assert!(appended.len() < 400, "200 MiB do not fit on a disk of 96");
    };
    println!("full after {} records: {refusal}", appended.len());
    assert!(matches!(refusal, AppendError::DiskFull { .. }), "{refusal:?}");

    // The command line says so too, and what to do; small records are refused as well.
    let refused = node.sealog(&["append", "orders", "one more"]);
    refused.expect_failure(7, &["full", "free"]);
    for seqnum in [appended.first(), appended.last()].into_iter().flatten() {
        let record = logbook.read_next(sealog::Tag::ALL, *seqnum).expect("reads go on").expect("it was acknowledged");
        assert_eq!((record.seqnum, record.payload.len()), (*seqnum, payload.len()));
    }
    let status = node.status();
    assert!(status["degraded"].to_string().contains("full"), "{status}");
    assert!(node.is_running());
    expect_disk_level(&node, "critical");

    fs::remove_file(&ballast).expect("it can be deleted");
    let began = Instant::now();
    let done = loop {
        match logbook.append(&[], "after space was freed") {
            Ok(done) => break done,
            Err(AppendError::DiskFull { .. }) => assert!(began.elapsed() < Duration::from_secs(30), "still full"),
            Err(error) => panic!("{error:?}"),
        }
    };
    println!("room again after {:?}", began.elapsed());
    assert!(node.status()["degraded"].as_array().is_some_and(Vec::is_empty), "{}", node.status());
    node.stop();

    let node = command.start().expect("it starts again");
    let client = Client::connect(&node.address).expect("a client");
    let everything = client.logbook("orders").scan(sealog::Tag::ALL, sealog::SeqNum::MIN..=sealog::SeqNum::MAX);
    let everything: Vec<sealog::SeqNum> = everything.map(|record| record.expect("readable").seqnum).collect();
    appended.push(done.seqnum);
    assert_eq!(everything, appended);
    node.stop();
}

/// Making a data directory needs room, and so does the next start: without it nothing is half done.
#[test]
fn a_start_on_a_full_disk_says_so_and_succeeds_when_there_is_room() {
    let disk = SmallDisk::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("full-start"), 48 * MIB);
    let disk = disk.expect("a small disk");
    let ballast = disk.path().join("ballast");
    let fill = || {
        let mut file = File::create(&ballast).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    };
    let command = NodeCommand { segment_size: "4MiB", ..NodeCommand::new(&disk.path().join("data")) };
    fill();
    command.start_failing().expect_failure(7, &["No space left"]);
    fs::remove_file(&ballast).expect("it can be deleted");
    let node = command.start().expect("there is room");
    let at = node.sealog(&["append", "orders", "precious"]);
    assert_eq!(at.code(), Some(0), "{at:?}");
    node.stop();
    fill();
    command.start_failing().expect_failure(7, &["No space left"]);
    fs::remove_file(&ballast).expect("it can be deleted");
    let node = command.start().expect("there is room");
    assert!(node.sealog(&["read", "orders"]).stdout.contains("precious"));
    node.stop();
}
