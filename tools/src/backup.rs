//! `sealog backup` and `restore`: a data directory, copied while its node runs, and put back elsewhere.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use sealog_node::backup::{self, BackupError, BackupReport};
use serde::Serialize;

use crate::arguments::OutputArguments;
use crate::failure::{Failure, Kind};
use crate::output::Output;

#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The data directory. Its node may run.
    #[arg(long, value_name = "DIR", default_value = "./sealog-data")]
    data: PathBuf,
    /// Where the backup goes: a directory that is empty or not there yet.
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    #[command(flatten)]
    format: OutputArguments,
}

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The backup.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// The data directory to make of it: empty or not there yet.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    format: OutputArguments,
}

#[derive(Debug, Serialize)]
struct BackupLine {
    files: usize,
    bytes: u64,
    rounds: u32,
    damages: u64,
}

#[derive(Debug, Serialize)]
struct RestoreLine {
    files: usize,
    bytes: u64,
}

pub fn create(arguments: &BackupArguments) -> Result<(), Failure> {
    let BackupReport { files, bytes, rounds, damages } = backup::create(&arguments.data, &arguments.destination)?;
    let mut output = Output::new(arguments.format.output);
    output.line(&BackupLine { files, bytes, rounds, damages }, |line| in_words(line.files, line.bytes))?;
    output.flush()?;
    if damages == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Corrupt,
        format!(
            "the backup is whole, and so is the damage in it: {damages} blocks or footers are damaged in {}; \
             `sealog inspect` shows where",
            arguments.data.display()
        ),
    ))
}

pub fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let BackupReport { files, bytes, .. } = backup::restore(&arguments.source, &arguments.directory)?;
    let mut output = Output::new(arguments.format.output);
    output.line(&RestoreLine { files, bytes }, |line| in_words(line.files, line.bytes))?;
    output.flush()?;
    eprintln!(
        "Start its node with --data {}. It is the node that was backed up: never run both.",
        arguments.directory.display()
    );
    Ok(())
}

fn in_words(files: usize, bytes: u64) -> String {
    format!("{files} files, {}, verified", ByteSize(bytes).display().iec())
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        let kind = match error {
            BackupError::CutOff { .. }
            | BackupError::Manifest { .. }
            | BackupError::Damaged { .. }
            | BackupError::Journal { .. } => Kind::Corrupt,
            _ => Kind::Other,
        };
        Failure::new(kind, error.to_string())
    }
}
