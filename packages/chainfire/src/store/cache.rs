//! Which values stay in memory: at most a budget of bytes, those read lately first.
//!
//! A clock over the entries: the hand drops the value of an entry that was not read since the hand
//! last passed. Metadata of live keys is not its business, that always stays.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::entry::Entry;

/// How many entries the hand passes over at a time.
const GRACE: usize = 256;

pub(super) struct Cache {
    budget: usize,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Entries in the queue whose value is gone already.
    dead: usize,
}

impl Cache {
    pub(super) fn new(budget: usize) -> Cache {
        Cache { budget, clock: Mutex::default() }
    }

    /// Takes in entries whose value is in memory, lets go of superseded ones, keeps the budget.
    pub(super) fn turn(
        &self,
        admitted: impl IntoIterator<Item = Arc<Entry>>,
        superseded: impl IntoIterator<Item = Arc<Entry>>,
    ) {
        let mut clock = self.clock.lock();
        for entry in superseded {
            clock.release(&entry);
            clock.dead += 1;
        }
        for entry in admitted {
            if entry.is_cached() && !entry.count(true) {
                clock.bytes += entry.weight();
                clock.entries.push_back(entry);
            }
        }
        clock.shrink(self.budget);
    }

    /// Forgets everything: the entries belong to a state that was replaced.
    pub(super) fn clear(&self) {
        *self.clock.lock() = Clock::default();
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.clock.lock().bytes
    }
}

impl Clock {
    fn release(&mut self, entry: &Entry) {
        entry.drain();
        if entry.count(false) {
            self.bytes = self.bytes.saturating_sub(entry.weight());
        }
    }

    fn shrink(&mut self, budget: usize) {
        // Entries read lately are passed over, but not so many that a reader waits for long.
        let mut grace = GRACE;
        while self.bytes > budget {
            let Some(entry) = self.entries.pop_front() else { break };
            if !entry.is_cached() {
                self.release(&entry);
                self.dead = self.dead.saturating_sub(1);
            } else if entry.take_touched() && grace > 0 {
                grace -= 1;
                self.entries.push_back(entry);
            } else {
                self.release(&entry);
            }
        }
        // A key that is overwritten all the time leaves dead entries behind.
        if self.dead > 1024 && self.dead > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.is_cached());
            self.dead = 0;
        }
    }
}
