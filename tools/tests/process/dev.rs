//! `sealog dev --nodes 3` by its prompt, through a pipe, and `sealog bench --nodes --fault`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::node::{binary, fresh_directory, quiet_machine, without_settings};

const PATIENCE: Duration = Duration::from_secs(60);

/// A dev cluster and its prompt.
struct Dev {
    child: Child,
    prompt: ChildStdin,
    lines: BufReader<ChildStdout>,
    /// Of all nodes, as `--connect` takes them.
    connect: String,
}

impl Dev {
    fn start(data: &Path) -> Dev {
        Dev::start_nodes("3", 3, data)
    }

    /// Of these nodes, as `--nodes` takes them; so many.
    fn start_nodes(nodes: &str, count: usize, data: &Path) -> Dev {
        let mut command = Command::new(binary());
        command
            .args(["dev", "--nodes", nodes, "--listen", "127.0.0.1:0", "--segment-size", "8MiB", "--data"])
            .arg(data);
        without_settings(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let prompt = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut dev = Dev { child, prompt, lines, connect: String::new() };
        let ready = dev.line();
        let begins = format!("sealog is ready: {count} nodes at ");
        let addresses = ready.strip_prefix(&begins).and_then(|rest| rest.split_once(", data"));
        dev.connect = addresses.unwrap_or_else(|| panic!("{ready:?}")).0.to_owned();
        dev
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line).expect("UTF-8");
        assert!(bytes > 0, "it ended: {:?}", self.child.wait());
        line
    }

    /// Gives a command; what was answered, the line with the verdict last.
    fn tell(&mut self, command: &str) -> Vec<String> {
        writeln!(self.prompt, "{command}").expect("it listens");
        let mut answer = Vec::new();
        loop {
            let line = self.line().trim_end().to_owned();
            let is_verdict = line.starts_with("ok: ") || line.starts_with("error: ");
            // Before the first answer there are the lines of the greeting.
            answer.push(line);
            if is_verdict {
                return answer;
            }
        }
    }

    fn done(&mut self, command: &str) {
        let answer = self.tell(command);
        assert!(answer.last().expect("a verdict").starts_with("ok: "), "{command}: {answer:?}");
    }

