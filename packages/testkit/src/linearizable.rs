//! Is a recorded history linearizable?
//!
//! The search of Wing and Gong with Lowe's memory of visited states: operations are laid in some
//! order that respects real time and in which each answer is what a single register would give.
//! Keys are independent, so each is searched alone (linearizability is local).
//!
//! A write whose answer was lost may take effect at any time after it was sent, or never. Where
//! all values of a key are distinct this is decided beforehand: if someone saw its value it took
//! effect before the first one who did was answered; if nobody did it is left out, which changes
//! nothing for the others.

use crate::history::{Input, Operation, Output, Recorder, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Why a history is not linearizable.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "history of key {key} is not linearizable; the longest order found explains {explained} of {total} operations, then none of these fits a register that holds {state:?}:\n{stuck}"
)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// Operations in the longest order found.
    pub explained: usize,
    /// Operations in all.
    pub total: usize,
    /// What the register held there.
    pub state: Option<Value>,
    /// The operations of which one had to be next.
    pub stuck: String,
}

/// Checks every key of a history that began without any key.
pub fn check(recorder: &Recorder) -> Result<(), Box<Violation>> {
    check_keys(&recorder.by_key())
}

/// As [`check`], for histories at hand.
pub fn check_keys(keys: &BTreeMap<String, Vec<Operation>>) -> Result<(), Box<Violation>> {
    keys.iter().try_for_each(|(key, operations)| check_key(key, operations))
}

/// One operation, ready to be searched.
struct Step<'a> {
    operation: &'a Operation,
    start: u64,
    /// `u64::MAX`: may stay out of the order altogether.
    end: u64,
}

fn check_key(key: &str, operations: &[Operation]) -> Result<(), Box<Violation>> {
    let steps = prepare(operations);
    let mut search = Search::new(&steps);
    if search.run() {
        return Ok(());
    }
    let stuck = search.best_stuck.iter().map(|&at| show(steps[at].operation)).collect::<String>();
    Err(Box::new(Violation {
        key: key.to_owned(),
        explained: search.best,
        total: steps.len(),
        state: search.best_state.clone(),
        stuck,
    }))
}

/// For people: all operations on a key, in the order in which they began.
pub fn show_key(recorder: &Recorder, key: &str) -> String {
    let mut operations = recorder.by_key().remove(key).unwrap_or_default();
    operations.sort_by_key(|operation| operation.start);
    format!("all of key {key}:\n{}", operations.iter().map(show).collect::<String>())
}

fn show(op: &Operation) -> String {
    let end =
        if op.output == Output::Unknown { "?".to_owned() } else { (op.end / 1000).to_string() };
    format!(
        "  client {} [{}..{} us] {:?} -> {:?}\n",
        op.client,
        op.start / 1000,
        end,
        op.input,
        op.output
    )
}

fn written(operation: &Operation) -> Option<&Value> {
    match &operation.input {
        Input::Put(value) | Input::Cas { new: value, .. } => Some(value),
        Input::Get | Input::Delete => None,
    }
}

/// The value whose presence this operation proves.
fn observed(operation: &Operation) -> Option<&Value> {
    match (&operation.input, &operation.output) {
        (_, Output::Saw(Some(value)) | Output::Conflict(Some(value))) => Some(value),
        (Input::Cas { expect: Some(value), .. }, Output::Swapped) => Some(value),
        _ => None,
    }
}

/// Bounds or drops the operations whose answer was lost.
fn prepare(operations: &[Operation]) -> Vec<Step<'_>> {
    let mut seen_by: HashMap<&Value, u64> = HashMap::new();
    for operation in operations {
        if let Some(value) = observed(operation) {
            let first = seen_by.entry(value).or_insert(u64::MAX);
            *first = (*first).min(operation.end);
        }
    }
    let mut values = HashSet::new();
    let distinct = operations.iter().filter_map(written).all(|value| values.insert(value));
    if distinct {
        trace_lost_swaps(operations, &mut seen_by);
    }
    let mut steps: Vec<Step<'_>> = operations
        .iter()
        .filter_map(|operation| {
            let (start, end) = (operation.start, operation.end);
            if operation.output != Output::Unknown {
                return Some(Step { operation, start, end });
            }
            let forever = Step { operation, start, end: u64::MAX };
            match written(operation) {
                None if operation.input == Input::Get => None,
                Some(value) if distinct => {
                    seen_by.get(value).map(|&end| Step { operation, start, end: end.max(start) })
                }
                _ => Some(forever),
            }
        })
        .collect();
    steps.sort_by_key(|step| step.start);
    steps
}

