//! An executor sleeps when there is nothing to do, and goes on under any load of the machine.

#[path = "toy/client.rs"]
mod client;
mod toy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use client::{Client, batch};
use sealog_runtime::{ExecutorId, Spinning};
use toy::{Data, Event, Mode, config, start_toy};

/// CPU time of all executors' threads.
fn executors_cpu() -> Duration {
    let mut nanoseconds = 0;
    for entry in std::fs::read_dir("/proc/self/task").expect("proc").flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("comm").starts_with("sealog-") {
            let spent = read("schedstat");
            nanoseconds += spent.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanoseconds)
}

/// The tests of this file measure threads: one at a time.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn an_idle_node_uses_under_one_percent_of_a_core() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for mode in [Mode::Alone, Mode::Witness] {
        let data = Data::new(&format!("idle-{mode:?}"));
        let node = start_toy(config(&data, mode, vec![data.socket()]), mode).expect("it starts");
        let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(&node.addresses()[0])).collect();
        clients[0].append(0, b"it has worked before");
        // The journal prepares segments and writes its idle mark.
        let counters = &node.counters()[0];
        while counters.segments_prepared.get() < 2 || counters.journal_writes.get() < 3 {
            clients[1].status();
        }
        let (before, start) = (executors_cpu(), Instant::now());
        let (_sender, never) = channel::<()>();
        assert!(never.recv_timeout(Duration::from_secs(2)).is_err());
        let (spent, window) = (executors_cpu() - before, start.elapsed());
        assert!(spent * 100 < window, "{spent:?} of CPU in {window:?} of idleness");
        clients[2].append(1, b"it wakes up");
        node.stop();
        node.wait().expect("an orderly stop");
    }
}

#[test]
fn a_loaded_machine_delays_a_node_and_never_stops_it() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let over = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..cores * 3)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for spinning in [Spinning::Auto, Spinning::Off] {
        let mode = Mode::Witness;
        let data = Data::new(&format!("loaded-{spinning:?}"));
        let mut config = config(&data, mode, vec![data.socket()]);
        config.spinning = spinning;
        let node = start_toy(config, mode).expect("it starts");
        let mut client = Client::connect(&node.addresses()[0]);
        let mut longest = Duration::ZERO;
        for number in 0..150 {
            let start = Instant::now();
            client.append(number, b"one at a time: it sleeps between any two steps");
            longest = longest.max(start.elapsed());
            let (sender, receiver) = channel();
            node.poster().post(ExecutorId(1), Event::Echo(sender));
            receiver.recv().expect("an echo");
        }
        assert!(longest < Duration::from_secs(10), "an append took {longest:?}");
        let frames: Vec<Vec<u8>> = (0..2000).map(|number| batch(number, &[1; 1000])).collect();
        client.send(&frames.concat());
        for _ in 0..2000 {
            client.answer();
        }
        node.stop();
        node.wait().expect("an orderly stop");
    }
    over.store(true, Ordering::Relaxed);
    for burner in burners {
        burner.join().expect("it only burns");
    }
}
