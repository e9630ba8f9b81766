//! The `sealog` binary as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes so long: a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary that the tests are about.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_sealog"))
}

/// A directory of a test, deleted at its end; when it fails, it is left for a look.
#[derive(Debug)]
pub struct TestDirectory(PathBuf);

impl Deref for TestDirectory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // The next run empties it as well.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// An empty directory on the disk of the build, not in memory. It outlives the nodes that use it.
pub fn fresh_directory(name: &str) -> TestDirectory {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{}: {error}", path.display()),
        _ => std::fs::create_dir_all(&path).expect("a directory"),
    }
    TestDirectory(path)
}

/// The seed of a test's choices: the same in each run, or that of SEALOG_TEST_SEED, to look further.
pub fn seed(fixed: u64) -> u64 {
    let given = std::env::var("SEALOG_TEST_SEED").ok();
    let seed = given.map_or(fixed, |seed| seed.parse().expect("SEALOG_TEST_SEED is a whole number"));
    println!("SEALOG_TEST_SEED={seed} makes these choices");
    seed
}

/// Held by tests that load the machine, so that they do not slow each other into their deadlines.
pub fn quiet_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node that said it is ready. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    child: Child,
    pub address: String,
    stderr: Option<JoinHandle<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// It failed with this exit code, and what it said has all these words.
    pub fn expect_failure(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeCommand {
    pub binary: PathBuf,
    pub data: PathBuf,
    /// Port 0 takes a free one.
    pub listen: String,
    pub segment_size: &'static str,
    pub executors: usize,
    /// Variables that it is started with.
    pub settings: Vec<(&'static str, &'static str)>,
    /// More of them, whose values the test makes.
    pub variables: Vec<(&'static str, String)>,
    /// `dev`, or `serve`.
    pub verb: &'static str,
    /// The program is given to this one to be run.
    pub wrapper: Vec<String>,
}

impl NodeCommand {
    pub fn new(data: &Path) -> NodeCommand {
        NodeCommand {
            binary: binary(),
            data: data.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            segment_size: "8MiB",
            executors: 1,
            settings: Vec::new(),
            variables: Vec::new(),
            verb: "dev",
            wrapper: Vec::new(),
        }
    }

    /// Starts the process, and waits for nothing.
    pub fn spawn(&self) -> Child {
        let mut words: Vec<&OsStr> = self.wrapper.iter().map(OsStr::new).collect();
        words.push(self.binary.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([self.verb, "--listen", &self.listen, "--data"]).arg(&self.data);
        without_settings(&mut command);
        command.args(["--executors", &self.executors.to_string()]);
        command.env("SEALOG_SEGMENT_SIZE", self.segment_size).envs(self.settings.iter().copied());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Starts a node and waits until it says that it is ready.
    ///
    /// # Errors
    /// How it ended instead.
    pub fn start(&self) -> Result<Node, Ended> {
        let mut child = self.spawn();
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let stderr = Some(text_of(child.stderr.take().expect("it is piped")));
        let mut node = Node { child, address: String::new(), stderr };
        let began = Instant::now();
        let mut said = String::new();
        loop {
            match lines.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
                Ok(line) if line.contains("ready") => {
                    let address = line.split_once("listening on ").and_then(|(_, rest)| rest.split([' ', ',']).next());
                    node.address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
                    return Ok(node);
                }
                Ok(line) => said.push_str(&(line + "\n")),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended { stdout: said, ..node.wait() }),
                Err(RecvTimeoutError::Timeout) => panic!("not ready after {PATIENCE:?}: {:?}", node.kill()),
            }
        }
    }

    /// Starts a node that must fail to start.
    pub fn start_failing(&self) -> Ended {
        match self.start() {
            Ok(node) => panic!("it started: {node:?}"),
            Err(ended) => ended,
        }
    }
}

impl Node {
    /// A node on this data directory, at a port of its own.
    pub fn start(data: &Path) -> Node {
        NodeCommand::new(data).start().unwrap_or_else(|ended| panic!("the node does not start: {ended:?}"))
    }

    /// Ends it without warning, as the kernel does when memory runs out.
    pub fn kill(mut self) -> Ended {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.wait()
    }

    /// Stops it in order.
    pub fn stop(self) {
        let process = Pid::from_child(&self.child);
        kill_process(process, Signal::TERM).expect("a child that was not waited for has its process id");
        let ended = self.wait();
        assert_eq!(ended.code(), Some(0), "{ended:?}");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for can be signalled");
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> Ended {
        let status = self.child.wait().expect("a child can be waited for");
        let stderr = self.stderr.take().expect("it is waited for once").join().expect("reading does not panic");
        Ended { status, stdout: String::new(), stderr }
    }

    /// Runs a client verb on this node, with JSON output.
    pub fn sealog(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(binary());
        without_settings(&mut command);
        command.args(arguments).args(["-o", "json", "--connect", &self.address]);
        let output = command.stdin(Stdio::null()).output().expect("the binary runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
        Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// What `status` says.
    pub fn status(&self) -> serde_json::Value {
        let ended = self.sealog(&["status"]);
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail on a node that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The settings of whoever runs the tests must not reach what is tested.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEALOG_")) {
        command.env_remove(name);
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    // Reads on to the end, whether or not anyone listens: a full pipe would stop the node.
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

fn text_of(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("a pipe can be read");
        String::from_utf8_lossy(&text).into_owned()
    })
}
