//! What is asked for a subscription.

use rkyv::{Archive, Deserialize, Serialize};

use super::PlaceWire;

/// Asks for the records of a LogBook's tag from a SeqNum on: those that are there, and those that come.
///
/// They come as [`Reply::Records`](super::Reply::Records) under this request's id, in order, each once, in pages of any size;
/// the first page comes at once, empty if there is nothing to send. [`Reply::Trimmed`](super::Reply::Trimmed) under the same id
/// says that what was to come next is gone, and that the subscription goes on at its `first`. An error
/// ends it, as does the end of the connection.
///
/// A page is sent while there is credit, and takes as much as its frame's payload has bytes. The last
/// one may take more than is left, by at most a page; nothing comes then until that is made good.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SubscribeRequest {
    pub logbook: u64,
    /// 0 subscribes to every record.
    pub tag: u64,
    /// The first SeqNum wanted.
    pub from: u64,
    /// The credit to begin with, in bytes. At most [`crate::limits::SUBSCRIPTION_CREDIT_MAX`] count.
    pub credit_bytes: u32,
    /// Begin when the engine has applied this place: what the session has seen.
    pub place: PlaceWire,
}

/// More credit for a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CreditRequest {
    pub logbook: u64,
    /// The request id of its [`Request::Subscribe`].
    pub subscription: u64,
    /// 0 asks for a sign of life: a page without records.
    pub bytes: u32,
}
