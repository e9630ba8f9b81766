//! How many appends a second the shell carries with next to no host: what the machines' own work
//! is measured against. The client runs on another core, in the same process.
//!
//! `cargo run --release -p sealog-runtime --example append_rate -- [unix|tcp] [seconds] [data dir] [alone|witness]
//! [auto|on|off]`

#![allow(unsafe_code)]

#[path = "../tests/toy/client.rs"]
mod client;
#[path = "../tests/toy/mod.rs"]
mod toy;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use client::batch;
use sealog_protocol::client::{ClientHello, Request, encode_hello, encode_request, set_request};
use sealog_protocol::frame::{FrameKind, Header};
use sealog_runtime::{JournalConfig, Listen, Spinning};
use toy::{Data, Mode, config, start_toy};

const PAYLOAD_BYTES: usize = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize, default: &str| arguments.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let seconds: u64 = argument(1, "3").parse().expect("seconds");
    let base = argument(2, "");
    let mode = if argument(3, "alone") == "witness" { Mode::Witness } else { Mode::Alone };
    let data = if base.is_empty() { Data::new("rate") } else { Data(base.into()) };
    std::fs::create_dir_all(&data.0).expect("a directory");
    let listen = match argument(0, "unix").as_str() {
        "tcp" => Listen::Tcp("127.0.0.1:0".parse().expect("an address")),
        _ => data.socket(),
    };
    let mut config = config(&data, mode, vec![listen]);
    for (executor, id) in config.executors.iter_mut().zip(7..) {
        executor.journal = JournalConfig::new(id);
    }
    config.spinning = match argument(4, "auto").as_str() {
        "on" => Spinning::On,
        "off" => Spinning::Off,
        _ => Spinning::Auto,
    };
    let node = start_toy(config, mode).expect("it starts");
    let address = node.addresses()[0].clone();
    println!("connections × in flight: appends/s, p50 µs, p99 µs, CPU µs of all executors per append");
    let wanted = std::env::var("SHAPES").unwrap_or_else(|_| "1x1 8x8 8x32 64x64".to_owned());
    for shape in wanted.split(' ') {
        let (connections, in_flight) = shape.split_once('x').expect("connections x in flight");
        let (connections, in_flight) = (connections.parse().expect("a number"), in_flight.parse().expect("a number"));
        let counters = &node.counters()[0];
        let before: Vec<(&str, u64)> = counters.all().collect();
        let cpu = executors_cpu();
        let result = load(&address, connections, in_flight, Duration::from_secs(seconds));
        let cpu = executors_cpu() - cpu;
        println!(
            "{connections:3} × {in_flight:3}: {:9.0}/s {:7} {:7} {:6.2}",
            result.appends as f64 / result.seconds,
            result.p50_us,
            result.p99_us,
            cpu.as_secs_f64() * 1e6 / result.appends as f64
        );
        let moved: Vec<String> = counters
            .all()
            .zip(before)
            .filter(|((_, after), (_, before))| after != before)
            .map(|((name, after), (_, before))| format!("{name} {}", after.wrapping_sub(before)))
            .collect();
        println!("           {}", moved.join(", "));
    }
    node.stop();
    node.wait().expect("an orderly stop");
}

struct Load {
    appends: u64,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
}

trait Socket: Read + Write + AsRawFd {}
impl<T: Read + Write + AsRawFd> Socket for T {}

struct Connection {
    socket: Box<dyn Socket>,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    frame: Vec<u8>,
    sent_at: std::collections::VecDeque<Instant>,
}

/// A closed loop: each connection keeps so many appends in flight.
fn load(address: &Listen, connections: usize, in_flight: usize, duration: Duration) -> Load {
    // SAFETY: it takes no pointer; the descriptor it makes is closed below.
    let poll = unsafe { libc::epoll_create1(0) };
    let mut all: Vec<Connection> = (0..connections).map(|index| connect(address, poll, index)).collect();
    let start = Instant::now();
    let mut request = 0;
    for connection in &mut all {
        connection.push(&mut request, in_flight);
    }
    let (mut appends, mut samples) = (0u64, Vec::new());
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while start.elapsed() < duration {
        // SAFETY: room for as many events as it is told of.
        let ready = unsafe { libc::epoll_wait(poll, events.as_mut_ptr(), events.len() as i32, 100) };
        for event in &events[..ready.max(0) as usize] {
            let connection = &mut all[event.u64 as usize];
            let answered = connection.receive(&mut samples);
            appends += answered as u64;
            connection.push(&mut request, answered);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    // SAFETY: the descriptor is ours and used no more.
    unsafe { libc::close(poll) };
    samples.sort_unstable();
    let at = |share: f64| samples.get((samples.len() as f64 * share) as usize).copied().unwrap_or(0);
    Load { appends, seconds, p50_us: at(0.5), p99_us: at(0.99) }
}

fn connect(address: &Listen, poll: RawFd, index: usize) -> Connection {
    let mut socket: Box<dyn Socket> = match address {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("a socket option");
            Box::new(stream)
        }
        Listen::Unix(path) => Box::new(UnixStream::connect(path).expect("it listens")),
    };
    let mut hello = Vec::new();
    encode_hello(&mut hello, 0, &ClientHello { name: "toy".to_owned() });
    socket.write_all(&hello).expect("it reads");
    let mut welcome = [0; 4096];
    let _ = socket.read(&mut welcome).expect("a welcome");
    // SAFETY: the socket is open and ours, and the event lives through the call.
    unsafe {
        let flags = libc::fcntl(socket.as_raw_fd(), libc::F_GETFL);
        libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32, u64: index as u64 };
        libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event);
    }
    Connection {
        socket,
        input: Vec::new(),
        output: Vec::new(),
        written: 0,
        frame: request_frame(),
        sent_at: Default::default(),
    }
}

/// What is sent over and over: an append, or with `PING` set a request that the disk has no part in.
fn request_frame() -> Vec<u8> {
    if std::env::var_os("PING").is_none() {
        return batch(0, &vec![3; PAYLOAD_BYTES]);
    }
    let mut frame = Vec::new();
    encode_request(&mut frame, 0, &Request::Status);
    frame
}

impl Connection {
    fn push(&mut self, request: &mut u64, count: usize) {
        let now = Instant::now();
        for _ in 0..count {
            *request += 1;
            set_request(&mut self.frame, *request);
            self.output.extend_from_slice(&self.frame);
            self.sent_at.push_back(now);
        }
        self.write();
    }

    fn write(&mut self) {
        while self.written < self.output.len() {
            match self.socket.write(&self.output[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
        self.output.clear();
        self.written = 0;
    }

    fn receive(&mut self, samples: &mut Vec<u64>) -> usize {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the node has closed the connection"),
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let (mut at, mut answered) = (0, 0);
        let now = Instant::now();
        while let Some(header) = Header::parse(&self.input[at..]).expect("valid frames") {
            if header.frame_bytes() > self.input.len() - at {
                break;
            }
            assert_eq!(header.kind, FrameKind::Reply);
            at += header.frame_bytes();
            answered += 1;
            let sent_at = self.sent_at.pop_front().expect("it was sent");
            samples.push((now - sent_at).as_micros() as u64);
        }
        self.input.drain(..at);
        answered
    }
}

/// CPU time of the threads called sealog-….
fn executors_cpu() -> Duration {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc/self/task").expect("proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.contains("sealog") {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0);
        }
    }
    Duration::from_millis(ticks * 10)
}
