//! The primary's node is cut off, in each direction; a minority with clients; it is paused, and killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealog_faults::Network;
use sealog_history::History;

use super::{HOSTS, Hosts, LASTING_DEADLINE, LOGSPACES, goes_on, load_of};
use crate::load::{Load, join};
use crate::node::{NodeCommand, TestDirectory, fresh_directory, quiet_machine, seed};

const SEED: u64 = 0x5EA1_0051;
/// Of clients that may learn that the outcome of an append is unknown.
const BRIEF_DEADLINE: Duration = Duration::from_secs(3);

/// A cluster of five hosts, by a register in files that they share.
pub(super) fn cluster(name: &str) -> (TestDirectory, Hosts) {
    cluster_of(name, |_, _| {})
}

fn cluster_of(name: &str, change: impl Fn(usize, &mut NodeCommand)) -> (TestDirectory, Hosts) {
    let directory = fresh_directory(name);
    let network = Network::create(HOSTS).expect("a network");
    let register = format!("file:{}", directory.join("register").display());
    let data: Vec<_> = (1..=HOSTS).map(|host| directory.join(format!("host-{host}"))).collect();
    let hosts = Hosts::form_of(network, &register, &data, change);
    (directory, hosts)
}

/// What happens to the primary's node; it is given the hosts of the view's other sequencers as well.
type Cut = fn(&Network, usize, &[usize], &[usize]);

/// Ways to lose the primary: nobody that counts is to be in doubt for long, whichever it is.
const CUTS: [(&str, Cut); 4] = [
    ("cut off", |network, primary, others, _| network.cut(&[primary], others)),
    ("hears nothing", |network, primary, others, _| {
        others.iter().for_each(|other| network.cut_one_way(*other, primary));
    }),
    ("is not heard", |network, primary, others, _| {
        others.iter().for_each(|other| network.cut_one_way(primary, *other));
    }),
    // Everyone else still sees it.
    ("cut off from the other sequencers", |network, primary, _, sequencers| network.cut(&[primary], sequencers)),
];

/// Clients that know all nodes see each of it as nothing but a pause.
#[test]
fn a_cluster_goes_on_without_a_primary_that_is_cut_off() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let (_directory, mut hosts) = cluster("network-cut");
    let lasting =
        Load::start(&load_of("lasting", hosts.addresses(&hosts.all()), LASTING_DEADLINE, seed), Instant::now());
    goes_on(&lasting, "whole");
    for (what, cut) in CUTS {
        let view = hosts.view(1);
        let others = hosts.all_but(&[view.primary]);
        let sequencers: Vec<usize> = view.sequencers.iter().copied().filter(|host| *host != view.primary).collect();
        let lost_before = hosts.network.counters().cut;
        cut(&hosts.network, view.primary, &others, &sequencers);
        let next = hosts.await_later_view(sequencers[0], &view);
        assert_ne!(next.primary, view.primary, "{what}");
        goes_on(&lasting, what);
        assert!(hosts.network.counters().cut > lost_before, "{what}: nothing was lost");
        hosts.network.heal();
        hosts.await_all_ready();
        goes_on(&lasting, "healed");
    }
    let history = lasting.stop();
    let report = hosts.check(1, &history);
    assert_eq!(report.appends_unknown, 0, "clients that know all nodes see no error");
    hosts.stop_all();
}

