//! The session against a scripted server, in virtual time: what is sent, sent again, and said.

mod common;

use std::time::Duration;

use common::FakeServer;
use sealog::session::{
    Append, Condition, Direction, Manage, Managed, Operation, OperationId, Outcome, Read, Session, SessionConfig,
    SetAux, SubmitError, Target,
};
use sealog::{
    AppendError, Appended, ConnectionError, LogBookId, NewRecord, ReadError, SeqNum, SetAuxError, Tag, Token,
};
use sealog_protocol::client::ErrorCode;
use sealog_protocol::limits::AUX_BYTES_MAX;
use sealog_protocol::{LogspaceId, Time};

const TAG: Tag = Tag(9);

/// A session, a server, and the wire between them, which the test can cut.
struct World {
    session: Session,
    server: FakeServer,
    now: Time,
    connection: usize,
    /// The client thinks it is connected.
    is_connected: bool,
}

impl World {
    fn new(config: SessionConfig, server: FakeServer) -> World {
        World { session: Session::new(config), server, now: Time::ZERO, connection: 0, is_connected: false }
    }

    fn connected() -> World {
        let mut world = World::new(SessionConfig::default(), FakeServer::default());
        world.connect();
        world.run();
        world
    }

    fn connect(&mut self) {
        self.connection += 1;
        self.is_connected = true;
        self.session.connected(self.now);
    }

    fn cut(&mut self) {
        self.server.disconnect(self.connection);
        self.is_connected = false;
        self.session.disconnected(self.now, ConnectionError::Closed);
    }

    /// To the server, at most so many bytes.
    fn send(&mut self, bytes_max: usize) {
        let mut left = bytes_max;
        while left > 0 && !self.session.transmit().is_empty() {
            let bytes = self.session.transmit();
            let bytes = &bytes[..bytes.len().min(left)];
            self.server.receive(self.connection, bytes);
            let sent = bytes.len();
            self.session.transmitted(sent);
            left -= sent;
        }
    }

    /// From the server, in portions that cut frames anywhere.
    fn deliver(&mut self) {
        for portion in self.server.output(self.connection).chunks(37) {
            self.session.receive(self.now, portion).expect("the server sends valid frames");
        }
    }

    /// Both ways until nothing moves.
    fn run(&mut self) {
        for _ in 0..10_000 {
            self.send(usize::MAX);
            self.deliver();
            if self.session.transmit().is_empty() {
                return;
            }
        }
        panic!("it never stops talking");
    }

    /// Lets time pass, connecting when the session wants to.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run();
        loop {
            let connect = self.session.connect_at().filter(|_| !self.is_connected);
            let next = [self.session.deadline(), connect].into_iter().flatten().min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
            self.session.tick(self.now).expect("the server is not silent");
            if self.session.connect_at().is_some_and(|at| at <= self.now) && !self.is_connected {
                self.connect();
            }
            self.run();
        }
        self.now = end;
    }

    fn append(&mut self, payload: &[u8]) -> OperationId {
        self.append_within(payload, Duration::from_secs(10)).expect("there is room")
    }

    fn append_within(&mut self, payload: &[u8], within: Duration) -> Result<OperationId, SubmitError> {
        let records = [NewRecord { tags: &[TAG], payload }];
        let append = Append { logbook: Target::Name("book"), condition: None, time_ms: 5, records: &records };
        self.session.submit(self.now, Operation::Append(append), self.now + within)
    }

    fn read(&mut self, read: Read) -> OperationId {
        let deadline = self.now + read.wait + Duration::from_secs(10);
        self.session.submit(self.now, Operation::Read(read), deadline).expect("there is room")
    }

    fn completions(&mut self) -> Vec<(OperationId, Outcome)> {
        std::iter::from_fn(|| self.session.next_completion()).collect()
    }

    fn outcome(&mut self) -> Outcome {
        let mut completions = self.completions();
        assert_eq!(completions.len(), 1, "{completions:?}");
        completions.remove(0).1
    }

    fn appended(&mut self) -> Appended {
        match self.outcome() {
            Outcome::Append(Ok(appended)) => appended,
            other => panic!("not acknowledged: {other:?}"),
        }
    }

    fn append_error(&mut self) -> AppendError {
        match self.outcome() {
            Outcome::Append(Err(error)) => error,
            other => panic!("no failed append: {other:?}"),
        }
    }
}

