//! fjall behind the trait. The only place that names it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::range::is_empty;
use crate::{
    Batch, Engine, EngineError, KeyRange, Order, Pair, Pairs, Snapshot, StorageBackend, failed,
};

/// How much memory and disk the engine may take.
#[derive(Debug, Clone)]
pub struct FjallOptions {
    /// Bytes of blocks and descriptors kept in memory.
    pub cache_bytes: u64,
    /// Bytes that a space gathers in memory before they become a table.
    pub memtable_bytes: u64,
    /// Bytes of write-ahead files at which spaces are flushed to free them; at least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact.
    pub workers: usize,
}

impl Default for FjallOptions {
    fn default() -> Self {
        FjallOptions {
            cache_bytes: 16 << 20,
            memtable_bytes: 8 << 20,
            journal_bytes: 64 << 20,
            workers: 2,
        }
    }
}

/// Opens or makes the engine in a folder, with these spaces.
pub fn open_fjall(
    dir: &Path,
    spaces: &[&'static str],
    options: FjallOptions,
) -> Result<Engine, EngineError> {
    let db = Database::builder(dir)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 << 20))
        .worker_threads(options.workers.max(1))
        .open()
        .map_err(|error| translate(dir, error))?;
    let engine = Fjall {
        dir: dir.into(),
        db,
        options,
        spaces: RwLock::default(),
        structure: Mutex::new(()),
    };
    let mut keyspaces = HashMap::new();
    for space in spaces {
        keyspaces.insert(*space, engine.keyspace(space)?);
    }
    *engine.spaces.write() = Arc::new(keyspaces);
    Ok(Arc::new(engine))
}

type Keyspaces = HashMap<&'static str, Keyspace>;

struct Fjall {
    dir: PathBuf,
    db: Database,
    options: FjallOptions,
    spaces: RwLock<Arc<Keyspaces>>,
    /// Held while a space is dropped or ingested.
    structure: Mutex<()>,
}

impl Fjall {
    fn keyspace(&self, space: &str) -> Result<Keyspace, EngineError> {
        let memtable = self.options.memtable_bytes;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        self.db.keyspace(space, options).map_err(|error| translate(&self.dir, error))
    }

    fn view(&self) -> View {
        let spaces = self.spaces.read();
        View { dir: self.dir.clone(), at: self.db.snapshot(), spaces: Arc::clone(&spaces) }
    }
}

fn translate(dir: &Path, error: ::fjall::Error) -> EngineError {
    let dir = dir.to_path_buf();
    match error {
        ::fjall::Error::Io(source) => EngineError::Io { dir, source },
        other => EngineError::Corrupt { dir, what: other.to_string() },
    }
}

/// A snapshot together with the spaces as they were then, so that a dropped space stays readable.
struct View {
    dir: PathBuf,
    at: ::fjall::Snapshot,
    spaces: Arc<Keyspaces>,
}

impl View {
    fn keyspace(&self, space: &str) -> Result<&Keyspace, EngineError> {
        self.spaces.get(space).ok_or_else(|| EngineError::UnknownSpace(space.into()))
    }

    fn pairs(&self, space: &str, range: KeyRange, order: Order) -> Pairs<'static> {
        let keyspace = match self.keyspace(space) {
            Ok(keyspace) => keyspace,
            Err(error) => return failed(error),
        };
        if is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let dir = self.dir.clone();
        let read = move |guard: ::fjall::Guard| -> Result<Pair, EngineError> {
            let (key, value) = guard.into_inner().map_err(|error| translate(&dir, error))?;
            Ok((key.into(), value.into()))
        };
        let pairs = self.at.range(keyspace, range);
        match order {
            Order::Ascending => Box::new(pairs.map(read)),
            Order::Descending => Box::new(pairs.rev().map(read)),
        }
    }
}

impl Snapshot for View {
    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.at.get(self.keyspace(space)?, key);
        Ok(value.map_err(|error| translate(&self.dir, error))?.map(Bytes::from))
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.pairs(space, range, order)
    }
}

impl StorageBackend for Fjall {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let spaces = Arc::clone(&self.spaces.read());
        let mut changes = self.db.batch();
        for change in batch.into_changes() {
            let Some(keyspace) = spaces.get(change.space) else {
                return Err(EngineError::UnknownSpace(change.space.into()));
            };
            match change.value {
                Some(value) => changes.insert(keyspace, change.key, value),
                None => changes.remove(keyspace, change.key),
            }
        }
        changes.commit().map_err(|error| translate(&self.dir, error))
    }

    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let spaces = self.spaces.read();
        let keyspace = spaces.get(space).ok_or_else(|| EngineError::UnknownSpace(space.into()))?;
        let value = keyspace.get(key).map_err(|error| translate(&self.dir, error))?;
        Ok(value.map(Bytes::from))
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.view().pairs(space, range, order)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(self.view()))
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.db.persist(PersistMode::SyncData).map_err(|error| translate(&self.dir, error))
    }

    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError> {
        let _structure = self.structure.lock();
        let view = self.view();
        let keyspace = view.keyspace(space)?;
        let failed = |error| translate(&self.dir, error);
        if !keyspace.is_empty().map_err(failed)? {
            return Err(EngineError::Misuse(format!("ingest into space {space}: not empty")));
        }
        let mut ingestion = keyspace.start_ingestion().map_err(failed)?;
        let mut last: Option<Bytes> = None;
        for pair in sorted {
            let (key, value) = pair?;
            if last.is_some_and(|last| last >= key) {
                return Err(EngineError::Misuse(format!("ingest into space {space}: not sorted")));
            }
            ingestion.write(key.clone(), value).map_err(failed)?;
            last = Some(key);
        }
        ingestion.finish().map_err(failed)
    }

    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        let mut size = 0;
        for pair in self.view().pairs(space, range, Order::Ascending) {
            let (key, value) = pair?;
            size += (key.len() + value.len()) as u64;
        }
        Ok(size)
    }

    fn disk_size(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }

    fn drop_space(&self, space: &str) -> Result<(), EngineError> {
        let _structure = self.structure.lock();
        let mut spaces = self.spaces.write();
        let Some((name, old)) = spaces.get_key_value(space).map(|(n, k)| (*n, k.clone())) else {
            return Err(EngineError::UnknownSpace(space.into()));
        };
        self.db.delete_keyspace(old).map_err(|error| translate(&self.dir, error))?;
        let mut replaced = Keyspaces::clone(&spaces);
        replaced.insert(name, self.keyspace(name)?);
        *spaces = Arc::new(replaced);
        Ok(())
    }
}
