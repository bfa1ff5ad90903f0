//! The state machine that consensus drives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use consensus::{Applied, Fatal, GroupId, Machine, Mark, Persist, SnapshotSource};
use engine::Engine;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::apply::{Batch, Change, Done};
use super::auth::{self, AuthSignal};
use super::cache::Cache;
use super::command::Outcome;
use super::compact::{self, Compactor};
use super::entry::Entry;
use super::events::{Before, Changes, Ring, event, grave};
use super::layout::{self, EventRecord, META, Replaced, Spaces, Version};
use super::quota;
use super::snapshot::{SpacePairs, Unpack};
use super::state::{Shared, StoreOptions, load};
use super::{Reader, StoreError};

/// Applies commands. Its readers are [`Reader`]s.
pub struct Store {
    shared: Arc<Shared>,
    options: StoreOptions,
    group: GroupId,
    /// Consensus' marks as they stand in the engine.
    marks: BTreeMap<Bytes, Bytes>,
    compactor: Compactor,
}

impl Store {
    /// The spaces that the engine must have.
    pub const SPACES: [&'static str; 7] = [META, "v0", "e0", "s0", "v1", "e1", "s1"];

    /// Opens what the engine holds; an empty engine is an empty store.
    pub fn open(
        engine: Engine,
        group: GroupId,
        options: StoreOptions,
    ) -> Result<(Store, Reader), StoreError> {
        let generation = match engine.get(META, layout::FORMAT_KEY)? {
            None => {
                let mut batch = engine::Batch::new();
                batch.put(META, layout::FORMAT_KEY, layout::FORMAT);
                engine.write(batch)?;
                0
            }
            Some(format) if format == layout::FORMAT => {
                match engine.get(META, layout::GENERATION_KEY)? {
                    None => 0,
                    Some(value) => u8::from(value.first() == Some(&1)),
                }
            }
            Some(format) => {
                let what = format!("the store has format {format:?}, this version knows 1");
                return Err(StoreError::Engine(what));
            }
        };
        let spaces = Spaces::of(generation);
        discard(&engine, spaces.other())?;
        let loaded = load(&engine, spaces, options.cache_bytes)?;
        let shared = Arc::new(Shared {
            engine,
            cache: Cache::new(options.cache_bytes),
            ring: Ring::new(options.ring_bytes),
            removed: watch::Sender::new(loaded.removed),
            in_use: AtomicI64::new(loaded.in_use),
            removal: Arc::new(Mutex::new(())),
            auth: AuthSignal::new(loaded.state.auth.enabled()),
            rates: AtomicBool::new(loaded.state.quotas.has_rates()),
            state: RwLock::new(loaded.state),
        });
        shared.cache.turn(loaded.cached, []);
        let compactor = Compactor::start(&shared)
            .map_err(|error| StoreError::Engine(format!("no thread for compaction: {error}")))?;
        let reader = Reader { shared: shared.clone() };
        let mut marks = BTreeMap::new();
        for key in consensus::mark_keys(group) {
            if let Some(value) = shared.engine.get(META, &key)? {
                marks.insert(key, value);
            }
        }
        Ok((Store { shared, options, group, marks, compactor }, reader))
    }

    /// Another reader.
    pub fn reader(&self) -> Reader {
        Reader { shared: self.shared.clone() }
    }

    /// Applies the commands of the entry at `index`. `mark` adds to the engine batch.
    pub(crate) fn run(
        &mut self,
        index: u64,
        requests: &[Bytes],
        mark: impl FnOnce(&mut engine::Batch),
    ) -> Result<Vec<Outcome>, Fatal> {
        let (outcomes, done) = {
            let state = self.shared.state.read();
            let mut batch = Batch::new(&self.shared, &state, index);
            let mut outcomes = Vec::with_capacity(requests.len());
            for request in requests {
                outcomes.push(batch.command(request)?);
            }
            (outcomes, batch.finish())
        };
        // An answer that tells of a failing engine must not stand beside members that carried on.
        for outcome in &outcomes {
            if let Err(StoreError::Engine(what)) = outcome {
                return Err(Fatal::new(what));
            }
        }
        self.commit(done, mark)?;
        Ok(outcomes)
    }

    fn commit(&mut self, done: Done, mark: impl FnOnce(&mut engine::Batch)) -> Result<(), Fatal> {
        let (after, compacted, lessor, spaces) = {
            let state = self.shared.state.read();
            (state.revision, state.compacted, state.lessor, state.spaces)
        };
        let mut batch = engine::Batch::new();
        let mut grown = 0;
        for change in &done.changes {
            let at = layout::version_key(&change.key, change.revision, change.sub);
            let before = change.before.as_ref().map(|entry| Replaced {
                revision: entry.modified,
                sub: entry.sub,
                size: entry.size(),
            });
            let event = EventRecord::encode(change.now.is_none(), before, &change.key);
            let size = Version::value_size(&change.record);
            grown += layout::version_size(change.key.len(), size);
            grown += layout::event_size(change.key.len());
            batch.put(spaces.versions, at, change.record.clone());
            batch.put(spaces.events, layout::event_key(change.revision, change.sub), event);
        }
        for (&id, info) in &done.leases.leases {
            match info {
                Some(info) => {
                    let value = layout::lease_value(info.ttl, info.remaining);
                    batch.put(spaces.small, layout::lease_key(id), value);
                }
                None => batch.delete(spaces.small, layout::lease_key(id)),
            }
        }
        if let Some(alarms) = &done.alarms {
            let before = self.shared.state.read().alarms.clone();
            for &(kind, member) in alarms.difference(&before) {
                batch.put(spaces.small, layout::alarm_key(kind, member), &[1][..]);
            }
            for &(kind, member) in before.difference(alarms) {
                batch.delete(spaces.small, layout::alarm_key(kind, member));
            }
        }
        if let Some(now) = &done.auth {
            let before = self.shared.state.read().auth.clone();
            for (key, record) in auth::changed(&before, now) {
                match record {
                    Some(record) => batch.put(spaces.small, key, record),
                    None => batch.delete(spaces.small, key),
                }
            }
        }
        if let Some(now) = &done.quotas.limits {
            let before = self.shared.state.read().quotas.limits.clone();
            for (key, record) in quota::changed(&before, now) {
                match record {
                    Some(record) => batch.put(spaces.small, key, record),
                    None => batch.delete(spaces.small, key),
                }
            }
        }
        let mut number = |key: &'static [u8], before: i64, now: i64| {
            if before != now {
                batch.put(spaces.small, key, layout::number(now));
            }
        };
        number(layout::REVISION_KEY, after, done.revision);
        number(layout::COMPACTED_KEY, compacted, done.compacted);
        number(layout::LESSOR_KEY, lessor as i64, done.lessor as i64);
        mark(&mut batch);
        self.shared.engine.write(batch)?;
        self.shared.in_use.fetch_add(grown, Ordering::Relaxed);

        let changes = Changes {
            after,
            revision: done.revision,
            events: done.changes.iter().map(to_event).collect(),
            before: done.changes.iter().map(to_before).collect(),
            leases: done.lease_changes.into(),
            compacted: (done.compacted != compacted).then_some(done.compacted),
            alarms: done.alarms.is_some(),
        };
        let admitted: Vec<Arc<Entry>> =
            done.newest.iter().filter_map(|(_, entry)| entry.clone()).collect();
        let gone = {
            let mut state = self.shared.state.write();
            state.revision = done.revision;
            state.compacted = done.compacted;
            state.lessor = done.lessor;
            if let Some(alarms) = done.alarms {
                state.alarms = alarms;
            }
            if let Some(auth) = done.auth {
                // under the lock: who sees anything that comes later sees the signal too
                self.shared.auth.set(auth.enabled());
                state.auth = auth;
            }
            if state.quotas.apply(done.quotas) {
                self.shared.rates.store(state.quotas.has_rates(), Ordering::Relaxed);
            }
            state.leases.apply(done.leases);
            state.index.apply(done.newest)
        };
        self.shared.cache.turn(admitted, gone);
        let news = !changes.events.is_empty()
            || !changes.leases.is_empty()
            || changes.compacted.is_some()
            || changes.alarms;
        if changes.compacted.is_some() {
            self.compactor.wake();
        }
        if news {
            self.shared.ring.push(Arc::new(changes));
        }
        Ok(())
    }

