//! What a measurement consists of beside its shape: which LogBooks and tags come when, when it is over,
//! and what goes on beside it.

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, Args)]
pub struct MixArguments {
    /// Which of --logbooks and --tags comes when.
    #[arg(long, value_enum, default_value = "random")]
    pub spread: Spread,
    /// End before --duration is over, after about so many operations.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: Option<u64>,
    /// Measure twice, alone and beside this, each for --duration, and tell both.
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with_all = ["verify", "nodes"])]
    pub beside: Option<Beside>,
}

/// How load is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A new append begins when an earlier one is answered.
    Closed,
    /// Appends begin at a given rate.
    Open,
    /// As closed, but reads the first record of a tag: of a LogBook and tag that --spread chooses.
    Read,
    /// One append at a time is pushed to a subscriber; --connections are idle subscribers beside it.
    Subscribe,
    /// New clients, --inflight at once, connect and append once; --connections are idle beside them.
    Connect,
}

/// Which LogBook and which tag an operation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// Any, each by itself.
    Random,
    /// Each in its turn, over all connections: so many operations have so many tags. --mode read then
    /// reads any of these.
    Turns,
}

/// What goes on beside what is measured, from a client of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Beside {
    /// Appends of 1 MiB, one after the other.
    Large,
    /// A reader of 256 MiB that are on disk alone, from the first record to the last, over and over.
    ColdReader,
}

impl Beside {
    pub fn name(self) -> &'static str {
        match self {
            Beside::Large => "large",
            Beside::ColdReader => "cold-reader",
        }
    }
}
