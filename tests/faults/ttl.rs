//! TTL checker: no key expires early, and in a healed cluster each expires soon after its deadline.
//!
//! Why: no client of the history deletes an expired key. For the linearizability checker an expiry is a delete of unknown
//! outcome that cannot take effect before the deadline; so a history with expiries is searched like any other.
//!
//! Invariants: the clock is the clients' monotonic clock, and a TTL begins before its request is sent. A renewal of
//! unknown outcome may take effect on any value of its key at any later time. If several requests may be the last, the
//! earliest deadline counts.
//!
//! Example: a put with a TTL of 2 s is called at 0.1 s. A read at 2.0 s that finds no key is a violation; one at 2.2 s is
//! explained by a delete between 2.1 s and 2.2 s.
//!
//! See also: `clients` for the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::checker;
use crate::harness::{Node, Request, millis, number, secs};
use crate::history::{Event, History};
use crate::linear::{Operation, Seen};
use crate::world::{HEALING, World};

crate::harness::cases![an_early_expiry_and_a_wrong_remaining_ttl_are_detected];

/// The most seconds that any client asks for.
pub const MAX_SECONDS: u64 = 5;

/// By how much a failover may lengthen a time, beyond how long there is no leader.
const FAILOVER: Duration = secs(5);

/// How long a removal may take that is due, on a busy machine.
const SLACK: Duration = secs(3);

/// The number of who ends what is over, in a timeline.
const TIME: usize = 102;

/// One request about how long a value is to stay.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The value; `None` for a touch without an answer, which may have met any.
    pub value: Option<u64>,
    /// Whether the value was written with it, so that there is no moment at which it stays for ever.
    pub put: bool,
    /// When it was called, in microseconds.
    pub called: u64,
    /// When it returned; `None` where its outcome is unknown.
    pub returned: Option<u64>,
    /// For how many seconds.
    pub ttl: u64,
}

impl Lease {
    fn about(&self, value: u64) -> bool {
        self.value.is_none_or(|about| about == value)
    }

    /// The first moment at which it may be over.
    fn end(&self) -> u64 {
        self.called + self.ttl * 1_000_000
    }
}

/// What may have ended each value of a key by itself, and not before when.
pub fn ends(events: &[Event], leases: &[Lease]) -> Vec<Operation> {
    let written = |event: &Event| match event.operation.seen {
        Seen::Put(value) | Seen::Cas { new: Some(value), .. } => Some(value),
        _ => None,
    };
    let values: BTreeSet<u64> = events.iter().filter_map(written).collect();
    let end = |value: u64| {
        let about: Vec<&Lease> = leases.iter().filter(|lease| lease.about(value)).collect();
        let renewed = |returned: u64| about.iter().any(|next| next.returned.is_some() && next.called > returned);
        about.iter().filter(|lease| !lease.returned.is_some_and(renewed)).map(|lease| lease.end()).min()
    };
    let removal = |value: u64| {
        let seen = Seen::Cas { expected: Some(value), new: None, done: None };
        Some(Operation { client: TIME, called: end(value)?, returned: None, seen })
    };
    values.into_iter().filter_map(removal).collect()
}

/// A read shows the time left of a value that has one, never more than was asked for, and none of any other.
pub fn shown(key: &str, events: &[Event], leases: &[Lease]) -> Result<(), String> {
    for event in events {
        let (Seen::Get(Some(value)), Some(returned)) = (&event.operation.seen, event.operation.returned) else {
            continue;
        };
        let requests = || leases.iter().filter(|lease| lease.about(*value) && lease.called <= returned);
        let certain = requests().any(|lease| {
            let before = lease.returned.is_some_and(|end| end < event.operation.called);
            lease.value.is_some() && (lease.put || before)
        });
        let most = requests().map(|lease| lease.ttl).max();
        let right = match event.left {
            Some(left) => most.is_some_and(|most| left <= most),
            None => !certain,
        };
        if !right {
            return Err(format!(
                "{key} shows {:?} s left, asked were {:?}: {event:?}",
                event.left,
                requests().collect::<Vec<_>>()
            ));
        }
    }
    Ok(())
}

