//! Parts of an index checkpoint, as an engine loads them from a storage.

use sealog_engine::index::checkpoint::Loader;
use sealog_protocol::ClusterId;
use sealog_protocol::view::ClusterSettings;

/// Version, zeros, checksum.
const PART_HEAD_BYTES: usize = 8;
/// Parts of one checkpoint: more tell no more.
const PARTS_MAX: usize = 8;
const VERSION: u8 = 1;

/// The input is records, cut into parts by its first byte; each is taken damaged first, then whole. What
/// was taken in full makes an index of about its size.
pub fn index_checkpoint(input: &[u8]) {
    let Some((parts, records)) = input.split_first() else { return };
    let parts = usize::from(*parts) % PARTS_MAX + 1;
    let mut loader = Loader::new(&ClusterSettings::new(ClusterId(1), 1), 7);
    for records in records.chunks(records.len().div_ceil(parts).max(1)) {
        let _ = Loader::new(&ClusterSettings::new(ClusterId(1), 1), 7).take(records);
        let mut part = vec![VERSION, 0, 0, 0];
        part.extend_from_slice(&(!crc32fast::hash(records)).to_le_bytes());
        part.extend_from_slice(records);
        assert!(loader.take(&part).is_err(), "its checksum is wrong");
        part[4..PART_HEAD_BYTES].copy_from_slice(&crc32fast::hash(records).to_le_bytes());
        if loader.take(&part).is_err() {
            return;
        }
    }
    if let Ok(loaded) = loader.finish() {
        let _ = (loaded.index.bytes(), loaded.order.bytes(), loaded.logspace.next_seqnum());
    }
}

/// One record of each kind, as docs of the index describe them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let name = [7; 8];
    let head = [&[1, 2, 9, 40, 3, 1, 0][..]].concat();
    let lost = [4, 2, 3, 5].to_vec();
    let session = [3, 5, 1, 2, 1, 9, 2, 3].to_vec();
    let retention = [4, 3, 60, 100, 1, 1, 2, 3].to_vec();
    let book = [&[5, 3, 4][..], &name, &[4, 1, 5, 2, 2, 4, 0]].concat();
    let tag = [&[6, 0][..], &name, &[4, 5, 6, 0]].concat();
    let run = [7, 9, 2, 0, 0, 4].to_vec();
    let shard = [8, 2, 0, 1, 1, 0, 4, 0, 1, 1].to_vec();
    let all = [&[1][..], &head, &session, &retention, &book, &tag, &run, &shard].concat();
    let several = [&[0][..], &head, &lost[1..], &book, &tag].concat();
    vec![all, several, [&[0][..], &head].concat()]
}
