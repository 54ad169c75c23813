//! The state that all transport tasks share: the registry of links and addresses, the handle, the shutdown signal.
//!
//! Why: each connection is a task of its own; they share the loop's handle, the published table, the addresses of members, and
//! the shutdown signal.
//!
//! Invariants: no lock is held over an await. Every task is counted, so shutdown can wait for all of them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use slog::{Logger, error};
use tokio::sync::{Semaphore, mpsc, watch};

use super::Options;
use super::admission::admit;
use super::handshake::authentication::Authentication;
use super::handshake::dial::{PeerAddress, Target};
use super::handshake::{Denial, Hello, InboundPeer, Purpose};
use super::memory_budget::Budget;
use super::wire::Frame;
use crate::consensus::{Handle, Input};
use crate::model::{BootHistory, BootId, IdentityConflict, PeerTable};
use crate::storage::Peers;
use crate::telemetry::logging::LogLimits;

/// The shared state of the transport.
pub struct Registry {
    /// The handle of the consensus loop.
    pub handle: Handle,
    /// The log.
    pub log: Logger,
    /// The last published table; None before the first one.
    pub table: watch::Sender<Option<Arc<PeerTable>>>,
    /// The memory budget of incoming frames.
    pub budget: Budget,
    /// The maximum bytes of raft messages queued for one member.
    pub queue_bytes: usize,
    /// The maximum bytes a second of a snapshot stream that this node sends; 0: unbounded.
    pub snapshot_bytes_per_second: u64,
    /// Counts received snapshots: a newer one ends the older.
    pub receptions: watch::Sender<u64>,
    /// Held while a snapshot is written.
    pub reception: Arc<Semaphore>,
    /// The recorded boot ids of peers.
    pub peers: Arc<Peers>,
    /// Who may speak on which connection.
    pub authentication: Authentication,
    /// How long a connection between members lives at most where there is TLS.
    pub connection_age: Duration,
    /// Notifies of changes of `peers`.
    peers_changed: watch::Sender<()>,
    /// The number of connections per peer and boot id.
    connected: Mutex<HashMap<(u64, BootId), usize>>,
    directory: Mutex<Directory>,
    runtime: tokio::runtime::Handle,
    log_limits: LogLimits,
    stopping: watch::Sender<bool>,
    tasks: watch::Sender<usize>,
}

/// Dialled members and connected unlisted peers; under one lock, so that no reported address is lost between the two.
#[derive(Default)]
pub struct Directory {
    /// The addresses of dialled members; dropping a sender retires the link.
    pub dialled: BTreeMap<u64, watch::Sender<PeerAddress>>,
    /// Connected peers that are not in the table. A node with an old or empty table (every joiner) must still answer
    /// the leader, and does so on the existing connection; a reported address never makes it dial. Keyed by raft id and
    /// a number, because several peers may claim the same id.
    pub unlisted_peers: BTreeMap<(u64, u64), UnlistedPeer>,
    /// The number of the next one.
    next_unlisted: u64,
}

/// A connected peer that is not in the table.
pub struct UnlistedPeer {
    /// The address it reports.
    pub address: String,
    /// Its outgoing frames.
    pub queue: mpsc::Sender<Frame>,
}

/// Removes an unlisted peer when dropped.
pub struct UnlistedPeerGuard<'a> {
    registry: &'a Registry,
    unlisted_peer: (u64, u64),
}

impl Drop for UnlistedPeerGuard<'_> {
    fn drop(&mut self) {
        self.registry.directory().unlisted_peers.remove(&self.unlisted_peer);
    }
}

/// Counts a connection to a peer at one boot id, until dropped.
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

/// Counts a task while it exists, even if the runtime drops it.
struct TaskGuard(Arc<Registry>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|tasks| *tasks -= 1);
    }
}

impl Registry {
    /// Creates the registry without a table, on the current runtime.
    pub fn new(handle: Handle, peers: Arc<Peers>, options: &Options, log: Logger) -> Self {
        Self {
            handle,
            log,
            table: watch::Sender::new(None),
            budget: Budget::new(options.member_bytes),
            queue_bytes: options.queue_bytes,
            snapshot_bytes_per_second: options.snapshot_bytes_per_second,
            receptions: watch::Sender::new(0),
            reception: Arc::new(Semaphore::new(1)),
            peers: Arc::clone(&peers),
            authentication: Authentication::new(options.tls.clone(), Arc::clone(&peers)),
            connection_age: options.connection_age,
            peers_changed: watch::Sender::new(()),
            connected: Mutex::default(),
            directory: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            log_limits: LogLimits::default(),
            stopping: watch::Sender::new(false),
            tasks: watch::Sender::new(0),
        }
    }