fn everything() -> Read {
    Read {
        logbook: LogBookId::from_name("book"),
        tag: TAG,
        first: SeqNum::MIN,
        last: SeqNum::MAX,
        direction: Direction::Forward,
        aux: false,
        records_max: 100,
        wait: Duration::ZERO,
        linearizable: false,
    }
}

#[test]
fn what_is_submitted_before_a_connection_is_sent_after_it() {
    let mut world = World::new(SessionConfig::default(), FakeServer::new(3, 100));
    assert_eq!(world.session.connect_at(), None, "nothing to do");
    for payload in [b"a", b"b", b"c"] {
        world.append(payload);
    }
    assert_eq!(world.session.connect_at(), Some(Time::ZERO));
    world.connect();
    world.run();
    let completions = world.completions();
    assert!(completions.iter().all(|(_, outcome)| matches!(outcome, Outcome::Append(Ok(_)))), "{completions:?}");
    assert_eq!(world.server.payloads(), [b"a", b"b", b"c"]);
    assert_eq!((world.server.sessions(), world.server.names.len()), (1, 1), "opened and named once");
    world.append(b"d");
    world.run();
    assert_eq!(world.appended().seqnum, world.server.records[3].seqnum);
    assert_eq!((world.server.sessions(), world.server.names.len()), (1, 1));
}

#[test]
fn an_append_whose_answer_was_lost_is_sent_again_and_takes_effect_once() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.append(b"once");
    world.send(usize::MAX);
    world.cut();
    assert_eq!(world.server.records.len(), 2);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.appended().seqnum, world.server.records[1].seqnum);
    assert_eq!((world.server.records.len(), world.server.appends_seen), (2, 3));
    assert_eq!(world.session.counters().retries, 1);
}

#[test]
fn a_frame_cut_in_the_middle_is_sent_whole_on_the_next_connection() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    for payload in [b"one", b"two"] {
        world.append(payload);
    }
    world.send(170);
    world.cut();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.completions().len(), 2);
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"one", b"two"]);
}

#[test]
fn a_deadline_before_anything_was_sent_has_no_effect() {
    let mut world = World::new(SessionConfig::default(), FakeServer::default());
    world.append_within(b"never", Duration::from_millis(10)).expect("there is room");
    world.session.disconnected(world.now, ConnectionError::Io { message: "refused".to_owned() });
    world.now = Time::ZERO + Duration::from_millis(10);
    world.session.tick(world.now).expect("there is no connection to be silent");
    let reason = ConnectionError::Io { message: "refused".to_owned() };
    assert_eq!(world.append_error(), AppendError::Unreachable { reason });

    // Connected, in the queue, not on the wire: taken back.
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.append_within(b"never", Duration::from_millis(10)).expect("there is room");
    world.append_within(b"later", Duration::from_secs(10)).expect("there is room");
    world.now = world.now + Duration::from_millis(10);
    world.session.tick(world.now).expect("not silent for long");
    assert_eq!(world.append_error(), AppendError::Deadline { refusal: None });
    world.run();
    world.appended();
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"later"]);
}

