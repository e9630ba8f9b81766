//! `sealog logbook create`: a name and the class of its LogBook, for ever.

use clap::{Args, ValueEnum};
use sealog::{Durability, ManageError};
use serde::Serialize;

use crate::arguments::ClientArguments;
use crate::connection::connect;
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// What holds an acknowledged record of a LogBook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// Disks: it survives that all nodes stop at once.
    Disk,
    /// The memory of several nodes, and their disks soon after: it is acknowledged sooner, and may be
    /// lost when they stop at once.
    Memory,
}

impl Class {
    pub fn durability(self) -> Durability {
        match self {
            Class::Disk => Durability::Disk,
            Class::Memory => Durability::Memory,
        }
    }
}

#[derive(Debug, Args)]
pub struct LogBookCreateArguments {
    /// The LogBook's name.
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: String,
    /// What holds its records when they are acknowledged, for ever.
    #[arg(long, value_enum, default_value = "disk")]
    pub class: Class,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Serialize)]
struct CreatedLine {
    logbook: String,
    name: String,
    class: &'static str,
    /// It was not there before.
    created: bool,
}

pub fn run(arguments: &LogBookCreateArguments) -> Result<(), Failure> {
    let client = connect(&arguments.client)?;
    let class = arguments.class.durability();
    let created = client.create_logbook(&arguments.name, class).map_err(|error| match error {
        ManageError::Refused { ref message } => Failure::new(Kind::Usage, message.clone()),
        error => Failure::of_change(error),
    })?;
    let line = CreatedLine {
        logbook: created.logbook.id().to_string(),
        name: arguments.name.clone(),
        class: class.name(),
        created: created.is_new,
    };
    let mut output = Output::new(arguments.client.format.output);
    output.line(&line, |line| {
        let is = if line.created { "is created" } else { "is there already" };
        format!("LogBook {} of class {} {is}", line.name.escape_debug(), line.class)
    })?;
    output.flush()
}
