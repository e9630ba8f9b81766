//! What a node is told by the process that started it to try out faults on it: lines on its stdin, each
//! answered on its stdout. Off unless that process asks for it.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};

use sealog_node::{Cutter, PeerCuts};
use sealog_protocol::NodeId;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What a line is answered with.
pub const DONE: &str = "sealog control: done";

/// A line: whom the node is cut off from, from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// Nodes that don't hear it.
    pub to: BTreeSet<u64>,
    /// Nodes that it doesn't hear.
    pub from: BTreeSet<u64>,
}

/// Does what the lines of stdin say, until it ends.
///
/// # Errors
/// There is no thread for it.
pub fn listen(cutter: Cutter) -> Result<(), Failure> {
    let listen = move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str::<Cuts>(&line) {
                Ok(Cuts { to, from }) => {
                    let nodes = |ids: BTreeSet<u64>| ids.into_iter().map(NodeId).collect();
                    cutter.cut(PeerCuts { to: nodes(to), from: nodes(from) });
                    // Who reads it has started this process: without him it ends.
                    let _ = writeln!(io::stdout(), "{DONE}");
                }
                Err(error) => tracing::warn!(%error, "a control line is none"),
            }
        }
    };
    let spawned = std::thread::Builder::new().name("sealog-control".to_owned()).spawn(listen);
    spawned.map(drop).map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}
