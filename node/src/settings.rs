//! A node's settings, from least to most binding: defaults, a TOML file, environment variables, flags.
//!
//! [`KEYS`] is the one list of what can be set. Each key is a line of the file, a variable
//! `SEALOG_<KEY>` and, where the command line offers it, a flag; all three go through one parser, so
//! they take the same values. A key that does not exist is an error that names the nearest one: a
//! misspelt limit that silently stays at its default is found only when it is needed. What is read
//! from where is in [`crate::configuration`].

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use sealog_protocol::NodeId;
use sealog_protocol::limits::{AUX_MEMORY_BYTES_MAX, CACHE_BYTES_MAX, LOGSPACES_MAX};
use sealog_protocol::members::Roles;
use sealog_runtime::{ClientLimits, PeerLimits};
use thiserror::Error;

use crate::configuration::Configuration;
use crate::peer_settings::{PeerSetting, parse_address, parse_id, parse_peers, parse_roles};
use crate::register::RegisterSetting;

/// Where a node listens unless it is told otherwise, and where clients look for it.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7440";
/// Executors of one node.
pub const EXECUTORS_MAX: usize = 64;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// A smaller disk budget leaves no room to give back.
const DISK_BYTES_MIN: u64 = 64 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const INDEX_BYTES_MIN: u64 = 1 << 20;
const CACHE_BYTES_MIN: u64 = 4 << 20;
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const SCRUB_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(366 * 24 * 3600);
/// Every key is a variable with this before it.
pub(crate) const ENVIRONMENT_PREFIX: &str = "SEALOG_";

const SIZE: &str = "bytes, written as \"64MiB\" or 67108864";
const TIME: &str = "a time, written as \"500ms\", \"10s\" or \"1m\"";

/// What a node is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub data: PathBuf,
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Beside TCP. `None`: `sealog.sock` in the data directory.
    pub unix_socket: Option<PathBuf>,
    /// Allows addresses that other machines can reach, although nothing is encrypted yet.
    pub allow_remote: bool,
    /// Fixed when the data directory is made; `None`: as it was made, at first 1.
    pub executors: Option<usize>,
    /// The same.
    pub logspaces: Option<u16>,
    /// The same, of class memory.
    pub memory_logspaces: Option<u16>,
    /// The node's id, fixed in the same way; at first drawn at random.
    pub node: Option<u64>,
    /// The id of its cluster, likewise.
    pub cluster: Option<u64>,
    /// Where views and nodes of the cluster are agreed upon.
    pub register: RegisterSetting,
    /// What the node runs.
    pub roles: Roles,
    /// Where other nodes call it. `None`: at `peer_listen`.
    pub advertise: Option<String>,
    /// Where clients call it. `None`: at `listen`, or its Unix socket where that is of any port.
    pub advertise_clients: Option<String>,
    /// Where other nodes connect: `host:port` or `unix:` and a path. `None`: nowhere, it has no peers.
    pub peer_listen: Option<String>,
    /// The other nodes of the cluster.
    pub peers: Vec<PeerSetting>,
    /// After so long a silence another node counts as disconnected.
    pub peer_silence: Duration,
    /// Memory of all indexes of the node together, in bytes. Beyond it appends are refused.
    pub index_bytes_max: u64,
    /// Memory for records near the tail, of all engines together, in bytes.
    pub cache_bytes_max: u64,
    /// Memory for aux data of records, of all engines together, in bytes; 0 keeps none.
    pub aux_bytes_max: u64,
    /// Size of a segment of the journal, in bytes.
    pub segment_bytes: u64,
    /// Space for the journals of all executors together, in bytes; 0: as much as the disk has.
    pub disk_bytes_max: u64,
    /// Bytes of the journals that are read again in a second, of all executors together; 0: none.
    pub scrub_bytes_per_s: u64,
    /// From the beginning of one such pass to that of the next, at least.
    pub scrub_interval: Duration,
    /// Client connections at once; those beyond are told so and closed.
    pub connections_max: usize,
    /// Of them from one address; `None`: half, and all for processes of this machine.
    pub connections_per_address_max: Option<usize>,
    /// For a client's hello, from its connection on.
    pub handshake_deadline: Duration,
    /// For the rest of a frame, from its first byte on.
    pub frame_deadline: Duration,
    /// For a client to take what is sent to it.
    pub send_deadline: Duration,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log: tracing::Level,
    pub log_format: LogFormat,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For the journal of systemd if stderr goes there, else text.
    #[default]
    Auto,
    /// With time and level.
    Text,
    /// Without a time, the level as syslog's number in `<…>`.
    Journald,
}

