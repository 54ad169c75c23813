//! Everything that can happen to the loop, as one type.
//!
//! Why: the loop has one inbox, so the order of events is the order of this queue, in a simulator as in life.
//!
//! Invariants: a request carries its own reply; nothing in here holds a handle to anything above.
//!
//! See also: raft's own messages, which travel inside [`Input::Step`].

use crate::model::Millis;
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::model::{
    Answer, DiskSpace, Item, JoinAccepted, JoinOffer, List, Page, Probe, ProbeReply, Refusal, Request, StateDigest,
    Status, WhoAmI,
};
use crate::storage::{ReceivedSnapshot, SnapshotTarget};

/// How an answer goes back up: called once, from the loop's thread, so it must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// As of some moment between request and answer (ReadIndex, Raft thesis 6.4).
    Linearizable,
    /// As of what this node has applied.
    Stale,
}

/// What a client asks of the state that it is to be shown, beside [`Consistency`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The state has this index or a later one.
    pub min_index: u64,
    /// How long ago the moment may be at which the state was the cluster's latest, of stale reads; those that a round
    /// of ReadIndex after the read proves fresh pass any bound.
    pub max_stale_ms: Option<Millis>,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The value, or None where there is no such key.
    pub value: Option<Item>,
    /// The applied index that it was read at.
    pub index: u64,
    /// This node's term then.
    pub term: u64,
    /// The cluster's time then, in milliseconds, as far as this node knew it.
    pub clock: u64,
}

impl Fetched {
    /// How many bytes the value has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, |item| item.value.bytes.len())
    }
}

impl Listed {
    /// How many bytes the values of the page have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let values = self.page.items.iter().filter_map(|(_, item)| item.as_ref());
        values.map(|item| item.value.bytes.len()).sum()
    }
}

/// What a list found.
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
    /// What to tell the sender.
    pub String,
);

/// How far a request has come on its way to the leader. Each step is taken at most once, so no request goes in circles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// From a client of this node.
    Client,
    /// From a member that does not reach the leader; sent on to the leader if this node knows it.
    Relay,
    /// For this node as the leader; not sent on again.
    Leader,
}