    /// Removes up to `most` events' worth of compacted space on the caller's thread.
    #[cfg(test)]
    pub(super) fn remove_step(&self, cursor: &mut compact::Cursor, most: usize) -> bool {
        compact::step(&self.shared, cursor, most).unwrap()
    }

    /// No removal while this is locked.
    #[cfg(test)]
    pub(super) fn removal(&self) -> Arc<Mutex<()>> {
        self.shared.removal.clone()
    }

    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.shared.cache.bytes()
    }
}

/// Empties the spaces of a generation that is not in use.
fn discard(engine: &Engine, spaces: Spaces) -> Result<(), StoreError> {
    let mut persisted = false;
    for space in spaces.all() {
        if engine.iter(space, engine::all(), engine::Order::Ascending).next().is_some() {
            // First make sure that a crash cannot bring back the time when it was in use.
            if !persisted {
                engine.persist()?;
                persisted = true;
            }
            engine.drop_space(space)?;
        }
    }
    Ok(())
}

fn to_event(change: &Change) -> api::mvccpb::Event {
    match &change.now {
        Some(entry) => event(false, entry.pair(entry.cached().unwrap_or_default())),
        None => event(true, grave(change.key.clone(), change.revision)),
    }
}

fn to_before(change: &Change) -> Before {
    match &change.before {
        None if change.sub == 0 => Before::Absent,
        // Perhaps deleted by the same transaction: the pair before that is meant.
        None => Before::Fetch,
        Some(entry) if entry.modified == change.revision => Before::Fetch,
        Some(entry) => match entry.cached() {
            Some(value) => Before::Known(entry.pair(value)),
            None => Before::Fetch,
        },
    }
}

