//! fjall behind the trait. The only place that names it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::fjall::{Database, Error, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::mark::{self, Found, Mark, MarkFile};
use crate::range::is_empty;
use crate::wal::{Sealed, ascending, cut_tail, sync_newest};
use crate::{
    Batch, Engine, EngineError, KeyRange, Order, Pair, Pairs, Snapshot, StorageBackend, check_key,
    failed,
};

/// A sync that takes no longer than this may hold up writes …
const SYNC_IS_SHORT: Duration = Duration::from_millis(5);
/// … and until one is as short, so many are made ahead at most.
const SYNCS_AHEAD: usize = 3;

/// How much memory and disk the engine may take.
#[derive(Debug, Clone)]
pub struct FjallOptions {
    /// Bytes of blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes that a space gathers in memory before they become a table. Counts for a space when
    /// it is made; later opens keep it.
    pub memtable_bytes: u64,
    /// Bytes of write-ahead files at which spaces are flushed to free them; at least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact. fjall's first one never compacts, and spins while there is
    /// more to compact than the others take: with two that is during every compaction.
    pub workers: usize,
    /// How many table files are kept open.
    pub open_files: usize,
}

impl Default for FjallOptions {
    fn default() -> Self {
        FjallOptions {
            cache_bytes: 16 << 20,
            memtable_bytes: 8 << 20,
            journal_bytes: 64 << 20,
            workers: 4,
            open_files: 256,
        }
    }
}

/// The space that holds what the engine must know of itself.
const OWN_SPACE: &str = "~engine";
/// The last persist; see [`mark`].
const MARK_KEY: &[u8] = b"mark";
/// The names of the spaces at the last persist, since fjall takes one that lost its list of tables
/// for one that was never finished.
const SPACES_KEY: &[u8] = b"spaces";
/// The space that is being dropped, and so may be missing.
const DROPPING_KEY: &[u8] = b"dropping";

/// Opens or makes the engine in a folder, with these spaces. A space that is named anew is empty.
/// What it finds is durable when this returns.
///
/// The folder stays locked until the engine and all its snapshots and iterators are gone.
pub fn open_fjall(
    dir: &Path,
    spaces: &[&'static str],
    options: FjallOptions,
) -> Result<Engine, EngineError> {
    if let Some(space) =
        spaces.iter().find(|name| name.is_empty() || name.len() > 200 || **name == OWN_SPACE)
    {
        return Err(EngineError::Misuse(format!("a space cannot be named {space:?}")));
    }
    let io = |source| from_io(dir, source);
    let tables = dir.join("tables");
    std::fs::create_dir_all(&tables).map_err(io)?;
    let file = MarkFile::open(&dir.join("mark")).map_err(io)?;
    let mark = match file.read().map_err(io)? {
        Found::Nothing => None,
        Found::Mark(mark) => Some(mark),
        Found::Damaged => return Err(corrupt(dir, "the mark of the last persist is unreadable")),
        Found::Foreign(format) => {
            let what = format!("{format}, this version knows {}", mark::FORMAT);
            return Err(EngineError::Version { dir: dir.into(), what });
        }
    };
    if let Some(what) = crate::manifest::damaged(&tables).map_err(io)? {
        return Err(corrupt(dir, what));
    }
    let mut in_order = ascending(&tables).map_err(io)?;
    if in_order == (true, false) {
        cut_tail(&tables, mark).map_err(io)?;
        in_order = ascending(&tables).map_err(io)?;
    }
    if in_order != (true, true) {
        return Err(corrupt(dir, "its write-ahead files are out of order"));
    }
    let sealed = Sealed::look(&tables).map_err(io)?;
    let db = match open_database(dir, &tables, &options) {
        Err(Opening::TornTail) => {
            cut_tail(&tables, mark).map_err(io)?;
            open_database(dir, &tables, &options).map_err(|error| error.or_corrupt(dir))?
        }
        opened => opened.map_err(|error| error.or_corrupt(dir))?,
    };
    if let Some(path) = sealed.cut().map_err(io)? {
        return Err(corrupt(dir, format!("{} ends too early", path.display())));
    }
    let fjall = Fjall {
        dir: dir.into(),
        options,
        current: RwLock::new(Arc::new(View {
            dir: dir.into(),
            at: db.snapshot(),
            spaces: Arc::default(),
        })),
        db,
        writer: Mutex::new((file, 0)),
        written: AtomicBool::new(true),
    };
    // A panic in here is fjall tripping over damage.
    let opened = catch_unwind(AssertUnwindSafe(|| fjall.open_spaces(spaces, mark)));
    opened.unwrap_or_else(|_| Err(corrupt(dir, "its spaces cannot be read")))?;
    // A killed process may have left writes that only the system's memory holds.
    fjall.persist()?;
    Ok(Arc::new(fjall))
}

/// Why fjall did not open.
enum Opening {
    /// Its write-ahead file has an entry that is not whole. Behind the mark that is no damage.
    TornTail,
    Failed(EngineError),
}

impl Opening {
    fn or_corrupt(self, dir: &Path) -> EngineError {
        match self {
            Opening::TornTail => corrupt(dir, "it, or its write-ahead file, is unreadable"),
            Opening::Failed(error) => error,
        }
    }
}

fn open_database(dir: &Path, tables: &Path, options: &FjallOptions) -> Result<Database, Opening> {
    let open = || {
        Database::builder(tables)
            .cache_size(options.cache_bytes)
            .max_cached_files(Some(options.open_files.max(16)))
            .max_journaling_size(options.journal_bytes.max(64 << 20))
            .worker_threads(options.workers.max(1))
            .open()
    };
    // fjall trusts some of what it reads while it opens, and panics when that is damaged or torn.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(Error::JournalRecovery(_) | Error::Decompress(_))) => Err(Opening::TornTail),
        Ok(Err(error)) => Err(Opening::Failed(translate(dir, error))),
        Err(_) => Err(Opening::TornTail),
    }
}

