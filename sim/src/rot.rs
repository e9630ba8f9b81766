//! Bits that rot and writes that go astray: on one node of a seed, in what was written long ago, never in
//! the last good copy. In the end all of it is mended.

use std::collections::BTreeSet;

use sealog_journal::entry::Entry;
use sealog_journal::header::{BlockHeader, BlockKind, HEADER_BYTES};
use sealog_journal::trailer::Trailer;
use sealog_journal::{ALIGNMENT, Finding, Inspection, SegmentState, SegmentSummary};
use sealog_protocol::ShardId;
use sealog_protocol::machine::Role;

use crate::disk::Stop;
use crate::node::{Owner, RoleMachine};
use crate::queue::SECOND;
use crate::seed::{COPIES_LOOK, describe};
use crate::swarm::{FaultKind, NodeIndex};
use crate::violation::Failure;
use crate::world::World;

/// Once faults stop, all damage is found and mended within this long.
const MEND_MAX: u64 = 60 * SECOND;

/// What has rotted in a seed.
#[derive(Debug, Default)]
pub struct Rot {
    /// The node on which it does: the others have what it loses.
    pub node: Option<NodeIndex>,
    /// Segments that were damaged, and the how-manieth use of a file they were. Once is enough, for two
    /// damages could take metalog entries with them.
    segments: BTreeSet<(u32, u32)>,
}

/// A block that may be damaged.
struct Target {
    header: BlockHeader,
    runs: Vec<(Owner, ShardId, u64, u64)>,
    /// Nothing else is in it.
    has_runs_only: bool,
    /// Parts of checkpoints have no copy that is the same byte for byte: they are left alone.
    has_parts: bool,
}

impl World {
    /// Something rots, if there is something old enough.
    pub fn rot(&mut self, kind: FaultKind) -> Result<(), Failure> {
        let storages = self.plan.with_role(|roles| roles.storage);
        let drawn = storages[self.rng.usize(0..storages.len())];
        let node = *self.faults.rot.node.get_or_insert(drawn);
        let Some((summary, trailer)) = self.draw_segment(node)? else { return Ok(()) };
        let (takes_footer, takes_blocks) = match self.rng.u8(0..4) {
            0 => (true, false),
            1 => (true, true),
            _ => (false, true),
        };
        let block = if takes_blocks { self.draw_block(node, &summary, kind, takes_footer)? } else { None };
        if takes_blocks && block.is_none() {
            return Ok(());
        }
        self.recorder.damage_allowed = true;
        self.faults.rot.segments.insert((summary.segment, trailer.use_number));
        self.nodes[node.0].has_rotted = true;
        if let Some(header) = block {
            self.damage_block(node, &header, kind);
        }
        if takes_footer {
            let offset = self.rng.u64(trailer.footer_offset..summary.bytes);
            self.nodes[node.0].disk.flip(summary.segment, offset, 1 << self.rng.u8(0..8));
        }
        let segment = summary.segment;
        self.trace.event(self.now, &[15, node.0 as u64, u64::from(segment)], || {
            format!("{} rots: segment {segment}, block {block:?}, footer {takes_footer}", node.0)
        });
        // A start reads footers, and blocks where those are damaged.
        if takes_footer && self.rng.bool() {
            self.crash(node, Stop::Process);
        }
        Ok(())
    }

    /// A sealed segment that was not damaged yet.
    fn draw_segment(&mut self, node: NodeIndex) -> Result<Option<(SegmentSummary, Trailer)>, Failure> {
        let sealed: Vec<(SegmentSummary, Trailer)> = self
            .inspect(node)?
            .segments()
            .iter()
            .filter_map(|summary| {
                let SegmentState::Sealed(trailer) = summary.state else { return None };
                let is_new = !self.faults.rot.segments.contains(&(summary.segment, trailer.use_number));
                is_new.then_some((*summary, trailer))
            })
            .collect();
        let nth = self.rng.usize(0..sealed.len().max(1));
        Ok(sealed.get(nth).copied())
    }

    fn inspect(&mut self, node: NodeIndex) -> Result<Inspection, Failure> {
        let (id, journal_id) = (self.nodes[node.0].id, self.nodes[node.0].journal_id(&self.plan));
        let opened = Inspection::open(&mut self.nodes[node.0].disk, Some(journal_id));
        opened.map_err(|error| Failure::Recovery { node: id, reason: error.to_string() })
    }

