//! What a subscriber is sent: what is there, then what comes, each record once, as credit allows.

use sealog_protocol::client::{CreditRequest, RecordsPart, SubscribeRequest, TrimRequest};

use super::*;

const NO_END: u32 = u32::MAX;

impl World {
    fn ask(&mut self, connection: ConnectionId, id: u64, request: Request) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.engine.request(self.now, connection, id, request, &mut outputs);
        self.outputs = outputs;
        self.deliver(Role::Engine);
        self.run();
    }

    fn subscribe(&mut self, id: u64, tag: Tag, from: u64, credit_bytes: u32) {
        self.subscribe_at(id, tag, from, credit_bytes, PlaceWire::default());
    }

    fn subscribe_at(&mut self, id: u64, tag: Tag, from: u64, credit_bytes: u32, place: PlaceWire) {
        let wanted = SubscribeRequest { logbook: 3, tag: tag.0, from, credit_bytes, place };
        self.ask(CONNECTION, id, Request::Subscribe(wanted));
    }

    fn credit(&mut self, subscription: u64, bytes: u32) {
        self.ask(CONNECTION, 99, Request::Credit(CreditRequest { logbook: 3, subscription, bytes }));
    }

    fn append_one(&mut self, session: SessionId, request: u64, records: &[NewRecord<'_>]) -> SeqNum {
        let mut frame = Vec::new();
        write_batch(&mut frame, 5, &head(session, request), records).expect("within limits");
        let mut outputs = std::mem::take(&mut self.outputs);
        self.engine.append(self.now, CONNECTION, &frame, &mut outputs).expect("a whole frame");
        self.outputs = outputs;
        self.deliver(Role::Engine);
        self.run();
        let at = self.replies.iter().position(|(id, _)| *id == 5).expect("an answer");
        seqnum(&self.replies.remove(at).1)
    }

    /// What was said to a subscription since the last call: SeqNums of pages, and whether each was the
    /// last for now.
    fn pages(&mut self, id: u64) -> Vec<(Vec<u64>, bool)> {
        let (said, rest) = std::mem::take(&mut self.replies).into_iter().partition(|(request, _)| *request == id);
        self.replies = rest;
        let said: Vec<(u64, Reply)> = said;
        let seqnums = |part: &RecordsPart| part.seqnum.0..part.seqnum.0 + u64::from(part.records);
        let pages = said.into_iter().map(|(_, reply)| match reply {
            Reply::Records(page) => (page.parts.iter().flat_map(seqnums).collect(), page.complete),
            other => panic!("{other:?}"),
        });
        pages.collect()
    }

    /// All SeqNums that a subscription was sent since the last call.
    fn sent(&mut self, id: u64) -> Vec<u64> {
        self.pages(id).into_iter().flat_map(|(seqnums, _)| seqnums).collect()
    }

    fn is_refused(&mut self, id: u64, code: ErrorCode) -> bool {
        let refused = |(request, reply): &(u64, Reply)| {
            *request == id && matches!(reply, Reply::Error { code: found, .. } if *found == code)
        };
        let is_refused = self.replies.iter().any(refused);
        self.replies.clear();
        is_refused
    }
}

#[test]
fn what_is_there_and_what_comes_are_one_stream() {
    let mut world = World::new(1);
    let session = world.session();
    world.replies.clear();
    let other = NewRecord { tags: &[Tag(10)], payload: b"other" };
    let first = world.append_one(session, 1, &[RECORD, other, RECORD]).0;
    world.subscribe(20, Tag(9), 0, NO_END);
    world.subscribe(21, Tag::ALL, first + 1, NO_END);
    world.subscribe(22, Tag(11), 0, NO_END);
    assert_eq!(world.pages(20), [(vec![first, first + 2], true)]);
    assert_eq!(world.pages(21), [(vec![first + 1, first + 2], true)]);
    assert_eq!(world.pages(22), [(vec![], true)], "the first page comes, though there is nothing in it");
    let mut appended = Vec::new();
    for request in 2..20 {
        appended.push(world.append_one(session, request, &[RECORD]).0);
        assert_eq!(world.sent(20), appended[appended.len() - 1..], "with the append's own answer");
    }
    let unwanted = world.append_one(session, 20, &[other]).0;
    assert_eq!(world.pages(20), []);
    appended.push(unwanted);
    assert_eq!(world.sent(21), appended);
    assert_eq!(world.pages(22), []);
    assert_eq!(world.engine.status().subscriptions, 3);
}

