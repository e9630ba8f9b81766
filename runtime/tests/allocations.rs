//! The shell allocates nothing per record: receiving, the journal's writes, and replies reuse their
//! memory. What is left is the toy's own, a few allocations per turn.

#![allow(unsafe_code)]

#[path = "toy/client.rs"]
mod client;
mod toy;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Client, batch};
use toy::{Data, Mode, config, journal, start_toy};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const GROUP: usize = 1000;
const ROUNDS: usize = 100;

#[test]
fn a_record_costs_no_allocation() {
    let data = Data::new("allocations");
    let mut config = config(&data, Mode::Alone, vec![data.socket()]);
    config.executors[0].journal = journal(64 << 20);
    let node = start_toy(config, Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    client.append(0, b"first");
    let frames: Vec<u8> = (0..GROUP as u64).flat_map(|number| batch(number, &[1; 200])).collect();
    client.send(&batch(1, &[1; 200]));
    let reply_bytes = client.frame().expect("an answer").len();
    let mut replies = vec![0; reply_bytes * GROUP];
    let mut round = |client: &mut Client| {
        client.send(&frames);
        client.stream.read_exact(&mut replies).expect("every append is answered");
    };
    for _ in 0..ROUNDS {
        round(&mut client);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..ROUNDS {
        round(&mut client);
    }
    let spent = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let records = (GROUP * ROUNDS) as u64;
    assert!(spent * 20 < records, "{spent} allocations for {records} records");
    println!("{spent} allocations for {records} records");
    node.stop();
    node.wait().expect("an orderly stop");
}
