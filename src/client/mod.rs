//! Rust client of a cluster: endpoints, leader first, retries that cannot apply a write twice, and watches.
//!
//! Why: every program that uses a cluster must find a node that responds and must decide after each failure whether to
//! retry. The decision is made once, here, by the `outcome` of the response.
//!
//! ```no_run
//! # async fn example() -> Result<(), huskv::client::Failure> {
//! use huskv::client::{Client, Condition, Read, Write};
//!
//! let client = Client::new(["localhost:2221", "localhost:2222", "localhost:2223"], Client::TIMEOUT);
//! let version = client.put("lock", "me", &Write { condition: Condition::Absent, ..Write::default() }).await?;
//! let value = client.get("lock", &Read::default()).await?;
//! # Ok(()) }
//! ```
//!
//! Invariants: a write of unknown outcome is sent again only with an idempotency key (`retry`). A call takes at most the
//! client's timeout and half a second. Only the addresses that the caller gave are used (`endpoints`), and so only
//! they get its token (`access`).
//!
//! See also: `api_methods` for the routes, [`NodeClient`] for single nodes, [`NodeStats`] for `/raft/stats`.

mod access;
mod api_methods;
mod cluster_client;
mod dialer;
mod endpoints;
mod events;
mod failure;
mod http_client;
mod node_client;
mod node_readiness;
mod node_stats;
mod overview;
mod retry;
mod watch;

pub use access::{Access, InvalidToken, Token, is_loopback};
pub use api_methods::{Condition, MembershipChange, Page, Range, Read, Stored, Write};
pub use cluster_client::Client;
pub use events::{Event, EventKind};
pub use failure::Failure;
pub use node_client::{NodeClient, NodeClientError, Response};
pub use node_readiness::{Readiness, ReadinessCheck};
pub use node_stats::{DiskStats, MemberStats, NodeStats, NotReady};
pub use overview::{
    ClusterEvent, ClusterEvents, ClusterOverview, LoadPoint, MemberOverview, NodeLoad, ReasonOverview, TransferOverview,
};
pub use watch::{Scope, Watch};

pub use crate::model::{Leader, Outcome};

#[cfg(test)]
mod tests;
