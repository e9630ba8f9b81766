//! A blocking client for tests: frames over a Unix or TCP socket.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{
    Answer, CheckTailRequest, ClientHello, PlaceWire, ReadRequest, Reply, Request, decode_answer, encode_hello,
    encode_request,
};
use sealog_protocol::frame::{Frame, FrameKind, HEADER_BYTES, Header};
use sealog_protocol::{LogBookId, RequestNumber, SessionId, Tag};
use sealog_runtime::Listen;

/// Long enough for any machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    pub stream: Box<dyn Stream>,
}

impl Client {
    /// A connection without a hello.
    pub fn bare(address: &Listen) -> Client {
        let stream: Box<dyn Stream> = match address {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
                Box::new(stream)
            }
            Listen::Unix(path) => {
                let stream = UnixStream::connect(path).expect("it listens");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
                Box::new(stream)
            }
        };
        Client { stream }
    }

    pub fn connect(address: &Listen) -> Client {
        let mut client = Client::bare(address);
        let mut hello = Vec::new();
        encode_hello(&mut hello, 0, &ClientHello { name: "toy".to_owned() });
        client.send(&hello);
        let welcome = client.frame().expect("a welcome");
        let frame = Frame::parse(&welcome).expect("valid").expect("whole");
        assert_eq!(frame.header.kind, FrameKind::Welcome);
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// The next frame, or `None` when the node has closed the connection.
    pub fn frame(&mut self) -> Option<Bytes> {
        let mut bytes = vec![0; HEADER_BYTES];
        self.fill(&mut bytes)?;
        let header = Header::parse(&bytes).expect("valid").expect("whole");
        bytes.resize(header.frame_bytes(), 0);
        self.fill(&mut bytes[HEADER_BYTES..])?;
        Some(bytes.into())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer in {PATIENCE:?}"),
            Err(_) => None,
        }
    }

    pub fn answer(&mut self) -> (u64, Answer) {
        decode_answer(&self.frame().expect("an answer")).expect("a valid answer")
    }

    pub fn append(&mut self, request: u64, payload: &[u8]) {
        self.send(&batch(request, payload));
        assert!(matches!(self.answer(), (id, Answer::Reply(Reply::Appended { .. })) if id == request));
    }

    pub fn request(&mut self, request: &Request) -> Answer {
        let mut bytes = Vec::new();
        encode_request(&mut bytes, 99, request);
        self.send(&bytes);
        self.answer().1
    }

    pub fn status(&mut self) -> String {
        match self.request(&Request::Status) {
            Answer::Reply(Reply::Status { json }) => json,
            answer => panic!("{answer:?}"),
        }
    }

    /// The payload of a batch by its number.
    pub fn read(&mut self, number: u64) -> Bytes {
        match self.request(&read_request(number)) {
            Answer::Records { records, .. } => records[0].payload.clone(),
            answer => panic!("{answer:?}"),
        }
    }

    /// What a segment's Tags from a position on are, as the toy tells.
    pub fn tags(&mut self, segment: u32, from: u64) -> String {
        let request = CheckTailRequest {
            logbook: from,
            tag: u64::from(segment),
            place: PlaceWire::default(),
            linearizable: false,
        };
        match self.request(&Request::CheckTail(request)) {
            Answer::Reply(Reply::Status { json }) => json,
            answer => panic!("{answer:?}"),
        }
    }
}

pub fn read_request(number: u64) -> Request {
    Request::Read(ReadRequest {
        logbook: 1,
        tag: 0,
        from: number,
        until: number,
        backward: false,
        records_max: 1,
        wait_ms: 0,
        place: PlaceWire::default(),
        linearizable: false,
        aux: false,
    })
}

pub fn batch(request: u64, payload: &[u8]) -> Vec<u8> {
    let head = BatchHead {
        logbook: LogBookId(1),
        session: SessionId(1),
        request: RequestNumber(request),
        lowest_unanswered: RequestNumber(request),
        time_ms: 0,
        condition: None,
    };
    let mut out = Vec::new();
    write_batch(&mut out, request, &head, &[NewRecord { tags: &[Tag(7)], payload }]).expect("small");
    out
}
