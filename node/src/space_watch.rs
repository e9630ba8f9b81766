//! How full the disk budget and the disk are: said in the log when a level is reached, and in the
//! status, for appends are refused when nothing is left, and trims take a while to give space back.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealog_runtime::JournalWatch;
use serde_json::{Value, json};

/// In 100 that are used: the levels of warning.
pub const LOW_PERCENT: u64 = 80;
pub const CRITICAL_PERCENT: u64 = 95;
/// A level ends so far below where it began: what goes up and down around it is said once.
const LEVEL_ENDS_BELOW_PERCENT: u64 = 3;
/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How much room is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceLevel {
    #[default]
    Fine,
    Low,
    Critical,
}

impl SpaceLevel {
    /// The level at so much, if it was `self` before.
    fn next(self, percent: u64) -> SpaceLevel {
        let begins = |level, at| {
            let at = if self >= level { at - LEVEL_ENDS_BELOW_PERCENT } else { at };
            percent >= at
        };
        if begins(SpaceLevel::Critical, CRITICAL_PERCENT) {
            SpaceLevel::Critical
        } else if begins(SpaceLevel::Low, LOW_PERCENT) {
            SpaceLevel::Low
        } else {
            SpaceLevel::Fine
        }
    }

    fn name(self) -> &'static str {
        match self {
            SpaceLevel::Fine => "fine",
            SpaceLevel::Low => "low",
            SpaceLevel::Critical => "critical",
        }
    }
}

/// Something that can be used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gauge {
    used_bytes: u64,
    bytes: u64,
    percent: u64,
    level: SpaceLevel,
}

impl Gauge {
    /// Takes a reading; whether it is another level now.
    fn set(&mut self, used_bytes: u64, bytes: u64, percent: u64) -> bool {
        let level = self.level.next(percent);
        let before = std::mem::replace(self, Gauge { used_bytes, bytes, percent, level });
        before.level != level
    }

    fn status(&self) -> Value {
        json!({
            "used_bytes": self.used_bytes,
            "bytes": self.bytes,
            "percent": self.percent,
            "level": self.level.name(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Gauges {
    budget: Gauge,
    disk: Gauge,
}

/// What was seen at the last look.
#[derive(Debug)]
pub struct SpaceWatch {
    data: PathBuf,
    segment_bytes: u64,
    /// Of each journal; 0: there is no budget.
    segments_max: u64,
    gauges: Mutex<Gauges>,
}

impl SpaceWatch {
    pub fn new(data: PathBuf, segment_bytes: u64, segments_max: usize) -> SpaceWatch {
        SpaceWatch { data, segment_bytes, segments_max: segments_max as u64, gauges: Mutex::default() }
    }

    /// For the status: `null` for a budget that there is not, or a disk that cannot be asked.
    pub fn status(&self) -> Value {
        let gauges = *self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |gauge: Gauge| if gauge.bytes == 0 { Value::Null } else { gauge.status() };
        json!({ "budget": known(gauges.budget), "disk": known(gauges.disk) })
    }

    fn look(&self, journals: &[JournalWatch]) {
        let mut gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if self.segments_max > 0 {
            let segments: Vec<u64> = journals.iter().map(|journal| journal.status().segments).collect();
            // Each journal has its part, and refuses appends when that is used up.
            let fullest = segments.iter().copied().max().unwrap_or_default();
            let used_bytes = segments.iter().sum::<u64>() * self.segment_bytes;
            let bytes = self.segments_max * segments.len() as u64 * self.segment_bytes;
            if gauges.budget.set(used_bytes, bytes, fullest * 100 / self.segments_max) {
                say(&gauges.budget, "disk_budget", "trim, set retention, or raise disk_budget");
            }
        }
        if let Ok(disk) = rustix::fs::statvfs(&self.data) {
            let used = disk.f_blocks.saturating_sub(disk.f_bfree);
            // What is kept for root counts neither as used nor as free: it is not for us.
            let blocks = used + disk.f_bavail;
            let percent = used * 100 / blocks.max(1);
            if gauges.disk.set(used * disk.f_frsize, blocks * disk.f_frsize, percent) {
                say(&gauges.disk, "disk", "trim, or free space on the disk");
            }
        }
    }
}

/// A level was reached, or left.
fn say(gauge: &Gauge, what: &'static str, fix: &'static str) {
    let Gauge { used_bytes, bytes, percent, .. } = *gauge;
    match gauge.level {
        SpaceLevel::Fine => tracing::info!(what, percent, used_bytes, bytes, "there is room again"),
        SpaceLevel::Low => {
            tracing::warn!(
                what,
                percent,
                used_bytes,
                bytes,
                fix,
                "space runs low: appends are refused when it is used up"
            );
        }
        SpaceLevel::Critical => {
            tracing::error!(
                what,
                percent,
                used_bytes,
                bytes,
                fix,
                "space is all but used up: appends are refused soon"
            );
        }
    }
}

/// Looks now and then, until this is dropped.
pub struct SpaceLooks {
    _stop: Sender<()>,
}

impl SpaceLooks {
    /// # Errors
    /// When there can be no thread.
    pub fn start(watch: Arc<SpaceWatch>, journals: Arc<[JournalWatch]>) -> std::io::Result<SpaceLooks> {
        let (stop, stopped) = channel();
        let looks = move || look_until(&stopped, &watch, &journals);
        std::thread::Builder::new().name("sealog-space".to_owned()).spawn(looks)?;
        Ok(SpaceLooks { _stop: stop })
    }
}

fn look_until(stopped: &Receiver<()>, watch: &SpaceWatch, journals: &[JournalWatch]) {
    loop {
        watch.look(journals);
        if stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_said_once_where_it_begins_and_ends_below() {
        let mut gauge = Gauge::default();
        let readings = [0, 79, 80, 79, 81, 77, 76, 80, 94, 95, 99, 93, 92, 91, 96, 10];
        let said: Vec<(u64, &str)> = readings
            .into_iter()
            .filter_map(|percent| gauge.set(percent, 100, percent).then_some((percent, gauge.level.name())))
            .collect();
        let expected =
            [(80, "low"), (76, "fine"), (80, "low"), (95, "critical"), (91, "low"), (96, "critical"), (10, "fine")];
        assert_eq!(said, expected);
    }

    #[test]
    fn the_disk_is_measured_and_a_budget_only_where_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let watch = SpaceWatch::new(directory.path().to_owned(), 4096, 0);
        assert_eq!(watch.status(), json!({ "budget": null, "disk": null }));
        watch.look(&[]);
        let status = watch.status();
        assert!(status["disk"]["bytes"].as_u64() > Some(1 << 20), "{status}");
        assert_eq!(status["budget"], Value::Null);
        let watch = SpaceWatch::new(directory.path().to_owned(), 4096, 10);
        watch.look(&[JournalWatch::default()]);
        assert_eq!(
            watch.status()["budget"],
            json!({ "used_bytes": 0, "bytes": 40_960, "percent": 0, "level": "fine" })
        );
    }
}
