//! The outbox of one process: the output of a turn waits here until the turn is over.
//!
//! Invariants: a message leaves only after the sync that it promises. That is checked as the message is pushed, against
//! what the disk holds at that moment. Nothing that a peer or a client relies on leaves after the disk has failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use huskv::consensus::{Background, Hop, InstallError, Outbox, ReadGrant};
use huskv::model::Millis;
use huskv::model::{
    Answer, DiskSpace, JoinAccepted, JoinOffer, PeerTable, Probe, ProbeReply, Refusal, Request, StateDigest, WhoAmI,
};
use huskv::storage::{Engine, Flush, Rewrite, SnapshotReader, SnapshotTarget, Spooler};
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};

use crate::checks::journal::JournalState;
use crate::workload::client_reads::Query;
use crate::world::disk::{Fault, SimEngine};

/// A process of a node: the index of the node, and the number of its starts.
pub type Process = (usize, u64);

/// One output of a driver.
pub enum Output {
    Send(Box<Message>),
    Forward {
        token: u64,
        to: u64,
        hop: Hop,
        request: Request,
        timeout: u64,
    },
    Identify {
        token: u64,
        address: String,
    },
    JoinOffer {
        token: u64,
        address: String,
        offer: Box<JoinOffer>,
    },
    Probe {
        token: u64,
        address: String,
        probe: Probe,
    },
    TellDigest {
        to: u64,
        told: StateDigest,
    },
    TellSpace {
        to: u64,
        space: DiskSpace,
    },
    EndJoin {
        address: String,
        cluster_id: u64,
        raft_id: u64,
    },
    TellRemoved(u64),
    Stream {
        to: u64,
        message: Box<Message>,
        reader: Box<SnapshotReader>,
    },
    Publish(PeerTable),
    Flush(Box<Flush>),
    Slice(Box<Rewrite>),
    Spool {
        token: u64,
        spooler: Box<Spooler>,
    },
    Discard {
        unused: Vec<Box<dyn Send>>,
        engine: Arc<dyn Engine>,
        names: Vec<String>,
    },
    Reply(Reply),
    /// Not an output: an invariant that an output has broken.
    Violation(String),
}

impl Output {
    /// Whether a peer or a client relies on it.
    fn is_promise(&self) -> bool {
        match self {
            Self::Send(_) => true,
            Self::Reply(
                Reply::Client { result, .. }
                | Reply::Operator { result, .. }
                | Reply::OwnWrite { result, .. }
                | Reply::Forwarded { result, .. },
            ) => result.is_ok(),
            Self::Reply(Reply::JoinAccepted { result, .. }) => result.is_ok(),
            Self::Reply(Reply::Installed { result, .. }) => result.is_ok(),
            _ => false,
        }
    }
}

/// The value of a reply that came with an input, and whose it is.
pub enum Reply {
    Client { operation: u64, result: Result<Answer, Refusal> },
    Read { operation: u64, query: Query, result: Result<ReadGrant, Refusal> },
    Operator { asked: u64, result: Result<Answer, Refusal> },
    RogueMember { result: Result<Answer, Refusal> },
    Forwarded { origin: Process, token: u64, result: Result<Answer, Refusal> },
    WhoAmI { origin: Process, token: u64, me: WhoAmI },
    Probed { origin: Process, token: u64, result: Result<ProbeReply, Refusal> },
    JoinAccepted { origin: Process, token: u64, result: Result<JoinAccepted, Refusal> },
    Forged { offer: Box<JoinOffer>, result: Result<JoinAccepted, Refusal> },
    OwnWrite { raft_id: u64, key: String, result: Result<Answer, Refusal> },
    Receive { stream: u64, reception: Box<Result<SnapshotTarget, InstallError>> },
    Installed { stream: u64, metadata: SnapshotMetadata, result: Result<(), InstallError> },
}

/// The outbox of one process of a node.
#[derive(Clone)]
pub struct SimOutbox {
    outs: Arc<Mutex<Vec<Output>>>,
    clock: Arc<Mutex<Millis>>,
    engine: SimEngine,
    /// By how much the clock of the node moves whenever the driver reads it, in milliseconds.
    pub clock_step: Arc<AtomicU64>,
    clock_moved: Arc<AtomicU64>,
}

impl SimOutbox {
    pub fn new(clock: Arc<Mutex<Millis>>, engine: SimEngine) -> Self {
        Self { outs: Arc::default(), clock, engine, clock_step: Arc::default(), clock_moved: Arc::default() }
    }

    /// Takes what was pushed since the last call.
    pub fn take(&self) -> Vec<Output> {
        std::mem::take(&mut *self.outs.lock().expect("one thread"))
    }

    /// Adds an output, if the process lives to see it: each one counts as an effect of a planned crash.
    pub fn push(&self, out: Output) {
        // An output is one effect. Where the crash comes before it, it never leaves, and neither does any later one.
        let passes = self.engine.effect_passes();
        let mut outs = self.outs.lock().expect("one thread");
        // After a failed write the node must not acknowledge anything: what it believes may not be on the disk.
        if self.engine.fault() == Fault::Failed && out.is_promise() {
            outs.push(Output::Violation("lets a promise out after its disk has failed".into()));
        }
        if passes {
            outs.push(out);
        }
    }