#[test]
fn a_deadline_after_sending_is_an_unknown_outcome_and_its_retry_is_safe() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.is_mute = true;
    world.append_within(b"maybe", Duration::from_millis(50)).expect("there is room");
    world.run();
    world.pass(Duration::from_millis(60));
    let AppendError::OutcomeUnknown { retry } = world.append_error() else { panic!("it was sent") };
    assert_eq!(world.session.in_flight(), 0);

    world.server.is_mute = false;
    let again = world.session.retry(world.now, retry, world.now + Duration::from_secs(1)).expect("it is kept");
    world.run();
    let (operation, outcome) = world.completions().remove(0);
    let Outcome::Append(Ok(appended)) = outcome else { panic!("not acknowledged: {outcome:?}") };
    assert_eq!((operation, appended.seqnum), (again, world.server.records[1].seqnum));
    assert_eq!(world.server.records.len(), 2, "it took effect once");
    let known = world.session.retry(world.now, retry, world.now + Duration::from_secs(1));
    assert_eq!(known, Err(SubmitError::Append(AppendError::SessionExpired)), "its outcome is known");
}

#[test]
fn an_answer_after_the_deadline_is_kept_for_the_retry() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.append_within(b"slow", Duration::from_millis(50)).expect("there is room");
    world.send(usize::MAX);
    world.now = world.now + Duration::from_millis(50);
    world.session.tick(world.now).expect("not silent for long");
    let AppendError::OutcomeUnknown { retry } = world.append_error() else { panic!("it was sent") };
    world.deliver();
    assert_eq!(world.completions(), []);
    world.session.retry(world.now, retry, world.now + Duration::from_secs(1)).expect("it is kept");
    assert_eq!(world.appended().seqnum, world.server.records[1].seqnum);
    assert_eq!(world.server.appends_seen, 2, "it was not sent again");
}

#[test]
fn appends_of_unknown_outcome_are_kept_up_to_a_bound() {
    let config = SessionConfig { unknown_max: 2, ..SessionConfig::default() };
    let mut world = World::new(config, FakeServer::default());
    world.connect();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.is_mute = true;
    for payload in [b"a", b"b", b"c"] {
        world.append_within(payload, Duration::from_millis(50)).expect("there is room");
    }
    world.run();
    world.pass(Duration::from_millis(60));
    let unknown = world.completions();
    let retries: Vec<bool> =
        unknown.iter().map(|(operation, _)| world.session.retry(world.now, *operation, world.now).is_ok()).collect();
    assert_eq!(retries, [false, true, true]);
}

#[test]
fn numbers_stay_within_the_servers_window() {
    let config = SessionConfig { operations_max: 64, ..SessionConfig::default() };
    let mut world = World::new(config, FakeServer::new(1, 8));
    world.connect();
    for number in 0..64u8 {
        world.append(&[number]);
    }
    assert_eq!(world.append_within(b"x", Duration::from_secs(1)), Err(SubmitError::Full));
    world.run();
    assert_eq!(world.completions().len(), 64);
    assert_eq!(world.server.ahead_max, 7, "the window was used, and not left");
    assert_eq!(world.server.payloads(), (0..64u8).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn an_unknown_outcome_does_not_block_the_window() {
    let mut world = World::new(SessionConfig::default(), FakeServer::new(1, 4));
    world.connect();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.is_mute = true;
    world.append_within(b"lost", Duration::from_millis(50)).expect("there is room");
    world.run();
    world.server.is_mute = false;
    for number in 0..10u8 {
        world.append(&[number]);
    }
    world.run();
    assert_eq!(world.completions().len(), 3, "the window is full behind the lost one");
    world.pass(Duration::from_millis(60));
    let completions = world.completions();
    assert_eq!(completions.len(), 8, "the lost one is unknown, the others are done: {completions:?}");
    assert_eq!(world.server.ahead_max, 3);
}

#[test]
fn refusals_for_now_are_tried_again_until_the_deadline() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.refusals.extend([ErrorCode::Busy, ErrorCode::Unavailable, ErrorCode::Busy]);
    world.append(b"patience");
    world.pass(Duration::from_secs(1));
    world.appended();
    assert_eq!(world.session.counters().retries, 3);

    world.server.refusals.extend(vec![ErrorCode::Busy; 1000]);
    world.append_within(b"in vain", Duration::from_millis(200)).expect("there is room");
    world.pass(Duration::from_secs(1));
    let AppendError::Deadline { refusal: Some(refusal) } = world.append_error() else { panic!("it had no effect") };
    assert_eq!(refusal.code, ErrorCode::Busy);
    assert_eq!(world.server.records.len(), 2);
}

#[test]
fn a_full_disk_is_told_at_once_unless_an_earlier_try_may_have_taken_effect() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.refusals.push_back(ErrorCode::DiskFull);
    world.append(b"no");
    world.run();
    assert!(matches!(world.append_error(), AppendError::DiskFull { .. }));

    world.append(b"yes");
    world.send(usize::MAX);
    world.cut();
    world.server.refusals.push_back(ErrorCode::DiskFull);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.appended().seqnum, world.server.records[1].seqnum, "the second try alone was refused");
}

