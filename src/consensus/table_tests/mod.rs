//! Tests of components as tables, over a core of their own: no driver, no thread, no peer.
//!
//! See also: `tests/sim` (whole nodes on a simulated network).

mod claims;
mod compaction_and_retry;
mod joins;
mod leader_changes;
mod membership;
mod proposals;
mod quorum_and_successor;
mod reads;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use raft::eraftpb::{ConfChangeType, Message, MessageType};
use slog::{Discard, Logger, o};
use tempfile::TempDir;

use super::core::Core;
use super::core::pending_request::ClientRequest;
use super::driver::Driver;
use super::input::Hop;
use super::liveness::Liveness;
use super::options::Options;
use super::outbox::Outbox;
use super::proposals::cluster_clock::ClusterClock;
use super::proposals::disk_space::VoterDiskSpace;
use super::proposals::shared_context::Context;
use crate::changefeed::FeedLimits;
use crate::consensus::Background;
use crate::model::{
    Answer, DiskSpace, JoinOffer, Limits, Member, MemberChange, Millis, PeerTable, Probe, Refusal, Request, Role,
    StateDigest,
};
use crate::storage::{DataDir, Engine, Flush, OpenOptions, Rewrite, SledEngine, SnapshotReader, Spooler};

/// The raft id of the node under test, whose name is `n1`; the others are `n2` with the raft id 2 and so on.
pub(super) const ME: u64 = 77;

/// The present time of the node under test.
pub(super) const NOW: Millis = 100_000;

/// A core and what lies just above it.
pub(super) struct Node {
    pub core: Core,
    pub live: Liveness,
    pub clock: ClusterClock,
    pub space: VoterDiskSpace,
    pub sent: Sent,
    _dir: TempDir,
}

/// What was sent, a word for each with its token.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Vec<(&'static str, u64)>>>);

impl Sent {
    fn note(&self, what: &'static str, token: u64) {
        self.0.lock().unwrap().push((what, token));
    }

    /// The tokens of what was sent under this word, the oldest first.
    pub fn tokens(&self, what: &str) -> Vec<u64> {
        self.0.lock().unwrap().iter().filter(|(said, _)| *said == what).map(|(_, token)| *token).collect()
    }
}

impl Outbox for Sent {
    fn send(&mut self, _: Vec<Message>) {}
    fn forward(&mut self, token: u64, _: u64, _: Hop, _: Request, _: u64) {
        self.note("forward", token);
    }
    fn identify(&mut self, token: u64, _: &str) {
        self.note("identify", token);
    }
    fn offer_join(&mut self, token: u64, _: &str, _: JoinOffer) {
        self.note("offer_join", token);
    }
    fn probe(&mut self, token: u64, _: &str, _: Probe) {
        self.note("probe", token);
    }
    fn tell_digest(&mut self, to: u64, _: StateDigest) {
        self.note("digest", to);
    }
    fn tell_space(&mut self, to: u64, _: DiskSpace) {
        self.note("space", to);
    }
    fn end_join(&mut self, _: &str, _: u64, raft_id: u64) {
        self.note("end_join", raft_id);
    }
    fn tell_removed(&mut self, raft_id: u64) {
        self.note("removed", raft_id);
    }
    fn stream(&mut self, to: u64, _: Message, _: SnapshotReader) {
        self.note("stream", to);
    }
    fn publish(&mut self, _: PeerTable) {}
}

/// Nothing in the background comes to an end, and no time passes within a turn.
struct Idle;

impl Background for Idle {
    fn flush(&mut self, _: Flush) {}
    fn slice(&mut self, _: Box<Rewrite>, _: usize) {}
    fn spool(&mut self, _: u64, _: Spooler) {}
    fn discard(&mut self, _: Vec<Box<dyn Send>>, _: Arc<dyn Engine>, _: Vec<String>) {}
    fn now(&self) -> Millis {
        0
    }
}

fn options() -> Options {
    Options {
        tick_ms: 100,
        heartbeat_ticks: 2,
        election_ticks: 10,
        election_range: None,
        snapshot_every_entries: 10_000,
        snapshot_every_bytes: 64 << 20,
        snapshot_keep_entries: 1_000,
        snapshot_spool_bytes: 64 << 20,
        memtable_bytes: 1 << 20,
        meta_cache_bytes: 4096,
        reclaim_slack_bytes: 64 << 20,
        entry_cache_bytes: 32 << 20,
        follower_bytes: 64 << 20,
        apply_work: 1 << 20,
        pending_requests: 64,
        history: FeedLimits { events: 10, bytes: 1 << 20 },
        raft_address: "n1:1".into(),
        http_address: "n1:2".into(),
        follow_moves: false,
        forming: false,
        join_wait_ms: 60_000,
        limits: Limits::ALL_NODES,
        nonce: 1,
    }
}

