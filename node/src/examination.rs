//! A look at a data directory that reads all it is made of but the journals' content, and writes
//! nothing: it may be a copy on a medium that cannot be written.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::{DirectoryError, MEMBER, in_use, journal_path, read_chains, refuse_lost_journals};
use crate::identity::Identity;
use crate::register::FileRegister;

/// A data directory that no node uses as long as this lives.
#[derive(Debug)]
pub struct Examination {
    /// None when it is damaged or gone.
    pub identity: Option<Identity>,
    pub journals: Vec<JournalPlace>,
    /// What is wrong with the identity and the register, each a sentence.
    pub damages: Vec<String>,
    _lock: Option<File>,
}

/// Where a journal lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPlace {
    pub path: PathBuf,
    /// As the identity has it.
    pub id: Option<u64>,
}

impl Examination {
    /// Examines a directory.
    ///
    /// # Errors
    /// When it is none of Sealog, a node uses it, or it cannot be read.
    pub fn of(path: &Path) -> Result<Examination, DirectoryError> {
        let lock = lock(path)?;
        let mut damages = Vec::new();
        let identity = match std::fs::read(path.join("identity")) {
            Ok(bytes) => Identity::decode(&bytes).map_err(|error| damages.push(format!("identity: {error}"))).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                damages.push("the file 'identity' is gone: restore it from a copy".to_owned());
                None
            }
            Err(error) => return Err(failed(path, "read the identity in", error)),
        };
        let journals: Vec<JournalPlace> = match &identity {
            Some(identity) => {
                let mut register = FileRegister::new(&path.join("register"));
                let is_member = path.join(MEMBER).exists();
                let chains = if is_member { Ok(Vec::new()) } else { read_chains(path, &mut register, identity) };
                let checked = chains.and_then(|chains| refuse_lost_journals(path, identity, &chains));
                damages.extend(checked.err().map(|error| error.to_string()));
                let place =
                    |(journal, id): (usize, &u64)| JournalPlace { path: journal_path(path, journal), id: Some(*id) };
                identity.journals.iter().enumerate().map(place).collect()
            }
            None => (0..)
                .map(|journal| JournalPlace { path: journal_path(path, journal), id: None })
                .take_while(|place| place.path.is_dir())
                .collect(),
        };
        if identity.is_none() && journals.is_empty() {
            let what = "there is neither an identity nor a journal: is it a data directory of Sealog?".to_owned();
            return Err(DirectoryError::Foreign { path: path.to_owned(), what });
        }
        Ok(Examination { identity, journals, damages, _lock: lock })
    }
}

fn failed(path: &Path, doing: &'static str, error: io::Error) -> DirectoryError {
    DirectoryError::Io { path: path.to_owned(), doing, error }
}

/// The directory's lock, taken without writing; a copy may have none.
fn lock(path: &Path) -> Result<Option<File>, DirectoryError> {
    let mut file = match File::open(path.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "lock", error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(in_use(path, &mut file)),
        Err(TryLockError::Error(error)) => Err(failed(path, "lock", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{DataDirectory, Founding};

    const FOUNDING: Founding =
        Founding { executors: Some(2), logspaces: Some(3), memory_logspaces: Some(0), node: None, cluster: None };

    #[test]
    fn what_is_whole_is_said_to_be_and_who_uses_it_is_told() {
        let data = tempfile::tempdir().unwrap();
        let held = DataDirectory::open(data.path(), &FOUNDING).unwrap();
        assert!(matches!(Examination::of(data.path()), Err(DirectoryError::InUse { .. })));
        drop(held);
        let examination = Examination::of(data.path()).unwrap();
        assert_eq!((examination.damages.len(), examination.journals.len()), (0, 2));
        assert!(matches!(DataDirectory::open(data.path(), &Founding::default()), Err(DirectoryError::InUse { .. })));
    }

    #[test]
    fn damage_of_identity_and_register_is_found_and_the_journals_all_the_same() {
        let data = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(data.path(), &FOUNDING).unwrap());
        for file in ["register/logspace-2.chain", "identity"] {
            let path = data.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let examination = Examination::of(data.path()).unwrap();
            assert_eq!((examination.damages.len(), examination.journals.len()), (1, 2), "{file}: {examination:?}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Examination::of(empty.path()), Err(DirectoryError::Foreign { .. })));
    }
}
