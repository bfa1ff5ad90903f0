//! Gives the space of compacted revisions back, step by step on a thread of its own.
//!
//! A compaction is decided in the log and takes effect for readers at once. What it made
//! unreachable is removed afterwards: for each event at or below the compaction the version it
//! replaced, then the event itself. So the cost follows history, not the number of live keys. It
//! is idempotent: after a crash it starts again. Events at the compaction revision itself stay, with
//! what they need, for a watch that is opened there; the next compaction takes them.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use engine::{Batch, Order};
use tokio::sync::watch;

use super::StoreError;
use super::layout::{self, EventRecord};
use super::state::Shared;

/// Events in one step: about a millisecond of work.
const STEP: usize = 500;

/// Between steps, so that removal never takes the engine for itself.
const PAUSE: Duration = Duration::from_millis(1);

/// The removing thread; in a simulation a task.
pub(super) struct Compactor {
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Compactor> {
        let (wake, sleep) = mpsc::sync_channel(1);
        let shared = Arc::downgrade(shared);
        let thread = if consensus::in_place() {
            tokio::spawn(in_place(shared, sleep));
            None
        } else {
            let run = move || {
                while sleep.recv().is_ok() {
                    tell(work(&shared, &sleep));
                }
            };
            Some(std::thread::Builder::new().name("chainfire-compact".into()).spawn(run)?)
        };
        let compactor = Compactor { wake: Some(wake), thread };
        compactor.wake();
        Ok(compactor)
    }

    /// There may be something to remove.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full means that it will look anyway.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the compaction thread panicked");
        }
    }
}

fn tell(done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::error!(%error, "could not remove compacted revisions");
    }
}

fn work(shared: &Weak<Shared>, sleep: &mpsc::Receiver<()>) -> Result<(), StoreError> {
    let mut cursor = Cursor::default();
    loop {
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if !step(&shared, &mut cursor, STEP)? {
            return Ok(());
        }
        drop(shared);
        match sleep.recv_timeout(PAUSE) {
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The same without a thread: looks now and then, and takes smaller steps, so that more can come
/// in between.
async fn in_place(shared: Weak<Shared>, sleep: mpsc::Receiver<()>) {
    let mut cursor = Cursor::default();
    loop {
        tokio::time::sleep(100 * PAUSE).await;
        match sleep.try_recv() {
            Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => continue,
            Ok(()) => {}
        }
        loop {
            let Some(shared) = shared.upgrade() else { return };
            match step(&shared, &mut cursor, STEP / 50) {
                Ok(true) => {}
                done => break tell(done.map(drop)),
            }
            drop(shared);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Where removal is, so that it does not wade through what it removed already.
#[derive(Default)]
pub(super) struct Cursor {
    generation: u8,
    target: i64,
    after: Option<Bytes>,
}

/// Removes what some events allow. Whether there is more to do.
pub(super) fn step(shared: &Shared, cursor: &mut Cursor, most: usize) -> Result<bool, StoreError> {
    let _held = shared.removal.lock();
    let (spaces, compacted) = {
        let state = shared.state.read();
        (state.spaces, state.compacted)
    };
    if compacted <= *shared.removed.borrow() {
        return Ok(false);
    }
    if cursor.generation != spaces.generation || cursor.target != compacted {
        *cursor = Cursor { generation: spaces.generation, target: compacted, after: None };
    }
    let (low, high) = layout::events_between(0, compacted);
    let low = cursor.after.clone().map_or(low, Bound::Excluded);
    let mut batch = Batch::new();
    let mut freed = 0;
    let mut seen = 0;
    for pair in shared.engine.iter(spaces.events, (low, high), Order::Ascending).take(most) {
        let (stored, record) = pair?;
        let (revision, sub) = layout::event_position(&stored)?;
        let event = EventRecord::decode(&record)?;
        let key = event.key.len();
        let mut remove = |revision: i64, sub: u32, size: u32| {
            freed += layout::version_size(key, size as usize);
            batch.delete(spaces.versions, layout::version_key(&event.key, revision, sub));
        };
        // At the compaction revision itself, what this revision wrote is still to be seen.
        let last = revision == compacted;
        if let Some(before) = event.before
            && !(last && before.revision == revision)
        {
            remove(before.revision, before.sub, before.size);
        }
        if !last {
            if event.deleted {
                remove(revision, sub, 0);
            }
            freed += layout::event_size(key);
            batch.delete(spaces.events, stored.clone());
        }
        cursor.after = Some(stored);
        seen += 1;
    }
    let more = seen == most;
    if !more {
        batch.put(spaces.small, layout::REMOVED_KEY, layout::number(compacted));
    }
    shared.engine.write(batch)?;
    shared.in_use.fetch_sub(freed, Ordering::Relaxed);
    if !more {
        publish(&shared.removed, compacted);
    }
    Ok(more)
}

pub(super) fn publish(removed: &watch::Sender<i64>, revision: i64) {
    removed.send_replace(revision);
}
