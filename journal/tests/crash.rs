//! What was reported durable survives every crash; what was cut off never comes back.

mod model;

use model::*;
use proptest::prelude::*;
use sealog_journal::JournalConfig;
use sealog_protocol::ids::ViewNumber;
use sealog_protocol::machine::DurableEntry;

#[test]
fn entries_of_all_kinds_come_back_in_order() {
    let mut driver = Driver::new(config());
    driver.append(STORAGE, run(shard(0), 0, 3, 100));
    driver.append(SEQUENCER, metalog(0, 13));
    driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit: 1 });
    driver.append(STORAGE, DurableEntry::StorageSeal { view: VIEW });
    driver.append(SEQUENCER, DurableEntry::SequencerSeal { view: VIEW });
    driver.settle();
    assert_eq!(driver.durable, 5);
    driver.restart();
    assert_eq!(driver.durable, 5);
    driver.append_durably(STORAGE, run(shard(0), 3, 1, 0));
    driver.restart();
    assert_eq!(driver.durable, 6);
}

/// The last block, cut at every sector, and with every single sector missing.
#[test]
fn every_torn_prefix_of_the_last_block_is_cut_off() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 4, 300));
    driver.append(STORAGE, run(shard(0), 4, 5, 1200));
    driver.append(SEQUENCER, metalog(0, 13));
    driver.submit();
    let write = driver.in_flight.pop().expect("one block");
    let sectors = write.buffer.len() / SECTOR;
    let before = driver.disk.clone();
    let check = |kept: &dyn Fn(usize) -> bool| {
        let mut disk = before.clone();
        (0..sectors).filter(|sector| kept(*sector)).for_each(|sector| disk.write_sector(&write, sector));
        // What is missing may have been padding, which is zeros on a zeroed disk.
        let offset = write.offset as usize;
        let is_whole = disk.segments[&write.segment][offset..offset + write.buffer.len()] == write.buffer[..];
        let (journal, seen, _) = recover(config(), &mut disk).expect("torn is not damaged");
        assert_eq!(seen.len(), if is_whole { 3 } else { 1 });
        assert_eq!(journal.report().torn_tail.is_some(), !is_whole && kept(0), "a begun block is noticed");
        is_whole
    };
    assert!(!check(&|_| false) && check(&|_| true));
    let whole = (0..sectors).filter(|cut| check(&|sector| sector < *cut)).count();
    assert!(whole <= sectors / 8, "only padding can be missing: {whole} of {sectors}");
    for missing in 0..sectors {
        check(&|sector| sector != missing);
    }
}

/// Blocks 1, 2 and 3 in flight; 1 is torn, 2 and 3 are whole on disk. They were cut off once: they
/// must not come back, whatever is written in front of them, however often the node crashes.
#[test]
fn blocks_past_a_torn_one_never_come_back() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 1, 100));
    for first in 1..4 {
        driver.append(STORAGE, run(shard(0), first, 1, 100));
        driver.submit();
    }
    assert_eq!(driver.in_flight.len(), 3);
    for write in driver.in_flight.drain(..).skip(1) {
        driver.disk.write(write.segment, write.offset, &write.buffer);
    }
    driver.restart();
    assert_eq!(driver.durable, 1);
    assert_eq!(driver.journal.report().torn_tail.map(|tail| tail.valid_blocks_dropped), Some(2));
    // The recovery block takes block 1's place; then 2 and 3 follow it on the disk, whole.
    driver.settle();
    driver.restart();
    assert_eq!(driver.durable, 1);
    // A crash between them: the new block 2 is torn, the old 3 is whole behind it.
    driver.append(STORAGE, run(shard(0), 1, 1, 5000));
    driver.submit();
    driver.restart();
    assert_eq!(driver.durable, 1);
    driver.settle();
    driver.append_durably(STORAGE, run(shard(0), 1, 1, 100));
    driver.restart();
    assert_eq!(driver.durable, 2);
}

/// As before, but the blocks past the torn one are in the next segment: it is as good as unused, and
/// what it holds is told from what is written to it later.
#[test]
fn a_segment_begun_past_a_torn_block_is_used_again() {
    for crashes in 0..3 {
        let mut driver = Driver::new(config());
        driver.settle();
        let mut position = 0;
        // One block in flight at the end of the first segment, two in the second.
        let straddles = |driver: &Driver| {
            let segments: Vec<u32> = driver.in_flight.iter().map(|write| write.segment).collect();
            segments == [1, 2, 2]
        };
        while !straddles(&driver) {
            assert!(position < 1000, "the first segment ends before the second begins");
            if driver.in_flight.len() == 3 {
                driver.complete(0);
            }
            driver.append(STORAGE, run(shard(0), position, 1, 3000));
            driver.submit();
            position += 1;
        }
        for write in driver.in_flight.drain(..).skip(1) {
            driver.disk.write(write.segment, write.offset, &write.buffer);
        }
        driver.restart();
        let durable = driver.durable;
        assert_eq!(driver.journal.report().torn_tail.map(|tail| tail.valid_blocks_dropped), Some(2));
        for _ in 0..crashes {
            driver.submit();
            driver.lose_power();
            driver.restart();
            driver.settle();
        }
        assert_eq!(driver.durable, durable);
        for position in position..position + 20 {
            driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
            driver.restart();
        }
        assert_eq!(driver.durable, durable + 20);
    }
}

