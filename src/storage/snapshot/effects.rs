//! The effects of a snapshot: what flushes change in the tree while it is scanned.
//!
//! Invariants: an effect is spooled after its change is in the tree, in the order of the changes, and only where the scan may have
//! missed it.
//!
//! See also: [`super`] (why the snapshot is exact), [`super::send_spool`] (where they wait).

use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::frames::frames;
use super::send_spool::Spool;
use crate::storage::{Change, Error};

/// The state machine's end of the spool; dropped without [`EffectSender::end`], the snapshot is aborted.
pub(crate) struct EffectSender {
    spool: Arc<Spool>,
}

impl EffectSender {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool }
    }

    /// Appends those of the changes just written to the tree that the scan may have missed. What cannot be appended aborts the
    /// snapshot, and nothing else.
    pub(crate) fn push(&self, changes: &[Change<'_>]) {
        let scan_end = self.spool.scan_end();
        let missed = changes.iter().copied().filter(|(key, _)| scan_end.is_behind(key));
        if let Err(failure) = frames(missed, |frame| self.spool.append(&frame)) {
            self.spool.fail(match failure {
                Error::Snapshot { detail } => detail,
                other => other.to_string(),
            });
        }
    }

    /// Ends the snapshot at this metadata.
    pub(crate) fn end(&self, metadata: SnapshotMetadata) {
        self.spool.end_at(metadata);
    }

    /// Aborts the snapshot.
    pub(crate) fn cancel(&self) {
        if !self.spool.has_ended() {
            self.spool.fail("it was cancelled");
        }
    }
}

impl Drop for EffectSender {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::super::send_spool::ScanEnd;
    use super::*;
    use crate::storage::layout::{Kind, chunk_key};
    use crate::storage::snapshot::frames::decode;

    fn spool(capacity: u64) -> Arc<Spool> {
        Arc::new(Spool::new(tempfile::tempfile().unwrap(), capacity.into()))
    }

    #[test]
    fn effects_on_what_is_still_to_be_scanned_are_left_out() {
        let spool = spool(1_000);
        let line = EffectSender::new(spool.clone());
        let spooled = |changes: &[Change<'_>]| {
            line.push(changes);
            spool.mark_due();
            spool.next().unwrap().map_or_else(Vec::new, |frame| {
                decode(&frame).unwrap().changes.into_iter().map(|(key, _)| key).collect()
            })
        };
        let keys = ["a", "b", "c"].map(|key| chunk_key(Kind::Data, key.as_bytes(), 0));
        let changes = [(&*keys[0], Some(&b"1"[..])), (&*keys[1], None), (&*keys[2], Some(&b"2"[..]))];
        assert_eq!(spooled(&changes), Vec::<Vec<u8>>::new(), "before the scan");
        spool.scan_to(ScanEnd::Before(keys[1].clone()));
        assert_eq!(spooled(&changes), keys[..1], "up to the end of the part that is scanned");
        spool.scan_to(ScanEnd::Tree);
        assert_eq!(spooled(&changes), keys, "from the last part on");
    }

    #[test]
    fn too_many_effects_abort_the_snapshot_and_not_the_flush() {
        let spool = spool(100);
        spool.scan_to(ScanEnd::Tree);
        let line = EffectSender::new(spool.clone());
        line.push(&[(&[1], Some(&[0; 200]))]);
        assert!(matches!(spool.work(true), Err(Error::Snapshot { .. })));
        assert!(matches!(spool.next(), Err(Error::Snapshot { .. })));
    }
}
