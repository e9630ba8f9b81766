//! Where a server listens, and a connection to it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::error::ConnectionError;

/// How long one try of a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same, when there is another address to try.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(1);
/// More than any cluster has.
const ADDRESSES_MAX: usize = 256;

/// Where a client may connect to: one address, or several with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressList {
    list: Vec<Address>,
    texts: Vec<String>,
}

impl AddressList {
    pub fn parse(text: &str) -> Result<AddressList, ConnectionError> {
        let texts: Vec<String> = text.split(',').map(|one| one.trim().to_owned()).collect();
        if texts.len() > ADDRESSES_MAX {
            return Err(ConnectionError::TooManyAddresses { addresses: texts.len(), max: ADDRESSES_MAX });
        }
        let list = texts.iter().map(|one| Address::parse(one)).collect::<Result<_, _>>()?;
        Ok(AddressList { list, texts })
    }

    /// One text for each.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// How long one try of a connection may take.
    pub fn connect_timeout(&self) -> Duration {
        if self.list.len() > 1 { CONNECT_TIMEOUT_OF_SEVERAL } else { CONNECT_TIMEOUT }
    }

    /// Connects to the one at this place, and blocks meanwhile.
    pub fn connect(&self, at: usize, timeout: Duration) -> Result<Stream, ConnectionError> {
        self.list[at].connect(timeout)
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { text: String },
    Unix { path: PathBuf },
}

impl Address {
    pub fn parse(text: &str) -> Result<Address, ConnectionError> {
        let wrong = || ConnectionError::Address { address: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix { path: path.into() }) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        if host.is_empty() || !is_port {
            return Err(wrong());
        }
        Ok(Address::Tcp { text: text.to_owned() })
    }

    /// Connects, and blocks meanwhile: looking a name up can't be done otherwise.
    pub fn connect(&self, timeout: Duration) -> Result<Stream, ConnectionError> {
        match self {
            Address::Unix { path } => {
                let stream = UnixStream::connect(path).and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    Ok(Stream::Unix(mio::net::UnixStream::from_std(stream)))
                });
                stream.map_err(|error| io_error(&error))
            }
            Address::Tcp { text } => connect_tcp(text, timeout),
        }
    }
}

fn connect_tcp(text: &str, timeout: Duration) -> Result<Stream, ConnectionError> {
    let resolve = |message: String| ConnectionError::Resolve { host: text.to_owned(), message };
    let addresses = text.to_socket_addrs().map_err(|error| resolve(error.to_string()))?;
    let mut failure = resolve("it has none".to_owned());
    for address in addresses {
        let connected = TcpStream::connect_timeout(&address, timeout).and_then(|stream| {
            // Requests are small, and nobody waits for more of them.
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(Stream::Tcp(mio::net::TcpStream::from_std(stream)))
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = io_error(&error),
        }
    }
    Err(failure)
}

pub(crate) fn io_error(error: &io::Error) -> ConnectionError {
    ConnectionError::Io { message: error.to_string() }
}

/// A connection that never blocks.
pub(crate) enum Stream {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Stream {
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(stream) => stream.register(registry, token, interest),
            Stream::Unix(stream) => stream.register(registry, token, interest),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for text in ["localhost:7440", "127.0.0.1:1", "[::1]:7440"] {
            assert_eq!(Address::parse(text), Ok(Address::Tcp { text: text.to_owned() }));
        }
        assert_eq!(Address::parse("unix:/a b"), Ok(Address::Unix { path: "/a b".into() }));
        for text in ["", "localhost", ":7440", "localhost:", "localhost:0", "localhost:65536", "unix:"] {
            assert_eq!(Address::parse(text), Err(ConnectionError::Address { address: text.to_owned() }));
        }
    }

    #[test]
    fn several_addresses_are_told_apart_by_commas() {
        let several = AddressList::parse("a:1, unix:/b,c:3").expect("well-formed");
        assert_eq!(several.texts(), ["a:1", "unix:/b", "c:3"]);
        assert_eq!(several.list[1], Address::Unix { path: "/b".into() });
        for text in ["a:1,", ",a:1", "a:1,,b:2", "a:1,b"] {
            assert!(matches!(AddressList::parse(text), Err(ConnectionError::Address { .. })), "{text}");
        }
        let many = vec!["a:1"; ADDRESSES_MAX + 1].join(",");
        assert!(matches!(AddressList::parse(&many), Err(ConnectionError::TooManyAddresses { .. })));
    }

    #[test]
    fn a_name_that_cannot_be_resolved_is_said() {
        let address = Address::parse("no-such-host.invalid:1").expect("well-formed");
        let error = address.connect(Duration::from_secs(1)).err().expect("there is no such host");
        assert!(matches!(error, ConnectionError::Resolve { .. }), "{error}");
    }
}
