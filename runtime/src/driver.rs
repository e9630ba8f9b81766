//! The one task of an executor: it turns completions into inputs, and what the host wants into
//! operations. All that has arrived goes into one turn, and all that comes of it into one system
//! call.

use std::sync::Arc;

use sealog_protocol::Time;

use crate::clock::Clock;
use crate::counters::Counters;
use crate::host::{Action, ExecutorId, Host};
use crate::inbox::{Forwarded, Inbox, Outbox, Parcel, Shared};
use crate::journal_io::JournalIo;
use crate::limits::{FAREWELL, SLEEP_MAX, SLEEP_MIN, SLEEP_WAITING_MAX, SPIN, SPIN_WAITING};
use crate::park::Parker;
use crate::peering::Peering;
use crate::peers::PeerSockets;
use crate::ring::{Completion, Kind, Ring};
use crate::sockets::Sockets;
use crate::watch::JournalWatch;

/// Looks at the queues between two system calls while spinning.
const LOOKS: u32 = 64;
/// Turns between two publications of the journal's state.
const TURNS_PER_WATCH: u64 = 4096;

/// All that an executor consists of.
pub(crate) struct Driver<H: Host> {
    pub executor: ExecutorId,
    pub host: H,
    pub clock: Clock,
    pub counters: Arc<[Counters]>,
    pub watch: Arc<[JournalWatch]>,
    pub shared: Arc<Shared<H::Event>>,
    pub inbox: Inbox,
    pub outbox: Outbox<H::Event>,
    // The ring goes before the memory that its operations point at: the journal's and the sockets'.
    pub ring: Ring,
    pub journal: JournalIo,
    pub sockets: Sockets,
    pub peering: Peering,
    pub parker: Parker,
    /// Whether to spin at all.
    pub spins: bool,
    pub completions: Vec<Completion>,
    pub actions: Vec<Action>,
    pub stop_at: Option<Time>,
}

impl<H: Host> Driver<H> {
    /// Runs until the executor is stopped.
    pub async fn run(mut self) {
        self.ring.set_eventfd_enabled(false);
        let mut last_work = self.clock.now();
        loop {
            let now = self.clock.now();
            if self.turn(now) {
                last_work = now;
                continue;
            }
            if self.is_finished(now) {
                break;
            }
            if !self.spin(last_work) {
                self.sleep().await;
            }
        }
        self.close();
    }

    /// One turn; whether there was anything to do.
    fn turn(&mut self, now: Time) -> bool {
        let mut worked = self.take_completions(now);
        worked |= self.take_from_nodes(now);
        worked |= self.take_messages(now);
        worked |= self.take_from_clients(now);
        worked |= self.journal.tell(now, &mut self.host);
        if self.host.deadline().is_some_and(|deadline| deadline <= now) {
            self.host.tick(now);
            worked = true;
        }
        if worked {
            self.host.flush(now, &mut self.actions);
            self.perform(now);
            self.count_turn();
        }
        if self.stop_at.is_none() && self.shared.is_stopped() {
            self.begin_stop(now);
        }
        self.outbox.flush();
        let counters = &self.counters[usize::from(self.executor.0)];
        self.journal.submit(now, &mut self.ring);
        self.sockets.expire(now, counters);
        self.sockets.submit(now, &mut self.ring, counters);
        if let Some(peers) = &mut self.peering.sockets {
            peers.expire(now, counters);
            peers.submit(now, &mut self.ring, counters);
        }
        if self.ring.is_pending() {
            self.ring.enter().expect("the kernel takes what it took before");
            self.journal.submitted();
            worked = true;
        }
        worked | self.journal.has_tags_at_hand()
    }

