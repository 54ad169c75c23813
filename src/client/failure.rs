//! Failure: why a call of the client did not succeed, and whether it may have been applied.
//!
//! See also: `retry`, which decides whether a failed request is sent again.

use std::num::NonZeroU64;

use crate::model::Outcome;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {detail} ({code})")]
pub struct Failure {
    /// The endpoint of the last attempt.
    pub endpoint: String,
    /// The HTTP status, where there was a response.
    pub status: Option<u16>,
    /// The stable code: that of the problem, or `no_answer` (no response, or not in time), `no_node` (the response is
    /// not that of a huskv node), `tls_failed` or `certificate_refused` (no TLS connection), `bad_request` (the request cannot be sent) or `lagged` (a watch was too slow).
    pub code: String,
    /// The cause, for a log or a terminal.
    pub detail: String,
    /// Whether a write may have been applied by any of the attempts; `NotApplied` for a read.
    pub outcome: Outcome,
    /// The current version of the key, 0 for no such key, where a condition was not true.
    pub version: Option<u64>,
    /// The first index of the node's history, where a watch began before it.
    pub oldest_index: Option<u64>,
    /// The last committed index, where a watch was to resume after a later one: the cluster was created anew.
    pub newest_index: Option<NonZeroU64>,
}

impl Failure {
    /// A failure that the client itself detects.
    pub(super) fn local(endpoint: &str, code: &str, detail: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            status: None,
            code: code.to_owned(),
            detail: detail.into(),
            outcome,
            version: None,
            oldest_index: None,
            newest_index: None,
        }
    }
}
