//! The FUSE file system that shows a [`VolatileImage`] as its one file, `disk`.

use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::volatile::{PowerCut, VolatileImage};

/// The name of the file.
pub(crate) const FILE_NAME: &str = "disk";

const FILE: INodeNo = INodeNo(2);
/// Attributes never change.
const ATTRIBUTES_VALID: Duration = Duration::from_secs(3600);

/// The image, shared with the test that plays tricks on it.
#[derive(Debug)]
pub(crate) struct SharedImage {
    image: Mutex<VolatileImage>,
    /// An armed power cut has happened.
    cut: Condvar,
}

impl SharedImage {
    pub(crate) fn new(image: VolatileImage) -> Arc<SharedImage> {
        Arc::new(SharedImage { image: Mutex::new(image), cut: Condvar::new() })
    }

    /// The image, also when a thread has panicked with it in its hands: clean-up needs it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, VolatileImage> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an armed power cut; `None` when it takes too long.
    pub(crate) fn wait_for_cut(&self, patience: Duration) -> Option<PowerCut> {
        let waits = |image: &mut VolatileImage| image.last_cut().is_none();
        let waited = self.cut.wait_timeout_while(self.lock(), patience, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.last_cut()
    }
}

/// One directory with one file. All its answers come from memory or from the durable file, never
/// from the file system on top, so the process that serves it may also use it.
pub(crate) struct DiskFilesystem {
    image: Arc<SharedImage>,
}

impl DiskFilesystem {
    pub(crate) fn new(image: Arc<SharedImage>) -> DiskFilesystem {
        DiskFilesystem { image }
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0),
            FILE => (FileType::RegularFile, self.image.lock().bytes()),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for DiskFilesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without it the loop device's requests go one at a time. An old kernel may not have it.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE_NAME => {
                reply.entry(&ATTRIBUTES_VALID, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&ATTRIBUTES_VALID, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel must not keep a copy that would survive a power cut.
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        let result = self.image.lock().read(offset, &mut buffer);
        match result {
            Ok(()) => reply.data(&buffer),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = self.image.lock().write(offset, data);
        match result {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => {
                self.image.cut.notify_all();
                reply.error(Errno::EIO);
            }
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let result = self.image.lock().flush();
        match result {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