/// Waits until no key is left that may expire, in a cluster that is whole and takes no writes: each must be gone once the
/// time that the leader shows is over.
pub fn go(world: &World) {
    let (begun, mut looked) = (Instant::now(), Instant::now());
    let mut allowed = SLACK;
    let mut term = None;
    let mut until: BTreeMap<(String, u64), Instant> = BTreeMap::new();
    loop {
        assert!(begun.elapsed() < HEALING, "keys that never go: {until:?}");
        let look = world.whole().and_then(|leader| {
            let node = &world.cluster.nodes[leader];
            Ok((number(&node.try_stats()?, "term"), expiring(node)?))
        });
        let now = Instant::now();
        match look {
            Ok((now_term, left)) => {
                if term.replace(now_term).is_some_and(|before| before != now_term) {
                    allowed += FAILOVER;
                }
                if left.is_empty() {
                    break;
                }
                until.retain(|name, _| left.contains_key(name));
                for (name, seconds) in left {
                    assert!(seconds <= MAX_SECONDS, "{name:?} shows {seconds} s left");
                    let end = *until.entry(name.clone()).or_insert(now + secs(seconds));
                    assert!(now <= end + allowed, "{name:?} is there {:?} after its time", now - end);
                }
            }
            Err(_) => allowed += now - looked,
        }
        looked = now;
        std::thread::sleep(millis(50));
    }
    world.cluster.caught_up(HEALING);
    for node in &world.cluster.nodes {
        let left = expiring(node).unwrap_or_else(|why| panic!("{why}"));
        assert!(left.is_empty(), "{} has keys that others have removed: {left:?}", node.name());
    }
    world.run_log.log(format!("nothing is left that may expire, after {:.1} s", begun.elapsed().as_secs_f64()));
}

/// The keys on a node that may expire, with their versions and the seconds left.
fn expiring(node: &Node) -> Result<BTreeMap<(String, u64), u64>, String> {
    let mut found = BTreeMap::new();
    for prefix in ["e", "lease"] {
        let mut cursor = String::new();
        loop {
            let path = format!("/store?prefix={prefix}&limit=1000&consistency=stale{cursor}");
            let data = node.try_request(Request::new("GET", path).within(secs(10)))?.data();
            for item in data["items"].as_array().ok_or(format!("no page of {}: {data}", node.name()))? {
                if let (Some(left), Some(key)) = (item["ttl"].as_u64(), item["key"].as_str()) {
                    found.insert((key.to_owned(), item["version"].as_u64().unwrap_or(0)), left);
                }
            }
            let Some(next) = data["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
    }
    Ok(found)
}

fn an_early_expiry_and_a_wrong_remaining_ttl_are_detected() {
    let event = |called, returned, seen, left| Event {
        operation: Operation { client: 0, called, returned: Some(returned), seen },
        version: Some(7),
        left,
    };
    let lease = |value, put, called, ttl| Lease { value, put, called, returned: Some(called + 10), ttl };
    let check = |events: &[Event], leases: &[Lease]| {
        let mut history = History::default();
        history.events.insert("k".to_owned(), events.to_vec());
        history.leases.insert("k".to_owned(), leases.to_vec());
        checker::check_history(&history)
    };
    let put = event(100, 110, Seen::Put(1), None);
    let gone = |called| Event { version: None, ..event(called, called + 10, Seen::Get(None), None) };
    let there = |called, left| event(called, called + 10, Seen::Get(Some(1)), left);
    let requests = [lease(Some(1), true, 100, 2)];
    let late = [put.clone(), there(1_000_000, Some(2)), gone(2_000_100)];
    assert_eq!(check(&late, &requests), Ok(()));
    assert_eq!(check(&[put.clone(), there(9_000_000, Some(1))], &requests), Ok(()), "how late is not for a history");
    let early = check(&[put.clone(), gone(1_900_000)], &requests).expect_err("it expires 0.1 s early");
    assert!(early.contains("no order explains"), "{early}");
    let back = [put.clone(), gone(2_000_100), there(2_000_200, Some(1))];
    check(&back, &requests).expect_err("an expired key comes back");
    let renewed = [requests[0].clone(), lease(Some(1), false, 1_000_000, 2)];
    check(&[put.clone(), gone(2_900_000)], &renewed).expect_err("it was renewed");
    assert_eq!(check(&[put.clone(), gone(3_000_000)], &renewed), Ok(()));
    let unheard = [requests[0].clone(), Lease { returned: None, ..lease(None, false, 1_000_000, 2) }];
    assert_eq!(check(&[put.clone(), gone(2_000_100)], &unheard), Ok(()), "the touch may have come to nothing");
    check(&[put.clone(), there(1_000_000, None)], &requests).expect_err("no TTL is shown");
    check(&[put.clone(), there(1_000_000, Some(3))], &requests).expect_err("more than was asked for");
    check(&[put, there(1_000_000, Some(1))], &[]).expect_err("no request had a TTL");
}
