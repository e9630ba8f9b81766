//! The register on one machine: a file for each document, which several nodes may share.
//!
//! A document is replaced as a whole by a rename, so readers need no lock. Who compares and swaps
//! holds the lock of the file `lock`; the system gives it back when its process ends. A process that
//! is paused while it holds it keeps others from swapping, who are told so after a while.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealog_control::register::{MembersSwap, Register, RegisterError, Swap, extends};
use sealog_protocol::LogspaceId;
use sealog_protocol::members::Members;
use sealog_protocol::view::Chain;

use super::file_watch::FileWatch;
use super::{RegisterWatch, WatchedRegister};
use crate::durable_file;

/// A swap waits so long for those of others.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// Between two tries: a swap of another takes two flushes.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// A register in files.
#[derive(Clone, Debug)]
pub struct FileRegister {
    directory: PathBuf,
}

impl FileRegister {
    /// The register in a directory that exists.
    pub fn new(directory: &Path) -> FileRegister {
        FileRegister { directory: directory.to_owned() }
    }

    pub(super) fn chain_path(&self, logspace: LogspaceId) -> PathBuf {
        self.directory.join(format!("logspace-{logspace}.chain"))
    }

    pub(super) fn members_path(&self) -> PathBuf {
        self.directory.join("members")
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps every other swap out, of this process and of others, until it is dropped.
    fn lock(&self) -> io::Result<File> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let until = Instant::now() + LOCK_DEADLINE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => {
                    let held =
                        format!("another process holds {} for {LOCK_DEADLINE:?}: is it stopped?", path.display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, held));
                }
            }
        }
    }

    fn lock_for(&self, logspace: LogspaceId) -> Result<File, RegisterError> {
        self.lock().map_err(|source| RegisterError::Unavailable { logspace, source })
    }

    fn write(&self, chain: &Chain) -> Result<Swap, RegisterError> {
        let logspace = chain.logspace;
        durable_file::replace(&self.chain_path(logspace), &chain.encode())
            .map_err(|source| RegisterError::Unavailable { logspace, source })?;
        Ok(Swap::Installed)
    }
}

/// A file's content; `None` where there is none.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Register for FileRegister {
    fn read(&mut self, logspace: LogspaceId) -> Result<Option<Chain>, RegisterError> {
        let bytes =
            content(&self.chain_path(logspace)).map_err(|source| RegisterError::Unavailable { logspace, source })?;
        let chain = bytes.map(|bytes| Chain::decode(&bytes)).transpose();
        chain.map_err(|source| RegisterError::Damaged { logspace, source })
    }

    fn create(&mut self, chain: &Chain) -> Result<Swap, RegisterError> {
        let _lock = self.lock_for(chain.logspace)?;
        match self.read(chain.logspace)? {
            Some(held) => Ok(Swap::Held(Box::new(held))),
            None => self.write(chain),
        }
    }

    fn compare_and_swap(&mut self, next: &Chain) -> Result<Swap, RegisterError> {
        let _lock = self.lock_for(next.logspace)?;
        let missing = || RegisterError::Unavailable {
            logspace: next.logspace,
            source: io::Error::new(io::ErrorKind::NotFound, "it has no chain yet"),
        };
        let held = self.read(next.logspace)?.ok_or_else(missing)?;
        if extends(&held, next) { self.write(next) } else { Ok(Swap::Held(Box::new(held))) }
    }

    fn members(&mut self) -> Result<Option<Members>, RegisterError> {
        let bytes = content(&self.members_path()).map_err(|source| RegisterError::MembersUnavailable { source })?;
        let members = bytes.map(|bytes| Members::decode(&bytes)).transpose();
        members.map_err(|source| RegisterError::MembersDamaged { source })
    }

    fn swap_members(&mut self, next: &Members) -> Result<MembersSwap, RegisterError> {
        let unavailable = |source| RegisterError::MembersUnavailable { source };
        let _lock = self.lock().map_err(unavailable)?;
        match self.members()? {
            Some(held) if !held.precedes(next) => Ok(MembersSwap::Held(held)),
            None if next.version != 1 => {
                Err(unavailable(io::Error::new(io::ErrorKind::NotFound, "it has no members yet")))
            }
            _ => {
                durable_file::replace(&self.members_path(), &next.encode()).map_err(unavailable)?;
                Ok(MembersSwap::Installed)
            }
        }
    }
}

impl WatchedRegister for FileRegister {
    fn watch(&self) -> Box<dyn RegisterWatch> {
        Box::new(FileWatch::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::conformance::{check_register, first_chain};

    #[test]
    fn the_file_register_is_a_register() {
        let data = tempfile::tempdir().unwrap();
        check_register(|| Box::new(FileRegister::new(data.path())));
        let mut register = FileRegister::new(data.path());
        std::fs::write(data.path().join("logspace-0.chain"), "rubbish").unwrap();
        assert!(matches!(register.read(LogspaceId(0)), Err(RegisterError::Damaged { .. })));
        std::fs::write(data.path().join("members"), "rubbish").unwrap();
        assert!(matches!(register.members(), Err(RegisterError::MembersDamaged { .. })));
    }

    #[test]
    fn who_holds_the_lock_for_long_is_told_of() {
        let data = tempfile::tempdir().unwrap();
        let mut register = FileRegister::new(data.path());
        let held = register.lock().unwrap();
        let message = register.create(&first_chain(LogspaceId(0))).unwrap_err().to_string();
        assert!(message.contains("is it stopped?"), "{message}");
        assert_eq!(register.read(LogspaceId(0)).unwrap(), None, "reads need no lock");
        drop(held);
        assert_eq!(register.create(&first_chain(LogspaceId(0))).unwrap(), Swap::Installed);
    }
}
