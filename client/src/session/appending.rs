//! Appends: what an append needs before it can be sent (a session in its logspace, its LogBook's
//! name, a request number), what its answers mean, and when its outcome is unknown.
//!
//! ```text
//!  submit ──> Waiting ──> Asked ──> answered
//!                │          │ ^ └─> Resting (refused without effect) ──> Asked
//!                │          v │
//!                │        Ready (no connection)
//!                v          v
//!         deadline: no    deadline: Parked, outcome unknown, if an effect is possible
//!         effect
//! ```

use std::collections::VecDeque;

use sealog_protocol::batch::{Batch, BatchHead, NewRecord, check_records, write_batch};
use sealog_protocol::client::{ErrorCode, Reply};
use sealog_protocol::limits::NAME_BYTES_MAX;
use sealog_protocol::{LogBookId, LogspaceId, RequestNumber, SeqNum, SessionId, Tag, Time};

use super::opening::{NameState, SessionState};
use super::operation::{Append, Appended, OperationId, Outcome, Target};
use super::send_buffer::FrameRef;
use super::table::{NEVER, Status, Work};
use super::{Session, SubmitError};
use crate::error::AppendError;

/// More than a batch frame has besides payloads and tags.
const FRAME_OVERHEAD_BYTES: usize = 192;
/// More than a batch frame has for each record besides.
const RECORD_OVERHEAD_BYTES: usize = 24;

pub(super) struct AppendWork {
    pub logbook: LogBookId,
    /// The session it was numbered in; [`SessionId::NONE`] before.
    pub session: SessionId,
    pub number: RequestNumber,
    pub frame: AppendFrame,
    /// An earlier try may have taken effect, or still may.
    pub is_ambiguous: bool,
    /// The answer that came while parked.
    pub late: Option<Result<Appended, AppendError>>,
}

pub(super) enum AppendFrame {
    /// In the send buffer, pinned.
    Kept(FrameRef),
    /// A frame of its own: with another head before it was numbered, final when parked.
    Own(Vec<u8>),
}

impl Session {
    pub(super) fn submit_append(
        &mut self,
        now: Time,
        append: &Append<'_>,
        deadline: Time,
    ) -> Result<OperationId, SubmitError> {
        check_records(append.records).map_err(|error| SubmitError::Append(error.into()))?;
        let logbook = append.logbook.id();
        let is_named = self.check_name(logbook, &append.logbook)?;
        let bytes = frame_bytes_about(append.records);
        self.make_room(now, bytes)?;
        let head = BatchHead {
            logbook,
            session: SessionId::NONE,
            request: RequestNumber(0),
            lowest_unanswered: RequestNumber(0),
            time_ms: append.time_ms,
            condition: append.condition.map(|condition| (condition.tag, condition.expected.unwrap_or(SeqNum::MIN))),
        };
        let index = match self.open_slot(logbook).filter(|_| is_named) {
            Some((logspace, session, number)) => {
                let lowest_unanswered = self.logspaces[usize::from(logspace.0)].numbers.lowest_unanswered();
                let head = BatchHead { session, request: number, lowest_unanswered, ..head };
                let frame = self.sends.write(bytes, |out| self.writer.write(out, 0, &head, append.records));
                let frame = frame.map_err(|error| SubmitError::Append(error.into()))?;
                self.sends.pin(frame);
                let work = AppendWork::new(logbook, session, number, AppendFrame::Kept(frame));
                let index = self.table.insert(Status::Ready, deadline, Work::Append(work));
                self.logspaces[usize::from(logspace.0)].numbers.take(index);
                self.ask_when_welcomed(now, index);
                index
            }
            None => {
                let mut frame = Vec::with_capacity(bytes);
                write_batch(&mut frame, 0, &head, append.records).map_err(|error| SubmitError::Append(error.into()))?;
                self.own_bytes += frame.len();
                let work = AppendWork::new(logbook, SessionId::NONE, RequestNumber(0), AppendFrame::Own(frame));
                let index = self.table.insert(Status::Waiting, deadline, Work::Append(work));
                self.wait_for_what_lacks(now, index, &append.logbook, is_named);
                index
            }
        };
        self.callers += 1;
        Ok(self.table.id(index))
    }

