//! Whether the register answers, and since when it does not: for the status, and for the log, which
//! hears of a long outage now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sealog_control::register::RegisterError;

/// An outage is logged when it begins, and again after so long.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Who asked the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Machines, whenever they wish.
    Wishes,
    /// The watch, all the time.
    Watch,
}

/// How it stands with a node's register.
#[derive(Debug)]
pub struct RegisterHealth {
    /// As the setting has it.
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wishes: Option<Outage>,
    watch: Option<Outage>,
    logged: Option<Instant>,
}

/// A register that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    pub since: Instant,
    /// What was wrong last.
    pub reason: String,
}

impl RegisterHealth {
    pub fn new(name: String) -> RegisterHealth {
        RegisterHealth { name, state: Mutex::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Since when it can't be used, unless it can.
    pub fn outage(&self) -> Option<Outage> {
        let state = self.state();
        let outages = [&state.watch, &state.wishes].into_iter().flatten();
        outages.min_by_key(|outage| outage.since).cloned()
    }

    /// It answered.
    pub fn reached(&self, way: Way) {
        let mut state = self.state();
        let was_out = state.wishes.is_some() || state.watch.is_some();
        state.wishes = None;
        if way == Way::Watch {
            // Nobody may wish for anything for long, but the watch goes on, and would see.
            state.watch = None;
        }
        if was_out && state.watch.is_none() && state.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            tracing::info!(register = self.name, "the register can be reached again");
        }
    }

    /// It did not.
    pub fn failed(&self, way: Way, error: &RegisterError) {
        let mut state = self.state();
        let now = Instant::now();
        let outage = match way {
            Way::Wishes => &mut state.wishes,
            Way::Watch => &mut state.watch,
        };
        let since = outage.as_ref().map_or(now, |outage| outage.since);
        *outage = Some(Outage { since, reason: error.to_string() });
        if state.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL) {
            state.logged = Some(now);
            tracing::warn!(
                register = self.name,
                %error,
                "the register can't be used: views can't be changed, appends and reads go on"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_until_the_watch_goes_on() {
        let error = |what: &str| RegisterError::Unwatchable { source: std::io::Error::other(what.to_owned()) };
        let health = RegisterHealth::new("file".to_owned());
        assert_eq!(health.outage(), None);
        health.failed(Way::Watch, &error("first"));
        let began = health.outage().unwrap().since;
        health.failed(Way::Watch, &error("second"));
        health.failed(Way::Wishes, &error("third"));
        let outage = health.outage().unwrap();
        assert!(outage.since == began && outage.reason.contains("second"), "{outage:?}");
        health.reached(Way::Wishes);
        assert_eq!(health.outage().unwrap().since, began, "a wish is not a watch");
        health.failed(Way::Wishes, &error("fourth"));
        health.reached(Way::Watch);
        assert_eq!(health.outage(), None);
    }
}
