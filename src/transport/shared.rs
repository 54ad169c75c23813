//! What all tasks of the transport share: the loop's door, the table last published, where members are, the end.
//!
//! Why: connections live in tasks of their own and meet only here.
//!
//! Laws: no lock is held over an await. Every task is counted, so the end can be waited for.
//!
//! Not here: anything about bytes or sockets.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use slog::{Logger, warn};
use tokio::sync::{Semaphore, mpsc, watch};

use super::budget::Budget;
use super::dial::Whereabouts;
use super::greeting::{Hello, Purpose};
use super::wire::Frame;
use crate::consensus::{Handle, Input};
use crate::model::PeerTable;

/// How many lines of one reason are logged one after the other before they are thinned out.
const COMPLAINTS_AT_ONCE: u32 = 8;
/// The shortest time between two log lines of the same reason after that; it doubles while the reason goes on.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two log lines of a reason that goes on.
const COMPLAINT_AT_LEAST_EVERY: Duration = Duration::from_secs(16);

/// The middle of the transport.
pub struct Shared {
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
    pub roster: BTreeMap<u64, watch::Sender<Whereabouts>>,
    /// Who is connected to this node and is not in the table: a node whose table is old or empty (every joiner's is) must
    /// answer the leader all the same. It does so on the connection that is there; nobody's word makes it dial.
    /// Each by its raft id and a number of its own: more than one may call itself by the same id.
    pub callers: BTreeMap<(u64, u64), Caller>,
    /// The number of the next caller.
    next_caller: u64,
}

/// A peer that is not in the table, for as long as its connection lasts.
pub struct Caller {
    /// Where it says that it is.
    pub address: String,
    /// What is to be sent to it.
    pub queue: mpsc::Sender<Frame>,
}

/// Forgets a caller when it is dropped.
pub struct Calling<'a> {
    shared: &'a Shared,
    caller: (u64, u64),
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.shared.directory().callers.remove(&self.caller);
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
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|tasks| *tasks -= 1);
    }
}

impl Shared {
    /// Begins without a table, on the calling runtime.
    pub fn new(handle: Handle, log: Logger) -> Self {
        Self {
            handle,
            log,
            table: watch::Sender::new(None),
            budget: Budget::new(),
            receptions: watch::Sender::new(0),
            reception: Arc::new(Semaphore::new(1)),
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
        let counted = Counted(Arc::clone(self));
        self.runtime.spawn(async move {
            let _counted = counted;
            task.await;
        });
    }

    /// Tells every task to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once [`Shared::stop`] was called.
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
        }
    }

    /// Who is dialled, and who has called.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("nothing panics while it holds the directory")
    }

    /// Whether this raft id is in the table.
    pub fn is_listed(&self, raft_id: u64) -> bool {
        self.table.borrow().as_deref().is_some_and(|table| table.peers.iter().any(|(listed, ..)| *listed == raft_id))
    }

    /// Remembers where a peer that was let in said it is, and that it is alive; one that is not in the table is answered
    /// through `queue` for as long as the result lives.
    #[must_use]
    pub fn heard(&self, hello: &Hello, queue: mpsc::Sender<Frame>) -> Option<Calling<'_>> {
        let mut directory = self.directory();
        if let Some(whereabouts) = directory.roster.get(&hello.from) {
            whereabouts.send_modify(|whereabouts| whereabouts.heard(&hello.raft_address));
            return None;
        }
        let caller = (hello.from, directory.next_caller);
        directory.next_caller += 1;
        directory.callers.insert(caller, Caller { address: hello.raft_address.clone(), queue });
        Some(Calling { shared: self, caller })
    }

    /// Where members other than `except` have said they are, where that is not what the table says. Passed on, it lets two
    /// members that have both moved find each other through a third.
    pub fn own_words(&self, except: u64) -> Vec<(u64, String)> {
        let directory = self.directory();
        let others = directory.roster.iter().filter(|(raft_id, _)| **raft_id != except);
        others.filter_map(|(raft_id, it)| Some((*raft_id, it.borrow().own_word()?.to_owned()))).collect()
    }

    /// A peer is there, and follows this leader; where the loop is busy, the next word comes in a second.
    pub fn heard_follows(&self, from: u64, follows: u64) {
        _ = self.handle.offer(Input::Heard { from, follows });
    }

    /// A member has passed on where others told it that they are.
    pub fn heard_of(&self, known: &[(u64, String)]) {
        let directory = self.directory();
        for (raft_id, address) in known {
            if let Some(whereabouts) = directory.roster.get(raft_id) {
                whereabouts.send_if_modified(|whereabouts| whereabouts.heard_of(address));
            }
        }
    }

    /// Logs what a stranger or a peer did wrong: a few lines for each `reason` at once, then at most one a second, and fewer
    /// while it goes on.
    pub fn complain(&self, reason: &'static str, who: &str, detail: &str) {
        let now = Instant::now();
        let unsaid = {
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
                return;
            } else {
                complaint.pause = (complaint.pause * 2).min(COMPLAINT_AT_LEAST_EVERY);
            }
            complaint.said = now;
            std::mem::take(&mut complaint.unsaid)
        };
        warn!(self.log, "{}", reason; "peer" => who, "detail" => detail, "more_like_this" => unsaid);
    }
}
