//! What a storage has in which segment of the journal, and which segment is worth a look.

use std::collections::BTreeMap;

use sealog_protocol::{Place, ViewNumber};

#[derive(Clone, Debug, Default)]
struct Segment {
    /// The first that was seen is the oldest: segments' numbers are used again.
    order: u64,
    /// Records that are found here, not those of which a later copy counts.
    records: u64,
    /// Checkpoint parts that count.
    parts: u64,
    /// Records that engines said to be dying. Lost with a restart.
    dying: u64,
    /// The last committed checkpoint and `dying`, when it was looked at last.
    judged: Option<(Place, u64)>,
    /// Written in this life, so that hints tell of it; or looked at since the start.
    is_known: bool,
    /// Something in it can't be read: it stays.
    is_damaged: bool,
    is_vacated: bool,
    /// What it holds is to be appended again, for some of its bytes are damaged.
    is_rotten: bool,
    /// The journal has said that no more comes into it.
    is_closed: bool,
    /// What recovery could not hand over of it is looked for: until then it tells that there is damage.
    is_kept: bool,
}

/// A segment is nearly dead when all but one in so many of its records were said to be dying.
const LIVING_SHARE: u64 = 16;

impl Segment {
    fn is_nearly_dead(&self) -> bool {
        self.dying + self.records / LIVING_SHARE >= self.records
    }
}

/// The segments that a storage has something in.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    segments: BTreeMap<u32, Segment>,
    seen: u64,
    /// Where the last durable append lies. More may come there.
    latest: Option<u32>,
    /// Until something is durable in this life, nobody knows which segment gets more.
    started: bool,
    /// Where the newest durable seal lies.
    seal: Option<(ViewNumber, u32)>,
    /// Something changed since segments were looked at.
    look: bool,
}

impl Segments {
    fn segment(&mut self, segment: u32) -> &mut Segment {
        let seen = &mut self.seen;
        self.segments.entry(segment).or_insert_with(|| {
            *seen += 1;
            Segment { order: *seen, ..Segment::default() }
        })
    }

    /// Whether something changed since the last call.
    pub fn take_look(&mut self) -> bool {
        std::mem::take(&mut self.look)
    }

    pub fn look(&mut self) {
        self.look = true;
    }

    /// The last append became durable here.
    pub fn moved_to(&mut self, segment: u32) {
        if self.latest != Some(segment) {
            self.segment(segment).is_known = true;
            self.latest = Some(segment);
            self.started = true;
            self.look = true;
        }
    }

    /// The journal wants this segment back: no more comes into it.
    pub fn vacate(&mut self, segment: u32) {
        self.close(segment);
        let vacated = self.segment(segment);
        vacated.is_vacated = true;
        vacated.is_damaged = false;
        self.look = true;
    }

    /// No more comes into this segment.
    pub fn close(&mut self, segment: u32) {
        if self.latest == Some(segment) {
            self.latest = None;
        }
        self.segment(segment).is_closed = true;
    }

    /// Some of its bytes are damaged. Whether that is news.
    pub fn rot(&mut self, segment: u32) -> bool {
        self.look = true;
        let rotten = self.segment(segment);
        rotten.is_damaged = false;
        !std::mem::replace(&mut rotten.is_rotten, true)
    }

    /// Nothing is moved from it, and it is not given back, until it is let go.
    pub fn keep(&mut self, segment: u32, is_kept: bool) {
        self.segment(segment).is_kept = is_kept;
        self.look = true;
    }

    /// Damaged segments are tried again.
    pub fn try_again(&mut self) {
        for segment in self.segments.values_mut().filter(|segment| segment.is_rotten) {
            segment.is_damaged = false;
        }
        self.look = true;
    }

