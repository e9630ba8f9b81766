//! The node under load, when it is a process of this machine: how much CPU time it takes.

use std::time::Duration;

use sealog::blocking::Client;

use crate::arguments::BenchArguments;

/// Linux counts CPU time for /proc in these, whatever the kernel's own tick is.
const TICKS_PER_SECOND: u64 = 100;

/// A process, by what it is called and by its id: ids of another machine, or of another container,
/// name something else here.
#[derive(Clone, Copy, Debug)]
pub struct ServerProcess {
    id: u64,
}

impl ServerProcess {
    /// The node's process as its status names it, if that is a Sealog of this machine.
    pub fn find(arguments: &BenchArguments) -> Option<ServerProcess> {
        let client = Client::builder().deadline(arguments.client.deadline).connect(&arguments.client.connect).ok()?;
        let status: serde_json::Value = serde_json::from_str(&client.status().ok()?).ok()?;
        let process = ServerProcess { id: status["process"].as_u64()? };
        let name = std::fs::read_to_string(format!("/proc/{}/comm", process.id)).ok()?;
        name.starts_with("sealog").then_some(process)
    }

    /// User and system time of all its threads.
    pub fn cpu_time(self) -> Option<Duration> {
        parse(&std::fs::read_to_string(format!("/proc/{}/stat", self.id)).ok()?)
    }
}

/// Fields 14 and 15 of proc(5)'s stat; the second one, a name in parentheses, may hold anything.
fn parse(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "4711 (a (strange) name) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 4 0 100 1 1";
        assert_eq!(parse(stat), Some(Duration::from_secs(4)));
        assert_eq!(parse("4711 (short) S 1"), None);
    }
}
