//! The lives of a node: which start of which process speaks, and whether it follows from the one that is known.
//!
//! Why: a disk can be copied, and an older copy of it brought back. Cluster id and raft id are copied with it; which start
//! of a process others have spoken to since is not, so that is what tells a member from its copy.
//!
//! Laws: pure. A life follows from another only if it names it among those before. Of two that begin on copies of one disk
//! neither names the other, so whichever is spoken to first is the member.
//!
//! Not here: where lives are kept (`storage::Identity`, `storage::Peers`), and when they are told (`transport`).

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many lives before the present one a node names to everybody.
pub const LIVES_NAMED: usize = 16;

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
    "life {said} does not follow life {known}, which was spoken to before: its disk was brought back from an older copy, \
     or a copy of it has taken its place. Stop the copy; or move the directory of the one that is refused away, start it \
     empty, and POST /raft/join for it again"
)]
pub struct IdentityConflict {
    /// The life that was spoken to last.
    pub known: BootId,
    /// The life that speaks now.
    pub said: BootId,
}

impl IdentityConflict {
    /// The same, as it is told to whoever was refused. To name a life is to prove that one follows from it, so what is left
    /// of the random numbers is no more than the log shows.
    #[must_use]
    pub fn for_strangers(mut self) -> Self {
        for life in [&mut self.known, &mut self.said] {
            life.nonce &= 0xffff;
        }
        self
    }
}

impl BootHistory {
    /// Begins the next life.
    pub fn begin(&mut self, nonce: u64) {
        let before = self.current;
        self.current = BootId { count: before.count + 1, nonce };
        if before.count > 0 {
            self.before.insert(0, before);
            self.before.truncate(LIVES_NAMED);
        }
    }

    /// The same lives, with `life` among those before.
    #[must_use]
    pub fn naming(mut self, life: Option<BootId>) -> Self {
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
    pub fn follow(&self, known: Option<BootId>) -> Result<bool, IdentityConflict> {
        match known {
            None => Ok(true),
            Some(known) if known == self.current => Ok(false),
            Some(known) if self.current.count > known.count && self.before.contains(&known) => Ok(true),
            Some(known) => Err(IdentityConflict { known, said: self.current }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(times: u64) -> BootHistory {
        let mut lives = BootHistory::default();
        (1..=times).for_each(|nonce| lives.begin(1000 + nonce));
        lives
    }

    #[test]
    fn each_start_is_a_new_life_that_names_the_latest_before() {
        let lives = started(1);
        assert_eq!((lives.current.count, lives.before.len()), (1, 0));
        let lives = started(20);
        assert_eq!((lives.current, lives.before.len()), (BootId { count: 20, nonce: 1020 }, LIVES_NAMED));
        assert_eq!((lives.before[0].count, lives.before[15].count), (19, 4));
    }

    #[test]
    fn a_life_follows_those_that_it_names_and_no_other() {
        let lives = started(5);
        assert_eq!(lives.follow(None), Ok(true));
        assert_eq!(lives.follow(Some(lives.current)), Ok(false));
        assert_eq!(lives.follow(Some(lives.before[3])), Ok(true));
        // A disk that was brought back does not know the lives since.
        let known = started(6).current;
        assert_eq!(lives.follow(Some(known)), Err(IdentityConflict { known, said: lives.current }));
    }

    #[test]
    fn of_two_that_begin_on_copies_of_one_disk_the_first_is_kept() {
        let (mut one, mut other) = (started(3), started(3));
        let known = one.current;
        one.begin(1);
        other.begin(2);
        assert_eq!(one.follow(Some(known)), Ok(true));
        let known = one.current;
        assert!(other.follow(Some(known)).is_err());
        // Counting further does not help.
        other.begin(3);
        assert!(other.follow(Some(known)).is_err());
        one.begin(4);
        assert_eq!(one.follow(Some(known)), Ok(true));
    }

    #[test]
    fn who_is_refused_is_not_told_what_it_would_have_to_name() {
        let (known, said) = (BootId { count: 5, nonce: u64::MAX }, BootId { count: 1, nonce: 0x1_2345 });
        let told = IdentityConflict { known, said }.for_strangers();
        assert_eq!((told.known.nonce, told.said.nonce), (0xffff, 0x2345));
        assert_eq!(told.to_string(), IdentityConflict { known, said }.to_string());
        let mut forged = BootHistory { current: told.known, before: Vec::new() };
        forged.begin(7);
        assert!(forged.follow(Some(known)).is_err());
    }

    #[test]
    fn beyond_the_latest_only_what_is_kept_for_a_peer_is_shown() {
        let (known, lives) = (started(5).current, started(30));
        assert!(lives.follow(Some(known)).is_err());
        let lives = lives.naming(Some(known));
        assert_eq!(lives.follow(Some(known)), Ok(true));
        assert_eq!(lives.clone().naming(Some(known)).naming(Some(lives.current)), lives);
    }
}
