//! How an engine lets go: trims asked for and applied, and the sweep behind them.

use sealog_protocol::client::{ErrorCode, Reply, RetentionRequest, TrimRequest};
use sealog_protocol::machine::{ConnectionId, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LogBookId, SeqNum, Tag, Time};

use super::Engine;
use super::replies::unavailable;
use crate::index::Retention;
use crate::producer::Origin;

/// Entries that are swept in a turn: some tens of microseconds.
const SWEEP_ENTRIES: usize = 1024;

impl Engine {
    pub(super) fn trim(&mut self, connection: ConnectionId, request: u64, wanted: &TrimRequest, outputs: &mut Outputs) {
        let (logbook, tag, wanted) = (LogBookId(wanted.logbook), Tag(wanted.tag), SeqNum(wanted.first));
        if let Err((code, message)) = self.admit_logbook(logbook) {
            return outputs.reply(connection, request, Reply::Error { code, message });
        }
        let place = self.applied();
        let Some(index) = &self.index else { return outputs.reply(connection, request, unavailable()) };
        let first = index.first(logbook, tag);
        if wanted <= first {
            return outputs.reply(connection, request, Reply::TrimDone { first, place });
        }
        self.trims.push((logbook, tag), wanted, (connection, request), outputs);
    }

    pub(super) fn set_retention(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: u64,
        wanted: &RetentionRequest,
        outputs: &mut Outputs,
    ) {
        let logbook = LogBookId(wanted.logbook);
        if let Err((code, message)) = self.admit_logbook(logbook).and_then(|()| self.admit_space()) {
            return outputs.reply(connection, request, Reply::Error { code, message });
        }
        let retention = Retention { age_ms: wanted.age_ms, bytes: wanted.bytes };
        self.append_system(now, Origin::SetRetention { connection, request }, &retention.tags(logbook), b"");
    }

    /// Whether a LogBook is one that clients may change, here.
    pub(super) fn admit_logbook(&self, logbook: LogBookId) -> Result<(), (ErrorCode, String)> {
        let invalid = |message: &str| Err((ErrorCode::Invalid, message.to_owned()));
        if logbook == LogBookId::SYSTEM {
            return invalid("LogBook 0 is reserved: choose another");
        }
        if logbook.is_memory() {
            return invalid("LogBook ids from 2^63 on are of class memory, which this release does not have");
        }
        let logspaces = self.chain.as_ref().map_or(1, |chain| chain.settings.logspaces);
        if logbook.logspace(logspaces) != self.config.logspace {
            return invalid("the LogBook belongs to another logspace: ask the engine that serves it");
        }
        Ok(())
    }

    /// An entry of the metalog trims.
    pub(super) fn trimmed(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum, outputs: &mut Outputs) {
        let (Some(index), Some(logspace)) = (&mut self.index, &self.logspace) else { return };
        let clamped = if active(Mutant::TrimNotClamped) { first } else { logspace.clamp_trim(first) };
        if clamped < first {
            mark(Mark::TrimClamped);
        }
        index.trim(logbook, tag, clamped);
        let answer = (index.first(logbook, tag), logspace.place());
        self.trims.granted((logbook, tag), first, answer, outputs);
    }

    /// Asks the primary for the trims that clients want.
    pub(super) fn send_trims(&mut self, outputs: &mut Outputs) {
        if self.trims.is_empty() {
            return;
        }
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        if !self.connected.contains_key(&primary) {
            return;
        }
        let to = self.address(primary, Role::Sequencer);
        for ((logbook, tag), first) in self.trims.to_ask() {
            outputs.send(to, Message::Trim { logbook, tag, first });
        }
    }

    pub(super) fn is_sweeping(&self) -> bool {
        self.index.as_ref().is_some_and(|index| !index.is_swept())
    }

    pub(super) fn sweep(&mut self) {
        if let Some(index) = self.index.as_mut().filter(|index| !index.is_swept()) {
            index.sweep(SWEEP_ENTRIES, &mut self.dying);
        }
    }
}
