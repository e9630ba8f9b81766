//! Damage of what was durable: told from a torn tail, reported, gone past; never silent.

mod model;

use std::collections::BTreeSet;

use model::*;
use proptest::prelude::*;
use sealog_journal::header::BlockKind;
use sealog_journal::{
    BlockVerdict, Damage, DamageKind, Finding, Inspection, Journal, Owner, RecoveryError, SegmentState,
};
use sealog_protocol::batch::Batch;
use sealog_protocol::machine::DurableEntry;

/// A block of three records, one of a cut with two records, one of two records; then perhaps a mark.
fn small_journal(mark: bool) -> Driver {
    let mut driver = Driver::new(config());
    driver.append_durably(STORAGE, run(shard(0), 0, 3, 500));
    driver.append(STORAGE, run(shard(0), 3, 2, 500));
    driver.append(SEQUENCER, metalog(0, 13));
    driver.settle();
    driver.append_durably(STORAGE, run(shard(0), 5, 2, 500));
    if mark {
        driver.idle();
        assert_eq!(driver.journal.status().marks_written, 1);
    }
    driver
}

/// Byte offset of something in the batches of the n-th entry.
fn inside(driver: &Driver, entry: usize, offset: u64) -> (u32, u64) {
    let place = driver.places[entry];
    (place.segment, place.byte_offset() + offset)
}

#[test]
fn a_flipped_payload_bit_costs_that_record_alone() {
    let mut driver = small_journal(true);
    // Entry 1 is in one block with the cut. Its second record's payload:
    let batch_bytes = (driver.appended[1].1.len() / 2) as u64;
    let (segment, offset) = inside(&driver, 1, batch_bytes + 300);
    driver.disk.flip(segment, offset, 3);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("data alone is damaged");
    let expected: Vec<Seen> = driver.appended.iter().map(|(seen, _)| seen.clone()).collect();
    assert_eq!(seen, expected, "what describes the records is whole, the cut too");
    let damages = &journal.report().damages;
    assert!(matches!(damages[..], [Damage { kind: DamageKind::Data, bytes: 4096, .. }]), "{damages:?}");
    assert!(journal.report().is_degraded() && journal.status().damages == 1);
    let batches = driver.disk.bytes(driver.places[1], 2 * batch_bytes as usize);
    assert!(Batch::parse(batches).is_ok(), "its neighbour is served");
    assert!(Batch::parse(&batches[batch_bytes as usize..]).is_err(), "its reader is told");
}

#[test]
fn damaged_metadata_costs_that_batch_alone() {
    let mut driver = small_journal(true);
    let batch_bytes = (driver.appended[0].1.len() / 3) as u64;
    let (segment, offset) = inside(&driver, 0, batch_bytes + 40);
    driver.disk.flip(segment, offset, 3);
    let (_, seen, places) = recover(config(), &mut driver.disk).expect("data alone is damaged");
    let expected = [0, 2].map(|first| format!("batches 1.0 {first} 1 {batch_bytes}"));
    let entries: Vec<String> = seen.iter().take(2).map(|seen| seen.entry.clone()).collect();
    assert_eq!(entries, expected, "the batches around it");
    let second = driver.disk.bytes(places[1].1, batch_bytes as usize);
    assert!(Batch::parse(second).is_ok(), "and where they lie");
}

#[test]
fn the_last_block_is_torn_without_a_mark_and_damaged_with_one() {
    for mark in [false, true] {
        let mut driver = small_journal(mark);
        let (segment, offset) = inside(&driver, 3, 300);
        driver.disk.flip(segment, offset, 0);
        let (journal, seen, _) = recover(config(), &mut driver.disk).expect("the metalog is whole");
        assert_eq!(seen.len(), if mark { 4 } else { 3 });
        assert_eq!(journal.report().torn_tail.is_some(), !mark, "the window that disk.md names");
        assert_eq!(journal.report().damages.len(), usize::from(mark));
    }
}

#[test]
fn stopping_marks_the_last_block() {
    let mut driver = small_journal(false);
    driver.stop();
    let (segment, offset) = inside(&driver, 3, 300);
    driver.disk.flip(segment, offset, 0);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("the metalog is whole");
    assert_eq!((seen.len(), journal.report().damages.len()), (4, 1));
}

