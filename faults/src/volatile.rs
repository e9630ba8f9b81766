//! A disk image with a volatile write cache, as a drive has one: a write is in memory until a flush
//! makes everything that came before it durable. A power cut decides the fate of the rest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What a drive writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What reached a disk, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub writes: u64,
    pub bytes_written: u64,
    pub flushes: u64,
    pub bytes_flushed: u64,
}

/// What a power cut did to the writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// None of them reached the medium.
    DroppedAll,
    /// Each sector reached the medium or not, for itself.
    KeptSome,
    /// They reached it in order up to one, which was cut in its middle.
    Torn,
}

/// The outcome of a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    pub kind: CutKind,
    pub sectors_kept: usize,
    pub sectors_lost: usize,
}

/// The image of a disk: a durable file, and what was written to the disk since the last flush.
#[derive(Debug)]
pub struct VolatileImage {
    durable: File,
    bytes: u64,
    /// In the order of writing.
    cached: Vec<CachedWrite>,
    /// For each sector in the cache, the last write that holds it.
    newest: BTreeMap<u64, usize>,
    faults: Faults,
    counters: Counters,
    last_cut: Option<PowerCut>,
}

#[derive(Debug)]
struct CachedWrite {
    first_sector: u64,
    data: Vec<u8>,
}

impl CachedWrite {
    fn sectors(&self) -> Range<u64> {
        self.first_sector..self.first_sector + (self.data.len() / SECTOR_BYTES) as u64
    }

    fn sector(&self, sector: u64) -> &[u8] {
        let at = (sector - self.first_sector) as usize * SECTOR_BYTES;
        &self.data[at..at + SECTOR_BYTES]
    }
}

#[derive(Debug, Default)]
struct Faults {
    power_is_off: bool,
    lies_about_flushes: bool,
    next_flush_fails: bool,
    writes_fail: bool,
    /// The power is cut after so many further writes, in the last of them, with this seed.
    cut_armed: Option<(u32, u64)>,
}

/// An armed cut comes within so many writes.
const ARMED_WRITES_MAX: u32 = 8;

