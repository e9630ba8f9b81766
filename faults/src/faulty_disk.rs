//! A mounted ext4 on a disk that forgets what was not flushed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};

use crate::command::{CommandError, fresh_directory, make_ext4, run, unmount_all_below};
use crate::filesystem::{DiskFilesystem, FILE_NAME, SharedImage};
use crate::volatile::{Counters, CutKind, PowerCut, VolatileImage};

/// How long an armed power cut waits for a write.
const ARMED_CUT_WAIT: Duration = Duration::from_secs(60);

/// How long a file system may be in use before that is an error.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// A disk with an ext4 on it, and switches for its faults.
///
/// The life of a power loss: [`FaultyDisk::cut_power`], end the programs that use the disk,
/// [`FaultyDisk::restart`], read what is there. When it is dropped, also by a panic, it is
/// unmounted and deleted; drop the programs that use it first.
#[derive(Debug)]
pub struct FaultyDisk {
    directory: PathBuf,
    image: Arc<SharedImage>,
    /// Dropped after the ext4 on it is unmounted. `None` only while being dropped.
    session: Option<BackgroundSession>,
}

impl FaultyDisk {
    /// Makes a disk of so many bytes in a directory of its own, with an empty, durable ext4, not
    /// yet mounted. The directory is emptied first.
    ///
    /// # Errors
    /// When the system lacks a tool or a right; the error says which.
    pub fn create(directory: &Path, bytes: u64) -> Result<FaultyDisk, CommandError> {
        fresh_directory(directory)?;
        let durable_path = directory.join("durable");
        let durable = File::options().read(true).write(true).create_new(true).open(&durable_path);
        let durable = durable.map_err(CommandError::file(&durable_path))?;
        durable.set_len(bytes).map_err(CommandError::file(&durable_path))?;
        let image = VolatileImage::new(durable).map_err(CommandError::file(&durable_path))?;
        let image = SharedImage::new(image);
        for name in ["fuse", "mount"] {
            let path = directory.join(name);
            fs::create_dir(&path).map_err(CommandError::file(&path))?;
        }
        let session = Some(serve(&image, &directory.join("fuse"))?);
        let disk = FaultyDisk { directory: directory.to_owned(), image, session };
        let device = disk.attach()?;
        let made = make_ext4(Path::new(&device));
        detach(&device)?;
        made?;
        Ok(disk)
    }

    /// Mounts the ext4, replaying its journal where needed; the directory to work in.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(&self) -> Result<PathBuf, CommandError> {
        let device = self.attach()?;
        let path = self.directory.join("mount");
        let mounted = run("mount", &["-t".as_ref(), "ext4".as_ref(), device.as_ref(), path.as_os_str()]);
        // Of a mounted device this only says that it ends with the mount, however that ends.
        detach(&device)?;
        mounted?;
        Ok(path)
    }

    /// Unmounts the ext4, which flushes it where the disk still answers.
    ///
    /// # Errors
    /// When a program still uses it.
    pub fn unmount(&self) -> Result<(), CommandError> {
        let path = self.directory.join("mount");
        let began = Instant::now();
        loop {
            match run("umount", &[path.as_os_str()]) {
                // A child that another thread of this process is starting holds our files open from
                // its fork to its exec. Nothing tells when that is over; it takes a moment.
                Err(CommandError::Failed { message, .. })
                    if message.contains("busy") && began.elapsed() < UNMOUNT_PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result.map(drop),
            }
        }
    }

    /// Cuts the power at this moment: what was flushed stays, the seed decides what becomes of the
    /// rest; everything else fails until [`FaultyDisk::restart`].
    pub fn cut_power(&self, seed: u64) -> PowerCut {
        self.image.lock().cut_power(None, seed).expect("the durable file is an ordinary one")
    }

    /// As [`FaultyDisk::cut_power`], in this way.
    pub fn cut_power_as(&self, kind: CutKind, seed: u64) -> PowerCut {
        self.image.lock().cut_power(Some(kind), seed).expect("the durable file is an ordinary one")
    }

    /// As [`FaultyDisk::cut_power`], in the middle of one of the next writes. Waits for it.
    ///
    /// # Panics
    /// When nothing is written.
    pub fn cut_power_in_a_write(&self, seed: u64) -> PowerCut {
        self.arm_power_cut(seed);
        self.image.wait_for_cut(ARMED_CUT_WAIT).expect("something must be writing for the power to be cut in it")
    }

    /// Cuts the power of several disks at about one moment: of each in the middle of one of its next
    /// writes, but of those that write nothing before the cut of the first just so. That one is to be
    /// written to.
    ///
    /// # Panics
    /// When it is not.
    pub fn cut_power_of_all(first: &FaultyDisk, others: &[&FaultyDisk], seed: u64) -> Vec<PowerCut> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut next = || random.u64(..);
        others.iter().for_each(|disk| disk.arm_power_cut(next()));
        let mut cuts = vec![first.cut_power_in_a_write(next())];
        for disk in others {
            let mut image = disk.image.lock();
            let cut = image.last_cut();
            cuts.push(
                cut.unwrap_or_else(|| image.cut_power(None, next()).expect("the durable file is an ordinary one")),
            );
        }
        cuts
    }

    fn arm_power_cut(&self, seed: u64) {
        self.image.lock().arm_power_cut(seed);
    }

    /// Gives the power back after a cut: what the kernel knew of the disk is forgotten, and it is
    /// mounted anew. No program may use it any more.
    ///
    /// # Errors
    /// When a program still uses it, or what is left cannot be mounted.
    pub fn restart(&self) -> Result<PathBuf, CommandError> {
        self.unmount()?;
        self.image.lock().restore_power();
        self.mount()
    }

    /// The disk answers flushes and does nothing (`true`), or does what it says.
    pub fn lie(&self, lie: bool) {
        self.image.lock().lie_about_flushes(lie);
    }

    /// The next flush fails with EIO, and what was not flushed is gone.
    pub fn fail_flush(&self) {
        self.image.lock().fail_next_flush();
    }

    /// Writes fail with EIO (`true`), or succeed.
    pub fn fail_writes(&self, fail: bool) {
        self.image.lock().fail_writes(fail);
    }

    pub fn counters(&self) -> Counters {
        self.image.lock().counters()
    }

    /// A loop device on the FUSE file, with direct I/O.
    fn attach(&self) -> Result<String, CommandError> {
        let file = self.directory.join("fuse").join(FILE_NAME);
        let arguments = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let device = run("losetup", &[&arguments[..], &[file.as_os_str()]].concat())?;
        let state = device.replace("/dev/", "/sys/block/") + "/loop/dio";
        match fs::read_to_string(&state) {
            Ok(state) if state.trim() == "1" => Ok(device),
            _ => {
                detach(&device)?;
                Err(CommandError::NoDirectIo { device })
            }
        }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // Unmounting wants to write; a disk without power would fail each of those writes slowly.
        self.image.lock().restore_power();
        unmount_all_below(&self.directory.join("mount"));
        unmount_all_below(&self.directory.join("fuse"));
        drop(self.session.take());
        // A directory that is left behind is emptied by the next run.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn serve(image: &Arc<SharedImage>, mount_point: &Path) -> Result<BackgroundSession, CommandError> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("sealog-faulty-disk".to_owned())];
    config.n_threads = Some(2);
    fuser::spawn_mount(DiskFilesystem::new(image.clone()), mount_point, &config)
        .map_err(|source| CommandError::Fuse { path: mount_point.to_owned(), source })
}

fn detach(device: &str) -> Result<(), CommandError> {
    run("losetup", &["--detach".as_ref(), device.as_ref()]).map(drop)
}
