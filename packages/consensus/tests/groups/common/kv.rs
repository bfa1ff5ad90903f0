//! A machine that keeps keys, and counts how often each was put.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use consensus::{
    Applied, Fatal, GroupId, MARK_SPACE, Machine, Mark, Member, Persist, SnapshotSource,
};
use engine::{Batch, Engine, Order, StorageBackend};

const KEYS: &str = "kv";
pub const SPACES: [&str; 2] = [KEYS, MARK_SPACE];

pub struct Kv {
    pub engine: Engine,
    pub group: GroupId,
    /// Fails at this request.
    pub poison: Option<Bytes>,
}

/// A request.
pub fn put(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

/// How often a key was put.
pub fn count(engine: &dyn StorageBackend, key: &[u8]) -> u64 {
    let value = engine.get(KEYS, key).unwrap();
    value.map_or(0, |v| u64::from_be_bytes(v[..8].try_into().unwrap()))
}

pub fn keys(engine: &dyn StorageBackend) -> Vec<(Bytes, Bytes)> {
    engine
        .iter(KEYS, (Bound::Unbounded, Bound::Unbounded), Order::Ascending)
        .map(Result::unwrap)
        .collect()
}

impl Machine for Kv {
    /// How often the key was put, this time included, and the entry's index.
    type Response = (u64, u64);

    fn applied(&self) -> Applied {
        Applied::read(&*self.engine, self.group).unwrap()
    }

    fn apply(
        &mut self,
        index: u64,
        requests: &[Bytes],
        mark: Mark,
    ) -> Result<Vec<Self::Response>, Fatal> {
        let mut batch = Batch::new();
        let mut seen = std::collections::BTreeMap::new();
        let mut responses = Vec::new();
        for request in requests {
            if self.poison.as_ref() == Some(request) {
                return Err(Fatal::new("poisoned"));
            }
            let count =
                seen.entry(request.clone()).or_insert_with(|| count(&*self.engine, request));
            *count += 1;
            // Values that fill a snapshot.
            let mut value = count.to_be_bytes().to_vec();
            value.extend(std::iter::repeat_n(b'.', 100));
            batch.put(KEYS, request.clone(), value);
            responses.push((*count, index));
        }
        mark.put(&mut batch);
        self.engine.write(batch)?;
        Ok(responses)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Fatal> {
        let mut batch = Batch::new();
        mark.put(&mut batch);
        Ok(self.engine.write(batch)?)
    }

    fn members_changed(&mut self, _members: &[Member]) {}

    fn persist(&mut self) -> Result<Persist, Fatal> {
        let engine = self.engine.clone();
        Ok(Box::new(move || Ok(engine.persist()?)))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fatal> {
        let view = self.engine.snapshot()?;
        Ok(Box::new(View { view, after: Bound::Unbounded }))
    }

    fn install(
        &mut self,
        chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        mark: Mark,
    ) -> Result<(), Fatal> {
        self.engine.drop_space(KEYS)?;
        for chunk in chunks {
            let mut chunk = chunk?;
            let mut batch = Batch::new();
            while !chunk.is_empty() {
                let len = chunk[0] as usize;
                let key = chunk.slice(1..1 + len);
                batch.put(KEYS, key, chunk.slice(1 + len..109 + len));
                chunk = chunk.slice(109 + len..);
            }
            self.engine.write(batch)?;
        }
        let mut batch = Batch::new();
        mark.put(&mut batch);
        Ok(self.engine.write(batch)?)
    }
}

struct View {
    view: Arc<dyn engine::Snapshot>,
    after: Bound<Bytes>,
}

impl SnapshotSource for View {
    fn next(&mut self) -> Result<Option<Bytes>, Fatal> {
        let range = (self.after.clone(), Bound::Unbounded);
        let mut chunk = Vec::new();
        for pair in self.view.iter(KEYS, range, Order::Ascending).take(50) {
            let (key, value) = pair?;
            chunk.push(key.len() as u8);
            chunk.extend_from_slice(&key);
            chunk.extend_from_slice(&value);
            self.after = Bound::Excluded(key);
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}
