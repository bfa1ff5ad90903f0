//! What is published to readers, and what the store's threads share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

use engine::{Engine, Order, Snapshot};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::auth::{self, Auth, AuthSignal};
use super::cache::Cache;
use super::events::Ring;
use super::index::Index;
use super::layout::{self, Spaces, Version};
use super::lease::{LeaseInfo, LeaseTable};
use super::quota::{self, Quotas};
use super::values::Values;
use super::{StoreError, past};

/// How much memory the store may take beside the metadata of live keys.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of values of live keys kept in memory.
    pub cache_bytes: usize,
    /// Bytes of events kept in memory for watchers that keep up.
    pub ring_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { cache_bytes: 256 << 20, ring_bytes: 32 << 20 }
    }
}

/// The state after some whole entry of the log. Only the apply thread changes it, under the write
/// lock and only for as long as it takes to swap in what was prepared.
pub(super) struct State {
    pub(super) spaces: Spaces,
    pub(super) revision: i64,
    /// Reads below are refused; -1 before the first compaction, as etcd has it.
    pub(super) compacted: i64,
    /// The last claim of the lessor's part; 0 before the first.
    pub(super) lessor: u64,
    pub(super) index: Index,
    pub(super) leases: LeaseTable,
    /// Kind and member.
    pub(super) alarms: BTreeSet<(i32, u64)>,
    pub(super) auth: Arc<Auth>,
    pub(super) quotas: Quotas,
}

impl State {
    /// The revision to read at, when a request asks for `revision`.
    pub(super) fn resolve(&self, revision: i64) -> Result<i64, StoreError> {
        resolve(revision, self.revision, self.compacted)
    }
}

/// As etcd decides it: nothing or less means now.
pub(super) fn resolve(asked: i64, current: i64, compacted: i64) -> Result<i64, StoreError> {
    if asked > current {
        Err(StoreError::FutureRevision)
    } else if asked <= 0 {
        Ok(current)
    } else if asked < compacted {
        Err(StoreError::Compacted)
    } else {
        Ok(asked)
    }
}

pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) state: RwLock<State>,
    pub(super) cache: Cache,
    pub(super) ring: Ring,
    /// Up to which compaction the space has been given back.
    pub(super) removed: watch::Sender<i64>,
    /// Bytes of versions and events, about.
    pub(super) in_use: AtomicI64,
    /// Tells readers that users or roles changed.
    pub(super) auth: AuthSignal,
    /// Whether any namespace has a limit on requests.
    pub(super) rates: AtomicBool,
    /// Held for each step of removal, and by whoever replaces the state.
    pub(super) removal: Arc<Mutex<()>>,
}

impl Shared {
    /// Looks at the state together with a view of the engine that is of the same moment: whatever
    /// is not compacted in the state is whole in the view.
    pub(super) fn pin<T>(
        &self,
        look: impl FnOnce(&State) -> Result<T, StoreError>,
    ) -> Result<(Arc<dyn Snapshot>, T), StoreError> {
        // Versions are removed, and generations emptied, only after a change of the state, which
        // must wait for this lock.
        let state = self.state.read();
        let seen = look(&state)?;
        Ok((self.engine.snapshot()?, seen))
    }

    pub(super) fn values(&self, spaces: Spaces) -> Values<'_> {
        Values { engine: self.engine.as_ref(), spaces, cache: &self.cache }
    }
}

/// What one generation in the engine holds.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) removed: i64,
    pub(super) in_use: i64,
    /// Entries whose value is in memory.
    pub(super) cached: Vec<Arc<super::entry::Entry>>,
}

/// Reads a generation back from the engine, values only up to the cache's budget.
pub(super) fn load(
    engine: &Engine,
    spaces: Spaces,
    cache_bytes: usize,
) -> Result<Loaded, StoreError> {
    let number = |key: &[u8], absent: i64| match engine.get(spaces.small, key)? {
        Some(value) => layout::read_number(&value),
        None => Ok(absent),
    };
    let mut leases = LeaseTable::default();
    for pair in engine.iter(spaces.small, layout::leases(), Order::Ascending) {
        let (key, value) = pair?;
        let (id, ttl, remaining) = layout::read_lease(&key, &value)?;
        leases.set(LeaseInfo { id, ttl, remaining });
    }
    let mut alarms = BTreeSet::new();
    for pair in engine.iter(spaces.small, layout::alarms(), Order::Ascending) {
        alarms.insert(layout::read_alarm(&pair?.0)?);
    }

    let removed = number(layout::REMOVED_KEY, -1)?;
    let mut in_use = 0;
    let mut room = cache_bytes;
    let mut cached = Vec::new();
    let mut entries = Vec::new();
    let mut settled = bytes::Bytes::new();
    for pair in engine.iter(spaces.versions, engine::all(), Order::Ascending) {
        let (stored, record) = pair?;
        let part = layout::escaped_part(&stored)?;
        let key = part.len() - 2;
        in_use += layout::version_size(key, Version::value_size(&record));
        if layout::version_position(&stored)?.0 >= removed {
            in_use += layout::event_size(key);
        }
        if settled == part {
            continue;
        }
        settled = stored.slice(..part.len());
        let Some(entry) = past::within(&stored, &record, None, room)? else { continue };
        if entry.lease != 0 {
            leases.attach(entry.lease, entry.key.clone());
        }
        if entry.is_cached() {
            room -= entry.weight();
            cached.push(entry.clone());
        }
        entries.push(entry);
    }
    let quotas = quota::load(engine, spaces, entries.iter())?;
    let state = State {
        spaces,
        revision: number(layout::REVISION_KEY, 1)?,
        compacted: number(layout::COMPACTED_KEY, -1)?,
        lessor: number(layout::LESSOR_KEY, 0)? as u64,
        index: Index::from_sorted(entries),
        leases,
        alarms,
        auth: Arc::new(auth::load(engine, spaces)?),
        quotas,
    };
    Ok(Loaded { state, removed, in_use, cached })
}
