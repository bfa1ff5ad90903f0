use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::memory::{Map, Spaces};
use crate::{Batch, EngineError, KeyRange, Order, Pair, Pairs, Snapshot, StorageBackend};

/// The engine in memory, with a disk to lose: [`LossyMemory::crash`] goes back to the last
/// `persist`, or to some prefix of the batches after it, never to half a batch. Drops and ingests
/// after the last persist may survive although batches before them did not.
///
/// The same seed and the same calls give the same losses.
pub struct LossyMemory {
    state: RwLock<State>,
}

struct State {
    now: Spaces,
    persisted: Spaces,
    since: Vec<Step>,
    random: u64,
    failing: bool,
}

/// What happened since the last persist, to be replayed as far as a crash lets it.
enum Step {
    Write(Batch),
    Replace(String, Map),
}

impl LossyMemory {
    /// An engine with these spaces, all empty.
    pub fn new(spaces: &[&'static str], seed: u64) -> LossyMemory {
        let spaces = Spaces::new(spaces);
        let persisted = spaces.clone();
        LossyMemory {
            state: RwLock::new(State {
                now: spaces,
                persisted,
                since: Vec::new(),
                random: seed ^ 0x9e37_79b9_7f4a_7c15,
                failing: false,
            }),
        }
    }

    /// Loses power: what remains is what a process finds that opens it again.
    pub fn crash(&self) {
        let mut state = self.state.write();
        let steps = std::mem::take(&mut state.since);
        let writes = state.below(steps.len() + 1);
        let others = writes + state.below(steps.len() - writes + 1);
        let mut spaces = state.persisted.clone();
        for (at, step) in steps.into_iter().enumerate() {
            // A step was checked when it was taken, so replaying it cannot fail.
            let _ = match step {
                Step::Write(batch) if at < writes => spaces.write(batch),
                Step::Replace(space, map) if at < others => spaces.replace(&space, map),
                _ => Ok(()),
            };
        }
        state.now = spaces.clone();
        state.persisted = spaces;
        state.failing = false;
    }

    /// From now on every write and persist fails, as on a dead disk, until the next crash.
    pub fn fail(&self) {
        self.state.write().failing = true;
    }
}

impl State {
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }

    fn usable(&self) -> Result<(), EngineError> {
        if self.failing {
            return Err(EngineError::Stopped { dir: "memory".into() });
        }
        Ok(())
    }
}

impl StorageBackend for LossyMemory {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let mut state = self.state.write();
        state.usable()?;
        state.now.write(batch.clone())?;
        state.since.push(Step::Write(batch));
        Ok(())
    }

    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.state.read().now.get(space, key)
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.state.read().now.iter(space, range, order)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(self.state.read().now.clone()))
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut state = self.state.write();
        state.usable()?;
        state.persisted = state.now.clone();
        state.since.clear();
        Ok(())
    }

    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError> {
        let before = self.state.read().now.clone();
        let map = before.sorted(space, sorted)?;
        let mut state = self.state.write();
        state.usable()?;
        state.now.replace(space, map.clone())?;
        state.since.push(Step::Replace(space.into(), map));
        Ok(())
    }

    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        let spaces = self.state.read().now.clone();
        spaces.size(space, range)
    }

    fn disk_size(&self) -> u64 {
        let spaces = self.state.read().now.clone();
        spaces.total()
    }

    fn drop_space(&self, space: &str) -> Result<(), EngineError> {
        let mut state = self.state.write();
        state.usable()?;
        state.now.replace(space, Map::new())?;
        state.since.push(Step::Replace(space.into(), Map::new()));
        Ok(())
    }
}
