//! Connection slots: how many connections may be open, and which one is evicted for the next.
//!
//! Why: connections are bounded, and clients keep more of them open than they use. A node whose slots are all taken by idle
//! connections must neither look dead to a health probe nor refuse a client that has a request.
//!
//! Invariants: a connection with a request under way is never evicted ([`super::activity`]). Where the general slots are
//! taken, a new connection takes that of an idle one: of the address with the most connections, the one idle for longest. A
//! connection whose head does not get complete counts as idle. Where no connection is idle, some slots are reserved: half
//! for this machine, half for health probes. From a reserved slot a connection without a complete head is evicted at once,
//! so connections that only begin a request cannot lock probes out. Where all slots are busy, a new connection is refused.
//!
//! ```text
//!   http.connections = 4096
//!   |<------------ 4032 general -------------->|<- 32 local ->|<- 32 probe ->|
//!     any connection; idle ones are evicted       loopback       any that may be a probe
//!                                                 once the general ones are all busy
//! ```
//!
//! See also: which request is a probe ([`super::host_guard`]), and the response to a refused connection
//! ([`crate::http::server`]).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::activity::Activity;
use super::client_socket::PeekedRequest;
use super::fair_memory::Source;

/// The most reserved slots.
const MAX_RESERVED: usize = 64;
/// The share of all slots that is reserved at most, as a divisor.
const RESERVED_DIVISOR: usize = 8;
/// How many evicted connections, and how many refused ones, may linger at once: least and most.
const LINGERING_EVICTED: (usize, usize) = (4, 64);
const LINGERING_REFUSED: (usize, usize) = (8, 512);
/// Between these bounds it is a share of all slots, as a divisor.
const LINGERING_DIVISOR: usize = 8;

/// All slots of a server.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    max: usize,
    /// Connections that have given up their slots and linger, so that their last responses arrive.
    pub(crate) lingering: Semaphore,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, (Source, SlotKind, Arc<Activity>)>,
    by_source: HashMap<Source, usize>,
    by_kind: [usize; 3],
}

/// What a slot may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotKind {
    /// Any connection.
    General,
    /// Any connection from this machine; reserved.
    Local,
    /// Health probes; reserved.
    Probe,
}

/// The slot of one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    /// All slots.
    pub(crate) slots: Arc<ConnectionSlots>,
    number: u64,
    /// What the slot may be used for.
    pub(crate) kind: SlotKind,
    /// What the connection does.
    pub(crate) activity: Arc<Activity>,
}

