//! A mounted ext4 that is quickly full.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::command::{CommandError, fresh_directory, make_ext4, run, unmount_all_below};

/// A small, honest disk with an ext4, mounted until it is dropped, also by a panic; drop the
/// programs that use it first.
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Makes and mounts a disk of so many bytes (some 12 MiB of them ext4's own) in a directory,
    /// which is emptied first.
    ///
    /// # Errors
    /// When the system lacks a tool or a right; the error says which.
    pub fn create(directory: &Path, bytes: u64) -> Result<SmallDisk, CommandError> {
        fresh_directory(directory)?;
        let image = directory.join("image");
        let file = File::create_new(&image).map_err(CommandError::file(&image))?;
        file.set_len(bytes).map_err(CommandError::file(&image))?;
        make_ext4(&image)?;
        let disk = SmallDisk { directory: directory.to_owned() };
        let path = disk.path();
        fs::create_dir(&path).map_err(CommandError::file(&path))?;
        run("mount", &[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), path.as_os_str()])?;
        Ok(disk)
    }

    /// The directory to work in.
    pub fn path(&self) -> PathBuf {
        self.directory.join("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount_all_below(&self.directory);
        // A directory that is left behind is emptied by the next run.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
