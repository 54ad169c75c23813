//! The limit of requests per second: a token bucket for each caller.
//!
//! Why: one client in a loop takes the node's time from all others, and so does one that tries secrets.
//!
//! Invariants: a caller is a valid token by its name, else an address ([`super::network`]), so a wrong token counts for its address,
//! never for a token, and reloads of the token file change no bucket. The time of a check does not depend on the number of callers, apart from a scan
//! once in [`TRIM_INTERVAL`]. Memory is bounded: a bucket that is full again is forgotten, since it is like a new one, and no more
//! than the maximum is kept. At the maximum the callers that have a bucket keep it, and all new ones share one, of the same size,
//! until others are full again. So a flood of addresses slows new addresses down, never a token, and never an address that has a
//! bucket. Tokens and addresses have a maximum each.
//!
//! See also: the exemption of probes ([`crate::http::server`]).

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{NotUntil, Quota, RateLimiter};

use super::{RequestClient, network};
use crate::http::response::problem::Problem;
use crate::model::TokenName;

/// How often buckets that are full again are forgotten.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of buckets of tokens: four times as many as a token file has, so that replaced files need not share one.
const MAX_TOKENS: usize = 4096;
/// The map of buckets is made smaller when it has room for so many times what it holds.
const SPARSE: usize = 4;

/// The limit of each caller's requests, which can be replaced while the node runs.
pub struct RequestLimiter<C: Clock = MonotonicClock> {
    clock: C,
    max_addresses: usize,
    /// None where there is no limit.
    buckets: ArcSwapOption<Buckets<C>>,
}

/// The buckets of all callers under one limit.
struct Buckets<C: Clock> {
    per_second: NonZeroU32,
    burst: NonZeroU32,
    tokens: Limiter<TokenName, C>,
    addresses: Limiter<IpAddr, C>,
    start: C::Instant,
    /// When buckets are forgotten next, in nanoseconds since the start.
    next_trim: AtomicU64,
}

type Limiter<K, C> = RateLimiter<K, BoundedStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

impl RequestLimiter {
    /// Limits each caller to `per_second` requests, with bursts of `burst`; see [`RequestLimiter::set`]. At most `max_addresses`
    /// addresses have a bucket of their own, of some 100 bytes each.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, max_addresses: usize) -> Self {
        Self::with_clock(per_second, burst, max_addresses, MonotonicClock)
    }
}

impl<C: Clock + Clone> RequestLimiter<C> {
    fn with_clock(per_second: u32, burst: u32, max_addresses: usize, clock: C) -> Self {
        let limiter = Self { clock, max_addresses, buckets: ArcSwapOption::empty() };
        limiter.set(per_second, burst);
        limiter
    }

    /// Replaces the limit: 0 requests per second are no limit, and a burst of 0 is as large as the rate. With other numbers than
    /// before all buckets are full again.
    pub fn set(&self, per_second: u32, burst: u32) {
        let Some(per_second) = NonZeroU32::new(per_second) else {
            self.buckets.store(None);
            return;
        };
        let burst = NonZeroU32::new(burst).unwrap_or(per_second);
        let is_unchanged = |buckets: &Arc<Buckets<C>>| (buckets.per_second, buckets.burst) == (per_second, burst);
        if !self.buckets.load().as_ref().is_some_and(is_unchanged) {
            let buckets = Buckets::new(per_second, burst, self.max_addresses, &self.clock);
            self.buckets.store(Some(Arc::new(buckets)));
        }
    }

    /// Takes one request of this client out of its bucket; 429 `rate_limited` where it is empty.
    pub(crate) fn check(&self, client: &RequestClient) -> Result<(), Problem> {
        let buckets = self.buckets.load();
        let Some(buckets) = buckets.as_ref() else { return Ok(()) };
        let now = self.clock.now();
        buckets.trim(now);
        let token = client.caller.token();
        let checked = match &token {
            Some(token) => buckets.tokens.check_key(token),
            None => buckets.addresses.check_key(&network(client.address)),
        };
        checked.map_err(|not_until| {
            let who = token.map_or_else(|| "this address".to_owned(), |token| format!("token \"{}\"", &*token));
            Problem::rate_limited(&who, (buckets.per_second.get(), buckets.burst.get()), seconds_until(&not_until, now))
        })
    }
}

