//! What a register says to etcd: its JSON gateway over HTTP, at the first of several addresses that
//! answers. Every request has a deadline.

use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::Agent;

/// For a connection to be there.
const CONNECT_DEADLINE: Duration = Duration::from_millis(700);
/// For an answer of one address. An etcd that chooses a leader answers after a second or so.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// For one of all addresses to answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an answer: all chains and members of a cluster at most.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Bytes of what is said when a request failed.
const REASON_BYTES_MAX: u64 = 400;

/// Addresses of etcd, of which one is in use.
#[derive(Clone)]
pub struct Gateway {
    agent: Agent,
    endpoints: Vec<String>,
    current: usize,
}

/// A key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// Of the transaction that wrote it.
    pub revision: u64,
}

/// What a watch was told.
#[derive(Debug, PartialEq, Eq)]
pub enum WatchAnswer {
    /// Nothing changed.
    Nothing,
    /// What was written. It is not empty.
    Puts(Vec<KeyValue>),
    /// So old changes are not there any more.
    Forgotten,
}

/// Why an address gave no answer.
struct Failed {
    error: io::Error,
    /// The request did not reach etcd, or was refused by it: it did nothing.
    did_nothing: bool,
}

impl Gateway {
    pub fn new(endpoints: &[String]) -> Gateway {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Those of the environment are for other hosts than those of the cluster.
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_DEADLINE))
            .build();
        Gateway { agent: config.into(), endpoints: endpoints.to_vec(), current: 0 }
    }

    /// What a key holds, as a majority has it.
    pub fn get(&mut self, key: &str) -> io::Result<Option<KeyValue>> {
        let answer = self.ask("range", &json!({ "key": encode(key) }), true)?;
        let pairs = key_values(&answer["kvs"])?;
        Ok(pairs.into_iter().next())
    }

    /// All keys that begin so, and the revision at which this was right.
    pub fn get_all(&mut self, prefix: &str) -> io::Result<(Vec<KeyValue>, u64)> {
        let body = json!({ "key": encode(prefix), "range_end": encode(&end_of(prefix)) });
        let answer = self.ask("range", &body, true)?;
        Ok((key_values(&answer["kvs"])?, number(&answer["header"]["revision"])?))
    }

    /// Writes a key if it was last written at this revision; 0: if there is none. `None`: written;
    /// else what there is. An error says nothing of whether it was written.
    pub fn put_if(&mut self, key: &str, revision: u64, value: &[u8]) -> io::Result<Option<Option<KeyValue>>> {
        let body = json!({
            "compare": [{ "key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() }],
            "success": [{ "request_put": { "key": encode(key), "value": BASE64.encode(value) } }],
            "failure": [{ "request_range": { "key": encode(key) } }],
        });
        let answer = self.ask("txn", &body, false)?;
        if answer["succeeded"].as_bool().unwrap_or(false) {
            return Ok(None);
        }
        let held = key_values(&answer["responses"][0]["response_range"]["kvs"])?;
        Ok(Some(held.into_iter().next()))
    }

    /// What was written to keys that begin so, from this revision on; waits so long for it.
    pub fn watch(&mut self, prefix: &str, from: u64, patience: Duration) -> io::Result<WatchAnswer> {
        let body = json!({ "create_request": {
            "key": encode(prefix), "range_end": encode(&end_of(prefix)), "start_revision": from.to_string(),
        } });
        let endpoint = self.endpoints[self.current].clone();
        self.watch_at(&endpoint, &body, from, patience).map_err(|error| {
            self.current = (self.current + 1) % self.endpoints.len();
            io::Error::new(error.kind(), explained(&endpoint, &error))
        })
    }

    /// Forgets what keys held before now.
    pub fn compact(&mut self) -> io::Result<()> {
        let held = self.ask("range", &json!({ "key": encode("/") }), true)?;
        let revision = number(&held["header"]["revision"])?;
        self.ask("compaction", &json!({ "revision": revision.to_string() }), false).map(drop)
    }

    fn watch_at(&self, endpoint: &str, body: &Value, from: u64, patience: Duration) -> io::Result<WatchAnswer> {
        let until = Instant::now() + patience;
        // One who does not even say that it watches is not asked for longer.
        let request = self.agent.post(format!("http://{endpoint}/v3/watch")).config();
        let request = request.timeout_recv_response(Some(ANSWER_DEADLINE)).timeout_recv_body(Some(patience)).build();
        let answer = request.send(body.to_string()).map_err(io_error)?;
        let answer = accepted(answer)?;
        let mut lines = BufReader::new(answer.into_body().into_reader().take(ANSWER_BYTES_MAX));
        let mut line = String::new();
        let mut is_watching = false;
        loop {
            line.clear();
            match lines.read_line(&mut line) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended the watch")),
                Ok(_) => {}
                Err(error) if is_watching && is_timeout(&error) && Instant::now() >= until => {
                    return Ok(WatchAnswer::Nothing);
                }
                Err(error) => return Err(error),
            }
            let said: Value = serde_json::from_str(&line)?;
            if let Some(message) = said["error"]["message"].as_str() {
                return Err(io::Error::other(message.to_owned()));
            }
            let said = &said["result"];
            if said["compact_revision"].as_str().is_some_and(|revision| revision != "0") {
                return Ok(WatchAnswer::Forgotten);
            }
            // It lags behind, or is not the one that it was: what it has now counts.
            if said["created"].as_bool().unwrap_or(false) && number(&said["header"]["revision"])? + 1 < from {
                return Ok(WatchAnswer::Forgotten);
            }
            if said["canceled"].as_bool().unwrap_or(false) {
                return Err(io::Error::other("it cancelled the watch"));
            }
            is_watching = true;
            let puts: Vec<Value> = events(&said["events"]).map(|event| event["kv"].clone()).collect();
            if !puts.is_empty() {
                return key_values(&Value::Array(puts)).map(WatchAnswer::Puts);
            }
        }
    }

    /// Asks one address after the other; a request that may have done something only one.
    fn ask(&mut self, what: &str, body: &Value, may_repeat: bool) -> io::Result<Value> {
        let until = Instant::now() + REQUEST_DEADLINE;
        let mut reasons = Vec::new();
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.current];
            let left = until.saturating_duration_since(Instant::now()).min(ANSWER_DEADLINE);
            if left.is_zero() {
                break;
            }
            match self.ask_at(endpoint, what, body, left) {
                Ok(answer) => return Ok(answer),
                Err(failed) => {
                    reasons.push(explained(endpoint, &failed.error));
                    self.current = (self.current + 1) % self.endpoints.len();
                    if !may_repeat && !failed.did_nothing {
                        break;
                    }
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, reasons.join("; ")))
    }

    fn ask_at(&self, endpoint: &str, what: &str, body: &Value, deadline: Duration) -> Result<Value, Failed> {
        let unclear = |error| Failed { error, did_nothing: false };
        let request = self.agent.post(format!("http://{endpoint}/v3/kv/{what}")).config();
        let answer = request.timeout_global(Some(deadline)).build().send(body.to_string()).map_err(|error| {
            let did_nothing = matches!(&error, ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve))
                || matches!(&error, ureq::Error::HostNotFound | ureq::Error::ConnectionFailed)
                || matches!(&error, ureq::Error::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused);
            Failed { error: io_error(error), did_nothing }
        })?;
        let answer = accepted(answer).map_err(unclear)?;
        let text = answer.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| unclear(io_error(error)))?;
        serde_json::from_str(&text).map_err(|error| unclear(error.into()))
    }
}