fn member(raft_id: u64, role: Role) -> Member {
    let name = format!("n{raft_id}");
    Member { raft_address: format!("{name}:1"), http_address: format!("{name}:2"), name, raft_id, role }
}

impl Node {
    /// A leader of this many voters, all of which it has just heard and which have its whole log.
    pub fn leader(voters: u64) -> Self {
        Self::leader_with_reserve(voters, None)
    }

    /// The same with this reserve of its disk.
    pub fn leader_with_reserve(voters: u64, reserve: Option<u64>) -> Self {
        let (dir, sent) = (tempfile::tempdir().unwrap(), Sent::default());
        let boot = OpenOptions {
            name: "n1".into(),
            raft_address: "n1:1".into(),
            http_address: "n1:2".into(),
            cache_bytes: 1 << 20,
            picked_http_port: None,
            picked_raft_port: None,
            random: Box::new(|| ME),
        };
        let engine = Arc::new(SledEngine::with_reserve(dir.path(), reserve).unwrap());
        let (data_dir, incarnation) = DataDir::open(engine, boot).unwrap();
        let (log, outbox) = (Logger::root(Discard, o!()), Box::new(sent.clone()));
        let mut driver =
            Driver::new(data_dir, incarnation, outbox, Box::new(Idle), options(), log.clone(), log).unwrap();
        driver.start(0).unwrap();
        for id in 2..=voters {
            for (kind, role) in
                [(ConfChangeType::AddLearnerNode, Role::Learner), (ConfChangeType::AddNode, Role::Voter)]
            {
                driver.core.propose_change(kind, id, &MemberChange::Set(member(id, role))).unwrap().unwrap();
                (0..2).for_each(|_| {
                    driver.turn(0).unwrap();
                    (2..=id).for_each(|peer| acknowledge(&mut driver.core, peer));
                    driver.turn(0).unwrap();
                });
            }
        }
        let mut node = Self {
            core: driver.core,
            live: Liveness::default(),
            clock: ClusterClock::default(),
            space: VoterDiskSpace::default(),
            sent,
            _dir: dir,
        };
        assert_eq!(node.core.conf_voters().len() as u64, voters);
        assert!(node.core.leads());
        node.core.at(NOW);
        (2..=voters).for_each(|peer| node.live.contacted(&node.core, peer));
        node
    }

    /// A voter of so many that follows `n2`.
    pub fn follower(voters: u64) -> Self {
        let mut node = Self::leader(voters);
        let term = node.core.raw.raft.term + 1;
        node.core.raw.step(message(MessageType::MsgHeartbeat, 2, term)).unwrap();
        assert_eq!((node.core.raw.raft.leader_id, node.core.leads()), (2, false));
        node
    }

    /// Has not heard these members for longer than an election timeout.
    pub fn silence(mut self, members: &[u64]) -> Self {
        for member in members {
            self.live.contact.remove(member);
        }
        self
    }

    pub fn context(&mut self) -> Context<'_> {
        Context { core: &mut self.core, live: &mut self.live, clock: &mut self.clock, space: &self.space }
    }
}

/// A raft message to the node under test.
pub(super) fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: ME, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn acknowledge(core: &mut Core, peer: u64) {
    let (term, index) = (core.raw.raft.term, core.raw.raft.raft_log.last_index());
    if core.raw.raft.prs().get(peer).is_some() {
        core.raw.step(Message { index, ..message(MessageType::MsgAppendResponse, peer, term) }).unwrap();
    }
}

/// A client's request that may take ten seconds, and where its answer arrives.
pub(super) fn request(request: Request) -> (ClientRequest, Receiver<Result<Answer, Refusal>>) {
    let (send, answer) = channel();
    let reply = Box::new(move |result| drop(send.send(result)));
    (
        ClientRequest { request, since: NOW, deadline: NOW + 10_000, hop: Hop::Client, maybe_applied: false, reply },
        answer,
    )
}
