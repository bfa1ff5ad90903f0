//! One live key in memory: its metadata always, its value while the cache keeps it.

use std::sync::atomic::{AtomicBool, Ordering};

use api::mvccpb::KeyValue;
use bytes::Bytes;
use parking_lot::Mutex;

/// A version of a key. Immutable but for the cached value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) sub: u32,
    pub(super) version: i64,
    pub(super) lease: i64,
    /// Bytes of the value, known also when it is not cached.
    pub(super) size: u32,
    /// Read since the cache last came by.
    touched: AtomicBool,
    /// Whether the cache has counted it. Changed only under the cache's lock.
    counted: AtomicBool,
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
        Entry {
            key,
            create: stamp.create,
            modified: stamp.modified,
            sub: stamp.sub,
            version: stamp.version,
            lease: stamp.lease,
            size: value.len() as u32,
            touched: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            value: Mutex::new(Some(value)),
        }
    }

    /// The value, if it is in memory.
    pub(super) fn cached(&self) -> Option<Bytes> {
        let value = self.value.lock().clone();
        if value.is_some() && !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
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
        self.counted.swap(counted, Ordering::Relaxed)
    }

    /// Whether it was read since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
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

    /// What it costs the cache.
    pub(super) fn weight(&self) -> usize {
        self.size as usize + 64
    }
}