/// One thing that happens to the loop.
pub enum Input {
    /// A client, or a peer on behalf of one, wants something done.
    Request {
        /// What.
        request: Request,
        /// Until when.
        deadline: Millis,
        /// How far it has come.
        hop: Hop,
        /// The raft id that a peer has sent it to; 0 where it is a client's. A node may have become another one since.
        to: u64,
        /// Where the answer goes.
        reply: Reply<Result<Answer, Refusal>>,
    },
    /// A client wants to read.
    Read {
        /// Which key.
        key: Vec<u8>,
        /// How fresh.
        consistency: Consistency,
        /// What else it must be.
        bounds: Bounds,
        /// Until when.
        deadline: Millis,
        /// Where the answer goes.
        reply: Reply<Result<Fetched, Refusal>>,
    },
    /// A client wants to see many keys.
    List {
        /// Which.
        list: List,
        /// How fresh.
        consistency: Consistency,
        /// What else it must be.
        bounds: Bounds,
        /// Until when.
        deadline: Millis,
        /// Where the answer goes.
        reply: Reply<Result<Listed, Refusal>>,
    },
    /// An operator wants a checkpoint now; answered when it is there.
    Snapshot {
        /// Until when.
        deadline: Millis,
        /// Where the answer goes.
        reply: Reply<Result<(), Refusal>>,
    },
    /// A request for the status of the node.
    Status {
        /// Where the answer goes.
        reply: Reply<Status>,
    },
    /// The process is to end: hand leadership over, finish or answer what is pending, then stop.
    Stop {
        /// Until when; what is pending then is answered as it stands.
        deadline: Millis,
    },
    /// A node that waits to form a cluster is the one to begin it.
    Begin,
    /// Another input, with the room that it takes among the bytes that peers may have on their way: given back once the
    /// loop has taken it in.
    Counted {
        /// What happens.
        input: Box<Input>,
        /// Dropped, it gives the room back.
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
    /// A request that [`crate::consensus::Outbox::forward`] sent on has come to an end.
    Forwarded {
        /// The token given with it.
        token: u64,
        /// The leader's answer. A refusal of [`crate::model::Outcome::NotApplied`] may be tried again.
        result: Result<Answer, Refusal>,
    },
    /// The answer to [`crate::consensus::Outbox::identify`].
    Identified {
        /// The token given with it.
        token: u64,
        /// The node that answered, or why none did.
        result: Result<WhoAmI, Refusal>,
    },
    /// The answer to [`crate::consensus::Outbox::adopt`].
    AdoptAnswered {
        /// The token given with it.
        token: u64,
        /// The joiner's word.
        result: Result<JoinAccepted, Refusal>,
    },
    /// A stranger asks who this is.
    WhoAmI {
        /// Where the answer goes.
        reply: Reply<WhoAmI>,
    },
    /// A leader wants this node in its cluster.
    JoinOffer {
        /// Its words.
        adopt: JoinOffer,
        /// Where the answer goes.
        reply: Reply<Result<JoinAccepted, Refusal>>,
    },
    /// A member of this cluster says that this raft id was removed.
    Removed {
        /// The cluster that says so.
        cluster_id: u64,
        /// The raft id that was removed.
        raft_id: u64,
    },
    /// The leader that had this node adopted under this raft id reports that the join is over.
    JoinEnded {
        /// The cluster that it was to join.
        cluster_id: u64,
        /// The raft id that it took for that.
        raft_id: u64,
    },
    /// Another voter asks what this node knows of it.
    Probe {
        /// The question.
        probe: Probe,
        /// Where the answer goes.
        reply: Reply<Result<ProbeReply, Refusal>>,
    },
    /// The answer to [`crate::consensus::Outbox::probe`].
    Probed {
        /// The token given with it.
        token: u64,
        /// The answer, or why there is none.
        result: Result<ProbeReply, Refusal>,
    },
    /// A peer tells the digest of its state.
    Digest {
        /// The member that tells it.
        from: u64,
        /// What it tells.
        told: StateDigest,
    },
    /// A peer tells what is left of its disk.
    Space {
        /// The member that tells it.
        from: u64,
        /// What it tells.
        space: DiskSpace,
    },
    /// What speaks as this peer is not the member that was spoken to before; or the peer says so of this node.
    IdentityConflict {
        /// The peer.
        raft_id: u64,
        /// Whether it is this node that is refused.
        of_this_node: bool,
        /// The lives, and what to do.
        detail: String,
    },
    /// A peer wants to send a snapshot of the state; answered with where to write it.
    Receive {
        /// The member that sends it.
        from: u64,
        /// Where the answer goes.
        reply: Reply<Result<SnapshotTarget, InstallError>>,
    },
    /// A snapshot has arrived completely and is durable.
    Install {
        /// The leader's MsgSnapshot with the final metadata.
        message: Box<Message>,
        /// The generation.
        received: ReceivedSnapshot,
        /// Where the answer goes: once the flip is durable.
        reply: Reply<Result<(), InstallError>>,
    },
    /// The stream of a snapshot to a member has come to an end.
    StreamEnded {
        /// Whose.
        to: u64,
        /// What was taken there, or why it was not.
        result: Result<SnapshotMetadata, String>,
    },
    /// A sync of the state machine that the loop had asked for is done.
    Synced {
        /// The applied (index, term) that is durable now.
        mark: (u64, u64),
        /// How it went.
        result: Result<(), crate::storage::Error>,
    },
    /// The reader of a snapshot has read the tree to its end, or the snapshot has failed before.
    Scanned {
        /// The token given with it.
        token: u64,
        /// How it went.
        result: Result<(), crate::storage::Error>,
    },
}

impl Input {
    /// About how many bytes of entries and commands it brings into the loop.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Request { request: Request::Write(write), .. } => write.size(),
            Self::Step(message) => message.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum(),
            _ => 0,
        }
    }
}
