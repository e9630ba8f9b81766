//! What appends need beforehand: a session in their logspace, opened when one first needs it, and the
//! name of their LogBook, told once. Requests of the session's own, tried for as long as an append
//! waits for them.

use std::collections::VecDeque;

use sealog_protocol::client::{Durability, Reply, Request};
use sealog_protocol::{LogBookId, LogspaceId, SessionId, Time};

use super::Session;
use super::appending::{append_error, is_temporary};
use super::numbers::Numbers;
use super::operation::OperationId;
use super::table::{NEVER, Status, Work};
use crate::error::AppendError;

/// A client's side of a session in one logspace.
pub(super) struct LogspaceSession {
    pub state: SessionState,
    pub numbers: Numbers,
    /// Appends that lack the session or a number.
    pub waiting: VecDeque<OperationId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionState {
    Closed,
    Opening,
    Open(SessionId),
}

impl LogspaceSession {
    pub fn new() -> LogspaceSession {
        LogspaceSession { state: SessionState::Closed, numbers: Numbers::new(), waiting: VecDeque::new() }
    }
}

/// A LogBook that is appended to by name.
pub(super) struct NameState {
    pub name: Box<str>,
    pub is_named: bool,
    /// Appends that wait for it to be.
    pub waiting: VecDeque<OperationId>,
}

impl Session {
    pub(super) fn ensure_session(&mut self, now: Time, logspace: LogspaceId) {
        let state = &mut self.logspaces[usize::from(logspace.0)];
        if state.state == SessionState::Closed {
            state.state = SessionState::Opening;
            let opening = self.table.insert(Status::Ready, NEVER, Work::OpenSession { logspace });
            self.ask_when_welcomed(now, opening);
        }
    }

    /// The number of logspaces is known: appends go where they belong.
    pub(super) fn place_appends(&mut self, now: Time) {
        for operation in std::mem::take(&mut self.unplaced) {
            if let Some(index) = self.table.find(operation) {
                let logspace = self.logspace(self.table.append(index).logbook).expect("the welcome told their number");
                self.logspaces[usize::from(logspace.0)].waiting.push_back(operation);
            }
        }
        for index in self.table.with_status(Status::Waiting) {
            let logspace = self.logspace(self.table.append(index).logbook).expect("the welcome told their number");
            self.ensure_session(now, logspace);
        }
    }

    pub(super) fn session_opened(&mut self, now: Time, logspace: LogspaceId, session: SessionId) {
        let Some(state) = self.logspaces.get_mut(usize::from(logspace.0)) else { return };
        state.state = SessionState::Open(session);
        state.numbers = Numbers::new();
        self.launch(now, logspace);
    }

    /// The server has forgotten a session: what was never sent under it goes under a new one.
    pub(super) fn session_expired(&mut self, now: Time, logbook: LogBookId, session: SessionId) {
        let logspace = self.logspace(logbook).expect("a session was open in it");
        let state = &mut self.logspaces[usize::from(logspace.0)];
        if state.state != SessionState::Open(session) {
            return;
        }
        state.state = SessionState::Closed;
        self.counters.sessions_expired += 1;
        let mut moved = VecDeque::new();
        for status in [Status::Asked, Status::Resting, Status::Ready] {
            for index in self.table.with_status(status) {
                let is_of_it =
                    matches!(&self.table.entry(index).work, Some(Work::Append(append)) if append.session == session);
                if is_of_it && !self.may_take_effect(index) {
                    self.withdraw(index);
                    moved.push_back(self.table.id(index));
                }
            }
        }
        let waiting = &mut self.logspaces[usize::from(logspace.0)].waiting;
        moved.append(waiting);
        *waiting = moved;
        if !waiting.is_empty() {
            self.ensure_session(now, logspace);
        }
    }

