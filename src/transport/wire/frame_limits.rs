//! Frame size limits by kind and conversation.
//!
//! Why: nine bytes can announce a frame of 32 MiB. A frame over its limit is refused from its head, before anything is read or
//! allocated.
//!
//! Invariants: a kind that a table does not have is unexpected in that conversation. Every frame that huskv sends fits.
//!
//! See also: `precheck` (size in memory), `memory_budget` (frames in flight).

use super::{FRAME_BYTES, WireError};
use crate::model::{ADDRESS_BYTES, EVENTS_BYTES, NAME_BYTES, REPORTED_MEMBERS};

/// The kinds of a conversation, each with its maximum payload.
pub type FrameLimits = &'static [(u8, usize)];

/// The limit of names, addresses and numbers.
const SMALL_BYTES: usize = 8 << 10;
/// The limit of peer addresses: raft id, length and address of each.
const PEER_ADDRESSES_BYTES: usize = 256 * (16 + ADDRESS_BYTES);
/// The most members that a node tells another of.
pub const MAX_TOLD_MEMBERS: usize = 256;
/// The limit of members: raft id, length and name of each.
const MEMBERS_BYTES: usize = MAX_TOLD_MEMBERS * (16 + NAME_BYTES);
/// The limit of a join offer, 1 MiB: room for 100 000 removed raft ids.
const OFFER_BYTES: usize = 1 << 20;
/// The limit of a snapshot frame: 1 MiB and one change.
const CHANGES_BYTES: usize = (1 << 20) + (64 << 10);
/// The limit of a report: two numbers for each member that it names, four for each stream, and a detail.
const REPORT_BYTES: usize = SMALL_BYTES + REPORTED_MEMBERS * (16 + 32);
/// The end of a snapshot: a raft message without entries, but with the configuration.
const END_BYTES: usize = 64 << 10;

/// Dialler, first: a hello.
pub const HELLO: FrameLimits = &[(1, SMALL_BYTES)];
/// Acceptor, first: a verdict.
pub const VERDICT: FrameLimits = &[(2, SMALL_BYTES)];
/// Peer, from the dialler: step, forward, ping, removed, peer addresses, digest, follows, space, members.
pub const FROM_DIALLER: FrameLimits = &[
    (3, FRAME_BYTES),
    (4, FRAME_BYTES),
    (6, 0),
    (8, 32),
    (15, PEER_ADDRESSES_BYTES),
    (18, 32),
    (28, 16),
    (29, 32),
    (30, MEMBERS_BYTES),
];
/// Peer, from the acceptor: step, reply, pong, removed, follows.
pub const FROM_ACCEPTOR: FrameLimits = &[(3, FRAME_BYTES), (5, FRAME_BYTES), (7, 16), (8, 32), (28, 16)];
/// Identify, from the acceptor: who.
pub const WHO: FrameLimits = &[(9, SMALL_BYTES)];
/// Join request, from the dialler, and from the acceptor.
pub const JOIN_REQUEST: FrameLimits = &[(31, SMALL_BYTES)];
/// See [`JOIN_REQUEST`].
pub const JOIN_REQUESTED: FrameLimits = &[(32, SMALL_BYTES)];
/// Probe, from the dialler: probe.
pub const PROBE: FrameLimits = &[(16, SMALL_BYTES)];
/// Probe, from the acceptor: probed.
pub const PROBED: FrameLimits = &[(17, SMALL_BYTES)];
/// Join offer, from the dialler: offer, removed.
pub const JOIN_OFFER: FrameLimits = &[(8, 32), (10, OFFER_BYTES)];
/// Join offer, from the acceptor: accepted.
pub const JOIN_ACCEPTED: FrameLimits = &[(11, SMALL_BYTES)];
/// Snapshot, from the dialler, first: announce.
pub const ANNOUNCE: FrameLimits = &[(21, 32)];
/// Snapshot, from the dialler, after the loop accepted it: ping, changes, end.
pub const SNAPSHOT: FrameLimits = &[(6, 0), (12, CHANGES_BYTES), (13, END_BYTES)];
/// Snapshot, from the acceptor: ping, taken.
pub const TAKEN: FrameLimits = &[(6, 0), (14, SMALL_BYTES)];
/// Report, from the acceptor: report.
pub const REPORT: FrameLimits = &[(33, REPORT_BYTES)];
/// Events, from the acceptor: a version, a length, and events.
pub const EVENTS: FrameLimits = &[(34, 16 + EVENTS_BYTES)];
/// Any kind, for tests.
#[cfg(any(test, feature = "fuzzing"))]
pub const ANY: FrameLimits = &{
    let mut all = [(0, FRAME_BYTES); 40];
    let mut kind = 0;
    while kind < all.len() {
        all[kind].0 = kind as u8;
        kind += 1;
    }
    all
};

/// Checks the kind and payload length of a frame.
///
/// # Errors
/// [`WireError::Unexpected`] and [`WireError::TooLong`].
pub fn check(limits: FrameLimits, kind: u8, length: usize) -> Result<(), WireError> {
    // A snapshot frame on a peer connection is as wrong as an unknown kind: each conversation has its own table.
    match limits.iter().find(|(allowed, _)| *allowed == kind) {
        None => Err(WireError::Unexpected("of a kind that does not belong here")),
        Some((_, most)) if length > *most => Err(WireError::TooLong(length, *most)),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_judged_by_its_kind_and_its_conversation() {
        assert!(check(FROM_DIALLER, 6, 0).is_ok() && check(FROM_DIALLER, 3, FRAME_BYTES).is_ok());
        assert!(matches!(check(FROM_DIALLER, 6, 1), Err(WireError::TooLong(1, 0))));
        assert!(matches!(check(FROM_DIALLER, 3, FRAME_BYTES + 1), Err(WireError::TooLong(..))));
        assert!(matches!(check(HELLO, 1, SMALL_BYTES + 1), Err(WireError::TooLong(..))));
        // Snapshot frames on a peer connection, a reply from the dialler, an unknown kind.
        for (limits, kind) in [(FROM_DIALLER, 12), (FROM_DIALLER, 5), (FROM_ACCEPTOR, 4), (ANNOUNCE, 12), (WHO, 200)] {
            assert!(matches!(check(limits, kind, 0), Err(WireError::Unexpected(_))), "{kind}");
        }
    }
}
