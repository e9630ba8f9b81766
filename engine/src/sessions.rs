//! Sessions: which requests have had their verdict, so that a repeat gets the same one.
//!
//! All of it is a function of the log: bounded by settings that the chain of views fixes, and the
//! session whose last record is oldest is forgotten first, in log order.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sealog_protocol::mutant::{Mark, mark};
use sealog_protocol::view::ClusterSettings;
use sealog_protocol::{RequestNumber, SeqNum, SessionId};

/// What became of a request's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Visible; its first record has this SeqNum.
    Visible { seqnum: SeqNum },
    /// Void: its condition did not hold; the tail was this.
    ConditionFailed { tail: SeqNum },
}

/// What a session says of a request before its batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It has had no verdict.
    New,
    Repeat(Verdict),
    /// The session is unknown, or the request is outside its window.
    Expired,
}

/// The sessions of a logspace.
#[derive(Debug)]
pub struct Sessions {
    sessions_max: usize,
    window: u64,
    by_id: HashMap<SessionId, u32, FixedState>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Ends of the list of sessions by last record: `oldest` is forgotten first.
    oldest: u32,
    newest: u32,
    verdicts: usize,
}

#[derive(Debug)]
struct Slot {
    id: SessionId,
    older: u32,
    newer: u32,
    /// The lowest request number that may still come. What is below was answered.
    lowest: u64,
    /// Verdicts of requests from `lowest` on.
    verdicts: VecDeque<Option<Verdict>>,
}

const NONE: u32 = u32::MAX;

impl Sessions {
    pub fn new(settings: &ClusterSettings, hash_seed: u64) -> Sessions {
        Sessions {
            sessions_max: settings.sessions_max as usize,
            window: u64::from(settings.session_window),
            by_id: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            verdicts: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Bytes of memory held, about.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.verdicts * size_of::<Option<Verdict>>()
            + self.by_id.capacity() * 13
    }

    /// Opens a session; the oldest one goes when there are too many.
    pub fn open(&mut self, id: SessionId) {
        if self.by_id.len() >= self.sessions_max {
            mark(Mark::SessionEvicted);
            self.evict(self.oldest);
        }
        let slot = Slot { id, older: NONE, newer: NONE, lowest: 1, verdicts: VecDeque::new() };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id, at);
        self.link_newest(at);
    }

    /// What is known of a request, for an engine that wants to answer without the log. Says `New`
    /// for what only the log can decide.
    pub fn peek(&self, id: SessionId, request: RequestNumber) -> Known {
        let Some(at) = self.by_id.get(&id) else { return Known::New };
        let slot = &self.slots[*at as usize];
        let Some(nth) = request.0.checked_sub(slot.lowest) else { return Known::Expired };
        match slot.verdicts.get(nth as usize) {
            Some(Some(verdict)) => Known::Repeat(*verdict),
            _ => Known::New,
        }
    }

    /// Takes a record of a session, in log order: makes it the newest, forgets what its low mark
    /// says was answered, and says what is known of the request.
    pub fn touch(&mut self, id: SessionId, request: RequestNumber, lowest_unanswered: RequestNumber) -> Known {
        let Some(at) = self.by_id.get(&id).copied() else { return Known::Expired };
        self.unlink(at);
        self.link_newest(at);
        let slot = &mut self.slots[at as usize];
        let mark = lowest_unanswered.0.min(request.0);
        while slot.lowest < mark {
            if slot.verdicts.is_empty() {
                slot.lowest = mark;
                break;
            }
            slot.verdicts.pop_front();
            self.verdicts -= 1;
            slot.lowest += 1;
        }
        let Some(nth) = request.0.checked_sub(slot.lowest) else { return Known::Expired };
        if nth >= self.window {
            return Known::Expired;
        }
        match slot.verdicts.get(nth as usize) {
            Some(Some(verdict)) => Known::Repeat(*verdict),
            _ => Known::New,
        }
    }