impl ConnectionSlots {
    /// Creates `max` free slots.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let lingering = Semaphore::new((max / LINGERING_DIVISOR).clamp(LINGERING_EVICTED.0, LINGERING_EVICTED.1));
        Arc::new(Self { max, lingering, taken: Mutex::default() })
    }

    /// How many refused connections may linger.
    pub(crate) fn max_lingering_refused(&self) -> usize {
        (self.max / LINGERING_DIVISOR).clamp(LINGERING_REFUSED.0, LINGERING_REFUSED.1)
    }

    /// Whether only reserved slots are free, so that [`ConnectionSlots::take`] depends on what a connection requests.
    pub(crate) fn general_are_taken(&self) -> bool {
        self.taken().by_kind[SlotKind::General as usize] >= self.max - self.reserved()
    }

    fn reserved(&self) -> usize {
        MAX_RESERVED.min(self.max / RESERVED_DIVISOR)
    }

    /// Takes a slot for a connection from `source`, evicting an idle one for it if need be; None where there is none.
    /// `request` is what has been peeked of its first request.
    pub(crate) fn take(self: &Arc<Self>, source: Source, request: PeekedRequest) -> Option<ConnectionSlot> {
        let reserved = self.reserved();
        let mut taken = self.taken();
        let (local, probes) = (reserved / 2, reserved - reserved / 2);
        let mut is_free = |kind: SlotKind, max| taken.by_kind[kind as usize] < max || taken.evict_one(kind);
        // The order matters: a probe must not use up a reserved slot while a general one can be had, and a local client not
        // one for probes while it has a local one. With 32 slots (28 + 2 + 2) and all of them busy, connections 29 and 30
        // from loopback get Local, 31 and 32 get Probe, and one from elsewhere starts with Probe.
        let kind = if is_free(SlotKind::General, self.max - reserved) {
            SlotKind::General
        } else if source.is_loopback() && local > 0 && is_free(SlotKind::Local, local) {
            SlotKind::Local
        } else if probes > 0 && !request.is_no_probe && is_free(SlotKind::Probe, probes) {
            // A connection whose first line has not arrived may be a probe; `answer` refuses it later if it is none.
            SlotKind::Probe
        } else {
            return None;
        };
        let activity = Arc::<Activity>::default();
        if request.head_complete {
            activity.head_complete();
        }
        taken.next += 1;
        let number = taken.next;
        taken.connections.insert(number, (source, kind, Arc::clone(&activity)));
        *taken.by_source.entry(source).or_default() += 1;
        taken.by_kind[kind as usize] += 1;
        drop(taken);
        Some(ConnectionSlot { slots: Arc::clone(self), number, kind, activity })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Evicts an idle connection from a slot of this kind; false where none is idle.
    fn evict_one(&mut self, of: SlotKind) -> bool {
        let eager = of != SlotKind::General;
        loop {
            // The largest of (connections of its address, idle for longest, oldest). Example: 10.0.0.1 has 3 connections
            // idle since 5 s, 10.0.0.2 has 200 idle since 1 s: one of 10.0.0.2 goes, although it is idle for a shorter time.
            let idle = self.connections.iter().filter_map(|(number, (source, kind, activity))| {
                let since = activity.evictable_since(eager).filter(|_| *kind == of)?;
                Some((self.by_source.get(source).copied().unwrap_or(0), Reverse(since), Reverse(*number)))
            });
            let Some((_, _, Reverse(number))) = idle.max() else { return false };
            // Its task may have read a request since the look above; `evict` decides, and on false the search is repeated.
            let evicted = self.connections.get(&number).is_some_and(|(_, _, activity)| activity.evict(eager));
            if evicted {
                // Its task still runs until it has closed the socket. The slot is free at once, or a burst would find none.
                self.remove(number);
                return true;
            }
        }
    }

    /// Frees a slot; no effect where an eviction has freed it.
    fn remove(&mut self, number: u64) {
        let Some((source, kind, _)) = self.connections.remove(&number) else { return };
        self.by_kind[kind as usize] -= 1;
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.taken().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::time::Duration;

    fn from(last: u8) -> Source {
        Source::of(IpAddr::from([10, 0, 0, last]))
    }

    fn busy(slots: &Arc<ConnectionSlots>, source: Source) -> Option<ConnectionSlot> {
        let slot = slots.take(source, PeekedRequest::default())?;
        assert!(slot.activity.begin_request());
        Some(slot)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_of_the_address_with_the_most_is_evicted() {
        let slots = ConnectionSlots::new(32);
        let few = slots.take(from(1), PeekedRequest::default()).unwrap();
        let many: Vec<_> = (0..27).map(|_| slots.take(from(2), PeekedRequest::default()).unwrap()).collect();
        assert!(many[0].activity.begin_request());
        assert_eq!(
            slots.take(from(3), PeekedRequest::default()).unwrap().kind,
            SlotKind::Probe,
            "their requests may be on the way"
        );
        tokio::time::advance(Duration::from_millis(250)).await;
        let next = slots.take(from(3), PeekedRequest::default()).unwrap();
        assert_eq!(next.kind, SlotKind::General);
        assert!(many[1].activity.is_evicted(), "the first one is busy");
        assert!(!few.activity.is_evicted() && !many[0].activity.is_evicted() && !many[2].activity.is_evicted());
        assert_eq!(slots.take(from(2), PeekedRequest::default()).unwrap().kind, SlotKind::General, "its own next one");
        assert!(many[2].activity.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_head_is_evicted_from_reserved_slots_too() {
        let slots = ConnectionSlots::new(32);
        let slow = |source| {
            let slot = slots.take(source, PeekedRequest::default())?;
            slot.activity.bytes_received();
            Some(slot)
        };
        let all: Vec<_> = (0..32).map_while(|_| slow(Source::loopback())).collect();
        let kinds = |all: &[ConnectionSlot], kind| all.iter().filter(|slot| slot.kind == kind).count();
        assert_eq!((kinds(&all, SlotKind::General), kinds(&all, SlotKind::Local)), (28, 4));
        assert!(all[28].activity.is_evicted() && !all[31].activity.is_evicted(), "in a reserved slot at once");
        assert!(all[..28].iter().all(|slot| !slot.activity.is_evicted()), "their requests may be on the way");
        assert!(
            slots.take(from(1), PeekedRequest { is_no_probe: true, head_complete: false }).is_none(),
            "no slot for anything else"
        );
        let probe = slots.take(from(1), PeekedRequest { head_complete: true, is_no_probe: false }).unwrap();
        assert_eq!(probe.kind, SlotKind::Probe);
        let others: Vec<_> = (0..50).map(|_| slow(from(1)).unwrap()).collect();
        assert_eq!(kinds(&others, SlotKind::Probe), 50);
        assert!(!probe.activity.is_evicted(), "a complete head is answered");
        drop((probe, others));
        tokio::time::advance(Duration::from_secs(1)).await;
        let busy: Vec<_> = (0..30).map(|_| busy(&slots, from(1)).unwrap()).collect();
        assert_eq!((kinds(&busy, SlotKind::General), kinds(&busy, SlotKind::Probe)), (28, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_is_idle_some_are_reserved_for_this_machine_and_for_probes() {
        let slots = ConnectionSlots::new(32);
        let all: Vec<_> = (0..28).map(|_| busy(&slots, Source::loopback()).unwrap()).collect();
        let reserved: Vec<_> = (0..4).map(|_| busy(&slots, Source::loopback()).unwrap()).collect();
        let kinds: Vec<_> = reserved.iter().map(|slot| slot.kind).collect();
        drop(reserved);
        assert_eq!(kinds, [SlotKind::Local, SlotKind::Local, SlotKind::Probe, SlotKind::Probe]);
        assert_eq!(busy(&slots, from(1)).unwrap().kind, SlotKind::Probe);
        let reserved: Vec<_> = (0..2).map(|_| busy(&slots, from(1)).unwrap()).collect();
        assert!(busy(&slots, from(1)).is_none(), "all are taken");
        assert_eq!(busy(&slots, Source::loopback()).unwrap().kind, SlotKind::Local);
        drop(reserved);
        all[5].activity.response_done();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(busy(&slots, from(1)).unwrap().kind, SlotKind::General);
        drop(all);
        assert_eq!(busy(&slots, from(1)).unwrap().kind, SlotKind::General);
    }
}
