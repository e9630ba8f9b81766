//! From arguments to a connected client and a LogBook of it.

use sealog::blocking::{Builder, Client, LogBook};
use sealog::{LogBookId, ManageError, Tag};

use crate::arguments::{ClientArguments, LogBookArguments, logbook_id};
use crate::failure::{Failure, Kind};

/// What LOGBOOK names.
pub enum LogBookName<'a> {
    Name(&'a str),
    Id(LogBookId),
}

impl LogBookArguments {
    pub fn parse(&self) -> Result<LogBookName<'_>, Failure> {
        if !self.id {
            return Ok(LogBookName::Name(&self.logbook));
        }
        let id = logbook_id(&self.logbook)
            .map_err(|error| Failure::usage(format!("'{}' is not the id of a LogBook: {error}", self.logbook)))?;
        Ok(LogBookName::Id(id))
    }
}

/// How many appends a command has under way at once.
pub const IN_FLIGHT_MAX: usize = 1024;

pub fn connect(arguments: &ClientArguments) -> Result<Client, Failure> {
    Ok(builder(arguments).connect(&arguments.connect)?)
}

fn builder(arguments: &ClientArguments) -> Builder {
    Client::builder().name("sealog-cli").deadline(arguments.deadline).in_flight_max(IN_FLIGHT_MAX)
}

/// What the verb does to the LogBook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Read,
    Append,
}

/// Connects and finds the LogBook. A wrong LOGBOOK is told before a connection is tried.
pub fn connect_logbook(
    client: &ClientArguments,
    logbook: &LogBookArguments,
    purpose: Purpose,
) -> Result<LogBook, Failure> {
    let name = logbook.parse()?;
    let connected = builder(client).connect(&client.connect).map_err(|error| match purpose {
        Purpose::Read => Failure::from(error),
        Purpose::Append => Failure::of_append(error),
    })?;
    Ok(match name {
        // Its class is asked for once. One that was never used is of class disk if it is appended to.
        LogBookName::Name(name) => match connected.find_logbook(name) {
            Ok(found) => found.unwrap_or_else(|| connected.logbook(name)),
            Err(error) => return Err(found_nothing(error, purpose)),
        },
        LogBookName::Id(id) => connected.logbook_by_id(id),
    })
}

fn found_nothing(error: ManageError, purpose: Purpose) -> Failure {
    match (&error, purpose) {
        (ManageError::Deadline { .. }, Purpose::Append) => {
            Failure::new(Kind::OutcomeUnknown, format!("{error}; nothing was appended"))
        }
        _ => Failure::from(error),
    }
}

/// The tags of `--tag` and `--tag-id`.
pub fn tags(names: &[String], ids: &[Tag]) -> Vec<Tag> {
    names.iter().map(|name| Tag::from_name(name)).chain(ids.iter().copied()).collect()
}
