//! The scrub: whatever is damaged in a sealed segment is found, what is whole is not, at its pace, with
//! segments given back under it.

mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use model::*;
use sealog_journal::{
    BlockVerdict, Damage, DamageKind, Finding, Inspection, JournalConfig, Rotten, ScrubConfig, SegmentState,
};

const RATE: u64 = 1 << 20;
const INTERVAL: Duration = Duration::from_secs(100);

fn scrubbed() -> JournalConfig {
    JournalConfig { scrub: ScrubConfig { bytes_per_s: RATE, interval: INTERVAL }, ..config() }
}

/// A journal of some sealed segments, with blocks of one page and of several.
fn sealed_journal(config: JournalConfig, segments: u64) -> Driver {
    let mut driver = Driver::new(config);
    let (mut first, mut cuts) = (0, 0);
    while driver.journal.status().footers_written < segments {
        let records = 1 + first % 4;
        driver.append(STORAGE, run(shard(first % 3), first * 10, records, 300 + (first as usize % 5) * 2000));
        if first % 3 == 0 {
            driver.append(SEQUENCER, metalog(cuts, 20));
            cuts += 1;
        }
        driver.settle();
        first += 1;
    }
    driver
}

/// Answers the scrub's next read, when it is due.
fn step(driver: &mut Driver) -> bool {
    let deadline = driver.journal.scrub_deadline().expect("it is switched on, and nothing is under way");
    driver.now = driver.now.max(deadline);
    let Some(read) = driver.journal.next_scrub(driver.now) else { return false };
    assert!(read.offset.is_multiple_of(4096) && read.bytes.is_multiple_of(4096) && read.bytes > 0);
    assert_eq!((driver.journal.next_scrub(driver.now), driver.journal.scrub_deadline()), (None, None), "one at a time");
    let file = driver.disk.segments.get(&read.segment);
    let content = file.map(|file| file[read.offset as usize..][..read.bytes].to_vec());
    driver.journal.scrub_done(driver.now, read, content.as_deref());
    true
}

/// One pass, from its beginning: what it found that was not known.
fn pass(driver: &mut Driver) -> Vec<Damage> {
    while step(driver) {}
    std::iter::from_fn(|| driver.journal.next_finding()).collect()
}

/// Everything of a sealed segment that `sealog inspect verify` looks at: its blocks, its footer.
fn parts(driver: &mut Driver, segment: u32) -> Vec<(DamageKind, std::ops::Range<u64>)> {
    let inspection = Inspection::open(&mut driver.disk, Some(JOURNAL_ID)).expect("it can be read");
    let summary = *inspection.segments().iter().find(|summary| summary.segment == segment).expect("it is there");
    let SegmentState::Sealed(trailer) = summary.state else { panic!("it is sealed") };
    let mut parts = Vec::new();
    let mut visit = |finding: Finding<'_>| {
        if let Finding::Block { header, verdict } = finding {
            assert!(matches!(verdict, BlockVerdict::Durable), "{verdict:?}");
            let (data, used) = (header.offset() + 96, header.data_bytes + header.directory_bytes);
            parts.push((DamageKind::Data, data..data + u64::from(header.data_bytes)));
            parts.push((DamageKind::Blocks, header.offset()..data));
            let directory = data + u64::from(header.data_bytes);
            parts.push((DamageKind::Blocks, directory..header.offset() + 96 + u64::from(used)));
        }
    };
    inspection.visit(&mut driver.disk, &summary, &mut visit).expect("it can be read");
    let footer = u64::from(trailer.tags_bytes + trailer.entries_bytes + trailer.chunks_bytes);
    parts.push((DamageKind::Footer, trailer.footer_offset..trailer.footer_offset + footer));
    parts.push((DamageKind::Footer, summary.bytes - 4096..summary.bytes - 4096 + 112));
    parts.retain(|(_, range)| !range.is_empty());
    parts
}

#[test]
fn a_whole_journal_has_no_findings_and_is_read_at_its_rate_and_again_after_a_while() {
    let mut driver = sealed_journal(scrubbed(), 3);
    let began = driver.now;
    assert_eq!(pass(&mut driver), []);
    let status = driver.journal.status().scrub;
    assert!(status.bytes > 2 * config().segment_bytes, "all that holds something was read: {status:?}");
    let took = (driver.now - began).as_secs_f64();
    let expected = status.bytes as f64 / RATE as f64;
    assert!((expected * 0.7..=expected * 1.01).contains(&took), "{took} s for {} bytes", status.bytes);
    assert_eq!((status.passes, status.last_pass, status.last_pass_bytes), (1, Some(driver.now), status.bytes));
    assert_eq!((status.findings, status.segment), (0, None));
    // The next one begins when the interval is over, and not before.
    let next = driver.journal.scrub_deadline().expect("there is a next pass");
    assert_eq!(next, began + INTERVAL);
    assert_eq!(driver.journal.next_scrub(began + INTERVAL / 2), None);
    assert_eq!(pass(&mut driver), []);
    assert_eq!(driver.journal.status().scrub.passes, 2);
    // Stopping, it reads no more.
    driver.stop();
    driver.now = driver.now + INTERVAL;
    assert_eq!((driver.journal.scrub_deadline(), driver.journal.next_scrub(driver.now)), (None, None));
}

#[test]
fn it_is_off_unless_it_is_switched_on() {
    let mut driver = sealed_journal(config(), 1);
    assert_eq!((driver.journal.scrub_deadline(), driver.journal.next_scrub(driver.now)), (None, None));
}

