//! Bits that rot, and tails that are torn. What is damaged is said to be, never left out.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sealog::blocking::Client;
use sealog::{ReadError, SeqNum, Tag};

use crate::node::{Node, TestDirectory, fresh_directory, seed};

const RECORDS: usize = 60;

/// Where in the journal these bytes lie: the file, and the offset in it.
pub fn find_in_journal(data: &Path, wanted: &[u8]) -> (PathBuf, u64) {
    let journal = fs::read_dir(data.join("journal-0")).expect("a journal");
    let mut places = journal.filter_map(|entry| {
        let path = entry.expect("it can be listed").path();
        let content = fs::read(&path).expect("it can be read");
        let at = content.windows(wanted.len()).position(|window| window == wanted)?;
        Some((path, at as u64))
    });
    places.next().expect("what was appended is in the journal")
}

pub fn flip_a_bit(place: &(PathBuf, u64)) {
    let file = fs::File::options().read(true).write(true).open(&place.0).expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place.1).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x10], place.1).expect("it can be written");
    file.sync_all().expect("it can be synced");
}

fn payload(number: usize) -> String {
    format!("this is record {number:04} of those that may rot")
}

/// A data directory with so many records, and their SeqNums; its node has stopped in order.
fn written(name: &str) -> (TestDirectory, Vec<SeqNum>) {
    let data = fresh_directory(name);
    let node = Node::start(&data);
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    let append = |number| logbook.append(&[Tag(7)], payload(number)).expect("it is acknowledged").seqnum;
    let seqnums = (0..RECORDS).map(append).collect();
    node.stop();
    (data, seqnums)
}

/// One record is damaged: it alone cannot be read, by library and command line, and the status
/// says so.
fn expect_one_damaged(data: &Path, seqnums: &[SeqNum], damaged: usize) {
    let node = Node::start(data);
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    for (number, seqnum) in seqnums.iter().enumerate() {
        match logbook.read_next(Tag::ALL, *seqnum) {
            Ok(record) => {
                let record = record.unwrap_or_else(|| panic!("record {number} is gone without a word"));
                assert_eq!((record.seqnum, &record.payload[..]), (*seqnum, payload(number).as_bytes()));
                assert_ne!(number, damaged, "the damage went unnoticed");
            }
            Err(error) => {
                assert!(matches!(error, ReadError::Corrupt { .. }), "{error:?}");
                assert_eq!(number, damaged, "others can be read");
            }
        }
    }
    assert_eq!(logbook.check_tail(Tag(7)).expect("the index is whole"), seqnums.last().copied());
    let from = seqnums[damaged].0.to_string();
    node.sealog(&["read", "orders", "--from", &from]).expect_failure(8, &["damaged"]);
    let status = node.status();
    assert_eq!(status["state"], "degraded", "{status}");
    let next = logbook.append(&[Tag(8)], "appends go on").expect("a damaged record stops nothing else");
    assert!(next.seqnum > *seqnums.last().expect("there are records"));
    node.stop();
}

#[test]
fn a_flipped_bit_in_old_data_is_corrupt_and_nothing_else_is() {
    let (data, seqnums) = written("rot-old");
    flip_a_bit(&find_in_journal(&data, payload(10).as_bytes()));
    expect_one_damaged(&data, &seqnums, 10);
}

/// A node that stopped in order has said what is durable: a damaged last record is no torn tail.
#[test]
fn a_flipped_bit_in_the_last_record_is_corrupt_and_not_cut_off() {
    let (data, seqnums) = written("rot-last");
    flip_a_bit(&find_in_journal(&data, payload(RECORDS - 1).as_bytes()));
    expect_one_damaged(&data, &seqnums, RECORDS - 1);
}

/// The record survives a restart of a node with damage: damage does not spread.
#[test]
fn damage_stays_what_it_is_over_restarts() {
    let (data, seqnums) = written("rot-restarts");
    flip_a_bit(&find_in_journal(&data, payload(0).as_bytes()));
    for _ in 0..3 {
        expect_one_damaged(&data, &seqnums, 0);
    }
}

