//! `--beside`: large appends or a cold reader beside what is measured, from a thread and a client of
//! their own, and what became of the small appends' latencies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sealog::blocking::{Client, LogBook};
use sealog::{SeqNum, Tag};
use sealog_protocol::limits::{CACHE_BYTES_MAX, RECORD_BYTES_MAX};
use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::bench::measure::{Tally, quantile_us};
use crate::bench::mix::Beside;
use crate::bench::{Measured, load};
use crate::failure::Failure;

/// Bytes of payload that the cold reader reads before it begins anew.
const COLD_BYTES: u64 = 256 << 20;
/// Bytes behind them that it does not read: what of them the node has in memory.
const WARM_BYTES: u64 = CACHE_BYTES_MAX as u64;
/// How the cold reader's records are written.
const FILL_CONNECTIONS: u32 = 4;
const FILL_INFLIGHT: u32 = 64;
/// How much nicer than others the thread is.
const STEP_BACK: i32 = 10;
/// The longest that this may take.
const FILL_MAX: Duration = Duration::from_secs(600);

/// What was measured alone, and what went on beside the rest.
#[derive(Clone, Debug, Serialize)]
pub struct BesideReport {
    what: &'static str,
    /// Of what went on beside: appends of 1 MiB, or records read.
    ops: u64,
    ops_per_s: f64,
    bytes_per_s: f64,
    /// Of the small appends before, with nothing beside them.
    alone_ops_per_s: f64,
    alone_p50_us: f64,
    alone_p99_us: f64,
    /// What p99 is beside it, in terms of that alone.
    p99_to_alone: f64,
}

impl BesideReport {
    pub fn new(what: Beside, done: Done, alone: &Measured, beside: &Tally) -> BesideReport {
        let (seconds, latency_ns) = (done.time.as_secs_f64().max(0.001), &alone.tally.latency_ns);
        let ratio = beside.latency_ns.value_at_quantile(0.99) as f64 / latency_ns.value_at_quantile(0.99).max(1) as f64;
        BesideReport {
            what: what.name(),
            ops: done.ops,
            ops_per_s: (done.ops as f64 / seconds).round(),
            bytes_per_s: (done.bytes as f64 / seconds).round(),
            alone_ops_per_s: (latency_ns.len() as f64 / alone.time.as_secs_f64().max(0.001)).round(),
            alone_p50_us: quantile_us(latency_ns, 0.5),
            alone_p99_us: quantile_us(latency_ns, 0.99),
            p99_to_alone: (ratio * 100.0).round() / 100.0,
        }
    }

    pub fn table(&self) -> String {
        format!(
            "\nbeside       {}: {} a second, {:.1} MB/s; alone before: {} appends a second, p50 {} µs, p99 {} µs; \
             p99 beside it is {} × that",
            self.what,
            self.ops_per_s,
            self.bytes_per_s / 1e6,
            self.alone_ops_per_s,
            self.alone_p50_us,
            self.alone_p99_us,
            self.p99_to_alone,
        )
    }
}

/// What went on, and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    ops: u64,
    bytes: u64,
    time: Duration,
}

/// A client that keeps the node busy until it is ended.
pub struct Company {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Done, Failure>>,
}

impl Company {
    /// Writes what a cold reader is to read; returns its LogBook.
    ///
    /// # Errors
    /// The service does not take it.
    pub fn prepare(what: Beside, arguments: &BenchArguments) -> Result<String, Failure> {
        let name = format!("{}-{}", load::base_name(arguments), what.name());
        if what == Beside::ColdReader {
            eprintln!("Writing what the cold reader reads …");
            let mut fill = arguments.clone();
            fill.mix.ops = Some((COLD_BYTES + WARM_BYTES).div_ceil(arguments.size.max(1) as u64));
            (fill.logbook, fill.logbooks, fill.tags, fill.duration) = (Some(name.clone()), 1, 0, FILL_MAX);
            (fill.connections, fill.inflight, fill.threads) = (FILL_CONNECTIONS, FILL_INFLIGHT, 1);
            (fill.warmup, fill.class) = (Duration::ZERO, None);
            super::run_load(&fill, None)?.tally.failure()?;
        }
        Ok(name)
    }

    /// # Errors
    /// The service is not there.
    pub fn start(what: Beside, arguments: &BenchArguments, name: &str) -> Result<Company, Failure> {
        let client = Client::builder().name("sealog-bench").deadline(arguments.client.deadline);
        let logbook = client.connect(&arguments.client.connect)?.logbook(name);
        let is_over = Arc::new(AtomicBool::new(false));
        let until = is_over.clone();
        let run = move || {
            // It would be on another machine: it is not to keep a core from the clients that are measured.
            // Not being allowed to step back changes what is measured, not what is right.
            let _ = rustix::process::nice(STEP_BACK);
            let begun = Instant::now();
            let (ops, bytes) = match what {
                Beside::Large => append_large(&logbook, &until),
                Beside::ColdReader => read_cold(&logbook, &until),
            }?;
            Ok(Done { ops, bytes, time: begun.elapsed() })
        };
        let thread = std::thread::Builder::new().name("bench-beside".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        Ok(Company { is_over, thread })
    }

    /// # Errors
    /// It could not go on to the end.
    pub fn end(self) -> Result<Done, Failure> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::other("a thread of the load generator panicked"))?
    }
}

fn append_large(logbook: &LogBook, is_over: &AtomicBool) -> Result<(u64, u64), Failure> {
    let payload = vec![b'x'; RECORD_BYTES_MAX];
    let mut ops = 0;
    while !is_over.load(Ordering::Relaxed) {
        logbook.append(&[], &payload)?;
        ops += 1;
    }
    Ok((ops, ops * RECORD_BYTES_MAX as u64))
}

fn read_cold(logbook: &LogBook, is_over: &AtomicBool) -> Result<(u64, u64), Failure> {
    let (mut ops, mut bytes) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let end = bytes + COLD_BYTES;
        for record in logbook.scan(Tag::ALL, SeqNum::MIN..=SeqNum::MAX) {
            if is_over.load(Ordering::Relaxed) {
                return Ok((ops, bytes));
            }
            ops += 1;
            bytes += record?.payload.len() as u64;
            if bytes >= end {
                break;
            }
        }
    }
    Ok((ops, bytes))
}
