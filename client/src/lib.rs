//! The Sealog client: async on any executor, and blocking.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sealog::{AppendError, Client, SeqNum, SubscriptionEvent, Tag};
//!
//! let client = Client::connect("127.0.0.1:7440").await?; // or "unix:/run/sealog.sock"
//! let orders = client.logbook("orders");
//! let customer = Tag::from_name("customer-17");
//!
//! // Returns when the record is on disk, and its order too.
//! let placed = orders.append(&[customer], b"order 4711 placed").await?;
//! let first = orders.read_next(customer, SeqNum::MIN).await?;
//! println!("{:?}", first.map(|record| record.payload));
//!
//! // Takes effect only if nobody appended for this customer meanwhile.
//! match orders.append_if(customer, Some(placed.seqnum), b"order 4711 paid").await {
//!     Ok(paid) => println!("paid at {}", paid.seqnum),
//!     Err(AppendError::ConditionFailed { tail }) => println!("read up to {tail} first"),
//!     // The deadline passed after it was sent. This finds out, and appends at most once.
//!     Err(AppendError::OutcomeUnknown { retry }) => drop(client.retry(retry).await?),
//!     Err(error) => return Err(error.into()),
//! }
//!
//! // What is there from a SeqNum on, and then what comes; never ends by itself.
//! let mut tail = orders.subscribe(customer, placed.seqnum);
//! if let Some(Ok(SubscriptionEvent::Record(record))) = tail.next().await {
//!     println!("{:?}", record.payload);
//! }
//!
//! // Whoever merges this token sees at least what this client has seen.
//! let token = client.session().token().to_string();
//! # drop(token); Ok(())
//! # }
//! ```
//!
//! Plain threads use [`blocking`], which has the same names. A client that loses its connection makes
//! another and sends again what was not answered: appends are numbered, so each takes effect at most
//! once. [`session`] is all of that as a state machine without I/O.

pub mod blocking;
mod client;
mod error;
mod face;
mod logbook;
pub mod session;
mod subscription;
mod token;

pub use client::{Builder, Client, ClientSession, Created};
pub use error::{
    AddressFailure, AppendError, CheckTailError, ConnectError, ConnectionError, ManageError, ReadError, Refusal,
    SetAuxError, StatusError, SubscribeError,
};
pub use logbook::{LogBook, PendingAppend, Scan};
pub use sealog_protocol::batch::NewRecord;
pub use sealog_protocol::client::{Description, Durability, NodeChange, OperateRequest, ReadRecord as Record};
pub use sealog_protocol::{LogBookId, SeqNum, Tag};
pub use session::{Appended, Condition, Counters, OperationId, Retention, SubscriptionEvent};
pub use subscription::Subscription;
pub use token::{Token, TokenError};
