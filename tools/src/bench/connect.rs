//! `--mode connect`: how long a new client takes from its first packet to the acknowledgement of its
//! first append, with others connected beside it that do nothing.

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sealog::blocking::Client;
use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::bench::load;
use crate::bench::measure::{histogram, max_us, quantile_us};
use crate::failure::Failure;
use crate::output::Output;

/// Clients that connect at once, each from a thread of its own.
const AT_ONCE_MAX: u32 = 256;

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    /// Clients that connected, appended, and went.
    ops: u64,
    ops_per_s: f64,
    /// Connected all the while, with a session each, beside them.
    idle_connections: u32,
    at_once: u32,
    /// From the first packet to the acknowledgement of the first append.
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// The first part of it: until the node's welcome.
    connect_p50_us: f64,
    connect_p99_us: f64,
    duration_s: f64,
    size: usize,
    version: &'static str,
}

/// What one thread counted.
struct Counted {
    whole_ns: Histogram<u64>,
    connect_ns: Histogram<u64>,
}

pub fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    if arguments.inflight > AT_ONCE_MAX {
        return Err(Failure::usage(format!(
            "--mode connect has a thread for each client that connects: give an --inflight of at most {AT_ONCE_MAX}"
        )));
    }
    let name = format!("{}-connect", load::base_name(arguments));
    let idle = (0..arguments.connections).map(|_| appended(arguments, &name)).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let clients = (0..arguments.inflight).map(|nth| {
        let (arguments, name) = (arguments.clone(), name.clone());
        thread::Builder::new()
            .name(format!("bench-{nth}"))
            .spawn(move || connect_over_and_over(&arguments, &name, begun))
    });
    let threads = clients
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
    let (mut whole_ns, mut connect_ns) = (histogram(), histogram());
    for thread in threads {
        let counted = thread.join().map_err(|_| Failure::other("a thread of the load generator panicked"))??;
        whole_ns.add(&counted.whole_ns).expect("all histograms have the same bounds");
        connect_ns.add(&counted.connect_ns).expect("all histograms have the same bounds");
    }
    drop(idle);
    let mut output = Output::new(arguments.client.format.output);
    output.line(&Report::new(arguments, &whole_ns, &connect_ns), Report::table)?;
    output.flush()
}

impl Report {
    fn new(arguments: &BenchArguments, whole_ns: &Histogram<u64>, connect_ns: &Histogram<u64>) -> Report {
        let seconds = arguments.duration.as_secs_f64();
        Report {
            mode: "connect",
            ops: whole_ns.len(),
            ops_per_s: (whole_ns.len() as f64 / seconds).round(),
            idle_connections: arguments.connections,
            at_once: arguments.inflight,
            p50_us: quantile_us(whole_ns, 0.5),
            p90_us: quantile_us(whole_ns, 0.9),
            p99_us: quantile_us(whole_ns, 0.99),
            p999_us: quantile_us(whole_ns, 0.999),
            max_us: max_us(whole_ns),
            connect_p50_us: quantile_us(connect_ns, 0.5),
            connect_p99_us: quantile_us(connect_ns, 0.99),
            duration_s: seconds,
            size: arguments.size,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn table(&self) -> String {
        format!(
            "\n{} clients in {} s, {} at once, beside {} that are connected: each connects, appends {} bytes, and goes\n\
             until welcomed µs       p50 {}   p99 {}\n\
             until acknowledged µs   p50 {}   p90 {}   p99 {}   p99.9 {}   max {}",
            self.ops,
            self.duration_s,
            self.at_once,
            self.idle_connections,
            self.size,
            self.connect_p50_us,
            self.connect_p99_us,
            self.p50_us,
            self.p90_us,
            self.p99_us,
            self.p999_us,
            self.max_us,
        )
    }
}

/// A client that is connected and has appended once.
fn appended(arguments: &BenchArguments, name: &str) -> Result<Client, Failure> {
    let client = connect(arguments)?;
    client.logbook(name).append(&[], vec![b'x'; arguments.size])?;
    Ok(client)
}

fn connect(arguments: &BenchArguments) -> Result<Client, Failure> {
    let client = Client::builder().name("sealog-bench").deadline(arguments.client.deadline);
    Ok(client.connect(&arguments.client.connect)?)
}

fn connect_over_and_over(arguments: &BenchArguments, name: &str, begun: Instant) -> Result<Counted, Failure> {
    let measured_from = begun + arguments.warmup;
    let until = measured_from + arguments.duration;
    let payload = vec![b'x'; arguments.size];
    let mut counted = Counted { whole_ns: histogram(), connect_ns: histogram() };
    loop {
        let begun = Instant::now();
        if begun >= until {
            return Ok(counted);
        }
        let client = connect(arguments)?;
        let connected = begun.elapsed();
        client.logbook(name).append(&[], &payload)?;
        let whole = begun.elapsed();
        drop(client);
        if begun >= measured_from {
            counted.connect_ns.saturating_record(nanoseconds(connected));
            counted.whole_ns.saturating_record(nanoseconds(whole));
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
