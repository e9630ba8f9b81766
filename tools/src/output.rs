//! Data on stdout: lines of JSON, or of a table for people.

use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

use crate::arguments::Format;
use crate::failure::{Failure, Kind};

/// Stdout, as the verb's data goes there.
pub struct Output {
    format: Format,
    stdout: BufWriter<Stdout>,
}

impl Output {
    pub fn new(format: Format) -> Output {
        Output { format, stdout: BufWriter::with_capacity(1 << 16, io::stdout()) }
    }

    /// A line: this object, or what `table` says of it.
    pub fn line<T: Serialize>(&mut self, object: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let written = match self.format {
            Format::Json => serde_json::to_writer(&mut self.stdout, object).map_err(io::Error::from),
            Format::Table => self.stdout.write_all(table(object).as_bytes()),
        };
        written.and_then(|()| self.stdout.write_all(b"\n")).map_err(|error| failure(&error))
    }

    /// A line for people; JSON has none of it.
    pub fn heading(&mut self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => writeln!(self.stdout, "{text}").map_err(|error| failure(&error)),
        }
    }

    /// Lets the reader of stdout see what was written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| failure(&error))
    }
}

/// Who closes our stdout (`| head`) has seen enough: that ends the command, and is no error.
fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Kind::Done, ""),
        _ => Failure::stream("stdout", error),
    }
}