impl Default for Settings {
    fn default() -> Settings {
        let clients = ClientLimits::default();
        Settings {
            data: PathBuf::from("./sealog-data"),
            listen: LISTEN_DEFAULT.to_owned(),
            unix_socket: None,
            allow_remote: false,
            executors: None,
            logspaces: None,
            memory_logspaces: None,
            node: None,
            cluster: None,
            register: RegisterSetting::default(),
            roles: Roles::ALL,
            advertise: None,
            advertise_clients: None,
            peer_listen: None,
            peers: Vec::new(),
            peer_silence: PeerLimits::default().silence_max,
            index_bytes_max: 4 << 30,
            cache_bytes_max: CACHE_BYTES_MAX as u64,
            aux_bytes_max: AUX_MEMORY_BYTES_MAX as u64,
            segment_bytes: 64 << 20,
            disk_bytes_max: 0,
            scrub_bytes_per_s: 1 << 20,
            scrub_interval: Duration::from_secs(24 * 3600),
            connections_max: clients.connections_max,
            connections_per_address_max: clients.connections_per_address_max,
            handshake_deadline: clients.handshake_deadline,
            frame_deadline: clients.frame_deadline,
            send_deadline: clients.send_deadline,
            log: tracing::Level::WARN,
            log_format: LogFormat::default(),
        }
    }
}

/// Where a value came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File { path: PathBuf, line: usize },
    Environment,
    Flag,
}

impl Source {
    /// What a message about a value begins with: the place in a file, as editors understand it.
    pub fn place(&self) -> String {
        match self {
            Source::File { path, line } => format!("{}:{line}: ", path.display()),
            Source::Environment | Source::Flag => String::new(),
        }
    }

    /// What the key is called there.
    pub fn name(&self, key: &str) -> String {
        match self {
            Source::File { .. } => format!("key '{key}'"),
            Source::Environment => format!("variable {}", variable(key)),
            Source::Flag => format!("flag --{}", key.replace('_', "-")),
        }
    }
}

/// Why settings can't be used. Nothing was started.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{place}unknown {name}: did you mean '{nearest}'? `sealog config explain` says what every key means")]
    UnknownKey { place: String, name: String, nearest: String },
    #[error("{place}{name} is '{value}', which is not {expected}")]
    Value { place: String, name: String, value: String, expected: String },
    #[error(
        "{listen} is reachable from other machines, and nothing on it is encrypted or authenticated yet: \
         listen on 127.0.0.1, or pass --allow-remote if the network is yours alone"
    )]
    Remote { listen: String },
    #[error("cannot listen on '{listen}': {reason}; write it as HOST:PORT, for example {LISTEN_DEFAULT}")]
    Address { listen: String, reason: String },
    #[error(
        "peers are set, but not peer_listen: say where they reach this node, for example peer_listen = \"127.0.0.1:7441\""
    )]
    PeerListenMissing,
    #[error(
        "peer_listen is set, but no peers: nobody would be let in; say who is, for example peers = \"2@127.0.0.1:7442\""
    )]
    PeersMissing,
    #[error(
        "register is '{register}', so this is a node of a cluster, which others must find: set peer_listen to an \
         address with a port, for example peer_listen = \"127.0.0.1:7441\""
    )]
    MemberUnreachable { register: String },
    #[error(
        "register and peers both say who the other nodes are: leave peers out, nodes find each other by the register"
    )]
    PeersAndRegister,
    #[error(
        "register is '{register}', so the number of logspaces was fixed by `sealog cluster init`: leave logspaces and \
         memory_logspaces out"
    )]
    LogspacesAndRegister { register: String },
    #[error("logspaces and memory_logspaces are together at most {LOGSPACES_MAX}: lower one of them")]
    LogspacesTooMany,
    #[error(
        "roles leave out some, but no other node could run them: set register, the one that they share, or leave roles out"
    )]
    RolesAlone,
    #[error("cannot listen for other nodes on '{listen}': {reason}; write peer_listen as HOST:PORT or unix:PATH")]
    PeerListen { listen: String, reason: String },
    #[error("cannot find node {node} at '{address}': {reason}; correct its address in peers")]
    PeerAddress { node: NodeId, address: String, reason: String },
}

