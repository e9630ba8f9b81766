//! The other nodes of a cluster, as settings say them.

use sealog_protocol::limits::LOGSPACES_MAX;
use sealog_protocol::machine::Role;
use sealog_protocol::members::Roles;
use sealog_protocol::peer::PeerIdentity;
use sealog_protocol::{Incarnation, NodeId};
use sealog_runtime::{Listen, PeerAddress, PeerLimits, PeersConfig};

use crate::cluster::resolve;
use crate::register::RegisterSetting;
use crate::settings::{Settings, SettingsError};

/// What an address of a Unix socket begins with.
const UNIX: &str = "unix:";

/// Another node, and where it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSetting {
    pub node: NodeId,
    /// `host:port`, or `unix:` and a path.
    pub address: String,
}

/// `2@10.0.0.2:7441, 3@10.0.0.3:7441`: each node once.
pub(crate) fn parse_peers(text: &str) -> Option<Vec<PeerSetting>> {
    let mut peers: Vec<PeerSetting> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (node, address) = part.split_once('@')?;
        let peer = PeerSetting { node: NodeId(parse_id(node)?), address: parse_address(address)? };
        if peers.iter().any(|other| other.node == peer.node) {
            return None;
        }
        peers.push(peer);
    }
    (peers.len() <= PeersConfig::PEERS_MAX).then_some(peers)
}

/// `engine,storage`: each once, one at least.
pub(crate) fn parse_roles(text: &str) -> Option<Roles> {
    let mut roles = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let role = match name {
            "engine" => Role::Engine,
            "storage" => Role::Storage,
            "sequencer" => Role::Sequencer,
            "controller" => Role::Controller,
            _ => return None,
        };
        if roles.contains(&role) {
            return None;
        }
        roles.push(role);
    }
    (!roles.is_empty()).then(|| Roles::new(&roles))
}

/// An id; 0 is none.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|id| *id > 0)
}

/// `host:port`, or `unix:` and a path.
pub(crate) fn parse_address(text: &str) -> Option<String> {
    let text = text.trim();
    let is_address = match text.strip_prefix(UNIX) {
        Some(path) => !path.is_empty(),
        None => text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()),
    };
    is_address.then(|| text.to_owned())
}

/// Whether the port is chosen by the system, differently each time.
pub(crate) fn is_any_port(address: &str) -> bool {
    !address.starts_with(UNIX) && address.ends_with(":0")
}

/// Where a node meets others.
#[derive(Clone, Debug)]
pub struct Meeting {
    listen: Listen,
    peers: Vec<PeerAddress>,
    limits: PeerLimits,
}

impl Meeting {
    /// With these other nodes, until a host says who there is.
    pub(crate) fn with_peers(self, peers: Vec<PeerAddress>) -> Meeting {
        Meeting { peers, ..self }
    }

    /// For the node that this is.
    pub(crate) fn of(self, own: PeerIdentity) -> PeersConfig {
        let Meeting { listen, peers, limits } = self;
        PeersConfig { own, listen, peers, limits }
    }
}

impl Settings {
    /// Where the node meets others; `None`: it has no peers. Names of hosts are looked up now, and
    /// not again.
    ///
    /// # Errors
    /// What is said can't be done, or only half of it is said.
    pub fn meeting(&self) -> Result<Option<Meeting>, SettingsError> {
        let is_member = self.register != RegisterSetting::Own;
        self.check_membership(is_member)?;
        let listen = match (&self.peer_listen, self.peers.is_empty() && !is_member) {
            (None, true) => return Ok(None),
            (None, false) => return Err(SettingsError::PeerListenMissing),
            (Some(_), true) => return Err(SettingsError::PeersMissing),
            (Some(listen), false) => listen,
        };
        let to_listen =
            resolve(listen).map_err(|reason| SettingsError::PeerListen { listen: listen.clone(), reason })?;
        if let Listen::Tcp(address) = to_listen
            && !address.ip().is_loopback()
            && !self.allow_remote
        {
            return Err(SettingsError::Remote { listen: listen.clone() });
        }
        let peer = |peer: &PeerSetting| {
            let PeerSetting { node, address } = peer.clone();
            match resolve(&address) {
                Ok(address) => Ok(PeerAddress { node, incarnation: Incarnation(0), address }),
                Err(reason) => Err(SettingsError::PeerAddress { node, address, reason }),
            }
        };
        let peers = self.peers.iter().map(peer).collect::<Result<_, _>>()?;
        let limits = PeerLimits { silence_max: self.peer_silence, ..PeerLimits::default() };
        Ok(Some(Meeting { listen: to_listen, peers, limits }))
    }

