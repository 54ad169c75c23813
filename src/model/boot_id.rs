//! Boot ids: which start of the process on a data directory a node is in, and the history of its earlier starts.
//!
//! Why: a disk can be copied, and an old copy can be started again. Cluster id and raft id are copied with it, but a copy does
//! not know the boot ids that its peers have seen since. So the boot history tells a member from a clone of its disk.
//!
//! Invariants: pure. A history continues a known boot id only if it is the current one or names it among the previous ones. Two
//! processes started from copies of one disk do not name each other, so the one that connects first is the member.
//!
//! Example: node `a` is at boot 3 and its disk is cloned. The original starts boot 4 with history [3, 2, 1], the clone
//! starts its own boot 4 (another nonce) with the same history. Peers that have recorded the original's boot 4 refuse the
//! clone: its history does not contain that boot id.
//!
//! See also: `storage::Identity` and `storage::Peers` (persistence), `transport::handshake` (exchange).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The number of previous boot ids that a node reports to its peers.
pub const PREVIOUS_BOOT_IDS: usize = 16;

/// The id of one start of a process on one data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId {
    /// The number of this start, from 1; 0 for none.
    pub count: u64,
    /// A random number, drawn at the start.
    pub nonce: u64,
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:04x})", self.count, self.nonce & 0xffff)
    }
}

/// The boot id of a node and its latest previous ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootHistory {
    /// The current one.
    pub current: BootId,
    /// The previous ones, the latest first.
    pub before: Vec<BootId>,
}

/// A boot id that does not continue the recorded one: a clone or a restored disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error(
    "boot {claimed} does not continue boot {known}, which was seen before: its disk was restored from an older copy, or a \
     clone of it runs elsewhere. Stop the clone; or move the directory of the refused node away, start it empty, and \
     POST /raft/join for it again"
)]
pub struct IdentityConflict {
    /// The recorded boot id.
    pub known: BootId,
    /// The boot id of the peer that connected.
    pub claimed: BootId,
}

impl IdentityConflict {
    /// Returns it for the refused peer. Naming a boot id proves that a history continues it, so of the random numbers
    /// only what the log shows is left.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        for boot_id in [&mut self.known, &mut self.claimed] {
            boot_id.nonce &= 0xffff;
        }
        self
    }
}

impl BootHistory {
    /// Starts the next boot.
    pub fn start(&mut self, nonce: u64) {
        // Count 0 is a directory without a start: it is no boot id, so it does not enter the history.
        let before = self.current;
        self.current = BootId { count: before.count + 1, nonce };
        if before.count > 0 {
            self.before.insert(0, before);
            self.before.truncate(PREVIOUS_BOOT_IDS);
        }
        debug_assert!(self.before.iter().all(|earlier| earlier.count < self.current.count), "boot counts grow");
    }

    /// Returns the history with `boot_id` among the previous ones.
    #[must_use]
    pub fn including(mut self, boot_id: Option<BootId>) -> Self {
        // A peer that was away for more than 16 starts would find its recorded boot id in no history. So it gets this one
        // in addition to the latest 16, since this node knows what that peer has recorded.
        if let Some(boot_id) = boot_id
            && boot_id != self.current
            && !self.before.contains(&boot_id)
        {
            self.before.push(boot_id);
        }
        self
    }

    /// Checks whether a node with this history is the one recorded at boot `known`; true if its current boot id is
    /// newer and has to be recorded.
    ///
    /// # Errors
    /// [`IdentityConflict`]: it is not, or nothing proves that it is.
    pub fn continues(&self, known: Option<BootId>) -> Result<bool, IdentityConflict> {
        match known {
            // A peer without a record is recorded at its first contact.
            None => Ok(true),
            // The same process connects again.
            Some(known) if known == self.current => Ok(false),
            // A later start of the same directory: it names the recorded boot id. Two clones start at the same count, with
            // different nonces, and neither names the other.
            Some(known) if self.current.count > known.count && self.before.contains(&known) => Ok(true),
            Some(known) => Err(IdentityConflict { known, claimed: self.current }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(times: u64) -> BootHistory {
        let mut boot_history = BootHistory::default();
        (1..=times).for_each(|nonce| boot_history.start(1000 + nonce));
        boot_history
    }

    #[test]
    fn each_start_has_a_new_boot_id_that_names_the_latest_ones() {
        let boot_history = started(1);
        assert_eq!((boot_history.current.count, boot_history.before.len()), (1, 0));
        let boot_history = started(20);
        assert_eq!(
            (boot_history.current, boot_history.before.len()),
            (BootId { count: 20, nonce: 1020 }, PREVIOUS_BOOT_IDS)
        );
        assert_eq!((boot_history.before[0].count, boot_history.before[15].count), (19, 4));
    }

    #[test]
    fn a_history_continues_only_the_boot_ids_it_names() {
        let boot_history = started(5);
        assert_eq!(boot_history.continues(None), Ok(true));
        assert_eq!(boot_history.continues(Some(boot_history.current)), Ok(false));
        assert_eq!(boot_history.continues(Some(boot_history.before[3])), Ok(true));
        // A restored disk does not know the later boot ids.
        let known = started(6).current;
        assert_eq!(boot_history.continues(Some(known)), Err(IdentityConflict { known, claimed: boot_history.current }));
    }

    #[test]
    fn of_two_clones_the_first_recorded_one_is_the_member() {
        let (mut one, mut other) = (started(3), started(3));
        let known = one.current;
        one.start(1);
        other.start(2);
        assert_eq!(one.continues(Some(known)), Ok(true));
        let known = one.current;
        assert!(other.continues(Some(known)).is_err());
        // A higher count does not help.
        other.start(3);
        assert!(other.continues(Some(known)).is_err());
        one.start(4);
        assert_eq!(one.continues(Some(known)), Ok(true));
    }

    #[test]
    fn a_refused_node_does_not_learn_the_recorded_nonce() {
        let (known, claimed) = (BootId { count: 5, nonce: u64::MAX }, BootId { count: 1, nonce: 0x1_2345 });
        let redacted = IdentityConflict { known, claimed }.redacted();
        assert_eq!((redacted.known.nonce, redacted.claimed.nonce), (0xffff, 0x2345));
        assert_eq!(redacted.to_string(), IdentityConflict { known, claimed }.to_string());
        let mut forged = BootHistory { current: redacted.known, before: Vec::new() };
        forged.start(7);
        assert!(forged.continues(Some(known)).is_err());
    }

    #[test]
    fn older_boot_ids_are_included_only_for_the_peer_that_needs_them() {
        let (known, boot_history) = (started(5).current, started(30));
        assert!(boot_history.continues(Some(known)).is_err());
        let boot_history = boot_history.including(Some(known));
        assert_eq!(boot_history.continues(Some(known)), Ok(true));
        assert_eq!(boot_history.clone().including(Some(known)).including(Some(boot_history.current)), boot_history);
    }
}
