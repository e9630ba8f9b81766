//! A node as a child process: it ends with us, and its death loses nothing that it acknowledged.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::control::{self, Cuts};
use crate::failure::Failure;

/// A node that stops in order takes less; after it, it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A node answers a control line in less, unless it is stopped.
const CONTROL_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether a process has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Of the end of a log, in an error.
const LOG_LINES: usize = 5;

/// How a node's process is made, each time alike.
#[derive(Clone, Debug)]
pub struct ChildCommand {
    pub data: PathBuf,
    /// For clients.
    pub listen: String,
    pub peer_listen: String,
    pub register: String,
    /// Further settings, by their keys.
    pub settings: Vec<(&'static str, String)>,
}

impl ChildCommand {
    pub fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts the process. To be called on the thread that lives as long as this program: the child
    /// ends with that thread.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(&self) -> Result<NodeProcess, Failure> {
        let failed = |what: &str, error: std::io::Error| Failure::other(format!("cannot {what}: {error}"));
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(|error| failed(&format!("write {}", self.log().display()), error))?;
        let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
        let mut command = Command::new(program);
        command.args(["serve", "--control", "--end-with-parent", &std::process::id().to_string()]);
        command.arg("--data").arg(&self.data).args(["--listen", &self.listen]);
        command.env("SEALOG_REGISTER", &self.register).env("SEALOG_PEER_LISTEN", &self.peer_listen);
        for (key, value) in &self.settings {
            command.env(format!("SEALOG_{}", key.to_uppercase()), value);
        }
        // Ctrl-C is for us: the nodes are then stopped in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|error| failed("start a node", error))?;
        let stdout = child.stdout.take().expect("it is piped");
        let ((tell_ready, ready), (tell_done, done)) = (channel(), channel());
        let read = move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever waits for neither any more is about to end it.
                if line.starts_with("sealog is ready") {
                    let _ = tell_ready.send(());
                } else if line == control::DONE {
                    let _ = tell_done.send(());
                }
            }
        };
        thread::Builder::new().spawn(read).map_err(|error| failed("start a thread", error))?;
        let control = child.stdin.take().expect("it is piped");
        Ok(NodeProcess { child, ready, control, done, unanswered: 0, is_stopped: false, log: self.log() })
    }
}

/// See the module's documentation. Dropping it kills it.
pub struct NodeProcess {
    child: Child,
    ready: Receiver<()>,
    control: ChildStdin,
    /// Control lines that were answered.
    done: Receiver<()>,
    /// Control lines that were not.
    unanswered: usize,
    is_stopped: bool,
    log: PathBuf,
}

impl NodeProcess {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Tells it whom it is cut off from, and waits until that is so. One that is stopped does it when it
    /// goes on, before anything else that it does.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub fn cut(&mut self, cuts: &Cuts) -> Result<(), Failure> {
        let line = serde_json::to_string(cuts).expect("sets of numbers are JSON");
        writeln!(self.control, "{line}").map_err(|error| Failure::other(format!("a node can't be told: {error}")))?;
        self.unanswered += 1;
        while !self.is_stopped && self.unanswered > 0 {
            let answered = self.done.recv_timeout(CONTROL_MAX);
            let log = self.log.display();
            answered.map_err(|_| Failure::other(format!("a node does not answer: {log} may say why")))?;
            self.unanswered -= 1;
        }
        Ok(())
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It ended instead, or takes too long.
    pub fn wait_ready(&mut self, until: Instant) -> Result<(), Failure> {
        let why = match self.ready.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => "is not ready in time",
            Err(RecvTimeoutError::Disconnected) => "has ended",
        };
        Err(Failure::other(format!("a node {why}: {} says\n{}", self.log.display(), log_end(&self.log))))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&mut self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a child has an id");
        // It is not waited for before, so the id is still its own. It may have ended all the same.
        if kill_process(id, signal).is_ok() {
            self.is_stopped = match signal {
                Signal::STOP => true,
                Signal::CONT => false,
                _ => self.is_stopped,
            };
        }
    }

    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // A process that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop in order; [`NodeProcess::await_end`] waits for it.
    pub fn ask_to_stop(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
    }

    pub fn await_end(mut self) {
        let until = Instant::now() + STOP_MAX;
        while !self.has_ended() && Instant::now() < until {
            thread::sleep(LOOK_INTERVAL);
        }
        self.end();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.end();
    }
}

fn log_end(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
