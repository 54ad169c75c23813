//! The places that connections take.
//!
//! Why: connections are bounded, and clients keep more of them open than they use. A node whose places are all taken by
//! idle ones must not look dead to whoever probes it, nor refuse whoever has something to ask.
//!
//! Laws: where few places are left, a new connection takes that of an idle one: of the address that holds the most, the
//! one that has been idle for longest. One whose request has begun and does not end is idle too. Where none is, some
//! places are kept: half for this machine, half for probes. There whoever has not asked yet gives way at once, so that no
//! number of connections that only begin to ask keeps a probe out. Where all are busy, the connection is refused at once.
//! No connection that was asked something gives way.
//!
//! Not here: which request is a probe ([`super::host_guard`]), and what a refused client is told ([`crate::http::server`]).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::activity::Activity;
use super::memory_budget::Source;
use super::socket::Seen;

/// The most places that are kept.
const KEPT: usize = 64;
/// How many connections that gave their places up are read from a little longer, and how many that never had one.
const PARTINGS: (usize, usize) = (4, 64);
const REFUSED: (usize, usize) = (8, 512);
/// The part of all places that they are, as a divisor.
const PARTINGS_PART: usize = 8;
/// The part of all places that are kept at most, as a divisor.
const KEPT_PART: usize = 8;

/// All places of a server.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    most: usize,
    /// Whoever has given up a place, and is read from a little longer so that the last answer arrives.
    pub(crate) partings: Semaphore,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, (Source, Kind, Arc<Activity>)>,
    by_source: HashMap<Source, usize>,
    by_kind: [usize; 3],
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything.
    Open,
    /// Anything that this machine asks; it is one of those that are kept.
    Local,
    /// Probes; it is one of those that are kept.
    Probe,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    /// All places.
    pub(crate) places: Arc<ConnectionSlots>,
    number: u64,
    /// Whose it is.
    pub(crate) source: Source,
    /// What it is for.
    pub(crate) kind: Kind,
    /// What the connection does.
    pub(crate) activity: Arc<Activity>,
}