#[test]
fn a_block_of_records_that_is_gone_is_reported_and_gone_past() {
    let mut driver = small_journal(true);
    let (segment, offset) = inside(&driver, 0, 0);
    let block = offset / 4096 * 4096;
    driver.disk.flip(segment, block + 60, 0);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("no cut was in it");
    assert_eq!(seen.len(), 3, "the other entries are there");
    let expected = Damage { kind: DamageKind::Blocks, segment, offset: block, bytes: 4096 };
    assert_eq!(journal.report().damages, [expected]);
    // It goes on, and says so again at the next start.
    driver.journal = journal;
    driver.journal.append(driver.now, STORAGE, run(shard(0), 7, 1, 10));
    driver.journal.stop(driver.now);
    driver.settle_unchecked();
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("as before");
    assert_eq!((seen.len(), journal.report().damages.clone()), (4, vec![expected]));
}

#[test]
fn a_lost_cut_is_refused_with_its_place() {
    let mut driver = small_journal(true);
    let (segment, offset) = inside(&driver, 1, 0);
    let block = offset / 4096 * 4096;
    driver.disk.flip(segment, block + 60, 0);
    let error = recover(config(), &mut driver.disk).err();
    assert_eq!(error, Some(RecoveryError::MetalogDamaged { segment, offset: block, lost: 1 }));
    let message = error.expect("it is there").to_string();
    assert!(message.contains(&format!("segment {segment}, offset {block}")), "{message}");
}

/// The last block of a segment is torn, the one behind it is whole: both are cut off. The recovery
/// block takes the first one's place, and what follows goes to the next segment, so the cut-off
/// block stays as it was. Then the recovery block is damaged, the only one in front of it that told
/// of the cut: it must not be taken for the block of that number in the next segment.
#[test]
fn a_damaged_recovery_block_brings_nothing_back() {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().open_segment_bytes_left == 0
        || driver.journal.status().open_segment_bytes_left >= 5 * 4096
    {
        driver.append_durably(STORAGE, run(shard(0), position, 1, 3000));
        position += 1;
    }
    for position in position..position + 2 {
        driver.append(STORAGE, run(shard(0), position, 1, 3000));
        driver.submit();
    }
    let writes = std::mem::take(&mut driver.in_flight);
    let torn = writes[0].offset;
    driver.disk.write(writes[1].segment, writes[1].offset, &writes[1].buffer);
    driver.restart();
    driver.settle();
    driver.append_durably(STORAGE, run(shard(0), position, 1, 15_000));
    assert_eq!((writes[1].segment, driver.places.last().map(|place| place.segment)), (1, Some(2)));
    driver.disk.flip(1, torn + 60, 0);
    // As if it had crashed before the footer was complete.
    driver.disk.write(1, config().segment_bytes - 4096, &[0; 4096]);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("a recovery block holds nothing");
    assert_eq!(journal.report().damages, [Damage { kind: DamageKind::Blocks, segment: 1, offset: torn, bytes: 0 }]);
    let expected: Vec<Seen> = driver.appended.iter().map(|(seen, _)| seen.clone()).collect();
    assert_eq!(seen, expected);
}

/// A recycled file holds blocks of its earlier use, at their old offsets, whole. They must not stand
/// in for damaged ones: the file is about to be overwritten.
#[test]
fn remains_of_an_earlier_use_do_not_cover_damage() {
    let mut driver = small_journal(true);
    let remains = driver.disk.segments[&1].clone();
    driver.disk.segments.insert(2, remains);
    let (segment, offset) = inside(&driver, 0, 0);
    let block = offset / 4096 * 4096;
    driver.disk.flip(segment, block + 60, 0);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("records alone are damaged");
    assert_eq!(seen.len(), 3);
    assert_eq!(journal.report().damages, [Damage { kind: DamageKind::Blocks, segment, offset: block, bytes: 4096 }]);
    assert_eq!(journal.status().segments, 1);
    let inspection = Inspection::open(&mut driver.disk, Some(JOURNAL_ID)).expect("it can be read");
    let recycled = inspection.segments().iter().find(|summary| summary.segment == 2).expect("it is there");
    assert_eq!(recycled.state, SegmentState::Unused);
    let mut verdicts = Vec::new();
    inspection
        .visit(&mut driver.disk, recycled, &mut |finding| {
            if let Finding::Block { verdict, .. } = finding {
                verdicts.push(verdict);
            }
        })
        .expect("it can be read");
    assert_eq!(verdicts, [BlockVerdict::Stale; 5]);
}

