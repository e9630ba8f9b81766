//! `sealog aux set` and `get`: what is attached to a record.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Args, Subcommand};
use sealog::{SeqNum, Tag};
use serde::Serialize;

use crate::arguments::{ClientArguments, LogBookArguments, seqnum};
use crate::connection::{Purpose, connect_logbook};
use crate::failure::Failure;
use crate::output::Output;
use crate::record::AuxData;

#[derive(Debug, Subcommand)]
pub enum AuxVerb {
    /// Attach data to a record, in place of what it had.
    Set(SetArguments),
    /// Print what is attached to a record.
    Get(GetArguments),
}

#[derive(Debug, Args)]
pub struct RecordArguments {
    #[command(flatten)]
    logbook: LogBookArguments,
    /// The record.
    #[arg(value_name = "SEQNUM", value_parser = seqnum)]
    seqnum: SeqNum,
}

#[derive(Debug, Args)]
pub struct SetArguments {
    #[command(flatten)]
    record: RecordArguments,
    /// What to attach, up to 64 KiB.
    #[arg(value_name = "DATA")]
    data: OsString,
    #[command(flatten)]
    client: ClientArguments,
}

#[derive(Debug, Args)]
pub struct GetArguments {
    #[command(flatten)]
    record: RecordArguments,
    #[command(flatten)]
    client: ClientArguments,
}

pub fn run(verb: &AuxVerb) -> Result<(), Failure> {
    match verb {
        AuxVerb::Set(arguments) => set(arguments),
        AuxVerb::Get(arguments) => get(arguments),
    }
}

#[derive(Debug, Serialize)]
struct SetLine {
    kept: bool,
}

fn set(SetArguments { record, data, client }: &SetArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(client, &record.logbook, Purpose::Read)?;
    let kept = logbook.set_aux(record.seqnum, data.as_bytes())?;
    let mut output = Output::new(client.format.output);
    output.line(&SetLine { kept }, |line| if line.kept { "kept" } else { "not kept" }.to_owned())?;
    if !kept {
        eprintln!("There is no such record, or no room: `sealog status` has aux_memory's use");
    }
    output.flush()
}

fn get(GetArguments { record, client }: &GetArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(client, &record.logbook, Purpose::Read)?.with_aux();
    let found = logbook.read_range(Tag::ALL, record.seqnum..=record.seqnum, 1)?;
    let Some(found) = found.first() else {
        return Err(Failure::other(format!("there is no record {} in this LogBook", record.seqnum)));
    };
    let mut output = Output::new(client.format.output);
    output.line(&AuxData::new(found.aux.as_deref()), |line| line.text().unwrap_or_else(|| "none".to_owned()))?;
    output.flush()
}
