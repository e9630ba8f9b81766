//! An operation under way, as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sealog_protocol::Time;
use sealog_protocol::batch::NewRecord;

use super::core::CallId;
use super::driver::Shared;
use super::operation::{Book, OwnedOperation, append};
use crate::error::{AppendError, CheckTailError, ManageError, ReadError, SetAuxError, StatusError};
use crate::session::{Condition, NameKnown, NameQuestion, Operation, OperationId, Outcome, SetAux, SubmitError};

/// Resolves to the operation's outcome. Dropped before, it withdraws what was not sent yet.
pub(crate) struct Call {
    shared: Arc<Shared>,
    state: State,
}

enum State {
    /// There was no room: it waits for some.
    Full {
        operation: Pending,
        deadline: Time,
        has_waited: bool,
    },
    Submitted(CallId),
    /// Refused at once.
    Failed(Outcome),
    Done,
}

enum Pending {
    Operation(OwnedOperation),
    Retry(OperationId),
}

impl Call {
    pub fn append(
        shared: &Arc<Shared>,
        book: &Book,
        condition: Option<Condition>,
        records: &[NewRecord<'_>],
        within: Duration,
    ) -> Call {
        let (submitted, deadline) = shared.turn(|core, now| {
            let deadline = now + within;
            (core.submit(now, append(book, condition, records), deadline), deadline)
        });
        let owned = || Pending::Operation(OwnedOperation::append(book, condition, records));
        Call { shared: shared.clone(), state: State::new(submitted, deadline, owned) }
    }

    pub fn query(shared: &Arc<Shared>, operation: Operation<'static>, within: Duration) -> Call {
        let (submitted, deadline) = shared.turn(|core, now| {
            let deadline = now + within;
            (core.submit(now, operation, deadline), deadline)
        });
        let owned = || Pending::Operation(OwnedOperation::Query(operation));
        Call { shared: shared.clone(), state: State::new(submitted, deadline, owned) }
    }

    pub fn set_aux(shared: &Arc<Shared>, aux: SetAux<'_>, within: Duration) -> Call {
        let (submitted, deadline) = shared.turn(|core, now| {
            let deadline = now + within;
            (core.submit(now, Operation::SetAux(aux), deadline), deadline)
        });
        let SetAux { logbook, seqnum, data } = aux;
        let owned = || Pending::Operation(OwnedOperation::SetAux { logbook, seqnum, data: data.to_vec() });
        Call { shared: shared.clone(), state: State::new(submitted, deadline, owned) }
    }

    pub fn name(shared: &Arc<Shared>, question: NameQuestion<'_>, within: Duration) -> Call {
        let (submitted, deadline) = shared.turn(|core, now| {
            let deadline = now + within;
            (core.submit(now, Operation::Name(question), deadline), deadline)
        });
        let NameQuestion { name, create } = question;
        let owned = || Pending::Operation(OwnedOperation::Name { name: name.to_owned(), create });
        Call { shared: shared.clone(), state: State::new(submitted, deadline, owned) }
    }

    pub fn retry(shared: &Arc<Shared>, operation: OperationId, within: Duration) -> Call {
        let (submitted, deadline) = shared.turn(|core, now| {
            let deadline = now + within;
            (core.retry(now, operation, deadline), deadline)
        });
        Call { shared: shared.clone(), state: State::new(submitted, deadline, || Pending::Retry(operation)) }
    }
}

impl State {
    fn new(submitted: Result<CallId, SubmitError>, deadline: Time, pending: impl FnOnce() -> Pending) -> State {
        match submitted {
            Ok(call) => State::Submitted(call),
            Err(SubmitError::Full) => State::Full { operation: pending(), deadline, has_waited: false },
            Err(SubmitError::Append(error)) => State::Failed(Outcome::Append(Err(error))),
        }
    }
}

impl Pending {
    fn deadline_passed(&self) -> Outcome {
        match self {
            Pending::Operation(OwnedOperation::Query(Operation::Read(_))) => {
                Outcome::Read(Err(ReadError::Deadline { refusal: None }))
            }
            Pending::Operation(OwnedOperation::Query(Operation::CheckTail { .. })) => {
                Outcome::CheckTail(Err(CheckTailError::Deadline { refusal: None }))
            }
            Pending::Operation(OwnedOperation::Query(Operation::Status | Operation::Operate(_))) => {
                Outcome::Status(Err(StatusError::Deadline { refusal: None }))
            }
            Pending::Operation(OwnedOperation::Query(Operation::Manage(_))) => {
                Outcome::Manage(Err(ManageError::Deadline { refusal: None }))
            }
            Pending::Operation(OwnedOperation::Name { .. }) => {
                Outcome::Name(Err(ManageError::Deadline { refusal: None }))
            }
            Pending::Operation(OwnedOperation::SetAux { .. }) => {
                Outcome::SetAux(Err(SetAuxError::Deadline { refusal: None }))
            }
            Pending::Operation(_) => Outcome::Append(Err(AppendError::Deadline { refusal: None })),
            Pending::Retry(retry) => Outcome::Append(Err(AppendError::OutcomeUnknown { retry: *retry })),
        }
    }
}

impl Future for Call {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        if let State::Full { operation, deadline, has_waited } = &mut this.state {
            let deadline = *deadline;
            let submitted = this.shared.turn(|core, now| {
                if now >= deadline {
                    return None;
                }
                let submitted = match operation {
                    Pending::Operation(operation) => {
                        operation.borrow(|operation| core.submit(now, operation, deadline))
                    }
                    Pending::Retry(retry) => core.retry(now, *retry, deadline),
                };
                if submitted == Err(SubmitError::Full) {
                    core.wait_for_room(context.waker(), deadline, *has_waited);
                }
                Some(submitted)
            });
            match submitted {
                Some(Ok(call)) => this.state = State::Submitted(call),
                Some(Err(SubmitError::Append(error))) => this.state = State::Failed(Outcome::Append(Err(error))),
                Some(Err(SubmitError::Full)) => {
                    *has_waited = true;
                    return Poll::Pending;
                }
                None => {
                    let outcome = operation.deadline_passed();
                    this.state = State::Done;
                    return Poll::Ready(outcome);
                }
            }
        }
        match std::mem::replace(&mut this.state, State::Done) {
            State::Submitted(call) => match this.shared.take_outcome(call, context.waker()) {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    this.state = State::Submitted(call);
                    Poll::Pending
                }
            },
            State::Failed(outcome) => Poll::Ready(outcome),
            State::Full { .. } | State::Done => panic!("polled after it was done"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        match self.state {
            State::Submitted(call) => self.shared.turn(|core, now| core.abandon(now, call)),
            // The room that it may have been offered goes to the next.
            State::Full { has_waited: true, .. } => self.shared.turn(|core, _| core.offer_room(1)),
            State::Full { .. } | State::Failed(_) | State::Done => {}
        }
    }
}

/// The outcome of an append.
pub(crate) fn append_outcome(outcome: Outcome) -> Result<crate::session::Appended, AppendError> {
    match outcome {
        Outcome::Append(result) => result,
        other => panic!("an append ended as {other:?}"),
    }
}

/// The outcome of a read.
pub(crate) fn read_outcome(outcome: Outcome) -> Result<crate::session::ReadRecords, ReadError> {
    match outcome {
        Outcome::Read(result) => result,
        other => panic!("a read ended as {other:?}"),
    }
}

/// The outcome of a check of a tail.
pub(crate) fn tail_outcome(outcome: Outcome) -> Result<Option<sealog_protocol::SeqNum>, CheckTailError> {
    match outcome {
        Outcome::CheckTail(result) => result,
        other => panic!("a check of a tail ended as {other:?}"),
    }
}

/// The outcome of a question for the status.
pub(crate) fn status_outcome(outcome: Outcome) -> Result<String, StatusError> {
    match outcome {
        Outcome::Status(result) => result,
        other => panic!("a question for the status ended as {other:?}"),
    }
}

/// The outcome of a question or change that concerns what a LogBook keeps.
pub(crate) fn manage_outcome(outcome: Outcome) -> Result<crate::session::Managed, ManageError> {
    match outcome {
        Outcome::Manage(result) => result,
        other => panic!("a question or change of what a LogBook keeps ended as {other:?}"),
    }
}

/// The outcome of a question for a name.
pub(crate) fn name_outcome(outcome: Outcome) -> Result<NameKnown, ManageError> {
    match outcome {
        Outcome::Name(result) => result,
        other => panic!("a question for a name ended as {other:?}"),
    }
}

/// The outcome of attaching aux data.
pub(crate) fn aux_outcome(outcome: Outcome) -> Result<bool, SetAuxError> {
    match outcome {
        Outcome::SetAux(result) => result,
        other => panic!("attaching aux data ended as {other:?}"),
    }
}

/// What [`Manage::Trim`](crate::session::Manage::Trim) answers.
pub(crate) fn trimmed(managed: crate::session::Managed) -> sealog_protocol::SeqNum {
    match managed {
        crate::session::Managed::Trimmed { first } => first,
        other => panic!("a trim ended as {other:?}"),
    }
}

/// What [`Manage::Describe`](crate::session::Manage::Describe) answers.
pub(crate) fn described(managed: crate::session::Managed) -> sealog_protocol::client::Description {
    match managed {
        crate::session::Managed::Described(description) => description,
        other => panic!("a description ended as {other:?}"),
    }
}
