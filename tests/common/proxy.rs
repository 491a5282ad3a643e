//! A TCP proxy before PostgreSQL that cuts connections at a chosen statement.
//!
//! It reads the protocol: what a client sends up to a Sync (or a simple query) is
//! one *unit*, and the server ends its answer to a unit with ReadyForQuery. A cut
//! falls before a unit (the server never sees it) or after it (the server has done
//! it, the client never hears so). Connections must not be encrypted: URLs say
//! `sslmode=disable`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use fastrand::Rng;

/// Where a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before the server sees the unit.
    Before,
    /// After the server has done the unit, before its answer.
    After,
}

#[derive(Debug, Default)]
struct Plan {
    /// Units seen so far, over all connections.
    units: u64,
    /// The unit at which to cut once.
    at: Option<(u64, Cut)>,
    /// One unit of so many is cut, by chance.
    one_in: Option<(u64, Rng)>,
    cuts: u64,
}

impl Plan {
    fn unit(&mut self) -> Option<Cut> {
        self.units += 1;
        let planned = self.at.filter(|(unit, _)| *unit == self.units);
        let chance = self.one_in.as_mut().and_then(|(one_in, random)| {
            let strikes = random.u64(0..*one_in) == 0;
            let cut = if random.bool() {
                Cut::Before
            } else {
                Cut::After
            };
            strikes.then_some(cut)
        });
        let cut = planned.map(|(_, cut)| cut).or(chance)?;
        self.cuts += 1;
        Some(cut)
    }
}

#[derive(Debug)]
struct State {
    target: Mutex<SocketAddr>,
    plan: Mutex<Plan>,
    open: Mutex<Vec<TcpStream>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The proxy; its threads end with the test process.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    state: Arc<State>,
    port: u16,
}

impl Proxy {
    /// A proxy to a server on this port of 127.0.0.1.
    pub(crate) fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            target: Mutex::new(SocketAddr::from(([127, 0, 0, 1], target))),
            plan: Mutex::default(),
            open: Mutex::default(),
        });
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&of_thread);
                thread::spawn(move || carry(client, &state));
            }
        });
        Self { state, port }
    }

    /// The URL of a database behind the proxy.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!(
            "postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Units so far.
    pub(crate) fn units(&self) -> u64 {
        locked(&self.state.plan).units
    }

    /// Cuts so far.
    pub(crate) fn cuts(&self) -> u64 {
        locked(&self.state.plan).cuts
    }

    /// Cuts the n-th unit from now on (from 1).
    pub(crate) fn cut_at(&self, n: u64, cut: Cut) {
        let mut plan = locked(&self.state.plan);
        plan.at = Some((plan.units + n, cut));
    }

    /// Cuts one unit of so many by chance; none any more when `None`.
    pub(crate) fn cut_one_in(&self, one_in: Option<u64>, seed: u64) {
        locked(&self.state.plan).one_in = one_in.map(|one_in| (one_in, Rng::with_seed(seed)));
    }

    /// Leads to another server from now on, and cuts all connections.
    pub(crate) fn lead_to(&self, port: u16) {
        *locked(&self.state.target) = SocketAddr::from(([127, 0, 0, 1], port));
        self.cut_all();
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&self) {
        for stream in locked(&self.state.open).drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// What the two directions of a connection share.
#[derive(Debug, Default)]
struct Link {
    /// Answers that end in this connection: units sent, and the startup.
    expected: u64,
    /// Cut when so many answers have been read, and forward nothing till then.
    cut_after: Option<u64>,
}

fn carry(client: TcpStream, state: &Arc<State>) {
    let target = *locked(&state.target);
    let Ok(server) = TcpStream::connect(target) else {
        client.shutdown(Shutdown::Both).ok();
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok();
        if let Ok(copy) = stream.try_clone() {
            locked(&state.open).push(copy);
        }
    }
    let (Ok(to_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let link = Arc::new(Mutex::new(Link {
        expected: 1,
        cut_after: None,
    }));
    let of_answers = Arc::clone(&link);
    thread::spawn(move || {
        answers(&from_server, &to_client, &of_answers).ok();
        from_server.shutdown(Shutdown::Both).ok();
        to_client.shutdown(Shutdown::Both).ok();
    });
    if requests(&client, &server, state, &link).is_err() {
        client.shutdown(Shutdown::Both).ok();
        server.shutdown(Shutdown::Both).ok();
    }
}

/// Reads one message: its type (none for the startup) and all of its bytes.
fn read_message(mut from: &TcpStream, has_type: bool) -> io::Result<(u8, Vec<u8>)> {
    let mut head = vec![0; if has_type { 5 } else { 4 }];
    from.read_exact(&mut head)?;
    let kind = if has_type { head[0] } else { 0 };
    let length = &head[head.len() - 4..];
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let mut body = vec![0; length.saturating_sub(4)];
    from.read_exact(&mut body)?;
    head.extend(body);
    Ok((kind, head))
}

fn requests(
    client: &TcpStream,
    mut server: &TcpStream,
    state: &State,
    link: &Mutex<Link>,
) -> io::Result<()> {
    let (_, startup) = read_message(client, false)?;
    server.write_all(&startup)?;
    let mut unit = Vec::new();
    loop {
        let (kind, message) = read_message(client, true)?;
        unit.extend(message);
        match kind {
            // Sync, and a simple query, end a unit.
            b'S' | b'Q' => {
                let cut = locked(&state.plan).unit();
                {
                    let mut link = locked(link);
                    link.expected += 1;
                    if cut == Some(Cut::After) {
                        link.cut_after = Some(link.expected);
                    }
                }
                if cut == Some(Cut::Before) {
                    return Err(io::Error::other("cut"));
                }
                server.write_all(&unit)?;
                unit.clear();
            }
            // Terminate.
            b'X' => server.write_all(&unit)?,
            _ => {}
        }
    }
}

fn answers(server: &TcpStream, mut client: &TcpStream, link: &Mutex<Link>) -> io::Result<()> {
    let mut answered = 0;
    loop {
        let (kind, message) = read_message(server, true)?;
        // An answer to an earlier unit still goes through.
        let cut_after = locked(link).cut_after;
        let is_cut = cut_after.is_some_and(|unit| answered + 1 >= unit);
        if !is_cut {
            client.write_all(&message)?;
        }
        if kind == b'Z' {
            answered += 1;
            if is_cut {
                return Err(io::Error::other("cut"));
            }
        }
    }
}
