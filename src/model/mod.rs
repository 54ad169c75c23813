//! The ground floor: what huskv talks about, as plain values.
//!
//! Why: every room above agrees on these words, so they may depend on nothing: no disk, no socket, no clock, no
//! randomness, no async. What is decided here is decided the same way on every node.
//!
//! Laws: the rule from [`Command`] to [`CommandResult`] is a pure function, and so is the check of what a command may be
//! ([`validate`]); bytes that leave a process go through [`codec`]
//! and carry a version.
//!
//! Not here: raft's own messages (they stay in `raft::eraftpb`), and how any of this is stored or sent.

mod boot_id;
pub mod codec;
mod command;
mod disk_space;
mod event;
pub mod json;
mod list;
mod members;
mod node_address;
mod peer;
mod refusal;
mod status;
#[cfg(test)]
pub mod test_store;
mod time;
mod value;

pub use boot_id::{BootHistory, BootId, IdentityConflict, LIVES_NAMED};
pub use command::dedup::{
    IdempotencyKey, LEAST_MS, RESULT_BYTES, RESULT_MS, RESULTS_BYTES, Results, StoredResult, Write, decide_once,
};
pub use command::proposal::Proposal;
pub use command::txn::{Check, OpResult, Operation, SWEEP_BYTES, SWEEP_KEYS, TXN_BYTES, Test, Txn};
pub use command::validate;
pub use command::validate::Limits;
pub use command::{ApplyPoint, Change, Command, CommandResult, View, decide};
pub use disk_space::{DiskSpace, mib};
pub use event::{Cursor, Event, EventKind};
pub use list::{List, Page, after, after_prefix};
pub use members::{MAX_RAFT_ID, Member, MemberChange, Members, Role};
pub use node_address::{
    ADDRESS_BYTES, NAME_BYTES, check_address, check_dialable, check_host, check_name, is_unspecified,
};
pub use peer::probe::{Probe, ProbeReply, Recorded, StateDigest};
pub use peer::{Answer, JoinAccepted, JoinOffer, NodeKind, PeerTable, Request, WhoAmI, Written};
pub use refusal::{Code, Leader, Outcome, Refusal};
pub use status::{MemberStatus, PreviousStatus, State, Status, Voters};
pub use time::Millis;
pub use value::{Condition, Item, KeyMeta, Ttl, Value};
