//! What is counted, in each thread and over all of them.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use sealog::Durability;
use sealog_protocol::Time;

use crate::failure::Failure;

/// Latencies beyond this are counted as this.
/// Shorter gaps between acknowledgements are not looked at: they are what latency is.
const GAP_MIN: Duration = Duration::from_millis(1);
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// Three digits of each latency are kept.
const DIGITS: u8 = 3;

pub const LIVE_HEADING: &str = "  time        ops/s     MB/s    p50 µs    p99 µs   p999 µs    max µs   errors";

/// The run's clock. All threads share its origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub fn now(self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// What the run is about at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Warmup = 0,
    Measure = 1,
    /// No new appends; those under way are waited for.
    Drain = 2,
}

/// What threads and conductor share.
pub struct Shared {
    pub clock: Clock,
    pub verify: bool,
    phase: AtomicU8,
    /// Of the present line of the live table.
    interval: Mutex<Histogram<u64>>,
    interval_bytes: AtomicU64,
    errors: AtomicU64,
    /// Done in the measured phase, and told so far.
    ops: AtomicU64,
    /// The longest wait of a connection for an acknowledgement.
    gap_ns: AtomicU64,
}

impl Shared {
    pub fn new(clock: Clock, verify: bool) -> Shared {
        Shared {
            clock,
            verify,
            phase: AtomicU8::new(Phase::Warmup as u8),
            interval: Mutex::new(histogram()),
            interval_bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            gap_ns: AtomicU64::new(0),
        }
    }

    /// A connection with appends under way waited so long for an acknowledgement.
    pub fn waited(&self, gap: Duration) {
        if gap >= GAP_MIN {
            self.gap_ns.fetch_max(u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// The longest such wait since the last call.
    pub fn take_gap(&self) -> Duration {
        Duration::from_nanos(self.gap_ns.swap(0, Ordering::Relaxed))
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Warmup,
            1 => Phase::Measure,
            _ => Phase::Drain,
        }
    }

    pub fn begin(&self, phase: Phase) -> Time {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.clock.now()
    }

    /// A thread's part of the live table.
    pub fn report(&self, recent: &mut Histogram<u64>, bytes: u64, errors: u64) {
        let mut interval = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        self.ops.fetch_add(recent.len(), Ordering::Relaxed);
        interval.add(&*recent).expect("all histograms have the same bounds");
        recent.reset();
        self.interval_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }

    /// Operations that were done in the measured phase, to a few milliseconds.
    pub fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// A line of the live table, about the last `interval`.
    pub fn live_line(&self, begun: Time, interval: Duration) -> String {
        let seconds = interval.as_secs_f64().max(0.001);
        let mut latencies = self.interval.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "{:>5.0}s {:>12.0} {:>8.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>8}",
            self.clock.now().since(begun).as_secs_f64(),
            latencies.len() as f64 / seconds,
            self.interval_bytes.swap(0, Ordering::Relaxed) as f64 / 1e6 / seconds,
            quantile_us(&latencies, 0.5),
            quantile_us(&latencies, 0.99),
            quantile_us(&latencies, 0.999),
            max_us(&latencies),
            self.errors.load(Ordering::Relaxed),
        );
        latencies.reset();
        line
    }
}

/// What one thread, or all together, counted.
pub struct Tally {
    /// Of appends acknowledged in the measured phase.
    pub latency_ns: Histogram<u64>,
    /// Payload bytes of these.
    pub bytes: u64,
    /// Appends that failed, without effect, and reads.
    pub errors: u64,
    /// Reads that found no record.
    pub empty: u64,
    /// Appends of which nobody knows whether they took effect.
    pub unknown: u64,
    /// Requests that were sent again.
    pub retries: u64,
    pub durability: Option<Durability>,
    pub first_error: Option<Failure>,
}

impl Tally {
    pub fn new() -> Tally {
        Tally {
            latency_ns: histogram(),
            bytes: 0,
            errors: 0,
            empty: 0,
            unknown: 0,
            retries: 0,
            durability: None,
            first_error: None,
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.latency_ns.add(&other.latency_ns).expect("all histograms have the same bounds");
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.empty += other.empty;
        self.unknown += other.unknown;
        self.retries += other.retries;
        self.durability = self.durability.or(other.durability);
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("the bounds are in order")
}

pub fn quantile_us(latency_ns: &Histogram<u64>, quantile: f64) -> f64 {
    to_us(latency_ns.value_at_quantile(quantile))
}

pub fn max_us(latency_ns: &Histogram<u64>) -> f64 {
    to_us(latency_ns.max())
}

fn to_us(nanoseconds: u64) -> f64 {
    (nanoseconds as f64 / 100.0).round() / 10.0
}

/// CPU time of all threads of this process.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
