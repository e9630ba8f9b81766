//! A node's data directory.
//!
//! ```text
//! DIR/lock                      held as long as a node uses the directory; its process id
//! DIR/identity                  who the node is; written last when the directory is made
//! DIR/register/logspace-0.chain the chain of views of each logspace
//! DIR/member                    in the place of the register, in a node of a cluster: its cluster
//! DIR/journal-0/                segments of each executor's journal
//! ```
//!
//! A directory is a data directory from the moment that `identity` is in it. A crash before leaves
//! things that the next start writes anew; none of them can hold data yet. A journal without an
//! identity is never taken over: a node that forgot who it was would answer for records it lost.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sealog_control::register::{Register, RegisterError};
use sealog_protocol::limits::LOGSPACES_MAX;
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, Logspaces, NodeId, NodeSet, ViewNumber};
use thiserror::Error;

use crate::backup::MANIFEST;
use crate::cluster::JoinError;
use crate::durable_file;
use crate::identity::{Identity, IdentityError};
use crate::register::FileRegister;

/// A file that says which cluster the node has served: its register, with the chains, is elsewhere.
pub(crate) const MEMBER: &str = "member";

/// Names that a crash may leave in a directory that is not made yet, or that others put there.
const HARMLESS: &[&str] = &["lock", "register", "identity.new", "sealog.sock", "lost+found"];

/// A data directory in use by this process, in a new life of its node.
#[derive(Debug)]
pub struct DataDirectory {
    pub path: PathBuf,
    pub identity: Identity,
    pub register: FileRegister,
    /// What the register held when the directory was opened: the chain of each logspace.
    pub chains: Vec<Chain>,
    /// Held until the directory is dropped.
    _lock: File,
}

/// What a directory is, at a look that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A node makes it at its first start.
    Absent,
    /// Nobody uses it.
    Idle(Identity),
}

