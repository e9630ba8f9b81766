//! Segments run out, buffers and bytes stay bounded.

mod model;

use model::*;
use sealog_journal::{JournalConfig, WantedSegment};
use sealog_protocol::machine::DurableEntry;

#[test]
fn a_full_disk_is_said_while_there_is_room_for_what_is_promised() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 1, 100));
    assert!(!driver.journal.is_full());
    driver.fresh = Fresh::None;
    let (mut position, mut said_at) = (1, None);
    while driver.durable == driver.appended.len() {
        driver.append(STORAGE, run(shard(0), position, 2, 3000));
        driver.settle();
        position += 2;
        if driver.journal.is_full() && said_at.is_none() {
            said_at = Some(driver.durable);
        }
    }
    let said_at = said_at.expect("before the last block");
    let after = (driver.durable - said_at) * 6000;
    assert!(after > config().segment_bytes as usize / 2, "{after} bytes fit after it was said");
    // What does not fit waits, reads go on, a restart changes nothing.
    assert_eq!(driver.appended.len() - driver.durable, 1);
    driver.restart();
    driver.append(STORAGE, run(shard(0), position, 2, 3000));
    driver.settle();
    assert!(driver.journal.is_full() && driver.journal.deadline().is_none());
    driver.journal.stop(driver.now);
    assert!(driver.journal.is_settled(), "nothing that could be done is left");
    // Space comes back, and it goes on where it was.
    driver.fresh = Fresh::Zeros;
    driver.retry_failed();
    driver.settle();
    assert_eq!(driver.durable, driver.appended.len());
    assert!(!driver.journal.is_full());
    driver.restart();
}

#[test]
fn a_segment_that_is_late_is_waited_for_and_not_called_full() {
    let mut driver = Driver::new(config());
    assert_eq!(driver.journal.next_write(driver.now).map(|write| write.id), None, "no segment yet");
    driver.append(STORAGE, run(shard(0), 0, 1, 100));
    assert!(!driver.journal.is_full());
    driver.settle();
    assert_eq!(driver.durable, 1);
}

#[test]
fn segments_are_prepared_ahead_and_found_again() {
    let mut driver = Driver::new(config());
    driver.settle();
    assert_eq!(driver.journal.status().segments_prepared, 2, "beside the open one");
    driver.restart();
    assert_eq!(driver.journal.status().segments_prepared, 2);
    assert_eq!(driver.journal.wanted_segment(), None);
    // A file of another size is of no use: it is asked for anew.
    driver.disk.segments.insert(3, vec![0; 4096]);
    driver.restart();
    let wanted = WantedSegment { segment: 3, recycled: None };
    assert_eq!(driver.journal.wanted_segment(), Some(wanted));
}

/// Footers are written behind the blocks of the next segments, and fit, whatever the entries are.
#[test]
fn room_for_the_footer_is_kept_whatever_fills_the_segment() {
    let kinds: [fn(u64) -> DurableEntry; 4] = [
        |index| run(shard(index % 7), index, 1, 0),
        |index| run(shard(0), index * 90, 90, 0),
        |index| metalog(index, 3000),
        |_| DurableEntry::StorageSeal { view: VIEW },
    ];
    for (which, kind) in kinds.iter().enumerate() {
        let config = JournalConfig { segment_bytes: 64 << 10, ..config() };
        let mut driver = Driver::new(config);
        for index in 0..2000 {
            driver.append(if which < 2 { STORAGE } else { SEQUENCER }, kind(index));
            if index % 5 == 0 {
                driver.settle();
            }
        }
        driver.settle();
        let status = driver.journal.status();
        assert!(status.segments > 5 && status.footers_written == status.segments - 1, "kind {which}: {status:?}");
        driver.restart();
        assert_eq!(driver.durable, 2000);
    }
}

#[test]
fn an_entry_larger_than_a_block_gets_its_own() {
    let mut driver = Driver::new(config());
    driver.append(STORAGE, run(shard(0), 0, 1, 10));
    driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit: 1 });
    driver.append(STORAGE, run(shard(0), 1, 1, 60_000));
    driver.append(STORAGE, run(shard(0), 2, 1, 10));
    driver.settle();
    assert_eq!(driver.durable, 4);
    assert_eq!(driver.journal.status().blocks_written, 4, "recovery's, and three");
    driver.restart();
    assert_eq!(driver.durable, 4);
}

#[test]
#[should_panic(expected = "fits no segment")]
fn an_entry_larger_than_a_segment_is_our_bug() {
    let mut driver = Driver::new(config());
    driver.append(STORAGE, run(shard(0), 0, 1, 300_000));
}

#[test]
fn commits_ride_along_and_write_nothing_by_themselves() {
    let mut driver = Driver::new(config());
    driver.settle();
    let written = driver.journal.status().blocks_written;
    driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit: 1 });
    driver.settle();
    assert_eq!(driver.journal.status().blocks_written, written);
    assert_eq!(driver.journal.deadline(), None, "nor do they want a mark");
    driver.append_durably(STORAGE, run(shard(0), 0, 1, 10));
    assert_eq!((driver.durable, driver.journal.status().blocks_written), (2, written + 1));
    driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit: 2 });
    driver.idle();
    assert_eq!(driver.durable, 3, "on the mark that is due anyway");
    assert_eq!(driver.journal.deadline(), None, "one mark is enough");
}

#[test]
fn buffers_are_used_again() {
    let mut driver = Driver::new(config());
    let regions = driver.journal.buffer_regions().to_vec();
    assert_eq!(regions.len(), config().writes_in_flight_max + 2);
    for index in 0..200 {
        driver.append(STORAGE, run(shard(0), index, 1, 1000));
        driver.submit();
        for write in &driver.in_flight {
            let region = write.buffer.registered_index().map(|index| regions[index].0);
            assert_eq!(region, Some(write.buffer.as_ptr().addr()), "a registered buffer, at its place");
        }
        if index % 3 == 0 {
            driver.settle();
        }
    }
}

#[test]
fn a_block_small_beside_the_one_being_written_waits_for_it() {
    let mut driver = Driver::new(config());
    driver.settle();
    driver.append(STORAGE, run(shard(0), 0, 8, 1000));
    driver.submit();
    assert_eq!(driver.in_flight.len(), 1, "alone, it goes at once");
    driver.append(STORAGE, run(shard(0), 8, 1, 1000));
    driver.submit();
    assert_eq!(driver.in_flight.len(), 1, "one record waits beside eight");
    driver.append(STORAGE, run(shard(0), 9, 8, 1000));
    driver.submit();
    assert_eq!(driver.in_flight.len(), 2, "nine do not");
    driver.append(STORAGE, run(shard(0), 17, 1, 1000));
    driver.submit();
    assert_eq!(driver.in_flight.len(), 2);
    driver.complete(1);
    driver.submit();
    assert_eq!(driver.in_flight.len(), 1, "the first write is what it now waits for");
    driver.complete(0);
    driver.submit();
    assert_eq!(driver.in_flight.len(), 1, "with nothing being written it goes");
    driver.settle();
    assert_eq!(driver.durable, 4);
}
