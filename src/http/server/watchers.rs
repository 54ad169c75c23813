//! Watchers: how many clients may watch (slots), and how all of them are woken.
//!
//! Why: a watcher holds a connection for as long as it likes, so watchers need a bound of their own below that of the
//! connections. The loop announces a change once, and one task passes it on, so the loop spends no time on each watcher.
//!
//! Invariants: watchers take at most half of the connections. The watchers of one token, or of one address without
//! a token, leave an eighth of the slots to others.
//!
//! See also: what a watcher is sent ([`crate::http::api::watch`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::fair_memory::Holder;

/// The part of the slots that one holder leaves to others, as a divisor.
const OTHERS_DIVISOR: usize = 8;
/// The part of the connections that watchers take at most, as a divisor.
const CONNECTIONS_DIVISOR: usize = 2;

/// All watcher slots of a server.
pub(crate) struct WatcherSlots {
    max: AtomicUsize,
    taken: Mutex<HashMap<Holder, usize>>,
    changed: Notify,
}

/// The slot of one watcher, until it is dropped.
pub(crate) struct WatcherSlot {
    slots: Arc<WatcherSlots>,
    /// Which caller watches.
    pub(crate) holder: Holder,
}

impl WatcherSlots {
    /// Creates `max` slots, and at most half as many as there are `connections`.
    pub(crate) fn new(max: usize, connections: usize) -> Arc<Self> {
        let max = AtomicUsize::new(max.min(connections / CONNECTIONS_DIVISOR));
        Arc::new(Self { max, taken: Mutex::default(), changed: Notify::new() })
    }

    /// Changes the number of slots as in [`WatcherSlots::new`]; watchers beyond it stay.
    pub(crate) fn set_max(&self, max: usize, connections: usize) {
        self.max.store(max.min(connections / CONNECTIONS_DIVISOR), Ordering::Relaxed);
    }

    /// Takes a slot for a watcher of `holder`; None where there is none.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder) -> Option<WatcherSlot> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let own = taken.entry(holder.clone()).or_default();
        // Of 1000 slots one caller gets 875, so a client that leaks connections cannot lock out others. Below eight slots there is
        // no eighth, and one caller may get all.
        let max = self.max.load(Ordering::Relaxed);
        let fits = all < max && *own < max - max / OTHERS_DIVISOR;
        if fits {
            *own += 1;
        } else if *own == 0 {
            // The entry was made above; without this each refused caller would stay in the map.
            taken.remove(&holder);
        }
        fits.then(|| WatcherSlot { slots: Arc::clone(self), holder })
    }

    /// Returns how many are taken.
    pub(crate) fn len(&self) -> usize {
        self.taken().values().sum()
    }

    /// Wakes all watchers that wait in [`WatcherSlots::changed`].
    pub(crate) fn wake_all(&self) {
        self.changed.notify_waiters();
    }

    /// Waits for the next [`WatcherSlots::wake_all`], once it is enabled or polled.
    pub(crate) fn changed(&self) -> Notified<'_> {
        // Not an async function: the watcher enables it before it reads the feed. An event between the read and the wait then
        // wakes it, instead of being seen only after the next one.
        self.changed.notified()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WatcherSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        if let Some(own) = taken.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::fair_memory::Source;
    use std::net::IpAddr;

    #[test]
    fn one_address_leaves_an_eighth_to_others_and_slots_come_back() {
        let source = |last| Holder::from(Source::of(IpAddr::from([10, 0, 0, last])));
        let slots = WatcherSlots::new(100, 32);
        let first: Vec<_> = std::iter::from_fn(|| slots.take(source(1))).collect();
        assert_eq!(first.len(), 14, "half of the connections, less an eighth");
        let second: Vec<_> = std::iter::from_fn(|| slots.take(source(2))).collect();
        assert_eq!(second.len(), 2);
        assert!(slots.take(source(3)).is_none());
        assert_eq!(slots.taken().len(), 2, "a refused address leaves nothing behind");
        slots.set_max(100, 64);
        assert!(slots.take(source(3)).is_some());
        slots.set_max(1, 64);
        assert!(slots.take(source(3)).is_none());
        drop((first, second));
        assert!(slots.taken().is_empty());
    }
}