/// Why a directory can't be used. Nothing in it was changed.
#[derive(Debug, Error)]
pub enum DirectoryError {
    #[error("{} is in use by another node{}: stop it, or give this one another --data", path.display(), owner(.process))]
    InUse { path: PathBuf, process: Option<u32> },
    #[error("cannot use {}: {error}", path.display())]
    Unusable { path: PathBuf, error: IdentityError },
    #[error("cannot use {}: {what}", path.display())]
    Foreign { path: PathBuf, what: String },
    #[error("{} was made with {made} {what}, not {asked}, which can't be changed yet: leave the setting out, or use another --data", path.display())]
    Fixed { path: PathBuf, what: &'static str, made: usize, asked: usize },
    #[error("{} is of {what} {made}, not {asked}, which never changes: correct the setting, or use another --data", path.display())]
    Identity { path: PathBuf, what: &'static str, made: u64, asked: u64 },
    #[error("cannot {doing} {}: {error}", path.display())]
    Io { path: PathBuf, doing: &'static str, error: io::Error },
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// What is fixed when a directory is made. What is `None` is left as it was made; at first, there is
/// one executor and one logspace of each class, and ids are drawn at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    pub executors: Option<usize>,
    pub logspaces: Option<u16>,
    pub memory_logspaces: Option<u16>,
    pub node: Option<u64>,
    pub cluster: Option<u64>,
}

fn owner(process: &Option<u32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

impl DataDirectory {
    /// Takes the directory, making it if it is not there; the node's new incarnation is durable when
    /// this returns. What `founding` says is fixed when it is made.
    pub fn open(path: &Path, founding: &Founding) -> Result<DataDirectory, DirectoryError> {
        DataDirectory::open_if(path, founding, false, |_| Ok(()))
    }

    /// As [`DataDirectory::open`], of a node whose register is elsewhere, and its chains with it. It is
    /// asked before the new life begins whether it may.
    pub fn open_member(
        path: &Path,
        founding: &Founding,
        admit: impl FnOnce(&Identity) -> Result<(), JoinError>,
    ) -> Result<DataDirectory, DirectoryError> {
        DataDirectory::open_if(path, founding, true, |identity| Ok(admit(identity)?))
    }

    fn open_if(
        path: &Path,
        founding: &Founding,
        is_member: bool,
        admit: impl FnOnce(&Identity) -> Result<(), DirectoryError>,
    ) -> Result<DataDirectory, DirectoryError> {
        let failed = |doing| move |error| DirectoryError::Io { path: path.to_owned(), doing, error };
        durable_file::create_directory(path).map_err(failed("create"))?;
        let lock = lock(path)?;
        let identity_path = path.join("identity");
        let mut identity = match std::fs::read(&identity_path) {
            Ok(bytes) => {
                Identity::decode(&bytes).map_err(|error| DirectoryError::Unusable { path: path.to_owned(), error })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(path)?;
                initialise(path, founding, is_member)?
            }
            Err(error) => return Err(failed("read the identity in")(error)),
        };
        let same = |what, made: u64, asked: Option<u64>| match asked.filter(|asked| *asked != made) {
            Some(asked) => Err(DirectoryError::Identity { path: path.to_owned(), what, made, asked }),
            None => Ok(()),
        };
        same("node", identity.node.0, founding.node)?;
        admit(&identity)?;
        same("cluster", identity.cluster.0, founding.cluster)?;
        let mut register = FileRegister::new(&path.join("register"));
        let has_chains = path.join("register").exists();
        if is_member && has_chains {
            let what = "its node had a register of its own: a node alone can't join a cluster, use another --data";
            return Err(DirectoryError::Foreign { path: path.to_owned(), what: what.to_owned() });
        }
        if !is_member && !has_chains && path.join("identity").exists() {
            let what =
                "it has no register: if its node is of a cluster, set register as it was; else restore it from a copy";
            return Err(DirectoryError::Foreign { path: path.to_owned(), what: what.to_owned() });
        }
        let chains = if is_member { Vec::new() } else { read_chains(path, &mut register, &identity)? };
        let fixed = |what, made: usize, asked: Option<usize>| match asked.filter(|asked| *asked != made) {
            Some(asked) => Err(DirectoryError::Fixed { path: path.to_owned(), what, made, asked }),
            None => Ok(()),
        };
        fixed("executor(s)", identity.journals.len(), founding.executors)?;
        if let Some(first) = chains.first() {
            let made = first.settings.classes();
            fixed("logspace(s)", made.disk.into(), founding.logspaces.map(usize::from))?;
            fixed("logspace(s) of class memory", made.memory.into(), founding.memory_logspaces.map(usize::from))?;
        }
        refuse_lost_journals(path, &identity, &chains)?;
        if path.join(MEMBER).exists() {
            refuse_empty_journals(path, &identity)?;
        }
        for journal in 0..identity.journals.len() {
            durable_file::create_directory(&journal_path(path, journal)).map_err(failed("create a journal in"))?;
        }
        identity.incarnation = Incarnation(identity.incarnation.0 + 1);
        durable_file::replace(&identity_path, identity.encode().as_bytes()).map_err(failed("write to"))?;
        Ok(DataDirectory { path: path.to_owned(), identity, register, chains, _lock: lock })
    }

    /// Remembers that the node serves a cluster with what is here: from now on its journals are missed.
    pub fn serve_cluster(&self) -> Result<(), DirectoryError> {
        let failed = |error| DirectoryError::Io { path: self.path.clone(), doing: "write to", error };
        let text = format!("{}\n", self.identity.cluster);
        durable_file::replace(&self.path.join(MEMBER), text.as_bytes()).map_err(failed)
    }

    /// Looks whether a node could start here.
    ///
    /// # Errors
    /// Why not, as [`DataDirectory::open`] would say.
    pub fn look(path: &Path) -> Result<Look, DirectoryError> {
        if path.join("lock").exists() {
            // Given back at once: only who holds it matters.
            drop(hold_lock(path)?);
        }
        match std::fs::read(path.join("identity")) {
            Ok(bytes) => Identity::decode(&bytes)
                .map(Look::Idle)
                .map_err(|error| DirectoryError::Unusable { path: path.to_owned(), error }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => Ok(Look::Absent),
            Err(error) if error.kind() == io::ErrorKind::NotFound => refuse_foreign(path).map(|()| Look::Absent),
            Err(error) => Err(DirectoryError::Io { path: path.to_owned(), doing: "read the identity in", error }),
        }
    }

    /// Where an executor's journal keeps its segments.
    pub fn journal(&self, executor: usize) -> PathBuf {
        journal_path(&self.path, executor)
    }

    /// The Unix socket that is used unless another is asked for.
    pub fn unix_socket(&self) -> PathBuf {
        self.path.join("sealog.sock")
    }
}

pub(crate) fn journal_path(path: &Path, executor: usize) -> PathBuf {
    path.join(format!("journal-{executor}"))
}

/// Takes the lock, and writes into it who has it.
fn lock(path: &Path) -> Result<File, DirectoryError> {
    let mut file = hold_lock(path)?;
    let written = file.set_len(0).and_then(|()| file.rewind());
    let written = written.and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(|error| DirectoryError::Io { path: path.to_owned(), doing: "lock", error })?;
    Ok(file)
}

/// Takes the lock, which the system gives back when the process ends, however it ends.
pub(crate) fn hold_lock(path: &Path) -> Result<File, DirectoryError> {
    let failed = |error| DirectoryError::Io { path: path.to_owned(), doing: "lock", error };
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    Ok(file)
}

/// Whoever has the lock wrote into it who it is.
pub(crate) fn in_use(path: &Path, lock: &mut File) -> DirectoryError {
    let mut text = String::new();
    let process = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    DirectoryError::InUse { path: path.to_owned(), process }
}

/// A directory without an identity must be empty, but for what an interrupted first start leaves.
fn refuse_foreign(path: &Path) -> Result<(), DirectoryError> {
    let failed = |error| DirectoryError::Io { path: path.to_owned(), doing: "list", error };
    if path.join(MANIFEST).exists() {
        let what = "it is a backup: `sealog restore` makes a data directory of it".to_owned();
        return Err(DirectoryError::Foreign { path: path.to_owned(), what });
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let what = if name.starts_with("journal-") {
            if is_empty(&entry.path()) {
                continue;
            }
            format!(
                "it has a journal ({name}) but no identity: it may hold records, so nothing is overwritten. Restore the file 'identity', or use an empty directory"
            )
        } else if HARMLESS.contains(&name.as_ref()) {
            continue;
        } else {
            format!("it holds '{name}', and is not a Sealog data directory: use an empty or a new one")
        };
        return Err(DirectoryError::Foreign { path: path.to_owned(), what });
    }
    Ok(())
}

/// A journal that is gone while the register knows of earlier lives held records.
pub(crate) fn refuse_lost_journals(path: &Path, identity: &Identity, chains: &[Chain]) -> Result<(), DirectoryError> {
    if chains.iter().all(|chain| chain.views.len() == 1) {
        return Ok(());
    }
    refuse_empty_journals(path, identity)
}

fn refuse_empty_journals(path: &Path, identity: &Identity) -> Result<(), DirectoryError> {
    for journal in 0..identity.journals.len() {
        let segments = journal_path(path, journal);
        if !segments.is_dir() || is_empty(&segments) {
            let what = format!("journal-{journal} is gone or empty, but held records before: restore it from a copy");
            return Err(DirectoryError::Foreign { path: path.to_owned(), what });
        }
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// Everything but the identity, whose writing is what makes the directory.
fn initialise(path: &Path, founding: &Founding, is_member: bool) -> Result<Identity, DirectoryError> {
    let failed = |error| DirectoryError::Io { path: path.to_owned(), doing: "initialise", error };
    let executors = founding.executors.unwrap_or(1);
    let disk = founding.logspaces.unwrap_or(1);
    let memory = founding.memory_logspaces.unwrap_or(u16::from(disk < LOGSPACES_MAX));
    let logspaces = Logspaces { disk, memory };
    let id = |said: Option<u64>| said.map_or_else(random_id, Ok).map_err(failed);
    let (node, cluster) = (NodeId(id(founding.node)?), ClusterId(id(founding.cluster)?));
    let directory = path.join("register");
    // What an interrupted creation left: no node has ever acted on it.
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ if is_member => {}
        _ => durable_file::create_directory(&directory).map_err(failed)?,
    }
    let mut register = FileRegister::new(&directory);
    for logspace in logspaces.ids().filter(|_| !is_member) {
        let chain = first_chain(node, ClusterSettings::new(cluster, logspaces), logspace);
        register.create(&chain)?;
    }
    let journals = (0..executors).map(|_| random_id()).collect::<io::Result<_>>().map_err(failed)?;
    Ok(Identity { node, cluster, incarnation: Incarnation(0), journals })
}

/// The chain of a cluster of this one node, which is primary in its first life.
fn first_chain(node: NodeId, settings: ClusterSettings, logspace: LogspaceId) -> Chain {
    let only = NodeSet::new(&[node]).expect("one node is a set");
    let view = View {
        number: ViewNumber(1),
        primary: node,
        primary_incarnation: Incarnation(1),
        sequencers: only,
        storages: only,
        write_quorum: 1,
        replicas: 1,
        moves: Vec::new(),
        cause: Default::default(),
    };
    Chain { settings, logspace, views: vec![view], ends: Vec::new() }
}

pub(crate) fn read_chains(
    path: &Path,
    register: &mut FileRegister,
    identity: &Identity,
) -> Result<Vec<Chain>, DirectoryError> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut logspaces = 1;
    while chains.len() < logspaces {
        let logspace = LogspaceId(chains.len() as u16);
        let foreign = |what: &str| DirectoryError::Foreign {
            path: path.to_owned(),
            what: format!("its register of logspace {logspace} {what}"),
        };
        let chain = register.read(logspace)?.ok_or_else(|| foreign("is gone: restore it from a copy"))?;
        if chain.logspace != logspace || chain.settings.cluster != identity.cluster {
            return Err(foreign("belongs to another cluster or logspace"));
        }
        logspaces = usize::from(chain.settings.logspaces);
        chains.push(chain);
    }
    Ok(chains)
}

/// A random id, never 0.
pub(crate) fn random_id() -> io::Result<u64> {
    getrandom::u64().map(|id| id.max(1)).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_control::register::Swap;

    fn open(path: &Path, executors: usize) -> Result<DataDirectory, DirectoryError> {
        DataDirectory::open(path, &Founding { executors: Some(executors), ..Founding::default() })
    }

    #[test]
    fn each_start_is_a_new_life_of_the_same_node() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let first = open(&path, 1).unwrap().identity;
        assert_eq!(first.incarnation, Incarnation(1));
        let second = open(&path, 1).unwrap().identity;
        assert_eq!(second, Identity { incarnation: Incarnation(2), ..first });
    }

    #[test]
    fn a_second_node_is_refused_and_told_the_first() {
        let data = tempfile::tempdir().unwrap();
        let held = open(data.path(), 1).unwrap();
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(held);
        assert_eq!(open(data.path(), 1).unwrap().identity.incarnation, Incarnation(2));
    }

    #[test]
    fn a_crash_before_the_identity_leaves_nothing() {
        let data = tempfile::tempdir().unwrap();
        let made = open(data.path(), 1).unwrap().identity;
        std::fs::remove_file(data.path().join("identity")).unwrap();
        std::fs::write(data.path().join("identity.new"), "sealog da").unwrap();
        let again = open(data.path(), 1).unwrap();
        assert_eq!(again.identity.incarnation, Incarnation(1));
        assert_ne!(again.identity.node, made.node);
        assert_eq!(again.chains[0].current().primary, again.identity.node);
    }

    #[test]
    fn a_journal_without_identity_is_not_taken_over() {
        let data = tempfile::tempdir().unwrap();
        open(data.path(), 1).unwrap();
        std::fs::remove_file(data.path().join("identity")).unwrap();
        std::fs::write(data.path().join("journal-0/segment"), "records").unwrap();
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains("no identity"), "{message}");
    }

    #[test]
    fn a_journal_that_is_gone_is_noticed() {
        let data = tempfile::tempdir().unwrap();
        let mut held = open(data.path(), 1).unwrap();
        let chain = held.chains[0].clone();
        let mut next = chain.current().clone();
        next.number.0 += 1;
        assert_eq!(held.register.compare_and_swap(&chain.extended(0, next)).unwrap(), Swap::Installed);
        drop(held);
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains("journal-0 is gone or empty"), "{message}");
    }

    #[test]
    fn foreign_directories_and_other_formats_are_refused() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("thesis.tex"), "").unwrap();
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains("thesis.tex"), "{message}");

