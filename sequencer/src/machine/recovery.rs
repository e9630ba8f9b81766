//! What a sequencer replica takes back from its journal.

use std::collections::BTreeMap;

use sealog_protocol::metalog::entries;
use thiserror::Error;

use super::*;

/// Why a replica can't go on from what its journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(
        "entries {from} to {next} of the metalog of view {view} are missing from the journal: \
         this replica would forget what it has acknowledged; replace its disk"
    )]
    Missing { view: ViewNumber, from: u64, next: u64 },
}

/// Pieces of the metalog, until all are there: they may come in any order.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    pieces: BTreeMap<(ViewNumber, u64), Piece>,
    /// The one taken last: most follow each other.
    last: Option<(ViewNumber, u64)>,
    base: Place,
}

#[derive(Clone, Debug, Default)]
struct Piece {
    end: u64,
    bytes: Vec<u8>,
}

impl Pieces {
    /// Takes one; returns the index after its last entry.
    fn take(&mut self, view: ViewNumber, from: u64, encoded: &[u8]) -> Result<u64, EntryError> {
        let mut count = 0;
        for entry in entries(encoded) {
            entry?;
            count += 1;
        }
        let end = from + count;
        if let Some(last) = self.last.filter(|(of, _)| *of == view)
            && let Some(piece) = self.pieces.get_mut(&last).filter(|piece| piece.end == from)
        {
            piece.bytes.extend_from_slice(encoded);
            piece.end = end;
            return Ok(end);
        }
        // Of two that begin alike, the longer has the shorter in it.
        let piece = self.pieces.entry((view, from)).or_default();
        if piece.end < end {
            *piece = Piece { end, bytes: encoded.to_vec() };
        }
        self.last = Some((view, from));
        Ok(end)
    }
}

impl Sequencer {
    /// Takes back what the journal kept, before the first input.
    ///
    /// # Errors
    /// When entries are malformed: the journal and this build disagree on the format.
    pub fn recover(&mut self, entry: Recovered<'_>) -> Result<(), RecoverError> {
        let pieces = self.recovering.get_or_insert_default();
        let segment = match entry {
            Recovered::Metalog { view, from, entries, segment } => {
                let end = pieces.take(view, from, entries)?;
                self.held.add(segment, HeldRun { view, from, end });
                segment
            }
            Recovered::Commit { view, commit, segment } => {
                let log = self.views.entry(view).or_default();
                log.commit = log.commit.max(commit);
                log.settled = log.commit;
                log.commit_kept = log.commit;
                self.held.commit.lies(Place { view, index: commit }, segment);
                segment
            }
            Recovered::SequencerSeal { view, segment } => {
                self.sealed = self.sealed.max(view);
                self.sealed_durable = self.sealed;
                self.held.seal.lies(view, segment);
                segment
            }
            Recovered::MetalogBase { place, segment } => {
                pieces.base = pieces.base.max(place);
                segment
            }
            Recovered::Batches { .. } | Recovered::StorageSeal { .. } | Recovered::Checkpoint { .. } => return Ok(()),
        };
        self.held.touch(segment);
        Ok(())
    }

    /// Ends the recovery: puts the metalog together. The first input does it otherwise, but can't say
    /// what is wrong: then this replica stays silent.
    ///
    /// # Errors
    /// When entries past the base are missing.
    pub fn finish_recovery(&mut self) -> Result<(), RecoverError> {
        let Some(pieces) = self.recovering.take() else { return Ok(()) };
        let assembled = self.assemble(pieces);
        self.refused = assembled.is_err();
        assembled
    }

    fn assemble(&mut self, pieces: Pieces) -> Result<(), RecoverError> {
        let base = pieces.base;
        self.base = base;
        self.held.base = base;
        self.views.retain(|view, _| *view >= base.view);
        if base > Place::default() {
            let log = self.views.entry(base.view).or_default();
            log.entries.drop_before(base.index);
            log.commit = log.commit.max(base.index);
            log.settled = log.commit;
            log.durable = base.index;
        }
        for ((view, from), piece) in pieces.pieces.range((base.view, 0)..) {
            let log = self.views.entry(*view).or_default();
            let next = log.entries.end();
            if *from > next {
                return Err(RecoverError::Missing { view: *view, from: next, next: *from });
            }
            log.entries.extend(*from, &piece.bytes)?;
            log.durable = log.entries.end();
            self.checkpoints_pending |= log.entries.has_checkpoints();
        }
        Ok(())
    }
}
