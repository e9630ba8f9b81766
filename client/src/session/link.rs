//! The connection as the session sees it: the greeting, frames in and out, and what a lost
//! connection means for what was sent on it.

use bytes::{Bytes, BytesMut};
use sealog_protocol::Time;
use sealog_protocol::client::{
    Answer, ClientHello, ErrorCode, Reply, Request, Welcome, decode_answer, decode_reply, decode_welcome, encode_hello,
    encode_request,
};
use sealog_protocol::frame::{Frame, FrameError, FrameKind, HEADER_BYTES, Header, PlaceScope};

use super::opening::LogspaceSession;
use super::send_buffer::FrameRef;
use super::table::{Status, Work};
use super::{REQUEST_INDEX_BITS, Session};
use crate::error::{ConnectionError, Refusal};

/// Of a client's name in its hello.
const NAME_BYTES_MAX: usize = 64;

pub(super) enum Link {
    /// `reason`: why; `next`: when to try again.
    Down {
        reason: ConnectionError,
        next: Time,
    },
    /// Connected, the welcome has not come.
    Greeting,
    Up,
}

impl Session {
    /// When to connect, at once if it is in the past; `None` while connected, or with nothing to do.
    pub fn connect_at(&self) -> Option<Time> {
        match &self.link {
            Link::Down { next, .. } if self.callers > 0 || self.subscriptions > 0 || self.is_wanted => Some(*next),
            _ => None,
        }
    }

    /// Has [`Session::connect_at`] ask for a connection, also with nothing to do, until one is welcomed
    /// or fails.
    pub fn want_connection(&mut self) {
        self.is_wanted = !matches!(self.link, Link::Up);
    }

