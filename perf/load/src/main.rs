//! A closed loop of appends on etcd or NATS JetStream: so many in flight over so many connections, each
//! sent when the one before it was acknowledged. Prints one line: acknowledged per second, then the
//! median and the 99th percentile of their latency in µs, then errors.
//!
//! ```text
//! sealog-perf-load etcd|nats --servers HOST:PORT,… --connections N --inflight N --seconds S --size BYTES
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

mod etcd;
mod nats;

type Failure = Box<dyn Error + Send + Sync>;

/// Before latencies count: connections are made and caches filled.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Clone, Debug, Default)]
struct Load {
    system: String,
    servers: Vec<String>,
    connections: usize,
    /// On each connection.
    inflight: usize,
    seconds: u64,
    size: usize,
}

impl Load {
    fn of_arguments(mut arguments: impl Iterator<Item = String>) -> Option<Load> {
        let mut load = Load { system: arguments.next()?, ..Load::default() };
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match &*name {
                "--servers" => load.servers = value.split(',').map(str::to_owned).collect(),
                "--connections" => load.connections = value.parse().ok()?,
                "--inflight" => load.inflight = value.parse().ok()?,
                "--seconds" => load.seconds = value.parse().ok()?,
                "--size" => load.size = value.parse().ok()?,
                _ => return None,
            }
        }
        let is_whole = load.connections > 0 && load.inflight > 0 && load.seconds > 0 && !load.servers.is_empty();
        is_whole.then_some(load)
    }
}

/// One connection, of which clones share it.
trait Log: Clone + Send + Sync + 'static {
    fn append(&mut self, number: u64, payload: &[u8]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What was measured of one or more loops.
#[derive(Default)]
struct Measured {
    latencies_us: Vec<u64>,
    errors: u64,
    last_error: Option<String>,
}

/// Runs the loops and prints what came of them.
async fn run<L: Log>(load: &Load, logs: Vec<L>) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let payload: Arc<[u8]> = vec![b'x'; load.size].into();
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs(load.seconds);
    let mut loops = Vec::new();
    for log in logs {
        for _ in 0..load.inflight {
            let (mut log, next, payload) = (log.clone(), next.clone(), payload.clone());
            loops.push(tokio::spawn(async move {
                let mut measured = Measured::default();
                loop {
                    let began = Instant::now();
                    if began >= until {
                        return measured;
                    }
                    let answer = log.append(next.fetch_add(1, Ordering::Relaxed), &payload).await;
                    let ended = Instant::now();
                    match answer {
                        // What ended in the time counts, so that the rate is of that time.
                        Ok(()) if ended >= from && ended < until => {
                            measured.latencies_us.push((ended - began).as_micros() as u64);
                        }
                        Ok(()) => {}
                        Err(error) => {
                            measured.errors += 1;
                            measured.last_error = Some(error.to_string());
                        }
                    }
                }
            }));
        }
    }
    let mut all = Measured::default();
    for one in loops {
        let one = one.await?;
        all.latencies_us.extend(one.latencies_us);
        all.errors += one.errors;
        all.last_error = one.last_error.or(all.last_error);
    }
    if let Some(error) = all.last_error {
        eprintln!("{}: {} errors, the last: {error}", load.system, all.errors);
    }
    all.latencies_us.sort_unstable();
    let count = all.latencies_us.len();
    let quantile = |of: f64| all.latencies_us.get((count as f64 * of) as usize).copied().unwrap_or(0);
    println!("{} {} {} {}", count as u64 / load.seconds, quantile(0.5), quantile(0.99), all.errors);
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(load) = Load::of_arguments(std::env::args().skip(1)) else {
        eprintln!(
            "sealog-perf-load etcd|nats --servers HOST:PORT,… --connections N --inflight N --seconds S --size BYTES"
        );
        return ExitCode::from(2);
    };
    let ran = match &*load.system {
        "etcd" => etcd::run(&load).await,
        "nats" => nats::run(&load).await,
        other => Err(format!("no load for '{other}': etcd or nats").into()),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", load.system);
            ExitCode::FAILURE
        }
    }
}
