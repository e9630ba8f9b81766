//! Damage that the other replicas mend: while a node runs, and at its start.

use std::fs;
use std::path::Path;

use sealog::blocking::Client;
use sealog::{SeqNum, Tag};
use serde_json::Value;

use crate::cluster::{form_of, member, register, until};
use crate::damage::{find_in_journal, flip_a_bit, verify};
use crate::node::{Node, NodeCommand, fresh_directory, quiet_machine};

const RECORDS: usize = 170;
/// Records of so many bytes: a few segments of 8 MiB are sealed.
const RECORD_BYTES: usize = 100_000;
const WISHES: &[&str] = &["--replicas", "3", "--write-quorum", "2", "--logspaces", "1"];

fn payload(number: usize) -> String {
    format!("this is record {number:04} of those that rot and are mended {}", "z".repeat(RECORD_BYTES))
}

/// What is found of it in a journal.
fn begin_of(number: usize) -> String {
    payload(number)[..50].to_owned()
}

fn append_all(node: &Node) -> Vec<SeqNum> {
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    let append = |number| logbook.append(&[Tag(7)], payload(number)).expect("it is acknowledged").seqnum;
    (0..RECORDS).map(append).collect()
}

fn expect_all(node: &Node, seqnums: &[SeqNum]) {
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    for (number, seqnum) in seqnums.iter().enumerate() {
        let record = logbook.read_next(Tag(7), *seqnum).expect("it can be read").expect("it is there");
        assert_eq!((record.seqnum, &record.payload[..]), (*seqnum, payload(number).as_bytes()));
    }
}

fn storage(status: &Value) -> &Value {
    &status["logspaces"][0]["storage"]
}

/// All damage was found and mended, so many records of it from other replicas.
fn is_mended(status: &Value, records: u64) -> bool {
    let storage = storage(status);
    let is_whole = status["state"] == "ready" && storage["to_mend"]["segments"] == 0;
    is_whole && storage["mended"]["records"].as_u64() >= Some(records) && storage["lost"] == serde_json::json!([])
}

fn scrubbed(directory: &Path, name: &str) -> NodeCommand {
    let mut command = member(directory, name);
    command.settings.extend([("SEALOG_SCRUB_RATE", "64MiB"), ("SEALOG_SCRUB_INTERVAL", "100ms")]);
    command
}

/// Bits rot under the feet of a node: its scrub finds them, its replicas mend them, and then it has all
/// records by itself.
#[test]
fn what_rots_in_a_running_node_is_mended_from_the_others() {
    let _machine = quiet_machine();
    let directory = fresh_directory("mend-running");
    let commands = ["a", "b", "c"].map(|name| scrubbed(&directory, name));
    let mut nodes = form_of(&register(&directory), &commands, WISHES);
    let seqnums = append_all(&nodes[0]);
    let rotten = nodes.pop().expect("three nodes");
    let is_here = |status: &Value| storage(status)["records_durable"].as_u64() >= Some(RECORDS as u64);
    until(&rotten, "it has all records", is_here);
    let data = directory.join("c");
    let places: Vec<_> = [3, 40, 60].map(|number| find_in_journal(&data, begin_of(number).as_bytes())).into();
    places.iter().for_each(flip_a_bit);
    let status = until(&rotten, "it is mended", |status| is_mended(status, 3));
    // By the scrub, or by a read of what was emptied with it: whichever came first.
    assert!(status["executors"][0]["scrub_findings"].as_u64() >= Some(1), "the scrub has found it: {status}");
    assert_eq!(status["executors"][0]["scrub"]["findings"], serde_json::json!([]), "{status}");
    nodes.into_iter().for_each(|node| drop(node.kill()));
    expect_all(&rotten, &seqnums);
    rotten.stop();
    let (code, damages, _) = verify(&data);
    assert_eq!((code, damages.len()), (Some(0), 0), "{damages:?}");
}

/// A storage that finds a whole segment gone at its start takes what was in it from the others. It has no
/// sequencer: a lost metalog it would not start without.
#[test]
fn a_segment_that_is_gone_at_the_start_is_made_again() {
    let _machine = quiet_machine();
    let directory = fresh_directory("mend-start");
    let roles = [("a", "engine,storage,sequencer,controller"), ("b", "storage"), ("c", "storage,engine")];
    let commands = roles.map(|(name, roles)| {
        let mut command = scrubbed(&directory, name);
        command.variables.push(("SEALOG_ROLES", roles.to_owned()));
        command
    });
    let mut nodes = form_of(&register(&directory), &commands, WISHES);
    let seqnums = append_all(&nodes[0]);
    let rotten = nodes.pop().expect("three nodes");
    let is_here = |status: &Value| storage(status)["records_durable"].as_u64() >= Some(RECORDS as u64);
    until(&rotten, "it has all records", is_here);
    rotten.stop();
    let data = directory.join("c");
    let gone = find_in_journal(&data, begin_of(80).as_bytes()).0;
    fs::remove_file(&gone).expect("it is there");
    assert_eq!(verify(&data).0, Some(8));
    let rotten = commands[2].start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    until(&rotten, "it is mended", |status| is_mended(status, 1));
    expect_all(&rotten, &seqnums);
    rotten.stop();
    let (code, damages, _) = verify(&data);
    assert_eq!((code, damages.len()), (Some(0), 0), "{damages:?}");
    for number in 0..RECORDS {
        find_in_journal(&data, begin_of(number).as_bytes());
    }
    // The next start finds nothing missing.
    let again = commands[2].start().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
    until(&again, "it is whole", |status| is_mended(status, 0));
    nodes.into_iter().chain([again]).for_each(Node::stop);
}
