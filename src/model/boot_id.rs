//! Boot ids: which start of the process on a data directory a node is in, and the history of its earlier starts.
//!
//! Why: a disk can be copied, and an old copy can be started again. Cluster id and raft id are copied with it, but a copy does
//! not know the boot ids that its peers have seen since. So the boot history tells a member from a clone of its disk.
//!
//! Invariants: pure. A history continues a known boot id only if it is the current one or names it among the previous ones. Two
//! processes started from copies of one disk do not name each other, so the one that connects first is the member.
//!
//! Example: node `a` is at boot 3 and its disk is cloned. The original starts boot 4 with history [3, 2, 1], the clone starts its
//! own boot 4 (another nonce) with the same history. Peers that have recorded the original's boot 4 refuse the clone: its history
//! does not contain that boot id.
//!
//! See also: `storage::Identity` and `storage::Peers` (persistence), `transport::handshake` (exchange).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many lives before the present one a node names to everybody.
pub const PREVIOUS_BOOT_IDS: usize = 16;

/// One start of a process on one directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId {
    /// The how manieth start of this directory it is, from 1 on; 0 for none.
    pub count: u64,
    /// A random number, drawn at the start.
    pub nonce: u64,
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:04x})", self.count, self.nonce & 0xffff)
    }
}

/// The present life of a node and the latest of those before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootHistory {
    /// The present one.
    pub current: BootId,
    /// Those before, the latest first.
    pub before: Vec<BootId>,
}

/// A life that does not follow from the one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error(
    "life {claimed} does not follow life {known}, which was spoken to before: its disk was brought back from an older copy, \
     or a copy of it has taken its place. Stop the copy; or move the directory of the one that is refused away, start it \
     empty, and POST /raft/join for it again"
)]
pub struct IdentityConflict {
    /// The life that was spoken to last.
    pub known: BootId,
    /// The life that speaks now.
    pub claimed: BootId,
}

impl IdentityConflict {
    /// The same, as it is told to whoever was refused. To name a life is to prove that one follows from it, so what is left
    /// of the random numbers is no more than the log shows.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        for life in [&mut self.known, &mut self.claimed] {
            life.nonce &= 0xffff;
        }
        self
    }
}

impl BootHistory {
    /// Begins the next life.
    pub fn start(&mut self, nonce: u64) {
        let before = self.current;
        self.current = BootId { count: before.count + 1, nonce };
        if before.count > 0 {
            self.before.insert(0, before);
            self.before.truncate(PREVIOUS_BOOT_IDS);
        }
        debug_assert!(self.before.iter().all(|earlier| earlier.count < self.current.count), "boot counts grow");
    }

    /// The same lives, with `life` among those before.
    #[must_use]
    pub fn including(mut self, life: Option<BootId>) -> Self {
        if let Some(life) = life
            && life != self.current
            && !self.before.contains(&life)
        {
            self.before.push(life);
        }
        self
    }

    /// Whether whoever says to have these lives is the node that was spoken to last in the life `known`; true where the
    /// present life is a newer one, to be known from now on.
    ///
    /// # Errors
    /// [`IdentityConflict`]: it is not, or nothing shows that it is.
    pub fn continues(&self, known: Option<BootId>) -> Result<bool, IdentityConflict> {
        match known {
            None => Ok(true),
            Some(known) if known == self.current => Ok(false),
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
    fn each_start_is_a_new_life_that_names_the_latest_before() {
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
    fn a_life_follows_those_that_it_names_and_no_other() {
        let boot_history = started(5);
        assert_eq!(boot_history.continues(None), Ok(true));
        assert_eq!(boot_history.continues(Some(boot_history.current)), Ok(false));
        assert_eq!(boot_history.continues(Some(boot_history.before[3])), Ok(true));
        // A disk that was brought back does not know the lives since.
        let known = started(6).current;
        assert_eq!(boot_history.continues(Some(known)), Err(IdentityConflict { known, claimed: boot_history.current }));
    }

    #[test]
    fn of_two_that_begin_on_copies_of_one_disk_the_first_is_kept() {
        let (mut one, mut other) = (started(3), started(3));
        let known = one.current;
        one.start(1);
        other.start(2);
        assert_eq!(one.continues(Some(known)), Ok(true));
        let known = one.current;
        assert!(other.continues(Some(known)).is_err());
        // Counting further does not help.
        other.start(3);
        assert!(other.continues(Some(known)).is_err());
        one.start(4);
        assert_eq!(one.continues(Some(known)), Ok(true));
    }

    #[test]
    fn who_is_refused_is_not_told_what_it_would_have_to_name() {
        let (known, claimed) = (BootId { count: 5, nonce: u64::MAX }, BootId { count: 1, nonce: 0x1_2345 });
        let told = IdentityConflict { known, claimed }.redacted();
        assert_eq!((told.known.nonce, told.claimed.nonce), (0xffff, 0x2345));
        assert_eq!(told.to_string(), IdentityConflict { known, claimed }.to_string());
        let mut forged = BootHistory { current: told.known, before: Vec::new() };
        forged.start(7);
        assert!(forged.continues(Some(known)).is_err());
    }

    #[test]
    fn beyond_the_latest_only_what_is_kept_for_a_peer_is_shown() {
        let (known, boot_history) = (started(5).current, started(30));
        assert!(boot_history.continues(Some(known)).is_err());
        let boot_history = boot_history.including(Some(known));
        assert_eq!(boot_history.continues(Some(known)), Ok(true));
        assert_eq!(boot_history.clone().including(Some(known)).including(Some(boot_history.current)), boot_history);
    }
}
