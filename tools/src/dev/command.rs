//! What can be done to the nodes of a dev cluster, and how that is written: at the prompt, and in
//! `sealog bench --fault`.

use std::time::Duration;

use sealog_protocol::machine::Role;

use crate::dev::layout::ROLE_NAMES;

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
    /// By its number, from 1.
    Node(usize),
    /// Of those with this role, counted from 1.
    Nth(Role, usize),
    /// The one that is primary sequencer of logspace 0 when it is done.
    Primary,
    /// The one whose controller changes views of logspace 0 before all others, when it is done.
    Controller,
}

/// Between which nodes something is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Between one and all others.
    Around(Target),
    Between(Target, Target),
    /// What the first says to the second.
    OneWay(Target, Target),
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Act(Action, Target),
    /// As if the network lost everything.
    Partition(Span),
    /// `None`: everywhere.
    Heal(Option<Span>),
}

/// A line of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Do(Deed),
    Status,
    Help,
    Quit,
}

pub const HELP: &str = "\
kill N          SIGKILL: node N crashes         restart N     start it again with its data
stop N          SIGSTOP: it falls silent        resume N      SIGCONT
partition N     nothing comes or goes between N and all other nodes
partition N M   between these two               partition N->M   what N says to M is lost
heal            everywhere; or as partition: heal N, heal N M, heal N->M
status          what each node says             quit          stop all (also Ctrl-D, Ctrl-C)
N is a node's number; storage-2, engine-1 and so on count those with that role; `primary` is the primary
sequencer of logspace 0 of that moment, `controller` the one that changes its views. A partition is
between nodes: clients still reach them, and they the register.";

impl Target {
    fn parse(text: &str) -> Option<Target> {
        match text {
            "primary" => return Some(Target::Primary),
            "controller" => return Some(Target::Controller),
            _ => {}
        }
        let (role, number) = match text.rsplit_once('-') {
            Some(("node", number)) => (None, number),
            Some((name, number)) => (Some(ROLE_NAMES.iter().find(|(_, of)| *of == name)?.0), number),
            None => (None, text),
        };
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some(role.map_or(Target::Node(number), |role| Target::Nth(role, number)))
    }
}

impl Span {
    fn parse(words: &[&str]) -> Option<Span> {
        let text = words.join(" ");
        if let Some((from, to)) = text.split_once("->") {
            return Some(Span::OneWay(Target::parse(from.trim())?, Target::parse(to.trim())?));
        }
        match words {
            [one] => Target::parse(one).map(Span::Around),
            [one, other] => Some(Span::Between(Target::parse(one)?, Target::parse(other)?)),
            _ => None,
        }
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
    let between = |words: &[&str]| {
        let how = || format!("'{}' is no nodes: write 2, or 1 2, or 1->2", words.join(" "));
        Span::parse(words).ok_or_else(how)
    };
    let deed = match words[..] {
        [] => return Ok(None),
        ["status"] => return Ok(Some(Command::Status)),
        ["help" | "?"] => return Ok(Some(Command::Help)),
        ["quit" | "exit"] => return Ok(Some(Command::Quit)),
        ["partition"] => return Err("partition which node? For example: partition 2, or partition 1 2".to_owned()),
        ["partition", ref nodes @ ..] => Deed::Partition(between(nodes)?),
        ["heal"] => Deed::Heal(None),
        ["heal", ref nodes @ ..] => Deed::Heal(Some(between(nodes)?)),
        [action, target] => match (parse_action(action), Target::parse(target)) {
            (Some(action), Some(target)) => Deed::Act(action, target),
            (Some(_), None) => {
                return Err(format!("'{target}' is no node: give a number from 1, storage-2, or primary"));
            }
            (None, _) => return Err(format!("'{action}' is no command: try help")),
        },
        [action] if parse_action(action).is_some() => {
            return Err(format!("{action} which node? For example: {action} 2"));
        }
        _ => return Err(format!("'{}' is no command: try help", line.trim())),
    };
    Ok(Some(Command::Do(deed)))
}

/// Something that is done while a measurement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub deed: Deed,
    /// Since the measurement began; `None`: as often as it is told elsewhere.
    pub at: Option<Duration>,
}

impl Fault {
    /// # Errors
    /// How it is written.
    pub fn parse(text: &str) -> Result<Fault, String> {
        let how = || {
            "write it as \"kill storage-2@20s\": kill, stop, resume, restart, partition or heal, a node, and when"
                .to_owned()
        };
        let (what, at) = match text.rsplit_once('@') {
            Some((what, at)) => {
                (what, Some(humantime::parse_duration(at.trim()).map_err(|error| format!("{error}; {}", how()))?))
            }
            None => (text, None),
        };
        match parse(what) {
            Ok(Some(Command::Do(deed))) => Ok(Fault { deed, at }),
            _ => Err(how()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_said_to_be_wrong() {
        let act = |action, target| Ok(Some(Command::Do(Deed::Act(action, target))));
        assert_eq!(parse(" kill  storage-2 "), act(Action::Kill, Target::Nth(Role::Storage, 2)));
        assert_eq!(parse("kill node-2"), act(Action::Kill, Target::Node(2)));
        assert_eq!(parse("restart primary"), act(Action::Restart, Target::Primary));
        assert_eq!(parse("stop controller"), act(Action::Stop, Target::Controller));
        assert_eq!((parse(""), parse("status")), (Ok(None), Ok(Some(Command::Status))));
        for wrong in ["kill", "kill 0", "kill two", "kill 1 2", "crash 1", "quit now", "kill disk-1", "kill storage-0"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("kill two").is_err_and(|error| error.contains("storage-2")));
    }

    #[test]
    fn partitions_are_around_a_node_between_two_or_one_way() {
        let partition = |span| Ok(Some(Command::Do(Deed::Partition(span))));
        let [one, two] = [1, 2].map(Target::Node);
        assert_eq!(parse("partition primary"), partition(Span::Around(Target::Primary)));
        assert_eq!(parse("partition 1 2"), partition(Span::Between(one, two)));
        for written in ["partition 1->2", "partition 1 -> 2", "partition 1-> 2"] {
            assert_eq!(parse(written), partition(Span::OneWay(one, two)), "{written}");
        }
        assert_eq!(parse("heal"), Ok(Some(Command::Do(Deed::Heal(None)))));
        assert_eq!(parse("heal 1 2"), Ok(Some(Command::Do(Deed::Heal(Some(Span::Between(one, two)))))));
        for wrong in ["partition", "partition 0", "partition 1 2 3", "partition 1->", "heal x", "heal 1->2->3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn faults_have_a_time_or_none() {
        let deed = Deed::Act(Action::Stop, Target::Nth(Role::Engine, 1));
        let fault = Fault { deed, at: Some(Duration::from_secs(20)) };
        assert_eq!(Fault::parse("stop engine-1@20s"), Ok(fault));
        assert_eq!(Fault::parse("stop engine-1"), Ok(Fault { at: None, ..fault }));
        let around = Deed::Partition(Span::Around(Target::Primary));
        assert_eq!(Fault::parse("partition primary"), Ok(Fault { deed: around, at: None }));
        for wrong in ["status", "kill 1@", "kill@5s", "kill 1@soon"] {
            assert!(Fault::parse(wrong).is_err(), "{wrong}");
        }
    }
}
