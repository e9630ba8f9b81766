//! `sealog dev --nodes N`: a cluster of processes on this machine, and a prompt to hurt it from.
//!
//! [`command`] is what can be said, [`layout`] which nodes there are, [`cluster`] runs them, [`cuts`] is
//! who does not hear whom, [`child`] one of them. Lines come from a
//! terminal or a pipe; each is answered by one line of stdout that begins with `ok` or `error`, `status`
//! and `help` by more, which end with such a line.

pub mod child;
pub mod cluster;
pub mod command;
mod cuts;
pub mod layout;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Args;
use sealog_node::settings::LISTEN_DEFAULT;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::cluster::{Cluster, ClusterSettings};
use self::command::{Command, HELP, parse};
use self::layout::Layout;
use crate::arguments::NodeArguments;
use crate::failure::Failure;
use crate::serve;

#[derive(Debug, Args)]
pub struct DevArguments {
    /// A cluster of so many processes on this machine, each with every role, and a prompt to kill, stop,
    /// restart and cut them off. Or their roles: "sequencer,storage x3; engine,controller x2". The first
    /// listens at --listen, the others at the next ports; data in ./sealog-cluster unless --data says
    /// where.
    #[arg(long, value_name = "N|ROLES", value_parser = Layout::parse)]
    pub nodes: Option<Layout>,
    /// With --nodes: where they agree on views, etcd://HOST:PORT/PREFIX or file:/DIR [default: files in
    /// the data directory].
    #[arg(long, value_name = "REGISTER", requires = "nodes")]
    pub register: Option<String>,
    #[command(flatten)]
    pub node: NodeArguments,
}

/// Unless another is given. Not that of a single node: what is in there is no cluster's.
const DATA_DEFAULT: &str = "./sealog-cluster";
/// How often it is looked whether a node has ended by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub fn run(arguments: &DevArguments) -> Result<(), Failure> {
    match &arguments.nodes {
        None => serve::dev(&arguments.node),
        Some(nodes) => run_cluster(&settings(nodes.clone(), arguments.register.clone(), &arguments.node)?),
    }
}

/// The settings of a cluster whose nodes are told all else alike.
///
/// # Errors
/// What cannot be the same for several nodes.
pub fn settings(nodes: Layout, register: Option<String>, node: &NodeArguments) -> Result<ClusterSettings, Failure> {
    if node.unix_socket.is_some() {
        return Err(Failure::usage(
            "--unix-socket is for one node: those of a cluster have theirs in their directories",
        ));
    }
    let number = |flag: &str, text: &Option<String>| {
        let wrong = |text: &str| Failure::usage(format!("--{flag} '{text}' is no number of logspaces"));
        text.as_ref().map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    };
    let own = ["data", "listen", "logspaces", "memory_logspaces"];
    Ok(ClusterSettings {
        nodes,
        data: node.data.clone().map_or_else(|| PathBuf::from(DATA_DEFAULT), PathBuf::from),
        listen: node.listen.clone().unwrap_or_else(|| LISTEN_DEFAULT.to_owned()),
        logspaces: number("logspaces", &node.logspaces)?,
        memory_logspaces: number("memory-logspaces", &node.memory_logspaces)?,
        register,
        node: node.settings().filter(|(key, _)| !own.contains(key)).collect(),
    })
}

/// What the prompt waits for.
enum Said {
    Line(String),
    End,
}

fn run_cluster(settings: &ClusterSettings) -> Result<(), Failure> {
    let (tell, said) = channel();
    listen_to_signals(tell.clone())?;
    eprintln!("sealog: starting {} nodes", settings.nodes.count());
    let mut cluster = Cluster::start(settings)?;
    announce(settings, &cluster)?;
    listen_to_lines(tell)?;
    let is_terminal = io::stdin().is_terminal();
    loop {
        if is_terminal {
            print("sealog> ")?;
        }
        let next = loop {
            for (number, log) in cluster.take_ended() {
                eprintln!("sealog: node {number} has ended by itself: {} says why", log.display());
            }
            match said.recv_timeout(LOOK_INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(next) => break next,
                Err(RecvTimeoutError::Disconnected) => break Said::End,
            }
        };
        let Said::Line(line) = next else { break };
        match parse(&line) {
            Ok(None) => {}
            Ok(Some(Command::Quit)) => break,
            Ok(Some(command)) => print(&answer(&mut cluster, command))?,
            Err(error) => print(&format!("error: {error}\n"))?,
        }
    }
    eprintln!("sealog: stopping the nodes");
    cluster.stop();
    Ok(())
}

fn answer(cluster: &mut Cluster, command: Command) -> String {
    match command {
        Command::Do(deed) => match cluster.act(deed) {
            Ok(done) => format!("ok: {done}\n"),
            Err(failure) => format!("error: {failure}\n"),
        },
        Command::Status => {
            let lines = cluster.status().into_iter().map(|node| {
                let mark = if node["primary"] == true { "  primary of logspace 0" } else { "" };
                let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
                let unheard: Vec<String> =
                    node["unheard"].as_array().into_iter().flatten().map(Value::to_string).collect();
                let cut =
                    if unheard.is_empty() { String::new() } else { format!("  does not hear {}", unheard.join(", ")) };
                format!("node {}  {:<9} {}{mark}{cut}\n", node["node"], text("state"), text("listen"))
            });
            lines.chain(["ok: status\n".to_owned()]).collect()
        }
        Command::Help => format!("{HELP}\nok: help\n"),
        Command::Quit => String::new(),
    }
}

fn announce(settings: &ClusterSettings, cluster: &Cluster) -> Result<(), Failure> {
    let connect = cluster.connect_text();
    let sealog = serve::program();
    let roles = |number: usize| format!("\n  node {number} runs {}", settings.nodes.names(number));
    let roles: String = match settings.nodes.is_uniform() {
        true => "Each node has every role.".to_owned(),
        false => format!("Roles:{}\n", (1..=settings.nodes.count()).map(roles).collect::<String>()),
    };
    print(&format!(
        "sealog is ready: {} nodes at {connect}, data in {}, register {}\n\n  \
         {sealog} append orders --connect {connect} --tag alice 'a first record'\n  \
         {sealog} bench --connect {connect}\n\n\
         {roles} Commands: kill N, restart N, stop N, resume N, partition N, heal, status, help, quit.\n",
        settings.nodes.count(),
        settings.data.display(),
        cluster.register_name(),
    ))
}

fn listen_to_signals(tell: Sender<Said>) -> Result<(), Failure> {
    let signals = Signals::new([SIGINT, SIGTERM]);
    let mut signals = signals.map_err(|error| Failure::other(format!("cannot listen for signals: {error}")))?;
    let listen = move || {
        for (count, _) in signals.forever().enumerate() {
            // The second ends us at once, and the nodes with us.
            if count > 0 || tell.send(Said::End).is_err() {
                std::process::exit(1);
            }
        }
    };
    spawn("sealog-signals", listen)
}

fn listen_to_lines(tell: Sender<Said>) -> Result<(), Failure> {
    let listen = move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(Said::Line(line)).is_err() {
                return;
            }
        }
        // Nobody is there any more to receive it: it ends as well.
        let _ = tell.send(Said::End);
    };
    spawn("sealog-prompt", listen)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| Failure::stream("stdout", &error))
}
