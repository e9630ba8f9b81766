//! What a storage reads, what it gives back, and that nothing that counts goes with it.

mod world;

use bytes::Bytes;
use sealog_protocol::machine::{Address, Input, Machine, Outputs};
use sealog_protocol::message::Message;
use sealog_protocol::{NodeId, Place, ShardId, ViewNumber};
use world::*;

/// A segment of 100 records, of which these are dead; a checkpoint covers all.
fn trimmed(dead: impl IntoIterator<Item = u64>) -> World {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(dead);
    let records = world.dead.as_ref().expect("said above").len() as u64;
    world.commit(50);
    world.dying(0, 100, records);
    world
}

#[test]
fn a_fetch_reads_from_a_mark_and_answers_with_what_follows() {
    let mut world = World::new();
    world.write(0, 200, 1000);
    assert_eq!(world.fetch(0), Ok(1), "no more is wanted");
    assert_eq!(world.fetch_until(14, 50), Ok(36), "as many as are wanted");
    assert_eq!(world.fetch_until(195, 300), Ok(5), "no further than the run");
    world.write(200, 200, 1000);
    let most = world.fetch_until(200, 400).expect("it is there");
    assert!((200..240).contains(&most), "what one read gets: {most}");
    assert_eq!(world.fetch(400), Err(Message::FetchNotHere { request: 7 }));
    world.holding = true;
    world.write(400, 2, 1000);
    assert_eq!(world.fetch(401), Ok(1), "from memory");
}

#[test]
fn what_recovery_found_is_read_by_its_begin_until_it_is_known_better() {
    let mut world = World::new();
    world.write(0, 900, 1000);
    world.write(900, 2, 700_000);
    world.restart();
    world.reads = 0;
    assert!(world.fetch(899).is_ok());
    assert!(world.reads > 3, "a window at a time: {}", world.reads);
    for position in [0, 100, 450, 900, 901] {
        assert!(world.fetch(position).is_ok(), "record {position}");
    }
    world.reads = 0;
    assert!(world.fetch(100).is_ok());
    assert_eq!(world.reads, 1);
}

#[test]
fn damage_is_told_from_what_is_not_there() {
    let mut world = World::new();
    world.write(0, 3, 1000);
    let segment = world.journal.bytes.get_mut(&0).expect("written");
    segment[64 + 500] ^= 1;
    assert_eq!(world.fetch(0), Err(Message::FetchCorrupt { request: 7 }));
    assert_eq!(world.fetch_until(1, 3), Ok(2));
    assert_eq!(world.storage.status().corrupt_reads, 1);
}

#[test]
fn a_segment_without_living_records_is_given_back_once_a_checkpoint_is_committed() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(0..100);
    world.dying(0, 100, 100);
    assert!(world.released.is_empty(), "an index may have to be built from it");
    world.commit(50);
    assert_eq!(world.released, [0]);
    assert_eq!(world.fetch(99), Err(Message::FetchNotHere { request: 7 }));
    assert_eq!(world.fetch(100), Ok(1));
    let status = world.storage.status();
    assert_eq!((status.segments, status.segments_examined, status.segments_released), (1, 1, 1));
    assert_eq!(status.bytes_rewritten, 0);
    assert_eq!(world.storage.shards().next(), Some((SHARD, 101, 101)), "the durable prefix stays");
}

fn sparse_segments_are_rewritten() {
    let living = [0, 17, 18, 99];
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead((0..100).filter(|position| !living.contains(position)));
    world.commit(50);
    world.holding = true;
    world.dying(0, 100, 96);
    assert!(world.released.is_empty(), "the copies are not durable");
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [0]);
    for _ in 0..2 {
        for position in living {
            assert!(world.fetch(position).is_ok(), "record {position} lives");
        }
        assert!(world.fetch(50).is_err());
        world.restart();
    }
}

#[test]
fn a_sparse_segment_is_given_back_when_what_lives_in_it_is_durable_elsewhere() {
    sparse_segments_are_rewritten();
}

