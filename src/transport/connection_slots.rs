//! The places at the peer port: who may hold how many connections, and who makes room for whom.
//!
//! Why: anything can open hundreds of connections and hold them, before its handshake or behind one with made-up raft
//! ids; the members have to get in all the same.
//!
//! Laws: a raft id in the member table always gets a place, and nobody who is not takes it. There is one connection for a
//! raft id, purpose and source address: a newer one takes the place of the older, so a member that comes back does not wait
//! for its old one to time out. Where others are too many, the oldest of that source address leaves that has the most.
//!
//! Not here: who is in the table, and what a connection is for (`listener`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::handshake::Purpose;

/// The most source addresses from which one member holds connections for one purpose at once.
const SOURCES_OF_A_MEMBER: usize = 4;

/// All places.
pub struct ConnectionSlots {
    /// The most connections that have not introduced themselves, or only ask one question.
    most_strangers: usize,
    /// The most connections under raft ids that are not in the table.
    most_unlisted: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The number of the next one.
    next: u64,
    /// In the order in which they came.
    places: BTreeMap<u64, Taken>,
}

/// A place that is taken.
struct Taken {
    source: IpAddr,
    /// The raft id and the purpose, once introduced as one of this cluster.
    owner: Option<(u64, Purpose)>,
    /// Dropped, it shows the holder out.
    _leave: watch::Sender<()>,
}

/// A place; dropped, it is free again.
pub struct ConnectionSlot {
    places: Arc<ConnectionSlots>,
    number: u64,
    shown_out: watch::Receiver<()>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.places.held().places.remove(&self.number);
    }
}

impl ConnectionSlots {
    /// Half of `max` places for strangers, a quarter for raft ids that are not in the table; the rest, and where that is
    /// not enough more, for those that are.
    pub fn new(max: usize) -> Arc<Self> {
        let held = Mutex::default();
        Arc::new(Self { most_strangers: (max / 2).max(1), most_unlisted: (max / 4).max(1), held })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics while it holds the places")
    }

    /// A place for who has just connected, and whether another one had to make room.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> (ConnectionSlot, bool) {
        let source = network(source);
        let (leave, shown_out) = watch::channel(());
        let mut held = self.held();
        let crowded = held.make_room(self.most_strangers, |place| place.owner.is_none());
        let number = held.next;
        held.next += 1;
        held.places.insert(number, Taken { source, owner: None, _leave: leave });
        drop(held);
        (ConnectionSlot { places: Arc::clone(self), number, shown_out }, crowded)
    }
}

impl ConnectionSlot {
    /// Returns once somebody else has been given the place.
    pub async fn shown_out(&self) {
        let mut shown_out = self.shown_out.clone();
        while shown_out.changed().await.is_ok() {}
    }

    /// The holder has introduced itself as this raft id of the cluster. `is_listed` says which are in the table. Whether
    /// another one had to make room.
    pub fn settle(&self, raft_id: u64, purpose: Purpose, is_listed: impl Fn(u64) -> bool) -> bool {
        let owner = (raft_id, purpose);
        let mut held = self.places.held();
        // Shown out meanwhile.
        let Some(mut own) = held.places.remove(&self.number) else { return false };
        let same = |place: &Taken| place.owner == Some(owner);
        held.places.retain(|_, place| !(same(place) && place.source == own.source));
        let crowded = if is_listed(raft_id) {
            held.make_room(SOURCES_OF_A_MEMBER, same)
        } else {
            held.make_room(self.places.most_unlisted, |place| place.owner.is_some_and(|(id, _)| !is_listed(id)))
        };
        own.owner = Some(owner);
        held.places.insert(self.number, own);
        crowded
    }
}

impl Held {
    /// Where `most` of the places are taken by those that `which` tells, the oldest leaves of the source that has the most
    /// of them.
    fn make_room(&mut self, most: usize, which: impl Fn(&Taken) -> bool) -> bool {
        let mut by_source = BTreeMap::<IpAddr, (usize, u64)>::new();
        let mut count = 0;
        for (number, place) in self.places.iter().filter(|(_, place)| which(place)) {
            by_source.entry(place.source).or_insert((0, *number)).0 += 1;
            count += 1;
        }
        let oldest = by_source.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        match oldest {
            Some((_, oldest)) if count >= most => self.places.remove(&oldest).is_some(),
            _ => false,
        }
    }
}

/// What counts as one source: an IPv4 address, or the 64 bits of an IPv6 address that a network gives to one customer.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_out(place: &ConnectionSlot) -> bool {
        place.shown_out.has_changed().is_err()
    }

    fn peer(places: &Arc<ConnectionSlots>, source: u8, raft_id: u64) -> ConnectionSlot {
        let place = places.enter(from(source)).0;
        place.settle(raft_id, Purpose::Peer, |id| id < 10);
        place
    }

    #[test]
    fn a_crowd_of_strangers_makes_room_for_itself_and_not_for_others() {
        let places = ConnectionSlots::new(16);
        let member = peer(&places, 1, 1);
        let quiet = places.enter(from(2)).0;
        let crowd: Vec<ConnectionSlot> = (0..100).map(|_| places.enter(from(3)).0).collect();
        assert!(!is_out(&member) && !is_out(&quiet));
        assert_eq!(crowd.iter().filter(|place| !is_out(place)).count(), 7);
        assert!(!is_out(crowd.last().unwrap()), "the newest stay");
    }

    #[test]
    fn raft_ids_that_were_made_up_do_not_take_the_members_places() {
        let places = ConnectionSlots::new(16);
        let member = peer(&places, 1, 1);
        let made_up: Vec<ConnectionSlot> = (0..100).map(|id| peer(&places, 1, 100 + id)).collect();
        let second = peer(&places, 1, 2);
        assert!(!is_out(&member) && !is_out(&second));
        assert_eq!(made_up.iter().filter(|place| !is_out(place)).count(), 4);
    }

    #[test]
    fn the_newer_connection_of_a_raft_id_takes_the_place_of_the_older() {
        let places = ConnectionSlots::new(16);
        let old = peer(&places, 1, 1);
        let elsewhere = peer(&places, 2, 1);
        let copy = places.enter(from(1)).0;
        copy.settle(1, Purpose::Snapshot, |_| true);
        let new = peer(&places, 1, 1);
        assert!(is_out(&old));
        assert!(!is_out(&new) && !is_out(&elsewhere) && !is_out(&copy));
        drop(old);
        assert!(!is_out(&new), "the end of the old one is not that of the new one");
        let _others: Vec<ConnectionSlot> = (3..6).map(|source| peer(&places, source, 1)).collect();
        assert!(is_out(&elsewhere) || is_out(&new), "a raft id is in few places at once");
    }

    #[test]
    fn a_network_is_one_source() {
        let v6 = |text: &str| network(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:10.0.0.1"), from(1));
    }
}
