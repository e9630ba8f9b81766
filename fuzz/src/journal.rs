//! A journal's files, changed here and there, as recovery and `inspect` meet them.

use std::sync::OnceLock;

use bytes::Bytes;
use sealog_journal::{ALIGNMENT, Inspection, JournalConfig};
use sealog_protocol::machine::DurableEntry;
use sealog_protocol::{Place, ViewNumber};

/// The disk in memory of the journal's own tests, and its driver.
#[path = "../../journal/tests/model/mod.rs"]
mod model;

use model::{Disk, Driver, SEQUENCER, STORAGE, metalog, recover, run, shard};

/// Bytes of a change in an input.
const CHANGE_BYTES: usize = 10;
/// Changes to one journal: a disk with more of them is noise.
const CHANGES_MAX: usize = 32;

fn config() -> JournalConfig {
    JournalConfig { segment_bytes: 64 << 10, block_bytes_max: 16 << 10, ..model::config() }
}

/// A journal with sealed segments, an open one, entries of all kinds, and three lives.
fn whole() -> &'static Disk {
    static WHOLE: OnceLock<Disk> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let mut driver = Driver::new(config());
        let place = Place { view: ViewNumber(1), index: 3 };
        for life in 0..3 {
            for turn in 0..8 {
                let at = life * 8 + turn;
                driver.append(STORAGE, run(shard(at % 2), at / 2 * 3, 3, 900));
                driver.append(SEQUENCER, metalog(at, 40));
                driver.append_durably(SEQUENCER, DurableEntry::Commit { view: model::VIEW, commit: at });
            }
            let part = DurableEntry::Checkpoint { place, part: 0, last: true, bytes: Bytes::from(vec![5; 600]) };
            driver.append(STORAGE, part);
            driver.append(SEQUENCER, DurableEntry::MetalogBase { place });
            driver.append_durably(STORAGE, DurableEntry::StorageSeal { view: ViewNumber(life as u32 + 1) });
            driver.idle();
            if life == 0 {
                driver.stop();
            }
            driver.restart();
        }
        driver.disk
    })
}

/// One change: what, in which segment, where, with which value.
struct Change<'a>(&'a [u8]);

impl Change<'_> {
    fn kind(&self) -> u8 {
        self.0[0] & 0x0f
    }

    /// The checksums are made right afterwards, as only a malicious hand would.
    fn is_sealed(&self) -> bool {
        self.0[0] & 0x10 != 0
    }

    fn segment(&self, disk: &Disk) -> Option<u32> {
        let count = disk.segments.len();
        disk.segments.keys().nth(usize::from(self.0[1]).checked_rem(count)?).copied()
    }

    fn offset(&self, bytes: &[u8]) -> usize {
        (u32::from_le_bytes(self.0[2..6].try_into().expect("four bytes")) as usize)
            .checked_rem(bytes.len())
            .unwrap_or(0)
    }

    fn value(&self) -> u32 {
        u32::from_le_bytes(self.0[6..10].try_into().expect("four bytes"))
    }

    fn apply(&self, disk: &mut Disk) {
        let Some(segment) = self.segment(disk) else { return };
        let bytes = disk.segments.get_mut(&segment).expect("one of them");
        let at = self.offset(bytes);
        let page = at / ALIGNMENT * ALIGNMENT;
        match self.kind() {
            0 if at < bytes.len() => bytes[at] ^= (self.value() as u8).max(1),
            1 if at + 4 <= bytes.len() => bytes[at..at + 4].copy_from_slice(&self.value().to_le_bytes()),
            2 if page < bytes.len() => bytes[page..page + ALIGNMENT].fill(0),
            // A write that went to another place.
            3 if page < bytes.len() => {
                let other = self.value() as usize * ALIGNMENT % bytes.len();
                bytes.copy_within(page..page + ALIGNMENT, other);
            }
            4 => bytes.truncate(page),
            5 => drop(disk.segments.remove(&segment)),
            6 => {
                let copy = bytes.clone();
                disk.segments.insert(self.value() % 16, copy);
            }
            // A field of a block's header, or of a trailer's.
            _ if page < bytes.len() => {
                let field = page + 20 + at % 24 * 4;
                bytes[field..field + 4].copy_from_slice(&self.value().to_le_bytes());
            }
            _ => {}
        }
    }
}

