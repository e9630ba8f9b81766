//! A record as it is printed.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sealog::Record;
use serde::Serialize;

/// The last millisecond of the year 9999: RFC 3339 has no later one.
const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// A record's line of JSON. Ids are strings: they outgrow the numbers of many JSON readers.
#[derive(Debug, Serialize)]
pub struct RecordLine {
    seqnum: String,
    /// The writer's clock.
    time: String,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// In the place of `data`, where that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(flatten)]
    aux: AuxData,
}

/// What is attached to a record, in the same two ways.
#[derive(Debug, Serialize)]
pub struct AuxData {
    #[serde(skip_serializing_if = "Option::is_none")]
    aux: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aux_base64: Option<String>,
}

impl AuxData {
    pub fn new(data: Option<&[u8]>) -> AuxData {
        let (aux, aux_base64) = data.map_or((None, None), text_or_base64);
        AuxData { aux, aux_base64 }
    }

    /// On one line; `None`: nothing is attached.
    pub fn text(&self) -> Option<String> {
        one_line(&self.aux, &self.aux_base64)
    }
}

/// Bytes as text, or else in base64.
fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn one_line(text: &Option<String>, base64: &Option<String>) -> Option<String> {
    match (text, base64) {
        (Some(text), _) => Some(text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")),
        (None, Some(base64)) => Some(format!("base64:{base64}")),
        (None, None) => None,
    }
}

pub const HEADING: &str = "SEQNUM                TIME                      TAGS  DATA";

impl RecordLine {
    pub fn new(record: &Record) -> RecordLine {
        let time = UNIX_EPOCH + Duration::from_millis(record.time_ms.min(TIME_MS_MAX));
        let (data, data_base64) = text_or_base64(&record.payload);
        RecordLine {
            seqnum: record.seqnum.to_string(),
            time: humantime::format_rfc3339_millis(time).to_string(),
            tags: record.tags.iter().map(|tag| tag.0.to_string()).collect(),
            data,
            data_base64,
            aux: AuxData::new(record.aux.as_deref()),
        }
    }

    /// The record's row of a table: one line, whatever the data holds.
    pub fn row(&self) -> String {
        let tags = if self.tags.is_empty() { "-".to_owned() } else { self.tags.join(",") };
        let data = one_line(&self.data, &self.data_base64).unwrap_or_default();
        let aux = self.aux.text().map_or_else(String::new, |aux| format!("  aux: {aux}"));
        format!("{:<20}  {}  {tags}  {data}{aux}", self.seqnum, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog::{LogBookId, SeqNum, Tag};

    fn record(payload: &'static [u8], time_ms: u64) -> Record {
        Record {
            seqnum: SeqNum(17_592_186_044_416),
            logbook: LogBookId(1),
            tags: vec![Tag(u64::MAX), Tag(7)],
            time_ms,
            payload: payload.into(),
            aux: None,
        }
    }

    fn json(payload: &'static [u8], time_ms: u64) -> String {
        serde_json::to_string(&RecordLine::new(&record(payload, time_ms))).unwrap()
    }

    #[test]
    fn text_is_a_string_and_other_bytes_are_base64() {
        assert_eq!(
            json("naïve\n".as_bytes(), 1_700_000_000_123),
            r#"{"seqnum":"17592186044416","time":"2023-11-14T22:13:20.123Z","tags":["18446744073709551615","7"],"data":"naïve\n"}"#
        );
        assert!(json(b"\xff\x00", 0).ends_with(r#""data_base64":"/wA="}"#));
    }

    #[test]
    fn a_clock_that_is_far_off_is_shown_as_far_off() {
        assert!(json(b"", u64::MAX).contains("9999-12-31T23:59:59.999Z"));
    }

    #[test]
    fn a_row_is_one_line() {
        assert!(RecordLine::new(&record(b"a\nb \"c\"", 0)).row().ends_with("a\\nb \"c\""));
        let with_aux = Record { aux: Some(b"d\n".as_slice().into()), ..record(b"", 0) };
        assert!(RecordLine::new(&with_aux).row().ends_with("  aux: d\\n"));
        assert!(serde_json::to_string(&RecordLine::new(&with_aux)).unwrap().ends_with(r#","aux":"d\n"}"#));
    }
}
