//! The state of each executor's journal, for whoever asks from another thread or from a host.

use std::sync::Mutex;

use sealog_journal::{Damage, JournalStatus, RecoveryReport};

/// What is known of an executor's journal: its state a moment ago (at the latest when its executor
/// went to sleep), and what recovery found.
#[derive(Debug, Default)]
pub struct JournalWatch {
    status: Mutex<JournalStatus>,
    report: Mutex<RecoveryReport>,
    findings: Mutex<Vec<Damage>>,
}

impl JournalWatch {
    pub fn status(&self) -> JournalStatus {
        *self.status.lock().expect("nobody panics with this lock held")
    }

    pub fn report(&self) -> RecoveryReport {
        self.report.lock().expect("nobody panics with this lock held").clone()
    }

    /// What the scrub found in segments that are still there.
    pub fn findings(&self) -> Vec<Damage> {
        self.findings.lock().expect("nobody panics with this lock held").clone()
    }

    pub(crate) fn set_findings(&self, findings: Vec<Damage>) {
        *self.findings.lock().expect("nobody panics with this lock held") = findings;
    }

    pub(crate) fn set(&self, status: JournalStatus) {
        *self.status.lock().expect("nobody panics with this lock held") = status;
    }

    pub(crate) fn set_report(&self, report: RecoveryReport) {
        *self.report.lock().expect("nobody panics with this lock held") = report;
    }
}