    fn take_completions(&mut self, now: Time) -> bool {
        self.ring.reap(&mut self.completions);
        if self.completions.is_empty() {
            return false;
        }
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            let counters = &self.counters[usize::from(self.executor.0)];
            match completion.token.kind {
                Kind::Accept => self.sockets.on_accept(now, completion, counters),
                Kind::Receive => self.sockets.on_receive(now, completion, &mut self.host, counters),
                Kind::Send => self.sockets.on_send(completion, counters),
                Kind::JournalWrite => self.journal.on_write(now, completion, counters),
                Kind::JournalRead => self.journal.on_read(now, completion, &mut self.host, counters),
                Kind::Scrub => self.journal.on_scrub(now, completion, counters),
                Kind::Prepare => self.journal.on_prepare(now, completion, counters),
                // How the cancelled operation ended is told by its own completion.
                Kind::Cancel => {}
                Kind::PeerAccept | Kind::PeerConnect | Kind::PeerReceive | Kind::PeerSend => {
                    self.take_peer_completion(now, completion);
                }
            }
        }
        self.completions = completions;
        true
    }

    fn take_peer_completion(&mut self, now: Time, completion: Completion) {
        let is_crowded = self.outbox.is_crowded();
        let counters = &self.counters[usize::from(self.executor.0)];
        let peers = self.peering.sockets.as_mut().expect("what completes was submitted");
        match completion.token.kind {
            Kind::PeerAccept => peers.on_accept(now, completion, counters),
            Kind::PeerConnect => peers.on_connect(now, completion, counters),
            Kind::PeerSend => peers.on_send(now, completion, counters),
            _ => peers.on_receive(now, completion, is_crowded, counters),
        }
        self.hand_over(now);
    }

    fn take_messages(&mut self, now: Time) -> bool {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut found = inbox.parcels(|parcel| match parcel {
            Parcel::Message { from, to, message } => self.host.message(now, from, to, message),
            Parcel::Reply { connection, request, reply } => {
                let counters = &self.counters[usize::from(self.executor.0)];
                self.sockets.reply(now, connection, request, &reply, counters);
            }
            Parcel::ToNode { link, from, to, message } => self.send_on_link(now, link, from, to, message),
            Parcel::Connected { node, incarnation, link } => self.connected(now, node, incarnation, link),
            Parcel::Disconnected { node } => self.disconnected(now, node),
        });
        self.inbox = inbox;
        if self.shared.has_posts() {
            for event in self.shared.take_posts() {
                self.host.event(now, event);
                found = true;
            }
        }
        found
    }

    fn take_from_clients(&mut self, now: Time) -> bool {
        let counters = &self.counters[usize::from(self.executor.0)];
        let mut found = false;
        if self.sockets.has_stalled() && self.accepts() {
            self.sockets.go_on(now, &mut self.host, counters);
            found = true;
        }
        while self.accepts() {
            match self.inbox.next_forwarded() {
                None => break,
                Some(Forwarded::Closed { connection }) => self.host.client_closed(now, connection),
                Some(Forwarded::Frame { connection, frame }) => {
                    // Only its own connection could be closed for it, and that is elsewhere.
                    if let Err(error) = self.host.client_frame(now, connection, &frame) {
                        tracing::warn!(connection = connection.0, %error, "dropped a forwarded frame");
                    }
                }
            }
            found = true;
        }
        while let Some(ended) = self.sockets.next_ended() {
            self.host.client_closed(now, ended.connection);
            for executor in (0..64).filter(|executor| ended.forwarded & 1 << executor != 0).map(ExecutorId) {
                self.outbox.forward(executor, Forwarded::Closed { connection: ended.connection });
            }
            found = true;
        }
        found
    }

    fn accepts(&self) -> bool {
        self.host.accepts() && !self.outbox.is_crowded()
    }

    pub(crate) fn perform(&mut self, now: Time) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            let counters = &self.counters[usize::from(self.executor.0)];
            match action {
                Action::Append { owner, entry } => self.journal.append(now, owner, entry),
                Action::Reply { connection, request, reply } => {
                    let executor = Sockets::executor_of(connection);
                    if executor == self.executor {
                        self.sockets.reply(now, connection, request, &reply, counters);
                    } else {
                        self.outbox.send(executor, Parcel::Reply { connection, request, reply });
                    }
                }
                Action::Send { executor, from, to, message } => {
                    counters.messages_sent.add(1);
                    self.outbox.send(executor, Parcel::Message { from, to, message });
                }
                Action::SendToNode { from, to, message } => self.send_to_node(now, from, to, message),
                Action::Forward { executor, connection, frame } => {
                    self.sockets.forwarded(connection, executor);
                    self.outbox.forward(executor, Forwarded::Frame { connection, frame });
                }
                Action::Read { owner, ticket, at, bytes } => {
                    self.journal.read(&mut self.ring, owner, ticket, at, bytes);
                }
                Action::ReadTags { owner, ticket, shard, segment, from } => {
                    self.journal.read_tags(&mut self.ring, owner, ticket, shard, segment, from);
                }
                Action::Release { owner, segment } => self.journal.release(owner, segment),
                Action::Peers(peers) => self.set_peers(now, *peers),
                Action::Cuts(cuts) => self.set_cuts(*cuts),
            }
        }
        self.actions = actions;
    }

    fn count_turn(&mut self) {
        let turns = &self.counters[usize::from(self.executor.0)].turns;
        turns.add(1);
        if turns.get().is_multiple_of(TURNS_PER_WATCH) {
            self.publish();
        }
    }

    fn publish(&self) {
        let watch = &self.watch[usize::from(self.executor.0)];
        watch.set(self.journal.status());
        watch.set_findings(self.journal.findings());
    }

    /// Whether something came that the next turn finds.
    fn has_news(&mut self) -> bool {
        self.ring.is_ready()
            || self.shared.has_posts()
            || !self.inbox.is_empty(self.accepts())
            || (self.sockets.has_stalled() && self.accepts())
            || self.peering.has_news(self.outbox.is_crowded())
            || (self.shared.is_stopped() && self.stop_at.is_none())
    }

    fn deadline(&self) -> Option<Time> {
        let peers = self.peering.sockets.as_ref().and_then(PeerSockets::deadline);
        let deadlines = [self.host.deadline(), self.journal.deadline(), self.sockets.deadline(), peers, self.stop_at];
        deadlines.into_iter().flatten().min()
    }

    /// Looks for work for a while; whether it is worth another turn.
    fn spin(&mut self, last_work: Time) -> bool {
        if !self.spins {
            return false;
        }
        let window = if self.journal.is_waiting_for_disk() { SPIN_WAITING } else { SPIN };
        let end = last_work + window;
        let deadline = self.deadline();
        loop {
            for _ in 0..LOOKS {
                if self.has_news() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = self.clock.now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return true;
            }
            if now >= end {
                return false;
            }
            // The disk's own work may wait for this very core.
            std::thread::yield_now();
        }
    }

    async fn sleep(&mut self) {
        self.publish();
        self.ring.set_eventfd_enabled(true);
        self.parker.drain();
        self.shared.set_sleeping(true);
        // What came before the bell was on is only seen by looking.
        if !self.has_news() {
            let now = self.clock.now();
            let longest = match self.journal.is_waiting_for_disk() {
                _ if self.outbox.is_crowded() => SLEEP_MIN,
                true => SLEEP_WAITING_MAX,
                false => SLEEP_MAX,
            };
            let at_most = self.deadline().map_or(longest, |deadline| Clock::until(now, deadline).min(longest));
            if !at_most.is_zero() {
                self.counters[usize::from(self.executor.0)].parks.add(1);
                self.parker.sleep(at_most).await;
            }
        }
        self.shared.set_sleeping(false);
        self.ring.set_eventfd_enabled(false);
    }

    fn begin_stop(&mut self, now: Time) {
        self.stop_at = Some(now + FAREWELL);
        self.sockets.stop_accepting(&mut self.ring);
        if let Some(peers) = &mut self.peering.sockets {
            peers.stop_accepting(&mut self.ring);
        }
        self.journal.stop(now);
    }

    /// Stopped: all is on disk that can be, and clients have their replies, or had the time.
    fn is_finished(&self, now: Time) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        self.journal.is_settled() && (self.sockets.unsent_bytes() == 0 || now >= stop_at)
    }

    /// Ends every operation, then lets go of the memory that they pointed at.
    fn close(mut self) {
        self.publish();
        let counters = Arc::clone(&self.counters);
        let counters = &counters[usize::from(self.executor.0)];
        self.sockets.end_all(counters);
        if let Some(peers) = &mut self.peering.sockets {
            peers.end_all(self.clock.now(), counters);
        }
        self.ring.cancel_all();
        while self.ring.in_flight() > 0 {
            self.ring.enter_and_wait().expect("the kernel gives back what it was given");
            let now = self.clock.now();
            self.take_completions(now);
        }
        drop(self.ring);
        drop((self.sockets, self.peering, self.journal));
    }
}
