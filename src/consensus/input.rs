//! The inputs of the loop, as one type.
//!
//! Why: the loop has one inbox, so the order of events is the order of this queue, in a simulator as in life.
//!
//! Invariants: a request carries its own reply; nothing in here holds a handle to anything above.
//!
//! See also: raft's own messages, which travel inside [`Input::Step`].

use std::sync::Arc;

use crate::model::Millis;
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::model::{
    Answer, DiskSpace, Item, JoinAccepted, JoinOffer, List, Page, Probe, ProbeReply, Refusal, Request, StateDigest,
    Status, WhoAmI,
};
use crate::storage::{Error, ReceivedSnapshot, Rewrite, Sliced, SnapshotTarget, StateReader};

/// The reply to a request: called once, from the loop's thread, so it must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// The consistency of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// As of some moment between request and answer (ReadIndex, Raft thesis 6.4).
    Linearizable,
    /// As of what this node has applied.
    Stale,
}

/// The bounds of a read, beside its [`Consistency`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The state has this index or a later one.
    pub min_index: u64,
    /// The maximum age of the state, of stale reads. A read that a later round of ReadIndex proves fresh passes any
    /// bound.
    pub max_stale_ms: Option<Millis>,
}

/// Leave to read this node's state, as it is now or at any later index.
#[derive(Clone)]
pub struct ReadGrant {
    /// The state.
    pub state: StateReader,
    /// This node's term.
    pub term: u64,
    /// The cluster's time in milliseconds, as far as this node knows it.
    pub clock: u64,
}

impl ReadGrant {
    /// Reads a key.
    ///
    /// # Errors
    /// [`Error`] for damage: the node has to end.
    pub fn fetch(&self, key: &[u8]) -> Result<Fetched, Error> {
        let (value, at) = self.state.get(key)?;
        Ok(Fetched { value, index: at.index, term: self.term, clock: self.clock.max(at.clock) })
    }

    /// Reads a page.
    ///
    /// # Errors
    /// [`Error`] for damage: the node has to end.
    pub fn list(&self, list: &List) -> Result<Listed, Error> {
        let (page, at) = self.state.list(list)?;
        Ok(Listed { page, index: at.index, term: self.term, clock: self.clock.max(at.clock) })
    }
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The value, or None where there is no such key.
    pub value: Option<Arc<Item>>,
    /// The applied index that it was read at.
    pub index: u64,
    /// This node's term then.
    pub term: u64,
    /// The cluster's time then, in milliseconds, as far as this node knew it.
    pub clock: u64,
}

/// The result of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The page, which is one state.
    pub page: Page,
    /// The applied index of that state.
    pub index: u64,
    /// This node's term then.
    pub term: u64,
    /// The cluster's time then, in milliseconds, as far as this node knew it.
    pub clock: u64,
}

/// Why a received snapshot was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallError(
    /// The reason for the sender.
    pub String,
);

/// The hop of a request on its way to the leader. Each is taken at most once, so no request goes in circles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// From a client of this node.
    Client,
    /// From a member that does not reach the leader; sent on to the leader if this node knows it.
    Relay,
    /// For this node as the leader; not sent on again.
    Leader,
}

