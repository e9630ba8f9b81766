//! The system's tools: mount, umount, losetup, mkfs.ext4, ip.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

/// Why a disk could not be set up or taken down.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error("{program} is missing: run ./test, or install the Debian package {package}")]
    Missing { program: &'static str, package: &'static str },
    #[error("{command} failed (root, loop devices and network namespaces are needed): {message}")]
    Failed { command: String, message: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} cannot be mounted by FUSE (root and /dev/fuse are needed): {source}")]
    Fuse { path: PathBuf, source: io::Error },
    #[error("{device} cannot be made (root and /dev/net/tun are needed): {source}")]
    Tap { device: String, source: io::Error },
    #[error("{device} does no direct I/O: a page cache between would hide what was not flushed")]
    NoDirectIo { device: String },
}

impl CommandError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> CommandError {
        let path = path.to_owned();
        |source| CommandError::File { path, source }
    }
}

fn package(program: &str) -> &'static str {
    match program {
        "mkfs.ext4" => "e2fsprogs",
        "ip" => "iproute2",
        "losetup" | "mount" | "umount" => "mount",
        _ => "util-linux",
    }
}

/// Runs a tool to its end; what it printed.
pub(crate) fn run(program: &'static str, arguments: &[&OsStr]) -> Result<String, CommandError> {
    let mut command = Command::new(program);
    // Administration tools are not in everyone's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(arguments).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CommandError::Missing { program, package: package(program) });
        }
        Err(error) => {
            return Err(CommandError::Failed { command: format!("{command:?}"), message: error.to_string() });
        }
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CommandError::Failed { command: format!("{command:?}"), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Makes an ext4 on a device or file. Nothing is left to be initialised in the background, so that
/// what is written later was written by the program under test.
pub(crate) fn make_ext4(target: &Path) -> Result<(), CommandError> {
    let options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    let arguments = ["-q", "-F", "-m", "0", "-N", "1024", "-J", "size=8", "-b", "4096", "-E", options];
    let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    arguments.push(target.as_os_str());
    run("mkfs.ext4", &arguments).map(drop)
}

/// Makes an empty directory for a disk. What an earlier run left there, killed before it could
/// clean up, is unmounted and deleted first.
pub(crate) fn fresh_directory(directory: &Path) -> Result<(), CommandError> {
    unmount_all_below(directory);
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(CommandError::File { path: directory.to_owned(), source }),
    }
    fs::create_dir_all(directory).map_err(CommandError::file(directory))
}

/// Unmounts whatever is mounted below a directory, the newest first, even while it is in use.
pub(crate) fn unmount_all_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for line in mounts.lines().rev() {
        let Some(point) = line.split(' ').nth(1) else { continue };
        // The kernel writes a space of a path as \040.
        let point = point.replace("\\040", " ");
        if Path::new(&point).starts_with(&directory) {
            // Nothing can be done about a failure here; mounting again will report it.
            let _ = run("umount", &[OsStr::new("-l"), OsStr::new(&point)]);
        }
    }
}
