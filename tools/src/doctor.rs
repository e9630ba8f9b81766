//! `sealog doctor`: whether a node can run here, found out by doing what it does.

use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use sealog::blocking::Client;
use sealog_node::directory::{DataDirectory, DirectoryError, Look};
use sealog_node::probe;
use sealog_node::settings::{LISTEN_DEFAULT, Settings};
use serde::Serialize;

use crate::arguments::DoctorArguments;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Durable writes that the latency of a flush is told from.
const FLUSHES: usize = 64;
/// A medium that is durable in less is one that does not say the truth, or has its own battery.
const FLUSH_TOO_FAST: Duration = Duration::from_micros(15);
/// Above, every append waits long: a disk that spins, or a network one.
const FLUSH_SLOW: Duration = Duration::from_millis(5);
/// Two prepared segments, one in use, and what a start needs.
const SPACE_BYTES_MIN: u64 = 512 << 20;
const OPEN_FILES_MIN: u64 = 4096;
/// The oldest kernel that the tests ran on.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// 2024-01-01: a clock that is earlier was never set.
const CLOCK_MIN: Duration = Duration::from_secs(1_704_067_200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// A node runs, and not as it could.
    Warn,
    /// A node does not run.
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    found: String,
    /// What to do; none when all is well.
    fix: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { check, status: Status::Ok, found: found.into(), fix: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { check, status: Status::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { check, status: Status::Fail, found: found.into(), fix: Some(fix.into()) }
    }

    /// An error of the node says what happened and what to do in one sentence.
    fn refused(check: &'static str, error: &impl ToString) -> Check {
        Check::fail(check, "refused", error.to_string())
    }

    fn row(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        let fix = self.fix.as_ref().map(|fix| format!("\n{:23}{fix}", "")).unwrap_or_default();
        format!("{:16}  {status:4} {}{fix}", self.check, self.found)
    }
}

pub fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let defaults = Settings::default();
    let data = arguments.data.clone().unwrap_or(defaults.data);
    let listen = arguments.listen.clone().unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
    // What a node would make is made nowhere yet: its directory's is tried.
    let directory = existing(&data);
    let checks = [
        kernel(),
        ring(),
        locked_memory(),
        open_files(),
        cores(),
        clock(),
        data_directory(&data),
        direct_io(&directory),
        space(&directory),
        flush(&directory),
        port(&listen),
    ];
    let mut output = Output::new(arguments.format.output);
    for check in &checks {
        output.line(check, Check::row)?;
    }
    output.flush()?;
    let failed = checks.iter().filter(|check| check.status == Status::Fail).count();
    match failed {
        0 => Ok(()),
        _ => {
            Err(Failure::new(Kind::Other, format!("{failed} of {} checks failed: no node runs here yet", checks.len())))
        }
    }
}

fn existing(data: &Path) -> PathBuf {
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let found = absolute.ancestors().find(|path| path.is_dir());
    found.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_MIN => Check::ok("kernel", format!("Linux {release}")),
        _ => Check::fail("kernel", format!("Linux {release}"), "Linux 6.1 or newer is needed: upgrade the system"),
    }
}

fn ring() -> Check {
    match probe::ring() {
        Ok(()) => Check::ok(probe::RING_NAME, "a ring was made"),
        Err(error) => Check::refused(probe::RING_NAME, &error),
    }
}

fn locked_memory() -> Check {
    match probe::locked_memory() {
        Ok(u64::MAX) => Check::ok("locked memory", "no limit"),
        Ok(bytes) => Check::ok("locked memory", format!("up to {}", ByteSize(bytes).display().iec())),
        Err(error) => Check::refused("locked memory", &error),
    }
}

fn open_files() -> Check {
    match probe::open_files_max() {
        files if files >= OPEN_FILES_MIN => Check::ok("open files", format!("up to {files}")),
        files => Check::warn(
            "open files",
            format!("up to {files}, one for each connection and segment"),
            format!("raise the limit: `ulimit -n {OPEN_FILES_MIN}`, or LimitNOFILE= in a systemd unit"),
        ),
    }
}

