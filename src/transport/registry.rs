//! The registry: the state that all transport tasks share.
//!
//! Why: each connection is a task of its own; they share the loop's handle, the published table, the addresses of members, and
//! the shutdown signal.
//!
//! Invariants: no lock is held over an await. Every task is counted, so shutdown can wait for all of them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use slog::{Logger, error, warn};
use tokio::sync::{Semaphore, mpsc, watch};

use super::handshake::admission::admit;
use super::handshake::dial::PeerAddress;
use super::handshake::{Denial, Hello, Purpose};
use super::memory_budget::Budget;
use super::wire::Frame;
use crate::consensus::{Handle, Input};
use crate::model::{BootHistory, BootId, IdentityConflict, PeerTable};
use crate::storage::Peers;

/// How many lines of one reason are logged one after the other before they are thinned out.
const COMPLAINTS_AT_ONCE: u32 = 8;
/// The shortest time between two log lines of the same reason after that; it doubles while the reason goes on.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two log lines of a reason that goes on.
const COMPLAINT_AT_LEAST_EVERY: Duration = Duration::from_secs(16);

/// The middle of the transport.
pub struct Registry {
    /// The way to the loop.
    pub handle: Handle,
    /// The log.
    pub log: Logger,
    /// What the loop published last; None before the first time.
    pub table: watch::Sender<Option<Arc<PeerTable>>>,
    /// The bytes that peers may have on their way.
    pub budget: Budget,
    /// Counts the snapshots that were begun to be received: a newer one ends the older.
    pub receptions: watch::Sender<u64>,
    /// Held while a snapshot is written.
    pub reception: Arc<Semaphore>,
    /// In which life each peer was spoken to last.
    pub peers: Arc<Peers>,
    /// Tells that this has changed.
    peers_changed: watch::Sender<()>,
    /// How many connections there are to each peer in each of its lives.
    connected: Mutex<HashMap<(u64, BootId), usize>>,
    directory: Mutex<Directory>,
    runtime: tokio::runtime::Handle,
    complaints: Mutex<HashMap<&'static str, Complaint>>,
    stopping: watch::Sender<bool>,
    tasks: watch::Sender<usize>,
}

/// Who is dialled, and who has called; under one lock, so that no member's word is lost on its way from one to the
/// other.
#[derive(Default)]
pub struct Directory {
    /// Where the members are that are dialled now; a sender that is dropped retires its peer.
    pub dialled: BTreeMap<u64, watch::Sender<PeerAddress>>,
    /// Who is connected to this node and is not in the table: a node whose table is old or empty (every joiner's is) must
    /// answer the leader all the same. It does so on the connection that is there; nobody's word makes it dial.
    /// Each by its raft id and a number of its own: more than one may call itself by the same id.
    pub unlisted_peers: BTreeMap<(u64, u64), UnlistedPeer>,
    /// The number of the next caller.
    next_unlisted: u64,
}

/// A peer that is not in the table, for as long as its connection lasts.
pub struct UnlistedPeer {
    /// Where it says that it is.
    pub address: String,
    /// What is to be sent to it.
    pub queue: mpsc::Sender<Frame>,
}

/// Forgets a caller when it is dropped.
pub struct UnlistedPeerGuard<'a> {
    registry: &'a Registry,
    unlisted_peer: (u64, u64),
}

impl Drop for UnlistedPeerGuard<'_> {
    fn drop(&mut self) {
        self.registry.directory().unlisted_peers.remove(&self.unlisted_peer);
    }
}

/// A connection to a peer in one of its lives.
pub struct Connected<'a> {
    registry: &'a Registry,
    peer: (u64, BootId),
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let mut connections = self.registry.connections();
        if let Some(count) = connections.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.peer);
            }
        }
    }
}

/// One reason to complain.
struct Complaint {
    /// When it was last said.
    said: Instant,
    /// How long it is not said again.
    pause: Duration,
    /// How often it came up since.
    unsaid: u64,
    /// How many more may be said at once.
    at_once: u32,
}

/// Counts a task while it exists, also where it is dropped by the end of the runtime.
struct TaskGuard(Arc<Registry>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|tasks| *tasks -= 1);
    }
}

impl Registry {
    /// Begins without a table, on the calling runtime.
    pub fn new(handle: Handle, peers: Arc<Peers>, member_bytes: usize, log: Logger) -> Self {
        Self {
            handle,
            log,
            table: watch::Sender::new(None),
            budget: Budget::new(member_bytes),
            receptions: watch::Sender::new(0),
            reception: Arc::new(Semaphore::new(1)),
            peers,
            peers_changed: watch::Sender::new(()),
            connected: Mutex::default(),
            directory: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            complaints: Mutex::default(),
            stopping: watch::Sender::new(false),
            tasks: watch::Sender::new(0),
        }
    }

