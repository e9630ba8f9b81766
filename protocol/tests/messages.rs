//! The words of trim, checkpoints and space, over a wire and back.

use bytes::Bytes;
use sealog_protocol::machine::{Address, Role};
use sealog_protocol::message::{Message, decode, encode};
use sealog_protocol::{LogBookId, LogspaceId, NodeId, NodeSet, Place, SeqNum, ShardId, Tag, ViewNumber};

#[test]
fn messages_about_space_come_back_as_they_were() {
    let place = Place { view: ViewNumber(2), index: 3 };
    let shard = ShardId { view: ViewNumber(4), index: 5 };
    let replicas = Box::new(NodeSet::new(&[NodeId(6), NodeId(7)]).expect("two"));
    let bytes = Bytes::from_static(b"some bytes");
    let messages = [
        Message::MetalogBase { base: place, indices: Box::new([1, 9]), entries: bytes.clone() },
        Message::MetalogGone { from: Place::default(), checkpoint: place, replicas: replicas.clone() },
        Message::CheckpointPart { place, part: 8, last: true, bytes: bytes.clone() },
        Message::CheckpointStored { place, parts: 9 },
        Message::CheckpointDone { place, next: SeqNum(21), replicas },
        Message::CheckpointOpen { place, part: 10 },
        Message::CheckpointNotHere { place, part: 11 },
        Message::CheckpointCommitted { place },
        Message::TagsGone { shard, first: 22, checkpoint: place },
        Message::Trim { logbook: LogBookId(12), tag: Tag(13), first: SeqNum(14) },
        Message::Dying { shard, from: 15, to: 16, records: 17 },
        Message::Judge { request: 18, shard, first: 19, entries: bytes.clone() },
        Message::Judged { request: 20, checkpoint: place, dead: bytes },
    ];
    let address = |node, role| Address { node: NodeId(node), logspace: LogspaceId(3), role };
    let (from, to) = (address(1, Role::Engine), address(2, Role::Storage));
    for message in messages {
        let mut wire = Vec::new();
        encode(&mut wire, from, to, &message);
        assert_eq!(decode(&wire.into()), Ok((from, to, message)));
    }
}
