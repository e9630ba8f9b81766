//! Subscriptions against a scripted server: in virtual time the session's, over sockets the faces'.

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use common::FakeServer;
use common::tcp::TcpServer;
use futures_core::Stream;
use sealog::session::{Append, Operation, OperationId, Session, SessionConfig, SubmitError, Subscribe, Target};
use sealog::{Client, ConnectionError, LogBookId, NewRecord, SeqNum, SubscribeError, SubscriptionEvent, Tag, blocking};
use sealog_protocol::Time;
use sealog_protocol::client::ErrorCode;

const TAG: Tag = Tag(9);
const PATIENCE: Duration = Duration::from_secs(10);

/// What a subscription told: SeqNums, and the first kept of a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Record(u64),
    Gap(u64),
    Error(SubscribeError),
}

/// A session, a server, and the wire between them, which the test can cut.
struct World {
    session: Session,
    server: FakeServer,
    now: Time,
    connection: usize,
}

impl World {
    fn connected(config: SessionConfig) -> World {
        let session = Session::new(config);
        let mut world = World { session, server: FakeServer::default(), now: Time::ZERO, connection: 0 };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.connection += 1;
        self.session.connected(self.now);
        self.run();
    }

    fn cut(&mut self) {
        self.server.disconnect(self.connection);
        self.session.disconnected(self.now, ConnectionError::Closed);
    }

    /// Both ways until nothing moves.
    fn run(&mut self) {
        loop {
            let bytes = self.session.transmit().to_vec();
            self.server.receive(self.connection, &bytes);
            self.session.transmitted(bytes.len());
            let output = self.server.output(self.connection);
            if bytes.is_empty() && output.is_empty() {
                return;
            }
            for portion in output.chunks(37) {
                self.session.receive(self.now, portion).expect("the server sends valid frames");
            }
        }
    }

    /// Lets time pass on a connection that stays as it is.
    fn pass(&mut self, duration: Duration) -> Result<(), ConnectionError> {
        let end = self.now + duration;
        while let Some(next) = self.session.deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.session.tick(self.now)?;
            if self.session.is_connected() {
                self.run();
            }
        }
        self.now = end;
        Ok(())
    }

    fn append(&mut self, payloads: &[&[u8]]) {
        let records: Vec<NewRecord<'_>> = payloads.iter().map(|payload| NewRecord { tags: &[TAG], payload }).collect();
        let append = Append { logbook: Target::Id(LogBookId(5)), condition: None, time_ms: 5, records: &records };
        self.session.submit(self.now, Operation::Append(append), self.now + PATIENCE).expect("room");
        self.run();
        while self.session.next_completion().is_some() {}
    }

    fn subscribe(&mut self, from: u64) -> OperationId {
        let subscription = self.session.subscribe(self.now, wanted(from)).expect("room");
        self.run();
        subscription
    }

    fn next(&mut self, subscription: OperationId) -> Option<Told> {
        let told = self.session.next_event(self.now, subscription)?;
        if self.session.is_connected() {
            self.run();
        }
        Some(match told {
            Ok(SubscriptionEvent::Record(record)) => Told::Record(record.seqnum.0),
            Ok(SubscriptionEvent::Trimmed { first }) => Told::Gap(first.0),
            Err(error) => Told::Error(error),
        })
    }

    fn told(&mut self, subscription: OperationId) -> Vec<Told> {
        std::iter::from_fn(|| self.next(subscription)).collect()
    }

    fn seqnums(&self) -> Vec<u64> {
        self.server.records.iter().map(|stored| stored.seqnum.0).collect()
    }

    fn all(&self) -> Vec<Told> {
        self.seqnums().into_iter().map(Told::Record).collect()
    }
}

fn wanted(from: u64) -> Subscribe {
    Subscribe { logbook: LogBookId(5), tag: TAG, from: SeqNum(from), patience: PATIENCE }
}

#[test]
fn what_is_there_and_what_comes_are_one_stream() {
    let mut world = World::connected(SessionConfig::default());
    world.append(&[b"one", b"two"]);
    let subscription = world.subscribe(0);
    assert_eq!(world.session.next_notice(), Some(subscription));
    assert_eq!(world.told(subscription), world.all());
    assert_eq!(world.session.next_notice(), None);
    world.append(&[b"three"]);
    world.append(&[b"four"]);
    assert_eq!((world.session.next_notice(), world.session.next_notice()), (Some(subscription), None));
    assert_eq!(world.told(subscription), world.all()[2..]);
    assert_eq!(world.server.subscriptions.subscribes_seen.len(), 1);
    world.session.cancel(world.now, subscription);
    world.run();
    assert_eq!((world.server.subscriptions.len(), world.session.subscriptions()), (0, 0));
}