    /// Whether appends to the LogBook need not wait for its name.
    fn check_name(&self, logbook: LogBookId, target: &Target<'_>) -> Result<bool, SubmitError> {
        let Some(name) = target.name() else { return Ok(true) };
        match self.names.get(&logbook.0) {
            Some(state) if *state.name == *name => Ok(state.is_named),
            Some(state) => {
                let message = format!("it is that of {:?}", state.name);
                Err(SubmitError::Append(AppendError::NameTaken { message }))
            }
            None if name.len() > NAME_BYTES_MAX => {
                Err(SubmitError::Append(AppendError::NameTooLong { bytes: name.len() }))
            }
            None => Ok(false),
        }
    }

    /// Keeps the bytes of appends within their bound: parked ones go first.
    pub(super) fn make_room(&mut self, now: Time, bytes: usize) -> Result<(), SubmitError> {
        let max = self.config.buffer_bytes_max;
        while self.kept_bytes() > 0 && self.kept_bytes() + bytes > max {
            let Some(oldest) = self.parked.front().copied() else { return Err(SubmitError::Full) };
            self.forget(now, oldest);
        }
        Ok(())
    }

    fn kept_bytes(&self) -> usize {
        self.sends.pinned_bytes() + self.own_bytes
    }

    /// The session and request number with which an append could be sent at once.
    fn open_slot(&mut self, logbook: LogBookId) -> Option<(LogspaceId, SessionId, RequestNumber)> {
        let logspace = self.logspace(logbook)?;
        let state = &self.logspaces[usize::from(logspace.0)];
        let SessionState::Open(session) = state.state else { return None };
        if !state.waiting.is_empty() {
            return None;
        }
        let number = self.next_number(logspace)?;
        Some((logspace, session, number))
    }

    /// The next request number. A parked append that blocks the window is forgotten for it.
    fn next_number(&mut self, logspace: LogspaceId) -> Option<RequestNumber> {
        let at = usize::from(logspace.0);
        loop {
            if let Some(number) = self.logspaces[at].numbers.next(self.window) {
                return Some(number);
            }
            let holder = self.logspaces[at].numbers.lowest_holder()?;
            if self.table.entry(holder).status != Status::Parked {
                return None;
            }
            self.drop_parked(self.table.id(holder));
        }
    }

    fn wait_for_what_lacks(&mut self, now: Time, index: u32, target: &Target<'_>, is_named: bool) {
        let operation = self.table.id(index);
        let logbook = target.id();
        match target.name().filter(|_| !is_named) {
            Some(name) => match self.names.get_mut(&logbook.0) {
                Some(state) => state.waiting.push_back(operation),
                None => {
                    let waiting = VecDeque::from([operation]);
                    self.names.insert(logbook.0, NameState { name: name.into(), is_named: false, waiting });
                    let naming = self.table.insert(Status::Ready, NEVER, Work::NameLogBook { logbook });
                    self.ask_when_welcomed(now, naming);
                }
            },
            None => match self.logspace(logbook) {
                Some(logspace) => self.logspaces[usize::from(logspace.0)].waiting.push_back(operation),
                None => self.unplaced.push_back(operation),
            },
        }
        // Beside the naming, not after it.
        if let Some(logspace) = self.logspace(logbook) {
            self.ensure_session(now, logspace);
        }
    }

