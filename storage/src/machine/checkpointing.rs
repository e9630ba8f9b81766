//! How a storage keeps the parts of index checkpoints, until a newer one is committed.

use super::*;

impl Storage {
    pub(super) fn checkpoint_part(&mut self, from: Address, id: PartId, bytes: Bytes, outputs: &mut Outputs) {
        if from.role != Role::Engine || bytes.is_empty() || bytes.len() > STREAM_MESSAGE_BYTES_MAX {
            return;
        }
        let mut dropped = Vec::new();
        let offer = self.checkpoints.offer(from, id, &mut dropped);
        self.drop_parts(&dropped);
        let PartId { place, part, last } = id;
        match offer {
            Offer::Take(attempt) => {
                self.appended.push_back(Appended::Part { from, attempt, id, bytes: bytes.len() as u32 });
                outputs.append(DurableEntry::Checkpoint { place, part, last, bytes });
            }
            Offer::Have(parts) => outputs.send(from, Message::CheckpointStored { place, parts }),
        }
    }

    pub(super) fn part_durable(
        &mut self,
        from: Address,
        attempt: u64,
        id: PartId,
        at: PartPlace,
        outputs: &mut Outputs,
    ) {
        let Some(parts) = self.checkpoints.durable(attempt, id, at) else { return };
        self.segments.add_part(at.at.segment);
        outputs.send(from, Message::CheckpointStored { place: id.place, parts });
        if self.checkpoints.is_complete(id.place) {
            mark(Mark::CheckpointStored);
            if active(Mutant::CheckpointDroppedEarly) {
                let dropped = self.checkpoints.drop_before(id.place);
                self.drop_parts(&dropped);
            }
        }
    }

    pub(super) fn checkpoint_open(&mut self, from: Address, place: Place, part: u32, outputs: &mut Outputs) {
        let Some((at, last)) = self.checkpoints.part(place, part) else {
            outputs.send(from, Message::CheckpointNotHere { place, part });
            return;
        };
        let ticket = self.next_ticket(ReadFor::Part { to: from, id: PartId { place, part, last } });
        outputs.push(Output::Read { ticket, at: at.at, bytes: at.bytes });
    }

    /// A newer checkpoint counts, wherever it is: those before it don't.
    pub(super) fn checkpoint_committed(&mut self, place: Place) {
        self.told_checkpoint = self.told_checkpoint.max(Some(place));
        if place == Place::default() || self.checkpoints.committed().is_some_and(|committed| place <= committed) {
            return;
        }
        let dropped = self.checkpoints.commit(place);
        self.drop_parts(&dropped);
        // Records that were judged to be needed for an index may be dead now.
        self.segments.look();
    }

    pub(super) fn drop_parts(&mut self, dropped: &[PartPlace]) {
        for part in dropped {
            self.segments.drop_part(part.at.segment);
        }
    }
}