    /// A reply that comes back through this outbox, as an effect like any other.
    pub fn reply<T: 'static>(&self, reply: impl FnOnce(T) -> Reply + Send + 'static) -> Box<dyn FnOnce(T) + Send> {
        let outbox = self.clone();
        Box::new(move |value| outbox.push(Output::Reply(reply(value))))
    }
}

impl Outbox for SimOutbox {
    fn send(&mut self, messages: Vec<Message>) {
        // Before the loop below: pushing may end the process, and what follows is not sent then.
        for message in &messages {
            let violation = self.engine.journal(message.from, |journal| unsynced_promise(message, journal.synced));
            if let Some(Some(wrong)) = violation {
                self.push(Output::Violation(wrong));
            }
        }
        for message in messages {
            self.push(Output::Send(Box::new(message)));
        }
    }
    fn forward(&mut self, token: u64, to: u64, hop: Hop, request: Request, timeout: u64) {
        self.push(Output::Forward { token, to, hop, request, timeout });
    }
    fn identify(&mut self, token: u64, address: &str) {
        self.push(Output::Identify { token, address: address.to_owned() });
    }
    fn offer_join(&mut self, token: u64, address: &str, offer: JoinOffer) {
        self.push(Output::JoinOffer { token, address: address.to_owned(), offer: Box::new(offer) });
    }
    fn probe(&mut self, token: u64, address: &str, probe: Probe) {
        self.push(Output::Probe { token, address: address.to_owned(), probe });
    }
    fn tell_digest(&mut self, to: u64, told: StateDigest) {
        self.push(Output::TellDigest { to, told });
    }
    fn tell_space(&mut self, to: u64, space: DiskSpace) {
        self.push(Output::TellSpace { to, space });
    }

    fn end_join(&mut self, address: &str, cluster_id: u64, raft_id: u64) {
        self.push(Output::EndJoin { address: address.to_owned(), cluster_id, raft_id });
    }
    fn tell_removed(&mut self, raft_id: u64) {
        self.push(Output::TellRemoved(raft_id));
    }
    fn stream(&mut self, to: u64, message: Message, reader: SnapshotReader) {
        self.push(Output::Stream { to, message: Box::new(message), reader: Box::new(reader) });
    }
    fn publish(&mut self, table: PeerTable) {
        self.push(Output::Publish(table));
    }
}

impl Background for SimOutbox {
    fn flush(&mut self, flush: Flush) {
        self.push(Output::Flush(Box::new(flush)));
    }
    fn slice(&mut self, rewrite: Box<Rewrite>, _: usize) {
        self.push(Output::Slice(rewrite));
    }
    fn spool(&mut self, token: u64, spooler: Spooler) {
        self.push(Output::Spool { token, spooler: Box::new(spooler) });
    }
    fn discard(&mut self, unused: Vec<Box<dyn Send>>, engine: Arc<dyn Engine>, names: Vec<String>) {
        self.push(Output::Discard { unused, engine, names });
    }
    fn now(&self) -> Millis {
        let clock_moved = self.clock_moved.fetch_add(self.clock_step.load(Ordering::Relaxed), Ordering::Relaxed);
        *self.clock.lock().expect("one thread") + clock_moved
    }
}

/// Why a message must not leave yet: it promises what the sender's disk does not hold.
///
/// | message | the disk must hold |
/// |---|---|
/// | any but a pre-vote | its term |
/// | RequestVote, a granted vote | the vote for the candidate |
/// | a positive append response | the log up to its index |
fn unsynced_promise(message: &Message, synced: JournalState) -> Option<String> {
    let kind = message.get_msg_type();
    // The receiver takes entries by position, so a gap within one append would shift all that follow.
    let follow = (message.index + 1..).zip(message.entries.iter()).all(|(index, entry)| entry.index == index);
    if kind == MessageType::MsgAppend && !follow {
        return Some(format!(
            "{kind:?} with entries that do not follow index {}: {:?}",
            message.index, message.entries
        ));
    }
    if message.term < synced.term {
        // The term has changed since within the same turn. The node comes back in the later term, in which it can neither
        // vote nor append for the earlier one, so the promise holds whatever its disk says of the earlier term.
        return None;
    }
    let term = match kind {
        // About a term that no node is in yet.
        MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => return None,
        _ => message.term <= synced.term,
    };
    let rest = match kind {
        MessageType::MsgRequestVote => synced.vote == message.from,
        MessageType::MsgRequestVoteResponse => message.reject || synced.vote == message.to,
        MessageType::MsgAppendResponse => message.reject || message.index <= synced.last,
        _ => true,
    };
    (!term || !rest).then(|| {
        let (to, term, index) = (message.to, message.term, message.index);
        format!("{kind:?} to {to} at term {term}, index {index} leaves before the sync it promises ({synced:?})")
    })
}