    /// Keeps the verdict of a request that [`Sessions::touch`] called new.
    pub fn keep(&mut self, id: SessionId, request: RequestNumber, verdict: Verdict) {
        let at = self.by_id[&id];
        let slot = &mut self.slots[at as usize];
        let nth = (request.0 - slot.lowest) as usize;
        while slot.verdicts.len() <= nth {
            slot.verdicts.push_back(None);
            self.verdicts += 1;
        }
        slot.verdicts[nth] = Some(verdict);
    }

    /// The sessions, the one whose last record is oldest first: each with its low mark and the verdicts
    /// from there on.
    pub fn oldest_first(&self) -> impl Iterator<Item = (SessionId, u64, &VecDeque<Option<Verdict>>)> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.newer;
            Some((slot.id, slot.lowest, &slot.verdicts))
        })
    }

    /// Takes back a session, the newest of those so far.
    pub fn restore(&mut self, id: SessionId, lowest: u64, verdicts: VecDeque<Option<Verdict>>) {
        self.open(id);
        self.verdicts += verdicts.len();
        let slot = &mut self.slots[self.newest as usize];
        (slot.lowest, slot.verdicts) = (lowest, verdicts);
    }

    /// Forgets every verdict: a mutant's mistake.
    pub fn forget_verdicts(&mut self) {
        for slot in &mut self.slots {
            self.verdicts -= slot.verdicts.len();
            slot.verdicts.clear();
        }
    }

    fn evict(&mut self, at: u32) {
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        self.verdicts -= slot.verdicts.len();
        slot.verdicts = VecDeque::new();
        self.by_id.remove(&slot.id);
        self.free.push(at);
    }

    fn unlink(&mut self, at: u32) {
        let (older, newer) = (self.slots[at as usize].older, self.slots[at as usize].newer);
        match older {
            NONE => self.oldest = newer,
            _ => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.slots[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        slot.older = self.newest;
        slot.newer = NONE;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.slots[newest as usize].newer = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealog_protocol::ClusterId;

    fn sessions(sessions_max: u32, session_window: u32) -> Sessions {
        let settings = ClusterSettings { sessions_max, session_window, ..ClusterSettings::new(ClusterId(1), 1) };
        Sessions::new(&settings, 7)
    }

    fn visible(seqnum: u64) -> Verdict {
        Verdict::Visible { seqnum: SeqNum(seqnum) }
    }

    #[test]
    fn a_repeat_gets_the_first_verdict_until_the_client_has_its_answer() {
        let mut sessions = sessions(4, 8);
        let (id, one, two) = (SessionId(9), RequestNumber(1), RequestNumber(2));
        assert_eq!(sessions.touch(id, one, one), Known::Expired, "before it is opened");
        sessions.open(id);
        assert_eq!(sessions.touch(id, two, one), Known::New, "requests come in any order");
        sessions.keep(id, two, visible(20));
        assert_eq!(sessions.touch(id, one, one), Known::New);
        sessions.keep(id, one, Verdict::ConditionFailed { tail: SeqNum(3) });
        assert_eq!(sessions.touch(id, two, one), Known::Repeat(visible(20)));
        assert_eq!(sessions.touch(id, RequestNumber(3), RequestNumber(3)), Known::New);
        assert_eq!(sessions.touch(id, two, two), Known::Expired, "its client had the answer");
        assert_eq!(sessions.touch(id, RequestNumber(11), one), Known::Expired, "beyond the window");
        assert_eq!(sessions.touch(id, RequestNumber(10), one), Known::New);
    }

    #[test]
    fn the_session_whose_last_record_is_oldest_goes_first() {
        let mut sessions = sessions(2, 8);
        let one = RequestNumber(1);
        sessions.open(SessionId(1));
        sessions.open(SessionId(2));
        sessions.touch(SessionId(1), one, one);
        sessions.open(SessionId(3));
        assert_eq!(sessions.touch(SessionId(2), one, one), Known::Expired);
        assert_eq!(sessions.touch(SessionId(1), one, one), Known::New);
        assert_eq!(sessions.touch(SessionId(3), one, one), Known::New);
        assert_eq!(sessions.len(), 2);
    }
}
