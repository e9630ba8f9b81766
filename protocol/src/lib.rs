//! The shared vocabulary of Sealog: what its parts say to each other, and the one implementation
//! of "apply metalog entries in order". Pure: no I/O, no clock, no thread.
//!
//! Begin with [`ids`] and [`metalog`], then [`logspace`] and [`machine`]; [`frame`], [`batch`],
//! [`message`], [`peer`] and [`client`] are the bytes of the wire.

pub mod batch;
pub mod client;
pub mod frame;
pub mod holdings;
pub mod ids;
pub mod limits;
pub mod lives;
pub mod logspace;
pub mod machine;
pub mod members;
pub mod message;
pub mod metalog;
pub mod mutant;
pub mod peer;
pub mod seqnum;
pub mod tags;
pub mod time;
pub mod view;
pub mod view_cause;

pub use ids::{
    ClusterId, Durability, Incarnation, LocalId, LogBookId, LogspaceId, Logspaces, NodeId, NodeSet, Place,
    RequestNumber, SessionId, ShardId, Tag, ViewNumber,
};
pub use members::Members;
pub use seqnum::SeqNum;
pub use time::Time;
pub use view_cause::{ViewCause, ViewReason};
