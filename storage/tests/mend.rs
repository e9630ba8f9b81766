//! What rots in a storage comes from the others, and what nobody can read is told and holds nothing up.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use sealog_protocol::machine::{DurableEntry, Input, Outputs};
use sealog_protocol::message::Message;
use sealog_protocol::view::Chain;
use sealog_protocol::{NodeId, NodeSet, ShardId};
use sealog_storage::MendNews;
use world::*;

const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

/// The shard is on three storages.
fn three() -> Chain {
    let mut chain = chain(1);
    let view = &mut chain.views[0];
    view.storages = NodeSet::new(&[NODE, SECOND, THIRD]).expect("three");
    (view.replicas, view.write_quorum) = (3, 2);
    chain
}

/// A closed segment of 100 records, on three storages.
fn replicated() -> World {
    let mut world = World::with(&three());
    world.write(0, 100, 1000);
    world.roll();
    world.until = world.now + Duration::from_secs(20);
    world.others.insert(SECOND, Other::default());
    world.others.insert(THIRD, Other::default());
    world
}

/// Changes the payload of a batch in segment 0, and tells what is written there.
fn damage(world: &mut World, position: u64) {
    let frame = run(SHARD, 0, 1, 1000).len();
    let segment = world.journal.bytes.get_mut(&0).expect("written");
    segment[64 + frame * position as usize + frame - 20] ^= 1;
}

fn rot(world: &mut World) {
    world.input(Input::Rotten { segment: 0, offset: 0, bytes: 4096, missing: false });
}

fn pulled_from(world: &World) -> BTreeSet<NodeId> {
    let pulls = world.sent.iter().filter(|(_, message)| matches!(message, Message::CopyPull { .. }));
    pulls.map(|(to, _)| to.node).collect()
}

fn expect_whole(world: &mut World, positions: std::ops::Range<u64>) {
    for position in positions {
        assert!(world.fetch(position).is_ok(), "record {position}");
    }
}

#[test]
fn a_damaged_batch_comes_from_another_replica_and_its_segment_is_given_back() {
    let mut world = replicated();
    damage(&mut world, 40);
    rot(&mut world);
    assert_eq!(world.released, [0]);
    expect_whole(&mut world, 0..100);
    let status = world.storage.status();
    assert_eq!((status.records_mended, status.to_mend, status.lost.len()), (1, 0, 0), "{status:?}");
    let news: Vec<MendNews> = std::iter::from_fn(|| world.storage.next_news()).collect();
    assert_eq!(news, [MendNews::Damaged { segment: 0 }, MendNews::Mended { segment: 0, records: 1 }]);
    world.restart();
    expect_whole(&mut world, 0..100);
}

#[test]
fn a_segment_is_kept_until_what_was_mended_is_durable() {
    let mut world = replicated();
    damage(&mut world, 99);
    world.holding = true;
    rot(&mut world);
    while let Some(at) = world.in_flight.pop_front() {
        assert!(world.released.is_empty(), "the copies are not durable");
        world.input(Input::Durable(at));
    }
    assert_eq!(world.released, [0]);
}

#[test]
fn what_is_damaged_lacking_or_forged_elsewhere_comes_from_the_next_one() {
    let worse: [fn(&mut Other); 4] = [
        |other| other.damaged.extend([40]),
        |other| other.lacking.extend([40]),
        |other| other.is_damaging = true,
        |other| other.is_silent = true,
    ];
    for worsen in worse {
        let mut world = replicated();
        worsen(world.others.get_mut(&SECOND).expect("it is there"));
        damage(&mut world, 40);
        rot(&mut world);
        assert_eq!(world.released, [0]);
        assert_eq!(pulled_from(&world), BTreeSet::from([SECOND, THIRD]));
        expect_whole(&mut world, 0..100);
    }
}

#[test]
fn what_nobody_can_read_is_told_and_mended_when_somebody_can() {
    let mut world = replicated();
    damage(&mut world, 40);
    for other in world.others.values_mut() {
        other.damaged.insert(40);
    }
    rot(&mut world);
    assert!(world.released.is_empty(), "what can't be moved stays");
    let status = world.storage.status();
    assert_eq!((status.to_mend, &status.lost[..]), (1, &[(SHARD, 40)][..]));
    assert_eq!(world.fetch(40), Err(Message::FetchCorrupt { request: 7 }));
    expect_whole(&mut world, 0..40);
    expect_whole(&mut world, 41..100);
    world.others.insert(THIRD, Other::default());
    world.until = world.now + Duration::from_secs(40);
    world.run(Outputs::default());
    assert_eq!((world.released.clone(), world.storage.status().lost), (vec![0], vec![]));
    expect_whole(&mut world, 0..100);
}

