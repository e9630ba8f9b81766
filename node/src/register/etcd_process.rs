//! An etcd of this machine, for development and tests: one process, on ports that are free.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::RegisterSetting;
use super::gateway::Gateway;

/// The program, as Debian's package etcd-server has it.
const PROGRAM: &str = "etcd";
/// From its start to its first answer, on a machine that does much else.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks whether it answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Ports are tried until two are free.
const PORT_TRIES_MAX: u32 = 20;
/// Below those that the system gives to connections.
const PORTS: std::ops::Range<u64> = 20_000..32_000;

/// A running etcd; it ends when this is dropped, its data stays.
#[derive(Debug)]
pub struct EtcdProcess {
    directory: PathBuf,
    /// For clients; the next one is for peers that it does not have.
    port: u64,
    child: Child,
}

/// Why there is no etcd.
#[derive(Debug, Error)]
pub enum EtcdError {
    #[error("cannot start '{PROGRAM}': {error}; install it, on Debian: apt-get install etcd-server")]
    Program { error: io::Error },
    #[error("cannot use {} for etcd: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("etcd did not start; {} says why", log.display())]
    NotStarted { log: PathBuf },
}

impl EtcdProcess {
    /// Starts one that keeps its data and its log in this directory, which is made.
    ///
    /// # Errors
    /// There is no etcd on this machine, or it does not start.
    pub fn start(directory: &Path) -> Result<EtcdProcess, EtcdError> {
        let failed = |error| EtcdError::Directory { path: directory.to_owned(), error };
        std::fs::create_dir_all(directory).map_err(failed)?;
        for _ in 0..PORT_TRIES_MAX {
            let random = getrandom::u64().map_err(|error| failed(error.into()))?;
            let port = PORTS.start + random % (PORTS.end - PORTS.start) / 2 * 2;
            let child = spawn(directory, port)?;
            let mut process = EtcdProcess { directory: directory.to_owned(), port, child };
            // It ends by itself where a port is in use.
            if process.wait_until_it_answers() {
                return Ok(process);
            }
        }
        Err(EtcdError::NotStarted { log: log(directory) })
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The register of a cluster in it.
    pub fn setting(&self, prefix: &str) -> RegisterSetting {
        RegisterSetting::Etcd { endpoints: vec![self.endpoint()], prefix: prefix.to_owned() }
    }

    /// Makes it forget what keys held before now, as etcd does by itself now and then.
    ///
    /// # Errors
    /// It did not answer.
    pub fn compact(&self) -> io::Result<()> {
        Gateway::new(&[self.endpoint()]).compact()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, after [`EtcdProcess::kill`].
    ///
    /// # Errors
    /// It does not start any more.
    pub fn restart(&mut self) -> Result<(), EtcdError> {
        self.kill();
        self.child = spawn(&self.directory, self.port)?;
        if self.wait_until_it_answers() {
            return Ok(());
        }
        Err(EtcdError::NotStarted { log: log(&self.directory) })
    }

    /// Whether it does, before it ends or its time is over.
    fn wait_until_it_answers(&mut self) -> bool {
        let until = Instant::now() + START_DEADLINE;
        let mut gateway = Gateway::new(&[self.endpoint()]);
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if gateway.get("/sealog").is_ok() {
                // Another etcd may have the port, and this one be about to end.
                return matches!(self.child.try_wait(), Ok(None));
            }
            thread::sleep(LOOK_INTERVAL);
        }
        false
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(directory: &Path) -> PathBuf {
    directory.join("etcd.log")
}

fn spawn(directory: &Path, port: u64) -> Result<Child, EtcdError> {
    let failed = |error| EtcdError::Directory { path: directory.to_owned(), error };
    let log = File::options().create(true).append(true).open(log(directory)).map_err(failed)?;
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 1));
    Command::new(PROGRAM)
        .args(["--name", "sealog", "--initial-cluster"])
        .arg(format!("sealog={peers}"))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(|error| EtcdError::Program { error })
}