/// A bit in every part of every block and of the footer, one after the other.
#[test]
fn a_flipped_bit_anywhere_is_found_with_its_place_once_and_told_to_those_who_hold_it() {
    let mut driver = sealed_journal(scrubbed(), 2);
    let parts = parts(&mut driver, 1);
    assert!(parts.len() > 30);
    let mut seen = BTreeSet::new();
    for (kind, range) in parts {
        let offset = range.start + driver.random.below(range.end - range.start);
        let bit = driver.random.below(8) as u8;
        driver.disk.flip(1, offset, bit);
        let found = pass(&mut driver);
        let [damage] = found[..] else { panic!("a bit of {kind:?} at {offset}: {found:?}") };
        assert_eq!((damage.kind, damage.segment), (kind, 1), "a bit at {offset}: {damage:?}");
        assert!((damage.offset..damage.offset + damage.bytes).contains(&offset), "{offset} is not in {damage:?}");
        assert_eq!(driver.journal.findings(), [damage]);
        let told: Vec<Rotten> = std::iter::from_fn(|| driver.journal.next_rotten()).collect();
        assert_eq!(told, [STORAGE, SEQUENCER].map(|owner| Rotten { owner, damage, is_missing: false }));
        // The next pass finds it again: that is no news, but machines are told again.
        assert_eq!(pass(&mut driver), []);
        assert_eq!(driver.journal.status().scrub.findings, 1);
        assert_eq!(std::iter::from_fn(|| driver.journal.next_rotten()).count(), 2);
        // What is whole again is no damage any more.
        driver.disk.flip(1, offset, bit);
        assert_eq!((pass(&mut driver), driver.journal.findings()), (vec![], vec![]));
        seen.insert(format!("{kind:?}"));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn pages_that_are_zeros_or_unreadable_are_lost_blocks() {
    let mut driver = sealed_journal(scrubbed(), 1);
    let blocks = parts(&mut driver, 1);
    let headers: Vec<u64> = blocks
        .iter()
        .filter(|(kind, range)| *kind == DamageKind::Blocks && range.end - range.start == 96)
        .map(|(_, range)| range.start)
        .collect();
    let whole = driver.disk.clone();
    // The first, one in the middle, two together, the last.
    for lost in [0..1, 3..4, 5..7, headers.len() - 1..headers.len()] {
        for block in lost.clone() {
            driver.disk.write(1, headers[block], &[0; 4096]);
        }
        let found = pass(&mut driver);
        let [damage] = found[..] else { panic!("blocks {lost:?}: {found:?}") };
        assert_eq!((damage.kind, damage.offset), (DamageKind::Blocks, headers[lost.start]));
        if let Some(next) = headers.get(lost.end) {
            assert_eq!(damage.offset + damage.bytes, *next, "up to the next whole block");
        }
        driver.disk.segments = whole.segments.clone();
        assert_eq!(pass(&mut driver), []);
    }
    // The disk reads nothing of the file.
    driver.disk.segments.remove(&1);
    let kinds: Vec<DamageKind> = pass(&mut driver).iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [DamageKind::Blocks, DamageKind::Footer]);
}

/// Findings end with their segment, and a segment that is given back while it is read is left alone.
#[test]
fn segments_that_are_given_back_are_left_alone_and_their_damage_is_forgotten() {
    let mut driver = sealed_journal(scrubbed(), 4);
    driver.disk.flip(2, 4096 + 200, 1);
    assert_eq!(pass(&mut driver).len(), 1);
    for owner in [STORAGE, SEQUENCER] {
        driver.release(owner, 2);
    }
    assert_eq!((driver.journal.findings(), driver.journal.status().scrub.findings), (vec![], 0));
    driver.settle();
    // In the middle of the next one, what it reads is given back, used again and written over.
    driver.now = driver.journal.scrub_deadline().expect("a pass");
    let read = driver.journal.next_scrub(driver.now).expect("the first segment");
    assert_eq!((read.segment, read.offset), (1, 0));
    for owner in [STORAGE, SEQUENCER] {
        driver.release(owner, 1);
    }
    driver.journal.scrub_done(driver.now, read, Some(&vec![7; read.bytes]));
    for position in 0..200 {
        driver.append(STORAGE, run(shard(9), position, 1, 5000));
        driver.settle();
    }
    assert_eq!(pass(&mut driver), []);
    assert!(driver.journal.status().segments_recycled > 0);
}

/// Whatever is appended, given back, used again, and however it ends: a whole journal has no findings.
#[test]
fn no_history_of_a_journal_makes_findings() {
    for seed in 0..40 {
        let mut driver = Driver::new(JournalConfig { segment_bytes: 64 << 10, ..scrubbed() });
        driver.random = Random(seed + 1);
        for position in 0..300 {
            match driver.random.below(40) {
                0 => {
                    driver.lose_power();
                    driver.restart();
                }
                1..=4 => {
                    let owner = if driver.random.below(2) == 0 { STORAGE } else { SEQUENCER };
                    if let Some(segment) = driver.releasable(owner).first().copied() {
                        driver.release(owner, segment);
                    }
                }
                5..=14 => {
                    step(&mut driver);
                }
                15..=18 => driver.append(SEQUENCER, metalog(position, 30)),
                kind => {
                    let bytes = driver.random.below(9000) as usize;
                    driver.append(STORAGE, run(shard(kind % 3), position, 1, bytes));
                }
            }
            match driver.random.below(3) {
                0 => driver.settle(),
                _ => driver.submit(),
            }
            assert_eq!(driver.journal.next_finding(), None, "seed {seed}");
        }
        driver.settle();
        assert_eq!(pass(&mut driver), [], "seed {seed}");
    }
}
