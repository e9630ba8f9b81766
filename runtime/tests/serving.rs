//! A node with a toy host over real sockets and real files.

#[path = "toy/client.rs"]
mod client;
mod toy;

use client::{Client, batch};
use sealog_runtime::Listen;
use toy::{Data, Event, Mode, config, start_toy};

fn tcp() -> Listen {
    Listen::Tcp("127.0.0.1:0".parse().expect("an address"))
}

#[test]
fn appends_are_read_back_also_after_a_restart() {
    let data = Data::new("restart");
    let payload = |number: u64| vec![number as u8; 100 + number as usize * 37];
    for round in 0..3u64 {
        let node = start_toy(config(&data, Mode::Alone, vec![data.socket(), tcp()]), Mode::Alone).expect("it starts");
        let addresses = node.addresses().to_vec();
        assert_eq!(node.journals()[0].report().damages_total, 0);
        let mut client = Client::connect(&addresses[round as usize % 2]);
        for number in 0..round * 200 {
            assert_eq!(client.read(number), payload(number), "batch {number} in round {round}");
        }
        for number in round * 200..(round + 1) * 200 {
            client.append(number, &payload(number));
        }
        assert_eq!(client.read(round * 200), payload(round * 200));
        node.stop();
        node.wait().expect("an orderly stop");
    }
}

#[test]
fn segments_roll_and_their_tags_are_read_from_memory_and_footers() {
    let data = Data::new("segments");
    let node = start_toy(config(&data, Mode::Alone, vec![data.socket()]), Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    let payload = vec![5; 64 << 10];
    for chunk in 0..10u64 {
        let frames: Vec<Vec<u8>> = (0..16).map(|nth| batch(chunk * 16 + nth, &payload)).collect();
        client.send(&frames.concat());
        for _ in 0..16 {
            client.answer();
        }
    }
    let files = std::fs::read_dir(data.0.join("journal-0")).expect("the journal's directory").count();
    assert!(files >= 3, "{files} segments");
    assert!(client.tags(0, 0).starts_with("{\"first\":0,"), "{}", client.tags(0, 0));
    assert!(node.counters()[0].segments_prepared.get() >= 3);
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn a_frame_of_a_mebibyte_passes_both_ways() {
    let data = Data::new("large");
    let node = start_toy(config(&data, Mode::Alone, vec![tcp()]), Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    let payload: Vec<u8> = (0..1 << 20).map(|at: u32| (at * 7) as u8).collect();
    for number in 0..3 {
        client.append(number, &payload);
        assert_eq!(client.read(number), payload);
    }
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn two_executors_pass_messages_frames_and_replies() {
    for mode in [Mode::Witness, Mode::Forward] {
        let data = Data::new(&format!("two-{mode:?}"));
        let node = start_toy(config(&data, mode, vec![data.socket()]), mode).expect("it starts");
        let mut client = Client::connect(&node.addresses()[0]);
        for number in 0..100 {
            client.append(number, b"payload");
        }
        let frames: Vec<Vec<u8>> = (0..3000).map(|number| batch(number, b"payload")).collect();
        client.send(&frames.concat());
        for _ in 0..3000 {
            client.answer();
        }
        assert!(client.status().contains("\"batches\":3100"), "{}", client.status());
        drop(client);
        node.stop();
        node.wait().expect("an orderly stop");
    }
}

#[test]
fn while_a_host_does_not_accept_its_clients_wait_and_everything_else_goes_on() {
    let data = Data::new("accepts");
    let node = start_toy(config(&data, Mode::Alone, vec![data.socket()]), Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    client.append(0, b"first");
    let poster = node.poster();
    let executor = sealog_runtime::ExecutorId(0);
    let echo = || {
        let (sender, receiver) = std::sync::mpsc::channel();
        poster.post(executor, Event::Echo(sender));
        receiver.recv().expect("events go on");
    };
    poster.post(executor, Event::Accept(false));
    echo();
    let frames = node.counters()[0].frames_received.get();
    let address = node.addresses()[0].clone();
    // More than the receive buffers and the sockets hold: it is written as far as they take it.
    let writer = std::thread::spawn(move || {
        let frames: Vec<Vec<u8>> = (1..400).map(|number| batch(number, &[1; 60_000])).collect();
        client.send(&frames.concat());
        for _ in 1..400 {
            client.answer();
        }
    });
    let _waiting = Client::bare(&address);
    for _ in 0..100 {
        echo();
    }
    assert_eq!(node.counters()[0].frames_received.get(), frames);
    poster.post(executor, Event::Accept(true));
    writer.join().expect("every append is answered");
    node.stop();
    node.wait().expect("an orderly stop");
}
