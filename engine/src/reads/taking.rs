//! The requests that a read can begin with.

use std::time::Duration;

use sealog_protocol::client::{CheckTailRequest, ReadRequest};
use sealog_protocol::limits::READ_RECORDS_MAX;
use sealog_protocol::machine::{ConnectionId, Outputs};
use sealog_protocol::mutant::{Mutant, active};
use sealog_protocol::{LogBookId, Place, SeqNum, Tag};

use super::{Read, Reads, ReadyTrim, Sources, WAIT_MAX, Want};

impl Reads {
    /// Takes a read of records.
    pub fn read(
        &mut self,
        sources: Sources<'_>,
        connection: ConnectionId,
        request: u64,
        wanted: &ReadRequest,
        outputs: &mut Outputs,
    ) {
        let wait = Duration::from_millis(u64::from(wanted.wait_ms)).min(WAIT_MAX);
        let want = Want::Records {
            from: SeqNum(wanted.from),
            until: SeqNum(wanted.until),
            backward: wanted.backward,
            records_max: (wanted.records_max as usize).clamp(1, READ_RECORDS_MAX),
        };
        let wait_until = (wanted.wait_ms > 0 && !wanted.backward).then_some(sources.now + wait);
        let key = (LogBookId(wanted.logbook), Tag(wanted.tag));
        let mut read = Read::new(connection, request, key, want, wanted.place.into(), wait_until);
        read.aux = wanted.aux;
        self.begin(sources, read, wanted.linearizable, outputs);
    }

    /// Takes a question for a tail.
    pub fn check_tail(
        &mut self,
        sources: Sources<'_>,
        connection: ConnectionId,
        request: u64,
        wanted: &CheckTailRequest,
        outputs: &mut Outputs,
    ) {
        let key = (LogBookId(wanted.logbook), Tag(wanted.tag));
        let read = Read::new(connection, request, key, Want::Tail, wanted.place.into(), None);
        self.begin(sources, read, wanted.linearizable, outputs);
    }

    /// Takes a question for what is known of a LogBook.
    pub fn describe(
        &mut self,
        sources: Sources<'_>,
        connection: ConnectionId,
        request: u64,
        (logbook, place): (LogBookId, Place),
        outputs: &mut Outputs,
    ) {
        let read = Read::new(connection, request, (logbook, Tag::ALL), Want::Description, place, None);
        self.begin(sources, read, false, outputs);
    }

    /// Takes a question for the class that a name is used in: its id in any class, and its second hash.
    pub fn find(
        &mut self,
        sources: Sources<'_>,
        connection: ConnectionId,
        request: u64,
        (logbook, name): (LogBookId, Tag),
        outputs: &mut Outputs,
    ) {
        let want = Want::Class { name };
        let read = Read::new(connection, request, (logbook, Tag::ALL), want, Place::default(), None);
        self.begin(sources, read, true, outputs);
    }

    /// Takes a trim. An engine that lags behind would take an earlier trim of the same tag for it, one that
    /// falls short of what was appended since.
    pub fn trim(&mut self, sources: Sources<'_>, trim: ReadyTrim, outputs: &mut Outputs) {
        let want = Want::Trim { first: trim.first };
        let read = Read::new(trim.connection, trim.request, trim.key, want, Place::default(), None);
        self.begin(sources, read, !active(Mutant::TrimUnconfirmed), outputs);
    }
}