/// Bits flipped all over the journal, one at a time: the node starts and tells the truth, or says
/// that it cannot start; it never answers wrongly.
#[test]
fn no_flipped_bit_anywhere_makes_a_wrong_answer() {
    let (data, seqnums) = written("rot-anywhere");
    let last = find_in_journal(&data, payload(RECORDS - 1).as_bytes());
    let mut random = fastrand::Rng::with_seed(seed(0x5EA1_0004));
    let (mut refused, mut told) = (0, 0);
    for _ in 0..12 {
        let copy = fresh_directory("rot-anywhere-copy");
        copy_directory(&data, &copy);
        let place = (copy.join("journal-0").join(last.0.file_name().expect("a file")), random.u64(..last.1 + 4096));
        flip_a_bit(&place);
        let Ok(node) = crate::node::NodeCommand::new(&copy).start() else {
            refused += 1;
            continue;
        };
        let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
        for (number, seqnum) in seqnums.iter().enumerate() {
            match logbook.read_next(Tag::ALL, *seqnum) {
                Ok(Some(record)) if record.seqnum == *seqnum => {
                    assert_eq!(&record.payload[..], payload(number).as_bytes(), "{place:?}");
                }
                Ok(other) => panic!("{place:?}: record {number} is gone without a word; found {other:?}"),
                Err(ReadError::Corrupt { .. }) => told += 1,
                Err(error) => panic!("{place:?}: {error:?}"),
            }
        }
        node.stop();
    }
    println!("refused to start {refused} times, said corrupt of {told} records");
}

/// What a crash tears is cut off, and never comes back.
#[test]
fn a_torn_tail_is_cut_off_and_never_comes_back() {
    let mut cut_off = 0;
    for round in 0..4 {
        let (data, mut seqnums) = written("torn");
        let node = Node::start(&data);
        let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
        // Killed at once, before a mark says of it that it is durable.
        let torn = format!("torn in round {round}: {}", "z".repeat(6000));
        let torn_at = logbook.append(&[Tag(7)], &torn).expect("it is acknowledged").seqnum;
        node.kill();
        let (path, offset) = find_in_journal(&data, torn.as_bytes());
        let file = fs::File::options().write(true).open(path).expect("the segment");
        // The second half of its block never reached the disk.
        file.write_all_at(&[0; 4096], (offset + 2048).next_multiple_of(4096)).expect("it can be written");
        drop(file);

        let mut node = Node::start(&data);
        let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
        match logbook.read_next(Tag::ALL, torn_at) {
            // The machine was slow, and the mark was there: then it is damage, and said to be.
            Err(ReadError::Corrupt { .. }) => continue,
            Err(error) => panic!("round {round}: {error:?}"),
            Ok(found) => assert_eq!(found, None, "round {round}: what was torn is answered"),
        }
        cut_off += 1;
        for next in 0..2 {
            let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
            seqnums.push(logbook.append(&[Tag(7)], payload(RECORDS + next)).expect("it is acknowledged").seqnum);
            node.kill();
            node = Node::start(&data);
        }
        let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
        let records = logbook.scan(Tag(7), SeqNum::MIN..=SeqNum::MAX).map(|record| record.expect("readable"));
        for (number, record) in records.enumerate() {
            assert_eq!((record.seqnum, &record.payload[..]), (seqnums[number], payload(number).as_bytes()));
        }
        node.stop();
    }
    assert!(cut_off > 0, "every time a mark was there within moments");
}