    /// What contradicts itself about a node of a cluster, or one alone.
    fn check_membership(&self, is_member: bool) -> Result<(), SettingsError> {
        if self.logspaces.unwrap_or(1) + self.memory_logspaces.unwrap_or(0) > LOGSPACES_MAX {
            return Err(SettingsError::LogspacesTooMany);
        }
        if !is_member {
            return if self.roles == Roles::ALL { Ok(()) } else { Err(SettingsError::RolesAlone) };
        }
        let register = self.register.to_string();
        if self.advertised().is_none() {
            return Err(SettingsError::MemberUnreachable { register });
        }
        if !self.peers.is_empty() {
            return Err(SettingsError::PeersAndRegister);
        }
        if self.logspaces.is_some() || self.memory_logspaces.is_some() {
            return Err(SettingsError::LogspacesAndRegister { register });
        }
        Ok(())
    }

    /// Where other nodes of the cluster call this one; `None`: nobody could.
    pub(crate) fn advertised(&self) -> Option<String> {
        let listen = self.peer_listen.as_ref()?;
        self.advertise.clone().or_else(|| Some(listen.clone()).filter(|listen| !is_any_port(listen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str, peers: &str) -> Settings {
        let peer_listen = parse_address(listen);
        Settings { peer_listen, peers: parse_peers(peers).expect("peers"), ..Settings::default() }
    }

    #[test]
    fn peers_are_nodes_with_addresses_each_once() {
        let peers = parse_peers(" 2@10.0.0.2:7441,3@unix:/run/three ,").expect("two peers");
        assert_eq!(peers[0], PeerSetting { node: NodeId(2), address: "10.0.0.2:7441".to_owned() });
        assert_eq!(peers[1], PeerSetting { node: NodeId(3), address: "unix:/run/three".to_owned() });
        assert_eq!(parse_peers(""), Some(Vec::new()));
        for wrong in ["2", "2@", "2@host", "0@host:1", "x@host:1", "2@:1", "2@host:70000", "2@a:1,2@b:1", "2@unix:"] {
            assert_eq!(parse_peers(wrong), None, "{wrong}");
        }
        let many: String = (1..=PeersConfig::PEERS_MAX + 1).map(|node| format!("{node}@host:1,")).collect();
        assert_eq!(parse_peers(&many), None);
    }

    #[test]
    fn half_of_a_configuration_is_none() {
        assert!(settings("", "").meeting().expect("no peers").is_none());
        let member = Settings { register: RegisterSetting::Directory("/r".into()), ..settings("127.0.0.1:7", "") };
        assert!(member.meeting().expect("right").is_some());
        for (wrong, says) in [
            (Settings { peer_listen: None, ..member.clone() }, "set peer_listen"),
            (Settings { peer_listen: Some("127.0.0.1:0".to_owned()), ..member.clone() }, "with a port"),
            (Settings { peers: parse_peers("2@a:1").expect("a peer"), ..member.clone() }, "leave peers out"),
            (Settings { logspaces: Some(2), ..member.clone() }, "leave logspaces and memory_logspaces out"),
            (Settings { memory_logspaces: Some(0), ..member.clone() }, "leave logspaces and memory_logspaces out"),
            (Settings { roles: Roles::new(&[Role::Engine]), ..Settings::default() }, "set register"),
            (Settings { logspaces: Some(200), memory_logspaces: Some(57), ..Settings::default() }, "at most 256"),
        ] {
            let message = wrong.meeting().expect_err("it contradicts itself").to_string();
            assert!(message.contains(says), "{message}");
        }
        let message = settings("", "2@127.0.0.1:1").meeting().expect_err("nowhere to listen").to_string();
        assert!(message.contains("peer_listen"), "{message}");
        let message = settings("127.0.0.1:0", "").meeting().expect_err("nobody to hear").to_string();
        assert!(message.contains("peers"), "{message}");
        let message = settings("127.0.0.1:0", "2@no such host:1").meeting().expect_err("nowhere").to_string();
        assert!(message.contains("node 2 at 'no such host:1'"), "{message}");
        let remote = settings("0.0.0.0:0", "2@127.0.0.1:1");
        assert!(matches!(remote.meeting(), Err(SettingsError::Remote { .. })));
        let found = Settings { allow_remote: true, ..remote }.meeting().expect("allowed").expect("peers");
        assert_eq!(found.peers.len(), 1);
        let silence = std::time::Duration::from_secs(5);
        let quiet = Settings { peer_silence: silence, ..settings("unix:/run/one", "2@127.0.0.1:1") };
        let found = quiet.meeting().expect("right").expect("peers");
        assert_eq!((found.listen, found.limits.silence_max), (Listen::Unix("/run/one".into()), silence));
    }
}