#[test]
fn an_expired_session_makes_sent_appends_unknown_and_others_go_under_a_new_one() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.forget_sessions();
    let sent = world.append(b"sent");
    world.send(usize::MAX);
    let unsent = world.append(b"unsent");
    world.deliver();
    world.run();
    let completions = world.completions();
    assert_eq!(completions[0], (sent, Outcome::Append(Err(AppendError::SessionExpired))));
    assert!(matches!(completions[1], (operation, Outcome::Append(Ok(_))) if operation == unsent));
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"unsent"]);
    assert_eq!(world.session.counters().sessions_expired, 1);
    world.append(b"after");
    world.run();
    world.appended();
}

#[test]
fn a_failed_condition_tells_the_tail() {
    let mut world = World::connected();
    world.append(b"first");
    world.run();
    let first = world.appended().seqnum;
    for (expected, holds) in [(None, false), (Some(first), true), (Some(first), false)] {
        let records = [NewRecord { tags: &[TAG], payload: b"next" }];
        let condition = Some(Condition { tag: TAG, expected });
        let append = Append { logbook: Target::Name("book"), condition, time_ms: 0, records: &records };
        let deadline = world.now + Duration::from_secs(1);
        world.session.submit(world.now, Operation::Append(append), deadline).expect("there is room");
        let tail = world.server.records.last().expect("one is there").seqnum;
        world.run();
        match holds {
            true => assert!(world.appended().seqnum > first),
            false => assert_eq!(world.append_error(), AppendError::ConditionFailed { tail }),
        }
    }
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_sent() {
    let mut world = World::connected();
    let long = "x".repeat(256);
    for (target, tags) in [(Target::Name(&long), [TAG]), (Target::Name("book"), [Tag::ALL])] {
        let records = [NewRecord { tags: &tags, payload: b"" }];
        let append = Append { logbook: target, condition: None, time_ms: 0, records: &records };
        let refused = world.session.submit(world.now, Operation::Append(append), world.now);
        assert!(matches!(refused, Err(SubmitError::Append(error)) if !error.is_retryable()));
    }
    assert!(world.session.transmit().is_empty());
}

#[test]
fn a_refused_name_fails_the_appends_that_wait_for_it() {
    let mut world = World::connected();
    world.server.refusals.extend([ErrorCode::NameTaken]);
    world.append(b"a");
    world.append(b"b");
    world.run();
    let completions = world.completions();
    assert_eq!(completions.len(), 2);
    for (_, outcome) in completions {
        assert!(matches!(outcome, Outcome::Append(Err(AppendError::NameTaken { .. }))), "{outcome:?}");
    }
    world.append(b"c");
    world.run();
    world.appended();
}

#[test]
fn another_version_and_damaged_frames_end_the_connection() {
    let mut world = World::new(SessionConfig::default(), FakeServer::default());
    world.append(b"never");
    world.connect();
    world.send(usize::MAX);
    let welcome = world.server.output(world.connection);
    let mut other = welcome.clone();
    other[2] = 9;
    let error = world.session.receive(world.now, &other[..3]).expect_err("another version");
    assert_eq!(error, ConnectionError::Version { found: 9, expected: 1 });
    world.session.disconnected(world.now, error.clone());
    assert_eq!(world.append_error(), AppendError::Unreachable { reason: error }, "no try can mend that");

    for bit in 0..welcome.len() * 8 {
        let mut damaged = welcome.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut session = Session::new(SessionConfig::default());
        session.connected(Time::ZERO);
        let result = session.receive(Time::ZERO, &damaged);
        let in_padding = bit / 8 >= welcome.len() - 2;
        assert!(result.is_err() || !session.is_connected() || in_padding, "bit {bit} passed");
    }
}

#[test]
fn a_server_of_another_cluster_is_refused() {
    let mut world = World::connected();
    world.cut();
    world.server.welcome.cluster = 8;
    world.connect();
    world.send(usize::MAX);
    let welcome = world.server.output(world.connection);
    let error = world.session.receive(world.now, &welcome).expect_err("another cluster");
    assert_eq!(error, ConnectionError::OtherCluster { expected: 7, found: 8 });
}

#[test]
fn a_silent_server_is_given_up() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.is_mute = true;
    world.append_within(b"?", Duration::from_secs(60)).expect("there is room");
    world.run();
    let at = world.session.deadline().expect("requests are outstanding");
    assert_eq!(at, world.now + SessionConfig::default().silence_max);
    assert_eq!(world.session.tick(at), Err(ConnectionError::Silent));
    world.now = at;
    world.server.is_mute = false;
    world.cut();
    world.pass(Duration::from_secs(1));
    world.appended();
}