/// A thing that can be set.
pub(crate) struct Key {
    pub name: &'static str,
    /// What it is for, in sentences.
    pub about: &'static str,
    /// What a value counts, and how it is written.
    pub unit: &'static str,
    /// As the default file shows it: TOML.
    pub default: &'static str,
    /// The values that are allowed. Completes "… which is not".
    pub expected: &'static str,
    set: fn(&mut Settings, &str) -> Option<()>,
}

pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "data",
        about: "Directory of the node's data. Made at the first start; one node at a time uses it.",
        unit: "a path",
        default: "\"./sealog-data\"",
        expected: "a path",
        set: |settings, text| {
            settings.data = (!text.is_empty()).then(|| PathBuf::from(text))?;
            Some(())
        },
    },
    Key {
        name: "listen",
        about: "Address for clients. Port 0 takes a free one.",
        unit: "an address",
        default: "\"127.0.0.1:7440\"",
        expected: "HOST:PORT",
        set: |settings, text| {
            text.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())?;
            settings.listen = text.to_owned();
            Some(())
        },
    },
    Key {
        name: "unix_socket",
        about: "Unix socket for clients on this machine. Empty: sealog.sock in the data directory.",
        unit: "a path",
        default: "\"\"",
        expected: "a path",
        set: |settings, text| {
            settings.unix_socket = (!text.is_empty()).then(|| PathBuf::from(text));
            Some(())
        },
    },
    Key {
        name: "allow_remote",
        about: "Allow an address that other machines can reach: nothing is encrypted or authenticated.",
        unit: "yes or no",
        default: "false",
        expected: "true or false",
        set: |settings, text| {
            settings.allow_remote = text.parse().ok()?;
            Some(())
        },
    },
    Key {
        name: "executors",
        about: "Pinned threads; with 2 the sequencer has a core of its own. Fixed when the data directory is made; empty: as it was made, at first 1.",
        unit: "threads",
        default: "\"\"",
        expected: "a number from 1 to 64",
        set: |settings, text| {
            settings.executors = number_or_none(text, 1..=EXECUTORS_MAX)?;
            Some(())
        },
    },
    Key {
        name: "logspaces",
        about: "Physical logs that LogBooks are spread over. Fixed in the same way.",
        unit: "logs",
        default: "\"\"",
        expected: "a number from 1 to 256",
        set: |settings, text| {
            settings.logspaces = number_or_none(text, 1..=LOGSPACES_MAX)?;
            Some(())
        },
    },
    Key {
        name: "memory_logspaces",
        about: "Physical logs of class memory, beside those: they acknowledge before the disk has it. Fixed in the same way.",
        unit: "logs",
        default: "\"\"",
        expected: "a number from 0 to 255",
        set: |settings, text| {
            settings.memory_logspaces = number_or_none(text, 0..=LOGSPACES_MAX - 1)?;
            Some(())
        },
    },
    Key {
        name: "node",
        about: "Id of this node among its peers. Fixed when the data directory is made; empty: as it was made, at first drawn at random.",
        unit: "an id",
        default: "\"\"",
        expected: "a number from 1 to 18446744073709551615",
        set: |settings, text| {
            settings.node = id_or_none(text)?;
            Some(())
        },
    },
    Key {
        name: "cluster",
        about: "Id of the cluster: nodes of another one are refused. Fixed in the same way.",
        unit: "an id",
        default: "\"\"",
        expected: "a number from 1 to 18446744073709551615",
        set: |settings, text| {
            settings.cluster = id_or_none(text)?;
            Some(())
        },
    },
    Key {
        name: "register",
        about: "Where the nodes of a cluster agree on views and find each other: the same for all. file: in the data directory, for a node alone; file:/DIR: in a directory that nodes of one machine share; etcd://HOST:PORT/PREFIX: in etcd, below /sealog/PREFIX/, several HOST:PORT with commas between. Without it views can't change, while appends and reads go on.",
        unit: "a register",
        default: "\"file\"",
        expected: "file, file:/DIR with an absolute path, or etcd://HOST:PORT[,HOST:PORT…]/PREFIX with a prefix of letters, digits and ._-",
        set: |settings, text| {
            settings.register = RegisterSetting::parse(text)?;
            Some(())
        },
    },
    Key {
        name: "roles",
        about: "What the node runs, for every logspace. A node alone runs all; in a cluster roles may be spread over nodes.",
        unit: "roles",
        default: "\"engine,storage,sequencer,controller\"",
        expected: "some of engine, storage, sequencer and controller, with commas between",
        set: |settings, text| {
            settings.roles = parse_roles(text)?;
            Some(())
        },
    },
    Key {
        name: "advertise",
        about: "Address that other nodes of the cluster are told to call. Empty: peer_listen.",
        unit: "an address",
        default: "\"\"",
        expected: "HOST:PORT or unix:PATH",
        set: |settings, text| {
            settings.advertise = if text.is_empty() { None } else { Some(parse_address(text)?) };
            Some(())
        },
    },
    Key {
        name: "advertise_clients",
        about: "Address that clients of the cluster are told to call. Empty: listen, or the Unix socket if its port is 0.",
        unit: "an address",
        default: "\"\"",
        expected: "HOST:PORT or unix:PATH",
        set: |settings, text| {
            settings.advertise_clients = if text.is_empty() { None } else { Some(parse_address(text)?) };
            Some(())
        },
    },
    Key {
        name: "peer_listen",
        about: "Address for other nodes: in a cluster always needed, with a port. Empty: the node has no peers and listens for none.",
        unit: "an address",
        default: "\"\"",
        expected: "HOST:PORT or unix:PATH",
        set: |settings, text| {
            settings.peer_listen = if text.is_empty() { None } else { Some(parse_address(text)?) };
            Some(())
        },
    },
    Key {
        name: "peers",
        about: "The other nodes with their peer_listen, as \"2@10.0.0.2:7441, 3@10.0.0.3:7441\" or, in a file, as [{ node = 2, address = \"10.0.0.2:7441\" }]. The node itself may be among them, so that one list does for all. Of two nodes the one with the smaller id calls the other.",
        unit: "nodes with addresses",
        default: "\"\"",
        expected: "a list of at most 64 nodes, each once, as ID@HOST:PORT or ID@unix:PATH",
        set: |settings, text| {
            settings.peers = parse_peers(text)?;
            Some(())
        },
    },
    Key {
        name: "peer_silence",
        about: "A node from which nothing came for so long counts as disconnected, and is connected anew. Nodes that have nothing to say tell each other four times in it that they live: set the same on all.",
        unit: TIME,
        default: "\"2s\"",
        expected: "a time from 10ms to 1h",
        set: |settings, text| {
            settings.peer_silence = parse_deadline(text)?;
            Some(())
        },
    },
    Key {
        name: "index_memory",
        about: "Memory of the indexes. Beyond it the node refuses appends, and serves reads.",
        unit: SIZE,
        default: "\"4GiB\"",
        expected: "a size of at least 1MiB",
        set: |settings, text| {
            settings.index_bytes_max = parse_bytes(text).filter(|bytes| *bytes >= INDEX_BYTES_MIN)?;
            Some(())
        },
    },
    Key {
        name: "cache_memory",
        about: "Memory for the newest records, from which readers at the tail are served.",
        unit: SIZE,
        default: "\"64MiB\"",
        expected: "a size of at least 4MiB",
        set: |settings, text| {
            settings.cache_bytes_max = parse_bytes(text).filter(|bytes| *bytes >= CACHE_BYTES_MIN)?;
            Some(())
        },
    },
    Key {
        name: "aux_memory",
        about: "Memory for aux data, which clients attach to records. What was not read lately gives way; 0 keeps none.",
        unit: SIZE,
        default: "\"64MiB\"",
        expected: "a size",
        set: |settings, text| {
            settings.aux_bytes_max = parse_bytes(text)?;
            Some(())
        },
    },
    Key {
        name: "segment_size",
        about: "Size of a file of the journal.",
        unit: SIZE,
        default: "\"64MiB\"",
        expected: "a size from 4MiB to 1GiB, in steps of 4KiB",
        set: |settings, text| {
            settings.segment_bytes = parse_bytes(text)
                .filter(|bytes| (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(bytes) && bytes % 4096 == 0)?;
            Some(())
        },
    },
    Key {
        name: "disk_budget",
        about: "Space for the journals, of all executors together, in whole segments. Beyond it appends are refused as they are on a full disk, until trims give room; 0 is as much as the disk has.",
        unit: SIZE,
        default: "\"0\"",
        expected: "0, or a size of at least 64MiB",
        set: |settings, text| {
            settings.disk_bytes_max = parse_bytes(text).filter(|bytes| *bytes == 0 || *bytes >= DISK_BYTES_MIN)?;
            Some(())
        },
    },
    Key {
        name: "scrub_rate",
        about: "Bytes a second of old records that are read again and held against their checksums, of all executors together, so that a disk that forgets is found out while copies are left. What is found is logged, and in the status; 0 reads none.",
        unit: SIZE,
        default: "\"1MiB\"",
        expected: "a size",
        set: |settings, text| {
            settings.scrub_bytes_per_s = parse_bytes(text)?;
            Some(())
        },
    },
    Key {
        name: "scrub_interval",
        about: "Everything is read again once in this time, or as often as scrub_rate allows.",
        unit: "a time, written as \"1h\" or \"7d\"",
        default: "\"1d\"",
        expected: "a time from 100ms to 366d",
        set: |settings, text| {
            let interval = humantime::parse_duration(text).ok();
            settings.scrub_interval = interval.filter(|interval| SCRUB_INTERVALS.contains(interval))?;
            Some(())
        },
    },
    Key {
        name: "connections_max",
        about: "Client connections at once. Beyond them a client is told so and closed; a low limit of open files (ulimit -n) lowers it.",
        unit: "connections",
        default: "10000",
        expected: "a number from 1 to 1048576",
        set: |settings, text| {
            let connections = text.parse().ok();
            settings.connections_max =
                connections.filter(|count| (1..=ClientLimits::CONNECTIONS_MAX).contains(count))?;
            Some(())
        },
    },
    Key {
        name: "connections_per_address_max",
        about: "Of connections_max, how many one address may have (of IPv6, one /64 network), so that no one keeps all others out. Empty: half of them, and all of them for programs on this machine. Behind a proxy all clients have one address: set it to connections_max there. Unix sockets are not counted.",
        unit: "connections",
        default: "\"\"",
        expected: "a number from 1 to 1048576",
        set: |settings, text| {
            settings.connections_per_address_max = number_or_none(text, 1..=ClientLimits::CONNECTIONS_MAX)?;
            Some(())
        },
    },
    Key {
        name: "handshake_deadline",
        about: "A connection whose hello has not come within this time is closed.",
        unit: TIME,
        default: "\"10s\"",
        expected: "a time from 10ms to 1h",
        set: |settings, text| {
            settings.handshake_deadline = parse_deadline(text)?;
            Some(())
        },
    },
    Key {
        name: "frame_deadline",
        about: "A frame that was begun (2 MiB at most) has to be there whole within this time.",
        unit: TIME,
        default: "\"30s\"",
        expected: "a time from 10ms to 1h",
        set: |settings, text| {
            settings.frame_deadline = parse_deadline(text)?;
            Some(())
        },
    },
    Key {
        name: "send_deadline",
        about: "A client that takes less than 256 KiB of its answers in this time is cut off.",
        unit: TIME,
        default: "\"30s\"",
        expected: "a time from 10ms to 1h",
        set: |settings, text| {
            settings.send_deadline = parse_deadline(text)?;
            Some(())
        },
    },
    Key {
        name: "log",
        about: "What is logged to stderr.",
        unit: "a level",
        default: "\"warn\"",
        expected: "error, warn, info, debug or trace",
        set: |settings, text| {
            settings.log = text.parse().ok()?;
            Some(())
        },
    },
    Key {
        name: "log_format",
        about: "How lines of the log are written: text has time and level, journald has neither time nor colour, and the level as a number that journald reads. auto is journald if systemd says that stderr goes to the journal.",
        unit: "a format",
        default: "\"auto\"",
        expected: "auto, text or journald",
        set: |settings, text| {
            settings.log_format = match text {
                "auto" => LogFormat::Auto,
                "text" => LogFormat::Text,
                "journald" => LogFormat::Journald,
                _ => return None,
            };
            Some(())
        },
    },
];

