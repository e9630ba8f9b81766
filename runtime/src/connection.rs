//! One client's connection: frames put together from what arrives, replies gathered for one send.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use sealog_protocol::Time;
use sealog_protocol::frame::{FrameError, HEADER_BYTES, Header};
use sealog_protocol::machine::ConnectionId;

use crate::addresses::Peer;
use crate::client_limits::Clocks;
use crate::limits::{KEPT_BYTES_MAX, SEND_BYTES_MAX};

/// How far a connection is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its first frame has not come.
    Fresh,
    /// It has said hello.
    Serving,
    /// Told why it ends; what it still sends is dropped until it closes or this time has come.
    Leaving { until: Time },
    /// Over; only operations in flight keep it.
    Dead,
}

/// A connection. Its table ([`crate::sockets`]) submits its operations.
pub(crate) struct Connection {
    pub id: ConnectionId,
    pub generation: u32,
    pub phase: Phase,
    pub clocks: Clocks,
    /// Whose share it is of.
    pub peer: Option<Peer>,
    /// There are too many: it was never more than told so.
    pub refused: bool,
    /// The host knows it.
    pub greeted: bool,
    /// A multishot receive is in flight.
    pub receiving: bool,
    /// It is in the list of those with something to send.
    pub is_dirty: bool,
    /// Its peer does not read: nothing more is taken from it until it does.
    pub paused: bool,
    /// Executors that frames of it were forwarded to, as bits.
    pub forwarded: u64,
    socket: OwnedFd,
    /// The start of a frame whose rest has not come.
    partial: Vec<u8>,
    /// What came while it was paused.
    held: Vec<u8>,
    /// Replies to go with the next send.
    output: Vec<u8>,
    /// What is being sent, and how much of it was.
    sending: Vec<u8>,
    sent: usize,
    send_in_flight: bool,
}

impl Connection {
    pub fn new(now: Time, id: ConnectionId, generation: u32, socket: OwnedFd, peer: Option<Peer>) -> Connection {
        Connection {
            id,
            generation,
            phase: Phase::Fresh,
            clocks: Clocks::new(now),
            peer,
            refused: false,
            greeted: false,
            receiving: false,
            is_dirty: false,
            paused: false,
            forwarded: 0,
            socket,
            partial: Vec::new(),
            held: Vec::new(),
            output: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            send_in_flight: false,
        }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Cuts what arrived into frames and hands each to `deliver`, in place where it is whole. Only
    /// the frame that lies across two arrivals is copied.
    pub fn frames<E: From<FrameError>>(
        &mut self,
        mut bytes: &[u8],
        mut deliver: impl FnMut(&mut Connection, &Header, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                match Header::parse(bytes)? {
                    Some(header) if header.frame_bytes() <= bytes.len() => {
                        let (frame, rest) = bytes.split_at(header.frame_bytes());
                        deliver(self, &header, frame)?;
                        bytes = rest;
                    }
                    _ => {
                        self.partial.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
                continue;
            }
            let wanted = match Header::parse(&self.partial)? {
                Some(header) => header.frame_bytes(),
                None => HEADER_BYTES,
            };
            let missing = wanted - self.partial.len();
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(more);
            bytes = rest;
            match Header::parse(&self.partial)? {
                Some(header) if header.frame_bytes() == self.partial.len() => {
                    let mut frame = std::mem::take(&mut self.partial);
                    deliver(self, &header, &frame)?;
                    frame.clear();
                    frame.shrink_to(KEPT_BYTES_MAX);
                    self.partial = frame;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A frame has begun whose rest has not come.
    pub fn has_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes of it.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Keeps what came while the connection is paused.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Where replies are appended.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes that the peer has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        self.output.len() + self.sending.len() - self.sent
    }

    pub fn is_sending(&self) -> bool {
        self.send_in_flight
    }

    /// What the next send carries: address and length, unmoved until [`Connection::sent`]. `None`
    /// while one is in flight, or when there is nothing.
    pub fn next_send(&mut self, now: Time) -> Option<(*const u8, u32)> {
        if self.send_in_flight {
            return None;
        }
        if self.sending.is_empty() {
            if self.output.is_empty() {
                return None;
            }
            std::mem::swap(&mut self.sending, &mut self.output);
        }
        self.send_in_flight = true;
        self.clocks.sending_since = now;
        let rest = &self.sending[self.sent..];
        Some((rest.as_ptr(), rest.len().min(SEND_BYTES_MAX) as u32))
    }

    /// The send in flight has ended, having sent this much.
    pub fn sent(&mut self, bytes: usize) {
        assert!(self.send_in_flight, "a send completes once");
        self.send_in_flight = false;
        self.sent += bytes;
        assert!(self.sent <= self.sending.len(), "a send takes no more than there is");
        if self.sent == self.sending.len() {
            self.sending.clear();
            self.sending.shrink_to(KEPT_BYTES_MAX);
            self.sent = 0;
        }
    }

    /// Frees what a dead connection need not keep. A send in flight still needs its bytes.
    pub fn drop_buffers(&mut self) {
        self.partial = Vec::new();
        self.held = Vec::new();
        self.output = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::frame::{FrameKind, write_frame};

    fn connection() -> Connection {
        let socket = std::os::unix::net::UnixStream::pair().expect("a pair of sockets").0;
        Connection::new(Time(0), ConnectionId(1), 1, socket.into(), None)
    }

    fn frames_of(connection: &mut Connection, bytes: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), FrameError> {
        connection.frames(bytes, |_, _, frame| {
            out.push(frame.to_vec());
            Ok(())
        })
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut expected = Vec::new();
        for bytes in [0, 5, 700, 40_000] {
            let mut frame = Vec::new();
            write_frame(&mut frame, FrameKind::Request, 1, 0, b"meta", &[&vec![bytes as u8; bytes]]);
            expected.push(frame);
        }
        let stream = expected.concat();
        for step in [1, 7, 31, 32, 33, 4096, stream.len()] {
            let (mut connection, mut out) = (connection(), Vec::new());
            for piece in stream.chunks(step) {
                frames_of(&mut connection, piece, &mut out).expect("valid frames");
            }
            assert_eq!(out, expected, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_first_bytes() {
        let (mut connection, mut out) = (connection(), Vec::new());
        assert_eq!(frames_of(&mut connection, b"GE", &mut out), Err(FrameError::Magic(0x4547)));
        assert_eq!(out, Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_send_goes_on_where_it_stopped() {
        let mut connection = connection();
        connection.output().extend_from_slice(b"answer");
        let (_, bytes) = connection.next_send(Time(0)).expect("something to send");
        assert_eq!(bytes, 6);
        assert!(connection.next_send(Time(0)).is_none(), "one send at a time");
        connection.sent(2);
        assert_eq!(connection.unsent_bytes(), 4);
        assert_eq!(connection.next_send(Time(0)).map(|(_, bytes)| bytes), Some(4));
        connection.sent(4);
        assert!(connection.next_send(Time(0)).is_none());
    }
}