#[test]
fn a_range_is_read_in_pages_both_ways() {
    let mut world = World::connected();
    for number in 0..20u8 {
        world.append(&[number]);
    }
    world.run();
    world.completions();
    world.server.page_records_max = 3;
    let (first, last) = (world.server.records[2].seqnum, world.server.records[15].seqnum);
    for (direction, records_max) in
        [(Direction::Forward, 100), (Direction::Backward, 100), (Direction::Forward, 7), (Direction::Backward, 1)]
    {
        world.read(Read { first, last, direction, records_max, ..everything() });
        world.run();
        let Outcome::Read(Ok(read)) = world.outcome() else { panic!("a read") };
        let mut expected: Vec<u8> = (2..=15).collect();
        if direction == Direction::Backward {
            expected.reverse();
        }
        expected.truncate(records_max);
        assert_eq!(read.records.iter().map(|record| record.payload[0]).collect::<Vec<_>>(), expected);
        assert_eq!(read.complete, records_max == 100);
    }
}

#[test]
fn an_empty_range_and_no_records_need_no_server() {
    let mut world = World::new(SessionConfig::default(), FakeServer::default());
    world.read(Read { first: SeqNum(2), last: SeqNum(1), ..everything() });
    assert!(matches!(world.outcome(), Outcome::Read(Ok(read)) if read.records.is_empty() && read.complete));
    assert_eq!(world.session.in_flight(), 0);
}

#[test]
fn a_wait_goes_on_across_the_servers_bound_and_a_reconnect() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    let first = world.server.records[0].seqnum.next();
    let wait = Duration::from_secs(60);
    world.read(Read { first, wait, records_max: 1, ..everything() });
    world.run();
    assert_eq!((world.server.waiting(), world.server.reads_seen[0].wait_ms), (1, 5_000));
    world.now = world.now + Duration::from_secs(5);
    world.server.end_waits();
    world.run();
    assert_eq!((world.server.waiting(), world.completions().len()), (1, 0), "asked again");
    world.cut();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server.waiting(), 1, "asked on the new connection");
    world.append(b"news");
    world.run();
    let completions = world.completions();
    let found = completions.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Read(Ok(read)) => Some(read.records[0].payload.clone()),
        _ => None,
    });
    assert_eq!(found.as_deref(), Some(&b"news"[..]));
}

