//! The trace of a run: always a hash, for the same seed must do the same; on request, lines to read.

use crate::queue::{Instant, MICROSECOND};

/// Which lines are wanted: those that contain one of the texts, or all when there is none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub texts: Vec<String>,
    /// From this simulated time on, in microseconds.
    pub from_us: u64,
}

/// What a run does, as it does it.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    filter: Option<Filter>,
}

impl Trace {
    /// A trace that is only hashed.
    pub fn silent() -> Trace {
        Trace::default()
    }

    /// A trace whose lines go to standard output.
    pub fn printed(filter: Filter) -> Trace {
        Trace { filter: Some(filter), ..Trace::default() }
    }

    /// Of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// An event: `facts` are hashed, the line is made only when it is wanted.
    pub fn event(&mut self, now: Instant, facts: &[u64], line: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(now);
        for fact in facts {
            self.mix(*fact);
        }
        if self.filter.is_some() {
            self.print(now, line());
        }
    }

    /// A remark that is no event: only for the reader.
    pub fn remark(&self, now: Instant, line: impl FnOnce() -> String) {
        if self.filter.is_some() {
            self.print(now, line());
        }
    }

    fn mix(&mut self, fact: u64) {
        self.hash = (self.hash.rotate_left(5) ^ fact).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn print(&self, now: Instant, line: String) {
        let Some(filter) = &self.filter else { return };
        let at = now / MICROSECOND;
        let wanted = filter.texts.is_empty() || filter.texts.iter().any(|text| line.contains(text));
        if wanted && at >= filter.from_us {
            println!("{at:>10} us  {line}");
        }
    }
}
