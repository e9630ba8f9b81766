//! `sealog read`, `tail`, `check-tail`, `logbook list`: what is in a LogBook.

use sealog::blocking::LogBook;
use sealog::{LogBookId, ReadError, Record, SeqNum, SubscriptionEvent, Tag};
use serde::Serialize;

use crate::arguments::{CheckTailArguments, ReadArguments, StatusArguments, TailArguments};
use crate::connection::{Purpose, connect, connect_logbook};
use crate::failure::Failure;
use crate::output::Output;
use crate::record::{HEADING, RecordLine};

pub fn read(arguments: &ReadArguments) -> Result<(), Failure> {
    let plain = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Read)?;
    let logbook = if arguments.aux { plain.with_aux() } else { plain.clone() };
    let mut output = Output::new(arguments.client.format.output);
    let tag = arguments.tag.tag();
    let limit = arguments.limit.unwrap_or(u64::MAX);
    output.heading(HEADING)?;
    if limit == 1 {
        // Not a page of them.
        let record = match (arguments.reverse, arguments.from) {
            (true, from) => logbook.read_prev(tag, from.unwrap_or(SeqNum::MAX))?,
            (false, Some(from)) => logbook.read_next(tag, from)?,
            (false, None) => logbook.read_next(tag, first_kept(&plain, tag)?)?,
        };
        record.iter().try_for_each(|record| print(&mut output, record))?;
    } else if limit > 0 {
        let records = match arguments.reverse {
            true => logbook.scan_backward(tag, SeqNum::MIN..=arguments.from.unwrap_or(SeqNum::MAX)),
            false => {
                let from = arguments.from.map_or_else(|| first_kept(&plain, tag), Ok)?;
                logbook.scan(tag, from..=present_tail(&plain, tag)?)
            }
        };
        for record in records.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
            print(&mut output, &record?)?;
        }
    }
    output.flush()
}

/// Where a read begins that is not told where: nobody asked for what was trimmed.
fn first_kept(logbook: &LogBook, tag: Tag) -> Result<SeqNum, Failure> {
    match logbook.read_next(tag, SeqNum::MIN) {
        Ok(_) => Ok(SeqNum::MIN),
        Err(ReadError::Trimmed { first }) => Ok(first),
        Err(error) => Err(error.into()),
    }
}

/// Where a read ends: somebody who appends faster than we print must not keep us for ever.
fn present_tail(logbook: &LogBook, tag: Tag) -> Result<SeqNum, Failure> {
    Ok(logbook.check_tail(tag)?.unwrap_or(SeqNum::MIN))
}

fn print(output: &mut Output, record: &Record) -> Result<(), Failure> {
    output.line(&RecordLine::new(record), RecordLine::row)
}

pub fn tail(arguments: &TailArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Read)?;
    let mut output = Output::new(arguments.client.format.output);
    let tag = arguments.tag.tag();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let next = match arguments.from {
        Some(from) => from,
        None => present_tail(&logbook, tag)?.next(),
    };
    output.heading(HEADING)?;
    output.flush()?;
    let mut subscription = logbook.subscribe(tag, next);
    eprintln!("Waiting for records from SeqNum {next} on; Ctrl-C ends.");
    let mut is_first = true;
    while left > 0 {
        let event = match subscription.next_ready() {
            Some(event) => Some(event),
            None => {
                output.flush()?;
                subscription.next()
            }
        };
        match event.expect("it ends with an error")? {
            SubscriptionEvent::Record(record) => {
                print(&mut output, &record)?;
                left -= 1;
            }
            // What is gone was asked for, as of `read`.
            SubscriptionEvent::Trimmed { first } if is_first && arguments.from.is_some() => {
                return Err(ReadError::Trimmed { first }.into());
            }
            // The present tail is past what is gone.
            SubscriptionEvent::Trimmed { .. } if is_first => {}
            SubscriptionEvent::Trimmed { first } => {
                output.flush()?;
                eprintln!("sealog: trimmed: records before {first} are gone");
            }
        }
        is_first = false;
    }
    output.flush()
}

#[derive(Debug, Serialize)]
struct TailLine {
    tail: Option<String>,
}

pub fn check_tail(arguments: &CheckTailArguments) -> Result<(), Failure> {
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Read)?;
    let mut output = Output::new(arguments.client.format.output);
    let tag = arguments.tag.tag();
    let tail = match arguments.linearizable {
        true => logbook.check_tail_linearizable(tag)?,
        false => logbook.check_tail(tag)?,
    };
    let line = TailLine { tail: tail.map(|tail| tail.to_string()) };
    output.line(&line, |line| line.tail.clone().unwrap_or_else(|| "none".to_owned()))?;
    output.flush()
}

#[derive(Debug, Serialize)]
struct LogBookLine {
    logbook: String,
    name: String,
    class: &'static str,
}

/// `Name` records are in LogBook 0: each holds a name, and is tagged with the id that it names.
pub fn list_logbooks(arguments: &StatusArguments) -> Result<(), Failure> {
    let client = connect(&arguments.client)?;
    let mut output = Output::new(arguments.client.format.output);
    let system = client.logbook_by_id(LogBookId::SYSTEM);
    output.heading("LOGBOOK               CLASS   NAME")?;
    for record in system.scan(Tag::SYSTEM_NAME, SeqNum::MIN..=present_tail(&system, Tag::SYSTEM_NAME)?) {
        let record = record?;
        let name = String::from_utf8_lossy(&record.payload).into_owned();
        let logbook = record.tags.get(1).map_or(LogBookId::from_name(&name), |id| LogBookId(id.0));
        let line = LogBookLine { logbook: logbook.to_string(), name, class: logbook.class().name() };
        output.line(&line, |line| format!("{:<20}  {:<6}  {}", line.logbook, line.class, line.name.escape_debug()))?;
    }
    output.flush()?;
    // Each logspace has a LogBook 0 of its own, and requests reach one of them.
    let status: serde_json::Value = serde_json::from_str(&client.status()?).unwrap_or_default();
    let all = status["logspaces"].as_array().map_or(&[][..], Vec::as_slice).iter();
    // Names are in those of class disk, whichever class they are used in.
    let logspaces = all.filter(|logspace| logspace["class"] != "memory").count();
    if logspaces > 1 {
        eprintln!("sealog: only the names in one of {logspaces} logspaces are listed");
    }
    Ok(())
}
