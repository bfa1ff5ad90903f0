use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::range::is_empty;
use crate::{
    Batch, EngineError, KeyRange, Order, Pair, Pairs, Snapshot, StorageBackend, check_key, failed,
};

pub(crate) type Map = BTreeMap<Bytes, Bytes>;

/// All spaces at one moment. A clone is cheap; the first write after it copies the spaces it
/// touches, which costs time and memory linear in them.
#[derive(Clone, Default)]
pub(crate) struct Spaces {
    maps: HashMap<&'static str, Arc<Map>>,
}

impl Spaces {
    pub(crate) fn new(names: &[&'static str]) -> Spaces {
        Spaces { maps: names.iter().map(|name| (*name, Arc::default())).collect() }
    }

    fn map(&self, space: &str) -> Result<&Arc<Map>, EngineError> {
        self.maps.get(space).ok_or_else(|| EngineError::UnknownSpace(space.into()))
    }

    fn map_mut(&mut self, space: &str) -> Result<&mut Arc<Map>, EngineError> {
        self.maps.get_mut(space).ok_or_else(|| EngineError::UnknownSpace(space.into()))
    }

    pub(crate) fn write(&mut self, batch: Batch) -> Result<(), EngineError> {
        for change in batch.changes() {
            check_key(&change.key)?;
            self.map(change.space)?;
        }
        for change in batch.into_changes() {
            let map = Arc::make_mut(self.map_mut(change.space)?);
            match change.value {
                Some(value) => map.insert(change.key, value),
                None => map.remove(&change.key),
            };
        }
        Ok(())
    }

    pub(crate) fn replace(&mut self, space: &str, map: Map) -> Result<(), EngineError> {
        *self.map_mut(space)? = Arc::new(map);
        Ok(())
    }

    pub(crate) fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.map(space)?.get(key).cloned())
    }

    pub(crate) fn iter(&self, space: &str, range: KeyRange, order: Order) -> Pairs<'static> {
        match self.map(space) {
            Ok(map) => Box::new(Walk { map: Arc::clone(map), range, order }),
            Err(error) => failed(error),
        }
    }

    pub(crate) fn size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        let map = self.map(space)?;
        if is_empty(&range) {
            return Ok(0);
        }
        Ok(map.range(range).map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }

    pub(crate) fn total(&self) -> u64 {
        let maps = self.maps.values();
        maps.flat_map(|map| map.iter()).map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    /// Reads what an ingest brings, checking the contract.
    pub(crate) fn sorted(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<Map, EngineError> {
        if !self.map(space)?.is_empty() {
            return Err(EngineError::Misuse(format!("ingest into space {space}: not empty")));
        }
        let mut map = Map::new();
        for pair in sorted {
            let (key, value) = pair?;
            check_key(&key)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(EngineError::Misuse(format!("ingest into space {space}: not sorted")));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

/// Walks a map that it shares, by narrowing the range behind each pair.
struct Walk {
    map: Arc<Map>,
    range: KeyRange,
    order: Order,
}

impl Iterator for Walk {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if is_empty(&self.range) {
            return None;
        }
        let mut pairs = self.map.range(self.range.clone());
        let (key, value) = match self.order {
            Order::Ascending => pairs.next()?,
            Order::Descending => pairs.next_back()?,
        };
        let bound = std::ops::Bound::Excluded(key.clone());
        match self.order {
            Order::Ascending => self.range.0 = bound,
            Order::Descending => self.range.1 = bound,
        }
        Some(Ok((key.clone(), value.clone())))
    }
}

impl Snapshot for Spaces {
    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Spaces::get(self, space, key)
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        Spaces::iter(self, space, range, order)
    }
}

/// An engine in memory, for tests and for what need not outlive the process.
///
/// A snapshot is an `Arc` of each space; while one lives, the next write to a space copies it.
pub struct Memory {
    spaces: RwLock<Spaces>,
}

impl Memory {
    /// An engine with these spaces, all empty.
    pub fn new(spaces: &[&'static str]) -> Memory {
        Memory { spaces: RwLock::new(Spaces::new(spaces)) }
    }
}

impl StorageBackend for Memory {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.spaces.write().write(batch)
    }

    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.spaces.read().get(space, key)
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.spaces.read().iter(space, range, order)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(self.spaces.read().clone()))
    }

    fn persist(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError> {
        let before = self.spaces.read().clone();
        let map = before.sorted(space, sorted)?;
        self.spaces.write().replace(space, map)
    }

    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        let spaces = self.spaces.read().clone();
        spaces.size(space, range)
    }

    fn disk_size(&self) -> u64 {
        let spaces = self.spaces.read().clone();
        spaces.total()
    }

    fn drop_space(&self, space: &str) -> Result<(), EngineError> {
        self.spaces.write().replace(space, Map::new())
    }
}
