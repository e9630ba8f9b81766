//! What a sequencer replica does as primary: opens shards, cuts, commits, confirms, feeds backups.

use super::*;

impl Sequencer {
    pub(super) fn open_shard(
        &mut self,
        from: Address,
        engine: EngineIncarnation,
        ordinal: u64,
        replicas: NodeSet,
        outputs: &mut Outputs,
    ) {
        let Some(primary) = self.active_primary() else { return };
        let view = &primary.view;
        let legal = engine.node == from.node
            && self.connected.get(&from.node) == Some(&engine.incarnation)
            && replicas.len() == usize::from(view.replicas)
            && replicas.iter().all(|node| view.storages.contains(node));
        if legal && primary.logspace.find_shard(engine, ordinal).is_none() {
            self.append(&Entry::OpenShard { engine, ordinal, replicas }, outputs);
        }
    }

    /// Appends an entry as primary: to the log, to the journal, and at the turn's end to backups.
    pub(super) fn append(&mut self, entry: &Entry<'_>, outputs: &mut Outputs) {
        self.reserve();
        entry.encode(&mut self.encoded);
        self.append_encoded(outputs);
    }

    /// Makes room for an entry, a chunk at a time, so that a cut does not allocate.
    pub(super) fn reserve(&mut self) {
        if self.encoded.capacity() - self.encoded.len() < ENTRY_BYTES_MAX {
            self.encoded.reserve(ENCODED_CHUNK_BYTES);
        }
    }

    /// As [`Sequencer::append`], of the one entry that stands in `encoded`.
    pub(super) fn append_encoded(&mut self, outputs: &mut Outputs) {
        let encoded = self.encoded.split().freeze();
        let (entry, _) = Entry::decode(&encoded).expect("encoded a moment ago");
        let primary = self.primary.as_mut().expect("only a primary appends");
        let view = primary.view.number;
        let log = self.views.entry(view).or_default();
        let from = log.entries.end();
        primary.append(&mut log.entries, &entry, &encoded);
        self.checkpoints_pending |= log.entries.has_checkpoints();
        self.appended.push_back(Appended::Entries(HeldRun { view, from, end: from + 1 }));
        outputs.append(DurableEntry::Metalog { view, from, count: 1, entries: encoded });
    }

    /// A trim that an engine wants. It asks again until it applies one; what is on its way already
    /// is not appended twice.
    pub(super) fn trim(&mut self, from: Address, trim: TrimRequest, outputs: &mut Outputs) {
        if self.active_primary().is_none() || from.role != Role::Engine {
            return;
        }
        let primary = self.primary.as_mut().expect("looked at above");
        if primary.wants_trim(trim) {
            let TrimRequest { logbook, tag, first } = trim;
            self.append(&Entry::Trim { logbook, tag, first }, outputs);
        }
    }

    /// A checkpoint that an engine says is durable on these storages. The entry makes it count.
    pub(super) fn checkpoint_done(
        &mut self,
        from: Address,
        place: Place,
        next: SeqNum,
        replicas: NodeSet,
        outputs: &mut Outputs,
    ) {
        let (Some(primary), Some(chain)) = (self.active_primary(), &self.chain) else { return };
        let view = &primary.view;
        let committed = place <= (Place { view: view.number, index: primary.commit() }) && chain.covers(place);
        let known = primary.logspace.checkpoint().or(self.checkpoint.as_ref()).map(|known| known.place);
        let newer = place > self.base && known.is_none_or(|known| known < place);
        let stored = replicas.len() >= usize::from(view.write_quorum)
            && replicas.iter().all(|node| view.storages.contains(node));
        if from.role == Role::Engine && committed && newer && stored {
            self.append(&Entry::Checkpoint { place, next, replicas }, outputs);
        }
    }