impl Settings {
    /// Defaults, then `file`, then the environment.
    ///
    /// # Errors
    /// The first thing that is wrong; [`Configuration::read`] tells all.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Settings, SettingsError> {
        let (configuration, errors) = Configuration::read(file, environment);
        errors.into_iter().next().map_or(Ok(configuration.settings), Err)
    }

    /// Sets one key.
    pub fn set(&mut self, source: &Source, name: &str, value: &str) -> Result<(), SettingsError> {
        let key = find_key(source, name)?;
        (key.set)(self, value).ok_or_else(|| SettingsError::Value {
            place: source.place(),
            name: source.name(name),
            value: value.to_owned(),
            expected: key.expected.to_owned(),
        })
    }

    /// The address to bind, refused when it is not of this machine alone and nobody allowed that.
    pub fn listen_address(&self) -> Result<SocketAddr, SettingsError> {
        let refused = |reason: String| SettingsError::Address { listen: self.listen.clone(), reason };
        let mut addresses = self.listen.to_socket_addrs().map_err(|error| refused(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| refused("the name has no address".to_owned()))?;
        if !address.ip().is_loopback() && !self.allow_remote {
            return Err(SettingsError::Remote { listen: self.listen.clone() });
        }
        Ok(address)
    }
}

/// A number, or nothing for what is right if nothing is said.
fn number_or_none<N: FromStr + PartialOrd>(text: &str, range: RangeInclusive<N>) -> Option<Option<N>> {
    if text.is_empty() {
        return Some(None);
    }
    text.parse().ok().filter(|count| range.contains(count)).map(Some)
}

