//! The outbox: the transport as the consensus loop calls it.
//!
//! Why: the loop calls from its own thread and must not wait. Calls become frames in bounded queues, and tasks on the transport's
//! runtime.
//!
//! Invariants: nothing here blocks. What does not fit into a queue is dropped and reported (messages) or refused at once
//! (requests).
//!
//! See also: `link`, `rpc`, `snapshot_stream` (the tasks).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::handshake::Purpose;
use super::handshake::dial::PeerAddress;
use super::link::forwards::Forwards;
use super::link::send_queue::{QueuedFrame, SendQueue, is_control, send_queue};
use super::link::{LinkState, Peer};
use super::rpc;
use super::shared_state::{Directory, Registry};
use super::snapshot_stream;
use super::wire::Frame;
use crate::consensus::{Hop, Input, Outbox};
use crate::model::{Code, DiskSpace, JoinOffer, PeerTable, Probe, Refusal, Request, StateDigest};
use crate::storage::SnapshotReader;
use crate::telemetry::metrics::PeerFigures;

/// The maximum concurrent rpcs.
const MAX_RPCS: usize = 64;
/// The memory of a frame besides its data, roughly.
const FRAME_OVERHEAD: usize = 256;
/// The memory of an entry besides its data, roughly.
const ENTRY_BYTES: usize = 64;
/// The maximum bytes of a message without entries of the log.
const ANSWER_BYTES: usize = 64 << 10;
/// The maximum deadline of a request.
const MAX_WAIT_MS: u64 = 3_600_000;

/// The transport as the loop sees it.
pub struct PeerOutbox {
    registry: Arc<Registry>,
    links: HashMap<u64, Link>,
    identity: Option<(String, u64, u64, String)>,
    rpcs: Arc<Semaphore>,
}

/// The sending end of a link.
struct Link {
    queue: SendQueue,
    forwards: Arc<Forwards>,
    name: String,
    full: bool,
    figures: Arc<PeerFigures>,
}

impl PeerOutbox {
    /// Returns an outbox without members.
    pub fn new(registry: Arc<Registry>) -> Self {
        let rpcs = Arc::new(Semaphore::new(MAX_RPCS));
        Self { registry, links: HashMap::new(), identity: None, rpcs }
    }

    /// Delivers from a task: the loop must not wait for its own queue.
    fn deliver(&self, input: Input) {
        let registry = Arc::clone(&self.registry);
        self.registry.spawn(async move { registry.handle.deliver(input).await });
    }

    /// Sends a message to an unlisted peer on every connection it has opened.
    fn answer(&self, message: &Message) {
        if message.msg_type == MessageType::MsgSnapshot || message_bytes(message) > ANSWER_BYTES {
            return;
        }
        for (_, unlisted_peer) in
            self.registry.directory().unlisted_peers.range((message.to, 0)..=(message.to, u64::MAX))
        {
            // If the queue is full, raft repeats it.
            drop(unlisted_peer.queue.try_send(Frame::Step(Box::new(message.clone()))));
        }
    }

    fn start_link(&mut self, directory: &mut Directory, raft_id: u64, name: &str, peer_address: PeerAddress) {
        let (queue, queue_end) = send_queue(self.registry.queue_bytes);
        let (sender, peer_address) = watch::channel(peer_address);
        let figures = self.registry.handle.metrics().network.peer(raft_id);
        directory.dialled.insert(raft_id, sender);
        let forwards = Arc::new(Forwards::new(self.registry.handle.clone(), name));
        let peer = Peer {
            raft_id,
            name: name.into(),
            hello: self.registry.hello(Purpose::Peer, raft_id),
            registry: Arc::clone(&self.registry),
            queue: queue_end,
            forwards: Arc::clone(&forwards),
            peer_address,
            figures: Arc::clone(&figures),
            state: LinkState::new(),
        };
        self.registry.spawn(peer.run());
        self.links.insert(raft_id, Link { queue, forwards, name: name.into(), full: false, figures });
    }

