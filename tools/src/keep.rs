//! `sealog trim`, `logbook set`, `logbook show`: what a LogBook keeps.

use std::time::Duration;

use bytesize::ByteSize;
use sealog::blocking::LogBook;
use sealog::{Description, Retention, SeqNum};
use serde::Serialize;

use crate::arguments::{Bound, LogBookSetArguments, LogBookShowArguments, TrimArguments};
use crate::connection::{Purpose, connect_logbook};
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Serialize)]
struct TrimLine {
    /// The first SeqNum kept.
    first: String,
}

pub fn trim(arguments: &TrimArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Append)?;
    let mut output = Output::new(arguments.client.format.output);
    let first = logbook.trim(arguments.tag.tag(), arguments.before).map_err(Failure::of_change)?;
    output.line(&TrimLine { first: first.to_string() }, |line| line.first.clone())?;
    output.flush()
}

pub fn set(arguments: &LogBookSetArguments) -> Result<(), Failure> {
    if arguments.retain.is_none() && arguments.retain_bytes.is_none() {
        return Err(Failure::usage("nothing to set: give --retain, --retain-bytes, or both"));
    }
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Append)?;
    // What is not given stays as it is.
    let present = retention(&logbook.describe()?);
    let wanted = Retention {
        age: arguments.retain.map_or(present.age, Bound::into_option),
        bytes: arguments.retain_bytes.map_or(present.bytes, Bound::into_option),
    };
    logbook.set_retention(wanted).map_err(Failure::of_change)?;
    print(&logbook, arguments.client.format.output)
}

pub fn show(arguments: &LogBookShowArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Read)?;
    print(&logbook, arguments.client.format.output)
}

fn retention(description: &Description) -> Retention {
    Retention {
        age: (description.retain_ms > 0).then(|| Duration::from_millis(description.retain_ms)),
        bytes: (description.retain_bytes > 0).then_some(description.retain_bytes),
    }
}

#[derive(Debug, Serialize)]
struct DescriptionLine {
    class: &'static str,
    /// The first SeqNum kept; none when nothing was trimmed.
    first: Option<String>,
    tail: Option<String>,
    records: u64,
    retain_ms: Option<u64>,
    retain_bytes: Option<u64>,
}

fn print(logbook: &LogBook, format: crate::arguments::Format) -> Result<(), Failure> {
    let description = logbook.describe()?;
    let mut output = Output::new(format);
    let seqnum = |seqnum: u64| (seqnum > 0).then(|| SeqNum(seqnum).to_string());
    let kept = retention(&description);
    let line = DescriptionLine {
        class: logbook.id().class().name(),
        first: seqnum(description.first),
        tail: seqnum(description.tail),
        records: description.records,
        retain_ms: kept.age.map(|age| age.as_millis() as u64),
        retain_bytes: kept.bytes,
    };
    output.line(&line, |line| {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let age = kept.age.map(|age| humantime::format_duration(age).to_string());
        let bytes = kept.bytes.map(|bytes| ByteSize(bytes).display().iec().to_string());
        format!(
            "class         {}\nfirst kept    {}\ntail          {}\nrecords       {}\nretain        {}\nretain-bytes  {}",
            line.class,
            or_none(&line.first),
            or_none(&line.tail),
            line.records,
            or_none(&age),
            or_none(&bytes),
        )
    })?;
    output.flush()
}
