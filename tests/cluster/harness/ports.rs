//! Free ports for tests that must name one before the node runs.
//!
//! Why: such ports are below the ephemeral range of the system, so that no node with port 0 gets the same one.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::sync::Mutex;

/// A port of 127.0.0.1 on which nothing listens and that this function returns once.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("no thread panics while choosing a port");
    for _ in 0..1000 {
        // A fresh RandomState is seeded anew, which is all the randomness that is needed here.
        let random = RandomState::new().hash_one(given.len());
        let port = 20_000 + u16::try_from(random % 12_000).expect("below 12 000");
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port found");
}