type Keyspaces = HashMap<&'static str, Keyspace>;

struct Fjall {
    dir: PathBuf,
    db: Database,
    options: FjallOptions,
    /// What readers see: the state between two writes. A snapshot that is taken while a batch is
    /// being applied may show half of it, because fjall's flushes move the visible moment on.
    current: RwLock<Arc<View>>,
    /// Held by whoever changes anything, until `current` shows it: the file of the mark, and the
    /// number of the last persist.
    writer: Mutex<(MarkFile, u64)>,
    /// Whether anything was written since the last persist.
    written: AtomicBool,
}

impl Fjall {
    fn open_spaces(&self, spaces: &[&'static str], mark: Option<Mark>) -> Result<(), EngineError> {
        let own = HashMap::from([(OWN_SPACE, self.keyspace(OWN_SPACE)?)]);
        self.show(own.clone());
        let found = self.get(OWN_SPACE, MARK_KEY)?.and_then(|bytes| Mark::decode(&bytes));
        let (found, wanted) = (found.map_or(0, |mark| mark.number), mark.map_or(0, |m| m.number));
        if found < wanted {
            let what = format!("persist {wanted} is missing, it ends with persist {found}");
            return Err(corrupt(&self.dir, what));
        }
        self.writer.lock().1 = found;

        let had = self.get(OWN_SPACE, SPACES_KEY)?.unwrap_or_default();
        let dropping = self.get(OWN_SPACE, DROPPING_KEY)?;
        let mut keyspaces = own;
        for space in spaces {
            let name = space.as_bytes();
            if had.split(|byte| *byte == 0).any(|had| had == name)
                && !self.db.keyspace_exists(space)
                && dropping.as_deref() != Some(name)
            {
                return Err(corrupt(&self.dir, format!("the space {space} is missing")));
            }
            keyspaces.insert(space, self.keyspace(space)?);
        }
        self.show(keyspaces);
        Ok(())
    }

    fn keyspace(&self, space: &str) -> Result<Keyspace, EngineError> {
        let memtable = self.options.memtable_bytes;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        self.db.keyspace(space, options).map_err(|error| self.translate(error))
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.current.read())
    }

    /// Lets readers see what was written. No batch may be under way.
    fn show(&self, spaces: impl Into<Arc<Keyspaces>>) {
        let view = View { dir: self.dir.clone(), at: self.db.snapshot(), spaces: spaces.into() };
        *self.current.write() = Arc::new(view);
    }

