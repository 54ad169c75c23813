//! The peers file: the last known boot id of each peer.
//!
//! Why: a member and a clone of its disk differ only in the boot ids that others have seen. So each node records, for every
//! member, its last boot id, and which boot id of this node that member has seen, so that it can be named later.
//!
//! Invariants: durable before the peer is served in that boot. Written only when something is new (a restart of either end), as a
//! whole. A peer that reports no boot id is not recorded, because it does not have this node in its table yet. Removed raft ids
//! are dropped, so the file stays about as small as the member table.
//!
//! See also: `model::BootHistory` (the rule), `transport::shared_state` (the caller).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::checksummed_file::FileFormat;
use super::layout::{PEERS, PEERS_VERSION};
use super::{Engine, Error};
use crate::model::{BootHistory, BootId, IdentityConflict};
use crate::plant::{self, Plant};

const FORMAT: FileFormat = FileFormat { file: PEERS, magic: "huskv-peers", oldest: 1, version: PEERS_VERSION };

/// The record of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerRecord {
    /// Its last boot id.
    #[serde(rename = "life")]
    boot_id: Option<BootId>,
    /// The last boot id of this node that the peer has seen, as far as this node knows.
    heard: Option<BootId>,
    /// The name in its certificate, where it has spoken TLS; from then on nothing else is believed of the node of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
}

/// The most names of former members that have spoken TLS.
const MAX_FORMER_NAMES: usize = 1024;

/// Drops the records of former members, except that a name has spoken TLS where no present member has it.
fn prune(records: &mut PeerRecords, keep: impl Fn(u64) -> bool) {
    let present = |records: &PeerRecords, name: &str| {
        records.iter().any(|(raft_id, record)| keep(*raft_id) && record.tls.as_deref() == Some(name))
    };
    let mut former = BTreeMap::new();
    for (raft_id, record) in records.iter().filter(|(raft_id, _)| !keep(**raft_id)) {
        if let Some(name) = record.tls.clone().filter(|name| !present(records, name)) {
            former.insert(name, *raft_id);
        }
    }
    let former: std::collections::BTreeSet<u64> = former.into_values().take(MAX_FORMER_NAMES).collect();
    records.retain(|raft_id, _| keep(*raft_id) || former.contains(raft_id));
}

/// The content of the file.
pub(super) type PeerRecords = BTreeMap<u64, PeerRecord>;

/// Decodes the file.
///
/// # Errors
/// [`Error::Newer`] and [`Error::Damaged`], both naming `directory`.
pub(super) fn decode(bytes: &[u8], directory: &str) -> Result<PeerRecords, Error> {
    FORMAT.decode(bytes, directory)
}

/// Encodes the file.
pub(super) fn encode(known: &PeerRecords) -> Vec<u8> {
    FORMAT.encode(known)
}

/// The peers file and its content.
pub struct Peers {
    engine: Arc<dyn Engine>,
    known: Mutex<PeerRecords>,
}

