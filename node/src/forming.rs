//! How a cluster is formed, once: an operator says how large it is to be, nodes join, and then the
//! first view of each logspace is made of them (ADR 11).

use std::thread;
use std::time::{Duration, Instant};

use sealog_control::register::{MembersSwap, RegisterError, Swap};
use sealog_protocol::limits::LOGSPACES_MAX;
use sealog_protocol::machine::Role;
use sealog_protocol::members::{Member, MemberState, Members};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{ClusterId, LogspaceId, Logspaces, NodeId, NodeSet, ViewNumber};
use thiserror::Error;

use crate::cluster::read_chains;
use crate::directory::random_id;
use crate::register::WatchedRegister;

/// Between two looks at who has joined.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Sequencer replicas unless more or fewer are asked for.
const SEQUENCERS: usize = 3;

/// What a cluster is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation {
    /// Nodes that are waited for, of any role.
    pub nodes: usize,
    /// Storages that each record is written to (R).
    pub replicas: usize,
    /// Of them, those that have it durable when it is acknowledged (W).
    pub write_quorum: usize,
    /// Sequencer replicas of each logspace; `None`: three, or one where there are fewer.
    pub sequencers: Option<usize>,
    /// Of class disk.
    pub logspaces: u16,
    pub memory_logspaces: u16,
    /// The cluster's id; `None`: drawn at random.
    pub cluster: Option<u64>,
}

/// Why no cluster was formed.
#[derive(Debug, Error)]
pub enum FormingError {
    #[error("{what}; correct the flags")]
    Contradiction { what: String },
    #[error("the register has a cluster already ({cluster}): use another register, or another prefix of this one")]
    Exists { cluster: ClusterId },
    #[error(
        "{joined} of {wished} nodes have joined ({missing}): start the others with the same register, and run this \
         again, which goes on where it was"
    )]
    Missing { joined: usize, wished: usize, missing: String },
    #[error("an earlier run began with {begun}, not {asked}: give the same numbers to go on with what it began")]
    Begun { begun: Logspaces, asked: Logspaces },
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error("cannot draw a random number: {0}")]
    Random(std::io::Error),
}

impl Formation {
    /// What is doubtful about it, in sentences.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn check(&self) -> Result<Vec<String>, FormingError> {
        let Formation { nodes, replicas, write_quorum, sequencers, logspaces, memory_logspaces, .. } = *self;
        let refused = |what: String| Err(FormingError::Contradiction { what });
        if !(1..=NodeSet::MAX).contains(&replicas) {
            return refused(format!("--replicas is {replicas}, but has to be 1 to {}", NodeSet::MAX));
        }
        if write_quorum == 0 || write_quorum > replicas {
            return refused(format!("--write-quorum is {write_quorum}, but has to be 1 to --replicas ({replicas})"));
        }
        if nodes < replicas {
            return refused(format!("--nodes is {nodes}: too few for {replicas} replicas on different nodes"));
        }
        if sequencers.is_some_and(|count| count == 0 || count > nodes.min(NodeSet::MAX)) {
            return refused(format!("--sequencers has to be 1 to --nodes ({nodes}), at most {}", NodeSet::MAX));
        }
        if !(1..=LOGSPACES_MAX).contains(&logspaces) {
            return refused(format!("--logspaces is {logspaces}, but has to be 1 to {LOGSPACES_MAX}"));
        }
        if memory_logspaces > LOGSPACES_MAX - logspaces {
            return refused(format!(
                "--logspaces and --memory-logspaces are {logspaces} and {memory_logspaces}, but have to be at most \
                 {LOGSPACES_MAX} together"
            ));
        }
        let mut doubts = Vec::new();
        if let Some(count) = sequencers.filter(|count| count.is_multiple_of(2)) {
            let fewer = count - 1;
            doubts.push(format!("{count} sequencers survive no more losses than {fewer}, and are slower"));
        }
        if replicas > 1 && write_quorum == 1 {
            doubts.push("with --write-quorum 1 the loss of one disk may lose what was acknowledged".to_owned());
        }
        if replicas > 1 && write_quorum == replicas {
            doubts.push("with --write-quorum equal to --replicas, appends stop while one storage is away".to_owned());
        }
        Ok(doubts)
    }

    fn classes(&self) -> Logspaces {
        Logspaces { disk: self.logspaces, memory: self.memory_logspaces }
    }

    /// Sequencer replicas of each logspace, of so many nodes that could be.
    fn sequencer_count(&self, able: usize) -> usize {
        self.sequencers.unwrap_or(if able < SEQUENCERS { 1 } else { SEQUENCERS })
    }
}

