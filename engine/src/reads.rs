//! Reads: what they wait for (a confirmed commit index, a place, a record, bytes from a storage),
//! and how their answers are put together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sealog_protocol::client::{ErrorCode, RecordAux, RecordsReply, Reply};
use sealog_protocol::limits::{READ_BYTES_MAX, REQUEST_RETRY};
use sealog_protocol::machine::{ConnectionId, Outputs};
use sealog_protocol::mutant::{Mark, Mutant, active, mark};
use sealog_protocol::{LocalId, LogBookId, NodeId, Place, SeqNum, Tag, Time};

use crate::aux::AuxCache;
use crate::index::Index;
use crate::order::Order;
use crate::producer::Producer;
use crate::subscriptions::{ReadPage, SubscriptionId};

mod fetching;
mod pages;
mod slots;
mod taking;

pub use fetching::whole_batches;
use slots::Slot;

/// A read waits for a record at most so long; its client asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What a read wants.
#[derive(Clone, Copy, Debug)]
enum Want {
    Records {
        from: SeqNum,
        until: SeqNum,
        backward: bool,
        records_max: usize,
    },
    Tail,
    Description,
    /// The class that a name is used in, by its second hash.
    Class {
        name: Tag,
    },
    /// No answer yet: to be told what was committed before, and to trim then.
    Trim {
        first: SeqNum,
    },
}

/// A trim whose client knows of nothing that the index has not applied.
#[derive(Clone, Copy, Debug)]
pub struct ReadyTrim {
    pub connection: ConnectionId,
    pub request: u64,
    pub key: (LogBookId, Tag),
    pub first: SeqNum,
}

/// Where its records are looked for.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Waits for the primary's word on what is committed.
    Query,
    /// Waits until the index has applied a place.
    Place,
    /// Waits for a record.
    Record,
    /// Waits for bytes.
    Bytes,
}

#[derive(Debug)]
struct Read {
    connection: ConnectionId,
    request: u64,
    /// The answer is a page of this subscription.
    subscription: Option<SubscriptionId>,
    key: (LogBookId, Tag),
    want: Want,
    /// Of the answer, unless its first record is larger.
    bytes_max: usize,
    place: Place,
    stage: Stage,
    /// Until when it waits for a record.
    wait_until: Option<Time>,
    slots: Vec<Slot>,
    /// The slots are all that there is.
    complete: bool,
    /// Some may be dead by their tags: the index did not know all of those yet.
    may_be_dead: bool,
    /// It has come down past dead records, from above the trim point.
    went_back: bool,
    /// Trims that were applied when it looked.
    trims: u64,
    /// The answer is to have aux data.
    aux: bool,
    fetches: usize,
    /// What was ordered when it was looked for ends before this.
    seen: SeqNum,
    /// How many slots the best of the last fetches filled: the next ones are likely like it.
    stride: usize,
    corrupt: bool,
}

/// A record that is being fetched.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    read: u64,
    slot: usize,
    pub at: LocalId,
    /// Records up to before this position are wanted as well.
    pub until: u64,
    pub attempt: usize,
    /// The storage asked; none while no replica is connected.
    pub asked: Option<NodeId>,
    pub asked_at: Time,
    /// A replica has it and can't read it.
    pub corrupt: bool,
}

/// What reads are answered from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub index: &'a Index,
    pub order: &'a Order,
    pub producer: &'a Producer,
    /// The place that the index has applied.
    pub applied: Place,
    /// All records that it has are below.
    pub next: SeqNum,
    pub now: Time,
}

/// All reads that could not be answered at once.
#[derive(Debug)]
pub struct Reads {
    reads: HashMap<u64, Read, FixedState>,
    last: u64,
    by_connection: BTreeSet<(ConnectionId, u64)>,
    by_place: BTreeSet<(Place, u64)>,
    by_key: HashMap<(LogBookId, Tag), Vec<u64>, FixedState>,
    by_deadline: BTreeSet<(Time, u64)>,
    /// Reads that want the next commit query, and those that wait for one under way.
    unasked: Vec<u64>,
    /// Trims applied so far, and indexes that came in the place of others.
    trims: u64,
    queries: BTreeMap<u64, Vec<u64>>,
    last_query: u64,
    fetches: BTreeMap<u64, Fetch>,
    last_fetch: u64,
    /// Fetches to be sent at the end of the turn.
    unsent: Vec<u64>,
    /// Keys that got a record while somebody waits for one.
    woken: Vec<(LogBookId, Tag)>,
    ready_trims: Vec<ReadyTrim>,
    /// Pages of subscriptions that were read.
    pages: Vec<ReadPage>,
    waiting_max: usize,
    /// Aux data of records.
    pub aux: AuxCache,
}

