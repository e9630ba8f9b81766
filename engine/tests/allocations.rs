//! What an append costs in allocations, from the frame in a socket's buffer to the answer: engine,
//! storage, sequencer and journal of one node, the growth of index and footers included. Bytes go
//! nowhere: writes complete at once.

use sealog_engine::{Engine, EngineConfig};
use sealog_journal::{Journal, JournalConfig, SegmentSource, SourceError};
use sealog_protocol::batch::{BatchHead, NewRecord, write_batch};
use sealog_protocol::client::{Reply, Request};
use sealog_protocol::machine::{Address, ConnectionId, Input, Machine, Output, Outputs, Role};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{
    ClusterId, Incarnation, LogBookId, LogspaceId, NodeId, NodeSet, RequestNumber, SessionId, Tag, Time, ViewNumber,
};
use sealog_sequencer::{Sequencer, SequencerConfig};
use sealog_storage::{Storage, StorageConfig};

const NODE: NodeId = NodeId(1);
const LOGSPACE: LogspaceId = LogspaceId(0);
const RECORDS: u64 = 1_000_000;
/// Appends of one turn, as many clients would send them.
const TURN: u64 = 32;
const LOGBOOKS: u64 = 1_000;
const TAGS: u64 = 100_000;

struct NoSegments;

impl SegmentSource for NoSegments {
    fn segments(&mut self) -> Result<Vec<u32>, SourceError> {
        Ok(Vec::new())
    }

    fn segment_bytes(&mut self, _: u32) -> Result<u64, SourceError> {
        unreachable!("there are none")
    }

    fn read(&mut self, _: u32, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        unreachable!("there are none")
    }
}

struct World {
    engine: Engine,
    storage: Storage,
    sequencer: Sequencer,
    journal: Journal,
    outputs: Outputs,
    /// Reused, as a driver reuses its queues.
    local: Vec<(Role, Output)>,
    answered: u64,
    session: SessionId,
}

impl World {
    fn new() -> World {
        let nodes = NodeSet::new(&[NODE]).expect("one node");
        let view = View {
            number: ViewNumber(1),
            primary: NODE,
            primary_incarnation: Incarnation(1),
            sequencers: nodes,
            storages: nodes,
            write_quorum: 1,
            replicas: 1,
            moves: Vec::new(),
            cause: Default::default(),
        };
        let chain = Chain {
            settings: ClusterSettings::new(ClusterId(1), 1),
            logspace: LOGSPACE,
            views: vec![view],
            ends: Vec::new(),
        };
        let journal = Journal::recover(JournalConfig::new(1), &mut NoSegments, &mut |_, _| {}).expect("a new journal");
        let mut world = World {
            engine: Engine::new(EngineConfig::new(NODE, Incarnation(1), LOGSPACE, 1)),
            storage: Storage::new(StorageConfig::new(NODE, LOGSPACE)),
            sequencer: Sequencer::new(SequencerConfig::new(NODE, Incarnation(1), LOGSPACE)),
            journal,
            outputs: Outputs::default(),
            local: Vec::new(),
            answered: 0,
            session: SessionId::NONE,
        };
        for role in [Role::Sequencer, Role::Storage, Role::Engine] {
            world.give(role, Input::Connected { node: NODE, incarnation: Incarnation(1) });
            world.give(role, Input::Chain(&chain));
        }
        world.run();
        world.engine.request(Time(1), ConnectionId(1), 0, Request::OpenSession { logspace: 0 }, &mut world.outputs);
        world.run();
        assert_ne!(world.session, SessionId::NONE);
        world
    }

    fn give(&mut self, role: Role, input: Input<'_>) {
        match role {
            Role::Engine => self.engine.handle(Time(1), input, &mut self.outputs),
            Role::Storage => self.storage.handle(Time(1), input, &mut self.outputs),
            Role::Sequencer => self.sequencer.handle(Time(1), input, &mut self.outputs),
            Role::Controller => {}
        }
        self.take(role);
    }