/// Returns the whole seconds, at least 1, until a request is allowed.
fn seconds_until<P: Reference>(not_until: &NotUntil<P>, now: P) -> u64 {
    let wait = not_until.wait_time_from(now);
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl<C: Clock + Clone> Buckets<C> {
    fn new(per_second: NonZeroU32, burst: NonZeroU32, max_addresses: usize, clock: &C) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            per_second,
            burst,
            tokens: RateLimiter::new(quota, BoundedStore::new(MAX_TOKENS), clock.clone()),
            addresses: RateLimiter::new(quota, BoundedStore::new(max_addresses), clock.clone()),
            start: clock.now(),
            next_trim: AtomicU64::new(0),
        }
    }

    /// Forgets the buckets that are full, where that is due.
    fn trim(&self, now: C::Instant) {
        let now = now.duration_since(self.start).as_u64();
        let due = self.next_trim.load(Ordering::Relaxed);
        let next = now.saturating_add(Nanos::from(TRIM_INTERVAL).as_u64());
        // One of the requests that come at this moment does it.
        if now >= due && self.next_trim.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.tokens.retain_recent();
            self.addresses.retain_recent();
        }
    }
}

impl<C: Clock> fmt::Debug for RequestLimiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.buckets.load().as_ref().map(|buckets| (buckets.per_second, buckets.burst));
        f.debug_struct("RequestLimiter").field("per_second_and_burst", &limit).finish_non_exhaustive()
    }
}

/// Buckets in memory, at most `max`, and one for all other callers.
struct BoundedStore<K> {
    max: usize,
    /// Each bucket is the time, since the start, at which it is full again.
    buckets: Mutex<Shared<K>>,
}

struct Shared<K> {
    own: HashMap<K, Nanos>,
    others: Option<Nanos>,
}

impl<K> BoundedStore<K> {
    fn new(max: usize) -> Self {
        Self { max, buckets: Mutex::new(Shared { own: HashMap::new(), others: None }) }
    }

