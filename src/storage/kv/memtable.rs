//! The memtable: recent batches in memory, flushed to the tree as one.
//!
//! Why: sled writes and syncs two of its buffers for every batch, however small. One batch per turn of the loop would cost two
//! more syncs than the journal's one. The journal is the durability: after a crash the lost batches are applied again from it.
//!
//! ```text
//!   apply ---> memtable (BTreeMap, <= 1 MiB, <= 512 changes) --flush, one batch--> sled tree
//!   read  ---> memtable first, then the tree                                         |
//!   snapshot <---------------------------- effects, after they are in the tree ------+
//! ```
//!
//! Invariants: buffered changes are bounded and shadow the tree. They are flushed whole and in one batch, so the tree is always
//! the state at some applied index. During a snapshot the same batch is passed to the snapshot, after it is in the tree.
//!
//! What is buffered, and what the engine has not written to its file yet, counts as used disk space already: a flush comes later,
//! and must find the space that the puts were accepted for.
//!
//! See also: `storage::kv::state_machine` (what a batch holds), `storage::snapshot` (why the snapshot is exact).

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::model::after;
use crate::plant::{self, Plant};
use crate::storage::engine::Pair;
use crate::storage::layout::CHUNK_BYTES;
use crate::storage::snapshot::send_spool::EffectSender;
use crate::storage::{Batch, Db, Error};

/// The maximum bytes of buffered changes.
const MEMTABLE_BYTES: usize = 1 << 20;

/// The maximum number of buffered changes; a flush must not block the loop for long.
const MEMTABLE_CHANGES: usize = 512;

/// The file bytes per byte written to the tree: puts of 1 MB took 1.8 (deletes 0.3 to 1.1 of the removed bytes).
const FILE_BYTES_PER_BYTE: u64 = 2;

/// The maximum file bytes that a sync of the tree takes: sled writes its segments of 4 MiB as they fill, so a few are left.
const MAX_SYNC_BYTES: u64 = 16 << 20;

/// A database with buffered changes on top.
pub(crate) struct Memtable {
    db: Arc<dyn Db>,
    buffered: Mutex<Buffered>,
}

/// Buffered changes: keys with new values, or None for a removal.
#[derive(Default)]
struct Buffered {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// The bytes that a flush writes or rewrites.
    flush_bytes: u64,
    /// The bytes flushed to the tree so far, when the last sync began, and as of the last sync that ended.
    flushed: u64,
    syncing: u64,
    synced: u64,
    /// The running snapshot, if any.
    snapshot: Option<EffectSender>,
}

impl Buffered {
    fn absorb(&mut self, batch: Batch) {
        for (key, value) in batch.changes {
            self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            // A removal rewrites a leaf, at the price of the chunk at most.
            self.flush_bytes += (key.len() + value.as_ref().map_or(CHUNK_BYTES, Vec::len)) as u64;
            self.changes.insert(key, value);
        }
    }

    /// Estimates the file bytes that a flush and a sync take.
    fn pending_bytes(&self) -> u64 {
        // Flushed is not written: sled buffers segments, so the space is still free for statvfs and promised already.
        // At most a few segments are, hence the bound.
        let unsynced = FILE_BYTES_PER_BYTE * (self.flushed - self.synced);
        FILE_BYTES_PER_BYTE * self.flush_bytes + unsynced.min(MAX_SYNC_BYTES)
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_, Vec<u8>, Option<Vec<u8>>> {
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.changes.range::<[u8], _>((Bound::Included(from), end))
    }
}

impl Memtable {
    /// Returns an empty memtable over `db`.
    pub fn new(db: Arc<dyn Db>) -> Self {
        Self { db, buffered: Mutex::default() }
    }

    /// Flushes the memtable and returns the database.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn flushed(&self) -> Result<Arc<dyn Db>, Error> {
        let mut buffered = self.buffered();
        self.flush(&mut buffered)?;
        buffered.syncing = buffered.flushed;
        Ok(self.db.clone())
    }

    /// Notes that a sync of the database has ended that [`Memtable::flushed`] returned last.
    pub fn synced(&self) {
        let mut buffered = self.buffered();
        buffered.synced = buffered.syncing;
    }

    /// Estimates the disk space that the changes so far still take: those buffered, and those the engine has not written.
    pub fn pending_bytes(&self) -> u64 {
        self.buffered().pending_bytes()
    }

