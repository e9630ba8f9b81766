//! The scripted server behind a socket, one thread for it and one for each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::FakeServer;

pub struct TcpServer {
    /// Of the first node.
    pub address: SocketAddr,
    /// Nodes before the same log: a cluster's.
    pub addresses: Vec<SocketAddr>,
    state: Arc<Mutex<State>>,
}

struct State {
    server: FakeServer,
    /// By connection; with the node's number.
    streams: BTreeMap<usize, (usize, TcpStream)>,
    connections: usize,
    /// Nodes whose connections are closed as soon as they are made.
    closed: BTreeSet<usize>,
    /// A node that takes bytes and acts on none.
    stopped: Option<usize>,
}

impl TcpServer {
    pub fn start(server: FakeServer) -> TcpServer {
        TcpServer::start_nodes(server, 1)
    }

    /// So many nodes with one log.
    pub fn start_nodes(server: FakeServer, nodes: usize) -> TcpServer {
        let state = Arc::new(Mutex::new(State {
            server,
            streams: BTreeMap::new(),
            connections: 0,
            closed: BTreeSet::new(),
            stopped: None,
        }));
        let addresses: Vec<SocketAddr> = (0..nodes).map(|node| listen(&state, node)).collect();
        TcpServer { address: addresses[0], addresses, state }
    }

    /// All addresses, as a client takes them.
    pub fn connect_text(&self) -> String {
        self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The only nodes with connections now.
    pub fn connected_nodes(&self) -> BTreeSet<usize> {
        self.state.lock().expect("no test panics in it").streams.values().map(|(node, _)| *node).collect()
    }

    /// Ends a node's connections, and refuses others; the others take some again.
    pub fn kill(&self, killed: usize) {
        let mut state = self.state.lock().expect("no test panics in it");
        state.closed = BTreeSet::from([killed]);
        state.cut(|node| node == killed);
    }

    /// A node acts on nothing any more; the one before does again.
    pub fn stop(&self, stopped: usize) {
        self.state.lock().expect("no test panics in it").stopped = Some(stopped);
    }

    pub fn with<R>(&self, act: impl FnOnce(&mut FakeServer) -> R) -> R {
        act(&mut self.state.lock().expect("no test panics in it").server)
    }

    pub fn connections(&self) -> usize {
        self.state.lock().expect("no test panics in it").connections
    }

    /// Cuts every connection; new ones are taken unless `stay_closed`.
    pub fn cut(&self, stay_closed: bool) {
        let mut state = self.state.lock().expect("no test panics in it");
        state.closed = if stay_closed { (0..self.addresses.len()).collect() } else { BTreeSet::new() };
        state.cut(|_| true);
    }
}

impl State {
    fn cut(&mut self, is_cut: impl Fn(usize) -> bool) {
        for (connection, (node, stream)) in std::mem::take(&mut self.streams) {
            if is_cut(node) {
                let _ = stream.shutdown(Shutdown::Both);
                self.server.disconnect(connection);
            } else {
                self.streams.insert(connection, (node, stream));
            }
        }
    }
}

fn listen(state: &Arc<Mutex<State>>, node: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let of_thread = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            stream.set_nodelay(true).expect("a TCP socket");
            let mut state = of_thread.lock().expect("no test panics in it");
            if state.closed.contains(&node) {
                continue;
            }
            state.connections += 1;
            let connection = state.connections;
            state.streams.insert(connection, (node, stream.try_clone().expect("a descriptor")));
            let of_connection = of_thread.clone();
            thread::spawn(move || serve(&of_connection, node, connection, stream));
        }
    });
    address
}

fn serve(state: &Mutex<State>, node: usize, connection: usize, mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes) = stream.read(&mut buffer) {
        if bytes == 0 {
            break;
        }
        let mut state = state.lock().expect("no test panics in it");
        let state = &mut *state;
        if state.stopped == Some(node) {
            continue;
        }
        if !state.streams.contains_key(&connection) {
            break;
        }
        state.server.receive(connection, &buffer[..bytes]);
        // An append may answer the waiting reads of other connections.
        for (connection, (_, stream)) in &mut state.streams {
            let output = state.server.output(*connection);
            let _ = stream.write_all(&output);
        }
    }
}