#[test]
fn one_without_credit_gets_nothing_and_misses_nothing() {
    let mut world = World::new(1);
    let session = world.session();
    world.replies.clear();
    world.subscribe(20, Tag::ALL, 0, 0);
    world.subscribe(21, Tag::ALL, 0, NO_END);
    assert_eq!(world.pages(20), [(vec![], false)], "it stands, and there may be more");
    let appended: Vec<u64> = (1..4).map(|request| world.append_one(session, request, &[RECORD]).0).collect();
    assert_eq!(world.pages(20), []);
    assert_eq!(world.sent(21), appended, "another one does not wait for it");
    world.credit(20, 1);
    assert_eq!(world.sent(20), appended[..1], "a page has a record at least");
    world.credit(20, 1);
    assert_eq!(world.sent(20), [0; 0], "the page was larger than its credit: that is made good first");
    world.credit(20, 1 << 20);
    assert_eq!(world.sent(20), appended[1..]);
    world.credit(20, 0);
    assert_eq!(world.pages(20), [(vec![], true)], "a sign of life");
}

/// Batches of 64 KiB, of which a page holds a few.
#[test]
fn one_that_catches_up_takes_turns_with_the_others() {
    let mut world = World::new(1);
    let session = world.session();
    world.replies.clear();
    let payload = vec![7; 64 << 10];
    let large = NewRecord { tags: &[], payload: &payload };
    let appended: Vec<u64> = (1..40).map(|request| world.append_one(session, request, &[large]).0).collect();
    let mut outputs = std::mem::take(&mut world.outputs);
    for id in [20, 21] {
        let place = PlaceWire::default();
        let wanted = SubscribeRequest { logbook: 3, tag: 0, from: 0, credit_bytes: NO_END, place };
        world.engine.request(world.now, CONNECTION, id, Request::Subscribe(wanted), &mut outputs);
    }
    world.engine.flush(world.now, &mut outputs);
    assert!(world.engine.deadline().is_some_and(|deadline| deadline <= world.now), "the rest is due at once");
    let replies: Vec<u64> = outputs
        .drain()
        .filter_map(|output| match output {
            Output::Reply { request, reply: Reply::Records(page), .. } => {
                assert!(page.payload_bytes() <= 256 << 10, "a page is bounded");
                Some(request)
            }
            _ => None,
        })
        .collect();
    assert_eq!(replies, [20, 21, 20, 21, 20, 21], "a page each, in turns, until the turn has had enough");
    world.outputs = outputs;
    world.run();
    let rest = world.sent(20);
    assert!(rest.len() < appended.len() && appended.ends_with(&rest), "the rest, in order: {rest:?}");
    assert_eq!(world.engine.deadline().filter(|deadline| *deadline <= world.now), None, "and then it is quiet");
}

/// Without a cache, all that is sent comes from the storage.
#[test]
fn records_that_are_not_in_memory_are_fetched() {
    let config = EngineConfig { cache_bytes_max: 0, ..EngineConfig::new(NODE, Incarnation(1), LOGSPACE, 1) };
    let mut world = World::with_engine(config);
    let session = world.session();
    world.replies.clear();
    let before: Vec<u64> = (1..30).map(|request| world.append_one(session, request, &[RECORD]).0).collect();
    world.subscribe(20, Tag(9), 0, NO_END);
    let mut sent = world.sent(20);
    assert_eq!(sent, before);
    let after: Vec<u64> = (30..40).map(|request| world.append_one(session, request, &[RECORD]).0).collect();
    sent.extend(world.sent(20));
    assert_eq!(sent, [before, after].concat());
    assert!(world.engine.status().fetches > 0);
}

#[test]
fn a_subscription_waits_for_the_place_that_its_client_has_seen() {
    let mut world = World::new(1);
    let session = world.session();
    let reply = world.append(head(session, 1), &[RECORD]);
    let Reply::Appended { seqnum, place, .. } = reply else { panic!("{reply:?}") };
    world.replies.clear();
    let later = PlaceWire { index: place.index + 1, ..place.into() };
    world.subscribe_at(20, Tag::ALL, 0, NO_END, later);
    assert_eq!(world.pages(20), []);
    let next = world.append_one(session, 2, &[RECORD]);
    assert_eq!(world.sent(20), [seqnum.0, next.0]);
}