    fn spawn_rpc<F>(&self, answer: impl FnOnce(Option<Refusal>) -> F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        // Without a permit the call is refused, but from a task as well: the loop gets its answer the same way.
        let permit = Arc::clone(&self.rpcs).try_acquire_owned().ok();
        let refusal = permit.is_none().then(|| {
            Refusal::not_applied(
                Code::Overloaded,
                format!("{MAX_RPCS} calls to nodes outside the cluster are in progress already"),
            )
        });
        let (registry, answer) = (Arc::clone(&self.registry), answer(refusal));
        self.registry.spawn(async move {
            let input = answer.await;
            drop(permit);
            registry.handle.deliver(input).await;
        });
    }
}

impl Outbox for PeerOutbox {
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let registry = Arc::clone(&self.registry);
            let Some(link) = self.links.get_mut(&to) else {
                self.answer(&message);
                continue;
            };
            if message.msg_type == MessageType::MsgSnapshot {
                // A snapshot is streamed; the message alone would be useless.
                registry.warn_limited("a snapshot cannot be sent as a message", &link.name, "dropped");
                continue;
            }
            let bytes = message_bytes(&message);
            if is_control(&message) && bytes <= ANSWER_BYTES {
                // If the lane is full, raft repeats it.
                _ = link.queue.put_control(QueuedFrame::Step(Box::new(message)));
                continue;
            }
            let queued = link.queue.put_append(bytes, Box::new(message));
            if !queued {
                link.figures.sent_failures.inc();
            }
            // Reported once per period of dropping, not per message.
            let begins = !queued && !link.full;
            link.full = !queued;
            if begins && !link.queue.is_closed() {
                registry.warn_limited("the queue to a peer is full", &link.name, "raft messages are dropped");
                self.deliver(Input::PeerDown(to));
            }
        }
    }

    fn forward(&mut self, token: u64, to: u64, hop: Hop, request: Request, timeout_ms: u64) {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.min(MAX_WAIT_MS));
        let refusal = match self.links.get(&to) {
            None => Refusal::not_applied(
                Code::NoLeader,
                format!("the member with raft id {to} is not in the member table here"),
            ),
            Some(link) => {
                // The token is in the table before the frame is in the queue: the link may send it and read the reply
                // before `put_forward` returns.
                let open = link.forwards.open(token, deadline);
                if open && link.queue.put_forward(token, hop, request) {
                    return;
                }
                // Between `open` and the queue the link may have ended and answered the token: it must not be answered twice.
                if open && !link.forwards.withdraw(token) {
                    // The link ended meanwhile and has answered it.
                    return;
                }
                if link.queue.is_closed() {
                    Refusal::not_applied(Code::NoLeader, format!("the connection to {} was given up", link.name))
                } else {
                    Refusal::not_applied(Code::Overloaded, format!("too many requests wait for {} already", link.name))
                }
            }
        };
        self.deliver(Input::Forwarded { token, result: Err(refusal) });
    }

    fn identify(&mut self, token: u64, address: &str) {
        let (registry, address) = (Arc::clone(&self.registry), address.to_owned());
        self.spawn_rpc(|refusal| async move {
            let result = match refusal {
                Some(refusal) => Err(refusal),
                None => rpc::identify(&registry, &address).await,
            };
            Input::Identified { token, result }
        });
    }

    fn offer_join(&mut self, token: u64, address: &str, offer: JoinOffer) {
        let (registry, address) = (Arc::clone(&self.registry), address.to_owned());
        self.spawn_rpc(|refusal| async move {
            let result = match refusal {
                Some(refusal) => Err(refusal),
                None => rpc::offer_join(&registry, &address, offer).await,
            };
            Input::JoinOfferAnswered { token, result }
        });
    }

    fn end_join(&mut self, address: &str, cluster_id: u64, raft_id: u64) {
        let Ok(permit) = Arc::clone(&self.rpcs).try_acquire_owned() else { return };
        let (registry, address) = (Arc::clone(&self.registry), address.to_owned());
        self.registry.spawn(async move {
            rpc::end_join(&registry, &address, cluster_id, raft_id).await;
            drop(permit);
        });
    }

    fn probe(&mut self, token: u64, address: &str, probe: Probe) {
        let (registry, address) = (Arc::clone(&self.registry), address.to_owned());
        self.spawn_rpc(|refusal| async move {
            let result = match refusal {
                Some(refusal) => Err(refusal),
                None => rpc::probe(&registry, &address, probe).await,
            };
            Input::Probed { token, result }
        });
    }

    fn tell_digest(&mut self, to: u64, digest: StateDigest) {
        if let Some(link) = self.links.get(&to) {
            // Sent again in a second.
            _ = link.queue.put_control(QueuedFrame::Digest(digest));
        }
    }

    fn tell_space(&mut self, to: u64, space: DiskSpace) {
        if let Some(link) = self.links.get(&to) {
            // Sent again in a second.
            _ = link.queue.put_control(QueuedFrame::Space(space));
        }
    }

    fn tell_removed(&mut self, raft_id: u64) {
        if let Some(link) = self.links.get(&raft_id) {
            // Behind the entry that removes it. If the queue is full or closed, the member learns it at its next handshake.
            _ = link.queue.put_bulk(0, |_| QueuedFrame::Removed);
        }
    }

    fn stream(&mut self, to: u64, message: Message, reader: SnapshotReader) {
        let registry = Arc::clone(&self.registry);
        self.registry.spawn(async move {
            let result = snapshot_stream::send(&registry, to, message, reader).await;
            registry.handle.deliver(Input::StreamEnded { to, result }).await;
        });
    }

    fn publish(&mut self, table: PeerTable) {
        let table = Arc::new(table);
        let registry = Arc::clone(&self.registry);
        // Locked from before the new table admits peers until its members are dialled, so that an admitted peer finds
        // itself there.
        let mut directory = registry.directory();
        registry.table.send_replace(Some(Arc::clone(&table)));
        let identity = Some((table.node_id.clone(), table.raft_id, table.cluster_id, table.raft_address.clone()));
        // A changed identity (a join, a rollback, a move) closes every link; they are dialled again under the new one.
        if table.removed || self.identity != identity {
            // All connections were opened under another identity.
            self.identity = identity;
            self.links.clear();
            directory.dialled.clear();
            directory.unlisted_peers.clear();
        }
        let listed: &[_] = if table.removed { &[] } else { &table.peers };
        let members = listed.iter().filter(|(raft_id, ..)| *raft_id != table.raft_id);
        registry.handle.metrics().network.set_members(members.map(|(raft_id, name, _)| (*raft_id, name.as_str())));
        for (raft_id, name, address) in listed.iter().filter(|(raft_id, ..)| *raft_id != table.raft_id) {
            // A peer that has connected before the table listed it: the newest of its connections says where it is now.
            let inbound = directory.unlisted_peers.range((*raft_id, 0)..=(*raft_id, u64::MAX)).next_back();
            let self_reported = inbound.map(|(_, unlisted_peer)| unlisted_peer.address.clone());
            if let Some(peer_address) = directory.dialled.get(raft_id) {
                peer_address.send_if_modified(|peer_address| peer_address.set_listed(address));
            } else {
                let mut peer_address = PeerAddress::new(address);
                if let Some(self_reported) = self_reported {
                    peer_address.set_self_reported(&self_reported);
                }
                self.start_link(&mut directory, *raft_id, name, peer_address);
            }
        }
        let is_listed = |raft_id: &u64| listed.iter().any(|(listed, ..)| listed == raft_id);
        // A peer that the table lists now is dialled, and a removed one is closed.
        directory.unlisted_peers.retain(|(raft_id, _), _| !table.tombstones.contains(raft_id) && !is_listed(raft_id));
        directory.dialled.retain(|raft_id, _| is_listed(raft_id));
        self.links.retain(|_, link| !link.queue.is_closed());
    }
}

/// Estimates the size of a message.
fn message_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| entry.data.len() + entry.context.len() + ENTRY_BYTES);
    FRAME_OVERHEAD + message.context.len() + entries.sum::<usize>()
}