    /// Runs `task` on the transport's runtime, from any thread.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        // Counted before the task runs, so `finished` cannot miss one that was just spawned.
        self.tasks.send_modify(|tasks| *tasks += 1);
        let task_guard = TaskGuard(Arc::clone(self));
        self.runtime.spawn(async move {
            let _task_guard = task_guard;
            task.await;
        });
    }

    /// Signals every task to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once [`Registry::stop`] was called.
    pub async fn stopped(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        drop(self.stopping.subscribe().wait_for(|stopping| *stopping).await);
    }

    /// Waits until no task is left.
    pub async fn finished(&self) {
        drop(self.tasks.subscribe().wait_for(|tasks| *tasks == 0).await);
    }

    /// Returns the last published table.
    pub fn table(&self) -> Option<Arc<PeerTable>> {
        self.table.borrow().clone()
    }

    /// Builds the hello of this node for raft id `to`, 0 for a node outside of the cluster.
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

    /// Returns the boot history for the peer `to`, which has `shown` a boot id it knows; empty for other nodes.
    pub fn boot_history(&self, to: u64, shown: Option<BootId>) -> BootHistory {
        self.table().map_or_else(BootHistory::default, |table| table.boot_history_for(to, self.peers.heard(to), shown))
    }

    /// Whom a dial of the member `raft_id` means, or of any node of the cluster.
    pub fn target(&self, raft_id: Option<u64>) -> Target {
        self.authentication.target(self.table().as_deref(), raft_id)
    }

    /// Checks what the kind of connection and the certificate of a peer prove, whatever it wants.
    ///
    /// # Errors
    /// [`Denial`], to be sent back.
    pub fn authenticate(&self, peer: &InboundPeer) -> Result<(), Denial> {
        self.authentication.check(self.table().as_deref(), peer)
    }

    /// Checks whether a peer is admitted, and records its boot id durably.
    ///
    /// # Errors
    /// [`Denial`], to be sent back.
    pub async fn admit(&self, peer: &InboundPeer) -> Result<(), Denial> {
        let hello = &peer.hello;
        // Checked first and recorded second: a refused hello writes nothing.
        let table = self.table();
        admit(table.as_deref(), hello, || {
            self.authentication.check_member(table.as_deref(), peer)?;
            self.peers.check(hello.from, &hello.boot_history).map_err(Denial::Conflict)
        })?;
        if let Some(name) = &peer.certified {
            self.record_tls(hello.from, name).await?;
        }
        self.record_peer(hello.from, &hello.boot_history, false).await
    }

    /// Records that a member has spoken TLS with a certificate of this name; durable on return.
    ///
    /// # Errors
    /// [`Denial::Disk`].
    pub async fn record_tls(&self, raft_id: u64, name: &str) -> Result<(), Denial> {
        let Some(table) = self.table().filter(|table| table.lists(raft_id)) else { return Ok(()) };
        if self.peers.spoke_tls(raft_id) {
            return Ok(());
        }
        let (peers, name) = (Arc::clone(&self.peers), name.to_owned());
        let recorded = move || peers.record_tls(raft_id, &name, |known| !table.tombstones.contains(&known));
        let detail = match self.runtime.spawn_blocking(recorded).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.warn_limited("a peer cannot be recorded and is refused", &raft_id.to_string(), &detail);
        Err(Denial::Disk)
    }

    /// Records the boot id of the peer `raft_id`, and that it has `heard` the current boot id of this node; durable on
    /// return. A peer that is not in the table is only checked.
    ///
    /// # Errors
    /// [`Denial`]: it is refused.
    pub async fn record_peer(&self, raft_id: u64, boot_history: &BootHistory, heard: bool) -> Result<(), Denial> {
        let Some(table) = self.table() else { return Err(Denial::Starting) };
        // Not recorded: a file entry per made-up raft id would grow without bound.
        if !table.lists(raft_id) {
            return self.peers.check(raft_id, boot_history).map_err(Denial::Conflict);
        }
        let heard = heard.then_some(table.boot_history.current);
        if self.peers.is_recorded(raft_id, boot_history.current, heard) {
            return Ok(());
        }
        // A process that is still connected cannot have restarted: a newer boot id meanwhile is a clone, or the old connection
        // has not timed out yet. Both are refused until that connection ends.
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
        // The file is synced, which must not block a runtime thread.
        let detail = match self.runtime.spawn_blocking(peers_changed).await {
            Ok(Ok(peers_changed)) => {
                let new = peers_changed.map_err(Denial::Conflict)?;
                self.peers_changed.send_if_modified(|()| new);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.warn_limited("a peer cannot be recorded and is refused", &raft_id.to_string(), &detail);
        Err(Denial::Disk)
    }

    /// Counts a connection to the peer at this boot id until the result is dropped: meanwhile no other boot id is
    /// accepted.
    #[must_use]
    pub fn connect(&self, raft_id: u64, boot_id: BootId) -> Connected<'_> {
        *self.connections().entry((raft_id, boot_id)).or_default() += 1;
        Connected { registry: self, peer: (raft_id, boot_id) }
    }

    fn is_connected(&self, raft_id: u64, boot_id: BootId) -> bool {
        self.connections().contains_key(&(raft_id, boot_id))
    }

    /// Whether there is a connection to the peer, opened by either node.
    pub fn has_connection(&self, raft_id: u64) -> bool {
        self.connections().keys().any(|(connected, _)| *connected == raft_id)
    }

    /// Whether a peer may ask for the report of this node: a member, or any admitted node while this one has no table yet.
    pub fn may_ask(&self, raft_id: u64) -> bool {
        self.table().is_some_and(|table| table.joining || table.lists(raft_id))
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<(u64, BootId), usize>> {
        self.connected.lock().expect("no panic while the lock is held")
    }

    /// Waits until the peer is recorded with a boot id that this history does not continue.
    pub async fn until_superseded(&self, raft_id: u64, boot_history: &BootHistory) -> IdentityConflict {
        let (mut table, mut peers_changed) = (self.table.subscribe(), self.peers_changed.subscribe());
        loop {
            // A peer that has just entered the table is recorded.
            // Subscribed first, checked second: a change between the two wakes the wait below.
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

    /// Waits until the table or the recorded boot id no longer admits a peer, and returns why.
    pub async fn until_denied(&self, peer: &InboundPeer) -> Denial {
        let (mut table, mut peers_changed) = (self.table.subscribe(), self.peers_changed.subscribe());
        loop {
            match self.admit(peer).await {
                Ok(()) | Err(Denial::Disk) => {}
                Err(denial) => return denial,
            }
            tokio::select! {
                changed = table.changed() => drop(changed),
                changed = peers_changed.changed() => drop(changed),
            }
        }
    }

    /// Reports an identity conflict to the log and the loop: of the peer `raft_id`, or of this node as that peer sees
    /// it.
    pub async fn conflict(&self, raft_id: u64, who: &str, of_this_node: bool, conflict: IdentityConflict) {
        let detail = conflict.to_string();
        let whose = if of_this_node { "this node is refused by" } else { "what is refused" };
        if let Some(suppressed) =
            self.log_limits.due(if of_this_node { "identity conflict here" } else { "identity conflict there" })
        {
            error!(self.log, "identity conflict"; whose => who, "raft_id" => raft_id, "detail" => &detail,
                "more_like_this" => suppressed);
        }
        self.handle.deliver(Input::IdentityConflict { raft_id, of_this_node, detail }).await;
    }

    /// Locks the directory.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("no panic while the lock is held")
    }

    /// Whether this raft id is in the table.
    pub fn is_listed(&self, raft_id: u64) -> bool {
        self.table.borrow().as_deref().is_some_and(|table| table.lists(raft_id))
    }

    /// Stores the reported address of an admitted peer. A peer that is not in the table is answered through `queue`
    /// until the result is dropped.
    #[must_use]
    pub fn register_inbound(&self, hello: &Hello, queue: mpsc::Sender<Frame>) -> Option<UnlistedPeerGuard<'_>> {
        let mut directory = self.directory();
        // A dialled member is answered on the connection that leads to it; what it reports as its address only makes it
        // be dialled there, too.
        if let Some(peer_address) = directory.dialled.get(&hello.from) {
            peer_address.send_modify(|peer_address| peer_address.set_self_reported(&hello.raft_address));
            return None;
        }
        // The joiner's own table is empty, so it cannot dial the leader. It answers on the connection that the leader
        // has opened.
        let unlisted_peer = (hello.from, directory.next_unlisted);
        directory.next_unlisted += 1;
        directory.unlisted_peers.insert(unlisted_peer, UnlistedPeer { address: hello.raft_address.clone(), queue });
        Some(UnlistedPeerGuard { registry: self, unlisted_peer })
    }

    /// Returns self-reported addresses of members other than `except` that differ from the table. Passed on, they let
    /// two members that have both moved find each other through a third.
    pub fn self_reported_addresses(&self, except: u64) -> Vec<(u64, String)> {
        let directory = self.directory();
        let others = directory.dialled.iter().filter(|(raft_id, _)| **raft_id != except);
        others.filter_map(|(raft_id, it)| Some((*raft_id, it.borrow().self_reported()?.to_owned()))).collect()
    }

    /// Reports that a peer is alive and follows this leader; if the loop is busy, the next report comes in a second.
    pub fn heard_follows(&self, from: u64, follows: u64) {
        _ = self.handle.offer(Input::Heard { from, follows });
    }

    /// Stores addresses that a member has passed on.
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

    /// Logs a rate-limited warning about `peer`.
    pub fn warn_limited(&self, reason: &'static str, peer: &str, detail: &str) {
        self.log_limits.warn(&self.log, reason, peer, detail);
    }
}
