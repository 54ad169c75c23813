//! The shared values of huskv, and the pure rules over them.
//!
//! Why: every layer above uses these types, so they depend on nothing: no disk, no socket, no clock, no randomness, no
//! async. What is decided here is decided the same way on every node.
//!
//! Invariants: [`decide`] and [`validate`] are pure functions. Bytes that leave a process go through [`codec`] and carry a
//! version.
//!
//! ```text
//!   decide ---> decide::state_view_and_changes, command (Command, Txn) ---> value, codec
//!   dedup  ---> validate ---> command::write, peer, members
//!   event  ---> decide::state_view_and_changes
//! ```
//!
//! See also: `raft::eraftpb` (raft's own messages), `storage` and `transport` (how these values are stored and sent).

mod boot_id;
pub mod codec;
mod command;
mod decide;
mod disk_space;
mod event_and_cursor;
pub mod json_interoperability;
mod list;
mod members;
mod node_name_and_address;
mod peer;
mod refusal;
mod status;
mod time;
mod value;

pub use boot_id::{BootHistory, BootId, IdentityConflict, PREVIOUS_BOOT_IDS};
pub use command::dedup_rules::{
    DEDUP_TABLE_BYTES, DedupTable, MAX_RESULT_BYTES, MAX_RETENTION_MS, MIN_RETENTION_MS, StoredResult, decide_write,
};
pub use command::proposal::Proposal;
pub use command::txn::{Check, DELETE_PREFIX_BYTES, DELETE_PREFIX_KEYS, OpResult, Operation, TXN_BYTES, Test, Txn};
pub use command::validate;
pub use command::validate::Limits;
pub use command::write_request::{IdempotencyKey, Write, Written};
pub use command::{Command, CommandResult};
pub use decide::decide;
pub use decide::state_view_and_changes::{ApplyPoint, Change, View};
#[cfg(test)]
pub use decide::test_store;
pub use disk_space::{DiskSpace, mib};
pub use event_and_cursor::{Cursor, Event, EventKind};
pub use list::{List, Page, after, after_prefix};
pub use members::{MAX_RAFT_ID, Member, MemberChange, Members, Role};
pub use node_name_and_address::{
    ADDRESS_BYTES, NAME_BYTES, NodeAddress, NodeName, check_address, check_dialable, check_host, check_name,
    is_unspecified,
};
pub use peer::claim_probe::{Probe, ProbeReply, Recorded, StateDigest};
pub use peer::event_report::{
    EVENTS_BYTES, EventReport, FieldReport, REPORTED_EVENTS, ROUTINE_EVENTS, check_events, clip_events,
};
pub use peer::node_report::{
    Asked, AskedMember, LeaderReport, NodeReport, REPORTED_MEMBERS, ReportedRole, TransferReport,
};
pub use peer::{Answer, JoinAccepted, JoinOffer, NodeKind, PeerTable, Request, WhoAmI};
pub use refusal::{Code, Leader, Outcome, Refusal};
pub use status::{MemberStatus, PreviousStatus, State, Status, Voters};
pub use time::{ClientDuration, Millis};
pub use value::{Condition, Item, KeyMeta, TokenName, Ttl, Value};
