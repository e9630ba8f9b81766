//! A TAP device: what the kernel sends on it is read from its descriptor, what is written is received
//! by the kernel. It is gone when its descriptor is, in whichever namespace it is by then.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use thiserror::Error;

const DEVICE: &str = "/dev/net/tun";
/// linux/if_tun.h: gives a descriptor of [`DEVICE`] its device. It is declared with an int, and takes
/// a struct ifreq.
const TUNSETIFF: Opcode = opcode::write::<libc_int>(b'T', 202);
/// Frames with their Ethernet headers, and nothing before them.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// Of a name, with the zero that ends it.
const NAME_BYTES_MAX: usize = 16;

#[expect(non_camel_case_types, reason = "C's int, whose size is in the request's number")]
type libc_int = i32;

/// struct ifreq of linux/if.h, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES_MAX],
    flags: u16,
    rest: [u8; 22],
}

/// Why there is no device.
#[derive(Debug, Error)]
pub(crate) enum TapError {
    /// Another process has the device of this name.
    #[error("it is in use")]
    InUse,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tap(File);

impl Tap {
    /// Makes a device of this name in the namespace of this thread, down and without an address.
    pub fn create(name: &str) -> Result<Tap, TapError> {
        assert!(name.len() < NAME_BYTES_MAX, "{name} is too long for a device");
        let file = File::options().read(true).write(true).open(DEVICE)?;
        let mut request = InterfaceRequest { name: [0; NAME_BYTES_MAX], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads (and writes) one struct ifreq of 40 bytes, which is what it is given,
        // in memory that lives until the call returns.
        let made = unsafe { ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) };
        match made.map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(TapError::InUse),
            Err(error) => return Err(error.into()),
        }
        let flags = fcntl_getfl(&file).map_err(io::Error::from)?;
        fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(Tap(file))
    }

    /// A frame that the kernel sent; `None` if there is none now.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.0).read(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the kernel a frame. One that it can't take now is lost, as on a wire.
    pub fn write(&self, frame: &[u8]) {
        let _ = (&self.0).write(frame);
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
