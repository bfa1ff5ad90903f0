//! What really happened, learned by looking over every engine's shoulder, and what that forbids.
//!
//! The first node that applies an index decides what stands there. From then on every node must
//! apply the very same there, also when it applies it again after a crash: so nothing committed is
//! lost, reordered or changed. Positions name the leader that made them. A leader is known by term and
//! id together: the Raft library lets a second one with a higher id be elected in a term, which
//! deposes the first. So along the log these pairs never go back.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use api::mvccpb::{Event, KeyValue};
use api::raft::LogId;
use bytes::Bytes;
use consensus::NodeId;
use engine::{
    Batch, EngineError, KeyRange, LossyMemory, Order, Pair, Pairs, Snapshot, StorageBackend,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;

use super::trace::note;
use crate::store::peek::{self, Applied};

#[derive(Default)]
pub(super) struct Truth {
    /// What stands at an index, in one number, and who applied it first.
    entries: BTreeMap<u64, (u64, NodeId)>,
    /// Term and id of the leader of the newest entry.
    leader: (u64, NodeId),
    /// How far each running node has applied.
    nodes: BTreeMap<NodeId, u64>,
    pub(super) events: Vec<Event>,
    /// All versions of a key, by revision.
    keys: BTreeMap<Bytes, BTreeMap<i64, Option<KeyValue>>>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// When leases ended.
    pub(super) ended: BTreeMap<i64, Instant>,
    pub(super) leases: BTreeSet<i64>,
    pub(super) installs: u64,
    pub(super) violations: Vec<String>,
}

impl Truth {
    pub(super) fn new() -> Truth {
        Truth { revision: 1, compacted: -1, ..Truth::default() }
    }

    pub(super) fn violated(&mut self, what: String) {
        note!("VIOLATION {what}");
        self.violations.push(what);
    }

    /// A node begins a new life, and may apply again what it has forgotten.
    pub(super) fn restarts(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn applied(&mut self, node: NodeId, digest: u64, applied: Applied) {
        let position = match LogId::decode(applied.position.clone()) {
            Ok(position) => position,
            Err(error) => return self.violated(format!("{node}: position: {error}")),
        };
        let index = position.index + 1;
        if applied.installed {
            note!("{node} installs a snapshot up to {index}");
            self.installs += 1;
            self.nodes.insert(node, index);
            return;
        }
        if let Some(last) = self.nodes.insert(node, index)
            && last + 1 != index
        {
            self.violated(format!("{node} applies {index} after {last}"));
        }
        if let Some(&(known, first)) = self.entries.get(&index) {
            if known != digest {
                self.violated(format!("{node} applies another entry {index} than {first} did"));
            }
            return;
        }
        self.entries.insert(index, (digest, node));
        let leader = (position.term, position.node);
        if leader < self.leader {
            let before = self.leader;
            self.violated(format!("entry {index} is of leader {leader:?}, after {before:?}"));
        }
        self.leader = leader;
        note!("{index} {:x} by {node}: {} events", digest as u16, applied.events.len());
        for event in applied.events {
            let Some(kv) = event.kv.clone() else { continue };
            let revision = kv.mod_revision;
            if revision != self.revision && revision != self.revision + 1 {
                self.violated(format!("revision {revision} comes after {}", self.revision));
            }
            self.revision = revision;
            let live = (event.r#type == 0).then_some(kv.clone());
            self.keys.entry(kv.key).or_default().insert(revision, live);
            self.events.push(event);
        }
        for (id, there) in applied.leases {
            if there {
                self.leases.insert(id);
            } else {
                self.leases.remove(&id);
                self.ended.insert(id, Instant::now());
            }
        }
        self.compacted = applied.compacted.unwrap_or(self.compacted);
    }

    /// The pair of a key at a revision.
    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.as_ref()
    }

    /// All pairs of a range at a revision.
    pub(super) fn range(&self, from: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let keys = self.keys.range(Bytes::copy_from_slice(from)..);
        keys.take_while(|(key, _)| match end {
            [] => key[..] == *from,
            [0] => true,
            end => key[..] < *end,
        })
        .filter_map(|(key, _)| self.at(key, revision).cloned())
        .collect()
    }

    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }
}

/// The engine of a node, and who looks at it.
pub(super) struct Spy {
    pub(super) node: NodeId,
    pub(super) engine: Arc<LossyMemory>,
    pub(super) truth: Arc<Mutex<Truth>>,
}

/// What a batch changes, in one number that is equal on all nodes.
fn digest(batch: &Batch) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    for change in batch.changes() {
        // Which of the two generations is in use differs by node.
        hash.write_u8(change.space.as_bytes()[0]);
        hash.write(&change.key);
        hash.write_u8(u8::from(change.value.is_some()));
        hash.write(change.value.as_deref().unwrap_or_default());
    }
    hash.finish()
}

impl StorageBackend for Spy {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let applied = peek::applied(batch.changes());
        let digest = digest(&batch);
        self.engine.write(batch)?;
        if let Some(applied) = applied {
            self.truth.lock().applied(self.node, digest, applied);
        }
        Ok(())
    }

    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(space, key)
    }

    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a> {
        self.engine.iter(space, range, order)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        self.engine.snapshot()
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.engine.persist()
    }

    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError> {
        self.engine.ingest(space, sorted)
    }

    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError> {
        self.engine.approximate_size(space, range)
    }

    fn disk_size(&self) -> u64 {
        self.engine.disk_size()
    }

    fn drop_space(&self, space: &str) -> Result<(), EngineError> {
        self.engine.drop_space(space)
    }
}