impl Reads {
    pub fn new(waiting_max: usize, aux_bytes_max: usize, hash_seed: u64) -> Reads {
        Reads {
            reads: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            last: 0,
            by_connection: BTreeSet::new(),
            by_place: BTreeSet::new(),
            by_key: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            by_deadline: BTreeSet::new(),
            unasked: Vec::new(),
            trims: 0,
            queries: BTreeMap::new(),
            last_query: 0,
            fetches: BTreeMap::new(),
            last_fetch: 0,
            unsent: Vec::new(),
            woken: Vec::new(),
            ready_trims: Vec::new(),
            pages: Vec::new(),
            waiting_max,
            aux: AuxCache::new(aux_bytes_max),
        }
    }

    pub fn len(&self) -> usize {
        self.reads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Trims that may be asked for now.
    pub fn take_ready_trims(&mut self) -> Vec<ReadyTrim> {
        std::mem::take(&mut self.ready_trims)
    }

    fn begin(&mut self, sources: Sources<'_>, mut read: Read, linearizable: bool, outputs: &mut Outputs) {
        if self.reads.len() >= self.waiting_max {
            let message = format!("{} reads wait on this engine already: try again later", self.reads.len());
            outputs.reply(read.connection, read.request, Reply::Error { code: ErrorCode::Busy, message });
            return;
        }
        self.last += 1;
        let id = self.last;
        if linearizable {
            read.stage = Stage::Query;
            self.unasked.push(id);
            self.keep(id, read);
        } else {
            self.look(id, read, sources, outputs);
        }
    }

    fn keep(&mut self, id: u64, read: Read) {
        self.by_connection.insert((read.connection, id));
        self.reads.insert(id, read);
    }

    fn take(&mut self, id: u64) -> Option<Read> {
        let read = self.reads.remove(&id)?;
        self.by_connection.remove(&(read.connection, id));
        match read.stage {
            Stage::Place => {
                self.by_place.remove(&(read.place, id));
            }
            Stage::Record => {
                if let Some(waiters) = self.by_key.get_mut(&read.key) {
                    waiters.retain(|waiter| *waiter != id);
                    if waiters.is_empty() {
                        self.by_key.remove(&read.key);
                    }
                }
            }
            Stage::Query | Stage::Bytes => {}
        }
        if let Some(until) = read.wait_until {
            self.by_deadline.remove(&(until, id));
        }
        Some(read)
    }

    /// Answers a read from the index, or lets it wait for the next thing that it needs.
    fn look(&mut self, id: u64, mut read: Read, sources: Sources<'_>, outputs: &mut Outputs) {
        if sources.applied < read.place && !active(Mutant::ReadIgnoresPlace) {
            mark(Mark::ReadWaitedForPlace);
            read.stage = Stage::Place;
            self.by_place.insert((read.place, id));
            self.keep(id, read);
            return;
        }
        let place = sources.applied;
        let (from, until, backward, records_max) = match read.want {
            Want::Records { from, until, backward, records_max } => (from, until, backward, records_max),
            Want::Tail => {
                let tail = sources.index.tail(read.key.0, read.key.1);
                return self.answer(&read, Reply::Tail { tail, place }, outputs);
            }
            Want::Description => {
                let described = Reply::Described { description: Box::new(sources.index.describe(read.key.0)), place };
                return self.answer(&read, described, outputs);
            }
            Want::Class { name } => {
                let class = sources.index.class_of(read.key.0, name);
                return self.answer(&read, Reply::NameKnown { class, is_new: false, place }, outputs);
            }
            Want::Trim { first } => {
                let Read { connection, request, key, .. } = read;
                return self.ready_trims.push(ReadyTrim { connection, request, key, first });
            }
        };
        let first = sources.index.first(read.key.0, read.key.1);
        if from < first && !read.went_back {
            mark(Mark::ReadTrimmed);
            return self.answer(&read, Reply::Trimmed { first, place }, outputs);
        }
        read.seen = sources.next;
        let mut found = Vec::new();
        read.complete = if backward {
            sources.index.backward(read.key, (from, until), records_max, &mut found)
        } else {
            sources.index.forward(read.key, (from, until), records_max, &mut found)
        };
        let last = found.last().copied().filter(|_| !read.complete).unwrap_or(until);
        if sources.index.lost_between(from.min(last), from.max(last)) {
            self.answer(&read, corrupt(), outputs);
            return;
        }
        if found.is_empty()
            && let Some(wait_until) = read.wait_until.filter(|wait_until| sources.now < *wait_until)
        {
            mark(Mark::ReadWaitedForRecord);
            read.stage = Stage::Record;
            self.by_key.entry(read.key).or_default().push(id);
            self.by_deadline.insert((wait_until, id));
            self.keep(id, read);
            return;
        }
        read.found(&found, sources.order);
        (read.stage, read.trims) = (Stage::Bytes, self.trims);
        read.may_be_dead = read.key.1 == Tag::ALL && !sources.index.knows_its_dead();
        self.gather(id, read, sources, outputs);
    }

    /// Gets the bytes of a read's records: from memory, else in waves from the storages. Answers
    /// when all are there, or enough for one answer.
    fn gather(&mut self, id: u64, mut read: Read, sources: Sources<'_>, outputs: &mut Outputs) {
        if read.may_be_dead && read.trims != self.trims {
            // What is dead now was perhaps not as it looked, and would be missing from a whole answer.
            return self.look(id, read, sources, outputs);
        }
        let mut present = 0;
        while let Some(slot) = read.slots.get(present) {
            if slot.batch.is_none()
                && let Some(batch) = sources.producer.cached(slot.at.shard, slot.at.position)
            {
                read.fill(present, present, &batch);
            }
            if read.slots[present].batch.is_none() {
                break;
            }
            present += 1;
        }
        if read.may_be_dead {
            // Trims were not yet swept behind as it looked: the records' own tags tell.
            let last = read.slots.last().map(|slot| slot.seqnum);
            read.slots.retain(|slot| !slot.is_dead(sources.index, read.key.0));
            if let Some(last) = last.filter(|_| read.slots.is_empty() && !read.corrupt) {
                read.go_on_after(last);
                return self.look(id, read, sources, outputs);
            }
            present = read.slots.iter().take_while(|slot| slot.batch.is_some()).count();
        }
        let (fitting, bytes) = read.fitting(present, &self.aux);
        let (is_full, is_whole) = (fitting < present || bytes >= read.bytes_max, present == read.slots.len());
        if !is_full && !is_whole && !read.corrupt {
            self.fetch_wave(id, &mut read, present, bytes);
            self.keep(id, read);
            return;
        }
        let complete = read.complete && !read.corrupt && fitting == read.slots.len();
        read.slots.truncate(fitting);
        if read.slots.is_empty() && read.corrupt {
            self.answer(&read, corrupt(), outputs);
            return;
        }
        let aux = if read.aux { self.aux_of(&read) } else { Vec::new() };
        let reply = RecordsReply { place: sources.applied, complete, parts: read.parts(), aux };
        self.answer(&read, Reply::Records(reply), outputs);
    }

    fn aux_of(&mut self, read: &Read) -> Vec<RecordAux> {
        let logbook = read.key.0;
        let aux_of = |(record, slot): (u16, &Slot)| {
            let record = if active(Mutant::AuxOfFirstRecord) { 0 } else { record };
            self.aux.get((logbook, slot.seqnum)).map(|data| RecordAux { record, data })
        };
        (0..).zip(&read.slots).filter_map(aux_of).collect()
    }

    /// Batches came for a fetch, one behind the other, or (`None`) no replica can read them.
    pub fn fetched(&mut self, fetch: u64, batches: Option<&[Bytes]>, sources: Sources<'_>, outputs: &mut Outputs) {
        let Some(fetch) = self.fetches.remove(&fetch) else { return };
        let Some(mut read) = self.take(fetch.read) else { return };
        read.fetches -= 1;
        match batches {
            Some(batches) => read.fill_all(fetch.slot, batches),
            None => read.corrupt = true,
        }
        if read.fetches > 0 {
            self.keep(fetch.read, read);
        } else {
            self.gather(fetch.read, read, sources, outputs);
        }
    }

    /// Begins reads anew that have waited too long for bytes: the records may have been trimmed.
    pub fn retry(&mut self, sources: Sources<'_>, outputs: &mut Outputs) {
        let overdue = |fetch: &Fetch| fetch.asked.is_none() || sources.now.since(fetch.asked_at) >= REQUEST_RETRY;
        let late: BTreeSet<u64> =
            self.fetches.values().filter(|fetch| overdue(fetch)).map(|fetch| fetch.read).collect();
        self.fetches.retain(|_, fetch| !late.contains(&fetch.read));
        for id in late {
            let Some(mut read) = self.take(id) else { continue };
            read.slots.clear();
            read.fetches = 0;
            self.look(id, read, sources, outputs);
        }
    }

    /// The number of a commit query for the reads that came since the last one, if there are any.
    pub fn next_query(&mut self) -> Option<u64> {
        if self.unasked.is_empty() {
            return None;
        }
        self.last_query += 1;
        self.queries.insert(self.last_query, std::mem::take(&mut self.unasked));
        Some(self.last_query)
    }

    /// All queries without an answer are to be asked again: of a new primary, or for good measure.
    pub fn requery(&mut self) {
        for (_, reads) in std::mem::take(&mut self.queries) {
            self.unasked.extend(reads);
        }
    }

    pub fn has_queries(&self) -> bool {
        !self.queries.is_empty() || !self.unasked.is_empty()
    }

    /// What was committed when a query came is before this place.
    pub fn confirmed(&mut self, query: u64, place: Place, sources: Sources<'_>, outputs: &mut Outputs) {
        for id in self.queries.remove(&query).unwrap_or_default() {
            if let Some(mut read) = self.take(id) {
                read.place = read.place.max(place);
                self.look(id, read, sources, outputs);
            }
        }
    }

    /// Somebody may wait for a record under this key, which has one now.
    pub fn wake(&mut self, key: (LogBookId, Tag)) {
        if !self.by_key.is_empty() && self.by_key.contains_key(&key) {
            self.woken.push(key);
        }
    }

    /// Another index has come: whoever waits for a record looks again.
    pub fn wake_all(&mut self) {
        self.trim_applied();
        self.woken.extend(self.by_key.keys().copied());
    }

    /// The index has applied a trim.
    pub fn trim_applied(&mut self) {
        self.trims += 1;
    }

    /// The index has applied more: answers what waited for it.
    pub fn applied(&mut self, sources: Sources<'_>, outputs: &mut Outputs) {
        while let Some((place, id)) = self.by_place.first().copied()
            && place <= sources.applied
        {
            let read = self.take(id).expect("listed under its place");
            self.look(id, read, sources, outputs);
        }
        for key in std::mem::take(&mut self.woken) {
            for id in self.by_key.get(&key).cloned().unwrap_or_default() {
                if let Some(read) = self.take(id) {
                    self.look(id, read, sources, outputs);
                }
            }
        }
    }

    /// Answers the waits whose time is up: with nothing.
    pub fn expire(&mut self, sources: Sources<'_>, outputs: &mut Outputs) {
        while let Some((until, id)) = self.by_deadline.first().copied()
            && until <= sources.now
        {
            match self.take(id) {
                Some(read) => self.look(id, read, sources, outputs),
                None => {
                    self.by_deadline.remove(&(until, id));
                }
            }
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.by_deadline.first().map(|(time, _)| *time)
    }

    /// Forgets the reads of a connection.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        let first = (connection, 0);
        let ids: Vec<u64> =
            self.by_connection.range(first..).take_while(|(of, _)| *of == connection).map(|(_, id)| *id).collect();
        for id in ids {
            self.take(id);
        }
    }
}

impl Read {
    fn new(
        connection: ConnectionId,
        request: u64,
        key: (LogBookId, Tag),
        want: Want,
        place: Place,
        wait_until: Option<Time>,
    ) -> Read {
        Read {
            connection,
            request,
            subscription: None,
            key,
            want,
            bytes_max: READ_BYTES_MAX,
            place,
            stage: Stage::Place,
            wait_until,
            slots: Vec::new(),
            complete: true,
            may_be_dead: false,
            went_back: false,
            trims: 0,
            aux: false,
            fetches: 0,
            seen: SeqNum::MIN,
            stride: 0,
            corrupt: false,
        }
    }
}

fn corrupt() -> Reply {
    let message = "the record is there and its bytes are damaged; other records can still be read".into();
    Reply::Error { code: ErrorCode::Corrupt, message }
}