type Answer = ureq::http::Response<ureq::Body>;

/// An answer of etcd that is no refusal.
fn accepted(answer: Answer) -> io::Result<Answer> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let mut text = String::new();
    // What could be read of it is enough.
    let _ = answer.into_body().into_reader().take(REASON_BYTES_MAX).read_to_string(&mut text);
    let said: Option<Value> = serde_json::from_str(&text).ok();
    match said.as_ref().and_then(|said| said["error"].as_str()) {
        Some(reason) => Err(io::Error::other(format!("etcd says '{reason}'"))),
        None => Err(io::Error::other(format!(
            "what answers there ({status}) is not etcd 3.4 or later: correct the setting register"
        ))),
    }
}

fn explained(endpoint: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            ": start etcd there, or correct the setting register"
        }
        io::ErrorKind::TimedOut => ": is it there, and has it a majority?",
        _ => "",
    };
    format!("etcd at {endpoint}: {error}{advice}")
}

fn io_error(error: ureq::Error) -> io::Error {
    match error {
        ureq::Error::Io(error) => error,
        ureq::Error::Timeout(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        ureq::Error::HostNotFound => io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
        other => io::Error::other(other),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == io::ErrorKind::TimedOut
}

fn encode(key: &str) -> String {
    BASE64.encode(key)
}

/// The first key after all that begin so.
fn end_of(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').expect("prefixes end with a slash");
    // In order the next after the slash.
    format!("{stem}0")
}

/// Events of a watch that wrote a key. That one was deleted changes nothing: no node does so.
fn events(events: &Value) -> impl Iterator<Item = &Value> {
    events.as_array().into_iter().flatten().filter(|event| event["type"].as_str().is_none_or(|kind| kind == "PUT"))
}

/// The gateway leaves out a list that is empty, and writes numbers as text.
fn key_values(list: &Value) -> io::Result<Vec<KeyValue>> {
    let pair = |pair: &Value| {
        let key = String::from_utf8(bytes(&pair["key"])?).map_err(io::Error::other)?;
        Ok(KeyValue { key, value: bytes(&pair["value"])?, revision: number(&pair["mod_revision"])? })
    };
    list.as_array().into_iter().flatten().map(pair).collect()
}

fn bytes(value: &Value) -> io::Result<Vec<u8>> {
    BASE64.decode(value.as_str().unwrap_or_default()).map_err(io::Error::other)
}

fn number(value: &Value) -> io::Result<u64> {
    let number = value.as_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its answer lacks a revision"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_keys_and_no_others() {
        let (prefix, end) = ("/sealog/orders/", end_of("/sealog/orders/"));
        for key in ["/sealog/orders/members", "/sealog/orders/logspace-0"] {
            assert!(prefix <= key && key < &*end, "{key}");
        }
        for key in ["/sealog/orders-2/members", "/sealog/orders0", "/sealog/order/members"] {
            assert!(key < prefix || key >= &*end, "{key}");
        }
    }

    #[test]
    fn who_is_not_there_is_named_with_what_to_do() {
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut gateway = Gateway::new(&[free.to_string(), "127.0.0.1:1".to_owned()]);
        let message = gateway.get("/sealog/x/members").unwrap_err().to_string();
        assert!(message.contains(&free.to_string()) && message.contains("127.0.0.1:1"), "{message}");
        assert!(message.contains("start etcd there, or correct the setting register"), "{message}");
    }
}
