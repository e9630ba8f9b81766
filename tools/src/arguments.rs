//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sealog::{LogBookId, SeqNum, Tag};
use sealog_node::settings::LISTEN_DEFAULT;

use crate::aux::AuxVerb;
use crate::backup::{BackupArguments, RestoreArguments};
use crate::bench::mix::{MixArguments, Mode};
use crate::cluster::ClusterVerb;
use crate::create::{Class, LogBookCreateArguments};
use crate::dev::DevArguments;
use crate::dev::command::Fault;
use crate::dev::layout::Layout;
use crate::operate::NodeVerb;
use crate::view::ViewArguments;

/// A shared, durable, ordered log.
///
/// Exit codes: 0 done, 1 other, 2 usage, 3 unreachable or a deadline passed while reading, 4 outcome
/// of an append unknown, 5 condition failed, or a command of operators refused, 6 trimmed, 7 disk full, 8 corrupt.
#[derive(Debug, Parser)]
#[command(name = "sealog", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a log service on this machine, without any configuration.
    Dev(DevArguments),
    /// Run a node as its configuration says.
    Serve(ServeArguments),
    /// A cluster of several nodes.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// The nodes of a cluster: list, drain, replace, remove them.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Print the views of each logspace, and why each came to be; or end one by force.
    View(ViewArguments),
    /// Append one record, or one for each line of stdin.
    Append(AppendArguments),
    /// Read records.
    Read(ReadArguments),
    /// Print records as they are appended.
    Tail(TailArguments),
    /// Print the SeqNum of the last record.
    CheckTail(CheckTailArguments),
    /// Let old records go, for ever.
    Trim(TrimArguments),
    /// Data attached to records, in the node's memory as long as there is room.
    #[command(subcommand)]
    Aux(AuxVerb),
    /// Print a node's state.
    Status(StatusArguments),
    /// Copy a data directory, as it is at one moment, while its node runs or not.
    Backup(BackupArguments),
    /// Make a data directory of a backup. The node that was backed up must not run any more.
    Restore(RestoreArguments),
    /// Find out whether a node can run on this machine, and what to do if not.
    Doctor(DoctorArguments),
    /// What is known of LogBooks.
    #[command(subcommand)]
    Logbook(LogbookVerb),
    /// Look into a data directory's journals, without a node and without changing anything.
    Inspect(InspectArguments),
    /// Measure: append under load, with latency percentiles.
    Bench(BenchArguments),
    /// The configuration of a node.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory.
    Man {
        /// The directory, made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum LogbookVerb {
    /// Make sure that a LogBook of this name and class is there; a name has one class for ever.
    Create(LogBookCreateArguments),
    /// List the LogBooks that have a name.
    List(StatusArguments),
    /// Print what a LogBook holds and keeps.
    Show(LogBookShowArguments),
    /// Set what a LogBook keeps without being told to trim.
    Set(LogBookSetArguments),
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print a commented configuration with every key at its default.
    Default,
    /// Print the configuration that `serve` would run with, and who said what.
    Print(Box<ConfigPrintArguments>),
    /// Check a configuration file and the environment, and start nothing.
    Check(ConfigCheckArguments),
    /// Say what a key means, or each of them: unit, default, allowed values.
    Explain(ConfigExplainArguments),
}