/// Segment 0 is half dead, and what lives in it is being copied: the first copy is held back.
fn half_copied() -> World {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.write(101, 100, 1000);
    world.roll();
    world.is_dead((0..100).step_by(2));
    world.commit(50);
    world.holding = true;
    world.dying(0, 100, 50);
    assert!(world.released.is_empty());
    world
}

#[test]
fn copying_waits_where_space_is_to_be_had_for_nothing() {
    let mut world = half_copied();
    world.is_dead(100..201);
    world.dying(100, 201, 101);
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [1, 0], "the dead one first");
    for position in (1..100).step_by(2) {
        assert!(world.fetch(position).is_ok(), "record {position} lives");
    }
}

#[test]
fn what_died_while_it_was_to_be_copied_is_not_copied() {
    let mut world = half_copied();
    let before = world.storage.status().bytes_rewritten;
    world.is_dead(0..100);
    world.dying(0, 100, 50);
    world.holding = false;
    world.run(Outputs::default());
    assert_eq!(world.released, [0]);
    assert_eq!(world.storage.status().bytes_rewritten, before, "one copy was under way, and no other was made");
}

#[test]
fn a_segment_in_which_much_lives_stays_until_there_is_news() {
    let mut world = trimmed(0..40);
    assert_eq!(world.storage.status().segments_examined, 0, "less than half are said to be dying");
    world.dying(40, 100, 20);
    assert_eq!((world.storage.status().segments_examined, world.released.len()), (1, 0));
    world.commit(51);
    assert_eq!((world.storage.status().segments_examined, world.released.len()), (2, 0));
    world.is_dead(0..100);
    world.commit(52);
    assert_eq!(world.released, [0]);
}

#[test]
fn the_last_batch_of_an_open_view_lives_and_goes_when_the_view_has_ended() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.roll();
    // Two records beyond: in segments 1 and 2; all are dead.
    world.is_dead(0..102);
    world.commit(50);
    world.restart();
    world.say(ENGINE, Message::Seal { view: ViewNumber(1) });
    world.commit(50);
    assert!(world.released.contains(&0) && world.released.contains(&1));
    assert!(world.journal.holds_batch(101), "it says where the prefix ends");
    world.restart();
    assert_eq!(world.storage.shards().next(), Some((SHARD, 102, 102)));

    world.input(Input::Chain(&chain(2)));
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 102 });
    world.say(ENGINE, Message::ReplicateOpen { shard: ShardId { view: ViewNumber(2), index: 0 } });
    let batches = run(ShardId { view: ViewNumber(2), index: 0 }, 0, 1, 8);
    let shard = ShardId { view: ViewNumber(2), index: 0 };
    world.say(ENGINE, Message::Replicate { shard, first: 0, batches });
    world.commit(51);
    assert!(!world.journal.holds_batch(101));
}

/// An engine that had not read of the view's end opened the stream of a shard that was forgotten, and was
/// told that it stood at the beginning: a durable prefix fell.
#[test]
fn a_shard_of_an_ended_view_is_not_begun_anew_for_an_engine_that_is_behind() {
    let mut world = World::new();
    world.write(0, 3, 8);
    world.input(Input::Chain(&chain(2)));
    for shard in [SHARD, ShardId { view: ViewNumber(1), index: 9 }] {
        let before: Vec<_> = world.storage.shards().collect();
        world.sent.clear();
        world.say(ENGINE, Message::ReplicateOpen { shard });
        world.say(ENGINE, Message::Replicate { shard, first: 3, batches: run(shard, 3, 1, 8) });
        assert!(world.sent.iter().all(|(_, message)| *message == Message::ReplicateRefused { shard }), "{shard}");
        assert_eq!(world.storage.shards().collect::<Vec<_>>(), before);
    }
}