    /// Runs `task` on the transport's runtime, from any thread.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.send_modify(|tasks| *tasks += 1);
        let task_guard = TaskGuard(Arc::clone(self));
        self.runtime.spawn(async move {
            let _task_guard = task_guard;
            task.await;
        });
    }

    /// Tells every task to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once [`Registry::stop`] was called.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        drop(self.stopping.subscribe().wait_for(|stopping| *stopping).await);
    }

    /// Returns once no task is left.
    pub async fn finished(&self) {
        drop(self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await);
    }

    /// The table published last.
    pub fn table(&self) -> Option<Arc<PeerTable>> {
        self.table.borrow().clone()
    }

    /// How this node introduces itself to the node with raft id `to`, 0 for a stranger.
    pub fn hello(&self, purpose: Purpose, to: u64) -> Hello {
        let table = self.table();
        let of = |field: fn(&PeerTable) -> u64| table.as_deref().map_or(0, field);
        let text = |field: fn(&PeerTable) -> &String| table.as_deref().map_or_else(String::new, |it| field(it).clone());
        Hello {
            purpose,
            cluster_id: of(|table| table.cluster_id),
            from: of(|table| table.raft_id),
            to,
            node_id: text(|table| &table.node_id),
            raft_address: text(|table| &table.raft_address),
            moved: table.as_deref().is_some_and(|table| table.moved),
            boot_history: self.boot_history(to, None),
            known: self.peers.boot_id(to),
        }
    }

    /// The lives of this node as the peer `to` is told them, which has `shown` that it knows one; none for strangers.
    pub fn boot_history(&self, to: u64, shown: Option<BootId>) -> BootHistory {
        self.table().map_or_else(BootHistory::default, |table| table.boot_history_for(to, self.peers.heard(to), shown))
    }

    /// Whether a peer that introduces itself so may be heard. It is known in this life from then on, durably.
    ///
    /// # Errors
    /// [`Denial`], to be sent back.
    pub async fn admit(&self, hello: &Hello) -> Result<(), Denial> {
        admit(self.table().as_deref(), hello, || self.peers.check(hello.from, &hello.boot_history))?;
        self.record_peer(hello.from, &hello.boot_history, false).await
    }

    /// Takes note of the peer `raft_id`, which is spoken to in this life, and of whether it has `heard` the present life of
    /// this node; durable on return. A peer that the table does not have is only compared with what is known.
    ///
    /// # Errors
    /// [`Denial`]: it is not to be spoken to.
    pub async fn record_peer(&self, raft_id: u64, boot_history: &BootHistory, heard: bool) -> Result<(), Denial> {
        let Some(table) = self.table() else { return Err(Denial::Starting) };
        if !table.lists(raft_id) {
            return self.peers.check(raft_id, boot_history).map_err(Denial::Conflict);
        }
        let heard = heard.then_some(table.boot_history.current);
        if self.peers.is_recorded(raft_id, boot_history.current, heard) {
            return Ok(());
        }
        if let Some(known) = self.peers.boot_id(raft_id)
            && known != boot_history.current
            && self.is_connected(raft_id, known)
        {
            self.peers.check(raft_id, boot_history).map_err(Denial::Conflict)?;
            return Err(Denial::Connected(BootId { nonce: known.nonce & 0xffff, ..known }));
        }
        let (peers, boot_history) = (Arc::clone(&self.peers), boot_history.clone());
        let peers_changed =
            move || peers.record(raft_id, &boot_history, heard, |known| !table.tombstones.contains(&known));
        let detail = match self.runtime.spawn_blocking(peers_changed).await {
            Ok(Ok(peers_changed)) => {
                let new = peers_changed.map_err(Denial::Conflict)?;
                self.peers_changed.send_if_modified(|()| new);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.warn_limited("a peer cannot be written down, and is not spoken to", &raft_id.to_string(), &detail);
        Err(Denial::Disk)
    }

    /// Counts a connection to the peer in this life for as long as the result lives: meanwhile no other life follows it.
    #[must_use]
    pub fn connect(&self, raft_id: u64, boot_id: BootId) -> Connected<'_> {
        *self.connections().entry((raft_id, boot_id)).or_default() += 1;
        Connected { registry: self, peer: (raft_id, boot_id) }
    }

    fn is_connected(&self, raft_id: u64, boot_id: BootId) -> bool {
        self.connections().contains_key(&(raft_id, boot_id))
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<(u64, BootId), usize>> {
        self.connected.lock().expect("nothing panics while it counts connections")
    }

    /// Waits until the peer is known in a life that these do not follow from.
    pub async fn until_superseded(&self, raft_id: u64, boot_history: &BootHistory) -> IdentityConflict {
        let (mut table, mut peers_changed) = (self.table.subscribe(), self.peers_changed.subscribe());
        loop {
            // A peer that is in the table from now on is noted.
            if let Err(Denial::Conflict(conflict)) = self.record_peer(raft_id, boot_history, true).await {
                return conflict;
            }
            // The senders live as long as `self`.
            tokio::select! {
                changed = table.changed() => drop(changed),
                changed = peers_changed.changed() => drop(changed),
            }
        }
    }

    /// Waits until the table or the life that a peer is known in does not admit it any more, and tells why.
    pub async fn until_denied(&self, hello: &Hello) -> Denial {
        let (mut table, mut peers_changed) = (self.table.subscribe(), self.peers_changed.subscribe());
        loop {
            match self.admit(hello).await {
                Ok(()) | Err(Denial::Disk) => {}
                Err(denial) => return denial,
            }
            tokio::select! {
                changed = table.changed() => drop(changed),
                changed = peers_changed.changed() => drop(changed),
            }
        }
    }

    /// Says, here and to the loop, that what speaks as the peer `raft_id` is not it, or that this peer says so of this node.
    pub async fn conflict(&self, raft_id: u64, who: &str, of_this_node: bool, conflict: IdentityConflict) {
        let detail = conflict.to_string();
        let whose = if of_this_node { "this node is refused by" } else { "what is refused" };
        if let Some(unsaid) = self.due(if of_this_node { "identity conflict here" } else { "identity conflict there" })
        {
            error!(self.log, "identity conflict"; whose => who, "raft_id" => raft_id, "detail" => &detail,
                "more_like_this" => unsaid);
        }
        self.handle.deliver(Input::IdentityConflict { raft_id, of_this_node, detail }).await;
    }

    /// Who is dialled, and who has called.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("nothing panics while it holds the directory")
    }

    /// Whether this raft id is in the table.
    pub fn is_listed(&self, raft_id: u64) -> bool {
        self.table.borrow().as_deref().is_some_and(|table| table.lists(raft_id))
    }

    /// Remembers where a peer that was let in said it is, and that it is alive; one that is not in the table is answered
    /// through `queue` for as long as the result lives.
    #[must_use]
    pub fn register_inbound(&self, hello: &Hello, queue: mpsc::Sender<Frame>) -> Option<UnlistedPeerGuard<'_>> {
        let mut directory = self.directory();
        if let Some(peer_address) = directory.dialled.get(&hello.from) {
            peer_address.send_modify(|peer_address| peer_address.set_self_reported(&hello.raft_address));
            return None;
        }
        let unlisted_peer = (hello.from, directory.next_unlisted);
        directory.next_unlisted += 1;
        directory.unlisted_peers.insert(unlisted_peer, UnlistedPeer { address: hello.raft_address.clone(), queue });
        Some(UnlistedPeerGuard { registry: self, unlisted_peer })
    }

    /// Where members other than `except` have said they are, where that is not what the table says. Passed on, it lets two
    /// members that have both moved find each other through a third.
    pub fn self_reported_addresses(&self, except: u64) -> Vec<(u64, String)> {
        let directory = self.directory();
        let others = directory.dialled.iter().filter(|(raft_id, _)| **raft_id != except);
        others.filter_map(|(raft_id, it)| Some((*raft_id, it.borrow().self_reported()?.to_owned()))).collect()
    }

    /// A peer is there, and follows this leader; where the loop is busy, the next word comes in a second.
    pub fn heard_follows(&self, from: u64, follows: u64) {
        _ = self.handle.offer(Input::Heard { from, follows });
    }

    /// A member has passed on where others told it that they are.
    pub fn gossiped(&self, known: &[(u64, String)]) {
        if !self.table().is_some_and(|table| table.follow_moves) {
            return;
        }
        let directory = self.directory();
        for (raft_id, address) in known {
            if let Some(peer_address) = directory.dialled.get(raft_id) {
                peer_address.send_if_modified(|peer_address| peer_address.set_gossiped(address));
            }
        }
    }

    /// Logs what a stranger or a peer did wrong: a few lines for each `reason` at once, then at most one a second, and fewer
    /// while it goes on.
    pub fn warn_limited(&self, reason: &'static str, who: &str, detail: &str) {
        if let Some(unsaid) = self.due(reason) {
            warn!(self.log, "{}", reason; "peer" => who, "detail" => detail, "more_like_this" => unsaid);
        }
    }

    /// Whether a line with this `reason` is due, and how many were left out before it.
    fn due(&self, reason: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut complaints = self.complaints.lock().expect("nothing panics while it holds the complaints");
        let complaint = complaints.entry(reason).or_insert(Complaint {
            said: now,
            pause: COMPLAINT_EVERY,
            unsaid: 0,
            at_once: COMPLAINTS_AT_ONCE,
        });
        let quiet_for = now.duration_since(complaint.said);
        if quiet_for >= complaint.pause * 2 {
            (complaint.at_once, complaint.pause) = (COMPLAINTS_AT_ONCE, COMPLAINT_EVERY);
        }
        if complaint.at_once > 0 {
            complaint.at_once -= 1;
        } else if quiet_for < complaint.pause {
            complaint.unsaid += 1;
            return None;
        } else {
            complaint.pause = (complaint.pause * 2).min(COMPLAINT_AT_LEAST_EVERY);
        }
        complaint.said = now;
        Some(std::mem::take(&mut complaint.unsaid))
    }
}
