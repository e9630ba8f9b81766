//! How an engine lets go: trims asked for and applied, and the sweep behind them.

use bytes::Bytes;
use sealog_protocol::client::{ErrorCode, Reply, RetentionRequest, TrimRequest};
use sealog_protocol::machine::{Address, ConnectionId, Outputs, Role};
use sealog_protocol::message::Message;
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::tags::heads;
use sealog_protocol::{Durability, LogBookId, Logspaces, SeqNum, ShardId, Tag, Time};

use super::Engine;
use super::replies::unavailable;
use crate::index::{Dying, Retention};
use crate::producer::Origin;
use crate::reads::ReadyTrim;

/// Entries that are swept in a turn: some tens of microseconds.
const SWEEP_ENTRIES: usize = 1024;

impl Engine {
    pub(super) fn trim(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: u64,
        wanted: &TrimRequest,
        outputs: &mut Outputs,
    ) {
        let (logbook, tag, wanted) = (LogBookId(wanted.logbook), Tag(wanted.tag), SeqNum(wanted.first));
        if let Err((code, message)) = self.admit_logbook(logbook) {
            return outputs.reply(connection, request, Reply::Error { code, message });
        }
        let Some((sources, reads)) = self.reading(now) else {
            return outputs.reply(connection, request, unavailable());
        };
        reads.trim(sources, ReadyTrim { connection, request, key: (logbook, tag), first: wanted }, outputs);
    }

    /// Answers trims that are in force already, and has the others asked for.
    fn begin_trims(&mut self, outputs: &mut Outputs) {
        let place = self.applied();
        for ReadyTrim { connection, request, key, first: wanted } in self.reads.take_ready_trims() {
            let first = self.index.as_ref().expect("reads are answered from it").first(key.0, key.1);
            match wanted <= first {
                true => outputs.reply(connection, request, Reply::TrimDone { first, place }),
                false => self.trims.push(key, wanted, (connection, request), outputs),
            }
        }
    }

    pub(super) fn set_retention(
        &mut self,
        now: Time,
        connection: ConnectionId,
        request: u64,
        wanted: &RetentionRequest,
        outputs: &mut Outputs,
    ) {
        let logbook = LogBookId(wanted.logbook);
        if let Err((code, message)) = self.admit_logbook(logbook).and_then(|()| self.admit_space()) {
            return outputs.reply(connection, request, Reply::Error { code, message });
        }
        let retention = Retention { age_ms: wanted.age_ms, bytes: wanted.bytes };
        self.append_system(now, Origin::SetRetention { connection, request }, &retention.tags(logbook), b"");
    }

    fn classes(&self) -> Logspaces {
        self.chain.as_ref().map_or(1.into(), |chain| chain.settings.classes())
    }

    /// What holds a record of this logspace when it is acknowledged.
    pub(super) fn durability(&self) -> Durability {
        self.classes().class(self.config.logspace)
    }

    /// Whether there is a logspace of this class.
    pub(super) fn admit_class(&self, class: Durability) -> Result<(), (ErrorCode, String)> {
        if class == Durability::Memory && self.classes().memory == 0 {
            let message = "there is no logspace of class memory here: those of this data directory or cluster were \
                           fixed when it was made, without one; use class disk, or make another one";
            return Err((ErrorCode::Invalid, message.into()));
        }
        Ok(())
    }

    /// Whether a LogBook is one that clients may change, here.
    pub(super) fn admit_logbook(&self, logbook: LogBookId) -> Result<(), (ErrorCode, String)> {
        let invalid = |message: &str| Err((ErrorCode::Invalid, message.to_owned()));
        if logbook == LogBookId::SYSTEM {
            return invalid("LogBook 0 is reserved: choose another");
        }
        self.admit_class(logbook.class())?;
        let logspaces = self.classes();
        if logbook.logspace(logspaces) != self.config.logspace {
            return invalid("the LogBook belongs to another logspace: ask the engine that serves it");
        }
        Ok(())
    }

    /// An entry of the metalog trims.
    pub(super) fn trimmed(&mut self, logbook: LogBookId, tag: Tag, first: SeqNum, outputs: &mut Outputs) {
        let (Some(index), Some(logspace)) = (&mut self.index, &self.logspace) else { return };
        let clamped = if active(Mutant::TrimNotClamped) { first } else { logspace.clamp_trim(first) };
        if clamped < first {
            mark(Mark::TrimClamped);
        }
        index.trim(logbook, tag, clamped);
        self.reads.trim_applied();
        self.reads.aux.trimmed(logbook, clamped);
        let answer = (index.first(logbook, tag), logspace.place());
        self.trims.granted((logbook, tag), first, answer, outputs);
    }

