//! The tree with its latest changes in memory: written behind, many batches as one.
//!
//! Why: sled writes and syncs two of its buffers for every batch, whatever it holds; a batch for every turn of the loop
//! would cost two more syncs than the journal's one. The journal is the durability: after a crash it repeats what was only
//! here, so nothing is lost but the repetition's milliseconds.
//!
//! Laws: what is kept back is bounded, and is read before the tree is. It goes into the tree whole and in one batch, so
//! the tree is always the state at some applied index. While the tree is copied, the copy is handed what goes into it, and
//! only when it is there.
//!
//! Not here: what a batch means (`storage::kv::state_machine`), and why the copy is exact (`storage::snapshot`).

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::model::after;
use crate::plant::{self, Plant};
use crate::storage::engine::Pair;
use crate::storage::snapshot::spool::Line;
use crate::storage::{Batch, Db, Error};

/// The most bytes that are kept back.
const KEPT_BYTES: usize = 1 << 20;

/// The most changes that are kept back; writing them must not hold the loop up for long.
const KEPT_CHANGES: usize = 512;

/// A database whose batches are gathered.
pub(crate) struct Memtable {
    db: Arc<dyn Db>,
    kept: Mutex<Buffered>,
}

/// What is not in the tree yet: keys with their new values, or None for a removal.
#[derive(Default)]
struct Buffered {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// The copy being made, if any.
    copy: Option<Line>,
}

impl Buffered {
    fn take(&mut self, batch: Batch) {
        for (key, value) in batch.changes {
            self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            self.changes.insert(key, value);
        }
    }

    fn range(&self, from: &[u8], to: Option<&[u8]>) -> Range<'_, Vec<u8>, Option<Vec<u8>>> {
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.changes.range::<[u8], _>((Bound::Included(from), end))
    }
}

impl Memtable {
    /// Gathers what is written to `db`; nothing is kept back yet.
    pub fn new(db: Arc<dyn Db>) -> Self {
        Self { db, kept: Mutex::default() }
    }

