//! The async face: a subscription.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::error::SubscribeError;
use crate::face::driver::Shared;
use crate::session::{OperationId, Subscribe, SubscriptionEvent};

/// Records of a LogBook as they come, each once, in order. Take them by [`Subscription::next`], or as
/// a [`Stream`].
///
/// It outlives connections: a lost one is made again, and the records go on where they were. The
/// server sends ahead of the consumer up to a bound in bytes, [`crate::Builder::subscription_bytes`];
/// a slow consumer holds up itself alone. Dropping it ends it.
pub struct Subscription {
    shared: Arc<Shared>,
    /// None: it is over.
    operation: Option<OperationId>,
    /// To be told first.
    failure: Option<SubscribeError>,
}

impl Subscription {
    pub(crate) fn begin(shared: &Arc<Shared>, wanted: Subscribe) -> Subscription {
        let (operation, failure) = match shared.turn(|core, now| core.subscribe(now, wanted)) {
            Ok(operation) => (Some(operation), None),
            Err(error) => (None, Some(error)),
        };
        Subscription { shared: shared.clone(), operation, failure }
    }

    /// The next record, or that some are gone. `None` after an error that ended it.
    ///
    /// # Errors
    /// [`SubscribeError`]; after one that is [retryable](SubscribeError::is_retryable) it goes on.
    pub async fn next(&mut self) -> Option<Result<SubscriptionEvent, SubscribeError>> {
        poll_fn(|context| self.poll_event(context)).await
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<SubscriptionEvent, SubscribeError>>> {
        let Some(operation) = self.operation else { return Poll::Ready(self.failure.take().map(Err)) };
        let told = self.shared.turn(|core, now| core.next_event(now, operation, Some(context.waker())));
        if let Some(Err(error)) = &told
            && !error.is_retryable()
        {
            self.end();
        }
        told.map_or(Poll::Pending, |told| Poll::Ready(Some(told)))
    }

    fn end(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.shared.turn(|core, now| core.unsubscribe(now, operation));
        }
    }
}

impl Stream for Subscription {
    type Item = Result<SubscriptionEvent, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
    }
}
