//! What every register must do, as one suite that runs on each of them.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use sealog_control::register::{MembersSwap, Swap};
use sealog_protocol::members::{Member, MemberState, Members, Roles};
use sealog_protocol::view::{Chain, ClusterSettings, View};
use sealog_protocol::{ClusterId, Incarnation, LogspaceId, NodeId, NodeSet, ViewNumber};

use super::{Change, RegisterWatch, WatchedRegister};

const CLUSTER: ClusterId = ClusterId(7);
/// Threads that swap at once.
const SWAPPERS: u64 = 6;
/// Views, or versions, that they install together.
const SWAPS: usize = 24;
/// A change is told within this time, even on a machine that does much else.
const TOLD_MAX: Duration = Duration::from_secs(30);

/// A chain of one view, as a new cluster has it.
pub fn first_chain(logspace: LogspaceId) -> Chain {
    let only = NodeSet::new(&[NodeId(1)]).expect("one node is a set");
    let view = View {
        number: ViewNumber(1),
        primary: NodeId(1),
        primary_incarnation: Incarnation(1),
        sequencers: only,
        storages: only,
        write_quorum: 1,
        replicas: 1,
        moves: Vec::new(),
        cause: Default::default(),
    };
    Chain { settings: ClusterSettings::new(CLUSTER, 4), logspace, views: vec![view], ends: Vec::new() }
}

/// The chain with its view ended there, and one more.
fn after(chain: &Chain, end: u64) -> Chain {
    let mut view = chain.current().clone();
    view.number.0 += 1;
    view.primary_incarnation.0 += 1;
    chain.extended(end, view)
}

fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        roles: Roles::ALL,
        state: MemberState::Active,
        replacement: None,
        peer_address: "10.0.0.1:7441".to_owned(),
        client_address: "10.0.0.1:7440".to_owned(),
    }
}

/// All of it. Each call of `open` opens the same register, which holds nothing yet, as another
/// process would.
///
/// # Panics
/// When the register breaks its contract.
pub fn check_register(open: impl Fn() -> Box<dyn WatchedRegister> + Sync) {
    let mut watch = open().watch();
    assert_eq!(watch.changes(Duration::ZERO).expect("readable"), [], "it holds nothing at first");
    check_swaps(&mut *open(), &first_chain(LogspaceId(0)));
    check_members(&mut *open());
    check_watch(&mut *watch, &open);
    check_swappers(&open, LogspaceId(2));
    check_members_of_many(&open);
}

/// What one who swaps meets.
fn check_swaps(register: &mut dyn WatchedRegister, chain: &Chain) {
    let logspace = chain.logspace;
    let held = |chain: &Chain| Swap::Held(Box::new(chain.clone()));
    assert_eq!(register.read(logspace).expect("readable"), None, "it holds nothing at first");
    let second = after(chain, 7);
    assert!(register.compare_and_swap(&second).is_err(), "the second view follows a first");
    assert_eq!(register.create(chain).expect("answers"), Swap::Installed);
    assert_eq!(register.create(&second).expect("answers"), held(chain), "a chain is created once");
    assert_eq!(register.compare_and_swap(&second).expect("answers"), Swap::Installed, "an extension is installed");
    assert_eq!(register.read(logspace).expect("readable").as_ref(), Some(&second), "and read again");

    let third = after(&second, 9);
    let mut other_past = third.clone();
    other_past.ends[0] = 8;
    let mut other_settings = third.clone();
    other_settings.settings.session_window += 1;
    let refused = [
        ("another extension of the old chain", after(chain, 8)),
        ("the same one twice", second.clone()),
        ("a step back", chain.clone()),
        ("two steps at once", after(&third, 10)),
        ("another past", other_past),
        ("other settings", other_settings),
    ];
    for (what, next) in &refused {
        assert_eq!(register.compare_and_swap(next).expect("answers"), held(&second), "{what} is refused");
        assert_eq!(register.read(logspace).expect("readable").as_ref(), Some(&second), "{what} changes nothing");
    }
    assert_eq!(register.compare_and_swap(&third).expect("answers"), Swap::Installed, "the next view goes on");
    assert_eq!(register.read(logspace).expect("readable"), Some(third));
    let other = LogspaceId(logspace.0 + 1);
    assert_eq!(register.read(other).expect("readable"), None, "another logspace has a chain of its own");
}

fn check_members(register: &mut dyn WatchedRegister) {
    assert_eq!(register.members().expect("readable"), None, "there are no members at first");
    let first = Members { cluster: CLUSTER, version: 1, nodes: Vec::new() };
    let second = first.with(member(4));
    assert!(register.swap_members(&second).is_err(), "the second follows the first");
    assert_eq!(register.swap_members(&first).expect("answers"), MembersSwap::Installed);
    assert_eq!(register.swap_members(&first).expect("answers"), MembersSwap::Held(first.clone()), "once");
    assert_eq!(register.swap_members(&second).expect("answers"), MembersSwap::Installed);
    let refused = MembersSwap::Held(second.clone());
    assert_eq!(register.swap_members(&first.with(member(5))).expect("answers"), refused, "a version is given once");
    let other = Members { cluster: ClusterId(CLUSTER.0 ^ 1), ..second.with(member(5)) };
    assert_eq!(register.swap_members(&other).expect("answers"), refused, "another cluster's are refused");
    assert_eq!(register.members().expect("readable"), Some(second));
}