impl Machine for Store {
    type Response = Outcome;

    fn applied(&self) -> Applied {
        Applied::from_lookup(self.group, |key| self.marks.get(key).cloned())
    }

    fn apply(&mut self, index: u64, requests: &[Bytes], mark: Mark) -> Result<Vec<Outcome>, Fatal> {
        let outcomes = self.run(index, requests, |batch| mark.put(batch))?;
        self.keep(mark);
        Ok(outcomes)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Fatal> {
        let mut batch = engine::Batch::new();
        mark.put(&mut batch);
        self.shared.engine.write(batch)?;
        self.keep(mark);
        Ok(())
    }

    fn persist(&mut self) -> Result<Persist, Fatal> {
        let engine = self.shared.engine.clone();
        Ok(Box::new(move || Ok(engine.persist()?)))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fatal> {
        Ok(Box::new(self.reader().snapshot().map_err(Fatal::new)?))
    }

    fn install(
        &mut self,
        chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        mark: Mark,
    ) -> Result<(), Fatal> {
        self.replace(chunks, |batch| mark.put(batch))?;
        self.keep(mark);
        Ok(())
    }
}

impl Store {
    fn keep(&mut self, mark: Mark) {
        self.marks.extend(mark.pairs().iter().cloned());
    }

    /// Fills the generation that is not in use, then switches to it. A crash before the switch
    /// leaves the old state, one after it the new one.
    pub(super) fn replace(
        &mut self,
        chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        mark: impl FnOnce(&mut engine::Batch),
    ) -> Result<(), Fatal> {
        let shared = self.shared.clone();
        let engine = &shared.engine;
        let _held = shared.removal.lock();
        let old = shared.state.read().spaces;
        let new = old.other();
        discard(engine, new).map_err(Fatal::new)?;
        let mut unpack = Unpack::new(chunks);
        for (space, name) in (0..).zip(new.all()) {
            let mut pairs = SpacePairs { unpack: &mut unpack, space };
            let ingested = engine.ingest(name, &mut pairs);
            if let Some(fatal) = unpack.failed.take() {
                return Err(fatal);
            }
            ingested?;
        }
        unpack.end(false)?;
        let loaded = load(engine, new, self.options.cache_bytes).map_err(Fatal::new)?;
        // What was filled in must be safe before the batch that makes it count.
        engine.persist()?;
        let mut batch = engine::Batch::new();
        batch.put(META, layout::GENERATION_KEY, vec![new.generation]);
        mark(&mut batch);
        engine.write(batch)?;
        engine.persist()?;

        shared.cache.clear();
        shared.cache.turn(loaded.cached, []);
        shared.in_use.store(loaded.in_use, Ordering::Relaxed);
        let before = {
            let mut state = shared.state.write();
            shared.auth.set(loaded.state.auth.enabled());
            shared.rates.store(loaded.state.quotas.has_rates(), Ordering::Relaxed);
            std::mem::replace(&mut *state, loaded.state)
        };
        compact::publish(&shared.removed, loaded.removed);
        shared.ring.clear();
        // Freeing millions of keys takes a while: not under the lock.
        drop(before);
        for space in old.all() {
            engine.drop_space(space)?;
        }
        self.compactor.wake();
        Ok(())
    }
}
