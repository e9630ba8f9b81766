//! How many connections each address has: no one of them is to keep all others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, TcpStream};
use std::os::fd::OwnedFd;

/// Whom connections are counted for. Of IPv6 the first 64 bits: whoever has one address there has
/// all of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(IpAddr);

impl Peer {
    fn new(address: IpAddr) -> Peer {
        match address.to_canonical() {
            // Processes of this machine are told from others, not counted by networks.
            address if address.is_loopback() => Peer(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Peer(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            address => Peer(address),
        }
    }

    /// Of a connection that was accepted: none for a Unix socket, and for a peer that is gone already.
    pub fn of(socket: OwnedFd) -> (OwnedFd, Option<Peer>) {
        let stream = TcpStream::from(socket);
        let peer = stream.peer_addr().ok().map(|address| Peer::new(address.ip()));
        (stream.into(), peer)
    }

    pub fn is_of_this_machine(self) -> bool {
        self.0.is_loopback()
    }
}

/// Connections by their peers.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    connections: HashMap<Peer, usize>,
}

impl Addresses {
    pub fn connections(&self, peer: Peer) -> usize {
        self.connections.get(&peer).copied().unwrap_or(0)
    }

    pub fn add(&mut self, peer: Peer) {
        *self.connections.entry(peer).or_default() += 1;
    }

    pub fn remove(&mut self, peer: Peer) {
        let left = self.connections.get_mut(&peer).expect("what was added is removed once");
        *left -= 1;
        if *left == 0 {
            self.connections.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    #[test]
    fn who_has_one_address_of_a_network_has_them_all() {
        assert_eq!(peer("2001:db8:1:2:3:4:5:6"), peer("2001:db8:1:2:ffff::1"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(peer(local).is_of_this_machine(), "{local}");
        }
        assert!(!peer("2001:db8::1").is_of_this_machine());
    }

    #[test]
    fn the_table_is_as_large_as_who_is_there() {
        let mut addresses = Addresses::default();
        let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
        addresses.add(one);
        addresses.add(one);
        addresses.add(other);
        assert_eq!((addresses.connections(one), addresses.connections(other)), (2, 1));
        addresses.remove(one);
        addresses.remove(one);
        addresses.remove(other);
        assert_eq!(addresses.connections(one), 0);
        assert!(addresses.connections.is_empty());
    }

    #[test]
    fn a_tcp_socket_has_a_peer_and_a_unix_socket_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let accepted = listener.accept().expect("it connects").0;
        assert_eq!(Peer::of(accepted.into()).1, Some(peer("127.0.0.1")));
        assert_eq!(Peer::of(UnixStream::pair().expect("a pair").0.into()).1, None);
    }
}
