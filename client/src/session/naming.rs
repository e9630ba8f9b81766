//! Names of LogBooks, and the class that each is used in. Asked again without harm: a name that was
//! used stays used.

use sealog_protocol::client::{Durability, Reply, Request};
use sealog_protocol::{LogBookId, Place};

/// A question for a name's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameQuestion<'a> {
    pub name: &'a str,
    /// The class that it is to be used in from now on, if it is in none yet.
    pub create: Option<Durability>,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameKnown {
    /// The class of its LogBook; none: it was not used yet.
    pub class: Option<Durability>,
    /// It was first used by this question.
    pub is_new: bool,
}

pub(super) struct NameWork {
    name: Box<str>,
    create: Option<Durability>,
}

impl NameWork {
    pub fn new(question: NameQuestion<'_>) -> NameWork {
        NameWork { name: question.name.into(), create: question.create }
    }

    /// Names are kept where the LogBooks of class disk are.
    pub fn logbook(&self) -> LogBookId {
        LogBookId::from_name(&self.name)
    }

    pub fn request(&self) -> Request {
        let name = self.name.clone().into_string();
        match self.create {
            Some(class) => Request::CreateLogBook { name, class },
            None => Request::FindLogBook { name },
        }
    }

    /// What an answer says, and the place it reflects. `None`: it is no answer to this.
    pub fn answered(&self, reply: &Reply) -> Option<(NameKnown, Place)> {
        let Reply::NameKnown { class, is_new, place } = *reply else { return None };
        let is_possible = self.create.is_none() || class == self.create;
        is_possible.then_some((NameKnown { class, is_new }, place))
    }
}