    pub fn is_vacated(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.is_vacated)
    }

    /// All that counts in it is to be moved, whatever lives.
    pub fn has_to_go(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.is_vacated || segment.is_rotten)
    }

    /// Damaged segments, and those of them that only a read has found.
    pub fn rotten(&self) -> (usize, usize) {
        let rotten = self.segments.values().filter(|segment| segment.is_rotten);
        (rotten.clone().count(), rotten.filter(|segment| !segment.is_closed).count())
    }

    pub fn is_rotten(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.is_rotten)
    }

    pub fn holds(&self, segment: u32) -> bool {
        self.segments.contains_key(&segment)
    }

    pub fn touch(&mut self, segment: u32) {
        self.segment(segment);
    }

    pub fn add_records(&mut self, segment: u32, records: u64) {
        self.segment(segment).records += records;
    }

    /// Records are found elsewhere now.
    pub fn replaced(&mut self, replaced: &[(u32, u64)]) {
        for (segment, records) in replaced {
            let segment = self.segment(*segment);
            segment.records = segment.records.saturating_sub(*records);
        }
    }

    pub fn add_part(&mut self, segment: u32) {
        self.segment(segment).parts += 1;
    }

    pub fn drop_part(&mut self, segment: u32) {
        let segment = self.segment(segment);
        segment.parts = segment.parts.saturating_sub(1);
        self.look |= segment.parts == 0;
    }

    pub fn add_dying(&mut self, segment: u32, records: u64) {
        let segment = self.segment(segment);
        segment.dying = (segment.dying + records).min(segment.records);
        self.look |= segment.dying * 2 >= segment.records;
    }

    /// All that counted of it is elsewhere.
    pub fn emptied(&mut self, segment: u32) {
        let emptied = self.segment(segment);
        (emptied.records, emptied.parts) = (0, 0);
        self.look = true;
    }

    /// It was looked at, and stays as it is.
    pub fn left(&mut self, segment: u32, checkpoint: Option<Place>, is_damaged: bool) {
        let segment = self.segment(segment);
        segment.judged = checkpoint.map(|place| (place, segment.dying));
        segment.is_known = true;
        segment.is_damaged |= is_damaged;
        self.look = true;
    }

    pub fn sealed(&mut self, view: ViewNumber, segment: u32) {
        if self.seal.is_none_or(|(newest, _)| newest <= view) {
            self.seal = Some((view, segment));
        }
        self.touch(segment);
        self.look = true;
    }

    /// The newest seal, if it lies in this segment.
    pub fn seal_in(&self, segment: u32) -> Option<ViewNumber> {
        self.seal.filter(|(_, of)| *of == segment).map(|(view, _)| view)
    }

    /// Segments that hold nothing that counts, but perhaps the newest seal.
    pub fn free(&self) -> Vec<u32> {
        let gets_more = |segment: u32| self.latest == Some(segment) || !self.started;
        let bare = self.segments.iter().filter(|(_, segment)| segment.records == 0 && segment.parts == 0);
        let free = bare.filter(|(number, segment)| !segment.is_kept && (segment.is_closed || !gets_more(**number)));
        free.map(|(number, _)| *number).collect()
    }

    /// Whether it was there, and vacated.
    pub fn forget(&mut self, segment: u32) -> bool {
        self.segments.remove(&segment).is_some_and(|segment| segment.is_vacated)
    }

    pub fn len(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether nearly all that is here was said to be dying: there is little to copy, if anything.
    pub fn is_nearly_dead(&self, segment: u32) -> bool {
        self.segments.get(&segment).is_some_and(Segment::is_nearly_dead)
    }

    /// Whether there is such a segment that is worth a look.
    pub fn has_nearly_dead(&self, checkpoint: Option<Place>) -> bool {
        checkpoint.is_some_and(|checkpoint| self.hinted(checkpoint).any(|(_, segment)| segment.is_nearly_dead()))
    }

    /// Segments of which half was said to be dying, since the last look or the last checkpoint.
    fn hinted(&self, checkpoint: Place) -> impl Iterator<Item = (&u32, &Segment)> {
        self.closed().filter(move |(_, segment)| {
            let news = segment.judged.is_none_or(|(judged_at, dying)| {
                judged_at < checkpoint || segment.dying - dying.min(segment.dying) > segment.records / 4
            });
            segment.dying * 2 >= segment.records && news
        })
    }

    /// Segments with records that get no more, of which what lives can be copied.
    fn closed(&self) -> impl Iterator<Item = (&u32, &Segment)> {
        let closed = |number: u32, segment: &Segment| {
            self.started && self.latest != Some(number) && segment.parts == 0 && segment.records > 0
        };
        let may_go = |segment: &Segment| !segment.is_damaged && !segment.is_kept;
        self.segments.iter().filter(move |(number, segment)| may_go(segment) && closed(**number, segment))
    }

    /// The segment to look at next: one that has to go, which a damaged one does where there is room for
    /// what it holds; else one of which half was said to be dying, since the last look or the last
    /// checkpoint, nearly dead ones first; else the oldest that nobody has looked at.
    pub fn next(&self, checkpoint: Option<Place>, has_room: bool) -> Option<u32> {
        let holds = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.records + segment.parts > 0 && !segment.is_damaged && !segment.is_kept);
        if let Some((number, _)) = holds.clone().find(|(_, segment)| segment.is_vacated) {
            return Some(*number);
        }
        let gets_more = |segment: u32| self.latest == Some(segment) || !self.started;
        let mut rotten = holds.filter(|(_, segment)| segment.is_rotten && has_room);
        if let Some((number, _)) = rotten.find(|(number, segment)| segment.is_closed || !gets_more(**number)) {
            return Some(*number);
        }
        // Without a checkpoint nothing is dead: an index could be rebuilt from nothing else.
        let checkpoint = checkpoint?;
        let hinted = self.hinted(checkpoint).min_by_key(|(_, segment)| (!segment.is_nearly_dead(), segment.order));
        let unknown =
            || self.closed().filter(|(_, segment)| !segment.is_known).min_by_key(|(_, segment)| segment.order);
        hinted.or_else(unknown).map(|(number, _)| *number)
    }
}
