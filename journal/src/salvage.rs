//! What can be told of a run of batches whose block does not match its data checksum.
//!
//! Each batch checks its own metadata, so those whose metadata is whole are found, wherever the
//! damage is: their payloads fail, if they must, when they are read.

use sealog_protocol::frame::{Frame, FrameKind, HEADER_BYTES, PlaceScope, verify_metadata};
use sealog_protocol::tags::write_tags;

use crate::entry::Run;

/// Calls `found` with each part of the run that has whole metadata and no gap, and with its Tags.
pub(crate) fn salvage(run: &Run, batches: &[u8], found: &mut dyn FnMut(Run, &[u8])) {
    let mut tags = Vec::new();
    let mut part = Run { bytes: 0, records: 0, ..*run };
    let mut at = 0;
    while at < batches.len() {
        let Some((position, frame)) = whole_metadata(run, &batches[at..]) else {
            // Frames begin at multiples of 8.
            at += 8;
            continue;
        };
        let offset = run.offset + (at / 8) as u32;
        let follows = position == part.end() && offset == part.offset + part.bytes / 8;
        if !follows {
            emit(&mut part, &mut tags, found);
            part = Run { first: position, offset, bytes: 0, records: 0, ..*run };
        }
        write_tags(&mut tags, frame.bytes).expect("a frame that was just parsed");
        part.bytes += frame.bytes.len() as u32;
        part.records += u32::from(frame.header.count);
        at += frame.bytes.len();
    }
    emit(&mut part, &mut tags, found);
}

fn emit(part: &mut Run, tags: &mut Vec<u8>, found: &mut dyn FnMut(Run, &[u8])) {
    if part.records > 0 {
        part.tags_bytes = tags.len() as u32;
        found(*part, tags);
    }
    tags.clear();
}

/// The batch at the start of `bytes`, if its metadata is whole and it belongs to this run.
fn whole_metadata<'a>(run: &Run, bytes: &'a [u8]) -> Option<(u64, Frame<'a>)> {
    let frame = Frame::parse_unverified(bytes).ok()??;
    if frame.header.kind != FrameKind::Batch {
        return None;
    }
    verify_metadata(&bytes[..HEADER_BYTES + frame.metadata.len()], &frame.header).ok()?;
    let position = frame.verify_place(PlaceScope::Shard(run.shard)).ok()?;
    let end = position + u64::from(frame.header.count);
    (run.first..run.end()).contains(&position).then_some(())?;
    (end <= run.end()).then_some((position, frame))
}
