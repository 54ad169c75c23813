//! Connection slots of the peer port: limits per source and eviction.
//!
//! Why: anything can open hundreds of connections and hold them, before its handshake or with made-up raft ids. Members must get
//! in all the same.
//!
//! Invariants: a raft id in the member table always gets a slot, which no other peer can take. There is one connection for a raft
//! id, purpose and source address, and the few that it has replaced: older ones go, so a restarted member does not wait for a timeout. If other
//! connections are too many, the oldest one of the source address with the most is evicted.
//!
//! See also: `listener` (the user).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::handshake::Purpose;

/// The maximum connections of one member per purpose, from all source addresses.
const MEMBER_CONNECTIONS: usize = 8;

/// The maximum replaced connections of one raft id and source address, kept for the replies that are still to come on them.
const MAX_REPLACED: usize = 3;

/// All connection slots.
pub struct ConnectionSlots {
    /// The maximum connections before their handshake, or for an rpc.
    max_unidentified: usize,
    /// The maximum connections under unlisted raft ids.
    max_unlisted: usize,
    table: Mutex<SlotTable>,
}

#[derive(Default)]
struct SlotTable {
    /// The number of the next slot.
    next: u64,
    /// In the order of their connections.
    slots: BTreeMap<u64, Occupant>,
}

/// An occupied slot.
struct Occupant {
    source: IpAddr,
    /// Raft id and purpose after the handshake.
    owner: Option<(u64, Purpose)>,
    /// Dropped, it evicts the connection.
    _evict: watch::Sender<()>,
}

/// A slot; dropped, it is free again.
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    evicted: watch::Receiver<()>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.table().slots.remove(&self.number);
    }
}

impl ConnectionSlots {
    /// Allows half of `max` slots before a handshake and for rpcs, a quarter for unlisted raft ids; the rest, and more
    /// if needed, for members.
    pub fn new(max: usize) -> Arc<Self> {
        let table = Mutex::default();
        Arc::new(Self { max_unidentified: (max / 2).max(1), max_unlisted: (max / 4).max(1), table })
    }

    fn table(&self) -> MutexGuard<'_, SlotTable> {
        self.table.lock().expect("no panic while the lock is held")
    }

    /// Acquires a slot for a new connection; returns whether another one was evicted.
    pub fn acquire(self: &Arc<Self>, source: IpAddr) -> (ConnectionSlot, bool) {
        let source = network(source);
        let (evict, evicted) = watch::channel(());
        let mut table = self.table();
        // The new connection always gets in; an old one goes. A flood from one source evicts its own, since that source
        // has the most.
        let evicted_other = table.make_room(self.max_unidentified, |slot| slot.owner.is_none());
        let number = table.next;
        table.next += 1;
        table.slots.insert(number, Occupant { source, owner: None, _evict: evict });
        drop(table);
        (ConnectionSlot { slots: Arc::clone(self), number, evicted }, evicted_other)
    }
}

impl ConnectionSlot {
    /// Waits until this connection is evicted.
    pub async fn evicted(&self) {
        let mut evicted = self.evicted.clone();
        while evicted.changed().await.is_ok() {}
    }

    /// Assigns the slot to a raft id after its handshake. `is_listed` says which ids are in the table. Returns whether
    /// another connection was evicted.
    pub fn assign(&self, raft_id: u64, purpose: Purpose, is_listed: impl Fn(u64) -> bool) -> bool {
        let owner = (raft_id, purpose);
        let mut table = self.slots.table();
        // Evicted meanwhile.
        let Some(mut occupant) = table.slots.remove(&self.number) else { return false };
        let same = |slot: &Occupant| slot.owner == Some(owner);
        // A connection of the same raft id, purpose and source replaces the one before, which stays until its replies
        // are sent; so may a few before it, where reloads follow each other. What is older is dead: the peer has restarted.
        let before = table.slots.iter().filter(|(_, slot)| same(slot) && slot.source == occupant.source);
        let before: Vec<u64> = before.map(|(number, _)| *number).collect();
        // A stream is not replaced, but begun again.
        let kept = if purpose == Purpose::Peer { MAX_REPLACED } else { 1 };
        for dead in &before[..before.len().saturating_sub(kept)] {
            table.slots.remove(dead);
        }
        // A member competes only with connections under its own raft id, so no other peer can take its place.
        let evicted_other = if is_listed(raft_id) {
            table.make_room(MEMBER_CONNECTIONS, same)
        } else {
            table.make_room(self.slots.max_unlisted, |slot| slot.owner.is_some_and(|(id, _)| !is_listed(id)))
        };
        occupant.owner = Some(owner);
        table.slots.insert(self.number, occupant);
        evicted_other
    }
}

