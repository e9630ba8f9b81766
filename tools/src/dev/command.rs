//! What can be done to a node of a dev cluster, and how that is written: at the prompt, and in
//! `sealog bench --fault`.

use std::time::Duration;

/// What is done to a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL: as if it had crashed.
    Kill,
    /// SIGSTOP: it is silent, and forgets nothing.
    Stop,
    /// SIGCONT.
    Resume,
    /// Started again with its data; first killed if it runs.
    Restart,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Resume => "resume",
            Action::Restart => "restart",
        }
    }
}

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its number, from 1. Every node has every role, so `storage-2`, `engine-2` and `2` are one.
    Node(usize),
    /// The one that is primary sequencer of logspace 0 when it is done.
    Primary,
}

/// A line of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Do(Action, Target),
    Status,
    Help,
    Quit,
}

pub const HELP: &str = "\
kill N      SIGKILL: node N crashes            restart N   start it again with its data
stop N      SIGSTOP: it falls silent           resume N    SIGCONT
status      what each node says                quit        stop all (also Ctrl-D, Ctrl-C)
N is a node's number; storage-N, engine-N and sequencer-N mean the same; `primary` is the primary
sequencer of logspace 0 of that moment.";

impl Target {
    fn parse(text: &str) -> Option<Target> {
        if text == "primary" {
            return Some(Target::Primary);
        }
        let roles = ["node-", "storage-", "engine-", "sequencer-"];
        let number = roles.iter().find_map(|role| text.strip_prefix(role)).unwrap_or(text);
        number.parse().ok().filter(|number| *number > 0).map(Target::Node)
    }
}

fn parse_action(word: &str) -> Option<Action> {
    [Action::Kill, Action::Stop, Action::Resume, Action::Restart].into_iter().find(|action| action.name() == word)
}

/// `None`: an empty line.
///
/// # Errors
/// What is wrong, and what may be written.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        [] => Ok(None),
        ["status"] => Ok(Some(Command::Status)),
        ["help" | "?"] => Ok(Some(Command::Help)),
        ["quit" | "exit"] => Ok(Some(Command::Quit)),
        [action, target] => match (parse_action(action), Target::parse(target)) {
            (Some(action), Some(target)) => Ok(Some(Command::Do(action, target))),
            (Some(_), None) => Err(format!("'{target}' is no node: give a number from 1, storage-2, or primary")),
            (None, _) => Err(format!("'{action}' is no command: try help")),
        },
        [action] if parse_action(action).is_some() => Err(format!("{action} which node? For example: {action} 2")),
        _ => Err(format!("'{}' is no command: try help", line.trim())),
    }
}

/// Something that is done while a measurement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub action: Action,
    pub target: Target,
    /// Since the measurement began; `None`: as often as it is told elsewhere.
    pub at: Option<Duration>,
}

impl Fault {
    /// # Errors
    /// How it is written.
    pub fn parse(text: &str) -> Result<Fault, String> {
        let how = || "write it as \"kill storage-2@20s\": kill, stop, resume or restart, a node, and when".to_owned();
        let (what, at) = match text.rsplit_once('@') {
            Some((what, at)) => {
                (what, Some(humantime::parse_duration(at.trim()).map_err(|error| format!("{error}; {}", how()))?))
            }
            None => (text, None),
        };
        match parse(what) {
            Ok(Some(Command::Do(action, target))) => Ok(Fault { action, target, at }),
            _ => Err(how()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_said_to_be_wrong() {
        assert_eq!(parse(" kill  storage-2 "), Ok(Some(Command::Do(Action::Kill, Target::Node(2)))));
        assert_eq!(parse("restart primary"), Ok(Some(Command::Do(Action::Restart, Target::Primary))));
        assert_eq!((parse(""), parse("status")), (Ok(None), Ok(Some(Command::Status))));
        for wrong in ["kill", "kill 0", "kill two", "kill 1 2", "crash 1", "quit now"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("kill two").is_err_and(|error| error.contains("storage-2")));
    }

    #[test]
    fn faults_have_a_time_or_none() {
        let fault = Fault { action: Action::Stop, target: Target::Node(1), at: Some(Duration::from_secs(20)) };
        assert_eq!(Fault::parse("stop engine-1@20s"), Ok(fault));
        assert_eq!(Fault::parse("stop 1"), Ok(Fault { at: None, ..fault }));
        for wrong in ["status", "kill 1@", "kill@5s", "kill 1@soon"] {
            assert!(Fault::parse(wrong).is_err(), "{wrong}");
        }
    }
}