/// The primary and a node that only serves clients are cut off from the rest. What they can't know they
/// do not say; clients that know a node of the rest as well go on there. Were two storages cut off, the
/// rest could not know what of a shard that has two of its three copies on them was acknowledged, and
/// would wait for one of them.
#[test]
fn a_minority_gives_no_false_answers_and_its_clients_go_on_elsewhere() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let (_directory, mut hosts) = cluster_of("network-minority", |host, command| {
        if host == HOSTS {
            command.variables.push(("SEALOG_ROLES", "engine,controller".to_owned()));
        }
    });
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(LOGSPACES), 0);
    let view = hosts.view(1);
    let minority = [view.primary, HOSTS];
    let rest: Vec<usize> = hosts.all().into_iter().filter(|host| !minority.contains(host)).collect();
    let lasting = Load::start(&load_of("lasting", hosts.addresses(&rest), LASTING_DEADLINE, seed), clock);
    let confined: Vec<Load> = minority
        .iter()
        .map(|host| {
            let settings = load_of(&format!("confined {host}"), hosts.addresses(&[*host]), BRIEF_DEADLINE, seed);
            Load::start(&settings, clock)
        })
        .collect();
    confined.iter().chain([&lasting]).for_each(|load| goes_on(load, "whole"));

    hosts.network.cut(&minority, &rest);
    hosts.await_later_view(rest[0], &view);
    goes_on(&lasting, "the rest");
    // Theirs is not the newest any more, and they can't say so.
    for host in minority {
        let arguments = ["check-tail", "load-0", "--linearizable", "--deadline", "1s"];
        hosts.node(host).sealog(&arguments).expect_failure(3, &[]);
    }
    let both = hosts.addresses(&[minority[0], minority[1], rest[0]]);
    let either = Load::start(&load_of("either", both, LASTING_DEADLINE, seed), clock);
    goes_on(&either, "clients of both");
    let unknown_before = confined.iter().map(Load::acknowledged).sum::<u64>();
    hosts.network.heal();
    hosts.await_all_ready();
    confined.iter().chain([&lasting, &either]).for_each(|load| goes_on(load, "healed"));
    println!("clients of the minority had {unknown_before} acknowledgements before it was healed");

    let lasting_ones = [lasting, either].map(Load::stop);
    confined.into_iter().map(Load::stop).chain(lasting_ones).for_each(|other| join(&mut history, other, &mut lines));
    let report = hosts.check(minority[1], &history);
    assert!(report.appends_unknown > 0, "clients of the minority were in doubt");
    hosts.stop_all();
}

/// The primary's node falls silent for longer than everyone's patience, goes on where it was, and does
/// no harm; then that of the next view is killed, and comes back.
#[test]
fn a_primary_that_was_paused_or_killed_does_no_harm_when_it_is_back() {
    let _machine = quiet_machine();
    let seed = seed(SEED);
    let (_directory, mut hosts) = cluster("network-paused");
    let clock = Instant::now();
    let (mut history, mut lines) = (History::new(LOGSPACES), 0);
    let lasting = Load::start(&load_of("lasting", hosts.addresses(&hosts.all()), LASTING_DEADLINE, seed), clock);
    goes_on(&lasting, "whole");

    let view = hosts.view(1);
    // These wait for it, and go on with it.
    let settings = load_of("of the paused", hosts.addresses(&[view.primary]), BRIEF_DEADLINE, seed);
    let faithful = Load::start(&settings, clock);
    goes_on(&faithful, "whole");
    let witness = hosts.all().into_iter().find(|host| *host != view.primary).expect("there are five");
    hosts.signal(view.primary, Signal::STOP);
    let next = hosts.await_later_view(witness, &view);
    goes_on(&lasting, "paused");
    hosts.signal(view.primary, Signal::CONT);
    hosts.await_all_ready();
    goes_on(&lasting, "resumed");
    goes_on(&faithful, "resumed");
    join(&mut history, faithful.stop(), &mut lines);

    hosts.kill(next.primary);
    let witness = hosts.all().into_iter().find(|host| *host != next.primary).expect("there are five");
    hosts.await_later_view(witness, &next);
    goes_on(&lasting, "killed");
    hosts.start(next.primary);
    hosts.await_all_ready();
    goes_on(&lasting, "restarted");

    let lasting = lasting.stop();
    join(&mut history, lasting, &mut lines);
    hosts.check(next.primary, &history);
    hosts.stop_all();
}
