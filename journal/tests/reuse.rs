//! Segments that nobody needs are used again, and no crash makes one that is needed go, or one that is
//! gone a damage.

mod model;

use model::*;
use sealog_journal::{Damage, DamageKind, Finding, Inspection, JournalConfig, RecoveryError, SegmentState};
use sealog_protocol::ids::ViewNumber;
use sealog_protocol::machine::DurableEntry;

/// What many seeds have reached together.
#[derive(Debug, Default)]
struct Reached {
    released: u64,
    recycled: u64,
    removed: u64,
    found_free: u64,
    crashes: u64,
    files_max: usize,
}

impl Reached {
    fn life_ends(&mut self, driver: &Driver) {
        let status = driver.journal.status();
        self.released += status.segments_released;
        self.recycled += status.segments_recycled;
        self.removed += status.segments_removed;
    }
}

/// Appends, releases and crashes at random; every start checks what came back.
fn live(seed: u64, reached: &mut Reached) {
    let mut random = Random(seed);
    let config = JournalConfig {
        segment_bytes: (12 + random.below(20)) * 4096,
        writes_in_flight_max: 1 + random.below(4) as usize,
        segments_max: if random.below(2) == 0 { 0 } else { 8 + random.below(20) as usize },
        ..config()
    };
    let mut driver = Driver::new(config);
    driver.random = Random(seed ^ 1);
    driver.is_slow = random.below(2) == 0;
    // Some keep much for long, some little.
    let keeps = random.below(8);
    let mut next = 0;
    for _ in 0..100 + random.below(300) {
        match random.below(24) {
            0..8 if !driver.journal.is_full() => {
                let records = 1 + random.below(4);
                driver.append(STORAGE, run(shard(random.below(3)), next, records, random.below(4000) as usize));
                next += records;
            }
            8..10 if !driver.journal.is_full() => {
                driver.append(SEQUENCER, metalog(next, 1 + random.below(200) as usize));
                next += 1;
            }
            10 if !driver.journal.is_full() => {
                driver.append(STORAGE, DurableEntry::StorageSeal { view: ViewNumber(next as u32) });
                next += 1;
            }
            11..14 => driver.submit(),
            14..18 if !driver.in_flight.is_empty() => {
                let which = random.below(driver.in_flight.len() as u64) as usize;
                driver.complete(which);
            }
            18..21 => {
                let owner = if random.below(2) == 0 { STORAGE } else { SEQUENCER };
                for segment in driver.releasable(owner) {
                    if random.below(8) >= keeps {
                        driver.release(owner, segment);
                    }
                }
            }
            21 => driver.idle(),
            22 => driver.settle(),
            23 if random.below(3) == 0 => {
                for _ in 0..1 + random.below(3) {
                    reached.life_ends(&driver);
                    driver.lose_power();
                    if random.below(4) == 0 {
                        ruin_trailer(&mut driver, &mut random);
                    }
                    driver.restart();
                    reached.crashes += 1;
                    reached.found_free += driver.journal.report().freed_segments;
                    for _ in 0..random.below(4) {
                        driver.submit();
                        if !driver.in_flight.is_empty() {
                            driver.complete(random.below(driver.in_flight.len() as u64) as usize);
                        }
                    }
                }
            }
            _ => {}
        }
        let status = driver.journal.status();
        let files = driver.disk.segments.len();
        reached.files_max = reached.files_max.max(files);
        if config.segments_max > 0 {
            // A restart may find one file more under preparation than it would have asked for.
            assert!(files <= config.segments_max + 2, "seed {seed}: {files} files: {status:?}");
        }
        let entries = status.segments_free as usize + status.segments as usize + status.segments_prepared as usize;
        assert!(files <= entries + 2, "seed {seed}: {files} files of {entries} that the journal knows of: {status:?}");
    }
    reached.life_ends(&driver);
    driver.lose_power();
    driver.restart();
}

/// A segment has lost its trailer: its blocks tell the same, also those that were cut off in it by a
/// life of which nothing else may be left.
fn ruin_trailer(driver: &mut Driver, random: &mut Random) {
    let segments: Vec<u32> = driver.disk.segments.keys().copied().collect();
    if !segments.is_empty() {
        let segment = segments[random.below(segments.len() as u64) as usize];
        driver.disk.write(segment, driver.config.segment_bytes - 4096, &[0; 4096]);
    }
}