/// What a watch tells that began before all of it.
fn check_watch(watch: &mut dyn RegisterWatch, open: &impl Fn() -> Box<dyn WatchedRegister>) {
    let mut register = open();
    let held = register.read(LogspaceId(0)).expect("readable").expect("it was created");
    let members = register.members().expect("readable").expect("they were created");
    let mut known = Known::default();
    known.wait(watch, |known| known.chain.as_ref() == Some(&held) && known.members.as_ref() == Some(&members));
    assert_eq!(watch.changes(Duration::ZERO).expect("readable"), [], "nothing is told twice");

    let mut late = open().watch();
    let mut first = late.changes(Duration::ZERO).expect("readable");
    first.sort_by_key(|change| matches!(change, Change::Members(_)));
    assert_eq!(first, [Change::Chain(held.clone()), Change::Members(members.clone())], "a late watch is told all");

    let next = after(&held, 20);
    assert_eq!(register.compare_and_swap(&next).expect("answers"), Swap::Installed);
    let next_members = members.with(member(9));
    assert_eq!(register.swap_members(&next_members).expect("answers"), MembersSwap::Installed);
    for watch in [watch, &mut *late] {
        known.wait(watch, |known| known.chain.as_ref() == Some(&next) && known.members.as_ref() == Some(&next_members));
    }
}

/// What a watch told of a register with one logspace.
#[derive(Default)]
struct Known {
    chain: Option<Chain>,
    members: Option<Members>,
}

impl Known {
    fn wait(&mut self, watch: &mut dyn RegisterWatch, is_right: impl Fn(&Known) -> bool) {
        let until = Instant::now() + TOLD_MAX;
        while !is_right(self) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "a change was not told within {TOLD_MAX:?}");
            for change in watch.changes(left).expect("readable") {
                match change {
                    Change::Chain(chain) => self.chain = Some(chain),
                    Change::Members(members) => self.members = Some(members),
                }
            }
        }
    }
}

/// Many who extend the same chain at once: each view is installed by one of them, and a watch sees
/// them in order.
fn check_swappers(open: &(impl Fn() -> Box<dyn WatchedRegister> + Sync), logspace: LogspaceId) {
    assert_eq!(open().create(&first_chain(logspace)).expect("answers"), Swap::Installed);
    let begin = Barrier::new(SWAPPERS as usize);
    let swap = |swapper: u64| {
        let mut register = open();
        let mut won: Vec<Chain> = Vec::new();
        begin.wait();
        let mut held = register.read(logspace).expect("readable").expect("it was created");
        while held.ends.len() < SWAPS {
            // Chains of two swappers differ, so that a view has one author.
            let next = after(&held, held.ends.len() as u64 * SWAPPERS + swapper);
            held = match register.compare_and_swap(&next).expect("answers") {
                Swap::Installed => {
                    won.push(next.clone());
                    next
                }
                Swap::Held(newer) => {
                    assert!(newer.views.len() > held.views.len(), "a swap is refused when another went before");
                    *newer
                }
            };
        }
        won
    };
    let mut watch = open().watch();
    let won: Vec<Chain> = thread::scope(|scope| {
        let swappers: Vec<_> = (0..SWAPPERS).map(|swapper| scope.spawn(move || swap(swapper))).collect();
        let mut known = 0;
        let until = Instant::now() + TOLD_MAX;
        while known < SWAPS + 1 {
            assert!(Instant::now() < until, "a watch was told of {known} views within {TOLD_MAX:?}");
            for change in watch.changes(TOLD_MAX).expect("readable") {
                if let Change::Chain(chain) = change
                    && chain.logspace == logspace
                {
                    assert!(chain.views.len() > known, "views are told in order");
                    known = chain.views.len();
                }
            }
        }
        swappers.into_iter().flat_map(|swapper| swapper.join().expect("no swapper panics")).collect()
    });
    assert_eq!(won.len(), SWAPS, "of swaps that extend the same chain one is installed");
    let held = open().read(logspace).expect("readable").expect("it was created");
    for chain in &won {
        let ends = chain.ends.len();
        assert_eq!(chain.ends[..], held.ends[..ends], "what was installed stays");
    }
}

/// Many nodes that write themselves into the members at once: none of them is lost.
fn check_members_of_many(open: &(impl Fn() -> Box<dyn WatchedRegister> + Sync)) {
    let before = open().members().expect("readable").expect("they were created");
    thread::scope(|scope| {
        for node in 100..100 + SWAPPERS {
            scope.spawn(move || {
                let mut register = open();
                let mut held = register.members().expect("readable").expect("they were created");
                while let MembersSwap::Held(newer) = register.swap_members(&held.with(member(node))).expect("answers") {
                    held = newer;
                }
            });
        }
    });
    let held = open().members().expect("readable").expect("they were created");
    assert_eq!(held.version, before.version + SWAPPERS);
    assert!((100..100 + SWAPPERS).all(|node| held.get(NodeId(node)).is_some()), "{held:?}");
}
