//! `sealog append`: one record, or one for each line of stdin.
//!
//! Lines are sent as they come, many at once; a second thread reads stdin, so that an answer is
//! printed when it is given and not when the next line comes. What is in memory is bounded: so many
//! lines under way, and one being read.

use std::io::{self, BufRead, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};

use sealog::blocking::{LogBook, PendingAppend};
use sealog::{AppendError, Appended, Tag};
use sealog_protocol::limits::{RECORD_BYTES_MAX, TAGS_PER_RECORD_MAX};
use serde::Serialize;

use crate::arguments::AppendArguments;
use crate::connection::{IN_FLIGHT_MAX, Purpose, connect_logbook, tags};
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// An acknowledgement's line.
#[derive(Debug, Serialize)]
struct Acknowledgement {
    seqnum: String,
    durability: &'static str,
}

pub fn run(arguments: &AppendArguments) -> Result<(), Failure> {
    let tags = tags(&arguments.tags, &arguments.tag_ids);
    check(arguments, &tags)?;
    let logbook = connect_logbook(&arguments.client, &arguments.logbook, Purpose::Append)?;
    let mut output = Output::new(arguments.client.format.output);
    match &arguments.data {
        None => append_lines(logbook, tags, &mut output),
        Some(data) => {
            let payload = data.as_bytes();
            let appended = match arguments.if_tail {
                Some(expected) => logbook.append_if(tags.first().copied().unwrap_or(Tag::ALL), expected.0, payload)?,
                None => logbook.append(&tags, payload)?,
            };
            print(&mut output, appended)
        }
    }
}

/// What can be known to be wrong before anything is sent.
fn check(arguments: &AppendArguments, tags: &[Tag]) -> Result<(), Failure> {
    if arguments.if_tail.is_some() && tags.len() > 1 {
        return Err(Failure::usage(
            "--if-tail concerns the tail of one tag, or of the LogBook: give at most one --tag with it",
        ));
    }
    if tags.len() > TAGS_PER_RECORD_MAX {
        return Err(Failure::usage(format!(
            "{} tags are over the limit of {TAGS_PER_RECORD_MAX} a record",
            tags.len()
        )));
    }
    if arguments.data.as_ref().is_some_and(|data| data.as_bytes().len() > RECORD_BYTES_MAX) {
        return Err(too_large("DATA"));
    }
    Ok(())
}

fn too_large(what: &str) -> Failure {
    Failure::usage(format!("{what} is over the limit of {RECORD_BYTES_MAX} bytes (1 MiB) a record: split it"))
}

fn print(output: &mut Output, appended: Appended) -> Result<(), Failure> {
    let line = Acknowledgement { seqnum: appended.seqnum.to_string(), durability: appended.durability.name() };
    output.line(&line, |line| format!("{}  {}", line.seqnum, line.durability))?;
    output.flush()
}

/// What the reading thread hands over, in order of input.
enum Line {
    Begun(PendingAppend),
    Failed(AppendError),
    /// Stdin, or a line of it, can't be used. Nothing follows.
    Unusable(Failure),
}

fn append_lines(logbook: LogBook, tags: Vec<Tag>, output: &mut Output) -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        eprintln!("One record a line; Ctrl-D ends.");
    }
    let (sender, receiver) = mpsc::sync_channel(IN_FLIGHT_MAX);
    let enough: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    // Not joined: it may wait for a line that never comes when this function has failed already.
    std::thread::spawn(move || send_lines(&logbook, &tags, &sender, enough));
    print_answers(&receiver, enough, output)
}

fn send_lines(logbook: &LogBook, tags: &[Tag], answers: &SyncSender<Line>, enough: &AtomicBool) {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    let mut number = 0u64;
    while !enough.load(Ordering::Relaxed) {
        number += 1;
        let next = match read_line(&mut stdin, &mut line) {
            Ok(false) => return,
            Ok(true) if line.len() > RECORD_BYTES_MAX => Line::Unusable(too_large(&format!("line {number} of stdin"))),
            Ok(true) => match logbook.begin_append(tags, &line) {
                Ok(pending) => Line::Begun(pending),
                Err(error) => Line::Failed(error),
            },
            Err(error) => Line::Unusable(Failure::stream("stdin", &error)),
        };
        let last = !matches!(next, Line::Begun(_));
        if answers.send(next).is_err() || last {
            return;
        }
    }
}

/// The next line without its end; stops one byte past the limit. `false` at the end of input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let bytes = input.take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(bytes > 0)
}

/// Prints answers in order. After the first failure nothing more is printed, so that line n of the
/// output always belongs to line n of the input; what was under way is waited for and counted.
fn print_answers(lines: &Receiver<Line>, enough: &AtomicBool, output: &mut Output) -> Result<(), Failure> {
    let mut acknowledged = 0u64;
    while let Ok(line) = lines.recv() {
        let failure = match line {
            Line::Begun(pending) => match pending.wait() {
                Ok(appended) => match print(output, appended) {
                    Ok(()) => {
                        acknowledged += 1;
                        continue;
                    }
                    // Nobody reads our answers; the lines that are left were not appended.
                    Err(failure) if failure.kind == Kind::Done => Failure::new(Kind::Other, ""),
                    Err(failure) => failure,
                },
                Err(error) => error.into(),
            },
            Line::Failed(error) => error.into(),
            Line::Unusable(failure) => failure,
        };
        enough.store(true, Ordering::Relaxed);
        return Err(explain(failure, acknowledged, lines));
    }
    Ok(())
}

/// Says what became of the other lines.
fn explain(failure: Failure, acknowledged: u64, lines: &Receiver<Line>) -> Failure {
    if failure.message.is_empty() {
        return failure;
    }
    let mut later = 0u64;
    // The reading thread may sit in a read of stdin: take only what has been begun.
    while let Ok(line) = lines.try_recv() {
        if let Line::Begun(pending) = line {
            later += u64::from(pending.wait().is_ok());
        }
    }
    let beyond = if later == 0 { String::new() } else { format!(", and {later} after it") };
    Failure::new(
        failure.kind,
        format!("line {}: {failure}. {acknowledged} lines before it were appended{beyond}", acknowledged + 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8]) -> Vec<Vec<u8>> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        while read_line(&mut input, &mut line).unwrap() {
            lines.push(line.clone());
        }
        lines
    }

    #[test]
    fn a_line_is_a_record() {
        assert_eq!(lines(b"a\n\nb\xff\nc"), [&b"a"[..], b"", b"b\xff", b"c"]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_line_is_read_to_just_past_the_limit() {
        let line = vec![b'x'; RECORD_BYTES_MAX];
        let mut at_limit = line.clone();
        at_limit.push(b'\n');
        assert_eq!(lines(&at_limit), [line]);
        let first = lines(&vec![b'x'; 3 * RECORD_BYTES_MAX]).remove(0);
        assert_eq!(first.len(), RECORD_BYTES_MAX + 1);
    }
}