    fn translate(&self, error: Error) -> EngineError {
        translate(&self.dir, error)
    }

    /// Syncs what was written so far without a lock. fjall holds its own while it syncs, which
    /// holds up every write: this leaves it little to sync.
    fn sync_ahead(&self) -> Result<(), EngineError> {
        let io = |source| from_io(&self.dir, source);
        let tables = self.dir.join("tables");
        for _ in 0..SYNCS_AHEAD {
            let begun = Instant::now();
            self.db.persist(PersistMode::Buffer).map_err(|error| self.translate(error))?;
            sync_newest(&tables).map_err(io)?;
            if begun.elapsed() < SYNC_IS_SHORT {
                break;
            }
        }
        Ok(())
    }

    /// Writes and shows a batch; the caller holds `writer`.
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let spaces = Arc::clone(&self.view().spaces);
        // Not handed to the system at once: only a persist is meant to last.
        let mut changes = self.db.batch().durability(None);
        for change in batch.into_changes() {
            check_key(&change.key)?;
            let Some(keyspace) = spaces.get(change.space) else {
                return Err(EngineError::UnknownSpace(change.space.into()));
            };
            match change.value {
                Some(value) => changes.insert(keyspace, change.key, value),
                None => changes.remove(keyspace, change.key),
            }
        }
        changes.commit().map_err(|error| self.translate(error))?;
        self.show(spaces);
        Ok(())
    }
}

fn corrupt(dir: &Path, what: impl Into<String>) -> EngineError {
    EngineError::Corrupt { dir: dir.into(), what: what.into() }
}

fn from_io(dir: &Path, source: io::Error) -> EngineError {
    let dir = dir.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::Full { dir },
        // A table that is missing or shorter than its own description.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::InvalidData => {
            EngineError::Corrupt { dir, what: source.to_string() }
        }
        _ => EngineError::Io { dir, source },
    }
}

/// Whether the disk has less room than the smallest flush needs.
fn no_room(dir: &Path) -> bool {
    const LEAST: u64 = 4 << 20;
    rustix::fs::statvfs(dir).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST)
}

fn translate(dir: &Path, error: Error) -> EngineError {
    match error {
        Error::Io(source) => from_io(dir, source),
        Error::Storage(error) => {
            let what = error.to_string();
            let source = std::error::Error::source(&error);
            match source.and_then(|source| source.downcast_ref::<io::Error>()) {
                Some(source) => {
                    let copy = match source.raw_os_error() {
                        Some(number) => io::Error::from_raw_os_error(number),
                        None => io::Error::new(source.kind(), what),
                    };
                    from_io(dir, copy)
                }
                None => corrupt(dir, what),
            }
        }
        // A flush in the background failed, and only fjall's own log has the cause.
        Error::Poisoned if no_room(dir) => EngineError::Full { dir: dir.into() },
        Error::Poisoned | Error::KeyspaceDeleted => EngineError::Stopped { dir: dir.into() },
        Error::Locked => EngineError::Locked { dir: dir.into() },
        Error::InvalidVersion(Some(version)) => {
            EngineError::Version { dir: dir.into(), what: format!("fjall {version:?}") }
        }
        other => corrupt(dir, other.to_string()),
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
            Order::Ascending => Box::new(UntilError::new(pairs.map(read))),
            Order::Descending => Box::new(UntilError::new(pairs.rev().map(read))),
        }
    }
}

/// Ends after the first error: what comes behind damage is not to be trusted.
struct UntilError<I> {
    pairs: Option<I>,
}

impl<I> UntilError<I> {
    fn new(pairs: I) -> Self {
        UntilError { pairs: Some(pairs) }
    }
}

impl<I: Iterator<Item = Result<Pair, EngineError>>> Iterator for UntilError<I> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.pairs.as_mut()?.next();
        if !matches!(next, Some(Ok(_))) {
            self.pairs = None;
        }
        next
    }
}