#[test]
fn without_a_replica_damage_stays_where_it_is() {
    let mut world = World::new();
    world.write(0, 100, 1000);
    world.roll();
    world.until = world.now + Duration::from_secs(20);
    damage(&mut world, 0);
    rot(&mut world);
    assert!(world.released.is_empty());
    assert_eq!((world.storage.status().to_mend, world.storage.status().bytes_rewritten), (1, 0), "nothing is gained");
    assert_eq!(world.fetch(0), Err(Message::FetchCorrupt { request: 7 }));
    expect_whole(&mut world, 1..100);
}

#[test]
fn damaged_tags_are_made_again_from_the_batches() {
    for has_engine in [true, false] {
        let mut world = World::new();
        world.write(0, 100, 1000);
        world.roll();
        world.tags_damaged = Some(0);
        if !has_engine {
            world.input(Input::Disconnected { node: NODE });
        }
        world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 10 });
        assert_eq!(world.released, [0]);
        world.sent.clear();
        world.say(ENGINE, Message::TagsOpen { shard: SHARD, from: 10 });
        let came = world.sent.iter().any(|(_, message)| matches!(message, Message::TagsEntries { first: 10, .. }));
        assert!(came, "{:?}", world.sent);
    }
}

/// Takes batches of segment 0 out of the journal, as a recovery does that finds their block damaged.
fn lose(world: &mut World, lost: std::ops::Range<u64>) {
    let entries = world.journal.entries.get_mut(&0).expect("written");
    let (at, _) = entries[0];
    let frame = run(SHARD, 0, 1, 1000).len() as u64;
    let part = |first: u64, end: u64| {
        let at = sealog_protocol::machine::JournalPlace { offset: at.offset + (frame / 8 * first) as u32, ..at };
        let entry =
            DurableEntry::Batches { shard: SHARD, first, batches: run(SHARD, first, end - first, 1000), tags: tags() };
        (at, entry)
    };
    *entries = vec![part(0, lost.start), part(lost.end, 100)];
}

/// Nobody asks for them.
fn tags() -> bytes::Bytes {
    bytes::Bytes::new()
}

fn missing(world: &mut World) {
    world.restart_with(&three());
    world.input(Input::Rotten { segment: 0, offset: 0, bytes: 4096, missing: true });
}

#[test]
fn what_recovery_did_not_find_comes_from_another_replica_before_the_segment_goes() {
    let mut world = replicated();
    lose(&mut world, 30..60);
    world.others.get_mut(&SECOND).expect("it is there").lacking.extend(40..50);
    missing(&mut world);
    expect_whole(&mut world, 0..100);
    assert_eq!(world.released, [0]);
    assert_eq!((world.storage.status().records_mended, world.storage.status().to_mend), (30, 0));
}

#[test]
fn what_all_have_dropped_is_not_missing_and_what_nobody_had_is() {
    for had in [true, false] {
        let mut world = replicated();
        lose(&mut world, 30..60);
        for other in world.others.values_mut() {
            other.lacking.extend(30..60);
            other.had = had;
        }
        missing(&mut world);
        let status = world.storage.status();
        assert_eq!(world.released, if had { vec![0] } else { vec![] });
        assert_eq!((status.to_mend, status.lost.len()), if had { (0, 0) } else { (1, 1) });
        // Told again by the scrub, or wanted back by the journal, it is still kept.
        rot(&mut world);
        world.input(Input::Vacate { segment: 0 });
        assert_eq!(world.released, if had { vec![0, 0, 0] } else { vec![] });
    }
}

fn copy(world: &mut World, shard: ShardId, until: u64) -> Option<u64> {
    let sources = Box::new(NodeSet::new(&[SECOND, THIRD]).expect("two"));
    world.sent.clear();
    world.say(ENGINE, Message::CopyShard { shard, until, enough: 1, sources });
    let states = world.sent.iter().filter_map(|(_, message)| match message {
        Message::CopyState { position, done: true, .. } => Some(*position),
        _ => None,
    });
    states.last()
}

/// Another storage, that is away, may have it: a copy that went on without it would be named as one.
#[test]
fn a_copy_waits_for_what_no_source_can_read() {
    let shard = ShardId { index: 9, ..SHARD };
    let mut world = replicated();
    world.others.get_mut(&SECOND).expect("it is there").damaged.extend([5, 20, 21]);
    world.others.get_mut(&THIRD).expect("it is there").damaged.extend([20, 40]);
    assert_eq!(copy(&mut world, shard, 50), None);
    // One that has it comes back, and an engine asks again.
    world.others.insert(THIRD, Other::default());
    assert_eq!(copy(&mut world, shard, 50), Some(50));
    for position in 0..50 {
        world.say(ENGINE, Message::Fetch { request: 1, shard, position, until: position + 1 });
        assert!(matches!(world.sent.pop(), Some((_, Message::Fetched { .. }))), "record {position}");
    }
}
