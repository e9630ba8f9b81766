//! A node inside a program: no process to start, no port to choose.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealog::{Client, ConnectError, blocking};
use sealog_runtime::{Listen, RunError};
use thiserror::Error;

use crate::node::{Node, NodeError};
use crate::readiness::Start;
use crate::settings::Settings;

/// How long a start may take before [`Embedded::start`] gives up waiting: a log of hundreds of
/// gigabytes is read back in seconds, so something else is wrong.
const START_MAX: Duration = Duration::from_secs(300);

/// A node of this process, with clients of it. Dropping it stops it in order and waits for that.
///
/// It is the node that `sealog serve` runs, on threads of its own that are pinned to cores; clients
/// reach it by a Unix socket in its data directory, which only this user can open. As there, a fault
/// inside it (a disk that fails to flush, a bug) ends the process, for nothing may be acknowledged
/// after it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sealog::{SeqNum, Tag};
/// use sealog_node::Embedded;
///
/// let sealog = Embedded::start("./sealog-data")?;
/// let orders = sealog.client().await?.logbook("orders");
/// orders.append(&[Tag::from_name("customer-17")], b"order 4711 placed").await?;
/// sealog.stop()?;
/// # Ok(()) }
/// ```
pub struct Embedded {
    /// None once it was stopped.
    node: Option<Node>,
    address: String,
}

/// Why an embedded node did not start.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the node has not read back its log within {START_MAX:?}: its log says what it waits for")]
    Slow,
    #[error("the node stopped while it started: its log says why")]
    Stopped,
}

impl Embedded {
    /// Starts a node on a data directory, which is made if it is not there, and waits until every
    /// append that was ever acknowledged is readable.
    ///
    /// # Errors
    /// When the directory is in use, of another release or on a disk that can't serve, or the system
    /// refuses what a node needs; the message says what to do.
    pub fn start(data: impl AsRef<Path>) -> Result<Embedded, EmbeddedError> {
        Embedded::with_settings(&Settings { data: data.as_ref().to_path_buf(), ..Settings::default() })
    }

    /// As [`Embedded::start`], with other settings than the defaults. `listen` is not used: a program
    /// that wants to be reached by others starts a [`Node`].
    ///
    /// # Errors
    /// As there.
    pub fn with_settings(settings: &Settings) -> Result<Embedded, EmbeddedError> {
        let node = Node::start_private(settings)?;
        let started = Instant::now();
        match node.wait_ready(START_MAX) {
            Start::Ready => {}
            Start::UnderWay => return Err(EmbeddedError::Slow),
            Start::Over => return Err(EmbeddedError::Stopped),
        }
        tracing::debug!(elapsed_ms = started.elapsed().as_millis() as u64, "embedded node ready");
        let address = node.addresses().first().map(Listen::to_string).expect("it listens on one address");
        Ok(Embedded { node: Some(node), address })
    }

    /// A new client of the node.
    ///
    /// # Errors
    /// When the process can't have another socket or thread.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        Client::connect(&self.address).await
    }

    /// A new blocking client of the node.
    ///
    /// # Errors
    /// As [`Embedded::client`].
    pub fn blocking_client(&self) -> Result<blocking::Client, ConnectError> {
        blocking::Client::connect(&self.address)
    }

    /// Where clients with settings of their own can connect, as their builders take it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The directory that holds its data.
    pub fn data(&self) -> PathBuf {
        self.node.as_ref().expect("it is there until it is stopped").directory().path.clone()
    }

    /// Stops it in order: what was acknowledged is on disk anyway, what is under way is not.
    ///
    /// # Errors
    /// When it had stopped by itself.
    pub fn stop(mut self) -> Result<(), RunError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), RunError> {
        let Some(node) = self.node.take() else { return Ok(()) };
        node.stopper().stop();
        node.wait()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the embedded node had stopped by itself");
        }
    }
}
