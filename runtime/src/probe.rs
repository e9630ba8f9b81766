//! What a machine offers a node, found out by doing it: for `sealog doctor`.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use sealog_journal::{ALIGNMENT, BlockBuffer};

use crate::checks::{check_direct_io, check_locked_memory, check_ring, raise_limit};
use crate::error::StartError;

/// What the kernel calls its rings.
pub const RING_NAME: &str = "io_uring";

/// Makes an io_uring as an executor does.
///
/// # Errors
/// Why the kernel refuses it, and what to do.
pub fn ring() -> Result<(), StartError> {
    check_ring()
}

/// The limit of locked memory, in bytes.
///
/// # Errors
/// When it is too low for a node.
pub fn locked_memory() -> Result<u64, StartError> {
    check_locked_memory()
}

/// Writes a page past the page cache in this directory.
///
/// # Errors
/// When the file system can't, or the directory can't be written to.
pub fn direct_io(directory: &Path) -> Result<(), StartError> {
    check_direct_io(directory)
}

/// Listens on an address, for a moment.
///
/// # Errors
/// When it is taken, or not ours.
pub fn port(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// So many ports of a host that are free just now, each another.
///
/// # Errors
/// The host is not ours, or it has no free port.
pub fn free_ports(host: &str, count: usize) -> io::Result<Vec<u16>> {
    // Held until all are found, so that none is found twice.
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind((host, 0))).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Files that this process may have open.
pub fn open_files_max() -> u64 {
    raise_limit(libc::RLIMIT_NOFILE, libc::rlim_t::MAX)
}

/// Cores that this process may use and be pinned to, each tried.
pub fn cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // On a thread of its own: the caller's stays where it is.
    let tried = std::thread::spawn(move || {
        cores.into_iter().filter(|core| core_affinity::set_for_current(*core)).map(|core| core.id).collect()
    });
    tried.join().unwrap_or_default()
}

/// How long each of so many durable writes of 4096 bytes took, one after the other, in a file that
/// was zeroed before: the way of the journal.
///
/// # Errors
/// When the directory can't be written to in this way.
pub fn flush_latency(directory: &Path, writes: usize) -> io::Result<Vec<Duration>> {
    let path = directory.join(format!("sealog-doctor-{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path)?;
    // Nobody else needs the name; the space goes with the descriptor.
    std::fs::remove_file(&path)?;
    let page = BlockBuffer::zeroed(ALIGNMENT);
    for nth in 0..writes {
        write_durably(&file, &page, nth, 0)?;
    }
    file.sync_all()?;
    let timed = |nth| {
        let started = Instant::now();
        write_durably(&file, &page, nth, libc::RWF_DSYNC).map(|()| started.elapsed())
    };
    (0..writes).map(timed).collect()
}

fn write_durably(file: &File, page: &[u8], nth: usize, flags: libc::c_int) -> io::Result<()> {
    let part = libc::iovec { iov_base: page.as_ptr().cast_mut().cast(), iov_len: page.len() };
    let offset = (nth * page.len()) as libc::off_t;
    // SAFETY: one part, whose memory lives through the call and is only read.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, offset, flags) };
    match usize::try_from(written) {
        Ok(bytes) if bytes == page.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