fn copy_directory(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("it has a type");
        if kind.is_dir() {
            fs::create_dir(&target).expect("a directory");
            copy_directory(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// What `inspect verify` says: its exit code, and its lines of this kind.
pub fn verify(data: &Path) -> (Option<i32>, Vec<serde_json::Value>, Vec<serde_json::Value>) {
    let mut command = std::process::Command::new(crate::node::binary());
    let output = command.args(["inspect", "verify", "-o", "json", "--data"]).arg(data).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let (damages, journals) = lines.into_iter().partition(|line| line["kind"] == "damage");
    (output.status.code(), damages, journals)
}

/// As [`written`], with so many records of 100 KB more: segments are sealed.
fn written_and_sealed(name: &str, records: usize) -> TestDirectory {
    let (data, _) = written(name);
    let node = Node::start(&data);
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    for number in 0..records {
        let large = format!("{}{}", payload(1000 + number), "z".repeat(100_000));
        logbook.append(&[Tag(9)], large).expect("it is acknowledged");
    }
    node.stop();
    data
}

/// Nothing in the directory is another after a look than before.
fn content(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![data.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.is_file() {
                files.push((path.clone(), fs::read(&path).expect("it can be read")));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn verify_reads_everything_and_changes_nothing() {
    let data = written_and_sealed("verify-whole", 150);
    let before = content(&data);
    let (code, damages, journals) = verify(&data);
    assert_eq!((code, damages.len()), (Some(0), 0), "{damages:?}");
    assert!(journals[0]["records"].as_u64() >= Some(RECORDS as u64 + 150), "{journals:?}");
    assert!(journals[0]["footers"].as_u64() >= Some(1), "{journals:?}");
    assert!(before == content(&data), "a look writes nothing");

    let mut node = Node::start(&data);
    assert_eq!(verify(&data).0, Some(1), "a node uses it");
    assert!(node.is_running());
    node.kill();
    assert_eq!(verify(&data).0, Some(0), "a torn tail is no damage");
}

#[test]
fn verify_names_each_damaged_record_and_where_it_lies() {
    let data = written_and_sealed("verify-records", 150);
    // In a sealed segment, which a start does not read but for its footer, and in the open one.
    for number in [5, 1000 + 3, 1000 + 149] {
        let place = find_in_journal(&data, payload(number).as_bytes());
        flip_a_bit(&place);
        let (code, damages, _) = verify(&data);
        assert_eq!((code, damages.len()), (Some(8), 1), "{damages:?}");
        let (offset, bytes) = (damages[0]["offset"].as_u64(), damages[0]["bytes"].as_u64());
        let offset = offset.expect("it is told where");
        assert!((offset..offset + bytes.expect("and how much")).contains(&place.1), "{damages:?}, not {place:?}");
        let segment = format!("segment-{:08}.seg", damages[0]["segment"].as_u64().expect("and in which file"));
        assert!(place.0.ends_with(&segment), "{damages:?}, not {place:?}");
        assert_eq!((&damages[0]["what"], &damages[0]["records_lost"]), (&"data".into(), &1.into()), "{damages:?}");
        assert_eq!(damages[0]["logbooks"].as_array().map(Vec::len), Some(1));
        flip_a_bit(&place);
    }
    assert_eq!(verify(&data).0, Some(0));
}

/// Headers, footers, Tags, whole pages, the identity, the register: whatever is damaged is said to
/// be, and where nothing is, nothing is.
#[test]
fn verify_finds_missing_blocks_damaged_footers_and_what_is_beside_the_journal() {
    let data = written_and_sealed("verify-all", 150);
    let sealed = find_in_journal(&data, payload(1003).as_bytes());
    let bytes = fs::read(&sealed.0).expect("it can be read");
    let blocks: Vec<u64> =
        (0..bytes.len() as u64).step_by(4096).filter(|at| bytes[*at as usize..].starts_with(b"SLJB")).collect();
    let file = |path: &str| (data.join(path), 60);
    let trailer = bytes.len() - 4096;
    let footer = u64::from_le_bytes(bytes[trailer + 32..trailer + 40].try_into().expect("eight bytes"));
    assert!(footer.is_multiple_of(4096) && footer > blocks[3], "the trailer says where the footer begins: {footer}");
    let cases = [
        ("a block's header", (sealed.0.clone(), blocks[3] + 50), "blocks"),
        ("a footer's Tags", (sealed.0.clone(), footer + 20), "footer"),
        ("a footer's entries", (sealed.0.clone(), bytes.len() as u64 - 4096 - 4096), "footer"),
        ("the identity", file("identity"), "directory"),
        ("the register", file("register/logspace-0.chain"), "directory"),
    ];
    for (name, place, what) in cases {
        flip_a_bit(&place);
        let (code, damages, _) = verify(&data);
        assert_eq!(code, Some(8), "{name}: {damages:?}");
        assert_eq!((damages.len(), &damages[0]["what"]), (1, &what.into()), "{name}: {damages:?}");
        flip_a_bit(&place);
    }
    // A page of zeros looks like nothing: that something was there is known by numbers.
    let written = fs::File::options().write(true).open(&sealed.0).expect("the segment");
    written.write_all_at(&[0; 4096], blocks[3]).expect("it can be written");
    let (code, damages, _) = verify(&data);
    assert_eq!((code, damages.len(), &damages[0]["what"]), (Some(8), 1, &"blocks".into()), "{damages:?}");
    assert_eq!(damages[0]["offset"], blocks[3]);
    fs::remove_file(&sealed.0).expect("it is there");
    let (code, damages, _) = verify(&data);
    assert_eq!(code, Some(8), "{damages:?}");
}

/// Waits for a scrub that began after this, and returns the status then.
fn after_a_pass(node: &Node) -> serde_json::Value {
    let passes = |status: &serde_json::Value| status["executors"][0]["scrub"]["passes"].as_u64().expect("a count");
    let (before, began) = (passes(&node.status()), std::time::Instant::now());
    loop {
        let status = node.status();
        // One may have been under way.
        if passes(&status) >= before + 2 {
            return status;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "no pass ended: {status}");
    }
}

/// Bits rot in what a running node wrote long ago: within a pass it says so, with the place, while
/// appends go on, and nothing is told of what is whole.
#[test]
fn a_running_node_finds_what_rots_in_cold_segments() {
    let data = written_and_sealed("scrub", 150);
    let mut command = crate::node::NodeCommand::new(&data);
    command.settings.extend([("SEALOG_SCRUB_RATE", "64MiB"), ("SEALOG_SCRUB_INTERVAL", "100ms")]);
    let node = command.start().expect("it is whole");
    let logbook = Client::connect(&node.address).expect("a client").logbook("orders");
    let status = after_a_pass(&node);
    assert_eq!((&status["state"], &status["degraded"]), (&"ready".into(), &serde_json::json!([])), "{status}");
    let scrub = &status["executors"][0]["scrub"];
    assert!(scrub["last_pass_bytes"].as_u64() > Some(4 << 20), "a sealed segment was read: {scrub}");
    assert_eq!((&scrub["damaged"], &scrub["findings"]), (&0.into(), &serde_json::json!([])));

    let places = [1003, 1040].map(|number| find_in_journal(&data, payload(number).as_bytes()));
    places.iter().for_each(flip_a_bit);
    logbook.append(&[Tag(8)], "appends go on").expect("beside the scrub");
    let status = after_a_pass(&node);
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(status["degraded"][0].as_str().is_some_and(|reason| reason.contains("2 damaged ranges")), "{status}");
    let findings = status["executors"][0]["scrub"]["findings"].as_array().expect("a list").clone();
    for place in &places {
        let is_here = |finding: &&serde_json::Value| {
            let (offset, bytes) = (finding["offset"].as_u64(), finding["bytes"].as_u64());
            let (offset, bytes) = (offset.expect("a place"), bytes.expect("a length"));
            place.0.ends_with(finding["file"].as_str().expect("a file")) && (offset..offset + bytes).contains(&place.1)
        };
        assert_eq!(findings.iter().filter(is_here).count(), 1, "{place:?} is not in {findings:?}");
    }
    assert_eq!((findings.len(), &findings[0]["what"]), (2, &"data".into()), "{findings:?}");
    after_a_pass(&node);
    let status = node.status();
    assert_eq!(status["executors"][0]["scrub_findings"], 2, "each is news once: {status}");
    logbook.append(&[Tag(8)], "and on").expect("damage of old records stops nothing");
    // What was a fault of the way only, and is whole again, is damage no more.
    places.iter().for_each(flip_a_bit);
    assert_eq!(after_a_pass(&node)["state"], "ready");
    node.stop();
}