fn cores() -> Check {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let pinned = probe::cores().len();
    match pinned {
        0 => Check::warn(
            "cores",
            format!("{allowed}, and none to be pinned to"),
            "executors then move between cores and never spin: allow sched_setaffinity",
        ),
        1 => Check::warn("cores", "1, which clients share", "give the node a second core: it is faster by half"),
        _ => Check::ok("cores", format!("{pinned}, each to be pinned to")),
    }
}

fn clock() -> Check {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|_| "unknown".to_owned());
    let source = source.trim();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    if since < CLOCK_MIN {
        let fix = "set the clock, for example with `timedatectl set-ntp true`: records carry the time";
        return Check::warn("clock", format!("{now}"), fix);
    }
    match source {
        "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page" => {
            Check::ok("clock", format!("{now}, read from {source}"))
        }
        _ => Check::warn(
            "clock",
            format!("{now}, read from {source}"),
            "reading it is slow: see /sys/devices/system/clocksource/clocksource0/available_clocksource",
        ),
    }
}

fn data_directory(data: &Path) -> Check {
    const NAME: &str = "data directory";
    match DataDirectory::look(data) {
        Ok(Look::Absent) => Check::ok(NAME, format!("{} would be made", data.display())),
        Ok(Look::Idle(identity)) => {
            Check::ok(NAME, format!("{}, of node {}, not in use", data.display(), identity.node))
        }
        Err(error @ DirectoryError::InUse { .. }) => Check::warn(NAME, "in use", error.to_string()),
        Err(error) => Check::refused(NAME, &error),
    }
}

fn direct_io(directory: &Path) -> Check {
    match probe::direct_io(directory) {
        Ok(()) => Check::ok("O_DIRECT", format!("a page was written in {}", directory.display())),
        Err(error) => Check::refused("O_DIRECT", &error),
    }
}

fn space(directory: &Path) -> Check {
    let space = match rustix::fs::statvfs(directory) {
        Ok(space) => space.f_bavail * space.f_frsize,
        Err(error) => return Check::refused("space", &io::Error::from(error)),
    };
    let found = format!("{} free in {}", ByteSize(space).display().iec(), directory.display());
    match space {
        SPACE_BYTES_MIN.. => Check::ok("space", found),
        _ => Check::warn("space", found, "appends are refused when it is used up: free some, or use another --data"),
    }
}

fn flush(directory: &Path) -> Check {
    const NAME: &str = "disk flush";
    let mut times = match probe::flush_latency(directory, FLUSHES) {
        Ok(times) => times,
        Err(error) => {
            return Check::fail(
                NAME,
                format!("{error}"),
                format!("make {} writable, on a file system with O_DIRECT such as ext4 or xfs", directory.display()),
            );
        }
    };
    times.sort_unstable();
    let (median, slow) = (times[FLUSHES / 2], times[FLUSHES * 99 / 100]);
    let found = format!("p50 {} µs, p99 {} µs of {FLUSHES} writes of 4 KiB", median.as_micros(), slow.as_micros());
    if median < FLUSH_TOO_FAST {
        let fix = "faster than a disk can be: make sure that it does not acknowledge from a cache that power loss \
                   empties (`cat /sys/block/*/queue/write_cache`; a RAID controller needs its battery)";
        Check::warn(NAME, found, fix)
    } else if median > FLUSH_SLOW {
        Check::warn(NAME, found, "every append waits so long: use an SSD or NVMe disk of this machine")
    } else {
        Check::ok(NAME, found)
    }
}

fn port(listen: &str) -> Check {
    let address = match listen.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return Check::fail("port", listen, format!("name an address such as {LISTEN_DEFAULT}")),
        Err(error) => {
            return Check::fail("port", format!("{listen}: {error}"), format!("write it as {LISTEN_DEFAULT}"));
        }
    };
    let error = match probe::port(address) {
        Ok(()) => return Check::ok("port", format!("{listen} is free")),
        Err(error) => error,
    };
    let is_sealog = Client::builder().deadline(Duration::from_secs(2)).connect(listen).is_ok();
    match is_sealog {
        true => Check::warn("port", format!("{listen} is a running node's"), "stop it, or give another --listen"),
        false => Check::fail("port", format!("{listen}: {error}"), "end what listens there, or give another --listen"),
    }
}