#[test]
fn nothing_needed_is_lost_and_nothing_gone_is_damage() {
    let mut reached = Reached::default();
    for seed in 0..3000 {
        live(seed, &mut reached);
    }
    let Reached { released, recycled, removed, found_free, crashes, .. } = reached;
    assert!(released > 5000 && recycled > 2000 && removed > 50, "{reached:?}");
    assert!(found_free > 1000 && crashes > 5000, "{reached:?}");
}

/// Fills segments with records that are released at once, and a cut in each that is not.
fn fill(driver: &mut Driver, from: u64, segments: u64) -> u64 {
    let (begun, mut at) = (driver.journal.status().segments_released, from);
    while driver.journal.status().segments_released < begun + segments {
        assert!(at < from + 3000, "segments come back: {:?}", driver.journal.status());
        driver.append(STORAGE, run(shard(0), at, 1, 3000));
        if at.is_multiple_of(20) {
            driver.append(SEQUENCER, metalog(at, 10));
        }
        driver.settle();
        for segment in driver.releasable(STORAGE) {
            driver.release(STORAGE, segment);
        }
        while let Some((owner, segment)) = driver.journal.next_vacate() {
            driver.append_again(owner, segment);
        }
        at += 1;
    }
    at
}

#[test]
fn machines_are_asked_for_the_little_that_they_hold() {
    let mut driver = Driver::new(JournalConfig { segment_bytes: 128 << 10, ..config() });
    let mut at = 0;
    for _ in 0..5 {
        at = fill(&mut driver, at, 20);
        let status = driver.journal.status();
        assert!(status.segments <= 8, "what is held is at the end: {status:?}");
        assert!(driver.disk.segments.len() <= 8 + 2 + 5, "{status:?}");
        assert!(driver.journal.next_vacate().is_none(), "each is asked once");
        driver.restart();
    }
    assert!(at > 2000);
}

#[test]
fn at_the_bound_it_is_full_until_segments_come_back() {
    let mut driver = Driver::new(JournalConfig { segments_max: 8, ..config() });
    let mut at = 0;
    let mut append = |driver: &mut Driver| {
        driver.append(STORAGE, run(shard(0), at, 2, 3000));
        driver.settle();
        at += 2;
    };
    for round in 0..4 {
        while !driver.journal.is_full() {
            append(&mut driver);
        }
        assert_eq!(driver.disk.segments.len(), 8, "round {round}");
        assert_eq!(driver.durable, driver.appended.len(), "what is appended before it is full finds room");
        // As much as a machine may have promised fits.
        let promised = config().segment_bytes / 4 * 3 / 8192;
        (0..promised).for_each(|_| append(&mut driver));
        assert_eq!(driver.durable, driver.appended.len());
        if round % 2 == 1 {
            driver.restart();
            driver.settle();
            assert!(driver.journal.is_full());
        }
        for segment in driver.releasable(STORAGE) {
            driver.release(STORAGE, segment);
        }
        driver.settle();
        assert!(!driver.journal.is_full(), "round {round}: {:?}", driver.journal.status());
    }
    assert!(driver.journal.status().segments_recycled > 0 && driver.disk.segments.len() <= 8);
}

/// With nothing else to do, and no room for more, it still writes what is gone.
#[test]
fn a_full_disk_gets_its_room_back() {
    let mut driver = Driver::new(config());
    for position in 0..200 {
        driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
    }
    driver.fresh = Fresh::None;
    let mut position = 200;
    while driver.durable == driver.appended.len() {
        driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
        position += 1;
    }
    assert!(driver.journal.is_full());
    let files = driver.disk.segments.len();
    for segment in driver.releasable(STORAGE) {
        driver.release(STORAGE, segment);
    }
    driver.settle();
    assert!(driver.disk.segments.len() < files - 1, "files are removed to make room");
    driver.fresh = Fresh::Zeros;
    driver.retry_failed();
    driver.settle();
    assert_eq!(driver.durable, driver.appended.len());
    assert!(!driver.journal.is_full());
    driver.restart();
}

