//! Backups of a data directory, made while a node uses it or not, and put back elsewhere.
//!
//! A backup is what a crash at one moment would have left, and that moment is after the backup began:
//! all that was acknowledged before is in it. It is found in rounds. What does not change any more is
//! copied once; a round copies the rest, and counts if meanwhile no segment went away, no view and no
//! life of the node ended. The node takes no part in it, and waits for nothing.
//!
//! With several executors, the journal that holds the order is copied before those that hold what is
//! ordered: whatever it calls committed was durable in the others by then. Records that came later are
//! in the backup without an order, like those of a crash: they were never acknowledged.

mod manifest;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sealog_journal::{ALIGNMENT, Inspection, RecoveryError, SegmentState};
use sealog_protocol::Incarnation;
use sealog_protocol::view::Chain;
use thiserror::Error;

pub(crate) use self::manifest::MANIFEST;
pub use self::manifest::ManifestError;
use self::manifest::{FileFacts, FileName, Manifest};
use self::segments::{Copied, CopyError, SegmentFiles, check, copy, damages_of_sealed, facts};
use crate::directory::{DirectoryError, MEMBER, hold_lock, journal_path, read_chains};
use crate::durable_file;
use crate::identity::{Identity, IdentityError};
use crate::register::FileRegister;

/// Rounds that may be in vain: each is as long as what came in the one before it takes to copy.
const ROUNDS_MAX: u32 = 32;
/// Rounds in which the same block is missing, before it is taken for damaged.
const MISSING_MAX: u32 = 4;
/// What a restored node's incarnation is raised by: above all lives that the node may have had since.
const LIVES_SINCE_MAX: u64 = 1 << 20;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    pub files: usize,
    pub bytes: u64,
    /// Rounds until one counted.
    pub rounds: u32,
    /// Damaged blocks and footers, as they are in the data directory.
    pub damages: u64,
}

/// Why there is no backup, or none was put back.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{} is no data directory of Sealog: there is nothing to back up", path.display())]
    NoData { path: PathBuf },
    #[error(
        "{} is of a node of a cluster: put back, it would answer for records that it lacks. Its copies are on the \
         other nodes; a node that is lost is replaced by a new one",
        path.display()
    )]
    Member { path: PathBuf },
    #[error("{} is not empty: give a directory that is empty or not there yet", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is inside of the data directory: give another place, best on another disk", path.display())]
    Inside { path: PathBuf },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("journal-{journal}: {error}")]
    Journal { journal: usize, error: RecoveryError },
    #[error("cannot {doing} {}: {error}", path.display())]
    Io { path: PathBuf, doing: &'static str, error: io::Error },
    #[error(
        "no backup after {rounds} rounds: segments are given back, or views change, faster than they are copied; \
         try again when the node is less busy, or write to a faster disk"
    )]
    Restless { rounds: u32 },
    #[error("{} has no manifest: it is no backup, or one that was cut off; use another", path.display())]
    CutOff { path: PathBuf },
    #[error("cannot use {}: {error}", path.display())]
    Manifest { path: PathBuf, error: ManifestError },
    #[error("{} {what}: the backup is damaged, use another", path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// Backs up the data directory `data` to `to`, which is empty or not there yet.
