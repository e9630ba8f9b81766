//! What a subscription told, held against the log: exactly what reading forward finds, and every gap
//! told.

use sealog_protocol::{LogBookId, SeqNum, Tag};

use crate::history::Found;
use crate::log::FinalLog;
use crate::position::{LAST, Position};
use crate::violation::Violation;

/// What a subscription told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Record(Found),
    /// What was to come before this was trimmed.
    Trimmed {
        first: SeqNum,
    },
}

/// A subscription and all that it told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    pub logbook: LogBookId,
    pub tag: Tag,
    pub from: SeqNum,
    pub told: Vec<Told>,
}

/// How much is asked of what a subscription told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// It had the time to tell everything.
    pub is_whole: bool,
    /// What it told may have been lost since, as the LogBook's class allows.
    pub may_be_lost: bool,
}

impl Subscribed {
    /// All that it told is below: it stands here.
    pub fn next(&self) -> SeqNum {
        match self.told.last() {
            None => self.from,
            Some(Told::Record(found)) => found.seqnum.next(),
            Some(Told::Trimmed { first }) => *first,
        }
    }
}

impl FinalLog {
    /// The last record with a tag that is not gone in the end.
    pub fn last_living(&self, logbook: LogBookId, tag: Tag) -> Option<SeqNum> {
        let (stream, gone) = (self.stream(logbook, tag), self.gone_of(logbook, tag));
        let present = |at: &usize| gone.as_ref().map_or_else(|| stream.gone(*at), |gone| gone.get(*at)) > LAST;
        let at = (0..stream.len()).rev().find(present)?;
        stream.get(at).map(|logged| logged.seqnum)
    }

