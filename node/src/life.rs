//! The file in which a life of a node leaves word for the next one: whether it ended in order, with all
//! that it had said on disk, and which views of class memory lives before it had forgotten (ADR 12).
//!
//! ```text
//! sealog life
//! incarnation 7
//! ended in order
//! forgotten 4 12
//! checksum 1a2b3c4d
//! ```
//!
//! A file that is damaged or not there says nothing: what is safe is then assumed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use sealog_protocol::lives::Life;
use sealog_protocol::{Incarnation, LogspaceId, ViewNumber};

use crate::durable_file;

const TITLE: &str = "sealog life";
const NAME: &str = "life";

/// What the last life left in a data directory.
pub fn read(directory: &Path) -> Option<Life> {
    decode(&std::fs::read(directory.join(NAME)).ok()?)
}

/// Leaves word, durably, where there is class memory.
pub fn write(directory: &Path, life: &Life) -> io::Result<()> {
    if life.forgotten.is_empty() {
        return Ok(());
    }
    durable_file::replace(&directory.join(NAME), encode(life).as_bytes())
}

fn encode(life: &Life) -> String {
    let ended = if life.ended_in_order { "in order" } else { "not yet" };
    let mut text = format!("{TITLE}\nincarnation {}\nended {ended}\n", life.incarnation);
    for (logspace, view) in &life.forgotten {
        text.push_str(&format!("forgotten {logspace} {view}\n"));
    }
    let checksum = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("checksum {checksum:08x}\n"));
    text
}

fn decode(bytes: &[u8]) -> Option<Life> {
    let text = std::str::from_utf8(bytes).ok()?;
    let covered = text.rfind("checksum ")?;
    if text[covered..] != format!("checksum {:08x}\n", crc32fast::hash(&bytes[..covered])) {
        return None;
    }
    let mut lines = text[..covered].lines();
    if lines.next() != Some(TITLE) {
        return None;
    }
    let incarnation = Incarnation(lines.next()?.strip_prefix("incarnation ")?.parse().ok()?);
    let ended_in_order = match lines.next()? {
        "ended in order" => true,
        "ended not yet" => false,
        _ => return None,
    };
    let forgotten = |line: &str| {
        let (logspace, view) = line.strip_prefix("forgotten ")?.split_once(' ')?;
        Some((LogspaceId(logspace.parse().ok()?), ViewNumber(view.parse().ok()?)))
    };
    let forgotten = lines.map(forgotten).collect::<Option<BTreeMap<_, _>>>()?;
    Some(Life { incarnation, ended_in_order, forgotten })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        let forgotten = BTreeMap::from([(LogspaceId(4), ViewNumber(12)), (LogspaceId(5), ViewNumber(0))]);
        Life { incarnation: Incarnation(7), ended_in_order: true, forgotten }
    }

    #[test]
    fn golden_bytes() {
        let text = "sealog life\nincarnation 7\nended in order\nforgotten 4 12\nforgotten 5 0\nchecksum 4e37dae5\n";
        assert_eq!(encode(&life()), text);
        let running = Life { ended_in_order: false, ..life() };
        assert_eq!((decode(text.as_bytes()), decode(encode(&running).as_bytes())), (Some(life()), Some(running)));
    }

    #[test]
    fn what_is_damaged_or_not_there_says_nothing() {
        let good = encode(&life()).into_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "byte {at}");
            assert_eq!(decode(&good[..at]), None, "cut at {at}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), None);
        write(directory.path(), &life()).unwrap();
        assert_eq!(read(directory.path()), Some(life()));
    }
}
