//! Reads of what is on disk alone: how much comes with one fetch, and that it is what was appended.

use super::*;

const BATCHES: u64 = 20;
const RECORDS: u64 = 10;

/// Batches of ten records, four of them in each block; the last record of each has a tag.
fn written() -> (World, Vec<Vec<u8>>) {
    let config = EngineConfig { cache_bytes_max: 0, ..EngineConfig::new(NODE, Incarnation(1), LOGSPACE, 1) };
    let mut world = World::with_engine(config);
    let session = world.session();
    let payloads: Vec<Vec<u8>> = (0..BATCHES * RECORDS).map(|nth| format!("{nth:0100}").into_bytes()).collect();
    for (nth, payloads) in (1..).zip(payloads.chunks(RECORDS as usize)) {
        let tags = |at: usize| if at + 1 == payloads.len() { &[Tag(9)][..] } else { &[] };
        let records: Vec<NewRecord<'_>> =
            payloads.iter().enumerate().map(|(at, payload)| NewRecord { tags: tags(at), payload }).collect();
        world.send(head(session, nth), &records);
        if nth.is_multiple_of(4) {
            world.run();
        }
    }
    world.run();
    (world, payloads)
}

fn read(world: &mut World, wanted: ReadRequest) -> (Vec<Vec<u8>>, u64) {
    let before = world.engine.status().fetches;
    let (records, complete) = world.answer(ReadRequest { records_max: 1000, ..wanted });
    assert!(complete);
    let payloads = records.iter().map(|record| record.payload.to_vec()).collect();
    (payloads, world.engine.status().fetches - before)
}

#[test]
fn who_reads_on_gets_a_run_with_each_fetch() {
    let (mut world, payloads) = written();
    let (found, fetches) = read(&mut world, everything());
    assert_eq!(found, payloads);
    assert!(fetches <= BATCHES / 4 * 2, "{fetches} fetches of five blocks");
}

#[test]
fn who_reads_here_and_there_gets_what_it_wants_alone() {
    let (mut world, payloads) = written();
    let tagged: Vec<Vec<u8>> = payloads.iter().skip(RECORDS as usize - 1).step_by(RECORDS as usize).cloned().collect();
    let (found, fetches) = read(&mut world, ReadRequest { tag: 9, ..everything() });
    assert_eq!((found, fetches), (tagged, BATCHES));
}

#[test]
fn who_reads_backward_gets_all_as_well() {
    let (mut world, mut payloads) = written();
    payloads.reverse();
    let backward = ReadRequest { from: u64::MAX, until: 0, backward: true, ..everything() };
    let (found, fetches) = read(&mut world, backward);
    assert_eq!(found, payloads);
    assert!(fetches <= BATCHES * RECORDS, "{fetches}");
}