impl SlotTable {
    /// If `max` of the slots match, evicts the oldest one of the source with the most of them.
    fn make_room(&mut self, max: usize, matches: impl Fn(&Occupant) -> bool) -> bool {
        let mut by_source = BTreeMap::<IpAddr, (usize, u64)>::new();
        let mut count = 0;
        for (number, slot) in self.slots.iter().filter(|(_, slot)| matches(slot)) {
            by_source.entry(slot.source).or_insert((0, *number)).0 += 1;
            count += 1;
        }
        // Example, limit 4: source A holds 1, 2, 3 and source B holds 4. A has the most, so its oldest slot, 1, is evicted.
        let oldest = by_source.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        match oldest {
            Some((_, oldest)) if count >= max => self.slots.remove(&oldest).is_some(),
            _ => false,
        }
    }
}

/// Returns the network of a source: an IPv4 address, or the /64 of an IPv6 address.
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

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.evicted.has_changed().is_err()
    }

    fn peer(slots: &Arc<ConnectionSlots>, source: u8, raft_id: u64) -> ConnectionSlot {
        let slot = slots.acquire(from(source)).0;
        slot.assign(raft_id, Purpose::Peer, |id| id < 10);
        slot
    }

    #[test]
    fn many_unidentified_connections_evict_only_each_other() {
        let slots = ConnectionSlots::new(16);
        let member = peer(&slots, 1, 1);
        let quiet = slots.acquire(from(2)).0;
        let many: Vec<ConnectionSlot> = (0..100).map(|_| slots.acquire(from(3)).0).collect();
        assert!(!is_evicted(&member) && !is_evicted(&quiet));
        assert_eq!(many.iter().filter(|slot| !is_evicted(slot)).count(), 7);
        assert!(!is_evicted(many.last().unwrap()), "the newest stay");
    }

    #[test]
    fn made_up_raft_ids_cannot_take_member_slots() {
        let slots = ConnectionSlots::new(16);
        let member = peer(&slots, 1, 1);
        let made_up: Vec<ConnectionSlot> = (0..100).map(|id| peer(&slots, 1, 100 + id)).collect();
        let second = peer(&slots, 1, 2);
        assert!(!is_evicted(&member) && !is_evicted(&second));
        assert_eq!(made_up.iter().filter(|slot| !is_evicted(slot)).count(), 4);
    }

    #[test]
    fn the_newest_connection_of_a_raft_id_leaves_only_those_just_before_it() {
        let slots = ConnectionSlots::new(16);
        let oldest = peer(&slots, 1, 1);
        let elsewhere = peer(&slots, 2, 1);
        let copy = slots.acquire(from(1)).0;
        copy.assign(1, Purpose::Snapshot, |_| true);
        let old: Vec<ConnectionSlot> = (0..MAX_REPLACED).map(|_| peer(&slots, 1, 1)).collect();
        assert!(!is_evicted(&oldest), "its replies are still sent");
        let new = peer(&slots, 1, 1);
        assert!(is_evicted(&oldest));
        let old = old.last().unwrap();
        assert!(!is_evicted(&new) && !is_evicted(old) && !is_evicted(&elsewhere) && !is_evicted(&copy));
        drop(oldest);
        assert!(!is_evicted(&new), "the end of the old one is not that of the new one");
        let _others: Vec<ConnectionSlot> = (3..9).map(|source| peer(&slots, source, 1)).collect();
        assert!(is_evicted(&elsewhere) || is_evicted(&new) || is_evicted(old), "a raft id is in few places at once");
    }

    #[test]
    fn a_network_is_one_source() {
        let v6 = |text: &str| network(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:10.0.0.1"), from(1));
    }
}
