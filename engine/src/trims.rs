//! Trims that clients asked for: each waits until an entry of the metalog grants it.

use std::collections::BTreeMap;

use sealog_protocol::client::{ErrorCode, Reply};
use sealog_protocol::limits::WAITING_TRIMS_MAX;
use sealog_protocol::machine::{ConnectionId, Outputs};
use sealog_protocol::{LogBookId, Place, SeqNum, Tag};

/// A client that waits for a trim.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: ConnectionId,
    request: u64,
    first: SeqNum,
}

#[derive(Debug, Default)]
struct Wanted {
    waiting: Vec<Waiting>,
    /// It was asked of the primary, and is not yet to be asked again.
    is_asked: bool,
}

/// All trims that are not yet granted.
#[derive(Debug, Default)]
pub struct Trims {
    wanted: BTreeMap<(LogBookId, Tag), Wanted>,
    waiting: usize,
}

impl Trims {
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes a client's trim; refuses it when too many wait already.
    pub fn push(
        &mut self,
        key: (LogBookId, Tag),
        first: SeqNum,
        (connection, request): (ConnectionId, u64),
        outputs: &mut Outputs,
    ) {
        if self.waiting >= WAITING_TRIMS_MAX {
            let message = format!("{} trims wait on this engine already: try again later", self.waiting);
            return outputs.reply(connection, request, Reply::Error { code: ErrorCode::Busy, message });
        }
        let wanted = self.wanted.entry(key).or_default();
        // One that is on its way may fall short of this one.
        wanted.is_asked = false;
        wanted.waiting.push(Waiting { connection, request, first });
        self.waiting += 1;
    }

    /// An entry trimmed the tag to `granted`: answers who waited for that, or less.
    pub fn granted(
        &mut self,
        key: (LogBookId, Tag),
        granted: SeqNum,
        (first, place): (SeqNum, Place),
        outputs: &mut Outputs,
    ) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        for waiting in wanted.waiting.extract_if(.., |waiting| waiting.first <= granted) {
            outputs.reply(waiting.connection, waiting.request, Reply::TrimDone { first, place });
            self.waiting -= 1;
        }
        if wanted.waiting.is_empty() {
            self.wanted.remove(&key);
        }
    }

    /// What the primary is to be asked now.
    pub fn to_ask(&mut self) -> impl Iterator<Item = ((LogBookId, Tag), SeqNum)> + '_ {
        self.wanted.iter_mut().filter(|(_, wanted)| !wanted.is_asked).map(|(key, wanted)| {
            wanted.is_asked = true;
            (*key, wanted.waiting.iter().map(|waiting| waiting.first).max().unwrap_or(SeqNum::MIN))
        })
    }

    /// Has everything asked again: of a new primary, or for good measure.
    pub fn retry(&mut self) {
        self.wanted.values_mut().for_each(|wanted| wanted.is_asked = false);
    }

    /// Forgets who waits on a connection. What was asked for goes on.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.wanted.retain(|_, wanted| {
            let before = wanted.waiting.len();
            wanted.waiting.retain(|waiting| waiting.connection != connection);
            self.waiting -= before - wanted.waiting.len();
            !wanted.waiting.is_empty()
        });
    }
}