    /// Flushes the memtable, starts to pass later flushes to the snapshot, and returns the database to scan. An earlier
    /// snapshot is aborted.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn begin_snapshot(&self, snapshot: EffectSender) -> Result<Arc<dyn Db>, Error> {
        let mut buffered = self.buffered();
        // First: what is flushed now is in the tree before the new scan begins, and the aborted snapshot needs it no
        // more.
        buffered.snapshot = None;
        self.flush(&mut buffered)?;
        buffered.snapshot = Some(snapshot);
        Ok(self.db.clone())
    }

    /// Flushes the memtable and returns the running snapshot, which has received everything now.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn end_snapshot(&self) -> Result<Option<EffectSender>, Error> {
        let mut buffered = self.buffered();
        self.flush(&mut buffered)?;
        Ok(buffered.snapshot.take())
    }

    /// Aborts the running snapshot.
    pub fn abort_snapshot(&self) {
        self.buffered().snapshot = None;
    }

    fn flush(&self, buffered: &mut Buffered) -> Result<(), Error> {
        if buffered.changes.is_empty() {
            return Ok(());
        }
        buffered.bytes = 0;
        buffered.flushed += std::mem::take(&mut buffered.flush_bytes);
        // Whole and in one batch, so that the tree is always the state at some applied index.
        // Five puts of one key between two flushes are one change: the map holds the last value of each key.
        let batch = Batch { changes: std::mem::take(&mut buffered.changes).into_iter().collect() };
        // Without a snapshot the batch is moved into the tree and not copied.
        let Some(snapshot) = &buffered.snapshot else { return self.db.write(batch) };
        self.db.write(batch.clone())?;
        // Only after the write, when the tree shows all of it: the snapshot is exact because of this order.
        if plant::is(Plant::SnapshotWithoutEffects) {
            return Ok(());
        }
        snapshot.push(batch);
        Ok(())
    }

    fn buffered(&self) -> MutexGuard<'_, Buffered> {
        self.buffered.lock().expect("no panic while the lock is held")
    }
}

