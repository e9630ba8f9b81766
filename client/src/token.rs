//! Session tokens: what a session has seen, in a form that can be handed on.
//!
//! A token maps each logspace to a place in its metalog. Whoever reads with it sees at least what its
//! giver had seen: read-your-writes and monotonic reads, across clients, functions and processes.

use std::fmt;
use std::str::FromStr;

use sealog_protocol::ids::{LogspaceId, Place, ViewNumber};
use sealog_protocol::limits::LOGSPACES_MAX;
use thiserror::Error;

/// What a session has seen of each logspace. Grows only by [`Token::merge`] and [`Token::raise`].
///
/// Its text form is stable: `s1:` and, for each logspace in order, `logspace=view.index` with commas
/// between, as in `s1:0=1.42,3=2.7`. It is meaningful in the cluster it comes from alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// By logspace; those never seen at [`Place::default`].
    places: Vec<Place>,
}

impl Token {
    /// The token of a session that has seen nothing.
    pub fn new() -> Token {
        Token::default()
    }

    /// The place seen of this logspace; the place before everything when there is none.
    pub fn place(&self, logspace: LogspaceId) -> Place {
        self.places.get(usize::from(logspace.0)).copied().unwrap_or_default()
    }

    /// Raises the place of one logspace; a lower one changes nothing.
    pub fn raise(&mut self, logspace: LogspaceId, place: Place) {
        let index = usize::from(logspace.0);
        if self.places.len() <= index {
            if place == Place::default() {
                return;
            }
            self.places.resize(index + 1, Place::default());
        }
        self.places[index] = self.places[index].max(place);
    }

    /// Raises every place to the other token's: the result has seen what either has.
    pub fn merge(&mut self, other: &Token) {
        for (logspace, place) in other.places() {
            self.raise(logspace, place);
        }
    }

    /// Whether this token has seen all that the other has.
    pub fn covers(&self, other: &Token) -> bool {
        other.places().all(|(logspace, place)| self.place(logspace) >= place)
    }

    /// The places seen, by logspace in order.
    pub fn places(&self) -> impl Iterator<Item = (LogspaceId, Place)> + '_ {
        let seen = self.places.iter().enumerate().filter(|(_, place)| **place != Place::default());
        seen.map(|(index, place)| (LogspaceId(index as u16), *place))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("s1:")?;
        for (nth, (logspace, place)) in self.places().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{logspace}={}.{}", place.view, place.index)?;
        }
        Ok(())
    }
}

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("a session token begins with \"s1:\": is this one from another release?")]
    Version,
    #[error("{part:?} is not logspace=view.index, as in \"s1:0=1.42\"")]
    Part { part: String },
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let rest = text.strip_prefix("s1:").ok_or(TokenError::Version)?;
        let mut token = Token::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            let (logspace, place) = parse_part(part).ok_or_else(|| TokenError::Part { part: part.to_owned() })?;
            token.raise(logspace, place);
        }
        Ok(token)
    }
}

fn parse_part(part: &str) -> Option<(LogspaceId, Place)> {
    let (logspace, place) = part.split_once('=')?;
    let (view, index) = place.split_once('.')?;
    let logspace: u16 = logspace.parse().ok().filter(|logspace| *logspace < LOGSPACES_MAX)?;
    Some((LogspaceId(logspace), Place { view: ViewNumber(view.parse().ok()?), index: index.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(view: u32, index: u64) -> Place {
        Place { view: ViewNumber(view), index }
    }

    #[test]
    fn text_form_is_stable_and_round_trips() {
        let mut token = Token::new();
        assert_eq!(token.to_string(), "s1:");
        token.raise(LogspaceId(3), place(2, 7));
        token.raise(LogspaceId(0), place(1, 42));
        assert_eq!(token.to_string(), "s1:0=1.42,3=2.7");
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_eq!("s1:".parse(), Ok(Token::new()));
    }

    #[test]
    fn merge_takes_the_greater_of_each_and_never_lowers() {
        let mut left: Token = "s1:0=1.9,1=2.0".parse().expect("valid");
        let right: Token = "s1:0=2.1,1=1.500,2=1.1".parse().expect("valid");
        assert!(!left.covers(&right));
        left.merge(&right);
        assert_eq!(left.to_string(), "s1:0=2.1,1=2.0,2=1.1");
        assert!(left.covers(&right));
        left.raise(LogspaceId(0), place(1, u64::MAX));
        assert_eq!(left.place(LogspaceId(0)), place(2, 1));
    }

    #[test]
    fn what_is_not_a_token_is_named() {
        assert_eq!("0=1.2".parse::<Token>(), Err(TokenError::Version));
        for part in ["0", "0=1", "x=1.2", "0=1.x", "256=1.1", "-1=1.1"] {
            assert_eq!(format!("s1:{part}").parse::<Token>(), Err(TokenError::Part { part: part.to_owned() }));
        }
    }
}
