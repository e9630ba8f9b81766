//! Connections between nodes: FIFO, delayed, and sometimes broken, with what is in flight lost.
//!
//! A connection belongs to two lives of two nodes. A break takes effect for each direction at a time
//! of its own: frames that would arrive later are lost, so what is lost is a suffix. A blocked
//! direction holds frames back, as TCP does while packets are dropped; healed, they arrive late;
//! broken meanwhile, they are gone.

use bytes::Bytes;
use fastrand::Rng;

use crate::queue::Instant;
use crate::swarm::{NodeIndex, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionIndex(pub usize);

#[derive(Debug)]
pub struct Connection {
    pub ends: [NodeIndex; 2],
    /// Which life of each node it belongs to.
    pub lives: [u64; 2],
    pub alive: bool,
    /// By receiving end: when its last frame arrives, and after when none does.
    last: [Instant; 2],
    cut: [Instant; 2],
    opened: [Instant; 2],
    /// By receiving end: frames that wait for the direction to open.
    held: [Vec<Bytes>; 2],
}

impl Connection {
    /// Which end this node is: 0 or 1.
    pub fn end(&self, node: NodeIndex) -> usize {
        usize::from(self.ends[1] == node)
    }
}

/// All links between nodes.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    pub connections: Vec<Connection>,
    /// By pair (lower, higher): the newest connection.
    current: Vec<Option<ConnectionIndex>>,
    /// By (from, to): how many faults hold the direction.
    blocked: Vec<u32>,
    delay: Span,
}

/// What sending a frame came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Arrives(Instant),
    /// It waits, or is lost.
    NotNow,
}

impl Network {
    pub fn new(nodes: usize, delay: Span) -> Network {
        Network {
            nodes,
            connections: Vec::new(),
            current: vec![None; nodes * nodes],
            blocked: vec![0; nodes * nodes],
            delay,
        }
    }

    fn pair(&self, one: NodeIndex, other: NodeIndex) -> usize {
        one.0.min(other.0) * self.nodes + one.0.max(other.0)
    }

    fn direction(&self, from: NodeIndex, to: NodeIndex) -> usize {
        from.0 * self.nodes + to.0
    }

    pub fn is_blocked(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.blocked[self.direction(from, to)] > 0
    }

    /// The living connection of two nodes.
    pub fn living(&self, one: NodeIndex, other: NodeIndex) -> Option<ConnectionIndex> {
        self.current[self.pair(one, other)].filter(|connection| self.connections[connection.0].alive)
    }

    /// Makes a connection; returns when each end learns of it.
    pub fn connect(
        &mut self,
        now: Instant,
        ends: [NodeIndex; 2],
        lives: [u64; 2],
        rng: &mut Rng,
    ) -> (ConnectionIndex, [Instant; 2]) {
        let index = ConnectionIndex(self.connections.len());
        let at = [now + self.delay.draw(rng), now + self.delay.draw(rng)];
        self.connections.push(Connection {
            ends,
            lives,
            alive: true,
            last: at,
            cut: [Instant::MAX; 2],
            opened: at,
            held: [Vec::new(), Vec::new()],
        });
        let pair = self.pair(ends[0], ends[1]);
        self.current[pair] = Some(index);
        (index, at)
    }

    /// A frame goes to the other end. `Arrives` asks the caller to deliver it then.
    pub fn send(
        &mut self,
        now: Instant,
        connection: ConnectionIndex,
        from: NodeIndex,
        frame: &Bytes,
        rng: &mut Rng,
    ) -> Sent {
        let delay = self.delay.draw(rng);
        let end = 1 - self.connections[connection.0].end(from);
        let blocked = self.is_blocked(from, self.connections[connection.0].ends[end]);
        let connection = &mut self.connections[connection.0];
        if !connection.alive {
            return Sent::NotNow;
        }
        if blocked || !connection.held[end].is_empty() {
            connection.held[end].push(frame.clone());
            return Sent::NotNow;
        }
        connection.last[end] = connection.last[end].max(now + delay);
        Sent::Arrives(connection.last[end])
    }

    /// Whether a frame that was to arrive now at this end does.
    pub fn arrives(&self, connection: ConnectionIndex, end: usize, now: Instant) -> bool {
        now <= self.connections[connection.0].cut[end]
    }

    /// Breaks a connection; returns when each end learns of it.
    pub fn break_connection(
        &mut self,
        now: Instant,
        connection: ConnectionIndex,
        rng: &mut Rng,
    ) -> Option<[Instant; 2]> {
        let cuts = [now + rng.u64(0..=self.delay.spread), now + rng.u64(0..=self.delay.spread)];
        let connection = &mut self.connections[connection.0];
        if !connection.alive {
            return None;
        }
        connection.alive = false;
        connection.held = [Vec::new(), Vec::new()];
        connection.cut = cuts;
        // An end that has not yet heard of its beginning hears of that first.
        Some([cuts[0].max(connection.opened[0]) + 1, cuts[1].max(connection.opened[1]) + 1])
    }

    /// One fault more, or one less, holds the direction.
    pub fn block(&mut self, from: NodeIndex, to: NodeIndex, blocked: bool) {
        let direction = self.direction(from, to);
        let holds = &mut self.blocked[direction];
        *holds = if blocked { *holds + 1 } else { holds.saturating_sub(1) };
    }

    /// No direction is held any more by anything.
    pub fn unblock_all(&mut self) {
        self.blocked.fill(0);
    }

    /// Frames that were held on the way to `to` and arrive now that the direction is open, each with
    /// its time.
    pub fn release(
        &mut self,
        now: Instant,
        from: NodeIndex,
        to: NodeIndex,
        rng: &mut Rng,
    ) -> Option<(ConnectionIndex, Vec<(Instant, Bytes)>)> {
        if self.is_blocked(from, to) {
            return None;
        }
        let index = self.living(from, to)?;
        let delay = self.delay;
        let connection = &mut self.connections[index.0];
        let end = connection.end(to);
        let held = std::mem::take(&mut connection.held[end]);
        let released = held.into_iter().map(|frame| {
            connection.last[end] = connection.last[end].max(now + delay.draw(rng));
            (connection.last[end], frame)
        });
        Some((index, released.collect()))
    }
}
