//! The age of a leader's backlog: large writes are refused while entries commit slowly.
//!
//! Why: writes are proposed in order, so one that is taken in behind megabytes of slow writes would reach its deadline
//! while it waits, with an outcome that its client does not learn. A refusal at once says `not_applied`.
//!
//! Invariants: small writes are never refused for the backlog: they cost little, and locks are renewed with them.
//!
//! See also: how many bytes of writes a node holds at all (`handle::write_budget`).

use crate::consensus::core::pending_request::ClientRequest;
use crate::model::{Code, Millis, Refusal, Request};

/// The largest write that the backlog never refuses.
const SMALL_BYTES: usize = 16 << 10;

/// The bytes of waiting writes from which on their age counts: two proposals.
pub(super) const BACKLOG_BYTES: usize = 2 * super::BYTES_PER_PROPOSAL;

/// How long the oldest write may have waited; a fifth of the default timeout.
const BACKLOG_AGE: Millis = 1000;

/// Returns the bytes of a write, 0 for any other request.
pub(super) fn bytes(request: &Request) -> usize {
    if let Request::Write(write) = request { write.size() } else { 0 }
}

/// Returns the refusal of a write behind those that are `waiting`, if it is refused.
pub(super) fn refusal<'a>(
    now: Millis,
    request: &Request,
    waiting: impl Iterator<Item = &'a ClientRequest>,
) -> Option<Refusal> {
    // Example: 8 MiB of writes of 1 MiB wait, the oldest for 1.2 s. One more of 1 MiB is refused, one of 100 bytes is
    // taken.
    if bytes(request) <= SMALL_BYTES {
        return None;
    }
    let (held, since) =
        waiting.fold((0, now), |(held, since), waiting| (held + bytes(&waiting.request), since.min(waiting.since)));
    (held >= BACKLOG_BYTES && now - since >= BACKLOG_AGE).then(|| {
        let detail = "the leader has more large writes waiting than it can carry out in time; try again in a moment";
        Refusal::not_applied(Code::Overloaded, detail)
    })
}
