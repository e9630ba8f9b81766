//! `sealog dev` and `serve`: a node in this process.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sealog_journal::RecoveryError;
use sealog_node::cluster::JoinError;
use sealog_node::directory::DirectoryError;
use sealog_node::settings::LISTEN_DEFAULT;
use sealog_node::{Listen, Node, NodeError, Start, StartError, Stopper};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::arguments::{NodeArguments, ServeArguments};
use crate::config::configuration;
use crate::failure::{Failure, Kind};
use crate::{control, log, supervisor};

/// The exit code of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A start that takes longer is said to.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn dev(arguments: &NodeArguments) -> Result<(), Failure> {
    let node = start(None, arguments)?;
    announce(&node, true);
    wait(node)
}

pub fn serve(arguments: &ServeArguments) -> Result<(), Failure> {
    if let Some(parent) = arguments.end_with_parent {
        supervisor::end_with_parent(parent)?;
    }
    let node = start(arguments.config.as_deref(), &arguments.node)?;
    if arguments.control {
        control::listen(node.cutter())?;
    }
    announce(&node, false);
    wait(node)
}

fn start(config: Option<&Path>, arguments: &NodeArguments) -> Result<Node, Failure> {
    let settings = configuration(config, arguments)?.settings;
    log::to_stderr(&settings);
    let stopper = stop_on_signal()?;
    let node = Node::start(&settings).map_err(node_failure)?;
    // Set once: here.
    let _ = stopper.set(node.stopper());
    Ok(node)
}

/// The first signal stops the node in order, the second at once. While it starts there is nothing to
/// stop in order: its journal is as a crash would leave it, which is what it was made for.
fn stop_on_signal() -> Result<Arc<OnceLock<Stopper>>, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure::other(format!("cannot listen for signals: {error}")))?;
    let stopper = Arc::new(OnceLock::<Stopper>::new());
    let waited = stopper.clone();
    let wait = move || {
        for (count, _) in signals.forever().enumerate() {
            match waited.get() {
                None => std::process::exit(0),
                Some(_) if count > 0 => std::process::exit(INTERRUPTED),
                Some(stopper) => {
                    supervisor::tell_stopping();
                    stopper.stop();
                }
            }
        }
    };
    let spawned = std::thread::Builder::new().name("sealog-signals".to_owned()).spawn(wait);
    spawned.map(|_| stopper).map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}

/// Says where the node listens, once everything is back that was ever acknowledged.
fn announce(node: &Node, with_examples: bool) {
    let addresses: Vec<String> = node.addresses().iter().map(Listen::to_string).collect();
    while let start @ (Start::UnderWay | Start::Over) = node.wait_ready(PATIENCE) {
        if start == Start::Over {
            return;
        }
        let address = &addresses[0];
        eprintln!("sealog: still starting; `{} status --connect {address}` says what it waits for", program());
    }
    supervisor::tell_ready(&addresses.join(" and "));
    let data = node.directory().path.display();
    let mut text = format!("sealog is ready: listening on {}, data in {data}\n", addresses.join(" and "));
    if with_examples {
        let address = &addresses[0];
        let connect = if address == LISTEN_DEFAULT { String::new() } else { format!(" --connect {address}") };
        let sealog = program();
        text.push_str(&format!(
            "\n  {sealog} append orders{connect} --tag alice 'a first record'\n  \
             {sealog} read orders{connect}\n  \
             {sealog} tail orders{connect}\n  \
             {sealog} bench{connect}\n\nCtrl-C stops it; started again it has everything.\n"
        ));
    }
    print(&text);
}

/// This program as it was called, so that what we print can be pasted: `cargo run` calls it by a path
/// that is not in PATH.
pub fn program() -> String {
    let called = std::env::args_os().next().and_then(|called| called.into_string().ok());
    let called = called.unwrap_or_else(|| "sealog".to_owned());
    let is_plain = called.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if is_plain { called } else { format!("'{}'", called.replace('\'', "'\\''")) }
}

/// Whoever reads our stdout may have gone: a service goes on without.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn wait(node: Node) -> Result<(), Failure> {
    node.wait().map_err(|error| Failure::other(error.to_string()))
}

fn node_failure(error: NodeError) -> Failure {
    let kind = match &error {
        NodeError::Join(JoinError::Cluster { .. })
        | NodeError::Directory(DirectoryError::Join(JoinError::Cluster { .. }))
        | NodeError::Settings(_)
        | NodeError::UnixSocket { .. } => Kind::Usage,
        NodeError::Directory(DirectoryError::Unusable { .. } | DirectoryError::Register(_)) => Kind::Corrupt,
        NodeError::Directory(DirectoryError::Fixed { .. }) => Kind::Usage,
        NodeError::Directory(DirectoryError::Io { error, .. }) if error.kind() == io::ErrorKind::StorageFull => {
            Kind::DiskFull
        }
        NodeError::Start(StartError::Recovery { source, .. }) => match source {
            RecoveryError::MetalogDamaged { .. } | RecoveryError::Malformed { .. } => Kind::Corrupt,
            _ => Kind::Other,
        },
        _ => Kind::Other,
    };
    Failure::new(kind, error.to_string())
}
