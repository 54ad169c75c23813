//! The end of a run: clients fall stopped, leaders fail, and every key that may expire must go in time.
//!
//! Why: that no key goes early says nothing about whether it goes at all. And while clients write, every entry carries
//! the cluster's time; only in expiry does a leader have to keep it by itself, and only a failover shows whether it did.
//!
//! Laws: a key that has so much time left when it is seen is gone once that has passed, with 5 s for each failover since,
//! the time without a leader, and a slack. What is left is what the newest entry that any node has applied says, so
//! nothing here asks a node what time it believes it is.
//!
//! Not here: that none goes early (`checks::history`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checks;
use crate::faults::nemesis;
use crate::workload::clients;
use crate::workload::operators;
use crate::world::World;
use huskv::model::State;

/// By how much a failover may lengthen a time, beyond how long there is no leader.
const FAILOVER: u64 = 5_000;

/// How long a removal may take that is due, on a cluster that works.
const SLACK: u64 = 1_000;

/// How often the keys are looked at.
const LOOK: u64 = 50;

/// How long a whole cluster may take to do what is asked, and a node to catch up.
const SOON: u64 = 20_000;

/// How often a leader fails.
const FAILOVERS: usize = 2;

/// The key that is there for so long that leaders fail meanwhile.
const LONG: &str = "q/long";

/// The key that is touched.
const TOUCHED: &str = "q/touched";

/// A key with its version and its expiry; a touch makes another one of it.
type TtlKey = (Vec<u8>, u64, u64);

/// What is known of the keys that may expire.
#[derive(Default)]
struct ExpiryCheck {
    /// Until when each that is there may be, and what was extension when it was first seen.
    until: BTreeMap<TtlKey, (u64, u64)>,
    /// What failovers and the time without a leader have added so far.
    extension: u64,
    /// The term of the leader at the last look.
    term: u64,
}

/// The whole of it; the cluster must be whole.
pub fn check(world: &mut World) {
    world.trace(|| "clients fall stopped".into());
    world.clients.stopped = true;
    let (mut rng, mut check) = (world.rng.fork(), ExpiryCheck::default());
    check.settle(world);
    let long = 12 + rng.below(12);
    for (key, seconds) in [(LONG, long), (TOUCHED, 3)] {
        ask(world, |world, at| clients::put_with_ttl(world, at, key, seconds));
    }
    check.pass_until(world, "what was put is there", |check| {
        check.ttl_key(LONG).is_some() && check.ttl_key(TOUCHED).is_some()
    });
    let before = check.ttl_key(TOUCHED);
    ask(world, |world, at| clients::touch(world, at, TOUCHED, 4 + rng.below(4)));
    check.pass_until(world, "a touch shows", |check| check.ttl_key(TOUCHED) > before);
    for _ in 0..FAILOVERS {
        let end = world.now + 9_000 + rng.below(2_000);
        check.pass(world, end, |check| check.until.is_empty());
        if let (Some((at, _)), false) = (leader(world), check.until.is_empty()) {
            match rng.below(4) {
                0 => nemesis::stop(world, at),
                1 => nemesis::pause(world, at, 500 + rng.below(5_000)),
                _ => nemesis::crash_for(world, at, 2_000),
            }
        }
    }
    check.settle(world);
    let end = world.now + SOON;
    while (0..world.size).any(|at| world.nodes[at].driver.is_none() || !ttl_keys(world, at).is_empty()) {
        if world.now >= end {
            world.fail("a node still has a key whose removal was applied".into());
        }
        if !world.step(end) {
            return;
        }
    }
}

/// Asks the leader, if there is one.
fn ask(world: &mut World, of: impl FnOnce(&mut World, usize)) {
    if let Some((at, _)) = leader(world) {
        of(world, at);
    }
}

/// Who leads and can act, and its term.
fn leader(world: &mut World) -> Option<(usize, u64)> {
    let at = operators::leading(world)?;
    let status = checks::status(world, at).filter(|status| status.state == State::Leader)?;
    (world.nodes[at].paused_until <= world.now).then_some((at, status.term))
}

/// The keys on a node that may expire.
fn ttl_keys(world: &World, at: usize) -> BTreeSet<TtlKey> {
    let items = checks::stored(world, at).into_iter();
    items.filter_map(|(key, item)| Some((key, item.version, item.expires?))).collect()
}

impl ExpiryCheck {
    /// What is known of this key.
    fn ttl_key(&self, name: &str) -> Option<TtlKey> {
        self.until.keys().find(|(key, ..)| key == name.as_bytes()).cloned()
    }

    /// Lets time pass until `end`, or until it is enough.
    fn pass(&mut self, world: &mut World, end: u64, enough: impl Fn(&Self) -> bool) {
        while world.now < end && world.failure.is_none() && !enough(self) {
            let next = world.now + LOOK;
            while world.step(next) {}
            self.look(world);
        }
    }

    fn pass_until(&mut self, world: &mut World, what: &str, holds: impl Fn(&Self) -> bool) {
        self.pass(world, world.now + SOON, &holds);
        if !holds(self) {
            world.fail(format!("not within {SOON} ms on a whole cluster: {what}"));
        }
    }

    /// Lets time pass until no key is left that may expire.
    fn settle(&mut self, world: &mut World) {
        self.look(world);
        // Beyond any time that was asked for: a key that is late fails at its own.
        let most = world.now + 3 * SOON + self.extension;
        self.pass(world, most, |check| check.until.is_empty());
        if !self.until.is_empty() {
            world.fail(format!("keys are never removed: {:?}", self.until));
        }
    }

    fn look(&mut self, world: &mut World) {
        let Some((at, term)) = leader(world) else {
            self.extension += LOOK;
            return;
        };
        if term != std::mem::replace(&mut self.term, term) {
            self.extension += FAILOVER;
        }
        let held = ttl_keys(world, at);
        self.until.retain(|ttl_key, _| held.contains(ttl_key));
        let (now, extension) = (world.now, self.extension);
        for ttl_key in held {
            let left = || ttl_key.2.saturating_sub(world.observed.clock());
            let &mut (until, before) = self.until.entry(ttl_key.clone()).or_insert_with(|| (now + left(), extension));
            let latest = until + (extension - before) + SLACK;
            if now > latest {
                let (key, version, _) = ttl_key;
                let key = String::from_utf8_lossy(&key).into_owned();
                world.fail(format!("{key} of version {version} was to be gone by {latest}, and n{at} has it at {now}"));
                return;
            }
        }
    }
}