    /// Asks the primary for the trims that clients want.
    pub(super) fn send_trims(&mut self, outputs: &mut Outputs) {
        self.begin_trims(outputs);
        if self.trims.is_empty() {
            return;
        }
        let Some(primary) = self.current().map(|view| view.primary) else { return };
        if !self.connected.contains_key(&primary) {
            return;
        }
        let to = self.address(primary, Role::Sequencer);
        for ((logbook, tag), first) in self.trims.to_ask() {
            outputs.send(to, Message::Trim { logbook, tag, first });
        }
    }

    pub(super) fn is_sweeping(&self) -> bool {
        self.index.as_ref().is_some_and(|index| !index.is_swept() || !self.reads.aux.is_swept())
    }

    /// Goes on with the sweep behind trims, and tells storages what died.
    pub(super) fn sweep(&mut self, outputs: &mut Outputs) {
        let Some(index) = &mut self.index else { return };
        if index.is_swept() {
            // Which records died of their last tag is known by now.
            self.reads.aux.sweep(SWEEP_ENTRIES, |logbook, seqnum| index.lives(logbook, seqnum));
            return;
        }
        index.sweep(SWEEP_ENTRIES, &mut self.dying);
        let covered =
            self.logspace.as_ref().and_then(|logspace| logspace.checkpoint()).map_or(SeqNum::MIN, |last| last.next);
        for died in std::mem::take(&mut self.dying) {
            if died.last >= covered {
                self.log_records_dead += died.records;
            }
            self.tell_dying(died, outputs);
        }
    }

    fn tell_dying(&self, died: Dying, outputs: &mut Outputs) {
        let Some(logspace) = &self.logspace else { return };
        let (mut left, mut span) = (u128::from(died.records), u128::from(died.last.0 - died.first.0) + 1);
        for run in self.order.between(died.first, died.last) {
            // As many of each run as if they lay evenly.
            let here = (left * u128::from(run.records)).div_ceil(span.max(1)).min(left);
            left -= here;
            span -= u128::from(run.records).min(span);
            let shard = run.first.shard;
            let Some(known) = logspace.shard(shard).filter(|_| here > 0) else { continue };
            let (from, to) = (run.first.position, run.first.position + run.records);
            for node in known.replicas.iter().filter(|node| self.connected.contains_key(node)) {
                let message = Message::Dying { shard, from, to, records: here as u64 };
                outputs.send(self.address(node, Role::Storage), message);
            }
        }
    }

    /// A storage asks which of these records are dead.
    pub(super) fn judge(
        &mut self,
        from: Address,
        request: u64,
        (shard, first): (ShardId, u64),
        entries: &Bytes,
        outputs: &mut Outputs,
    ) {
        if let Some(dead) = self.dead_of(shard, first, entries) {
            let checkpoint = self.checkpoint();
            outputs.send(from, Message::Judged { request, checkpoint, dead: dead.into() });
        }
    }

    /// A bit for each record: whether nobody can read it any more, and no rebuilt index needs it.
    fn dead_of(&self, shard: ShardId, first: u64, entries: &Bytes) -> Option<Vec<u8>> {
        let (index, logspace) = (self.index.as_ref()?, self.logspace.as_ref()?);
        // Without a checkpoint an index is rebuilt from all there ever was.
        let Some(checkpoint) = logspace.checkpoint() else { return Some(Vec::new()) };
        let (known, is_past) = (logspace.shard(shard), shard.view < logspace.place().view);
        let ordered = known.map_or(if is_past { u64::MAX } else { 0 }, |known| known.prefix);
        let never_more = is_past || known.is_some_and(|known| known.closed);
        let mut runs = self.order.runs_of(shard, first).peekable();
        let mut dead = Vec::new();
        let mut nth = 0usize;
        for head in heads(entries).map_while(Result::ok) {
            let logbook = head.metadata().map(|metadata| metadata.logbook());
            for _ in 0..head.records {
                let position = first + nth as u64;
                while runs.next_if(|run| run.first.position + run.records <= position).is_some() {}
                let run = runs.peek().filter(|run| run.first.position <= position);
                let is_dead = match (run, logbook) {
                    (Some(run), Ok(logbook)) => {
                        let seqnum = SeqNum(run.seqnum.0 + (position - run.first.position));
                        seqnum < checkpoint.next && !index.lives(logbook, seqnum)
                    }
                    (Some(_), Err(_)) => false,
                    // Of what is ordered and not in the order any more, nothing lives.
                    (None, _) => position < ordered || never_more,
                };
                dead.resize(nth / 8 + 1, 0);
                dead[nth / 8] |= u8::from(is_dead) << (nth % 8);
                nth += 1;
            }
        }
        Some(dead)
    }
}
