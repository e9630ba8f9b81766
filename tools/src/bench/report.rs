//! What a run ends with.

use std::time::Duration;

use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::bench::CpuTimes;
use crate::bench::beside::BesideReport;
use crate::bench::faults::Gaps;
use crate::bench::measure::{Tally, max_us, quantile_us};
use crate::bench::mix::Mode;

/// One object of JSON, or a table for people.
#[derive(Debug, Serialize)]
pub struct Report {
    mode: &'static str,
    ops: u64,
    ops_per_s: f64,
    bytes: u64,
    bytes_per_s: f64,
    errors: u64,
    /// Reads that found no record.
    #[serde(skip_serializing_if = "is_zero")]
    empty: u64,
    retries: u64,
    unknown: u64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    p9999_us: f64,
    max_us: f64,
    durability: &'static str,
    duration_s: f64,
    connections: u32,
    inflight: u32,
    size: usize,
    threads: u32,
    logbooks: u32,
    tags: u32,
    /// CPU time of the generator, all threads, and what of it an append took.
    client_cpu_s: f64,
    client_cpu_us_per_op: f64,
    /// The same of the node, when it runs on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cpu_us_per_op: Option<f64>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<BesideReport>,
    /// What faults did to the acknowledgements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaps: Option<Gaps>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// What `--verify` looked at.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub ok: bool,
    /// Records that were read back.
    pub records: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub unknown_visible: u64,
}

impl Report {
    pub fn new(arguments: &BenchArguments, tally: &Tally, measured: Duration, cpu: CpuTimes) -> Report {
        let (seconds, latency_ns) = (measured.as_secs_f64(), &tally.latency_ns);
        let ops = latency_ns.len();
        Report {
            mode: if arguments.mode == Mode::Read { "read" } else { "closed" },
            ops,
            ops_per_s: rounded(ops as f64 / seconds),
            bytes: tally.bytes,
            bytes_per_s: rounded(tally.bytes as f64 / seconds),
            errors: tally.errors,
            empty: tally.empty,
            retries: tally.retries,
            unknown: tally.unknown,
            mean_us: rounded(latency_ns.mean() / 1e3),
            p50_us: quantile_us(latency_ns, 0.5),
            p90_us: quantile_us(latency_ns, 0.9),
            p99_us: quantile_us(latency_ns, 0.99),
            p999_us: quantile_us(latency_ns, 0.999),
            p9999_us: quantile_us(latency_ns, 0.9999),
            max_us: max_us(latency_ns),
            durability: tally.durability.map_or("none", |durability| durability.name()),
            duration_s: rounded(seconds),
            connections: arguments.connections,
            inflight: arguments.inflight,
            size: arguments.size,
            threads: arguments.threads,
            logbooks: arguments.logbooks,
            tags: arguments.tags,
            client_cpu_s: rounded(cpu.client.as_secs_f64()),
            client_cpu_us_per_op: us_per_op(cpu.client, ops),
            server_cpu_s: cpu.server.map(|server| rounded(server.as_secs_f64())),
            server_cpu_us_per_op: cpu.server.map(|server| us_per_op(server, ops)),
            version: env!("CARGO_PKG_VERSION"),
            beside: None,
            gaps: None,
            verified: None,
        }
    }

    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} {} of {} bytes in {} s: {} a second, {:.1} MB/s, durability {}\n\
             {} connections × {} in flight; errors {}, unknown {}, retries {}\n\
             latency µs   p50 {}   p90 {}   p99 {}   p99.9 {}   p99.99 {}   max {}\n\
             CPU          client {} s, {} µs an operation",
            self.ops,
            if self.mode == "read" { "reads" } else { "appends" },
            self.size,
            self.duration_s,
            self.ops_per_s,
            self.bytes_per_s / 1e6,
            self.durability,
            self.connections,
            self.inflight,
            self.errors,
            self.unknown,
            self.retries,
            self.p50_us,
            self.p90_us,
            self.p99_us,
            self.p999_us,
            self.p9999_us,
            self.max_us,
            self.client_cpu_s,
            self.client_cpu_us_per_op,
        );
        if let (Some(seconds), Some(us_per_op)) = (self.server_cpu_s, self.server_cpu_us_per_op) {
            text.push_str(&format!("; node {seconds} s, {us_per_op} µs an operation"));
        }
        if self.empty > 0 {
            text.push_str(&format!("\n{} reads found no record", self.empty));
        }
        if let Some(beside) = &self.beside {
            text.push_str(&beside.table());
        }
        if let Some(gaps) = &self.gaps {
            text.push_str(&gaps.table());
        }
        if let Some(verified) = &self.verified {
            let verdict = if verified.ok { "nothing lost, repeated or out of order" } else { "FAILED" };
            text.push_str(&format!(
                "\nverified     {verdict}: {} records read back, {} acknowledged, {} of {} unknown ones visible",
                verified.records, verified.acknowledged, verified.unknown_visible, verified.unknown
            ));
        }
        text
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn us_per_op(cpu: Duration, ops: u64) -> f64 {
    if ops == 0 { 0.0 } else { (cpu.as_secs_f64() * 1e8 / ops as f64).round() / 100.0 }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