    pub(super) fn backup_resume(&mut self, node: NodeId, view: ViewNumber, tail: u64, outputs: &mut Outputs) {
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.view.number == view) else { return };
        let log = self.views.entry(view).or_default();
        let Some(backup) = primary.backups.get_mut(&node) else { return };
        if tail > log.entries.end() {
            return;
        }
        backup.next = Some(log.entries.cursor(tail.max(log.entries.first())));
        backup.commit_sent = 0;
        if tail < log.entries.first() {
            self.send_base(node, view, outputs);
        }
    }

    pub(super) fn commit_query(&mut self, from: Address, request: u64) {
        if self.active_primary().is_none() {
            return;
        }
        let primary = self.primary.as_mut().expect("looked at above");
        // The round that confirms it begins after it came.
        let round = primary.round + 1;
        primary.queries.push(Query { from, request, round });
    }

    /// As primary: commits, cuts, confirms, and sends what is new to backups.
    pub(super) fn lead(&mut self, now: Time, outputs: &mut Outputs) {
        let Some(view) = self.primary.as_ref().map(|primary| primary.view.number) else { return };
        if view <= self.sealed && !active(Mutant::SealedPrimaryCommits) {
            return;
        }
        self.commit(now, view);
        loop {
            self.reserve();
            let mut cut = false;
            while self.primary.as_ref().is_some_and(|primary| primary.cuts_in_flight() < self.config.cuts_in_flight_max)
                && self.primary.as_mut().is_some_and(|primary| primary.cut(&self.connected, &mut self.encoded))
            {
                self.append_encoded(outputs);
                cut = true;
            }
            // Alone, a primary of class memory commits what it holds at once: nothing comes that it would
            // wait for.
            if !(cut && self.is_memory() && self.commit(now, view)) {
                break;
            }
        }
        self.confirm(outputs);
        self.send_to_backups(outputs);
    }

    fn commit(&mut self, now: Time, view: ViewNumber) -> bool {
        let (primary, log) = (self.primary.as_mut().expect("a primary leads"), self.views.entry(view).or_default());
        let moved = primary.advance_commit(now, &log.entries, log.durable);
        log.commit = log.commit.max(primary.commit());
        log.settled = log.settled.max(primary.settled());
        moved
    }

    pub(super) fn confirm(&mut self, outputs: &mut Outputs) {
        let (logspace, view) = (self.config.logspace, self.primary.as_ref().map(|primary| primary.view.number));
        let Some(primary) = &mut self.primary else { return };
        let view = view.expect("of the primary");
        if primary.queries.iter().any(|query| query.round > primary.round) {
            primary.round += 1;
            for node in primary.backups.keys() {
                let to = Address { node: *node, logspace, role: Role::Sequencer };
                outputs.send(to, Message::Confirm { view, round: primary.round });
            }
        }
        let wanted = if active(Mutant::QueryUnconfirmed) { 0 } else { primary.view.sequencers.majority() - 1 };
        let place = Place { view, index: primary.commit() };
        let backups = &primary.backups;
        primary.queries.retain(|query| {
            let confirmed = backups.values().filter(|backup| backup.confirmed >= query.round).count();
            if confirmed >= wanted {
                if wanted > 0 {
                    mark(Mark::LinearizableConfirmedByMajority);
                }
                outputs.send(query.from, Message::CommitAnswer { request: query.request, place });
            }
            confirmed < wanted
        });
    }

    pub(super) fn send_to_backups(&mut self, outputs: &mut Outputs) {
        let logspace = self.config.logspace;
        let Some(primary) = &mut self.primary else { return };
        let view = primary.view.number;
        let (commit, settled) = (primary.commit(), primary.settled());
        let log = self.views.entry(view).or_default();
        for (node, backup) in &mut primary.backups {
            let Some(mut next) = backup.next else { continue };
            loop {
                let from = next.index();
                let end = log.entries.end();
                let count = log.entries.copy(&mut next, end, STREAM_MESSAGE_BYTES_MAX, &mut self.encoded);
                if count == 0 && backup.commit_sent == commit {
                    break;
                }
                let entries = self.encoded.split().freeze();
                let to = Address { node: *node, logspace, role: Role::Sequencer };
                outputs.send(to, Message::BackupAppend { view, from, commit, settled, count, entries });
                backup.commit_sent = commit;
            }
            backup.next = Some(next);
        }
    }
}