#[test]
fn an_end_is_an_end() {
    let mut world = World::new(1);
    let session = world.session();
    world.replies.clear();
    for id in [20, 21, 22] {
        world.subscribe(id, Tag::ALL, 0, NO_END);
    }
    world.replies.clear();
    world.ask(CONNECTION, 99, Request::Unsubscribe { logbook: 3, subscription: 20 });
    let appended = world.append_one(session, 1, &[RECORD]).0;
    assert_eq!((world.sent(20), world.sent(21)), (vec![], vec![appended]));
    world.credit(20, 5);
    assert!(world.is_refused(20, ErrorCode::Invalid), "it is no subscription any more");
    // A request id may be used again, and then names another subscription.
    world.subscribe(20, Tag::ALL, appended + 1, NO_END);
    assert_eq!(world.pages(20), [(vec![], true)]);
    world.engine.connection_closed(CONNECTION);
    world.append_one(session, 2, &[RECORD]);
    assert!(world.replies.is_empty());
    assert_eq!(world.engine.status().subscriptions, 0);
}

#[test]
fn too_many_and_ambiguous_ones_are_refused() {
    let mut config = EngineConfig::new(NODE, Incarnation(1), LOGSPACE, 1);
    (config.subscriptions_max, config.subscriptions_per_connection_max) = (3, 2);
    let mut world = World::with_engine(config);
    world.subscribe(20, Tag::ALL, 0, NO_END);
    world.subscribe(20, Tag::ALL, 0, NO_END);
    assert!(world.is_refused(20, ErrorCode::Invalid));
    world.subscribe(21, Tag::ALL, 0, NO_END);
    world.subscribe(22, Tag::ALL, 0, NO_END);
    assert!(world.is_refused(22, ErrorCode::Busy), "of this connection");
    let place = PlaceWire::default();
    let wanted = || Request::Subscribe(SubscribeRequest { logbook: 3, tag: 0, from: 0, credit_bytes: 1, place });
    world.ask(ConnectionId(2), 1, wanted());
    world.ask(ConnectionId(3), 1, wanted());
    assert!(world.is_refused(1, ErrorCode::Busy), "of the engine");
    world.engine.connection_closed(CONNECTION);
    world.ask(ConnectionId(3), 1, wanted());
    assert!(!world.is_refused(1, ErrorCode::Busy), "there is room again");
}

#[test]
fn only_who_missed_something_is_told_of_a_gap() {
    let mut world = World::new(1);
    let session = world.session();
    world.replies.clear();
    let other = NewRecord { tags: &[Tag(10)], payload: b"other" };
    let first = world.append_one(session, 1, &[RECORD, other, other, other, RECORD]).0;
    world.subscribe(20, Tag(9), 0, 1);
    world.subscribe(21, Tag(9), 0, NO_END);
    world.subscribe(22, Tag(10), 0, NO_END);
    assert_eq!(world.sent(20), [first]);
    assert_eq!((world.sent(21), world.sent(22).len()), (vec![first, first + 4], 3));
    let trim = TrimRequest { logbook: 3, tag: 0, first: first + 5 };
    world.ask(CONNECTION, 98, Request::Trim(trim));
    world.replies.clear();
    let next = world.append_one(session, 2, &[RECORD, other]).0;
    assert_eq!(world.sent(21), [next]);
    assert_eq!(world.sent(22), [next + 1], "between its last record and the trim point there was nothing for it");
    world.credit(20, 1 << 20);
    let gap = world.replies.iter().position(|(id, reply)| {
        *id == 20 && matches!(reply, Reply::Trimmed { first: kept, .. } if kept.0 == first + 5)
    });
    world.replies.remove(gap.expect("it missed a record"));
    assert_eq!(world.sent(20), [next]);
    world.subscribe(23, Tag::ALL, 0, NO_END);
    let [(_, gap), (_, page)] = &world.replies[..] else { panic!("{:?}", world.replies) };
    assert!(matches!(gap, Reply::Trimmed { first: kept, .. } if kept.0 == first + 5));
    assert!(matches!(page, Reply::Records(page) if page.complete && page.parts.len() == 1));
}
