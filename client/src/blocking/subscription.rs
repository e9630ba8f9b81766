//! The blocking face: a subscription.

use std::sync::Arc;

use super::wheel::Shared;
use crate::error::SubscribeError;
use crate::session::{OperationId, Subscribe, SubscriptionEvent};

/// Records of a LogBook as they come: see [`crate::Subscription`]. Its iterator blocks until there is
/// one.
pub struct Subscription {
    shared: Arc<Shared>,
    /// None: it is over.
    operation: Option<OperationId>,
    /// To be told first.
    failure: Option<SubscribeError>,
}

impl Subscription {
    pub(super) fn begin(shared: &Arc<Shared>, wanted: Subscribe) -> Subscription {
        let (operation, failure) = match shared.turn(|core, now| core.subscribe(now, wanted)) {
            Ok(operation) => (Some(operation), None),
            Err(error) => (None, Some(error)),
        };
        Subscription { shared: shared.clone(), operation, failure }
    }

    /// The next thing of what has come already; `None` if that is all for now.
    ///
    /// # Errors
    /// As the iterator.
    pub fn next_ready(&mut self) -> Option<Result<SubscriptionEvent, SubscribeError>> {
        let Some(operation) = self.operation else { return self.failure.take().map(Err) };
        let told = self.shared.turn(|core, now| core.next_event(now, operation, None));
        self.took(told)
    }

    fn took(
        &mut self,
        told: Option<Result<SubscriptionEvent, SubscribeError>>,
    ) -> Option<Result<SubscriptionEvent, SubscribeError>> {
        if let Some(Err(error)) = &told
            && !error.is_retryable()
        {
            self.end();
        }
        told
    }

    fn end(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.shared.turn(|core, now| core.unsubscribe(now, operation));
        }
    }
}

impl Iterator for Subscription {
    type Item = Result<SubscriptionEvent, SubscribeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(operation) = self.operation else { return self.failure.take().map(Err) };
        let told = self.shared.drive(|core, now, waker| core.next_event(now, operation, Some(waker)));
        self.took(Some(told))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
    }
}