    /// A connection stands; the hello is ready to be transmitted.
    pub fn connected(&mut self, now: Time) {
        assert!(matches!(self.link, Link::Down { .. }), "one connection at a time");
        self.link = Link::Greeting;
        self.partial.clear();
        self.heard_at = now;
        self.sign_asked_at = None;
        let hello = ClientHello { name: self.name().to_owned() };
        let frame = self.sends.write(HEADER_BYTES + 2 * NAME_BYTES_MAX, |out| {
            encode_hello(out, 0, &hello);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(frame) = frame;
        self.sends.queue(frame);
    }

    fn name(&self) -> &str {
        let name = &self.config.name;
        let end = (0..=NAME_BYTES_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
        &name[..end.unwrap_or(0)]
    }

    /// The connection is gone, or could not be made.
    ///
    /// What was sent on it and not answered is sent again on the next one. With a reason that no
    /// further try can mend, what has had no effect fails at once.
    pub fn disconnected(&mut self, now: Time, reason: ConnectionError) {
        for index in self.table.with_status(Status::Asked) {
            let entry = self.table.entry(index);
            let (position, bytes) = (entry.position, entry.frame_bytes as usize);
            // The server acts on whole frames alone.
            if matches!(entry.work, Some(Work::Append(_))) && self.sends.is_transmitted(position, bytes) {
                self.table.append_mut(index).is_ambiguous = true;
            }
            self.set_status(index, Status::Ready);
            self.table.entry_mut(index).request = 0;
        }
        for index in self.table.with_status(Status::Open) {
            self.set_status(index, Status::Ready);
            self.table.entry_mut(index).request = 0;
            self.be_patient(now, index);
        }
        for operation in self.parked.clone() {
            if let Some(index) = self.table.find(operation) {
                self.table.entry_mut(index).request = 0;
            }
        }
        self.sends.clear_queue();
        self.partial.clear();
        let next = self.try_again_at(now, &reason);
        let next = self.addresses.failed(reason.clone(), next);
        (self.is_wanted, self.leaving) = (false, None);
        self.end_rests();
        let unreachable = self.addresses.unreachable();
        let is_final = unreachable.as_ref().is_some_and(ConnectionError::is_final);
        let reason = unreachable.unwrap_or(reason);
        self.link = Link::Down { reason, next };
        if is_final {
            self.fail_without_effect(now);
        }
    }

    fn fail_without_effect(&mut self, now: Time) {
        for status in [Status::Waiting, Status::Ready, Status::Resting] {
            for index in self.table.with_status(status) {
                let entry = self.table.entry(index);
                let Some(work) = &entry.work else { continue };
                if !matches!(work, Work::Append(append) if append.is_ambiguous) && !work.is_internal() {
                    self.expire(now, index);
                }
            }
        }
    }

    /// The next bytes to send; empty when there are none.
    pub fn transmit(&self) -> &[u8] {
        self.sends.head()
    }

    /// The first `bytes` of [`Session::transmit`] were sent, or may have been. To be told before
    /// [`Session::disconnected`]: what was told is what may have taken effect.
    pub fn transmitted(&mut self, bytes: usize) {
        self.sends.consume(bytes);
    }

    /// Bytes that came, in any portions.
    ///
    /// # Errors
    /// The connection is beyond repair, or its node of no use: drop it, and call
    /// [`Session::disconnected`] with the reason.
    pub fn receive(&mut self, now: Time, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.take_in(now, bytes)?;
        self.leaving.take().map_or(Ok(()), Err)
    }

    fn take_in(&mut self, now: Time, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.heard_at = now;
        self.sign_asked_at = None;
        let mut rest = bytes;
        while !self.partial.is_empty() {
            let wanted = Header::parse(&self.partial)?.map_or(HEADER_BYTES, |header| header.frame_bytes());
            let missing = wanted.saturating_sub(self.partial.len());
            let (part, after) = rest.split_at(missing.min(rest.len()));
            self.partial.reserve(missing);
            self.partial.extend_from_slice(part);
            rest = after;
            if part.len() < missing {
                return Ok(());
            }
            if Header::parse(&self.partial)?.is_some_and(|header| header.frame_bytes() == self.partial.len()) {
                let frame = std::mem::take(&mut self.partial).freeze();
                self.receive_frame(now, &frame, Some(&frame))?;
            }
        }
        while let Some(header) = Header::parse(rest)?.filter(|header| header.frame_bytes() <= rest.len()) {
            let (frame, after) = rest.split_at(header.frame_bytes());
            self.receive_frame(now, frame, None)?;
            rest = after;
        }
        if !rest.is_empty() {
            let wanted = Header::parse(rest)?.map_or(HEADER_BYTES, |header| header.frame_bytes());
            self.partial = BytesMut::with_capacity(wanted);
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// `owned`: the same bytes, when records can be cut from them without a copy.
    fn receive_frame(&mut self, now: Time, bytes: &[u8], owned: Option<&Bytes>) -> Result<(), ConnectionError> {
        let frame = Frame::parse(bytes)?.ok_or(FrameError::Truncated)?;
        match (frame.header.kind, &self.link) {
            (FrameKind::Welcome, Link::Greeting) => {
                frame.verify_place(PlaceScope::Connection)?;
                self.welcomed(now, decode_welcome(&frame)?)
            }
            (FrameKind::Reply, Link::Greeting) => Err(refused_greeting(&frame)),
            (FrameKind::Reply, Link::Up) => {
                let (request, reply) = decode_reply(&frame)?;
                self.replied(now, request, reply).map_err(|what| ConnectionError::Protocol { what })
            }
            (FrameKind::Records, Link::Up) => {
                let copied = || Bytes::copy_from_slice(bytes);
                let (request, answer) = decode_answer(&owned.cloned().unwrap_or_else(copied))?;
                let Answer::Records { place, complete, records } = answer else { return Err(UNEXPECTED) };
                self.addresses.answered();
                let taken = match self.subscription_asked(request) {
                    Some(index) => self.records_pushed(index, place, records, frame.header.payload_bytes as usize),
                    None => match self.asked(request) {
                        Some(index) => {
                            self.stalls = 0;
                            self.records_answered(now, index, place, complete, records)
                        }
                        None => Ok(()),
                    },
                };
                taken.map_err(|what| ConnectionError::Protocol { what })
            }
            _ => Err(UNEXPECTED),
        }
    }

    fn welcomed(&mut self, now: Time, welcome: Welcome) -> Result<(), ConnectionError> {
        let Some(logspaces) = welcome.classes().filter(|_| welcome.session_window > 0) else {
            return Err(ConnectionError::Protocol { what: "the welcome is out of limits" });
        };
        match &self.welcome {
            Some(known) if known.cluster != welcome.cluster => {
                return Err(ConnectionError::OtherCluster { expected: known.cluster, found: welcome.cluster });
            }
            Some(known) if known.classes() != welcome.classes() => {
                return Err(ConnectionError::Protocol { what: "the cluster's number of logspaces changed" });
            }
            Some(_) => {}
            None => self.logspaces = logspaces.ids().map(|_| LogspaceSession::new()).collect(),
        }
        self.window = welcome.session_window;
        self.welcome = Some(welcome);
        self.link = Link::Up;
        self.is_wanted = false;
        self.counters.connections += 1;
        for index in self.table.with_status(Status::Ready) {
            if self.drop_if_unwanted(index) {
                continue;
            }
            if self.table.entry(index).position != NEVER_QUEUED {
                self.counters.retries += 1;
            }
            self.ask(now, index);
        }
        self.place_appends(now);
        Ok(())
    }

    fn replied(&mut self, now: Time, request: u64, reply: Reply) -> Result<(), &'static str> {
        if !matches!(&reply, Reply::Error { code: ErrorCode::Unavailable, .. }) {
            self.addresses.answered();
        }
        if let Some(index) = self.subscription_asked(request) {
            return self.subscription_answered(now, index, reply);
        }
        let Some(index) = self.asked(request) else { return Ok(()) };
        if !matches!(&reply, Reply::Error { .. }) {
            (self.refusal, self.stalls) = (None, 0);
        }
        match self.table.entry(index).work {
            Some(Work::Append(_)) => self.append_answered(now, index, reply),
            Some(Work::OpenSession { .. }) => self.open_answered(now, index, reply),
            Some(Work::NameLogBook { .. }) => self.name_answered(now, index, reply),
            _ => self.query_answered(now, index, reply),
        }
    }

    /// The subscription whose present request this is, which stays its request.
    fn subscription_asked(&self, request: u64) -> Option<u32> {
        let index = (request & ((1 << REQUEST_INDEX_BITS) - 1)) as usize;
        let index = self.table.find_request(index, request)?;
        self.is_subscription(index).then_some(index)
    }

    /// The entry whose present request this is; `None` for one that nobody waits for any more.
    fn asked(&mut self, request: u64) -> Option<u32> {
        let index = (request & ((1 << REQUEST_INDEX_BITS) - 1)) as usize;
        let index = self.table.find_request(index, request)?;
        self.table.entry_mut(index).request = 0;
        if self.table.entry(index).status == Status::Asked {
            self.set_status(index, Status::Ready);
        }
        Some(index)
    }

    pub(super) fn ask_when_welcomed(&mut self, now: Time, index: u32) {
        self.table.entry_mut(index).position = NEVER_QUEUED;
        match self.link {
            Link::Up => self.ask(now, index),
            _ => self.set_status(index, Status::Ready),
        }
    }

    /// Queues an entry's request on this connection.
    pub(super) fn ask(&mut self, now: Time, index: u32) {
        self.requests += 1;
        let request = self.requests << REQUEST_INDEX_BITS | u64::from(index);
        let frame = match self.table.entry(index).work.as_ref().expect("it is under way") {
            Work::Append(_) => self.append_frame(index, request),
            work => {
                let body = match work.is_internal() {
                    true => self.internal_request(work),
                    false => self.query_request(now, index),
                };
                self.request_frame(request, &body)
            }
        };
        if self.asked == 0 {
            self.heard_at = self.heard_at.max(now);
        }
        self.set_status(index, Status::Asked);
        let position = self.sends.queue(frame);
        let entry = self.table.entry_mut(index);
        (entry.request, entry.position, entry.frame_bytes) = (request, position, frame.len() as u32);
        entry.is_overdue = false;
        let look_again_at = self.look_again_at(now, index);
        self.table.set_wake(index, look_again_at);
    }

    /// Writes a request's frame, to be queued.
    pub(super) fn request_frame(&mut self, request: u64, body: &Request) -> FrameRef {
        let frame = self.sends.write(REQUEST_BYTES, |out| {
            encode_request(out, request, body);
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(frame) = frame;
        frame
    }

    /// Takes an entry's request back from the queue, if nothing of it was sent.
    pub(super) fn take_back(&mut self, index: u32) {
        let entry = self.table.entry(index);
        if entry.status == Status::Asked {
            let (position, bytes) = (entry.position, entry.frame_bytes as usize);
            if !self.sends.is_begun(position) {
                self.sends.take_back(position, bytes);
            }
            self.set_status(index, Status::Ready);
        }
    }

    pub(super) fn set_status(&mut self, index: u32, status: Status) {
        let entry = self.table.entry_mut(index);
        self.asked -= usize::from(entry.status == Status::Asked);
        self.asked += usize::from(status == Status::Asked);
        self.open -= usize::from(entry.status == Status::Open);
        self.open += usize::from(status == Status::Open);
        entry.status = status;
    }

    /// The server refused for now: ask again after a while.
    pub(super) fn refused(&mut self, now: Time, index: u32, code: ErrorCode, message: String) {
        self.rest(now, index);
        if code == ErrorCode::Unavailable {
            self.is_unavailable(index, &message);
        }
        self.refusal = Some(Refusal { code, message });
    }

    pub(super) fn rest(&mut self, now: Time, index: u32) {
        let entry = self.table.entry_mut(index);
        if entry.status == Status::Parked {
            return;
        }
        entry.refusals += 1;
        let (refusals, deadline) = (entry.refusals, entry.deadline);
        self.set_status(index, Status::Resting);
        let until = now + self.backoff(refusals);
        self.table.set_wake(index, until.min(deadline));
    }

    /// Why a deadline passes: what the server said last if it is there, else why it is not.
    pub(super) fn lack(&self) -> Result<Option<Refusal>, ConnectionError> {
        match &self.link {
            Link::Up => Ok(self.refusal.clone()),
            Link::Greeting => Err(ConnectionError::NoWelcome),
            Link::Down { reason, .. } => Err(reason.clone()),
        }
    }
}

/// More than most requests take.
const REQUEST_BYTES: usize = 160;
/// The position of what was not queued yet.
pub(super) const NEVER_QUEUED: u64 = u64::MAX;
const UNEXPECTED: ConnectionError = ConnectionError::Protocol { what: "a frame came that no client expects" };

fn refused_greeting(frame: &Frame<'_>) -> ConnectionError {
    match decode_reply(frame) {
        Ok((_, Reply::Error { code, message })) => ConnectionError::Refused { code, message },
        Ok(_) => UNEXPECTED,
        Err(error) => error.into(),
    }
}