    /// Compares what a subscription told with this log.
    ///
    /// # Errors
    /// When it left something out that was not told to be trimmed, told something twice, out of order, or
    /// that is not there, or spoke of a trim that there was not. A record all of whose tags are trimmed
    /// is gone from its LogBook without a word.
    pub fn compare_subscription(&self, subscribed: &Subscribed, wanted: Expected) -> Result<(), Violation> {
        let Subscribed { logbook, tag, from, told } = subscribed;
        let (logbook, tag) = (*logbook, *tag);
        let stream = self.stream(logbook, tag);
        let by_tags = (tag == Tag::ALL).then(|| self.gone_by_tags(logbook));
        let is_skipped = |at: usize| by_tags.as_ref().is_some_and(|by_tags| by_tags[at] != Position::NEVER);
        let mut next = stream.count_before(*from);
        let mut last = None;
        for (at, told) in told.iter().enumerate() {
            let differs = |expected: Option<SeqNum>, found| {
                Err(Violation::SubscriptionDiffers { logbook, tag, at, expected, found: Some(found) })
            };
            match told {
                Told::Record(found) => {
                    let place = stream.count_before(found.seqnum);
                    let missed = (next..place).find(|at| !is_skipped(*at)).or(Some(next).filter(|_| place < next));
                    if let Some(missed) = missed {
                        return differs(stream.get(missed).map(|logged| logged.seqnum), found.seqnum);
                    }
                    let logged = stream.get(place).filter(|logged| logged.seqnum == found.seqnum);
                    if logged.is_none() && wanted.may_be_lost && last < Some(found.seqnum) {
                        last = Some(found.seqnum);
                        next = place;
                        continue;
                    }
                    match stream.get(place) {
                        Some(logged) if (logged.seqnum, logged.fingerprint) == (found.seqnum, found.fingerprint) => {}
                        other => return differs(other.map(|logged| logged.seqnum), found.seqnum),
                    }
                    last = Some(found.seqnum);
                    next = place + 1;
                }
                Told::Trimmed { first } => {
                    if *first > self.trim_point(logbook, tag) {
                        return Err(Violation::SubscriptionTrim { logbook, tag, at, first: *first });
                    }
                    next = next.max(stream.count_before(*first));
                }
            }
        }
        let left = (next..stream.len()).find(|at| !is_skipped(*at)).filter(|_| wanted.is_whole);
        // What was trimmed since is told when there is something to tell.
        let left = left.and_then(|at| stream.get(at)).map(|logged| logged.seqnum);
        match left.filter(|seqnum| *seqnum >= self.trim_point(logbook, tag)) {
            None => Ok(()),
            expected => Err(Violation::SubscriptionDiffers { logbook, tag, at: told.len(), expected, found: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Fingerprint;

    const BOOK: LogBookId = LogBookId(3);
    const ONE: Tag = Tag(7);
    const OTHER: Tag = Tag(8);

    fn found(seqnum: u64) -> Found {
        Found { seqnum: SeqNum(seqnum), fingerprint: Fingerprint::new(BOOK, &[], &seqnum.to_le_bytes()) }
    }

    /// Records 1 to 8; the even ones have one tag, the third and the sixth the other. The tag that the
    /// even ones have is trimmed below 5.
    fn log() -> FinalLog {
        let mut log = FinalLog::new();
        for seqnum in 1..=8u64 {
            let mut tags = Vec::new();
            tags.extend((seqnum % 2 == 0).then_some(ONE));
            tags.extend((seqnum % 3 == 0).then_some(OTHER));
            log.push(BOOK, found(seqnum), &tags).expect("in order");
        }
        log.push_trim(BOOK, ONE, SeqNum(5), SeqNum(9));
        log
    }

    fn compare(tag: Tag, from: u64, told: &[Told], is_whole: bool) -> Result<(), Violation> {
        let subscribed = Subscribed { logbook: BOOK, tag, from: SeqNum(from), told: told.to_vec() };
        log().compare_subscription(&subscribed, Expected { is_whole, may_be_lost: false })
    }

    fn records(seqnums: &[u64]) -> Vec<Told> {
        seqnums.iter().map(|seqnum| Told::Record(found(*seqnum))).collect()
    }

    #[test]
    fn all_of_it_in_order_with_every_gap_told_is_right() {
        let trimmed = |first| Told::Trimmed { first: SeqNum(first) };
        assert_eq!(compare(ONE, 0, &[vec![trimmed(5)], records(&[6, 8])].concat(), true), Ok(()));
        // Before it was trimmed, in part.
        assert_eq!(compare(ONE, 1, &[records(&[2]), vec![trimmed(4)], records(&[4, 6, 8])].concat(), true), Ok(()));
        assert_eq!(compare(OTHER, 4, &records(&[6]), true), Ok(()));
        // Records with nothing but trimmed tags are gone without a word, or were there before.
        assert_eq!(compare(Tag::ALL, 1, &records(&[1, 3, 5, 6, 7, 8]), true), Ok(()));
        assert_eq!(compare(Tag::ALL, 1, &records(&[1, 2, 3, 5, 6, 7, 8]), true), Ok(()));
        assert_eq!(compare(ONE, 9, &[], true), Ok(()));
        assert_eq!(compare(ONE, 6, &records(&[6]), false), Ok(()), "it had no time for more");
        assert_eq!(log().last_living(BOOK, OTHER), Some(SeqNum(6)));
        assert_eq!(log().last_living(BOOK, Tag(9)), None);
    }

    #[test]
    fn where_records_may_be_lost_what_was_told_of_them_is_in_order_and_told_once() {
        let compare = |told: &[u64]| {
            let subscribed = Subscribed { logbook: BOOK, tag: OTHER, from: SeqNum(1), told: records(told) };
            log().compare_subscription(&subscribed, Expected { is_whole: true, may_be_lost: true })
        };
        assert_eq!(compare(&[3, 4, 5, 6]), Ok(()), "4 and 5 are lost");
        for wrong in [[3, 4, 4, 6], [3, 5, 4, 6], [3, 6, 4, 6]] {
            assert!(compare(&wrong).is_err(), "{wrong:?}");
        }
        assert!(compare(&[3, 4, 5]).is_err(), "6 is left out");
        assert!(compare(&[4, 6]).is_err(), "3 is left out");
    }

    #[test]
    fn what_is_left_out_repeated_or_made_up_is_found() {
        let trimmed = |first| Told::Trimmed { first: SeqNum(first) };
        let wrong = [
            (ONE, 0, records(&[6, 8])),
            (ONE, 5, records(&[8])),
            (ONE, 5, records(&[6, 6, 8])),
            (ONE, 5, records(&[8, 6])),
            (ONE, 5, records(&[6, 7, 8])),
            (ONE, 5, records(&[6])),
            (ONE, 0, [vec![trimmed(7)], records(&[8])].concat()),
            (OTHER, 0, [vec![trimmed(5)], records(&[6])].concat()),
            (Tag::ALL, 1, records(&[1, 5, 6, 7, 8])),
            (Tag::ALL, 1, records(&[1, 3, 5, 6, 7])),
            (ONE, 5, vec![Told::Record(Found { seqnum: SeqNum(6), ..found(7) }), Told::Record(found(8))]),
        ];
        for (tag, from, told) in wrong {
            assert!(compare(tag, from, &told, true).is_err(), "{tag:?} from {from}: {told:?}");
        }
    }
}
