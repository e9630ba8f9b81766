//! The files of a journal: `segment-NNNNNNNN.seg`, opened past the page cache, and what recovery
//! reads them with. A file gets this name when it is prepared; until then it is `preparing-….tmp`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use sealog_journal::{SegmentSource, SourceError};

use crate::limits::OPEN_FILES_MAX;

/// A journal's directory.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    open: BTreeMap<u32, OpenFile>,
    uses: u64,
}

struct OpenFile {
    file: File,
    last_use: u64,
}

impl Directory {
    /// Opens a journal's directory, and makes it first if need be. What was left half prepared is
    /// removed.
    pub fn open(path: PathBuf) -> io::Result<Directory> {
        if !path.exists() {
            std::fs::create_dir(&path)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with("preparing-")) {
                std::fs::remove_file(entry.path())?;
            }
        }
        let handle = File::open(&path)?;
        // A process may have died between naming a file and flushing that name: what is written to
        // the file from now on must be found under it.
        handle.sync_all()?;
        Ok(Directory { path, handle, open: BTreeMap::new(), uses: 0 })
    }

    /// The directory itself: what names are flushed with.
    pub fn descriptor(&self) -> RawFd {
        self.handle.as_raw_fd()
    }

    pub fn segment_path(&self, segment: u32) -> PathBuf {
        self.path.join(format!("segment-{segment:08}.seg"))
    }

    /// The name of a segment's file while it is being prepared.
    pub fn preparing_path(&self, segment: u32) -> PathBuf {
        self.path.join(format!("preparing-{segment:08}.tmp"))
    }

    /// A segment's file, open for aligned reads and writes past the page cache. It stays open until
    /// the next [`Directory::close_surplus`] at least.
    pub fn segment(&mut self, segment: u32) -> io::Result<RawFd> {
        Ok(self.file(segment)?.as_raw_fd())
    }

    fn file(&mut self, segment: u32) -> io::Result<&File> {
        self.uses += 1;
        let last_use = self.uses;
        if !self.open.contains_key(&segment) {
            let path = self.segment_path(segment);
            let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
            self.open.insert(segment, OpenFile { file, last_use });
        }
        let entry = self.open.get_mut(&segment).expect("it was just opened");
        entry.last_use = last_use;
        Ok(&entry.file)
    }

    /// Forgets a file: another one is about to get its name.
    pub fn close(&mut self, segment: u32) {
        self.open.remove(&segment);
    }

    /// Closes the files that were not used for longest, if there are too many. Only when no
    /// operation on one is queued that the kernel does not have yet.
    pub fn close_surplus(&mut self) {
        while self.open.len() > OPEN_FILES_MAX {
            let oldest = self.open.iter().min_by_key(|(_, file)| file.last_use).map(|(segment, _)| *segment);
            self.open.remove(&oldest.expect("there are too many"));
        }
    }

    fn failed(segment: u32, offset: u64, error: &io::Error) -> SourceError {
        SourceError { segment, offset, reason: error.to_string() }
    }
}

impl SegmentSource for Directory {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        let number = |name: &str| name.strip_prefix("segment-")?.strip_suffix(".seg")?.parse::<u32>().ok();
        let list = || -> io::Result<Vec<u32>> {
            let mut segments = Vec::new();
            for entry in std::fs::read_dir(&self.path)? {
                segments.extend(entry?.file_name().to_str().and_then(number));
            }
            segments.sort_unstable();
            Ok(segments)
        };
        list().map_err(|error| Self::failed(0, 0, &error))
    }

    fn segment_bytes(&mut self, segment: u32) -> Result<u64, SourceError> {
        let file = self.file(segment).map_err(|error| Self::failed(segment, 0, &error))?;
        Ok(file.metadata().map_err(|error| Self::failed(segment, 0, &error))?.len())
    }

    fn read(&mut self, segment: u32, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.close_surplus();
        let file = self.file(segment).map_err(|error| Self::failed(segment, offset, &error))?;
        file.read_exact_at(buffer, offset).map_err(|error| Self::failed(segment, offset, &error))
    }

    fn sync(&mut self, segment: u32) -> Result<(), SourceError> {
        let file = self.file(segment).map_err(|error| Self::failed(segment, 0, &error))?;
        file.sync_data().map_err(|error| Self::failed(segment, 0, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_prepared_and_removes_what_is_not() {
        let path = std::env::temp_dir().join(format!("sealog-directory-{}", std::process::id()));
        let mut directory = Directory::open(path.clone()).expect("a fresh directory");
        for segment in [12, 3] {
            std::fs::write(directory.segment_path(segment), [0; 4096]).expect("a file");
        }
        std::fs::write(directory.preparing_path(13), []).expect("a file");
        assert_eq!(directory.segments().expect("a list"), [3, 12]);
        assert_eq!(directory.segment_bytes(3).expect("a size"), 4096);
        drop(directory);
        let directory = Directory::open(path.clone()).expect("it exists");
        assert!(!directory.preparing_path(13).exists());
        std::fs::remove_dir_all(path).expect("ours to remove");
    }
}