#[test]
fn a_consumer_that_takes_nothing_is_sent_no_more_than_its_credit() {
    let config = SessionConfig { subscription_bytes: 10_000, ..SessionConfig::default() };
    let mut world = World::connected(config);
    let (slow, fast) = (world.subscribe(0), world.subscribe(0));
    for _ in 0..100 {
        world.append(&[&[7; 1_000]]);
        assert_eq!(world.told(fast), world.all()[world.all().len() - 1..], "the slow one holds up itself alone");
    }
    let least = world.server.subscriptions.credit_min().expect("two");
    assert!((-2_000..=0).contains(&least), "the server has {least} bytes of credit left");
    assert_eq!(world.told(slow), world.all(), "taking is what makes more come");
    let credits = &world.server.subscriptions.credits_seen;
    assert!(credits.iter().all(|credit| *credit >= 5_000), "credit goes back in large portions: {credits:?}");
}

#[test]
fn a_lost_connection_neither_repeats_nor_leaves_out() {
    let config = SessionConfig { subscription_bytes: 3_000, ..SessionConfig::default() };
    let mut world = World::connected(config);
    let subscription = world.subscribe(0);
    let mut told = Vec::new();
    for round in 0..30 {
        world.append(&[&[1; 700], &[2; 700]]);
        // Some of what came is still here when the connection goes.
        told.extend((0..round % 4).map_while(|_| world.next(subscription)));
        if round % 3 == 0 {
            world.cut();
            world.connect();
        }
    }
    told.extend(world.told(subscription));
    assert_eq!(told, world.all());
    let subscribes = &world.server.subscriptions.subscribes_seen;
    assert_eq!(subscribes.len(), 11);
    assert!(subscribes.iter().all(|wanted| wanted.credit_bytes <= 3_000));
    assert!(subscribes[10].place.index > 0, "what the session has seen is seen by the subscription");
}

/// Its credit was all in use when it was subscribed to again, and all free when that was answered.
#[test]
fn credit_that_is_freed_before_the_answer_is_not_lost() {
    let config = SessionConfig { subscription_bytes: 3_000, ..SessionConfig::default() };
    let mut world = World::connected(config);
    let subscription = world.subscribe(0);
    for _ in 0..10 {
        world.append(&[&[1; 700]]);
    }
    world.cut();
    world.connection += 1;
    world.session.connected(world.now);
    while world.server.subscriptions.subscribes_seen.len() < 2 {
        let bytes = world.session.transmit().to_vec();
        world.server.receive(world.connection, &bytes);
        world.session.transmitted(bytes.len());
        if world.server.subscriptions.subscribes_seen.len() < 2 {
            let output = world.server.output(world.connection);
            world.session.receive(world.now, &output).expect("valid frames");
        }
    }
    let mut told = Vec::new();
    while let Some(event) = world.session.next_event(world.now, subscription) {
        told.push(event);
    }
    world.run();
    assert_eq!(told.len() + world.told(subscription).len(), 10);
}

#[test]
fn a_gap_is_told_in_its_place() {
    let mut world = World::connected(SessionConfig { subscription_bytes: 1, ..SessionConfig::default() });
    world.append(&[b"one", b"two", b"three"]);
    world.server.page_records_max = 1;
    let subscription = world.subscribe(0);
    let seqnums = world.seqnums();
    world.server.trimmed_below = SeqNum(seqnums[2]);
    let expected = [Told::Record(seqnums[0]), Told::Gap(seqnums[2]), Told::Record(seqnums[2])];
    assert_eq!(world.told(subscription), expected);
}

#[test]
fn an_absence_is_told_once_a_patience_and_gone_past() {
    let mut world = World::connected(SessionConfig::default());
    world.append(&[b"one"]);
    let subscription = world.subscribe(0);
    assert_eq!(world.told(subscription).len(), 1);
    world.cut();
    world.session.disconnected(world.now, ConnectionError::Silent);
    assert!(world.session.connect_at().is_some(), "a subscription wants a connection");
    assert_eq!(world.pass(PATIENCE / 2), Ok(()));
    assert_eq!(world.told(subscription), []);
    for _ in 0..2 {
        assert_eq!(world.pass(PATIENCE), Ok(()));
        let reason = ConnectionError::Silent;
        assert_eq!(world.told(subscription), [Told::Error(SubscribeError::Unreachable { reason })]);
    }
    world.connect();
    world.append(&[b"two"]);
    assert_eq!(world.told(subscription), world.all()[1..]);
    assert_eq!(world.pass(PATIENCE * 20), Ok(()), "signs of life keep it connected");
    assert_eq!(world.told(subscription), []);
}

