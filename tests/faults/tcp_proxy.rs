//! TCP proxy of every directed link between two nodes, which cuts, delays and resets connections.
//!
//! Why: connections between processes on one machine do not fail by themselves.
//!
//! How: a node binds 127.0.0.1 and advertises 127.0.1.K with the same port, where the proxy of node K listens. So all
//! peers come through it, and the first frame of each connection carries the address that its dialler advertises, which
//! tells the link. A link from A to B is every connection that A dials to B, with the bytes of both ways on it: huskv
//! sends A's raft messages for B only on those, so a link can fail in one direction alone.
//!
//! Invariants: bytes that the proxy forwards are in order and unchanged. It needs the whole of 127/8 on the loopback
//! device, as Linux has it.
//!
//! See also: `nemesis`, which draws the faults.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use crate::harness::millis;

/// What is read at once and is this long counts as bulk.
const BULK: usize = 16 << 10;

/// How often a waiting connection looks whether its link has changed.
const LOOK: Duration = millis(20);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It carries everything.
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay and are taken, and nothing moves.
    Hole,
    /// Everything that moves takes this many milliseconds longer.
    Slow(u64),
    /// Bulk takes this many milliseconds longer for each piece of at most 64 KiB, small messages go at once.
    #[allow(dead_code)]
    Narrow(u64),
}

/// What the connections of one link are to do.
#[derive(Clone, Copy)]
struct Order {
    state: State,
    /// Connections of an earlier age are reset.
    age: u64,
}

struct Shared {
    orders: Mutex<Vec<Vec<Order>>>,
    ended: AtomicBool,
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Vec<Vec<Order>>> {
        self.orders.lock().expect("no thread panics with the lock")
    }

    /// What holds for connections from `from`; a dialler that has no address yet gets the best of what others have.
    fn order(&self, from: Option<usize>, to: usize) -> Order {
        let orders = self.orders();
        let all = || (0..orders.len()).filter(|&at| at != to).map(|at| orders[at][to]);
        let best = || all().find(|order| order.state == State::Open).or_else(|| all().next());
        from.map(|from| orders[from][to]).or_else(best).expect("there is another node")
    }
}

/// All links of a few nodes.
pub struct Links {
    shared: Arc<Shared>,
}

/// The host that the node at this place advertises.
pub fn host(place: usize) -> String {
    format!("127.0.1.{}", place + 1)
}

impl Links {
    /// Proxies for nodes with these raft ports.
    pub fn new(ports: &[u16]) -> Self {
        let open = Order { state: State::Open, age: 0 };
        let orders = Mutex::new(vec![vec![open; ports.len()]; ports.len()]);
        let shared = Arc::new(Shared { orders, ended: AtomicBool::new(false) });
        for (to, &port) in ports.iter().enumerate() {
            let listener = TcpListener::bind((host(to), port)).expect("the port of a proxy");
            listener.set_nonblocking(true).expect("a listener that can be ended");
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, &shared, to, port));
        }
        Self { shared }
    }

    /// Changes one link.
    pub fn set(&self, from: usize, to: usize, state: State) {
        self.shared.orders()[from][to].state = state;
    }

    /// Opens all links.
    pub fn open(&self) {
        self.shared.orders().iter_mut().flatten().for_each(|order| order.state = State::Open);
    }

    /// Resets every connection of a link; new ones are taken.
    pub fn reset(&self, from: usize, to: usize) {
        self.shared.orders()[from][to].age += 1;
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, to: usize, port: u16) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((dialler, _)) => {
                let shared = shared.clone();
                std::thread::spawn(move || connection(dialler, &shared, to, port));
            }
            Err(_) => sleep(millis(2)),
        }
    }
}

/// One connection, from its first byte to its end. Errors end it, as they would without the proxy.
fn connection(mut dialler: TcpStream, shared: &Arc<Shared>, to: usize, port: u16) {
    _ = dialler.set_nonblocking(false);
    _ = dialler.set_nodelay(true);
    _ = dialler.set_read_timeout(Some(Duration::from_secs(10)));
    let mut first = Vec::new();
    let from = read_first_frame(&mut dialler, &mut first).ok().and_then(|()| source(&first));
    let age = shared.order(from, to).age;
    let Some(()) = admitted(shared, from, to, age) else { return };
    let Ok(mut target) = TcpStream::connect(("127.0.0.1", port)) else { return };
    _ = target.set_nodelay(true);
    if target.write_all(&first).is_err() {
        return;
    }
    let (Ok(back), Ok(forth)) = (target.try_clone(), dialler.try_clone()) else { return };
    let other = shared.clone();
    let answers = std::thread::spawn(move || relay(back, forth, &other, (from, to), age));
    relay(dialler, target, shared, (from, to), age);
    _ = answers.join();
}

/// Reads the preamble and the first frame, or as much as there is of them.
fn read_first_frame(dialler: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<()> {
    const PREAMBLE: usize = 10;
    const HEAD: usize = 5;
    const CHECKSUM: usize = 4;
    const MOST: usize = 64 << 10;
    let mut want = PREAMBLE + HEAD;
    while first.len() < want {
        let mut buffer = vec![0; want - first.len()];
        let got = dialler.read(&mut buffer)?;
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&buffer[..got]);
        if first.len() >= PREAMBLE + HEAD {
            let field = first[PREAMBLE..PREAMBLE + 4].try_into().expect("four bytes");
            let length = usize::try_from(u32::from_le_bytes(field)).unwrap_or(MOST);
            want = PREAMBLE + HEAD + length.min(MOST) + CHECKSUM;
        }
    }
    Ok(())
}

/// Whose first frame this is: it carries the address that its dialler advertises, in plain text.
fn source(first: &[u8]) -> Option<usize> {
    let sign = b"127.0.1.";
    let at = first.windows(sign.len()).position(|window| window == sign)? + sign.len();
    let digits: String = first[at..].iter().map(|&byte| char::from(byte)).take_while(char::is_ascii_digit).collect();
    digits.parse::<usize>().ok()?.checked_sub(1)
}

/// Waits while the link is a hole; `None` where the connection is to end.
fn admitted(shared: &Shared, from: Option<usize>, to: usize, age: u64) -> Option<()> {
    loop {
        let order = shared.order(from, to);
        if order.state == State::Cut || order.age != age || shared.ended.load(Ordering::SeqCst) {
            return None;
        }
        if order.state != State::Hole {
            return Some(());
        }
        sleep(LOOK);
    }
}

/// Passes bytes on in one direction until an end closes or the link says so.
fn relay(mut source: TcpStream, mut sink: TcpStream, shared: &Shared, link: (Option<usize>, usize), age: u64) {
    let (from, to) = link;
    _ = source.set_read_timeout(Some(LOOK));
    let mut buffer = vec![0; 64 << 10];
    loop {
        if admitted(shared, from, to, age).is_none() {
            // Closing with unread bytes, and at once, is a reset to both ends.
            _ = rustix::net::sockopt::set_socket_linger(&source, Some(Duration::ZERO));
            _ = rustix::net::sockopt::set_socket_linger(&sink, Some(Duration::ZERO));
            break;
        }
        let got = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        match shared.order(from, to).state {
            State::Slow(late) => sleep(millis(late)),
            State::Narrow(late) if got >= BULK => sleep(millis(late)),
            _ => {}
        }
        if admitted(shared, from, to, age).is_none() || sink.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    _ = source.shutdown(Shutdown::Both);
    _ = sink.shutdown(Shutdown::Both);
}
