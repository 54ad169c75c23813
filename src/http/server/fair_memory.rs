//! Fair shares of a memory budget: bytes that clients make the node hold, divided among their callers.
//!
//! Why: a request body stays in memory until its client has sent it, a response until its client has taken it. With one
//! budget in order of arrival, the slowest clients would own all of it.
//!
//! Invariants: a holder is a valid token by its name, and without one an address ([`Source`]). It holds at most as many bytes as it
//! leaves free (dynamic thresholds, Choudhury and Hahne 1998), so one alone gets half of a budget, two get a third each, and a new
//! one always finds some. Small shares ([`SMALL_BYTES`]) have a reserve that large ones cannot take. There is no queue: what does
//! not fit is refused, and a request that waits tries again at each release. All loopback addresses are one address.
//!
//! See also: the least rate of a client ([`super::min_rate`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::http::clients::{RequestClient, network};
use crate::model::TokenName;

/// The largest share that may come out of the reserve, in bytes.
pub(crate) const SMALL_BYTES: usize = 16 << 10;
/// The size of the reserve as a part of the budget, as a divisor.
const RESERVE_DIVISOR: usize = 16;

/// The address that a client's connections are counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// Returns the source of connections from `address`: an IPv4 address, or the /64 network of an IPv6 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(if address.to_canonical().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { network(address) })
    }

    /// This machine.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn loopback() -> Self {
        Self(Ipv4Addr::LOCALHOST.into())
    }

    /// Whether it is this machine.
    pub(crate) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// The caller that shares are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A token, wherever its requests come from.
    Token(TokenName),
    /// An address.
    Address(Source),
}

impl Holder {
    /// The holder of the shares of a request.
    pub(crate) fn of(client: &RequestClient) -> Self {
        client.caller.token().map_or_else(|| Source::of(client.address).into(), Self::Token)
    }
}

impl From<Source> for Holder {
    fn from(source: Source) -> Self {
        Self::Address(source)
    }
}

/// The sizes of the budgets of a node, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Bodies of requests under way.
    pub bodies: usize,
    /// Values in responses that clients have not taken yet.
    pub answers: usize,
    /// Events that are partly sent to watchers; one for which there is no room is sent as long as the change feed keeps it.
    pub events: usize,
    /// What transactions may read. It is taken before they are proposed, apart from `answers`, so that reads need not wait
    /// for it.
    pub transactions: usize,
    /// The values that renewals (`/touch`) return; held while the loop works on them, and no longer.
    pub renewals: usize,
}

/// One budget, shared by all clients.
#[derive(Debug)]
pub(crate) struct Budget {
    pools: Mutex<[Pool; 2]>,
    released: Notify,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    taken: HashMap<Holder, usize>,
}

/// The pools of a budget; the second one is its reserve.
const LARGE: usize = 0;
const SMALL: usize = 1;

/// The bytes that one request holds of a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    holder: Holder,
    pool: usize,
    bytes: usize,
}

impl Pool {
    fn new(bytes: usize) -> Self {
        Self { free: bytes, taken: HashMap::new() }
    }

    /// Takes `bytes` for `holder`; false, without effect, where that is over its threshold.
    fn take(&mut self, holder: &Holder, bytes: usize) -> bool {
        let mut held = self.taken.get_mut(holder);
        let taken = held.as_deref().copied().unwrap_or(0);
        // A holder may have as much as stays free after it. Of 256 MiB, in shares of 1 MiB:
        //   A takes 128 (128 held <= 128 free), its next share would make it 129 held > 127 free
        //   B takes 64 (64 <= 64), C takes 32 (32 <= 32): a newcomer always finds half of what is left
        // The first share of a holder is exempt: one body or response always fits, whatever its size.
        let fits = self.free.checked_sub(bytes).is_some_and(|left| taken == 0 || taken + bytes <= left);
        if fits && bytes > 0 {
            self.free -= bytes;
            match &mut held {
                Some(taken) => **taken += bytes,
                None => drop(self.taken.insert(holder.clone(), bytes)),
            }
        }
        fits
    }

    fn release(&mut self, holder: &Holder, bytes: usize) {
        self.free += bytes;
        if let Some(taken) = self.taken.get_mut(holder) {
            *taken -= bytes;
            if *taken == 0 {
                self.taken.remove(holder);
            }
        }
    }
}