impl ConnectionSlots {
    /// So many places, all free.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let partings = Semaphore::new((most / PARTINGS_PART).clamp(PARTINGS.0, PARTINGS.1));
        Arc::new(Self { most, partings, taken: Mutex::default() })
    }

    /// How many of those for whom there is no place are read from a little longer.
    pub(crate) fn refused(&self) -> usize {
        (self.most / PARTINGS_PART).clamp(REFUSED.0, REFUSED.1)
    }

    /// Whether only places that are kept are free: then it counts what a connection asks.
    pub(crate) fn are_few(&self) -> bool {
        self.taken().by_kind[Kind::Open as usize] >= self.most - self.kept()
    }

    fn kept(&self) -> usize {
        KEPT.min(self.most / KEPT_PART)
    }

    /// A place for a connection from `source`, of whose request so much was seen; None where there is none.
    pub(crate) fn take(self: &Arc<Self>, source: Source, seen: Seen) -> Option<ConnectionSlot> {
        let kept = self.kept();
        let mut taken = self.taken();
        let (local, probes) = (kept / 2, kept - kept / 2);
        let mut free = |kind: Kind, most| taken.by_kind[kind as usize] < most || taken.make_room(kind);
        let kind = if free(Kind::Open, self.most - kept) {
            Kind::Open
        } else if source.is_loopback() && local > 0 && free(Kind::Local, local) {
            Kind::Local
        } else if probes > 0 && !seen.no_probe && free(Kind::Probe, probes) {
            Kind::Probe
        } else {
            return None;
        };
        let activity = Arc::<Activity>::default();
        if seen.whole {
            activity.asked();
        }
        taken.next += 1;
        let number = taken.next;
        taken.connections.insert(number, (source, kind, Arc::clone(&activity)));
        *taken.by_source.entry(source).or_default() += 1;
        taken.by_kind[kind as usize] += 1;
        drop(taken);
        Some(ConnectionSlot { places: Arc::clone(self), number, source, kind, activity })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Has an idle connection with a place of this kind leave, if there is one.
    fn make_room(&mut self, of: Kind) -> bool {
        let hurry = of != Kind::Open;
        loop {
            let idle = self.connections.iter().filter_map(|(number, (source, kind, activity))| {
                let since = activity.idle_since(hurry).filter(|_| *kind == of)?;
                Some((self.by_source.get(source).copied().unwrap_or(0), Reverse(since), Reverse(*number)))
            });
            let Some((_, _, Reverse(number))) = idle.max() else { return false };
            // It may have been asked something in this moment.
            let leaves = self.connections.get(&number).is_some_and(|(_, _, activity)| activity.leave(hurry));
            if leaves {
                self.remove(number);
                return true;
            }
        }
    }

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
        self.places.taken().remove(self.number);
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

    fn busy(places: &Arc<ConnectionSlots>, source: Source) -> Option<ConnectionSlot> {
        let place = places.take(source, Seen::default())?;
        assert!(place.activity.begin());
        Some(place)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_of_whoever_holds_the_most_gives_way() {
        let places = ConnectionSlots::new(32);
        let few = places.take(from(1), Seen::default()).unwrap();
        let many: Vec<_> = (0..27).map(|_| places.take(from(2), Seen::default()).unwrap()).collect();
        assert!(many[0].activity.begin());
        assert_eq!(places.take(from(3), Seen::default()).unwrap().kind, Kind::Probe, "what they ask may be on its way");
        tokio::time::advance(Duration::from_millis(250)).await;
        let next = places.take(from(3), Seen::default()).unwrap();
        assert_eq!(next.kind, Kind::Open);
        assert!(many[1].activity.is_leaving(), "the first one is busy");
        assert!(!few.activity.is_leaving() && !many[0].activity.is_leaving() && !many[2].activity.is_leaving());
        assert_eq!(places.take(from(2), Seen::default()).unwrap().kind, Kind::Open, "its own next one");
        assert!(many[2].activity.is_leaving());
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_begins_to_ask_gives_way_and_from_the_kept_places_too() {
        let places = ConnectionSlots::new(32);
        let slow = |source| {
            let place = places.take(source, Seen::default())?;
            place.activity.heard();
            Some(place)
        };
        let all: Vec<_> = (0..32).map_while(|_| slow(Source::loopback())).collect();
        let kinds = |all: &[ConnectionSlot], kind| all.iter().filter(|place| place.kind == kind).count();
        assert_eq!((kinds(&all, Kind::Open), kinds(&all, Kind::Local)), (28, 4));
        assert!(all[28].activity.is_leaving() && !all[31].activity.is_leaving(), "those who are kept go at once");
        assert!(all[..28].iter().all(|place| !place.activity.is_leaving()), "their requests may be on their way");
        assert!(places.take(from(1), Seen { no_probe: true, whole: false }).is_none(), "no place for anything else");
        let probe = places.take(from(1), Seen { whole: true, no_probe: false }).unwrap();
        assert_eq!(probe.kind, Kind::Probe);
        let others: Vec<_> = (0..50).map(|_| slow(from(1)).unwrap()).collect();
        assert_eq!(kinds(&others, Kind::Probe), 50);
        assert!(!probe.activity.is_leaving(), "whoever has asked is answered");
        drop((probe, others));
        tokio::time::advance(Duration::from_secs(1)).await;
        let busy: Vec<_> = (0..30).map(|_| busy(&places, from(1)).unwrap()).collect();
        assert_eq!((kinds(&busy, Kind::Open), kinds(&busy, Kind::Probe)), (28, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_is_idle_some_are_kept_for_this_machine_and_for_probes() {
        let places = ConnectionSlots::new(32);
        let all: Vec<_> = (0..28).map(|_| busy(&places, Source::loopback()).unwrap()).collect();
        let kept: Vec<_> = (0..4).map(|_| busy(&places, Source::loopback()).unwrap()).collect();
        let kinds: Vec<_> = kept.iter().map(|place| place.kind).collect();
        drop(kept);
        assert_eq!(kinds, [Kind::Local, Kind::Local, Kind::Probe, Kind::Probe]);
        assert_eq!(busy(&places, from(1)).unwrap().kind, Kind::Probe);
        let kept: Vec<_> = (0..2).map(|_| busy(&places, from(1)).unwrap()).collect();
        assert!(busy(&places, from(1)).is_none(), "all are taken");
        assert_eq!(busy(&places, Source::loopback()).unwrap().kind, Kind::Local);
        drop(kept);
        all[5].activity.done();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(busy(&places, from(1)).unwrap().kind, Kind::Open);
        drop(all);
        assert_eq!(busy(&places, from(1)).unwrap().kind, Kind::Open);
    }
}
