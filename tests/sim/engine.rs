//! A disk in memory that keeps at a crash what was synced, and any prefix of what was not.
//!
//! Laws: a prefix is what the real engine can lose down to, since it writes and syncs its buffers in order. A batch is
//! one step of that order. Small files are replaced durably, as the seam promises. A lit fuse lets a number of writes and
//! syncs pass and fails every one after that: a process that crashes between two effects.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};

use huskv::storage::{Batch, Db, Engine, Error};

use crate::rng::Rng;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// How many more writes and syncs pass; None for all.
type Fuse = Arc<Mutex<Option<u64>>>;

fn burn(fuse: &Fuse) -> Result<(), Error> {
    let mut left = fuse.lock().expect("no test panics while it holds this lock");
    match left.as_mut() {
        Some(0) => Err(Error::Io {
            what: "the simulated process crashed".into(),
            path: "the simulated directory".into(),
            source: std::io::Error::other("crash"),
        }),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

#[derive(Default)]
struct Content {
    now: Map,
    synced: Map,
    /// What was written since, in order.
    unsynced: Vec<Batch>,
}

impl Content {
    fn write(&mut self, batch: Batch) {
        apply(&mut self.now, &batch);
        self.unsynced.push(batch);
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

/// One simulated database.
#[derive(Clone, Default)]
pub struct SimDb(Arc<Mutex<Content>>, Fuse);

impl SimDb {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("no test panics while it holds this lock")
    }
}

impl Db for SimDb {
    fn name(&self) -> &str {
        "a simulated database"
    }

    fn directory(&self) -> &str {
        "the simulated directory"
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.content().now.get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        burn(&self.1)?;
        self.content().write(Batch { changes: vec![(key.to_vec(), Some(value.to_vec()))] });
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        burn(&self.1)?;
        self.content().write(batch);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let content = self.content();
        let below = |key: &Vec<u8>| to.is_none_or(|to| key.as_slice() < to);
        let found = content.now.range(from.to_vec()..).take_while(|(key, _)| below(key)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        let content = self.content();
        let found = content.now.range(from.to_vec()..to.to_vec()).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn sync(&self) -> Result<(), Error> {
        burn(&self.1)?;
        let mut content = self.content();
        for batch in std::mem::take(&mut content.unsynced) {
            apply(&mut content.synced, &batch);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Disk {
    databases: BTreeMap<String, SimDb>,
    files: BTreeMap<String, Vec<u8>>,
    fuse: Fuse,
}

/// One simulated directory; clones are the same directory.
#[derive(Clone, Default)]
pub struct SimEngine(Arc<Mutex<Disk>>);

impl SimEngine {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds this lock")
    }

    /// The directory as a crash leaves it: a new one, since the old process may still hold handles to what was.
    pub fn crashed(&self, rng: &mut Rng) -> Self {
        let disk = self.disk();
        let fuse = Fuse::default();
        let databases = disk.databases.iter().map(|(name, db)| {
            let content = db.content();
            let mut kept = content.synced.clone();
            let survives = rng.below(content.unsynced.len() as u64 + 1);
            for batch in content.unsynced.iter().take(usize::try_from(survives).expect("a length fits")) {
                apply(&mut kept, batch);
            }
            (
                name.clone(),
                SimDb(
                    Arc::new(Mutex::new(Content { now: kept.clone(), synced: kept, unsynced: Vec::new() })),
                    fuse.clone(),
                ),
            )
        });
        Self(Arc::new(Mutex::new(Disk {
            databases: databases.collect(),
            files: disk.files.clone(),
            fuse: fuse.clone(),
        })))
    }

    /// Lets `effects` more writes and syncs pass, then none.
    pub fn light_fuse(&self, effects: u64) {
        *self.disk().fuse.lock().expect("no test panics while it holds this lock") = Some(effects);
    }

    /// Whether the fuse has burnt down.
    pub fn crashed_by_fuse(&self) -> bool {
        *self.disk().fuse.lock().expect("no test panics while it holds this lock") == Some(0)
    }
}

impl Engine for SimEngine {
    fn open(&self, name: &str, create: bool, _cache_bytes: u64) -> Result<Arc<dyn Db>, Error> {
        let mut disk = self.disk();
        if !create && !disk.databases.contains_key(name) {
            return Err(Error::Damaged {
                what: name.to_owned(),
                detail: "it is missing".into(),
                path: "the simulated directory".into(),
            });
        }
        let fuse = disk.fuse.clone();
        let db = disk.databases.entry(name.to_owned()).or_insert_with(|| SimDb(Arc::default(), fuse));
        Ok(Arc::new(db.clone()))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let below = format!("{name}/");
        self.disk().databases.retain(|known, _| known != name && !known.starts_with(&below));
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let disk = self.disk();
        let names = disk.databases.keys().chain(disk.files.keys());
        let mut found: Vec<String> =
            names.filter_map(|name| name.strip_prefix(&prefix)?.split('/').next().map(str::to_owned)).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.disk().files.get(name).cloned())
    }

    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        burn(&self.disk().fuse)?;
        self.disk().files.insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn scratch(&self) -> Result<File, Error> {
        tempfile::tempfile().map_err(|source| Error::Io {
            what: "no scratch file".into(),
            path: "the simulated directory".into(),
            source,
        })
    }

    fn path(&self) -> String {
        "the simulated directory".into()
    }
}