#[test]
fn the_recovery_block_is_written_alone() {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 1, 100));
    let incarnation = driver.journal.status().incarnation;
    for _ in 0..3 {
        driver.restart();
        driver.append(STORAGE, run(shard(0), 1, 1, 100));
        driver.submit();
        assert_eq!(driver.in_flight.len(), 1, "nothing beside it");
        assert_eq!(driver.journal.status().incarnation, incarnation + 1, "the last one's block was not durable");
    }
    driver.complete(0);
    driver.submit();
    driver.restart();
    assert_eq!(driver.journal.status().incarnation, incarnation + 2);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        shard: u64,
        records: u64,
        payload_bytes: usize,
    },
    Metalog {
        bytes: usize,
    },
    Commit,
    Seal,
    Submit,
    Complete {
        which: usize,
    },
    Idle,
    /// A machine needs the n-th of its segments no more.
    Release {
        of_storage: bool,
        nth: usize,
    },
    /// All machines need nothing but their newest segments.
    ReleaseAll,
    Crash {
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u64, 1..6u64, 0..3000usize)
            .prop_map(|(shard, records, payload_bytes)| Step::Append { shard, records, payload_bytes }),
        3 => (1..200usize).prop_map(|bytes| Step::Metalog { bytes }),
        2 => Just(Step::Commit),
        1 => Just(Step::Seal),
        6 => Just(Step::Submit),
        6 => (0..4usize).prop_map(|which| Step::Complete { which }),
        1 => Just(Step::Idle),
        4 => (any::<bool>(), 0..4usize).prop_map(|(of_storage, nth)| Step::Release { of_storage, nth }),
        1 => Just(Step::ReleaseAll),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

fn run_steps(config: JournalConfig, stale: bool, steps: &[Step]) -> Driver {
    let mut driver = Driver::new(config);
    driver.fresh = if stale { Fresh::Stale } else { Fresh::Zeros };
    driver.is_slow = stale;
    let (mut index, mut commit, mut view) = (0, 0, 0);
    for step in steps {
        match *step {
            Step::Append { shard: number, records, payload_bytes } => {
                index += records;
                driver.append(STORAGE, run(shard(number), index, records, payload_bytes));
            }
            Step::Metalog { bytes } => {
                index += 1;
                driver.append(SEQUENCER, metalog(index, bytes));
            }
            Step::Commit => {
                commit += 1;
                driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit });
            }
            Step::Seal => {
                view += 1;
                driver.append(STORAGE, DurableEntry::StorageSeal { view: ViewNumber(view) });
            }
            Step::Release { of_storage, nth } => {
                let owner = if of_storage { STORAGE } else { SEQUENCER };
                if let Some(segment) = driver.releasable(owner).get(nth) {
                    driver.release(owner, *segment);
                }
            }
            Step::ReleaseAll => {
                for owner in [STORAGE, SEQUENCER] {
                    driver.releasable(owner).into_iter().for_each(|segment| driver.release(owner, segment));
                }
            }
            Step::Submit => driver.submit(),
            Step::Complete { which } if !driver.in_flight.is_empty() => {
                driver.complete(which % driver.in_flight.len());
            }
            Step::Complete { .. } => {}
            Step::Idle => driver.idle(),
            Step::Crash { seed } => {
                driver.random = Random(seed);
                driver.lose_power();
                driver.restart();
                // Now and then it crashes again while it recovers.
                for _ in 0..driver.random.below(3) {
                    driver.submit();
                    driver.lose_power();
                    driver.restart();
                }
            }
        }
    }
    driver
}

/// Recovery from footers and recovery from blocks alone tell the same.
fn check_footers_against_scan(driver: &mut Driver) {
    driver.stop();
    driver.restart();
    let mut scanned = driver.disk.clone();
    for bytes in scanned.segments.values_mut() {
        let end = bytes.len();
        bytes[end - 4096..].fill(0);
    }
    let (by_footer, seen, places) = recover(driver.config, &mut driver.disk).expect("whole");
    let (by_scan, scanned_seen, scanned_places) = recover(driver.config, &mut scanned).expect("whole");
    assert_eq!((seen, places), (scanned_seen, scanned_places));
    assert_eq!(by_scan.report().sealed_segments, 0);
    assert!(by_scan.report().scanned_segments >= by_footer.report().sealed_segments);
    assert!(by_footer.report().scanned_segments <= 1, "one segment is open");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_was_reported_durable_survives(
        steps in prop::collection::vec(step(), 1..150),
        stale: bool,
        segment_pages in 12..40u64,
        writes_in_flight_max in 1..5usize,
    ) {
        let config = JournalConfig {
            segment_bytes: segment_pages * 4096,
            writes_in_flight_max,
            ..config()
        };
        let mut driver = run_steps(config, stale, &steps);
        driver.lose_power();
        driver.restart();
        driver.settle();
        check_footers_against_scan(&mut driver);
    }
}
