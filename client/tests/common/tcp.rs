//! The scripted server behind a socket, one thread for it and one for each connection.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::FakeServer;

pub struct TcpServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    server: FakeServer,
    streams: BTreeMap<usize, TcpStream>,
    connections: usize,
    /// Connections are closed as soon as they are made.
    is_closed: bool,
}

impl TcpServer {
    pub fn start(server: FakeServer) -> TcpServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State { server, streams: BTreeMap::new(), connections: 0, is_closed: false }));
        let of_thread = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                stream.set_nodelay(true).expect("a TCP socket");
                let mut state = of_thread.lock().expect("no test panics in it");
                if state.is_closed {
                    continue;
                }
                state.connections += 1;
                let connection = state.connections;
                state.streams.insert(connection, stream.try_clone().expect("a descriptor"));
                let of_connection = of_thread.clone();
                thread::spawn(move || serve(&of_connection, connection, stream));
            }
        });
        TcpServer { address, state }
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
        state.is_closed = stay_closed;
        for (connection, stream) in std::mem::take(&mut state.streams) {
            let _ = stream.shutdown(Shutdown::Both);
            state.server.disconnect(connection);
        }
    }
}

fn serve(state: &Mutex<State>, connection: usize, mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes) = stream.read(&mut buffer) {
        if bytes == 0 {
            break;
        }
        let mut state = state.lock().expect("no test panics in it");
        let state = &mut *state;
        state.server.receive(connection, &buffer[..bytes]);
        // An append may answer the waiting reads of other connections.
        for (connection, stream) in &mut state.streams {
            let output = state.server.output(*connection);
            let _ = stream.write_all(&output);
        }
    }
}
