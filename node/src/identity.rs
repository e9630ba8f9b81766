//! Who a node is: the file that makes a directory a data directory.
//!
//! ```text
//! sealog data directory
//! format 2
//! node 1234567890123456789
//! cluster 1234567890123456789
//! incarnation 7
//! journal 0 9876543210987654321
//! journal 1 8765432109876543210
//! checksum 1a2b3c4d
//! ```
//!
//! Text, so that a person can read it, and so that every release can read which format another one
//! wrote. The checksum is CRC-32 of all that is before its line.

use sealog_protocol::limits::{DISK_VERSION, DISK_VERSION_OLDEST};
use sealog_protocol::{ClusterId, Incarnation, NodeId};
use thiserror::Error;

const TITLE: &str = "sealog data directory";

/// What the identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Of the node's present life, or its last.
    pub incarnation: Incarnation,
    /// The id of each executor's journal: part of every checksum in it. What a machine wrote is in the
    /// journal of its executor, so the number of executors does not change.
    pub journals: Vec<u64>,
}

/// Why a file is not an identity that this build can use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    #[error(
        "it is of format {found}, and this build reads formats {DISK_VERSION_OLDEST} to {DISK_VERSION}: use the release that wrote it"
    )]
    Format { found: String },
    #[error("its identity file is damaged ({0}): restore the directory from a copy")]
    Damaged(&'static str),
}

impl Identity {
    pub fn encode(&self) -> String {
        let mut text = format!(
            "{TITLE}\nformat {DISK_VERSION}\nnode {}\ncluster {}\nincarnation {}\n",
            self.node, self.cluster, self.incarnation
        );
        for (executor, id) in self.journals.iter().enumerate() {
            text.push_str(&format!("journal {executor} {id}\n"));
        }
        let checksum = crc32fast::hash(text.as_bytes());
        text.push_str(&format!("checksum {checksum:08x}\n"));
        text
    }

    /// The format is looked at before the rest: another one may have another checksum.
    pub fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
        let text = std::str::from_utf8(bytes).map_err(|_| IdentityError::Damaged("not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(IdentityError::Damaged("its first line is another"));
        }
        let format = field(lines.next(), "format")?;
        let is_read = |version: u8| (DISK_VERSION_OLDEST..=DISK_VERSION).contains(&version);
        if !format.parse().is_ok_and(is_read) {
            return Err(IdentityError::Format { found: format.to_owned() });
        }
        let covered = text.rfind("checksum ").ok_or(IdentityError::Damaged("no checksum"))?;
        if text[covered..] != format!("checksum {:08x}\n", crc32fast::hash(&bytes[..covered])) {
            return Err(IdentityError::Damaged("its checksum is another"));
        }
        let identity = Identity {
            node: NodeId(number(lines.next(), "node")?),
            cluster: ClusterId(number(lines.next(), "cluster")?),
            incarnation: Incarnation(number(lines.next(), "incarnation")?),
            journals: lines
                .filter_map(|line| line.strip_prefix("journal "))
                .map(|line| line.split(' ').nth(1).and_then(|id| id.parse().ok()))
                .collect::<Option<_>>()
                .ok_or(IdentityError::Damaged("a journal's id is no number"))?,
        };
        if identity.journals.is_empty() {
            return Err(IdentityError::Damaged("no journal"));
        }
        Ok(identity)
    }
}

fn field<'a>(line: Option<&'a str>, name: &'static str) -> Result<&'a str, IdentityError> {
    line.and_then(|line| line.strip_prefix(name)?.strip_prefix(' ')).ok_or(IdentityError::Damaged(name))
}

fn number(line: Option<&str>, name: &'static str) -> Result<u64, IdentityError> {
    field(line, name)?.parse().map_err(|_| IdentityError::Damaged(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { node: NodeId(u64::MAX), cluster: ClusterId(2), incarnation: Incarnation(3), journals: vec![4, 5] }
    }

    #[test]
    fn golden_bytes() {
        let text = "sealog data directory\nformat 2\nnode 18446744073709551615\ncluster 2\nincarnation 3\n\
                    journal 0 4\njournal 1 5\nchecksum 88db5144\n";
        assert_eq!(identity().encode(), text);
        assert_eq!(Identity::decode(text.as_bytes()), Ok(identity()));
        let before = text.replace("format 2", "format 1").replace("88db5144", "c16d8447");
        assert_eq!(Identity::decode(before.as_bytes()), Ok(identity()), "what version 1 wrote is read");
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let good = identity().encode().into_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Identity::decode(&bad).is_err(), "byte {at}");
            assert!(Identity::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let other = "sealog data directory\nformat 9\nwhatever";
        assert_eq!(Identity::decode(other.as_bytes()), Err(IdentityError::Format { found: "9".to_owned() }));
    }
}
