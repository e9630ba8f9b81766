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
        let mut command = Command::new(binary());
        command.args(["dev", "--nodes", "3", "--listen", "127.0.0.1:0", "--segment-size", "8MiB", "--data"]).arg(data);
        without_settings(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let prompt = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut dev = Dev { child, prompt, lines, connect: String::new() };
        let ready = dev.line();
        let addresses = ready.strip_prefix("sealog is ready: 3 nodes at ").and_then(|rest| rest.split_once(", data"));
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
    for (wrong, word) in [("kill 4", "1 to 3"), ("kill", "which node"), ("crash 1", "help"), ("stop x", "storage-2")] {
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