/// Each use of a segment has its own number, across restarts too; each life begins with a block that
/// names itself as its first.
#[test]
fn uses_and_incarnations_are_numbered() {
    let mut driver = Driver::new(config());
    for position in 0..30 {
        driver.append_durably(STORAGE, run(shard(0), position * 4, 4, 3000));
        driver.restart();
    }
    driver.settle();
    let inspection = Inspection::open(&mut driver.disk, None).expect("it can be read");
    let (mut uses, mut firsts) = (Vec::new(), Vec::new());
    for summary in inspection.segments() {
        match summary.state {
            SegmentState::Sealed(trailer) => uses.push(trailer.use_number),
            SegmentState::Unsealed { use_number } => uses.push(use_number),
            SegmentState::Freed | SegmentState::Unused => {}
        }
        let note = &mut |finding: Finding<'_>| match finding {
            Finding::Block { header, .. } if header.kind == BlockKind::Recovery => {
                assert_eq!(header.number, header.incarnation_first);
                firsts.push(header.incarnation);
            }
            _ => {}
        };
        inspection.visit(&mut driver.disk, summary, note).expect("it can be read");
    }
    assert!(uses.len() >= 2);
    assert_eq!(uses, (1..=uses.len() as u32).collect::<Vec<_>>());
    assert_eq!(firsts, (1..=31).collect::<Vec<_>>());
}

/// Fills two segments and opens a third.
fn three_segments(kind: fn(u64) -> DurableEntry) -> Driver {
    let mut driver = Driver::new(config());
    let mut position = 0;
    while driver.journal.status().segments < 3 {
        driver.append_durably(STORAGE, run(shard(0), position, 4, 900));
        driver.append_durably(SEQUENCER, kind(position));
        position += 4;
    }
    driver.stop();
    driver
}

#[test]
fn a_damaged_footer_costs_nothing_and_is_written_again() {
    let mut driver = three_segments(|from| metalog(from, 13));
    let trailer = Inspection::open(&mut driver.disk, None).expect("it can be read").segments()[0];
    let SegmentState::Sealed(trailer) = trailer.state else { panic!("the first segment is sealed") };
    driver.disk.flip(trailer.segment, trailer.footer_offset + u64::from(trailer.tags_bytes) + 100, 5);
    let expected: Vec<Seen> = driver.appended.iter().map(|(seen, _)| seen.clone()).collect();
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("blocks tell the same");
    assert_eq!(seen, expected);
    assert!(matches!(journal.report().damages[..], [Damage { kind: DamageKind::Footer, .. }]));
    driver.journal = journal;
    driver.settle();
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("whole");
    assert_eq!((seen, journal.report().damages.len()), (expected, 0));
}

#[test]
fn a_missing_segment_is_refused_if_cuts_were_in_it_and_reported_if_not() {
    let mut driver = three_segments(|from| metalog(from, 13));
    let first = driver.places[0].segment;
    driver.disk.segments.remove(&first);
    let error = recover(config(), &mut driver.disk).err().expect("cuts are gone");
    assert!(matches!(error, RecoveryError::MetalogDamaged { lost: 2.., .. }), "{error}");

    let mut driver = three_segments(|commit| DurableEntry::Commit { view: VIEW, commit });
    driver.disk.segments.remove(&first);
    let (journal, seen, _) = recover(config(), &mut driver.disk).expect("records alone are gone");
    assert!(seen.len() < driver.durable);
    assert_eq!(journal.report().damages.len(), 1);
}

