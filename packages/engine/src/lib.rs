//! The ordered key-value engine behind [`StorageBackend`].
//!
//! Three engines answer the same trait, and one suite of random work runs on all:
//! [`open_fjall`] (an LSM tree on disk), [`Memory`], and
//! [`LossyMemory`], which forgets at a simulated crash what was not persisted.
//!
//! What must stay true:
//! - The engine never carries durability. Writes are not synced; what was acknowledged is in the
//!   journal, and the journal may be cut only after [`StorageBackend::persist`] returned.
//! - A batch is atomic, also across a crash, and batches survive a crash in order: never a later
//!   one without all earlier ones.
//! - [`StorageBackend::drop_space`] and [`StorageBackend::ingest`] bypass the batches: until the next
//!   `persist` a crash may keep them although earlier batches are gone, or lose them.
//!   Whoever replaces a space writes a mark around it.
//! - Damage is an error ([`EngineError::Corrupt`]), never a wrong value; the cure is to delete the
//!   folder and rebuild it from the journal or a peer.
//! - There is one writer. Reads may come from any thread. Nothing here needs an async runtime.
//!
//! Absent on purpose: transactions, merge operators, range deletes, time to live.

pub mod codes;
mod error;
mod fjall;
#[doc(hidden)]
pub mod fuzz;
mod lossy;
mod manifest;
mod mark;
mod memory;
mod range;
mod wal;

use std::sync::Arc;

use bytes::Bytes;

pub use crate::error::EngineError;
pub use crate::fjall::{FjallOptions, open_fjall};
pub use crate::lossy::LossyMemory;
pub use crate::memory::Memory;
pub use crate::range::{KeyRange, all, prefix, prefix_end};

/// A shared engine.
pub type Engine = Arc<dyn StorageBackend>;

/// A key (1 to [`MAX_KEY`] bytes) and its value.
pub type Pair = (Bytes, Bytes);

/// Pairs in key order.
pub type Pairs<'a> = Box<dyn Iterator<Item = Result<Pair, EngineError>> + Send + 'a>;

/// The longest key.
pub const MAX_KEY: usize = u16::MAX as usize;

/// All engines refuse the keys that one cannot hold.
fn check_key(key: &[u8]) -> Result<(), EngineError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(EngineError::Misuse(format!(
            "a key of {} bytes, of 1 to {MAX_KEY}",
            key.len()
        )));
    }
    Ok(())
}

/// The iteration that could not begin.
fn failed<'a>(error: EngineError) -> Pairs<'a> {
    Box::new(std::iter::once(Err(error)))
}

/// The direction of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// From the smallest key up.
    Ascending,
    /// From the largest key down.
    Descending,
}

/// One change of a batch: a put, or a delete when there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The space it is in.
    pub space: &'static str,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
}

/// Changes that become visible and survive together, or not at all. A later change of a key wins.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets a key.
    pub fn put(&mut self, space: &'static str, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.changes.push(Change { space, key, value: Some(value) });
    }

    /// Removes a key; removing what is not there is no error.
    pub fn delete(&mut self, space: &'static str, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.changes.push(Change { space, key, value: None });
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes, in the order in which they were added.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

/// Reads at one moment: later writes are not seen. Holding one keeps old versions alive.
pub trait Snapshot: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The pairs of a range in key order. A range that is empty or upside down yields nothing.
    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a>;
}

/// An ordered key-value engine with named spaces.
pub trait StorageBackend: Send + Sync + 'static {
    /// Writes a batch atomically over all its spaces. It is readable when this returns, but not
    /// durable before [`StorageBackend::persist`]. When it is refused, nothing of it is written.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// The value of a key now.
    fn get(&self, space: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The pairs of a range in key order, as of this call. After an error it ends.
    fn iter<'a>(&'a self, space: &str, range: KeyRange, order: Order) -> Pairs<'a>;

    /// A consistent view of all spaces. Cheap.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError>;

    /// Makes everything durable that was written before. After an error the engine is done for:
    /// it must be closed, never tried again.
    fn persist(&self) -> Result<(), EngineError>;

    /// Fills an empty space with pairs in strictly ascending key order, faster than by batches.
    /// After an error the space's content is unspecified: drop it.
    fn ingest(
        &self,
        space: &str,
        sorted: &mut dyn Iterator<Item = Result<Pair, EngineError>>,
    ) -> Result<(), EngineError>;

    /// About how many bytes the pairs of a range take; an estimate that may be off by a factor.
    fn approximate_size(&self, space: &str, range: KeyRange) -> Result<u64, EngineError>;

    /// Bytes on disk, or in memory for an engine without one.
    fn disk_size(&self) -> u64;

    /// Empties a space. Snapshots taken before still see it.
    fn drop_space(&self, space: &str) -> Result<(), EngineError>;
}