    /// Numbers and sends appends that waited, as far as the window lets them.
    pub(super) fn launch(&mut self, now: Time, logspace: LogspaceId) {
        let at = usize::from(logspace.0);
        let SessionState::Open(session) = self.logspaces[at].state else { return };
        while let Some(operation) = self.logspaces[at].waiting.front().copied() {
            if let Some(index) = self.table.find(operation).filter(|index| self.is_waiting(*index)) {
                let Some(number) = self.next_number(logspace) else { return };
                self.number(index, session, number, self.logspaces[at].numbers.lowest_unanswered());
                self.logspaces[at].numbers.take(index);
                self.ask_when_welcomed(now, index);
            }
            self.logspaces[at].waiting.pop_front();
        }
    }

    pub(super) fn is_waiting(&self, index: u32) -> bool {
        self.table.entry(index).status == Status::Waiting
    }

    /// Writes a waiting append's frame anew, with its session and number.
    fn number(&mut self, index: u32, session: SessionId, number: RequestNumber, lowest_unanswered: RequestNumber) {
        let append = self.table.append_mut(index);
        let AppendFrame::Own(own) = &append.frame else { panic!("a waiting append has a frame of its own") };
        let batch = Batch::parse(own).expect("the session wrote it");
        let tags: Vec<Vec<Tag>> = batch.metadata.records.iter().map(|record| record.tags().collect()).collect();
        let mut payload = batch.frame.payload;
        let mut records = Vec::with_capacity(tags.len());
        for (record, tags) in batch.metadata.records.iter().zip(&tags) {
            let (own, rest) = payload.split_at(record.payload_bytes.to_native() as usize);
            records.push(NewRecord { tags, payload: own });
            payload = rest;
        }
        let head = BatchHead {
            logbook: append.logbook,
            session,
            request: number,
            lowest_unanswered,
            time_ms: batch.metadata.time_ms.to_native(),
            condition: batch.metadata.condition(),
        };
        let frame = self.sends.write(own.len(), |out| write_batch(out, 0, &head, &records));
        let frame = frame.expect("its records were within the limits before");
        self.sends.pin(frame);
        self.own_bytes -= own.len();
        (append.session, append.number, append.frame) = (session, number, AppendFrame::Kept(frame));
    }

    /// The frame to queue, with this request id in it.
    pub(super) fn append_frame(&mut self, index: u32, request: u64) -> FrameRef {
        let append = self.table.append_mut(index);
        if let AppendFrame::Own(own) = &append.frame {
            let frame = self.sends.write(own.len(), |out| {
                out.extend_from_slice(own);
                Ok::<(), std::convert::Infallible>(())
            });
            let Ok(frame) = frame;
            self.sends.pin(frame);
            self.own_bytes -= own.len();
            append.frame = AppendFrame::Kept(frame);
        }
        let AppendFrame::Kept(frame) = append.frame else { unreachable!("made so above") };
        self.sends.set_request(frame, request);
        frame
    }