#[test]
fn a_wait_that_ends_with_nothing_says_so() {
    let mut world = World::connected();
    world.read(Read { wait: Duration::from_millis(1_500), ..everything() });
    world.run();
    assert_eq!(world.server.reads_seen[0].wait_ms, 1_500);
    world.now = world.now + Duration::from_millis(1_500);
    world.server.end_waits();
    world.run();
    assert!(matches!(world.outcome(), Outcome::Read(Ok(read)) if read.records.is_empty() && read.complete));
}

#[test]
fn a_server_that_cuts_waits_short_is_not_asked_in_a_loop() {
    let mut world = World::connected();
    world.read(Read { wait: Duration::from_secs(3), ..everything() });
    world.run();
    world.server.end_waits();
    world.run();
    assert_eq!(world.server.reads_seen.len(), 1, "it rests first");
    world.pass(Duration::from_millis(50));
    assert_eq!(world.server.reads_seen.len(), 2);
}

#[test]
fn a_trimmed_range_tells_where_to_go_on() {
    let mut world = World::connected();
    world.append(b"old");
    world.append(b"kept");
    world.run();
    world.completions();
    let first = world.server.records[1].seqnum;
    world.server.trimmed_below = first;
    world.read(everything());
    world.run();
    assert_eq!(world.outcome(), Outcome::Read(Err(ReadError::Trimmed { first })));
}

#[test]
fn every_answer_raises_the_token_and_reads_carry_it() {
    let mut world = World::connected();
    assert_eq!(world.session.token(), &Token::new());
    world.append(b"a");
    world.run();
    world.completions();
    let place = world.server.place();
    assert_eq!(world.session.token().to_string(), format!("s1:0=1.{}", place.index));
    world.session.merge(&"s1:0=1.500,7=9.9".parse().expect("a token"));
    world.read(everything());
    world.run();
    assert_eq!(world.server.reads_seen[0].place.index, 500, "reads wait for what the giver saw");
    assert_eq!(world.session.token().to_string(), "s1:0=1.500,7=9.9", "and an answer lowers nothing");
}

#[test]
fn cancelled_operations_leave_nothing_behind() {
    let mut world = World::connected();
    world.append(b"warm");
    world.run();
    world.completions();
    let unsent = world.append(b"unsent");
    world.session.cancel(world.now, unsent);
    let sent = world.append(b"sent");
    let read = world.read(Read { wait: Duration::from_secs(1), first: SeqNum::MAX, ..everything() });
    world.send(usize::MAX);
    world.session.cancel(world.now, sent);
    world.session.cancel(world.now, read);
    world.run();
    assert_eq!((world.completions(), world.session.in_flight()), (vec![], 0));
    assert_eq!(world.server.payloads(), [&b"warm"[..], b"sent"]);
    world.server.end_waits();
    world.run();
    assert_eq!(world.completions(), []);
}

#[test]
fn a_cancelled_append_without_an_answer_gives_up_its_number_at_its_deadline() {
    let mut world = World::new(SessionConfig::default(), FakeServer::new(1, 1));
    world.connect();
    world.append(b"warm");
    world.run();
    world.completions();
    world.server.is_mute = true;
    let lost = world.append_within(b"lost", Duration::from_millis(50)).expect("there is room");
    world.run();
    world.session.cancel(world.now, lost);
    world.server.is_mute = false;
    world.append(b"next");
    world.run();
    assert_eq!(world.server.appends_seen, 2);
    world.pass(Duration::from_millis(60));
    world.appended();
}

#[test]
fn bytes_of_appends_are_bounded() {
    let config = SessionConfig { buffer_bytes_max: 3_000, ..SessionConfig::default() };
    let mut world = World::new(config, FakeServer::default());
    let payload = vec![1; 2_000];
    world.append(&payload);
    assert_eq!(world.append_within(&payload, Duration::from_secs(1)), Err(SubmitError::Full));
    world.connect();
    world.run();
    world.appended();
    world.append(&payload);
    world.run();
    world.appended();
    // A batch that is larger than the bound alone still goes, by itself.
    world.append(&vec![2; 100_000]);
    world.run();
    world.appended();
}