/// Forms the cluster: writes its id, waits for the nodes, makes the first views. Returns its members.
/// Interrupted, it is run again.
///
/// # Errors
/// Nothing that was written contradicts a second try.
pub fn form(
    register: &mut dyn WatchedRegister,
    formation: &Formation,
    patience: Duration,
    mut joined: impl FnMut(&Members),
) -> Result<Members, FormingError> {
    formation.check()?;
    let mut members = begin(register, formation)?;
    let began = Instant::now();
    let settings = match register.read(LogspaceId(0))? {
        Some(first) if first.settings.classes() != formation.classes() => {
            let (begun, asked) = (first.settings.classes(), formation.classes());
            return Err(FormingError::Begun { begun, asked });
        }
        Some(first) => first.settings,
        None => ClusterSettings::new(members.cluster, formation.classes()),
    };
    joined(&members);
    let chosen = loop {
        let chosen = Chosen::of(&members, formation);
        match chosen {
            Ok(chosen) => break chosen,
            Err(missing) if began.elapsed() >= patience => {
                return Err(FormingError::Missing {
                    joined: living(&members).count(),
                    wished: formation.nodes,
                    missing,
                });
            }
            Err(_) => thread::sleep(LOOK_INTERVAL),
        }
        let now = register.members()?.unwrap_or_else(|| members.clone());
        if now != members {
            members = now;
            joined(&members);
        }
    };
    for logspace in formation.classes().ids() {
        // What an earlier run made stays.
        let (Swap::Installed | Swap::Held(_)) = register.create(&chosen.chain(settings, logspace, formation))?;
    }
    Ok(members)
}

/// The members of a cluster that has no views yet, written if there is none.
fn begin(register: &mut dyn WatchedRegister, formation: &Formation) -> Result<Members, FormingError> {
    let held = match register.members()? {
        Some(held) => held,
        None => {
            let cluster = match formation.cluster {
                Some(cluster) => ClusterId(cluster),
                None => ClusterId(random_id().map_err(FormingError::Random)?),
            };
            let first = Members { cluster, version: 1, nodes: Vec::new() };
            match register.swap_members(&first)? {
                MembersSwap::Installed => first,
                MembersSwap::Held(held) => held,
            }
        }
    };
    let is_other = formation.cluster.is_some_and(|cluster| cluster != held.cluster.0);
    if is_other || read_chains(register)?.is_some() {
        return Err(FormingError::Exists { cluster: held.cluster });
    }
    Ok(held)
}

fn living(members: &Members) -> impl Iterator<Item = &Member> {
    members.nodes.iter().filter(|member| member.state == MemberState::Active)
}

/// Who is in the first views.
struct Chosen {
    sequencers: Vec<Member>,
    storages: Vec<NodeId>,
}

impl Chosen {
    /// What is missing, if something is.
    fn of(members: &Members, formation: &Formation) -> Result<Chosen, String> {
        let able = |role: Role| living(members).filter(move |member| member.roles.has(role));
        let sequencers: Vec<Member> = able(Role::Sequencer).cloned().collect();
        let storages: Vec<NodeId> = able(Role::Storage).map(|member| member.node).collect();
        let wanted = [
            ("nodes", living(members).count(), formation.nodes),
            ("sequencers", sequencers.len(), formation.sequencer_count(sequencers.len())),
            ("storages", storages.len(), formation.replicas),
            ("engines", able(Role::Engine).count(), 1),
            ("controllers", able(Role::Controller).count(), 1),
        ];
        let missing = wanted.iter().filter(|(_, found, wanted)| found < wanted);
        let missing: Vec<String> =
            missing.map(|(what, found, wanted)| format!("{what}: {found} of {wanted}")).collect();
        if missing.is_empty() { Ok(Chosen { sequencers, storages }) } else { Err(missing.join(", ")) }
    }

