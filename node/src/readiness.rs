//! When a node has everything back that it had acknowledged.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Counts the executors whose engines have applied all that was committed before the start.
#[derive(Debug, Default)]
pub struct Readiness {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: usize,
    /// It will never come: the node has stopped.
    over: bool,
}

impl Readiness {
    pub fn executor_is_ready(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ready += 1;
        self.changed.notify_all();
    }

    pub fn give_up(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }

    /// Waits until so many executors are ready, or the node has stopped; at most so long.
    pub fn wait(&self, executors: usize, patience: Duration) -> Start {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State| state.ready < executors && !state.over;
        let waited = self.changed.wait_timeout_while(state, patience, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.ready >= executors, state.over) {
            (_, true) => Start::Over,
            (true, false) => Start::Ready,
            (false, false) => Start::UnderWay,
        }
    }
}

/// How far a node's start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Some of what was acknowledged is not readable yet.
    UnderWay,
    /// Every append that was ever acknowledged is readable.
    Ready,
    /// The node has stopped.
    Over,
}