    fn take(&mut self, from: Role) {
        self.local.extend(self.outputs.drain().map(|output| (from, output)));
    }

    fn deliver(&mut self) {
        let mut at = 0;
        while at < self.local.len() {
            let from = self.local[at].0;
            let output = std::mem::replace(&mut self.local[at].1, Output::ReadRegister);
            at += 1;
            match output {
                Output::Send { to, message } => {
                    let from = Address { node: NODE, logspace: LOGSPACE, role: from };
                    self.give(to.role, Input::Message { from, message });
                }
                Output::Append(entry) => self.journal.append(Time(1), (LOGSPACE, from), entry),
                Output::Reply { reply: Reply::Appended { .. }, .. } => self.answered += 1,
                Output::Reply { reply: Reply::SessionOpened { session, .. }, .. } => self.session = session,
                Output::Release { segment } => self.journal.release((LOGSPACE, from), segment),
                other => panic!("not expected here: {other:?}"),
            }
        }
        self.local.clear();
    }

    fn run(&mut self) {
        self.take(Role::Engine);
        loop {
            loop {
                self.engine.flush(Time(1), &mut self.outputs);
                self.take(Role::Engine);
                self.deliver();
                self.storage.flush(Time(1), &mut self.outputs);
                self.take(Role::Storage);
                self.deliver();
                self.sequencer.flush(Time(1), &mut self.outputs);
                self.take(Role::Sequencer);
                if self.local.is_empty() {
                    break;
                }
                self.deliver();
            }
            while let Some(wanted) = self.journal.wanted_segment() {
                self.journal.segment_ready(wanted.segment);
            }
            let mut wrote = false;
            while let Some(write) = self.journal.next_write(Time(1)) {
                self.journal.write_done(Time(1), write.id, write.buffer);
                wrote = true;
            }
            while let Some((owner, place)) = self.journal.next_durable() {
                self.give(owner.1, Input::Durable(place));
            }
            self.deliver();
            if !wrote {
                return;
            }
        }
    }
}

/// The frames of these requests, one after the other, and where each begins.
fn frames(session: SessionId, requests: std::ops::Range<u64>) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut starts) = (Vec::new(), Vec::new());
    for request in requests {
        let head = BatchHead {
            logbook: LogBookId(1 + request % LOGBOOKS),
            session,
            request: RequestNumber(request),
            lowest_unanswered: RequestNumber(request.saturating_sub(TURN).max(1)),
            time_ms: 0,
            condition: None,
        };
        starts.push(bytes.len());
        let tag = Tag(1 + request % TAGS);
        write_batch(&mut bytes, request, &head, &[NewRecord { tags: &[tag], payload: &[7; 256] }]).expect("small");
    }
    starts.push(bytes.len());
    (bytes, starts)
}

#[test]
fn fewer_than_one_allocation_in_a_hundred_appends() {
    let mut world = World::new();
    let mut allocations = 0;
    let mut request = 1;
    while request <= RECORDS {
        let (bytes, starts) = frames(world.session, request..request + TURN * 100);
        let counted = allocation_counter::measure(|| {
            for turn in starts[..starts.len() - 1].chunks(TURN as usize) {
                for start in turn {
                    let frame = &bytes[*start..];
                    let frame = &frame[..bytes_of(frame)];
                    world.engine.append(Time(1), ConnectionId(1), frame, &mut world.outputs).expect("whole");
                }
                world.run();
            }
        });
        allocations += counted.count_total;
        request += TURN * 100;
    }
    assert_eq!(world.answered, request - 1, "every append was acknowledged");
    println!("{allocations} allocations for {} appends", world.answered);
    assert!(allocations * 100 < world.answered, "{allocations} allocations for {} appends", world.answered);
}

fn bytes_of(frame: &[u8]) -> usize {
    sealog_protocol::frame::Header::parse(frame).expect("a frame").expect("whole").frame_bytes()
}
