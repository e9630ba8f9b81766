//! How long one request takes through each face, alone, to a server that answers from memory: what
//! the faces add to the socket.
//!
//! `cargo run --release -p sealog --example round_trip`

#[path = "../tests/common/mod.rs"]
mod common;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use common::FakeServer;
use common::tcp::TcpServer;
use sealog::{Client, Tag, blocking};

const ROUNDS: usize = 20_000;

fn main() {
    let server = TcpServer::start(FakeServer::default());
    let address = server.address.to_string();
    let book = blocking::Client::connect(&address).expect("it listens").logbook("book");
    report("blocking", || assert_eq!(book.check_tail(Tag(1)), Ok(None)));
    let book = block_on(Client::connect(&address)).expect("it listens").logbook("book");
    report("async", || assert_eq!(block_on(book.check_tail(Tag(1))), Ok(None)));
}

fn report(face: &str, mut call: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            call();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{face}: p50 {:?}, p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
