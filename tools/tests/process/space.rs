//! Space that comes back: a node that appends many times its budget lives on files that it uses again,
//! and loses nothing that is kept, through SIGKILLs.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use sealog::blocking::{Client, LogBook};
use sealog::{AppendError, ReadError, Retention, SeqNum, Tag};

use crate::node::{Node, NodeCommand, fresh_directory, quiet_machine};

const RECORD_BYTES: usize = 64 << 10;
const IN_FLIGHT: usize = 16;
/// Room comes back within seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const BUDGET_BYTES: u64 = 192 << 20;

fn logbook(address: &str) -> LogBook {
    let client = Client::builder().deadline(Duration::from_secs(60));
    client.connect(address).expect("the node is there").logbook("space")
}

fn payload(number: usize) -> Vec<u8> {
    format!("{number:016}").into_bytes().repeat(RECORD_BYTES / 16)
}

/// Appends records with these numbers; each gets a SeqNum, if not at once. Returns them, and how often
/// the disk was full.
fn append(logbook: &LogBook, tag: Tag, numbers: std::ops::Range<usize>) -> (Vec<SeqNum>, usize) {
    let (mut in_flight, mut seqnums, mut full) = (VecDeque::new(), Vec::new(), 0);
    let mut wanted: VecDeque<usize> = numbers.collect();
    let mut last_success = Instant::now();
    while !wanted.is_empty() || !in_flight.is_empty() {
        while let Some(number) = wanted.front().copied().filter(|_| in_flight.len() < IN_FLIGHT) {
            wanted.pop_front();
            in_flight.push_back((number, logbook.begin_append(&[tag], payload(number)).expect("there is room")));
        }
        let (number, append) = in_flight.pop_front().expect("one at least");
        match append.wait() {
            Ok(appended) => {
                seqnums.push(appended.seqnum);
                last_success = Instant::now();
            }
            // What was refused gets another place; in this test nobody minds which.
            Err(AppendError::DiskFull { .. }) => {
                full += 1;
                assert!(last_success.elapsed() < PATIENCE, "no room came back, {} records are there", seqnums.len());
                wanted.push_back(number);
            }
            Err(error) => panic!("record {number}: {error}"),
        }
    }
    (seqnums, full)
}

fn bytes_of(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).expect("the journal's directory");
    files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |metadata| metadata.len())).sum()
}

fn command(data: &Path) -> NodeCommand {
    let mut command = NodeCommand::new(data);
    command.settings.push(("SEALOG_DISK_BUDGET", "192MiB"));
    command
}

#[test]
fn retention_keeps_a_node_within_its_budget_through_kills() {
    let _machine = quiet_machine();
    let data = fresh_directory("space-retention");
    let command = command(&data);
    let mut acknowledged: Vec<SeqNum> = Vec::new();
    for round in 0..3 {
        let node = command.start().expect("it has room");
        let logbook = logbook(&node.address);
        if round == 0 {
            logbook.set_retention(Retention { age: None, bytes: Some(16 << 20) }).expect("set");
        }
        let (seqnums, full) = append(&logbook, Tag(1), acknowledged.len()..acknowledged.len() + 4_000);
        acknowledged.extend(seqnums);
        acknowledged.sort_unstable();
        println!("round {round}: the disk was full {full} times");
        let on_disk = bytes_of(&data.join("journal-0"));
        assert!(on_disk <= BUDGET_BYTES, "{on_disk} bytes on disk, after {} records", acknowledged.len());
        // Retention may go on meanwhile: then what is read is gone before it is read, and it is asked again.
        let (kept, read) = loop {
            let first = logbook.describe().expect("known").first;
            let kept: Vec<SeqNum> = acknowledged.iter().copied().filter(|seqnum| seqnum.0 >= first).collect();
            let records = logbook.scan(Tag(1), SeqNum(first)..=SeqNum::MAX);
            match records.map(|record| record.map(|record| record.seqnum)).collect::<Result<Vec<SeqNum>, ReadError>>() {
                Ok(read) => break (kept, read),
                Err(ReadError::Trimmed { .. }) => {}
                Err(error) => panic!("what is kept can be read: {error}"),
            }
        };
        let kept_bytes = kept.len() * RECORD_BYTES;
        assert!((8 << 20..=48 << 20).contains(&kept_bytes), "{kept_bytes} bytes are kept");
        assert_eq!(read, kept, "round {round}: what is kept is there, and nothing else");
        node.kill();
    }
}

/// The node looks at its budget now and then, and says how much of it is used.
fn expect_budget_level(node: &Node, level: &str) {
    let began = Instant::now();
    loop {
        let budget = node.status()["space"]["budget"].clone();
        if budget["level"] == level {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "it is not {level}: {budget}");
    }
}

#[test]
fn a_full_node_trims_and_goes_on_without_a_restart() {
    let _machine = quiet_machine();
    let data = fresh_directory("space-full");
    let node = command(&data).start().expect("a new node");
    let logbook = logbook(&node.address);
    let mut last = SeqNum::MIN;
    let message = loop {
        match logbook.append(&[], payload(7)) {
            Ok(appended) => last = appended.seqnum,
            Err(AppendError::DiskFull { message }) => break message,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(message.contains("disk"), "{message}");
    expect_budget_level(&node, "critical");
    assert!(logbook.read_next(Tag::ALL, SeqNum::MIN).expect("reads go on").is_some());
    assert_eq!(logbook.trim(Tag::ALL, last).expect("trims too"), last);
    // Half of what filled it: each is tried until there is room, and gets in.
    let (seqnums, full) = append(&logbook, Tag(2), 0..1_500);
    println!("the disk was full {full} times");
    let read: Vec<SeqNum> =
        logbook.scan(Tag(2), last..=SeqNum::MAX).map(|record| record.expect("whole").seqnum).take(10).collect();
    assert_eq!(read[..], seqnums[..10]);
    // Half of the budget is used again: the warning ended.
    expect_budget_level(&node, "fine");
    node.stop();
}
