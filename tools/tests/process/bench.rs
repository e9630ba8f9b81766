//! `sealog bench` beside its plain load: new clients, reads by tag, and company for small appends.

use serde_json::Value;

use crate::node::{Node, fresh_directory};

/// What a run of `bench` reports.
fn bench(node: &Node, arguments: &[&str]) -> Value {
    let duration = match arguments {
        _ if arguments.contains(&"--ops") => "1m",
        // The first page of a cold reader has to come in this time, also where other tests run.
        _ if arguments.contains(&"cold-reader") => "2s",
        _ => "300ms",
    };
    let common = ["bench", "--duration", duration, "--warmup", "0s"];
    let ended = node.sealog(&[&common[..], arguments].concat());
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).expect("one object")
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"))
}

#[test]
fn new_clients_are_measured_to_their_first_acknowledgement() {
    let directory = fresh_directory("bench-connect");
    let node = Node::start(&directory);
    let report = bench(&node, &["--mode", "connect", "--connections", "20", "--inflight", "2"]);
    assert_eq!(
        (&report["mode"], &report["idle_connections"], &report["at_once"]),
        (&"connect".into(), &20.into(), &2.into())
    );
    assert!(number(&report, "ops") > 0.0, "{report}");
    assert!(number(&report, "p50_us") > number(&report, "connect_p50_us"), "an append comes on top: {report}");
    let appends = node.status()["logspaces"][0]["engine"]["appends"].as_u64();
    assert!(appends >= report["ops"].as_u64().map(|ops| ops + 20), "one of each client: {appends:?} {report}");
    let refused = node.sealog(&["bench", "--mode", "connect", "--inflight", "257"]);
    refused.expect_failure(2, &["--inflight", "256"]);
    node.stop();
}

#[test]
fn what_was_appended_in_turns_is_read_by_tag() {
    let directory = fresh_directory("bench-read");
    let node = Node::start(&directory);
    let load = ["--logbook", "turns", "--logbooks", "30", "--tags", "60", "--spread", "turns", "--size", "50"];
    let appended = bench(&node, &[&load[..], &["--ops", "500"]].concat());
    assert!(number(&appended, "ops") >= 500.0 && number(&appended, "duration_s") < 30.0, "{appended}");
    let listed = node.sealog(&["logbook", "list"]);
    assert_eq!(listed.stdout.lines().filter(|line| line.contains("turns-")).count(), 30, "{}", listed.stdout);
    let read = bench(&node, &[&load[..], &["--mode", "read"]].concat());
    assert_eq!(read["mode"], "read");
    assert_eq!(read["empty"], Value::Null, "each tag has a record: {read}");
    assert_eq!(number(&read, "bytes"), number(&read, "ops") * 50.0, "one record each");
    let elsewhere = bench(&node, &["--logbook", "nothing", "--mode", "read"]);
    assert_eq!(elsewhere["empty"], elsewhere["ops"], "{elsewhere}");
    node.sealog(&["bench", "--mode", "read"]).expect_failure(2, &["--logbook"]);
    node.stop();
}

#[test]
fn small_appends_are_measured_alone_and_in_company() {
    let directory = fresh_directory("bench-beside");
    let node = Node::start(&directory);
    for what in ["large", "cold-reader"] {
        let report = bench(&node, &["--beside", what, "--size", "100KB", "--connections", "2", "--inflight", "2"]);
        let beside = &report["beside"];
        assert_eq!(beside["what"], what);
        for key in
            ["ops", "ops_per_s", "bytes_per_s", "alone_ops_per_s", "alone_p50_us", "alone_p99_us", "p99_to_alone"]
        {
            assert!(number(beside, key) > 0.0, "{key} in {report}");
        }
        let ratio = number(&report, "p99_us") / number(beside, "alone_p99_us");
        assert!((ratio - number(beside, "p99_to_alone")).abs() < 0.02, "{report}");
    }
    node.sealog(&["bench", "--beside", "large", "--verify"]).expect_failure(2, &["--verify"]);
    node.stop();
}