    /// The database itself, after everything kept back was written to it.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn written(&self) -> Result<Arc<dyn Db>, Error> {
        self.write_out(&mut self.kept())?;
        Ok(self.db.clone())
    }

    /// Begins to tell a copy of what goes into the tree; the database to copy, with everything in it that was kept back.
    /// A copy that was being made is aborted.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn begin_copy(&self, copy: Line) -> Result<Arc<dyn Db>, Error> {
        let mut kept = self.kept();
        kept.copy = None;
        self.write_out(&mut kept)?;
        kept.copy = Some(copy);
        Ok(self.db.clone())
    }

    /// The copy being made, which has been told of everything now.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn end_copy(&self) -> Result<Option<Line>, Error> {
        let mut kept = self.kept();
        self.write_out(&mut kept)?;
        Ok(kept.copy.take())
    }

    /// Tells no copy any more.
    pub fn abort_copy(&self) {
        self.kept().copy = None;
    }

    fn write_out(&self, kept: &mut Buffered) -> Result<(), Error> {
        if kept.changes.is_empty() {
            return Ok(());
        }
        kept.bytes = 0;
        let batch = Batch { changes: std::mem::take(&mut kept.changes).into_iter().collect() };
        let Some(copy) = &kept.copy else { return self.db.write(batch) };
        self.db.write(batch.clone())?;
        // Only now, when all of it can be read from the tree: the copy is exact because of this order.
        if !plant::is(Plant::CopyWithoutEffects) {
            copy.push(batch);
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Buffered> {
        self.kept.lock().expect("nothing panics while it holds what is kept back")
    }
}

impl Db for Memtable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.kept().changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.db.get(key),
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.write(Batch { changes: vec![(key.to_vec(), Some(value.to_vec()))] })
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut kept = self.kept();
        kept.take(batch);
        if kept.bytes < KEPT_BYTES && kept.changes.len() < KEPT_CHANGES {
            return Ok(());
        }
        self.write_out(&mut kept)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        let kept = self.kept();
        let (mut from, mut found) = (from.to_vec(), Vec::new());
        while found.len() < limit && to.is_none_or(|to| from.as_slice() < to) {
            let wanted = limit - found.len();
            let below = self.db.scan(&from, to, wanted)?;
            // Up to here it is known what the tree holds: to its last pair, or to the end where there were fewer.
            let next = if below.len() < wanted { None } else { below.last().map(|(key, _)| after(key)) };
            let mut merged: BTreeMap<_, _> = below.into_iter().map(|(key, value)| (key, Some(value))).collect();
            let changed = kept.range(&from, next.as_deref().or(to));
            merged.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
            found.extend(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).take(wanted));
            let Some(next) = next else { break };
            from = next;
        }
        Ok(found)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        let kept = self.kept();
        let mut end = to.to_vec();
        loop {
            let below = self.db.last(from, &end)?;
            let Some((key, value)) = kept.range(from, Some(&end)).next_back() else { return Ok(below) };
            if below.as_ref().is_some_and(|(below, _)| below > key) {
                return Ok(below);
            }
            match value {
                Some(value) => return Ok(Some((key.clone(), value.clone()))),
                None => end.clone_from(key),
            }
        }
    }

    fn sync(&self) -> Result<(), Error> {
        self.written()?.sync()
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
    use crate::storage::snapshot::spool::{Spool, Work};
    use crate::storage::tests::{Dice, Memory};

    fn put(key: &str, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        (key.into(), Some(value.into()))
    }

    fn pair(key: &str, value: &str) -> Pair {
        (key.into(), value.into())
    }

    #[test]
    fn what_is_kept_back_is_read_before_the_tree_and_scanned_with_it() {
        let tree = Arc::new(Memory::default());
        tree.write(Batch { changes: vec![put("a", "1"), put("b", "1"), put("c", "1"), put("d", "1")] }).unwrap();
        let behind = Memtable::new(tree.clone());
        behind.write(Batch { changes: vec![put("b", "2"), (b"c".to_vec(), None), put("e", "2")] }).unwrap();
        assert_eq!(tree.get(b"b").unwrap(), Some(b"1".to_vec()));
        assert_eq!(behind.get(b"b").unwrap(), Some(b"2".to_vec()));
        assert_eq!(behind.get(b"c").unwrap(), None);
        let all = [pair("a", "1"), pair("b", "2"), pair("d", "1"), pair("e", "2")];
        assert_eq!(behind.scan(b"a", None, 10).unwrap(), all);
        assert_eq!(behind.scan(b"b", Some(b"e"), 2).unwrap(), all[1..3]);
        let written = behind.written().unwrap();
        assert_eq!(written.scan(b"a", None, 10).unwrap(), all);
    }

    #[test]
    fn any_range_is_that_of_the_tree_with_everything_written() {
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let key = |dice: &mut Dice| format!("{:02}", dice.below(30)).into_bytes();
            let (tree, after) = (Arc::new(Memory::default()), Memory::default());
            let behind = Memtable::new(tree.clone());
            for round in 0..40 {
                let value = (dice.below(3) > 0).then(|| format!("{round}").into_bytes());
                let batch = Batch { changes: vec![(key(&mut dice), value)] };
                after.write(batch.clone()).unwrap();
                if round < 20 { tree.write(batch).unwrap() } else { behind.write(batch).unwrap() }
            }
            for _ in 0..20 {
                let (from, mut to) = (key(&mut dice), key(&mut dice));
                to.push(0);
                let limit = 1 + usize::try_from(dice.below(12)).unwrap();
                for (to, limit) in [(Some(&to[..]), limit), (None, limit), (Some(&to[..]), usize::MAX)] {
                    let found = behind.scan(&from, to, limit).unwrap();
                    assert_eq!(found, after.scan(&from, to, limit).unwrap(), "seed {seed}");
                }
                if from <= to {
                    assert_eq!(behind.last(&from, &to).unwrap(), after.last(&from, &to).unwrap(), "seed {seed}");
                }
            }
        }
    }

    fn spooled(spool: &Spool) -> Vec<Batch> {
        match spool.work(true).unwrap() {
            Some(Work::Effects(effects)) => effects.into(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_bound_and_a_copy_write_everything_to_the_tree() {
        let tree = Arc::new(Memory::default());
        let behind = Memtable::new(tree.clone());
        for number in 0..KEPT_CHANGES - 1 {
            behind.put(format!("{number:04}").as_bytes(), b"x").unwrap();
        }
        assert_eq!(tree.get(b"0000").unwrap(), None);
        behind.put(b"last", b"x").unwrap();
        assert_eq!(tree.scan(b"", None, usize::MAX).unwrap().len(), KEPT_CHANGES);
        behind.put(b"large", &vec![7; KEPT_BYTES]).unwrap();
        assert!(tree.get(b"large").unwrap().is_some());
        behind.put(b"one", b"1").unwrap();
        let spool = Arc::new(Spool::new(tempfile::tempfile().unwrap(), (1 << 20).into()));
        behind.begin_copy(Line::new(spool.clone())).unwrap();
        assert!(tree.get(b"one").unwrap().is_some(), "a copy begins with a tree that has everything");
        behind.put(b"two", b"2").unwrap();
        assert_eq!(spooled(&spool).len(), 0, "it is not told of what the tree lacks");
        let line = behind.end_copy().unwrap();
        assert!(tree.get(b"two").unwrap().is_some());
        assert_eq!(spooled(&spool), [Batch { changes: vec![put("two", "2")] }]);
        assert!(line.is_some() && behind.end_copy().unwrap().is_none());
    }
}