    /// Logspaces begin at different nodes, so that their work is spread.
    fn chain(&self, settings: ClusterSettings, logspace: LogspaceId, formation: &Formation) -> Chain {
        let first = usize::from(logspace.0);
        let count = formation.sequencer_count(self.sequencers.len());
        let sequencers: Vec<&Member> =
            self.sequencers.iter().cycle().skip(first % self.sequencers.len()).take(count).collect();
        let storages = self.storages.iter().cycle().skip(first % self.storages.len());
        let storages: Vec<NodeId> = storages.take(self.storages.len().min(NodeSet::MAX)).copied().collect();
        let nodes: Vec<NodeId> = sequencers.iter().map(|member| member.node).collect();
        let view = View {
            number: ViewNumber(1),
            primary: sequencers[0].node,
            primary_incarnation: sequencers[0].incarnation,
            sequencers: NodeSet::new(&nodes).expect("members are distinct, and few were chosen"),
            storages: NodeSet::new(&storages).expect("members are distinct, and few were chosen"),
            write_quorum: formation.write_quorum as u8,
            replicas: formation.replicas as u8,
            moves: Vec::new(),
            cause: Default::default(),
        };
        Chain { settings, logspace, views: vec![view], ends: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::RegisterSetting;
    use sealog_protocol::Incarnation;
    use sealog_protocol::members::Roles;

    const FORMATION: Formation = Formation {
        nodes: 3,
        replicas: 3,
        write_quorum: 2,
        sequencers: None,
        logspaces: 2,
        memory_logspaces: 1,
        cluster: Some(7),
    };

    fn member(node: u64) -> Member {
        Member {
            node: NodeId(node),
            incarnation: Incarnation(node * 10),
            roles: Roles::ALL,
            state: MemberState::Active,
            replacement: None,
            peer_address: format!("127.0.0.1:{node}"),
            client_address: "unix:/run/sealog".to_owned(),
        }
    }

    #[test]
    fn contradictions_are_refused_and_doubts_are_told() {
        assert_eq!(FORMATION.check().unwrap(), Vec::<String>::new());
        for wrong in [
            Formation { write_quorum: 4, ..FORMATION },
            Formation { write_quorum: 0, ..FORMATION },
            Formation { nodes: 2, ..FORMATION },
            Formation { replicas: 9, nodes: 9, ..FORMATION },
            Formation { sequencers: Some(4), ..FORMATION },
            Formation { logspaces: 0, ..FORMATION },
            Formation { memory_logspaces: LOGSPACES_MAX - 1, ..FORMATION },
        ] {
            assert!(matches!(wrong.check(), Err(FormingError::Contradiction { .. })), "{wrong:?}");
        }
        for doubtful in [
            Formation { sequencers: Some(2), ..FORMATION },
            Formation { write_quorum: 1, ..FORMATION },
            Formation { write_quorum: 3, ..FORMATION },
        ] {
            assert_eq!(doubtful.check().unwrap().len(), 1, "{doubtful:?}");
        }
    }

    #[test]
    fn the_first_views_are_made_once_of_the_nodes_that_joined() {
        let directory = tempfile::tempdir().unwrap();
        let setting = RegisterSetting::Directory(directory.path().to_owned());
        let mut register = crate::register::open(&setting, directory.path()).unwrap();
        let form = |register: &mut Box<dyn WatchedRegister>, formation: &Formation| {
            form(&mut **register, formation, Duration::ZERO, |_| ())
        };
        let mut members = match form(&mut register, &FORMATION) {
            Err(FormingError::Missing { joined: 0, wished: 3, .. }) => register.members().unwrap().unwrap(),
            other => panic!("{other:?}"),
        };
        for node in 1..=3 {
            members = members.with(member(node));
            register.swap_members(&members).unwrap();
        }
        assert_eq!(form(&mut register, &FORMATION).unwrap(), members);
        for (logspace, primary, is_memory) in [(0, 1, false), (1, 2, false), (2, 3, true)] {
            let chain = register.read(LogspaceId(logspace)).unwrap().unwrap();
            assert_eq!((chain.validate(), chain.is_memory()), (Ok(()), is_memory));
            let view = chain.current();
            assert_eq!((view.primary, view.primary_incarnation), (NodeId(primary), Incarnation(primary * 10)));
            assert_eq!((view.sequencers.len(), view.storages.len(), view.write_quorum, view.replicas), (3, 3, 2, 3));
        }
        assert!(matches!(form(&mut register, &FORMATION), Err(FormingError::Exists { .. })));
    }
}
