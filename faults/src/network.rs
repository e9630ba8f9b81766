//! Hosts on this machine: network namespaces, and a switch between them that can be told to lose,
//! delay and throttle what goes from one to another.
//!
//! ```text
//!  namespace of host 1                          namespace of host 2
//!  program ─▶ kernel's TCP/IP ─▶ TAP ─┐     ┌─ TAP ─▶ kernel's TCP/IP ─▶ program
//!                                     ▼     │
//!                                   Switch: rules of each direction
//!                                     ▲
//!  host 0, this process's namespace: TAP
//! ```
//!
//! One mechanism does for all: a kernel that can delay packets (netem) is not everywhere, and rules of
//! a packet filter could only lose them.

mod switch;
mod tap;

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use crate::command::{CommandError, run};
use crate::network::switch::Switch;
use crate::network::tap::{Tap, TapError};

pub use switch::{Link, SwitchCounters};

/// 198.18.0.0/15 is set aside for measurements between networks (RFC 2544): one /24 of its first half
/// for each network of this machine.
const NETWORKS: u8 = 250;
/// Frames of disks' blocks in few pieces.
const MTU: &str = "9000";

/// Host 0 is where this process is; the others have a namespace each. Dropping it takes all down; end
/// the programs in it first.
#[derive(Debug)]
pub struct Network {
    number: u8,
    hosts: usize,
    /// `None` only while being dropped.
    switch: Option<Switch>,
}

impl Network {
    /// Makes so many hosts beside host 0, all connected.
    ///
    /// # Errors
    /// When the system lacks a tool or a right; the error says which.
    pub fn create(hosts: usize) -> Result<Network, CommandError> {
        let (number, first) = claim()?;
        let mut taps = vec![first];
        for host in 1..=hosts {
            let name = device(number, host);
            taps.push(Tap::create(&name).map_err(|error| unusable(&name, error))?);
        }
        let switch = Switch::start(taps).map_err(CommandError::file(Path::new("/dev/net/tun")))?;
        let network = Network { number, hosts, switch: Some(switch) };
        for host in 0..=hosts {
            network.set_up(host)?;
        }
        Ok(network)
    }

    fn set_up(&self, host: usize) -> Result<(), CommandError> {
        let (device, namespace) = (device(self.number, host), self.namespace(host));
        let mut inside: Vec<&str> = Vec::new();
        if host > 0 {
            // A run that was killed may have left it.
            let _ = ip(&["netns", "delete", &namespace]);
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "set", &device, "netns", &namespace])?;
            inside = vec!["-n", &namespace];
            ip(&[&inside[..], &["link", "set", "lo", "up"]].concat())?;
        }
        let [a, b, c, d, e, f] = switch::hardware_address(host);
        let hardware = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        ip(&[&inside[..], &["link", "set", &device, "address", &hardware, "mtu", MTU, "up"]].concat())?;
        let address = format!("{}/24", self.address(host));
        ip(&[&inside[..], &["address", "add", &address, "dev", &device]].concat())
    }

    /// The IP address of a host.
    pub fn address(&self, host: usize) -> String {
        assert!(host <= self.hosts, "there are {} hosts", self.hosts);
        let last = if host == 0 { 254 } else { host };
        format!("198.18.{}.{last}", self.number)
    }

    fn namespace(&self, host: usize) -> String {
        format!("sealog-{}-{host}", self.number)
    }

    /// The words before a program that make it run on this host, as the same process.
    pub fn enter(&self, host: usize) -> Vec<String> {
        assert!((1..=self.hosts).contains(&host), "host {host} has no namespace of its own");
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(host)), "--".to_owned()]
    }

    /// From now on frames from one host to another fare so; the other direction is as it was.
    pub fn set_link(&self, from: usize, to: usize, link: Link) {
        self.switch().set_link(from, to, link);
    }

    /// Loses everything from one host to another, in that direction.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.set_link(from, to, Link { is_cut: true, ..Link::default() });
    }

    /// Loses everything between two groups of hosts.
    pub fn cut(&self, these: &[usize], those: &[usize]) {
        for (from, to) in these.iter().flat_map(|from| those.iter().map(move |to| (*from, *to))) {
            self.cut_one_way(from, to);
            self.cut_one_way(to, from);
        }
    }

    /// All links are as they were at first.
    pub fn heal(&self) {
        self.switch().heal();
    }

    pub fn counters(&self) -> SwitchCounters {
        self.switch().counters()
    }

    fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The devices go with their descriptors.
        drop(self.switch.take());
        for host in 1..=self.hosts {
            // What stays is deleted by the next network of this number.
            let _ = ip(&["netns", "delete", &self.namespace(host)]);
        }
    }
}

/// A number that no other network of this machine has, and the device of host 0, which claims it: it
/// is the kernel that gives a name to one device only, and takes it back however this process ends.
fn claim() -> Result<(u8, Tap), CommandError> {
    for number in 0..NETWORKS {
        let name = device(number, 0);
        match Tap::create(&name) {
            Ok(tap) => return Ok((number, tap)),
            Err(TapError::InUse) if number + 1 < NETWORKS => {}
            Err(error) => return Err(unusable(&name, error)),
        }
    }
    unreachable!("the last number returns")
}

fn device(number: u8, host: usize) -> String {
    format!("sealog{number}-{host}")
}

fn unusable(device: &str, error: TapError) -> CommandError {
    let source = match error {
        TapError::InUse => io::Error::from(io::ErrorKind::ResourceBusy),
        TapError::Io(source) => source,
    };
    CommandError::Tap { device: device.to_owned(), source }
}

fn ip(arguments: &[&str]) -> Result<(), CommandError> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    run("ip", &arguments).map(drop)
}
