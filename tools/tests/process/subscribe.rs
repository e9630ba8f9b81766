//! Subscriptions on a real node: what is there and what comes, each record once and in order, through
//! SIGKILLs, with slow consumers beside fast ones.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use sealog::blocking::{Client, LogBook};
use sealog::{SeqNum, SubscriptionEvent, Tag};

use crate::node::{NodeCommand, fresh_directory, quiet_machine};

const APPENDS: usize = 40_000;
const IN_FLIGHT: usize = 32;
const KILLS: usize = 3;
const THIRD: Tag = Tag(3);

fn logbook(address: &str) -> LogBook {
    let client = Client::builder().deadline(Duration::from_secs(60)).subscription_bytes(64 << 10);
    client.connect(address).expect("the node is there").logbook("stream")
}

/// Appends 100 bytes each, every third with a tag; says so each time that a part of them is on its way.
fn append_all(logbook: &LogBook, parts: usize, progress: &Sender<()>) {
    let mut in_flight = std::collections::VecDeque::new();
    for number in 0..APPENDS {
        let tags: &[Tag] = if number % 3 == 0 { &[THIRD] } else { &[] };
        in_flight.push_back(logbook.begin_append(tags, format!("{number:0100}")).expect("there is room"));
        if in_flight.len() == IN_FLIGHT {
            in_flight.pop_front().expect("it is not empty").wait().expect("acknowledged");
        }
        if (number + 1).is_multiple_of(APPENDS / parts) {
            progress.send(()).expect("the test goes on");
        }
    }
    for append in in_flight {
        append.wait().expect("acknowledged");
    }
}

/// What a subscription brings, until it has so many records; `pace` is called before each.
fn consume(logbook: &LogBook, tag: Tag, from: SeqNum, records: usize, mut pace: impl FnMut(usize)) -> Vec<SeqNum> {
    let mut subscription = logbook.subscribe(tag, from);
    let mut seqnums = Vec::with_capacity(records);
    while seqnums.len() < records {
        pace(seqnums.len());
        match subscription.next().expect("it does not end") {
            Ok(SubscriptionEvent::Record(record)) => seqnums.push(record.seqnum),
            other => panic!("after {} records: {other:?}", seqnums.len()),
        }
    }
    seqnums
}

#[test]
fn each_record_comes_once_and_in_order_through_kills() {
    let _machine = quiet_machine();
    let data = fresh_directory("subscribe-kills");
    let mut command = NodeCommand::new(&data);
    let mut node = command.start().expect("a new node");
    command.listen = node.address.clone();
    let address = command.listen.as_str();
    let (progress, appended) = channel();
    let (lead, allowed) = channel();
    // Each consumer has a client of its own: the slow one's socket fills up.
    let (all, thirds, slow, node) = thread::scope(|scope| {
        let all = scope.spawn(move || {
            consume(&logbook(address), Tag::ALL, SeqNum::MIN, APPENDS, |taken| {
                if taken.is_multiple_of(100) {
                    lead.send(()).expect("the slow one takes longer");
                }
            })
        });
        // Takes one record while the fast one takes a hundred, then all the rest.
        let slow = scope.spawn(move || {
            consume(&logbook(address), Tag::ALL, SeqNum::MIN, APPENDS, |_| {
                // An error says that the fast one has had enough.
                let _ = allowed.recv();
            })
        });
        let writer = scope.spawn(move || append_all(&logbook(address), KILLS + 1, &progress));
        let mut thirds = None;
        for kill in 1..=KILLS {
            appended.recv().expect("the writer goes on");
            node.kill();
            node = command.start().unwrap_or_else(|ended| panic!("kill {kill}: {ended:?}"));
            // Catches up with one life of the node, then follows the next ones.
            thirds.get_or_insert_with(|| {
                scope.spawn(move || consume(&logbook(address), THIRD, SeqNum::MIN, APPENDS.div_ceil(3), |_| ()))
            });
        }
        appended.recv().expect("the last part");
        writer.join().expect("it appended all");
        let joined = |consumer: thread::ScopedJoinHandle<'_, Vec<SeqNum>>| consumer.join().expect("it had all");
        (joined(all), joined(thirds.expect("there were kills")), joined(slow), node)
    });
    let read = |tag| -> Vec<SeqNum> {
        let records = logbook(address).scan(tag, SeqNum::MIN..=SeqNum::MAX);
        records.map(|record| record.expect("readable").seqnum).collect()
    };
    let expected = read(Tag::ALL);
    assert_eq!(expected.len(), APPENDS);
    assert!(all == expected && slow == expected, "what was pushed is what is read");
    assert!(thirds == read(THIRD), "by tag too");
    node.stop();
}

#[test]
fn the_status_counts_subscriptions_and_forgets_those_of_clients_that_went() {
    let data = fresh_directory("subscribe-status");
    let node = NodeCommand::new(&data).start().expect("a new node");
    let count = || node.status()["logspaces"][0]["engine"]["subscriptions"].clone();
    let logbook = logbook(&node.address);
    let mut subscriptions: Vec<_> = (0..100).map(|_| logbook.subscribe(Tag::ALL, SeqNum::MIN)).collect();
    logbook.append(&[], "one").expect("acknowledged");
    for subscription in &mut subscriptions {
        assert!(matches!(subscription.next(), Some(Ok(SubscriptionEvent::Record(_)))));
    }
    assert_eq!(count(), 100);
    subscriptions.truncate(40);
    logbook.append(&[], "two").expect("acknowledged, after what was ended before it");
    assert_eq!(count(), 40);
    drop((subscriptions, logbook));
    while count() != 0 {
        thread::yield_now();
    }
    node.stop();
}

#[test]
fn a_tail_from_what_is_gone_says_so() {
    let data = fresh_directory("subscribe-trim");
    let node = NodeCommand::new(&data).start().expect("a new node");
    let logbook = logbook(&node.address);
    let seqnums: Vec<SeqNum> =
        (0..4).map(|number| logbook.append(&[THIRD], format!("{number}")).expect("acknowledged").seqnum).collect();
    logbook.trim(Tag::ALL, seqnums[2]).expect("trimmed");
    let first = seqnums[2].to_string();
    node.sealog(&["tail", "stream", "--from", "0", "--limit", "1"]).expect_failure(6, &[&first]);
    node.sealog(&["read", "stream", "--from", "0"]).expect_failure(6, &[&first]);
    let kept = node.sealog(&["tail", "stream", "--from", &first, "--limit", "2"]);
    assert_eq!((kept.code(), kept.stdout.lines().count()), (Some(0), 2), "{kept:?}");
    // A consumer that knew of what is gone is told, and goes on.
    let events: Vec<_> = logbook.subscribe(THIRD, SeqNum::MIN).take(3).collect();
    assert_eq!(events[0], Ok(SubscriptionEvent::Trimmed { first: seqnums[2] }));
    assert!(matches!(&events[2], Ok(SubscriptionEvent::Record(record)) if record.seqnum == seqnums[3]));
    node.stop();
}
