//! The ground floor: what huskv talks about, as plain values.
//!
//! Why: every room above agrees on these words, so they may depend on nothing: no disk, no socket, no clock, no
//! randomness, no async. What is decided here is decided the same way on every node.
//!
//! Laws: the rule from [`Command`] to [`Outcome`] is a pure function, and so is the check of what a command may be
//! ([`validate`]); bytes that leave a process go through [`codec`]
//! and carry a version.
//!
//! Not here: raft's own messages (they stay in `raft::eraftpb`), and how any of this is stored or sent.

mod address;
pub mod codec;
mod command;
mod event;
pub mod json;
mod life;
mod list;
mod members;
mod once;
mod peer;
mod probe;
mod proposal;
mod refusal;
#[cfg(test)]
pub mod samples;
mod space;
mod status;
mod txn;
pub mod validate;
mod value;

pub use address::{ADDRESS_BYTES, NAME_BYTES, check_address, check_dialable, check_host, check_name, is_unspecified};
pub use command::{At, Change, Command, Outcome, View, decide};
pub use event::{Cursor, Event, Happening};
pub use life::{IdentityConflict, LIVES_NAMED, Life, Lives};
pub use list::{List, Page, after, after_prefix};
pub use members::{MAX_RAFT_ID, Member, MemberChange, Members, Role};
pub use once::{Kept, LEAST_MS, Once, RESULT_BYTES, RESULT_MS, RESULTS_BYTES, Results, Write, decide_once};
pub use peer::{Adopt, Adopted, Answer, PeerTable, Request, Standing, WhoAmI, Written};
pub use probe::{Probe, ProbeReply, Recorded, StateDigest};
pub use proposal::Proposal;
pub use refusal::{Code, Fate, Leader, Refusal};
pub use space::{DiskSpace, mib};
pub use status::{MemberStatus, PreviousStatus, State, Status, Voters};
pub use txn::{Check, Done, Operation, SWEEP_BYTES, SWEEP_KEYS, TXN_BYTES, Test, Txn};
pub use validate::Limits;
pub use value::{Condition, Item, Stamp, Ttl, Value};
