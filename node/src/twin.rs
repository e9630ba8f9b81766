//! Whether another process has a node's identity just now: its data directory was copied, and the
//! copy is about to shut out the one whose data counts.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sealog_protocol::frame::Frame;
use sealog_protocol::peer::{Greeting, PeerIdentity, PeerRefusal, decode_greeting, encode_greeting};
use sealog_runtime::Listen;

/// For the call and for each answer. Who does not answer in it may be stopped or cut off, and is shut
/// out by the later life of the node, as every node is that was taken for dead.
const PATIENCE: Duration = Duration::from_secs(1);
/// A greeting is much smaller.
const ANSWER_BYTES_MAX: usize = 4096;

/// Whether who answers at this address says of itself that it is that node, too. Nobody there, or
/// another one, is fine.
pub fn answers(address: &Listen, own: PeerIdentity) -> bool {
    let greeting = match address {
        Listen::Tcp(address) => TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            greet(stream, own)
        }),
        Listen::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            greet(stream, own)
        }),
    };
    matches!(greeting, Ok(Some(Greeting::Refused(PeerRefusal::Itself { .. }))))
}

/// What is answered to a hello; `None`: nothing that could be understood.
fn greet(mut stream: impl Read + Write, own: PeerIdentity) -> io::Result<Option<Greeting>> {
    let mut hello = Vec::new();
    encode_greeting(&mut hello, &Greeting::Hello(own));
    stream.write_all(&hello)?;
    let (mut answer, mut part) = (Vec::new(), [0; ANSWER_BYTES_MAX]);
    while answer.len() < ANSWER_BYTES_MAX {
        match stream.read(&mut part)? {
            0 => return Ok(None),
            bytes => answer.extend_from_slice(&part[..bytes]),
        }
        match Frame::parse(&answer) {
            Ok(Some(_)) => return Ok(decode_greeting(&answer).ok()),
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}