/// An id, or nothing for what is right if nothing is said.
fn id_or_none(text: &str) -> Option<Option<u64>> {
    if text.is_empty() { Some(None) } else { parse_id(text).map(Some) }
}

fn parse_bytes(text: &str) -> Option<u64> {
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

fn parse_deadline(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|deadline| DEADLINES.contains(deadline))
}

/// The key of this name.
///
/// # Errors
/// There is none; the error names the nearest.
pub(crate) fn find_key(source: &Source, name: &str) -> Result<&'static Key, SettingsError> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let nearest = match source {
            Source::Environment => variable(nearest_key(name)),
            Source::File { .. } | Source::Flag => nearest_key(name).to_owned(),
        };
        SettingsError::UnknownKey { place: source.place(), name: source.name(name), nearest }
    })
}

/// The environment's name of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// All keys are of one level: of a name with dots, the last part is what may be one.
pub(crate) fn nearest_key(name: &str) -> &'static str {
    let last = name.rsplit('.').next().unwrap_or(name);
    let distance = |key: &&Key| (strsim::jaro_winkler(last, key.name) * 1e6) as u64;
    KEYS.iter().max_by_key(distance).expect("there are keys").name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings, SettingsError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sealog.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path), std::iter::empty())
    }

    fn environment(name: &str, value: &str) -> Result<Settings, SettingsError> {
        Settings::load(None, [(name.to_owned(), value.to_owned())].into_iter())
    }

    /// A setting that has no key could not be set, and one without an explanation not be understood.
    #[test]
    fn every_setting_has_a_key_and_every_key_an_explanation() {
        let settings = format!("{:#?}", Settings::default());
        let is_field = |line: &&str| line.starts_with("    ") && !line[4..].starts_with([' ', ')', '}', ']']);
        assert_eq!(settings.lines().filter(is_field).count(), KEYS.len(), "{settings}");
        for key in KEYS {
            assert!(key.about.ends_with('.') && key.about.len() > 20, "{}", key.name);
            assert!(!key.unit.is_empty() && !key.expected.is_empty() && !key.default.is_empty(), "{}", key.name);
            assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let message = file("executor = 2").unwrap_err().to_string();
        assert!(message.contains("'executor'") && message.contains("did you mean 'executors'"), "{message}");
        let message = environment("SEALOG_LISTNE", "x").unwrap_err().to_string();
        assert!(message.contains("SEALOG_LISTEN"), "{message}");
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        assert_eq!(environment("SEALOG_CONNECT", "host:1").unwrap(), Settings::default());
        assert_eq!(environment("SEALOG_SOMETHING_ELSE", "x").unwrap(), Settings::default());
    }

    #[test]
    fn values_have_human_units_and_limits() {
        assert_eq!(file("index_memory = \"2 GiB\"").unwrap().index_bytes_max, 2 << 30);
        assert_eq!(environment("SEALOG_SEGMENT_SIZE", "8MiB").unwrap().segment_bytes, 8 << 20);
        assert_eq!(environment("SEALOG_FRAME_DEADLINE", "250ms").unwrap().frame_deadline, Duration::from_millis(250));
        for wrong in ["connections_max = 0", "send_deadline = \"0s\"", "handshake_deadline = 10"] {
            assert!(file(wrong).unwrap_err().to_string().contains("which is not"), "{wrong}");
        }
        for wrong in
            ["executors = 0", "executors = \"many\"", "segment_size = \"1KiB\"", "listen = \"7440\"", "log = []"]
        {
            let message = file(wrong).unwrap_err().to_string();
            assert!(message.contains("which is not"), "{message}");
        }
    }

    #[test]
    fn broken_toml_says_where() {
        let message = file("listen = ").unwrap_err().to_string();
        assert!(message.contains("sealog.toml:1: not valid TOML"), "{message}");
    }

    #[test]
    fn another_interface_needs_a_flag() {
        let mut settings = Settings { listen: "0.0.0.0:0".to_owned(), ..Settings::default() };
        assert!(matches!(settings.listen_address(), Err(SettingsError::Remote { .. })));
        settings.allow_remote = true;
        assert!(settings.listen_address().is_ok());
        settings.listen = "no such host:1".to_owned();
        assert!(matches!(settings.listen_address(), Err(SettingsError::Address { .. })));
    }
}