    fn buckets(&self) -> MutexGuard<'_, Shared<K>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> StateStore for BoundedStore<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut buckets = self.buckets();
        if let Some(bucket) = buckets.own.get_mut(key) {
            let (allowed, full_at) = measure(Some(*bucket))?;
            *bucket = full_at;
            return Ok(allowed);
        }
        let has_room = buckets.own.len() < self.max;
        let (allowed, full_at) = measure(if has_room { None } else { buckets.others })?;
        if has_room {
            buckets.own.insert(key.clone(), full_at);
        } else {
            buckets.others = Some(full_at);
        }
        Ok(allowed)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for BoundedStore<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut buckets = self.buckets();
        buckets.own.retain(|_, full_at| *full_at > drop_below);
        let needed = buckets.own.len();
        if buckets.own.capacity() > SPARSE * needed {
            buckets.own.shrink_to(SPARSE / 2 * needed);
        }
    }

    fn len(&self) -> usize {
        self.buckets().own.len()
    }

    fn is_empty(&self) -> bool {
        self.buckets().own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::clients::with_tokens;
    use crate::http::request::caller::Caller;
    use crate::http::request::client_certificate::ClientCertificate;
    use governor::clock::FakeRelativeClock;
    use warp::http::Method;

    type TestLimiter = RequestLimiter<FakeRelativeClock>;

    fn limiter(per_second: u32, burst: u32, max_addresses: usize) -> (TestLimiter, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RequestLimiter::with_clock(per_second, burst, max_addresses, clock.clone()), clock)
    }

    fn at(address: &str) -> RequestClient {
        RequestClient {
            address: address.parse().unwrap(),
            caller: Caller::Anonymous(None),
            certificate: ClientCertificate::default(),
        }
    }

    fn numbered(number: u32) -> RequestClient {
        RequestClient {
            address: IpAddr::from(number.to_be_bytes()),
            caller: Caller::Unrestricted,
            certificate: ClientCertificate::default(),
        }
    }

    /// How many requests of `client` are allowed in a row, up to `most`.
    fn allowed(limiter: &TestLimiter, client: &RequestClient, most: usize) -> usize {
        (0..most).take_while(|_| limiter.check(client).is_ok()).count()
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        for (per_second, burst, at_once) in [(10, 0, 10), (10, 3, 3), (10, 25, 25), (1, 1, 1), (1_000_000, 5, 5)] {
            let (limiter, clock) = limiter(per_second, burst, 8);
            let client = at("10.0.0.1");
            assert_eq!(allowed(&limiter, &client, 100), at_once, "{per_second} {burst}");
            clock.advance(Duration::from_nanos(1_000_000_000 / u64::from(per_second)));
            assert_eq!(allowed(&limiter, &client, 100), 1, "one interval later");
            clock.advance(Duration::from_secs(60));
            assert_eq!(allowed(&limiter, &client, 100), at_once, "never more than the burst");
        }
        let (unlimited, _) = limiter(0, 5, 8);
        assert_eq!(allowed(&unlimited, &at("10.0.0.1"), 100), 100);
    }

    #[test]
    fn the_answer_is_429_with_the_seconds_to_wait() {
        let (limiter, clock) = limiter(2, 1, 8);
        let client = at("10.0.0.1");
        assert!(limiter.check(&client).is_ok());
        for wait in [0, 499] {
            clock.advance(Duration::from_millis(wait));
            let response = limiter.check(&client).unwrap_err().respond(&Method::PUT);
            assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        }
        clock.advance(Duration::from_millis(1));
        assert!(limiter.check(&client).is_ok(), "a refused request costs nothing");
        let [billing] = with_tokens(["billing"]);
        assert!(limiter.check(&billing).is_ok());
        let problem = limiter.check(&billing).unwrap_err().to_json(&Method::PUT);
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!((&problem["code"], &problem["outcome"]), (&"rate_limited".into(), &"not_applied".into()));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("token \"billing\"") && detail.contains("limits.requests_per_second"), "{detail}");
    }

    #[test]
    fn a_caller_is_a_token_or_an_address() {
        let (limiter, _) = limiter(1, 2, 8);
        let [first, second] = with_tokens(["first", "second"]);
        for client in [&first, &second, &at("10.0.0.1"), &at("10.0.0.2"), &at("127.0.0.1"), &at("127.0.0.2")] {
            assert_eq!(allowed(&limiter, client, 9), 2, "{client:?}");
        }
        let elsewhere = RequestClient { address: at("10.9.9.9").address, ..first };
        assert_eq!(allowed(&limiter, &elsewhere, 9), 0, "a token is the same caller everywhere");
        let wrong = RequestClient { caller: Caller::Refused("unknown".into()), ..at("10.0.0.1") };
        assert_eq!(allowed(&limiter, &wrong, 9), 0, "a wrong token counts for its address");
        assert_eq!(allowed(&limiter, &at("::ffff:10.0.0.2"), 9), 0);
        assert_eq!(allowed(&limiter, &at("2001:db8:0:1::1"), 9), 2);
        assert_eq!(allowed(&limiter, &at("2001:db8:0:1:ffff::2"), 9), 0, "a network of 64 bits");
        assert_eq!(allowed(&limiter, &at("2001:db8:0:2::1"), 9), 2);
    }

    #[test]
    fn buckets_are_bounded_and_at_the_bound_new_addresses_share_one() {
        let (limiter, clock) = limiter(10, 5, 100);
        let sizes = || {
            let buckets = limiter.buckets.load();
            let store = buckets.as_ref().unwrap();
            (store.addresses.len(), store.tokens.len())
        };
        for number in 0..100 {
            assert!(limiter.check(&numbered(number)).is_ok());
        }
        let flood = (1000..101_000).filter(|number| limiter.check(&numbered(*number)).is_ok()).count();
        assert_eq!((flood, sizes()), (5, (100, 0)), "the burst of one caller for all of them");
        assert_eq!(allowed(&limiter, &numbered(7), 9), 4, "an address with a bucket has the rest of its own");
        let [token] = with_tokens(["billing"]);
        assert_eq!((allowed(&limiter, &token, 9), sizes()), (5, (100, 1)), "a token is not concerned");
        // What is full again makes room.
        clock.advance(Duration::from_secs(2));
        assert_eq!((allowed(&limiter, &numbered(5000), 9), sizes()), (5, (1, 0)));
        let buckets = limiter.buckets.load_full().unwrap();
        clock.advance(Duration::from_secs(2));
        buckets.trim(limiter.clock.now());
        assert!(buckets.addresses.is_empty());
    }

    #[test]
    fn memory_is_given_back() {
        let store = BoundedStore::new(10_000);
        for number in 0..20_000_u64 {
            let full_at = Nanos::new(if number < 10 { 100 } else { 1 });
            store.measure_and_replace(&number, |_| Ok::<_, ()>(((), full_at))).unwrap();
        }
        let capacity = || store.buckets().own.capacity();
        assert!(store.len() == 10_000 && capacity() >= 10_000);
        store.retain_recent(Nanos::new(50));
        assert!(store.len() == 10 && capacity() < 100, "{}", capacity());
    }

    #[test]
    fn the_limit_is_replaced_while_it_runs() {
        let (limiter, _) = limiter(0, 0, 8);
        let client = at("10.0.0.1");
        limiter.set(5, 2);
        assert_eq!(allowed(&limiter, &client, 100), 2);
        limiter.set(5, 2);
        assert_eq!(allowed(&limiter, &client, 100), 0, "the same limit leaves the buckets as they are");
        limiter.set(5, 0);
        assert_eq!(allowed(&limiter, &client, 100), 5, "another one begins with full buckets");
        limiter.set(5, 5);
        assert_eq!(allowed(&limiter, &client, 100), 0, "a burst of 0 is the rate");
        limiter.set(0, 5);
        assert_eq!(allowed(&limiter, &client, 100), 100);
    }
}