/// Recovery of a damaged, torn or forged journal: it succeeds or says why not. `inspect` shows the
/// same files without a fault.
pub fn journal_recovery(input: &[u8]) {
    let mut disk = whole().clone();
    let mut is_forged = false;
    for change in input.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX).map(Change) {
        change.apply(&mut disk);
        if change.is_sealed() {
            is_forged = true;
            disk.segments.values_mut().for_each(|bytes| seal(bytes));
        }
    }
    if let Ok(inspection) = Inspection::open(&mut disk, Some(model::JOURNAL_ID)) {
        for summary in inspection.segments() {
            let _ = inspection.visit(&mut disk, summary, &mut |_| {});
        }
    }
    let first = recover(config(), &mut disk).map(|(_, seen, _)| seen);
    if let (Ok(first), false) = (first, is_forged) {
        // Nothing is written by recovery itself: the next one finds the same.
        let (_, again, _) = recover(config(), &mut disk).expect("it was opened before");
        assert_eq!(first, again);
    }
}

/// Makes the checksums of all blocks and trailers right, wherever they say that they are.
fn seal(bytes: &mut [u8]) {
    let blocks_end = bytes.len();
    for page in (0..blocks_end).step_by(ALIGNMENT) {
        let Some(rest) = bytes.get_mut(page..).filter(|rest| rest.len() >= ALIGNMENT) else { return };
        match &rest[..4] {
            b"SLJB" => seal_block(rest),
            b"SLJT" => {
                seal_directory(bytes, page);
                seal_head(&mut bytes[page..page + ALIGNMENT], 112, 112);
            }
            _ => {}
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn seal_block(block: &mut [u8]) {
    let (data_bytes, directory_bytes) = (u32_at(block, 40), u32_at(block, 44));
    let Some(end) = 96_usize.checked_add(data_bytes).and_then(|end| end.checked_add(directory_bytes)) else { return };
    if end > block.len() {
        return;
    }
    let data = crc32fast::hash(&block[96..96 + data_bytes]);
    block[36..40].copy_from_slice(&data.to_le_bytes());
    seal_parts(block, 96, 96 + data_bytes..end);
}

fn seal_head(head: &mut [u8], head_bytes: usize, end: usize) {
    seal_parts(head, head_bytes, head_bytes..end);
}

fn seal_parts(bytes: &mut [u8], head_bytes: usize, rest: std::ops::Range<usize>) {
    let preamble = crc32fast::hash(&bytes[..16]);
    bytes[16..20].copy_from_slice(&preamble.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..20]);
    hasher.update(&bytes[24..head_bytes]);
    hasher.update(&bytes[rest]);
    bytes[20..24].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// The checksum of a footer's entries and tables, in its trailer.
fn seal_directory(bytes: &mut [u8], trailer: usize) {
    let head = &bytes[trailer..];
    let offset = u64::from_le_bytes(head[32..40].try_into().expect("eight bytes")) as usize;
    let (tags, sizes) = (u32_at(head, 40), [44, 48, 52].map(|at| u32_at(head, at)));
    let begin = offset.checked_add(tags);
    let end = begin.and_then(|begin| sizes.iter().try_fold(begin, |end, size| end.checked_add(*size)));
    let (Some(begin), Some(end)) = (begin, end) else { return };
    if let Some(directory) = bytes.get(begin..end) {
        let sum = crc32fast::hash(directory);
        bytes[trailer + 56..trailer + 60].copy_from_slice(&sum.to_le_bytes());
    }
}
