//! Clients in the world: they step, dial, transmit, get replies, and lose their connections.

use sealog::ConnectionError;
use sealog_protocol::Time;
use sealog_protocol::machine::ConnectionId;

use crate::client::Link;
use crate::queue::{Instant, MICROSECOND};
use crate::swarm::NodeIndex;
use crate::violation::Failure;
use crate::world::{Event, World};

impl World {
    pub fn wake_client(&mut self, client: usize, at: Instant) {
        let at = at.max(self.now);
        if at < self.clients[client].wake {
            self.clients[client].wake = at;
            self.queue.push(at, Event::ClientWakes { client });
        }
    }

    pub fn client_step(&mut self, client: usize) -> Result<(), Failure> {
        let now = self.now;
        let stepped = &mut self.clients[client];
        if stepped.session.deadline().is_some_and(|deadline| deadline.0 <= now)
            && let Err(reason) = stepped.session.tick(Time(now))
        {
            self.drop_client(client, reason);
        }
        let stepped = &mut self.clients[client];
        let seen = stepped.complete(now, &mut self.recorder, &mut self.rng)?;
        for (logbook, seqnum, fingerprint) in seen {
            self.seen.saw(logbook.logspace(self.plan.settings.classes()), seqnum, fingerprint)?;
        }
        let stepped = &mut self.clients[client];
        if self.submitting && stepped.pinned.is_none() {
            stepped.submit(now, &self.plan, &self.books, &mut self.recorder, &mut self.rng);
        }
        self.dial_client(client);
        self.transmit(client);
        let stepped = &self.clients[client];
        let submits =
            self.submitting && stepped.pinned.is_none() && stepped.pending.len() < self.plan.load.in_flight_max;
        let submit_at = if submits { stepped.next_submit } else { Instant::MAX };
        let wake = stepped.deadline().min(submit_at);
        if wake != Instant::MAX {
            self.wake_client(client, wake.max(now + 10 * MICROSECOND));
        }
        Ok(())
    }

    fn dial_client(&mut self, client: usize) {
        let now = self.now;
        let dialing = &mut self.clients[client];
        if dialing.link != Link::Down || dialing.session.connect_at().is_none_or(|at| at.0 > now) {
            return;
        }
        dialing.link = Link::Dialing;
        dialing.epoch += 1;
        let engines = self.plan.with_role(|roles| roles.engine);
        let node = dialing.pinned.unwrap_or_else(|| engines[dialing.session.address() % engines.len()]);
        let at = now + self.plan.network.draw(&mut self.rng);
        self.queue.push(at, Event::ClientDialed { client, epoch: dialing.epoch, node });
    }

    pub(crate) fn client_dialed(&mut self, client: usize, epoch: u64, node: NodeIndex) -> Result<(), Failure> {
        if self.clients[client].epoch != epoch {
            return Ok(());
        }
        let alive = self.is_alive(node);
        let dialed = &mut self.clients[client];
        if alive {
            let connection = ConnectionId(self.nodes[node.0].next_connection);
            self.nodes[node.0].next_connection += 1;
            self.client_connections.insert((node, connection), (client, epoch));
            dialed.link = Link::Up { node, life: self.nodes[node.0].incarnation.0, connection };
            dialed.last_there = self.now;
            dialed.last_back = self.now;
            dialed.session.connected(Time(self.now));
        } else {
            dialed.link = Link::Down;
            let reason = ConnectionError::Io { message: "refused".to_owned() };
            dialed.session.disconnected(Time(self.now), reason);
        }
        self.trace.event(self.now, &[8, client as u64, node.0 as u64, u64::from(alive)], || {
            format!("client {client} dials {}: {alive}", node.0)
        });
        self.client_step(client)
    }

    fn transmit(&mut self, client: usize) {
        let sender = &mut self.clients[client];
        if !matches!(sender.link, Link::Up { .. }) {
            return;
        }
        loop {
            let ready = sender.session.transmit();
            if ready.is_empty() {
                return;
            }
            // Sockets take what they like.
            let some = if self.rng.u8(0..4) == 0 { self.rng.usize(1..=ready.len()) } else { ready.len() };
            let bytes = ready[..some].to_vec();
            sender.session.transmitted(some);
            sender.last_there = sender.last_there.max(self.now + self.plan.network.draw(&mut self.rng));
            self.queue.push(sender.last_there, Event::ToNode { client, epoch: sender.epoch, bytes });
        }
    }

    pub(crate) fn reply(&mut self, node: NodeIndex, connection: ConnectionId, bytes: Vec<u8>) {
        let Some((client, epoch)) = self.client_connections.get(&(node, connection)).copied() else { return };
        let receiver = &mut self.clients[client];
        if receiver.epoch == epoch {
            receiver.last_back = receiver.last_back.max(self.now + self.plan.network.draw(&mut self.rng));
            self.queue.push(receiver.last_back, Event::ToClient { client, epoch, bytes });
        }
    }

    /// The client's side closes its connection.
    pub fn drop_client(&mut self, client: usize, reason: ConnectionError) {
        let dropped = &mut self.clients[client];
        dropped.epoch += 1;
        if let Link::Up { node, life, connection } = dropped.link {
            let at = self.now + self.plan.network.draw(&mut self.rng);
            self.queue.push(at, Event::NodeLostClient { node, life, connection });
        }
        dropped.link = Link::Down;
        dropped.session.disconnected(Time(self.now), reason);
        self.wake_client(client, self.now);
    }
}
