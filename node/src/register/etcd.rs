//! The register in etcd, for nodes on several machines: a key for each document, and transactions
//! that compare the revision that was read.

use std::io;
use std::time::Duration;

use sealog_control::register::{MembersSwap, Register, RegisterError, Swap, extends};
use sealog_protocol::LogspaceId;
use sealog_protocol::frame::FrameError;
use sealog_protocol::members::Members;
use sealog_protocol::view::Chain;

use super::gateway::{Gateway, KeyValue, WatchAnswer};
use super::{Change, RegisterWatch, WatchedRegister};

/// Where the keys of all clusters are.
const ROOT: &str = "/sealog";
const MEMBERS: &str = "members";
const LOGSPACE: &str = "logspace-";

/// A register in etcd.
pub struct EtcdRegister {
    gateway: Gateway,
    keys: Keys,
}

/// Names of the keys of a cluster.
#[derive(Clone, Debug)]
struct Keys {
    /// With the slash at its end.
    prefix: String,
}

enum Document {
    Members,
    Chain(LogspaceId),
}

impl Keys {
    fn of(&self, document: &Document) -> String {
        match document {
            Document::Members => format!("{}{MEMBERS}", self.prefix),
            Document::Chain(logspace) => format!("{}{LOGSPACE}{logspace}", self.prefix),
        }
    }

    /// What a key is; `None` for what others put there.
    fn document(&self, key: &str) -> Option<Document> {
        match key.strip_prefix(&self.prefix)? {
            MEMBERS => Some(Document::Members),
            name => name.strip_prefix(LOGSPACE)?.parse().ok().map(LogspaceId).map(Document::Chain),
        }
    }
}

impl Document {
    fn unavailable(&self, source: io::Error) -> RegisterError {
        match self {
            Document::Members => RegisterError::MembersUnavailable { source },
            Document::Chain(logspace) => RegisterError::Unavailable { logspace: *logspace, source },
        }
    }

    fn damaged(&self, source: FrameError) -> RegisterError {
        match self {
            Document::Members => RegisterError::MembersDamaged { source },
            Document::Chain(logspace) => RegisterError::Damaged { logspace: *logspace, source },
        }
    }

    fn chain(&self, held: &KeyValue) -> Result<Chain, RegisterError> {
        Chain::decode(&held.value).map_err(|source| self.damaged(source))
    }

    fn members(&self, held: &KeyValue) -> Result<Members, RegisterError> {
        Members::decode(&held.value).map_err(|source| self.damaged(source))
    }

    fn change(&self, held: &KeyValue) -> Result<Change, RegisterError> {
        match self {
            Document::Members => self.members(held).map(Change::Members),
            Document::Chain(_) => self.chain(held).map(Change::Chain),
        }
    }
}

impl EtcdRegister {
    /// The register of the cluster with this prefix; asks nothing yet.
    pub fn new(endpoints: &[String], prefix: &str) -> EtcdRegister {
        let keys = Keys { prefix: format!("{ROOT}/{prefix}/") };
        EtcdRegister { gateway: Gateway::new(endpoints), keys }
    }

    fn get(&mut self, document: &Document) -> Result<Option<KeyValue>, RegisterError> {
        self.gateway.get(&self.keys.of(document)).map_err(|error| document.unavailable(error))
    }

    /// Writes if the key is still as it was read; else what it is now. An error leaves open which.
    fn put_if(
        &mut self,
        document: &Document,
        read: Option<&KeyValue>,
        value: &[u8],
    ) -> Result<Option<KeyValue>, RegisterError> {
        let revision = read.map_or(0, |read| read.revision);
        let held = self.gateway.put_if(&self.keys.of(document), revision, value);
        match held.map_err(|error| document.unavailable(error))? {
            None => Ok(None),
            Some(Some(held)) => Ok(Some(held)),
            Some(None) => Err(document.unavailable(missing("its key was deleted: restore etcd from a backup"))),
        }
    }

