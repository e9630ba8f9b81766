//! What ends a node: a refused start, a panic, a disk that fails. Each in a process of its own.

#![allow(unsafe_code)]

#[path = "toy/client.rs"]
mod client;
mod toy;

use std::process::{Command, Output};

use client::{Client, batch};
use sealog_protocol::client::{Answer, Reply};
use sealog_runtime::{ExecutorId, Listen, StartError};
use toy::{Data, Event, Mode, config, start_toy};

/// Runs one of the children below as a process.
fn child(name: &str) -> Output {
    let program = std::env::current_exe().expect("a test has a file");
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("SEALOG_CHILD", name);
    command.output().expect("it runs")
}

fn is_child(name: &str) -> bool {
    std::env::var_os("SEALOG_CHILD").is_some_and(|child| child == name)
}

/// From now on, files of this process may be at most so long.
fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: plain system calls; the struct lives through them.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn child_panics() {
    if !is_child("child_panics") {
        return;
    }
    let data = Data::new("panics");
    let node = start_toy(config(&data, Mode::Alone, vec![]), Mode::Alone).expect("it starts");
    node.poster().post(ExecutorId(0), Event::Panic);
    node.wait().expect("the process ends before this");
}

#[test]
fn a_panic_ends_the_process_with_its_message() {
    let output = child("child_panics");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("as a test wished"), "{errors}");
    assert_eq!(output.status.code(), None, "it was aborted: {:?}", output.status);
}

#[test]
fn child_disk_fails() {
    if !is_child("child_disk_fails") {
        return;
    }
    let data = Data::new("fails");
    let node = start_toy(config(&data, Mode::Alone, vec![data.socket()]), Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    client.append(0, b"on disk");
    println!("first acknowledged");
    limit_files(4096);
    client.send(&batch(1, b"never on disk"));
    println!("second answered: {:?}", client.answer());
}

#[test]
fn a_failed_write_ends_the_process_and_is_not_acknowledged() {
    let output = child("child_disk_fails");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("first acknowledged") && !said.contains("second answered"), "{said}");
    assert!(errors.contains("writing the journal failed") && errors.contains("File too large"), "{errors}");
    assert_eq!(output.status.code(), Some(1), "{errors}");
}

#[test]
fn child_disk_fills_up() {
    if !is_child("child_disk_fills_up") {
        return;
    }
    let data = Data::new("fills-up");
    let start = |segment_bytes| {
        let mut config = config(&data, Mode::Alone, vec![data.socket()]);
        config.executors[0].journal.segment_bytes = segment_bytes;
        start_toy(config, Mode::Alone).expect("it starts")
    };
    let node = start(2 << 20);
    let mut client = Client::connect(&node.addresses()[0]);
    client.append(0, b"on disk");
    while node.counters()[0].segments_prepared.get() < 3 {
        client.status();
    }
    node.stop();
    node.wait().expect("an orderly stop");
    // New segments are refused now; what is prepared goes on.
    limit_files(2 << 20);
    let node = start(4 << 20);
    let mut client = Client::connect(&node.addresses()[0]);
    let mut number = 1;
    while !client.status().contains("\"full\":true") {
        client.append(number, &[1; 100_000]);
        number += 1;
    }
    assert_eq!(client.read(0), &b"on disk"[..]);
    assert!(node.counters()[0].segments_failed.get() > 0);
    limit_files(u64::MAX);
    while client.status().contains("\"full\":true") {
        client.read(0);
    }
    client.append(number, b"there is room again");
    println!("went on");
    node.stop();
    node.wait().expect("an orderly stop");
}

#[test]
fn a_full_disk_is_told_and_room_is_noticed() {
    let output = child("child_disk_fills_up");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("went on") && output.status.success(), "{said}\n{errors}");
}

#[test]
fn child_locked_memory() {
    if !is_child("child_locked_memory") {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    // SAFETY: a plain system call; the struct lives through it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
    let data = Data::new("locked");
    let error = start_toy(config(&data, Mode::Alone, vec![]), Mode::Alone).err().expect("it cannot start");
    assert!(matches!(error, StartError::LockedMemory { .. }));
    println!("{error}");
}

#[test]
fn too_little_locked_memory_is_told_with_what_to_do() {
    let output = child("child_locked_memory");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("ulimit -l 512") && output.status.success(), "{said}");
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let (first, second) = (Data::new("first"), Data::new("second"));
    let node = start_toy(config(&first, Mode::Alone, vec![first.socket()]), Mode::Alone).expect("it starts");
    Client::connect(&node.addresses()[0]).append(0, b"something");
    let taken = Listen::Unix(first.0.join("socket"));
    let error = start_toy(config(&second, Mode::Alone, vec![second.socket(), taken]), Mode::Alone).err();
    assert!(matches!(error, Some(StartError::Listen { .. })), "{error:?}");
    assert!(!second.0.join("socket").exists());
    // Another journal's files are refused, and the same directory opens again when they are right.
    node.stop();
    node.wait().expect("an orderly stop");
    let mut other = config(&first, Mode::Alone, vec![first.socket()]);
    other.executors[0].journal.journal_id += 1;
    let error = start_toy(other, Mode::Alone).err();
    assert!(matches!(error, Some(StartError::Recovery { .. })), "{error:?}");
    let node = start_toy(config(&first, Mode::Alone, vec![first.socket()]), Mode::Alone).expect("it starts");
    let mut client = Client::connect(&node.addresses()[0]);
    client.append(0, b"all is well");
    client.send(&batch(1, b"and a request at the very end"));
    assert!(matches!(client.answer(), (1, Answer::Reply(Reply::Appended { .. }))));
    node.stop();
    node.wait().expect("an orderly stop");
    assert!(client.frame().is_none(), "the connection has ended");
}
