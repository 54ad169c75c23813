//! What this node knows of the lives of its peers, in one small checksummed file.
//!
//! Why: a member and a copy of its disk differ in nothing but the life that others have spoken to since. So each node keeps
//! that, for every member; and, for every member, which of its own lives that one has heard, so that it can name it
//! however often it was started since.
//!
//! Laws: durable before the life is spoken to. Written only where something is new, which is a restart of either end, and
//! replaced as a whole. A peer that tells no life is not kept, for it does not have this node in its table yet. A raft id that was removed is not kept, so the file stays about as small as the member table.
//!
//! Not here: the rule (`model::BootHistory`), and who asks (`transport`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::layout::{PEERS, PEERS_VERSION};
use super::sealed_file::Seal;
use super::{Engine, Error};
use crate::model::{BootHistory, BootId, IdentityConflict};
use crate::plant::{self, Plant};

const SEAL: Seal = Seal { file: PEERS, magic: "huskv-peers", oldest: 1, version: PEERS_VERSION };

/// What is known of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The life that it was spoken to in last.
    life: Option<BootId>,
    /// The life of this node that it has heard last, as far as this node knows.
    heard: Option<BootId>,
}

/// The content of the file.
pub(super) type ByPeer = BTreeMap<u64, Known>;

/// What the bytes of the file say.
///
/// # Errors
/// [`Error::Newer`] and [`Error::Damaged`], both naming `directory`.
pub(super) fn decode(bytes: &[u8], directory: &str) -> Result<ByPeer, Error> {
    SEAL.decode(bytes, directory)
}

/// The bytes of the file.
pub(super) fn encode(known: &ByPeer) -> Vec<u8> {
    SEAL.encode(known)
}

/// The file `peers` and its content.
pub struct Peers {
    engine: Arc<dyn Engine>,
    known: Mutex<ByPeer>,
}

impl Peers {
    /// Reads the file; a directory without one knows nobody yet.
    ///
    /// # Errors
    /// [`Error`] where it is damaged, newer, or cannot be read.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Error> {
        let known = match engine.read_file(PEERS)? {
            Some(bytes) => decode(&bytes, &engine.path())?,
            None => ByPeer::new(),
        };
        Ok(Self { engine, known: Mutex::new(known) })
    }

    /// The life that this peer was spoken to in last.
    pub fn life(&self, raft_id: u64) -> Option<BootId> {
        self.lock().get(&raft_id)?.life
    }

    /// The life of this node that this peer has heard last.
    pub fn heard(&self, raft_id: u64) -> Option<BootId> {
        self.lock().get(&raft_id)?.heard
    }

    /// Whether [`Peers::meet`] would have nothing to write.
    pub fn knows(&self, raft_id: u64, life: BootId, heard: Option<BootId>) -> bool {
        self.lock()
            .get(&raft_id)
            .is_some_and(|known| known.life == Some(life) && (heard.is_none() || known.heard == heard))
    }

    /// Whether the peer with these lives may be spoken to.
    ///
    /// # Errors
    /// [`IdentityConflict`]: it is not the one that is known.
    pub fn check(&self, raft_id: u64, lives: &BootHistory) -> Result<(), IdentityConflict> {
        follow(self.life(raft_id), lives).map(drop)
    }

    /// Takes note of a peer that is spoken to, and of which life of this node it has `heard`, where that is certain;
    /// durable on return. What is known of others is kept as far as `keep` says. True where that was new.
    ///
    /// # Errors
    /// [`Error`] where it cannot be written; inside, [`IdentityConflict`] where it is not the peer that is known. Nothing is
    /// changed then.
    pub fn meet(
        &self,
        raft_id: u64,
        lives: &BootHistory,
        heard: Option<BootId>,
        keep: impl Fn(u64) -> bool,
    ) -> Result<Result<bool, IdentityConflict>, Error> {
        let mut known = self.lock();
        let before = known.get(&raft_id).cloned().unwrap_or_default();
        if let Err(conflict) = follow(before.life, lives) {
            return Ok(Err(conflict));
        }
        let now = Known { life: Some(lives.current), heard: heard.or(before.heard) };
        let told = lives.current.count > 0 && keep(raft_id);
        if now == before || !told {
            return Ok(Ok(false));
        }
        let mut next = known.clone();
        next.retain(|raft_id, _| keep(*raft_id));
        next.insert(raft_id, now);
        self.engine.replace_file(PEERS, &encode(&next))?;
        *known = next;
        Ok(Ok(true))
    }

    fn lock(&self) -> MutexGuard<'_, ByPeer> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(known: Option<BootId>, lives: &BootHistory) -> Result<bool, IdentityConflict> {
    if plant::is(Plant::LivesIgnored) { Ok(true) } else { lives.follow(known) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sled;
    use super::*;

    fn lives(times: u64) -> BootHistory {
        let mut lives = BootHistory::default();
        (1..=times).for_each(|nonce| lives.begin(nonce));
        lives
    }

    #[test]
    fn golden_bytes() {
        let life = |count, nonce| Some(BootId { count, nonce });
        let known = ByPeer::from([(7, Known { life: life(2, 9), heard: None })]);
        let golden = "huskv-peers 1 7ef3ffc9\n{\n  \"7\": {\n    \"life\": {\n      \"count\": 2,\n      \"nonce\": 9\n    },\n    \
                      \"heard\": null\n  }\n}\n";
        assert_eq!(String::from_utf8(encode(&known)).unwrap(), golden);
        assert_eq!(decode(golden.as_bytes(), "d").unwrap(), known);
    }

    #[test]
    fn what_is_known_outlives_the_process_and_only_members_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        let peers = Peers::open(engine.clone()).unwrap();
        let members = |id| id != 9;
        let ours = BootId { count: 4, nonce: 4 };
        peers.meet(5, &lives(1), None, members).unwrap().unwrap();
        peers.meet(9, &lives(1), None, members).unwrap().unwrap();
        peers.meet(5, &lives(2), Some(ours), members).unwrap().unwrap();
        let peers = Peers::open(engine.clone()).unwrap();
        assert_eq!((peers.life(5), peers.heard(5)), (Some(lives(2).current), Some(ours)));
        assert_eq!(peers.life(9), None);
        assert!(peers.knows(5, lives(2).current, None) && !peers.knows(5, lives(1).current, None));
        peers.meet(6, &lives(1), None, |id| id == 6).unwrap().unwrap();
        assert_eq!((peers.life(5), peers.life(6)), (None, Some(lives(1).current)));
    }

    #[test]
    fn a_life_that_does_not_follow_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::open(sled(dir.path())).unwrap();
        peers.meet(5, &lives(3), None, |_| true).unwrap().unwrap();
        assert!(peers.check(5, &lives(2)).is_err() && peers.check(5, &lives(4)).is_ok());
        let conflict = peers.meet(5, &lives(2), None, |_| true).unwrap().unwrap_err();
        assert_eq!((conflict.known, conflict.said), (lives(3).current, lives(2).current));
        assert_eq!(peers.life(5), Some(lives(3).current));
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        engine.replace_file(PEERS, b"huskv-peers 1 00000000\n{}\n").unwrap();
        let error = Peers::open(engine).err().unwrap().to_string();
        assert!(error.contains("peers") && error.contains("checksum"), "{error}");
    }
}