impl VolatileImage {
    /// An image that is durable in this file, as large as the file is now.
    ///
    /// # Errors
    /// When the file's size cannot be read, or is no multiple of [`SECTOR_BYTES`].
    pub fn new(durable: File) -> io::Result<VolatileImage> {
        let bytes = durable.metadata()?.len();
        if !bytes.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a disk has whole sectors"));
        }
        Ok(VolatileImage {
            durable,
            bytes,
            cached: Vec::new(),
            newest: BTreeMap::new(),
            faults: Faults::default(),
            counters: Counters::default(),
            last_cut: None,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// From now on flushes are answered and do nothing, as some drives do; or again what they say.
    pub fn lie_about_flushes(&mut self, lie: bool) {
        self.faults.lies_about_flushes = lie;
    }

    /// The next flush fails, and what was not flushed is gone: the flush after it succeeds, as
    /// with fsync on Linux.
    pub fn fail_next_flush(&mut self) {
        self.faults.next_flush_fails = true;
    }

    /// From now on writes fail, or again succeed.
    pub fn fail_writes(&mut self, fail: bool) {
        self.faults.writes_fail = fail;
    }

    /// Reads whole sectors: what was last written, durable or not.
    ///
    /// # Errors
    /// Without power, past the end, and when the durable file can't be read.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let sectors = self.check(offset, buffer.len())?;
        self.durable.read_exact_at(buffer, offset)?;
        for (sector, write) in self.newest.range(sectors.clone()) {
            let at = (sector - sectors.start) as usize * SECTOR_BYTES;
            buffer[at..at + SECTOR_BYTES].copy_from_slice(self.cached[*write].sector(*sector));
        }
        Ok(())
    }

    /// Writes whole sectors into the cache.
    ///
    /// # Errors
    /// Without power, past the end, and while writes are made to fail.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let sectors = self.check(offset, data.len())?;
        if self.faults.writes_fail {
            return Err(io::Error::other("writes are made to fail"));
        }
        self.counters.writes += 1;
        self.counters.bytes_written += data.len() as u64;
        self.newest.extend(sectors.clone().map(|sector| (sector, self.cached.len())));
        self.cached.push(CachedWrite { first_sector: sectors.start, data: data.to_vec() });
        match self.faults.cut_armed {
            Some((0, seed)) => {
                self.cut_power(None, seed)?;
                self.check(0, 0).map(drop)
            }
            Some((writes_left, seed)) => {
                self.faults.cut_armed = Some((writes_left - 1, seed));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes what was written durable, unless the disk lies.
    ///
    /// # Errors
    /// Without power, when the flush is made to fail, and when the durable file can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.check(0, 0)?;
        if std::mem::take(&mut self.faults.next_flush_fails) {
            self.forget();
            return Err(io::Error::other("the flush is made to fail"));
        }
        self.counters.flushes += 1;
        if self.faults.lies_about_flushes {
            return Ok(());
        }
        for write in &self.cached {
            self.durable.write_all_at(&write.data, write.first_sector * SECTOR_BYTES as u64)?;
            self.counters.bytes_flushed += write.data.len() as u64;
        }
        self.forget();
        Ok(())
    }

    /// Cuts the power: what was flushed stays; the seed decides what becomes of the rest, and how
    /// if no kind is given. Until [`VolatileImage::restore_power`] everything fails.
    ///
    /// # Errors
    /// When the durable file can't be written.
    pub fn cut_power(&mut self, kind: Option<CutKind>, seed: u64) -> io::Result<PowerCut> {
        let mut random = fastrand::Rng::with_seed(seed);
        let kinds = [CutKind::DroppedAll, CutKind::KeptSome, CutKind::Torn];
        let kind = kind.unwrap_or(kinds[random.usize(..kinds.len())]);
        let sectors_kept = match kind {
            CutKind::DroppedAll => 0,
            CutKind::KeptSome => self.keep_some(&mut random)?,
            CutKind::Torn => self.tear(&mut random)?,
        };
        let sectors_lost = self.newest.len() - sectors_kept;
        self.forget();
        self.faults.power_is_off = true;
        self.faults.cut_armed = None;
        let cut = PowerCut { kind, sectors_kept, sectors_lost };
        self.last_cut = Some(cut);
        Ok(cut)
    }

    /// Cuts the power in the middle of one of the next writes, so that something is always lost or
    /// torn; [`VolatileImage::last_cut`] says when that has happened.
    pub fn arm_power_cut(&mut self, seed: u64) {
        let writes = fastrand::Rng::with_seed(seed).u32(..ARMED_WRITES_MAX);
        self.last_cut = None;
        self.faults.cut_armed = Some((writes, seed));
    }

    /// The outcome of the last power cut.
    pub fn last_cut(&self) -> Option<PowerCut> {
        self.last_cut
    }

    /// The disk answers again.
    pub fn restore_power(&mut self) {
        self.faults.power_is_off = false;
    }

    /// A sector that was written several times is kept as it was after any of the writes.
    fn keep_some(&self, random: &mut fastrand::Rng) -> io::Result<usize> {
        let mut kept = BTreeMap::new();
        for write in &self.cached {
            for sector in write.sectors().filter(|_| random.bool()) {
                kept.insert(sector, write.sector(sector));
            }
        }
        for (sector, data) in &kept {
            self.durable.write_all_at(data, sector * SECTOR_BYTES as u64)?;
        }
        Ok(kept.len())
    }

    fn tear(&self, random: &mut fastrand::Rng) -> io::Result<usize> {
        if self.cached.is_empty() {
            return Ok(0);
        }
        let mut kept = BTreeMap::new();
        let torn = random.usize(..self.cached.len());
        for (nth, write) in self.cached[..=torn].iter().enumerate() {
            let sectors = write.data.len() / SECTOR_BYTES;
            let whole = if nth < torn { sectors } else { random.usize(..sectors) };
            kept.extend(write.sectors().take(whole).map(|sector| (sector, ())));
            let data = &write.data[..whole * SECTOR_BYTES];
            self.durable.write_all_at(data, write.first_sector * SECTOR_BYTES as u64)?;
        }
        Ok(kept.len())
    }

    fn forget(&mut self) {
        self.cached.clear();
        self.newest.clear();
    }

    fn check(&self, offset: u64, bytes: usize) -> io::Result<Range<u64>> {
        if self.faults.power_is_off {
            return Err(io::Error::other("the power is off"));
        }
        let end = offset.checked_add(bytes as u64).filter(|end| *end <= self.bytes);
        let sector_bytes = SECTOR_BYTES as u64;
        match end {
            Some(end) if offset.is_multiple_of(sector_bytes) && end.is_multiple_of(sector_bytes) => {
                Ok(offset / sector_bytes..end / sector_bytes)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not whole sectors of the disk")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: u64 = 64;

    fn image(name: &str) -> VolatileImage {
        let path = std::env::temp_dir().join(format!("sealog-volatile-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        std::fs::remove_file(&path).expect("the file's name");
        file.set_len(SECTORS * SECTOR_BYTES as u64).expect("its size");
        VolatileImage::new(file).expect("whole sectors")
    }

    fn write(image: &mut VolatileImage, sectors: Range<u64>, byte: u8) {
        let data = vec![byte; (sectors.end - sectors.start) as usize * SECTOR_BYTES];
        image.write(sectors.start * SECTOR_BYTES as u64, &data).expect("a write");
    }

    /// The byte of each sector; all bytes of a sector are equal here, for sectors are never torn.
    fn read(image: &VolatileImage) -> Vec<u8> {
        let mut buffer = vec![0; SECTORS as usize * SECTOR_BYTES];
        image.read(0, &mut buffer).expect("a read");
        let sectors = buffer.chunks(SECTOR_BYTES);
        sectors
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
                sector[0]
            })
            .collect()
    }

    fn cut(image: &mut VolatileImage, seed: u64) -> PowerCut {
        let cut = image.cut_power(None, seed).expect("a cut");
        assert!(image.read(0, &mut [0; SECTOR_BYTES]).is_err(), "no power, no answer");
        assert!(image.flush().is_err(), "no power, no flush");
        image.restore_power();
        cut
    }

    #[test]
    fn the_last_write_is_read_whether_flushed_or_not() {
        let mut image = image("read");
        write(&mut image, 0..4, 1);
        image.flush().expect("a flush");
        write(&mut image, 2..6, 2);
        write(&mut image, 3..4, 3);
        assert_eq!(read(&image)[..7], [1, 1, 2, 3, 2, 2, 0]);
        let counters = Counters { writes: 3, bytes_written: 9 * 512, flushes: 1, bytes_flushed: 4 * 512 };
        assert_eq!(image.counters(), counters);
    }

    /// Over many seeds every kind occurs, loses something, and never touches what was flushed.
    #[test]
    fn a_power_cut_keeps_what_was_flushed_and_a_part_of_the_rest() {
        let mut seen = [0; 3];
        for seed in 0..200 {
            let mut image = image("cut");
            write(&mut image, 0..16, 1);
            image.flush().expect("a flush");
            write(&mut image, 8..24, 2);
            write(&mut image, 20..40, 3);
            let cut = cut(&mut image, seed);
            let now = read(&image);
            assert!(now[..8].iter().all(|byte| *byte == 1), "what was flushed, and not written again, stays");
            assert_eq!(cut.sectors_kept + cut.sectors_lost, 32);
            let new = now.iter().filter(|byte| **byte >= 2).count();
            assert_eq!(new, cut.sectors_kept, "seed {seed}: {cut:?}");
            seen[cut.kind as usize] += 1;
            match cut.kind {
                CutKind::DroppedAll => assert_eq!(new, 0),
                CutKind::KeptSome => assert!((1..32).contains(&new)),
                CutKind::Torn => {
                    let torn = now[8..40].iter().position(|byte| *byte < 2).expect("something is lost");
                    assert!(now[8 + torn..40].iter().all(|byte| *byte < 2), "order is kept: {now:?}");
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
    }

    #[test]
    fn an_armed_cut_comes_in_the_middle_of_a_write() {
        for seed in 0..50 {
            let mut image = image("armed");
            image.arm_power_cut(seed);
            let data = [1; 4 * SECTOR_BYTES];
            let mut written = 0;
            while image.write(0, &data).is_ok() {
                assert_eq!(image.last_cut(), None);
                image.flush().expect("a flush");
                written += 1;
            }
            assert!(written < ARMED_WRITES_MAX);
            let cut = image.last_cut().expect("it has happened");
            assert_eq!(cut.sectors_kept + cut.sectors_lost, 4, "of the last write alone");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        let run = |seed| {
            let mut image = image("seed");
            write(&mut image, 0..64, 7);
            (cut(&mut image, seed), read(&image))
        };
        assert!((0..20).all(|seed| run(seed) == run(seed)));
    }

    #[test]
    fn a_lying_disk_loses_what_it_said_was_flushed() {
        let mut image = image("lie");
        write(&mut image, 0..4, 1);
        image.lie_about_flushes(true);
        image.flush().expect("a lie");
        assert_eq!(read(&image)[0], 1);
        let lost = (0..20).filter(|seed| {
            image.lie_about_flushes(true);
            write(&mut image, 0..4, 2);
            image.flush().expect("a lie");
            cut(&mut image, *seed).sectors_lost > 0
        });
        assert!(lost.count() >= 18, "nearly every cut loses something");
    }

    #[test]
    fn a_failed_flush_loses_the_writes_and_the_next_one_succeeds() {
        let mut image = image("fail");
        write(&mut image, 0..4, 1);
        image.fail_next_flush();
        assert!(image.flush().is_err());
        image.flush().expect("as after a failed fsync");
        assert_eq!(read(&image)[0], 0);
        image.fail_writes(true);
        assert!(image.write(0, &[1; SECTOR_BYTES]).is_err());
        image.fail_writes(false);
        write(&mut image, 0..1, 1);
    }

    #[test]
    fn what_is_not_whole_sectors_of_the_disk_is_refused() {
        let mut image = image("range");
        let end = image.bytes();
        for (offset, bytes) in [(1, 512), (0, 100), (end, 512), (end - 512, 1024), (u64::MAX - 511, 512)] {
            assert!(image.write(offset, &vec![0; bytes]).is_err(), "{offset} {bytes}");
        }
    }
}