///
/// # Errors
/// There is no backup; `to` may hold a part of one, which nothing takes for a whole one.
pub fn create(data: &Path, to: &Path) -> Result<BackupReport, BackupError> {
    if data.join(MEMBER).exists() {
        return Err(BackupError::Member { path: data.to_owned() });
    }
    let identity = State::read(data)?.identity;
    // Held if nobody uses the directory, so that nobody begins to.
    let _lock = match hold_lock(data) {
        Ok(lock) => Some(lock),
        Err(DirectoryError::InUse { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    refuse_used(to)?;
    make_directory(to)?;
    refuse_inside(data, to)?;
    for journal in 0..identity.journals.len() {
        make_directory(&journal_path(to, journal))?;
    }
    make_directory(&to.join("register"))?;
    let mut backup = Backup { data, to, identity, sealed: BTreeMap::new(), missing: BTreeMap::new() };
    for journal in 0..backup.identity.journals.len() {
        backup.copy_journal(journal, false)?;
    }
    for round in 1..=ROUNDS_MAX {
        if let Some((manifest, damages)) = backup.round()? {
            let files = manifest.files.len();
            let bytes = manifest.files.iter().map(|(_, facts)| facts.bytes).sum();
            let damages = damages + finish(to, &manifest)?;
            return Ok(BackupReport { files, bytes, rounds: round, damages });
        }
    }
    Err(BackupError::Restless { rounds: ROUNDS_MAX })
}

/// Reads everything back, then says that it is there. Returns how many damages are in sealed segments.
fn finish(to: &Path, manifest: &Manifest) -> Result<u64, BackupError> {
    let directories = (0..manifest.identity.journals.len()).map(|journal| journal_path(to, journal));
    for directory in directories.chain([to.join("register"), to.to_owned()]) {
        sync(&directory)?;
    }
    verify(to, manifest)?;
    let mut damaged = 0;
    for (journal, id) in manifest.identity.journals.iter().enumerate() {
        let mut copied = SegmentFiles::copied(journal_path(to, journal));
        damaged += damages_of_sealed(&mut copied, *id).map_err(|error| BackupError::Journal { journal, error })?;
    }
    let path = to.join(MANIFEST);
    durable_file::replace(&path, manifest.encode().as_bytes()).map_err(failed("write", &path))?;
    Ok(damaged)
}

/// Makes a data directory of the backup in `from`, after verifying it. The node that starts there is the
/// one that was backed up, in a later life: the old one must not run any more.
///
/// # Errors
/// `data` is not a data directory, and must be removed before the next try if it was not empty before.
pub fn restore(from: &Path, data: &Path) -> Result<BackupReport, BackupError> {
    refuse_used(data)?;
    let path = from.join(MANIFEST);
    let manifest = match std::fs::read(&path) {
        Ok(bytes) => {
            Manifest::decode(&bytes).map_err(|error| BackupError::Manifest { path: from.to_owned(), error })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::CutOff { path: from.to_owned() });
        }
        Err(error) => return Err(failed("read", &path)(error)),
    };
    verify(from, &manifest)?;
    make_directory(data)?;
    let _lock = hold_lock(data)?;
    let directories = (0..manifest.identity.journals.len()).map(|journal| journal_path(data, journal));
    let directories: Vec<PathBuf> = directories.chain([data.join("register")]).collect();
    directories.iter().try_for_each(|directory| make_directory(directory))?;
    for (name, wanted) in &manifest.files {
        let (source, target) = (from.join(name.path()), data.join(name.path()));
        if copy_file(&source, &target)? != *wanted {
            return Err(BackupError::Damaged { path: source, what: "changed while it was copied" });
        }
    }
    directories.iter().try_for_each(|directory| sync(directory))?;
    let incarnation = Incarnation(manifest.identity.incarnation.0 + LIVES_SINCE_MAX);
    let identity = Identity { incarnation, ..manifest.identity };
    // From here on it is a data directory.
    let path = data.join("identity");
    durable_file::replace(&path, identity.encode().as_bytes()).map_err(failed("write", &path))?;
    let bytes = manifest.files.iter().map(|(_, facts)| facts.bytes).sum();
    Ok(BackupReport { files: manifest.files.len(), bytes, rounds: 1, damages: 0 })
}

/// A backup that is being made.
struct Backup<'a> {
    data: &'a Path,
    to: &'a Path,
    identity: Identity,
    /// Copies of segments that do not change any more.
    sealed: BTreeMap<(usize, u32), FileFacts>,
    /// How often a block of a journal was missing.
    missing: BTreeMap<(usize, u64), u32>,
}

impl Backup<'_> {
    /// Copies what may still change. Returns what the backup is, and the damages in it that are not in
    /// sealed segments. `None`: something went away or changed meanwhile.
    fn round(&mut self) -> Result<Option<(Manifest, u64)>, BackupError> {
        let state = State::read(self.data)?;
        // What one journal lets go of may be let go of in another: none of it may be gone at the end.
        let mut listed = self.list_all()?;
        let mut files = Vec::new();
        let mut damages = 0;
        for journal in (0..self.identity.journals.len()).rev() {
            let Some(segments) = self.copy_journal(journal, true)? else { return Ok(None) };
            let Some(damaged) = self.check_journal(journal)? else { return Ok(None) };
            damages += damaged;
            for segment in &segments {
                let name = FileName::Segment { journal, segment: *segment };
                let path = self.to.join(name.path());
                let of_sealed = self.sealed.get(&(journal, *segment)).copied();
                let facts = of_sealed.map_or_else(|| facts(&path).map_err(failed("read", &path)), Ok)?;
                files.push((name, facts));
            }
            listed.extend(segments.iter().map(|segment| (journal, *segment)));
        }
        if !listed.is_subset(&self.list_all()?) || State::read(self.data)? != state {
            return Ok(None);
        }
        for chain in &state.chains {
            let name = FileName::Chain { logspace: chain.logspace };
            let path = self.to.join(name.path());
            let bytes = chain.encode();
            durable_file::replace(&path, &bytes).map_err(failed("write", &path))?;
            files.push((name, FileFacts { bytes: bytes.len() as u64, checksum: crc32fast::hash(&bytes) }));
        }
        files.sort_unstable_by_key(|(name, _)| *name);
        Ok(Some((Manifest { identity: state.identity, files }, damages)))
    }

    /// The segment files of all journals.
    fn list_all(&self) -> Result<BTreeSet<(usize, u32)>, BackupError> {
        let mut all = BTreeSet::new();
        for journal in 0..self.identity.journals.len() {
            let directory = journal_path(self.data, journal);
            let segments = SegmentFiles::live(directory.clone()).list().map_err(failed("list", &directory))?;
            all.extend(segments.into_iter().map(|segment| (journal, segment)));
        }
        Ok(all)
    }

    /// Copies the segments of a journal that are not here yet, the newest first: what a block names as
    /// durable is in the same segment, or in one that is copied after it. Returns those that hold
    /// blocks; `None`: one of them went away.
    fn copy_journal(&mut self, journal: usize, with_open: bool) -> Result<Option<Vec<u32>>, BackupError> {
        let mut live = SegmentFiles::live(journal_path(self.data, journal));
        let inspection = match Inspection::open(&mut live, Some(self.identity.journals[journal])) {
            Ok(inspection) => inspection,
            Err(RecoveryError::Source(error)) if !live.path(error.segment).exists() => return Ok(None),
            Err(error) => return Err(BackupError::Journal { journal, error }),
        };
        let mut summaries = inspection.segments().to_vec();
        summaries.retain(|summary| match summary.state {
            SegmentState::Sealed(_) => true,
            SegmentState::Unsealed { .. } => with_open,
            SegmentState::Freed | SegmentState::Unused => false,
        });
        summaries.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.segment));
        let segments: Vec<u32> = summaries.iter().map(|summary| summary.segment).collect();
        self.forget_all_but(journal, &segments)?;
        for summary in &summaries {
            let key = (journal, summary.segment);
            if self.sealed.contains_key(&key) {
                continue;
            }
            let is_sealed = matches!(summary.state, SegmentState::Sealed(_));
            // A trailer that comes while the copy is made would vouch for what is not in it.
            let bytes = if is_sealed { summary.bytes } else { summary.bytes - ALIGNMENT as u64 };
            let target = SegmentFiles::copied(journal_path(self.to, journal)).path(summary.segment);
            match copy(&mut live, summary, bytes, &target) {
                Ok(facts) if is_sealed => drop(self.sealed.insert(key, facts)),
                Ok(_) => {}
                Err(CopyError::Source(_)) if !live.path(summary.segment).exists() => return Ok(None),
                Err(CopyError::Source(error)) => return Err(BackupError::Journal { journal, error: error.into() }),
                Err(CopyError::Target(error)) => return Err(failed("write", &target)(error)),
            }
        }
        Ok(Some(segments))
    }

    /// Removes copies of segments that the journal does not have any more.
    fn forget_all_but(&mut self, journal: usize, segments: &[u32]) -> Result<(), BackupError> {
        self.sealed.retain(|(of, segment), _| *of != journal || segments.contains(segment));
        let copied = SegmentFiles::copied(journal_path(self.to, journal));
        let present = copied.list().map_err(failed("list", &journal_path(self.to, journal)))?;
        let gone = present.iter().filter(|segment| !segments.contains(segment));
        gone.copied().try_for_each(|segment| remove(&copied.path(segment)))
    }

    /// Looks whether the copy of a journal is one. Returns damages in it; `None`: it has to be read again.
    fn check_journal(&mut self, journal: usize) -> Result<Option<u64>, BackupError> {
        let mut copied = SegmentFiles::copied(journal_path(self.to, journal));
        let is_damaged = self.missing.iter().any(|((of, _), times)| *of == journal && *times >= MISSING_MAX);
        match check(&mut copied, self.identity.journals[journal], is_damaged) {
            Ok(Copied::Whole { damages }) => Ok(Some(damages)),
            Ok(Copied::Missing { number }) => {
                *self.missing.entry((journal, number)).or_default() += 1;
                Ok(None)
            }
            Err(error) => Err(BackupError::Journal { journal, error }),
        }
    }
}

