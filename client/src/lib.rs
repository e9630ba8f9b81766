//! The Sealog client: async on any executor, and blocking.

pub mod blocking;
mod client;
mod error;
mod logbook;
pub mod session;
mod token;

pub use client::{Builder, Client, ClientSession};
pub use error::{AppendError, CheckTailError, ConnectError, ConnectionError, ReadError, Refusal, StatusError};
pub use logbook::{LogBook, Scan};
pub use sealog_protocol::batch::NewRecord;
pub use sealog_protocol::client::{Durability, ReadRecord as Record};
pub use sealog_protocol::{LogBookId, SeqNum, Tag};
pub use session::{Appended, Counters, OperationId};
pub use token::{Token, TokenError};
