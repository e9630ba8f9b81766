//! Hosts in namespaces and the switch between them: what real programs see of each rule.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use sealog_faults::{Link, Network};

/// Longer than what arrives takes, and short enough to wait for what does not.
const SOON: Duration = Duration::from_millis(300);
/// Nobody listens there.
const CLOSED_PORT: u16 = 9;

fn network(hosts: usize) -> Network {
    Network::create(hosts).expect("a network")
}

/// Calls a port of a host at which nobody listens; what became of the call. A refusal has gone there
/// and back.
fn call(network: &Network, host: usize) -> ErrorKind {
    let address: SocketAddr = format!("{}:{CLOSED_PORT}", network.address(host)).parse().expect("an address");
    TcpStream::connect_timeout(&address, SOON).expect_err("nobody listens").kind()
}

fn shell(network: &Network, host: usize, script: &str) -> Output {
    let words = network.enter(host);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["bash", "-c", script]);
    command.output().expect("nsenter and bash are there")
}

/// A host sends host 0 a datagram; whether it arrives.
fn arrives(network: &Network, from: usize) -> bool {
    let socket = UdpSocket::bind((network.address(0), 0)).expect("host 0 has its address");
    socket.set_read_timeout(Some(SOON)).expect("it can be set");
    let port = socket.local_addr().expect("it is bound").port();
    let sent = shell(network, from, &format!("echo x > /dev/udp/{}/{port}", network.address(0)));
    assert!(sent.status.success(), "{sent:?}");
    socket.recv(&mut [0; 16]).is_ok()
}

#[test]
fn hosts_reach_each_other_until_they_are_cut_and_again_after() {
    let network = network(2);
    let between = |network: &Network| {
        let script = format!("timeout 0.3 bash -c '< /dev/tcp/{}/{CLOSED_PORT}'", network.address(2));
        String::from_utf8_lossy(&shell(network, 1, &script).stderr).contains("refused")
    };
    let all = |network: &Network| (call(network, 1), call(network, 2), between(network));
    let (refused, lost) = (ErrorKind::ConnectionRefused, ErrorKind::TimedOut);
    assert_eq!(all(&network), (refused, refused, true));
    network.cut(&[1], &[0, 2]);
    assert_eq!(all(&network), (lost, refused, false));
    assert!(network.counters().cut > 0);
    network.heal();
    assert_eq!(all(&network), (refused, refused, true));
}

#[test]
fn one_direction_is_cut_without_the_other() {
    let network = network(1);
    assert!(call(&network, 1) == ErrorKind::ConnectionRefused && arrives(&network, 1));
    network.cut_one_way(0, 1);
    assert!(call(&network, 1) == ErrorKind::TimedOut && arrives(&network, 1));
    network.heal();
    network.cut_one_way(1, 0);
    assert!(call(&network, 1) == ErrorKind::TimedOut && !arrives(&network, 1));
    network.heal();
    assert!(call(&network, 1) == ErrorKind::ConnectionRefused && arrives(&network, 1));
}

#[test]
fn a_slow_link_takes_its_time() {
    let network = network(1);
    let delay = Duration::from_millis(50);
    network.set_link(0, 1, Link { delay, ..Link::default() });
    let began = Instant::now();
    assert_eq!(call(&network, 1), ErrorKind::ConnectionRefused);
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());

    const BYTES: u64 = 400_000;
    network.set_link(1, 0, Link { bytes_per_s: 1_000_000, ..Link::default() });
    let listener = TcpListener::bind((network.address(0), 0)).expect("host 0 has its address");
    let port = listener.local_addr().expect("it is bound").port();
    let address = network.address(0);
    let received = std::thread::scope(|scope| {
        let script = format!("head -c {BYTES} /dev/zero > /dev/tcp/{address}/{port}");
        let network = &network;
        scope.spawn(move || assert!(shell(network, 1, &script).status.success()));
        let (mut stream, _) = listener.accept().expect("it calls");
        let began = Instant::now();
        let bytes = stream.read_to_end(&mut Vec::new()).expect("it sends");
        (bytes as u64, began.elapsed())
    });
    // What the line had taken before we looked arrives at once.
    assert!(received.0 == BYTES && received.1 >= Duration::from_millis(300), "{received:?}");
}

/// Two networks of one machine do not meet.
#[test]
fn networks_keep_apart() {
    let (one, other) = (network(1), network(1));
    assert_ne!(one.address(1), other.address(1));
    other.cut(&[0], &[1]);
    assert_eq!((call(&one, 1), call(&other, 1)), (ErrorKind::ConnectionRefused, ErrorKind::TimedOut));
}
