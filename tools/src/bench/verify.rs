//! `--verify`: everything is read back and held against what was acknowledged, and when.

use sealog::blocking::Client;
use sealog::{SeqNum, Tag};
use sealog_history::{FinalLog, Fingerprint, Found, History, check};

use crate::arguments::BenchArguments;
use crate::bench::load::Load;
use crate::bench::report::{Report, Verified};
use crate::connection;
use crate::failure::{Failure, Kind};

/// A LogBook that holds records of somebody else can't be verified.
pub fn refuse_old_records(arguments: &BenchArguments, load: &Load) -> Result<(), Failure> {
    let client = connection::connect(&arguments.client)?;
    for (id, name) in &load.logbooks {
        if client.logbook_in_class(name, id.class()).check_tail_linearizable(Tag::ALL)?.is_some() {
            return Err(Failure::usage(format!(
                "LogBook '{name}' holds records already: with --verify, give another --logbook or none"
            )));
        }
    }
    Ok(())
}

/// Reads all LogBooks back and checks them; the violation, if there is one. What was looked at goes
/// into the report.
pub fn verify(
    arguments: &BenchArguments,
    load: &Load,
    history: &History,
    report: &mut Report,
) -> Result<Option<Failure>, Failure> {
    eprintln!("Reading everything back …");
    let client = connection::connect(&arguments.client)?;
    let mut log = FinalLog::new();
    let mut violation = None;
    for (id, name) in &load.logbooks {
        for record in client.logbook_in_class(name, id.class()).scan(Tag::ALL, SeqNum::MIN..=SeqNum::MAX) {
            let record = record?;
            let found =
                Found { seqnum: record.seqnum, fingerprint: Fingerprint::new(*id, &record.tags, &record.payload) };
            if let Err(broken) = log.push(*id, found, &record.tags) {
                violation.get_or_insert(broken);
            }
        }
    }
    compare_tags(&client, load, &log, &mut violation)?;
    let records = log.len() as u64;
    let checked = match violation {
        Some(violation) => Err(violation),
        None => check(history, &mut log),
    };
    let mut verified = Verified { ok: false, records, acknowledged: 0, unknown: 0, unknown_visible: 0 };
    let failure = match checked {
        Ok(checked) => {
            verified.ok = true;
            verified.acknowledged = checked.appends_acknowledged;
            verified.unknown = checked.appends_unknown;
            verified.unknown_visible = checked.appends_unknown_visible;
            None
        }
        Err(violation) => Some(Failure::new(
            Kind::Corrupt,
            format!("the service broke a promise: {violation}. Please report this with the data directory"),
        )),
    };
    report.verified = Some(verified);
    Ok(failure)
}

/// Tags whose streams are read as well: a sample, for there can be millions.
const TAGS_COMPARED_MAX: usize = 64;

/// Reading by a tag gives exactly the records that carry it.
fn compare_tags(
    client: &Client,
    load: &Load,
    log: &FinalLog,
    violation: &mut Option<sealog_history::Violation>,
) -> Result<(), Failure> {
    for (logbook, tag) in log.streams().filter(|(_, tag)| *tag != Tag::ALL).take(TAGS_COMPARED_MAX) {
        let Some((_, name)) = load.logbooks.iter().find(|(id, _)| *id == logbook) else { continue };
        let mut scan = Vec::new();
        for record in client.logbook_in_class(name, logbook.class()).scan(tag, SeqNum::MIN..=SeqNum::MAX) {
            let record = record?;
            let fingerprint = Fingerprint::new(logbook, &record.tags, &record.payload);
            scan.push(Found { seqnum: record.seqnum, fingerprint });
        }
        if let Err(broken) = log.compare_scan(logbook, tag, scan) {
            violation.get_or_insert(broken);
        }
    }
    Ok(())
}
