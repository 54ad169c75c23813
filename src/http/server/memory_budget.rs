//! Memory that clients hold at their own speed, divided among the addresses that they come from.
//!
//! Why: a body stays in memory until its client has sent it, an answer until its client has taken it. One budget for
//! all, first come first served, belongs to whoever is slowest.
//!
//! Laws: an address takes at most as much as it leaves free, so one alone has half, two have a third each, and another
//! one always finds some (dynamic thresholds, Choudhury and Hahne 1998). What is small has a reserve that nothing large
//! can take. Nobody stands in line: what does not fit is refused, and who waits for room looks again at all that is given
//! back. All loopback addresses are one.
//!
//! Not here: how slow a client may be ([`super::min_rate`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The largest share that may come out of the reserve, in bytes.
pub(crate) const SMALL_BYTES: usize = 16 << 10;
/// The part of a budget that is its reserve, as a divisor.
const RESERVE: usize = 16;

/// Where a connection comes from, as far as shares are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The source of connections from `address`. An IPv6 host has a network of 64 bits to itself.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
            }
            address @ IpAddr::V4(_) => address,
        })
    }

    /// This machine.
    pub(crate) fn loopback() -> Self {
        Self(Ipv4Addr::LOCALHOST.into())
    }

    /// Whether it is this machine.
    pub(crate) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// How many bytes clients may make a node hold, by what they are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Bodies of requests under way.
    pub bodies: usize,
    /// Values that clients have asked for and not taken yet.
    pub answers: usize,
    /// Events that watchers are in the midst of; one for which there is no room is sent as long as the node remembers it.
    pub events: usize,
    /// What transactions may read. They take it beforehand, and reads must not wait for that.
    pub transactions: usize,
    /// What renewals (`/touch`) may have to show; held no longer than the loop takes.
    pub renewals: usize,
}

/// What all clients together may hold of one kind.
#[derive(Debug)]
pub(crate) struct Budget {
    pools: Mutex<[Pool; 2]>,
    freed: Notify,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    taken: HashMap<Source, usize>,
}

/// Which of a budget's pools a share comes from.
const LARGE: usize = 0;
const SMALL: usize = 1;

/// What one request holds of a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    source: Source,
    pool: usize,
    bytes: usize,
}

impl Pool {
    fn new(bytes: usize) -> Self {
        Self { free: bytes, taken: HashMap::new() }
    }

    /// The first share of a source may be all that is free: one body or answer always fits, however large it may be.
    fn take(&mut self, source: Source, bytes: usize) -> bool {
        let taken = self.taken.get(&source).copied().unwrap_or(0);
        let fits = self.free.checked_sub(bytes).is_some_and(|left| taken == 0 || taken + bytes <= left);
        if fits && bytes > 0 {
            self.free -= bytes;
            self.taken.insert(source, taken + bytes);
        }
        fits
    }

    fn give_back(&mut self, source: Source, bytes: usize) {
        self.free += bytes;
        if let Some(taken) = self.taken.get_mut(&source) {
            *taken -= bytes;
            if *taken == 0 {
                self.taken.remove(&source);
            }
        }
    }
}

