//! A simulated node: its disk, its driver while it is up, and what the checks remember of it.
//!
//! See also: `process` for starts, crashes and turns.

use std::collections::VecDeque;

use huskv::consensus::Driver;
use huskv::model::PeerTable;
use huskv::storage::{Peers, Spooler};

use crate::checks::changefeed::Watcher;
use crate::checks::turn::Progress;
use crate::faults::disk_copies::{DiskCopy, StaleDisk};
use crate::faults::disk_space::PeerSpace;
use crate::workload::standalone::OwnWrite;
use crate::world::disk::SimEngine;
use crate::world::outbox::SimOutbox;
use crate::world::{TICK, World};

/// A node, up or down.
pub struct Node {
    pub engine: SimEngine,
    /// The driver of its process, while it is up.
    pub driver: Option<Driver>,
    /// The number of its starts so far.
    pub starts: u64,
    /// The peer table that it has published last.
    pub table: PeerTable,
    pub paused_until: u64,
    /// Until when its disk fails again soon after each start.
    pub disk_fails_until: u64,
    /// The port of its raft address from the next start on.
    pub port: u64,
    /// By how much its clock is ahead of virtual time.
    pub clock_offset: u64,
    /// The virtual milliseconds between two of its ticks: its clock runs fast or slow.
    pub tick: u64,
    /// The ways out of its process.
    pub outbox: SimOutbox,
    /// The spooler of a snapshot whose scan is complete, until the loop ends it.
    pub finished_spooler: Option<Box<Spooler>>,
    /// The free space of other members, as told to this process.
    pub peer_space: PeerSpace,
    /// How far it has come, or what was durable when its last process ended; none of it may move back.
    pub progress: Progress,
    /// A client that watches all keys on it.
    pub watcher: Watcher,
    /// The raft id and applied index of the last sync of its state machine.
    pub durable: (u64, u64),
    /// The raft id of its previous incarnation, which it must be able to go back to while it joins.
    pub previous: Option<u64>,
    /// The raft id under which it has been one member of several.
    pub member_as: Option<u64>,
    /// The last write that it has acknowledged while it was alone.
    pub own_write: Option<OwnWrite>,
    /// Its commit index and voters after each of its latest turns, the last turn first.
    pub recent_voters: VecDeque<(u64, Vec<u64>)>,
    /// The process whose events were checked, and the id of the last one.
    pub checked_events: (u64, u64),
    /// The last index of its log that was checked.
    pub checked_log: u64,
    /// The least duration of a turn of this process. Inputs gather meanwhile, as they do while a slow disk syncs.
    pub turn_ms: u64,
    /// When its next turn may begin, and whether an event for it is in the queue.
    pub next_turn: (u64, bool),
    /// Its index, or for a copied disk that of the original.
    pub original: usize,
    /// The raft id and the name of the leader whose offer its process has accepted last.
    pub offered_by: Option<(u64, String)>,
    /// The boot ids of its peers, while it is up.
    pub peers: Option<Peers>,
    /// An older copy of its disk.
    pub disk_copy: Option<DiskCopy>,
    /// Set while it runs on a copied disk, with which it must not take part.
    pub stale_disk: Option<StaleDisk>,
}

impl World {
    /// Creates a node on this disk, not started yet.
    pub fn node(&self, engine: SimEngine, original: usize) -> Node {
        Node {
            outbox: SimOutbox::new(self.clock.clone(), engine.clone()),
            engine,
            driver: None,
            starts: 0,
            table: PeerTable::default(),
            paused_until: 0,
            disk_fails_until: 0,
            port: 1,
            clock_offset: 0,
            tick: TICK,
            finished_spooler: None,
            peer_space: PeerSpace::new(),
            progress: Progress::default(),
            watcher: Watcher::default(),
            durable: (0, 0),
            previous: None,
            member_as: None,
            own_write: None,
            recent_voters: VecDeque::new(),
            checked_events: (0, 0),
            checked_log: 0,
            turn_ms: 0,
            next_turn: (0, false),
            original,
            offered_by: None,
            peers: None,
            disk_copy: None,
            stale_disk: None,
        }
    }
}