#[derive(Debug, Args)]
pub struct ConfigPrintArguments {
    /// The configuration, TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeArguments,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Debug, Args)]
pub struct ConfigCheckArguments {
    /// The file to check.
    #[arg(value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Debug, Args)]
pub struct ConfigExplainArguments {
    /// The key; without it all are explained.
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    #[command(flatten)]
    pub format: OutputArguments,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One object a line.
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    /// How to print what comes out.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// What every client verb takes.
#[derive(Clone, Debug, Args)]
pub struct ClientArguments {
    /// The node to talk to: HOST:PORT or unix:PATH; of a cluster, several with commas between.
    #[arg(long, value_name = "ADDR[,ADDR]", env = "SEALOG_CONNECT", default_value = LISTEN_DEFAULT, value_parser = address)]
    pub connect: String,
    /// How long an answer may take, for example 500ms or 1m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub deadline: Duration,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Debug, Args)]
pub struct LogBookArguments {
    /// The LogBook, by name.
    #[arg(value_name = "LOGBOOK", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub logbook: String,
    /// LOGBOOK is a LogBook's id, a number, not a name.
    #[arg(long)]
    pub id: bool,
}

#[derive(Debug, Args)]
pub struct TagArguments {
    /// Only records with this tag.
    #[arg(long, value_name = "TAG", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub tag: Option<String>,
    /// As --tag, by the tag's id, a number.
    #[arg(long, value_name = "NUMBER", conflicts_with = "tag", value_parser = tag_id)]
    pub tag_id: Option<Tag>,
}

impl TagArguments {
    pub fn tag(&self) -> Tag {
        self.tag.as_deref().map(Tag::from_name).or(self.tag_id).unwrap_or(Tag::ALL)
    }
}

#[derive(Debug, Args)]
pub struct AppendArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    /// The record. Without it, each line of stdin is one.
    #[arg(value_name = "DATA")]
    pub data: Option<OsString>,
    /// A tag of the record; may be given up to 64 times.
    #[arg(long = "tag", value_name = "TAG", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub tags: Vec<String>,
    /// As --tag, by the tag's id, a number.
    #[arg(long = "tag-id", value_name = "NUMBER", value_parser = tag_id)]
    pub tag_ids: Vec<Tag>,
    /// Append only if the tail of the one --tag, else of the LogBook, is still at most this; `none`:
    /// if there is no record yet.
    #[arg(long, value_name = "SEQNUM|none", value_parser = expected_tail, requires = "data")]
    pub if_tail: Option<ExpectedTail>,
    #[command(flatten)]
    pub client: ClientArguments,
}

/// What `--if-tail` expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedTail(pub Option<SeqNum>);

#[derive(Debug, Args)]
pub struct ReadArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    #[command(flatten)]
    pub tag: TagArguments,
    /// The first SeqNum to read; with --reverse the last.
    #[arg(long, value_name = "SEQNUM", value_parser = seqnum)]
    pub from: Option<SeqNum>,
    /// Read at most so many records.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Newest first.
    #[arg(long)]
    pub reverse: bool,
    /// With what is attached to the records.
    #[arg(long)]
    pub aux: bool,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct TailArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    #[command(flatten)]
    pub tag: TagArguments,
    /// Begin at this SeqNum, not after the present tail.
    #[arg(long, value_name = "SEQNUM", value_parser = seqnum)]
    pub from: Option<SeqNum>,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct CheckTailArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    #[command(flatten)]
    pub tag: TagArguments,
    /// Reflect every append acknowledged to anyone before.
    #[arg(long)]
    pub linearizable: bool,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Directory of the node's data to be [default: ./sealog-data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address that the node is to listen on [default: 127.0.0.1:7440].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Debug, Args)]
pub struct TrimArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    #[command(flatten)]
    pub tag: TagArguments,
    /// The first SeqNum to keep. A record with several tags goes when each of them is trimmed past
    /// it; without --tag all records below go.
    #[arg(long, value_name = "SEQNUM", value_parser = seqnum)]
    pub before: SeqNum,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct LogBookShowArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct LogBookSetArguments {
    #[command(flatten)]
    pub logbook: LogBookArguments,
    /// Let records go that were appended longer ago, for example 7d; the newest stays. `none`: keep
    /// them however old.
    #[arg(long, value_name = "TIME|none", value_parser = retain_age)]
    pub retain: Option<Bound<Duration>>,
    /// Let the oldest records go beyond so many bytes of payload, for example 10GiB; the newest
    /// stays. `none`: keep them however many.
    #[arg(long, value_name = "BYTES|none", value_parser = retain_bytes)]
    pub retain_bytes: Option<Bound<u64>>,
    #[command(flatten)]
    pub client: ClientArguments,
}

/// A bound that can be given as `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound<T> {
    None,
    At(T),
}

impl<T> Bound<T> {
    pub fn into_option(self) -> Option<T> {
        match self {
            Bound::None => None,
            Bound::At(value) => Some(value),
        }
    }
}

#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    pub client: ClientArguments,
}

/// What a node can be told on the command line; everything else is in the configuration.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// Directory of the node's data, made if it is not there [default: ./sealog-data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address for clients; port 0 takes a free one [default: 127.0.0.1:7440].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Unix socket for clients [default: sealog.sock in the data directory].
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<String>,
    /// Allow an address that other machines can reach: nothing is encrypted or authenticated.
    #[arg(long)]
    pub allow_remote: bool,
    /// Pinned threads; with 2 the sequencer has a core of its own [default: 1].
    #[arg(long, value_name = "N")]
    pub executors: Option<String>,
    /// Physical logs, when the data directory is made [default: 1].
    #[arg(long, value_name = "N")]
    pub logspaces: Option<String>,
    /// Beside those, physical logs of class memory, likewise [default: 1].
    #[arg(long, value_name = "N")]
    pub memory_logspaces: Option<String>,
    /// Memory of the indexes; beyond it appends are refused [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    pub index_memory: Option<String>,
    /// Memory for the newest records [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    pub cache_memory: Option<String>,
    /// Memory for aux data of records; 0 keeps none [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    pub aux_memory: Option<String>,
    /// Size of a file of the journal [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    pub segment_size: Option<String>,
    /// What is logged to stderr: error, warn, info, debug or trace [default: warn].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}

impl NodeArguments {
    /// The flags that were given, by the keys that they set.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, String)> {
        let flags = [
            ("data", &self.data),
            ("listen", &self.listen),
            ("unix_socket", &self.unix_socket),
            ("executors", &self.executors),
            ("logspaces", &self.logspaces),
            ("memory_logspaces", &self.memory_logspaces),
            ("index_memory", &self.index_memory),
            ("cache_memory", &self.cache_memory),
            ("aux_memory", &self.aux_memory),
            ("segment_size", &self.segment_size),
            ("log", &self.log),
        ];
        let allow_remote = self.allow_remote.then(|| ("allow_remote", "true".to_owned()));
        flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).chain(allow_remote)
    }
}

