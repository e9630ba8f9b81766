//! The thread that hands frames from host to host, by the rules of each direction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::network::tap::Tap;

/// Of a frame, with room to spare: devices are told to send none near it.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Frames that are taken from one device before the others have their turn.
const TURN_FRAMES_MAX: usize = 64;
/// Of frames under way on one link; what comes while so much is, is lost.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Where an Ethernet frame says whose it is.
const DESTINATION_BYTES: usize = 6;

/// What happens to frames from one host to another. By default they arrive at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// All are lost.
    pub is_cut: bool,
    /// Each arrives so much later.
    pub delay: Duration,
    /// They follow each other as on a line of this speed; 0: of any.
    pub bytes_per_s: u64,
}

/// What a switch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchCounters {
    pub delivered: u64,
    /// Lost because their link was cut.
    pub cut: u64,
    /// Lost because too much was under way on their link.
    pub overflowed: u64,
    /// Arrived later than at once.
    pub delayed: u64,
}

/// The address of a host's device: the last byte is the host.
pub(crate) fn hardware_address(host: usize) -> [u8; DESTINATION_BYTES] {
    let host = u8::try_from(host).expect("hosts are few");
    // Locally administered, of one station.
    [0x02, 0x5e, 0xa1, 0x06, 0x00, host]
}

/// See the module's documentation. Dropping it ends the thread, and the devices with it.
#[derive(Debug)]
pub(crate) struct Switch {
    shared: Arc<Mutex<Rules>>,
    /// Its end ends the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Rules {
    hosts: usize,
    /// From the first to the second, by `from * hosts + to`.
    links: Vec<Link>,
    counters: SwitchCounters,
}

impl Switch {
    /// Starts it: the device of each host, by its number.
    pub fn start(taps: Vec<Tap>) -> io::Result<Switch> {
        let hosts = taps.len();
        let rules = Rules { hosts, links: vec![Link::default(); hosts * hosts], counters: SwitchCounters::default() };
        let shared = Arc::new(Mutex::new(rules));
        let (stopped, stop) = io::pipe()?;
        let mut frames = Frames::new(taps, shared.clone());
        let run = move || frames.run(&stopped);
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(run)?;
        Ok(Switch { shared, stop: Some(stop), thread: Some(thread) })
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_link(&self, from: usize, to: usize, link: Link) {
        let mut rules = self.rules();
        assert!(from < rules.hosts && to < rules.hosts, "no such host");
        let at = from * rules.hosts + to;
        rules.links[at] = link;
    }

    pub fn heal(&self) {
        self.rules().links.fill(Link::default());
    }

    pub fn counters(&self) -> SwitchCounters {
        self.rules().counters
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, hosts lost each other and the test has failed.
            let _ = thread.join();
        }
    }
}

/// A frame under way, in order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Instant,
    /// Frames of one moment arrive as they came.
    number: u64,
    link: usize,
    to: usize,
    frame: Vec<u8>,
}

/// What the thread works on.
struct Frames {
    taps: Vec<Tap>,
    shared: Arc<Mutex<Rules>>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    /// Of each link: bytes under way, and when its line is free.
    queued_bytes: Vec<usize>,
    free_at: Vec<Option<Instant>>,
    /// When the last frame of each link arrives: none overtakes it, whatever the link is by then.
    last_due: Vec<Option<Instant>>,
    number: u64,
}

impl Frames {
    fn new(taps: Vec<Tap>, shared: Arc<Mutex<Rules>>) -> Frames {
        let links = taps.len() * taps.len();
        Frames {
            taps,
            shared,
            under_way: BinaryHeap::new(),
            queued_bytes: vec![0; links],
            free_at: vec![None; links],
            last_due: vec![None; links],
            number: 0,
        }
    }

    fn run(&mut self, stop: &impl AsFd) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            let now = Instant::now();
            let timeout = self.under_way.peek().map(|first| {
                let wait = first.0.due.saturating_duration_since(now);
                Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
            });
            let mut waited: Vec<PollFd<'_>> = vec![PollFd::new(stop, PollFlags::IN)];
            waited.extend(self.taps.iter().map(|tap| PollFd::from_borrowed_fd(tap.descriptor(), PollFlags::IN)));
            // An interrupted wait has waited for nothing, and shows no events.
            let polled = poll(&mut waited, timeout.as_ref());
            let is_ready: Vec<bool> = waited.iter().map(|fd| polled.is_ok() && !fd.revents().is_empty()).collect();
            if is_ready[0] {
                return;
            }
            for host in (0..self.taps.len()).filter(|host| is_ready[host + 1]) {
                self.take_from(host, &mut buffer);
            }
            self.deliver_due();
        }
    }

    fn take_from(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..TURN_FRAMES_MAX {
            // A device that is not up yet has nothing to say.
            let Ok(Some(bytes)) = self.taps[from].read(buffer) else { return };
            let frame = &buffer[..bytes];
            let Some(destination) = frame.first_chunk::<DESTINATION_BYTES>() else { continue };
            let hosts = self.taps.len();
            // What is for nobody here is for all: broadcasts.
            let owner = (0..hosts).find(|host| hardware_address(*host) == *destination);
            for to in (0..hosts).filter(|to| *to != from && owner.is_none_or(|owner| owner == *to)) {
                self.forward(from, to, frame);
            }
        }
    }

    fn forward(&mut self, from: usize, to: usize, frame: &[u8]) {
        let at = from * self.taps.len() + to;
        let mut rules = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let link = rules.links[at];
        if link.is_cut {
            rules.counters.cut += 1;
            return;
        }
        if link == Link::default() && self.queued_bytes[at] == 0 {
            rules.counters.delivered += 1;
            drop(rules);
            self.taps[to].write(frame);
            return;
        }
        if self.queued_bytes[at] + frame.len() > QUEUE_BYTES_MAX {
            rules.counters.overflowed += 1;
            return;
        }
        rules.counters.delayed += 1;
        let now = Instant::now();
        let begins = self.free_at[at].map_or(now, |free_at| free_at.max(now));
        let takes_ns = (frame.len() as u64 * 1_000_000_000).checked_div(link.bytes_per_s).unwrap_or(0);
        let sent = begins + Duration::from_nanos(takes_ns);
        self.free_at[at] = Some(sent);
        self.queued_bytes[at] += frame.len();
        self.number += 1;
        let due = self.last_due[at].map_or(sent + link.delay, |last| last.max(sent + link.delay));
        self.last_due[at] = Some(due);
        let number = self.number;
        self.under_way.push(Reverse(UnderWay { due, number, link: at, to, frame: frame.to_vec() }));
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|first| first.0.due <= now) {
            let Reverse(arrived) = self.under_way.pop().expect("it was just looked at");
            self.queued_bytes[arrived.link] -= arrived.frame.len();
            let mut rules = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if rules.links[arrived.link].is_cut {
                rules.counters.cut += 1;
                continue;
            }
            rules.counters.delivered += 1;
            drop(rules);
            self.taps[arrived.to].write(&arrived.frame);
        }
    }
}
