//! Consensus: the loop around raft, and the only module that holds a `RawNode`.
//!
//! Why: one thread owns raft, the journal and the state machine, so the order of everything that matters is the order
//! of one function ([`Driver::turn`]). The rest of the process reaches the loop through a [`Handle`] and gets its
//! answers through the replies that requests carry.
//!
//! ```text
//! handle  thread                        two bounded queues, the thread and its timer
//! driver                                holds the components, hands inputs down, lets one turn pass
//! proposals  reads  membership          writes, reads, changes of the member table
//! joiner  snapshots  claim_verification  joining a cluster, checkpoints and streams, claims that would end the node
//! liveness  cluster_clock  disk_space   which members are heard, the cluster's time, free space of the voters
//! core                                  raft with its storage, state machine, data directory, outbox
//! ```
//!
//! Invariants: a component owns its state, takes the floors below as arguments and calls no other component. Where one
//! needs another, it returns what happened (a verdict, an accepted offer, a list of effects), and the driver calls on.
//!
//! A write: `handle`, `driver::request_dispatch`, `proposals` (propose, forward or wait for a leader), `driver::ready`
//! (journal, sync, send, apply), `proposals::waiters`, the reply. A read: `reads`, raft's ReadIndex, the reply. A
//! membership change: `membership` with the steps in `change_steps` and `transfer`; the joiner's side is
//! `offer_acceptance`, its way there and back `driver::own_incarnation_switch`. A peer's message passes `plausibility` first; what
//! would end the node,
//! `claim_verification` asks the other voters about.
//!
//! See also: sockets (`transport`), what is on the disk (`storage`), events of what was applied (`changefeed`).

mod claim_verification;
mod core;
mod driver;
mod handle;
mod input;
mod liveness;
mod membership;
mod options;
mod outbox;
mod proposals;
mod raft_rs_adapter;
mod reads;
mod snapshots;
#[cfg(test)]
mod table_tests;
mod thread;

pub use core::background_jobs::{Background, MeasuredStep};
pub use driver::Driver;
pub use handle::{
    AskedMembers, Clock, Handle, Inbox, MemberReports, Names, READ_INDEX_ROUND, Readiness, WritePermit, channel,
};
pub use input::{Bounds, Consistency, Fetched, Hop, Input, InstallError, Listed, ReadGrant, Reply};
pub use options::Options;
pub use outbox::Outbox;
pub use thread::{Running, Start, spawn};
