//! What clients ask of an engine: appends are admitted and given to the producer, reads begin.

use sealog_protocol::batch::{Batch, BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{ErrorCode, Reply, Request, SetAuxRequest};
use sealog_protocol::frame::{FrameError, PlaceScope};
use sealog_protocol::limits::{AUX_BYTES_MAX, NAME_BYTES_MAX, SESSION_OPENING_INTERVAL};
use sealog_protocol::machine::{ConnectionId, Outputs};
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::{Durability, LogBookId, RequestNumber, SeqNum, SessionId, Tag, Time};

use super::Engine;
use super::replies::{answer, created_reply, named_reply, second_hash, unavailable};
use crate::index::Named;
use crate::producer::Origin;
use crate::reads::{Reads, Sources};
use crate::sessions::Known;

impl Engine {
    /// Takes a client's append: a whole batch frame, whose place is the request's id.
    ///
    /// # Errors
    /// When the frame is damaged: the connection is beyond repair. What is merely not allowed is
    /// answered.
    pub fn append(
        &mut self,
        now: Time,
        connection: ConnectionId,
        frame: &[u8],
        outputs: &mut Outputs,
    ) -> Result<(), FrameError> {
        let batch = Batch::parse(frame)?;
        let request = batch.frame.verify_place(PlaceScope::Connection)?;
        if let Err((code, message)) = self.admit(&batch) {
            outputs.reply(connection, request, Reply::Error { code, message });
            return Ok(());
        }
        // A repeat whose verdict is known needs no second record.
        let (session, number) = (batch.metadata.session(), batch.metadata.request());
        if let Some(Known::Repeat(verdict)) = self.index.as_ref().map(|index| index.peek(session, number)) {
            mark(Mark::DuplicateAnsweredFromIndex);
            outputs.reply(connection, request, answer(verdict, self.durability(), self.applied()));
            return Ok(());
        }
        self.appends += 1;
        let records = batch.metadata.records.len() as u32;
        self.push(now, Origin::Append { connection, request }, frame, records);
        Ok(())
    }

    pub(super) fn push(&mut self, now: Time, origin: Origin, frame: &[u8], records: u32) {
        self.producer.push(origin, frame, records);
        self.pending_since.get_or_insert(now);
        if !self.producer.accepts() {
            mark(Mark::EngineBackpressure);
        }
    }

    /// Whether a batch may be appended, before it gets a position.
    pub(super) fn admit(&self, batch: &Batch<'_>) -> Result<(), (ErrorCode, String)> {
        let metadata = batch.metadata;
        let invalid = |message: &str| Err((ErrorCode::Invalid, message.to_owned()));
        self.admit_logbook(metadata.logbook())?;
        if metadata.session() == SessionId::NONE || metadata.request().0 == 0 {
            return invalid("an append needs a session and a request number from 1: open a session first");
        }
        if metadata.records.iter().any(|record| record.tags().any(|tag| tag == Tag::ALL)) {
            return invalid("tag 0 means \"every record\" and cannot be set");
        }
        self.admit_space()
    }

    pub(super) fn admit_space(&self) -> Result<(), (ErrorCode, String)> {
        if self.is_disk_full() {
            let message = "the disk is full: free space on it, and appends go on by themselves; reads are served \
                           (if it has space, the log of the node says why it can prepare no file)";
            return Err((ErrorCode::DiskFull, message.into()));
        }
        if self.index_bytes() > self.config.index_bytes_max {
            let message = format!(
                "the index has reached its limit of {} bytes: raise `index_memory` or use another node; reads are served",
                self.config.index_bytes_max
            );
            return Err((ErrorCode::IndexFull, message));
        }
        Ok(())
    }

    /// Whether too few storages have room for a record to commit.
    pub(super) fn is_disk_full(&self) -> bool {
        let Some(view) = self.current() else { return false };
        let with_room = view.storages.iter().filter(|node| !self.full.contains(node)).count();
        !self.full.is_empty() && with_room < usize::from(view.write_quorum)
    }

    /// Takes any other request. `Status` is the driver's to answer.
    pub fn request(&mut self, now: Time, connection: ConnectionId, id: u64, request: Request, outputs: &mut Outputs) {
        match request {
            Request::OpenSession { .. } => self.open_session(now, connection, id, outputs),
            Request::NameLogBook { name } => {
                self.name_logbook(now, (connection, id), &name, None, outputs);
            }
            Request::CreateLogBook { name, class } => {
                self.name_logbook(now, (connection, id), &name, Some(class), outputs);
            }
            Request::FindLogBook { name } => {
                let wanted = (LogBookId::from_name(&name), second_hash(&name));
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.find(sources, connection, id, wanted, outputs);
            }
            Request::Read(read) => {
                self.read_requests += 1;
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.read(sources, connection, id, &read, outputs);
            }
            Request::CheckTail(wanted) => {
                self.read_requests += 1;
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.check_tail(sources, connection, id, &wanted, outputs);
            }
            Request::Trim(wanted) => self.trim(now, connection, id, &wanted, outputs),
            Request::SetRetention(wanted) => self.set_retention(now, connection, id, &wanted, outputs),
            Request::Describe { logbook, place } => {
                let Some((sources, reads)) = self.reading(now) else {
                    return outputs.reply(connection, id, unavailable());
                };
                reads.describe(sources, connection, id, (LogBookId(logbook), place.into()), outputs);
            }
            Request::Subscribe(_) | Request::Credit(_) | Request::Unsubscribe { .. } => {
                self.subscription_request(connection, id, &request, outputs);
            }
            Request::SetAux(aux) => self.set_aux(now, connection, id, aux, outputs),
            Request::Status | Request::Operate(_) => {
                let message = "that is answered by the node, not by an engine".to_owned();
                outputs.reply(connection, id, Reply::Error { code: ErrorCode::Invalid, message });
            }
        }
    }

    /// Keeps aux data of a record that a reader can see here. Of another one, or with no room, it is
    /// dropped, and the client told so: it loses time, and no answer.
    fn set_aux(
        &mut self,
        now: Time,
        connection: ConnectionId,
        id: u64,
        SetAuxRequest { logbook, seqnum, data }: SetAuxRequest,
        outputs: &mut Outputs,
    ) {
        if data.len() > AUX_BYTES_MAX {
            let message = format!("aux data has up to {AUX_BYTES_MAX} bytes, not {}", data.len());
            return outputs.reply(connection, id, Reply::Error { code: ErrorCode::Invalid, message });
        }
        let Some((sources, reads)) = self.reading(now) else {
            return outputs.reply(connection, id, unavailable());
        };
        let (logbook, seqnum) = (LogBookId(logbook), SeqNum(seqnum));
        let kept = sources.index.lives(logbook, seqnum) && reads.aux.set((logbook, seqnum), data.into());
        outputs.reply(connection, id, Reply::AuxSet { kept, place: sources.applied });
    }

    /// Forgets what a connection waits for. Its appends go on.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.reads.connection_closed(connection);
        self.subscriptions.connection_closed(connection);
        self.trims.connection_closed(connection);
        self.openings.connection_closed(connection);
    }

    pub(super) fn open_session(&mut self, now: Time, connection: ConnectionId, request: u64, outputs: &mut Outputs) {
        if let Err((code, message)) = self.admit_space() {
            outputs.reply(connection, request, Reply::Error { code, message });
            return;
        }
        if !self.openings.take(now, connection) {
            let message = format!(
                "this connection has opened {} sessions: use those, or wait: it may open one more every \
                 {SESSION_OPENING_INTERVAL:?}",
                self.config.session_openings_max
            );
            outputs.reply(connection, request, Reply::Error { code: ErrorCode::Busy, message });
            return;
        }
        self.append_system(
            now,
            Origin::OpenSession { connection, request, logspace: self.config.logspace },
            &[Tag::SYSTEM_SESSION],
            b"",
        );
    }

    /// Gives a name to its LogBook of class disk, or creates it in the class that is asked for.
    fn name_logbook(
        &mut self,
        now: Time,
        (connection, request): (ConnectionId, u64),
        name: &str,
        created: Option<Durability>,
        outputs: &mut Outputs,
    ) {
        let class = created.unwrap_or(Durability::Disk);
        let (logbook, hash) = (LogBookId::from_name(name).in_class(class), second_hash(name));
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let message = format!("a LogBook's name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
            outputs.reply(connection, request, Reply::Error { code: ErrorCode::Invalid, message });
            return;
        }
        match self.index.as_ref().map_or(Named::Unknown, |index| index.named(logbook, hash)) {
            Named::Unknown => {}
            known if created.is_some() => {
                return outputs.reply(connection, request, created_reply(known, logbook, false, self.applied()));
            }
            known => return outputs.reply(connection, request, named_reply(known, self.applied())),
        }
        if let Err((code, message)) = self.admit_class(class).and_then(|()| self.admit_space()) {
            outputs.reply(connection, request, Reply::Error { code, message });
            return;
        }
        let origin = match created {
            None => Origin::NameLogBook { connection, request, logbook, name: hash },
            Some(_) => Origin::CreateLogBook { connection, request, logbook, name: hash },
        };
        self.append_system(now, origin, &[Tag::SYSTEM_NAME, Tag(logbook.0), hash], name.as_bytes());
    }

    /// Appends a record of LogBook 0.
    pub(super) fn append_system(&mut self, now: Time, origin: Origin, tags: &[Tag], payload: &[u8]) {
        let head = BatchHead {
            logbook: LogBookId::SYSTEM,
            session: SessionId::NONE,
            request: RequestNumber(0),
            lowest_unanswered: RequestNumber(0),
            time_ms: self.time_of_day(now),
            condition: None,
        };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        write_batch(&mut frame, 0, &head, &[NewRecord { tags, payload }]).expect("a short record with three tags");
        self.push(now, origin, &frame, 1);
        self.scratch = frame;
    }

    /// What reads are answered from, once the index exists.
    pub(super) fn reading(&mut self, now: Time) -> Option<(Sources<'_>, &mut Reads)> {
        let logspace = self.logspace.as_ref()?;
        let sources = Sources {
            index: self.index.as_ref()?,
            order: &self.order,
            producer: &self.producer,
            applied: logspace.place(),
            next: logspace.next_seqnum(),
            now,
        };
        Some((sources, &mut self.reads))
    }
}