#[derive(Debug, Args)]
pub struct ServeArguments {
    /// End when the process with this id does, which started this one.
    #[arg(long, value_name = "PID", hide = true)]
    pub end_with_parent: Option<i32>,
    /// Take orders from stdin to be cut off from other nodes.
    #[arg(long, hide = true)]
    pub control: bool,
    /// The configuration, TOML: `sealog config default` prints one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeArguments,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InspectArguments {
    #[command(subcommand)]
    pub verb: Option<InspectVerb>,
    /// The data directory.
    #[arg(value_name = "DIR", default_value = "./sealog-data")]
    pub directory: PathBuf,
    /// The same, as `dev` and `serve` are told it.
    #[arg(long, value_name = "DIR", conflicts_with = "directory")]
    pub data: Option<PathBuf>,
    /// Print every block, not only segments.
    #[arg(long)]
    pub blocks: bool,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Debug, Subcommand)]
pub enum InspectVerb {
    /// Read and verify everything in a data directory that no node uses. Exit code 8: something is
    /// damaged.
    Verify(VerifyArguments),
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The data directory, or a copy of one.
    #[arg(long, value_name = "DIR", default_value = "./sealog-data")]
    pub data: PathBuf,
    #[command(flatten)]
    pub format: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub struct BenchArguments {
    /// How load is offered.
    #[arg(long, value_enum, default_value = "closed")]
    pub mode: Mode,
    /// Connections, each with a session of its own.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub connections: u32,
    /// Appends under way at once on each connection.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub inflight: u32,
    /// Bytes of each record: 1024 or 1KiB.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = record_size)]
    pub size: usize,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Load before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration_or_zero)]
    pub warmup: Duration,
    /// Threads of the load generator.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// LogBooks that records are spread over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub logbooks: u32,
    /// Different tags; each record carries one. 0: none.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub tags: u32,
    /// What LogBooks are called: NAME, or of several NAME-0, NAME-1, … [default: a name that is new for each run].
    #[arg(long, value_name = "NAME")]
    pub logbook: Option<String>,
    /// Class of the LogBooks [default: as they are, disk if they are new].
    #[arg(long, value_enum)]
    pub class: Option<Class>,
    /// Seed of all choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Read everything back and check that nothing is lost, repeated or out of order.
    #[arg(long)]
    pub verify: bool,
    /// Start a cluster of so many processes, or of these roles, for the run, as `sealog dev --nodes`
    /// does, and remove it at the end.
    #[arg(long, value_name = "N|ROLES", value_parser = Layout::parse)]
    pub nodes: Option<Layout>,
    /// Kill, stop, resume or restart a node, or cut it off, while it is measured, and tell the gap in
    /// acknowledgements: "kill storage-2@20s", "partition primary@5s", "heal@9s". Several may be given.
    /// A node is a number, storage-2 (the second with that role), primary, or controller.
    #[arg(long, value_name = "WHAT@WHEN", requires = "nodes", value_parser = Fault::parse)]
    pub fault: Vec<Fault>,
    /// Make each --fault without a time so often, in turn, its node brought back each time; --duration is
    /// not looked at.
    #[arg(long, value_name = "N", requires = "fault", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub kills: Option<u32>,
    #[command(flatten)]
    pub mix: MixArguments,
    #[command(flatten)]
    pub client: ClientArguments,
}

