//! One node.

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

/// One node, up or down.
pub struct Node {
    pub engine: SimEngine,
    pub driver: Option<Driver>,
    pub starts: u64,
    pub table: PeerTable,
    pub paused_until: u64,
    /// Until when its disk fails writes again after each start.
    pub disk_fails_until: u64,
    /// Where it is to be dialled from its next start on.
    pub port: u64,
    /// How much its own clock is clock_offset, and how long its ticks are.
    pub clock_offset: u64,
    pub tick: u64,
    pub outbox: SimOutbox,
    /// The spooler of the copy whose scan is through, waiting for the loop to end it.
    pub finished_spooler: Option<Box<Spooler>>,
    /// What this process of it was told of the disks of others.
    pub peer_space: PeerSpace,
    /// What was seen of it, or was durable when its last process ended: nothing may move back from there.
    pub progress: Progress,
    /// What the events of its feed make of the keys.
    pub watcher: Watcher,
    /// The raft id and applied index that its machine was synced at last.
    pub durable: (u64, u64),
    /// What it must be able to go back to while it joins: the raft id that it had.
    pub previous: Option<u64>,
    /// The raft id under which it was seen as one member of several.
    pub member_as: Option<u64>,
    /// What was last stored in it while it was alone.
    pub own_write: Option<OwnWrite>,
    /// The voters that it knew after each of its latest turns, with what it knew to be committed then.
    pub recent_voters: VecDeque<(u64, Vec<u64>)>,
    /// Up to where its log was looked at.
    pub checked_log: u64,
    /// How long a turn of this process takes at least: inputs gather meanwhile, as they do while a slow disk syncs.
    pub turn_ms: u64,
    /// When its next turn may be, and whether that is in the queue.
    pub next_turn: (u64, bool),
    /// Which of the nodes that the world began with it is, or is a copy of.
    pub original: usize,
    /// In which process it has spoken to each peer last, while it is up.
    pub peers: Option<Peers>,
    /// An older copy of its disk.
    pub disk_copy: Option<DiskCopy>,
    /// Set while its disk is a copy, so that it must not take part.
    pub stale_disk: Option<StaleDisk>,
}

impl World {
    /// A node on this disk that was not started yet.
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
            checked_log: 0,
            turn_ms: 0,
            next_turn: (0, false),
            original,
            peers: None,
            disk_copy: None,
            stale_disk: None,
        }
    }
}