impl Snapshot for View {
    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let keyspace = self.keyspace(space)?;
        if check_key(key).is_err() {
            return Ok(None);
        }
        let value = self.at.get(keyspace, key).map_err(|error| translate(&self.dir, error))?;
        Ok(value.map(Bytes::from))
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.pairs(space, range, order)
    }
}

impl StorageBackend for Fjall {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let _writer = self.writer.lock();
        self.written.store(true, Ordering::Release);
        self.commit(batch)
    }

    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view().get(space, key)
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.view().pairs(space, range, order)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(self.view())
    }

    fn persist(&self) -> Result<(), EngineError> {
        if self.written.load(Ordering::Acquire) {
            self.sync_ahead()?;
        }
        let mut writer = self.writer.lock();
        let (file, number) = &mut *writer;
        if !self.written.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        *number += 1;
        let random = || RandomState::new().hash_one(*number);
        let salt = u128::from(random()) << 64 | u128::from(random());
        let next = Mark { number: *number, salt };
        let mut batch = Batch::new();
        let names: Vec<&str> = self.view().spaces.keys().copied().collect();
        batch.put(OWN_SPACE, SPACES_KEY, names.join("\0"));
        // The last change of the batch, because a torn tail is cut behind it.
        batch.put(OWN_SPACE, MARK_KEY, next.encode().to_vec());
        self.commit(batch)?;
        self.db.persist(PersistMode::SyncData).map_err(|error| self.translate(error))?;
        file.write(next).map_err(|source| from_io(&self.dir, source))
    }

    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError> {
        let _writer = self.writer.lock();
        self.written.store(true, Ordering::Release);
        let view = self.view();
        let keyspace = view.keyspace(space)?;
        if let Some(first) = view.pairs(space, crate::all(), Order::Ascending).next() {
            first?;
            return Err(EngineError::Misuse(format!("ingest into space {space}: not empty")));
        }
        let failed = |error| self.translate(error);
        let mut ingestion = keyspace.start_ingestion().map_err(failed)?;
        let mut last: Option<Bytes> = None;
        for pair in sorted {
            let (key, value) = pair?;
            check_key(&key)?;
            if last.is_some_and(|last| last >= key) {
                return Err(EngineError::Misuse(format!("ingest into space {space}: not sorted")));
            }
            ingestion.write(key.clone(), value).map_err(failed)?;
            last = Some(key);
        }
        ingestion.finish().map_err(failed)?;
        self.show(Arc::clone(&view.spaces));
        Ok(())
    }

    /// Costs as much as reading the range, but nothing for the whole space.
    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        let view = self.view();
        if range == crate::all() {
            let keyspace = view.keyspace(space)?;
            return Ok(keyspace.disk_space() + self.db.write_buffer_size());
        }
        let mut size = 0;
        for pair in view.pairs(space, range, Order::Ascending) {
            let (key, value) = pair?;
            size += (key.len() + value.len()) as u64;
        }
        Ok(size)
    }

    /// The tables, and what is still to become tables. The write-ahead files are not counted:
    /// they are made 64 MiB long and mostly hold nothing.
    fn disk_size(&self) -> u64 {
        let tables: u64 = self.view().spaces.values().map(|keyspace| keyspace.disk_space()).sum();
        tables + self.db.write_buffer_size()
    }

    fn drop_space(&self, space: &str) -> Result<(), EngineError> {
        let _writer = self.writer.lock();
        self.written.store(true, Ordering::Release);
        let view = self.view();
        let Some((name, old)) = view.spaces.get_key_value(space) else {
            return Err(EngineError::UnknownSpace(space.into()));
        };
        let mut batch = Batch::new();
        batch.put(OWN_SPACE, DROPPING_KEY, *name);
        self.commit(batch)?;
        self.db.persist(PersistMode::SyncData).map_err(|error| self.translate(error))?;
        // Not cleared but made anew: fjall replays a clear after what was ingested behind it.
        self.db.delete_keyspace(old.clone()).map_err(|error| self.translate(error))?;
        let mut replaced = Keyspaces::clone(&view.spaces);
        replaced.insert(name, self.keyspace(name)?);
        self.show(replaced);
        let mut batch = Batch::new();
        batch.delete(OWN_SPACE, DROPPING_KEY);
        self.commit(batch)
    }
}
