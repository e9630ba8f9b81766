//! Which nodes a cluster on this machine has, and what each of them runs: `3`, or
//! `sequencer,storage x3; engine,controller x2`.

use sealog_protocol::NodeSet;
use sealog_protocol::machine::Role;
use sealog_protocol::members::Roles;

/// Roles as they are written.
pub const ROLE_NAMES: [(Role, &str); 4] = [
    (Role::Engine, "engine"),
    (Role::Storage, "storage"),
    (Role::Sequencer, "sequencer"),
    (Role::Controller, "controller"),
];
/// Processes that one machine is asked to bear.
const NODES_MAX: usize = 16;

/// The roles of each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    nodes: Vec<Roles>,
}

impl Layout {
    /// # Errors
    /// How it is written.
    pub fn parse(text: &str) -> Result<Layout, String> {
        if let Ok(count) = text.trim().parse::<usize>() {
            let most = NodeSet::MAX;
            return match count {
                1.. if count <= most => Ok(Layout { nodes: vec![Roles::ALL; count] }),
                _ => Err(format!("give a number from 1 to {most}, or roles")),
            };
        }
        let mut nodes = Vec::new();
        for part in text.split(';').map(str::trim) {
            let how =
                || format!("'{part}': write roles and how many nodes run them: \"sequencer,storage x3; engine x2\"");
            let (names, count) = match part.rsplit_once(" x") {
                Some((names, count)) => (names, count.trim().parse().map_err(|_| how())?),
                None => (part, 1),
            };
            let role = |name: &str| ROLE_NAMES.iter().find(|(_, known)| *known == name.trim()).map(|(role, _)| *role);
            let roles: Vec<Role> = names.split(',').map(role).collect::<Option<_>>().ok_or_else(how)?;
            if count == 0 || nodes.len() + count > NODES_MAX {
                return Err(format!("'{part}': from 1 to {NODES_MAX} nodes in all"));
            }
            nodes.extend(vec![Roles::new(&roles); count]);
        }
        let layout = Layout { nodes };
        match ROLE_NAMES.iter().find(|(role, _)| layout.with(*role).next().is_none()) {
            Some((_, missing)) => Err(format!("no node has the role {missing}: each has to be there")),
            None => Ok(layout),
        }
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Whether each node runs everything.
    pub fn is_uniform(&self) -> bool {
        self.nodes.iter().all(|roles| *roles == Roles::ALL)
    }

    /// Numbers of the nodes with a role, from 1.
    pub fn with(&self, role: Role) -> impl Iterator<Item = usize> {
        self.nodes.iter().enumerate().filter(move |(_, roles)| roles.has(role)).map(|(at, _)| at + 1)
    }

    /// What a node runs, as its setting is written.
    pub fn names(&self, number: usize) -> String {
        let has = |(role, _): &&(Role, &str)| self.nodes[number - 1].has(*role);
        ROLE_NAMES.iter().filter(has).map(|(_, name)| *name).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_nodes_or_their_roles() {
        let three = Layout::parse("3").expect("a number");
        assert_eq!((three.count(), three.is_uniform()), (3, true));
        let spread = Layout::parse("sequencer,storage x3; engine,controller x2").expect("roles");
        assert_eq!((spread.count(), spread.is_uniform()), (5, false));
        assert_eq!(spread.with(Role::Storage).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(spread.with(Role::Controller).collect::<Vec<_>>(), [4, 5]);
        assert_eq!((&*spread.names(1), &*spread.names(5)), ("storage,sequencer", "engine,controller"));
        let one = "engine,storage,sequencer,controller";
        assert!(Layout::parse(one).is_ok_and(|layout| layout.count() == 1 && layout.names(1) == one));
    }

    #[test]
    fn what_is_no_cluster_is_refused_with_what_to_write() {
        for (wrong, word) in [
            ("0", "from 1"),
            ("9", "to 8"),
            ("storage x3", "has the role engine"),
            ("engine x0; storage,sequencer,controller", "from 1 to 16"),
            ("engine x20; storage,sequencer,controller", "from 1 to 16"),
            ("disk x3", "sequencer,storage x3"),
            ("engine xx", "sequencer,storage x3"),
            ("", "sequencer,storage x3"),
        ] {
            let refused = Layout::parse(wrong).expect_err(wrong);
            assert!(refused.contains(word), "{wrong}: {refused}");
        }
    }
}
