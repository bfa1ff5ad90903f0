//! One live key in memory: its metadata always, its value while the cache keeps it.

use std::sync::atomic::{AtomicU32, Ordering};

use api::mvccpb::KeyValue;
use bytes::Bytes;
use parking_lot::Mutex;

/// Read since the cache last came by.
const TOUCHED: u32 = 1 << 31;
/// Whether the cache has counted it. Changed only under the cache's lock.
const COUNTED: u32 = 1 << 30;
/// The rest of the word: no value is as long, since it would not fit into the log.
const SIZE: u32 = COUNTED - 1;

/// A version of a key. Immutable but for the cached value.
///
/// There is one for each live key: its size is what memory grows with.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) sub: u32,
    pub(super) version: i64,
    pub(super) lease: i64,
    /// Bytes of the value, known also when it is not cached, and the cache's marks.
    size: AtomicU32,
    value: Mutex<Option<Bytes>>,
}

/// What tells one version from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) sub: u32,
    pub(super) version: i64,
    pub(super) lease: i64,
}

impl Entry {
    pub(super) fn new(key: Bytes, stamp: Stamp, value: Bytes) -> Entry {
        Entry::sized(key, stamp, value.len() as u32, Some(value))
    }

    /// With a value of that size that is not in memory.
    pub(super) fn bare(key: Bytes, stamp: Stamp, size: u32) -> Entry {
        Entry::sized(key, stamp, size, None)
    }

    fn sized(key: Bytes, stamp: Stamp, size: u32, value: Option<Bytes>) -> Entry {
        Entry {
            key,
            create: stamp.create,
            modified: stamp.modified,
            sub: stamp.sub,
            version: stamp.version,
            lease: stamp.lease,
            size: AtomicU32::new(size & SIZE),
            value: Mutex::new(value),
        }
    }

    /// The value, if it is in memory.
    pub(super) fn cached(&self) -> Option<Bytes> {
        let value = self.value.lock().clone();
        if value.is_some() && self.size.load(Ordering::Relaxed) & TOUCHED == 0 {
            self.size.fetch_or(TOUCHED, Ordering::Relaxed);
        }
        value
    }

    pub(super) fn is_cached(&self) -> bool {
        self.value.lock().is_some()
    }

    /// Puts the value into memory; whether it was not there.
    pub(super) fn fill(&self, value: Bytes) -> bool {
        self.value.lock().replace(value).is_none()
    }

    /// Takes the value out of memory.
    pub(super) fn drain(&self) {
        self.value.lock().take();
    }

    /// Notes whether the cache counts it; what it was before.
    pub(super) fn count(&self, counted: bool) -> bool {
        let before = match counted {
            true => self.size.fetch_or(COUNTED, Ordering::Relaxed),
            false => self.size.fetch_and(!COUNTED, Ordering::Relaxed),
        };
        before & COUNTED != 0
    }

    /// Whether it was read since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.size.fetch_and(!TOUCHED, Ordering::Relaxed) & TOUCHED != 0
    }

    /// As the wire shows it.
    pub(super) fn pair(&self, value: Bytes) -> KeyValue {
        KeyValue {
            key: self.key.clone(),
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            value,
            lease: self.lease,
        }
    }

    /// Bytes of the value.
    pub(super) fn size(&self) -> u32 {
        self.size.load(Ordering::Relaxed) & SIZE
    }

    /// What it costs the cache.
    pub(super) fn weight(&self) -> usize {
        weight(self.size())
    }
}

/// What a value of that size costs the cache: with the record and the key that it stands in.
pub(super) fn weight(size: u32) -> usize {
    size as usize + 96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_key_takes_little_memory() {
        // 128 with its count of references: a size that allocators have a class for.
        assert_eq!(size_of::<Entry>(), 112);
    }

    #[test]
    fn marks_and_size_share_a_word() {
        let stamp = Stamp { create: 1, modified: 2, sub: 0, version: 1, lease: 0 };
        let entry = Entry::new(Bytes::from("k"), stamp, Bytes::from("value"));
        assert!(!entry.take_touched() && entry.cached().is_some());
        assert!(!entry.count(true) && entry.count(true));
        assert_eq!((entry.size(), entry.take_touched(), entry.take_touched()), (5, true, false));
        assert!(entry.count(false) && !entry.count(true));
    }
}
