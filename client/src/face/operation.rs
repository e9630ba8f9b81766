//! An operation that owns its arguments: while there is no room for it in the session.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sealog_protocol::batch::NewRecord;
use sealog_protocol::{Durability, LogBookId, SeqNum, Tag};

use crate::session::{Append, Condition, NameQuestion, Operation, SetAux, Target};

/// A LogBook as a face's handle knows it: its id hashed once, its name shared.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub id: LogBookId,
    pub name: Option<Arc<str>>,
}

impl Book {
    pub fn named(name: &str) -> Book {
        Book::in_class(name, Durability::Disk)
    }

    /// A LogBook of this class.
    pub fn in_class(name: &str, class: Durability) -> Book {
        Book { id: LogBookId::from_name(name).in_class(class), name: Some(name.into()) }
    }

    pub fn target(&self) -> Target<'_> {
        match &self.name {
            Some(name) => Target::Named { id: self.id, name },
            None => Target::Id(self.id),
        }
    }
}

pub(crate) enum OwnedOperation {
    Append {
        book: Book,
        condition: Option<Condition>,
        records: Vec<(Vec<Tag>, Vec<u8>)>,
    },
    SetAux {
        logbook: LogBookId,
        seqnum: SeqNum,
        data: Vec<u8>,
    },
    Name {
        name: String,
        create: Option<Durability>,
    },
    /// It borrows nothing.
    Query(Operation<'static>),
}

impl OwnedOperation {
    pub fn append(book: &Book, condition: Option<Condition>, records: &[NewRecord<'_>]) -> OwnedOperation {
        let records = records.iter().map(|record| (record.tags.to_vec(), record.payload.to_vec())).collect();
        OwnedOperation::Append { book: book.clone(), condition, records }
    }

    /// Calls `with` the operation as a session takes it.
    pub fn borrow<R>(&self, with: impl FnOnce(Operation<'_>) -> R) -> R {
        match self {
            OwnedOperation::Query(operation) => with(*operation),
            OwnedOperation::Name { name, create } => with(Operation::Name(NameQuestion { name, create: *create })),
            OwnedOperation::SetAux { logbook, seqnum, data } => {
                with(Operation::SetAux(SetAux { logbook: *logbook, seqnum: *seqnum, data }))
            }
            OwnedOperation::Append { book, condition, records } => {
                let records: Vec<NewRecord<'_>> =
                    records.iter().map(|(tags, payload)| NewRecord { tags, payload }).collect();
                with(append(book, *condition, &records))
            }
        }
    }
}

pub(crate) fn append<'a>(book: &'a Book, condition: Option<Condition>, records: &'a [NewRecord<'a>]) -> Operation<'a> {
    Operation::Append(Append { logbook: book.target(), condition, time_ms: time_ms(), records })
}

/// The time of day; advisory, so one before 1970 may as well be 1970.
fn time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
