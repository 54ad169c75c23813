//! The loop around raft: the only room that holds a `RawNode`.
//!
//! Why: one thread owns raft, the journal, the machine and whoever waits for them, so the order of everything that
//! matters is the order of one function ([`Driver::turn`]). The rest of the process reaches it through a [`Handle`] and
//! is reached through the replies that requests carry.
//!
//! A request's way: `handle` -> `proposals` (propose, forward or park) -> `ready` (journal, sync, send, apply) ->
//! `waiters` -> reply. A read's way: `handle` -> `reads` -> raft's ReadIndex -> reply. Membership: `membership` with the
//! steps in `join` and `transfer`; the joiner's side is `joiner`, and its way there and back `incarnation`. What was
//! applied becomes the `changefeed` of those who watch. A peer's message passes `term_bound` first; what would end the node,
//! `verification` asks the other voters about; `digests` compares the state with the leader's, `stalled_followers` says which
//! followers stand still, and `disk_space` refuses what would fill a disk. A member without a leader asks a voter that its log
//! removes whether that is committed (`commit_discovery`). `readiness` is whether this node takes requests, and whether it
//! lags itself.
//!
//! Not here: sockets (`transport`), and what is on the disk (`storage`).

mod core;
mod driver;
mod handle;
mod input;
mod liveness;
mod membership;
mod options;
mod outbox;
mod proposals;
mod raft_node;
mod reads;
mod snapshots;
mod status;
mod task;
mod verification;

pub use core::background::Background;
pub use driver::Driver;
pub use handle::{Clock, Handle, Inbox, Names, channel};
pub use input::{Bounds, Consistency, Fetched, Hop, Input, InstallError, Listed, Reply};
pub use options::Options;
pub use outbox::Outbox;
pub use task::{Running, Start, spawn};
