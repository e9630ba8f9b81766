//! What a node needs from its machine, tried out before anything is started, with what to do about
//! what is missing.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use crate::error::StartError;
use crate::journal_io::probe_direct;
use crate::ring::Ring;

/// Below, glommio refuses to make its rings.
const LOCKED_BYTES_MIN: u64 = 512 << 10;

/// Tries out io_uring, locked memory, and O_DIRECT in `data`; how many files may be open at once.
pub(crate) fn check(data: &Path) -> Result<u64, StartError> {
    check_locked_memory()?;
    check_ring()?;
    check_direct_io(data)?;
    Ok(raise_limit(libc::RLIMIT_NOFILE, libc::rlim_t::MAX))
}

pub(crate) fn check_direct_io(data: &Path) -> Result<(), StartError> {
    probe_direct(data).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => StartError::DirectIo { path: data.to_owned(), source },
        _ => StartError::Directory { path: data.to_owned(), source },
    })
}

/// The limit of locked memory, raised if it must and may be.
pub(crate) fn check_locked_memory() -> Result<u64, StartError> {
    let limit_bytes = raise_limit(libc::RLIMIT_MEMLOCK, LOCKED_BYTES_MIN);
    if limit_bytes < LOCKED_BYTES_MIN {
        let needed_bytes = LOCKED_BYTES_MIN;
        return Err(StartError::LockedMemory { limit_bytes, needed_bytes, needed_kib: needed_bytes >> 10 });
    }
    Ok(limit_bytes)
}

/// Raises a limit of this process as far as it may, to `wanted` at most; what it is then.
pub(crate) fn raise_limit(resource: libc::__rlimit_resource_t, wanted: libc::rlim_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it fills the struct, which lives through the call.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return u64::MAX;
    }
    if limit.rlim_cur < wanted {
        let raised = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max).max(limit.rlim_cur), ..limit };
        // SAFETY: it reads the struct, which lives through the call.
        if unsafe { libc::setrlimit(resource, &raised) } == 0 {
            limit = raised;
        }
    }
    limit.rlim_cur
}

pub(crate) fn check_ring() -> Result<(), StartError> {
    match Ring::new() {
        Ok(_) => Ok(()),
        Err(source) => Err(StartError::RingRefused { reason: why_refused(&source), source }),
    }
}

/// Why the kernel refuses io_uring, as far as it tells.
fn why_refused(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    explain(error, disabled.trim(), &status)
}

fn explain(error: &io::Error, disabled: &str, status: &str) -> String {
    let filtered = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).is_some_and(|mode| mode.trim() == "2");
    match (error.raw_os_error(), disabled) {
        (Some(libc::ENOSYS), _) => "This kernel has no io_uring: Linux 6.1 or newer is needed".to_owned(),
        (_, "2") => "The system has it switched off: `sysctl kernel.io_uring_disabled=0` switches it on".to_owned(),
        (Some(libc::EPERM), "1") => "The system allows it to a group alone: add this user to the group of \
             /proc/sys/kernel/io_uring_group, or `sysctl kernel.io_uring_disabled=0`"
            .to_owned(),
        (Some(libc::EPERM | libc::EACCES), _) if filtered => {
            "A seccomp filter forbids it, as those of docker and podman do: run the container with \
             `--security-opt seccomp=unconfined`, or with a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "The limit of locked memory is too low: raise it (`ulimit -l unlimited`, LimitMEMLOCK= in a systemd unit)"
                .to_owned()
        }
        (Some(libc::EINVAL), _) => "This kernel's io_uring is too old: Linux 6.1 or newer is needed".to_owned(),
        _ => "The kernel does not say why (dmesg may)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do_about_each_refusal() {
        let error = io::Error::from_raw_os_error;
        let cases = [
            (error(libc::ENOSYS), "", "", "6.1"),
            (error(libc::EPERM), "2", "", "io_uring_disabled=0"),
            (error(libc::EPERM), "1", "", "io_uring_group"),
            (error(libc::EPERM), "0", "Name:\tx\nSeccomp:\t2\n", "seccomp=unconfined"),
            (error(libc::ENOMEM), "0", "", "ulimit -l"),
        ];
        for (error, disabled, status, expected) in cases {
            let reason = explain(&error, disabled, status);
            assert!(reason.contains(expected), "{error}: {reason}");
        }
    }
}
