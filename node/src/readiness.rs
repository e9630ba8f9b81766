//! When a node has everything back that it had acknowledged.

use std::sync::{Condvar, Mutex, PoisonError};

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

    /// Waits until so many executors are ready; `false` when the node stopped before that.
    pub fn wait(&self, executors: usize) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State| state.ready < executors && !state.over;
        let state = self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        state.ready >= executors
    }
}