    pub(super) fn append_answered(&mut self, now: Time, index: u32, reply: Reply) -> Result<(), &'static str> {
        let (logbook, is_ambiguous) = (self.table.append(index).logbook, self.table.append(index).is_ambiguous);
        let verdict = match reply {
            Reply::Appended { seqnum, durability, place } => {
                self.saw(logbook, place);
                Ok(Appended { seqnum, durability })
            }
            Reply::ConditionFailed { tail, place } => {
                self.saw(logbook, place);
                Err(AppendError::ConditionFailed { tail })
            }
            Reply::Error { code: ErrorCode::SessionExpired, .. } => {
                let session = self.table.append(index).session;
                self.complete_append(now, index, Err(AppendError::SessionExpired));
                self.session_expired(now, logbook, session);
                return Ok(());
            }
            Reply::Error { code, message } => {
                // "No effect" is said of this try, not of an earlier one whose answer was lost.
                let may_pass = matches!(code, ErrorCode::DiskFull | ErrorCode::IndexFull) && is_ambiguous;
                if may_pass || is_temporary(code) {
                    self.refused(now, index, code, message);
                    return Ok(());
                }
                Err(append_error(code, message))
            }
            _ => return Err("an append was answered with something else"),
        };
        self.complete_append(now, index, verdict);
        Ok(())
    }

    /// An append has its verdict, or can have no effect any more.
    pub(super) fn complete_append(&mut self, now: Time, index: u32, result: Result<Appended, AppendError>) {
        if self.table.entry(index).status == Status::Parked {
            self.table.append_mut(index).late = Some(result);
            if let Some(logspace) = self.release_number(index) {
                self.launch(now, logspace);
            }
            return;
        }
        let operation = self.table.id(index);
        let is_detached = self.table.entry(index).detached;
        let window_moved = self.drop_append(index);
        self.callers -= 1;
        if !is_detached {
            self.completions.push_back((operation, Outcome::Append(result)));
        }
        if let Some(logspace) = window_moved {
            self.launch(now, logspace);
        }
    }

    /// Frees all that an append holds. Returns its logspace if appends there may have become possible.
    fn drop_append(&mut self, index: u32) -> Option<LogspaceId> {
        self.take_back(index);
        let window_moved = self.release_number(index);
        let Work::Append(append) = self.table.remove(index) else { panic!("not an append") };
        match append.frame {
            AppendFrame::Kept(frame) => self.sends.unpin(frame),
            AppendFrame::Own(own) => self.own_bytes -= own.len(),
        }
        window_moved
    }

    /// The append's number needs no verdict any more. Returns its logspace if others may be sent now.
    fn release_number(&mut self, index: u32) -> Option<LogspaceId> {
        let append = self.table.append_mut(index);
        let session = std::mem::replace(&mut append.session, SessionId::NONE);
        let (logbook, number) = (append.logbook, append.number);
        let logspace = self.logspace(logbook)?;
        let state = &mut self.logspaces[usize::from(logspace.0)];
        if session == SessionId::NONE || state.state != SessionState::Open(session) {
            return None;
        }
        let moved = state.numbers.answered(number);
        (moved && !state.waiting.is_empty()).then_some(logspace)
    }

    /// Whether an append may take effect, or have taken it, though no answer said so.
    pub(super) fn may_take_effect(&self, index: u32) -> bool {
        let entry = self.table.entry(index);
        let is_begun = entry.status == Status::Asked && self.sends.is_begun(entry.position);
        is_begun || self.table.append(index).is_ambiguous
    }

    pub(super) fn append_expired(&mut self, now: Time, index: u32) {
        if !self.may_take_effect(index) {
            let error = match self.lack() {
                Ok(refusal) => AppendError::Deadline { refusal },
                Err(reason) => AppendError::Unreachable { reason },
            };
            self.complete_append(now, index, Err(error));
        } else if self.table.entry(index).detached {
            // Nobody will ask again: an answer that still comes tells nobody.
            self.complete_append(now, index, Err(AppendError::SessionExpired));
        } else {
            let logbook = self.table.append(index).logbook;
            self.park(index);
            // A parked append gives up its place in the window to one that waits.
            if let Some(logspace) = self.logspace(logbook) {
                self.launch(now, logspace);
            }
        }
    }

    /// Tells the caller that the outcome is unknown, and keeps the append for a retry.
    fn park(&mut self, index: u32) {
        let operation = self.table.id(index);
        self.set_status(index, Status::Parked);
        self.table.set_wake(index, NEVER);
        // It may be kept for long: not with a whole chunk.
        if let AppendFrame::Kept(frame) = self.table.append(index).frame {
            let own = self.sends.bytes(frame).to_vec();
            self.sends.unpin(frame);
            self.own_bytes += own.len();
            self.table.append_mut(index).frame = AppendFrame::Own(own);
        }
        self.callers -= 1;
        self.parked.push_back(operation);
        self.completions.push_back((operation, Outcome::Append(Err(AppendError::OutcomeUnknown { retry: operation }))));
        if self.parked.len() > self.config.unknown_max {
            let oldest = self.parked[0];
            self.drop_parked(oldest);
        }
    }

    /// Gives up a parked append for good.
    fn forget(&mut self, now: Time, operation: OperationId) {
        if let Some(logspace) = self.drop_parked(operation) {
            self.launch(now, logspace);
        }
    }

    fn drop_parked(&mut self, operation: OperationId) -> Option<LogspaceId> {
        self.parked.retain(|parked| *parked != operation);
        self.table.find(operation).and_then(|index| self.drop_append(index))
    }

    pub(super) fn retry_append(
        &mut self,
        now: Time,
        operation: OperationId,
        deadline: Time,
    ) -> Result<OperationId, SubmitError> {
        let parked = self.table.find(operation).filter(|index| self.table.entry(*index).status == Status::Parked);
        let index = parked.ok_or(SubmitError::Append(AppendError::SessionExpired))?;
        if self.callers >= self.config.operations_max {
            return Err(SubmitError::Full);
        }
        self.callers += 1;
        self.counters.retries += 1;
        self.parked.retain(|parked| *parked != operation);
        let append = self.table.append_mut(index);
        append.is_ambiguous = true;
        let late = append.late.take();
        self.set_status(index, Status::Ready);
        self.table.entry_mut(index).deadline = deadline;
        self.table.set_wake(index, deadline);
        match late {
            Some(result) => self.complete_append(now, index, result),
            None => self.ask_when_welcomed(now, index),
        }
        Ok(operation)
    }

    pub(super) fn cancel_append(&mut self, now: Time, index: u32) {
        if self.table.entry(index).status == Status::Parked {
            self.forget(now, self.table.id(index));
            return;
        }
        self.table.entry_mut(index).detached = true;
        if !self.may_take_effect(index) {
            self.complete_append(now, index, Err(AppendError::Deadline { refusal: None }));
        }
    }

    /// Takes a numbered append that had no effect back to waiting.
    pub(super) fn withdraw(&mut self, index: u32) {
        self.take_back(index);
        self.set_status(index, Status::Waiting);
        let deadline = self.table.entry(index).deadline;
        self.table.set_wake(index, deadline);
        self.table.entry_mut(index).request = 0;
        if let AppendFrame::Kept(frame) = self.table.append(index).frame {
            let own = self.sends.bytes(frame).to_vec();
            self.sends.unpin(frame);
            self.own_bytes += own.len();
            self.table.append_mut(index).frame = AppendFrame::Own(own);
        }
        let append = self.table.append_mut(index);
        (append.session, append.number) = (SessionId::NONE, RequestNumber(0));
    }
}

impl AppendWork {
    fn new(logbook: LogBookId, session: SessionId, number: RequestNumber, frame: AppendFrame) -> AppendWork {
        AppendWork { logbook, session, number, frame, is_ambiguous: false, late: None }
    }
}

fn frame_bytes_about(records: &[NewRecord<'_>]) -> usize {
    let of_record = |record: &NewRecord<'_>| record.payload.len() + record.tags.len() * 8 + RECORD_OVERHEAD_BYTES;
    FRAME_OVERHEAD_BYTES + records.iter().map(of_record).sum::<usize>()
}

/// Whether the same request may soon be taken.
pub(super) fn is_temporary(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Busy | ErrorCode::Unavailable)
}

pub(super) fn append_error(code: ErrorCode, message: String) -> AppendError {
    match code {
        ErrorCode::NameTaken => AppendError::NameTaken { message },
        ErrorCode::DiskFull => AppendError::DiskFull { message },
        ErrorCode::IndexFull => AppendError::IndexFull { message },
        ErrorCode::SessionExpired => AppendError::SessionExpired,
        ErrorCode::Invalid | ErrorCode::Corrupt | ErrorCode::Busy | ErrorCode::Unavailable => {
            AppendError::Refused { message }
        }
    }
}
