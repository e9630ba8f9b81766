//! What a client's bytes become: a hello first, then batches and requests for the host.

use sealog_protocol::Time;
use sealog_protocol::client::{decode_hello, encode_welcome};
use sealog_protocol::frame::{Frame, FrameError, FrameKind, Header};
use thiserror::Error;

use crate::connection::{Connection, Phase};
use crate::counters::Counters;
use crate::host::Host;

/// Why a connection ends on our side.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the first frame is not a client's hello but of kind {0:?}")]
    NoHello(FrameKind),
    #[error("a client sends batches and requests, not frames of kind {0:?}")]
    Unexpected(FrameKind),
}

/// Hands all whole frames in what a connection received to the host.
pub(crate) fn receive<H: Host>(
    now: Time,
    connection: &mut Connection,
    bytes: &[u8],
    host: &mut H,
    counters: &Counters,
) -> Result<(), Refusal> {
    counters.received_bytes.add(bytes.len() as u64);
    let mut frames = 0;
    let result = connection.frames(bytes, |connection, header, frame| {
        frames += 1;
        match connection.phase {
            Phase::Fresh => greet(now, connection, header, frame, host),
            _ => deliver(now, connection, header, frame, host),
        }
    });
    counters.frames_received.add(frames);
    connection.clocks.took_in(now, frames, connection.has_partial());
    result
}

fn greet<H: Host>(
    now: Time,
    connection: &mut Connection,
    header: &Header,
    frame: &[u8],
    host: &mut H,
) -> Result<(), Refusal> {
    if header.kind != FrameKind::ClientHello {
        return Err(Refusal::NoHello(header.kind));
    }
    let hello = decode_hello(&Frame::parse(frame)?.ok_or(FrameError::Truncated)?)?;
    let welcome = host.client_hello(now, connection.id, hello);
    connection.phase = Phase::Serving;
    connection.greeted = true;
    encode_welcome(connection.output(), 0, &welcome);
    Ok(())
}

fn deliver<H: Host>(
    now: Time,
    connection: &mut Connection,
    header: &Header,
    frame: &[u8],
    host: &mut H,
) -> Result<(), Refusal> {
    match header.kind {
        // Whoever takes it in verifies it, with its payloads, in one go.
        FrameKind::Batch => {}
        FrameKind::Request => {
            Frame::parse(frame)?;
        }
        kind => return Err(Refusal::Unexpected(kind)),
    }
    Ok(host.client_frame(now, connection.id, frame)?)
}