    /// Asks for the status until it is so; the lines of the nodes, in their order.
    fn until(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let began = Instant::now();
        loop {
            let mut lines = self.tell("status");
            lines.retain(|line| line.starts_with("node ") && line.contains(" 127.0.0.1:"));
            if is_so(&lines) {
                return lines;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {lines:?}");
        }
    }

    fn append(&self, payload: &str) {
        let mut command = Command::new(binary());
        without_settings(&mut command);
        command.args(["append", "orders", "--deadline", "60s", "--connect", &self.connect, payload]);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
    }

    fn quit(mut self) {
        writeln!(self.prompt, "quit").expect("it listens");
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its nodes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of the processes whose data is in this directory.
fn processes(directory: &Path) -> Vec<u32> {
    let named = directory.to_str().expect("UTF-8");
    let ids = std::fs::read_dir("/proc").expect("Linux").filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        (command.contains("end-with-parent") && command.contains(named)).then_some(id)
    });
    ids.collect()
}

#[test]
fn its_prompt_says_what_is_wrong_and_its_nodes_end_with_it() {
    let _machine = quiet_machine();
    let directory = fresh_directory("dev-prompt");
    let data = directory.join("cluster");
    let mut dev = Dev::start(&data);
    for (wrong, word) in [
        ("kill 4", "1 to 3"),
        ("kill", "which node"),
        ("crash 1", "help"),
        ("stop x", "storage-2"),
        ("kill engine-4", "3 nodes have that role"),
        ("partition", "which node"),
        ("partition 1 4", "1 to 3"),
        ("partition 2 2", "two nodes"),
        ("heal 1 x", "1->2"),
    ] {
        let answer = dev.tell(wrong);
        let verdict = answer.last().expect("a verdict");
        assert!(verdict.starts_with("error: ") && verdict.contains(word), "{wrong}: {answer:?}");
    }
    dev.done("kill storage-2");
    let verdict = dev.tell("kill 2");
    assert!(verdict[0].contains("restart 2"), "{verdict:?}");
    dev.done("stop 3");
    let status = dev.tell("status").join("\n");
    for words in ["node 1", "node 2  down", "node 3  stopped", "primary of logspace 0"] {
        assert!(status.contains(words), "no {words:?} in {status}");
    }
    let nodes = processes(&data);
    assert_eq!(nodes.len(), 2);
    // Killed, so that it can do nothing for them; one of them is stopped.
    kill_process(Pid::from_child(&dev.child), Signal::KILL).expect("it runs");
    dev.child.wait().expect("it ends");
    let began = Instant::now();
    while nodes.iter().any(|id| test_kill_process(Pid::from_raw(*id as i32).expect("an id")).is_ok()) {
        assert!(began.elapsed() < PATIENCE, "its nodes live on");
        std::thread::yield_now();
    }
    drop(dev);
    // Started again it has everything, with other ports.
    let dev = Dev::start(&data);
    dev.quit();
    assert_eq!(processes(&data), Vec::<u32>::new());
}

fn leader(lines: &[String]) -> Option<usize> {
    lines.iter().position(|line| line.contains("primary of logspace 0")).map(|at| at + 1)
}

fn all_ready(lines: &[String]) -> bool {
    lines.iter().all(|line| line.contains("  ready "))
}

/// What the network would eat is noticed by silence alone; the cluster goes on without the primary.
#[test]
fn its_nodes_are_cut_off_from_each_other_and_healed() {
    let _machine = quiet_machine();
    let directory = fresh_directory("dev-partition");
    let data = directory.join("cluster");
    let mut dev = Dev::start(&data);
    let before = leader(&dev.until("all are ready", all_ready)).expect("a primary");
    dev.append("whole");
    dev.done("partition primary");
    let lines = dev.until("another leads", |lines| leader(lines).is_some_and(|now| now != before));
    assert!(lines[before - 1].contains("does not hear"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains(&format!("does not hear {before}"))).count(), 2, "{lines:?}");
    dev.append("without it");
    dev.done("heal");
    let lines = dev.until("all are ready", all_ready);
    assert!(lines.iter().all(|line| !line.contains("does not hear")), "{lines:?}");

    // One direction: neither has a connection, and the third has both.
    dev.done("partition 1->2");
    let lines = dev.until("they miss each other", |lines| lines[..2].iter().all(|line| line.contains("  degraded ")));
    assert!(lines[1].contains("does not hear 1") && !lines[0].contains("does not hear"), "{lines:?}");
    assert!(lines[2].contains("  ready "), "{lines:?}");
    // A node that starts anew is cut off as it was, and one that is stopped when it goes on.
    dev.done("restart 2");
    dev.done("stop 3");
    dev.done("heal 1->2");
    dev.done("partition 3");
    dev.done("resume 3");
    let lines = dev.until("it is alone", |lines| lines.iter().all(|line| !line.contains("  ready ")));
    assert!(lines[2].contains("does not hear 1, 2"), "{lines:?}");
    dev.append("without the third");
    dev.done("heal 3");
    dev.until("all are ready", all_ready);
    dev.append("healed");
    dev.quit();
}

/// Each role by itself, so that one can be lost without the others.
#[test]
fn nodes_of_different_roles_are_named_by_them() {
    let _machine = quiet_machine();
    let directory = fresh_directory("dev-roles");
    let data = directory.join("cluster");
    let mut dev = Dev::start_nodes("sequencer,storage x3; engine,controller x2", 5, &data);
    assert_eq!(dev.connect.split(',').count(), 2, "clients connect to engines: {}", dev.connect);
    dev.append("whole");
    dev.done("kill engine-1");
    dev.append("by the other engine");
    let lines = dev.until("it is down", |lines| lines[3].contains("  down "));
    assert!(leader(&lines).is_some_and(|primary| primary <= 3), "{lines:?}");
    let verdict = dev.tell("kill controller");
    assert_eq!(verdict, ["ok: kill 5"], "the only one left");
    dev.done("restart 4");
    dev.done("restart 5");
    dev.done("kill storage-2");
    dev.append("by two storages");
    dev.quit();
    for (wrong, word) in [("engine x3", "has the role storage"), ("3 4", "write roles"), ("99", "from 1 to 8")] {
        let output = Command::new(binary()).args(["dev", "--nodes", wrong]).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(word), "{wrong}: {said}");
    }
}

#[test]
fn bench_measures_the_gap_that_a_kill_makes() {
    let _machine = quiet_machine();
    let directory = fresh_directory("bench-fault");
    let mut command = Command::new(binary());
    without_settings(&mut command);
    command.current_dir(&*directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.args(["bench", "--nodes", "3", "--connections", "3", "--inflight", "4", "--duration", "6s", "--verify"]);
    command.args(["--fault", "kill storage-2@1s", "--fault", "restart 2@3s", "-o", "json", "--deadline", "60s"]);
    let mut child = command.spawn().expect("the binary runs");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
    assert!(child.wait().expect("it ends").success(), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["errors"], &report["unknown"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["verified"]["ok"], true, "{report}");
    assert_eq!(report["gaps"]["each"][0]["fault"], "kill 2", "{report}");
    let (kill, most) = (&report["gaps"]["each"][0]["gap_ms"], &report["gaps"]["max_ms"]);
    assert!(kill.as_f64() > Some(0.0) && kill.as_f64() <= most.as_f64(), "{report}");
    assert_eq!(std::fs::read_dir(&*directory).expect("there").count(), 0, "its nodes' data is gone");
}