    /// Writes a chain if the key is still as it was read.
    fn swap(&mut self, document: &Document, read: Option<&KeyValue>, next: &Chain) -> Result<Swap, RegisterError> {
        match self.put_if(document, read, &next.encode())? {
            None => Ok(Swap::Installed),
            Some(held) => Ok(Swap::Held(Box::new(document.chain(&held)?))),
        }
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

impl Register for EtcdRegister {
    fn read(&mut self, logspace: LogspaceId) -> Result<Option<Chain>, RegisterError> {
        let document = Document::Chain(logspace);
        self.get(&document)?.map(|held| document.chain(&held)).transpose()
    }

    fn create(&mut self, chain: &Chain) -> Result<Swap, RegisterError> {
        self.swap(&Document::Chain(chain.logspace), None, chain)
    }

    fn compare_and_swap(&mut self, next: &Chain) -> Result<Swap, RegisterError> {
        let document = Document::Chain(next.logspace);
        let read = self.get(&document)?.ok_or_else(|| document.unavailable(missing("it has no chain yet")))?;
        let held = document.chain(&read)?;
        if extends(&held, next) { self.swap(&document, Some(&read), next) } else { Ok(Swap::Held(Box::new(held))) }
    }

    fn members(&mut self) -> Result<Option<Members>, RegisterError> {
        let document = Document::Members;
        self.get(&document)?.map(|held| document.members(&held)).transpose()
    }

    fn swap_members(&mut self, next: &Members) -> Result<MembersSwap, RegisterError> {
        let document = Document::Members;
        let read = self.get(&document)?;
        match read.as_ref().map(|read| document.members(read)).transpose()? {
            Some(held) if !held.precedes(next) => return Ok(MembersSwap::Held(held)),
            None if next.version != 1 => return Err(document.unavailable(missing("it has no members yet"))),
            _ => {}
        }
        match self.put_if(&document, read.as_ref(), &next.encode())? {
            None => Ok(MembersSwap::Installed),
            Some(held) => Ok(MembersSwap::Held(document.members(&held)?)),
        }
    }
}

impl WatchedRegister for EtcdRegister {
    fn watch(&self) -> Box<dyn RegisterWatch> {
        Box::new(EtcdWatch { gateway: self.gateway.clone(), keys: self.keys.clone(), next_revision: None })
    }
}

/// Watches all keys of a cluster. Each call asks anew from the revision after the last one that was
/// told, so that a connection that died in silence costs one call.
struct EtcdWatch {
    gateway: Gateway,
    keys: Keys,
    /// `None`: all is to be read, at first and when etcd has forgotten what came since.
    next_revision: Option<u64>,
}

impl EtcdWatch {
    fn changes_of(&self, pairs: &[KeyValue]) -> Result<Vec<Change>, RegisterError> {
        let known = pairs.iter().filter_map(|held| Some((self.keys.document(&held.key)?, held)));
        known.map(|(document, held)| document.change(held)).collect()
    }
}

impl RegisterWatch for EtcdWatch {
    fn changes(&mut self, patience: Duration) -> Result<Vec<Change>, RegisterError> {
        let unwatchable = |source| RegisterError::Unwatchable { source };
        let Some(from) = self.next_revision else {
            let (pairs, revision) = self.gateway.get_all(&self.keys.prefix).map_err(unwatchable)?;
            let changes = self.changes_of(&pairs)?;
            self.next_revision = Some(revision + 1);
            return Ok(changes);
        };
        match self.gateway.watch(&self.keys.prefix, from, patience).map_err(unwatchable)? {
            WatchAnswer::Nothing => Ok(Vec::new()),
            WatchAnswer::Forgotten => {
                self.next_revision = None;
                self.changes(patience)
            }
            WatchAnswer::Puts(pairs) => {
                let changes = self.changes_of(&pairs)?;
                let last = pairs.iter().map(|held| held.revision).max().unwrap_or(from);
                self.next_revision = Some(last + 1);
                Ok(changes)
            }
        }
    }
}
