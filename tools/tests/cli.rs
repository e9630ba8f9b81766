//! The command line as scripts meet it: verbs, flags, keys of JSON, exit codes, messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

// What other tests need of it is unused here.
#[allow(dead_code)]
#[path = "process/node.rs"]
mod node;

use node::{Node, NodeCommand, binary, fresh_directory};

/// Nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

fn sealog() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEALOG_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    sealog().args(arguments).output().expect("the binary runs")
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    failed(&run(arguments), code, words);
}

#[track_caller]
fn failed(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
}

/// Lines of JSON that a verb printed on this node.
#[track_caller]
fn lines(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let ended = node.sealog(arguments);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn append(node: &Node, arguments: &[&str]) -> String {
    let acknowledged = lines(node, &[&["append"], arguments].concat());
    assert_eq!(acknowledged.len(), 1);
    assert_eq!(acknowledged[0]["durability"], "disk");
    acknowledged[0]["seqnum"].as_str().expect("a string").to_owned()
}

fn data_of(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["data"].as_str().expect("text")).collect()
}

/// A verb that reads from us, with JSON output.
fn piped(node: &Node, arguments: &[&str]) -> Child {
    let mut command = sealog();
    command.args(arguments).args(["-o", "json", "--connect", &node.address]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn with_input(node: &Node, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = piped(node, arguments);
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    // A verb that fails early does not read everything.
    let _ = writer.join().expect("the writer does not panic");
    output
}

#[test]
fn usage_errors_are_exit_code_2_and_say_what_is_wrong() {
    fails(&[], 2, &["Usage"]);
    fails(&["apend", "orders"], 2, &["append"]);
    fails(&["append"], 2, &["LOGBOOK"]);
    fails(&["append", "", "x"], 2, &[]);
    fails(&["append", "orders", "x", "--deadline", "soon"], 2, &["500ms"]);
    fails(&["append", "orders", "x", "--deadline", "0s"], 2, &["more than zero"]);
    fails(&["append", "orders", "x", "-o", "xml"], 2, &["json"]);
    fails(&["append", "orders", "x", "--if-tail", "last"], 2, &["none"]);
    fails(&["append", "orders", "--if-tail", "none"], 2, &["DATA"]);
    fails(&["append", "orders", "x", "--if-tail", "1", "--tag", "a", "--tag", "b"], 2, &["at most one --tag"]);
    fails(&["append", "orders", "x", "--tag-id", "0"], 2, &["every record"]);
    fails(&["append", "--id", "orders", "x"], 2, &["not the id"]);
    let many: Vec<&str> = std::iter::repeat_n(["--tag", "a"], 65).flatten().collect();
    fails(&[&["append", "orders", "x"], &many[..]].concat(), 2, &["65 tags", "64"]);
    fails(&["read", "orders", "--from", "-1"], 2, &[]);
    fails(&["read", "orders", "--tag", "a", "--tag-id", "1"], 2, &[]);
    fails(&["read", "orders", "--connect", "nowhere"], 2, &["HOST:PORT"]);
    fails(&["read", "orders", "--connect", "127.0.0.1:1,"], 2, &["HOST:PORT", "commas"]);
    fails(&["bench", "--connect", "127.0.0.1:1,nowhere"], 2, &["HOST:PORT"]);
    fails(&["check-tail", "orders", "--id"], 2, &["not the id"]);
    fails(&["aux", "set", "orders", "7"], 2, &["DATA"]);
    fails(&["aux", "get", "orders", "last"], 2, &["whole number"]);
    fails(&["bench", "--mode", "open"], 2, &["--mode closed"]);
    fails(&["bench", "--size", "2MiB"], 2, &["1048576"]);
    fails(&["bench", "--connections", "0"], 2, &[]);
    fails(&["bench", "--connections", "1", "--threads", "2"], 2, &["--threads"]);
    fails(&["bench", "--verify", "--size", "8"], 2, &["--size"]);
    fails(&["bench", "--connect", "nowhere"], 2, &["HOST:PORT"]);
}

#[test]
fn nobody_there_is_exit_code_3_and_says_what_to_do() {
    for verb in [
        &["append", "orders", "x"][..],
        &["append", "orders"],
        &["read", "orders"],
        &["tail", "orders"],
        &["check-tail", "orders"],
        &["status"],
        &["logbook", "list"],
        &["bench"],
    ] {
        fails(&[verb, &["--connect", NOBODY]].concat(), 3, &[NOBODY, "sealog dev"]);
    }
    let several = format!("{NOBODY},unix:/nonexistent/socket");
    fails(&["append", "orders", "x", "--connect", &several], 3, &[NOBODY, "/nonexistent/socket: ", "sealog dev"]);
    fails(&["bench", "--connect", &several], 3, &["sealog dev"]);
    let output = sealog().args(["status"]).env("SEALOG_CONNECT", NOBODY).output().expect("the binary runs");
    failed(&output, 3, &[NOBODY]);
}

/// Somebody who accepts connections and says nothing.
#[test]
fn a_silent_server_is_given_up_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let with_deadline = |verb: &[&'static str]| [verb, &["--deadline", "200ms"]].concat();
    for verb in [&["read", "orders"][..], &["check-tail", "orders"], &["status"], &["bench", "--warmup", "0s"]] {
        fails(&[&with_deadline(verb)[..], &["--connect", &address]].concat(), 3, &[&address]);
    }
    for verb in [&["append", "orders", "x"][..], &["append", "orders"]] {
        fails(&[&with_deadline(verb)[..], &["--connect", &address]].concat(), 4, &[&address, "nothing was appended"]);
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_2_and_starts_nothing() {
    let directory = fresh_directory("cli-configuration");
    let data = directory.join("data");
    let file = directory.join("sealog.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:0\"\n").expect("a file");
    let path = file.to_str().expect("text");
    fails(&["serve", "--config", path], 2, &["lisen", "'listen'"]);
    fails(&["config", "check", path], 2, &["'listen'"]);
    fails(&["config", "check", "/no/such/file"], 2, &["/no/such/file"]);
    let data_text = data.to_str().expect("text");
    fails(&["dev", "--data", data_text, "--listen", "0.0.0.0:0"], 2, &["--allow-remote"]);
    fails(&["dev", "--data", data_text, "--listen", "7440"], 2, &["HOST:PORT"]);
    fails(&["dev", "--data", data_text, "--executors", "0"], 2, &["1 to 64"]);
    let output = sealog().args(["dev", "--data", data_text]).env("SEALOG_EXECUTER", "1").output().expect("it runs");
    failed(&output, 2, &["SEALOG_EXECUTORS"]);
    assert!(!data.exists(), "nothing was made");

    let printed = run(&["config", "default"]);
    std::fs::write(&file, &printed.stdout).expect("a file");
    let checked = run(&["config", "check", path]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let data = fresh_directory("cli-foreign");
    std::fs::write(data.join("thesis.tex"), "years of work").expect("a file");
    let data = data.to_str().expect("text");
    fails(&["dev", "--data", data, "--listen", "127.0.0.1:0"], 1, &["thesis.tex", "empty"]);
    fails(&["inspect", data], 1, &["data directory"]);
    assert!(Path::new(data).join("thesis.tex").exists());
}

#[test]
fn records_are_appended_and_read() {
    let directory = fresh_directory("cli-records");
    let node = Node::start(&directory);
    assert_eq!(lines(&node, &["read", "orders"]), Vec::<Value>::new(), "an unknown LogBook is empty");
    assert_eq!(lines(&node, &["check-tail", "orders"]), [json!({ "tail": null })]);

    let first = append(&node, &["orders", "one", "--tag", "a"]);
    let second = append(&node, &["orders", "two", "--tag", "b", "--tag-id", "7"]);
    let third = append(&node, &["orders", "three", "--tag", "a"]);
    let number = |seqnum: &str| seqnum.parse::<u64>().expect("a number");
    assert!(number(&first) < number(&second) && number(&second) < number(&third));

    let all = lines(&node, &["read", "orders"]);
    assert_eq!(data_of(&all), ["one", "two", "three"]);
    assert_eq!(all[0]["seqnum"], *first);
    assert_eq!(all[1]["tags"].as_array().expect("a list").len(), 2);
    assert_eq!(all[1]["tags"][1], "7");
    let time = all[0]["time"].as_str().expect("text");
    assert!(time.starts_with("20") && time.ends_with('Z') && time.contains('T'), "{time}");

    let read = |arguments: &[&str]| {
        let records = lines(&node, &[&["read", "orders"], arguments].concat());
        data_of(&records).join(" ")
    };
    assert_eq!(read(&["--tag", "a"]), "one three");
    assert_eq!(read(&["--tag-id", "7"]), "two");
    assert_eq!(read(&["--tag", "nobody"]), "");
    assert_eq!(read(&["--from", &second]), "two three");
    assert_eq!(read(&["--reverse"]), "three two one");
    assert_eq!(read(&["--reverse", "--from", &second]), "two one");
    assert_eq!(read(&["--reverse", "--limit", "1"]), "three");
    assert_eq!(read(&["--limit", "2"]), "one two");
    assert_eq!(read(&["--limit", "1"]), "one");
    assert_eq!(read(&["--limit", "0"]), "");
    assert_eq!(read(&["--from", "18446744073709551615"]), "");

    assert_eq!(lines(&node, &["check-tail", "orders"]), [json!({ "tail": third })]);
    assert_eq!(lines(&node, &["check-tail", "orders", "--tag", "b", "--linearizable"]), [json!({ "tail": second })]);

    let table = sealog().args(["read", "orders", "--connect", &node.address]).output().expect("it runs");
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.starts_with("SEQNUM") && table.lines().count() == 4, "{table}");
    node.stop();
}

#[test]
fn ids_can_be_given_in_the_place_of_names() {
    let directory = fresh_directory("cli-ids");
    let node = Node::start(&directory);
    append(&node, &["named", "by name"]);
    append(&node, &["--id", "12345", "by id"]);
    assert_eq!(data_of(&lines(&node, &["read", "--id", "12345"])), ["by id"]);
    let listed = lines(&node, &["logbook", "list"]);
    assert_eq!(listed.len(), 1, "what has no name is not listed");
    assert_eq!(listed[0]["name"], "named");
    let id = listed[0]["logbook"].as_str().expect("a string");
    assert_eq!(data_of(&lines(&node, &["read", "--id", id])), ["by name"]);
    node.stop();
}

#[test]
fn conditions_hold_or_fail_with_exit_code_5() {
    let directory = fresh_directory("cli-conditions");
    let node = Node::start(&directory);
    let first = append(&node, &["lock", "mine", "--if-tail", "none"]);
    node.sealog(&["append", "lock", "too late", "--if-tail", "none"]).expect_failure(5, &[&first]);
    let second = append(&node, &["lock", "passed on", "--if-tail", &first, "--tag", "fresh"]);
    node.sealog(&["append", "lock", "x", "--if-tail", &first, "--tag", "fresh"]).expect_failure(5, &[&second]);
    append(&node, &["lock", "yes", "--if-tail", "none", "--tag", "other"]);
    assert_eq!(data_of(&lines(&node, &["read", "lock"])), ["mine", "passed on", "yes"]);
    node.stop();
}

#[test]
fn lines_of_stdin_are_records_in_order() {
    let directory = fresh_directory("cli-lines");
    let node = Node::start(&directory);
    let input: String = (0..5000).map(|number| format!("line {number}\n")).collect();
    let output = with_input(&node, &["append", "lines", "--tag", "t"], (input + "no newline at the end").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let acknowledged: Vec<Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(acknowledged.len(), 5001);
    let records = lines(&node, &["read", "lines", "--tag", "t"]);
    assert_eq!(records.len(), 5001);
    // Pipelined appends may be ordered in another way; each line's acknowledgement is its record's.
    let by_seqnum: std::collections::BTreeMap<&str, &str> = records
        .iter()
        .map(|record| (record["seqnum"].as_str().expect("text"), record["data"].as_str().expect("text")))
        .collect();
    for (number, line) in acknowledged.iter().enumerate() {
        let data = by_seqnum[line["seqnum"].as_str().expect("text")];
        let expected = if number == 5000 { "no newline at the end".to_owned() } else { format!("line {number}") };
        assert_eq!(data, expected);
    }
    node.stop();
}

#[test]
fn an_acknowledgement_does_not_wait_for_the_next_line() {
    let directory = fresh_directory("cli-interactive");
    let node = Node::start(&directory);
    let mut child = piped(&node, &["append", "chat"]);
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
    for number in 0..3 {
        writeln!(stdin, "line {number}").expect("it reads");
        let acknowledged: Value = serde_json::from_str(&stdout.next().expect("a line").expect("text")).expect("JSON");
        assert!(acknowledged["seqnum"].is_string());
    }
    drop(stdin);
    assert!(stdout.next().is_none());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    node.stop();
}

#[test]
fn bytes_that_are_not_text_come_back_as_base64() {
    let directory = fresh_directory("cli-bytes");
    let node = Node::start(&directory);
    let output = with_input(&node, &["append", "bytes"], b"\xff\x00\n\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let records = lines(&node, &["read", "bytes"]);
    assert_eq!(records[0]["data_base64"], "/wA=");
    assert!(records[0].get("data").is_none());
    assert_eq!(records[1]["data"], "");
    node.stop();
}

#[test]
fn a_line_that_is_too_large_is_refused_and_those_before_it_are_kept() {
    let directory = fresh_directory("cli-large");
    let node = Node::start(&directory);
    let mut input = b"small\n".to_vec();
    input.extend(vec![b'x'; 1 << 20]);
    input.extend(b"\n");
    input.extend(vec![b'y'; (1 << 20) + 1]);
    input.extend(b"\nnever read\n");
    let output = with_input(&node, &["append", "large"], &input);
    failed(&output, 2, &["line 3", "1048576", "2 lines before it"]);
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    let records = lines(&node, &["read", "large"]);
    assert_eq!(records.len(), 2);
    assert_eq!(records[1]["data"].as_str().map(str::len), Some(1 << 20));
    node.stop();
}

#[test]
fn a_tail_prints_what_is_appended_later() {
    let directory = fresh_directory("cli-tail");
    let node = Node::start(&directory);
    append(&node, &["news", "old"]);
    let mut child = piped(&node, &["tail", "news", "--limit", "2", "--tag", "t"]);
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut waiting = String::new();
    stderr.read_line(&mut waiting).expect("text");
    assert!(waiting.contains("Waiting"), "{waiting}");
    append(&node, &["news", "another", "--tag", "u"]);
    append(&node, &["news", "new", "--tag", "t"]);
    append(&node, &["news", "newer", "--tag", "t"]);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(data_of(&records), ["new", "newer"]);

    let from = lines(&node, &["tail", "news", "--from", "0", "--limit", "4"]);
    assert_eq!(data_of(&from), ["old", "another", "new", "newer"]);
    node.stop();
}

#[test]
fn a_tail_waits_on_an_unknown_logbook_and_notices_that_its_node_is_gone() {
    let directory = fresh_directory("cli-tail-unknown");
    let node = Node::start(&directory);
    let mut child = piped(&node, &["tail", "nothing-yet", "--deadline", "1s"]);
    let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
    append(&node, &["nothing-yet", "first"]);
    // The tail may have begun after the append; the second record is after it in any case.
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut String::new()).expect("text");
    append(&node, &["nothing-yet", "second"]);
    let seen: Vec<String> = stdout.by_ref().take_while(|line| line.is_ok()).take(1).flatten().collect();
    assert!(seen[0].contains("first") || seen[0].contains("second"), "{seen:?}");
    node.stop();
    let status = child.wait().expect("it ends");
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(3), "{said}");
}

#[test]
fn whoever_closes_our_output_ends_us_quietly() {
    let directory = fresh_directory("cli-broken-pipe");
    let node = Node::start(&directory);
    let input: String = (0..20_000).map(|number| format!("a line that fills pipes {number}\n")).collect();
    assert_eq!(with_input(&node, &["append", "long"], input.as_bytes()).status.code(), Some(0));
    let mut child = piped(&node, &["read", "long"]);
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut String::new()).expect("text");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    node.stop();
}

#[test]
fn a_stopped_node_has_everything_when_it_is_back() {
    let data = fresh_directory("cli-restart");
    for (round, executors) in ["1", "1"].into_iter().enumerate() {
        let command = NodeCommand::new(&data);
        let node = command.start().unwrap_or_else(|ended| panic!("{executors}: {ended:?}"));
        assert_eq!(lines(&node, &["read", "kept"]).len(), round);
        append(&node, &["kept", "still here"]);
        let status = node.status();
        assert_eq!(status["incarnation"], round as u64 + 1);
        assert_eq!(status["state"], "ready");
        assert_eq!(status["degraded"], json!([]));
        node.stop();
    }
    let inspected = run(&["inspect", data.to_str().expect("text"), "-o", "json"]);
    assert_eq!(inspected.status.code(), Some(0), "{inspected:?}");
    let text = String::from_utf8(inspected.stdout).expect("text");
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = |key: &str| objects.iter().filter_map(|object| object[key].as_u64()).sum::<u64>();
    assert!(sum("records") >= 2 && sum("damaged_blocks") == 0, "{text}");
}

/// A node that these arguments start, and what it said when it was ready.
fn serving(arguments: &[&str]) -> (Child, String) {
    let mut child = sealog().args(arguments).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut ready = String::new();
    stdout.read_line(&mut ready).expect("text");
    assert!(ready.contains("ready"), "{ready}");
    // Whatever else it says must not stop it.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    (child, ready)
}

/// Stops a node in order, as Ctrl-C does.
fn interrupt(mut child: Child) {
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).expect("it lives");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// Lines of JSON that a verb printed on the node at this address.
#[track_caller]
fn lines_at(address: &str, arguments: &[&str]) -> Vec<Value> {
    let output = sealog().args(arguments).args(["-o", "json", "--connect", address]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn more_executors_serve_the_same() {
    for executors in ["2", "3"] {
        let data = fresh_directory(&format!("cli-executors-{executors}"));
        let socket = format!("unix:{}", data.join("sealog.sock").display());
        let dev = ["dev", "--listen", "127.0.0.1:0", "--segment-size", "8MiB", "--data", data.to_str().expect("text")];
        let (mut node, _) = serving(&[&dev[..], &["--executors", executors]].concat());
        let verified = ["bench", "--duration", "300ms", "--warmup", "50ms", "--tags", "3", "--verify"];
        assert_eq!(lines_at(&socket, &verified)[0]["verified"]["ok"], true);
        let last = lines_at(&socket, &["append", "kept", "still here"])[0]["seqnum"].clone();
        node.kill().expect("it lives");
        node.wait().expect("it ends");
        // As it was made, without being told again.
        let (node, _) = serving(&dev);
        assert_eq!(lines_at(&socket, &["check-tail", "kept", "--linearizable"]), [json!({ "tail": last })]);
        let count: usize = executors.parse().expect("a number");
        assert_eq!(lines_at(&socket, &["status"])[0]["executors"].as_array().map(Vec::len), Some(count));
        interrupt(node);
    }
}

#[test]
fn a_node_is_served_as_its_configuration_says() {
    let directory = fresh_directory("cli-serve");
    let (file, data, socket) = (directory.join("sealog.toml"), directory.join("data"), directory.join("s"));
    let text = format!("data = {data:?}\nlisten = \"127.0.0.1:0\"\nsegment_size = \"8MiB\"\n");
    std::fs::write(&file, text).expect("a file");
    let [file, socket] = [&file, &socket].map(|path| path.to_str().expect("text"));
    let (node, ready) = serving(&["serve", "--unix-socket", socket, "--config", file]);
    assert!(ready.contains(&format!("unix:{socket}")), "{ready}");
    lines_at(&format!("unix:{socket}"), &["append", "orders", "x"]);
    assert!(data.join("identity").exists());
    interrupt(node);
}

#[test]
fn a_unix_socket_serves_as_well() {
    let data = fresh_directory("cli-unix");
    let node = Node::start(&data);
    append(&node, &["orders", "by tcp"]);
    let socket = format!("unix:{}", data.join("sealog.sock").display());
    let output = sealog().args(["read", "orders", "-o", "json", "--connect", &socket]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("by tcp"), "{output:?}");
    node.stop();
}

#[test]
fn a_short_bench_is_measured_and_verified() {
    let directory = fresh_directory("cli-bench");
    let node = Node::start(&directory);
    let shapes: [&[&str]; 3] = [
        &["--connections", "1", "--inflight", "1"],
        &["--connections", "4", "--inflight", "16", "--logbooks", "3", "--tags", "5", "--threads", "2"],
        &["--connections", "2", "--inflight", "4", "--size", "100KB"],
    ];
    for shape in shapes {
        let common = ["bench", "--mode", "closed", "--duration", "300ms", "--warmup", "50ms", "--verify"];
        let printed = lines(&node, &[&common[..], shape].concat());
        assert_eq!(printed.len(), 1);
        let report = &printed[0];
        for key in ["ops", "ops_per_s", "p50_us", "p99_us", "p999_us", "max_us"] {
            assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key} in {report}");
        }
        for key in ["errors", "retries", "unknown"] {
            assert_eq!(report[key], 0, "{report}");
        }
        assert_eq!(report["durability"], "disk");
        assert_eq!(report["verified"]["ok"], true);
        assert!(report["verified"]["records"].as_u64() >= report["ops"].as_u64());
    }
    node.stop();
}

#[test]
fn aux_data_is_attached_read_and_counted_and_gone_with_the_node() {
    let directory = fresh_directory("cli-aux");
    let node = Node::start(&directory);
    let first = append(&node, &["orders", "one"]);
    append(&node, &["orders", "two"]);
    assert_eq!(lines(&node, &["aux", "get", "orders", &first]), [json!({})]);
    assert_eq!(lines(&node, &["aux", "set", "orders", &first, "a view"]), [json!({ "kept": true })]);
    assert_eq!(lines(&node, &["aux", "set", "others", &first, "a view"]), [json!({ "kept": false })]);
    assert_eq!(lines(&node, &["aux", "get", "orders", &first]), [json!({ "aux": "a view" })]);
    let all = lines(&node, &["read", "orders", "--aux"]);
    assert_eq!((&all[0]["aux"], &all[1]["aux"]), (&json!("a view"), &Value::Null));
    assert_eq!(lines(&node, &["read", "orders"])[0]["aux"], Value::Null, "nobody asked");
    let aux = &lines(&node, &["status"])[0]["logspaces"][0]["engine"]["aux"];
    let counters = ["entries", "sets", "hits", "misses", "evictions"].map(|name| aux[name].as_u64());
    assert_eq!(counters, [1, 1, 2, 2, 0].map(Some), "{aux}");

    let missing = node.sealog(&["aux", "get", "orders", "1"]);
    missing.expect_failure(1, &["no record 1"]);
    let large = "x".repeat((64 << 10) + 1);
    node.sealog(&["aux", "set", "orders", &first, &large]).expect_failure(2, &["65537", "65536"]);
    node.stop();

    let mut command = NodeCommand::new(&directory);
    command.settings.push(("SEALOG_AUX_MEMORY", "0"));
    let node = command.start().expect("it starts");
    let all = lines(&node, &["read", "orders", "--aux"]);
    assert_eq!(data_of(&all), ["one", "two"], "the records are what they were");
    assert_eq!(all[0]["aux"], Value::Null);
    assert_eq!(lines(&node, &["aux", "set", "orders", &first, "x"]), [json!({ "kept": false })], "it is off");
    node.stop();
}
