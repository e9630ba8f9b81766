//! Aux data: attached to a record without a promise, so asking again is without harm.

use sealog_protocol::client::{Request, SetAuxRequest};
use sealog_protocol::limits::AUX_BYTES_MAX;
use sealog_protocol::{LogBookId, SeqNum, Time};

use super::operation::{OperationId, Outcome, SetAux};
use super::querying::QueryFailure;
use super::table::{Status, Work};
use super::{Session, SubmitError};
use crate::error::SetAuxError;

pub(super) struct AuxWork {
    pub logbook: LogBookId,
    seqnum: SeqNum,
    /// Counted among the session's own bytes.
    pub data: Vec<u8>,
}

impl AuxWork {
    pub fn request(&self) -> Request {
        Request::SetAux(SetAuxRequest { logbook: self.logbook.0, seqnum: self.seqnum.0, data: self.data.clone() })
    }
}

impl Session {
    pub(super) fn submit_aux(
        &mut self,
        now: Time,
        aux: &SetAux<'_>,
        deadline: Time,
    ) -> Result<OperationId, SubmitError> {
        let bytes = aux.data.len();
        let is_too_large = bytes > AUX_BYTES_MAX;
        // What is refused here needs no room.
        let data = if is_too_large { Vec::new() } else { aux.data.to_vec() };
        self.make_room(now, data.len())?;
        self.own_bytes += data.len();
        let work = Work::SetAux(AuxWork { logbook: aux.logbook, seqnum: aux.seqnum, data });
        let index = self.table.insert(Status::Ready, deadline, work);
        let operation = self.table.id(index);
        self.callers += 1;
        match is_too_large {
            true => self.complete_query(index, Outcome::SetAux(Err(SetAuxError::TooLarge { bytes }))),
            false => self.ask_when_welcomed(now, index),
        }
        Ok(operation)
    }
}

pub(super) fn aux_error(failure: QueryFailure) -> SetAuxError {
    match failure {
        QueryFailure::Refused { message, .. } => SetAuxError::Refused { message },
        QueryFailure::Deadline { refusal } => SetAuxError::Deadline { refusal },
        QueryFailure::Unreachable { reason } => SetAuxError::Unreachable { reason },
    }
}
