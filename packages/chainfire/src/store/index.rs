//! The live keys in order, in memory.
//!
//! Keys lie in chunks that are shared with readers and copied when one is changed while a reader
//! holds it. So a reader takes what it needs under a short lock and goes on without one, and a
//! write costs at most one small chunk. Counting a range visits chunks, not keys.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::KeyRange;
use super::chunk::Chunk;
use super::entry::Entry;

const CHUNK: usize = 128;
const LARGEST: usize = 2 * CHUNK;

/// Every chunk is known by a key that is not above its first and above all of the chunk before.
#[derive(Default)]
pub(super) struct Index {
    chunks: BTreeMap<Bytes, Arc<Chunk>>,
    keys: usize,
}

/// A part of the index as it was.
#[derive(Default)]
pub(super) struct Slice {
    /// The only entry, where a single key was looked up.
    single: Option<Arc<Entry>>,
    pieces: Vec<(Arc<Chunk>, Range<usize>)>,
    /// Keys in the whole range, also those that were not asked for.
    pub(super) count: usize,
}

impl Slice {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        let pieces = self.pieces.iter().flat_map(|(chunk, range)| chunk.part(range.clone()));
        self.single.iter().chain(pieces)
    }

    /// The entry, if a single key was looked up and found.
    pub(super) fn single(&self) -> Option<&Arc<Entry>> {
        self.single.as_ref()
    }

    pub(super) fn of(entry: Option<Arc<Entry>>) -> Slice {
        Slice { count: usize::from(entry.is_some()), single: entry, pieces: Vec::new() }
    }

    pub(super) fn from_list(list: Vec<Arc<Entry>>, count: usize) -> Slice {
        let all = 0..list.len();
        Slice { single: None, pieces: vec![(Arc::new(Chunk::list(list)), all)], count }
    }
}

impl Index {
    /// From entries in key order.
    pub(super) fn from_sorted(entries: impl IntoIterator<Item = Arc<Entry>>) -> Index {
        let mut index = Index::default();
        let mut entries = entries.into_iter();
        loop {
            let chunk: Vec<Arc<Entry>> = entries.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return index;
            }
            index.append(Chunk::of(chunk));
        }
    }

    fn append(&mut self, chunk: Chunk) {
        self.keys += chunk.len();
        let bound = match chunk.first() {
            Some(first) if !self.chunks.is_empty() => first.key.clone(),
            _ => Bytes::new(),
        };
        self.chunks.insert(bound, Arc::new(chunk));
    }

    pub(super) fn len(&self) -> usize {
        self.keys
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        let (_, chunk) = self.chunks.range::<[u8], _>(up_to(key)).next_back()?;
        chunk.get(key)
    }

    /// The range: at least the first `want` entries of it, and how many there are.
    pub(super) fn slice(&self, range: &KeyRange, want: usize) -> Slice {
        if let Some(key) = range.point() {
            return Slice::of(self.get(key).cloned());
        }
        let mut slice = Slice::default();
        if range.is_empty() {
            return slice;
        }
        let first = self.chunks.range::<[u8], _>(up_to(range.start())).next_back();
        let Some((first, _)) = first else { return slice };
        let mut collected = 0;
        for (bound, chunk) in
            self.chunks.range::<[u8], _>((Bound::Included(first.as_ref()), Bound::Unbounded))
        {
            if range.is_past(bound) {
                break;
            }
            // Only the first and the last chunk can stick out.
            let low = match chunk.first() {
                Some(entry) if entry.key < range.start() => {
                    chunk.find(range.start()).unwrap_or_else(|at| at)
                }
                _ => 0,
            };
            let high = match chunk.last() {
                Some(entry) if range.is_past(&entry.key) => {
                    chunk.part(0..chunk.len()).partition_point(|entry| !range.is_past(&entry.key))
                }
                _ => chunk.len(),
            };
            if low >= high {
                continue;
            }
            slice.count += high - low;
            if collected < want {
                collected += high - low;
                slice.pieces.push((chunk.clone(), low..high));
            }
        }
        slice
    }

    /// Sets or removes keys. Returns the entries that are no longer there.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (Bytes, Option<Arc<Entry>>)>,
    ) -> Vec<Arc<Entry>> {
        let mut gone = Vec::new();
        for (key, change) in changes {
            match change {
                Some(entry) => gone.extend(self.insert(key, entry)),
                None => gone.extend(self.remove(&key)),
            }
        }
        gone
    }

    fn insert(&mut self, key: Bytes, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let Some((_, chunk)) = self.chunks.range_mut::<[u8], _>(up_to(&key)).next_back() else {
            self.append(Chunk::of(vec![entry]));
            return None;
        };
        let at = chunk.find(&key);
        let chunk = Arc::make_mut(chunk);
        match at {
            Ok(at) => Some(chunk.replace(at, entry)),
            Err(at) => {
                chunk.insert(at, entry);
                self.keys += 1;
                if chunk.len() > LARGEST {
                    // Keys that arrive in order fill their chunks.
                    let cut = if at + 1 == chunk.len() { LARGEST } else { CHUNK };
                    let upper = chunk.split_off(cut);
                    if let Some(first) = upper.first() {
                        self.chunks.insert(first.key.clone(), Arc::new(upper));
                    }
                }
                None
            }
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Arc<Entry>> {
        let (bound, chunk) = self.chunks.range_mut::<[u8], _>(up_to(key)).next_back()?;
        let at = chunk.find(key).ok()?;
        let gone = Arc::make_mut(chunk).remove(at);
        self.keys -= 1;
        // The first chunk stays: every key must have a chunk at or below it.
        if chunk.is_empty() && !bound.is_empty() {
            let bound = bound.clone();
            self.chunks.remove(&bound);
        }
        Some(gone)
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}