impl Peers {
    /// Reads the file; without one no peer is known yet.
    ///
    /// # Errors
    /// [`Error`] where it is damaged, newer, or cannot be read.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Error> {
        let known = match engine.read_file(PEERS)? {
            Some(bytes) => decode(&bytes, &engine.path())?,
            None => PeerRecords::new(),
        };
        Ok(Self { engine, known: Mutex::new(known) })
    }

    /// Returns the last boot id of this peer.
    pub fn boot_id(&self, raft_id: u64) -> Option<BootId> {
        self.lock().get(&raft_id)?.boot_id
    }

    /// Returns the last boot id of this node that this peer has seen.
    pub fn heard(&self, raft_id: u64) -> Option<BootId> {
        self.lock().get(&raft_id)?.heard
    }

    /// Whether this peer has spoken TLS.
    pub fn spoke_tls(&self, raft_id: u64) -> bool {
        self.lock().get(&raft_id).is_some_and(|known| known.tls.is_some())
    }

    /// Whether a member of this name has spoken TLS, under any raft id; also where it was removed since.
    pub fn spoke_tls_as(&self, name: &str) -> bool {
        self.lock().values().any(|known| known.tls.as_deref() == Some(name))
    }

    /// Records that a peer has spoken TLS with a certificate of this name; durable on return. Records of other peers are retained as
    /// `keep` says.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be written; nothing is changed then.
    pub fn record_tls(&self, raft_id: u64, name: &str, keep: impl Fn(u64) -> bool) -> Result<(), Error> {
        let mut known = self.lock();
        if !keep(raft_id) || known.get(&raft_id).is_some_and(|known| known.tls.is_some()) {
            return Ok(());
        }
        let mut next = known.clone();
        next.entry(raft_id).or_default().tls = Some(name.to_owned());
        prune(&mut next, keep);
        self.replace(&mut known, next)
    }

    /// Forgets which peers have spoken TLS: this node does not speak it any more; durable on return.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be written; nothing is changed then.
    pub fn forget_tls(&self) -> Result<(), Error> {
        let mut known = self.lock();
        if known.values().all(|known| known.tls.is_none()) {
            return Ok(());
        }
        let mut next = known.clone();
        next.values_mut().for_each(|known| known.tls = None);
        self.replace(&mut known, next)
    }

    /// Writes the file before the memory is updated, so that a failed write changes nothing.
    fn replace(&self, known: &mut PeerRecords, next: PeerRecords) -> Result<(), Error> {
        self.engine.replace_file(PEERS, &encode(&next))?;
        *known = next;
        Ok(())
    }

    /// Whether [`Peers::record`] would have nothing to write.
    pub fn is_recorded(&self, raft_id: u64, boot_id: BootId, heard: Option<BootId>) -> bool {
        self.lock()
            .get(&raft_id)
            .is_some_and(|known| known.boot_id == Some(boot_id) && (heard.is_none() || known.heard == heard))
    }

    /// Checks that a peer with this boot history is the recorded one.
    ///
    /// # Errors
    /// [`IdentityConflict`]: it is not the recorded peer.
    pub fn check(&self, raft_id: u64, boot_history: &BootHistory) -> Result<(), IdentityConflict> {
        follow(self.boot_id(raft_id), boot_history).map(drop)
    }

    /// Records the boot id of a peer, and which boot id of this node it has `heard`, if that is certain; durable on
    /// return. Records of other peers are retained as `keep` says. Returns whether anything was new.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be written; inside, [`IdentityConflict`] if it is not the recorded peer. Nothing is
    /// changed then.
    pub fn record(
        &self,
        raft_id: u64,
        boot_history: &BootHistory,
        heard: Option<BootId>,
        keep: impl Fn(u64) -> bool,
    ) -> Result<Result<bool, IdentityConflict>, Error> {
        let mut known = self.lock();
        let before = known.get(&raft_id).cloned().unwrap_or_default();
        if let Err(conflict) = follow(before.boot_id, boot_history) {
            return Ok(Err(conflict));
        }
        // `heard` is only known for sure after the peer has sent a frame; otherwise the older record stays.
        let tls = before.tls.clone();
        let now = PeerRecord { boot_id: Some(boot_history.current), heard: heard.or(before.heard), tls };
        // Of a removed raft id nothing is recorded, or the file would get its record back after the removal.
        let is_recordable = boot_history.current.count > 0 && keep(raft_id);
        if now == before || !is_recordable {
            return Ok(Ok(false));
        }
        let mut next = known.clone();
        next.insert(raft_id, now);
        prune(&mut next, keep);
        self.replace(&mut known, next)?;
        Ok(Ok(true))
    }

    fn lock(&self) -> MutexGuard<'_, PeerRecords> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(known: Option<BootId>, boot_history: &BootHistory) -> Result<bool, IdentityConflict> {
    if plant::is(Plant::BootIdsIgnored) {
        return Ok(true);
    }
    boot_history.continues(known)
}

#[cfg(test)]
mod tests {
    use super::super::tests::sled;
    use super::*;

    fn boot_history(times: u64) -> BootHistory {
        let mut boot_history = BootHistory::default();
        (1..=times).for_each(|nonce| boot_history.start(nonce));
        boot_history
    }

