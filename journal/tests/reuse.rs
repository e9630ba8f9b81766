//! Segments that nobody needs are used again, and no crash makes one that is needed go, or one that is
//! gone a damage.

mod model;

use model::*;
use sealog_journal::JournalConfig;
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