fn seals_outlive_their_segment() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    world.restart();
    world.input(Input::Chain(&chain(2)));
    let shard = ShardId { view: ViewNumber(2), index: 0 };
    world.say(ENGINE, Message::ReplicateOpen { shard });
    world.say(ENGINE, Message::Replicate { shard, first: 0, batches: run(shard, 0, 1, 8) });
    world.is_dead(0..100);
    world.commit(50);
    assert_eq!(world.released, [0]);
    world.restart();
    assert_eq!(world.storage.sealed(), ViewNumber(1));
}

#[test]
fn the_newest_seal_is_appended_again_before_its_segment_goes() {
    seals_outlive_their_segment();
}

fn checkpoints_stay_until_a_newer_one_is_committed() {
    let mut world = World::new();
    assert_eq!(world.part(place(5), 0, false), Some(1));
    assert_eq!(world.part(place(5), 0, false), Some(1), "a repeat is counted once");
    assert_eq!(world.part(place(5), 2, true), Some(1), "one is missing before it");
    assert_eq!(world.part(place(5), 1, true), Some(2));
    assert_eq!(world.storage.status().checkpoint, Some(place(5)));
    assert_eq!(world.part(place(9), 0, true), Some(1));
    for _ in 0..2 {
        let Message::CheckpointPart { part: 1, last: true, bytes, .. } = world.open_part(place(5), 1) else {
            panic!("the newer one is not committed")
        };
        assert_eq!(&bytes[..], b"part 1 of 1:5");
        assert!(matches!(world.open_part(place(9), 0), Message::CheckpointPart { last: true, .. }));
        world.restart();
    }
    world.commit(9);
    assert_eq!(world.open_part(place(5), 1), Message::CheckpointNotHere { place: place(5), part: 1 });
    assert!(matches!(world.open_part(place(9), 0), Message::CheckpointPart { .. }));
    assert_eq!(world.part(place(5), 0, false), Some(0), "it counts no more");
}

#[test]
fn a_checkpoint_is_dropped_when_a_newer_one_is_committed_and_not_before() {
    checkpoints_stay_until_a_newer_one_is_committed();
}

#[test]
fn an_unfinished_checkpoint_is_begun_again_by_its_next_writer_and_forgotten_by_a_restart() {
    let mut world = World::new();
    assert_eq!(world.part(place(5), 0, false), Some(1));
    let other = Address { node: NodeId(2), ..ENGINE };
    let bytes = Bytes::from_static(b"another's");
    world.sent.clear();
    world.say(other, Message::CheckpointPart { place: place(5), part: 1, last: true, bytes: bytes.clone() });
    assert_eq!(world.sent.pop(), Some((other, Message::CheckpointStored { place: place(5), parts: 0 })));
    world.say(other, Message::CheckpointPart { place: place(5), part: 0, last: true, bytes: bytes.clone() });
    assert_eq!(world.open_part(place(5), 0), Message::CheckpointPart { place: place(5), part: 0, last: true, bytes });

    assert_eq!(world.part(place(7), 0, false), Some(1));
    world.restart();
    assert_eq!(world.part(place(7), 1, true), Some(0));
    assert_eq!(world.storage.status().checkpoint, Some(place(5)));
}

#[test]
fn parts_of_a_checkpoint_keep_their_segment_until_it_is_superseded() {
    let mut world = World::new();
    world.part(place(5), 0, true);
    world.roll();
    world.roll();
    world.commit(5);
    assert!(world.released.is_empty());
    world.part(place(9), 0, true);
    world.is_dead([0, 1]);
    world.dying(0, 2, 2);
    world.commit(9);
    world.released.sort_unstable();
    assert_eq!(world.released, [0, 1]);
}

#[test]
fn a_vacated_segment_is_copied_whole_when_nobody_says_what_is_dead() {
    let mut world = World::new();
    world.write(0, 300, 1000);
    world.part(place(5), 0, true);
    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
    world.input(Input::Disconnected { node: NODE });
    world.journal.open += 1;
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0]);
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0, 0], "nothing of it is here");
    for _ in 0..2 {
        for position in [0, 150, 299] {
            assert!(world.fetch(position).is_ok());
        }
        assert!(matches!(world.open_part(place(5), 0), Message::CheckpointPart { .. }));
        assert_eq!(world.storage.sealed(), ViewNumber(1));
        world.restart();
    }
}

