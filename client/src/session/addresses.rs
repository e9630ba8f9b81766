//! Which of several addresses the session connects to: the one it uses as long as that answers, then
//! the one that may be tried soonest. Each has a backoff of its own, so that one node that is gone
//! does not make the session slow to try another.

use sealog_protocol::Time;

use crate::error::{AddressFailure, ConnectionError};

pub(super) struct Addresses {
    list: Vec<AddressState>,
    current: usize,
}

struct AddressState {
    text: String,
    /// Connections lost or not made since it last answered.
    failures: u32,
    /// Why the last of them was.
    reason: Option<ConnectionError>,
    /// When it may be tried next.
    next: Time,
}

impl Addresses {
    /// `first`: the one to begin with. Without texts there is one address, which the caller knows.
    pub fn new(texts: &[String], first: usize) -> Addresses {
        let state = |text: &String| AddressState { text: text.clone(), failures: 0, reason: None, next: Time::ZERO };
        let list: Vec<AddressState> = match texts.is_empty() {
            true => vec![state(&String::new())],
            false => texts.iter().map(state).collect(),
        };
        Addresses { current: first % list.len(), list }
    }

    pub fn are_several(&self) -> bool {
        self.list.len() > 1
    }

    /// The one in use, or to be tried next.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Failures of the current one since it last answered.
    pub fn failures(&self) -> u32 {
        self.list[self.current].failures
    }

    /// The current one does its work.
    pub fn answered(&mut self) {
        let current = &mut self.list[self.current];
        (current.failures, current.reason) = (0, None);
    }

    /// The current one failed, and may be tried again at `next`. Turns to the one that may be tried
    /// soonest, the next in the list first; says when.
    pub fn failed(&mut self, reason: ConnectionError, next: Time) -> Time {
        let current = &mut self.list[self.current];
        current.failures = current.failures.saturating_add(1);
        (current.reason, current.next) = (Some(reason), next);
        let count = self.list.len();
        let in_turn = (1..=count).map(|step| (self.current + step) % count);
        self.current = in_turn.min_by_key(|at| self.list[*at].next).expect("there is one address at least");
        self.list[self.current].next
    }

    /// Why none of them answers, once each has failed.
    pub fn unreachable(&self) -> Option<ConnectionError> {
        if let [only] = &self.list[..] {
            return only.reason.clone();
        }
        let failure = |state: &AddressState| {
            let reason = Box::new(state.reason.clone()?);
            Some(AddressFailure { address: state.text.clone(), reason })
        };
        let failures = self.list.iter().map(failure).collect::<Option<Vec<_>>>()?;
        Some(ConnectionError::Every { failures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn the_next_in_the_list_is_tried_first_and_then_the_one_whose_backoff_ends_first() {
        let texts: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let mut addresses = Addresses::new(&texts, 4);
        assert_eq!(addresses.current(), 1);
        assert_eq!((addresses.failed(ConnectionError::Closed, at(50)), addresses.current()), (Time::ZERO, 2));
        assert_eq!((addresses.failed(ConnectionError::Closed, at(20)), addresses.current()), (Time::ZERO, 0));
        assert_eq!(addresses.unreachable(), None, "one was not tried");
        assert_eq!((addresses.failed(ConnectionError::Silent, at(90)), addresses.current()), (at(20), 2));
        let Some(ConnectionError::Every { failures }) = addresses.unreachable() else { panic!("all failed") };
        let reasons: Vec<_> = failures.iter().map(|failure| (&failure.address[..], &*failure.reason)).collect();
        let (closed, silent) = (&ConnectionError::Closed, &ConnectionError::Silent);
        assert_eq!(reasons, [("a", silent), ("b", closed), ("c", closed)]);
        addresses.answered();
        assert_eq!((addresses.unreachable(), addresses.failures()), (None, 0));
    }
}