    /// A block whose batches have another good copy each. Where the footer that describes them is damaged
    /// as well, what is lost of the block must not be the end of a shard: that would be told as durable no
    /// more, which nobody promises.
    fn draw_block(
        &mut self,
        node: NodeIndex,
        summary: &SegmentSummary,
        kind: FaultKind,
        takes_footer: bool,
    ) -> Result<Option<BlockHeader>, Failure> {
        let inspection = self.inspect(node)?;
        let id = self.nodes[node.0].id;
        let mut targets: Vec<Target> = Vec::new();
        let mut visit = |finding: Finding<'_>| match finding {
            Finding::Block { header, .. } => {
                let has_runs_only = header.kind == BlockKind::Data;
                targets.push(Target { header, runs: Vec::new(), has_runs_only, has_parts: false });
            }
            Finding::Entry { owner, entry, .. } => {
                let Some(target) = targets.last_mut() else { return };
                match entry {
                    Entry::Batches(run) => target.runs.push((owner, run.shard, run.first, run.end())),
                    _ => {
                        target.has_runs_only = false;
                        target.has_parts |= matches!(entry, Entry::Checkpoint(_));
                    }
                }
            }
            _ => {}
        };
        let visited = inspection.visit(&mut self.nodes[node.0].disk, summary, &mut visit);
        visited.map_err(|error| Failure::Recovery { node: id, reason: error.to_string() })?;
        targets.retain(|target| {
            let has_copy = |(owner, shard, first, end): &(Owner, ShardId, u64, u64)| {
                self.invariants.has_other_copy(owner.0, *shard, (*first, *end), id)
                    && (!takes_footer || self.invariants.has_more(owner.0, *shard, *end, id))
            };
            // A stray page may be the one with the header: then all that is in the block goes.
            let can_go = kind == FaultKind::BitRot && !target.runs.is_empty() && !target.has_parts
                || target.has_runs_only && !target.runs.is_empty();
            can_go && target.runs.iter().all(has_copy)
        });
        let nth = self.rng.usize(0..targets.len().max(1));
        Ok(targets.get(nth).map(|target| target.header))
    }

    fn damage_block(&mut self, node: NodeIndex, header: &BlockHeader, kind: FaultKind) {
        let (segment, offset) = (header.segment, header.offset());
        if kind == FaultKind::BitRot {
            for _ in 0..self.rng.u8(1..4) {
                let at = offset + HEADER_BYTES as u64 + self.rng.u64(0..u64::from(header.data_bytes.max(1)));
                self.nodes[node.0].disk.flip(segment, at, 1 << self.rng.u8(0..8));
            }
            return;
        }
        let page = self.rng.u64(0..header.block_bytes() / ALIGNMENT as u64) * ALIGNMENT as u64;
        self.nodes[node.0].disk.stray(segment, offset + page, &mut self.rng);
    }

    /// Every storage that has a living record can read it, and nothing is said to be damaged that is
    /// not lost.
    pub fn mend_the_rotten(&mut self) -> Result<(), Failure> {
        if self.faults.rot.node.is_none() {
            return Ok(());
        }
        let until = self.now + MEND_MAX;
        while let Some((node, what)) = self.not_mended()? {
            if self.now >= until {
                let node = self.nodes[node.0].id;
                return Err(Failure::NotMended { node, what, details: describe(self) });
            }
            self.run(self.now + COPIES_LOOK, |_| false)?;
        }
        Ok(())
    }

    fn not_mended(&self) -> Result<Option<(NodeIndex, String)>, Failure> {
        for node in self.nodes.iter().filter(|node| node.life.is_some()) {
            let mut lost = 0;
            for logspace in self.plan.logspaces() {
                let Some(RoleMachine::Storage(storage)) = node.machine(logspace, Role::Storage) else { continue };
                lost += storage.status().lost.len();
                let read = |shard, position| {
                    let (at, bytes) = storage.find(shard, position)?;
                    node.disk.read(at.segment, at.byte_offset(), bytes as usize)
                };
                if let Some((shard, position)) = self.invariants.unreadable(logspace, node.id, read)? {
                    let what = format!("logspace {logspace}, shard {shard}, position {position} cannot be read");
                    return Ok(Some((node.index, what)));
                }
            }
            let status = node.life.as_ref().map(|life| life.journal.status()).unwrap_or_default();
            let damages = status.damages + status.scrub.findings;
            // What is dead may be damaged everywhere: nobody can tell that it is dead.
            if damages > 0 && lost == 0 {
                return Ok(Some((node.index, format!("{damages} damaged ranges in the journal"))));
            }
        }
        Ok(None)
    }
}