#[test]
fn a_vacated_segment_is_rid_of_its_dead_first() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.is_dead(0..10);
    world.input(Input::Vacate { segment: 0 });
    assert_eq!(world.released, [0]);
    assert!(world.fetch(9).is_err());
    assert!(world.fetch(10).is_ok() && world.fetch(99).is_ok());
}

#[test]
fn an_engine_that_does_not_answer_is_asked_again_and_one_that_went_is_not_waited_for() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.commit(50);
    world.dead = None;
    world.dying(0, 100, 100);
    let asked =
        |world: &World| world.sent.iter().filter(|(_, message)| matches!(message, Message::Judge { .. })).count();
    assert_eq!(asked(&world), 1);
    world.now = world.storage.deadline().expect("it waits");
    world.input(Input::Tick);
    assert_eq!(asked(&world), 2);
    world.input(Input::Disconnected { node: NODE });
    assert_eq!(world.storage.deadline(), None);
    world.is_dead(0..100);
    world.say(ENGINE, Message::ReplicateOpen { shard: SHARD });
    assert_eq!(world.released, [0]);
}

#[test]
fn rewriting_keeps_its_rate() {
    let mut world = trimmed([]);
    world.is_dead((0..100).filter(|position| position % 4 != 0));
    let before = world.now;
    world.dying(0, 100, 75);
    assert_eq!(world.released, [0]);
    let rewritten = world.storage.status().bytes_rewritten;
    assert!(rewritten > 25 * 1000);
    let took = world.now.since(before).as_secs_f64();
    let rate = rewritten as f64 / took;
    assert!(rate <= (64 << 20) as f64 * 1.1, "{rate} bytes a second");
}

#[test]
fn after_a_start_every_segment_is_looked_at_once() {
    let mut world = World::new();
    world.write(0, 10, 1000);
    for _ in 0..3 {
        world.roll();
    }
    world.is_dead(0..10);
    world.restart();
    world.commit(50);
    let first = world.storage.shards().next().map_or(0, |(_, received, _)| received);
    world.write(first, 1, 8);
    assert_eq!(world.released, [0]);
    assert_eq!(world.storage.status().segments_examined, 4);
}

#[test]
fn tags_of_what_is_gone_are_told_with_the_checkpoint_that_covers_them() {
    let mut world = trimmed(0..100);
    world.sent.clear();
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 3 });
    let gone = |world: &mut World| match world.sent.pop() {
        Some((ENGINE, Message::TagsGone { shard: SHARD, first: 100, checkpoint })) => checkpoint,
        other => panic!("{other:?}"),
    };
    assert!(gone(&mut world) > Place::default());
    world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 100 });
    assert!(matches!(world.sent.pop(), Some((_, Message::TagsEntries { first: 100, more: true, .. }))));
}

#[test]
fn a_repair_goes_on_behind_what_its_source_has_dropped() {
    let mut source = trimmed(0..100);
    source.sent.clear();
    source.say(OTHER, Message::ShardPull { shard: SHARD, from: 0, prefix: 101 });
    let Some((OTHER, copy @ Message::ShardCopy { first: 100, .. })) = source.sent.pop() else {
        panic!("what is left of it: {:?}", source.sent)
    };
    let mut target = World::new();
    target.say(CONTROLLER, Message::RepairShard { shard: SHARD, prefix: 101, source: OTHER.node });
    assert!(target.sent.contains(&(OTHER, Message::ShardPull { shard: SHARD, from: 0, prefix: 101 })));
    target.say(OTHER, copy);
    assert!(target.sent.contains(&(CONTROLLER, Message::ShardRepaired { shard: SHARD, durable: 101 })));
    assert_eq!(target.fetch(100), Ok(1));
    assert!(target.fetch(0).is_err());
}