#[test]
fn a_refusal_for_now_is_tried_again_and_an_error_is_the_end() {
    let mut world = World::connected(SessionConfig::default());
    world.append(&[b"one"]);
    world.server.refusals.extend([ErrorCode::Busy; 3]);
    let subscription = world.subscribe(0);
    assert_eq!(world.told(subscription), []);
    assert_eq!(world.pass(PATIENCE / 2), Ok(()));
    assert_eq!(world.told(subscription), world.all());
    // One that is refused for longer than a patience goes on all the same.
    world.server.end_subscriptions(ErrorCode::Busy);
    world.server.refusals.extend([ErrorCode::Busy; 100]);
    world.run();
    assert_eq!(world.pass(PATIENCE), Ok(()));
    let told = world.told(subscription);
    assert!(matches!(told[..], [Told::Error(SubscribeError::Deadline { refusal: Some(_) })]), "{told:?}");
    world.server.refusals.clear();
    assert_eq!(world.pass(PATIENCE), Ok(()));
    world.append(&[b"two"]);
    assert_eq!(world.told(subscription), world.all()[1..]);
    world.server.end_subscriptions(ErrorCode::Corrupt);
    world.run();
    let told = world.told(subscription);
    assert!(matches!(told[..], [Told::Error(SubscribeError::Corrupt { .. })]), "{told:?}");
    assert_eq!(world.pass(PATIENCE * 3), Ok(()));
    world.append(&[b"three"]);
    assert_eq!(world.told(subscription), []);
}

#[test]
fn a_server_that_gives_no_sign_of_life_is_given_up() {
    let mut world = World::connected(SessionConfig::default());
    world.subscribe(0);
    assert_eq!(world.pass(Duration::from_secs(300)), Ok(()));
    let signs = world.server.subscriptions.signs_seen;
    assert!((9..=10).contains(&signs), "one in half a minute, not {signs}");
    world.server.subscriptions.are_mute = true;
    assert_eq!(world.pass(Duration::from_secs(60)), Err(ConnectionError::Silent));
}

#[test]
fn a_server_that_sends_what_was_not_asked_for_is_left() {
    let mut world = World::connected(SessionConfig::default());
    world.append(&[b"one"]);
    world.subscribe(world.seqnums()[0]);
    // The same page once more: it was sent already.
    world.server.subscriptions.rewind(0);
    world.server.push();
    let output = world.server.output(world.connection);
    assert!(!output.is_empty());
    let received = world.session.receive(world.now, &output);
    assert!(matches!(received, Err(ConnectionError::Protocol { .. })), "{received:?}");
}

#[test]
fn there_is_a_bound() {
    let mut world = World::connected(SessionConfig { subscriptions_max: 2, ..SessionConfig::default() });
    let first = world.subscribe(0);
    world.subscribe(0);
    assert_eq!(world.session.subscribe(world.now, wanted(0)), Err(SubmitError::Full));
    world.session.cancel(world.now, first);
    world.subscribe(0);
}

/// The smallest executor: a thread that parks.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn number(event: Option<Result<SubscriptionEvent, SubscribeError>>) -> u16 {
    match event {
        Some(Ok(SubscriptionEvent::Record(record))) => u16::from_be_bytes(record.payload[..].try_into().expect("two")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_goes_on_through_cut_connections() {
    let server = TcpServer::start(FakeServer::default());
    let address = server.address.to_string();
    let appended = blocking::Client::connect(&address).expect("the server is there").logbook("book");
    appended.append(&[TAG], 0u16.to_be_bytes()).expect("acknowledged");
    let writer = thread::spawn(move || {
        for number in 1..1_000u16 {
            appended.append(&[TAG], number.to_be_bytes()).expect("acknowledged");
        }
    });
    block_on(async {
        let client = Client::builder().subscription_bytes(5_000).connect(&address).await.expect("it is there");
        let mut subscription = client.logbook("book").subscribe(TAG, SeqNum::MIN);
        for expected in 0..1_000 {
            let event = match expected % 2 {
                0 => subscription.next().await,
                _ => std::future::poll_fn(|context| Pin::new(&mut subscription).poll_next(context)).await,
            };
            assert_eq!(number(event), expected);
            if expected % 200 == 50 {
                server.cut(false);
            }
        }
    });
    writer.join().expect("it appended all");
    assert!(server.connections() > 2, "it was cut off");
}

#[test]
fn a_thread_that_waits_is_woken() {
    let server = TcpServer::start(FakeServer::default());
    let client = blocking::Client::builder().deadline(Duration::from_millis(200));
    let client = client.connect(&server.address.to_string()).expect("the server is there");
    let book = client.logbook("book");
    let mut subscription = book.subscribe(TAG, SeqNum::MIN);
    assert!(subscription.next_ready().is_none());
    let reader = thread::spawn(move || (number(subscription.next()), subscription));
    book.append(&[TAG], 7u16.to_be_bytes()).expect("acknowledged");
    let (read, mut subscription) = reader.join().expect("it read");
    assert_eq!(read, 7);
    server.cut(true);
    let told = subscription.next();
    assert!(matches!(told, Some(Err(SubscribeError::Unreachable { .. }))), "{told:?}");
}
