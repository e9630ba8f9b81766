//! The manifest of a backup: what is in it, with checksums. Written last; without it, a backup was cut
//! off.
//!
//! ```text
//! sealog backup
//! format 1
//! node 1234567890123456789
//! cluster 1234567890123456789
//! incarnation 7
//! journal 0 9876543210987654321
//! file register/logspace-0.chain 312 1a2b3c4d
//! file journal-0/segment-00000001.seg 67108864 1a2b3c4d
//! checksum 1a2b3c4d
//! ```
//!
//! Text for the reasons that the identity is; that file itself is not in a backup, so that nobody
//! starts a node on it.

use std::fmt;
use std::path::PathBuf;

use sealog_protocol::limits::FORMAT_VERSION;
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, NodeId};
use thiserror::Error;

use crate::identity::Identity;

const TITLE: &str = "sealog backup";
/// Its name in the backup's directory.
pub(crate) const MANIFEST: &str = "manifest";

/// A file of a backup. Nothing else is ever read or written by what a manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    Chain { logspace: LogspaceId },
    Segment { journal: usize, segment: u32 },
}

/// What a file has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub bytes: u64,
    /// CRC-32 of all of it.
    pub checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Of the node, in the life in which the backup was made.
    pub identity: Identity,
    pub files: Vec<(FileName, FileFacts)>,
}

/// Why a manifest can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    #[error("it is of format {found}, and this build reads format {FORMAT_VERSION}: use the release that wrote it")]
    Format { found: String },
    #[error("its manifest is damaged ({0}): use another backup")]
    Damaged(&'static str),
}

impl FileName {
    pub fn path(self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    fn parse(text: &str) -> Option<FileName> {
        let name = match text.split_once('/')? {
            ("register", chain) => {
                let logspace = chain.strip_prefix("logspace-")?.strip_suffix(".chain")?;
                FileName::Chain { logspace: LogspaceId(logspace.parse().ok()?) }
            }
            (journal, segment) => FileName::Segment {
                journal: journal.strip_prefix("journal-")?.parse().ok()?,
                segment: segment.strip_prefix("segment-")?.strip_suffix(".seg")?.parse().ok()?,
            },
        };
        // One way to write each.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Chain { logspace } => write!(f, "register/logspace-{logspace}.chain"),
            FileName::Segment { journal, segment } => write!(f, "journal-{journal}/segment-{segment:08}.seg"),
        }
    }
}

impl Manifest {
    pub fn encode(&self) -> String {
        let Identity { node, cluster, incarnation, journals } = &self.identity;
        let mut text =
            format!("{TITLE}\nformat {FORMAT_VERSION}\nnode {node}\ncluster {cluster}\nincarnation {incarnation}\n");
        for (executor, id) in journals.iter().enumerate() {
            text.push_str(&format!("journal {executor} {id}\n"));
        }
        for (name, FileFacts { bytes, checksum }) in &self.files {
            text.push_str(&format!("file {name} {bytes} {checksum:08x}\n"));
        }
        text.push_str(&format!("checksum {:08x}\n", crc32fast::hash(text.as_bytes())));
        text
    }

    /// The format is looked at before the rest: another one may have another checksum.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let damaged = ManifestError::Damaged;
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
        let mut lines = text.lines().peekable();
        if lines.next() != Some(TITLE) {
            return Err(damaged("its first line is another"));
        }
        let mut field = |name: &'static str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or(damaged("a line is missing"))
        };
        let format = field("format")?;
        if format.parse() != Ok(FORMAT_VERSION) {
            return Err(ManifestError::Format { found: format.to_owned() });
        }
        let covered = text.rfind("checksum ").ok_or(damaged("no checksum"))?;
        if text[covered..] != format!("checksum {:08x}\n", crc32fast::hash(&bytes[..covered])) {
            return Err(damaged("its checksum is another"));
        }
        let mut number = |name| field(name)?.parse::<u64>().map_err(|_| damaged("a number is none"));
        let (node, cluster, incarnation) = (number("node")?, number("cluster")?, number("incarnation")?);
        let mut journals = Vec::new();
        while let Some(journal) = lines.next_if(|line| line.starts_with("journal ")) {
            let id = journal.split(' ').nth(2).and_then(|id| id.parse().ok());
            journals.push(id.ok_or(damaged("a journal's id is no number"))?);
        }
        let mut files = Vec::new();
        while let Some(file) = lines.next_if(|line| line.starts_with("file ")) {
            files.push(parse_file(file).ok_or(damaged("a file's line is none"))?);
        }
        if lines.count() != 1 {
            return Err(damaged("it has other lines"));
        }
        let of_its_own =
            |name: &FileName| !matches!(name, FileName::Segment { journal, .. } if *journal >= journals.len());
        if journals.is_empty() || !files.iter().all(|(name, _)| of_its_own(name)) {
            return Err(damaged("a journal is missing"));
        }
        let (node, cluster, incarnation) = (NodeId(node), ClusterId(cluster), Incarnation(incarnation));
        Ok(Manifest { identity: Identity { node, cluster, incarnation, journals }, files })
    }
}

fn parse_file(line: &str) -> Option<(FileName, FileFacts)> {
    let mut words = line.split(' ').skip(1);
    let name = FileName::parse(words.next()?)?;
    let bytes = words.next()?.parse().ok()?;
    let checksum = u32::from_str_radix(words.next()?, 16).ok()?;
    words.next().is_none().then_some((name, FileFacts { bytes, checksum }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let identity = Identity {
            node: NodeId(u64::MAX),
            cluster: ClusterId(2),
            incarnation: Incarnation(3),
            journals: vec![4, 5],
        };
        let facts = FileFacts { bytes: 4096, checksum: 0x0a2b_3c4d };
        let files = vec![
            (FileName::Chain { logspace: LogspaceId(0) }, FileFacts { bytes: 312, checksum: 1 }),
            (FileName::Segment { journal: 1, segment: 7 }, facts),
        ];
        Manifest { identity, files }
    }

    #[test]
    fn golden_bytes() {
        let text = "sealog backup\nformat 1\nnode 18446744073709551615\ncluster 2\nincarnation 3\njournal 0 4\n\
                    journal 1 5\nfile register/logspace-0.chain 312 00000001\n\
                    file journal-1/segment-00000007.seg 4096 0a2b3c4d\nchecksum f53b60e6\n";
        assert_eq!(manifest().encode(), text);
        assert_eq!(Manifest::decode(text.as_bytes()), Ok(manifest()));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let good = manifest().encode().into_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Manifest::decode(&bad).is_err(), "byte {at}");
            assert!(Manifest::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    /// Whoever forges a manifest with its checksum must not reach other files.
    #[test]
    fn a_name_is_never_a_path_to_elsewhere() {
        for name in [
            "../identity",
            "identity",
            "register/../../x",
            "register/logspace-00.chain",
            "journal-0/segment-1.seg",
            "journal-0/../segment-00000001.seg",
            "journal-+0/segment-00000001.seg",
            "/etc/passwd",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        let text = manifest().encode().replace("journal-1/", "journal-2/");
        let covered = text.rfind("checksum").expect("it has one");
        let text = format!("{}checksum {:08x}\n", &text[..covered], crc32fast::hash(&text.as_bytes()[..covered]));
        assert_eq!(Manifest::decode(text.as_bytes()), Err(ManifestError::Damaged("a journal is missing")));
    }
}
