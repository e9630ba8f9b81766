//! A socket that calls another node, and the address in the form that the kernel wants.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::config::Listen;
use crate::listener::set_options;

/// Where to call.
pub(crate) enum SocketAddress {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
    Unix(libc::sockaddr_un),
}

impl SocketAddress {
    /// # Errors
    /// When a Unix socket's path is too long for one.
    pub fn new(address: &Listen) -> io::Result<SocketAddress> {
        match address {
            Listen::Tcp(SocketAddr::V4(address)) => Ok(SocketAddress::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            })),
            Listen::Tcp(SocketAddr::V6(address)) => Ok(SocketAddress::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            })),
            Listen::Unix(path) => {
                let bytes = path.as_os_str().as_bytes();
                let mut address =
                    libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
                // The last byte stays zero: it ends the path.
                if bytes.len() >= address.sun_path.len() {
                    return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
                }
                for (to, from) in address.sun_path.iter_mut().zip(bytes) {
                    *to = *from as libc::c_char;
                }
                Ok(SocketAddress::Unix(address))
            }
        }
    }

    /// Where it lies and how long it is. Valid as long as `self` lives, unmoved.
    pub fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        let (address, bytes) = match self {
            SocketAddress::V4(address) => ((&raw const *address).cast(), size_of_val(address)),
            SocketAddress::V6(address) => ((&raw const *address).cast(), size_of_val(address)),
            SocketAddress::Unix(address) => ((&raw const *address).cast(), size_of_val(address)),
        };
        (address, bytes as libc::socklen_t)
    }

    /// A socket that can call it.
    ///
    /// # Errors
    /// When the system has none.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let family = match self {
            SocketAddress::V4(_) => libc::AF_INET,
            SocketAddress::V6(_) => libc::AF_INET6,
            SocketAddress::Unix(_) => libc::AF_UNIX,
        };
        // SAFETY: makes a descriptor, which is checked and then owned.
        let descriptor = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made for us.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        if family != libc::AF_UNIX {
            set_options(socket.as_raw_fd())?;
        }
        Ok(socket)
    }
}
