//! `--mode subscribe`: what idle subscribers cost a node, and how long after an append began its
//! record is with a subscriber.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use sealog::blocking::LogBook;
use sealog::{Client, Durability, SeqNum, Subscription, SubscriptionEvent, Tag};
use sealog_protocol::Time;
use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::bench::measure::{Clock, histogram, max_us, quantile_us};
use crate::bench::server::ServerProcess;
use crate::create::Class;
use crate::failure::Failure;
use crate::output::Output;

/// Between two looks whether all subscribers are there.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    idle_subscribers: u32,
    /// Of one core, while nothing else happens; to 10 ms of CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_server_cpu_percent: Option<f64>,
    ops: u64,
    append_p50_us: f64,
    append_p99_us: f64,
    append_max_us: f64,
    /// From the beginning of the append until a subscriber in another thread has the record.
    delivery_p50_us: f64,
    delivery_p99_us: f64,
    delivery_max_us: f64,
    delivery_to_append_p50: f64,
    duration_s: f64,
    size: usize,
    version: &'static str,
}

pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    if arguments.size < size_of::<u64>() {
        return Err(Failure::usage("--mode subscribe keeps a time in each record: give a --size of at least 8"));
    }
    let name = format!("{}-subscribe", arguments.logbook.as_deref().unwrap_or("bench"));
    let subscribers = subscribe_idle(arguments, &name)?;
    let idle_server_cpu_percent = idle_cost(arguments);
    let (append_ns, delivery_ns) = deliver(arguments, &name)?;
    drop(subscribers);
    let report = Report {
        mode: "subscribe",
        idle_subscribers: arguments.connections,
        idle_server_cpu_percent,
        ops: append_ns.len(),
        append_p50_us: quantile_us(&append_ns, 0.5),
        append_p99_us: quantile_us(&append_ns, 0.99),
        append_max_us: max_us(&append_ns),
        delivery_p50_us: quantile_us(&delivery_ns, 0.5),
        delivery_p99_us: quantile_us(&delivery_ns, 0.99),
        delivery_max_us: max_us(&delivery_ns),
        delivery_to_append_p50: (quantile_us(&delivery_ns, 0.5) / quantile_us(&append_ns, 0.5) * 100.0).round() / 100.0,
        duration_s: arguments.duration.as_secs_f64(),
        size: arguments.size,
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut output = Output::new(arguments.client.format.output);
    output.line(&report, Report::table)?;
    output.flush()
}

impl Report {
    fn table(&self) -> String {
        let idle =
            self.idle_server_cpu_percent.map_or("unknown".to_owned(), |percent| format!("{percent} % of a core"));
        format!(
            "\n{} idle subscribers cost the node {idle}\n\
             {} appends of {} bytes, one at a time, each pushed to a subscriber\n\
             append µs     p50 {}   p99 {}   max {}\n\
             delivery µs   p50 {}   p99 {}   max {}   ({} × the append's p50)",
            self.idle_subscribers,
            self.ops,
            self.size,
            self.append_p50_us,
            self.append_p99_us,
            self.append_max_us,
            self.delivery_p50_us,
            self.delivery_p99_us,
            self.delivery_max_us,
            self.delivery_to_append_p50,
        )
    }
}

/// Subscribers to what nobody appends to, each with a connection of its own.
fn subscribe_idle(arguments: &BenchArguments, name: &str) -> Result<Vec<(Client, Subscription)>, Failure> {
    let quiet = format!("{name}-quiet");
    let mut subscribers = Vec::new();
    for _ in 0..arguments.connections {
        let connecting = Client::builder().deadline(arguments.client.deadline).connect(&arguments.client.connect);
        let client = block_on(connecting)?;
        let subscription = client.logbook(&quiet).subscribe(Tag::ALL, SeqNum::MIN);
        subscribers.push((client, subscription));
    }
    let wanted = u64::from(arguments.connections);
    while subscriptions(&subscribers[0].0)? < wanted {
        thread::sleep(LOOK);
    }
    Ok(subscribers)
}

/// Subscriptions that the node has.
fn subscriptions(client: &Client) -> Result<u64, Failure> {
    let status: serde_json::Value = serde_json::from_str(&block_on(client.status())?).unwrap_or_default();
    let engines = status["logspaces"].as_array().map_or(&[][..], Vec::as_slice).iter();
    Ok(engines.map(|logspace| logspace["engine"]["subscriptions"].as_u64().unwrap_or(0)).sum())
}

fn idle_cost(arguments: &BenchArguments) -> Option<f64> {
    let server = ServerProcess::find(arguments)?;
    thread::sleep(arguments.warmup);
    let before = server.cpu_time()?;
    thread::sleep(arguments.duration);
    let spent = server.cpu_time()?.saturating_sub(before);
    Some((spent.as_secs_f64() / arguments.duration.as_secs_f64() * 10_000.0).round() / 100.0)
}

/// Appends one record after the other: how long each took, and until a subscriber had it.
fn deliver(arguments: &BenchArguments, name: &str) -> Result<(Histogram<u64>, Histogram<u64>), Failure> {
    let clock = Clock::start();
    let logbook = |name: &str| -> Result<LogBook, Failure> {
        let client = sealog::blocking::Client::builder().deadline(arguments.client.deadline);
        let class = arguments.class.map_or(Durability::Disk, Class::durability);
        Ok(client.connect(&arguments.client.connect)?.logbook_in_class(name, class))
    };
    let (written, read) = (logbook(name)?, logbook(name)?);
    let from = written.check_tail(Tag::ALL)?.map_or(SeqNum::MIN, SeqNum::next);
    let reader = thread::Builder::new().name("bench-subscriber".to_owned()).spawn(move || receive(clock, &read, from));
    let reader = reader.map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
    let mut append_ns = histogram();
    let mut payload = vec![0; arguments.size];
    let measured_from = clock.now() + arguments.warmup;
    let end = measured_from + arguments.duration;
    loop {
        let begun = clock.now();
        let is_over = begun >= end;
        // Its time says whether a record counts; the last one has none.
        let stamp = match begun {
            _ if is_over => END,
            _ if begun < measured_from => WARMUP,
            Time(begun) => begun,
        };
        payload[..8].copy_from_slice(&stamp.to_be_bytes());
        written.append(&[], &payload)?;
        if is_over {
            break;
        }
        if begun >= measured_from {
            append_ns.saturating_record(nanoseconds(clock, begun));
        }
    }
    let delivery_ns = reader.join().map_err(|_| Failure::other("the subscriber's thread panicked"))??;
    Ok((append_ns, delivery_ns))
}

/// Stamps of records that are not measured.
const WARMUP: u64 = 0;
const END: u64 = u64::MAX;

fn receive(clock: Clock, logbook: &LogBook, from: SeqNum) -> Result<Histogram<u64>, Failure> {
    let mut delivery_ns = histogram();
    for event in logbook.subscribe(Tag::ALL, from) {
        let SubscriptionEvent::Record(record) = event? else { continue };
        let stamp = record.payload.first_chunk().map_or(WARMUP, |stamp| u64::from_be_bytes(*stamp));
        match stamp {
            WARMUP => {}
            END => break,
            begun => delivery_ns.saturating_record(nanoseconds(clock, Time(begun))),
        }
    }
    Ok(delivery_ns)
}

fn nanoseconds(clock: Clock, since: Time) -> u64 {
    u64::try_from(clock.now().since(since).as_nanos()).unwrap_or(u64::MAX)
}

/// Runs a future on this thread.
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