/// A fixed sequence of numbers that looks like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn whatever_happens_in_whatever_order_what_lives_can_be_read_and_no_prefix_falls() {
    let mut released = 0;
    for seed in 0..60 {
        let (mut chance, mut world) = (Chance(seed), World::new());
        let (mut end, mut checkpoint, mut sealed) = (0, 0, false);
        for _ in 0..120 {
            match chance.below(11) {
                0..=2 => {
                    let count = 1 + chance.below(40);
                    let payload_bytes = [10, 1000, 40_000][chance.below(3) as usize];
                    if !sealed {
                        world.write(end, count, payload_bytes);
                        end += count;
                    }
                }
                3 => world.journal.open += 1,
                4 | 5 if end > 0 => {
                    let from = chance.below(end);
                    let to = (from + 1 + chance.below(80)).min(end);
                    let kept = 1 + chance.below(20);
                    let dead: Vec<u64> = (from..to).filter(|position| position % kept != 0 || kept == 1).collect();
                    let records = dead.len() as u64;
                    world.is_dead(dead);
                    world.dying(from, to, records);
                }
                6 => {
                    checkpoint += 1;
                    world.part(place(checkpoint), 0, false);
                    world.part(place(checkpoint), 1, true);
                    world.commit(checkpoint);
                }
                7 => {
                    let segment = chance.below(u64::from(world.journal.open) + 1) as u32;
                    if segment < world.journal.open && world.journal.entries.contains_key(&segment) {
                        world.input(Input::Vacate { segment });
                        assert!(!world.journal.entries.contains_key(&segment), "seed {seed}: segment {segment} stays");
                    }
                }
                8 => world.restart(),
                9 => world.input(Input::Disconnected { node: NODE }),
                _ if chance.below(20) == 0 => {
                    sealed = true;
                    world.say(CONTROLLER, Message::Seal { view: ViewNumber(1) });
                }
                _ => world.start(&chain(1)),
            }
            let prefix = world.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, _, durable)| durable);
            if world.storage.shards().next().is_some_and(|_| prefix != end) {
                // Without a writer the run was not taken.
                assert!(prefix < end, "seed {seed}");
                end = prefix;
            }
        }
        let dead = world.dead.clone().expect("it answers");
        world.restart();
        let prefix = world.storage.shards().find(|(id, ..)| *id == SHARD).map_or(0, |(_, _, durable)| durable);
        assert_eq!(prefix, end, "seed {seed}: the prefix fell");
        for position in (0..end).filter(|position| !dead.contains(position)) {
            assert!(world.fetch(position).is_ok(), "seed {seed}: record {position} lives");
        }
        for part in [0, 1].into_iter().filter(|_| checkpoint > 0) {
            let read = world.open_part(place(checkpoint), part);
            assert!(matches!(read, Message::CheckpointPart { .. }), "seed {seed}: part {part} of {checkpoint}");
        }
        assert_eq!(world.storage.sealed(), ViewNumber(u32::from(sealed)), "seed {seed}");
        released += world.released.len();
    }
    assert!(released > 500, "{released} segments");
}

/// Each of these mistakes is noticed by the test that is about it.
#[cfg(feature = "simulation")]
#[test]
fn mutants_are_noticed() {
    use sealog_protocol::mutant::{Mutant, set_active};
    let cases: [(Mutant, fn()); 4] = [
        (Mutant::SegmentReleasedWhileLiving, sparse_segments_are_rewritten),
        (Mutant::SegmentReleasedBeforeCopy, sparse_segments_are_rewritten),
        (Mutant::SealNotAppendedAgain, seals_outlive_their_segment),
        (Mutant::CheckpointDroppedEarly, checkpoints_stay_until_a_newer_one_is_committed),
    ];
    for (mutant, scenario) in cases {
        set_active(Some(mutant));
        let noticed = std::panic::catch_unwind(scenario).is_err();
        set_active(None);
        assert!(noticed, "{mutant:?}");
    }
}