    #[test]
    fn golden_bytes() {
        let boot_id = |count, nonce| Some(BootId { count, nonce });
        let plain = PeerRecord { boot_id: boot_id(2, 9), heard: None, tls: None };
        let records =
            "{\n  \"7\": {\n    \"life\": {\n      \"count\": 2,\n      \"nonce\": 9\n    },\n    \"heard\": null";
        let golden = format!("huskv-peers 2 7ef3ffc9\n{records}\n  }}\n}}\n");
        let known = PeerRecords::from([(7, plain.clone())]);
        assert_eq!(String::from_utf8(encode(&known)).unwrap(), golden);
        assert_eq!(decode(golden.as_bytes(), "d").unwrap(), known);
        // Version 1, which knew no TLS.
        let old = golden.replace("huskv-peers 2", "huskv-peers 1");
        assert_eq!(decode(old.as_bytes(), "d").unwrap(), known);
        let known = PeerRecords::from([(7, PeerRecord { tls: Some("kv2".into()), ..plain })]);
        let golden = format!("huskv-peers 2 0402eb38\n{records},\n    \"tls\": \"kv2\"\n  }}\n}}\n");
        assert_eq!(String::from_utf8(encode(&known)).unwrap(), golden);
        assert_eq!(decode(golden.as_bytes(), "d").unwrap(), known);
    }

    #[test]
    fn a_peer_that_spoke_tls_is_remembered_until_this_node_does_not_speak_it() {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        let peers = Peers::open(engine.clone()).unwrap();
        peers.record(5, &boot_history(1), None, |_| true).unwrap().unwrap();
        peers.record_tls(5, "kv5", |_| true).unwrap();
        peers.record_tls(6, "kv6", |id| id != 6).unwrap();
        peers.record(5, &boot_history(2), None, |_| true).unwrap().unwrap();
        let peers = Peers::open(engine.clone()).unwrap();
        assert!(peers.spoke_tls(5) && !peers.spoke_tls(6));
        assert!(peers.spoke_tls_as("kv5") && !peers.spoke_tls_as("kv6"));
        assert_eq!(peers.boot_id(5), Some(boot_history(2).current));
        // Its raft id is removed, and its name is remembered until it comes again under another one.
        peers.record(7, &boot_history(1), None, |id| id != 5).unwrap().unwrap();
        assert!(peers.spoke_tls_as("kv5"));
        peers.record_tls(8, "kv5", |id| id != 5).unwrap();
        assert!(!peers.spoke_tls(5) && peers.spoke_tls(8) && peers.spoke_tls_as("kv5"));
        peers.record(5, &boot_history(2), None, |_| true).unwrap().unwrap();
        peers.forget_tls().unwrap();
        assert!(!Peers::open(engine).unwrap().spoke_tls(5) && peers.boot_id(5).is_some());
    }

    #[test]
    fn records_survive_the_process_and_only_members_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        let peers = Peers::open(engine.clone()).unwrap();
        let members = |id| id != 9;
        let ours = BootId { count: 4, nonce: 4 };
        peers.record(5, &boot_history(1), None, members).unwrap().unwrap();
        peers.record(9, &boot_history(1), None, members).unwrap().unwrap();
        peers.record(5, &boot_history(2), Some(ours), members).unwrap().unwrap();
        let peers = Peers::open(engine.clone()).unwrap();
        assert_eq!((peers.boot_id(5), peers.heard(5)), (Some(boot_history(2).current), Some(ours)));
        assert_eq!(peers.boot_id(9), None);
        assert!(
            peers.is_recorded(5, boot_history(2).current, None) && !peers.is_recorded(5, boot_history(1).current, None)
        );
        peers.record(6, &boot_history(1), None, |id| id == 6).unwrap().unwrap();
        assert_eq!((peers.boot_id(5), peers.boot_id(6)), (None, Some(boot_history(1).current)));
    }

    #[test]
    fn a_conflicting_boot_history_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::open(sled(dir.path())).unwrap();
        peers.record(5, &boot_history(3), None, |_| true).unwrap().unwrap();
        assert!(peers.check(5, &boot_history(2)).is_err() && peers.check(5, &boot_history(4)).is_ok());
        let conflict = peers.record(5, &boot_history(2), None, |_| true).unwrap().unwrap_err();
        assert_eq!((conflict.known, conflict.claimed), (boot_history(3).current, boot_history(2).current));
        assert_eq!(peers.boot_id(5), Some(boot_history(3).current));
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
