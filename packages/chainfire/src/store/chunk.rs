//! Some entries in key order, the leaves of the index.
//!
//! Beside each entry stands a hint: the four bytes of its key that follow what all keys of the
//! chunk begin with. Looking for a key compares hints, which lie side by side, and touches the
//! entries themselves, each in a place of its own in memory, only where hints are equal.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::entry::Entry;

#[derive(Clone, Default)]
pub(super) struct Chunk {
    /// All keys agree in at least so many bytes.
    shared: usize,
    hints: Vec<u32>,
    entries: Vec<Arc<Entry>>,
}

impl Chunk {
    /// From entries in key order.
    pub(super) fn of(entries: Vec<Arc<Entry>>) -> Chunk {
        let shared = match (entries.first(), entries.last()) {
            // What the first and the last begin with, those between begin with too.
            (Some(first), Some(last)) => common(&first.key, &last.key),
            _ => 0,
        };
        let mut chunk = Chunk { shared, hints: Vec::with_capacity(entries.len()), entries };
        chunk.hint_all();
        chunk
    }

    /// The same for reading from one end to the other only.
    pub(super) fn list(entries: Vec<Arc<Entry>>) -> Chunk {
        Chunk { shared: 0, hints: Vec::new(), entries }
    }

    fn hint_all(&mut self) {
        self.hints.clear();
        self.hints.extend(self.entries.iter().map(|entry| hint(&entry.key, self.shared)));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Arc<Entry>> {
        self.entries.first()
    }

    pub(super) fn last(&self) -> Option<&Arc<Entry>> {
        self.entries.last()
    }

    pub(super) fn part(&self, range: Range<usize>) -> &[Arc<Entry>] {
        &self.entries[range]
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.find(key).ok().map(|at| &self.entries[at])
    }

    /// Where a key is, or where it would be.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(first) = self.entries.first() else { return Err(0) };
        let prefix = &first.key[..self.shared];
        match key.get(..self.shared).unwrap_or(key).cmp(prefix) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.entries.len()),
            Ordering::Equal => {}
        }
        let wanted = hint(key, self.shared);
        let low = self.hints.partition_point(|hint| *hint < wanted);
        let same = self.hints[low..].partition_point(|hint| *hint == wanted);
        let found =
            self.entries[low..low + same].binary_search_by(|entry| entry.key.as_ref().cmp(key));
        found.map(|at| low + at).map_err(|at| low + at)
    }

    /// Puts another version of the same key in place.
    pub(super) fn replace(&mut self, at: usize, entry: Arc<Entry>) -> Arc<Entry> {
        std::mem::replace(&mut self.entries[at], entry)
    }

    /// Puts a key where [`Chunk::find`] says that it would be.
    pub(super) fn insert(&mut self, at: usize, entry: Arc<Entry>) {
        let shared = match self.entries.first() {
            Some(first) => common(&first.key[..self.shared], &entry.key),
            None => entry.key.len(),
        };
        self.hints.insert(at, hint(&entry.key, shared));
        self.entries.insert(at, entry);
        if shared < self.shared {
            self.shared = shared;
            self.hint_all();
        } else {
            // Only an empty chunk may come to share more.
            self.shared = shared;
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Arc<Entry> {
        self.hints.remove(at);
        self.entries.remove(at)
    }

    /// Takes off the entries from a place on.
    pub(super) fn split_off(&mut self, at: usize) -> Chunk {
        let upper = Chunk::of(self.entries.split_off(at));
        let lower = Chunk::of(std::mem::take(&mut self.entries));
        *self = lower;
        upper
    }
}

/// How many bytes two keys begin with together.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Keys that agree before `from` are in the order of their hints, or their hints are equal.
fn hint(key: &[u8], from: usize) -> u32 {
    let mut bytes = [0; 4];
    let rest = key.get(from..).unwrap_or_default();
    let len = rest.len().min(4);
    bytes[..len].copy_from_slice(&rest[..len]);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::entry::Stamp;
    use super::*;
    use bytes::Bytes;

    fn entry(key: &[u8]) -> Arc<Entry> {
        let stamp = Stamp { create: 1, modified: 1, sub: 0, version: 1, lease: 0 };
        Arc::new(Entry::new(Bytes::copy_from_slice(key), stamp, Bytes::new()))
    }

    #[test]
    fn keys_are_found_where_they_are_or_would_be() {
        let keys: [&[u8]; 14] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"ab",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefghi",
            b"abcdefghij",
            b"abcdefgi",
            b"b",
            b"\xff",
            b"\xff\xff",
        ];
        // Every subset of those keys, as one chunk and inserted one by one in two orders.
        for picked in 0..1u32 << keys.len() {
            let held: Vec<&[u8]> =
                (0..keys.len()).filter(|i| picked >> i & 1 == 1).map(|i| keys[i]).collect();
            let whole = Chunk::of(held.iter().map(|key| entry(key)).collect());
            let (mut up, mut down) = (Chunk::default(), Chunk::default());
            for key in &held {
                up.insert(up.find(key).unwrap_err(), entry(key));
            }
            for key in held.iter().rev() {
                down.insert(down.find(key).unwrap_err(), entry(key));
            }
            for key in keys {
                let expected = held.binary_search(&key);
                for chunk in [&whole, &up, &down] {
                    assert_eq!(chunk.find(key), expected, "{key:?} in {held:?}");
                }
            }
        }
    }

    #[test]
    fn parts_find_their_keys() {
        let mut low = Chunk::of((0u8..100).map(|n| entry(&[b'k', n])).collect());
        let gone = low.remove(low.find(&[b'k', 7]).unwrap());
        assert_eq!(gone.key.as_ref(), [b'k', 7]);
        let high = low.split_off(50);
        assert_eq!((low.len(), high.len()), (50, 49));
        assert_eq!(low.find(&[b'k', 7]), Err(7));
        assert_eq!(low.find(&[b'k', 50]), Ok(49));
        assert_eq!(high.find(&[b'k', 51]), Ok(0));
        assert_eq!(high.find(b"l"), Err(49));
        assert_eq!(high.find(b"j"), Err(0));
    }
}