        let data = tempfile::tempdir().unwrap();
        open(data.path(), 1).unwrap();
        let identity = data.path().join("identity");
        let text = std::fs::read_to_string(&identity).unwrap();
        std::fs::write(&identity, text.replace("format 2", "format 3")).unwrap();
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains("format 3") && message.contains("reads formats 1 to 2"), "{message}");
    }

    #[test]
    fn executors_and_logspaces_are_fixed_at_the_first_start() {
        let data = tempfile::tempdir().unwrap();
        let founding = Founding { executors: Some(2), logspaces: Some(3), ..Founding::default() };
        let made = DataDirectory::open(data.path(), &founding).unwrap();
        assert_eq!((made.identity.journals.len(), made.chains.len()), (2, 4), "one more is of class memory");
        drop(made);
        let again = DataDirectory::open(data.path(), &Founding::default()).unwrap();
        assert_eq!((again.identity.journals.len(), again.chains.len()), (2, 4));
        drop(again);
        let message = open(data.path(), 1).unwrap_err().to_string();
        assert!(message.contains("made with 2 executor(s), not 1"), "{message}");
        let other = Founding { logspaces: Some(1), ..Founding::default() };
        assert!(DataDirectory::open(data.path(), &other).is_err());
        let other = Founding { memory_logspaces: Some(0), ..Founding::default() };
        let message = DataDirectory::open(data.path(), &other).unwrap_err().to_string();
        assert!(message.contains("made with 1 logspace(s) of class memory, not 0"), "{message}");
    }

    #[test]
    fn an_identity_that_was_asked_for_is_given_and_stays() {
        let data = tempfile::tempdir().unwrap();
        let founding = Founding { node: Some(7), cluster: Some(9), ..Founding::default() };
        let made = DataDirectory::open(data.path(), &founding).unwrap();
        assert_eq!((made.identity.node, made.identity.cluster), (NodeId(7), ClusterId(9)));
        assert_eq!(made.chains[0].current().primary, NodeId(7));
        drop(made);
        assert_eq!(DataDirectory::open(data.path(), &founding).unwrap().identity.node, NodeId(7));
        let other = Founding { node: Some(8), ..founding };
        let message = DataDirectory::open(data.path(), &other).unwrap_err().to_string();
        assert!(message.contains("is of node 7, not 8"), "{message}");
        let other = Founding { cluster: Some(8), ..founding };
        assert!(DataDirectory::open(data.path(), &other).unwrap_err().to_string().contains("cluster 9, not 8"));
        assert_eq!(open(data.path(), 1).unwrap().identity.incarnation, Incarnation(3), "a refused start is no life");
    }
}