#[test]
fn another_version_and_another_journal_are_refused() {
    let mut driver = small_journal(true);
    let segment = driver.places[0].segment;
    let other = sealog_journal::JournalConfig { journal_id: 5, ..config() };
    let error = recover(other, &mut driver.disk).err();
    assert_eq!(error, Some(RecoveryError::ForeignJournal { segment, found: JOURNAL_ID, expected: 5 }));
    let page = driver.disk.segments.get_mut(&segment).expect("it was written");
    page[4] = 9;
    let check = crc32fast::hash(&page[..16]);
    page[16..20].copy_from_slice(&check.to_le_bytes());
    let error = recover(config(), &mut driver.disk).err().expect("not ours to read");
    assert_eq!(error, RecoveryError::Version { segment, offset: 0, found: 9 });
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn inspection_shows_every_block_with_its_verdict() {
    let mut driver = small_journal(true);
    driver.append(STORAGE, run(shard(0), 7, 1, 5000));
    driver.submit();
    let write = driver.in_flight.pop().expect("one block");
    let sectors = write.buffer.len() / SECTOR;
    (0..sectors).filter(|sector| *sector != 3).for_each(|sector| driver.disk.write_sector(&write, sector));
    let (segment, offset) = inside(&driver, 0, 300);
    driver.disk.flip(segment, offset, 0);
    let inspection = Inspection::open(&mut driver.disk, None).expect("it can be read");
    assert_eq!((inspection.journal_id(), inspection.incarnation()), (JOURNAL_ID, 1));
    let (mut verdicts, mut entries) = (Vec::new(), 0);
    let summary = inspection.segments()[0];
    inspection
        .visit(&mut driver.disk, &summary, &mut |finding| match finding {
            Finding::Block { verdict, .. } => verdicts.push(verdict),
            Finding::Entry { .. } => entries += 1,
            other => panic!("{other:?}"),
        })
        .expect("it can be read");
    use BlockVerdict::*;
    // The torn block's header vouches for all before it.
    assert_eq!(verdicts, [Durable, DamagedData, Durable, Durable, Durable, Torn]);
    assert_eq!(entries, 5);
}

/// Entries of all kinds, in blocks of some.
fn random_journal(random: &mut Random, entries: u64) -> Driver {
    let mut driver = Driver::new(config());
    for index in 0..entries {
        match random.below(6) {
            0 => driver.append(SEQUENCER, metalog(index, 1 + random.below(50) as usize)),
            1 => driver.append(SEQUENCER, DurableEntry::Commit { view: VIEW, commit: index }),
            2 => driver.append(STORAGE, DurableEntry::StorageSeal { view: VIEW }),
            _ => {
                driver.append(STORAGE, run(shard(0), index * 8, 1 + random.below(6), random.below(2000) as usize));
            }
        }
        if random.below(3) > 0 {
            driver.settle();
        }
    }
    driver.settle();
    driver
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Pages lost, garbled, or written to the wrong place: whatever is handed on was appended, in
    /// that order; no cut is lost in silence; and what is appended afterwards is safe.
    #[test]
    fn no_ruin_makes_anything_up(seed: u64, entries in 20..120u64, ruins in 1..6u64) {
        let mut random = Random(seed);
        let mut driver = random_journal(&mut random, entries);
        driver.idle();
        let segments = driver.journal.status().segments;
        for _ in 0..ruins {
            let segment = 1 + random.below(segments) as u32;
            let pages = config().segment_bytes / 4096;
            let (to, from) = (random.below(pages) as usize * 4096, random.below(pages) as usize * 4096);
            let other = driver.disk.segments[&(1 + random.below(segments) as u32)][from..from + 4096].to_vec();
            let page = &mut driver.disk.segments.get_mut(&segment).expect("it was written")[to..to + 4096];
            match random.below(3) {
                0 => page.fill(0),
                1 => page.copy_from_slice(&other),
                _ => page.iter_mut().for_each(|byte| *byte = random.next() as u8),
            }
        }
        let Ok((journal, seen, _)) = recover(config(), &mut driver.disk) else { return Ok(()) };
        let mut expected = driver.appended.iter().map(|(seen, _)| seen);
        for found in &seen {
            // A run of which some batches are gone comes in parts: its parts are not compared.
            let is_part = found.entry.starts_with("batches") && !driver.appended.iter().any(|(seen, _)| seen == found);
            prop_assert!(is_part || expected.any(|expected| expected == found), "{} was not appended", found.entry);
        }
        driver.journal = journal;
        let more = [metalog(1000, 10), run(shard(1), 0, 3, 100), metalog(1001, 10)];
        let more: Vec<Seen> = more
            .into_iter()
            .map(|entry| {
                let seen = Seen::appended(SEQUENCER, &entry);
                driver.journal.append(driver.now, SEQUENCER, entry);
                seen
            })
            .collect();
        driver.journal.stop(driver.now);
        driver.settle_unchecked();
        let (_, again, _) = recover(config(), &mut driver.disk).expect("it could be opened before");
        prop_assert_eq!(&again[..seen.len()], &seen[..]);
        prop_assert_eq!(&again[seen.len()..], &more[..]);
    }

    /// One flipped bit anywhere: nothing is lost without a word, and nothing is made up.
    #[test]
    fn no_flipped_bit_loses_anything_in_silence(seed: u64, where_to: u64, entries in 1..120u64) {
        let mut random = Random(seed);
        let mut driver = random_journal(&mut random, entries);
        driver.idle();
        let status = driver.journal.status();
        let used = status.segments as u32;
        let segment = 1 + (where_to % u64::from(used)) as u32;
        let bytes = driver.disk.segments[&segment].len() as u64;
        driver.disk.flip(segment, (where_to / 8) % bytes, (where_to % 8) as u8);
        match recover(config(), &mut driver.disk) {
            Err(RecoveryError::MetalogDamaged { .. }) => {}
            Err(other) => panic!("{other}"),
            Ok((journal, seen, _)) => {
                let expected: Vec<Seen> = driver.appended[..driver.durable].iter().map(|(seen, _)| seen.clone()).collect();
                if journal.report().damages.is_empty() {
                    // The mark may be what was hit, and commit indices that rode on it.
                    let rest = expected.strip_prefix(&seen[..]).expect("nothing is lost in the middle");
                    let is_commit = |seen: &Seen| seen.entry.starts_with("commit");
                    prop_assert!(rest.iter().all(is_commit), "{} of {} are back", seen.len(), expected.len());
                } else {
                    let vital = |seen: &&Seen| !seen.entry.starts_with("batches") && !seen.entry.starts_with("commit");
                    let kept: Vec<&Seen> = seen.iter().filter(vital).collect();
                    let promised: Vec<&Seen> = expected.iter().filter(vital).collect();
                    prop_assert_eq!(kept, promised, "metalog entries and seals are all there");
                }
            }
        }
    }
}

/// Who is told of damage that recovery found, and of which segment.
fn told(journal: &mut Journal) -> BTreeSet<(Owner, u32)> {
    let all = std::iter::from_fn(|| journal.next_rotten()).inspect(|rotten| assert!(rotten.is_missing));
    all.map(|rotten| (rotten.owner, rotten.damage.segment)).collect()
}

/// All who hold a damaged segment give it back, and something else is written.
fn give_back(driver: &mut Driver, journal: Journal, segment: u32, holders: &[Owner]) {
    driver.journal = journal;
    driver.journal.append(driver.now, STORAGE, run(shard(9), 0, 1, 10));
    driver.settle_unchecked();
    for owner in holders {
        assert!(driver.journal.status().damages > 0, "somebody still looks for what is missing");
        driver.release(*owner, segment);
    }
    driver.settle_unchecked();
    assert_eq!(driver.journal.status().damages, 0);
    driver.journal.stop(driver.now);
    driver.settle_unchecked();
    let (journal, ..) = recover(config(), &mut driver.disk).expect("nothing is missing");
    assert_eq!(journal.report().damages, [], "damage goes with its segment");
}

#[test]
fn damage_is_told_and_goes_with_its_segment() {
    let mut driver = small_journal(true);
    let (segment, offset) = inside(&driver, 0, 0);
    driver.disk.flip(segment, offset / 4096 * 4096 + 60, 0);
    let (mut journal, ..) = recover(config(), &mut driver.disk).expect("no cut was in it");
    let holders = [STORAGE, SEQUENCER];
    assert_eq!(told(&mut journal), holders.map(|owner| (owner, segment)).into(), "nobody knows whose they were");
    assert_ne!(journal.status().open_segment, Some(segment), "no more goes into it");
    give_back(&mut driver, journal, segment, &holders);
}

/// A whole file is gone: the segment before it stands for it.
#[test]
fn blocks_that_went_with_their_file_are_missed_until_the_segment_before_is_given_back() {
    for lost in [2, 3] {
        let mut driver = Driver::new(config());
        let mut first = 0;
        while driver.journal.status().footers_written < 4 {
            driver.append_durably(STORAGE, run(shard(0), first, 2, 3000));
            first += 2;
        }
        driver.stop();
        driver.disk.segments.remove(&lost).expect("it is there");
        let (mut journal, ..) = recover(config(), &mut driver.disk).expect("no cut was in it");
        assert_eq!(told(&mut journal), [(STORAGE, lost - 1)].into());
        assert_eq!(journal.report().damages.len(), 1);
        give_back(&mut driver, journal, lost - 1, &[STORAGE]);
    }
}
