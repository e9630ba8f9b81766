//! The async face under several executors, and the blocking face, against a server in a thread.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use common::FakeServer;
use common::tcp::TcpServer;
use sealog::{AppendError, Client, ConnectError, ConnectionError, ReadError, Retention, SeqNum, Tag, blocking};

const TAG: Tag = Tag(3);

fn server() -> TcpServer {
    TcpServer::start(FakeServer::default())
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

/// Every verb once, and many appends at once.
async fn every_verb(address: String) {
    let client = Client::connect(&address).await.expect("the server is there");
    let book = client.logbook("book");
    assert_eq!(book.check_tail(TAG).await, Ok(None));
    let pending: Vec<_> = (0..100u8).map(|number| book.append(&[TAG], [number])).collect();
    let mut seqnums = Vec::new();
    for append in pending {
        seqnums.push(append.await.expect("acknowledged").seqnum);
    }
    let records = book.read_range(TAG, SeqNum::MIN..=SeqNum::MAX, 1_000).await.expect("read");
    assert_eq!(records.iter().map(|record| record.seqnum).collect::<Vec<_>>(), seqnums);
    let next = book.read_next(TAG, seqnums[3]).await.expect("read").expect("it is there");
    assert_eq!(&next.payload[..], [3]);
    let previous = book.read_prev(TAG, seqnums[3].prev()).await.expect("read").expect("it is there");
    assert_eq!(previous.seqnum, seqnums[2]);
    let failed = book.append_if(TAG, Some(seqnums[0]), b"x").await;
    assert_eq!(failed, Err(AppendError::ConditionFailed { tail: seqnums[99] }));
    let last = book.append_if(TAG, Some(seqnums[99]), b"x").await.expect("the condition holds").seqnum;
    assert_eq!(book.check_tail_linearizable(TAG).await, Ok(Some(last)));
    assert_eq!(book.set_aux(seqnums[4], b"a view").await, Ok(true));
    assert_eq!(book.set_aux(last.next(), b"of nothing").await, Ok(false));
    let next = book.with_aux().read_next(TAG, seqnums[4]).await.expect("read").expect("it is there");
    assert_eq!(next.aux.as_deref(), Some(&b"a view"[..]));
    let next = book.read_next(TAG, seqnums[4]).await.expect("read").expect("it is there");
    assert_eq!(next.aux, None, "nobody asked");
    assert_eq!(book.trim(Tag::ALL, seqnums[90]).await, Ok(seqnums[90]));
    assert_eq!(book.read_next(TAG, SeqNum::MIN).await, Err(ReadError::Trimmed { first: seqnums[90] }));
    assert_eq!(book.trim(Tag::ALL, seqnums[1]).await, Ok(seqnums[90]), "a trim never goes back");
    let retention = Retention { age: Some(Duration::from_secs(60)), bytes: Some(1 << 30) };
    assert_eq!(book.set_retention(retention).await, Ok(()));
    let description = book.describe().await.expect("told");
    assert_eq!((description.first, description.tail), (seqnums[90].0, last.0));
    assert_eq!((description.retain_ms, description.retain_bytes, description.records), (60_000, 1 << 30, 11));

    let waiting = book.read_next_wait(TAG, last.next(), Duration::from_secs(10));
    let writer = client.clone().logbook_by_id(book.id());
    let mut waiting = pin!(waiting);
    let found = {
        let mut appended = pin!(async move { writer.append(&[TAG], b"news").await });
        let mut is_appended = false;
        std::future::poll_fn(move |context| {
            // The wait begins first.
            let found = waiting.as_mut().poll(context);
            if found.is_pending() && !is_appended {
                is_appended = appended.as_mut().poll(context).is_ready();
            }
            found
        })
        .await
    };
    assert_eq!(&found.expect("read").expect("it came").payload[..], b"news");

    let mut scan = book.scan_backward(TAG, SeqNum::MIN..=SeqNum::MAX);
    let mut count = 0;
    while scan.next().await.expect("read").is_some() {
        count += 1;
    }
    assert_eq!(count, 102);
    assert_eq!(client.status().await, Ok("{}".to_owned()));
    let token = client.session().token();
    let other = Client::connect(&address).await.expect("the server is there");
    other.session().merge(&token);
    assert!(other.session().token().covers(&token));
}

#[test]
fn on_a_plain_thread() {
    let server = server();
    block_on(every_verb(server.address.to_string()));
}

#[test]
fn on_tokio() {
    let server = server();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let address = server.address.to_string();
    runtime.block_on(async move { tokio::spawn(every_verb(address)).await.expect("it did not panic") });
}

#[test]
fn on_glommio() {
    let server = server();
    let address = server.address.to_string();
    glommio::LocalExecutorBuilder::default()
        .io_memory(64 << 10)
        .ring_depth(128)
        .spawn(|| every_verb(address))
        .expect("an executor")
        .join()
        .expect("it did not panic");
}

#[test]
fn blocking_from_one_thread() {
    let server = server();
    let client = blocking::Client::connect(&server.address.to_string()).expect("the server is there");
    let book = client.logbook("book");
    let seqnums: Vec<SeqNum> =
        (0..50u8).map(|number| book.append(&[TAG], [number]).expect("acknowledged").seqnum).collect();
    let pending: Vec<_> = (50..100u8).map(|number| book.begin_append(&[TAG], [number]).expect("room")).collect();
    let later: Vec<SeqNum> = pending.into_iter().map(|append| append.wait().expect("acknowledged").seqnum).collect();
    let read: Vec<SeqNum> =
        book.scan(TAG, SeqNum::MIN..=SeqNum::MAX).map(|record| record.expect("read").seqnum).collect();
    assert_eq!(read, [seqnums, later].concat());
    assert_eq!(book.read_next_wait(TAG, SeqNum::MAX, Duration::ZERO), Ok(None));
    assert_eq!(book.check_tail(TAG), Ok(read.last().copied()));
    assert_eq!(client.status(), Ok("{}".to_owned()));
}

#[test]
fn blocking_from_many_threads_that_share_a_client() {
    let server = server();
    let client = blocking::Client::builder().in_flight_max(3).connect(&server.address.to_string());
    let client = client.expect("the server is there");
    let threads: Vec<_> = (0..8u8)
        .map(|thread| {
            let book = client.logbook("book");
            thread::spawn(move || {
                for number in 0..100u8 {
                    book.append(&[Tag(100 + u64::from(thread))], [number]).expect("acknowledged");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("it did not panic");
    }
    let book = client.logbook("book");
    for thread in 0..8 {
        let read = book.read_range(Tag(100 + thread), SeqNum::MIN..=SeqNum::MAX, 1_000).expect("read");
        assert_eq!(read.iter().map(|record| record.payload[0]).collect::<Vec<_>>(), (0..100).collect::<Vec<u8>>());
    }
}

#[test]
fn a_blocked_wait_is_ended_by_another_threads_append() {
    let server = server();
    let client = blocking::Client::connect(&server.address.to_string()).expect("the server is there");
    let book = client.logbook("book");
    let reader = thread::spawn(move || book.read_next_wait(TAG, SeqNum::MIN, Duration::from_secs(10)));
    while server.with(|server| server.waiting()) == 0 {
        thread::yield_now();
    }
    client.logbook("book").append(&[TAG], b"news").expect("acknowledged");
    let found = reader.join().expect("it did not panic").expect("read").expect("it came");
    assert_eq!(&found.payload[..], b"news");
}

#[test]
fn appends_survive_cut_connections_and_take_effect_once() {
    let server = server();
    let address = server.address.to_string();
    let appender = thread::spawn(move || {
        block_on(async move {
            let client = Client::connect(&address).await.expect("the server is there");
            let book = client.logbook("book");
            for round in 0..50u8 {
                let pending: Vec<_> = (0..20u8).map(|number| book.append(&[TAG], [round, number])).collect();
                for append in pending {
                    append.await.expect("acknowledged");
                }
            }
            client.counters()
        })
    });
    let mut cuts = 0;
    while !appender.is_finished() {
        let records = server.with(|server| server.records.len());
        if records > cuts * 100 {
            cuts += 1;
            server.cut(false);
        }
        thread::yield_now();
    }
    let counters = appender.join().expect("it did not panic");
    assert!(counters.connections > 1, "{counters:?}");
    let mut payloads = server.with(|server| server.payloads());
    payloads.sort();
    let expected: Vec<Vec<u8>> = (0..50).flat_map(|round| (0..20).map(move |number| vec![round, number])).collect();
    assert_eq!(payloads, expected);
}

/// The node that the client uses, and does not leave in that moment.
fn used(server: &TcpServer) -> usize {
    loop {
        let nodes = server.connected_nodes();
        if let (1, Some(node)) = (nodes.len(), nodes.first()) {
            return *node;
        }
        thread::yield_now();
    }
}

/// Connections that ten kills make: the last one may come after the last answer.
const TEN_KILLS: std::ops::RangeInclusive<u64> = 10..=11;

fn check_each_once(server: &TcpServer) {
    let mut payloads = server.with(|server| server.payloads());
    payloads.sort();
    let expected: Vec<Vec<u8>> = (0..50).flat_map(|round| (0..20).map(move |number| vec![round, number])).collect();
    assert_eq!(payloads, expected);
}

#[test]
fn appends_go_on_at_other_nodes_and_take_effect_once() {
    let server = TcpServer::start_nodes(FakeServer::default(), 3);
    let addresses = server.connect_text();
    let counters = block_on(async {
        let client = Client::connect(&addresses).await.expect("the servers are there");
        let book = client.logbook("book");
        for round in 0..50u8 {
            let pending: Vec<_> = (0..20u8).map(|number| book.append(&[TAG], [round, number])).collect();
            if round % 5 == 4 {
                server.kill(used(&server));
            }
            for append in pending {
                append.await.expect("acknowledged");
            }
        }
        client.counters()
    });
    assert!(TEN_KILLS.contains(&counters.connections), "{counters:?}");
    check_each_once(&server);
}

#[test]
fn a_blocking_client_goes_on_at_other_nodes_too() {
    let server = TcpServer::start_nodes(FakeServer::default(), 3);
    let addresses = server.connect_text();
    let client = blocking::Client::connect(&addresses).expect("the servers are there");
    let book = client.logbook("book");
    for round in 0..50u8 {
        let pending: Vec<_> =
            (0..20u8).map(|number| book.begin_append(&[TAG], [round, number]).expect("room")).collect();
        if round % 5 == 4 {
            server.kill(used(&server));
        }
        for append in pending {
            append.wait().expect("acknowledged");
        }
    }
    assert!(TEN_KILLS.contains(&client.counters().connections), "{:?}", client.counters());
    check_each_once(&server);
}

#[test]
fn a_node_that_is_stopped_is_left_before_the_deadline() {
    let server = TcpServer::start_nodes(FakeServer::default(), 2);
    let client = block_on(Client::connect(&server.connect_text())).expect("the servers are there");
    let blocking = blocking::Client::connect(&server.connect_text()).expect("the servers are there");
    let (book, other) = (client.logbook("book"), blocking.logbook("book"));
    block_on(book.append(&[TAG], b"warm")).expect("acknowledged");
    other.append(&[TAG], b"warm").expect("acknowledged");
    server.stop(used(&server));
    block_on(book.append(&[TAG], b"async")).expect("acknowledged by the other");
    other.append(&[TAG], b"blocking").expect("acknowledged by the other");
    assert_eq!(server.with(|server| server.payloads().len()), 4);
    assert_eq!((client.counters().connections, blocking.counters().connections), (2, 2));
}

#[test]
fn an_address_that_does_not_answer_is_passed_over() {
    let server = server();
    let refused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let addresses = format!("{refused},{}", server.address);
    block_on(Client::connect(&addresses)).expect("one of them answers");
    blocking::Client::connect(&addresses).expect("one of them answers");
    let nobody = format!("{refused},unix:/nonexistent/socket");
    for error in [
        block_on(Client::connect(&nobody)).err().expect("nobody listens"),
        blocking::Client::connect(&nobody).err().expect("nobody listens"),
    ] {
        assert!(error.is_retryable(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{refused}: ")) && text.contains("unix:/nonexistent/socket: "), "{text}");
    }
}

#[test]
fn more_than_may_be_in_flight_waits_its_turn() {
    let server = server();
    block_on(async {
        let client = Client::builder().in_flight_max(4).connect(&server.address.to_string()).await;
        let book = client.expect("the server is there").logbook("book");
        let mut pending: Vec<_> = (0..200u8).map(|number| book.append(&[], [number])).collect();
        // Some are dropped while they wait; the others must not wait for them.
        for index in (0..50).rev() {
            drop(pending.remove(index * 4 + 3));
        }
        for append in pending.into_iter().rev() {
            append.await.expect("acknowledged");
        }
    });
}

#[test]
fn deadlines_tell_what_may_have_happened() {
    let server = server();
    block_on(async {
        let client = Client::connect(&server.address.to_string()).await.expect("the server is there");
        let book = client.logbook("book");
        book.append(&[TAG], b"warm").await.expect("acknowledged");
        server.with(|server| server.is_mute = true);
        let hasty = book.with_deadline(Duration::from_millis(30));
        let error = hasty.append(&[TAG], b"maybe").await.expect_err("nobody answers");
        let AppendError::OutcomeUnknown { retry } = error else { panic!("it was sent: {error}") };
        server.with(|server| server.is_mute = false);
        let first = client.retry(retry).await.expect("acknowledged").seqnum;
        assert_eq!(book.read_prev(TAG, SeqNum::MAX).await.expect("read").expect("there").seqnum, first);
        assert_eq!(server.with(|server| server.records.len()), 2, "it took effect once");

        server.cut(true);
        // The connection's end is noticed by the first call or before; nothing is sent after it.
        let error = loop {
            match hasty.append(&[TAG], b"never").await.expect_err("nobody is there") {
                AppendError::OutcomeUnknown { .. } => {}
                error => break error,
            }
        };
        assert!(matches!(error, AppendError::Unreachable { .. }), "{error}");
    });
}

#[test]
fn what_cannot_be_connected_says_why() {
    let refused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let unreachable = |error: &ConnectError| {
        matches!(error, ConnectError::Unreachable { reason: ConnectionError::Io { .. }, .. }) && error.is_retryable()
    };
    for address in [refused.to_string(), "unix:/nonexistent/socket".to_owned()] {
        let error = block_on(Client::connect(&address)).err().expect("nobody listens");
        assert!(unreachable(&error), "{error}");
        let error = blocking::Client::connect(&address).err().expect("nobody listens");
        assert!(unreachable(&error), "{error}");
    }
    let error = block_on(Client::connect("nowhere")).err().expect("no address");
    assert!(matches!(error, ConnectError::Refused { reason: ConnectionError::Address { .. }, .. }), "{error}");

    let builder = Client::builder().wait_for_server(true).deadline(Duration::from_millis(50));
    let error = block_on(builder.connect(&refused.to_string())).err().expect("nobody listens");
    assert!(matches!(error, ConnectError::Deadline { .. }), "{error}");
    let builder = blocking::Client::builder().wait_for_server(true).deadline(Duration::from_millis(50));
    let error = builder.connect(&refused.to_string()).err().expect("nobody listens");
    assert!(matches!(error, ConnectError::Deadline { .. }), "{error}");
}

#[test]
fn a_server_of_another_kind_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a connection");
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written");
        }
    });
    let error = block_on(Client::connect(&address)).err().expect("it speaks something else");
    assert!(matches!(error, ConnectError::Refused { .. }) && !error.is_retryable(), "{error}");
    let error = blocking::Client::connect(&address).err().expect("it speaks something else");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    server.join().expect("it did not panic");
}