impl Budget {
    /// Creates a budget of `bytes`, and a reserve of a sixteenth beside it.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let pools = Mutex::new([Pool::new(bytes), Pool::new((bytes / RESERVE_DIVISOR).max(SMALL_BYTES))]);
        Arc::new(Self { pools, released: Notify::new() })
    }

    /// Takes a share of `bytes` for `holder`; None where it does not fit.
    pub(crate) fn take(self: &Arc<Self>, holder: &Holder, bytes: usize) -> Option<Share> {
        // The large pool first, so that the reserve is whole when it is needed. Example: uploads of 1 MiB have filled the large
        // pool. The next upload is refused, but a PUT of 200 bytes still fits the reserve, which no upload can touch.
        let mut pools = self.pools();
        let pool = if pools[LARGE].take(holder, bytes) {
            LARGE
        } else if bytes <= SMALL_BYTES && pools[SMALL].take(holder, bytes) {
            SMALL
        } else {
            return None;
        };
        Some(Share { budget: Arc::clone(self), holder: holder.clone(), pool, bytes })
    }

    /// Waits until a share of `bytes` fits, without a bound: the caller has a deadline.
    pub(crate) async fn take_when_free(self: &Arc<Self>, holder: &Holder, bytes: usize) -> Share {
        loop {
            // Registered before the try: a release between the two wakes this caller as well.
            let released = self.released.notified();
            let mut released = std::pin::pin!(released);
            released.as_mut().enable();
            // All waiters try again at each release, in no order: a small share is not held up by a large one before it.
            if let Some(share) = self.take(holder, bytes) {
                return share;
            }
            released.await;
        }
    }

    /// The free bytes besides the reserve.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.pools()[LARGE].free
    }

    fn pools(&self) -> MutexGuard<'_, [Pool; 2]> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Changes the size to `bytes`; false, without effect, where there is no room.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        let mut pools = self.budget.pools();
        let before = self.bytes;
        // Three ways to grow: from the reserve to the large pool, within a pool, and from the large pool to the reserve. The
        // last is for a share that is still small: 8 KiB growing to 12 KiB while the large pool is full.
        if bytes <= before {
            pools[self.pool].release(&self.holder, before - bytes);
        } else if self.pool == SMALL && bytes > SMALL_BYTES {
            // Too large for the reserve: all of it has to fit the large pool before the reserve gets its part back.
            if !pools[LARGE].take(&self.holder, bytes) {
                return false;
            }
            pools[SMALL].release(&self.holder, before);
            self.pool = LARGE;
        } else if !pools[self.pool].take(&self.holder, bytes - before) {
            let moves = self.pool == LARGE && bytes <= SMALL_BYTES && pools[SMALL].take(&self.holder, bytes);
            if !moves {
                return false;
            }
            pools[LARGE].release(&self.holder, before);
            self.pool = SMALL;
        }
        self.bytes = bytes;
        drop(pools);
        if bytes < before {
            self.budget.released.notify_waiters();
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.pools()[self.pool].release(&self.holder, self.bytes);
        self.budget.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::clients::with_tokens;
    use crate::http::request::caller::Caller;
    use futures_util::FutureExt;

    fn from(last: u8) -> Holder {
        Source::of(IpAddr::from([10, 0, 0, last])).into()
    }

    /// How many shares of `bytes` a holder gets.
    fn fill(budget: &Arc<Budget>, holder: Holder, bytes: usize) -> Vec<Share> {
        std::iter::from_fn(|| budget.take(&holder, bytes)).collect()
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn an_address_holds_at_most_what_it_leaves_free() {
        let budget = Budget::new(256 * MIB);
        let first = fill(&budget, from(1), MIB);
        assert_eq!(first.len(), 128);
        let second = fill(&budget, from(2), MIB);
        assert_eq!(second.len(), 64, "the other half is divided again");
        assert_eq!(fill(&budget, from(3), MIB).len(), 32);
        drop(first);
        assert_eq!(budget.free(), 192 * MIB);
        assert_eq!(fill(&budget, from(1), MIB).len(), 96, "what is released can be taken again");
    }

    #[test]
    fn a_token_is_a_holder_of_its_own_wherever_its_requests_come_from() {
        let budget = Budget::new(256 * MIB);
        let [billing, audit] = with_tokens(["billing", "audit"]);
        let at_their_address = RequestClient { caller: Caller::Anonymous(None), ..billing.clone() };
        let elsewhere = RequestClient { address: [10, 9, 9, 9].into(), ..billing.clone() };
        let first = fill(&budget, Holder::of(&billing), MIB);
        assert_eq!(first.len(), 128);
        assert_eq!(fill(&budget, Holder::of(&elsewhere), MIB).len(), 0, "the same token");
        let second = fill(&budget, Holder::of(&audit), MIB);
        assert_eq!(second.len(), 64, "another token at the same address");
        assert_eq!(fill(&budget, Holder::of(&at_their_address), MIB).len(), 32, "the address without a token");
        drop((first, second));
        assert_eq!(budget.free(), 256 * MIB);
    }

    #[test]
    fn small_shares_have_a_reserve_beside_large_ones() {
        let budget = Budget::new(16 * MIB);
        let large = fill(&budget, from(1), MIB);
        let rest: Vec<_> = (2..40).flat_map(|last| fill(&budget, from(last), MIB)).collect();
        assert!(budget.free() < MIB && budget.take(&from(1), MIB).is_none());
        assert!(budget.take(&from(1), SMALL_BYTES).is_some());
        drop((large, rest));
        assert_eq!(budget.free(), 16 * MIB);
    }

    #[test]
    fn the_first_share_always_fits_and_a_share_can_be_resized() {
        let budget = Budget::new(8 * MIB);
        let mut share = budget.take(&from(1), 8 * MIB).unwrap();
        assert!(budget.take(&from(2), MIB).is_none());
        assert!(share.resize(2 * MIB) && budget.free() == 6 * MIB);
        assert!(!share.resize(6 * MIB), "more than it leaves free");
        assert_eq!(budget.free(), 6 * MIB);
        let mut other = budget.take(&from(2), 10).unwrap();
        assert!(other.resize(20) && other.resize(SMALL_BYTES) && other.resize(MIB));
        drop((share, other));
        assert_eq!(budget.free(), 8 * MIB);
    }

    #[test]
    fn a_small_share_does_not_wait_behind_a_large_one() {
        let budget = Budget::new(4 * MIB);
        let held = budget.take(&from(1), 4 * MIB).unwrap();
        let (second, third) = (from(2), from(3));
        let mut large = Box::pin(budget.take_when_free(&second, 4 * MIB));
        let mut less = Box::pin(budget.take_when_free(&third, MIB));
        assert!((&mut large).now_or_never().is_none() && (&mut less).now_or_never().is_none());
        let mut held = held;
        assert!(held.resize(2 * MIB));
        assert!((&mut large).now_or_never().is_none() && (&mut less).now_or_never().is_some());
    }

    #[test]
    fn loopback_is_one_source_and_so_is_an_ipv6_network() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("127.0.0.1"), source("127.9.9.9"));
        assert_eq!(source("::1"), source("::ffff:127.0.0.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