fn duration_or_zero(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms, 10s or 1m"))
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_zero(text)?;
    if duration.is_zero() { Err("it must be more than zero".to_owned()) } else { Ok(duration) }
}

/// An empty variable is one that is not set.
fn address(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(if text.is_empty() { LISTEN_DEFAULT } else { text }.to_owned())
}

fn tag_id(text: &str) -> Result<Tag, String> {
    match number(text)? {
        0 => Err("tag 0 means \"every record\" and cannot be given".to_owned()),
        id => Ok(Tag(id)),
    }
}

pub fn seqnum(text: &str) -> Result<SeqNum, String> {
    number(text).map(SeqNum)
}

fn expected_tail(text: &str) -> Result<ExpectedTail, String> {
    match text {
        "none" => Ok(ExpectedTail(None)),
        _ => seqnum(text).map(|seqnum| ExpectedTail(Some(seqnum))).map_err(|error| format!("{error}, nor 'none'")),
    }
}

fn retain_age(text: &str) -> Result<Bound<Duration>, String> {
    if text == "none" {
        return Ok(Bound::None);
    }
    let age = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 12h or 7d, or 'none'"))?;
    if age.as_millis() == 0 {
        return Err("it would delete everything: use `sealog trim` for that, or 'none' to keep all".to_owned());
    }
    Ok(Bound::At(age))
}

fn retain_bytes(text: &str) -> Result<Bound<u64>, String> {
    if text == "none" {
        return Ok(Bound::None);
    }
    let bytes: bytesize::ByteSize =
        text.parse().map_err(|error| format!("{error}; write it as 500MiB or 10GiB, or 'none'"))?;
    if bytes.as_u64() == 0 {
        return Err("it would delete everything: use `sealog trim` for that, or 'none' to keep all".to_owned());
    }
    Ok(Bound::At(bytes.as_u64()))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it is not a whole number from 0 to 18446744073709551615".to_owned())
}

fn record_size(text: &str) -> Result<usize, String> {
    let limit = sealog_protocol::limits::RECORD_BYTES_MAX;
    let size: bytesize::ByteSize = text.parse()?;
    usize::try_from(size.as_u64())
        .ok()
        .filter(|bytes| *bytes <= limit)
        .ok_or_else(|| format!("a record may have up to {limit} bytes (1MiB)"))
}

/// The id that `--id` makes of LOGBOOK.
pub fn logbook_id(text: &str) -> Result<LogBookId, String> {
    number(text).map(LogBookId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