/// A lost swap whose new value was seen did happen, so its expected value was there before; that
/// may have been written by another lost swap, and so on.
fn trace_lost_swaps<'a>(operations: &'a [Operation], seen_by: &mut HashMap<&'a Value, u64>) {
    let lost: HashMap<&Value, &Value> = operations
        .iter()
        .filter(|op| op.output == Output::Unknown)
        .filter_map(|op| match &op.input {
            Input::Cas { expect: Some(expect), new } => Some((new, expect)),
            _ => None,
        })
        .collect();
    let mut proved: Vec<&Value> = seen_by.keys().copied().collect();
    while let Some(value) = proved.pop() {
        let Some(&before) = lost.get(value) else { continue };
        let by = seen_by[value];
        let known = seen_by.entry(before).or_insert(u64::MAX);
        if by < *known {
            *known = by;
            proved.push(before);
        }
    }
}

/// What a register that holds `state` holds after this operation; none where its answer is
/// impossible there.
fn apply(operation: &Operation, state: &Option<Value>) -> Option<Option<Value>> {
    match (&operation.input, &operation.output) {
        (Input::Put(value), Output::Done | Output::Unknown) => Some(Some(value.clone())),
        (Input::Delete, Output::Done | Output::Unknown) => Some(None),
        (Input::Get, Output::Saw(value)) => (value == state).then(|| state.clone()),
        (Input::Cas { expect, new }, Output::Swapped) => {
            (expect == state).then(|| Some(new.clone()))
        }
        (Input::Cas { expect, .. }, Output::Conflict(current)) => {
            (current == state && expect != state).then(|| state.clone())
        }
        (Input::Cas { expect, new }, Output::Unknown) => {
            Some(if expect == state { Some(new.clone()) } else { state.clone() })
        }
        _ => None,
    }
}

/// Which steps are laid: one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Laid(Vec<u64>);

impl Laid {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

struct Search<'a> {
    steps: &'a [Step<'a>],
    laid: Laid,
    /// Steps that must be laid still.
    due: usize,
    visited: HashSet<(Laid, Option<Value>)>,
    best: usize,
    best_state: Option<Value>,
    best_stuck: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step<'a>]) -> Search<'a> {
        Search {
            steps,
            laid: Laid(vec![0; steps.len().div_ceil(64)]),
            due: steps.iter().filter(|step| step.end != u64::MAX).count(),
            visited: HashSet::new(),
            best: 0,
            best_state: None,
            best_stuck: Vec::new(),
        }
    }

    /// Steps that may come next: begun before any unlaid one ended. `first` is a step before
    /// which all are laid.
    fn candidates(&self, first: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut horizon = u64::MAX;
        for (at, step) in self.steps.iter().enumerate().skip(first) {
            if step.start > horizon {
                break;
            }
            if !self.laid.has(at) {
                found.push(at);
                horizon = horizon.min(step.end);
            }
        }
        // A step that begins after another unlaid one ended cannot come next.
        found.retain(|&at| self.steps[at].start <= horizon);
        // What must come soonest is tried first; what may stay out, last.
        found.sort_by_key(|&at| self.steps[at].end);
        found
    }

    fn run(&mut self) -> bool {
        struct Frame {
            state: Option<Value>,
            first: usize,
            candidates: Vec<usize>,
            next: usize,
            came_by: Option<usize>,
        }
        let candidates = self.candidates(0);
        let mut path = vec![Frame { state: None, first: 0, candidates, next: 0, came_by: None }];
        let mut laid = 0usize;
        while self.due > 0 {
            let Some(frame) = path.last_mut() else { return false };
            let Some(&at) = frame.candidates.get(frame.next) else {
                let came_by = frame.came_by;
                path.pop();
                if let Some(at) = came_by {
                    self.laid.flip(at);
                    laid -= 1;
                    self.due += usize::from(self.steps[at].end != u64::MAX);
                }
                continue;
            };
            frame.next += 1;
            let Some(state) = apply(self.steps[at].operation, &frame.state) else { continue };
            let mut first = frame.first;
            self.laid.flip(at);
            if !self.visited.insert((self.laid.clone(), state.clone())) {
                self.laid.flip(at);
                continue;
            }
            laid += 1;
            self.due -= usize::from(self.steps[at].end != u64::MAX);
            while first < self.steps.len() && self.laid.has(first) {
                first += 1;
            }
            let candidates = self.candidates(first);
            if laid > self.best {
                self.best = laid;
                self.best_state = state.clone();
                self.best_stuck = candidates.clone();
            }
            path.push(Frame { state, first, candidates, next: 0, came_by: Some(at) });
        }
        true
    }
}