/// What a data directory holds beside its journals.
#[derive(PartialEq)]
struct State {
    identity: Identity,
    chains: Vec<Chain>,
}

impl State {
    fn read(data: &Path) -> Result<State, BackupError> {
        let path = data.join("identity");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoData { path: data.to_owned() });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let unusable = |error: IdentityError| DirectoryError::Unusable { path: data.to_owned(), error };
        let identity = Identity::decode(&bytes).map_err(unusable)?;
        let chains = read_chains(data, &mut FileRegister::new(&data.join("register")), &identity)?;
        Ok(State { identity, chains })
    }
}

/// Holds each file against the manifest.
fn verify(directory: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    for (name, wanted) in &manifest.files {
        let path = directory.join(name.path());
        match facts(&path) {
            Ok(found) if found == *wanted => {}
            Ok(found) if found.bytes != wanted.bytes => {
                return Err(BackupError::Damaged { path, what: "has another size than the manifest says" });
            }
            Ok(_) => return Err(BackupError::Damaged { path, what: "has another checksum than the manifest says" }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Damaged { path, what: "is gone" });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        }
    }
    let chains = manifest.files.iter().filter(|(name, _)| matches!(name, FileName::Chain { .. })).count();
    match chains {
        0 => Err(BackupError::Damaged { path: directory.join(MANIFEST), what: "names no register" }),
        _ => Ok(()),
    }
}

