//! How long values stay: none is gone before its time, and in a cluster that is whole each goes soon after.
//!
//! Why: a key that expires is removed by nobody whom a history knows. To the checker it is a removal of unknown fate like
//! any other, which cannot begin before the time is over; so a history with expiries is searched as every history is.
//!
//! Laws: time is that of the clients, one monotonic clock, and a time begins before its request is sent. A request for
//! more time whose fate is unknown may take effect on any value of its key at any later moment. Where several requests
//! may be the last, the earliest end counts.
//!
//! Not here: who asks for how much time (`clients`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::clients::{Event, History};
use crate::harness::{Node, Request, millis, number, secs};
use crate::judge;
use crate::linear::{Operation, Seen};
use crate::world::{HEALING, World};

crate::harness::cases![what_goes_early_or_shows_a_wrong_time_is_caught];

/// The most seconds that any client asks for.
pub const MOST: u64 = 5;

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
    /// When it returned; `None` where its fate is unknown.
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
        let asked = || leases.iter().filter(|lease| lease.about(*value) && lease.called <= returned);
        let certain = asked().any(|lease| {
            let before = lease.returned.is_some_and(|end| end < event.operation.called);
            lease.value.is_some() && (lease.put || before)
        });
        let most = asked().map(|lease| lease.ttl).max();
        let right = match event.left {
            Some(left) => most.is_some_and(|most| left <= most),
            None => !certain,
        };
        if !right {
            return Err(format!(
                "{key} shows {:?} s left, asked were {:?}: {event:?}",
                event.left,
                asked().collect::<Vec<_>>()
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
                    assert!(seconds <= MOST, "{name:?} shows {seconds} s left");
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
    world.story.say(format!("nothing is left that may expire, after {:.1} s", begun.elapsed().as_secs_f64()));
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

fn what_goes_early_or_shows_a_wrong_time_is_caught() {
    let event = |called, returned, seen, left| Event {
        operation: Operation { client: 0, called, returned: Some(returned), seen },
        version: Some(7),
        left,
    };
    let lease = |value, put, called, ttl| Lease { value, put, called, returned: Some(called + 10), ttl };
    let verdict = |events: &[Event], leases: &[Lease]| {
        let mut history = History::default();
        history.events.insert("k".to_owned(), events.to_vec());
        history.leases.insert("k".to_owned(), leases.to_vec());
        judge::history(&history)
    };
    let put = event(100, 110, Seen::Put(1), None);
    let gone = |called| Event { version: None, ..event(called, called + 10, Seen::Get(None), None) };
    let there = |called, left| event(called, called + 10, Seen::Get(Some(1)), left);
    let asked = [lease(Some(1), true, 100, 2)];
    let late = [put.clone(), there(1_000_000, Some(2)), gone(2_000_100)];
    assert_eq!(verdict(&late, &asked), Ok(()));
    assert_eq!(verdict(&[put.clone(), there(9_000_000, Some(1))], &asked), Ok(()), "how late is not for a history");
    let early = verdict(&[put.clone(), gone(1_900_000)], &asked).expect_err("it goes 0.1 s early");
    assert!(early.contains("no order explains"), "{early}");
    let back = [put.clone(), gone(2_000_100), there(2_000_200, Some(1))];
    verdict(&back, &asked).expect_err("what has gone comes back");
    let renewed = [asked[0].clone(), lease(Some(1), false, 1_000_000, 2)];
    verdict(&[put.clone(), gone(2_900_000)], &renewed).expect_err("it was renewed");
    assert_eq!(verdict(&[put.clone(), gone(3_000_000)], &renewed), Ok(()));
    let unheard = [asked[0].clone(), Lease { returned: None, ..lease(None, false, 1_000_000, 2) }];
    assert_eq!(verdict(&[put.clone(), gone(2_000_100)], &unheard), Ok(()), "the touch may have come to nothing");
    verdict(&[put.clone(), there(1_000_000, None)], &asked).expect_err("no time is shown");
    verdict(&[put.clone(), there(1_000_000, Some(3))], &asked).expect_err("more than was asked for");
    verdict(&[put, there(1_000_000, Some(1))], &[]).expect_err("nobody asked for a time");
}