/// The file of a segment that was given back can vanish or rot; one that counts cannot.
#[test]
fn what_is_gone_is_no_damage_and_what_counts_is() {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().segments < 6 {
        driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
        driver.append_durably(SEQUENCER, metalog(position, 10));
        position += 1;
    }
    for segment in [1, 2, 4] {
        driver.release(STORAGE, segment);
        driver.release(SEQUENCER, segment);
    }
    driver.settle();
    assert_eq!(driver.journal.status().segments_free, 3, "nothing more was wanted");
    driver.disk.segments.remove(&1).expect("it was kept");
    driver.disk.segments.get_mut(&2).expect("it was kept").fill(0xa5);
    driver.restart();
    // Segment 3 counts: between 2 and 4, which are gone, it is missed.
    let held = driver.segments.iter().filter(|segment| **segment == 3).count() as u64;
    driver.disk.segments.remove(&3).expect("it counts");
    let error = recover(driver.config, &mut driver.disk).err();
    assert!(matches!(error, Some(RecoveryError::MetalogDamaged { lost, .. }) if lost == held / 2), "{error:?}");
}

/// Records alone are lost with a segment that counts: the report has it, between two that are gone.
#[test]
fn lost_records_are_reported_between_what_is_gone() {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().segments < 5 {
        driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
        position += 1;
    }
    driver.release(STORAGE, 1);
    driver.release(STORAGE, 3);
    driver.settle();
    driver.restart();
    driver.disk.segments.remove(&2).expect("it counts");
    let (journal, seen, _) = recover(driver.config, &mut driver.disk).expect("no cut is lost");
    assert!(matches!(journal.report().damages[..], [Damage { kind: DamageKind::Blocks, .. }]));
    assert!(!seen.is_empty() && seen.len() < driver.durable);
    driver.disk.segments.remove(&1);
    let (journal, again, _) = recover(driver.config, &mut driver.disk).expect("no cut is lost");
    assert_eq!((journal.report().damages.len(), again), (1, seen));
}

/// What a machine appended again is damaged, and nothing behind it is durable but the word that the
/// segment it came from is gone: that is damage, and no torn tail.
#[test]
fn a_torn_tail_excuses_nothing() {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().segments < 2 {
        driver.append_durably(SEQUENCER, metalog(position, 3000));
        position += 1;
    }
    driver.append_durably(STORAGE, run(shard(0), 0, 1, 10));
    let copied = driver.places.len();
    driver.append_durably(SEQUENCER, metalog(position, 10));
    driver.release(SEQUENCER, 1);
    driver.settle();
    let place = driver.places[copied];
    driver.disk.flip(place.segment, place.byte_offset() + 60, 0);
    let error = recover(driver.config, &mut driver.disk).err();
    assert!(matches!(error, Some(RecoveryError::MetalogDamaged { lost: 1, .. })), "{error:?}");
}

/// Remains of earlier uses lie between the blocks and the footer of a file that was used again: no one
/// who looks takes them for damage.
#[test]
fn inspection_tells_remains_from_damage() {
    let mut driver = Driver::new(JournalConfig { segment_bytes: 128 << 10, ..config() });
    let at = fill(&mut driver, 0, 30);
    assert!(driver.journal.status().segments_recycled > 10);
    // Of blocks so large that the end of a segment is left free.
    (at..at + 12).for_each(|position| driver.append_durably(STORAGE, run(shard(0), position, 1, 25_000)));
    let released = driver.releasable(STORAGE).pop().expect("three segments and more");
    driver.release(STORAGE, released);
    driver.stop();
    let inspection = Inspection::open(&mut driver.disk, Some(JOURNAL_ID)).expect("it can be read");
    let (mut sealed, mut freed) = (0, 0);
    for summary in inspection.segments() {
        sealed += u32::from(matches!(summary.state, SegmentState::Sealed(_)));
        freed += u32::from(summary.state == SegmentState::Freed);
        let mut check = |finding: Finding<'_>| match finding {
            Finding::Unreadable { .. } | Finding::MalformedEntry | Finding::Footer { is_intact: false, .. } => {
                panic!("{summary:?}: {finding:?}")
            }
            _ => {}
        };
        inspection.visit(&mut driver.disk, summary, &mut check).expect("it can be read");
    }
    assert!(sealed > 1 && freed > 0, "{sealed} sealed, {freed} freed");
}
