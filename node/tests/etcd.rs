//! The register in etcd: a real one, which dies and comes back.

use std::thread;
use std::time::{Duration, Instant};

use sealog_control::register::Swap;
use sealog_node::register::conformance::{check_register, first_chain};
use sealog_node::register::{Change, EtcdProcess, RegisterSetting, WatchedRegister, open};
use sealog_protocol::LogspaceId;
use sealog_protocol::view::Chain;

/// Longer than anything here takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

fn register(setting: &RegisterSetting) -> Box<dyn WatchedRegister> {
    open(setting, "no-data-directory".as_ref()).expect("a register can be opened")
}

fn after(chain: &Chain) -> Chain {
    let mut view = chain.current().clone();
    view.number.0 += 1;
    chain.extended(chain.views.len() as u64, view)
}

#[test]
fn etcd_is_a_register_for_each_prefix() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = EtcdProcess::start(directory.path()).expect("etcd-server is installed");
    check_register(|| register(&etcd.setting("orders")));
    check_register(|| register(&etcd.setting("orders-2")));
}

#[test]
fn a_register_outlives_the_death_of_its_etcd() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut etcd = EtcdProcess::start(directory.path()).expect("etcd-server is installed");
    let setting = etcd.setting("orders");
    let mut one = register(&setting);
    let first = first_chain(LogspaceId(3));
    assert_eq!(one.create(&first).expect("answers"), Swap::Installed);
    let mut watch = one.watch();
    assert_eq!(watch.changes(PATIENCE).expect("answers"), [Change::Chain(first.clone())]);

    etcd.kill();
    let began = Instant::now();
    let second = after(&first);
    for message in [
        one.read(first.logspace).expect_err("it is dead").to_string(),
        one.compare_and_swap(&second).expect_err("it is dead").to_string(),
        watch.changes(Duration::from_millis(10)).expect_err("it is dead").to_string(),
    ] {
        assert!(message.contains(&etcd.endpoint()) && message.contains("start etcd there"), "{message}");
    }
    assert!(began.elapsed() < PATIENCE, "every request has a deadline");

    etcd.restart().expect("it has its data");
    assert_eq!(one.read(first.logspace).expect("answers"), Some(first));
    assert_eq!(one.compare_and_swap(&second).expect("answers"), Swap::Installed);
    assert_eq!(watch.changes(PATIENCE).expect("answers"), [Change::Chain(second)], "it goes on where it was");
}

/// A watch that waits when etcd dies is told of it, and of nothing but that.
#[test]
fn a_waiting_watch_hears_of_the_death() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut etcd = EtcdProcess::start(directory.path()).expect("etcd-server is installed");
    let mut watch = register(&etcd.setting("orders")).watch();
    assert_eq!(watch.changes(PATIENCE).expect("answers"), []);
    assert_eq!(watch.changes(Duration::from_millis(50)).expect("answers"), [], "a quiet watch is no error");
    let told = thread::spawn(move || {
        let began = Instant::now();
        while watch.changes(PATIENCE).is_ok_and(|changes| changes.is_empty()) && began.elapsed() < PATIENCE {}
        began.elapsed()
    });
    etcd.kill();
    assert!(told.join().expect("it ends") < PATIENCE);
}

#[test]
fn what_etcd_forgot_is_read_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = EtcdProcess::start(directory.path()).expect("etcd-server is installed");
    let mut one = register(&etcd.setting("orders"));
    let first = first_chain(LogspaceId(0));
    assert_eq!(one.create(&first).expect("answers"), Swap::Installed);
    let mut watch = one.watch();
    assert_eq!(watch.changes(PATIENCE).expect("answers"), [Change::Chain(first.clone())]);
    let second = after(&first);
    let third = after(&second);
    assert_eq!(one.compare_and_swap(&second).expect("answers"), Swap::Installed);
    assert_eq!(one.compare_and_swap(&third).expect("answers"), Swap::Installed);
    etcd.compact().expect("it forgets all but the newest");
    assert_eq!(watch.changes(PATIENCE).expect("answers"), [Change::Chain(third)]);
}

#[test]
fn the_next_address_answers_when_one_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = EtcdProcess::start(directory.path()).expect("etcd-server is installed");
    let text = format!("etcd://127.0.0.1:1,{}/orders", etcd.endpoint());
    let mut one = register(&RegisterSetting::parse(&text).expect("a setting"));
    let first = first_chain(LogspaceId(0));
    assert_eq!(one.create(&first).expect("nothing was sent to the first"), Swap::Installed);
    assert_eq!(one.read(first.logspace).expect("answers"), Some(first));
}
