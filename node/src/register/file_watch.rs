//! Watches a register in files: the kernel says that something was renamed into the directory, and
//! what differs from what was told last is told.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sealog_control::register::RegisterError;
use sealog_protocol::LogspaceId;
use sealog_protocol::members::Members;
use sealog_protocol::view::Chain;

use super::file::FileRegister;
use super::{Change, RegisterWatch};

/// How often it is looked whether something changed where the kernel does not say so: it watches a
/// limited number of directories for each user.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Of what the kernel says: that is thrown away, for the files themselves say what changed.
const EVENT_BYTES_MAX: usize = 4096;

/// What a file is, and what was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Document {
    Members,
    Chain(LogspaceId),
}

/// See [`RegisterWatch`].
pub struct FileWatch {
    register: FileRegister,
    /// Bytes of each document as they were told.
    told: BTreeMap<Document, Vec<u8>>,
    /// `None` before the first look, and where the kernel has none to give.
    renames: Option<OwnedFd>,
    is_first: bool,
}

impl FileWatch {
    pub fn new(register: FileRegister) -> FileWatch {
        FileWatch { register, told: BTreeMap::new(), renames: None, is_first: true }
    }

    fn unwatchable(source: io::Error) -> RegisterError {
        RegisterError::Unwatchable { source }
    }

    /// Before the first look, so that a change after it is not missed.
    fn begin(&mut self) {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let renames = inotify::init(flags).and_then(|renames| {
            inotify::add_watch(&renames, self.register.directory(), WatchFlags::MOVED_TO)?;
            Ok(renames)
        });
        match renames {
            Ok(renames) => self.renames = Some(renames),
            Err(error) => tracing::info!(%error, "the register's directory is looked at every {LOOK_INTERVAL:?}"),
        }
        self.is_first = false;
    }

    /// Waits for a rename, at most so long.
    fn wait(&self, patience: Duration) -> io::Result<()> {
        let Some(renames) = &self.renames else {
            std::thread::sleep(patience.min(LOOK_INTERVAL));
            return Ok(());
        };
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(renames, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = [0; EVENT_BYTES_MAX];
        match rustix::io::read(renames, &mut events) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn documents(&self) -> io::Result<Vec<(Document, PathBuf)>> {
        let mut documents = vec![(Document::Members, self.register.members_path())];
        for entry in std::fs::read_dir(self.register.directory())? {
            let name = entry?.file_name();
            let logspace = name.to_str().and_then(|name| name.strip_prefix("logspace-")?.strip_suffix(".chain"));
            if let Some(logspace) = logspace.and_then(|logspace| logspace.parse().ok()).map(LogspaceId) {
                documents.push((Document::Chain(logspace), self.register.chain_path(logspace)));
            }
        }
        documents.sort_unstable();
        Ok(documents)
    }

    /// What differs from what was told.
    fn look(&mut self) -> Result<Vec<Change>, RegisterError> {
        let mut changes = Vec::new();
        let mut seen = Vec::new();
        for (document, path) in self.documents().map_err(FileWatch::unwatchable)? {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(FileWatch::unwatchable(error)),
            };
            if self.told.get(&document) == Some(&bytes) {
                continue;
            }
            changes.push(match document {
                Document::Members => Members::decode(&bytes)
                    .map(Change::Members)
                    .map_err(|source| RegisterError::MembersDamaged { source })?,
                Document::Chain(logspace) => Chain::decode(&bytes)
                    .map(Change::Chain)
                    .map_err(|source| RegisterError::Damaged { logspace, source })?,
            });
            seen.push((document, bytes));
        }
        self.told.extend(seen);
        Ok(changes)
    }
}

impl RegisterWatch for FileWatch {
    fn changes(&mut self, patience: Duration) -> Result<Vec<Change>, RegisterError> {
        let until = Instant::now() + patience;
        if self.is_first {
            self.begin();
            return self.look();
        }
        loop {
            let changes = self.look()?;
            let left = until.saturating_duration_since(Instant::now());
            if !changes.is_empty() || left.is_zero() {
                return Ok(changes);
            }
            self.wait(left).map_err(FileWatch::unwatchable)?;
        }
    }
}