/// Copies a file, zeros too: they are room that the node relies on.
fn copy_file(from: &Path, to: &Path) -> Result<FileFacts, BackupError> {
    let mut source = File::open(from).map_err(failed("read", from))?;
    let mut target = File::create_new(to).map_err(failed("write", to))?;
    let (mut hasher, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = source.read(&mut buffer).map_err(failed("read", from))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        target.write_all(&buffer[..read]).map_err(failed("write", to))?;
    }
    target.sync_all().map_err(failed("write", to))?;
    Ok(FileFacts { bytes, checksum: hasher.finalize() })
}

/// Nothing is ever written over.
fn refuse_used(directory: &Path) -> Result<(), BackupError> {
    if directory.join("lock").exists() {
        drop(hold_lock(directory)?);
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", directory)(error)),
    };
    for entry in entries {
        if entry.map_err(failed("list", directory))?.file_name() != "lost+found" {
            return Err(BackupError::NotEmpty { path: directory.to_owned() });
        }
    }
    Ok(())
}

fn refuse_inside(data: &Path, to: &Path) -> Result<(), BackupError> {
    let whole = |path: &Path| path.canonicalize().map_err(failed("find", path));
    if whole(to)?.starts_with(whole(data)?) {
        // It was made just now, and is empty.
        std::fs::remove_dir(to).map_err(failed("remove", to))?;
        return Err(BackupError::Inside { path: to.to_owned() });
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), BackupError> {
    durable_file::create_directory(path).map_err(failed("create", path))
}

fn sync(directory: &Path) -> Result<(), BackupError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("flush", directory))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Io { path, doing, error }
}