    pub(super) fn open_answered(&mut self, now: Time, index: u32, reply: Reply) -> Result<(), &'static str> {
        let Some(Work::OpenSession { logspace }) = self.table.entry(index).work else { panic!("not an opening") };
        match reply {
            Reply::SessionOpened { session, logspace: opened, place } => {
                if opened != logspace || session == SessionId::NONE {
                    return Err("a session was opened in another logspace");
                }
                self.finish_internal(index);
                self.token.raise(logspace, place);
                self.session_opened(now, logspace, session);
            }
            Reply::Error { code, message } if is_temporary(code) => self.refused(now, index, code, message),
            Reply::Error { code, message } => {
                self.finish_internal(index);
                self.logspaces[usize::from(logspace.0)].state = SessionState::Closed;
                let waiting = std::mem::take(&mut self.logspaces[usize::from(logspace.0)].waiting);
                self.fail_all(now, waiting, &append_error(code, message));
            }
            _ => return Err("the opening of a session was answered with something else"),
        }
        Ok(())
    }

    pub(super) fn name_answered(&mut self, now: Time, index: u32, reply: Reply) -> Result<(), &'static str> {
        let Some(Work::NameLogBook { logbook }) = self.table.entry(index).work else { panic!("not a naming") };
        match reply {
            Reply::Named { place } | Reply::NameKnown { place, .. } => {
                self.finish_internal(index);
                // Names are kept where the LogBooks of class disk are.
                self.saw(logbook.in_class(Durability::Disk), place);
                let state = self.names.get_mut(&logbook.0).expect("it is being named");
                state.is_named = true;
                let mut waiting = std::mem::take(&mut state.waiting);
                let logspace = self.logspace(logbook).expect("the welcome told their number");
                self.logspaces[usize::from(logspace.0)].waiting.append(&mut waiting);
                self.ensure_session(now, logspace);
                self.launch(now, logspace);
            }
            Reply::Error { code, message } if is_temporary(code) => self.refused(now, index, code, message),
            Reply::Error { code, message } => {
                self.finish_internal(index);
                let state = self.names.remove(&logbook.0).expect("it is being named");
                self.fail_all(now, state.waiting, &append_error(code, message));
            }
            _ => return Err("the naming of a LogBook was answered with something else"),
        }
        Ok(())
    }

    fn fail_all(&mut self, now: Time, waiting: VecDeque<OperationId>, error: &AppendError) {
        for operation in waiting {
            if let Some(index) = self.table.find(operation).filter(|index| self.is_waiting(*index)) {
                self.complete_append(now, index, Err(error.clone()));
            }
        }
    }

    /// Whether any append still waits for what this internal request is for; if not, it is dropped.
    pub(super) fn drop_if_unwanted(&mut self, index: u32) -> bool {
        let is_wanted = |wanted: &dyn Fn(LogBookId) -> bool| {
            let waiting = self.table.with_status(Status::Waiting);
            waiting.into_iter().any(|index| wanted(self.table.append(index).logbook))
        };
        match self.table.entry(index).work {
            Some(Work::OpenSession { logspace }) if !is_wanted(&|logbook| self.logspace(logbook) == Some(logspace)) => {
                self.logspaces[usize::from(logspace.0)].state = SessionState::Closed;
            }
            Some(Work::NameLogBook { logbook }) if !is_wanted(&|other| other == logbook) => {
                self.names.remove(&logbook.0);
            }
            _ => return false,
        }
        self.finish_internal(index);
        true
    }

    fn finish_internal(&mut self, index: u32) {
        self.take_back(index);
        self.table.remove(index);
    }

    /// The request of an internal entry.
    pub(super) fn internal_request(&self, work: &Work) -> Request {
        match work {
            Work::OpenSession { logspace } => Request::OpenSession { logspace: logspace.0 },
            Work::NameLogBook { logbook } => {
                let name = self.names[&logbook.0].name.clone().into_string();
                match logbook.class() {
                    Durability::Disk => Request::NameLogBook { name },
                    class => Request::CreateLogBook { name, class },
                }
            }
            _ => panic!("not an internal request"),
        }
    }
}
