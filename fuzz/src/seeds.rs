//! Inputs to begin with: a fuzzer finds metadata faster from one that is right.

use bytes::Bytes;
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{
    CheckTailRequest, ClientHello, PlaceWire, ReadRequest, RecordsPart, RecordsReply, Reply, Request, Welcome,
    encode_hello, encode_reply, encode_request, encode_welcome,
};
use sealog_protocol::frame::FrameKind;
use sealog_protocol::machine::{Address, Role};
use sealog_protocol::message::{Message, encode};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, Place, RequestNumber, SeqNum, SessionId, ShardId,
    Tag, ViewNumber,
};

use crate::wire::{MESSAGES, REPLIES, REQUESTS, unsealed};

/// The inputs of each target that has some.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let requests = requests().iter().map(|frame| unsealed(frame, &REQUESTS)).collect();
    let replies = replies().iter().map(|frame| unsealed(frame, &REPLIES)).collect();
    let messages = messages().iter().map(|frame| unsealed(frame, &MESSAGES)).collect();
    let frames = [self::requests(), self::replies(), self::messages()].concat();
    vec![
        ("frame", frames),
        ("message", messages),
        ("client_request", requests),
        ("client_reply", replies),
        ("client_session", crate::session::seed(&self::replies())),
        ("index_checkpoint", crate::checkpoint::seeds()),
        ("journal_recovery", vec![vec![0; 10], vec![0x17; 20], (0..=59).collect()]),
        ("configuration", vec![sealog_node::configuration::default_file().into_bytes(), b"[log]\nlevel = 1".to_vec()]),
        ("data_directory", directory()),
    ]
}

fn batch() -> Vec<u8> {
    let head = BatchHead {
        logbook: LogBookId(3),
        session: SessionId(4),
        request: RequestNumber(5),
        lowest_unanswered: RequestNumber(1),
        time_ms: 6,
        condition: Some((Tag(7), SeqNum(8))),
    };
    let mut frame = Vec::new();
    let records = [NewRecord { tags: &[Tag(7), Tag(9)], payload: b"payload" }, NewRecord { tags: &[], payload: b"" }];
    write_batch(&mut frame, 2, &head, &records).expect("within limits");
    frame
}

fn requests() -> Vec<Vec<u8>> {
    let place = PlaceWire::default();
    let read = ReadRequest {
        logbook: 3,
        tag: 1,
        from: 0,
        until: u64::MAX,
        backward: false,
        records_max: 10,
        wait_ms: 0,
        place,
        linearizable: false,
        aux: false,
    };
    let requests = [
        Request::OpenSession { logspace: 0 },
        Request::NameLogBook { name: "orders".to_owned() },
        Request::Read(read),
        Request::CheckTail(CheckTailRequest { logbook: 3, tag: 0, place, linearizable: true }),
        Request::Describe { logbook: 3, place },
        Request::Status,
    ];
    let mut frames = vec![batch()];
    let mut hello = Vec::new();
    encode_hello(&mut hello, 0, &ClientHello { name: "a name".to_owned() });
    frames.push(hello);
    for request in requests {
        let mut frame = Vec::new();
        encode_request(&mut frame, 1, &request);
        frames.push(frame);
    }
    frames
}

fn replies() -> Vec<Vec<u8>> {
    let place = Place { view: ViewNumber(2), index: 3 };
    let parts = vec![
        RecordsPart { seqnum: SeqNum(7), index: 0, records: 2, batch: Bytes::from(batch()) },
        RecordsPart { seqnum: SeqNum(u64::MAX), index: 1, records: 1, batch: Bytes::from(batch()) },
    ];
    let replies = [
        Reply::Records(RecordsReply { place, complete: true, parts, ..RecordsReply::default() }),
        Reply::SessionOpened { session: SessionId(1), logspace: LogspaceId(0), place },
        Reply::Named { place },
        Reply::ConditionFailed { tail: SeqNum(4), place },
        Reply::Tail { tail: None, place },
        Reply::Trimmed { first: SeqNum(5), place },
        Reply::Status { json: "{}".to_owned() },
    ];
    let mut welcome = Vec::new();
    encode_welcome(&mut welcome, 0, &Welcome::new(ClusterId(1), NodeId(2), 1, 8192));
    let mut frames = vec![welcome];
    for reply in replies {
        let mut frame = Vec::new();
        encode_reply(&mut frame, 9, &reply);
        frames.push(frame);
    }
    frames
}

fn messages() -> Vec<Vec<u8>> {
    let place = Place { view: ViewNumber(2), index: 3 };
    let shard = ShardId { view: ViewNumber(4), index: 5 };
    let replicas = Box::new(NodeSet::new(&[NodeId(6), NodeId(7)]).expect("two"));
    let (bytes, batches) = (Bytes::from_static(b"some bytes"), Bytes::from(batch()));
    let view = ViewNumber(2);
    let messages = [
        Message::ReplicateOpen { shard },
        Message::Replicate { shard, first: 1, batches: batches.clone() },
        Message::Progress { shard, received: 2, durable: 1 },
        Message::BackupAppend { view, from: 1, commit: 1, settled: 1, count: 1, entries: bytes.clone() },
        Message::MetalogBase { base: place, indices: Box::new([1, 9]), entries: bytes.clone() },
        Message::MetalogGone { from: place, checkpoint: place, replicas: replicas.clone() },
        Message::CheckpointCommitted { place },
        Message::Judge { request: 18, shard, first: 19, entries: bytes.clone() },
        Message::Fetched { request: 1, batch: batches },
        Message::SequencerSealed {
            restarted: false,
            view,
            tail: 1,
            commit: 1,
            entries: bytes,
            shards: Box::new([(5, *replicas)]),
        },
        Message::StorageSealed { restarted: true, view, shards: vec![(shard, 3)] },
    ];
    let address = |node, role| Address { node: NodeId(node), logspace: LogspaceId(3), role };
    let frame = |message: &Message| {
        let mut frame = Vec::new();
        encode(&mut frame, address(1, Role::Engine), address(2, Role::Storage), message);
        frame
    };
    messages.iter().map(frame).collect()
}

fn directory() -> Vec<Vec<u8>> {
    let only = NodeSet::new(&[NodeId(1)]).expect("one node is a set");
    let view = View {
        number: ViewNumber(1),
        primary: NodeId(1),
        primary_incarnation: Incarnation(1),
        sequencers: only,
        storages: only,
        write_quorum: 1,
        replicas: 1,
        moves: Vec::new(),
        cause: Default::default(),
    };
    let settings = ClusterSettings::new(ClusterId(1), 1);
    let chain = Chain { settings, logspace: LogspaceId(0), views: vec![view], ends: Vec::new() };
    let frame = chain.encode();
    let metadata = sealog_protocol::frame::Frame::parse(&frame).expect("a frame").expect("whole").metadata.to_vec();
    debug_assert_eq!(frame[3], FrameKind::Chain as u8);
    let identity = "sealog data directory\nformat 1\nnode 12\ncluster 13\nincarnation 7\njournal 0 14\njournal 1 15\n";
    vec![metadata, identity.as_bytes().to_vec()]
}
