//! A connection of the load generator: a socket and a session, without a thread between.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use sealog::ConnectionError;
use sealog::session::Session;
use sealog_protocol::Time;

use crate::bench::measure::Clock;
use crate::failure::{Failure, Kind};

/// How long a blocking read waits at most, so that a phase's end is noticed.
const BLOCKING_READ_MAX: Duration = Duration::from_millis(50);

/// Where the service is.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    pub fn parse(text: &str) -> Result<Address, Failure> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Address::Unix(path.into())),
            None if text
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)) =>
            {
                Ok(Address::Tcp(text.to_owned()))
            }
            _ => Err(Failure::usage(format!("'{text}' is not an address: give HOST:PORT or unix:PATH"))),
        }
    }

    /// One address, or several with commas between.
    pub fn parse_list(text: &str) -> Result<Vec<Address>, Failure> {
        text.split(',').map(|one| Address::parse(one.trim())).collect()
    }

    fn connect(&self) -> io::Result<Stream> {
        match self {
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
            Address::Tcp(text) => {
                let stream = TcpStream::connect(text.as_str())?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    pub fn text(&self) -> String {
        match self {
            Address::Tcp(text) => text.clone(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn descriptor(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// Without a timeout: never blocks.
    fn set_blocking(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_nonblocking(timeout.is_none())?;
                stream.set_read_timeout(timeout)
            }
            Stream::Unix(stream) => {
                stream.set_nonblocking(timeout.is_none())?;
                stream.set_read_timeout(timeout)
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }
}

/// How a link waits for its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// In the read itself: for the only link of a thread, with little under way. One system call
    /// less on the way of an answer.
    InRead,
    /// The thread waits for all its links, under this token.
    InPoll(usize),
}

/// A connection, made again when it breaks.
pub struct Link {
    pub session: Session,
    stream: Option<Stream>,
    waiting: Waiting,
}

impl Link {
    pub fn new(session: Session, waiting: Waiting) -> Link {
        Link { session, stream: None, waiting }
    }

    /// Connects, and tells why not: for the beginning, when nothing may be assumed.
    pub fn connect(&mut self, now: Time, addresses: &[Address], registry: &Registry) -> Result<(), Failure> {
        let mut why = String::new();
        for _ in addresses {
            let address = &addresses[self.session.address()];
            let Err(error) = self.open(now, address, registry) else { return Ok(()) };
            why = format!("cannot reach {}: {error}", address.text());
            self.session.disconnected(now, ConnectionError::Io { message: error.to_string() });
        }
        let what_to_do = "Start a node with `sealog dev`, or say where one is with --connect";
        Err(Failure::new(Kind::Unreachable, format!("{why}. {what_to_do}")))
    }

    /// Connects again when the session wants it, where the session wants it. One try for each address
    /// at most: a refusal comes at once.
    pub fn reconnect(&mut self, now: Time, addresses: &[Address], registry: &Registry) {
        for _ in addresses {
            if self.stream.is_some() || self.session.connect_at().is_none_or(|at| at > now) {
                return;
            }
            if let Err(error) = self.open(now, &addresses[self.session.address()], registry) {
                self.session.disconnected(now, ConnectionError::Io { message: error.to_string() });
            }
        }
    }

    fn open(&mut self, now: Time, address: &Address, registry: &Registry) -> io::Result<()> {
        let stream = address.connect()?;
        match self.waiting {
            Waiting::InRead => stream.set_blocking(Some(BLOCKING_READ_MAX))?,
            Waiting::InPoll(token) => {
                stream.set_blocking(None)?;
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry.register(&mut SourceFd(&stream.descriptor()), Token(token), interest)?;
            }
        }
        self.stream = Some(stream);
        self.session.connected(now);
        Ok(())
    }

    /// Sends what the session has to send, as far as the socket takes it.
    pub fn transmit(&mut self, now: Time) {
        while let Some(stream) = &mut self.stream {
            let bytes = self.session.transmit();
            if bytes.is_empty() {
                return;
            }
            match stream.write(bytes) {
                Ok(sent) => self.session.transmitted(sent),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.close(now, ConnectionError::Io { message: error.to_string() }),
            }
        }
    }

    /// Receives what is there; waits for it if the link waits in its reads. The time at which the
    /// last of it came.
    pub fn receive(&mut self, clock: Clock, buffer: &mut [u8]) -> Time {
        let mut now = clock.now();
        while let Some(stream) = &mut self.stream {
            let read = stream.read(buffer);
            now = clock.now();
            match read {
                Ok(0) => self.close(now, ConnectionError::Closed),
                Ok(bytes) => {
                    if let Err(reason) = self.session.receive(now, &buffer[..bytes]) {
                        self.close(now, reason);
                    }
                    // A read that did not fill the buffer has emptied the socket: epoll(7).
                    if bytes < buffer.len() {
                        return now;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A timeout is one of these, too.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return now,
                Err(error) => self.close(now, ConnectionError::Io { message: error.to_string() }),
            }
        }
        now
    }

    /// Passes the session's deadlines.
    pub fn tick(&mut self, now: Time) {
        if self.session.deadline().is_some_and(|at| at <= now)
            && let Err(reason) = self.session.tick(now)
        {
            self.close(now, reason);
        }
    }

    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The descriptor leaves the poll by being closed.
    fn close(&mut self, now: Time, reason: ConnectionError) {
        if self.stream.take().is_some() {
            tracing::debug!(%reason, "connection lost");
            self.session.disconnected(now, reason);
        }
    }
}