/// An input of the loop.
pub enum Input {
    /// A request of a client, or of a peer on behalf of one.
    Request {
        /// The request.
        request: Request,
        /// The deadline.
        deadline: Millis,
        /// The hop.
        hop: Hop,
        /// The raft id that a peer has sent it to, whose incarnation this node may have left since; 0 for a client's.
        to: u64,
        /// The reply.
        reply: Reply<Result<Answer, Refusal>>,
    },
    /// A read, answered once this node's state has what it asks for.
    Read {
        /// The consistency.
        consistency: Consistency,
        /// The bounds.
        bounds: Bounds,
        /// The deadline.
        deadline: Millis,
        /// The reply.
        reply: Reply<Result<ReadGrant, Refusal>>,
    },
    /// A read by the thread of a client has failed: the disk or the tree is not what it was.
    ReadFailed(Error),
    /// A request for a checkpoint, answered when it is durable.
    Snapshot {
        /// The deadline.
        deadline: Millis,
        /// The reply.
        reply: Reply<Result<(), Refusal>>,
    },
    /// A request for the status of the node.
    Status {
        /// The reply.
        reply: Reply<Status>,
    },
    /// The order to stop: hand over leadership, finish or answer what is pending, then end.
    Stop {
        /// The deadline; what is pending then is refused.
        deadline: Millis,
    },
    /// The order to begin a cluster, for a node that waits to form one.
    Begin,
    /// Another input, with its memory budget among the bytes of peers, released once the loop has handled it.
    Counted {
        /// The input.
        input: Box<Input>,
        /// The budget, released when dropped.
        room: Box<dyn Send>,
    },
    /// A message of a peer, which the transport has checked: its cluster, `from` and `to` are right.
    Step(Box<Message>),
    /// The connection to this member is up.
    PeerUp(u64),
    /// The connection to this member is lost, or a message to it was dropped.
    PeerDown(u64),
    /// A heartbeat of a member, with the leader that it follows.
    Heard {
        /// Its raft id.
        from: u64,
        /// The raft id of the leader that it follows or is; 0 where it knows none.
        follows: u64,
    },
    /// The end of a request that [`crate::consensus::Outbox::forward`] has sent.
    Forwarded {
        /// Its token.
        token: u64,
        /// The leader's answer. A refusal of [`crate::model::Outcome::NotApplied`] may be tried again.
        result: Result<Answer, Refusal>,
    },
    /// The answer to [`crate::consensus::Outbox::identify`].
    Identified {
        /// Its token.
        token: u64,
        /// The node that answered, or why none did.
        result: Result<WhoAmI, Refusal>,
    },
    /// The answer to [`crate::consensus::Outbox::offer_join`].
    JoinOfferAnswered {
        /// Its token.
        token: u64,
        /// The joiner's answer.
        result: Result<JoinAccepted, Refusal>,
    },
    /// A request for this node's identity, by any process.
    WhoAmI {
        /// The reply.
        reply: Reply<WhoAmI>,
    },
    /// A leader's offer to join its cluster.
    JoinOffer {
        /// The offer.
        offer: JoinOffer,
        /// The reply.
        reply: Reply<Result<JoinAccepted, Refusal>>,
    },
    /// A member's claim that this raft id was removed.
    Removed {
        /// The cluster of the sender.
        cluster_id: u64,
        /// The raft id that was removed.
        raft_id: u64,
    },
    /// The leader's report that the join is over for which this node took this raft id.
    JoinEnded {
        /// The cluster to join.
        cluster_id: u64,
        /// The raft id of the joiner.
        raft_id: u64,
    },
    /// A voter's probe.
    Probe {
        /// The probe.
        probe: Probe,
        /// The reply.
        reply: Reply<Result<ProbeReply, Refusal>>,
    },
    /// The answer to [`crate::consensus::Outbox::probe`].
    Probed {
        /// Its token.
        token: u64,
        /// The answer, or why there is none.
        result: Result<ProbeReply, Refusal>,
    },
    /// The leader's digest of its state.
    Digest {
        /// The sender.
        from: u64,
        /// The report.
        told: StateDigest,
    },
    /// A member's free disk space.
    Space {
        /// The sender.
        from: u64,
        /// The report.
        space: DiskSpace,
    },
    /// An identity conflict: the process that speaks as this peer is not the recorded member, or the peer says so of
    /// this node.
    IdentityConflict {
        /// The peer.
        raft_id: u64,
        /// Whether this node is the refused one.
        of_this_node: bool,
        /// The boot ids, and the remedy.
        detail: String,
    },
    /// A peer's request to send a snapshot, answered with its target.
    Receive {
        /// The member that sends it.
        from: u64,
        /// The reply.
        reply: Reply<Result<SnapshotTarget, InstallError>>,
    },
    /// A received snapshot, complete and durable.
    Install {
        /// The leader's MsgSnapshot with the final metadata.
        message: Box<Message>,
        /// The generation.
        received: ReceivedSnapshot,
        /// The reply, once the install is durable.
        reply: Reply<Result<(), InstallError>>,
    },
    /// The end of a snapshot stream to a member.
    StreamEnded {
        /// The member.
        to: u64,
        /// The metadata of the installed snapshot, or the failure.
        result: Result<SnapshotMetadata, String>,
    },
    /// The end of a flush of the state machine.
    Flushed {
        /// The applied (index, term) that the tree has now, durably.
        mark: (u64, u64),
        /// The bytes of the tree on disk, or the failure.
        result: Result<u64, Error>,
    },
    /// The end of a slice of a rewrite.
    Sliced {
        /// The rewrite; None where it could not begin.
        rewrite: Option<Box<Rewrite>>,
        /// What it has come to.
        result: Result<Sliced, Error>,
    },
    /// The end of a snapshot's scan, or a failure before it.
    Scanned {
        /// Its token.
        token: u64,
        /// The result.
        result: Result<(), Error>,
    },
}

impl Input {
    /// Returns about the bytes of entries and commands in it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Request { request: Request::Write(write), .. } => write.size(),
            Self::Step(message) => message.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum(),
            _ => 0,
        }
    }
}
