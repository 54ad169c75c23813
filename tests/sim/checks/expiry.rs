//! The end of a run: clients stop, leaders fail, and every key with a `ttl` must be removed in time.
//!
//! Why: while clients write, every entry carries the cluster clock. Only without writes must a leader advance the clock by
//! itself, and only a failover shows whether the next leader goes on from there.
//!
//! Invariants: a key is removed once the time that it has left when it is first seen has passed, plus 5 s for each failover
//! since, the time without a leader, and 1 s. The time left is computed from the entries that were applied, so no node is
//! asked for its clock.
//!
//! Example: a key has 12 s left at 100 000 ms. The leader crashes, and for 1.8 s there is none. The key must be gone by
//! 100 000 + 12 000 + 5 000 + 1 800 + 1 000 = 119 800 ms.
//!
//! See also: `history`, which checks that no key is removed early.

use std::collections::{BTreeMap, BTreeSet};

use huskv::model::State;

use crate::checks;
use crate::faults::nemesis;
use crate::workload::{clients, operators};
use crate::world::World;

/// By how much a failover may delay a removal, beyond the time without a leader.
const FAILOVER: u64 = 5_000;

/// The time that a due removal may take on a healthy cluster.
const SLACK: u64 = 1_000;

/// The interval at which the keys are looked at.
const LOOK: u64 = 50;

/// The time within which a healthy cluster answers, and a node catches up.
const SOON: u64 = 20_000;

/// The number of leader failures.
const FAILOVERS: usize = 2;

/// The key whose `ttl` outlasts the first leader failures.
const LONG: &str = "q/long";

/// The key that is touched.
const TOUCHED: &str = "q/touched";

/// A key with its version and expiry. A touch changes the expiry, which counts as another one.
type TtlKey = (Vec<u8>, u64, u64);

/// What is known of the keys with a `ttl`.
#[derive(Default)]
struct ExpiryCheck {
    /// The moment by which each must be gone, and `extension` when it was first seen.
    until: BTreeMap<TtlKey, (u64, u64)>,
    /// The time that failovers and the lack of a leader have added so far.
    extension: u64,
    /// The last leader's term.
    term: u64,
}

/// Runs this phase on a healthy cluster.
pub fn check(world: &mut World) {
    world.trace(|| "clients stop".into());
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
    // A touch changes the expiry and not the version, so the key compares as another one.
    let before = check.ttl_key(TOUCHED);
    ask(world, |world, at| clients::touch(world, at, TOUCHED, 4 + rng.below(4)));
    check.pass_until(world, "a touch shows", |check| check.ttl_key(TOUCHED) > before);
    for _ in 0..FAILOVERS {
        let end = world.now + 9_000 + rng.below(2_000);
        check.pass(world, end, |check| check.until.is_empty());
        if let (Some((at, _)), false) = (leader(world), check.until.is_empty()) {
            // The leader leaves in order, stands still beyond an election, or is gone at once.
            match rng.below(4) {
                0 => nemesis::stop(world, at),
                1 => nemesis::pause(world, at, 500 + rng.below(5_000)),
                _ => nemesis::crash_for(world, at, 2_000),
            }
        }
    }
    check.settle(world);
    let end = world.now + SOON;
    // At last every node must have applied the removals, also one that was paused or down.
    while (0..world.size).any(|at| world.nodes[at].driver.is_none() || !ttl_keys(world, at).is_empty()) {
        if world.now >= end {
            world.fail("a node still has a key whose removal was applied".into());
        }
        if !world.step(end) {
            return;
        }
    }
}

/// Runs `of` on the leader, if there is one.
fn ask(world: &mut World, of: impl FnOnce(&mut World, usize)) {
    if let Some((at, _)) = leader(world) {
        of(world, at);
    }
}

/// The running leader that is not paused, and its term.
fn leader(world: &mut World) -> Option<(usize, u64)> {
    let at = operators::leading(world)?;
    let status = checks::status(world, at).filter(|status| status.state == State::Leader)?;
    (world.nodes[at].paused_until <= world.now).then_some((at, status.term))
}

/// The keys with a `ttl` on a node.
fn ttl_keys(world: &World, at: usize) -> BTreeSet<TtlKey> {
    let items = checks::stored(world, at).into_iter();
    items.filter_map(|(key, item)| Some((key, item.version, item.expires?))).collect()
}

impl ExpiryCheck {
    /// The key of this name, if it is there.
    fn ttl_key(&self, name: &str) -> Option<TtlKey> {
        self.until.keys().find(|(key, ..)| key == name.as_bytes()).cloned()
    }

    /// Lets time pass until `end`, or until `enough` holds.
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

    /// Lets time pass until no key with a `ttl` is left.
    fn settle(&mut self, world: &mut World) {
        self.look(world);
        // Longer than any `ttl`: a key that is late fails before, by its own bound.
        let most = world.now + 3 * SOON + self.extension;
        self.pass(world, most, |check| check.until.is_empty());
        if !self.until.is_empty() {
            world.fail(format!("keys are never removed: {:?}", self.until));
        }
    }

    fn look(&mut self, world: &mut World) {
        // Without a leader no clock runs, so this time does not count against the key.
        let Some((at, term)) = leader(world) else {
            self.extension += LOOK;
            return;
        };
        if term != std::mem::replace(&mut self.term, term) {
            self.extension += FAILOVER;
        }
        let held = ttl_keys(world, at);
        // Gone on the leader: removed in time, or the loop below would have failed before.
        self.until.retain(|ttl_key, _| held.contains(ttl_key));
        let (now, extension) = (world.now, self.extension);
        for ttl_key in held {
            // The time left when a key is first seen, by the stamps of applied entries. Later stamps do not change the bound.
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
