//! What clients did and saw, as it happened.
//!
//! Times are nanoseconds of one monotonic clock, taken before a request is sent and after its
//! answer has come, by the process that records: only so does the order mean anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A value in a history. Writers should write each value only once: the checker is then exact
/// about writes whose answer was lost, and fast.
pub type Value = Arc<str>;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Write.
    Put(Value),
    /// Read (linearizable).
    Get,
    /// Write if the key is as expected (none: absent).
    Cas {
        /// What must be there.
        expect: Option<Value>,
        /// What to write.
        new: Value,
    },
    /// Delete.
    Delete,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The put or delete was done.
    Done,
    /// The get saw this.
    Saw(Option<Value>),
    /// The swap was done.
    Swapped,
    /// The swap was refused, because this was there.
    Conflict(Option<Value>),
    /// The answer was lost: it happened, or will, or never.
    Unknown,
}

/// One operation on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// The key.
    pub key: String,
    /// What was asked.
    pub input: Input,
    /// What came of it.
    pub output: Output,
    /// Before sending.
    pub start: u64,
    /// After the answer; meaningless where the output is unknown.
    pub end: u64,
}

/// Records operations of many clients. Clones write into the same history.
#[derive(Debug, Clone)]
pub struct Recorder {
    zero: Instant,
    done: Arc<Mutex<Vec<Operation>>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { zero: Instant::now(), done: Arc::default() }
    }
}

/// An operation on its way. Dropped without an end it counts as [`Output::Unknown`].
#[derive(Debug)]
pub struct Pending {
    recorder: Recorder,
    operation: Option<Operation>,
}

impl Recorder {
    /// An empty history that begins now.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Call right before sending.
    pub fn begin(&self, client: usize, key: impl Into<String>, input: Input) -> Pending {
        let start = self.now();
        let output = Output::Unknown;
        let operation = Operation { client, key: key.into(), input, output, start, end: u64::MAX };
        Pending { recorder: self.clone(), operation: Some(operation) }
    }

    /// Everything recorded so far, by key.
    pub fn by_key(&self) -> BTreeMap<String, Vec<Operation>> {
        let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        for operation in self.lock().iter() {
            keys.entry(operation.key.clone()).or_default().push(operation.clone());
        }
        keys
    }

    /// How many operations ended, and how many of them without an answer.
    pub fn counts(&self) -> (usize, usize) {
        let done = self.lock();
        (done.len(), done.iter().filter(|op| op.output == Output::Unknown).count())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Pending {
    /// Call right after the answer came.
    pub fn end(mut self, output: Output) {
        let end = self.recorder.now();
        if let Some(operation) = &mut self.operation {
            operation.output = output;
            operation.end = end;
        }
    }

    /// It surely did not happen: it leaves no trace.
    pub fn never_happened(mut self) {
        self.operation = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.recorder.lock().push(operation);
        }
    }
}
