//! Tags are read back from the memory of open segments and from footers, the same.

mod model;

use bytes::Bytes;
use model::*;
use sealog_journal::{JournalConfig, SegmentSource, TagsSource};
use sealog_protocol::ids::{LogspaceId, ShardId};
use sealog_protocol::machine::{ReadFailure, Role};
use sealog_protocol::tags::entries;

/// Tags of a shard in a segment from a position on, wherever they are.
fn read(driver: &mut Driver, shard: ShardId, segment: u32, from: u64) -> (u64, Bytes) {
    match driver.journal.read_tags(STORAGE, shard, segment, from) {
        TagsSource::Memory { first, entries } => (first, entries),
        TagsSource::Footer(chunk) => {
            let mut bytes = vec![0; chunk.bytes + 4096];
            let start = bytes.as_ptr().addr().next_multiple_of(4096) - bytes.as_ptr().addr();
            let end = start + chunk.bytes;
            driver.disk.read(chunk.segment, chunk.offset, &mut bytes[start..end]).expect("within the file");
            let read = Bytes::from(bytes).slice(start..end);
            let damaged = Bytes::from(read.iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
            assert_eq!(chunk.tags(&damaged).err(), Some(ReadFailure::Corrupt));
            assert_eq!(chunk.tags(&read.slice(1..)).err(), Some(ReadFailure::Corrupt));
            chunk.tags(&read).expect("whole")
        }
    }
}

/// All positions of a shard, read chunk by chunk, segment by segment.
fn read_all(driver: &mut Driver, shard: ShardId) -> Vec<u64> {
    let mut positions = Vec::new();
    for segment in driver.disk.segments.keys().copied().collect::<Vec<_>>() {
        let mut from = 0;
        loop {
            let (first, tags) = read(driver, shard, segment, from);
            if tags.is_empty() {
                break;
            }
            assert!(first >= from);
            from = first;
            for entry in entries(&tags) {
                let request = entry.expect("well-formed").metadata.request().0;
                assert_eq!(request, from + 1, "the batch of that position");
                positions.push(from);
                from += 1;
            }
        }
    }
    positions
}

#[test]
fn tags_are_the_same_from_memory_and_from_footers() {
    let mut driver = Driver::new(JournalConfig { segment_bytes: 128 << 10, ..config() });
    for position in 0..150 {
        driver.append(STORAGE, run(shard(0), position * 3, 3, 400));
        driver.append(STORAGE, run(shard(1), position, 1, 10));
        driver.settle();
    }
    assert!(driver.journal.status().segments > 2);
    for _ in 0..2 {
        assert_eq!(read_all(&mut driver, shard(0)), (0..450).collect::<Vec<_>>());
        assert_eq!(read_all(&mut driver, shard(1)), (0..150).collect::<Vec<_>>());
        assert!(read_all(&mut driver, shard(2)).is_empty());
        driver.restart();
    }
    let other = (LogspaceId(1), Role::Storage);
    for segment in 0..4 {
        let source = driver.journal.read_tags(other, shard(0), segment, 0);
        assert!(matches!(source, TagsSource::Memory { entries, .. } if entries.is_empty()), "another logspace");
    }
}

#[test]
fn a_position_inside_a_batch_gives_the_batch() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 5, 4, 10));
    let segment = driver.places[0].segment;
    assert_eq!(read(&mut driver, shard(0), segment, 0).0, 5, "the first there is");
    assert_eq!(read(&mut driver, shard(0), segment, 7).0, 7);
    assert!(read(&mut driver, shard(0), segment, 9).1.is_empty());
}

#[test]
fn only_durable_tags_are_told() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 2, 10));
    let segment = driver.places[0].segment;
    driver.append(STORAGE, run(shard(0), 2, 2, 10));
    driver.submit();
    driver.append(STORAGE, run(shard(0), 4, 2, 10));
    driver.submit();
    assert_eq!(driver.in_flight.len(), 2);
    assert_eq!(entries(&read(&mut driver, shard(0), segment, 0).1).count(), 2);
    driver.complete(1);
    assert_eq!(entries(&read(&mut driver, shard(0), segment, 0).1).count(), 2, "not the one behind the gap");
    assert!(read(&mut driver, shard(0), segment, 2).1.is_empty());
    driver.complete(0);
    assert_eq!(entries(&read(&mut driver, shard(0), segment, 0).1).count(), 6);
}

/// Tags are most of a footer of small records. A start does not read them, so their damage is found by
/// who reads them.
#[test]
fn a_start_reads_no_tags_of_sealed_segments() {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().segments < 8 {
        driver.append_durably(STORAGE, run(shard(0), position, 40, 10));
        position += 40;
    }
    driver.stop();
    let segment = driver.places[0].segment;
    let TagsSource::Footer(chunk) = driver.journal.read_tags(STORAGE, shard(0), segment, 0) else {
        panic!("the first segment is sealed")
    };
    driver.disk.flip(segment, chunk.offset + 5000, 3);
    driver.restart();
    let bytes_read = driver.journal.report().bytes_read;
    let sealed = driver.journal.report().sealed_segments;
    // Two prepared ones, the open one twice, and of each other one two pages and its directory.
    let unsealed = 4 * config().segment_bytes;
    assert!(sealed >= 7 && bytes_read <= unsealed + sealed * 4 * 4096, "{bytes_read} bytes of {sealed} segments");
    let TagsSource::Footer(chunk) = driver.journal.read_tags(STORAGE, shard(0), segment, 0) else {
        panic!("it still is")
    };
    let mut bytes = vec![0; chunk.bytes + 4096];
    let start = bytes.as_ptr().addr().next_multiple_of(4096) - bytes.as_ptr().addr();
    let end = start + chunk.bytes;
    driver.disk.read(segment, chunk.offset, &mut bytes[start..end]).expect("within the file");
    assert_eq!(chunk.tags(&Bytes::from(bytes).slice(start..end)).err(), Some(ReadFailure::Corrupt));
}