impl Db for Memtable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.buffered().changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.db.get(key),
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.write(Batch { changes: vec![(key.to_vec(), Some(value.to_vec()))] })
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut buffered = self.buffered();
        buffered.absorb(batch);
        // Flushes on the thread that applies: 1 MiB or 512 changes take a few milliseconds.
        if buffered.bytes < MEMTABLE_BYTES && buffered.changes.len() < MEMTABLE_CHANGES {
            return Ok(());
        }
        self.flush(&mut buffered)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        let buffered = self.buffered();
        let (mut from, mut found) = (from.to_vec(), Vec::new());
        // Merges two sorted sources. The tree is read up to a known key `next`, and the buffered changes of the same range are laid
        // over it. Example, limit 2: the tree has a, b, c; the memtable deletes b and puts bb. Round one reads a, b from the tree
        // and merges up to b: [a]. Round two starts after b and finds bb: [a, bb].
        while found.len() < limit && to.is_none_or(|to| from.as_slice() < to) {
            let wanted = limit - found.len();
            let from_tree = self.db.scan(&from, to, wanted)?;
            // The tree is known up to here: its last pair, or the end of the range if there were fewer.
            let next = if from_tree.len() < wanted { None } else { from_tree.last().map(|(key, _)| after(key)) };
            let mut merged: BTreeMap<_, _> = from_tree.into_iter().map(|(key, value)| (key, Some(value))).collect();
            let changed = buffered.range(&from, next.as_deref().or(to));
            merged.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
            found.extend(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).take(wanted));
            let Some(next) = next else { break };
            from = next;
        }
        Ok(found)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        let buffered = self.buffered();
        // The tree has a, c; the memtable deletes c. The last pair below z: c of the tree is deleted, so the search
        // goes on below c and finds a.
        let mut end = to.to_vec();
        loop {
            let from_tree = self.db.last(from, &end)?;
            // The greatest key of both sources wins; of equal keys the buffered one.
            let Some((key, value)) = buffered.range(from, Some(&end)).next_back() else { return Ok(from_tree) };
            if from_tree.as_ref().is_some_and(|(from_tree, _)| from_tree > key) {
                return Ok(from_tree);
            }
            match value {
                Some(value) => return Ok(Some((key.clone(), value.clone()))),
                // The greatest key is deleted in the memtable: searches again below it.
                None => end.clone_from(key),
            }
        }
    }

    fn sync(&self) -> Result<(), Error> {
        self.flushed()?.sync()?;
        self.synced();
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk()
    }

    fn name(&self) -> &str {
        self.db.name()
    }

    fn directory(&self) -> &str {
        self.db.directory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::snapshot::send_spool::{Spool, Work};
    use crate::storage::tests::{Memory, Rng};

    fn put(key: &str, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        (key.into(), Some(value.into()))
    }

    fn pair(key: &str, value: &str) -> Pair {
        (key.into(), value.into())
    }

    #[test]
    fn buffered_changes_shadow_the_tree_in_reads_and_scans() {
        let tree = Arc::new(Memory::default());
        tree.write(Batch { changes: vec![put("a", "1"), put("b", "1"), put("c", "1"), put("d", "1")] }).unwrap();
        let memtable = Memtable::new(tree.clone());
        memtable.write(Batch { changes: vec![put("b", "2"), (b"c".to_vec(), None), put("e", "2")] }).unwrap();
        assert_eq!(tree.get(b"b").unwrap(), Some(b"1".to_vec()));
        assert_eq!(memtable.get(b"b").unwrap(), Some(b"2".to_vec()));
        assert_eq!(memtable.get(b"c").unwrap(), None);
        let all = [pair("a", "1"), pair("b", "2"), pair("d", "1"), pair("e", "2")];
        assert_eq!(memtable.scan(b"a", None, 10).unwrap(), all);
        assert_eq!(memtable.scan(b"b", Some(b"e"), 2).unwrap(), all[1..3]);
        let written = memtable.flushed().unwrap();
        assert_eq!(written.scan(b"a", None, 10).unwrap(), all);
    }

    #[test]
    fn any_range_is_that_of_the_tree_with_everything_written() {
        for seed in 0..300 {
            let mut rng = Rng(seed);
            let key = |rng: &mut Rng| format!("{:02}", rng.below(30)).into_bytes();
            let (tree, after) = (Arc::new(Memory::default()), Memory::default());
            let memtable = Memtable::new(tree.clone());
            for round in 0..40 {
                let value = (rng.below(3) > 0).then(|| format!("{round}").into_bytes());
                let batch = Batch { changes: vec![(key(&mut rng), value)] };
                after.write(batch.clone()).unwrap();
                if round < 20 { tree.write(batch).unwrap() } else { memtable.write(batch).unwrap() }
            }
            for _ in 0..20 {
                let (from, mut to) = (key(&mut rng), key(&mut rng));
                to.push(0);
                let limit = 1 + usize::try_from(rng.below(12)).unwrap();
                for (to, limit) in [(Some(&to[..]), limit), (None, limit), (Some(&to[..]), usize::MAX)] {
                    let found = memtable.scan(&from, to, limit).unwrap();
                    assert_eq!(found, after.scan(&from, to, limit).unwrap(), "seed {seed}");
                }
                if from <= to {
                    assert_eq!(memtable.last(&from, &to).unwrap(), after.last(&from, &to).unwrap(), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn pending_disk_space_is_what_is_buffered_and_what_is_not_synced() {
        let memtable = Memtable::new(Arc::new(Memory::default()));
        let put = |bytes: usize| memtable.put(b"key1", &vec![7; bytes]).unwrap();
        assert_eq!(memtable.pending_bytes(), 0);
        put(96);
        assert_eq!(memtable.pending_bytes(), 200, "twice the bytes of a buffered put");
        memtable.write(Batch { changes: vec![(b"key1".to_vec(), None)] }).unwrap();
        assert_eq!(memtable.pending_bytes(), 208 + 2 * CHUNK_BYTES as u64, "a removal counts as a chunk");
        memtable.flushed().unwrap();
        assert_eq!(memtable.pending_bytes(), 208 + 2 * CHUNK_BYTES as u64, "flushed is not synced");
        put(96);
        memtable.synced();
        assert_eq!(memtable.pending_bytes(), 200, "the sync covers what was flushed when it began");
        (0..20).for_each(|_| put(1 << 20));
        assert_eq!(memtable.pending_bytes(), MAX_SYNC_BYTES, "the engine holds back a few segments at most");
        memtable.sync().unwrap();
        assert_eq!(memtable.pending_bytes(), 0);
    }

    fn spooled(spool: &Spool) -> Vec<Batch> {
        match spool.work(true).unwrap() {
            Some(Work::Effects(effects)) => effects.into(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_limit_and_a_snapshot_flush_the_memtable() {
        let tree = Arc::new(Memory::default());
        let memtable = Memtable::new(tree.clone());
        for number in 0..MEMTABLE_CHANGES - 1 {
            memtable.put(format!("{number:04}").as_bytes(), b"x").unwrap();
        }
        assert_eq!(tree.get(b"0000").unwrap(), None);
        memtable.put(b"last", b"x").unwrap();
        assert_eq!(tree.scan(b"", None, usize::MAX).unwrap().len(), MEMTABLE_CHANGES);
        memtable.put(b"large", &vec![7; MEMTABLE_BYTES]).unwrap();
        assert!(tree.get(b"large").unwrap().is_some());
        memtable.put(b"one", b"1").unwrap();
        let spool = Arc::new(Spool::new(tempfile::tempfile().unwrap(), (1 << 20).into()));
        memtable.begin_snapshot(EffectSender::new(spool.clone())).unwrap();
        assert!(tree.get(b"one").unwrap().is_some(), "a copy begins with a tree that has everything");
        memtable.put(b"two", b"2").unwrap();
        assert_eq!(spooled(&spool).len(), 0, "it is not told of what the tree lacks");
        let line = memtable.end_snapshot().unwrap();
        assert!(tree.get(b"two").unwrap().is_some());
        assert_eq!(spooled(&spool), [Batch { changes: vec![put("two", "2")] }]);
        assert!(line.is_some() && memtable.end_snapshot().unwrap().is_none());
    }
}
