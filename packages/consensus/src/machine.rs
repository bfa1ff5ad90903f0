//! The deterministic state machine that a group replicates.

use bytes::Bytes;

use crate::error::Fatal;
use crate::types::{GroupId, Member};

/// The space of the engine in which marks are kept.
pub const MARK_SPACE: &str = "meta";

/// How far a machine is. It must be written in the same engine batch as what was applied, so that
/// after a crash the two always agree.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The index of the entry.
    pub index: u64,
    pub(crate) pairs: Vec<(Bytes, Bytes)>,
}

impl Mark {
    /// Adds the mark to a batch, in the space [`MARK_SPACE`].
    pub fn put(&self, batch: &mut engine::Batch) {
        for (key, value) in &self.pairs {
            batch.put(MARK_SPACE, key.clone(), value.clone());
        }
    }

    /// The keys and values to write in [`MARK_SPACE`], for a machine without an engine.
    pub fn pairs(&self) -> &[(Bytes, Bytes)] {
        &self.pairs
    }
}

/// The keys under which a group's marks are kept: where it is, and who its members are.
pub fn mark_keys(group: GroupId) -> [Bytes; 2] {
    [
        Bytes::from(format!("raft/{group:016x}/position")),
        Bytes::from(format!("raft/{group:016x}/members")),
    ]
}

/// What a machine has applied, as it was marked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub(crate) position: Option<Bytes>,
    pub(crate) members: Option<Bytes>,
}

impl Applied {
    /// Reads the marks of a group back from the engine.
    pub fn read(engine: &dyn engine::StorageBackend, group: GroupId) -> Result<Self, Fatal> {
        let [position, members] = mark_keys(group);
        Ok(Self {
            position: engine.get(MARK_SPACE, &position)?,
            members: engine.get(MARK_SPACE, &members)?,
        })
    }

    /// The marks from wherever a machine without an engine keeps its pairs.
    pub fn from_lookup(group: GroupId, get: impl Fn(&[u8]) -> Option<Bytes>) -> Self {
        let [position, members] = mark_keys(group);
        Self { position: get(&position), members: get(&members) }
    }
}

/// A consistent view of a machine, given out in chunks of bounded size (at most 1 MiB each).
pub trait SnapshotSource: Send {
    /// The next chunk, or none at the end.
    fn next(&mut self) -> Result<Option<Bytes>, Fatal>;
}

/// What a group replicates. All calls come from one OS thread of the group's own, in order.
///
/// It must be deterministic: the same requests in the same order give the same state and the same
/// responses on every member, whatever the clock, the maps' order or the machine.
pub trait Machine: Send + 'static {
    /// The answer to one request.
    type Response: Send + 'static;

    /// What was last applied, read back from the engine at open (and after [`install`]).
    ///
    /// [`install`]: Machine::install
    fn applied(&self) -> Applied;

    /// Applies one committed entry: the requests of one batch. Answers one response a request.
    /// The mark must be in the same engine batch. Nothing needs to be durable yet.
    fn apply(
        &mut self,
        index: u64,
        requests: &[Bytes],
        mark: Mark,
    ) -> Result<Vec<Self::Response>, Fatal>;

    /// Notes an entry without requests.
    fn mark(&mut self, mark: Mark) -> Result<(), Fatal>;

    /// The members changed, or are told at start. Only what the group has committed.
    fn members_changed(&mut self, members: &[Member]) {
        let _ = members;
    }

    /// Returns what makes all that was applied so far durable. It runs on another thread while
    /// [`apply`] goes on; afterwards the log is cut below this point.
    ///
    /// [`apply`]: Machine::apply
    fn persist(&mut self) -> Result<Persist, Fatal>;

    /// A consistent view of the present state (without the marks), to be read on another thread.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fatal>;

    /// Replaces everything by the chunks of another member's [`snapshot`] and the mark. It need not
    /// be atomic: after a crash in the middle it is called again before anything else. It need not
    /// be durable: [`persist`] follows.
    ///
    /// [`snapshot`]: Machine::snapshot
    /// [`persist`]: Machine::persist
    fn install(
        &mut self,
        chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        mark: Mark,
    ) -> Result<(), Fatal>;
}

/// The slow part of [`Machine::persist`], free to run on another thread.
pub type Persist = Box<dyn FnOnce() -> Result<(), Fatal> + Send>;