impl Budget {
    /// All of `bytes` is free; a sixteenth of it is for what is small.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let pools = Mutex::new([Pool::new(bytes), Pool::new((bytes / RESERVE).max(SMALL_BYTES))]);
        Arc::new(Self { pools, freed: Notify::new() })
    }

    /// Takes `bytes` for a client from `source`, or nothing.
    pub(crate) fn take(self: &Arc<Self>, source: Source, bytes: usize) -> Option<Share> {
        let mut pools = self.pools();
        let pool = if pools[LARGE].take(source, bytes) {
            LARGE
        } else if bytes <= SMALL_BYTES && pools[SMALL].take(source, bytes) {
            SMALL
        } else {
            return None;
        };
        Some(Share { budget: Arc::clone(self), source, pool, bytes })
    }

    /// As [`Budget::take`], as soon as there is room. It never ends where there is not.
    pub(crate) async fn take_in_time(self: &Arc<Self>, source: Source, bytes: usize) -> Share {
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if let Some(share) = self.take(source, bytes) {
                return share;
            }
            freed.await;
        }
    }

    /// What is left besides the reserve.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.pools()[LARGE].free
    }

    fn pools(&self) -> MutexGuard<'_, [Pool; 2]> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Makes it `bytes`; false, and as it was, where there is no room for more.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let mut pools = self.budget.pools();
        let now = self.bytes;
        if bytes <= now {
            pools[self.pool].give_back(self.source, now - bytes);
        } else if self.pool == SMALL && bytes > SMALL_BYTES {
            // It has outgrown the reserve.
            if !pools[LARGE].take(self.source, bytes) {
                return false;
            }
            pools[SMALL].give_back(self.source, now);
            self.pool = LARGE;
        } else if !pools[self.pool].take(self.source, bytes - now) {
            let moves = self.pool == LARGE && bytes <= SMALL_BYTES && pools[SMALL].take(self.source, bytes);
            if !moves {
                return false;
            }
            pools[LARGE].give_back(self.source, now);
            self.pool = SMALL;
        }
        self.bytes = bytes;
        drop(pools);
        if bytes < now {
            self.budget.freed.notify_waiters();
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.pools()[self.pool].give_back(self.source, self.bytes);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn from(last: u8) -> Source {
        Source::of(IpAddr::from([10, 0, 0, last]))
    }

    /// How many shares of `bytes` a source gets.
    fn fill(budget: &Arc<Budget>, source: Source, bytes: usize) -> Vec<Share> {
        std::iter::from_fn(|| budget.take(source, bytes)).collect()
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn an_address_takes_at_most_what_it_leaves_free() {
        let budget = Budget::new(256 * MIB);
        let first = fill(&budget, from(1), MIB);
        assert_eq!(first.len(), 128);
        let second = fill(&budget, from(2), MIB);
        assert_eq!(second.len(), 64, "the other half is divided again");
        assert_eq!(fill(&budget, from(3), MIB).len(), 32);
        drop(first);
        assert_eq!(budget.free(), 192 * MIB);
        assert_eq!(fill(&budget, from(1), MIB).len(), 96, "what is given back is there again");
    }

    #[test]
    fn what_is_small_finds_room_beside_all_that_is_large() {
        let budget = Budget::new(16 * MIB);
        let large = fill(&budget, from(1), MIB);
        let rest: Vec<_> = (2..40).flat_map(|last| fill(&budget, from(last), MIB)).collect();
        assert!(budget.free() < MIB && budget.take(from(1), MIB).is_none());
        assert!(budget.take(from(1), SMALL_BYTES).is_some());
        drop((large, rest));
        assert_eq!(budget.free(), 16 * MIB);
    }

    #[test]
    fn one_always_fits_and_a_share_grows_and_shrinks_with_what_it_stands_for() {
        let budget = Budget::new(8 * MIB);
        let mut share = budget.take(from(1), 8 * MIB).unwrap();
        assert!(budget.take(from(2), MIB).is_none());
        assert!(share.resize(2 * MIB) && budget.free() == 6 * MIB);
        assert!(!share.resize(6 * MIB), "more than it leaves free");
        assert_eq!(budget.free(), 6 * MIB);
        let mut other = budget.take(from(2), 10).unwrap();
        assert!(other.resize(20) && other.resize(SMALL_BYTES) && other.resize(MIB));
        drop((share, other));
        assert_eq!(budget.free(), 8 * MIB);
    }

    #[test]
    fn who_waits_for_room_is_not_behind_who_waits_for_more() {
        let budget = Budget::new(4 * MIB);
        let held = budget.take(from(1), 4 * MIB).unwrap();
        let mut large = Box::pin(budget.take_in_time(from(2), 4 * MIB));
        let mut less = Box::pin(budget.take_in_time(from(3), MIB));
        assert!((&mut large).now_or_never().is_none() && (&mut less).now_or_never().is_none());
        let mut held = held;
        assert!(held.resize(2 * MIB));
        assert!((&mut large).now_or_never().is_none() && (&mut less).now_or_never().is_some());
    }

    #[test]
    fn loopback_is_one_source_and_so_is_a_network_of_ipv6() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("127.0.0.1"), source("127.9.9.9"));
        assert_eq!(source("::1"), source("::ffff:127.0.0.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
