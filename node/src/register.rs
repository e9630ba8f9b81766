//! Where the views of logspaces and the nodes of the cluster are agreed upon: on one machine a
//! directory of files, for several machines etcd. [`open`] gives the one that a setting names;
//! [`conformance`] is what each of them must do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealog_control::register::{Register, RegisterError};
use sealog_protocol::members::Members;
use sealog_protocol::view::Chain;

use crate::durable_file;

pub mod conformance;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod etcd_process;
mod file;
mod file_watch;
#[cfg(feature = "etcd")]
mod gateway;

#[cfg(feature = "etcd")]
pub use etcd_process::{EtcdError, EtcdProcess};
pub use file::FileRegister;

/// What a register holds now and did not hold before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Chain(Chain),
    Members(Members),
}

/// Tells what a register holds as it changes, whoever changes it.
pub trait RegisterWatch: Send {
    /// At the first call everything that the register holds, then what was changed since it was told
    /// last; waits so long for a change, and then returns nothing. Of a document that changed twice
    /// the first state may be left out. After an error the next call goes on where the last one that
    /// returned had ended, so nothing is missed.
    ///
    /// # Errors
    /// The register can't be reached, or holds what is no document.
    fn changes(&mut self, patience: Duration) -> Result<Vec<Change>, RegisterError>;
}

/// A register that can be watched.
pub trait WatchedRegister: Register + Send {
    /// A watch of all of it. Nothing is asked of the register before its first call.
    fn watch(&self) -> Box<dyn RegisterWatch>;
}

/// Which register a node uses: the setting `register`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RegisterSetting {
    /// Files in the data directory, which no other node sees.
    #[default]
    Own,
    /// Files in a directory that nodes of one machine share.
    Directory(PathBuf),
    /// etcd at any of these addresses, each `host:port`; keys are below `/sealog/` and the prefix.
    Etcd { endpoints: Vec<String>, prefix: String },
}

impl RegisterSetting {
    /// Endpoints that may be named.
    pub const ENDPOINTS_MAX: usize = 16;
    /// Bytes of a prefix.
    pub const PREFIX_BYTES_MAX: usize = 64;

    /// `file`, `file:/DIR` or `etcd://HOST:PORT,HOST:PORT/PREFIX`.
    pub fn parse(text: &str) -> Option<RegisterSetting> {
        if text == "file" {
            return Some(RegisterSetting::Own);
        }
        if let Some(directory) = text.strip_prefix("file:") {
            // Nodes that share it may run in different directories.
            return Some(PathBuf::from(directory)).filter(|path| path.is_absolute()).map(RegisterSetting::Directory);
        }
        let (endpoints, prefix) = text.strip_prefix("etcd://")?.split_once('/')?;
        let endpoints = endpoints.split(',').map(endpoint).collect::<Option<Vec<String>>>()?;
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=RegisterSetting::PREFIX_BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(is_plain);
        let few = endpoints.len() <= RegisterSetting::ENDPOINTS_MAX;
        (fits && few).then(|| RegisterSetting::Etcd { endpoints, prefix: prefix.to_owned() })
    }
}

fn endpoint(text: &str) -> Option<String> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
    (is_host && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| text.trim().to_owned())
}

impl fmt::Display for RegisterSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterSetting::Own => f.write_str("file"),
            RegisterSetting::Directory(path) => write!(f, "file:{}", path.display()),
            RegisterSetting::Etcd { endpoints, prefix } => write!(f, "etcd://{}/{prefix}", endpoints.join(",")),
        }
    }
}

/// Opens the register that a setting names; `data` is the node's data directory. A shared directory
/// is made if it is not there; nothing is asked of etcd yet.
///
/// # Errors
/// The directory can't be made, or this build knows no etcd.
pub fn open(setting: &RegisterSetting, data: &Path) -> Result<Box<dyn WatchedRegister>, OpenRegisterError> {
    let directory = |path: PathBuf| match durable_file::create_directory(&path) {
        Ok(()) => Ok(Box::new(FileRegister::new(&path)) as Box<dyn WatchedRegister>),
        Err(source) => Err(OpenRegisterError::Directory { path, source }),
    };
    match setting {
        RegisterSetting::Own => directory(data.join("register")),
        RegisterSetting::Directory(path) => directory(path.clone()),
        #[cfg(feature = "etcd")]
        RegisterSetting::Etcd { endpoints, prefix } => Ok(Box::new(etcd::EtcdRegister::new(endpoints, prefix))),
        #[cfg(not(feature = "etcd"))]
        RegisterSetting::Etcd { .. } => Err(OpenRegisterError::NoEtcd { setting: setting.to_string() }),
    }
}

/// Why a register can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRegisterError {
    #[error("cannot make the register's directory {}: {source}; make it, or correct the setting register", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[cfg(not(feature = "etcd"))]
    #[error(
        "register is '{setting}', but this build has no etcd: build sealog-node with its feature etcd, or use file:/DIR"
    )]
    NoEtcd { setting: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_they_are_read() {
        for text in ["file", "file:/srv/register", "etcd://a:2379/orders", "etcd://a:1,[::1]:2,10.0.0.1:3/x.y_z-1"] {
            let setting = RegisterSetting::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(setting.to_string(), text);
        }
        let long = format!("etcd://a:1/{}", "x".repeat(65));
        let many = format!("etcd://{}a:1/x", "a:1,".repeat(16));
        let wrong = ["", "files", "file:", "file:dir", "etcd:a:1/x", "etcd://a/x", "etcd://a:1", "etcd://a:1/"];
        let more =
            ["etcd://a:0/x", "etcd://:1/x", "etcd://a:1,/x", "etcd://u@a:1/x", "etcd://a:1/x y", "etcd://a:1/x/y"];
        for text in wrong.into_iter().chain(more).chain([&*long, &*many]) {
            assert_eq!(RegisterSetting::parse(text), None, "{text}");
        }
    }
}
