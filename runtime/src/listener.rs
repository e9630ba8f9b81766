//! Listening sockets, TCP and Unix: bound before anything else, so that a taken port is told at
//! once; accepted from when the host is there.

#![allow(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::Listen;
use crate::error::StartError;

/// Connections that wait to be accepted, at most (the kernel's own limit permitting).
const BACKLOG: i32 = 1024;

/// A silent TCP peer is asked for a sign of life after so long, then so often, so many times.
const KEEPALIVE_IDLE_S: i32 = 60;
const KEEPALIVE_INTERVAL_S: i32 = 10;
const KEEPALIVE_PROBES: i32 = 6;

/// How long an address may be taken before that is an error. What a killed process had in its ring,
/// its sockets among it, the kernel closes a moment after the process is gone.
const TAKEN_PATIENCE: Duration = Duration::from_secs(2);
const TAKEN_PAUSE: Duration = Duration::from_millis(10);

/// A bound socket.
pub(crate) struct Listener {
    socket: OwnedFd,
    address: Listen,
    /// A socket file to be removed at the end.
    path: Option<PathBuf>,
}

impl Listener {
    pub fn bind(listen: &Listen) -> Result<Listener, StartError> {
        let failed = |source: io::Error| StartError::Listen { address: listen.clone(), hint: hint(&source), source };
        let (socket, address, path) = match listen {
            Listen::Tcp(address) => {
                let socket = patiently(|| TcpListener::bind(address)).map_err(failed)?;
                let address = Listen::Tcp(socket.local_addr().map_err(failed)?);
                // Accepted sockets inherit it.
                set_options(socket.as_raw_fd()).map_err(failed)?;
                (OwnedFd::from(socket), address, None)
            }
            Listen::Unix(path) => {
                let socket = patiently(|| bind_unix(path)).map_err(failed)?;
                (socket, listen.clone(), Some(path.clone()))
            }
        };
        // SAFETY: a socket that is ours.
        if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Listener { socket, address, path })
    }

    /// Where it really listens.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // It may be gone already: nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The socket of a connection that was accepted.
pub(crate) fn accepted(descriptor: RawFd) -> OwnedFd {
    assert!(descriptor >= 0, "an accepted connection has a descriptor");
    // SAFETY: the kernel has just made it for us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Ends both directions: operations in flight on it complete.
pub(crate) fn shut_down(socket: &OwnedFd) {
    // SAFETY: a socket that is ours. It may be unconnected already: nothing is to be done then.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Ends the sending direction: the peer reads what was sent, then the end.
pub(crate) fn shut_down_sending(socket: &OwnedFd) {
    // SAFETY: a socket that is ours. It may be unconnected already: nothing is to be done then.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < TAKEN_PATIENCE => {
                std::thread::sleep(TAKEN_PAUSE);
            }
            result => return result,
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        std::fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket.into())
}

/// Answers go out at once, and peers that vanished without a word are found out: a waiting reader
/// is silent for as long as it likes, and no deadline of ours could tell it from a dead machine.
pub(crate) fn set_options(socket: RawFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES)
}

fn set_option(socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(socket, level, option, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ". Another program, perhaps another Sealog node, listens there: stop it, or choose another address with --listen"
        }
        io::ErrorKind::AddrNotAvailable => ". This machine has no such address: choose another one with --listen",
        io::ErrorKind::PermissionDenied => ". Ports below 1024 need privileges: choose another one with --listen",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_what_to_do() {
        let first = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("a free port");
        let error = Listener::bind(first.address()).err().expect("it is taken").to_string();
        assert!(error.contains("listens there") && error.contains("--listen"), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
        let path = std::env::temp_dir().join(format!("sealog-listener-{}", std::process::id()));
        drop(UnixListener::bind(&path).expect("a fresh path"));
        let listen = Listen::Unix(path.clone());
        let living = Listener::bind(&listen).expect("nobody listens any more");
        assert!(Listener::bind(&listen).is_err());
        drop(living);
        assert!(!path.exists());
    }
}