#[test]
fn connections_are_tried_at_growing_intervals() {
    let mut world = World::new(SessionConfig::default(), FakeServer::default());
    world.append_within(b"x", Duration::from_secs(3600)).expect("there is room");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let at = world.session.connect_at().expect("there is something to do");
        pauses.push(at.since(world.now));
        world.now = world.now.max(at);
        world.session.disconnected(world.now, ConnectionError::Closed);
    }
    assert_eq!(pauses[..2], [Duration::ZERO, Duration::ZERO]);
    let longest = SessionConfig::default().backoff_max;
    assert!(pauses[2..6].is_sorted() && pauses[11] >= longest / 2 && pauses[11] <= longest, "{pauses:?}");
}

#[test]
fn a_trim_is_asked_for_again_after_a_lost_connection() {
    let mut world = World::connected();
    world.append(b"old");
    world.append(b"kept");
    world.run();
    world.completions();
    let first = world.server.records[1].seqnum;
    let trim = Manage::Trim { logbook: LogBookId::from_name("book"), tag: Tag::ALL, first };
    world
        .session
        .submit(world.now, Operation::Manage(trim), world.now + Duration::from_secs(5))
        .expect("there is room");
    world.send(usize::MAX);
    world.cut();
    assert_eq!(world.completions(), []);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.outcome(), Outcome::Manage(Ok(Managed::Trimmed { first })));
    assert_eq!(world.session.token().place(LogspaceId(0)), world.server.place(), "the answer raises the token");
}

#[test]
fn aux_data_is_sent_again_and_comes_back_to_those_who_ask() {
    let mut world = World::connected();
    world.append(b"record");
    world.run();
    let seqnum = world.appended().seqnum;
    let logbook = LogBookId::from_name("book");
    let set = |world: &mut World, data: &[u8]| {
        let aux = Operation::SetAux(SetAux { logbook, seqnum, data });
        world.session.submit(world.now, aux, world.now + Duration::from_secs(5))
    };
    set(&mut world, b"view").expect("there is room");
    world.send(usize::MAX);
    world.cut();
    world.server.aux.clear();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.outcome(), Outcome::SetAux(Ok(true)));
    for (aux, expected) in [(true, Some(&b"view"[..])), (false, None)] {
        let read = Operation::Read(Read { aux, ..everything() });
        world.session.submit(world.now, read, world.now + Duration::from_secs(5)).expect("there is room");
        world.run();
        let Outcome::Read(Ok(read)) = world.outcome() else { panic!("read") };
        assert_eq!(read.records[0].aux.as_deref(), expected);
    }
    set(&mut world, &[0; AUX_BYTES_MAX + 1]).expect("told as its outcome");
    assert_eq!(world.outcome(), Outcome::SetAux(Err(SetAuxError::TooLarge { bytes: AUX_BYTES_MAX + 1 })));
}

#[test]
fn aux_data_under_way_is_within_the_sessions_bound() {
    let config = SessionConfig { buffer_bytes_max: 100_000, ..SessionConfig::default() };
    let mut world = World::new(config, FakeServer::default());
    world.connect();
    world.run();
    let aux = SetAux { logbook: LogBookId(3), seqnum: SeqNum(1), data: &[0; AUX_BYTES_MAX] };
    for _ in 0..3 {
        let submit = |world: &mut World| {
            world.session.submit(world.now, Operation::SetAux(aux), world.now + Duration::from_secs(5))
        };
        submit(&mut world).expect("there is room");
        assert_eq!(submit(&mut world), Err(SubmitError::Full));
        world.run();
        assert_eq!(world.outcome(), Outcome::SetAux(Ok(false)), "there is no such record");
    }
}
