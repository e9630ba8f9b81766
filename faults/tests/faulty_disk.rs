//! The faulty disk itself, with plain files: what tests build on it is worth what it is worth.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwritev2};
use sealog_faults::{FaultyDisk, SECTOR_BYTES, SmallDisk};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const SECTORS_PER_BLOCK: usize = BLOCK / SECTOR_BYTES;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn disk(name: &str) -> FaultyDisk {
    FaultyDisk::create(&directory(name), 96 * MIB).expect("a faulty disk")
}

/// A block in memory that direct I/O takes, without unsafe code: a part of a larger one.
struct AlignedBlock {
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBlock {
    fn filled(byte: u8) -> AlignedBlock {
        let memory = vec![byte; 2 * BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        AlignedBlock { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + BLOCK]
    }
}

/// A file of zeros, written and synced, as a journal's segment is.
fn zeroed_file(path: &Path, blocks: usize) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("a new file");
    file.write_all_at(&vec![0; blocks * BLOCK], 0).expect("zeros");
    file.sync_all().expect("an fsync");
    File::open(path.parent().expect("a directory")).expect("it").sync_all().expect("an fsync");
    drop(file);
    let direct = OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).custom_flags(direct).open(path).expect("O_DIRECT")
}

fn write_durably(file: &File, block: usize, byte: u8) -> rustix::io::Result<usize> {
    let aligned = AlignedBlock::filled(byte);
    pwritev2(file, &[IoSlice::new(aligned.bytes())], (block * BLOCK) as u64, ReadWriteFlags::DSYNC)
}

fn write_without_flush(file: &File, block: usize, byte: u8) {
    let aligned = AlignedBlock::filled(byte);
    let written = file.write_at(aligned.bytes(), (block * BLOCK) as u64).expect("a direct write");
    assert_eq!(written, BLOCK);
}

/// How many sectors of the file hold nothing but this byte.
fn sectors_of(path: &Path, byte: u8) -> usize {
    let content = fs::read(path).expect("the file is there");
    content.chunks(SECTOR_BYTES).filter(|sector| sector.iter().all(|found| *found == byte)).count()
}

#[test]
fn what_was_flushed_survives_a_power_cut_and_the_rest_may_not() {
    let disk = disk("flushed");
    let mut path = disk.mount().expect("a mount");
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..8 {
        let name = format!("segment-{seed}");
        let file = zeroed_file(&path.join(&name), 64);
        let flushes = disk.counters().flushes;
        for block in 0..32 {
            assert_eq!(write_durably(&file, block, 1), Ok(BLOCK));
        }
        assert!(disk.counters().flushes >= flushes + 32, "each durable write reaches the disk as a flush");
        for block in 32..64 {
            write_without_flush(&file, block, 2);
        }
        let cut = disk.cut_power(seed);
        assert!(write_durably(&file, 0, 3).is_err(), "no power, no answer");
        drop(file);
        path = disk.restart().expect("the journal of ext4 is replayed");
        let flushed = sectors_of(&path.join(&name), 1);
        assert_eq!(flushed, 32 * SECTORS_PER_BLOCK, "seed {seed}: flushed data is lost: {cut:?}");
        let survived = sectors_of(&path.join(&name), 2);
        lost += 32 * SECTORS_PER_BLOCK - survived;
        kept += survived;
    }
    assert!(lost > 0 && kept > 0, "over the seeds some is lost and some kept: {lost} {kept}");
}

#[test]
fn a_file_that_was_only_in_the_page_cache_is_gone() {
    let disk = disk("page-cache");
    let path = disk.mount().expect("a mount");
    fs::write(path.join("synced"), "synced").expect("a write");
    File::open(path.join("synced")).expect("the file").sync_all().expect("an fsync");
    File::open(&path).expect("its directory").sync_all().expect("an fsync");
    fs::write(path.join("not-synced"), "not synced").expect("a write");
    disk.cut_power(1);
    let path = disk.restart().expect("a restart");
    assert_eq!(fs::read(path.join("synced")).expect("it was synced"), b"synced");
    assert!(!path.join("not-synced").exists());
}

/// The control of every power-loss test: a disk that lies must be caught by it.
#[test]
fn a_lying_disk_loses_what_was_synced() {
    let disk = disk("lying");
    let path = disk.mount().expect("a mount");
    let file = zeroed_file(&path.join("segment"), 64);
    disk.lie(true);
    for block in 0..64 {
        assert_eq!(write_durably(&file, block, 1), Ok(BLOCK));
    }
    drop(file);
    let cut = disk.cut_power(2);
    disk.lie(false);
    let path = disk.restart().expect("a restart");
    let left = sectors_of(&path.join("segment"), 1);
    assert!(left < 64 * SECTORS_PER_BLOCK, "a lying disk has lost something: {cut:?}");
}

#[test]
fn a_failed_flush_reaches_the_program_once_and_the_data_is_gone() {
    let disk = disk("failed-flush");
    let path = disk.mount().expect("a mount");
    let file = zeroed_file(&path.join("segment"), 4);
    disk.fail_flush();
    assert_eq!(write_durably(&file, 0, 1), Err(rustix::io::Errno::IO));
    assert_eq!(write_durably(&file, 1, 1), Ok(BLOCK), "as with fsync: the next one succeeds");
    assert_eq!(sectors_of(&path.join("segment"), 1), SECTORS_PER_BLOCK);
    disk.fail_writes(true);
    assert_eq!(write_durably(&file, 2, 1), Err(rustix::io::Errno::IO));
    disk.fail_writes(false);
    assert_eq!(write_durably(&file, 2, 1), Ok(BLOCK));
}

#[test]
fn a_panicking_test_leaves_nothing_mounted() {
    let where_mounted = directory("panics");
    let result = std::panic::catch_unwind(|| {
        let disk = disk("panics");
        let path = disk.mount().expect("a mount");
        fs::write(path.join("file"), "x").expect("a write");
        panic!("a test fails");
    });
    assert!(result.is_err());
    assert!(!where_mounted.exists());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    assert!(!mounts.contains(&*where_mounted.to_string_lossy()));
}

#[test]
fn a_small_disk_fills_up_and_takes_more_when_something_is_deleted() {
    let disk = SmallDisk::create(&directory("small"), 32 * MIB).expect("a small disk");
    let ballast = disk.path().join("ballast");
    let mut file = File::create(&ballast).expect("a file");
    let error = std::iter::repeat_with(|| file.write_all(&vec![0; MIB as usize])).find_map(Result::err);
    assert_eq!(error.expect("32 MiB are full at some time").kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    assert!(fs::write(disk.path().join("more"), vec![0; MIB as usize]).is_err());
    fs::remove_file(ballast).expect("deleting works on a full disk");
    fs::write(disk.path().join("more"), vec![0; MIB as usize]).expect("there is room again");
}
